// SPDX-License-Identifier: GPL-2.0

//! Much memory at once, of which places far apart are mapped.
//!
//! A few large allocations rather than many small ones, so that a test itself decides how its
//! mappings are scattered, independently of the page allocator.

use crate::buffer::Buffer;
use crate::scatterlist::Entry;
use crate::span::Span;
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Greatest size of an allocation, if the page allocator has such.
const BLOCK: usize = 4 << 20;

/// Allocations, in ascending order of their physical addresses.
pub(crate) struct Land {
    blocks: KVVec<Buffer>,
    /// Bytes of each of them.
    block_len: usize,
}

/// Sorts `blocks`, which are few, by their addresses. The sorts of `core` can panic, and objtool
/// does not know that.
fn sort_by_address(blocks: &mut [Buffer]) {
    for _ in 0..blocks.len() {
        let mut rest = &mut *blocks;
        while let [first, others @ ..] = rest {
            if let Some(second) = others.first_mut() {
                if second.phys(0) < first.phys(0) {
                    core::mem::swap(first, second);
                }
            }
            rest = others;
        }
    }
}

impl Land {
    /// Allocates at least `len` bytes. May sleep.
    pub(crate) fn new(len: usize) -> Result<Self> {
        let largest = PAGE_SIZE
            .checked_shl(bindings::MAX_PAGE_ORDER)
            .map_or(BLOCK, |most| most.min(BLOCK));
        let block_len = len.max(1).checked_next_power_of_two().ok_or(ENOMEM)?;
        let block_len = block_len.clamp(PAGE_SIZE, largest);
        let count = len.div_ceil(block_len).max(1);
        let mut blocks = KVVec::with_capacity(count, GFP_KERNEL)?;

        for _ in 0..count {
            blocks.push(Buffer::new(block_len)?, GFP_KERNEL)?;
        }
        sort_by_address(&mut blocks);
        Ok(Self { blocks, block_len })
    }

    /// Allocates room for `count` ranges of `len` bytes that start `stride` bytes apart, the first
    /// `offset` bytes from the start of a page.
    pub(crate) fn for_ranges(count: usize, ranges: &Ranges) -> Result<Self> {
        let per_block = BLOCK.checked_div(ranges.stride).ok_or(EINVAL)?;
        let blocks = count.checked_div(per_block).ok_or(EINVAL)?;
        let rest = count
            .saturating_sub(blocks.saturating_mul(per_block))
            .saturating_mul(ranges.stride);

        Self::new(blocks.saturating_mul(BLOCK).saturating_add(rest))
    }

    /// Returns the allocations.
    pub(crate) fn blocks(&self) -> &[Buffer] {
        &self.blocks
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len().saturating_mul(self.block_len)
    }

    /// Returns the place of range number `index` of `ranges`, as an entry of a scatterlist.
    pub(crate) fn entry(&self, ranges: &Ranges, index: usize) -> Result<Entry> {
        let per_block = self.block_len.checked_div(ranges.stride).ok_or(EINVAL)?;
        let buffer = index.checked_div(per_block).ok_or(EINVAL)?;
        let within = index.checked_rem(per_block).ok_or(EINVAL)?;

        Ok(Entry {
            buffer,
            offset: within
                .saturating_mul(ranges.stride)
                .saturating_add(ranges.offset),
            len: ranges.len,
        })
    }

    /// Returns the `len` bytes from byte `start` of the land on; [`None`] if some do not exist or
    /// they are not contiguous.
    pub(crate) fn place(&self, start: usize, len: usize) -> Option<Place<'_>> {
        let first = start.checked_div(self.block_len)?;
        let last = start
            .checked_add(len.checked_sub(1)?)?
            .checked_div(self.block_len)?;
        let blocks = self.blocks.get(first..=last)?;
        let base = blocks.first()?.phys(0);

        let contiguous = blocks.iter().enumerate().all(|(number, block)| {
            // CAST: Physical addresses are at least as wide as `usize`.
            let distance = number.saturating_mul(self.block_len) as bindings::phys_addr_t;
            block.phys(0) == base.saturating_add(distance)
        });
        contiguous.then_some(Place {
            blocks,
            offset: start.checked_rem(self.block_len)?,
            len,
        })
    }

    /// Returns range number `index` of `ranges`, to be mapped by itself.
    pub(crate) fn range(&self, ranges: &Ranges, index: usize) -> Result<Place<'_>> {
        let entry = self.entry(ranges, index)?;
        let start = entry
            .buffer
            .checked_mul(self.block_len)
            .and_then(|block| block.checked_add(entry.offset))
            .ok_or(EINVAL)?;

        self.place(start, entry.len).ok_or(EINVAL)
    }

    /// Returns the physical address of byte `start` of the land.
    pub(crate) fn phys(&self, start: usize) -> Option<bindings::phys_addr_t> {
        let block = self.blocks.get(start.checked_div(self.block_len)?)?;

        Some(block.phys(start.checked_rem(self.block_len)?))
    }
}

/// Ranges at regular distances.
#[derive(Clone, Copy)]
pub(crate) struct Ranges {
    /// Bytes from the start of a page to that of a range.
    offset: usize,
    len: usize,
    /// Bytes from one start to the next.
    stride: usize,
}

impl Ranges {
    /// Creates ranges of `len` bytes, `offset` bytes into pages, `stride` bytes apart; if `stride`
    /// is 0, as close as possible without sharing a page.
    pub(crate) fn new(offset: usize, len: usize, stride: usize) -> Result<Self> {
        let room = offset
            .checked_add(len)
            .and_then(|end| end.checked_next_multiple_of(PAGE_SIZE))
            .ok_or(EINVAL)?;
        let stride = if stride == 0 { room } else { stride };

        if len == 0 || offset >= PAGE_SIZE || stride < room || stride > BLOCK {
            return Err(EINVAL);
        }
        Ok(Self {
            offset,
            len,
            stride: stride.checked_next_power_of_two().ok_or(EINVAL)?,
        })
    }
}

/// Contiguous bytes of a [`Land`].
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Blocks that hold the place, in order.
    blocks: &'a [Buffer],
    /// Bytes from the start of the first block.
    offset: usize,
    len: usize,
}

impl<'a> Place<'a> {
    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the first page, and the offset of the place in it.
    pub(crate) fn page(&self) -> Result<(*mut bindings::page, usize)> {
        self.blocks.first().ok_or(EINVAL)?.page(self.offset)
    }

    /// Returns the physical address of the first byte.
    pub(crate) fn phys(&self) -> Option<bindings::phys_addr_t> {
        Some(self.blocks.first()?.phys(self.offset))
    }

    /// Returns the memory, block by block.
    pub(crate) fn spans(&self) -> impl Iterator<Item = Span<'a>> + Clone {
        let Self {
            blocks,
            offset,
            len,
        } = *self;

        blocks
            .iter()
            .enumerate()
            .filter_map(move |(number, block)| {
                let from = if number == 0 { offset } else { 0 };
                let before = match number {
                    0 => 0,
                    _ => number.checked_mul(block.len())?.checked_sub(offset)?,
                };
                let part = block.len().checked_sub(from)?.min(len.checked_sub(before)?);

                block.part(from, part).ok()
            })
    }
}
