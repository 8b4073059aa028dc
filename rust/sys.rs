// SPDX-License-Identifier: GPL-2.0

//! What the engine needs of the kernel: memory, atomics and a lock.
//!
//! The engine's files use nothing else of the kernel, so that user-space tests can give them the
//! same interface on top of the standard library.

use crate::{
    abstractions::raw_spinlock::{
        RawSpinlock, //
        RawSpinlockGuard,
    }, //
    bindings,
};
use core::ptr;
use kernel::{
    c_str,
    prelude::*,
    static_lock_class,
    sync::atomic::{
        ordering::AcquireOrRelaxed,
        Atomic as KernelAtomic,
        AtomicType, //
    }, //
};

pub(crate) use kernel::{
    alloc::AllocError,
    sync::atomic::ordering::{
        Acquire,
        Full,
        Relaxed,
        Release, //
    },
};

/// The kernel crate's atomic, with loads that are no function calls.
///
/// Without `CONFIG_RUST_INLINE_HELPERS` every operation of the kernel crate's `Atomic` calls a
/// helper. A look-up loads a dozen words, and the calls would be most of what it costs.
pub(crate) struct Atomic<T: AtomicType>(KernelAtomic<T>);

/// The orderings that a load can have.
pub(crate) trait LoadOrdering: AcquireOrRelaxed {
    /// Whether what comes after the load stays after it.
    const ACQUIRE: bool;
}

impl LoadOrdering for Relaxed {
    const ACQUIRE: bool = false;
}

impl LoadOrdering for Acquire {
    const ACQUIRE: bool = true;
}

impl<T: AtomicType> Atomic<T> {
    /// An atomic with the value `value`.
    pub(crate) const fn new(value: T) -> Self {
        Self(KernelAtomic::new(value))
    }

    /// Loads the value.
    #[inline(always)]
    pub(crate) fn load<O: LoadOrdering>(&self, _: O) -> T {
        // SAFETY: The pointer is that of an atomic, whose value is a valid `T`. In the kernel's
        // memory model a volatile load of a word is a relaxed atomic load, READ_ONCE().
        let value = unsafe { self.0.as_ptr().read_volatile() };
        if O::ACQUIRE {
            // `smp_load_acquire()` is such a load, and this.
            load_barrier();
        }
        value
    }
}

impl<T: AtomicType> core::ops::Deref for Atomic<T> {
    type Target = KernelAtomic<T>;

    #[inline(always)]
    fn deref(&self) -> &KernelAtomic<T> {
        &self.0
    }
}

/// Keeps all loads before it apart from all accesses after it.
#[inline(always)]
fn load_barrier() {
    // SAFETY: The barrier has no operands. As it may access memory for all that the compiler knows,
    // the compiler keeps accesses apart, too.
    #[cfg(CONFIG_ARM64)]
    unsafe {
        core::arch::asm!("dmb ishld", options(nostack, preserves_flags))
    };
    // The processor keeps loads apart from what comes after them.
    //
    // SAFETY: There are no instructions.
    #[cfg(CONFIG_X86_64)]
    unsafe {
        core::arch::asm!("", options(nostack, preserves_flags))
    };
    #[cfg(not(any(CONFIG_ARM64, CONFIG_X86_64)))]
    kernel::sync::barrier::smp_mb();
}

/// A place for an array of `N` elements that is set once, and then found by one load.
///
/// # Invariants
///
/// The pointer is null, or that of the `N` elements of a [`BoxedSlice`] of just that length and capacity,
/// which belongs to this and does not change any more.
pub(crate) struct OnceArray<T, const N: usize>(Atomic<*mut T>);

// SAFETY: It owns the elements.
unsafe impl<T: Send, const N: usize> Send for OnceArray<T, N> {}

// SAFETY: The elements are shared once they are there, and may be dropped by another thread than
// the one that put them there.
unsafe impl<T: Send + Sync, const N: usize> Sync for OnceArray<T, N> {}

impl<T, const N: usize> OnceArray<T, N> {
    /// No array yet.
    pub(crate) const fn new() -> Self {
        // INVARIANT: The pointer is null.
        Self(Atomic::new(ptr::null_mut()))
    }

