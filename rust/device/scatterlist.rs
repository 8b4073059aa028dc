// SPDX-License-Identifier: GPL-2.0

//! A scatterlist as a list of the engine's requests.
//!
//! The kernel crate's `scatterlist` module owns and maps tables on behalf of drivers; this file is
//! the opposite side, which fills in the addresses.

use super::dma_ops::{
    instance,
    streaming_limit,
    Direction,
    MMIO, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::bindings;
use crate::engine::{
    ErrorClass,
    MapError,
    Request, //
};
use core::marker::PhantomData;
use kernel::{
    bindings::device,
    ffi::{
        c_int,
        c_ulong, //
    },
    prelude::*,
    types::Opaque, //
};

/// The kernel's `DMA_MAPPING_ERROR`.
pub(super) const DMA_MAPPING_ERROR: kernel::bindings::dma_addr_t = !0;

/// One entry of a scatterlist that is being mapped or unmapped.
#[repr(transparent)]
pub(super) struct Entry(Opaque<kernel::bindings::scatterlist>);

impl Entry {
    /// Returns whether the entry has no bytes, and sets the address of such an entry to `iova`.
    #[inline(always)]
    pub(super) fn set_if_empty(&self, iova: Iova) -> bool {
        let sg = self.0.get();
        // SAFETY: By the contract of `Entries` the entry is valid.
        let is_empty = unsafe { (*sg).length } == 0;
        if is_empty {
            self.set_iova(Some(iova));
        }
        is_empty
    }

    /// Returns whether the entry is memory of another PCI device.
    pub(super) fn is_p2pdma(&self) -> bool {
        // SAFETY: By the contract of `Entries` this is a valid entry with a page.
        unsafe { bindings::apple_dma_helper_sg_is_p2pdma(self.0.get()) }
    }
}

// The engine has several loops over entries, in which these would be calls otherwise.
impl Request for Entry {
    #[inline(always)]
    fn span(&self) -> Option<GpaSpan> {
        let sg = self.0.get();
        // SAFETY: By the contract of `Entries` this is a valid entry with a page.
        let (phys, len) = unsafe { (bindings::apple_dma_helper_sg_ram(sg), (*sg).length) };
        // The helper returns the highest address for memory of another device: the span wraps
        // around.
        GpaSpan::new(Gpa::new(phys), u64::from(len))
    }

    #[inline(always)]
    fn iova(&self) -> Option<Iova> {
        // SAFETY: By the contract of `Entries` the entry is valid.
        let addr = unsafe { (*self.0.get()).dma_address };
        (addr != DMA_MAPPING_ERROR).then_some(Iova::new(addr))
    }

    #[inline(always)]
    fn mapped(&self) -> Option<IovaSpan> {
        let sg = self.0.get();
        // SAFETY: By the contract of `Entries` the entry is valid.
        #[cfg(CONFIG_NEED_SG_DMA_LENGTH)]
        let len = unsafe { (*sg).dma_length };
        // SAFETY: As above.
        #[cfg(not(CONFIG_NEED_SG_DMA_LENGTH))]
        let len = unsafe { (*sg).length };
        IovaSpan::new(self.iova()?, u64::from(len))
    }

    #[inline(always)]
    fn set_iova(&self, iova: Option<Iova>) {
        let sg = self.0.get();
        // SAFETY: By the contract of `Entries` the entry is valid, and its DMA fields are not
        // accessed by others.
        unsafe {
            (*sg).dma_address = iova.map_or(DMA_MAPPING_ERROR, Iova::raw);
            #[cfg(CONFIG_NEED_SG_DMA_LENGTH)]
            {
                (*sg).dma_length = if iova.is_some() { (*sg).length } else { 0 };
            }
            #[cfg(CONFIG_NEED_SG_DMA_FLAGS)]
            {
                (*sg).dma_flags = 0;
            }
        }
    }
}

/// Returns the entry after `entry`, as `sg_next()` does, without a call for each of hundreds of
/// entries.
///
/// # Safety
///
/// `entry` is a valid entry of a scatterlist, and not the last one.
#[inline]
unsafe fn successor(
    entry: *mut kernel::bindings::scatterlist,
) -> *mut kernel::bindings::scatterlist {
    // Flags in the low bits of `page_link`; see `linux/scatterlist.h`.
    const SG_CHAIN: c_ulong = 1;
    const SG_PAGE_LINK_MASK: c_ulong = 3;

    // SAFETY: By the safety requirements another entry follows, which may be a link to the next
    // part of the list.
    let (next, link) = unsafe {
        let next = entry.add(1);
        (next, (*next).page_link)
    };
    if link & SG_CHAIN == 0 {
        next
    } else {
        // CAST: The kernel keeps the pointer in an `unsigned long`.
        (link & !SG_PAGE_LINK_MASK) as *mut kernel::bindings::scatterlist
    }
}

/// An iterator over the entries of a scatterlist.
#[derive(Clone)]
pub(super) struct Entries<'a> {
    next: *mut kernel::bindings::scatterlist,
    left: usize,
    _list: PhantomData<&'a Entry>,
}

