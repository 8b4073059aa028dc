// SPDX-License-Identifier: GPL-2.0

//! The dext and the DART: the guest memory that one managed device may access, and its IOVAs.
//!
//! Pure logic. Requests are from [`crate::companion`], translations from [`crate::bus`]; this
//! module knows neither PCI nor vfio-user. Callers count, except for what the limits need.
//!
//! Devices may share a [`Pool`]: the aperture and the limits of one DART. Each still has mappings
//! and keys of its own, and reaches no other.

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
use crate::sync::lock;
use rand::{
    rngs::SmallRng,
    Rng,
    SeedableRng, //
};
use serde::Serialize;
use std::{
    collections::{
        btree_map::Entry,
        BTreeMap, //
    },
    fmt,
    sync::{
        Arc,
        Mutex, //
    },
};
use thiserror::Error;

/// Slots of the dext: maximum number of live mappings.
pub const DEFAULT_MAX_ENTRIES: u64 = 65_536;

/// Maximum of mapped bytes of guest memory, in whole granules: 1.5 GiB.
pub const DEFAULT_MAX_BYTES: u64 = 3 << 29;

/// Length of the longest range that the host does not split.
pub const DEFAULT_SPLIT_ABOVE: u64 = 1536 << 20;

/// The host's knowledge of guest RAM.
pub trait RamBlocks {
    /// Returns whether `[gpa, gpa + len)` lies wholly in one block of guest RAM.
    fn one_block(&self, gpa: Gpa, len: u64) -> bool;
}

/// Tables of another IOMMU, which has the same mappings as the DART.
pub trait Tables: fmt::Debug + Send + Sync {
    /// Adds a mapping.
    fn map(&mut self, mapping: &Mapping);
    /// Removes a mapping that was added. What was cached of it may stay.
    fn unmap(&mut self, mapping: &Mapping);
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
    /// The Mac panics: there are more mappings than it can hold.
    #[error("more mappings than the Mac can hold")]
    PanicSlots,
    /// The Mac panics: there are more bytes than the DART can hold.
    #[error("more bytes than the DART can hold")]
    PanicBytes,
    /// The range is longer than any segment of the DART.
    #[error("the range needs more than one segment: it is too long")]
    Segment,
    /// The DART has no room for the range in one piece.
    #[error("the range needs more than one segment: the IOVA space is fragmented")]
    Fragmented,
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
    /// Length that was asked for; the host maps only the first part of a range that it splits.
    #[serde(skip)]
    pub asked: u64,
}

impl Mapping {
    fn granules(&self) -> u64 {
        granules(self.gpa.0, self.len)
    }

    /// Returns whether `size` is the mapping's: the length that was asked for, or that was mapped.
    pub fn has_size(&self, size: u64) -> bool {
        size == self.len || size == self.asked
    }

    fn end(&self) -> u64 {
        // A range of RAM ends below 2^64, and so does the aperture.
        self.iova.0 + self.len
    }
}

/// The limits of a DART. At a soft one a request is refused; asking for more than a hard one holds
/// panics the Mac. A soft limit above the hard one raises the latter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of live mappings.
    pub max_entries: u64,
    /// Maximum of live bytes, counted in whole granules.
    pub max_bytes: u64,
    /// Number of live mappings beyond which the Mac panics.
    pub panic_entries: u64,
    /// Live bytes beyond which the Mac panics.
    pub panic_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: DEFAULT_MAX_ENTRIES,
            max_bytes: DEFAULT_MAX_BYTES,
            panic_entries: DEFAULT_MAX_ENTRIES,
            panic_bytes: DEFAULT_MAX_BYTES,
        }
    }
}

impl Limits {
    /// Checks a total number of mappings.
    fn check_entries(&self, total: u64) -> Result<(), Refusal> {
        match total {
            n if n <= self.max_entries => Ok(()),
            _ if self.max_entries < self.panic_entries => Err(Refusal::Slots),
            _ => Err(Refusal::PanicSlots),
        }
    }

