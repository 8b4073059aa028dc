// SPDX-License-Identifier: GPL-2.0

//! Raw pointers of devices, for C functions that the `kernel` crate does not wrap.

use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    pci, //
};

/// Returns the `struct device` behind `dev`, valid as long as `dev` is.
pub(crate) fn raw(dev: &Device<Bound>) -> *mut bindings::device {
    // CAST: `Device` is a transparent wrapper of the `struct device` it refers to.
    core::ptr::from_ref(dev).cast_mut().cast()
}

/// Returns the `struct pci_dev` behind `pdev`, valid as long as `pdev` is.
pub(crate) fn raw_pci(pdev: &pci::Device<Bound>) -> *mut bindings::pci_dev {
    // CAST: `pci::Device` is a transparent wrapper of the `struct pci_dev` it refers to.
    core::ptr::from_ref(pdev).cast_mut().cast()
}
