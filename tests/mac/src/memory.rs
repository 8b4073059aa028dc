// SPDX-License-Identifier: GPL-2.0

//! Guest RAM of one vfio-user connection: the blocks that QEMU announced on it, and copies in and
//! out of them.
//!
//! QEMU may announce a block in pieces, as it does where memory is plugged bit by bit. Pieces whose
//! addresses are contiguous, and that are contiguous parts of one file, are one block.
//!
//! Addresses are guest-physical, without translation. A copy never crosses from one block into
//! another.

use crate::addr::Gpa;
use crate::dart::RamBlocks;
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::MetadataExt,
    sync::{
        atomic::{
            fence,
            Ordering, //
        },
        RwLock,
        RwLockWriteGuard, //
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

/// A part of a file.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Device and number of the file's inode.
    inode: (u64, u64),
    /// First byte.
    offset: u64,
}

/// A range of guest RAM that was announced at once.
#[derive(Debug)]
struct Piece {
    region: GuestRegionMmap<()>,
    /// The file that is mapped; `None` for memory of its own.
    part: Option<Part>,
}

impl Piece {
    fn start(&self) -> u64 {
        self.region.start_addr().0
    }

    fn end(&self) -> u64 {
        self.start() + self.region.len()
    }

    /// Returns whether the block goes on with `next`.
    fn continues_in(&self, next: &Self) -> bool {
        let (Some(this), Some(that)) = (self.part, next.part) else {
            return false;
        };
        self.end() == next.start()
            && this.inode == that.inode
            && this.offset + self.region.len() == that.offset
    }
}

/// By first GPA; they do not overlap.
type Pieces = BTreeMap<Gpa, Piece>;

/// Returns the pieces of a block from the one at `first` on.
fn block(pieces: &Pieces, first: Gpa) -> impl Iterator<Item = &Piece> {
    let mut last: Option<&Piece> = None;
    let from = pieces.range(first..).map(|(_, piece)| piece);
    from.take_while(move |piece| last.replace(piece).is_none_or(|l| l.continues_in(piece)))
}

/// The blocks of guest RAM of one connection.
#[derive(Debug, Default)]
pub struct GuestRam {
    pieces: RwLock<Pieces>,
}

