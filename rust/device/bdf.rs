// SPDX-License-Identifier: GPL-2.0

//! The PCI function that a companion manages: its address, its name, and the device found there.
//!
//! Taking control of that device is [`attach`](super::attach)'s responsibility.

use crate::abstractions::raw;
use crate::bindings;
use core::ptr;
use kernel::{
    device::Bound,
    fmt,
    pci,
    prelude::*,
    sync::aref::ARef, //
};

/// The address of the function that `companion` manages. A device may be removed from there and be
/// added again.
#[derive(Clone, Copy)]
pub(crate) struct ManagedFunction<'a> {
    companion: &'a pci::Device<Bound>,
    devfn: u8,
}

impl<'a> ManagedFunction<'a> {
    /// Checks `bdf`, the guest address `bus << 8 | devfn` of the device that `companion` manages,
    /// and logs what is wrong with it.
    ///
    /// The companion is always on the bus of its managed device. Where the bus part of `bdf`
    /// differs, it was read before the firmware numbered the buses, and only `devfn` counts.
    pub(crate) fn new(companion: &'a pci::Device<Bound>, bdf: u32) -> Result<Self> {
        if bdf > 0xffff {
            dev_err!(
                companion,
                "MANAGED_BDF: invalid value {:#x}: not the address of a device\n",
                bdf
            );
            return Err(ENODEV);
        }
        // CAST: The rest is the bus.
        let function = Self::named(companion, bdf as u8);
        if function.devfn == Self::of(companion).devfn {
            dev_err!(
                companion,
                "MANAGED_BDF: invalid value {:#x}: the companion's own address\n",
                bdf
            );
            return Err(ENODEV);
        }
        // SAFETY: A device that a driver is bound to is on a bus.
        let number = u32::from(unsafe { (*function.bus()).number });
        if bdf >> 8 != number {
            dev_info!(
                companion,
                "MANAGED_BDF: unexpected bus {:02x}; using the companion's bus {:02x}\n",
                bdf >> 8,
                number
            );
        }
        Ok(function)
    }

    /// Returns the function `devfn` on the bus of `companion`, unchecked: for its name only.
    pub(crate) fn named(companion: &'a pci::Device<Bound>, devfn: u8) -> Self {
        Self { companion, devfn }
    }

    /// Returns the function of `companion` itself, for its name.
    pub(crate) fn of(companion: &'a pci::Device<Bound>) -> Self {
        // SAFETY: The device is valid.
        let devfn = unsafe { (*raw::pci_dev(companion)).devfn };
        // CAST: The field holds 8 bits.
        Self::named(companion, devfn as u8)
    }

    /// Returns the companion that manages the function.
    pub(super) fn companion(&self) -> &'a pci::Device<Bound> {
        self.companion
    }

    /// Writes the name of the driver of the present device into `name`, truncated to its length,
    /// and returns it.
    ///
    /// Context: process, may sleep.
    pub(super) fn driver<'b>(&self, name: &'b mut [u8]) -> &'b CStr {
        let Some(dev) = self.device() else {
            return c"-";
        };
        // SAFETY: The device is valid, and `name` is valid for writes of its length.
        unsafe {
            bindings::apple_dma_files_driver(
                raw::device(&dev),
                name.as_mut_ptr().cast(),
                name.len(),
            )
        };
        CStr::from_bytes_until_nul(name).unwrap_or(c"?")
    }

    /// Returns the bus of both devices, which exists as long as the companion does.
    fn bus(&self) -> *mut kernel::bindings::pci_bus {
        // SAFETY: The device is valid.
        unsafe { (*raw::pci_dev(self.companion)).bus }
    }

    /// Returns whether `dev` is the device at this address.
    pub(super) fn has(&self, dev: &pci::Device) -> bool {
        let dev = raw::pci_dev(dev);
        // SAFETY: The device is valid, and neither field changes.
        unsafe { ptr::eq((*dev).bus, self.bus()) && (*dev).devfn == u32::from(self.devfn) }
    }

    /// Returns the device that is at this address now.
    ///
    /// Context: process, may sleep.
    pub(super) fn device(&self) -> Option<ARef<pci::Device>> {
        // SAFETY: The bus is valid. The reference that the call takes is passed on below.
        let dev = unsafe { kernel::bindings::pci_get_slot(self.bus(), self.devfn.into()) };
        // SAFETY: `pci::Device` is a transparent wrapper of `struct pci_dev`, and this function
        // owns a reference.
        ptr::NonNull::new(dev).map(|dev| unsafe { ARef::from_raw(dev.cast()) })
    }
}

impl fmt::Display for ManagedFunction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bus = self.bus();
        // SAFETY: The bus is valid.
        let (domain, number) =
            unsafe { (bindings::apple_dma_helper_pci_domain_nr(bus), (*bus).number) };
        let (slot, function) = (self.devfn >> 3, self.devfn & 7);
        write!(f, "{domain:04x}:{number:02x}:{slot:02x}.{function:x}")
    }
}
