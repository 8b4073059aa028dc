// SPDX-License-Identifier: GPL-2.0

//! Replay of the maps and unmaps of a guest's drivers, with other parameters if wanted.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan,
    GRANULE,
    GRANULE_SHIFT, //
};
use crate::copying::{
    self,
    CopyDirection,
    CopyMode,
    NoContents, //
};
use crate::engine::copy::pool::SlotPool;
use crate::engine::copy::stats::CopyStats;
use crate::engine::policy::{
    Adaptive,
    Policy,
    Proposal,
    View, //
};
use crate::engine::ram::Ram;
use crate::engine::{
    Config,
    Engine,
    KernelKind,
    LargePages,
    MapOutcome,
    Markers,
    Request,
    Snapshot, //
};
use crate::host::{
    Addresses,
    ReplayHost, //
};
use crate::sys::{
    pass_ns,
    Alloc,
    BoxedSlice,
    Stopwatch, //
};
use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{
        BTreeMap,
        HashMap, //
    },
    hash::{
        BuildHasherDefault,
        Hasher, //
    },
    sync::{
        Arc,
        Mutex,
        PoisonError, //
    },
};

/// Most granules of RAM in a flat table, as in the module.
const TABLE_MAX: usize = 1 << 24;

/// Number of windows for which memory is reserved at the start.
const RESERVE: usize = 16;

/// The mode of mapping, as in the module's file `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Windows that stay mapped for a while when they are idle.
    Lazy,
    /// Windows that are unmapped when they are idle.
    Strict,
    /// A static map of all of RAM.
    WholeRam,
}

/// The parameters of the module, and the properties of its host and guest.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// The mode of mapping.
    pub mode: Mode,
    /// log2 of the size in bytes that windows grow to; ignored by `Mode::Strict`, whose windows do
    /// not grow.
    pub window_shift: u32,
    /// Most bytes that are mapped at a time.
    pub max_bytes: u64,
    /// Most windows at a time.
    pub max_entries: u32,
    /// Most entries of a batch.
    pub batch_max: usize,
    /// Most bytes of a window.
    pub len_max: u64,
    /// The effort to align the IOVAs of large pages: 0 none, 1 for single mappings, 2 for all.
    pub congruent: u64,
    /// The mappings that are copied, in modes that have windows.
    pub copy: CopyMode,
    /// Bytes of the copy pool, if anything is copied.
    pub copy_bytes: u64,
    /// First addresses and lengths in bytes of the blocks of guest RAM.
    pub ram: Vec<(u64, u64)>,
}

/// A mapping of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Guest-physical address.
    pub gpa: u64,
    /// The recorded DMA address.
    pub dma: u64,
    /// Length in bytes.
    pub size: u64,
}

/// A window that the host created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The memory that the window covers, and its IOVA.
    pub at: Mapping,
    /// Number of mappings of drivers that use the window.
    pub users: u32,
}

/// The times in nanoseconds that the host took for an entry of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryTimes {
    /// The module's average when the recording began.
    pub before: Option<u64>,
    /// The times of the recorded batches, in their order.
    pub batches: Vec<u64>,
}

/// The recorded host: its windows, and the times that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostRecord {
    /// The windows that it created, in their order.
    pub created: Vec<Mapping>,
    /// Its times to map.
    pub map: EntryTimes,
    /// Its times to unmap.
    pub unmap: EntryTimes,
}

/// The counters of the replay, by the names of the module's file `counters`, and the usage at the
/// end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub maps: u64,
    pub unmaps: u64,
    pub hits: u64,
    pub misses: u64,
    pub copies: u64,
    pub windows_created: u64,
    pub windows_returned: u64,
    pub windows_aged: u64,
    pub windows_reclaimed: u64,
    pub doorbells: u64,
    /// Calls that failed.
    pub refusals: u64,
    pub bytes: u64,
    pub peak_bytes: u64,
    pub entries: u32,
    pub peak_entries: u32,
    /// Unmaps of addresses that were mapped neither in the recording nor, as far as known, before.
    pub unknown: u64,
}

/// The module's policy, or a fixed proposal instead.
struct Scripted {
    policy: Adaptive,
    next: Arc<Mutex<Option<Proposal>>>,
}

