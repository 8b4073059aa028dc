// SPDX-License-Identifier: GPL-2.0

//! Notifier chains.
//!
//! C header: [`include/linux/notifier.h`](srctree/include/linux/notifier.h)

use core::marker::PhantomData;
use kernel::{
    bindings::notifier_block,
    container_of,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    types::Opaque, //
};

/// A notifier chain of the kernel.
///
/// # Safety
///
/// A block that `register` added to the chain must not be used by the chain any more when
/// `unregister` has returned.
pub(crate) unsafe trait Chain {
    /// Adds a block to the chain. Returns 0 or a negative error.
    ///
    /// Context: process, may sleep.
    ///
    /// # Safety
    ///
    /// `block` must be initialised, must be in no chain, and must stay valid and not move until it
    /// is unregistered.
    unsafe fn register(block: *mut notifier_block) -> c_int;

    /// Removes a block from the chain, and waits for calls of it that are under way.
    ///
    /// Context: process, may sleep.
    ///
    /// # Safety
    ///
    /// `block` must have been registered successfully, and not unregistered since.
    unsafe fn unregister(block: *mut notifier_block);
}

/// A receiver of the events of the chain `C`.
pub(crate) trait Listener<C: Chain>: Send + Sync {
    /// Handles the event `action`. An error ends the walk of the chain, and is returned to the
    /// code that raised the event.
    ///
    /// Context: that of the chain.
    ///
    /// # Safety
    ///
    /// `data` must be what the chain `C` passes with `action`, and valid for the call.
    unsafe fn call(&self, action: c_ulong, data: *mut c_void) -> Result;
}

/// A registration of the listener `T` with the chain `C`, until it is dropped.
///
/// # Invariants
///
/// `block` is registered with the chain `C`, and its callback is [`Self::notify`].
#[pin_data(PinnedDrop)]
pub(crate) struct Notifier<C: Chain, T: Listener<C>> {
    #[pin]
    block: Opaque<notifier_block>,
    listener: T,
    _chain: PhantomData<C>,
}

// SAFETY: The kernel does its own locking on the block, and the listener is `Send`.
unsafe impl<C: Chain, T: Listener<C>> Send for Notifier<C, T> {}

// SAFETY: Only the listener can be reached by a shared reference, and it is `Sync`.
unsafe impl<C: Chain, T: Listener<C>> Sync for Notifier<C, T> {}

impl<C: Chain, T: Listener<C>> Notifier<C, T> {
    /// Registers `listener`.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(listener: T) -> impl PinInit<Self, Error> {
        // INVARIANT: The block gets its callback and is registered last, so a notifier exists only
        // if that succeeded.
        try_pin_init!(Self {
            listener,
            _chain: PhantomData,
            block <- Opaque::try_ffi_init(|block: *mut notifier_block| {
                // SAFETY: `block` is valid for writes.
                unsafe {
                    block.write(notifier_block {
                        notifier_call: Some(Self::notify),
                        ..pin_init::zeroed()
                    });
                }
                // SAFETY: The block was just initialised and is in no chain. It is pinned, so it
                // does not move and stays valid until `drop` unregisters it. The callback may run
                // from here on; the other fields were initialised before.
                kernel::error::to_result(unsafe { C::register(block) })
            }),
        })
    }

    /// Returns the listener.
    pub(crate) fn listener(&self) -> &T {
        &self.listener
    }

    /// Passes an event on to the listener.
    ///
    /// # Safety
    ///
    /// To be called by the chain `C` only; `block` must be that of a [`Notifier`].
    unsafe extern "C" fn notify(
        block: *mut notifier_block,
        action: c_ulong,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: By the safety requirements. The notifier lives for as long as its block is in
        // the chain, so for the duration of the call.
        let this = unsafe { &*container_of!(Opaque::cast_from(block), Self, block) };
        // SAFETY: By the safety requirements the chain passed `action` and `data`.
        match unsafe { this.listener.call(action, data) } {
            Ok(()) => NOTIFY_OK,
            // As `notifier_from_errno()`.
            Err(error) => NOTIFY_STOP_MASK | NOTIFY_OK.wrapping_sub(error.to_errno()),
        }
    }
}

#[pinned_drop]
impl<C: Chain, T: Listener<C>> PinnedDrop for Notifier<C, T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the block is registered. This waits for calls that are
        // under way, so the listener is not used any more afterwards.
        unsafe { C::unregister(self.block.get()) };
    }
}

// CAST: These are small numbers.
const NOTIFY_OK: c_int = kernel::bindings::NOTIFY_OK as c_int;
const NOTIFY_STOP_MASK: c_int = kernel::bindings::NOTIFY_STOP_MASK as c_int;
