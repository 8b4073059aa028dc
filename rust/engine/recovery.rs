// SPDX-License-Identifier: GPL-2.0

//! Recovery of lost windows, those that the host did not unmap: retries until the host is known to
//! have none of them.
//!
//! The engine does not know whether the host still maps a lost window. The reply to another UNMAP
//! may tell. If the host refuses it, either there is no such mapping, or the host keeps it. A MAP
//! of the same span tells which: the host refuses a live key. If it does not refuse, it has the
//! window now, and UNMAP can remove it. Neither changes what counts against the limits, since a
//! lost window counts already.

use super::host::{
    MapOutcome,
    ReplyError,
    UnmapOutcome, //
};
use super::{
    Engine,
    Host,
    Locked,
    MapEntry,
    MapError,
    Observer,
    UnmapEntry, //
};
use crate::engine::index::arena::{
    Id,
    Linked,
    NONE, //
};
use crate::engine::policy::Policy;
use crate::engine::window::Window;
use crate::sys::Relaxed;

/// Most steps that it takes to learn the fate of a window, if the host is honest.
pub(super) const STEPS: u32 = 2;

/// A queue of windows, linked by ids.
struct Queue {
    first: Id,
    last: Id,
}

/// The lost windows, by the next command to send for them.
pub(super) struct Lost {
    /// Windows to UNMAP.
    unmap: Queue,
    /// Windows to MAP, since the host refused to unmap them.
    map: Queue,
    /// Set when the host mapped something at IOVAs that a lost window may have.
    pub(super) in_the_way: bool,
}

impl Lost {
    /// Creates empty queues.
    pub(super) const fn new() -> Self {
        const EMPTY: Queue = Queue {
            first: NONE,
            last: NONE,
        };
        Self {
            unmap: EMPTY,
            map: EMPTY,
            in_the_way: false,
        }
    }
}

/// The budget of recovery steps that one call may take for one reason.
#[derive(Default)]
pub(super) struct RetryBudget {
    taken: u64,
    budget: u64,
}

impl RetryBudget {
    /// Returns whether another retry is within budget. `steps` is the most that the retry may need;
    /// 0 means that retrying cannot help.
    pub(super) fn try_consume(&mut self, steps: u64) -> bool {
        // `steps` shrinks as windows are recovered, so the largest value is the budget.
        self.budget = self.budget.max(steps);
        let within = steps != 0 && self.taken < self.budget;
        if within {
            self.taken = self.taken.saturating_add(1);
        }
        within
    }
}

impl<H> Locked<H> {
    /// Returns the number of lost windows.
    pub(super) fn lost(&self) -> u64 {
        let lost = self.counters.windows_lost.get();
        lost.saturating_sub(self.counters.windows_recovered.get())
    }

