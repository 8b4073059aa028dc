// SPDX-License-Identifier: GPL-2.0

//! Messages about events under the engine's lock: noted there, and logged after it is dropped.
//!
//! A message may be printed at once, in the context that logs it, and on a console whose own device
//! is managed: its driver would then wait for the lock that this CPU holds. Nothing else in this
//! folder logs, except the setup of a companion, which `probe` does before there is an engine;
//! `tests/env/lint` checks that.

use crate::abstractions::{
    ratelimit::RateLimit,
    raw_spinlock::RawSpinlock, //
};
use crate::sys::{
    Acquire,
    Atomic,
    Release, //
};
use kernel::{
    c_str,
    device::Bound,
    pci,
    prelude::*,
    static_lock_class, //
};

/// Most events that are noted and not logged yet. The rate limit allows no more messages at a time.
const CAPACITY: usize = 16;

/// An event to log.
#[derive(Clone, Copy)]
pub(super) enum Notice {
    /// The companion's registers read as ones.
    Gone,
    /// The host did not finish a batch in so many milliseconds.
    TimedOut(i64),
    /// Batches can be sent again after so many milliseconds, for this reason.
    Responsive(i64, &'static str),
}

/// The last [`CAPACITY`] events, the oldest first.
struct Queue {
    events: [Option<Notice>; CAPACITY],
    len: usize,
}

impl Queue {
    /// Adds an event, instead of the oldest if there is no room.
    fn push(&mut self, event: Notice) {
        if self.len == CAPACITY {
            let _ = self.pop();
        }
        if let Some(place) = self.events.get_mut(self.len) {
            *place = Some(event);
            self.len = self.len.saturating_add(1);
        }
    }

    /// Removes the oldest event.
    fn pop(&mut self) -> Option<Notice> {
        let first = *self.events.first()?;
        self.events.rotate_left(1);
        self.len = self.len.saturating_sub(1);
        first
    }
}

/// The events of a companion that are to be logged.
#[pin_data(PinnedDrop)]
pub(crate) struct Notices<'a> {
    dev: &'a pci::Device<Bound>,
    /// Set while there are events.
    pending: Atomic<u32>,
    /// Set while a CPU logs events, so that they are logged in their order.
    logging: Atomic<u32>,
    #[pin]
    queue: RawSpinlock<Queue>,
    /// Limits the messages about a host that stops or starts to respond.
    #[pin]
    log_limit: RateLimit,
}

impl<'a> Notices<'a> {
    /// Creates an empty list of events of the companion `dev`.
    pub(super) fn new(dev: &'a pci::Device<Bound>) -> impl PinInit<Self> {
        let queue = Queue {
            events: [None; CAPACITY],
            len: 0,
        };
        pin_init!(Self {
            dev,
            pending: Atomic::new(0),
            logging: Atomic::new(0),
            queue <- RawSpinlock::new(queue, c_str!("apple_dma_pci_notices"), static_lock_class!()),
            log_limit <- RateLimit::new(),
        })
    }

    /// Notes an event.
    ///
    /// Context: any, also engine lock held.
    pub(super) fn push(&self, event: Notice) {
        self.queue.lock().push(event);
        self.pending.store(1, Release);
    }

    /// Returns whether no CPU holds the lock of the list, which none releases any more when all but
    /// the calling one have stopped.
    ///
    /// Context: any.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.try_lock().is_some()
    }

    /// Logs the events that were noted; one load if there are none.
    ///
    /// Context: any, engine lock not held.
    #[inline(always)]
    pub(crate) fn log(&self) {
        if self.pending.load(Acquire) != 0 {
            self.log_all();
        }
    }

    #[cold]
    #[inline(never)]
    fn log_all(&self) {
        // A console may map memory for what is printed here, and come here again.
        if self.logging.xchg(1, Acquire) != 0 {
            return;
        }
        while self.pending.xchg(0, Acquire) != 0 {
            while let Some(event) = self.pop() {
                self.log_one(event);
            }
        }
        self.logging.store(0, Release);
    }

    /// Removes the oldest event; the queue's lock is not held afterwards.
    fn pop(&self) -> Option<Notice> {
        self.queue.lock().pop()
    }

    fn log_one(&self, event: Notice) {
        if !self.log_limit.allows() {
            return;
        }
        match event {
            Notice::Gone => dev_err!(
                self.dev,
                "registers read all-ones: companion does not respond\n"
            ),
            Notice::TimedOut(ms) => dev_err!(
                self.dev,
                "host timed out after {} ms; new mappings fail until it responds\n",
                ms
            ),
            Notice::Responsive(ms, how) => dev_info!(
                self.dev,
                "host is responding again after {} ms ({})\n",
                ms,
                how
            ),
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Notices<'_> {
    fn drop(self: Pin<&mut Self>) {
        self.log();
    }
}
