// SPDX-License-Identifier: GPL-2.0

//! Counting doorbells: how many, of how many entries, for how long. Pure code, any context.

use crate::engine::Command;
use crate::host::wire::BatchStatus;

/// How often something had a size, by powers of two.
pub(crate) type Histogram<const N: usize> = [u32; N];

/// Powers of two of a batch's entries.
const ENTRIES: usize = 10;

/// Powers of two of nanoseconds: up to a minute.
const NS: usize = 36;

/// The doorbells of one command.
#[derive(Clone, Copy)]
pub(crate) struct CommandStats {
    /// How many.
    pub(crate) count: u64,
    /// Entries of all of them.
    pub(crate) entries: u64,
    /// The most of one.
    pub(crate) entries_max: u32,
    /// Nanoseconds in all of them.
    pub(crate) ns: u64,
    /// The most in one.
    pub(crate) ns_max: u64,
    /// By log2 of their entries.
    pub(crate) by_entries: Histogram<ENTRIES>,
    /// By log2 of their nanoseconds.
    pub(crate) by_ns: Histogram<NS>,
}

/// See the module's documentation.
#[derive(Clone, Copy)]
pub(crate) struct DoorbellStats {
    /// To map.
    pub(crate) map: CommandStats,
    /// To take mappings back.
    pub(crate) unmap: CommandStats,
    /// By what came of them.
    pub(crate) status: [u64; BatchStatus::ALL.len()],
}

impl CommandStats {
    const NONE: Self = Self {
        count: 0,
        entries: 0,
        entries_max: 0,
        ns: 0,
        ns_max: 0,
        by_entries: [0; ENTRIES],
        by_ns: [0; NS],
    };

    fn count(&mut self, entries: u32, ns: u64) {
        self.count = self.count.wrapping_add(1);
        self.entries = self.entries.wrapping_add(entries.into());
        self.entries_max = self.entries_max.max(entries);
        self.ns = self.ns.wrapping_add(ns);
        self.ns_max = self.ns_max.max(ns);
        tally(&mut self.by_entries, entries.into());
        tally(&mut self.by_ns, ns);
    }
}

impl DoorbellStats {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self {
            map: CommandStats::NONE,
            unmap: CommandStats::NONE,
            status: [0; BatchStatus::ALL.len()],
        }
    }

    /// Counts a doorbell.
    pub(crate) fn count(&mut self, command: Command, entries: u32, status: BatchStatus, ns: u64) {
        match command {
            Command::Map => self.map.count(entries, ns),
            Command::Unmap => self.unmap.count(entries, ns),
        }
        // CAST: The discriminants are small.
        if let Some(count) = self.status.get_mut(status as usize) {
            *count = count.wrapping_add(1);
        }
    }
}

/// Counts one of `size`, which is in the first place if it is 0, and in the last if it is beyond.
fn tally<const N: usize>(histogram: &mut Histogram<N>, size: u64) {
    // CAST: A logarithm is small.
    let place = size.checked_ilog2().unwrap_or(0) as usize;
    if let Some(count) = histogram.get_mut(place.min(N.saturating_sub(1))) {
        *count = count.wrapping_add(1);
    }
}
