// SPDX-License-Identifier: GPL-2.0

//! Counters of doorbells, for each command and each outcome of a batch.
//!
//! Pure code. A new counter of doorbells belongs here; what a batch did to windows is counted by
//! the engine.
//!
//! Context of all functions: any.

use crate::engine::Command;
use crate::host::wire::BatchStatus;

/// Numbers of events whose size has a logarithm to base 2 that is the index.
pub(crate) type Histogram<const N: usize> = [u32; N];

/// Powers of two of the requests of a batch.
const REQUESTS: usize = 10;

/// Powers of two of nanoseconds: up to a minute.
const NS: usize = 36;

/// The doorbells of one command.
#[derive(Clone, Copy)]
pub(crate) struct CommandStats {
    /// Number of doorbells.
    pub(crate) count: u64,
    /// Requests of all doorbells.
    pub(crate) requests: u64,
    /// The most requests of one doorbell.
    pub(crate) requests_max: u32,
    /// Nanoseconds of all doorbells.
    pub(crate) ns: u64,
    /// The most nanoseconds of one doorbell.
    pub(crate) ns_max: u64,
    /// Numbers of doorbells by their requests.
    pub(crate) by_requests: Histogram<REQUESTS>,
    /// Numbers of doorbells by their nanoseconds.
    pub(crate) by_ns: Histogram<NS>,
}

impl CommandStats {
    const ZERO: Self = Self {
        count: 0,
        requests: 0,
        requests_max: 0,
        ns: 0,
        ns_max: 0,
        by_requests: [0; REQUESTS],
        by_ns: [0; NS],
    };

    fn count(&mut self, requests: u32, ns: u64) {
        self.count = self.count.wrapping_add(1);
        self.requests = self.requests.wrapping_add(requests.into());
        self.requests_max = self.requests_max.max(requests);
        self.ns = self.ns.wrapping_add(ns);
        self.ns_max = self.ns_max.max(ns);
        tally(&mut self.by_requests, requests.into());
        tally(&mut self.by_ns, ns);
    }
}

/// The doorbells of a companion.
#[derive(Clone, Copy)]
pub(crate) struct DoorbellStats {
    commands: [CommandStats; Command::ALL.len()],
    statuses: [u64; BatchStatus::ALL.len()],
    /// Number of doorbells that returned before the host had finished the batch.
    pub(crate) posted: u64,
}

impl DoorbellStats {
    /// Creates counters that are all 0.
    pub(crate) const fn new() -> Self {
        Self {
            commands: [CommandStats::ZERO; Command::ALL.len()],
            statuses: [0; BatchStatus::ALL.len()],
            posted: 0,
        }
    }

    /// Counts a doorbell.
    pub(crate) fn count(&mut self, command: Command, requests: u32, status: BatchStatus, ns: u64) {
        // CAST: The discriminants are small, and are the places in `ALL`.
        if let Some(stats) = self.commands.get_mut(command as usize) {
            stats.count(requests, ns);
        }
        // CAST: As above.
        if let Some(count) = self.statuses.get_mut(status as usize) {
            *count = count.wrapping_add(1);
        }
    }

    /// Counts a doorbell that returned before the host had finished the batch, if it did.
    pub(crate) fn count_posted(&mut self, is_posted: bool) {
        self.posted = self.posted.wrapping_add(is_posted.into());
    }

    /// Forgets the largest and the longest doorbell of each command.
    pub(crate) fn reset_peaks(&mut self) {
        for stats in &mut self.commands {
            stats.requests_max = 0;
            stats.ns_max = 0;
        }
    }

    /// Returns the counters of each command.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (Command, &CommandStats)> {
        Command::ALL.into_iter().zip(&self.commands)
    }

    /// Returns the number of doorbells by the outcome of their batch.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = (BatchStatus, u64)> + '_ {
        BatchStatus::ALL.into_iter().zip(self.statuses)
    }
}

/// Counts an event of size `size` in `histogram`: at the first place if the size is 0, and at the
/// last if it is beyond.
fn tally<const N: usize>(histogram: &mut Histogram<N>, size: u64) {
    // CAST: A logarithm is small.
    let place = size.checked_ilog2().unwrap_or(0) as usize;
    if let Some(count) = histogram.get_mut(place.min(N.saturating_sub(1))) {
        *count = count.wrapping_add(1);
    }
}
