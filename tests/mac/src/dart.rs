// SPDX-License-Identifier: GPL-2.0

//! The dext and the DART: the guest memory that one managed device may access, and its IOVAs.
//!
//! Pure logic. Requests are from [`crate::companion`], translations from [`crate::bus`]; this
//! module knows neither PCI nor vfio-user. Callers count, except for what the limits need.

use crate::addr::{
    granule_offset,
    granules,
    Gpa,
    Iova,
    GRANULE, //
};
use crate::iova::{
    IovaSpace,
    Placement, //
};
use serde::Serialize;
use std::collections::{
    btree_map::Entry,
    BTreeMap, //
};
use thiserror::Error;

/// Slots of the dext: maximum number of live mappings.
pub const DEFAULT_MAX_ENTRIES: u64 = 65_536;

/// Maximum of mapped bytes of guest memory, in whole granules: 1.5 GiB.
pub const DEFAULT_MAX_BYTES: u64 = 3 << 29;

/// The host's knowledge of guest RAM.
pub trait RamBlocks {
    /// Returns whether `[gpa, gpa + len)` lies wholly in one block of guest RAM.
    fn one_block(&self, gpa: Gpa, len: u64) -> bool;
}

/// Translation between the device and guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The dext chooses an IOVA for every mapping.
    Dext,
    /// QEMU without a dext: no translation, and the reply to every request is the GPA.
    NoDext,
    /// Everything is mapped 1:1 from the start; there are no requests.
    Identity,
}

/// Reason for the refusal of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A mapping with this key is live.
    #[error("the key is still open")]
    LiveKey,
    /// All slots are taken.
    #[error("no slot is free")]
    Slots,
    /// The mapping would go beyond the byte limit.
    #[error("the byte limit is reached")]
    Bytes,
    /// The range is not in one block of guest RAM.
    #[error("the range is not in one block of guest RAM")]
    NotRam,
    /// No mapping has this key.
    #[error("no mapping has this key")]
    UnknownKey,
    /// The length is 0, runs past the end of the address space, or is not the mapping's.
    #[error("bad length")]
    BadSize,
    /// The aperture has no room.
    #[error("the IOVA space is full")]
    IovaSpace,
    /// A test requested this refusal.
    #[error("refused on demand")]
    Injected,
}

/// A live mapping: `[iova, iova + len)` reaches `[gpa, gpa + len)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// First guest-physical address, and the key.
    pub gpa: Gpa,
    /// Length in bytes.
    pub len: u64,
    /// First IOVA.
    pub iova: Iova,
}

impl Mapping {
    fn granules(&self) -> u64 {
        granules(self.gpa.0, self.len)
    }

    fn end(&self) -> u64 {
        // A range of RAM ends below 2^64, and so does the aperture.
        self.iova.0 + self.len
    }
}

/// The limits of the platform.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of live mappings.
    pub max_entries: u64,
    /// Maximum of live bytes, counted in whole granules.
    pub max_bytes: u64,
    /// Refuse an UNMAP whose size is not the mapping's. The published host checks the key alone.
    pub check_unmap_size: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: DEFAULT_MAX_ENTRIES,
            max_bytes: DEFAULT_MAX_BYTES,
            check_unmap_size: false,
        }
    }
}

/// The mappings of one managed device.
#[derive(Debug)]
pub struct Dart {
    mode: Mode,
    /// May change at any time; live mappings stay.
    pub limits: Limits,
    space: IovaSpace,
    by_key: BTreeMap<Gpa, Mapping>,
    /// Keys by first IOVA. Without a dext the ranges may overlap, but their first IOVAs are the
    /// keys, and so differ.
    by_iova: BTreeMap<Iova, Gpa>,
    bytes: u64,
    /// Longest mapping since the DART was last empty: limits a search backwards.
    longest: u64,
}

impl Dart {
    /// Creates a DART with nothing mapped.
    pub fn new(mode: Mode, limits: Limits, space: IovaSpace) -> Self {
        Self {
            mode,
            limits,
            space,
            by_key: BTreeMap::new(),
            by_iova: BTreeMap::new(),
            bytes: 0,
            longest: 0,
        }
    }

