// SPDX-License-Identifier: GPL-2.0

//! The engine's platform: memory, atomics, a lock and time.
//!
//! The engine's files use nothing else of the kernel, so that user-space tests can replace this
//! file by one with the same interface on top of the standard library.

use crate::abstractions::raw_spinlock::{
    RawSpinlock,
    RawSpinlockGuard, //
};
use crate::bindings;
use core::ptr;
use kernel::{
    c_str,
    prelude::*,
    static_lock_class,
    sync::atomic::{
        ordering::AcquireOrRelaxed,
        Atomic as KernelAtomic,
        AtomicType, //
    },
    time::{
        Instant,
        Monotonic, //
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

/// The kernel crate's atomic, with loads that are inlined.
///
/// Without `CONFIG_RUST_INLINE_HELPERS` every operation of the kernel crate's `Atomic` calls a
/// helper. A look-up loads a dozen words, and the calls would be most of what it costs.
pub(crate) struct Atomic<T: AtomicType>(KernelAtomic<T>);

/// An ordering that a load can have.
pub(crate) trait LoadOrdering: AcquireOrRelaxed {
    /// True if the load orders the accesses that follow it.
    const ACQUIRE: bool;
}

impl LoadOrdering for Relaxed {
    const ACQUIRE: bool = false;
}

impl LoadOrdering for Acquire {
    const ACQUIRE: bool = true;
}

impl<T: AtomicType> Atomic<T> {
    /// Creates an atomic with the value `value`.
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
            // `smp_load_acquire()` is such a load followed by this barrier.
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

/// Orders all loads before it against all accesses after it.
#[inline(always)]
fn load_barrier() {
    // SAFETY: The barrier has no operands. The compiler must assume that it accesses memory, so it
    // does not move accesses across it either.
    #[cfg(CONFIG_ARM64)]
    unsafe {
        core::arch::asm!("dmb ishld", options(nostack, preserves_flags))
    };
    // An x86 processor does not reorder loads with later accesses; this stops the compiler.
    //
    // SAFETY: There are no instructions.
    #[cfg(CONFIG_X86_64)]
    unsafe {
        core::arch::asm!("", options(nostack, preserves_flags))
    };
    #[cfg(not(any(CONFIG_ARM64, CONFIG_X86_64)))]
    kernel::sync::barrier::smp_mb();
}

/// An array of `N` elements that is set once and then found by one load.
///
/// # Invariants
///
/// The pointer is null, or that of the `N` elements of a [`BoxedSlice`] of exactly that length and
/// capacity, which this object owns and whose pointer does not change any more.
pub(crate) struct OnceArray<T, const N: usize>(Atomic<*mut T>);

// SAFETY: The object owns the elements, which are `Send`.
unsafe impl<T: Send, const N: usize> Send for OnceArray<T, N> {}

// SAFETY: The elements are shared once they are set, and may be dropped by another thread than the
// one that set them; they are `Sync` and `Send`.
unsafe impl<T: Send + Sync, const N: usize> Sync for OnceArray<T, N> {}

impl<T, const N: usize> OnceArray<T, N> {
    /// Creates the object without an array.
    pub(crate) const fn new() -> Self {
        // INVARIANT: The pointer is null.
        Self(Atomic::new(ptr::null_mut()))
    }

    /// Returns the array, if it is set.
    ///
    /// Context: any.
    #[inline(always)]
    pub(crate) fn as_ref(&self) -> Option<&[T; N]> {
        // SAFETY: By the type invariants this is null or an array that lives as long as `self`.
        unsafe { self.0.load(Acquire).cast::<[T; N]>().as_ref() }
    }

    /// Sets the array. Fails with `slice` if the array is set already, or if `slice` has another
    /// length.
    ///
    /// Context: any.
    pub(crate) fn populate(&self, slice: BoxedSlice<T>) -> Result<(), BoxedSlice<T>> {
        if slice.len() != N || slice.0.capacity() != N {
            return Err(slice);
        }
        let (elements, length, capacity) = slice.0.into_raw_parts();
        // INVARIANT: The length and the capacity were just checked. Release: a reader that finds
        // the array finds its elements initialised.
        match self.0.cmpxchg(ptr::null_mut(), elements, Release) {
            Ok(_) => Ok(()),
            // SAFETY: These are the parts of a vector, and the exchange did not publish them.
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
            // SAFETY: By the type invariants these were the parts of a vector, which `self` owns;
            // with `&mut self` there are no references to its elements.
            drop(unsafe { KVVec::from_raw_parts(elements, N, N) });
        }
    }
}

/// The context of an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alloc {
    /// A context that may sleep.
    Sleep,
    /// Any context; the allocation does not sleep.
    Atomic,
}

/// A slice of fixed length on the heap. To be dropped in a context that may sleep.
pub(crate) struct BoxedSlice<T>(KVVec<T>);

impl<T> BoxedSlice<T> {
    /// Creates a slice of `len` elements, each made from its index. Always fails where the kernel
    /// may not allocate at all, as with interrupts off on PREEMPT_RT.
    ///
    /// Context: as `alloc` tells.
    pub(crate) fn new(
        len: usize,
        alloc: Alloc,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<Self, AllocError> {
        let flags = match alloc {
            Alloc::Sleep => GFP_KERNEL,
            // The caller copes with a failure, so the allocator need not warn about it.
            //
            // SAFETY: The helper only reads the context that it is called in.
            Alloc::Atomic if unsafe { bindings::apple_dma_helper_may_allocate() } => {
                GFP_ATOMIC | __GFP_NOWARN
            }
            Alloc::Atomic => return Err(AllocError),
        };
        let mut slice = KVVec::with_capacity(len, flags)?;
        for index in 0..len {
            slice
                .push_within_capacity(make(index))
                .map_err(|_| AllocError)?;
        }
        Ok(Self(slice))
    }

    /// Creates a copy of `elements`.
    ///
    /// Context: process, may sleep.
    pub(crate) fn copy_of(elements: &[T]) -> Result<Self, AllocError>
    where
        T: Copy,
    {
        let mut slice = KVVec::with_capacity(elements.len(), GFP_KERNEL)?;
        slice.extend_from_slice(elements, GFP_KERNEL)?;
        Ok(Self(slice))
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

/// The lock of the slow path: a [`RawSpinlock`] in an allocation of its own, so that the object
/// that contains it need not be pinned.
pub(crate) struct Lock<T>(Pin<KBox<RawSpinlock<T>>>);

/// A guard that holds a [`Lock`].
pub(crate) type Guard<'a, T> = RawSpinlockGuard<'a, T>;

impl<T> Lock<T> {
    /// Creates a lock that protects `value`.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(value: T) -> Result<Self, AllocError> {
        let lock = RawSpinlock::new(value, c_str!("apple_dma_pci"), static_lock_class!());
        KBox::pin_init(lock, GFP_KERNEL)
            .map(Self)
            .map_err(|_| AllocError)
    }

    /// Takes the lock, unless it is held.
    ///
    /// Context: any.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.0.try_lock()
    }

    /// Takes the lock.
    ///
    /// Context: any.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.0.lock()
    }
}

/// A measurement of the time that has passed since it began.
#[derive(Clone, Copy)]
pub(crate) struct Stopwatch(Instant<Monotonic>);

impl Stopwatch {
    /// Begins a measurement.
    ///
    /// Context: any.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns the milliseconds that have passed.
    ///
    /// Context: any.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(0)
    }

    /// Returns the nanoseconds that have passed.
    ///
    /// Context: any.
    pub(crate) fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(0)
    }
}
