// SPDX-License-Identifier: GPL-2.0

//! DMA pools: small coherent blocks.

use crate::device::raw;
use crate::engine::Iova;
use crate::failure::{
    Doing,
    Failure, //
};
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
    prelude::*, //
};

/// A pool of blocks of one size.
///
/// # Invariants
///
/// `pool` was made by `dma_pool_create_node` for a device that is bound for `'d`, with blocks of
/// `len` bytes. No block of it is allocated when it is dropped.
pub(crate) struct Pool<'d> {
    pool: NonNull<bindings::dma_pool>,
    len: usize,
    _dev: PhantomData<&'d Device<Bound>>,
}

// SAFETY: A pool belongs to no thread.
unsafe impl Send for Pool<'_> {}

// SAFETY: A pool has its own lock.
unsafe impl Sync for Pool<'_> {}

impl<'d> Pool<'d> {
    /// Creates a pool of blocks of `len` bytes that start at multiples of `align` and cross no
    /// multiple of `boundary`, unless it is 0. May sleep.
    pub(crate) fn new(
        dev: &'d Device<Bound>,
        len: usize,
        align: usize,
        boundary: usize,
    ) -> Result<Self, Failure> {
        // SAFETY: `dev` is bound, the name is copied, the function checks the numbers.
        let pool = unsafe {
            bindings::dma_pool_create_node(
                c"apple_dma_test".as_char_ptr(),
                raw(dev),
                len,
                align,
                boundary,
                bindings::NUMA_NO_NODE,
            )
        };
        let pool = NonNull::new(pool).ok_or(EINVAL).doing("creating a pool")?;

        // INVARIANT: Just created.
        Ok(Self {
            pool,
            len,
            _dev: PhantomData,
        })
    }

    /// Allocates a zeroed block. Any context that `gfp` fits.
    pub(crate) fn alloc(&self, gfp: bindings::gfp_t) -> Result<Block<'_>, Failure> {
        let mut iova = 0;

        // SAFETY: By the type's invariant, this is a pool; `iova` is valid for writing.
        let cpu = unsafe {
            bindings::dma_pool_alloc(self.pool.as_ptr(), gfp | bindings::__GFP_ZERO, &mut iova)
        };
        let cpu =
            NonNull::new(cpu).ok_or_else(|| Failure::refused("allocating from a pool", ENOMEM))?;

        // INVARIANT: Just allocated.
        Ok(Block {
            pool: self,
            cpu,
            iova: Iova::new(iova),
        })
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant; blocks borrow the pool, so none is left.
        unsafe { bindings::dma_pool_destroy(self.pool.as_ptr()) };
    }
}

/// A block of a pool, freed when dropped. Works in any context.
///
/// # Invariants
///
/// `cpu` and `iova` are what `dma_pool_alloc` returned; not freed yet.
pub(crate) struct Block<'p> {
    pool: &'p Pool<'p>,
    cpu: NonNull<c_void>,
    iova: Iova,
}

impl Block<'_> {
    /// Returns the address for the device.
    pub(crate) fn iova(&self) -> Iova {
        self.iova
    }

    /// Returns the address for the CPU.
    pub(crate) fn memory(&self) -> Span<'_> {
        // SAFETY: By the type's invariants, these are the block's bytes, and only spans access
        // them.
        unsafe { Span::new(self.cpu.cast(), self.pool.len) }
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant, the block is allocated from this pool.
        unsafe {
            bindings::dma_pool_free(
                self.pool.pool.as_ptr(),
                self.cpu.as_ptr(),
                self.iova.value(),
            )
        };
    }
}