    /// The array, if it is set. Any context.
    #[inline(always)]
    pub(crate) fn as_ref(&self) -> Option<&[T; N]> {
        // SAFETY: By the type invariants this is null or an array that lives as long as this.
        unsafe { self.0.load(Acquire).cast::<[T; N]>().as_ref() }
    }

    /// Sets the array, unless there is one or `slab` has another length: then that is given back.
    /// Any context.
    pub(crate) fn populate(&self, slab: BoxedSlice<T>) -> Result<(), BoxedSlice<T>> {
        if slab.len() != N || slab.0.capacity() != N {
            return Err(slab);
        }
        let (elements, length, capacity) = slab.0.into_raw_parts();
        // INVARIANT: The length and the capacity were just checked. Release: whoever finds the
        // array finds it as it was made.
        match self.0.cmpxchg(ptr::null_mut(), elements, Release) {
            Ok(_) => Ok(()),
            // SAFETY: These are the parts of a vector that nobody else knows of.
            Err(_) => Err(BoxedSlice(unsafe {
                KVVec::from_raw_parts(elements, length, capacity)
            })),
        }
    }
}

impl<T, const N: usize> Drop for OnceArray<T, N> {
    fn drop(&mut self) {
        let elements = self.0.load(Relaxed);
        if !elements.is_null() {
            // SAFETY: By the type invariants these were the parts of a vector, and nobody uses them
            // any more.
            drop(unsafe { KVVec::from_raw_parts(elements, N, N) });
        }
    }
}

/// Whether an allocation may sleep.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alloc {
    /// It may.
    Sleep,
    /// It may not: any context.
    Atomic,
}

/// A slice of fixed length on the heap. To be dropped where sleeping is allowed.
pub(crate) struct BoxedSlice<T>(KVVec<T>);

impl<T> BoxedSlice<T> {
    /// A slice of `len` elements, each made from its index. There is no memory for one where the
    /// kernel may not allocate at all, as with interrupts off on PREEMPT_RT.
    pub(crate) fn new(
        len: usize,
        alloc: Alloc,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<Self, AllocError> {
        let flags = match alloc {
            Alloc::Sleep => GFP_KERNEL,
            // The caller has a way to go on without; a message would only add to the trouble.
            // SAFETY: It looks at the context only.
            Alloc::Atomic if unsafe { bindings::apple_dma_helper_may_allocate() } => {
                GFP_ATOMIC | __GFP_NOWARN
            }
            Alloc::Atomic => return Err(AllocError),
        };
        let mut slab = KVVec::with_capacity(len, flags)?;
        for index in 0..len {
            slab.push_within_capacity(make(index))
                .map_err(|_| AllocError)?;
        }
        Ok(Self(slab))
    }

    /// A copy of `elements`. May sleep.
    pub(crate) fn copy_of(elements: &[T]) -> Result<Self, AllocError>
    where
        T: Copy,
    {
        let mut slab = KVVec::with_capacity(elements.len(), GFP_KERNEL)?;
        slab.extend_from_slice(elements, GFP_KERNEL)?;
        Ok(Self(slab))
    }
}

impl<T> core::ops::Deref for BoxedSlice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> core::ops::DerefMut for BoxedSlice<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// The lock of the slow path: a [`RawSpinlock`] at a place of its own, so that what contains it need
/// not be pinned.
pub(crate) struct Lock<T>(Pin<KBox<RawSpinlock<T>>>);

/// Holds a [`Lock`].
pub(crate) type Guard<'a, T> = RawSpinlockGuard<'a, T>;

impl<T> Lock<T> {
    /// A lock that protects `value`. May sleep.
    pub(crate) fn new(value: T) -> Result<Self, AllocError> {
        let lock = RawSpinlock::new(value, c_str!("apple_dma_pci"), static_lock_class!());
        KBox::pin_init(lock, GFP_KERNEL)
            .map(Self)
            .map_err(|_| AllocError)
    }

    /// Takes the lock if nobody has it. Any context.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.0.try_lock()
    }

    /// Takes the lock. Any context.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.0.lock()
    }
}