impl<'a> Entries<'a> {
    /// Creates an iterator over the first `nents` entries of `list`.
    ///
    /// # Safety
    ///
    /// For `'a`, `list` is a valid scatterlist of at least `nents` entries with pages, maybe
    /// chained, and only the caller accesses its DMA fields.
    pub(super) unsafe fn new(list: *mut kernel::bindings::scatterlist, nents: usize) -> Self {
        Self {
            next: list,
            left: nents,
            _list: PhantomData,
        }
    }

    /// Returns the number of entries that are left.
    pub(super) fn nents(&self) -> u32 {
        // CAST: A scatterlist has fewer than 2^32 entries.
        self.left as u32
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a Entry;

    #[inline(always)]
    fn next(&mut self) -> Option<&'a Entry> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.next;
        if self.left != 0 {
            // SAFETY: By the contract of `new`, `entry` has a successor.
            self.next = unsafe { successor(entry) };
        }
        // SAFETY: By the contract of `new`, `entry` is valid for `'a`. `Entry` is a transparent
        // wrapper.
        Some(unsafe { &*entry.cast() })
    }
}

/// Returns the error number for a scatterlist that was not mapped because of `error`.
fn errno(error: MapError) -> c_int {
    match error.class() {
        ErrorClass::Request => EINVAL.to_errno(),
        ErrorClass::Space => ENOMEM.to_errno(),
        ErrorClass::Host => EIO.to_errno(),
    }
}

/// Maps the entries of `list`, as the callbacks do; with `COPIES`, they may be copied where `dir`
/// and `attrs` allow that.
///
/// # Safety
///
/// As [`instance`]; `list` is a valid scatterlist of `nents` entries, to be mapped.
#[inline(always)]
pub(super) unsafe fn map_list<const COPIES: bool>(
    dev: *mut device,
    list: *mut kernel::bindings::scatterlist,
    nents: c_int,
    dir: Direction,
    attrs: c_ulong,
) -> c_int {
    // SAFETY: By the safety requirements.
    let (this, dma_limit) = unsafe { (instance(dev), streaming_limit(dev)) };
    if attrs & MMIO != 0 {
        return EINVAL.to_errno();
    }
    let Ok(count) = usize::try_from(nents) else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the safety requirements; the callback may write the list's DMA fields.
    let entries = unsafe { Entries::new(list, count) };
    match this.map_sg::<COPIES>(entries.clone(), dma_limit, dir, attrs) {
        Ok(()) => nents,
        // This error is documented for dma_map_sgtable().
        Err(MapError::Invalid) if entries.clone().any(|entry| entry.is_p2pdma()) => {
            c_int::try_from(kernel::bindings::EREMOTEIO).map_or(0, c_int::wrapping_neg)
        }
        Err(error) => errno(error),
    }
}
