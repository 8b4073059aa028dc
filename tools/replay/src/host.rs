// SPDX-License-Identifier: GPL-2.0

//! A host that obliges: it maps whatever it is asked for. Where a recording says at what address
//! the real one put a mapping it is put there, elsewhere behind all of these.

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

/// Addresses by the first address and the bytes of what is mapped, in the order of time.
pub(crate) type Addresses = HashMap<(u64, u64), VecDeque<u64>>;

/// See the module's documentation.
pub(crate) struct Obliging {
    batch_max: usize,
    len_max: u64,
    known: Addresses,
    /// What is mapped: the first granule of the addresses to the one behind the last.
    used: BTreeMap<u64, u64>,
    /// Where each key is mapped.
    keys: HashMap<u64, u64>,
    /// The first granule that nothing known is at.
    next: u64,
}

impl Obliging {
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

    /// Whether anything is mapped in these granules.
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

impl Host for Obliging {
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
