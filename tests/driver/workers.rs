// SPDX-License-Identifier: GPL-2.0

//! Threads that run the same function on several CPUs at once.

use crate::bindings;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Returns the number of online CPUs.
pub(crate) fn online_cpus() -> u32 {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::dma_test_online_cpus() }
}

/// Calls `f(0)` to `f(count - 1)` at once, each in a thread of its own, and waits for all.
///
/// The threads are spread over the online CPUs. A single call is made in the calling thread. If
/// some threads could not be started, their calls were not made.
pub(crate) fn run<F: Fn(u32) + Sync>(count: u32, f: F) -> Result {
    if count == 1 {
        f(0);
        return Ok(());
    }
    // SAFETY: The function calls `trampoline` with this pointer, and returns after all calls did.
    // `F` is `Sync`, so the threads may share it.
    to_result(unsafe {
        bindings::dma_test_on_cpus(
            count,
            Some(trampoline::<F>),
            core::ptr::from_ref(&f).cast_mut().cast(),
        )
    })
}

/// # Safety
///
/// `f` must point to an `F`.
unsafe extern "C" fn trampoline<F: Fn(u32) + Sync>(f: *mut c_void, worker: c_uint) {
    // SAFETY: By the function's contract.
    let f = unsafe { &*f.cast_const().cast::<F>() };

    f(worker);
}
