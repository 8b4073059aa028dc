// SPDX-License-Identifier: GPL-2.0

//! An NVMe 1.4 controller with one namespace, enough for Linux's stock driver.
//!
//! [`controller`] is the register file and the state that the queues share, [`queue`] moves entries
//! and completions, [`admin`] and [`io`] execute commands, [`prp`] finds a command's data and
//! [`data`] moves it at the speed of [`pace`], [`identify`] has the descriptions of the controller.
//! Numbers are those of the NVM Express base specification, in [`spec`].

pub mod admin;
pub mod controller;
pub mod data;
pub mod disk;
pub mod identify;
pub mod io;
pub mod pace;
pub mod prp;
pub mod queue;
pub mod spec;
#[cfg(test)]
mod tests;

pub use controller::Controller;
pub use disk::Disk;

/// Largest configurable transfer of one command, in bytes.
pub const MAX_MDTS: u64 = 8 << 20;

/// Maximum number of pairs of I/O queues, limited by the BAR's room for doorbells.
pub const MAX_QUEUES: u16 = 64;

/// Geometry and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Logarithm of the block size in bytes.
    pub lba_shift: u32,
    /// Largest transfer of one command in bytes, a power of two of at least 4096.
    pub mdts: usize,
    /// Pairs of I/O queues.
    pub queues: u16,
    /// Bytes in a second that are read and written at most; 0: no limit.
    pub rate: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            lba_shift: 9,
            mdts: 512 << 10,
            queues: 4,
            rate: 0,
        }
    }
}
