// SPDX-License-Identifier: GPL-2.0

//! Guest RAM, whatever it is used for: the blocks of RAM, and regions at their very ends.
//!
//! Memory of others is only read. The first and the last pages of a block may be allocated as well,
//! by a request for exactly these pages.

use crate::bindings as helpers;
use crate::pattern::crc32_le;
use crate::span::Span;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    bindings::{
        self,
        phys_addr_t, //
    },
    error::to_result,
    page::PAGE_SIZE,
    prelude::*, //
};

/// One of the two ends of something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    First,
    Last,
}

impl End {
    /// Both ends.
    pub(crate) const BOTH: [Self; 2] = [Self::First, Self::Last];
}

/// Contiguous RAM.
///
/// # Invariants
///
/// All `len` bytes from `phys` on are RAM for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Region<'a> {
    phys: phys_addr_t,
    len: usize,
    _memory: PhantomData<&'a ()>,
}

impl Region<'_> {
    /// Returns the physical address of the first byte.
    pub(crate) fn phys(&self) -> phys_addr_t {
        self.phys
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the first byte's address in the linear mapping, which does not always contain it.
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        // SAFETY: By the type's invariant, this is RAM.
        unsafe { helpers::dma_test_phys_to_virt(self.phys) }
    }

    /// Returns the page that holds the first byte, and the byte's offset in it.
    pub(crate) fn page(&self) -> (*mut bindings::page, usize) {
        // SAFETY: By the type's invariant, this is RAM, which has pages.
        let page = unsafe { helpers::dma_test_phys_to_page(self.phys) };

        // CAST: The rest is less than a page.
        (page, (self.phys as usize) % PAGE_SIZE)
    }

    /// Returns the `len` bytes at one end, `offset` bytes from it; fewer if there are not as many.
    pub(crate) fn at(&self, end: End, offset: usize, len: usize) -> Self {
        let len = len.min(self.len);
        let rest = self.len.saturating_sub(len);
        let start = match end {
            End::First => offset.min(rest),
            End::Last => rest.saturating_sub(offset),
        };

        // INVARIANT: `start + len` is at most `self.len`.
        Self {
            // CAST: Physical addresses are at least as wide as `usize`.
            phys: self.phys.wrapping_add(start as phys_addr_t),
            len,
            ..*self
        }
    }

    /// Returns the CRC-32 (IEEE) of the bytes that the CPU reads there now. Any context.
    pub(crate) fn crc32(&self) -> Result<u32> {
        let mut crc = !0;
        let mut phys = self.phys;
        let mut left = self.len;

        while left != 0 {
            let mut bytes = [0; 256];
            let some = bytes.get_mut(..left.min(256)).ok_or(EINVAL)?;

            // SAFETY: `some` is valid for writing as many bytes. By the type's invariant, there is
            // RAM to read; the function returns an error if it cannot be read.
            to_result(unsafe {
                helpers::dma_test_read_ram(phys, some.as_mut_ptr().cast(), some.len())
            })?;
            crc = crc32_le(crc, some);
            left = left.saturating_sub(some.len());
            // CAST: As above.
            phys = phys.wrapping_add(some.len() as phys_addr_t);
        }
        Ok(!crc)
    }
}

/// Returns the blocks of RAM, in the order of their addresses, for as long as none is unplugged.
/// May sleep.
pub(crate) fn blocks() -> Result<KVec<Region<'static>>> {
    let mut blocks = KVec::new();

    for index in 0.. {
        let (mut start, mut end) = (0, 0);
        // SAFETY: Both are valid for writing.
        match to_result(unsafe { helpers::dma_test_ram_block(index, &mut start, &mut end) }) {
            Ok(()) => (),
            Err(error) if error == ENOENT => break,
            Err(error) => return Err(error),
        }

        // INVARIANT: The kernel says that this is RAM.
        let block = Region {
            phys: start,
            len: usize::try_from(end.saturating_sub(start))?,
            _memory: PhantomData,
        };
        blocks.push(block, GFP_KERNEL)?;
    }
    Ok(blocks)
}

/// Whole pages at one end of a block, owned.
///
/// # Invariants
///
/// The `pages` pages from `phys` on were allocated together, and are not free yet. They are in the
/// linear mapping at `base`. Only [`Span`]s access them.
pub(crate) struct Claim {
    phys: phys_addr_t,
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: Pages belong to no thread.
unsafe impl Send for Claim {}

impl Claim {
    /// Allocates the `pages` pages at the end `end` of `block`, unless they hold data that cannot
    /// be moved. May sleep.
    pub(crate) fn new(block: &Region<'_>, end: End, pages: usize) -> Result<Self> {
        let len = pages.checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
        let region = block.at(end, 0, len);
        // CAST: The rest is less than a page.
        if region.len() != len || (region.phys() as usize) % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        let base = NonNull::new(region.as_ptr().cast()).ok_or(EINVAL)?;

        // SAFETY: These are pages of RAM.
        to_result(unsafe { helpers::dma_test_claim(region.phys(), pages as c_ulong) })?;
        // INVARIANT: Just allocated; the page allocator's pages are in the linear mapping.
        Ok(Self {
            phys: region.phys(),
            base,
            pages,
        })
    }

    /// Returns the RAM of the claim.
    pub(crate) fn region(&self) -> Region<'_> {
        // INVARIANT: By the type's invariant, the pages are there as long as `self`.
        Region {
            phys: self.phys,
            len: self.len(),
            _memory: PhantomData,
        }
    }

    /// Returns all of the memory.
    pub(crate) fn whole(&self) -> Span<'_> {
        // SAFETY: By the type's invariants, the pages are there as long as `self`, and nothing
        // but spans accesses them.
        unsafe { Span::new(self.base, self.len()) }
    }

    fn len(&self) -> usize {
        self.pages.saturating_mul(PAGE_SIZE)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant, this value owns the pages.
        unsafe { helpers::dma_test_unclaim(self.phys, self.pages as c_ulong) };
    }
}
