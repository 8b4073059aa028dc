// SPDX-License-Identifier: GPL-2.0

//! Physically contiguous memory to map, with guards around the mapped part.

use crate::bindings as helpers;
use crate::failure::Failure;
use crate::pattern::Pattern;
use crate::span::Span;
use core::ptr::NonNull;
use kernel::{
    bindings,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// Flags of allocations, which may sleep. An allocation that is too large for the free memory is no
/// reason for a warning.
const GFP: bindings::gfp_t = bindings::GFP_KERNEL | bindings::__GFP_NOWARN;

/// Bytes on either side of a mapped range that must not change.
const GUARD: usize = 4096;

/// Seed of the guards' contents.
const GUARD_SEED: u64 = 0x6775_6172_6473;

/// Contiguous pages.
///
/// # Invariants
///
/// `page` is the first page of an allocation of `2^order` pages, `len` bytes, that this value owns,
/// `base` its address in the kernel's linear mapping. Only [`Span`]s access the memory.
pub(crate) struct Buffer {
    page: NonNull<bindings::page>,
    base: NonNull<u8>,
    len: usize,
    order: u32,
}

// SAFETY: Pages belong to no thread.
unsafe impl Send for Buffer {}

// SAFETY: A shared buffer hands out `Span`s only, which are `Sync`.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Allocates at least `len` bytes. May sleep.
    pub(crate) fn new(len: usize) -> Result<Self> {
        let pages = len.div_ceil(PAGE_SIZE).max(1);
        let pages = pages.checked_next_power_of_two().ok_or(ENOMEM)?;
        let len = pages.checked_mul(PAGE_SIZE).ok_or(ENOMEM)?;
        let order = pages.ilog2();
        if order > bindings::MAX_PAGE_ORDER {
            return Err(ENOMEM);
        }

        // SAFETY: The function has no preconditions but a context that may sleep.
        let page = unsafe { bindings::alloc_pages(GFP, order) };
        let page = NonNull::new(page).ok_or(ENOMEM)?;
        // SAFETY: `page` is a valid page. It is not in high memory, so it has an address.
        let base = unsafe { helpers::dma_test_page_address(page.as_ptr()) };
        let base = NonNull::new(base.cast()).ok_or(ENOMEM)?;

        // INVARIANT: The pages were just allocated, and this is their address.
        Ok(Self {
            page,
            base,
            len,
            order,
        })
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns all of the memory.
    pub(crate) fn whole(&self) -> Span<'_> {
        // SAFETY: By the type's invariants, the pages are there as long as `self`, and nothing
        // but spans accesses them.
        unsafe { Span::new(self.base, self.len()) }
    }

    /// Returns the `len` bytes from `offset` on.
    pub(crate) fn part(&self, offset: usize, len: usize) -> Result<Span<'_>> {
        self.whole().part(offset, len).ok_or(EINVAL)
    }

    /// Returns the page that holds the byte at `offset`, and the byte's offset in it.
    pub(crate) fn page(&self, offset: usize) -> Result<(*mut bindings::page, usize)> {
        self.part(offset, 0)?;

        // SAFETY: By the type's invariant and the check, page and page number are of one
        // allocation, or one page beyond it, which is only computed.
        let page = unsafe {
            helpers::dma_test_nth_page(self.page.as_ptr(), (offset >> PAGE_SHIFT) as c_ulong)
        };
        Ok((page, offset % PAGE_SIZE))
    }

    /// Returns the physical address of the byte at `offset`.
    pub(crate) fn phys(&self, offset: usize) -> bindings::phys_addr_t {
        // SAFETY: By the type's invariant, `page` is a valid page.
        let base = unsafe { helpers::dma_test_page_to_phys(self.page.as_ptr()) };

        // CAST: Physical addresses are at least as wide as `usize`.
        base.wrapping_add(offset as bindings::phys_addr_t)
    }

    /// Writes guards before and after the `len` bytes at `offset`.
    ///
    /// Neighbours may share a guard, and the guard of one range may even overwrite its
    /// neighbour's bytes: guard all ranges first, then write data into them.
    pub(crate) fn guard(&self, offset: usize, len: usize) {
        for (at, guard) in self.guards(offset, len, 0, self.len()) {
            guard.fill(Pattern::new(GUARD_SEED), at);
        }
    }

    /// Checks the guards before and after the `len` bytes at `offset`, as far as they do not reach
    /// below `from` or up to `to`.
    pub(crate) fn check_guard(
        &self,
        offset: usize,
        len: usize,
        from: usize,
        to: usize,
    ) -> Result<(), Failure> {
        self.guards(offset, len, from, to)
            .try_for_each(|(at, guard)| {
                guard.check(
                    "the buffer changed beside the mapping",
                    Pattern::new(GUARD_SEED),
                    at,
                )
            })
    }

    fn guards(
        &self,
        offset: usize,
        len: usize,
        from: usize,
        to: usize,
    ) -> impl Iterator<Item = (usize, Span<'_>)> {
        let end = offset.saturating_add(len);
        let before = offset.saturating_sub(GUARD).max(from);
        let after = end.saturating_add(GUARD).min(to);

        [(before, offset), (end, after)]
            .into_iter()
            .filter_map(|(start, end)| {
                let part = self.whole().part(start, end.checked_sub(start)?)?;
                Some((start, part))
            })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant, this value owns the pages.
        unsafe { bindings::__free_pages(self.page.as_ptr(), self.order) };
    }
}
