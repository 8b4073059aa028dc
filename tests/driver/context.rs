// SPDX-License-Identifier: GPL-2.0

//! The execution contexts that the DMA API is called from.

use crate::bindings as helpers;
use kernel::{
    alloc::Flags,
    bindings,
    prelude::*, //
};

/// An execution context.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    /// A thread that may sleep.
    Process,
    /// A softirq: work of the BH workqueue, the successor of tasklets.
    Softirq,
    /// A thread that holds a spinlock and has its CPU's interrupts off.
    IrqOff,
    /// A hard interrupt: an `irq_work`.
    Hardirq,
}

impl Context {
    /// All contexts.
    pub(crate) const ALL: [Self; 4] = [Self::Process, Self::Softirq, Self::IrqOff, Self::Hardirq];

    /// Returns the word for the context in commands.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Softirq => "bh",
            Self::IrqOff => "irqoff",
            Self::Hardirq => "hardirq",
        }
    }

    /// Returns whether code in this context may sleep.
    pub(crate) fn may_sleep(self) -> bool {
        self == Self::Process
    }

    /// Returns the flags to allocate memory with in this context.
    pub(crate) fn gfp(self) -> bindings::gfp_t {
        if self.may_sleep() {
            bindings::GFP_KERNEL
        } else {
            bindings::GFP_ATOMIC
        }
    }

    /// Returns the same flags, for the allocators of the `kernel` crate.
    pub(crate) fn flags(self) -> Flags {
        if self.may_sleep() {
            GFP_KERNEL
        } else {
            GFP_ATOMIC
        }
    }

    /// Calls `f` in this context and waits for it. Must be called where sleeping is allowed.
    pub(crate) fn run<R: Send>(self, f: impl FnOnce() -> R + Send) -> Option<R> {
        let mut call = Call {
            function: Some(f),
            result: None,
        };
        let enter = match self {
            Self::Process => return call.function.take().map(|f| f()),
            Self::Softirq => helpers::dma_test_in_softirq,
            Self::IrqOff => helpers::dma_test_in_irqoff,
            Self::Hardirq => helpers::dma_test_in_hardirq,
        };

        // SAFETY: Each of these functions calls `trampoline` with this pointer and returns after
        // the call, so `call` is alive and nothing else uses it meanwhile. All values that cross
        // contexts are `Send`.
        unsafe { enter(Some(trampoline_of(&call)), (&raw mut call).cast()) };
        call.result
    }
}

/// A function to call in another context, with its result.
struct Call<F, R> {
    function: Option<F>,
    result: Option<R>,
}

/// Returns the trampoline that fits `call`.
fn trampoline_of<F: FnOnce() -> R, R>(_call: &Call<F, R>) -> unsafe extern "C" fn(*mut c_void) {
    trampoline::<F, R>
}

/// # Safety
///
/// `call` must point to a `Call<F, R>` that nothing else uses.
unsafe extern "C" fn trampoline<F: FnOnce() -> R, R>(call: *mut c_void) {
    // SAFETY: By the function's contract.
    let call = unsafe { &mut *call.cast::<Call<F, R>>() };

    call.result = call.function.take().map(|f| f());
}
