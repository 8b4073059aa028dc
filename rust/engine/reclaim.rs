// SPDX-License-Identifier: GPL-2.0

//! Unmapping of windows: those that their last user closed, and those that are idle when room is
//! needed, for long, or in memory that goes offline.
//!
//! Each hold of the engine lock submits one batch at most.
//!
//! To find that no window is idle takes a look at every one. Once that was found, it is known until
//! a window becomes idle: on its second time around the reclaimer has every window tell when its
//! last reference is put, and so does every window that is opened from then on. See [`IdleWatch`].

use super::index::arena::{
    Id,
    Linked,
    NONE, //
};
use super::miss::{
    RoundResult,
    MAX_ROUNDS, //
};
use super::{
    Engine,
    Host,
    Locked,
    MapError,
    Observer, //
};
use crate::addr::GpaSpan;
use crate::engine::policy::Policy;
use crate::engine::window::{
    State,
    Window, //
};
use crate::sys::{
    Acquire,
    Relaxed,
    Release, //
};

/// Windows that one reclaim unmaps at least, if so many are idle.
const RECLAIM: usize = 64;

/// Windows that are looked at while the lock is held.
const SCAN: u32 = 4096;

/// Value of [`Engine::idled`] if more than one window became idle.
pub(super) const MANY: Id = Id::MAX;

/// The knowledge of the windows that are not idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleWatch {
    /// Nothing.
    Off,
    /// So many windows in a row, up to the reclaimer's hand, tell when they become idle.
    Some(u32),
    /// All windows tell when they become idle.
    All,
}

