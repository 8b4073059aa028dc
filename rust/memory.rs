// SPDX-License-Identifier: GPL-2.0

//! Memory that comes and goes: a safe wrapper of the kernel's memory notifier.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan, //
};
use crate::bindings;
use kernel::{
    bindings::notifier_block,
    container_of,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    types::Opaque, //
};

/// What a [`MemoryNotifier`] tells. All of these run in process context and may sleep; the kernel
/// lets one change of memory happen at a time.
pub(crate) trait MemoryEvents: Send + Sync {
    /// The memory of `span` is to come online; an error keeps it away.
    fn going_online(&self, span: GpaSpan) -> Result;

    /// The memory of `span` came online; drivers may use it.
    fn online(&self, span: GpaSpan);

    /// The memory of `span` is to go; an error keeps it.
    fn going_offline(&self, span: GpaSpan) -> Result;

    /// The memory of `span` went; nobody uses it any more.
    fn offline(&self, span: GpaSpan);
}

/// Tells `T` about memory for as long as it lives.
///
/// # Invariants
///
/// The notifier block is registered, and its callback is [`Self::notify`].
#[pin_data(PinnedDrop)]
pub(crate) struct MemoryNotifier<T: MemoryEvents> {
    #[pin]
    block: Opaque<notifier_block>,
    target: T,
}

// SAFETY: The kernel does its own locking on the block, and the target is `Send`.
unsafe impl<T: MemoryEvents> Send for MemoryNotifier<T> {}

// SAFETY: Nothing can be done by a shared reference.
unsafe impl<T: MemoryEvents> Sync for MemoryNotifier<T> {}

impl<T: MemoryEvents> MemoryNotifier<T> {
    /// Tells `target` from now on. May sleep.
    pub(crate) fn new(target: T) -> impl PinInit<Self, Error> {
        // INVARIANT: The block is registered last, when nothing can fail any more.
        try_pin_init!(Self {
            target,
            block <- Opaque::try_ffi_init(|block: *mut notifier_block| {
                // SAFETY: `block` is valid for writes.
                unsafe {
                    block.write(notifier_block {
                        notifier_call: Some(Self::notify),
                        ..pin_init::zeroed()
                    });
                }
                // SAFETY: The block stays where it is, as it is pinned, until `drop` takes it out
                // of the list; the target was initialised before it.
                let ret = unsafe { bindings::apple_dma_helper_register_memory_notifier(block) };
                kernel::error::to_result(ret)
            }),
        })
    }

    /// # Safety
    ///
    /// `block` is that of a [`MemoryNotifier`], and `arg` what the memory notifier's chain gives
    /// for `action`.
    unsafe extern "C" fn notify(
        block: *mut notifier_block,
        action: c_ulong,
        arg: *mut c_void,
    ) -> c_int {
        // SAFETY: By the safety requirements; the notifier lives as long as it is registered, which
        // it is during the call.
        let this = unsafe { &*container_of!(Opaque::cast_from(block), Self, block) };
        // SAFETY: All of the chain's actions have such an argument.
        let memory = unsafe { &*arg.cast::<bindings::memory_notify>() };
        let bytes = |pages: c_ulong| (pages as u64).checked_shl(PAGE_SHIFT as u32);
        let span = bytes(memory.start_pfn)
            .zip(bytes(memory.nr_pages))
            .and_then(|(start, len)| GpaSpan::new(Gpa::new(start), len));
        let Some(span) = span else {
            return NOTIFY_DONE;
        };
        let result = match action {
            MEM_ONLINE => {
                this.target.online(span);
                Ok(())
            }
            MEM_GOING_ONLINE => this.target.going_online(span),
            MEM_GOING_OFFLINE => this.target.going_offline(span),
            MEM_OFFLINE => {
                this.target.offline(span);
                Ok(())
            }
            _ => Ok(()),
        };
        match result {
            Ok(()) => NOTIFY_OK,
            // What `notifier_from_errno()` makes of it.
            Err(error) => NOTIFY_STOP_MASK | NOTIFY_OK.wrapping_sub(error.to_errno()),
        }
    }
}

#[pinned_drop]
impl<T: MemoryEvents> PinnedDrop for MemoryNotifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants. This waits for calls that are under way.
        unsafe { bindings::apple_dma_helper_unregister_memory_notifier(self.block.get()) };
    }
}

// CAST: The actions are small numbers.
const MEM_GOING_ONLINE: c_ulong = bindings::memory_block_state_MEM_GOING_ONLINE as c_ulong;
const MEM_ONLINE: c_ulong = bindings::memory_block_state_MEM_ONLINE as c_ulong;
const MEM_GOING_OFFLINE: c_ulong = bindings::memory_block_state_MEM_GOING_OFFLINE as c_ulong;
const MEM_OFFLINE: c_ulong = bindings::memory_block_state_MEM_OFFLINE as c_ulong;

// CAST: So are the answers.
const NOTIFY_DONE: c_int = kernel::bindings::NOTIFY_DONE as c_int;
const NOTIFY_OK: c_int = kernel::bindings::NOTIFY_OK as c_int;
const NOTIFY_STOP_MASK: c_int = kernel::bindings::NOTIFY_STOP_MASK as c_int;
