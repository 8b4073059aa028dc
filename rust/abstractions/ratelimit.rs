// SPDX-License-Identifier: GPL-2.0

//! A limit on how often something is said.

use crate::bindings;
use kernel::{
    c_str,
    prelude::*,
    types::Opaque, //
};

/// The kernel's `struct ratelimit_state` with its default interval and burst. What was suppressed
/// is counted and told when it is dropped.
#[pin_data(PinnedDrop)]
pub(crate) struct RateLimit {
    #[pin]
    state: Opaque<kernel::bindings::ratelimit_state>,
}

// SAFETY: `___ratelimit` does its own locking, and the state belongs to no thread.
unsafe impl Send for RateLimit {}

// SAFETY: As above.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    /// A limit that nothing counts against yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- Opaque::ffi_init(|state| {
                // SAFETY: `state` is valid for writes, and stays where it is as it is pinned.
                unsafe { bindings::apple_dma_helper_ratelimit_init(state) }
            }),
        })
    }

    /// Whether it may be said now. Any context.
    pub(crate) fn allows(&self) -> bool {
        // SAFETY: The state was initialised, and the name is a string that lives forever.
        let allowed = unsafe {
            kernel::bindings::___ratelimit(self.state.get(), c_str!("apple_dma_pci").as_char_ptr())
        };
        allowed != 0
    }
}

#[pinned_drop]
impl PinnedDrop for RateLimit {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The state was initialised, and nobody uses it any more.
        unsafe { bindings::apple_dma_helper_ratelimit_exit(self.state.get()) };
    }
}
