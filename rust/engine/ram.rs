// SPDX-License-Identifier: GPL-2.0

//! The layout of guest RAM, as far as the engine knows it.

use crate::addr::{
    Address,
    GpaSpan, //
};
use crate::sys::BoxedSlice;

/// The blocks of guest RAM, sorted by address and not adjacent.
pub(crate) struct Ram(BoxedSlice<GpaSpan>);

impl Ram {
    /// Creates a layout of `blocks`, which are sorted by address.
    pub(crate) fn new(blocks: BoxedSlice<GpaSpan>) -> Self {
        Self(blocks)
    }

    /// Returns all blocks.
    pub(crate) fn blocks(&self) -> &[GpaSpan] {
        &self.0
    }

    /// Returns the block that all of `span` lies in. Takes constant time in practice: guests have a
    /// few blocks.
    pub(crate) fn block_of(&self, span: &GpaSpan) -> Option<&GpaSpan> {
        let index = self
            .0
            .partition_point(|block| block.end() <= span.start().raw());
        self.0.get(index).filter(|block| block.covers(span))
    }
}
