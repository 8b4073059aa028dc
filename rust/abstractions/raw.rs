// SPDX-License-Identifier: GPL-2.0

//! Pointers to the C structures behind devices, for calls that the `kernel` crate does not wrap.

use core::ptr;
use kernel::{
    bindings,
    device,
    pci, //
};

/// Returns the `struct pci_dev` of a device, valid for as long as `dev` is.
pub(crate) fn pci_dev<Ctx: device::DeviceContext>(
    dev: &pci::Device<Ctx>,
) -> *mut bindings::pci_dev {
    // `pci::Device` is a transparent wrapper of `struct pci_dev`.
    ptr::from_ref(dev).cast_mut().cast()
}

/// Returns the `struct device` of a device, valid for as long as `dev` is.
pub(crate) fn device<Ctx: device::DeviceContext>(dev: &pci::Device<Ctx>) -> *mut bindings::device {
    let dev: &device::Device<Ctx> = dev.as_ref();
    // `device::Device` is a transparent wrapper of `struct device`.
    ptr::from_ref(dev).cast_mut().cast()
}
