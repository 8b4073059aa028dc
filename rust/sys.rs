// SPDX-License-Identifier: GPL-2.0

//! What the engine needs of the kernel: memory, atomics and a lock.
//!
//! The engine's files use nothing else of the kernel, so that user-space tests can give them the same
//! interface on top of the standard library.

use crate::irq_lock::{
    RawIrqGuard,
    RawIrqLock, //
};
use kernel::{
    c_str,
    prelude::*,
    static_lock_class, //
};

pub(crate) use kernel::{
    alloc::AllocError,
    sync::{
        atomic::{
            ordering::{
                Acquire,
                Full,
                Relaxed,
                Release, //
            },
            Atomic, //
        },
        SetOnce, //
    },
};

/// Whether an allocation may sleep.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alloc {
    /// It may.
    Sleep,
    /// It may not: any context.
    Atomic,
}

/// A slice of fixed length on the heap. To be dropped where sleeping is allowed.
pub(crate) struct Slab<T>(KVVec<T>);

impl<T> Slab<T> {
    /// A slice of `len` elements, each made from its index.
    pub(crate) fn new(
        len: usize,
        alloc: Alloc,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<Self, AllocError> {
        let flags = match alloc {
            Alloc::Sleep => GFP_KERNEL,
            // The caller has a way to go on without; a message would only add to the trouble.
            Alloc::Atomic => GFP_ATOMIC | __GFP_NOWARN,
        };
        let mut slab = KVVec::with_capacity(len, flags)?;
        for index in 0..len {
            slab.push_within_capacity(make(index))
                .map_err(|_| AllocError)?;
        }
        Ok(Self(slab))
    }
}

impl<T> core::ops::Deref for Slab<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> core::ops::DerefMut for Slab<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// The lock of the slow path: a [`RawIrqLock`] at a place of its own, so that what contains it need
/// not be pinned.
pub(crate) struct Lock<T>(Pin<KBox<RawIrqLock<T>>>);

/// Holds a [`Lock`].
pub(crate) type Guard<'a, T> = RawIrqGuard<'a, T>;

impl<T> Lock<T> {
    /// A lock that protects `value`. May sleep.
    pub(crate) fn new(value: T) -> Result<Self, AllocError> {
        let lock = RawIrqLock::new(value, c_str!("apple_dma_pci"), static_lock_class!());
        KBox::pin_init(lock, GFP_KERNEL)
            .map(Self)
            .map_err(|_| AllocError)
    }

    /// Takes the lock. Any context.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.0.lock()
    }
}
