// SPDX-License-Identifier: GPL-2.0

//! Coherent allocations with any attributes.
//!
//! `kernel::dma::Coherent` always has a kernel mapping, and sleeps where it likes.

use crate::bindings as helpers;
use crate::device::raw;
use crate::engine::Iova;
use crate::failure::{
    Doing,
    Failure, //
};
use crate::mapping::Attrs;
use crate::span::Span;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    error::from_err_ptr,
    prelude::*,
    uaccess::UserSlice, //
};

/// Memory that the CPU and the device may use at the same time.
///
/// Must be dropped with interrupts enabled, as `dma_free_attrs` demands.
///
/// # Invariants
///
/// `cpu` and `iova` are what `dma_alloc_attrs` returned for `dev`, `len` and `attrs`; not freed
/// yet.
pub(crate) struct Coherent<'d> {
    dev: &'d Device<Bound>,
    cpu: NonNull<c_void>,
    iova: Iova,
    len: usize,
    attrs: Attrs,
}

// SAFETY: The memory belongs to no thread.
unsafe impl Send for Coherent<'_> {}

impl<'d> Coherent<'d> {
    /// Allocates `len` bytes. Any context that `gfp` fits.
    pub(crate) fn new(
        dev: &'d Device<Bound>,
        len: usize,
        gfp: bindings::gfp_t,
        attrs: Attrs,
    ) -> Result<Self, Failure> {
        // The failure is reported as a failure of the test, to which a warning would add nothing.
        // `dma_alloc_coherent` couples the two in the same way.
        let gfp = gfp | bindings::__GFP_NOWARN;
        let attrs = attrs | bindings::DMA_ATTR_NO_WARN as Attrs;
        let mut iova = 0;

        // SAFETY: `dev` is bound and `iova` valid for writing.
        let cpu = unsafe { bindings::dma_alloc_attrs(raw(dev), len, &mut iova, gfp, attrs) };
        let cpu = NonNull::new(cpu)
            .ok_or_else(|| Failure::refused("allocating coherent memory", ENOMEM))?;

        // INVARIANT: This was just returned.
        Ok(Self {
            dev,
            cpu,
            iova: Iova::new(iova),
            len,
            attrs,
        })
    }

    /// Returns the address for the device.
    pub(crate) fn iova(&self) -> Iova {
        self.iova
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the address of the memory for the CPU; [`None`] without a kernel mapping.
    pub(crate) fn address(&self) -> Option<usize> {
        let mapped = self.attrs & (bindings::DMA_ATTR_NO_KERNEL_MAPPING as Attrs) == 0;

        mapped.then(|| self.cpu.as_ptr().addr())
    }

    /// Returns the memory as the CPU sees it; [`None`] without a kernel mapping.
    pub(crate) fn memory(&self) -> Option<Span<'_>> {
        if self.attrs & (bindings::DMA_ATTR_NO_KERNEL_MAPPING as Attrs) != 0 {
            return None;
        }
        // SAFETY: By the type's invariant, and since it has a kernel mapping, this is memory that
        // only spans access.
        Some(unsafe { Span::new(self.cpu.cast(), self.len) })
    }

    /// Returns whether the DMA API believes that the memory has to be synchronized.
    pub(crate) fn needs_sync(&self) -> bool {
        // SAFETY: By the type's invariant, the address is of this device.
        unsafe { helpers::dma_test_need_sync(raw(self.dev), self.iova.value()) }
    }

    /// Returns whether synchronization of any memory of the device calls its DMA operations.
    pub(crate) fn is_synced_by_ops(&self) -> bool {
        // SAFETY: `dev` is a valid device.
        unsafe {
            helpers::dma_test_has_ops(raw(self.dev))
                && helpers::dma_test_dev_need_sync(raw(self.dev))
        }
    }

    /// Frees the memory by the address `iova` instead of its own, which the DMA API forbids. The
    /// memory must stay allocated.
    pub(crate) fn misfree(&self, iova: Iova) {
        // SAFETY: The call tests that the implementation under test withstands this.
        unsafe {
            bindings::dma_free_attrs(
                raw(self.dev),
                self.len,
                self.cpu.as_ptr(),
                iova.value(),
                self.attrs,
            )
        };
    }

    /// Describes the memory as a table of pages, for use by others.
    pub(crate) fn export(&self) -> Result<Export<'_>, Failure> {
        let mut table = bindings::sg_table::default();