    /// Checks a total of bytes; `None` is more than a number holds.
    fn check_bytes(&self, total: Option<u64>) -> Result<u64, Refusal> {
        match total {
            Some(n) if n <= self.max_bytes => Ok(n),
            _ if self.max_bytes < self.panic_bytes => Err(Refusal::Bytes),
            _ => Err(Refusal::PanicBytes),
        }
    }
}

/// The host's treatment of single requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Refuse an UNMAP whose size is not the mapping's. The published host checks the key alone.
    pub check_unmap_size: bool,
    /// Length of the longest range that the DART gives as one segment.
    pub max_segment: u64,
    /// Of a thousand ranges of more than one granule, those that are refused for fragmentation.
    pub fragment: u32,
    /// Seed of the choice of these ranges.
    pub fragment_seed: u64,
    /// Length of the longest range that the host does not split. Of a longer one it maps the first
    /// part, of this length.
    pub split_above: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            check_unmap_size: false,
            max_segment: u64::MAX,
            fragment: 0,
            fragment_seed: 0,
            split_above: DEFAULT_SPLIT_ABOVE,
        }
    }
}

impl Rules {
    /// Checks that the DART gives a range as one segment. The same range is always treated alike.
    fn check_segment(&self, gpa: Gpa, len: u64) -> Result<(), Refusal> {
        if len > self.max_segment {
            return Err(Refusal::Segment);
        }
        if self.fragment == 0 || granules(gpa.0, len) == 1 {
            return Ok(());
        }
        let range = gpa.0 ^ len.rotate_left(40) ^ self.fragment_seed.rotate_left(20);
        match SmallRng::seed_from_u64(range).random_range(0..1000) < self.fragment {
            true => Err(Refusal::Fragmented),
            false => Ok(()),
        }
    }
}

/// The amounts that are mapped in a DART.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// Live mappings.
    pub live_mappings: u64,
    /// Their bytes, in whole granules.
    pub live_bytes: u64,
    /// Most live mappings at a time.
    pub peak_mappings: u64,
    /// Most live bytes at a time.
    pub peak_bytes: u64,
}

/// A DART's aperture and limits, and the amounts that all of its devices have mapped.
#[derive(Debug)]
pub struct Pool {
    /// May change at any time; live mappings stay.
    pub limits: Limits,
    space: IovaSpace,
    amounts: Amounts,
}

impl Pool {
    /// Creates a pool of which nothing is taken.
    pub fn new(limits: Limits, space: IovaSpace) -> Self {
        Self {
            limits,
            space,
            amounts: Amounts::default(),
        }
    }

    /// Returns the amounts that are mapped.
    pub fn amounts(&self) -> Amounts {
        self.amounts
    }

    /// Sets the peaks to the live amounts.
    pub fn clear_peaks(&mut self) {
        self.amounts.peak_mappings = self.amounts.live_mappings;
        self.amounts.peak_bytes = self.amounts.live_bytes;
    }

    /// Changes the placement of further mappings.
    pub fn set_placement(&mut self, placement: Placement) {
        self.space.set_placement(placement);
    }

