// SPDX-License-Identifier: GPL-2.0

//! Waiting for a slot while the pool is full.
//!
//! A driver may submit more than the pool holds. What it submitted is done a little at a time, so a
//! slot is returned within microseconds, where a window for the excess takes the host milliseconds.
//! So a call waits as long as a window would take, at most: the driver is paced by its device, and
//! the host is not involved.
//!
//! Waiting is in vain where the slots are in use for long, or where nothing can return one: the
//! caller may have a lock that the return needs. So only a small share of the time is spent in
//! vain.

use super::pool::SlotPool;
use super::{
    Memory,
    Transfer, //
};
use crate::addr::{
    GpaSpan,
    Iova, //
};
use crate::engine::cost::Price;
use crate::sys::{
    Acquire,
    Relaxed,
    Stopwatch, //
};
use core::cell::Cell;

/// The part of the time that may be waited in vain, as a divisor.
pub(super) const VAIN_SHARE: u64 = 16;

/// The longest time in nanoseconds that a call waits, however slow the host is.
const LONGEST_NS: u64 = 100_000_000;

/// The time that a call may still wait, in nanoseconds.
pub(super) struct WaitLimit(Cell<u64>);

impl WaitLimit {
    /// Creates the limit of a call that could have a window for `price`, if that is known.
    pub(super) fn new(price: Option<Price>) -> Self {
        let ns = price.map_or(0, |price| price.map_ns.min(LONGEST_NS));
        Self(Cell::new(ns))
    }
}

impl<M: Memory> SlotPool<M> {
    /// Maps `span` as [`Self::map`], and waits for a slot if there is none, as long as `limit`
    /// allows.
    ///
    /// Context: any.
    pub(super) fn map_or_wait(
        &self,
        span: &GpaSpan,
        transfer: Transfer,
        dma_limit: u64,
        limit: &WaitLimit,
    ) -> Option<Iova> {
        let map = || self.map(span, transfer, dma_limit);
        let iova = map().or_else(|| self.wait_until(map, limit));
        if let (None, (_, Some(zone))) = (iova, self.zone()) {
            zone.full.fetch_add(1, Relaxed);
        }
        iova
    }

    /// Calls `map`, for which there was no slot, whenever slots were returned, until one serves it
    /// or `limit` is reached.
    #[inline(never)]
    fn wait_until(&self, map: impl Fn() -> Option<Iova>, limit: &WaitLimit) -> Option<Iova> {
        let most = limit.0.get();
        if most == 0 || !self.memory.others_run() || !self.vain.is_left() {
            return None;
        }
        let time = Stopwatch::start();
        // Slots may have been returned since that was tried.
        let mut seen = u64::MAX;
        let mut iova = None;
        let mut waited = 0;
        while iova.is_none() && waited < most && !self.is_closed() {
            // Acquire: what was returned before can be taken.
            let now = self.used.load(Acquire);
            if now == seen {
                self.memory.pause();
            } else {
                seen = now;
                iova = map();
            }
            waited = time.elapsed_ns();
        }
        limit.0.set(most.saturating_sub(waited));
        match (iova, self.zone()) {
            (Some(_), (_, Some(zone))) => {
                zone.waited.fetch_add(1, Relaxed);
            }
            (Some(_), _) => {}
            (None, _) => self.vain.spend(waited),
        }
        iova
    }
}