    /// Returns the number of batches that hold all lost windows.
    fn lost_batches(&self) -> u64 {
        let lost = self.lost();
        // CAST: `usize` has at most 64 bits.
        lost.div_ceil(self.unmap.limit().min(self.map.limit()).max(1) as u64)
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Unmaps the windows that calls left to it, and retries to unmap some of the lost windows, a
    /// batch at most. To be called periodically. Interrupts are off for one doorbell at a time.
    ///
    /// Context: any.
    pub(crate) fn retry_lost(&self) {
        self.unmap_retired();
        for _ in 0..STEPS {
            if !self.retry_lost_step() {
                return;
            }
        }
    }

    /// Retries to unmap all lost windows.
    ///
    /// Context: any.
    pub(super) fn retry_all_lost(&self) {
        let batches = self.state.lock().lost_batches();
        for _ in 0..batches {
            self.retry_lost();
        }
    }

    /// Returns how many recovery steps a call that failed with `error` may take, since a lost
    /// window may be the reason; 0 if none can be.
    pub(super) fn lost_steps(&self, error: MapError) -> u64 {
        let steps = u64::from(STEPS);
        match error {
            // Any recovered window helps.
            MapError::Full(_) | MapError::NoKey => self
                .state
                .lock()
                .lost_batches()
                .min(1)
                .saturating_mul(steps),
            // A lost window is at these addresses, but it is not known which.
            MapError::Rejected(ReplyError::Overlap) => {
                let mut state = self.state.lock();
                if core::mem::take(&mut state.lost.in_the_way) {
                    state.lost_batches().saturating_mul(steps)
                } else {
                    0
                }
            }
            _ => 0,
        }
    }

    /// Sends the next commands for some of the lost windows. Returns whether there were any.
    ///
    /// Context: any.
    pub(super) fn retry_lost_step(&self) -> bool {
        let mapped = self.map_lost(&mut self.state.lock());
        // A window that was mapped only to learn its state must not stay mapped.
        self.unmap_lost(&mut self.state.lock()) || mapped
    }

    /// Queues a lost window for the command that follows from `outcome`, that of its last UNMAP.
    ///
    /// Context: engine lock held.
    pub(super) fn queue_recovery(
        &self,
        state: &mut Locked<H>,
        id: Id,
        window: &Window,
        outcome: UnmapOutcome,
    ) {
        match outcome {
            UnmapOutcome::Refused => self.push_back(&mut state.lost.map, id, window),
            UnmapOutcome::Rejected(_) | UnmapOutcome::Unknown | UnmapOutcome::Unmapped => {
                self.push_back(&mut state.lost.unmap, id, window)
            }
        }
    }

    /// Sends a batch of the queued UNMAPs. Returns whether there were any.
    fn unmap_lost(&self, state: &mut Locked<H>) -> bool {
        while state.host.is_ready() && !state.unmap.is_full() {
            let Some((id, window)) = self.pop(&mut state.lost.unmap) else {
                break;
            };
            if let Some(span) = window.span() {
                state.unmap.push(UnmapEntry {
                    id,
                    ..UnmapEntry::new(span)
                });
            }
        }
        let any = !state.unmap.is_empty();
        self.count_retried(state, state.unmap.len);
        self.submit_unmap(state);
        any
    }

    /// Sends a batch of the queued MAPs. Returns whether there were any.
    fn map_lost(&self, state: &mut Locked<H>) -> bool {
        while state.host.is_ready() && !state.map.is_full() {
            let Some((id, window)) = self.pop(&mut state.lost.map) else {
                break;
            };
            if let Some(span) = window.span() {
                state.map.push(MapEntry {
                    id,
                    ..MapEntry::new(span)
                });
            }
        }
        if state.map.is_empty() {
            return false;
        }
        self.count_retried(state, state.map.len);
        state.send_map(&self.costs);
        for index in 0..state.map.len {
            let Some(entry) = state.map.get(index) else {
                break;
            };
            let Some(window) = self.index.window(entry.id) else {
                continue;
            };
            match entry.outcome {
                // The host keeps the window, or has no room for it: other windows go first.
                MapOutcome::Refused => self.push_back(&mut state.lost.unmap, entry.id, window),
                // The address does not matter, since UNMAP names the key.
                MapOutcome::Mapped(_) | MapOutcome::Rejected(_) | MapOutcome::Unknown => {
                    self.push_front(&mut state.lost.unmap, entry.id, window)
                }
            }
        }
        state.map.clear();
        true
    }

    fn count_retried(&self, state: &mut Locked<H>, windows: usize) {
        // CAST: `usize` has at most 64 bits.
        state.counters.retries_lost.add(windows as u64);
    }

    fn push_back(&self, queue: &mut Queue, id: Id, window: &Window) {
        window.link().store(NONE, Relaxed);
        match self.index.window(queue.last) {
            Some(last) => last.link().store(id, Relaxed),
            None => queue.first = id,
        }
        queue.last = id;
    }

    fn push_front(&self, queue: &mut Queue, id: Id, window: &Window) {
        window.link().store(queue.first, Relaxed);
        if queue.first == NONE {
            queue.last = id;
        }
        queue.first = id;
    }

    fn pop(&self, queue: &mut Queue) -> Option<(Id, &Window)> {
        let id = queue.first;
        let window = self.index.window(id)?;
        queue.first = window.link().load(Relaxed);
        if queue.first == NONE {
            queue.last = NONE;
        }
        Some((id, window))
    }
}