    /// Maps `[gpa, gpa + len)`.
    ///
    /// QEMU checks before the dext does, so a bad range is reported as such even if its key is
    /// live.
    pub fn map(&mut self, gpa: Gpa, len: u64, ram: &dyn RamBlocks) -> Result<Mapping, Refusal> {
        if len == 0 || gpa.checked_add(len).is_none() {
            return Err(Refusal::BadSize);
        }
        if !ram.one_block(gpa, len) {
            return Err(Refusal::NotRam);
        }
        let Entry::Vacant(slot) = self.by_key.entry(gpa) else {
            return Err(Refusal::LiveKey);
        };
        if self.by_iova.len() as u64 >= self.limits.max_entries {
            return Err(Refusal::Slots);
        }
        let count = granules(gpa.0, len);
        let bytes = count.checked_mul(GRANULE).ok_or(Refusal::Bytes)?;
        match self.bytes.checked_add(bytes) {
            Some(total) if total <= self.limits.max_bytes => self.bytes = total,
            _ => return Err(Refusal::Bytes),
        }
        let iova = match self.mode {
            Mode::Dext => match self.space.alloc(count) {
                Some(first) => Iova(first.0 + granule_offset(gpa.0)),
                None => {
                    self.bytes -= bytes;
                    return Err(Refusal::IovaSpace);
                }
            },
            Mode::NoDext | Mode::Identity => Iova(gpa.0),
        };
        let mapping = Mapping { gpa, len, iova };
        slot.insert(mapping);
        self.by_iova.insert(iova, gpa);
        self.longest = self.longest.max(len);
        Ok(mapping)
    }

    /// Unmaps the mapping with this key and returns it. `size` matters only under
    /// [`Limits::check_unmap_size`].
    pub fn unmap(&mut self, key: Gpa, size: u64) -> Result<Mapping, Refusal> {
        let mapping = *self.by_key.get(&key).ok_or(Refusal::UnknownKey)?;
        if self.limits.check_unmap_size && size != mapping.len {
            return Err(Refusal::BadSize);
        }
        self.by_key.remove(&key);
        self.by_iova.remove(&mapping.iova);
        self.bytes -= mapping.granules() * GRANULE;
        if self.mode == Mode::Dext {
            let first = Iova(mapping.iova.0 - granule_offset(mapping.iova.0));
            self.space.release(first, mapping.granules());
        }
        if self.by_key.is_empty() {
            self.longest = 0;
        }
        Ok(mapping)
    }

    /// Unmaps all mappings and returns their number.
    pub fn clear(&mut self) -> usize {
        let keys: Vec<Gpa> = self.by_key.keys().copied().collect();
        self.limits.check_unmap_size = false;
        for &key in &keys {
            let unmapped = self.unmap(key, 0);
            debug_assert!(unmapped.is_ok());
        }
        keys.len()
    }

    /// Translates a device's access to `[iova, iova + len)`. All of its bytes must be in live
    /// mappings, to the byte; the error is the first byte that is not.
    pub fn translate(&self, iova: Iova, len: u64) -> Result<Gpa, Iova> {
        if self.mode != Mode::Dext {
            return Ok(Gpa(iova.0));
        }
        let end = iova.checked_add(len).ok_or(iova)?.0;
        let mapping = self.covering(iova).ok_or(iova)?;
        // No two mappings are adjacent.
        if mapping.end() < end {
            return Err(Iova(mapping.end()));
        }
        Ok(Gpa(mapping.gpa.0 + (iova.0 - mapping.iova.0)))
    }

    /// Returns a live mapping that contains the byte at `iova`.
    fn covering(&self, iova: Iova) -> Option<&Mapping> {
        let from = Iova(iova.0.saturating_sub(self.longest));
        self.by_iova
            .range(from..=iova)
            .next_back()
            .and_then(|(_, key)| self.by_key.get(key))
            .filter(|mapping| iova.0 < mapping.end())
    }

    /// Returns the number of live mappings.
    pub fn live(&self) -> u64 {
        self.by_key.len() as u64
    }

