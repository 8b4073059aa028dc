// SPDX-License-Identifier: GPL-2.0

//! A host that grants every request. A mapping gets the IOVA that it has in the recording, if that
//! is known and free, and otherwise one behind all recorded IOVAs. Entries of a batch take as long
//! as those of a recorded batch, since the engine sizes its batches by that.

use crate::addr::{
    Address,
    GpaSpan,
    Iova,
    GRANULE, //
};
use crate::engine::{
    Host,
    MapEntry,
    MapOutcome,
    UnmapEntry,
    UnmapOutcome, //
};
use crate::replay::EntryTimes;
use crate::sys::pass_ns;
use std::collections::{
    BTreeMap,
    HashMap,
    VecDeque, //
};

/// Recorded IOVAs by the first address and the length of the mapped memory, oldest first.
pub(crate) type Addresses = HashMap<(u64, u64), VecDeque<u64>>;

/// The host; see the module's documentation.
pub(crate) struct ReplayHost {
    batch_max: usize,
    len_max: u64,
    known: Addresses,
    /// The mapped IOVAs: the first granule of each mapping to the one behind its last.
    used: BTreeMap<u64, u64>,
    /// The first granule of the IOVAs of each key.
    keys: HashMap<u64, u64>,
    /// The first granule behind all recorded and allocated IOVAs.
    next: u64,
    map_times: Times,
    unmap_times: Times,
}

/// The times of an entry in the batches of one command.
struct Times {
    /// Nanoseconds of those that were recorded, next one first.
    recorded: VecDeque<u64>,
    /// The average, for batches beyond those.
    average: u64,
}

impl Times {
    fn new(average: Option<u64>) -> Self {
        Self {
            recorded: VecDeque::new(),
            average: average.unwrap_or(0),
        }
    }

    fn follow(&mut self, times: &EntryTimes) {
        self.recorded = times.batches.iter().copied().collect();
        let sum: u128 = self.recorded.iter().map(|ns| u128::from(*ns)).sum();
        let average = sum.checked_div(self.recorded.len() as u128);
        // CAST: an average of `u64`.
        self.average = average.map_or(self.average, |ns| ns as u64);
    }

    /// Lets the time of the next batch pass, which has `entries`.
    fn pass(&mut self, entries: usize) {
        let each = self.recorded.pop_front().unwrap_or(self.average);
        pass_ns(each.saturating_mul(entries as u64));
    }
}

impl ReplayHost {
    pub(crate) fn new(
        batch_max: usize,
        len_max: u64,
        known: Addresses,
        [map_ns, unmap_ns]: [Option<u64>; 2],
    ) -> Self {
        let ends = known.iter().flat_map(|((_, len), addresses)| {
            let end = |iova: &u64| iova.saturating_add(*len).div_ceil(GRANULE);
            addresses.iter().map(end)
        });
        let next = ends.max().unwrap_or(1);
        Self {
            batch_max,
            len_max,
            known,
            used: BTreeMap::new(),
            keys: HashMap::new(),
            next,
            map_times: Times::new(map_ns),
            unmap_times: Times::new(unmap_ns),
        }
    }

    /// Makes the next batches as slow as those that were recorded.
    pub(crate) fn follow(&mut self, map: &EntryTimes, unmap: &EntryTimes) {
        self.map_times.follow(map);
        self.unmap_times.follow(unmap);
    }

    /// Returns whether anything is mapped in these granules.
    fn is_used(&self, first: u64, end: u64) -> bool {
        let before = self.used.range(..end).next_back();
        before.is_some_and(|(_, used)| *used > first)
    }

    fn map_one(&mut self, span: &GpaSpan) -> Iova {
        let key = span.start().raw();
        let granules = span.granules();
        let known = self.known.get_mut(&(key, span.len()));
        let known = known.and_then(VecDeque::pop_front);
        let first = known
            .map(|iova| iova / GRANULE)
            .filter(|first| !self.is_used(*first, first + granules))
            .unwrap_or_else(|| {
                let first = self.next;
                self.next += granules;
                first
            });
        self.used.insert(first, first + granules);
        self.keys.insert(key, first);
        Iova::new(first * GRANULE + key % GRANULE)
    }
}

impl Host for ReplayHost {
    fn batch_max(&self) -> usize {
        self.batch_max
    }

    fn len_max(&self) -> u64 {
        self.len_max
    }

    fn is_ready(&mut self) -> bool {
        true
    }

    fn map(&mut self, batch: &mut [MapEntry]) {
        self.map_times.pass(batch.len());
        for entry in batch {
            entry.outcome = MapOutcome::Mapped(self.map_one(&entry.span));
        }
    }

    fn unmap(&mut self, batch: &mut [UnmapEntry]) {
        self.unmap_times.pass(batch.len());
        for entry in batch {
            if let Some(first) = self.keys.remove(&entry.span.start().raw()) {
                self.used.remove(&first);
            }
            entry.outcome = UnmapOutcome::Unmapped;
        }
    }
}
