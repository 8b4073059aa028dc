// SPDX-License-Identifier: GPL-2.0

//! What a PCI driver does when the system goes down, or sleeps: the callbacks that the kernel
//! crate's driver trait does not have.

use crate::abstractions::raw;
use core::{
    marker::PhantomData,
    pin::Pin, //
};
use kernel::{
    bindings::{
        self,
        dev_pm_ops, //
    },
    device::{
        Core,
        CoreInternal,
        Device, //
    },
    error::from_result,
    ffi::c_int,
    pci,
    prelude::*, //
};

/// The data of a driver that has something to do when the system goes down, or sleeps.
pub(crate) trait PmOps {
    /// The system reboots, powers off or starts another kernel. The device's consumers were shut
    /// down before. In process context; may sleep.
    fn shutdown(self: Pin<&Self>);

    /// The system wakes up from suspend, and the device has power again, but may have forgotten
    /// all that it was told. Its consumers wake up later. In process context, when no device's
    /// interrupts come; must not wait for any.
    fn resume(self: Pin<&Self>);

    /// The system is to hibernate; an error keeps it from that. The device's consumers do not use
    /// it any more. In process context; may sleep.
    fn freeze(self: Pin<&Self>) -> Result;
}

/// Has `T` told about all devices of the driver of `dev`.
///
/// # Safety
///
/// `dev` is being probed, and the driver's data is a `T` for every device that it is bound to.
pub(crate) unsafe fn install<T: PmOps>(dev: &pci::Device<Core<'_>>) {
    // SAFETY: A device that is being probed has a driver, which stays for the duration. The fields
    // are read for devices that are bound only, under the device's lock; they are always given the
    // same values, in one store each.
    unsafe {
        let driver = (*raw::pci_dev(dev)).driver;
        (&raw mut (*driver).shutdown).write_volatile(Some(shutdown::<T>));
        (&raw mut (*driver).driver.pm).write_volatile(Callbacks::<T>::PM);
    }
}

struct Callbacks<T>(PhantomData<T>);

impl<T: PmOps> Callbacks<T> {
    const PM: &'static dev_pm_ops = &dev_pm_ops {
        resume_noirq: Some(resume::<T>),
        freeze: Some(freeze::<T>),
        ..pin_init::zeroed()
    };
}

/// The data of the driver of `dev`.
///
/// # Safety
///
/// `dev` is a device that the driver of [`install`] is bound to, in one of the driver core's
/// callbacks: its lock is held, or all tasks are frozen.
unsafe fn data<'a, T: PmOps>(dev: *mut bindings::device) -> Pin<&'a T> {
    // SAFETY: `device::Device` is a transparent wrapper of `struct device`, which is valid; in the
    // driver core's callbacks it is in that context.
    let dev: &Device<CoreInternal<'_>> = unsafe { &*dev.cast() };
    // SAFETY: A device that is bound has its driver's data, which is a `T` as `install` was
    // promised, and keeps it during the callback.
    unsafe { dev.drvdata_borrow::<T>() }
}

/// # Safety
///
/// As [`data`], for the device in `dev`.
unsafe extern "C" fn shutdown<T: PmOps>(dev: *mut bindings::pci_dev) {
    // SAFETY: By the safety requirements.
    unsafe { data::<T>(&raw mut (*dev).dev) }.shutdown();
}

/// # Safety
///
/// As [`data`].
unsafe extern "C" fn resume<T: PmOps>(dev: *mut bindings::device) -> c_int {
    // SAFETY: By the safety requirements.
    unsafe { data::<T>(dev) }.resume();
    0
}

/// # Safety
///
/// As [`data`].
unsafe extern "C" fn freeze<T: PmOps>(dev: *mut bindings::device) -> c_int {
    // SAFETY: By the safety requirements.
    from_result(|| unsafe { data::<T>(dev) }.freeze().map(|()| 0))
}
