// SPDX-License-Identifier: GPL-2.0

//! The search for stale mappings: those that an earlier kernel left on the host when it crashed.
//!
//! A stale mapping that has the key of a new window is unmapped when the host refuses the window.
//! The others block no request, but use up the host's room. Their keys are not known. A key is the
//! start of a granule, or of a page where the key of the granule was taken. So the engine unmaps, a
//! batch at a time, every granule of RAM, and then every page, whose start is not a key of this
//! engine. It does so if a [marker](super::marker) tells that the kernel before ended without
//! unmapping everything, or else at the first sign of a stale mapping. A batch without a reply is
//! retried, up to [`RETRIES`] times.
//!
//! From the start, or from the first stale mapping on that is found, to the end of the search less
//! than the limits is used: see [`Caution`].

use super::caution::Caution;
use super::{
    Engine,
    Host,
    KernelKind,
    Locked,
    Markers,
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
use crate::sys::{
    Guard,
    Stopwatch, //
};

/// Most retries of a batch without a reply. A host that never replies for one key must not keep the
/// scan from the others.
const RETRIES: u32 = 8;

/// The keys that the search looks at next.
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

/// The search for stale mappings.
pub(super) struct StaleSearch {
    pub(super) scan: StaleScan,
    /// Retries of the next batch so far.
    retries: u32,
    /// The granules and pages that were scanned.
    scanned: u64,
    /// Set if keys were skipped because the host does not reply.
    has_skipped: bool,
    /// The misses of drivers at the end of the last turn of the search.
    misses: u64,
}

impl StaleSearch {
    /// Creates the search, which begins at once if `markers` tell that there is something to find,
    /// and that it can be found.
    pub(super) fn new(markers: &Markers) -> Self {
        let is_needed = markers.kind() == KernelKind::Regular && markers.caution() != Caution::NONE;
        Self {
            scan: if is_needed {
                StaleScan::Granules(0)
            } else {
                StaleScan::Unneeded
            },
            retries: 0,
            scanned: 0,
            has_skipped: false,
            misses: 0,
        }
    }

    /// Starts the search, unless it has started before.
    fn start(&mut self) {
        if self.scan == StaleScan::Unneeded {
            self.scan = StaleScan::Granules(0);
        }
    }

    /// Notes that other memory is RAM from now on, which an earlier kernel may have mapped.
    pub(super) fn note_new_ram(&mut self) {
        if matches!(self.scan, StaleScan::Granules(_) | StaleScan::Pages(_)) {
            self.restart();
        }
    }

    /// Starts the search once more.
    fn restart(&mut self) {
        self.scan = StaleScan::Granules(0);
        self.scanned = 0;
        self.has_skipped = false;
    }
}

/// The state of the search, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SearchState {
    /// What is used meanwhile because of this engine's companion.
    pub(crate) caution: Caution,
    /// Set if the search has begun and is not over.
    pub(crate) is_running: bool,
    /// Granules and pages that were scanned.
    pub(crate) scanned: u64,
    /// Granules and pages to scan in all.
    pub(crate) total: u64,
    /// Stale mappings that were unmapped.
    pub(crate) found: u64,
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Starts the scan at a sign of stale mappings: one was found, or the host refuses a window of
    /// one granule, which it should have room for.
    ///
    /// Context: engine lock held.
    pub(super) fn suspect(&self, state: &mut Locked<H>) {
        state.search.start();
    }

    /// Unmaps a batch of the keys that the host refused, the last ones first, as an earlier kernel
    /// may have left them. Returns whether there are more.
    ///
    /// Context: engine lock held.
    pub(super) fn unmap_suspects(&self, state: &mut Locked<H>) -> bool {
        while state.unmap.len < state.search_limit() {
            let Some(span) = state.suspects.pop() else {
                break;
            };
            if self.index.key_is_free(&state.index, span.start()) {
                state.unmap.push(UnmapEntry::new(span));
            }
        }
        self.unmap_stale(state);
        !state.suspects.is_empty()
    }

    /// Drops the lock, and unmaps the suspects, if there are any, with other holds of the lock:
    /// each submits one batch at most.
    pub(super) fn unmap_suspects_in_turn(&self, guard: Guard<'_, Locked<H>>) {
        let most = guard.suspects.len;
        drop(guard);
        for _ in 0..most {
            if !self.unmap_suspects(&mut self.state.lock()) {
                return;
            }
        }
    }

    /// Submits a batch of keys that no window has. Those that are unmapped by that were stale.
    /// Returns whether the host replied for each.
    fn unmap_stale(&self, state: &mut Locked<H>) -> bool {
        if state.unmap.is_empty() {
            return true;
        }
        state.send_search(&self.costs);
        let unmapped = |entry: &&UnmapEntry| entry.outcome == UnmapOutcome::Unmapped;
        let stale = state.unmap.filled().iter().filter(unmapped).count();
        // CAST: `usize` has at most 64 bits.
        state.counters.windows_stale.add(stale as u64);
        if stale != 0 {
            self.suspect(state);
            // The kernel before had no marker, so it is unknown how much it left.
            if state.search.scan != StaleScan::Done {
                let caution = state.budget.caution().max(Caution::FIRST);
                state.budget.set_caution(caution);
            }
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
        let (before, scanned) = (state.search.scan, state.search.scanned);
        while state.unmap.len < state.search_limit() {
            let (at, size) = match state.search.scan {
                StaleScan::Granules(at) => (at, GRANULE),
                StaleScan::Pages(at) => (at, PAGE),
                StaleScan::Unneeded | StaleScan::Done => break,
            };
            let Some(span) = next(state.ram.blocks(), at, size) else {
                state.search.scan = match state.search.scan {
                    StaleScan::Granules(_) => StaleScan::Pages(0),
                    _ => StaleScan::Done,
                };
                continue;
            };
            state.search.scan = match state.search.scan {
                StaleScan::Granules(_) => StaleScan::Granules(span.end()),
                _ => StaleScan::Pages(span.end()),
            };
            state.search.scanned = state.search.scanned.saturating_add(1);
            let start = span.start();
            // The starts of granules were scanned before.
            let is_new = size == GRANULE || start.raw() & GRANULE.wrapping_sub(1) != 0;
            if is_new && self.index.key_is_free(&state.index, start) {
                state.unmap.push(UnmapEntry::new(span));
            }
        }
        let len = state.unmap.len;
        let is_answered = self.unmap_stale(state);
        if !is_answered && state.search.retries < RETRIES {
            state.search.retries = state.search.retries.saturating_add(1);
            (state.search.scan, state.search.scanned) = (before, scanned);
            return false;
        }
        state.search.retries = 0;
        state.search.has_skipped |= !is_answered;
        match state.search.scan {
            StaleScan::Unneeded => false,
            StaleScan::Granules(_) | StaleScan::Pages(_) => true,
            // Not all is found.
            StaleScan::Done if state.search.has_skipped && self.is_cautious(state) => {
                state.search.restart();
                false
            }
            // The last batch was this one.
            StaleScan::Done if len != 0 => self.is_cautious(state),
            StaleScan::Done => self.end_search(state),
        }
    }

    /// Returns whether the end of the search changes the limits.
    pub(super) fn is_cautious(&self, state: &Locked<H>) -> bool {
        state.markers.kind() == KernelKind::Regular && state.budget.caution() != Caution::NONE
    }

    /// Unmaps possible stale mappings for some `ms` milliseconds, or until the search is over, or
    /// the host does not reply.
    ///
    /// Context: process. Interrupts are off for a doorbell at a time.
    pub(crate) fn search_stale_for(&self, ms: u64) {
        self.search_stale_beside(ms, ms);
    }

    /// Does the same as [`Self::search_stale_for`], but for `busy_ms` milliseconds only if drivers
    /// have needed the host since the last call, or need it meanwhile.
    ///
    /// Context: process. Interrupts are off for a doorbell at a time.
    pub(crate) fn search_stale_beside(&self, ms: u64, busy_ms: u64) {
        let time = Stopwatch::start();
        let is_busy = || {
            let state = self.state.lock();
            state.counters.misses.get() != state.search.misses
        };
        while self.search_stale() {
            let passed = time.elapsed_ms();
            if passed >= ms || passed >= busy_ms && is_busy() {
                break;
            }
        }
        let mut state = self.state.lock();
        state.search.misses = state.counters.misses.get();
    }

    /// Returns the state of the search.
    ///
    /// Context: any.
    pub(crate) fn search_state(&self) -> SearchState {
        let state = self.state.lock();
        let blocks = state.ram.blocks().iter();
        let keys = blocks.map(|block| block.granules().saturating_add(block.len() / PAGE));
        SearchState {
            caution: state.budget.caution(),
            is_running: match state.search.scan {
                StaleScan::Unneeded => false,
                StaleScan::Granules(_) | StaleScan::Pages(_) => true,
                StaleScan::Done => self.is_cautious(&state),
            },
            scanned: state.search.scanned,
            total: keys.fold(0, u64::saturating_add),
            found: state.counters.windows_stale.get(),
        }
    }

    /// Returns what may be mapped at the moment, in bytes and windows, by all engines of the pool
    /// together: less than the limits while it is unknown what earlier kernels left.
    ///
    /// Context: any.
    pub(crate) fn allowance(&self) -> (u64, u32) {
        self.state.lock().budget.allowance()
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
