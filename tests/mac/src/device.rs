// SPDX-License-Identifier: GPL-2.0

//! What a managed device is to the server that presents it.

use crate::pci::Identity;

/// A managed device. It masters the bus from threads of its own.
///
/// Accesses come from one thread, in the guest's order. They must return soon:
/// the guest's CPU waits.
pub trait Device: Send + Sync {
    /// Its name for a kind: `nvme`, `engine`, `endpoint`.
    fn kind(&self) -> &'static str;

    /// What it says about itself in configuration space.
    fn identity(&self) -> Identity;

    /// Reads from a BAR.
    fn read(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes to a BAR.
    fn write(&self, bar: u8, offset: u64, data: &[u8]);

    /// Function-level reset. When it returns, nothing of what was going on goes
    /// on: no DMA, no interrupt.
    fn reset(&self);
}
