// SPDX-License-Identifier: GPL-2.0

//! Periodic work: a delayed work item that queues itself again.
//!
//! A work item of the `kernel` crate owns a reference to its target while it is queued. This one is
//! for what a driver's binding owns: it owns its target, and is cancelled when it is dropped.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

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

/// The task of a [`Periodic`].
pub(crate) trait PeriodicTask: Send + Sync {
    /// Set if the task may be late while the CPU is idle, which is not woken up for it then.
    const DEFERRABLE: bool;

    /// Runs the task once. Not called while the system is suspended; calls do not overlap.
    ///
    /// Context: process, may sleep.
    fn run(&self);
}

/// A task that runs periodically, until it is stopped or this is dropped.
///
/// # Invariants
///
/// `work` is initialised, and its function is [`Self::run`].
#[pin_data(PinnedDrop)]
pub(crate) struct Periodic<T: PeriodicTask> {
    #[pin]
    work: Opaque<delayed_work>,
    period: Jiffies,
    target: T,
}

// SAFETY: The workqueue does its own locking on the work item, and the target is `Send`.
unsafe impl<T: PeriodicTask> Send for Periodic<T> {}

// SAFETY: The workqueue does its own locking on the work item, and the target is `Sync`.
unsafe impl<T: PeriodicTask> Sync for Periodic<T> {}

impl<T: PeriodicTask> Periodic<T> {
    /// Runs `target` every `period` milliseconds, for the first time in one period.
    pub(crate) fn new(target: T, period: Msecs) -> impl PinInit<Self> {
        let period = msecs_to_jiffies(period).max(1);
        // INVARIANT: The work item is initialised with its function here.
        pin_init!(Self {
            target,
            period,
            work <- Opaque::ffi_init(|work| {
                // SAFETY: `work` is valid for writes. It is pinned, so it does not move and stays
                // valid until `drop` cancels it. The function may run from here on; the other
                // fields were initialised before.
                unsafe {
                    bindings::apple_dma_helper_init_delayed_work(
                        work,
                        Some(Self::run),
                        T::DEFERRABLE,
                    );
                    bindings::apple_dma_helper_queue_freezable_work(work, *period);
                }
            }),
        })
    }

    /// Stops the task for good. It does not run when this returns, nor later.
    ///
    /// Context: process, may sleep.
    pub(crate) fn stop(&self) {
        // SAFETY: By the type invariants the work item is initialised. It does not queue itself
        // again while it is being cancelled, and nothing else queues it.
        unsafe { kernel::bindings::cancel_delayed_work_sync(self.work.get()) };
    }

    /// Runs the task and queues the work item again.
    ///
    /// # Safety
    ///
    /// `work` must be the work item of a [`Periodic`].
    unsafe extern "C" fn run(work: *mut work_struct) {
        // SAFETY: By the safety requirements. It lives for as long as the work item may run.
        let this = unsafe {
            let work = container_of!(work, delayed_work, work);
            &*container_of!(Opaque::cast_from(work), Self, work)
        };
        this.target.run();
        // SAFETY: By the type invariants the work item is initialised. While it is being cancelled
        // this does nothing.
        unsafe { bindings::apple_dma_helper_queue_freezable_work(this.work.get(), this.period) };
    }
}

#[pinned_drop]
impl<T: PeriodicTask> PinnedDrop for Periodic<T> {
    fn drop(self: Pin<&mut Self>) {
        self.stop();
    }
}
