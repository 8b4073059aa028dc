// SPDX-License-Identifier: GPL-2.0

//! Memory in blocks of the page allocator, as drivers of GPUs have it: mapped for long, in both
//! directions, and never synchronized. Data pass at both ends of each block.

use super::prelude::*;
use crate::engine::Iova;
use crate::span::Span;

/// Bytes at either end of a block that are used.
const USED: usize = 4096;

/// Direction of all mappings.
pub(super) const DIRECTION: DataDirection = DataDirection::Bidirectional;

/// Blocks of memory.
pub(super) struct Blocks {
    blocks: KVVec<Buffer>,
}

impl Blocks {
    /// Memory without a block.
    pub(super) const EMPTY: Self = Self {
        blocks: KVVec::new(),
    };

    /// Appends a block of `len` bytes, a power of two of whole pages. May sleep.
    pub(super) fn push(&mut self, len: usize) -> Result {
        Ok(self.blocks.push(Buffer::new(len)?, GFP_KERNEL)?)
    }

    /// Returns the blocks in their order.
    pub(super) fn as_slice(&self) -> &[Buffer] {
        &self.blocks
    }

    /// Returns the offsets and the lengths of the used parts of a block of `len` bytes.
    fn parts(len: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
        let used = USED.min(len);
        let last = len.saturating_sub(used);

        [Some((0, used)), (last != 0).then_some((last, used))]
            .into_iter()
            .flatten()
    }

    /// Returns the used memory.
    fn spans(&self) -> impl Iterator<Item = Span<'_>> + Clone {
        self.blocks.iter().flat_map(|block| {
            Self::parts(block.len()).filter_map(|(offset, len)| block.whole().part(offset, len))
        })
    }

    /// Returns the lengths of the used parts.
    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        let blocks = self.blocks.iter();
        blocks.flat_map(|block| Self::parts(block.len()).map(|(_, len)| len))
    }

    /// Returns the used parts as the device sees them, by the DMA address of each block.
    pub(super) fn segments<'a>(
        &'a self,
        addresses: impl Iterator<Item = Iova> + 'a,
    ) -> impl Iterator<Item = Segment> + 'a {
        addresses.zip(self.blocks.iter()).flat_map(|(iova, block)| {
            Self::parts(block.len()).map(move |(offset, len)| Segment {
                iova: iova.add(offset),
                len,
            })
        })
    }

    /// Returns an exchange of data over the used parts.
    pub(super) fn exchange(&self, seed: u64) -> Exchange<impl Iterator<Item = Span<'_>> + Clone> {
        Exchange::new(self.spans(), DIRECTION, seed)
    }
}
