// SPDX-License-Identifier: GPL-2.0

//! What the engine asks of a host, and how it hears what came of it.

use super::observer::Observer;
use crate::addr::GpaSpan;
use crate::engine::index::arena::{
    Id,
    NONE, //
};
use crate::host::wire::{
    MapOutcome,
    UnmapOutcome, //
};

/// One entry of a batch of map requests.
#[derive(Clone, Copy)]
pub(crate) struct MapEntry {
    /// What to map. Its first address is the key of the mapping.
    pub(crate) span: GpaSpan,
    /// What the host said.
    pub(crate) outcome: MapOutcome,
    pub(super) id: Id,
}

/// One entry of a batch of unmap requests.
#[derive(Clone, Copy)]
pub(crate) struct UnmapEntry {
    /// What to unmap. Its first address is the key of the mapping.
    pub(crate) span: GpaSpan,
    /// What the host said.
    pub(crate) outcome: UnmapOutcome,
    pub(super) id: Id,
}

impl MapEntry {
    /// An entry that has no window of the engine.
    pub(crate) fn new(span: GpaSpan) -> Self {
        Self {
            span,
            outcome: MapOutcome::Unknown,
            id: NONE,
        }
    }
}

impl UnmapEntry {
    /// An entry that has no window of the engine.
    pub(crate) fn new(span: GpaSpan) -> Self {
        Self {
            span,
            outcome: UnmapOutcome::Unknown,
            id: NONE,
        }
    }
}

/// The host, as the engine sees it: one that does what it is asked in batches, or does not.
///
/// It is called under the engine's lock, with interrupts off, and must not sleep.
pub(crate) trait Host: Unpin {
    /// Who is told what the engine does.
    type Observer: Observer;

    /// The engine asks once, when it is made.
    fn observer(&self) -> Self::Observer;

    /// Most entries of one batch. Does not change.
    fn batch_max(&self) -> usize;

    /// Most bytes of one mapping.
    fn len_max(&self) -> u64;

    /// Whether there is any use in asking now. Cheap; what is asked all the same has no answer.
    fn is_ready(&mut self) -> bool;

    /// Asks for the mappings of `batch`, which is not empty nor longer than [`Self::batch_max`],
    /// with one doorbell, and fills in every outcome.
    fn map(&mut self, batch: &mut [MapEntry]);

    /// Gives back the mappings of `batch`; as [`Self::map`].
    fn unmap(&mut self, batch: &mut [UnmapEntry]);
}