impl GuestRam {
    /// Creates an empty set of blocks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a block, or a piece of one: `size` bytes of `file` from `offset` on appear at `gpa`.
    pub fn add(&self, gpa: Gpa, size: u64, file: File, offset: u64) -> io::Result<()> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        let inode = file.metadata().map(|data| (data.dev(), data.ino()))?;
        let file = FileOffset::new(file, offset);
        let region = GuestRegionMmap::from_range(GuestAddress(gpa.0), size, Some(file))
            .map_err(io::Error::other)?;
        let part = Some(Part { inode, offset });
        self.insert(gpa, Piece { region, part })
    }

    /// Adds a block of memory of its own, for tests.
    pub fn add_anonymous(&self, gpa: Gpa, size: usize) -> io::Result<()> {
        let region = GuestRegionMmap::from_range(GuestAddress(gpa.0), size, None)
            .map_err(io::Error::other)?;
        self.insert(gpa, Piece { region, part: None })
    }

    fn insert(&self, gpa: Gpa, piece: Piece) -> io::Result<()> {
        let mut pieces = self.write_lock();
        let overlaps = pieces
            .range(..Gpa(piece.end()))
            .next_back()
            .is_some_and(|(_, other)| other.end() > gpa.0);
        if overlaps {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        pieces.insert(gpa, piece);
        Ok(())
    }

    /// Removes all pieces that lie in `[gpa, gpa + size)`. Returns once no copy uses them any more.
    pub fn remove(&self, gpa: Gpa, size: u64) {
        let end = gpa.0.saturating_add(size);
        self.write_lock()
            .retain(|from, piece| from.0 < gpa.0 || piece.end() > end);
    }

    /// Removes all blocks.
    pub fn clear(&self) {
        self.write_lock().clear();
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Pieces> {
        self.pieces.write().expect("no holder panics")
    }

    /// If the range lies in one block, calls `f` for each part of it that lies in one piece: with
    /// the piece, the offset in the piece, and the part's place in the range.
    fn for_each_part(
        &self,
        gpa: Gpa,
        len: usize,
        mut f: impl FnMut(&GuestRegionMmap<()>, MemoryRegionAddress, Range<usize>) -> Option<()>,
    ) -> Result<(), NotRam> {
        let not_ram = NotRam {
            gpa,
            len: len as u64,
        };
        let end = gpa.0.checked_add(not_ram.len).ok_or(not_ram)?;
        let pieces = self.pieces.read().expect("no holder panics");
        let (&first, _) = pieces.range(..=gpa).next_back().ok_or(not_ram)?;
        if !block(&pieces, first).any(|piece| end <= piece.end()) {
            return Err(not_ram);
        }
        let mut done = 0;
        for piece in block(&pieces, first) {
            let from = gpa.0 + done as u64;
            let part = end.min(piece.end()) - from;
            let range = done..done + part as usize;
            done = range.end;
            f(
                &piece.region,
                MemoryRegionAddress(from - piece.start()),
                range,
            )
            .ok_or(not_ram)?;
            if done == len {
                break;
            }
        }
        Ok(())
    }

    /// Copies `buf.len()` bytes out of guest RAM.
    pub fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), NotRam> {
        self.for_each_part(gpa, buf.len(), |piece, at, range| {
            piece.read_slice(&mut buf[range], at).ok()
        })
    }

    /// Copies `buf` into guest RAM.
    pub fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), NotRam> {
        self.for_each_part(gpa, buf.len(), |piece, at, range| {
            piece.write_slice(&buf[range], at).ok()
        })
    }

    /// Writes one 32-bit value after all earlier writes, so that a guest that polls for it sees the
    /// rest as well.
    pub fn write_release(&self, gpa: Gpa, value: u32) -> Result<(), NotRam> {
        let bytes = value.to_le_bytes();
        fence(Ordering::Release);
        self.for_each_part(gpa, bytes.len(), |piece, at, range| {
            // One store if aligned, which the wire does not demand.
            let whole = range.len() == bytes.len();
            whole
                .then(|| piece.store(value.to_le(), at, Ordering::Release).ok())
                .flatten()
                .or_else(|| piece.write_slice(&bytes[range], at).ok())
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
        usize::try_from(len)
            .is_ok_and(|len| self.for_each_part(gpa, len, |_, _, _| Some(())).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::tempfile::TempFile;

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

    /// Opens the file anew, as QEMU sends a descriptor with each piece.
    fn open(file: &TempFile) -> File {
        File::options()
            .read(true)
            .write(true)
            .open(file.as_path())
            .unwrap()
    }

    /// Creates a file of so many pages.
    fn file(pages: u64) -> TempFile {
        let file = TempFile::new().unwrap();
        file.as_file().set_len(pages << 12).unwrap();
        file
    }

    #[test]
    fn contiguous_pieces_of_a_file_are_one_block() {
        let ram = GuestRam::new();
        let (file, other) = (file(8), file(8));
        // In no order, as memory is plugged.
        for page in [3, 1, 2] {
            ram.add(Gpa(page << 12), 0x1000, open(&file), page << 12)
                .unwrap();
        }
        assert!(ram.one_block(Gpa(0x1000), 0x3000));
        assert!(ram.one_block(Gpa(0x1fff), 0x1002));
        assert!(!ram.one_block(Gpa(0x1000), 0x3001));
        assert!(!ram.one_block(Gpa(0xfff), 2));
        // Contiguous in RAM: the file goes on elsewhere, or another file at the same place.
        ram.add(Gpa(0x4000), 0x1000, open(&file), 0x5000).unwrap();
        assert!(!ram.one_block(Gpa(0x3fff), 2));
        ram.add(Gpa(0x5000), 0x1000, open(&other), 0x6000).unwrap();
        assert!(!ram.one_block(Gpa(0x4fff), 2));
        // Contiguous in the file alone.
        ram.add(Gpa(0x7000), 0x1000, open(&other), 0x7000).unwrap();
        assert!(!ram.one_block(Gpa(0x5fff), 2));
        assert!(!ram.one_block(Gpa(0x5fff), 0x1002));
        // A piece less makes two blocks.
        ram.remove(Gpa(0x2000), 0x1000);
        assert!(!ram.one_block(Gpa(0x1000), 0x3000));
        assert!(!ram.one_block(Gpa(0x1fff), 2));
        assert!(ram.one_block(Gpa(0x1000), 0x1000));
        assert!(ram.one_block(Gpa(0x3000), 0x1000));
    }

    #[test]
    fn copies_cross_pieces_of_a_block() {
        let ram = GuestRam::new();
        let file = file(4);
        for page in 0..4 {
            ram.add(Gpa((16 + page) << 12), 0x1000, open(&file), page << 12)
                .unwrap();
        }
        let data: Vec<u8> = (0..0x2002_u32).map(|i| (i % 251) as u8).collect();
        ram.write(Gpa(0x10fff), &data).unwrap();
        let mut seen = vec![0; data.len()];
        ram.read(Gpa(0x10fff), &mut seen).unwrap();
        assert_eq!(seen, data);
        // Another mapping of the whole file has them where they belong.
        let whole = GuestRam::new();
        whole.add(Gpa(0), 0x4000, open(&file), 0).unwrap();
        whole.read(Gpa(0xfff), &mut seen).unwrap();
        assert_eq!(seen, data);
        // What does not fit changes nothing.
        let before = seen.clone();
        assert!(ram.write(Gpa(0x12fff), &data).is_err());
        whole.read(Gpa(0xfff), &mut seen).unwrap();
        assert_eq!(seen, before);
        ram.write_release(Gpa(0x11ffe), 0x0403_0201).unwrap();
        let mut four = [0; 4];
        ram.read(Gpa(0x11ffe), &mut four).unwrap();
        assert_eq!(four, [1, 2, 3, 4]);
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
