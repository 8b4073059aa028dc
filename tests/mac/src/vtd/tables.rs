// SPDX-License-Identifier: GPL-2.0

//! VT-d's tables, in a piece of guest RAM that the guest's kernel leaves alone: the root table, a
//! context table per bus, and the second-level tables of each managed device, with four levels.
//!
//! The formats are those of the specification's legacy mode. Every function that is not managed
//! passes through untranslated.

use crate::addr::Gpa;
use crate::dart::{
    Mapping,
    Tables, //
};
use crate::memory::{
    GuestRam,
    NotRam, //
};
use std::{
    collections::{
        btree_map::Entry,
        BTreeMap, //
    },
    sync::{
        atomic::{
            AtomicU64,
            Ordering, //
        },
        Arc, //
    },
};
use thiserror::Error;

/// First byte of the reserved piece of RAM; the guest's command line has
/// `memmap=64M$0x30000000`.
pub const BASE: u64 = 0x3000_0000;

/// Bytes of it.
pub const SIZE: u64 = 64 << 20;

/// Bits of an IOVA that four levels translate.
pub const WIDTH: u32 = 48;

/// Bytes of a table, and of the pages that the lowest level maps.
const PAGE: u64 = 4096;
/// Bytes of an entry of a second-level table.
const ENTRY: u64 = 8;
/// Bits of an IOVA that one level translates.
const LEVEL_BITS: u32 = 9;
/// Levels of second-level tables.
const LEVELS: u32 = 4;

/// Buses, and functions of a bus.
const BUSES: u64 = 256;
const FUNCTIONS: u64 = 256;
/// Bytes of a root entry, and of a context entry.
const WIDE_ENTRY: u64 = 16;

/// Bits of root and context entries.
const PRESENT: u64 = 1;
const PASS_THROUGH: u64 = 2 << 2;
const FOUR_LEVELS: u64 = 2;
const DOMAIN_SHIFT: u32 = 8;
/// The domain of everything that passes through.
const PASS_THROUGH_DOMAIN: u64 = 1;

/// Bits of second-level entries.
const READ: u64 = 1;
const WRITE: u64 = 2;

/// Reason for tables that could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The reserved piece has no free page.
    #[error("the reserved piece of RAM is full of tables")]
    Full,
    /// There is no RAM.
    #[error(transparent)]
    NotRam(#[from] NotRam),
}

/// The reserved piece of RAM. Pages that were given out stay so.
#[derive(Debug)]
pub struct Arena {
    ram: Arc<GuestRam>,
    next: AtomicU64,
}

impl Arena {
    /// Creates an arena of free pages in `ram`, which may be announced later.
    pub fn new(ram: Arc<GuestRam>) -> Self {
        Self {
            ram,
            next: AtomicU64::new(BASE),
        }
    }

    /// Returns a page, whose content is undefined.
    pub fn page(&self) -> Result<Gpa, Error> {
        let page = self.next.fetch_add(PAGE, Ordering::Relaxed);
        match page < BASE + SIZE {
            true => Ok(Gpa(page)),
            false => Err(Error::Full),
        }
    }

    /// Fills a page with zeroes.
    pub fn zero(&self, page: Gpa) -> Result<(), Error> {
        Ok(self.ram.write(page, &[0; PAGE as usize])?)
    }
}

/// A function whose accesses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// Location: `bus << 8 | device << 3 | function`.
    pub bdf: u16,
    /// Domain, different from those of others and above 1.
    pub domain: u16,
    /// The highest of its tables.
    pub top: Gpa,
}

/// The root table and the context tables.
#[derive(Debug)]
pub struct Root {
    /// Address of the root table.
    pub root: Gpa,
    /// The context table of buses without translated functions.
    others: Gpa,
    /// Further context tables by bus.
    buses: BTreeMap<u64, Gpa>,
    functions: Vec<Translated>,
}

impl Root {
    /// Reserves tables in which `functions` are translated.
    pub fn new(arena: &Arena, functions: Vec<Translated>) -> Result<Self, Error> {
        let (root, others) = (arena.page()?, arena.page()?);
        let mut buses = BTreeMap::new();
        for function in &functions {
            let bus = u64::from(function.bdf >> 8);
            if let Entry::Vacant(entry) = buses.entry(bus) {
                entry.insert(arena.page()?);
            }
        }
        Ok(Self {
            root,
            others,
            buses,
            functions,
        })
    }

