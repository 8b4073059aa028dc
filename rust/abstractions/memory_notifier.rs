// SPDX-License-Identifier: GPL-2.0

//! Memory that comes and goes: a safe wrapper of the kernel's memory notifier.

use crate::abstractions::notifier::{
    Chain,
    Listener,
    Notifier, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan, //
};
use crate::bindings;
use kernel::{
    bindings::notifier_block,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    page::PAGE_SHIFT,
    prelude::*, //
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
pub(crate) type MemoryNotifier<T> = Notifier<MemoryChain, T>;

/// The memory notifier's chain.
pub(crate) struct MemoryChain;

// SAFETY: The kernel's functions do so.
unsafe impl Chain for MemoryChain {
    unsafe fn register(block: *mut notifier_block) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { bindings::apple_dma_helper_register_memory_notifier(block) }
    }

    unsafe fn unregister(block: *mut notifier_block) {
        // SAFETY: By the safety requirements.
        unsafe { bindings::apple_dma_helper_unregister_memory_notifier(block) }
    }
}

impl<T: MemoryEvents> Listener<MemoryChain> for T {
    unsafe fn call(&self, action: c_ulong, data: *mut c_void) -> Result {
        // SAFETY: All of the chain's actions have such data.
        let memory = unsafe { &*data.cast::<bindings::memory_notify>() };
        let bytes = |pages: c_ulong| (pages as u64).checked_shl(PAGE_SHIFT as u32);
        let span = bytes(memory.start_pfn)
            .zip(bytes(memory.nr_pages))
            .and_then(|(start, len)| GpaSpan::new(Gpa::new(start), len));
        let Some(span) = span else {
            return Ok(());
        };
        match action {
            MEM_GOING_ONLINE => self.going_online(span)?,
            MEM_ONLINE => self.online(span),
            MEM_GOING_OFFLINE => self.going_offline(span)?,
            MEM_OFFLINE => self.offline(span),
            _ => {}
        }
        Ok(())
    }
}

// CAST: The actions are small numbers.
const MEM_GOING_ONLINE: c_ulong = bindings::memory_block_state_MEM_GOING_ONLINE as c_ulong;
const MEM_ONLINE: c_ulong = bindings::memory_block_state_MEM_ONLINE as c_ulong;
const MEM_GOING_OFFLINE: c_ulong = bindings::memory_block_state_MEM_GOING_OFFLINE as c_ulong;
const MEM_OFFLINE: c_ulong = bindings::memory_block_state_MEM_OFFLINE as c_ulong;
