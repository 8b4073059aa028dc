// SPDX-License-Identifier: GPL-2.0

//! Memory from which all coherent allocations of a device come.
//!
//! C header: `coherent_pool.h`, and the kernel's `kernel/dma/coherent.c`

use crate::abstractions::raw;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova, //
};
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    device::Bound,
    pci,
    prelude::*, //
};

/// A pool of coherent memory, aligned to its size.
pub(crate) struct CoherentPool(NonNull<bindings::apple_dma_coherent_pool>);

// SAFETY: The pool belongs to no thread.
unsafe impl Send for CoherentPool {}

// SAFETY: The functions that change the pool through a shared reference are unsafe, or are the
// kernel's, which take its lock.
unsafe impl Sync for CoherentPool {}

impl CoherentPool {
    /// Returns whether devices can have pools on this kernel.
    pub(crate) fn is_possible() -> bool {
        // SAFETY: Always safe to call.
        unsafe { bindings::apple_dma_coherent_is_possible() }
    }

    /// Creates a pool of `size` bytes, a power of two.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(size: usize) -> Result<Self> {
        // SAFETY: Always safe to call.
        let pool = unsafe { bindings::apple_dma_coherent_new(size) };
        NonNull::new(pool).map(Self).ok_or(ENOMEM)
    }

    /// Returns the pool's memory.
    pub(crate) fn span(&self) -> Option<GpaSpan> {
        // SAFETY: The pool is valid.
        let (start, size) = unsafe {
            (
                bindings::apple_dma_coherent_start(self.0.as_ptr()),
                bindings::apple_dma_coherent_size(self.0.as_ptr()),
            )
        };
        // CAST: Both have at most 64 bits.
        GpaSpan::new(Gpa::new(start), size as u64)
    }

    /// Returns whether the kernel uses the pool as expected, by allocations for `dev`.
    ///
    /// Context: process, may sleep.
    ///
    /// # Safety
    ///
    /// Nothing uses the DMA of `dev`, nor the pool, meanwhile.
    pub(crate) unsafe fn works(&self, dev: &pci::Device<Bound>) -> bool {
        // SAFETY: Both are valid; otherwise by the safety requirements.
        unsafe { bindings::apple_dma_coherent_works(self.0.as_ptr(), raw::device(dev)) }
    }

    /// Sets the address at which devices reach the pool.
    pub(crate) fn set_address(&mut self, iova: Iova) {
        // SAFETY: The pool is valid, and as it is borrowed exclusively, no device has it.
        unsafe { bindings::apple_dma_coherent_set_address(self.0.as_ptr(), iova.raw()) };
    }

    /// Gives the pool to `dev`; if it is not `usable`, every coherent allocation fails.
    ///
    /// # Safety
    ///
    /// No driver uses `dev`. [`Self::remove`] is called before the pool is dropped, unless the
    /// device is removed by then.
    pub(crate) unsafe fn install(&self, dev: &pci::Device, usable: bool) {
        // SAFETY: Both are valid; otherwise by the safety requirements.
        unsafe {
            bindings::apple_dma_coherent_install(self.0.as_ptr(), raw::device(dev), usable);
        }
    }

    /// Takes the pool from `dev`, if it has it.
    ///
    /// # Safety
    ///
    /// No driver uses `dev`.
    pub(crate) unsafe fn remove(&self, dev: &pci::Device) {
        if self.is_installed(dev) {
            // SAFETY: The device is valid; otherwise by the safety requirements.
            unsafe { bindings::apple_dma_coherent_remove(raw::device(dev)) };
        }
    }

    /// Returns whether `dev` has the pool, usable or not.
    pub(crate) fn is_installed(&self, dev: &pci::Device) -> bool {
        // SAFETY: Both are valid.
        unsafe { bindings::apple_dma_coherent_is_installed(self.0.as_ptr(), raw::device(dev)) }
    }

    /// Returns whether `dev` has another pool.
    pub(crate) fn is_foreign(&self, dev: &pci::Device) -> bool {
        // SAFETY: Both are valid.
        unsafe { bindings::apple_dma_coherent_is_foreign(self.0.as_ptr(), raw::device(dev)) }
    }
}

impl Drop for CoherentPool {
    fn drop(&mut self) {
        // SAFETY: The pool is valid, and `install` requires that no device has it now.
        unsafe { bindings::apple_dma_coherent_free(self.0.as_ptr()) };
    }
}