    /// Returns the bytes of live mappings, in whole granules.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the live mappings by key.
    pub fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        self.by_key.values()
    }

    /// Changes the placement of further mappings.
    pub fn set_placement(&mut self, placement: Placement) {
        self.space.set_placement(placement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: u64 = 0x8001_0000_0000;

    /// Blocks of RAM as (start, length).
    struct Ram(Vec<(u64, u64)>);

    impl RamBlocks for Ram {
        fn one_block(&self, gpa: Gpa, len: u64) -> bool {
            self.0
                .iter()
                .any(|&(from, size)| gpa.0 >= from && gpa.0 + len <= from + size)
        }
    }

    fn ram() -> Ram {
        Ram(vec![(0x4000_0000, 0x1000_0000), (0x5000_0000, 0x1000_0000)])
    }

    fn dart(mode: Mode, limits: Limits) -> Dart {
        let space = IovaSpace::new(Iova(BASE), 1 << 32, Placement::Low).unwrap();
        Dart::new(mode, limits, space)
    }

    fn dext() -> Dart {
        dart(Mode::Dext, Limits::default())
    }

    #[test]
    fn offset_in_granule_is_kept() {
        let mut d = dext();
        for gpa in [0x4000_0006u64, 0x4000_1fff, 0x4000_4000] {
            let m = d.map(Gpa(gpa), 0x2001, &ram()).unwrap();
            assert_eq!(granule_offset(m.iova.0), granule_offset(gpa));
            assert_eq!(d.translate(m.iova, m.len), Ok(Gpa(gpa)));
        }
    }

    #[test]
    fn access_is_checked_to_the_byte() {
        let mut d = dext();
        let m = d.map(Gpa(0x4000_0100), 0x100, &ram()).unwrap();
        assert_eq!(d.translate(Iova(m.iova.0 + 0xff), 1), Ok(Gpa(0x4000_01ff)));
        let end = Iova(m.iova.0 + 0x100);
        assert_eq!(d.translate(end, 1), Err(end));
        assert_eq!(d.translate(m.iova, 0x101), Err(end));
        let before = Iova(m.iova.0 - 1);
        assert_eq!(d.translate(before, 2), Err(before));
        assert_eq!(d.translate(Iova(u64::MAX), 2), Err(Iova(u64::MAX)));
    }

    #[test]
    fn an_access_never_runs_into_the_next_mapping() {
        let mut d = dext();
        let a = d.map(Gpa(0x4000_0000), GRANULE, &ram()).unwrap();
        let b = d.map(Gpa(0x4000_4000), GRANULE, &ram()).unwrap();
        assert!(b.iova.0 > a.iova.0 + GRANULE);
        assert!(d.translate(a.iova, GRANULE + 1).is_err());
    }

    #[test]
    fn range_must_lie_in_one_block() {
        let mut d = dext();
        let refused = |d: &mut Dart, gpa, len| d.map(Gpa(gpa), len, &ram()).err();
        assert_eq!(refused(&mut d, 0x3fff_ffff, 2), Some(Refusal::NotRam));
        assert_eq!(refused(&mut d, 0x4fff_f000, 0x2000), Some(Refusal::NotRam));
        assert_eq!(refused(&mut d, 0x5fff_ffff, 2), Some(Refusal::NotRam));
        assert_eq!(refused(&mut d, 0x4000_0000, 0), Some(Refusal::BadSize));
        assert_eq!(refused(&mut d, u64::MAX, 2), Some(Refusal::BadSize));
        assert_eq!(d.live(), 0);
        assert_eq!(d.bytes(), 0);
        assert_eq!(refused(&mut d, 0x5fff_ffff, 1), None);
    }

    #[test]
    fn a_live_key_is_refused_and_overlap_is_not() {
        let mut d = dext();
        d.map(Gpa(0x4000_0000), 0x8000, &ram()).unwrap();
        assert_eq!(
            d.map(Gpa(0x4000_0000), 0x1000, &ram()),
            Err(Refusal::LiveKey)
        );
        d.map(Gpa(0x4000_1000), 0x1000, &ram()).unwrap();
        d.unmap(Gpa(0x4000_0000), 0x8000).unwrap();
        d.map(Gpa(0x4000_0000), 0x1000, &ram()).unwrap();
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let limits = Limits {
            max_entries: 2,
            max_bytes: 3 * GRANULE,
            check_unmap_size: false,
        };
        let mut d = dart(Mode::Dext, limits);
        // Two bytes across a granule's edge cost two granules.
        d.map(Gpa(0x4000_3fff), 2, &ram()).unwrap();
        assert_eq!(d.bytes(), 2 * GRANULE);
        assert_eq!(d.map(Gpa(0x4000_7fff), 2, &ram()), Err(Refusal::Bytes));
        d.map(Gpa(0x4000_8000), GRANULE, &ram()).unwrap();
        assert_eq!(d.map(Gpa(0x4001_0000), 1, &ram()), Err(Refusal::Slots));
        d.unmap(Gpa(0x4000_8000), GRANULE).unwrap();
        assert_eq!(d.bytes(), 2 * GRANULE);
        d.map(Gpa(0x4001_0000), 1, &ram()).unwrap();
    }

    #[test]
    fn a_full_aperture_costs_nothing_else() {
        let space = IovaSpace::new(Iova(BASE), 4 * GRANULE, Placement::Low).unwrap();
        let mut d = Dart::new(Mode::Dext, Limits::default(), space);
        let m = d.map(Gpa(0x4000_0000), 2 * GRANULE, &ram()).unwrap();
        assert_eq!(d.map(Gpa(0x4100_0000), 1, &ram()), Err(Refusal::IovaSpace));
        assert_eq!((d.live(), d.bytes()), (1, 2 * GRANULE));
        d.unmap(m.gpa, m.len).unwrap();
        assert!(d.map(Gpa(0x4100_0000), 1, &ram()).is_ok());
    }

    #[test]
    fn unmap_goes_by_key() {
        let mut d = dext();
        let m = d.map(Gpa(0x4000_0000), 0x1000, &ram()).unwrap();
        assert_eq!(d.unmap(Gpa(0x4000_1000), 0), Err(Refusal::UnknownKey));
        assert_eq!(d.unmap(m.gpa, 7), Ok(m));
        assert_eq!(d.translate(m.iova, 1), Err(m.iova));
        assert_eq!(d.unmap(m.gpa, 0x1000), Err(Refusal::UnknownKey));

        d.limits.check_unmap_size = true;
        d.map(m.gpa, 0x1000, &ram()).unwrap();
        assert_eq!(d.unmap(m.gpa, 7), Err(Refusal::BadSize));
        assert!(d.unmap(m.gpa, 0x1000).is_ok());
    }

    #[test]
    fn without_a_dext_iova_is_gpa() {
        let mut d = dart(Mode::NoDext, Limits::default());
        let m = d.map(Gpa(0x4000_0000), 0x2000, &ram()).unwrap();
        assert_eq!(m.iova, Iova(0x4000_0000));
        let m = d.map(Gpa(0x4000_1000), 0x3000, &ram()).unwrap();
        assert_eq!(m.iova, Iova(0x4000_1000));
        assert_eq!(d.unmap(m.gpa, m.len), Ok(m));
        assert_eq!(d.translate(Iova(0x4000_0800), 0x3800), Ok(Gpa(0x4000_0800)));
    }

    #[test]
    fn identity_lets_everything_through() {
        let d = dart(Mode::Identity, Limits::default());
        assert_eq!(d.translate(Iova(5), 1 << 40), Ok(Gpa(5)));
    }

    #[test]
    fn clear_empties_even_a_strict_dart() {
        let mut d = dext();
        d.limits.check_unmap_size = true;
        d.map(Gpa(0x4000_0000), 0x1000, &ram()).unwrap();
        d.map(Gpa(0x4100_0000), 0x1000, &ram()).unwrap();
        assert_eq!(d.clear(), 2);
        assert_eq!((d.live(), d.bytes()), (0, 0));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Map(u64, u64),
        Unmap(u64),
        Access(prop::sample::Index, i64, u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        // Few, close addresses, so that keys collide and ranges overlap.
        let gpa = (0u64..24, prop::sample::select(vec![0u64, 6, 0xfff, 0x2000]))
            .prop_map(|(page, off)| 0x4fff_4000 + page * 0x1000 + off);
        let len = prop::sample::select(vec![0u64, 1, 6, 0x1000, 0x3fff, 0x4001, 0x10000]);
        prop_oneof![
            3 => (gpa.clone(), len).prop_map(|(g, l)| Op::Map(g, l)),
            2 => gpa.prop_map(Op::Unmap),
            3 => (any::<prop::sample::Index>(), -0x20i64..0x4020, 1u64..0x5000)
                .prop_map(|(i, off, len)| Op::Access(i, off, len)),
        ]
    }

    proptest! {
        /// Compares the DART with a list of mappings that is searched byte by byte.
        #[test]
        fn agrees_with_a_naive_model(
            ops in prop::collection::vec(op(), 1..120),
            which in 0usize..3,
        ) {
            let (mode, placement) = [
                (Mode::Dext, Placement::Low),
                (Mode::Dext, Placement::High),
                (Mode::Dext, Placement::Random(3)),
            ][which];
            let limits = Limits {
                max_entries: 9,
                max_bytes: 24 * GRANULE,
                check_unmap_size: false,
            };
            let space = IovaSpace::new(Iova(BASE), 64 * GRANULE, placement).unwrap();
            let mut d = Dart::new(mode, limits, space);
            let mut model: Vec<Mapping> = Vec::new();

            for op in ops {
                match op {
                    Op::Map(gpa, len) => {
                        let pages = |g: u64, l: u64| (g..g + l)
                            .step_by(0x1000)
                            .chain((g..g + l).last())
                            .map(|b| b / GRANULE)
                            .collect::<std::collections::BTreeSet<_>>()
                            .len() as u64;
                        let used: u64 = model.iter().map(|m| pages(m.gpa.0, m.len)).sum();
                        let expected = if len == 0 {
                            Some(Refusal::BadSize)
                        } else if !ram().one_block(Gpa(gpa), len) {
                            Some(Refusal::NotRam)
                        } else if model.iter().any(|m| m.gpa.0 == gpa) {
                            Some(Refusal::LiveKey)
                        } else if model.len() == 9 {
                            Some(Refusal::Slots)
                        } else if used + pages(gpa, len) > 24 {
                            Some(Refusal::Bytes)
                        } else {
                            None
                        };
                        let got = d.map(Gpa(gpa), len, &ram());
                        if got == Err(Refusal::IovaSpace) {
                            // Fragmentation is not part of the model.
                            prop_assert_eq!(expected, None);
                            continue;
                        }
                        prop_assert_eq!(got.err(), expected);
                        if let Ok(m) = got {
                            prop_assert_eq!((m.gpa.0, m.len), (gpa, len));
                            prop_assert_eq!(granule_offset(m.iova.0), granule_offset(gpa));
                            model.push(m);
                        }
                    }
                    Op::Unmap(gpa) => {
                        let at = model.iter().position(|m| m.gpa.0 == gpa);
                        let expected = at
                            .map(|at| model.swap_remove(at))
                            .ok_or(Refusal::UnknownKey);
                        prop_assert_eq!(d.unmap(Gpa(gpa), 0), expected);
                    }
                    Op::Access(which, off, len) => {
                        if model.is_empty() {
                            continue;
                        }
                        let from = model[which.index(model.len())].iova.0.wrapping_add_signed(off);
                        let lookup = |b: u64| model.iter()
                            .find(|m| b >= m.iova.0 && b < m.iova.0 + m.len)
                            .map(|m| m.gpa.0 + (b - m.iova.0));
                        let bad = (from..from + len).find(|&b| lookup(b).is_none());
                        let expected = match bad {
                            Some(b) => Err(Iova(b)),
                            None => Ok(Gpa(lookup(from).unwrap())),
                        };
                        prop_assert_eq!(d.translate(Iova(from), len), expected);
                    }
                }
                prop_assert_eq!(d.live(), model.len() as u64);
            }
        }
    }
}