impl Policy for Scripted {
    fn propose(&self, request: &GpaSpan, block: &GpaSpan, view: &View<'_>) -> Option<Proposal> {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut next) = *next else {
            return self.policy.propose(request, block, view);
        };
        // A tile must be older than all windows in it.
        let mut granules = next.span.first_granule()..=next.span.last_granule();
        next.tile &= granules.all(|granule| (view.len_at)(granule).is_none());
        Some(next)
    }
}

/// An entry of a call.
struct Entry {
    span: GpaSpan,
    iova: Cell<Option<Iova>>,
}

impl Entry {
    fn new(span: GpaSpan) -> Self {
        Self {
            span,
            iova: Cell::new(None),
        }
    }
}

impl Request for Entry {
    fn span(&self) -> Option<GpaSpan> {
        Some(self.span)
    }

    fn iova(&self) -> Option<Iova> {
        self.iova.get()
    }

    fn set_iova(&self, iova: Option<Iova>) {
        self.iova.set(iova);
    }
}

/// A hasher of addresses, which takes a fraction of the standard library's time.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, word: u64) {
        // The golden ratio; its product has entropy in the high bits.
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // The table takes low bits for the place, and the highest ones to compare.
        self.0 ^ self.0.rotate_left(32)
    }
}

/// The IOVAs of mappings with one recorded DMA address and length, [`None`] for those that failed:
/// mostly one, as drivers unmap memory before they map it again.
#[derive(Default)]
struct Places {
    last: Option<Option<Iova>>,
    others: Vec<Option<Iova>>,
}

impl Places {
    fn push(&mut self, iova: Option<Iova>) {
        if let Some(before) = self.last.replace(iova) {
            self.others.push(before);
        }
    }

    /// Returns the one that was added last.
    fn pop(&mut self) -> Option<Option<Iova>> {
        let next = self.others.pop();
        std::mem::replace(&mut self.last, next)
    }

    #[cfg(test)]
    fn last(&self) -> Option<Option<Iova>> {
        self.last
    }
}

/// Returns whether `span` is one of the windows that tile `block`.
fn is_tile(span: &GpaSpan, block: Option<&GpaSpan>) -> bool {
    let Some(size) = span.len().max(GRANULE).checked_next_power_of_two() else {
        return false;
    };
    let tile = span.round_out(size).filter(|tile| tile.len() == size);
    let tile = tile.and_then(|tile| tile.intersection(block?));
    tile == Some(*span)
}

/// Returns `windows` in an order in which each can be created: a window within another one was
/// created first, or the other would have served its request. Otherwise keeps their order, which
/// mostly is that of creation.
fn in_order(windows: &[Window]) -> Vec<&Window> {
    let end = |index: usize| windows[index].at.gpa.saturating_add(windows[index].at.size);
    let mut by_start: Vec<usize> = (0..windows.len()).collect();
    by_start.sort_by_key(|index| windows[*index].at.gpa);
    let start = |index: usize| windows[index].at.gpa;
    // The windows that lie within a window, last one first, as they are popped from the end.
    let within = |index: usize| {
        let first = by_start.partition_point(|other| start(*other) < start(index));
        let inside = by_start[first..].iter().copied();
        let inside = inside.take_while(|other| start(*other) < end(index));
        let mut inside: Vec<_> = inside
            .filter(|other| *other != index && end(*other) <= end(index))
            .collect();
        inside.sort_unstable_by_key(|other| Reverse(*other));
        inside
    };
    let mut visited = vec![false; windows.len()];
    let mut order = Vec::new();
    for index in 0..windows.len() {
        let mut left = vec![(index, false)];
        while let Some((index, is_due)) = left.pop() {
            if is_due {
                order.push(&windows[index]);
            } else if !visited[index] {
                visited[index] = true;
                left.push((index, true));
                left.extend(within(index).into_iter().map(|other| (other, false)));
            }
        }
    }
    order
}

/// An engine that replays a recording; see the module's documentation.
pub struct Replay {
    engine: Engine<ReplayHost, Scripted>,
    /// The copy pool, if anything is copied.
    pool: Option<SlotPool<NoContents>>,
    /// The time since the start.
    clock: Stopwatch,
    /// Windows from before the recording by their recorded DMA addresses, which no two share: their
    /// lengths, and their IOVAs in the replay.
    before: BTreeMap<u64, (u64, Iova)>,
    /// IOVAs in the replay by recorded DMA address and length.
    mapped: HashMap<(u64, u64), Places, BuildHasherDefault<AddressHasher>>,
    /// The counters after the setup, which are no doing of drivers.
    first: Counters,
    refusals: u64,
    unknown: u64,
}