    /// Writes the tables.
    pub fn write(&self, arena: &Arena) -> Result<(), Error> {
        let passed = entry(
            PRESENT | PASS_THROUGH,
            FOUR_LEVELS | (PASS_THROUGH_DOMAIN << DOMAIN_SHIFT),
        );
        for &table in self.buses.values().chain([&self.others]) {
            let entries = passed.repeat(FUNCTIONS as usize);
            arena.ram.write(table, &entries)?;
        }
        for function in &self.functions {
            let [bus, devfn] = function.bdf.to_be_bytes().map(u64::from);
            let Some(table) = self.buses.get(&bus) else {
                continue;
            };
            let translated = entry(
                PRESENT | function.top.0,
                FOUR_LEVELS | (u64::from(function.domain) << DOMAIN_SHIFT),
            );
            arena
                .ram
                .write(Gpa(table.0 + devfn * WIDE_ENTRY), &translated)?;
        }
        let roots: Vec<u8> = (0..BUSES)
            .map(|bus| self.buses.get(&bus).unwrap_or(&self.others))
            .flat_map(|table| entry(PRESENT | table.0, 0))
            .collect();
        arena.ram.write(self.root, &roots)?;
        Ok(())
    }
}

/// Returns a root or context entry of two words.
fn entry(low: u64, high: u64) -> [u8; WIDE_ENTRY as usize] {
    let mut bytes = [0; WIDE_ENTRY as usize];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..].copy_from_slice(&high.to_le_bytes());
    bytes
}

/// The second-level tables of a device.
///
/// The lowest level has an entry for each page of 4 KiB that a mapping touches: finer than the
/// DART, whose granule is 16 KiB, so that more of a device's errors are found.
#[derive(Debug)]
pub struct SecondLevel {
    arena: Arc<Arena>,
    /// The highest table.
    pub top: Gpa,
    /// The tables below, by level and by the bits of the IOVA that lead there.
    tables: BTreeMap<(u32, u64), Gpa>,
}

impl SecondLevel {
    /// Reserves the highest table.
    pub fn new(arena: Arc<Arena>) -> Result<Self, Error> {
        Ok(Self {
            top: arena.page()?,
            arena,
            tables: BTreeMap::new(),
        })
    }

    /// Writes leaf entries for all pages of `mapping`; `mapped` says whether they are present.
    fn fill(&mut self, mapping: &Mapping, mapped: bool) -> Result<(), Error> {
        let first = mapping.iova.0 / PAGE;
        let last = (mapping.iova.0 + (mapping.len - 1)) / PAGE;
        let frame = mapping.gpa.0 / PAGE;
        let per_table = 1 << LEVEL_BITS;
        let mut page = first;
        while page <= last {
            let table = self.table(1, page >> LEVEL_BITS)?;
            let index = page % per_table;
            let count = (per_table - index).min(last - page + 1);
            let entries: Vec<u8> = (page..page + count)
                .map(|page| match mapped {
                    true => ((frame + (page - first)) * PAGE) | READ | WRITE,
                    false => 0,
                })
                .flat_map(u64::to_le_bytes)
                .collect();
            let at = Gpa(table.0 + index * ENTRY);
            self.arena.ram.write(at, &entries)?;
            page += count;
        }
        Ok(())
    }

    /// Returns the table at `level` to which the bits `prefix` of an IOVA lead. Makes it, and those
    /// above, if need be.
    fn table(&mut self, level: u32, prefix: u64) -> Result<Gpa, Error> {
        if level == LEVELS {
            return Ok(self.top);
        }
        if let Some(&table) = self.tables.get(&(level, prefix)) {
            return Ok(table);
        }
        let above = self.table(level + 1, prefix >> LEVEL_BITS)?;
        let table = self.arena.page()?;
        self.arena.zero(table)?;
        let index = prefix % (1 << LEVEL_BITS);
        let entry = table.0 | READ | WRITE;
        let at = Gpa(above.0 + index * ENTRY);
        self.arena.ram.write(at, &entry.to_le_bytes())?;
        self.tables.insert((level, prefix), table);
        Ok(table)
    }
}

impl Tables for SecondLevel {
    fn map(&mut self, mapping: &Mapping) {
        if let Err(error) = self.fill(mapping, true) {
            // The device will fault.
            log::error!("{mapping:x?} is not in the tables: {error}");
        }
    }

