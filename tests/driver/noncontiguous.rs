// SPDX-License-Identifier: GPL-2.0

//! Memory that the DMA API allocates and that is synchronized like a streaming mapping: as pages,
//! and as a table of pages.

use crate::bindings as helpers;
use crate::device::raw;
use crate::engine::Iova;
use crate::exchange::Segment;
use crate::failure::{
    Doing,
    Failure, //
};
use crate::mapping::Attrs;
use crate::scatterlist::segments;
use crate::span::Span;
use core::ptr::NonNull;
use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::DataDirection,
    prelude::*, //
};

/// Contiguous pages, `dma_alloc_pages`.
///
/// # Invariants
///
/// `page` and `iova` are what `dma_alloc_pages` returned for `dev`, `len` and `direction`; `cpu` is
/// the address of `page`. Not freed yet.
pub(crate) struct Pages<'d> {
    dev: &'d Device<Bound>,
    page: NonNull<bindings::page>,
    cpu: NonNull<u8>,
    iova: Iova,
    len: usize,
    direction: DataDirection,
}

impl<'d> Pages<'d> {
    /// Allocates `len` bytes. May sleep.
    pub(crate) fn new(
        dev: &'d Device<Bound>,
        len: usize,
        direction: DataDirection,
    ) -> Result<Self, Failure> {
        let mut iova = 0;

        // SAFETY: `dev` is bound and `iova` valid for writing.
        let page = unsafe {
            bindings::dma_alloc_pages(
                raw(dev),
                len,
                &mut iova,
                direction.into(),
                bindings::GFP_KERNEL,
            )
        };
        let page = NonNull::new(page)
            .ok_or(ENOMEM)
            .doing("allocating DMA pages")?;
        // SAFETY: This is a page. The function returns none from high memory.
        let cpu = unsafe { helpers::dma_test_page_address(page.as_ptr()) };

        // INVARIANT: Just allocated. A missing address, which the API rules out, is checked for
        // when there is a value that frees the pages, lest they leak.
        let pages = Self {
            dev,
            page,
            cpu: NonNull::new(cpu.cast()).unwrap_or(NonNull::dangling()),
            iova: Iova::new(iova),
            len,
            direction,
        };
        if cpu.is_null() {
            return Err(Failure::call("addressing DMA pages", EFAULT));
        }
        Ok(pages)
    }

    /// Returns the address for the CPU.
    pub(crate) fn memory(&self) -> Span<'_> {
        // SAFETY: By the type's invariant, this is the address of `len` bytes, and only spans
        // access them.
        unsafe { Span::new(self.cpu, self.len) }
    }

    /// Returns the address for the device.
    pub(crate) fn segment(&self) -> Segment {
        Segment {
            iova: self.iova,
            len: self.len,
        }
    }

    /// Frees the pages by the address `iova` instead of their own, which the DMA API forbids. The
    /// pages must stay allocated.
    pub(crate) fn misfree(&self, iova: Iova) {
        // SAFETY: The call tests that the implementation under test withstands this.
        unsafe {
            bindings::dma_free_pages(
                raw(self.dev),
                self.len,
                self.page.as_ptr(),
                iova.value(),
                self.direction.into(),
            )
        };
    }

    /// Transfers the memory to the CPU.
    pub(crate) fn sync_for_cpu(&self) {
        // SAFETY: By the type's invariant, the range is mapped for the device.
        unsafe {
            helpers::dma_test_sync_single_range_for_cpu(
                raw(self.dev),
                self.iova.value(),
                0,
                self.len,
                self.direction.into(),
            )
        };
    }

    /// Transfers the memory to the device.
    pub(crate) fn sync_for_device(&self) {
        // SAFETY: As above.
        unsafe {
            helpers::dma_test_sync_single_range_for_device(
                raw(self.dev),
                self.iova.value(),
                0,
                self.len,
                self.direction.into(),
            )
        };
    }
}

