// SPDX-License-Identifier: GPL-2.0

//! Something to do now and then: a safe wrapper of a delayed work item that queues itself.
//!
//! The kernel crate's work items are for what lives forever; this one is for what a driver's
//! binding owns, since it is cancelled when it is dropped.

use crate::bindings;
use kernel::{
    bindings::{
        delayed_work,
        work_struct, //
    },
    container_of,
    prelude::*,
    time::{
        msecs_to_jiffies,
        Jiffies,
        Msecs, //
    },
    types::Opaque, //
};

/// What a [`Periodic`] does.
pub(crate) trait PeriodicTask: Send + Sync {
    /// Does it. In process context; may sleep. Does not run while the system is suspended.
    fn run(&self);
}

/// Calls `T` every so often for as long as it lives. An idle CPU is not woken up for it.
///
/// # Invariants
///
/// The work item's function is [`Self::run`].
#[pin_data(PinnedDrop)]
pub(crate) struct Periodic<T: PeriodicTask> {
    #[pin]
    work: Opaque<delayed_work>,
    period: Jiffies,
    target: T,
}

// SAFETY: The work queue does its own locking on the work item, and the target is `Send`.
unsafe impl<T: PeriodicTask> Send for Periodic<T> {}

// SAFETY: Nothing can be done by a shared reference.
unsafe impl<T: PeriodicTask> Sync for Periodic<T> {}

impl<T: PeriodicTask> Periodic<T> {
    /// Calls `target` once every `period` milliseconds from now on.
    pub(crate) fn new(target: T, period: Msecs) -> impl PinInit<Self> {
        let period = msecs_to_jiffies(period).max(1);
        // INVARIANT: The work item gets its function here.
        pin_init!(Self {
            target,
            period,
            work <- Opaque::ffi_init(|work| {
                // SAFETY: `work` is valid for writes and stays where it is, as it is pinned, until
                // `drop` cancels it; the other fields were initialised before.
                unsafe {
                    bindings::apple_dma_helper_init_deferrable_work(work, Some(Self::run));
                    bindings::apple_dma_helper_queue_freezable_work(work, *period);
                }
            }),
        })
    }

    /// # Safety
    ///
    /// `work` is the work item of a [`Periodic`].
    unsafe extern "C" fn run(work: *mut work_struct) {
        // SAFETY: By the safety requirements; it lives as long as the work item may run.
        let this = unsafe {
            let work = container_of!(work, delayed_work, work);
            &*container_of!(Opaque::cast_from(work), Self, work)
        };
        this.target.run();
        // SAFETY: The work item was initialised. While it is being cancelled this does nothing.
        unsafe { bindings::apple_dma_helper_queue_freezable_work(this.work.get(), this.period) };
    }
}

#[pinned_drop]
impl<T: PeriodicTask> PinnedDrop for Periodic<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the work item was initialised. This waits until it does
        // not run any more, nor will.
        unsafe { kernel::bindings::cancel_delayed_work_sync(self.work.get()) };
    }
}
