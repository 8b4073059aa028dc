// SPDX-License-Identifier: GPL-2.0

//! Memory hotplug notifier.
//!
//! C header: [`include/linux/memory.h`](srctree/include/linux/memory.h)

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

/// Callbacks of a [`MemoryNotifier`].
///
/// Context of all methods: process, may sleep. The kernel changes one block of memory at a time, so
/// calls do not overlap.
pub(crate) trait MemoryEvents: Send + Sync {
    /// Handles that the memory of `span` is about to come online. An error prevents it.
    fn going_online(&self, span: GpaSpan) -> Result;

    /// Handles that the memory of `span` came online: drivers may use it.
    fn online(&self, span: GpaSpan);

    /// Handles that the memory of `span` is about to go offline. An error prevents it.
    fn going_offline(&self, span: GpaSpan) -> Result;

    /// Handles that the memory of `span` went offline: drivers do not use it any more.
    fn offline(&self, span: GpaSpan);
}

/// A registration of the callbacks of `T`, until it is dropped.
pub(crate) type MemoryNotifier<T> = Notifier<MemoryChain, T>;

/// The memory notifier's chain.
pub(crate) struct MemoryChain;

// SAFETY: `register_memory_notifier()` and its counterpart add the block to a chain and remove it.
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
        // SAFETY: By the safety requirements; all actions of this chain have such data.
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
