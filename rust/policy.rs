// SPDX-License-Identifier: GPL-2.0

//! Which window to ask the host for when no window covers a request.
//!
//! A policy only proposes: the engine accepts what covers the request, lies in one block of guest
//! RAM and fits the budgets, and falls back to the smallest window otherwise. Pure code.

use crate::addr::{
    Address,
    GpaSpan,
    GRANULE,
    PAGE, //
};
use crate::sys::Slab;

/// The blocks of guest RAM, sorted by address and apart from each other.
pub(crate) struct Ram(Slab<GpaSpan>);

impl Ram {
    /// Takes the blocks of guest RAM, sorted by address.
    pub(crate) fn new(blocks: Slab<GpaSpan>) -> Self {
        Self(blocks)
    }

    /// All blocks.
    pub(crate) fn blocks(&self) -> &[GpaSpan] {
        &self.0
    }

    /// The block that all of `span` lies in. Constant in practice: guests have a few blocks.
    pub(crate) fn block_of(&self, span: &GpaSpan) -> Option<&GpaSpan> {
        let index = self
            .0
            .partition_point(|block| block.end() <= span.start().raw());
        self.0.get(index).filter(|block| block.covers(span))
    }
}

/// A proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// What the window covers.
    pub(crate) span: GpaSpan,
    /// Whether the window is one of those that tile the block, and so serves every request in it.
    pub(crate) tile: bool,
}

/// See the module's documentation.
pub(crate) trait Policy {
    /// The window to ask for, so that `request`, which lies in `block`, gets mapped.
    fn propose(&self, request: &GpaSpan, block: &GpaSpan) -> Option<Proposal>;
}

/// The smallest window that covers `request`: whole granules where guest RAM has them, and whole
/// pages in any case, since the host refuses what is not RAM.
pub(crate) fn smallest(request: &GpaSpan, block: Option<&GpaSpan>) -> Option<Proposal> {
    let span = match block {
        Some(block) => request.round_out(GRANULE)?.intersection(block)?,
        None => request.round_out(PAGE)?,
    };
    Some(Proposal { span, tile: false })
}

/// Windows of one size, aligned to it; for a request that no such window covers, the smallest.
pub(crate) struct Aligned {
    size: u64,
}

impl Aligned {
    /// Windows of `1 << shift` bytes, at least a granule.
    pub(crate) fn new(shift: u32) -> Self {
        Self {
            size: 1u64.checked_shl(shift).unwrap_or(0).max(GRANULE),
        }
    }
}

impl Policy for Aligned {
    fn propose(&self, request: &GpaSpan, block: &GpaSpan) -> Option<Proposal> {
        let tile = request.round_out(self.size)?;
        if tile.len() == self.size {
            Some(Proposal {
                span: tile.intersection(block)?,
                tile: true,
            })
        } else {
            smallest(request, Some(block))
        }
    }
}
