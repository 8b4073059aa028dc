// SPDX-License-Identifier: GPL-2.0

//! Creation of a window for a request: its span, its key, its place in the index and in the batch.
//!
//! A window that is created here is pending until the batch is submitted. The policy proposes what
//! the window covers; the limits, the alignment of large buffers and the uniqueness of keys are
//! applied here.

use super::admission::Offer;
use super::align_target::AlignTarget;
use super::host::{
    Host,
    MapEntry, //
};
use super::index::arena::Id;
use super::{
    Engine,
    Limit,
    Locked,
    MapError,
    Observer, //
};
use crate::addr::{
    Address,
    GpaSpan, //
};
use crate::engine::policy::{
    largest_tile,
    smallest,
    Policy,
    Proposal,
    View, //
};
use crate::engine::window::Window;

/// The choice of a window for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The largest tile within what was offered that covers the request; the smallest window if
    /// none does.
    Admitted(Offer),
    /// The window that the policy proposes.
    Policy,
    /// The smallest window that covers the request.
    Smallest,
}

/// An obstacle to the creation of a window.
pub(super) enum Obstacle {
    /// The batch is full.
    Batch,
    /// A limit is reached.
    Limit(Limit),
    /// The index is full.
    Tables,
    /// The keys that the window could have are taken.
    Key,
    /// A retry cannot help.
    Fatal(MapError),
}