impl Replay {
    /// Creates an engine that has the windows of `before`. The host puts windows where the recorded
    /// one put them, and takes as long for an entry. Fails with a message about `parameters`.
    pub fn new(
        parameters: &Parameters,
        before: &[Window],
        record: &HostRecord,
    ) -> Result<Self, String> {
        let mut blocks: Vec<GpaSpan> = Vec::new();
        for (start, len) in &parameters.ram {
            let block = GpaSpan::new(Gpa::new(*start), *len);
            let block =
                block.filter(|new| blocks.last().is_none_or(|b| b.end() <= new.start().raw()));
            blocks
                .push(block.ok_or_else(|| format!("no block of RAM: {len} bytes at {start:#x}"))?);
        }
        let pool_memory = copying::pool_memory(parameters, &blocks);
        blocks.extend(pool_memory);
        let mut known = Addresses::new();
        let created = &record.created;
        for window in before.iter().map(|window| &window.at).chain(created) {
            let place = known.entry((window.gpa, window.size)).or_default();
            place.push_back(window.dma);
        }
        let strict = parameters.mode == Mode::Strict;
        let shift = if strict {
            GRANULE_SHIFT
        } else {
            parameters.window_shift
        };
        let next = Arc::new(Mutex::new(None));
        let policy = Scripted {
            policy: Adaptive::new(shift),
            next: next.clone(),
        };
        let no_memory = |_| "no memory for tables".to_owned();
        let ram = BoxedSlice::new(blocks.len(), Alloc::Sleep, |index| blocks[index])
            .map_err(no_memory)?;
        // The guest has one as well, which is no window.
        let first = blocks.first().map_or(0, |block| block.start().raw());
        let mut markers = Markers::new(first, KernelKind::Regular);
        let mapped = |_: &mut (), _: &GpaSpan| Ok::<_, String>(MapOutcome::Mapped(Iova::new(0)));
        markers.take(&mut (), mapped, |_, _| true)?;
        let config = Config {
            admit: parameters.copy == CopyMode::Auto && parameters.mode == Mode::Lazy,
            strict,
            max_bytes: parameters.max_bytes,
            max_entries: parameters.max_entries,
            ram: Ram::new(ram),
            pool: None,
            id: 1,
            markers,
            large_pages: match parameters.congruent {
                0 => LargePages::Ignored,
                1 => LargePages::Preferred,
                _ => LargePages::Expected,
            },
            table_max: TABLE_MAX,
        };
        let host = ReplayHost::new(
            parameters.batch_max.max(1),
            parameters.len_max,
            known,
            [record.map.before, record.unmap.before],
        );
        let mut engine = Engine::new(host, policy, (), config).map_err(no_memory)?;
        let costs = engine.costs();
        for (average, times) in [(&costs.map, &record.map), (&costs.unmap, &record.unmap)] {
            if let Some(ns) = times.before {
                average.add(ns);
            }
        }
        engine.reserve(RESERVE).map_err(no_memory)?;
        let set_up = |memory| copying::set_up(&mut engine, memory, parameters);
        let pool = pool_memory.map(set_up).transpose()?;
        if parameters.mode == Mode::WholeRam {
            let result = engine.premap_ram();
            result.map_err(|error| format!("all of RAM at once: {}", error.as_str()))?;
        }
        let mut replay = Self {
            engine,
            pool,
            clock: Stopwatch::start(),
            before: BTreeMap::new(),
            mapped: HashMap::default(),
            first: Counters::default(),
            refusals: 0,
            unknown: 0,
        };
        let propose = |proposal| {
            *next.lock().unwrap_or_else(PoisonError::into_inner) = proposal;
        };
        for window in in_order(before) {
            let Some(span) = GpaSpan::new(Gpa::new(window.at.gpa), window.at.size) else {
                continue;
            };
            let block = blocks.iter().find(|block| block.covers(&span));
            propose(Some(Proposal {
                span,
                tile: is_tile(&span, block),
            }));
            replay.restore(window, span);
        }
        propose(None);
        replay
            .engine
            .with_host(|host| host.follow(&record.map, &record.unmap));
        replay.first = replay.counters();
        replay.clock = Stopwatch::start();
        Ok(replay)
    }

