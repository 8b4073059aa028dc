// SPDX-License-Identifier: GPL-2.0

//! Rate limit of messages.
//!
//! C header: [`include/linux/ratelimit.h`](srctree/include/linux/ratelimit.h)

use crate::bindings;
use kernel::{
    c_str,
    prelude::*,
    types::Opaque, //
};

/// A rate limit with the default interval and burst.
///
/// Wraps the kernel's `struct ratelimit_state`. Suppressed messages are counted, and their number
/// is logged when this is dropped.
///
/// # Invariants
///
/// `state` is initialised.
///
/// # Examples
///
/// ```
/// let limit = KBox::pin_init(RateLimit::new(), GFP_KERNEL)?;
/// if limit.allows() {
///     pr_warn!("the device does not respond\n");
/// }
/// ```
#[pin_data(PinnedDrop)]
pub(crate) struct RateLimit {
    #[pin]
    state: Opaque<kernel::bindings::ratelimit_state>,
}

// SAFETY: `struct ratelimit_state` belongs to no thread.
unsafe impl Send for RateLimit {}

// SAFETY: `___ratelimit()` does its own locking.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    /// Creates a limit that nothing has counted against yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        // INVARIANT: The state is initialised here.
        pin_init!(Self {
            state <- Opaque::ffi_init(|state| {
                // SAFETY: `state` is valid for writes. It is pinned, so it does not move.
                unsafe { bindings::apple_dma_helper_ratelimit_init(state) }
            }),
        })
    }

    /// Returns whether a message may be logged now, and counts it.
    ///
    /// Context: any.
    pub(crate) fn allows(&self) -> bool {
        // SAFETY: By the type invariants the state is initialised, and the name is a static string.
        let allowed = unsafe {
            kernel::bindings::___ratelimit(self.state.get(), c_str!("apple_dma_pci").as_char_ptr())
        };
        allowed != 0
    }
}

#[pinned_drop]
impl PinnedDrop for RateLimit {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the state is initialised. It is not used after this.
        unsafe { bindings::apple_dma_helper_ratelimit_exit(self.state.get()) };
    }
}
