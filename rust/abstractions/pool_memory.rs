// SPDX-License-Identifier: GPL-2.0

//! Memory of the copy pool, and the CPU's access to it and to what drivers map.
//!
//! C headers: [`include/linux/gfp.h`](srctree/include/linux/gfp.h),
//! [`include/linux/io.h`](srctree/include/linux/io.h)

use crate::addr::{
    Address,
    Gpa,
    GpaSpan, //
};
use crate::bindings;
use crate::engine::copy::pool::ROW;
use crate::engine::copy::setup::BLOCK;
use crate::engine::copy::Memory;
use crate::sys::{
    Atomic,
    Relaxed, //
};
use kernel::{
    bindings::page,
    page::PAGE_SIZE,
    prelude::*,
    processor::cpu_relax, //
};

/// Blocks of pages, freed when dropped.
///
/// # Invariants
///
/// Each pair is the result of an allocation of pages, which this object owns, with its order.
pub(crate) struct PoolMemory {
    blocks: KVec<(*mut page, u32)>,
    spans: KVec<GpaSpan>,
    /// Not 0 if the memory must never be used again.
    leaked: Atomic<u32>,
}

// SAFETY: Pages belong to no thread.
unsafe impl Send for PoolMemory {}

// SAFETY: A shared reference allows no access to the pages.
unsafe impl Sync for PoolMemory {}

/// Returns the order of a block of `bytes`, a power of two and at least a page.
fn order(bytes: u64) -> u32 {
    // CAST: `usize` has at most 64 bits.
    let pages = bytes.checked_div(PAGE_SIZE as u64).unwrap_or(0);
    pages.checked_ilog2().unwrap_or(0)
}

impl PoolMemory {
    /// Allocates `bytes`, in whole rows of a copy pool, in blocks that are as large as there are;
    /// less if memory is short.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(bytes: u64) -> Result<Self> {
        let mut this = Self {
            blocks: KVec::new(),
            spans: KVec::new(),
            leaked: Atomic::new(0),
        };
        let mut left = bytes;
        let mut size = BLOCK;
        while size >= ROW {
            if size > left {
                size /= 2;
                continue;
            }
            this.blocks.reserve(1, GFP_KERNEL)?;
            this.spans.reserve(1, GFP_KERNEL)?;
            let order = order(size);
            // SAFETY: Sleeping is allowed here.
            let block = unsafe { bindings::apple_dma_helper_alloc_block(order) };
            if block.is_null() {
                size /= 2;
                continue;
            }
            // INVARIANT: The block was just allocated like this.
            this.blocks.push((block, order), GFP_KERNEL)?;
            // SAFETY: `block` is a valid page.
            let start = unsafe { bindings::apple_dma_helper_page_to_phys(block) };
            let span = GpaSpan::new(Gpa::new(start), size).ok_or(EINVAL)?;
            this.spans.push(span, GFP_KERNEL)?;
            left = left.saturating_sub(size);
        }
        Ok(this)
    }

    /// Returns an object without memory.
    pub(crate) const fn none() -> Self {
        Self {
            blocks: KVec::new(),
            spans: KVec::new(),
            leaked: Atomic::new(0),
        }
    }

    /// Returns the blocks.
    pub(crate) fn spans(&self) -> &[GpaSpan] {
        &self.spans
    }

    /// Keeps the memory from being freed, since the device may still reach it.
    pub(crate) fn leak(&self) {
        self.leaked.store(1, Relaxed);
    }
}

impl Drop for PoolMemory {
    fn drop(&mut self) {
        if self.leaked.load(Relaxed) != 0 {
            return;
        }
        for (block, order) in &self.blocks {
            // SAFETY: By the type invariants this object owns the pages.
            unsafe { bindings::apple_dma_helper_free_block(*block, *order) };
        }
    }
}

/// The CPU's access to RAM, by the kernel's mapping of it.
///
/// Copies are made of memory of the copy pool, and of memory that a driver has mapped by the DMA
/// API, whose contract makes it valid for that as long as it is mapped. [`Memory::reaches`] says
/// that it has pages; kernels of 64 bits map them all.
pub(crate) struct LinearMap;

impl Memory for LinearMap {
    fn reaches(&self, span: &GpaSpan) -> bool {
        // SAFETY: Any addresses are valid.
        unsafe { bindings::apple_dma_helper_is_copyable(span.start().raw(), span.last()) }
    }

    #[inline]
    fn copy(&self, from: Gpa, to: Gpa, len: u64) {
        // CAST: `usize` has 64 bits.
        let len = len as usize;
        // SAFETY: Both are mapped by the kernel, see the type. The CPU may access the driver's
        // buffer, since it passes it to the device or takes it back at this moment, and the pages
        // of the pool, since nothing else of the kernel does: the mapping that they are for is the
        // caller's. That the device may write them at the same time affects the data only.
        unsafe { bindings::apple_dma_helper_copy_phys(to.raw(), from.raw(), len) };
    }

    fn clear(&self, span: &GpaSpan) {
        // CAST: `usize` has 64 bits.
        let len = span.len() as usize;
        // SAFETY: As above; only memory of the pool is cleared.
        unsafe { bindings::apple_dma_helper_clear_phys(span.start().raw(), len) };
    }

    #[inline]
    fn processor(&self) -> usize {
        // SAFETY: Always safe to call.
        let number = unsafe { bindings::apple_dma_helper_processor() };
        // CAST: `usize` has 64 bits.
        number as usize
    }

    fn others_run(&self) -> bool {
        // SAFETY: Always safe to call.
        unsafe { bindings::apple_dma_helper_others_run() }
    }

    fn pause(&self) {
        cpu_relax();
    }
}