    /// Creates a window from before the recording.
    fn restore(&mut self, window: &Window, span: GpaSpan) {
        // The engine would try to align a single large buffer.
        let count = window.users.max(2);
        let entries: Vec<_> = (0..count).map(|_| Entry::new(span)).collect();
        if self.engine.map_all(entries.iter(), u64::MAX).is_err() {
            return;
        }
        if let Some(iova) = entries.first().and_then(|entry| entry.iova.get()) {
            self.before.insert(window.at.dma, (window.at.size, iova));
        }
        let more = entries.iter().skip(window.users as usize);
        // These were just mapped.
        let _ = self.engine.unmap_all(more);
    }

    /// Advances the time to `us` microseconds after the start, unless it is later already.
    pub fn advance_to(&mut self, us: u64) {
        let ns = us.saturating_mul(1000);
        pass_ns(ns.saturating_sub(self.clock.elapsed_ns()));
    }

    /// Maps all of `list` in one call, as a driver did; it may be copied if it has a direction.
    /// Returns whether that succeeded.
    pub fn map(&mut self, list: &[Mapping], copyable: Option<CopyDirection>) -> bool {
        let Some(entries) = entries(list) else {
            self.refusals += 1;
            return false;
        };
        let transfer = copyable.map(Into::into);
        let entries_iter = entries.iter();
        let result = match &self.pool {
            Some(pool) => self
                .engine
                .map_or_copy_all(entries_iter, pool, transfer, u64::MAX),
            None => self.engine.map_all(entries_iter, u64::MAX),
        };
        let done = result.is_ok();
        self.refusals += u64::from(!done);
        for (mapping, entry) in list.iter().zip(&entries) {
            let places = self.mapped.entry((mapping.dma, mapping.size)).or_default();
            places.push(entry.iova.get());
        }
        done
    }

    /// Unmaps all of `list` in one call, as a driver did.
    pub fn unmap(&mut self, list: &[Mapping]) {
        let mut entries = Vec::new();
        for mapping in list {
            let Some(span) = GpaSpan::new(Gpa::new(mapping.gpa), mapping.size) else {
                continue;
            };
            let places = self.mapped.get_mut(&(mapping.dma, mapping.size));
            let iova = match places.and_then(Places::pop) {
                Some(iova) => iova,
                None => {
                    let iova = self.place_before(mapping);
                    self.unknown += u64::from(iova.is_none());
                    iova
                }
            };
            entries.push(Entry {
                span,
                iova: Cell::new(iova),
            });
        }
        // Entries that are not mapped in the replay are skipped.
        let _ = match &self.pool {
            Some(pool) => self.engine.unmap_or_copy_all(entries.iter(), pool, true),
            None => self.engine.unmap_all(entries.iter()),
        };
    }

    /// Returns the IOVA in the replay of a mapping from before the recording.
    fn place_before(&self, mapping: &Mapping) -> Option<Iova> {
        let span = IovaSpan::new(Iova::new(mapping.dma), mapping.size)?;
        let (dma, (size, iova)) = self.before.range(..=mapping.dma).next_back()?;
        let offset = span.offset_in(*dma, *size)?;
        Some(Iova::new(iova.raw() + offset))
    }

    /// Maps what a driver could not map in the recording, and unmaps it at once.
    pub fn attempt(&mut self, gpa: u64, size: u64) {
        let mapping = Mapping { gpa, dma: 0, size };
        let Some(entries) = entries(&[mapping]) else {
            self.refusals += 1;
            return;
        };
        if self.engine.map_all(entries.iter(), u64::MAX).is_err() {
            self.refusals += 1;
        } else {
            // It was just mapped.
            let _ = self.engine.unmap_all(entries.iter());
        }
    }

    /// Advances the time by half of `max_idle`, the time that a window may be idle.
    pub fn tick(&mut self) {
        self.engine.age();
    }

