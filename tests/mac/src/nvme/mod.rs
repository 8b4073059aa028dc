// SPDX-License-Identifier: GPL-2.0
//! An NVMe controller.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::bus::Bus;
use crate::device::Device;
use crate::pci::Identity;

/// Largest transfer of one command, in bytes.
pub const MAX_MDTS: u64 = 1 << 20;

/// Most pairs of I/O queues.
pub const MAX_QUEUES: u16 = 64;

/// Geometry and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Logarithm of the block size in bytes.
    pub lba_shift: u32,
    /// Largest transfer of one command, in bytes.
    pub mdts: usize,
    /// Pairs of I/O queues.
    pub queues: u16,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            lba_shift: 9,
            mdts: 512 << 10,
            queues: 4,
        }
    }
}

/// The image behind the namespace.
pub struct Disk;

impl Disk {
    /// Opens an image.
    pub fn open(path: &Path, _lba_shift: u32) -> io::Result<Self> {
        File::open(path).map(|_| Self)
    }
}

/// The device.
pub struct Controller;

impl Controller {
    /// A controller of `disk`.
    pub fn new(_: Arc<Bus>, _: Disk, _: Params, _: Duration) -> io::Result<Self> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

impl Device for Controller {
    fn kind(&self) -> &'static str {
        "nvme"
    }

    fn identity(&self) -> Identity {
        unreachable!("there is no controller yet")
    }

    fn read(&self, _: u8, _: u64, _: &mut [u8]) {}

    fn write(&self, _: u8, _: u64, _: &[u8]) {}

    fn reset(&self) {}
}
