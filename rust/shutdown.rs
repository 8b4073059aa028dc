// SPDX-License-Identifier: GPL-2.0

//! What a PCI driver does when the system goes down: the callback that the kernel crate's driver
//! trait does not have.

use crate::raw;
use core::pin::Pin;
use kernel::{
    bindings::pci_dev,
    device::{
        Core,
        CoreInternal,
        Device, //
    },
    pci, //
};

/// The data of a driver that has something to do when the system reboots, powers off or starts
/// another kernel.
pub(crate) trait Shutdown {
    /// Does it. The device's consumers were shut down before. In process context; may sleep.
    fn shutdown(self: Pin<&Self>);
}

/// Has `T::shutdown` called for all devices of the driver of `dev`.
///
/// # Safety
///
/// `dev` is being probed, and the driver's data is a `T` for every device that it is bound to.
pub(crate) unsafe fn install<T: Shutdown>(dev: &pci::Device<Core<'_>>) {
    // SAFETY: A device that is being probed has a driver, which stays for the duration. The field
    // is read for devices that are bound only, under the device's lock; it is always given the same
    // value, in one store.
    unsafe {
        let driver = (*raw::pci_dev(dev)).driver;
        (&raw mut (*driver).shutdown).write_volatile(Some(callback::<T>));
    }
}

/// # Safety
///
/// `dev` is a device that the driver of [`install`] is bound to, with its lock held.
unsafe extern "C" fn callback<T: Shutdown>(dev: *mut pci_dev) {
    // SAFETY: `device::Device` is a transparent wrapper of `struct device`, which is valid; in the
    // driver core's callbacks it is in that context.
    let dev: &Device<CoreInternal<'_>> = unsafe { &*(&raw mut (*dev).dev).cast() };
    // SAFETY: A device that is bound has its driver's data, which is a `T` as `install` was
    // promised, and keeps it as long as the lock is held.
    let data = unsafe { dev.drvdata_borrow::<T>() };
    data.shutdown();
}
