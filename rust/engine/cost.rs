// SPDX-License-Identifier: GPL-2.0

//! The time that the host takes for an entry of a batch, as measured, and what follows from it: how
//! many entries a batch may have.
//!
//! Every request to the host is made with interrupts off, and the host takes its time for each
//! entry. So the slower it is, the shorter the batches are; see [`BATCH_NS`].

use super::batch::Batch;
use super::host::{
    Host,
    MapEntry,
    MapOutcome,
    UnmapEntry,
    UnmapOutcome, //
};
use super::Locked;
use crate::sys::{
    Atomic,
    Relaxed,
    Stopwatch, //
};

/// The longest time in nanoseconds that a batch may take, unless it has one entry only: interrupts
/// are off meanwhile. Long enough that the cost of a doorbell itself does not matter, and short of
/// what users and watchdogs notice.
pub(crate) const BATCH_NS: u64 = 10_000_000;

/// The most keys of the first batch of the search, before anything is known of the host.
pub(super) const FIRST_SEARCH: usize = 8;

/// Bits of the fraction of an [`Average`].
const FRACTION: u32 = 4;

/// The value of an [`Average`] of nothing.
const UNKNOWN: u64 = u64::MAX;

/// The most nanoseconds that count of one sample.
const SAMPLE_MAX: u64 = 1 << 40;

/// The most that a sample counts, as a multiple of the average: a host that stood still once is not
/// slow.
const OUTLIER: u64 = 16;

/// The average that outliers are told by at least, in nanoseconds, so that one of nothing can grow.
const LEAST: u64 = 10_000;

/// A moving average of times, which follows a longer time at once, and shorter ones slowly.
///
/// Changes are made by one CPU at a time; any may read.
pub(crate) struct Average(Atomic<u64>);

impl Average {
    /// Creates the average of nothing.
    pub(crate) fn new() -> Self {
        Self(Atomic::new(UNKNOWN))
    }

    /// Returns the average in nanoseconds, if there is any.
    ///
    /// Context: any.
    pub(crate) fn get(&self) -> Option<u64> {
        match self.0.load(Relaxed) {
            UNKNOWN => None,
            scaled => Some(scaled >> FRACTION),
        }
    }

    /// Adds a time of `ns` nanoseconds.
    ///
    /// Context: any.
    pub(crate) fn add(&self, ns: u64) {
        let sample = ns.min(SAMPLE_MAX) << FRACTION;
        let old = self.0.load(Relaxed);
        let new = if old == UNKNOWN {
            sample
        } else if sample > old {
            let most = old.max(LEAST << FRACTION).saturating_mul(OUTLIER);
            let more = sample.min(most).saturating_sub(old);
            old.saturating_add(more.div_ceil(2))
        } else {
            old.saturating_sub(old.saturating_sub(sample).div_ceil(8))
        };
        self.0.store(new, Relaxed);
    }
}

/// The average times that the host takes for one entry.
pub(crate) struct EntryCosts {
    /// The time to map a window.
    pub(crate) map: Average,
    /// The time to unmap a window.
    pub(crate) unmap: Average,
    search: Average,
}

/// The price of a window: the time in nanoseconds that the host takes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Price {
    /// The time to map a window.
    pub(crate) map_ns: u64,
    /// The time to unmap a window.
    pub(crate) unmap_ns: u64,
}

impl Price {
    /// Returns the time for a window that comes and goes.
    pub(crate) fn both(self) -> u64 {
        self.map_ns.saturating_add(self.unmap_ns)
    }
}

impl EntryCosts {
    /// Creates the costs of a host that is not known yet.
    pub(super) fn new() -> Self {
        Self {
            map: Average::new(),
            unmap: Average::new(),
            search: Average::new(),
        }
    }

    /// Returns names and values of all costs that are known, in nanoseconds.
    ///
    /// Context: any.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("map_entry_ns", self.map.get()),
            ("unmap_entry_ns", self.unmap.get()),
            ("search_entry_ns", self.search.get()),
        ]
        .into_iter()
        .filter_map(|(name, ns)| Some((name, ns?)))
    }

    /// Returns the price of a window, if the host has mapped any yet.
    ///
    /// Context: any.
    pub(crate) fn price(&self) -> Option<Price> {
        let map_ns = self.map.get()?;
        Some(Price {
            map_ns,
            unmap_ns: self.unmap.get().unwrap_or(map_ns),
        })
    }

    /// Returns the most entries of a batch of `command`; those that are dearest as long as its own
    /// cost is not known.
    fn limit(&self, command: &Average) -> usize {
        let others = [&self.map, &self.unmap, &self.search];
        let ns = command
            .get()
            .or_else(|| others.into_iter().filter_map(Average::get).max());
        let limit = ns.and_then(|ns| BATCH_NS.checked_div(ns));
        limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        })
    }
}

impl<T: Copy> Batch<T> {
    /// Calls `send` for the entries, and adds the time of each to `average`, if all have a reply.
    fn time(
        &mut self,
        average: &Average,
        send: impl FnOnce(&mut [T]),
        has_reply: impl Fn(&T) -> bool,
    ) {
        let time = Stopwatch::start();
        send(self.filled_mut());
        let ns = time.elapsed_ns();
        // CAST: `usize` has at most 64 bits.
        let each = ns.checked_div(self.len as u64);
        if let Some(each) = each.filter(|_| self.filled().iter().all(has_reply)) {
            average.add(each);
        }
    }
}

impl<H: Host> Locked<H> {
    /// Has the host map the batch of new windows, with one doorbell.
    pub(super) fn send_map(&mut self, costs: &EntryCosts) {
        self.counters.doorbells.inc();
        let host = &mut self.host;
        self.map.time(
            &costs.map,
            |batch| host.map(batch),
            |entry: &MapEntry| entry.outcome != MapOutcome::Unknown,
        );
        self.limit_batches(costs);
    }

    /// Has the host unmap the batch of windows, with one doorbell.
    pub(super) fn send_unmap(&mut self, costs: &EntryCosts) {
        self.send_unmap_at(costs, &costs.unmap);
    }

    /// Has the host unmap the batch of keys that no window has, with one doorbell.
    pub(super) fn send_search(&mut self, costs: &EntryCosts) {
        self.send_unmap_at(costs, &costs.search);
    }

    fn send_unmap_at(&mut self, costs: &EntryCosts, average: &Average) {
        self.counters.doorbells.inc();
        let host = &mut self.host;
        self.unmap.time(
            average,
            |batch| host.unmap(batch),
            |entry: &UnmapEntry| entry.outcome != UnmapOutcome::Unknown,
        );
        self.limit_batches(costs);
    }

    /// Returns the most entries of a batch of keys that no window has.
    pub(super) fn search_limit(&self) -> usize {
        self.suspects.limit()
    }

    /// Limits the entries of the next batches by what the host takes for one.
    fn limit_batches(&mut self, costs: &EntryCosts) {
        self.map.set_limit(costs.limit(&costs.map));
        self.unmap.set_limit(costs.limit(&costs.unmap));
        self.suspects.set_limit(costs.limit(&costs.search));
    }
}
