// SPDX-License-Identifier: GPL-2.0

//! A share of the time that passes, which may be spent on something.
//!
//! Context of all functions: any.

use crate::sys::{
    Atomic,
    Relaxed,
    Stopwatch, //
};

/// The time in nanoseconds whose share may be saved up.
const SAVED: u64 = 1_000_000_000;

/// See the module's documentation.
pub(crate) struct TimeShare {
    /// The share, as a divisor.
    divisor: u64,
    /// The time at which what was spent so far is no more than its share.
    paid_at: Atomic<u64>,
    clock: Stopwatch,
}

impl TimeShare {
    /// Creates a share of one `divisor`-th, of which nothing is spent.
    pub(crate) fn new(divisor: u64) -> Self {
        Self {
            divisor,
            paid_at: Atomic::new(0),
            clock: Stopwatch::start(),
        }
    }

    /// Returns whether there is something left to spend.
    pub(crate) fn is_left(&self) -> bool {
        self.paid_at.load(Relaxed) <= self.clock.elapsed_ns().saturating_add(SAVED)
    }

    /// Counts `ns` nanoseconds as spent.
    pub(crate) fn spend(&self, ns: u64) {
        let earned = self.clock.elapsed_ns();
        let time = ns.saturating_mul(self.divisor);
        let mut old = self.paid_at.load(Relaxed);
        while let Err(now) =
            self.paid_at
                .cmpxchg(old, old.max(earned).saturating_add(time), Relaxed)
        {
            old = now;
        }
    }
}