    /// Takes room for a mapping of `count` granules. Returns its first IOVA if `place` asks for
    /// one.
    fn take(
        &mut self,
        count: u64,
        place: bool,
        allowed: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Option<Iova>, Refusal> {
        let entries = self.amounts.live_mappings + 1;
        self.limits.check_entries(entries)?;
        let bytes = count.checked_mul(GRANULE);
        let total = bytes.and_then(|bytes| self.amounts.live_bytes.checked_add(bytes));
        let total = self.limits.check_bytes(total)?;
        allowed()?;
        let first = match place {
            true => Some(self.space.alloc(count).ok_or(Refusal::IovaSpace)?),
            false => None,
        };
        let amounts = &mut self.amounts;
        (amounts.live_mappings, amounts.live_bytes) = (entries, total);
        amounts.peak_mappings = amounts.peak_mappings.max(entries);
        amounts.peak_bytes = amounts.peak_bytes.max(total);
        Ok(first)
    }

    /// Releases the room of a mapping of `count` granules, and its IOVAs if it has some.
    fn release(&mut self, count: u64, first: Option<Iova>) {
        self.amounts.live_mappings -= 1;
        self.amounts.live_bytes -= count * GRANULE;
        if let Some(first) = first {
            self.space.release(first, count);
        }
    }
}

/// The mappings of one managed device.
#[derive(Debug)]
pub struct Dart {
    mode: Mode,
    /// May change at any time.
    pub rules: Rules,
    /// Shared with the other devices behind the same DART.
    pub pool: Arc<Mutex<Pool>>,
    by_key: BTreeMap<Gpa, Mapping>,
    /// Keys by first IOVA. Without a dext the ranges may overlap, but their first IOVAs are the
    /// keys, and so differ.
    by_iova: BTreeMap<Iova, Gpa>,
    bytes: u64,
    /// Longest mapping since the DART was last empty: limits a search backwards.
    longest: u64,
    /// The tables that translate in the DART's place.
    tables: Option<Box<dyn Tables>>,
}

impl Dart {
    /// Creates a DART of one device, with nothing mapped.
    pub fn new(mode: Mode, limits: Limits, space: IovaSpace) -> Self {
        let pool = Arc::new(Mutex::new(Pool::new(limits, space)));
        Self::sharing(mode, Rules::default(), pool)
    }

    /// Creates the part of one device in a DART, with nothing mapped.
    pub fn sharing(mode: Mode, rules: Rules, pool: Arc<Mutex<Pool>>) -> Self {
        Self {
            mode,
            rules,
            pool,
            by_key: BTreeMap::new(),
            by_iova: BTreeMap::new(),
            bytes: 0,
            longest: 0,
            tables: None,
        }
    }

    /// Returns the DART, with its mappings from now on in `tables` too.
    pub fn with_tables(mut self, tables: Box<dyn Tables>) -> Self {
        self.tables = Some(tables);
        self
    }

    /// Maps `[gpa, gpa + len)`, or its first part if the host splits it.
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
        let asked = len;
        let len = len.min(self.rules.split_above.max(1));
        let count = granules(gpa.0, len);
        let dext = self.mode == Mode::Dext;
        // The DART prepares a range before its segments are looked at.
        let allowed = || match dext {
            true => self.rules.check_segment(gpa, len),
            false => Ok(()),
        };
        let first = lock(&self.pool).take(count, dext, allowed)?;
        let iova = match first {
            Some(first) => Iova(first.0 + granule_offset(gpa.0)),
            None => Iova(gpa.0),
        };
        let mapping = Mapping {
            gpa,
            len,
            iova,
            asked,
        };
        slot.insert(mapping);
        self.by_iova.insert(iova, gpa);
        self.bytes += count * GRANULE;
        self.longest = self.longest.max(len);
        if let Some(tables) = &mut self.tables {
            tables.map(&mapping);
        }
        Ok(mapping)
    }

    /// Returns whether a mapping has this key.
    pub fn has(&self, key: Gpa) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Unmaps the mapping with this key and returns it. `size` matters only under
    /// [`Rules::check_unmap_size`].
    pub fn unmap(&mut self, key: Gpa, size: u64) -> Result<Mapping, Refusal> {
        let mapping = *self.by_key.get(&key).ok_or(Refusal::UnknownKey)?;
        if self.rules.check_unmap_size && !mapping.has_size(size) {
            return Err(Refusal::BadSize);
        }
        self.remove(mapping);
        Ok(mapping)
    }

    /// Removes a live mapping.
    fn remove(&mut self, mapping: Mapping) {
        self.by_key.remove(&mapping.gpa);
        self.by_iova.remove(&mapping.iova);
        if let Some(tables) = &mut self.tables {
            tables.unmap(&mapping);
        }
        let count = mapping.granules();
        self.bytes -= count * GRANULE;
        let first = Iova(mapping.iova.0 - granule_offset(mapping.iova.0));
        let first = (self.mode == Mode::Dext).then_some(first);
        lock(&self.pool).release(count, first);
        if self.by_key.is_empty() {
            self.longest = 0;
        }
    }

