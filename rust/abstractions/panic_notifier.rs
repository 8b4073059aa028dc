// SPDX-License-Identifier: GPL-2.0

//! Panic notifier.
//!
//! C header: [`include/linux/panic_notifier.h`](srctree/include/linux/panic_notifier.h)

use crate::abstractions::notifier::{
    Chain,
    Listener,
    Notifier, //
};
use crate::bindings;
use kernel::{
    bindings::notifier_block,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*, //
};

/// Callback of a [`PanicNotifier`].
pub(crate) trait PanicEvents: Send + Sync {
    /// Handles that the kernel panics, and does not load a kernel for crash dumps.
    ///
    /// Context: any, with interrupts off. All other CPUs have stopped, wherever they were: a lock
    /// that one of them holds is never released.
    fn crashing(&self);
}

/// A registration of the callback of `T`, until it is dropped.
pub(crate) type PanicNotifier<T> = Notifier<PanicChain, T>;

/// The chain of panic notifiers.
pub(crate) struct PanicChain;

// SAFETY: `atomic_notifier_chain_register()` and its counterpart add the block to a chain and
// remove it; the latter waits for a grace period of RCU, in which calls are made.
unsafe impl Chain for PanicChain {
    unsafe fn register(block: *mut notifier_block) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { bindings::apple_dma_helper_register_panic_notifier(block) }
    }

    unsafe fn unregister(block: *mut notifier_block) {
        // SAFETY: By the safety requirements.
        unsafe { bindings::apple_dma_helper_unregister_panic_notifier(block) }
    }
}

impl<T: PanicEvents> Listener<PanicChain> for T {
    unsafe fn call(&self, _action: c_ulong, _data: *mut c_void) -> Result {
        self.crashing();
        Ok(())
    }
}
