// SPDX-License-Identifier: GPL-2.0

//! What a guest's drivers mapped and gave up, once more, with parameters of choice.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan,
    GRANULE,
    GRANULE_SHIFT, //
};
use crate::engine::{
    Config,
    Engine,
    Request,
    Snapshot, //
};
use crate::engine::policy::{
    Adaptive,
    Policy,
    Proposal,
    View, //
};
use crate::engine::ram::Ram;
use crate::host::{
    Addresses,
    Obliging, //
};
use crate::sys::{
    Alloc,
    BoxedSlice, //
};
use std::{
    cell::Cell,
    cmp::Reverse,
    collections::HashMap,
    sync::{
        Arc,
        Mutex,
        PoisonError, //
    },
};

/// Most granules of RAM in a flat table, as in the module.
const TABLE_MAX: usize = 1 << 24;

/// Windows that there is memory for from the beginning.
const RESERVE: usize = 16;

/// How memory is mapped; as in the module's file `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By windows, which stay for a while when they are idle.
    Lazy,
    /// By windows, which are given back when they are idle.
    Strict,
    /// All of RAM at once.
    StaticMap,
}

/// What the module is loaded with, and what it finds.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// How memory is mapped.
    pub mode: Mode,
    /// log2 of the bytes that windows grow to; nothing to `Mode::Strict`, where they do not.
    pub window_shift: u32,
    /// Most bytes to have mapped at a time.
    pub max_bytes: u64,
    /// Most mappings to have at a time.
    pub max_entries: u32,
    /// Most entries of a doorbell.
    pub batch_max: usize,
    /// Most bytes of a mapping.
    pub len_max: u64,
    /// Whether addresses of large pages are to be aligned.
    pub congruent: bool,
    /// First addresses and bytes of the blocks of guest RAM.
    pub ram: Vec<(u64, u64)>,
}

/// A mapping of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Guest-physical address.
    pub gpa: u64,
    /// The DMA address that it had.
    pub dma: u64,
    /// Bytes.
    pub size: u64,
}

/// A window that the host made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// What it covers, and where.
    pub at: Mapping,
    /// Mappings of drivers that use it.
    pub users: u32,
}

/// What happened, by the names of the module's file `counters`, and what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub maps: u64,
    pub unmaps: u64,
    pub hits: u64,
    pub misses: u64,
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
    /// What was given up, but not mapped while it was recorded, nor before as far as is known.
    pub unknown: u64,
}

/// The module's policy, or what is to be instead, once.
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
        // A tile was there before all else that is in it.
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

/// Whether `span` is one of the windows that tile `block`.
fn is_tile(span: &GpaSpan, block: Option<&GpaSpan>) -> bool {
    let Some(size) = span.len().max(GRANULE).checked_next_power_of_two() else {
        return false;
    };
    let tile = span.round_out(size).filter(|tile| tile.len() == size);
    let tile = tile.and_then(|tile| tile.intersection(block?));
    tile == Some(*span)
}

/// `windows` in an order in which each can be made: what lies within another one was there first,
/// else the other would serve it. Beyond that in the order that they have, which mostly is that of
/// time.
fn in_order(windows: &[Window]) -> Vec<&Window> {
    let end = |index: usize| windows[index].at.gpa.saturating_add(windows[index].at.size);
    let mut by_start: Vec<usize> = (0..windows.len()).collect();
    by_start.sort_by_key(|index| windows[*index].at.gpa);
    let start = |index: usize| windows[index].at.gpa;
    // Those that lie within a window, the first one last, to be taken from the end.
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
    let mut is_seen = vec![false; windows.len()];
    let mut order = Vec::new();
    for index in 0..windows.len() {
        let mut left = vec![(index, false)];
        while let Some((index, is_due)) = left.pop() {
            if is_due {
                order.push(&windows[index]);
            } else if !is_seen[index] {
                is_seen[index] = true;
                left.push((index, true));
                left.extend(within(index).into_iter().map(|other| (other, false)));
            }
        }
    }
    order
}

/// See the module's documentation.
pub struct Replay {
    engine: Engine<Obliging, Scripted>,
    /// Windows that there were before, with where they are now.
    before: Vec<(Mapping, Iova)>,
    /// Where what is mapped at an address, in so many bytes, is now; nowhere if that failed.
    mapped: HashMap<(u64, u64), Vec<Option<Iova>>>,
    /// What is none of the drivers' doing.
    first: Counters,
    refusals: u64,
    unknown: u64,
}

