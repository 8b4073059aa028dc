// SPDX-License-Identifier: GPL-2.0

//! The engine's books: which windows there are, where they are found, what keys are taken, and what
//! counts against the limits. Nothing here talks to the host.

pub(crate) mod arena;
pub(crate) mod granule_map;
pub(crate) mod ram_table;

use super::{
    Engine,
    Host,
    Limit,
    Locked,
    MapError,
    Observer, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    PAGE, //
};
use crate::engine::index::arena::{
    Id,
    NONE, //
};
use crate::engine::policy::{
    Policy,
    Proposal,
    View, //
};
use crate::engine::window::{
    State,
    Window, //
};
use crate::sys::{
    AllocError,
    Relaxed, //
};

/// How many other keys are tried when a window's own is taken.
const MAX_KEYS: u64 = 1024;

/// What stands in the way of a new window.
pub(super) enum Obstacle {
    /// The batch has no room.
    Batch,
    /// One of the limits.
    Limit(Limit),
    /// The tables have no room.
    Tables,
    /// All keys that the window could have are taken.
    Key,
    /// It will not get better.
    Fatal(MapError),
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// What the policy may know.
    pub(super) fn view<'a>(
        &'a self,
        state: &Locked<H>,
        len_at: &'a dyn Fn(u64) -> Option<u64>,
    ) -> View<'a> {
        View {
            len_at,
            bytes: state.budget.bytes(),
            entries: state.budget.entries(),
        }
    }

    /// The length of the window that covers `granule`, if there is one.
    pub(super) fn len_at(&self, granule: u64) -> Option<u64> {
        let id = self.by_gpa.get_locked(&self.chunks, granule);
        Some(self.windows.get(id)?.span()?.len())
    }

    /// The windows that may serve `span`. The caller holds the lock.
    pub(super) fn candidates(&self, span: &GpaSpan) -> [Id; 2] {
        let granule = span.first_granule();
        [
            self.by_gpa.get_locked(&self.chunks, granule),
            self.by_start.get_locked(&self.chunks, granule),
        ]
    }

    /// Whether the limits have room for a window for `span`.
    pub(super) fn check_limits(&self, state: &Locked<H>, span: &GpaSpan) -> Result<(), Obstacle> {
        if span.len() > state.host.len_max() {
            return Err(Obstacle::Fatal(MapError::Refused));
        }
        state.budget.check(span).map_err(Obstacle::Limit)
    }

    /// Makes a pending window for `span`, with its key taken and counted against the limits.
    pub(super) fn admit(
        &self,
        state: &mut Locked<H>,
        span: &GpaSpan,
        anchor: Option<u64>,
    ) -> Result<(Id, &Window), Obstacle> {
        self.check_limits(state, span)?;
        let (id, window) = self
            .windows
            .take(&mut state.free_windows)
            .ok_or(Obstacle::Tables)?;
        window.prepare(span, anchor);
        state.budget.charge(span);
        self.insert_key(state, id, window);
        Ok((id, window))
    }

    /// Makes a pending window known by the memory that it covers.
    pub(super) fn link(
        &self,
        state: &mut Locked<H>,
        id: Id,
        window: &Window,
    ) -> Result<(), AllocError> {
        let Some(span) = window.span() else {
            return Ok(());
        };
        let free = &mut state.free_chunks;
        let anchor = window.anchor();
        for granule in span.first_granule()..=span.last_granule() {
            // A tile serves everything in it, so it comes first; others fill the gaps until they
            // are open.
            let old = self.by_gpa.get_locked(&self.chunks, granule);
            if anchor.is_none() || self.windows.get(old).is_none() {
                self.by_gpa.set(&self.chunks, free, granule, id)?;
            }
        }
        match anchor {
            Some(granule) => self.by_start.set(&self.chunks, free, granule, id),
            None => Ok(()),
        }
    }

    /// Has a window that is about to open take the places of those whose memory it covers all of.
    /// Not before: should the host not make it nobody would find those.
    pub(super) fn displace(&self, state: &mut Locked<H>, id: Id, window: &Window, span: &GpaSpan) {
        if window.anchor().is_none() {
            return;
        }
        for granule in span.first_granule()..=span.last_granule() {
            let old = self.by_gpa.get_locked(&self.chunks, granule);
            let better = |old: &Window| old.span().is_some_and(|old| span.covers(&old));
            if old != id && self.windows.get(old).is_none_or(better) {
                // Without memory it is not found here.
                let free = &mut state.free_chunks;
                let _ = self.by_gpa.set(&self.chunks, free, granule, id);
            }
        }
    }

    /// Has a window that is open found where nobody else is: those that hid it went to the host
    /// with it, and the host did not make them.
    pub(super) fn uncover(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        let Some(span) = window.span() else {
            return;
        };
        // Without memory it is not found there.
        let free = &mut state.free_chunks;
        for granule in span.first_granule()..=span.last_granule() {
            let old = self.by_gpa.get_locked(&self.chunks, granule);
            if self.windows.get(old).is_none() {
                let _ = self.by_gpa.set(&self.chunks, free, granule, id);
            }
        }
        if let Some(granule) = window.anchor() {
            let old = self.by_start.get_locked(&self.chunks, granule);
            if self.windows.get(old).is_none() {
                let _ = self.by_start.set(&self.chunks, free, granule, id);
            }
        }
    }

    /// Makes a closed window unknown to those who look for memory. Its key and its addresses stay
    /// taken: the host may have it.
    pub(super) fn unlink(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        let free = &mut state.free_chunks;
        if let Some(granule) = window.anchor() {
            self.by_start.clear(&self.chunks, free, granule, id);
        }
        if let Some(span) = window.span() {
            for granule in span.first_granule()..=span.last_granule() {
                self.by_gpa.clear(&self.chunks, free, granule, id);
            }
        }
    }

    /// Frees an unlinked window that the host does not have.
    pub(super) fn discard(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        state.count_uses(window);
        if let Some(span) = window.span() {
            state.budget.refund(&span, window.padding());
        }
        self.remove_key(state, id, window);
        // What was never open has none of them.
        if let Some(span) = window.iova_span() {
            let free = &mut state.free_chunks;
            for granule in span.first_granule()..=span.last_granule() {
                self.by_iova.clear(&self.chunks, free, granule, id);
            }
        }
        window.set_state(State::Free);
        self.windows.free(&mut state.free_windows, id);
    }

    /// Moves the start of a proposed window so that its key is free, as little as possible.
    pub(super) fn with_free_key(
        &self,
        state: &Locked<H>,
        proposal: Proposal,
        request: &GpaSpan,
        block: Option<&GpaSpan>,
    ) -> Option<Proposal> {
        let span = proposal.span;
        if self.key_is_free(state, span.start()) {
            return Some(proposal);
        }
        let start = span.start().raw();
        let lowest = block.map_or(start, |block| block.start().raw());
        let mut step: u64 = 0;
        for _ in 0..MAX_KEYS {
            step = step.saturating_add(PAGE);
            for start in [start.saturating_add(step), start.saturating_sub(step)] {
                if start < lowest || start > request.start().raw() {
                    continue;
                }
                if self.key_is_free(state, Gpa::new(start)) {
                    let span = GpaSpan::from_bounds(start, span.end())?;
                    return Some(Proposal { span, tile: false });
                }
            }
        }
        None
    }

    pub(super) fn key_is_free(&self, state: &Locked<H>, key: Gpa) -> bool {
        let mut id = state
            .keys
            .get(key_bucket(state, key))
            .copied()
            .unwrap_or(NONE);
        while let Some(window) = self.windows.get(id) {
            if window.span().is_some_and(|span| span.start() == key) {
                return false;
            }
            id = window.next_key.load(Relaxed);
        }
        true
    }

    pub(super) fn insert_key(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        let Some(span) = window.span() else {
            return;
        };
        let bucket = key_bucket(state, span.start());
        if let Some(head) = state.keys.get_mut(bucket) {
            window.next_key.store(*head, Relaxed);
            *head = id;
        }
    }

    pub(super) fn remove_key(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        let Some(span) = window.span() else {
            return;
        };
        let next = window.next_key.load(Relaxed);
        let bucket = key_bucket(state, span.start());
        let Some(head) = state.keys.get_mut(bucket) else {
            return;
        };
        if *head == id {
            *head = next;
            return;
        }
        let mut before = *head;
        while let Some(window) = self.windows.get(before) {
            let after = window.next_key.load(Relaxed);
            if after == id {
                window.next_key.store(next, Relaxed);
                return;
            }
            before = after;
        }
    }
}

fn key_bucket<H>(state: &Locked<H>, key: Gpa) -> usize {
    let bits = state.keys.len().max(2).ilog2();
    let hash = (key.raw() / PAGE).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - bits);
    // CAST: The hash is below the number of buckets, a `usize`.
    hash as usize
}
