// SPDX-License-Identifier: GPL-2.0

//! The image behind a namespace: whole blocks of a file.

use std::{
    fs::{
        File,
        OpenOptions, //
    },
    io,
    os::unix::fs::FileExt,
    path::Path, //
};
use vmm_sys_util::fallocate::{
    fallocate,
    FallocateMode, //
};

/// An image. Offsets and lengths are in bytes and inside it; callers check.
#[derive(Debug)]
pub struct Disk {
    file: File,
    blocks: u64,
    lba_shift: u32,
}

impl Disk {
    /// Opens an image for reading and writing. Bytes behind the last whole block are not used.
    pub fn open(path: &Path, lba_shift: u32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let blocks = file.metadata()?.len() >> lba_shift;
        if blocks == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the image holds no block",
            ));
        }
        Ok(Self {
            file,
            blocks,
            lba_shift,
        })
    }

    /// Returns the number of blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Returns the logarithm of the block size in bytes.
    pub fn lba_shift(&self) -> u32 {
        self.lba_shift
    }

    /// Returns offset and length in bytes of `count` blocks from `lba` on, if all of them exist.
    pub fn range(&self, lba: u64, count: u64) -> Option<(u64, u64)> {
        let end = lba.checked_add(count)?;
        (end <= self.blocks).then_some((lba << self.lba_shift, count << self.lba_shift))
    }

    /// Reads into `buf`.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Writes `buf`. The host's page cache is the medium: it outlives this process, and tests do
    /// not cut the host's power.
    pub fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    /// Makes a range read as zeroes, without storage if the file system supports that.
    pub fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        if fallocate(&self.file, FallocateMode::PunchHole, true, offset, len).is_ok() {
            return Ok(());
        }
        let zeroes = vec![0; 64 << 10];
        let mut at = offset;
        let end = offset + len;
        while at < end {
            let piece = &zeroes[..zeroes.len().min((end - at) as usize)];
            self.write(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}
