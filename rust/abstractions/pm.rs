// SPDX-License-Identifier: GPL-2.0

//! Power management callbacks of a PCI driver, and shutdown, which the driver trait of the `kernel`
//! crate does not have.
//!
//! C header: [`include/linux/pm.h`](srctree/include/linux/pm.h)

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

/// Callbacks of the private data of a driver.
pub(crate) trait PmOps {
    /// Shuts the device down, because the system reboots, powers off or starts another kernel. The
    /// consumers of the device were shut down before.
    ///
    /// Context: process, may sleep.
    fn shutdown(self: Pin<&Self>);

    /// Resumes the device after suspend. The device has power again, but may have lost its state.
    /// The consumers of the device resume later.
    ///
    /// Context: process; no interrupts of devices are delivered, so must not wait for any.
    fn resume(self: Pin<&Self>);

    /// Prepares the device for hibernation; an error prevents hibernation. The consumers of the
    /// device do not use it any more.
    ///
    /// Context: process, may sleep.
    fn freeze(self: Pin<&Self>) -> Result;
}

/// Installs the callbacks of `T` for all devices of the driver of `dev`.
///
/// Context: process, may sleep.
///
/// # Safety
///
/// `dev` must be being probed, and the private data of its driver must be a `T` for every device
/// that the driver is bound to.
pub(crate) unsafe fn install_pm_ops<T: PmOps>(dev: &pci::Device<Core<'_>>) {
    // SAFETY: A device that is being probed has a driver, which stays for the duration. The driver
    // core reads the fields only for devices that are bound, under the device's lock. They are
    // always set to the same values, with one store each, so that another device of the driver may
    // be using them at the same time.
    unsafe {
        let driver = (*raw::pci_dev(dev)).driver;
        (&raw mut (*driver).shutdown).write_volatile(Some(shutdown::<T>));
        (&raw mut (*driver).driver.pm).write_volatile(Callbacks::<T>::PM);
    }
}

/// The callbacks that C calls for private data of type `T`.
struct Callbacks<T>(PhantomData<T>);

impl<T: PmOps> Callbacks<T> {
    const PM: &'static dev_pm_ops = &dev_pm_ops {
        resume_noirq: Some(resume::<T>),
        freeze: Some(freeze::<T>),
        ..pin_init::zeroed()
    };
}

/// Returns the private data of the driver of `dev`.
///
/// # Safety
///
/// `dev` must be a device that the driver of [`install_pm_ops`] is bound to, in one of the driver
/// core's callbacks: its lock is held, or all tasks are frozen.
unsafe fn data<'a, T: PmOps>(dev: *mut bindings::device) -> Pin<&'a T> {
    // SAFETY: `device::Device` is a transparent wrapper of `struct device`, which is valid. The
    // callbacks of the driver core are that device context.
    let dev: &Device<CoreInternal<'_>> = unsafe { &*dev.cast() };
    // SAFETY: A device that is bound has its driver's private data, and keeps it for the duration
    // of the callback. It is a `T` by the safety requirements of `install_pm_ops`.
    unsafe { dev.drvdata_borrow::<T>() }
}

/// Calls [`PmOps::shutdown`].
///
/// # Safety
///
/// As [`data`], for the device in `dev`.
unsafe extern "C" fn shutdown<T: PmOps>(dev: *mut bindings::pci_dev) {
    // SAFETY: By the safety requirements.
    unsafe { data::<T>(&raw mut (*dev).dev) }.shutdown();
}

/// Calls [`PmOps::resume`].
///
/// # Safety
///
/// As [`data`].
unsafe extern "C" fn resume<T: PmOps>(dev: *mut bindings::device) -> c_int {
    // SAFETY: By the safety requirements.
    unsafe { data::<T>(dev) }.resume();
    0
}

/// Calls [`PmOps::freeze`].
///
/// # Safety
///
/// As [`data`].
unsafe extern "C" fn freeze<T: PmOps>(dev: *mut bindings::device) -> c_int {
    // SAFETY: By the safety requirements.
    from_result(|| unsafe { data::<T>(dev) }.freeze().map(|()| 0))
}