    /// Returns the counters so far.
    pub fn counters(&self) -> Counters {
        let mut snapshot = Snapshot::new();
        self.engine.snapshot(&mut snapshot);
        let (stats, first) = (&snapshot.stats, &self.first);
        let copies = self
            .pool
            .as_ref()
            .map_or(CopyStats::default(), SlotPool::stats);
        Counters {
            maps: snapshot.maps() + copies.copies - first.maps,
            unmaps: snapshot.unmaps() + copies.ended - first.unmaps,
            copies: copies.copies,
            hits: snapshot.hits() - first.hits,
            misses: stats.counters.misses.get() - first.misses,
            windows_created: stats.counters.windows_created.get() - first.windows_created,
            windows_returned: stats.counters.windows_returned.get() - first.windows_returned,
            windows_aged: stats.counters.windows_aged.get() - first.windows_aged,
            windows_reclaimed: stats.counters.windows_reclaimed.get() - first.windows_reclaimed,
            doorbells: stats.counters.doorbells.get() - first.doorbells,
            refusals: self.refusals,
            bytes: stats.usage.bytes,
            peak_bytes: stats.usage.peak_bytes,
            entries: stats.usage.entries,
            peak_entries: stats.usage.peak_entries,
            unknown: self.unknown,
        }
    }
}