impl Drop for Pages<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant.
        unsafe {
            bindings::dma_free_pages(
                raw(self.dev),
                self.len,
                self.page.as_ptr(),
                self.iova.value(),
                self.direction.into(),
            )
        };
    }
}

/// Pages that need not be contiguous, `dma_alloc_noncontiguous`.
///
/// # Invariants
///
/// `table` is what `dma_alloc_noncontiguous` returned for `dev`, `len` and `direction`; not freed
/// yet.
pub(crate) struct Noncontiguous<'d> {
    dev: &'d Device<Bound>,
    table: NonNull<bindings::sg_table>,
    len: usize,
    direction: DataDirection,
}

impl<'d> Noncontiguous<'d> {
    /// Allocates `len` bytes, a multiple of the page size. May sleep.
    pub(crate) fn new(
        dev: &'d Device<Bound>,
        len: usize,
        direction: DataDirection,
        attrs: Attrs,
    ) -> Result<Self, Failure> {
        // SAFETY: `dev` is bound.
        let table = unsafe {
            bindings::dma_alloc_noncontiguous(
                raw(dev),
                len,
                direction.into(),
                bindings::GFP_KERNEL,
                attrs,
            )
        };
        let table = NonNull::new(table)
            .ok_or(ENOMEM)
            .doing("allocating noncontiguous memory")?;

        // INVARIANT: Just allocated.
        Ok(Self {
            dev,
            table,
            len,
            direction,
        })
    }

    fn table(&self) -> &bindings::sg_table {
        // SAFETY: By the type's invariant; nothing changes the table.
        unsafe { self.table.as_ref() }
    }

    /// Returns the segments as the device sees them.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        // SAFETY: By the type's invariant, the table is mapped.
        unsafe { segments(self.table()) }
    }

    /// Transfers the memory to the CPU.
    pub(crate) fn sync_for_cpu(&self) {
        // SAFETY: By the type's invariant, the table is mapped for the device.
        unsafe {
            helpers::dma_test_sync_sg_for_cpu(
                raw(self.dev),
                self.table().sgl,
                self.table().orig_nents as c_int,
                self.direction.into(),
            )
        };
    }

    /// Transfers the memory to the device.
    pub(crate) fn sync_for_device(&self) {
        // SAFETY: As above.
        unsafe {
            helpers::dma_test_sync_sg_for_device(
                raw(self.dev),
                self.table().sgl,
                self.table().orig_nents as c_int,
                self.direction.into(),
            )
        };
    }

    /// Maps the memory at contiguous addresses of the CPU. May sleep.
    pub(crate) fn view(&self) -> Result<View<'_>, Failure> {
        // SAFETY: By the type's invariant.
        let cpu = unsafe {
            bindings::dma_vmap_noncontiguous(raw(self.dev), self.len, self.table.as_ptr())
        };
        let cpu = NonNull::new(cpu)
            .ok_or(ENOMEM)
            .doing("mapping noncontiguous memory for the CPU")?;

        // INVARIANT: Just mapped.
        Ok(View { memory: self, cpu })
    }
}

impl Drop for Noncontiguous<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant.
        unsafe {
            bindings::dma_free_noncontiguous(
                raw(self.dev),
                self.len,
                self.table.as_ptr(),
                self.direction.into(),
            )
        };
    }
}

/// Noncontiguous memory as the CPU sees it.
///
/// # Invariants
///
/// `cpu` is what `dma_vmap_noncontiguous` returned for `memory`; not unmapped yet.
pub(crate) struct View<'m> {
    memory: &'m Noncontiguous<'m>,
    cpu: NonNull<c_void>,
}

impl View<'_> {
    /// Returns the bytes.
    pub(crate) fn memory(&self) -> Span<'_> {
        // SAFETY: By the type's invariant, all bytes are mapped there; only spans access them.
        unsafe { Span::new(self.cpu.cast(), self.memory.len) }
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::dma_vunmap_noncontiguous(raw(self.memory.dev), self.cpu.as_ptr()) };
    }
}