impl<H: Host> Locked<H> {
    /// Returns an error if the host or a limit has no room for a window for `span`.
    fn check_limits(&self, span: &GpaSpan) -> Result<(), Obstacle> {
        if span.len() > self.host.len_max() {
            return Err(Obstacle::Fatal(MapError::Refused));
        }
        self.budget.check(span).map_err(Obstacle::Limit)
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Adds a window that covers `request` to the batch, with a filler before it if `target` is to
    /// have one.
    ///
    /// Context: engine lock held.
    pub(super) fn add(
        &self,
        state: &mut Locked<H>,
        request: &GpaSpan,
        choice: Choice,
        target: Option<&mut AlignTarget>,
    ) -> Result<(), Obstacle> {
        if state.map.is_full() {
            return Err(Obstacle::Batch);
        }
        let block = state.ram.block_of(request).copied();
        let block = block.as_ref();
        let proposal = self
            .propose(state, request, choice, block)
            .ok_or(Obstacle::Fatal(MapError::Invalid))?;
        let (proposal, padding, filler) = match target {
            Some(target) => {
                target.anticipate(&proposal.span, &state.forecast, state.alloc_order);
                let filler = self.add_filler(state, request, &proposal.span, target)?;
                let (proposal, padding) = Self::align(state, proposal, block, target);
                (proposal, padding, filler)
            }
            None => (proposal, 0, false),
        };
        let result = self.add_window(state, request, block, proposal, padding);
        if result.is_err() && filler {
            self.cancel_last(state);
        }
        result
    }

    /// Adds the window `proposal` for `request`, of which `padding` bytes are padding, to the
    /// batch.
    fn add_window(
        &self,
        state: &mut Locked<H>,
        request: &GpaSpan,
        block: Option<&GpaSpan>,
        proposal: Proposal,
        padding: u64,
    ) -> Result<(), Obstacle> {
        let start = proposal.span.start();
        let lowest = block.map_or(start, GpaSpan::start).raw();
        let span = self
            .index
            .with_free_key(&state.index, &proposal.span, lowest..=request.start().raw())
            .ok_or(Obstacle::Key)?;
        state.check_limits(&span)?;
        if !state.index.has_chunks(&span) {
            return Err(Obstacle::Tables);
        }
        let is_tile = proposal.tile && span.start() == start;
        let anchor = (!is_tile).then(|| request.first_granule());
        let (id, window) = self.create(state, &span, anchor)?;
        window.set_padding(padding);
        state.budget.charge_padding(padding);
        state.index.reserve_chunks(&span);
        if self.index.insert(&mut state.index, id, window).is_err() {
            // Not reached: there are enough chunks, as was checked above.
            self.index.remove(&mut state.index, id, window);
            self.destroy(state, id, window);
            return Err(Obstacle::Fatal(MapError::NoMemory));
        }
        state.map.push(MapEntry {
            id,
            ..MapEntry::new(span)
        });
        Ok(())
    }

    /// Removes the last entry of the batch, whose window is found by nothing, and destroys the
    /// window.
    fn cancel_last(&self, state: &mut Locked<H>) {
        let Some(entry) = state.map.pop() else {
            return;
        };
        if let Some(window) = self.index.window(entry.id) {
            self.destroy(state, entry.id, window);
        }
        if state.map.is_empty() {
            state.index.unreserve_chunks();
        }
    }

    /// Returns the window that the policy proposes for `request`, or the smallest one.
    fn propose(
        &self,
        state: &Locked<H>,
        request: &GpaSpan,
        choice: Choice,
        block: Option<&GpaSpan>,
    ) -> Option<Proposal> {
        let view = View {
            len_at: &|granule| self.index.len_at(&state.index, granule),
            bytes: state.budget.bytes(),
            entries: state.budget.entries(),
        };
        let proposal = match (choice, block) {
            (Choice::Policy, Some(block)) => self
                .policy
                .propose(request, block, &view)
                .filter(|p| p.span.covers(request) && block.covers(&p.span)),
            (Choice::Admitted(offer), Some(block)) => {
                largest_tile(request, block, offer.size, &view)
            }
            _ => None,
        };
        proposal.or_else(|| smallest(request, block))
    }

    /// Extends `proposal` for `target`, if RAM and the limits have room for that. Returns the bytes
    /// of the extension as well.
    fn align(
        state: &Locked<H>,
        proposal: Proposal,
        block: Option<&GpaSpan>,
        target: &mut AlignTarget,
    ) -> (Proposal, u64) {
        let (padding, max_bytes) = (state.budget.usage().padding, state.budget.max_bytes());
        loop {
            let (extra, span) = target.extend(&proposal.span);
            if extra == 0 {
                return (proposal, 0);
            }
            let extended = span
                .filter(|span| block.is_some_and(|block| block.covers(span)))
                // Room is made for a required one.
                .filter(|span| target.is_required() || state.check_limits(span).is_ok())
                .filter(|_| target.within_budget(padding, max_bytes));
            if let Some(span) = extended {
                return (Proposal { span, tile: false }, extra);
            }
            if !target.relax() {
                return (proposal, 0);
            }
        }
    }

    /// Creates a pending window for `span`, takes its key and counts it against the limits.
    ///
    /// Context: engine lock held.
    pub(super) fn create(
        &self,
        state: &mut Locked<H>,
        span: &GpaSpan,
        anchor: Option<u64>,
    ) -> Result<(Id, &Window), Obstacle> {
        if span.len() > state.host.len_max() {
            return Err(Obstacle::Fatal(MapError::Refused));
        }
        state.budget.charge(span).map_err(Obstacle::Limit)?;
        match self.index.create(&mut state.index, span, anchor) {
            Some((id, window)) => {
                if let Some(admission) = &self.admission {
                    admission.opened(id, span, None);
                }
                Ok((id, window))
            }
            None => {
                state.budget.refund(span, 0);
                Err(Obstacle::Tables)
            }
        }
    }

    /// Frees a window that the host does not have, and that is not found by memory.
    ///
    /// Context: engine lock held.
    pub(super) fn destroy(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        self.count_uses_of(state, id, window);
        if let Some(span) = window.span() {
            state.budget.refund(&span, window.padding());
        }
        self.index.destroy(&mut state.index, id, window);
    }

    /// Destroys the windows of a batch that was not submitted.
    ///
    /// Context: engine lock held.
    pub(super) fn cancel_batch(&self, state: &mut Locked<H>) {
        for index in 0..state.map.len {
            if let Some(entry) = state.map.get(index) {
                if let Some(window) = self.index.window(entry.id) {
                    self.index.remove(&mut state.index, entry.id, window);
                    self.destroy(state, entry.id, window);
                }
            }
        }
        state.map.clear();
        state.index.unreserve_chunks();
    }
}