/// Returns the entries of a call; [`None`] if one of them is empty or wraps around.
fn entries(list: &[Mapping]) -> Option<Vec<Entry>> {
    let entry = |mapping: &Mapping| {
        let span = GpaSpan::new(Gpa::new(mapping.gpa), mapping.size);
        span.map(Entry::new)
    };
    list.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    const BASE: u64 = 0x4000_0000;

    fn parameters() -> Parameters {
        Parameters {
            mode: Mode::Lazy,
            window_shift: 18,
            max_bytes: 1280 << 20,
            max_entries: 61440,
            batch_max: 256,
            len_max: u64::from(u32::MAX),
            congruent: 1,
            copy: CopyMode::Never,
            copy_bytes: 4 << 20,
            ram: vec![(BASE, 64 << 20)],
        }
    }

    fn mapping(gpa: u64, dma: u64, size: u64) -> Mapping {
        Mapping {
            gpa: BASE + gpa,
            dma,
            size,
        }
    }

    #[test]
    fn a_repeated_mapping_hits() {
        let mut replay = Replay::new(&parameters(), &[], &HostRecord::default()).unwrap();
        for _ in 0..5 {
            assert!(replay.map(&[mapping(0x1000, 0x1000, 4096)], None));
            replay.unmap(&[mapping(0x1000, 0x1000, 4096)]);
        }
        let counters = replay.counters();
        assert_eq!((counters.maps, counters.unmaps), (5, 5));
        assert_eq!((counters.hits, counters.misses), (4, 1));
        assert_eq!(
            (counters.windows_created, counters.windows_returned),
            (1, 0)
        );
        assert_eq!((counters.bytes, counters.entries), (GRANULE, 1));
    }

    #[test]
    fn strict_mode_returns_windows() {
        let strict = Parameters {
            mode: Mode::Strict,
            ..parameters()
        };
        let mut replay = Replay::new(&strict, &[], &HostRecord::default()).unwrap();
        let list: Vec<_> = (0..4).map(|i| mapping(i << 14, i << 14, 4096)).collect();
        assert!(replay.map(&list, None));
        replay.unmap(&list);
        let counters = replay.counters();
        assert_eq!(
            (counters.windows_created, counters.windows_returned),
            (4, 4)
        );
        assert_eq!((counters.entries, counters.peak_entries), (0, 4));
    }

    #[test]
    fn failed_maps_are_not_unmapped() {
        let tight = Parameters {
            max_entries: 16,
            ..parameters()
        };
        let mut replay = Replay::new(&tight, &[], &HostRecord::default()).unwrap();
        let all: Vec<_> = (0..20).map(|i| mapping(i << 20, i << 20, 4096)).collect();
        let done = all.iter().filter(|one| replay.map(&[**one], None)).count();
        // One is the marker.
        assert_eq!(done, 15);
        for one in &all {
            replay.unmap(&[*one]);
        }
        let counters = replay.counters();
        assert_eq!(
            (counters.refusals, counters.maps, counters.unmaps),
            (5, 15, 15)
        );
        assert_eq!(counters.unknown, 0);
    }

    #[test]
    fn earlier_windows_serve_and_are_not_counted() {
        let window = |users| Window {
            at: mapping(0, 0x10_0000, 0x4_0000),
            users,
        };
        let mut replay = Replay::new(&parameters(), &[window(0)], &HostRecord::default()).unwrap();
        assert!(replay.map(&[mapping(0x8000, 0x10_8000, 4096)], None));
        let counters = replay.counters();
        assert_eq!(
            (counters.hits, counters.misses, counters.windows_created),
            (1, 0, 0)
        );
        assert_eq!(counters.bytes, 0x4_0000);

        // Mappings from before the recording can be unmapped.
        let mut replay = Replay::new(&parameters(), &[window(2)], &HostRecord::default()).unwrap();
        for _ in 0..3 {
            replay.unmap(&[mapping(0x8000, 0x10_8000, 4096)]);
        }
        assert_eq!(replay.counters().unmaps, 2);
        replay.unmap(&[mapping(0x8000, 0x90_8000, 4096)]);
        assert_eq!(replay.counters().unknown, 1);
    }

    #[test]
    fn earlier_windows_need_no_alignment() {
        let window = Window {
            at: mapping(0, 0x1234_4000, 0x2_0000),
            users: 1,
        };
        let replay = Replay::new(&parameters(), &[window], &HostRecord::default()).unwrap();
        let counters = replay.counters();
        assert_eq!((counters.entries, counters.bytes), (1, 0x2_0000));
    }

    #[test]
    fn windows_within_another_are_created_first() {
        let window = |gpa, size| Window {
            at: mapping(gpa, gpa, size),
            users: 0,
        };
        let windows = [
            window(0x8_0000, 0x4000),
            window(0, 0x4_0000),
            window(0x1_0000, 0x4000),
            window(0x1_0000, 0x8000),
            window(0x4000, 0x4000),
            // These overlap it only in part.
            window(0x3_c000, 0x8000),
            window(0x3_c000 + 0x1000, 0x1000),
        ];
        let order: Vec<_> = in_order(&windows).iter().map(|window| window.at).collect();
        assert_eq!(order, [0, 2, 3, 4, 6, 1, 5].map(|index| windows[index].at));
        let replay = Replay::new(&parameters(), &windows, &HostRecord::default()).unwrap();
        assert_eq!(replay.counters().entries, 7);
        assert_eq!(replay.counters().windows_created, 0);
    }

    #[test]
    fn windows_get_their_recorded_addresses() {
        let created = [
            mapping(0, 0xab_c000, GRANULE),
            mapping(0, 0x12_0000, GRANULE),
        ];
        let strict = Parameters {
            mode: Mode::Strict,
            ..parameters()
        };
        let record = HostRecord {
            created: created.to_vec(),
            ..HostRecord::default()
        };
        let mut replay = Replay::new(&strict, &[], &record).unwrap();
        for window in created {
            assert!(replay.map(&[mapping(0x800, window.dma + 0x800, 512)], None));
            let places = &replay.mapped[&(window.dma + 0x800, 512)];
            assert_eq!(places.last(), Some(Some(Iova::new(window.dma + 0x800))));
            replay.unmap(&[mapping(0x800, window.dma + 0x800, 512)]);
        }
    }

    #[test]
    fn places_are_returned_last_one_first() {
        let mut places = Places::default();
        let iova = |raw| Some(Iova::new(raw));
        for place in [iova(1), None, iova(3)] {
            places.push(place);
        }
        for expected in [Some(iova(3)), Some(None), Some(iova(1)), None, None] {
            assert_eq!(places.pop(), expected);
        }
    }

    #[test]
    fn addresses_have_different_hashes() {
        let hash = |key: (u64, u64)| BuildHasherDefault::<AddressHasher>::default().hash_one(key);
        let mut low = vec![0; 256];
        for page in 0..4096 {
            low[hash((0x8001_0000_0000 + page * 4096, 4096)) as usize % 256] += 1;
        }
        // Sixteen on average.
        assert!(low.iter().all(|count| (1..64).contains(count)), "{low:?}");
    }

    #[test]
    fn idle_windows_age() {
        let mut replay = Replay::new(&parameters(), &[], &HostRecord::default()).unwrap();
        assert!(replay.map(&[mapping(0, 0, 4096)], None));
        replay.unmap(&[mapping(0, 0, 4096)]);
        replay.tick();
        assert_eq!(replay.counters().windows_returned, 0);
        replay.tick();
        assert_eq!(replay.counters().windows_aged, 1);
    }

    #[test]
    fn a_static_map_needs_no_windows_if_it_fits() {
        let whole = Parameters {
            mode: Mode::WholeRam,
            ..parameters()
        };
        let mut replay = Replay::new(&whole, &[], &HostRecord::default()).unwrap();
        assert!(replay.map(&[mapping(0x1000, 0, 4096)], None));
        assert_eq!(replay.counters().misses, 0);
        let small = Parameters {
            max_bytes: 1 << 20,
            ..whole
        };
        let error = Replay::new(&small, &[], &HostRecord::default())
            .err()
            .unwrap();
        assert!(error.contains("max_bytes"), "{error}");
    }

    #[test]
    fn what_may_be_copied_is() {
        let copied = |mode, copy, direction| {
            let parameters = Parameters {
                mode,
                copy,
                ..parameters()
            };
            let record = HostRecord {
                created: Vec::new(),
                map: EntryTimes {
                    before: Some(1_000_000),
                    batches: vec![1_000_000],
                },
                unmap: EntryTimes::default(),
            };
            let mut replay = Replay::new(&parameters, &[], &record).unwrap();
            for i in 0..100 {
                replay.advance_to(i * 1000);
                let one = [mapping(i << 16, i << 16, 4096)];
                assert!(replay.map(&one, direction));
                replay.unmap(&one);
            }
            let counters = replay.counters();
            assert_eq!((counters.unknown, counters.refusals), (0, 0));
            // A static map counts nothing.
            if mode != Mode::WholeRam {
                assert_eq!((counters.maps, counters.unmaps), (100, 100));
                assert_eq!(counters.copies + counters.hits + counters.misses, 100);
            }
            (counters.copies, counters.windows_created)
        };
        let from = Some(CopyDirection::FromDevice);
        for (mode, copy) in [
            (Mode::Lazy, CopyMode::Auto),
            (Mode::Lazy, CopyMode::Always),
            (Mode::Strict, CopyMode::Auto),
        ] {
            assert_eq!(copied(mode, copy, from), (100, 0), "{mode:?} {copy:?}");
            let (copies, windows) = copied(mode, copy, None);
            assert!(copies == 0 && windows > 0, "{mode:?} {copy:?}");
        }
        assert_eq!(copied(Mode::Strict, CopyMode::Never, from), (0, 100));
        // Nothing has to be made.
        assert_eq!(copied(Mode::WholeRam, CopyMode::Always, from), (0, 0));
    }

    #[test]
    fn what_is_hot_gets_windows() {
        let auto = Parameters {
            copy: CopyMode::Auto,
            ..parameters()
        };
        let record = HostRecord {
            created: Vec::new(),
            map: EntryTimes {
                before: Some(10_000),
                batches: vec![10_000],
            },
            unmap: EntryTimes::default(),
        };
        let mut replay = Replay::new(&auto, &[], &record).unwrap();
        for i in 0..10_000 {
            replay.advance_to(i * 100);
            let one = [mapping(i % 16 * 4096, i % 16 * 4096, 4096)];
            assert!(replay.map(&one, Some(CopyDirection::ToDevice)));
            replay.unmap(&one);
        }
        let counters = replay.counters();
        assert!(
            counters.copies > 0 && counters.copies < 1000,
            "{counters:?}"
        );
        assert!(counters.hits > 9000, "{counters:?}");
    }

    #[test]
    fn a_pool_that_does_not_fit_is_an_error() {
        let tight = Parameters {
            copy: CopyMode::Always,
            max_bytes: 1 << 20,
            ..parameters()
        };
        let error = Replay::new(&tight, &[], &HostRecord::default())
            .err()
            .unwrap();
        assert!(error.contains("copy pool"), "{error}");
    }

    /// Checks that the engine batches as it does with a host that takes as long.
    #[test]
    fn the_recorded_times_size_batches() {
        let tight = Parameters {
            max_entries: 16,
            ram: vec![(BASE, 1 << 30)],
            ..parameters()
        };
        let doorbells = |unmap_ns: &[u64]| {
            let times = |batches: &[u64]| EntryTimes {
                before: Some(1000),
                batches: batches.to_vec(),
            };
            let record = HostRecord {
                created: Vec::new(),
                map: times(&[]),
                unmap: times(unmap_ns),
            };
            let mut replay = Replay::new(&tight, &[], &record).unwrap();
            for i in 0..400 {
                let one = [mapping(i << 20, i << 20, 4096)];
                assert!(replay.map(&one, None));
                replay.unmap(&one);
            }
            replay.counters().doorbells
        };
        // All idle windows at once, from the first time on, and one at a time.
        let quick = doorbells(&[1000]);
        let slow = doorbells(&[20_000_000]);
        assert!(quick < 450, "{quick}");
        assert!(slow > 700, "{slow}");
    }
}