        // SAFETY: By the type's invariant, the allocation is of this device; `table` is valid for
        // writing.
        kernel::error::to_result(unsafe {
            bindings::dma_get_sgtable_attrs(
                raw(self.dev),
                &mut table,
                self.cpu.as_ptr(),
                self.iova.value(),
                self.len,
                self.attrs,
            )
        })
        .doing("describing coherent memory")?;

        // INVARIANT: The table was just made.
        Ok(Export {
            table,
            _memory: self,
        })
    }
}

impl Coherent<'_> {
    /// Creates a file by which processes map the memory while the memory exists.
    pub(crate) fn file(&self) -> Result<NonNull<bindings::file>> {
        // SAFETY: By the type's invariant, the allocation is of this device.
        let file = from_err_ptr(unsafe {
            helpers::dma_test_share(
                raw(self.dev),
                self.cpu.as_ptr(),
                self.iova.value(),
                self.len,
                self.attrs,
            )
        })?;
        NonNull::new(file).ok_or(ENOMEM)
    }

    /// Maps the memory into the calling process. May sleep.
    pub(crate) fn map_to_user(&self) -> Result<UserView<'_>, Failure> {
        // SAFETY: By the type's invariant, the allocation is of this device; it outlives the
        // mapping.
        let address = unsafe {
            helpers::dma_test_mmap(
                raw(self.dev),
                self.cpu.as_ptr(),
                self.iova.value(),
                self.len,
                self.attrs,
            )
        };

        // INVARIANT: If this is no error, it was just mapped.
        Ok(UserView {
            memory: self,
            address: to_address(address).doing("mapping coherent memory to user space")?,
            _not_send: PhantomData,
        })
    }
}

/// Returns `value` as an address, unless it is an error number.
fn to_address(value: usize) -> Result<usize> {
    // CAST: Error numbers are the topmost addresses, negative if taken for signed.
    match c_int::try_from(value as isize) {
        Ok(errno) if errno < 0 => Err(Error::from_errno(errno)),
        _ => Ok(value),
    }
}

/// Coherent memory as the calling process sees it, unmapped when dropped.
///
/// # Invariants
///
/// `memory` is mapped at `address` of the process that made this value.
pub(crate) struct UserView<'a> {
    memory: &'a Coherent<'a>,
    address: usize,
    /// Not sent to other processes, which have something else at the address.
    _not_send: PhantomData<*mut ()>,
}

impl UserView<'_> {
    /// Returns the memory, for accesses that check as those of a system call do.
    pub(crate) fn slice(&self) -> UserSlice {
        UserSlice::new(UserPtr::from_addr(self.address), self.memory.len)
    }
}

impl Drop for UserView<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant, the range is our mapping. This is the process that
        // created it, since the value is not `Send`.
        unsafe { bindings::vm_munmap(self.address as c_ulong, self.memory.len) };
    }
}

impl Drop for Coherent<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant.
        unsafe {
            bindings::dma_free_attrs(
                raw(self.dev),
                self.len,
                self.cpu.as_ptr(),
                self.iova.value(),
                self.attrs,
            )
        };
    }
}

/// The pages of a coherent allocation.
///
/// # Invariants
///
/// `table` was made by `dma_get_sgtable_attrs` for `_memory`.
pub(crate) struct Export<'a> {
    table: bindings::sg_table,
    _memory: &'a Coherent<'a>,
}

impl Export<'_> {
    /// Returns the table, for mapping it.
    pub(crate) fn table(&mut self) -> &mut bindings::sg_table {
        &mut self.table
    }

    /// Returns the memory by its pages, not by the address that the allocation has for the CPU.
    pub(crate) fn spans(&self) -> impl Iterator<Item = Span<'_>> + Clone {
        let mut sg = self.table.sgl;

        (0..self.table.orig_nents).map_while(move |_| {
            if sg.is_null() {
                return None;
            }
            // SAFETY: By the type's invariant, `sg` is an entry of the table and has a page. Such
            // pages may be beyond the linear mapping, hence the check of the address.
            let (address, offset, len) = unsafe {
                (
                    helpers::dma_test_page_address(helpers::dma_test_sg_page(sg)),
                    (*sg).offset,
                    (*sg).length,
                )
            };
            // SAFETY: `sg` is an entry of a list.
            sg = unsafe { bindings::sg_next(sg) };

            let base = NonNull::new(address.cast::<u8>())?;
            // SAFETY: The entry's bytes are in the linear mapping from there on, they belong to
            // the allocation, and only spans access it.
            Some(unsafe { Span::new(base.add(offset as usize), len as usize) })
        })
    }
}

impl Drop for Export<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::sg_free_table(&mut self.table) };
    }
}
