// SPDX-License-Identifier: GPL-2.0

//! The engine's platform in user space: the interface of the module's `rust/sys.rs`, with
//! allocations that can be made to fail, and a clock of each thread that tests advance.
//!
//! Atomics and locks are those of `crate::sync`: the standard library's, or those of a checker that
//! schedules the threads itself.

use crate::sync::{
    AtomicU32,
    AtomicU64,
    Mutex,
    MutexGuard, //
};
use std::{
    cell::Cell,
    sync::{
        atomic as std_atomic,
        OnceLock,
        TryLockError, //
    },
};

/// The error of a failed allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AllocError;

/// The context of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alloc {
    /// A context that may sleep.
    Sleep,
    /// Any context; the allocation does not sleep.
    Atomic,
}

thread_local! {
    static FAIL_ATOMIC: Cell<bool> = const { Cell::new(false) };
    static NANOSECONDS: Cell<u64> = const { Cell::new(0) };
}

/// Lets milliseconds pass for this thread.
pub(crate) fn pass_ms(milliseconds: u64) {
    pass_ns(milliseconds * 1_000_000);
}

/// Lets nanoseconds pass for this thread.
pub(crate) fn pass_ns(nanoseconds: u64) {
    NANOSECONDS.with(|now| now.set(now.get() + nanoseconds));
}

/// A measurement of the time that has passed since it began.
#[derive(Clone, Copy)]
pub(crate) struct Stopwatch(u64);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(NANOSECONDS.with(Cell::get))
    }

    pub(crate) fn elapsed_ms(&self) -> u64 {
        self.elapsed_ns() / 1_000_000
    }

    pub(crate) fn elapsed_ns(&self) -> u64 {
        NANOSECONDS.with(Cell::get).saturating_sub(self.0)
    }
}

/// Makes allocations of this thread that may not sleep fail, or succeed again.
pub(crate) fn fail_atomic_allocations(fail: bool) {
    FAIL_ATOMIC.with(|f| f.set(fail));
}

/// A slice of fixed length.
pub(crate) struct BoxedSlice<T>(Box<[T]>);

impl<T> BoxedSlice<T> {
    pub(crate) fn new(
        len: usize,
        alloc: Alloc,
        make: impl FnMut(usize) -> T,
    ) -> Result<Self, AllocError> {
        if alloc == Alloc::Atomic && FAIL_ATOMIC.with(Cell::get) {
            return Err(AllocError);
        }
        Ok(Self((0..len).map(make).collect()))
    }

    pub(crate) fn copy_of(elements: &[T]) -> Result<Self, AllocError>
    where
        T: Copy,
    {
        Ok(Self(elements.into()))
    }
}

impl<T> std::ops::Deref for BoxedSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> std::ops::DerefMut for BoxedSlice<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// An array that is set once.
pub(crate) struct OnceArray<T, const N: usize>(OnceLock<Box<[T; N]>>);

impl<T, const N: usize> OnceArray<T, N> {
    pub(crate) fn new() -> Self {
        Self(OnceLock::new())
    }

    pub(crate) fn as_ref(&self) -> Option<&[T; N]> {
        self.0.get().map(|array| &**array)
    }

    pub(crate) fn populate(&self, slice: BoxedSlice<T>) -> Result<(), BoxedSlice<T>> {
        let array = slice.0.try_into().map_err(BoxedSlice)?;
        self.0.set(array).map_err(|array| BoxedSlice(array))
    }
}

/// A lock.
pub(crate) struct Lock<T>(Mutex<T>);

/// A guard that holds a [`Lock`].
pub(crate) type Guard<'a, T> = MutexGuard<'a, T>;

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Result<Self, AllocError> {
        Ok(Self(Mutex::new(value)))
    }

    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An ordering, as one of the kernel's types.
pub(crate) trait Ordering {
    const ORDERING: std_atomic::Ordering;
    /// The strongest ordering of a load that this one allows.
    const LOAD: std_atomic::Ordering;
}

macro_rules! ordering {
    ($($name:ident = $all:ident, $load:ident;)*) => {$(
        pub(crate) struct $name;

        impl Ordering for $name {
            const ORDERING: std_atomic::Ordering = std_atomic::Ordering::$all;
            const LOAD: std_atomic::Ordering = std_atomic::Ordering::$load;
        }
    )*};
}

ordering! {
    Relaxed = Relaxed, Relaxed;
    Acquire = Acquire, Acquire;
    Release = Release, Relaxed;
    Full = SeqCst, SeqCst;
}

/// An integer type that has an atomic.
pub(crate) trait Integer: Copy {
    type Atomic;
    fn new(value: Self) -> Self::Atomic;
    fn load(atomic: &Self::Atomic, ordering: std_atomic::Ordering) -> Self;
    fn store(atomic: &Self::Atomic, value: Self, ordering: std_atomic::Ordering);
    fn swap(atomic: &Self::Atomic, value: Self, ordering: std_atomic::Ordering) -> Self;
    fn fetch_add(atomic: &Self::Atomic, value: Self, ordering: std_atomic::Ordering) -> Self;
    fn compare_exchange(
        atomic: &Self::Atomic,
        old: Self,
        new: Self,
        ordering: std_atomic::Ordering,
        failure: std_atomic::Ordering,
    ) -> Result<Self, Self>;
}

/// The kernel's `Atomic`, as far as the engine uses it.
pub(crate) struct Atomic<T: Integer>(T::Atomic);

impl<T: Integer> Atomic<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(T::new(value))
    }

    pub(crate) fn load<O: Ordering>(&self, _: O) -> T {
        T::load(&self.0, O::ORDERING)
    }

    pub(crate) fn store<O: Ordering>(&self, value: T, _: O) {
        T::store(&self.0, value, O::ORDERING);
    }

    pub(crate) fn xchg<O: Ordering>(&self, value: T, _: O) -> T {
        T::swap(&self.0, value, O::ORDERING)
    }

    pub(crate) fn fetch_add<O: Ordering>(&self, value: T, _: O) -> T {
        T::fetch_add(&self.0, value, O::ORDERING)
    }

    pub(crate) fn cmpxchg<O: Ordering>(&self, old: T, new: T, _: O) -> Result<T, T> {
        T::compare_exchange(&self.0, old, new, O::ORDERING, O::LOAD)
    }
}

macro_rules! integer {
    ($($int:ty => $atomic:ident;)*) => {$(
        impl Integer for $int {
            type Atomic = $atomic;

            fn new(value: Self) -> Self::Atomic {
                $atomic::new(value)
            }

            fn load(atomic: &Self::Atomic, ordering: std_atomic::Ordering) -> Self {
                atomic.load(ordering)
            }

            fn store(atomic: &Self::Atomic, value: Self, ordering: std_atomic::Ordering) {
                atomic.store(value, ordering);
            }

            fn swap(atomic: &Self::Atomic, value: Self, ordering: std_atomic::Ordering) -> Self {
                atomic.swap(value, ordering)
            }

            fn fetch_add(
                atomic: &Self::Atomic,
                value: Self,
                ordering: std_atomic::Ordering,
            ) -> Self {
                atomic.fetch_add(value, ordering)
            }

            fn compare_exchange(
                atomic: &Self::Atomic,
                old: Self,
                new: Self,
                ordering: std_atomic::Ordering,
                failure: std_atomic::Ordering,
            ) -> Result<Self, Self> {
                atomic.compare_exchange(old, new, ordering, failure)
            }
        }
    )*};
}

integer! {
    u32 => AtomicU32;
    u64 => AtomicU64;
}
