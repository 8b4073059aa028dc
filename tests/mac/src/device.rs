// SPDX-License-Identifier: GPL-2.0

//! Interface between a managed device and the server that presents it.

use crate::pci::Identity;

/// A managed device, which masters the bus from threads of its own.
///
/// Accesses come from one thread, in the guest's order. They must return soon: the guest's CPU
/// waits.
pub trait Device: Send + Sync {
    /// Returns the name of the kind: `nvme`, `engine`, `endpoint`.
    fn kind(&self) -> &'static str;

    /// Returns the identity in configuration space.
    fn identity(&self) -> Identity;

    /// Reads from a BAR.
    fn read(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes to a BAR.
    fn write(&self, bar: u8, offset: u64, data: &[u8]);

    /// Handles a function-level reset. When it returns all activity has ended: no DMA, no
    /// interrupt.
    fn reset(&self);
}