impl Replay {
    /// Sets up an engine that has the windows of `before`. The host puts mappings where the real
    /// one put those of `created`, in their order. Says what is wrong with `parameters`.
    pub fn new(
        parameters: &Parameters,
        before: &[Window],
        created: &[Mapping],
    ) -> Result<Self, String> {
        let mut blocks: Vec<GpaSpan> = Vec::new();
        for (start, len) in &parameters.ram {
            let block = GpaSpan::new(Gpa::new(*start), *len);
            let block =
                block.filter(|new| blocks.last().is_none_or(|b| b.end() <= new.start().raw()));
            blocks
                .push(block.ok_or_else(|| format!("no block of RAM: {len} bytes at {start:#x}"))?);
        }
        let mut known = Addresses::new();
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
        let ram =
            BoxedSlice::new(blocks.len(), Alloc::Sleep, |index| blocks[index]).map_err(no_memory)?;
        let config = Config {
            strict,
            max_bytes: parameters.max_bytes,
            max_entries: parameters.max_entries,
            ram: Ram::new(ram),
            congruent: parameters.congruent,
            table_max: TABLE_MAX,
        };
        let host = Obliging::new(parameters.batch_max.max(1), parameters.len_max, known);
        let mut engine = Engine::new(host, policy, (), config).map_err(no_memory)?;
        engine.reserve(RESERVE).map_err(no_memory)?;
        if parameters.mode == Mode::StaticMap {
            let whole = engine.map_whole();
            whole.map_err(|error| format!("all of RAM at once: {}", error.as_str()))?;
        }
        let mut replay = Self {
            engine,
            before: Vec::new(),
            mapped: HashMap::new(),
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
        replay.first = replay.counters();
        Ok(replay)
    }

    /// Makes a window that there was before.
    fn restore(&mut self, window: &Window, span: GpaSpan) {
        // A single large buffer would be aimed at an aligned address.
        let count = window.users.max(2);
        let entries: Vec<_> = (0..count).map(|_| Entry::new(span)).collect();
        if self.engine.map_all(entries.iter(), u64::MAX).is_err() {
            return;
        }
        if let Some(iova) = entries.first().and_then(|entry| entry.iova.get()) {
            self.before.push((window.at, iova));
        }
        let more = entries.iter().skip(window.users as usize);
        // These were just mapped.
        let _ = self.engine.unmap_all(more);
    }

    /// A driver maps all of `list`, which is one call; says whether it can.
    pub fn map(&mut self, list: &[Mapping]) -> bool {
        let Some(entries) = entries(list) else {
            self.refusals += 1;
            return false;
        };
        let done = self.engine.map_all(entries.iter(), u64::MAX).is_ok();
        self.refusals += u64::from(!done);
        for (mapping, entry) in list.iter().zip(&entries) {
            let places = self.mapped.entry((mapping.dma, mapping.size)).or_default();
            places.push(entry.iova.get());
        }
        done
    }

    /// A driver gives up all of `list`, which is one call.
    pub fn unmap(&mut self, list: &[Mapping]) {
        let mut entries = Vec::new();
        for mapping in list {
            let Some(span) = GpaSpan::new(Gpa::new(mapping.gpa), mapping.size) else {
                continue;
            };
            let places = self.mapped.get_mut(&(mapping.dma, mapping.size));
            let iova = match places.and_then(Vec::pop) {
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
        // What was not mapped here is not given up.
        let _ = self.engine.unmap_all(entries.iter());
    }

    /// Where what a driver mapped before is now.
    fn place_before(&self, mapping: &Mapping) -> Option<Iova> {
        let span = IovaSpan::new(Iova::new(mapping.dma), mapping.size)?;
        self.before.iter().find_map(|(window, iova)| {
            let offset = span.offset_in(window.dma, window.size)?;
            Some(Iova::new(iova.raw() + offset))
        })
    }

    /// A driver wants what it did not get.
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

    /// Time goes by: half of what a window may be idle.
    pub fn tick(&mut self) {
        self.engine.age();
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        let mut snapshot = Snapshot::new();
        self.engine.snapshot(&mut snapshot);
        let (stats, first) = (&snapshot.stats, &self.first);
        Counters {
            maps: snapshot.maps() - first.maps,
            unmaps: snapshot.unmaps() - first.unmaps,
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

/// The entries of a call; nothing if one of them cannot be.
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

    const BASE: u64 = 0x4000_0000;

    fn parameters() -> Parameters {
        Parameters {
            mode: Mode::Lazy,
            window_shift: 18,
            max_bytes: 1280 << 20,
            max_entries: 61440,
            batch_max: 256,
            len_max: u64::from(u32::MAX),
            congruent: true,
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
    fn what_is_mapped_again_hits() {
        let mut replay = Replay::new(&parameters(), &[], &[]).unwrap();
        for _ in 0..5 {
            assert!(replay.map(&[mapping(0x1000, 0x1000, 4096)]));
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
        let mut replay = Replay::new(&strict, &[], &[]).unwrap();
        let list: Vec<_> = (0..4).map(|i| mapping(i << 14, i << 14, 4096)).collect();
        assert!(replay.map(&list));
        replay.unmap(&list);
        let counters = replay.counters();
        assert_eq!(
            (counters.windows_created, counters.windows_returned),
            (4, 4)
        );
        assert_eq!((counters.entries, counters.peak_entries), (0, 4));
    }

    #[test]
    fn limits_refuse_and_what_was_refused_is_not_given_up() {
        let tight = Parameters {
            max_entries: 16,
            ..parameters()
        };
        let mut replay = Replay::new(&tight, &[], &[]).unwrap();
        let all: Vec<_> = (0..20).map(|i| mapping(i << 20, i << 20, 4096)).collect();
        let done = all.iter().filter(|one| replay.map(&[**one])).count();
        assert_eq!(done, 16);
        for one in &all {
            replay.unmap(&[*one]);
        }
        let counters = replay.counters();
        assert_eq!(
            (counters.refusals, counters.maps, counters.unmaps),
            (4, 16, 16)
        );
        assert_eq!(counters.unknown, 0);
    }

    #[test]
    fn windows_of_before_serve_and_are_not_counted() {
        let window = |users| Window {
            at: mapping(0, 0x10_0000, 0x4_0000),
            users,
        };
        let mut replay = Replay::new(&parameters(), &[window(0)], &[]).unwrap();
        assert!(replay.map(&[mapping(0x8000, 0x10_8000, 4096)]));
        let counters = replay.counters();
        assert_eq!(
            (counters.hits, counters.misses, counters.windows_created),
            (1, 0, 0)
        );
        assert_eq!(counters.bytes, 0x4_0000);

        // What a driver had mapped before may be given up.
        let mut replay = Replay::new(&parameters(), &[window(2)], &[]).unwrap();
        for _ in 0..3 {
            replay.unmap(&[mapping(0x8000, 0x10_8000, 4096)]);
        }
        assert_eq!(replay.counters().unmaps, 2);
        replay.unmap(&[mapping(0x8000, 0x90_8000, 4096)]);
        assert_eq!(replay.counters().unknown, 1);
    }

    #[test]
    fn windows_of_before_need_no_aligned_address() {
        let window = Window {
            at: mapping(0, 0x1234_4000, 0x2_0000),
            users: 1,
        };
        let replay = Replay::new(&parameters(), &[window], &[]).unwrap();
        let counters = replay.counters();
        assert_eq!((counters.entries, counters.bytes), (1, 0x2_0000));
    }

    #[test]
    fn what_is_within_another_window_was_there_first() {
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
            // In part.
            window(0x3_c000, 0x8000),
            window(0x3_c000 + 0x1000, 0x1000),
        ];
        let order: Vec<_> = in_order(&windows).iter().map(|window| window.at).collect();
        assert_eq!(order, [0, 2, 3, 4, 6, 1, 5].map(|index| windows[index].at));
        let replay = Replay::new(&parameters(), &windows, &[]).unwrap();
        assert_eq!(replay.counters().entries, 7);
        assert_eq!(replay.counters().windows_created, 0);
    }

    #[test]
    fn windows_are_where_they_were() {
        let created = [
            mapping(0, 0xab_c000, GRANULE),
            mapping(0, 0x12_0000, GRANULE),
        ];
        let strict = Parameters {
            mode: Mode::Strict,
            ..parameters()
        };
        let mut replay = Replay::new(&strict, &[], &created).unwrap();
        for window in created {
            assert!(replay.map(&[mapping(0x800, window.dma + 0x800, 512)]));
            let places = &replay.mapped[&(window.dma + 0x800, 512)];
            assert_eq!(places.last(), Some(&Some(Iova::new(window.dma + 0x800))));
            replay.unmap(&[mapping(0x800, window.dma + 0x800, 512)]);
        }
    }

    #[test]
    fn idle_windows_age() {
        let mut replay = Replay::new(&parameters(), &[], &[]).unwrap();
        assert!(replay.map(&[mapping(0, 0, 4096)]));
        replay.unmap(&[mapping(0, 0, 4096)]);
        replay.tick();
        assert_eq!(replay.counters().windows_returned, 0);
        replay.tick();
        assert_eq!(replay.counters().windows_aged, 1);
    }

    #[test]
    fn whole_ram_needs_no_windows_if_it_fits() {
        let whole = Parameters {
            mode: Mode::StaticMap,
            ..parameters()
        };
        let mut replay = Replay::new(&whole, &[], &[]).unwrap();
        assert!(replay.map(&[mapping(0x1000, 0, 4096)]));
        assert_eq!(replay.counters().misses, 0);
        let small = Parameters {
            max_bytes: 1 << 20,
            ..whole
        };
        let error = Replay::new(&small, &[], &[]).err().unwrap();
        assert!(error.contains("max_bytes"), "{error}");
    }
}