    /// Unmaps all mappings and returns their number.
    pub fn clear(&mut self) -> usize {
        let all: Vec<Mapping> = self.mappings().copied().collect();
        for &mapping in &all {
            self.remove(mapping);
        }
        all.len()
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
            ..Limits::default()
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

        d.rules.check_unmap_size = true;
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
        d.rules.check_unmap_size = true;
        d.map(Gpa(0x4000_0000), 0x1000, &ram()).unwrap();
        d.map(Gpa(0x4100_0000), 0x1000, &ram()).unwrap();
        assert_eq!(d.clear(), 2);
        assert_eq!((d.live(), d.bytes()), (0, 0));
    }

    #[test]
    fn only_the_hard_limits_panic() {
        let map = |limits: Limits| {
            let mut d = dart(Mode::Dext, limits);
            d.map(Gpa(0x4000_0000), 2 * GRANULE, &ram()).unwrap();
            let bytes = d.map(Gpa(0x4100_0000), 2 * GRANULE, &ram()).err();
            d.map(Gpa(0x4200_0000), GRANULE, &ram()).unwrap();
            let entries = d.map(Gpa(0x4300_0000), 1, &ram()).err();
            assert_eq!(d.live(), 2);
            (bytes.unwrap(), entries.unwrap())
        };
        let tight = Limits {
            max_entries: 2,
            max_bytes: 3 * GRANULE,
            panic_entries: 2,
            panic_bytes: 3 * GRANULE,
        };
        let soft = Limits {
            panic_entries: 3,
            panic_bytes: 4 * GRANULE,
            ..tight
        };
        let above = Limits {
            panic_entries: 1,
            panic_bytes: GRANULE,
            ..tight
        };
        assert_eq!(map(soft), (Refusal::Bytes, Refusal::Slots));
        assert_eq!(map(tight), (Refusal::PanicBytes, Refusal::PanicSlots));
        assert_eq!(map(above), (Refusal::PanicBytes, Refusal::PanicSlots));
        assert_eq!(
            Limits::default().check_bytes(Some(DEFAULT_MAX_BYTES + 1)),
            Err(Refusal::PanicBytes)
        );
        assert_eq!(
            Limits::default().check_entries(DEFAULT_MAX_ENTRIES + 1),
            Err(Refusal::PanicSlots)
        );
    }

    #[test]
    fn a_long_range_is_split_and_its_first_part_is_mapped() {
        let mut d = dext();
        d.rules.split_above = 2 * GRANULE;
        let m = d.map(Gpa(0x4000_0006), 2 * GRANULE, &ram()).unwrap();
        assert_eq!(m.len, 2 * GRANULE);
        let m = d.map(Gpa(0x4100_0006), 2 * GRANULE + 1, &ram()).unwrap();
        assert_eq!((m.len, m.asked), (2 * GRANULE, 2 * GRANULE + 1));
        let end = Iova(m.iova.0 + m.len);
        assert_eq!(d.translate(Iova(end.0 - 1), 2), Err(end));
        d.rules.check_unmap_size = true;
        assert_eq!(d.unmap(m.gpa, m.len - 1), Err(Refusal::BadSize));
        assert!(d.unmap(m.gpa, m.asked).is_ok());
    }

    #[test]
    fn a_long_range_is_no_segment() {
        let mut d = dext();
        d.rules.max_segment = GRANULE;
        let before = lock(&d.pool).amounts();
        assert_eq!(
            d.map(Gpa(0x4000_0000), GRANULE + 1, &ram()),
            Err(Refusal::Segment)
        );
        assert_eq!(lock(&d.pool).amounts(), before);
        assert!(d.map(Gpa(0x4000_0000), GRANULE, &ram()).is_ok());
    }