impl IdleWatch {
    /// Returns whether windows are to be watched from when they are opened.
    pub(super) fn is_on(self) -> bool {
        self != IdleWatch::Off
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Queues a window that the caller closed to be unmapped. Lock-free.
    pub(super) fn retire(&self, id: Id, window: &Window) {
        let mut head = self.retired.load(Relaxed);
        loop {
            window.link().store(head, Relaxed);
            // Release: the CPU that takes the list sees its links.
            match self.retired.cmpxchg(head, id, Release) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Unmaps all windows that were queued before the call.
    ///
    /// Context: any.
    #[cold]
    #[inline(never)]
    pub(super) fn unmap_retired(&self) {
        loop {
            let mut state = self.state.lock();
            let state = &mut *state;
            // A CPU that took windows queued here has unmapped them under the lock, or left them in
            // `state`.
            self.collect_retired(state);
            if state.retired == NONE {
                return;
            }
            self.unmap_retired_batch(state);
        }
    }

    /// Moves windows from the lock-free queue to the list that the lock protects.
    ///
    /// Context: engine lock held.
    pub(super) fn collect_retired(&self, state: &mut Locked<H>) {
        let mut id = self.retired.xchg(NONE, Acquire);
        while let Some(window) = self.index.window(id) {
            let next = window.link().load(Relaxed);
            self.quarantine(state, id, window);
            id = next;
        }
    }

    /// Unmaps a batch of the retired windows.
    ///
    /// Context: engine lock held.
    pub(super) fn unmap_retired_batch(&self, state: &mut Locked<H>) {
        while !state.unmap.is_full() {
            let id = state.retired;
            let Some(window) = self.index.window(id) else {
                break;
            };
            state.retired = window.link().load(Relaxed);
            self.queue_unmap(state, id, window);
        }
        self.submit_unmap(state);
    }

    /// Takes a closed window, which the host may have, out of use. It is unmapped later.
    ///
    /// Context: engine lock held.
    pub(super) fn quarantine(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        self.index.remove(&mut state.index, id, window);
        window.set_state(State::Retired);
        window.link().store(state.retired, Relaxed);
        state.retired = id;
    }

    /// Unmaps idle windows, as few as make a batch worth its doorbell. Windows that were used
    /// lately stay if there are others. Fails with `error` if no window is idle; if there are many
    /// windows, that takes several rounds to find out, which `scanned` counts for, and is known
    /// from then on.
    ///
    /// Context: engine lock held.
    pub(super) fn reclaim(
        &self,
        state: &mut Locked<H>,
        scanned: &mut u32,
        error: MapError,
    ) -> RoundResult {
        if !state.host.is_ready() {
            // Windows that are idle now can still be hit.
            return RoundResult::Failed(MapError::NoAnswer);
        }
        if state.idle_watch == IdleWatch::All {
            if let Some(found) = self.reclaim_idled(state) {
                let found = found.then_some(RoundResult::Again);
                return found.unwrap_or(RoundResult::Failed(error));
            }
        }
        let last = state.index.last_id();
        let mut found: usize = 0;
        // More than twice around finds no more.
        let enough = last.saturating_mul(2).saturating_add(1);
        for looked in 0..SCAN.min(enough) {
            // Another time around would find windows that were used lately.
            let around = looked.checked_rem(last) == Some(0);
            if (found != 0 && around) || found >= RECLAIM || state.unmap.is_full() {
                break;
            }
            *scanned = scanned.saturating_add(1);
            state.hand = match state.hand.checked_add(1) {
                Some(id) if id <= last => id,
                _ => 1,
            };
            let id = state.hand;
            let Some(window) = self.index.window(id) else {
                continue;
            };
            if close_if_unused(window) {
                self.unmap_closed(state, id, window);
                state.counters.windows_reclaimed.inc();
                found = found.saturating_add(1);
            } else if *scanned > last || state.idle_watch.is_on() {
                self.watch(state, window);
            }
        }
        if found != 0 {
            *scanned = 0;
            state.idle_watch = IdleWatch::Off;
        } else if let IdleWatch::Some(watched) = state.idle_watch {
            if watched >= last {
                state.idle_watch = IdleWatch::All;
                // One that became idle after it was looked at.
                return RoundResult::Again;
            }
        }
        // Once around finds windows that were not used since the last time, twice finds all. There
        // are more where windows become idle and are used again all the time.
        if found == 0 && *scanned > last.saturating_mul(4) {
            return RoundResult::Failed(error);
        }
        self.submit_unmap(state);
        RoundResult::Again
    }

    /// Unmaps the window that became idle since this was last called, while all windows are
    /// watched. Returns whether there was one; [`None`] if it takes a look at all windows to tell.
    ///
    /// Context: engine lock held.
    fn reclaim_idled(&self, state: &mut Locked<H>) -> Option<bool> {
        // Acquire: the window is idle.
        let id = self.idled.xchg(NONE, Acquire);
        if id == NONE {
            return Some(false);
        }
        let Some(window) = self.index.window(id) else {
            // Many.
            state.idle_watch = IdleWatch::Off;
            return None;
        };
        if window.is_idle() && window.close() {
            self.unmap_closed(state, id, window);
            state.counters.windows_reclaimed.inc();
            self.submit_unmap(state);
            return Some(true);
        }
        if window.state() == State::Live && !window.watch() {
            state.idle_watch = IdleWatch::Off;
            return None;
        }
        // It is in use again, or gone.
        Some(false)
    }

    /// Has `window`, the next one in a row that was not unmapped, tell when it becomes idle.
    ///
    /// Context: engine lock held.
    fn watch(&self, state: &mut Locked<H>, window: &Window) {
        let watched = match state.idle_watch {
            IdleWatch::Some(watched) => watched,
            IdleWatch::Off => {
                self.idled.store(NONE, Relaxed);
                0
            }
            IdleWatch::All => return,
        };
        // A window that is pending now is watched when it is opened.
        let tells = window.state() != State::Live || window.watch();
        state.idle_watch = IdleWatch::Some(if tells {
            watched.saturating_add(1)
        } else {
            // It is idle now, but was used since the reclaimer last came by.
            0
        });
    }

    /// Notes that the watched window `id` became idle. Lock-free.
    pub(super) fn note_idle(&self, id: Id) {
        // Release: the window is idle for the lock holder that sees this.
        if self.idled.cmpxchg(NONE, id, Release).is_err() {
            self.idled.store(MANY, Release);
        }
    }

    /// Unmaps all idle windows, for a call that cannot have all that it needs otherwise.
    ///
    /// Context: any.
    pub(super) fn reclaim_all_idle(&self) {
        let mut scanned = 0;
        for _ in 0..MAX_ROUNDS {
            let mut state = self.state.lock();
            // Running out of idle windows is not an error here.
            if let RoundResult::Failed(_) =
                self.reclaim(&mut state, &mut scanned, MapError::Refused)
            {
                return;
            }
        }
    }

    /// Unmaps all idle windows if another engine of the pool lacks room, and this one has more than
    /// an equal share; and takes the part that is this engine's own once the others have left it.
    /// To be called periodically.
    ///
    /// Context: any. Interrupts are off for a batch at a time.
    pub(crate) fn make_room_for_others(&self) {
        let wanted = {
            let budget = &mut self.state.lock().budget;
            budget.take_share();
            budget.is_wanted_elsewhere()
        };
        if wanted {
            self.reclaim_all_idle();
        }
    }

    /// Unmaps the windows that are idle and were not used since the last call, but for fillers
    /// whose memory is in use. To be called periodically.
    ///
    /// Context: any. Interrupts are off for a batch at a time.
    pub(crate) fn age(&self) {
        self.sweep(|state, id, window| {
            if !window.is_idle() || !state.host.is_ready() || self.is_needed(state, window) {
                return;
            }
            if close_if_unused(window) {
                state.counters.windows_aged.inc();
                self.unmap_closed(state, id, window);
            }
        });
    }

    /// Unmaps all idle windows that overlap `span`, which is memory that is removed, and keeps the
    /// others from serving what is added in its place. Returns the number of windows of removed
    /// memory alone that are in use.
    ///
    /// Context: any. Interrupts are off for a batch at a time.
    pub(crate) fn evict(&self, span: &GpaSpan) -> u32 {
        let mut busy: u32 = 0;
        self.sweep(|state, id, window| {
            if window.state() != State::Live || !overlaps(window, span) {
                return;
            }
            if window.close() {
                self.unmap_closed(state, id, window);
                return;
            }
            // It is found by its IOVAs from now on. If it is closed, its last user retires it.
            self.index.remove(&mut state.index, id, window);
            let is_inside = window.span().is_some_and(|all| span.covers(&all));
            if is_inside && window.users() != 0 {
                busy = busy.saturating_add(1);
            }
        });
        busy
    }

    /// Returns whether some of `span` is mapped for good, with all of RAM.
    ///
    /// Context: any. Interrupts are off for some thousand windows at a time.
    pub(crate) fn is_fixed(&self, span: &GpaSpan) -> bool {
        let mut fixed = false;
        self.sweep(|_, _, window| {
            fixed |= window.state() == State::Fixed && overlaps(window, span);
        });
        fixed
    }

    /// Calls `visit` for every window under the lock, which is taken for some windows at a time.
    /// Windows that `visit` queues for unmapping are unmapped before the lock is dropped.
    pub(super) fn sweep(&self, mut visit: impl FnMut(&mut Locked<H>, Id, &Window)) {
        let mut done: Id = 0;
        loop {
            let mut state = self.state.lock();
            let state = &mut *state;
            let last = state.index.last_id().min(done.saturating_add(SCAN));
            if done >= last {
                return;
            }
            // A batch without any room, with which no window can be created, does not stop this.
            while done < last && (state.unmap.is_empty() || !state.unmap.is_full()) {
                done = done.saturating_add(1);
                if let Some(window) = self.index.window(done) {
                    visit(state, done, window);
                }
            }
            self.submit_unmap(state);
        }
    }

    /// Removes a window that the caller closed from the index, and queues it for unmapping.
    pub(super) fn unmap_closed(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        self.index.remove(&mut state.index, id, window);
        self.queue_unmap(state, id, window);
    }
}

/// Closes an idle window that was not used since this was last called for it. Returns whether the
/// window is closed now, and so belongs to the caller.
fn close_if_unused(window: &Window) -> bool {
    window.is_idle() && !window.test_and_clear_used() && window.close()
}

/// Returns whether `window` covers some of `span`.
fn overlaps(window: &Window, span: &GpaSpan) -> bool {
    window.span().is_some_and(|all| all.overlaps(span))
}
