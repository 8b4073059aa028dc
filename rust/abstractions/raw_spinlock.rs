// SPDX-License-Identifier: GPL-2.0

//! A raw spinlock that is taken with interrupts disabled.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use crate::bindings;
use kernel::sync::lock::{
    Backend,
    Guard,
    Lock, //
};

/// A raw spinlock.
///
/// Exposes the kernel's [`raw_spinlock_t`]. It may be taken in any context. Interrupts of the CPU
/// are disabled while it is held, and the holder must not sleep, on PREEMPT_RT neither.
///
/// # Examples
///
/// ```
/// let lock = RawSpinlock::new(0, c_str!("counter"), static_lock_class!());
/// let lock = KBox::pin_init(lock, GFP_KERNEL)?;
/// *lock.lock() += 1;
/// ```
///
/// [`raw_spinlock_t`]: srctree/include/linux/spinlock.h
pub(crate) type RawSpinlock<T> = Lock<T, RawIrqBackend>;

/// A [`Guard`] acquired from locking a [`RawSpinlock`].
pub(crate) type RawSpinlockGuard<'a, T> = Guard<'a, T, RawIrqBackend>;

/// A kernel `raw_spinlock_t` lock backend that saves and restores the interrupt state.
pub(crate) struct RawIrqBackend;

// SAFETY: The underlying `raw_spinlock_t` ensures mutual exclusion. `relock` uses the default
// implementation, which calls the same locking method.
unsafe impl Backend for RawIrqBackend {
    type State = kernel::bindings::raw_spinlock_t;
    /// The interrupt state to restore.
    type GuardState = kernel::ffi::c_ulong;

    unsafe fn init(
        ptr: *mut Self::State,
        name: *const kernel::ffi::c_char,
        key: *mut kernel::bindings::lock_class_key,
    ) {
        // SAFETY: By the safety requirements `ptr` is valid for writes, and `name` and `key` are
        // valid for reads indefinitely.
        unsafe { bindings::apple_dma_helper_raw_spin_lock_init(ptr, name, key) }
    }

    #[inline]
    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: By the safety requirements `ptr` points to an initialised lock.
        unsafe { bindings::apple_dma_helper_raw_spin_lock_irqsave(ptr) }
    }

    #[inline]
    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        let mut flags = 0;
        // SAFETY: By the safety requirements `ptr` points to an initialised lock; `flags` is valid
        // for writes.
        unsafe { bindings::apple_dma_helper_raw_spin_trylock_irqsave(ptr, &mut flags) }
            .then_some(flags)
    }

    #[inline]
    unsafe fn unlock(ptr: *mut Self::State, flags: &Self::GuardState) {
        // SAFETY: By the safety requirements the caller owns the lock at `ptr`, and `flags` is the
        // state that was saved when it was taken.
        unsafe { bindings::apple_dma_helper_raw_spin_unlock_irqrestore(ptr, *flags) }
    }

    #[inline]
    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: By the safety requirements `ptr` points to an initialised lock.
        unsafe { bindings::apple_dma_helper_lockdep_assert_held(ptr) }
    }
}