    fn unmap(&mut self, mapping: &Mapping) {
        if let Err(error) = self.fill(mapping, false) {
            // After QEMU's end there is no RAM.
            log::debug!("{mapping:x?} stays in the tables: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Iova;
    use crate::dart::{
        Dart,
        Limits,
        Mode, //
    };
    use crate::iova::{
        IovaSpace,
        Placement, //
    };

    const RAM: u64 = 0x1000_0000;
    const IOVA: u64 = 0x8001_0000_0000;

    fn arena() -> Arc<Arena> {
        let ram = Arc::new(GuestRam::new());
        ram.add_anonymous(Gpa(RAM), (BASE + SIZE - RAM) as usize)
            .unwrap();
        Arc::new(Arena::new(ram))
    }

    fn word(arena: &Arena, at: u64) -> u64 {
        let mut bytes = [0; 8];
        arena.ram.read(Gpa(at), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Translates an access as VT-d does, from the root table down. The error is the level whose
    /// entry is absent, or 0 if the function passes through.
    fn walk(arena: &Arena, root: &Root, bdf: u16, iova: u64) -> Result<u64, u32> {
        let [bus, devfn] = bdf.to_be_bytes().map(u64::from);
        let entry = word(arena, root.root.0 + bus * 16);
        assert_eq!(entry & 0xfff, 1);
        let context = (entry & !0xfff) + devfn * 16;
        let (low, high) = (word(arena, context), word(arena, context + 8));
        assert_eq!((low & 3, high & 7), (1, 2));
        if (low >> 2) & 3 == 2 {
            return Err(0);
        }
        assert_eq!((low >> 2) & 3, 0);
        let mut table = low & !0xfff;
        for level in (1..=4).rev() {
            let index = (iova >> (12 + 9 * (level - 1))) & 0x1ff;
            let entry = word(arena, table + index * 8);
            if entry & 3 != 3 {
                assert_eq!(entry, 0);
                return Err(level);
            }
            table = entry & !0xfff;
        }
        Ok(table | (iova & 0xfff))
    }

    fn setup(placement: Placement) -> (Arc<Arena>, Root, Dart) {
        let arena = arena();
        let tables = SecondLevel::new(arena.clone()).unwrap();
        arena.zero(tables.top).unwrap();
        let managed = Translated {
            bdf: 0x0128,
            domain: 2,
            top: tables.top,
        };
        let root = Root::new(&arena, vec![managed]).unwrap();
        root.write(&arena).unwrap();
        let space = IovaSpace::new(Iova(IOVA), 1 << 34, placement).unwrap();
        let dart = Dart::new(Mode::Dext, Limits::default(), space).with_tables(Box::new(tables));
        (arena, root, dart)
    }

    #[test]
    fn only_managed_functions_are_translated() {
        let (arena, root, _) = setup(Placement::Low);
        assert_eq!(walk(&arena, &root, 0x0128, IOVA), Err(4));
        for bdf in [0x0000, 0x0028, 0x0120, 0x0129, 0x0228, 0xffff] {
            assert_eq!(walk(&arena, &root, bdf, IOVA), Err(0));
        }
    }

    #[test]
    fn an_access_outside_a_live_mapping_finds_no_entry() {
        let (arena, root, mut dart) = setup(Placement::Low);
        let at = |iova| walk(&arena, &root, 0x0128, iova);
        let map = |dart: &mut Dart, gpa, len| {
            let mapping = dart.map(Gpa(gpa), len, &*arena.ram).unwrap();
            mapping.iova.0
        };
        let a = map(&mut dart, RAM + 0x2ffe, 0x1004);
        assert_eq!(at(a), Ok(RAM + 0x2ffe));
        assert_eq!(at(a + 0x1003), Ok(RAM + 0x4001));
        // To the page, though the granule has further ones on both sides.
        assert_eq!(at(a - 0xfff), Err(1));
        assert_eq!(at(a + 0x2002), Err(1));
        assert_eq!(at(IOVA + (1 << 30)), Err(3));
        assert_eq!(at(RAM + 0x2ffe), Err(4));
        // The same memory by another key.
        let b = map(&mut dart, RAM + 0x3000, 0x1000);
        assert_eq!(at(b), Ok(RAM + 0x3000));
        dart.unmap(Gpa(RAM + 0x2ffe), 0x1004).unwrap();
        assert_eq!(at(a), Err(1));
        assert_eq!(at(a + 0x1003), Err(1));
        assert_eq!(at(b), Ok(RAM + 0x3000));
        dart.clear();
        assert_eq!(at(b), Err(1));
    }

    #[test]
    fn large_mappings_cross_tables() {
        let (arena, root, mut dart) = setup(Placement::High);
        let mapping = dart.map(Gpa(RAM), 0x0123_4000, &*arena.ram).unwrap();
        for offset in (0..0x0123_4000).step_by(0x1000) {
            let got = walk(&arena, &root, 0x0128, mapping.iova.0 + offset);
            assert_eq!(got, Ok(RAM + offset));
        }
        dart.unmap(mapping.gpa, mapping.len).unwrap();
        for offset in (0..0x0123_4000).step_by(0x1000) {
            let got = walk(&arena, &root, 0x0128, mapping.iova.0 + offset);
            assert_eq!(got, Err(1));
        }
    }

    #[test]
    fn what_does_not_fit_is_not_mapped() {
        let (arena, root, mut dart) = setup(Placement::Low);
        while arena.page().is_ok() {}
        let mapping = dart.map(Gpa(RAM), 0x4000, &*arena.ram).unwrap();
        assert_eq!(walk(&arena, &root, 0x0128, mapping.iova.0), Err(4));
    }
}
