// SPDX-License-Identifier: GPL-2.0

//! A place in one of the kernel's blocking notifier chains: a safe wrapper of
//! `struct notifier_block`, in general.

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

/// A notifier chain.
///
/// # Safety
///
/// `register` puts a block into the chain that `unregister` takes it out of, after which the block
/// is not used any more. Both may sleep.
pub(crate) unsafe trait Chain {
    /// As the kernel's function of the chain.
    ///
    /// # Safety
    ///
    /// The block is in no chain, and valid and where it is until it is unregistered.
    unsafe fn register(block: *mut notifier_block) -> c_int;

    /// As the kernel's function of the chain.
    ///
    /// # Safety
    ///
    /// The block was registered.
    unsafe fn unregister(block: *mut notifier_block);
}

/// Who is told.
pub(crate) trait Listener<C: Chain>: Send + Sync {
    /// Something happened; an error keeps the rest of the chain from being told, and is what comes
    /// of it for those who ask. May sleep.
    ///
    /// # Safety
    ///
    /// The chain calls this; `data` is what it has for `action`.
    unsafe fn call(&self, action: c_ulong, data: *mut c_void) -> Result;
}

/// Has `T` told for as long as it lives.
///
/// # Invariants
///
/// The block is in the chain `C`, and its callback is [`Self::notify`].
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
    /// Has `listener` told from now on. May sleep.
    pub(crate) fn new(listener: T) -> impl PinInit<Self, Error> {
        // INVARIANT: The block is registered last, when nothing can fail any more.
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
                // SAFETY: The block stays where it is, as it is pinned, until `drop` takes it out
                // of the chain; the other fields were initialised before it.
                kernel::error::to_result(unsafe { C::register(block) })
            }),
        })
    }

    /// Who is told.
    pub(crate) fn listener(&self) -> &T {
        &self.listener
    }

    /// # Safety
    ///
    /// The chain `C` calls this, and `block` is that of a [`Notifier`].
    unsafe extern "C" fn notify(
        block: *mut notifier_block,
        action: c_ulong,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: By the safety requirements; the notifier lives as long as it is in the chain,
        // which it is during the call.
        let this = unsafe { &*container_of!(Opaque::cast_from(block), Self, block) };
        // SAFETY: By the safety requirements.
        match unsafe { this.listener.call(action, data) } {
            Ok(()) => NOTIFY_OK,
            // What `notifier_from_errno()` makes of it.
            Err(error) => NOTIFY_STOP_MASK | NOTIFY_OK.wrapping_sub(error.to_errno()),
        }
    }
}

#[pinned_drop]
impl<C: Chain, T: Listener<C>> PinnedDrop for Notifier<C, T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants. This waits for calls that are under way.
        unsafe { C::unregister(self.block.get()) };
    }
}

// CAST: These are small numbers.
const NOTIFY_OK: c_int = kernel::bindings::NOTIFY_OK as c_int;
const NOTIFY_STOP_MASK: c_int = kernel::bindings::NOTIFY_STOP_MASK as c_int;
