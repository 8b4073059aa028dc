// SPDX-License-Identifier: GPL-2.0

//! Giving windows back: those that their last user closed, those that are idle when room is needed,
//! those of which nobody knows whether they are mapped, and all of them at the end.
//!
//! Everything here rings at most once while it holds the lock.

use super::host::UnmapOutcome;
use super::miss::{
    RoundResult, //
    MAX_ROUNDS,
};
use super::{
    note,
    Command,
    Engine,
    Host,
    HostError,
    Locked,
    MapError,
    Observer,
    Released,
    UnmapEntry, //
    WindowInfo,
};
use crate::engine::index::arena::{
    Id,
    Linked,
    NONE, //
};
use crate::engine::policy::Policy;
use crate::engine::window::{
    State,
    Window, //
};
use crate::sys::{
    Acquire,
    Guard,
    Relaxed,
    Release, //
};

/// What one reclaim gives back at least, if so many windows are idle.
const RECLAIM: usize = 64;

/// How many windows are looked at under the lock at a time.
const SCAN: u32 = 4096;

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Gives every window back, used or not, and says what was wrong. For the end, when no driver
    /// can use a mapping any more. Interrupts are off for a batch at a time.
    pub(crate) fn release(&self) -> Released {
        let mut released = Released::default();
        self.unmap_retired();
        self.sweep(|state, id, window| {
            match window.state() {
                State::Free => return,
                State::Live => {
                    if window.users() != 0 {
                        released.busy = released.busy.saturating_add(1);
                    }
                    window.force_close();
                    self.unlink(state, id, window);
                }
                State::Fixed => window.force_close(),
                State::Pending | State::Retired => {}
                // These have their turn at the end.
                State::Lost => return,
            }
            self.queue_unmap(state, id, window);
        });
        self.state.lock().suspects.clear();
        self.retry_all_lost();
        released.lost = self.state.lock().budget.usage().entries;
        released
    }

    /// Calls `visit` for every window under the lock, which it takes for a while at a time. What it
    /// adds to the batch of windows to be given back is.
    pub(super) fn sweep(&self, mut visit: impl FnMut(&mut Locked<H>, Id, &Window)) {
        let mut done: Id = 0;
        loop {
            let mut state = self.state.lock();
            let state = &mut *state;
            let last = state.free_windows.last_id().min(done.saturating_add(SCAN));
            if done >= last {
                return;
            }
            // A batch without room, which makes no windows, is no reason to stay here.
            while done < last && (state.unmap.is_empty() || !state.unmap.is_full()) {
                done = done.saturating_add(1);
                if let Some(window) = self.windows.get(done) {
                    visit(state, done, window);
                }
            }
            self.ring_unmap(state);
        }
    }

    /// Queues a window that the caller closed to be given back. Lock-free.
    pub(super) fn retire(&self, id: Id, window: &Window) {
        let mut head = self.retired.load(Relaxed);
        loop {
            window.link().store(head, Relaxed);
            // Release: whoever takes the list sees its links.
            match self.retired.cmpxchg(head, id, Release) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Gives back all windows that were queued before the call.
    #[cold]
    #[inline(never)]
    pub(super) fn unmap_retired(&self) {
        loop {
            let mut state = self.state.lock();
            let state = &mut *state;
            // Whoever took what we queued gave it back under the lock, or left it in `state`.
            self.collect_retired(state);
            if state.retired == NONE {
                return;
            }
            self.unmap_retired_batch(state);
        }
    }

    /// Moves what was queued without the lock to the list under it.
    pub(super) fn collect_retired(&self, state: &mut Locked<H>) {
        let mut id = self.retired.xchg(NONE, Acquire);
        while let Some(window) = self.windows.get(id) {
            let next = window.link().load(Relaxed);
            self.unlink(state, id, window);
            window.set_state(State::Retired);
            window.link().store(state.retired, Relaxed);
            state.retired = id;
            id = next;
        }
    }

    /// Gives back a batch of the retired windows.
    pub(super) fn unmap_retired_batch(&self, state: &mut Locked<H>) {
        while !state.unmap.is_full() {
            let id = state.retired;
            let Some(window) = self.windows.get(id) else {
                break;
            };
            state.retired = window.link().load(Relaxed);
            self.queue_unmap(state, id, window);
        }
        self.ring_unmap(state);
    }

    /// Adds a closed window to the batch of those to be given back.
    pub(super) fn queue_unmap(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        window.set_state(State::Retired);
        if let Some(span) = window.span() {
            state.unmap.push(UnmapEntry {
                span,
                outcome: UnmapOutcome::Unknown,
                id,
            });
        }
    }

    /// Rings for the batch of windows to be given back, and frees those that are gone.
    pub(super) fn ring_unmap(&self, state: &mut Locked<H>) {
        if state.unmap.is_empty() {
            return;
        }
        state.counters.doorbells.inc();
        state.host.unmap(state.unmap.filled_mut());
        for index in 0..state.unmap.len {
            let Some(entry) = state.unmap.get(index) else {
                break;
            };
            let Some(window) = self.windows.get(entry.id) else {
                continue;
            };
            let was_lost = window.state() == State::Lost;
            let misplaced = state.misplaced.filter(|(id, _)| *id == entry.id);
            if misplaced.is_some() {
                state.misplaced = None;
            }
            let error = match entry.outcome {
                UnmapOutcome::Unmapped => None,
                UnmapOutcome::Refused => Some(HostError::Refused),
                UnmapOutcome::Rejected(reject) => Some(HostError::Rejected(reject)),
                UnmapOutcome::Unknown => Some(HostError::Silent),
            };
            let Some(error) = error else {
                state.counters.windows_returned.inc();
                if let Some(seen) = WindowInfo::new(window) {
                    self.observer.returned(&seen);
                }
                if was_lost {
                    state.counters.windows_recovered.inc();
                }
                self.discard(state, entry.id, window);
                continue;
            };
            note(self, state, Command::Unmap, &entry.span, error);
            // It may be mapped or not. Its key stays taken and its bytes count, so that neither
            // the limits nor the uniqueness of keys depend on which.
            if !was_lost {
                state.counters.windows_lost.inc();
                window.set_state(State::Lost);
                if let Some((_, iova)) = misplaced {
                    // Where something else is that stays noted.
                    let _ = self.claim(state, entry.id, window, &entry.span, iova);
                }
            }
            self.queue_recovery(state, entry.id, window, entry.outcome);
        }
        state.unmap.clear();
    }

    /// Gives back keys that an earlier kernel may have left, so that ours can have them.
    pub(super) fn unmap_suspects(&self, state: &mut Locked<H>) {
        for index in 0..state.suspects.len {
            if let Some(span) = state.suspects.get(index) {
                if self.key_is_free(state, span.start()) {
                    state.unmap.push(UnmapEntry::new(span));
                }
            }
        }
        state.suspects.clear();
        self.unmap_stale(state);
    }

    /// Rings for the batch of keys that are none of ours; what is unmapped by that was stale. Says
    /// whether there is an answer for each.
    pub(super) fn unmap_stale(&self, state: &mut Locked<H>) -> bool {
        if state.unmap.is_empty() {
            return true;
        }
        state.counters.doorbells.inc();
        state.host.unmap(state.unmap.filled_mut());
        let stale = state
            .unmap
            .filled()
            .iter()
            .filter(|entry| entry.outcome == UnmapOutcome::Unmapped)
            .count();
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

    pub(super) fn unmap_suspects_in_turn(&self, guard: Guard<'_, Locked<H>>) {
        if guard.suspects.is_empty() {
            return;
        }
        // One doorbell for each time that the lock is taken.
        drop(guard);
        self.unmap_suspects(&mut self.state.lock());
    }

    /// Takes out of use a window of which the host may have a mapping; it is given back later.
    pub(super) fn quarantine(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        self.unlink(state, id, window);
        window.set_state(State::Retired);
        window.link().store(state.retired, Relaxed);
        state.retired = id;
    }

    /// Gives back idle windows, as few as make a batch worth its doorbell; what was used lately
    /// stays if there is anything else. Fails with `error` if nothing is idle, which takes several
    /// rounds to find out if there are many; `scanned` counts for them.
    pub(super) fn reclaim(
        &self,
        state: &mut Locked<H>,
        scanned: &mut u32,
        error: MapError,
    ) -> RoundResult {
        if !state.host.is_ready() {
            // What is idle now still serves those who come for it.
            return RoundResult::Failed(MapError::NoAnswer);
        }
        let last = state.free_windows.last_id();
        let mut found: usize = 0;
        // More than twice around finds no more.
        let enough = last.saturating_mul(2).saturating_add(1);
        for looked in 0..SCAN.min(enough) {
            // Another time around would find what was used lately.
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
            let Some(window) = self.windows.get(id) else {
                continue;
            };
            if window.state() != State::Live || window.users() != 0 {
                continue;
            }
            if window.test_and_clear_used() || !window.close() {
                continue;
            }
            self.unlink(state, id, window);
            self.queue_unmap(state, id, window);
            state.counters.windows_reclaimed.inc();
            found = found.saturating_add(1);
        }
        // Once around finds what was not used since the last time, once more finds all.
        if found == 0 && *scanned > last.saturating_mul(2) {
            return RoundResult::Failed(error);
        }
        if found != 0 {
            *scanned = 0;
        }
        self.ring_unmap(state);
        RoundResult::Again
    }

    /// Gives back what is idle, for a call that cannot have all that it needs otherwise.
    pub(super) fn reclaim_all_idle(&self) {
        let mut scanned = 0;
        for _ in 0..MAX_ROUNDS {
            let mut state = self.state.lock();
            // The error is nobody's.
            if let RoundResult::Failed(_) =
                self.reclaim(&mut state, &mut scanned, MapError::Refused)
            {
                return;
            }
        }
    }
}
