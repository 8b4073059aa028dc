// SPDX-License-Identifier: GPL-2.0

//! The scan for stale mappings: those that an earlier kernel left on the host when it crashed.
//!
//! A stale mapping that has the key of a new window is unmapped when the host refuses the window.
//! The others block no request, but use up the host's room. Their keys are not known. A key is the
//! start of a granule, or of a page where the key of the granule was taken. So at the first sign of
//! a stale mapping the engine starts to unmap, in the background and a batch at a time, every
//! granule of RAM, and then every page, whose start is not a key of this engine. A batch without a
//! reply is retried, up to [`RETRIES`] times.

use super::{
    Engine,
    Host,
    Locked,
    Observer,
    UnmapEntry,
    UnmapOutcome, //
};
use crate::addr::{
    Address,
    GpaSpan,
    GRANULE,
    PAGE, //
};
use crate::engine::policy::Policy;
use crate::sys::Guard;

/// Most retries of a batch without a reply. A host that never replies for one key must not keep the
/// scan from the others.
const RETRIES: u32 = 8;

/// The progress of the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StaleScan {
    /// There is no sign of a stale mapping yet.
    Unneeded,
    /// The granules from this address on are left to scan, and all other pages.
    Granules(u64),
    /// The pages from this address on are left to scan.
    Pages(u64),
    /// No key is left to scan.
    Done,
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Starts the scan at a sign of stale mappings: one was found, or the host refuses a window of
    /// one granule, which it should have room for.
    ///
    /// Context: engine lock held.
    pub(super) fn suspect(&self, state: &mut Locked<H>) {
        if state.search == StaleScan::Unneeded {
            state.search = StaleScan::Granules(0);
        }
    }

    /// Unmaps the keys that the host refused, as an earlier kernel may have left them.
    ///
    /// Context: engine lock held.
    pub(super) fn unmap_suspects(&self, state: &mut Locked<H>) {
        for index in 0..state.suspects.len {
            if let Some(span) = state.suspects.get(index) {
                if self.index.key_is_free(&state.index, span.start()) {
                    state.unmap.push(UnmapEntry::new(span));
                }
            }
        }
        state.suspects.clear();
        self.unmap_stale(state);
    }

    /// Drops the lock, and unmaps the suspects of its time, if there are any, with another hold of
    /// the lock: each hold submits one batch at most.
    pub(super) fn unmap_suspects_in_turn(&self, guard: Guard<'_, Locked<H>>) {
        if guard.suspects.is_empty() {
            return;
        }
        drop(guard);
        self.unmap_suspects(&mut self.state.lock());
    }

    /// Submits a batch of keys that no window has. Those that are unmapped by that were stale.
    /// Returns whether the host replied for each.
    fn unmap_stale(&self, state: &mut Locked<H>) -> bool {
        if state.unmap.is_empty() {
            return true;
        }
        state.counters.doorbells.inc();
        state.host.unmap(state.unmap.filled_mut());
        let unmapped = |entry: &&UnmapEntry| entry.outcome == UnmapOutcome::Unmapped;
        let stale = state.unmap.filled().iter().filter(unmapped).count();
        // CAST: `usize` has at most 64 bits.
        state.counters.windows_stale.add(stale as u64);
        if stale != 0 {
            self.suspect(state);
        }
        let is_answered = state.unmap.filled().iter().all(|entry| {
            matches!(
                entry.outcome,
                UnmapOutcome::Unmapped | UnmapOutcome::Refused //
            )
        });
        state.unmap.clear();
        is_answered
    }

    /// Unmaps a batch of possible stale mappings, if there is a sign of any. Returns whether the
    /// caller should continue at once: there is more to scan, and the host replies. Interrupts are
    /// off for one doorbell.
    ///
    /// Context: any.
    pub(crate) fn search_stale(&self) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.closed || !state.host.is_ready() {
            return false;
        }
        let before = state.search;
        while !state.unmap.is_full() {
            let (at, size) = match state.search {
                StaleScan::Granules(at) => (at, GRANULE),
                StaleScan::Pages(at) => (at, PAGE),
                StaleScan::Unneeded | StaleScan::Done => break,
            };
            let Some(span) = next(state.ram.blocks(), at, size) else {
                state.search = match state.search {
                    StaleScan::Granules(_) => StaleScan::Pages(0),
                    _ => StaleScan::Done,
                };
                continue;
            };
            state.search = match state.search {
                StaleScan::Granules(_) => StaleScan::Granules(span.end()),
                _ => StaleScan::Pages(span.end()),
            };
            let start = span.start();
            // The starts of granules were scanned before.
            let is_new = size == GRANULE || start.raw() & GRANULE.wrapping_sub(1) != 0;
            if is_new && self.index.key_is_free(&state.index, start) {
                state.unmap.push(UnmapEntry::new(span));
            }
        }
        let is_answered = self.unmap_stale(state);
        if !is_answered && state.search_retries < RETRIES {
            state.search_retries = state.search_retries.saturating_add(1);
            state.search = before;
            return false;
        }
        state.search_retries = 0;
        !matches!(state.search, StaleScan::Unneeded | StaleScan::Done)
    }
}

/// Returns the first span of `blocks` from the address `at` on that ends at a multiple of `size`,
/// or with its block if that is sooner; `blocks` are sorted.
fn next(blocks: &[GpaSpan], at: u64, size: u64) -> Option<GpaSpan> {
    let block = blocks.iter().find(|block| at < block.end())?;
    let start = at.max(block.start().raw());
    let next = start
        .checked_add(1)
        .and_then(|next| next.checked_next_multiple_of(size))
        .unwrap_or(u64::MAX);
    GpaSpan::from_bounds(start, next.min(block.end()))
}
