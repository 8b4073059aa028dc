// SPDX-License-Identifier: GPL-2.0

//! The C structures behind the kernel crate's devices, for the few calls that it does not wrap.

use core::ptr;
use kernel::{
    bindings,
    device,
    pci, //
};

/// `struct pci_dev` of a device, valid as long as `dev` is.
pub(crate) fn pci_dev<Ctx: device::DeviceContext>(
    dev: &pci::Device<Ctx>,
) -> *mut bindings::pci_dev {
    // `pci::Device` is a transparent wrapper of it.
    ptr::from_ref(dev).cast_mut().cast()
}

/// `struct device` of a device, valid as long as `dev` is.
pub(crate) fn device<Ctx: device::DeviceContext>(dev: &pci::Device<Ctx>) -> *mut bindings::device {
    let dev: &device::Device<Ctx> = dev.as_ref();
    // `device::Device` is a transparent wrapper of it.
    ptr::from_ref(dev).cast_mut().cast()
}
