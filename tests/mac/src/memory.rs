// SPDX-License-Identifier: GPL-2.0

//! Guest RAM of one vfio-user connection: the blocks that QEMU announced on it, and copies in and
//! out of them.
//!
//! Addresses are guest-physical, without translation. A copy never crosses from one block into
//! another.

use crate::addr::Gpa;
use crate::dart::RamBlocks;
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    sync::{
        atomic::{
            fence,
            Ordering, //
        },
        RwLock, //
    },
};
use thiserror::Error;
use vm_memory::{
    ByteValued,
    Bytes,
    FileOffset,
    GuestAddress,
    GuestMemoryRegion,
    GuestRegionMmap,
    MemoryRegionAddress, //
};

/// The range is not wholly in one block of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{len:#x} bytes at {gpa} are not in one block of guest RAM")]
pub struct NotRam {
    /// First byte of the range.
    pub gpa: Gpa,
    /// Length in bytes.
    pub len: u64,
}

/// The blocks of guest RAM of one connection.
#[derive(Debug, Default)]
pub struct GuestRam {
    /// By first GPA; the blocks do not overlap.
    blocks: RwLock<BTreeMap<Gpa, GuestRegionMmap<()>>>,
}

impl GuestRam {
    /// Creates an empty set of blocks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a block: `size` bytes of `file` from `offset` on appear at `gpa`.
    pub fn add(&self, gpa: Gpa, size: u64, file: File, offset: u64) -> io::Result<()> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        let file = FileOffset::new(file, offset);
        let region = GuestRegionMmap::from_range(GuestAddress(gpa.0), size, Some(file))
            .map_err(io::Error::other)?;
        self.insert(gpa, region)
    }

    /// Adds a block of memory of its own, for tests.
    pub fn add_anonymous(&self, gpa: Gpa, size: usize) -> io::Result<()> {
        let region = GuestRegionMmap::from_range(GuestAddress(gpa.0), size, None)
            .map_err(io::Error::other)?;
        self.insert(gpa, region)
    }

    fn insert(&self, gpa: Gpa, region: GuestRegionMmap<()>) -> io::Result<()> {
        let mut blocks = self.write_lock();
        let end = gpa.0 + region.len();
        let overlaps = blocks
            .range(..Gpa(end))
            .next_back()
            .is_some_and(|(from, block)| from.0 + block.len() > gpa.0);
        if overlaps {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        blocks.insert(gpa, region);
        Ok(())
    }

    /// Removes all blocks that lie in `[gpa, gpa + size)`. Returns once no copy uses them any more.
    pub fn remove(&self, gpa: Gpa, size: u64) {
        let end = gpa.0.saturating_add(size);
        self.write_lock()
            .retain(|from, block| from.0 < gpa.0 || from.0 + block.len() > end);
    }

    /// Removes all blocks.
    pub fn clear(&self) {
        self.write_lock().clear();
    }

    fn write_lock(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Gpa, GuestRegionMmap<()>>> {
        self.blocks.write().expect("no holder panics")
    }

    /// Calls `f` with the block that holds the range and the offset in it.
    fn with<R>(
        &self,
        gpa: Gpa,
        len: usize,
        f: impl FnOnce(&GuestRegionMmap<()>, MemoryRegionAddress) -> Option<R>,
    ) -> Result<R, NotRam> {
        let len = len as u64;
        let blocks = self.blocks.read().expect("no holder panics");
        let found = blocks
            .range(..=gpa)
            .next_back()
            .map(|(from, block)| (gpa.0 - from.0, block))
            .filter(|(at, block)| len <= block.len() && *at <= block.len() - len);
        found
            .and_then(|(at, block)| f(block, MemoryRegionAddress(at)))
            .ok_or(NotRam { gpa, len })
    }

    /// Copies `buf.len()` bytes out of guest RAM.
    pub fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), NotRam> {
        self.with(gpa, buf.len(), |block, at| block.read_slice(buf, at).ok())
    }

    /// Copies `buf` into guest RAM.
    pub fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), NotRam> {
        self.with(gpa, buf.len(), |block, at| block.write_slice(buf, at).ok())
    }

    /// Writes one 32-bit value after all earlier writes, so that a guest that polls for it sees the
    /// rest as well.
    pub fn write_release(&self, gpa: Gpa, value: u32) -> Result<(), NotRam> {
        self.with(gpa, 4, |block, at| {
            fence(Ordering::Release);
            // One store if aligned, which the wire does not demand.
            block
                .store(value.to_le(), at, Ordering::Release)
                .or_else(|_| block.write_slice(&value.to_le_bytes(), at))
                .ok()
        })
    }

    /// Reads a structure of the wire. It need not be aligned.
    pub fn read_obj<T: ByteValued>(&self, gpa: Gpa) -> Result<T, NotRam> {
        let mut object = T::zeroed();
        self.read(gpa, object.as_mut_slice())?;
        Ok(object)
    }

    /// Writes a structure of the wire. It need not be aligned.
    pub fn write_obj<T: ByteValued>(&self, gpa: Gpa, object: &T) -> Result<(), NotRam> {
        self.write(gpa, object.as_slice())
    }
}

impl RamBlocks for GuestRam {
    fn one_block(&self, gpa: Gpa, len: u64) -> bool {
        usize::try_from(len).is_ok_and(|len| self.with(gpa, len, |_, _| Some(())).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram() -> GuestRam {
        let ram = GuestRam::new();
        ram.add_anonymous(Gpa(0x1000), 0x1000).unwrap();
        ram.add_anonymous(Gpa(0x2000), 0x1000).unwrap();
        ram
    }

    #[test]
    fn copies_stay_in_one_block() {
        let ram = ram();
        ram.write(Gpa(0x1ffe), &[1, 2]).unwrap();
        let mut buf = [0; 2];
        ram.read(Gpa(0x1ffe), &mut buf).unwrap();
        assert_eq!(buf, [1, 2]);
        for gpa in [0xfff, 0x1fff, 0x2fff, 0x3000, u64::MAX] {
            let gpa = Gpa(gpa);
            assert_eq!(ram.write(gpa, &[9, 9]), Err(NotRam { gpa, len: 2 }));
            assert!(!ram.one_block(gpa, 2));
        }
        assert!(ram.one_block(Gpa(0x2000), 0x1000));
        assert!(!ram.one_block(Gpa(0x2000), u64::MAX));
    }

    #[test]
    fn blocks_do_not_overlap() {
        let ram = ram();
        assert!(ram.add_anonymous(Gpa(0x2fff), 0x1000).is_err());
        assert!(ram.add_anonymous(Gpa(0), 0x1001).is_err());
        ram.add_anonymous(Gpa(0x3000), 0x1000).unwrap();
        ram.remove(Gpa(0x2000), 0x2000);
        assert!(ram.one_block(Gpa(0x1000), 0x1000));
        assert!(!ram.one_block(Gpa(0x2000), 1));
        assert!(!ram.one_block(Gpa(0x3000), 1));
    }

    #[test]
    fn release_writes_need_no_alignment() {
        let ram = ram();
        for gpa in [Gpa(0x1000), Gpa(0x1011)] {
            ram.write_release(gpa, 0x0403_0201).unwrap();
            let mut buf = [0; 4];
            ram.read(gpa, &mut buf).unwrap();
            assert_eq!(buf, [1, 2, 3, 4]);
        }
    }
}
