// SPDX-License-Identifier: GPL-2.0

//! A host that grants every request. A mapping gets the IOVA that it has in the recording, if that
//! is known and free, and otherwise one behind all recorded IOVAs.

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
}

impl ReplayHost {
    pub(crate) fn new(batch_max: usize, len_max: u64, known: Addresses) -> Self {
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
        }
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
        for entry in batch {
            entry.outcome = MapOutcome::Mapped(self.map_one(&entry.span));
        }
    }

    fn unmap(&mut self, batch: &mut [UnmapEntry]) {
        for entry in batch {
            if let Some(first) = self.keys.remove(&entry.span.start().raw()) {
                self.used.remove(&first);
            }
            entry.outcome = UnmapOutcome::Unmapped;
        }
    }
}
