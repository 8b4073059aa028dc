// SPDX-License-Identifier: GPL-2.0

//! The registers of the companion, each with one method for the one way in which it is used.
//!
//! `uapi/apple_dma_pci.h` defines the offsets. What the values mean for a batch is not decided
//! here.

use crate::addr::{
    Address,
    Gpa, //
};
use crate::bindings as uapi;
use kernel::{
    device::Bound,
    io::Io,
    pci,
    prelude::*, //
};

// CAST: These are small constants.
pub(super) const BAR: u32 = uapi::APPLE_DMA_PCI_BAR;
pub(super) const BAR_SIZE: usize = uapi::APPLE_DMA_PCI_BAR_SIZE as usize;
const VERSION: usize = uapi::APPLE_DMA_PCI_REG_VERSION as usize;
const MANAGED_BDF: usize = uapi::APPLE_DMA_PCI_REG_MANAGED_BDF as usize;
const MAX_ENTRIES: usize = uapi::APPLE_DMA_PCI_REG_MAX_ENTRIES as usize;
const STATUS: usize = uapi::APPLE_DMA_PCI_REG_STATUS as usize;
const CMD_GPA_LO: usize = uapi::APPLE_DMA_PCI_REG_CMD_GPA_LO as usize;
const CMD_GPA_HI: usize = uapi::APPLE_DMA_PCI_REG_CMD_GPA_HI as usize;
const DOORBELL: usize = uapi::APPLE_DMA_PCI_REG_DOORBELL as usize;

/// The value that every register of a device that is gone reads as.
pub(super) const PCI_ERROR_RESPONSE: u32 = u32::MAX;

/// The mapped registers of a companion.
pub(super) struct Registers<'a>(pci::Bar<'a, BAR_SIZE>);

impl<'a> Registers<'a> {
    /// Maps the registers of `dev`.
    ///
    /// Context: process, may sleep.
    pub(super) fn new(dev: &'a pci::Device<Bound>) -> Result<Self> {
        Ok(Self(
            dev.iomap_region_sized::<BAR_SIZE>(BAR, c"apple_dma_pci")?,
        ))
    }

    /// Returns the protocol version.
    pub(super) fn version(&self) -> u32 {
        self.0.read32(VERSION)
    }

    /// Returns the address of the managed device as the host knows it, `bus << 8 | devfn`.
    pub(super) fn managed_bdf(&self) -> u32 {
        self.0.read32(MANAGED_BDF)
    }

    /// Returns the most requests of one batch that the host accepts.
    pub(super) fn max_entries(&self) -> u32 {
        self.0.read32(MAX_ENTRIES)
    }

    /// Returns whether the device is gone.
    ///
    /// The read also makes an earlier write to the doorbell arrive, if that was posted. The status
    /// of a batch is taken from its command block, not from this register.
    pub(super) fn is_gone(&self) -> bool {
        self.0.read32(STATUS) == PCI_ERROR_RESPONSE
    }

    /// Tells the device the address of the command block; 0 is none.
    pub(super) fn set_command_block(&self, gpa: Gpa) {
        let gpa = gpa.raw();
        // CAST: Each register has one half of the address.
        self.0.write32(gpa as u32, CMD_GPA_LO);
        self.0.write32((gpa >> 32) as u32, CMD_GPA_HI);
    }

    /// Has the device process the command block. Earlier writes to memory are visible to the host
    /// before it does.
    pub(super) fn ring_doorbell(&self) {
        self.0.write32(1, DOORBELL);
    }
}
