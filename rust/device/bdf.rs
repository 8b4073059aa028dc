// SPDX-License-Identifier: GPL-2.0

//! The PCI function that a companion manages: its address, its name, and the device found there.
//!
//! Taking control of that device is [`attach`](super::attach)'s responsibility.

use super::pci_address::PciAddress;
use crate::abstractions::raw;
use crate::bindings;
use crate::driver::params::Params;
use core::ptr;
use kernel::{
    device::Bound,
    fmt,
    pci,
    prelude::*,
    sync::aref::ARef, //
};

/// The base class of displays.
const DISPLAY: u8 = 0x03;

/// The base class of processing accelerators.
const ACCELERATOR: u8 = 0x12;

/// The base class of bridges, host bridges among them.
const BRIDGE: u32 = 0x06;

/// The device at a PCI address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Present {
    /// No device.
    Nothing,
    /// A device that can be managed.
    Endpoint,
    /// A bridge, or a companion.
    Other,
}

/// The address of the function that `companion` manages. A device may be removed from there and be
/// added again.
#[derive(Clone, Copy)]
pub(crate) struct ManagedFunction<'a> {
    companion: &'a pci::Device<Bound>,
    address: PciAddress,
}

impl<'a> ManagedFunction<'a> {
    /// Determines the function that `companion` manages: the one that `params` name, or else the
    /// one that `bdf` means, the guest address `bus << 8 | devfn` by the host. Logs what was chosen
    /// if that is not simply `bdf`, or what is wrong.
    ///
    /// A companion that QEMU creates is on the bus of its managed device, but the bus part of `bdf`
    /// is what QEMU knew then: 0 if the firmware had yet to number the bus. A companion that a user
    /// creates may be on any bus.
    ///
    /// Context: process, may sleep.
    pub(crate) fn choose(
        companion: &'a pci::Device<Bound>,
        bdf: u32,
        params: &Params,
    ) -> Result<Self> {
        let own = address(companion);
        if let Some(address) = params.managed_by(own) {
            return Self::by_parameter(companion, bdf, address);
        }
        if bdf > 0xffff {
            dev_err!(
                companion,
                "MANAGED_BDF: invalid value {:#x}: not the address of a device\n",
                bdf
            );
            return Err(ENODEV);
        }
        let named = PciAddress {
            // CAST: The value has 16 bits.
            bus: (bdf >> 8) as u8,
            // CAST: The rest is the bus.
            devfn: bdf as u8,
            ..own
        };
        let beside = PciAddress {
            bus: own.bus,
            ..named
        };
        let (is_named, is_beside) = (present(named), present(beside));
        let both = is_named == Present::Endpoint && is_beside == Present::Endpoint;
        let chosen = match (is_named, is_beside) {
            // A bus that had no number yet.
            (Present::Endpoint, Present::Endpoint) if named.bus == 0 => Some(beside),
            (Present::Endpoint, _) => Some(named),
            (_, Present::Endpoint) => Some(beside),
            // The device is waited for.
            (_, Present::Nothing) => Some(beside),
            (Present::Nothing, _) => Some(named),
            (Present::Other, Present::Other) => None,
        };
        let Some(chosen) = chosen else {
            if named == own {
                dev_err!(
                    companion,
                    "MANAGED_BDF: invalid value {:#x}: the companion's own address\n",
                    bdf
                );
            } else {
                dev_err!(
                    companion,
                    "MANAGED_BDF: invalid value {:#x}: a bridge; name the device by the parameter \
                     managed\n",
                    bdf
                );
            }
            return Err(ENODEV);
        };
        if chosen != named {
            dev_info!(
                companion,
                "MANAGED_BDF: unexpected bus {:02x}; using the companion's bus {:02x}\n",
                named.bus,
                chosen.bus
            );
        } else if chosen != beside {
            dev_info!(
                companion,
                "MANAGED_BDF: using bus {:02x}, which it names; the companion is on bus {:02x}\n",
                chosen.bus,
                own.bus
            );
        }
        if both && named != beside {
            dev_info!(
                companion,
                "MANAGED_BDF: {} and {} may be meant; the parameter managed can name either\n",
                named,
                beside
            );
        }
        Ok(Self::at(companion, chosen))
    }

    /// Checks that the device at `address`, which a parameter names, can be managed.
    fn by_parameter(
        companion: &'a pci::Device<Bound>,
        bdf: u32,
        address: PciAddress,
    ) -> Result<Self> {
        if present(address) == Present::Other {
            dev_err!(
                companion,
                "{}: named by the parameter managed, but a bridge or a companion\n",
                address
            );
            return Err(ENODEV);
        }
        dev_info!(
            companion,
            "{}: named by the parameter managed; MANAGED_BDF is {:#x}\n",
            address,
            bdf
        );
        Ok(Self::at(companion, address))
    }