    #[test]
    fn fragmentation_refuses_a_part_of_the_ranges_and_never_single_granules() {
        let mut d = dext();
        d.rules.fragment = 250;
        let ranges: Vec<_> = (0..400)
            .map(|n| (Gpa(0x4000_0000 + n * 8 * GRANULE), (2 + n % 4) * GRANULE))
            .collect();
        let mut refused = |seed| -> Vec<bool> {
            d.rules.fragment_seed = seed;
            ranges
                .iter()
                .map(|&(gpa, len)| match d.map(gpa, len, &ram()) {
                    Ok(m) => d.unmap(m.gpa, m.len).is_err(),
                    Err(why) => why == Refusal::Fragmented,
                })
                .collect()
        };
        let first = refused(1);
        let count = first.iter().filter(|refused| **refused).count();
        assert!((60..140).contains(&count), "{count}");
        assert_eq!(refused(1), first);
        assert_ne!(refused(2), first);
        d.rules.fragment = 1000;
        assert!(d.map(Gpa(0x4000_0006), GRANULE - 6, &ram()).is_ok());
        assert_eq!(
            d.map(Gpa(0x4000_4006), GRANULE, &ram()),
            Err(Refusal::Fragmented)
        );
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
                ..Limits::default()
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

        /// Checks that devices behind one DART never have more than its limits together, that their
        /// IOVAs are disjoint, and that each reaches its own mappings only.
        #[test]
        fn a_shared_dart_has_one_aperture_and_one_limit(
            ops in prop::collection::vec((0usize..3, op()), 1..150),
            placement in 0usize..2,
        ) {
            let limits = Limits {
                max_entries: 7,
                max_bytes: 20 * GRANULE,
                ..Limits::default()
            };
            let placement = [Placement::Low, Placement::Random(3)][placement];
            let space = IovaSpace::new(Iova(BASE), 48 * GRANULE, placement).unwrap();
            let pool = Arc::new(Mutex::new(Pool::new(limits, space)));
            let mut darts: Vec<_> = (0..3)
                .map(|_| Dart::sharing(Mode::Dext, Rules::default(), pool.clone()))
                .collect();
            for (which, op) in ops {
                match op {
                    Op::Map(gpa, len) => {
                        let entries: u64 = darts.iter().map(Dart::live).sum();
                        let bytes: u64 = darts.iter().map(Dart::bytes).sum();
                        let cost = granules(gpa, len.max(1)) * GRANULE;
                        match darts[which].map(Gpa(gpa), len, &ram()) {
                            Ok(_) => prop_assert!(entries < 7 && bytes + cost <= 20 * GRANULE),
                            Err(Refusal::Slots) => prop_assert_eq!(entries, 7),
                            Err(Refusal::Bytes) => prop_assert!(bytes + cost > 20 * GRANULE),
                            Err(_) => (),
                        }
                    }
                    Op::Unmap(gpa) => {
                        let had = darts[which].has(Gpa(gpa));
                        prop_assert_eq!(darts[which].unmap(Gpa(gpa), 0).is_ok(), had);
                    }
                    Op::Access(..) => {
                        darts[which].clear();
                        prop_assert_eq!((darts[which].live(), darts[which].bytes()), (0, 0));
                    }
                }
                let amounts = lock(&pool).amounts();
                prop_assert_eq!(amounts.live_mappings, darts.iter().map(Dart::live).sum::<u64>());
                prop_assert_eq!(amounts.live_bytes, darts.iter().map(Dart::bytes).sum::<u64>());
                prop_assert!(amounts.peak_mappings <= 7 && amounts.peak_bytes <= 20 * GRANULE);
                for (one, dart) in darts.iter().enumerate() {
                    for mapping in dart.mappings() {
                        for (other, another) in darts.iter().enumerate() {
                            let reached = another.translate(mapping.iova, mapping.len).is_ok();
                            prop_assert_eq!(reached, one == other);
                        }
                    }
                }
            }
        }
    }
}
