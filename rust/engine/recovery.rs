// SPDX-License-Identifier: GPL-2.0

//! Windows that the host did not take back: asking for them again, until it is known that it has
//! none of them.
//!
//! Whether the host still has such a window is not known. What it says to another UNMAP may tell;
//! if it refuses, there is nothing to take, or it keeps what there is. A MAP of the same span tells
//! which: a live key is refused. If it is not, the window is one that the host has and that can be
//! asked for. Neither changes what counts against the limits, since a lost window does already.

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

/// Steps that it takes at most to know what became of a window, if the host is honest.
pub(super) const STEPS: u32 = 2;

/// A queue of windows, linked by their ids.
struct Queue {
    first: Id,
    last: Id,
}

/// The windows that are lost, by what is to be asked next.
pub(super) struct Lost {
    /// UNMAP.
    unmap: Queue,
    /// MAP, since the host refused to unmap them.
    map: Queue,
    /// Whether the host mapped something where one of them may be.
    pub(super) in_the_way: bool,
}

impl Lost {
    /// None.
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

/// How often one call asks for what is lost again, for one reason.
#[derive(Default)]
pub(super) struct RetryBudget {
    asked: u64,
    steps: u64,
}

impl RetryBudget {
    /// Whether to ask once more, if it takes `steps` from now on at most; none is no reason to.
    pub(super) fn try_consume(&mut self, steps: u64) -> bool {
        // There are fewer of them each time that some are found.
        self.steps = self.steps.max(steps);
        let try_consume = steps != 0 && self.asked < self.steps;
        if try_consume {
            self.asked = self.asked.saturating_add(1);
        }
        try_consume
    }
}

impl<H> Locked<H> {
    /// Batches that it takes to ask for all that is lost.
    fn lost_batches(&self) -> u64 {
        let lost = self.counters.windows_lost.get();
        let lost = lost.saturating_sub(self.counters.windows_recovered.get());
        // CAST: `usize` has at most 64 bits.
        lost.div_ceil(self.unmap.capacity().max(1) as u64)
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Asks for some of what is lost again, a batch at most. Any context; to be called now and
    /// then. Interrupts are off for a doorbell at a time.
    pub(crate) fn retry_lost(&self) {
        for _ in 0..STEPS {
            if !self.retry_lost_step() {
                return;
            }
        }
    }

    /// Asks for all that is lost.
    pub(super) fn retry_all_lost(&self) {
        let batches = self.state.lock().lost_batches();
        for _ in 0..batches {
            self.retry_lost();
        }
    }

    /// How many steps a call that failed with `error` may take to ask for what is lost, since that
    /// may be why.
    pub(super) fn lost_steps(&self, error: MapError) -> u64 {
        let steps = u64::from(STEPS);
        match error {
            // One of them is as good as another.
            MapError::Full(_) | MapError::NoKey => steps,
            // Which is at these addresses is not known, only that one is.
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

    /// Asks for some of what is lost again. Says whether it did.
    pub(super) fn retry_lost_step(&self) -> bool {
        let mapped = self.map_lost(&mut self.state.lock());
        // What was mapped just to know is not to stay.
        self.unmap_lost(&mut self.state.lock()) || mapped
    }

    /// Notes that the host answered `outcome` to the request to take back a lost window.
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

    /// Sends a batch of the UNMAPs that are to be sent. Says whether there were any.
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
        self.count_asked(state, state.unmap.len);
        self.submit_unmap(state);
        any
    }

    /// Sends a batch of the MAPs that are to be sent. Says whether there were any.
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
        self.count_asked(state, state.map.len);
        state.counters.doorbells.inc();
        state.host.map(state.map.filled_mut());
        for index in 0..state.map.len {
            let Some(entry) = state.map.get(index) else {
                break;
            };
            let Some(window) = self.index.window(entry.id) else {
                continue;
            };
            match entry.outcome {
                // It has it and keeps it, or has no room. Others first.
                MapOutcome::Refused => self.push_back(&mut state.lost.unmap, entry.id, window),
                // Where it is does not matter.
                MapOutcome::Mapped(_) | MapOutcome::Rejected(_) | MapOutcome::Unknown => {
                    self.push_front(&mut state.lost.unmap, entry.id, window)
                }
            }
        }
        state.map.clear();
        true
    }

    fn count_asked(&self, state: &mut Locked<H>, windows: usize) {
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