    fn at(companion: &'a pci::Device<Bound>, address: PciAddress) -> Self {
        Self { companion, address }
    }

    /// Returns the function of `companion` itself, for its name.
    pub(crate) fn of(companion: &'a pci::Device<Bound>) -> Self {
        Self::at(companion, address(companion))
    }

    /// Returns the address as a number, which is not 0.
    pub(super) fn number(&self) -> u64 {
        self.address.number()
    }

    /// Returns device and function, if the function is on its companion's bus.
    pub(super) fn devfn_on_bus_of_companion(&self) -> Option<u8> {
        let companion = address(self.companion);
        let is_there = (companion.domain, companion.bus) == (self.address.domain, self.address.bus);
        is_there.then_some(self.address.devfn)
    }

    /// Returns the companion that manages the function.
    pub(super) fn companion(&self) -> &'a pci::Device<Bound> {
        self.companion
    }

    /// Returns the address.
    pub(super) fn address(&self) -> PciAddress {
        self.address
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

    /// Returns whether the device is a display or a processing accelerator; [`None`] if there is
    /// no device.
    ///
    /// Context: process, may sleep.
    pub(super) fn is_display_or_accelerator(&self) -> Option<bool> {
        Some(matches!(self.class()?, DISPLAY | ACCELERATOR))
    }

    /// Returns the base class of the device; [`None`] if there is no device.
    ///
    /// Context: process, may sleep.
    fn class(&self) -> Option<u8> {
        let dev = self.device()?;
        // SAFETY: The device is valid, and its class does not change.
        let class = unsafe { (*raw::pci_dev(&dev)).class };
        // CAST: The base class has eight bits.
        Some((class >> 16) as u8)
    }

    /// Returns whether `dev` is the device at this address, and can be managed.
    pub(super) fn has(&self, dev: &pci::Device) -> bool {
        is_at(dev, self.address)
    }

    /// Returns the device that is at this address now, if it can be managed.
    ///
    /// Context: process, may sleep.
    pub(super) fn device(&self) -> Option<ARef<pci::Device>> {
        device(self.address).filter(|dev| is_endpoint(dev))
    }
}

impl fmt::Display for ManagedFunction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Returns the address of `dev`.
pub(super) fn address<Ctx: kernel::device::DeviceContext>(dev: &pci::Device<Ctx>) -> PciAddress {
    let dev = raw::pci_dev(dev);
    // SAFETY: The device is valid, and so is its bus; none of the fields changes. The domain is a
    // number of 32 bits.
    unsafe {
        let bus = (*dev).bus;
        PciAddress {
            // CAST: A domain is not negative.
            domain: bindings::apple_dma_helper_pci_domain_nr(bus) as u32,
            bus: (*bus).number,
            // CAST: The field holds 8 bits.
            devfn: (*dev).devfn as u8,
        }
    }
}

/// Returns whether `dev` is the device at `place`, and can be managed.
pub(super) fn is_at(dev: &pci::Device, place: PciAddress) -> bool {
    address(dev) == place && is_endpoint(dev)
}

/// Returns the device at `address`.
///
/// Context: process, may sleep.
fn device(address: PciAddress) -> Option<ARef<pci::Device>> {
    // A domain beyond this does not exist.
    let domain = i32::try_from(address.domain).ok()?;
    // SAFETY: Always safe to call. The reference that the call takes is passed on below.
    let dev = unsafe {
        kernel::bindings::pci_get_domain_bus_and_slot(
            domain,
            address.bus.into(),
            address.devfn.into(),
        )
    };
    // SAFETY: `pci::Device` is a transparent wrapper of `struct pci_dev`, and this function owns a
    // reference.
    ptr::NonNull::new(dev).map(|dev| unsafe { ARef::from_raw(dev.cast()) })
}

/// Returns whether `dev` can be managed: it is neither a bridge nor a companion.
fn is_endpoint(dev: &pci::Device) -> bool {
    let dev = raw::pci_dev(dev);
    // SAFETY: The device is valid, and none of the fields changes.
    let (header, class, vendor, device) =
        unsafe { ((*dev).hdr_type, (*dev).class, (*dev).vendor, (*dev).device) };
    let companion = u32::from(vendor) == bindings::APPLE_DMA_PCI_VENDOR_ID
        && u32::from(device) == bindings::APPLE_DMA_PCI_DEVICE_ID;
    u32::from(header) == kernel::bindings::PCI_HEADER_TYPE_NORMAL
        && class >> 16 != BRIDGE
        && !companion
}

/// Returns what is at `address`.
fn present(address: PciAddress) -> Present {
    match device(address) {
        None => Present::Nothing,
        Some(dev) if is_endpoint(&dev) => Present::Endpoint,
        Some(_) => Present::Other,
    }
}
