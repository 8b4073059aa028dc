// SPDX-License-Identifier: GPL-2.0

//! Periodic work on an instance, and the final release of its mappings: recovery from a failed
//! host, removal of mappings that an earlier kernel left, ageing, and spare memory for the tables.
//!
//! The engine decides what is due; how often it runs, and what is logged, is decided here.

use super::Instance;
use crate::abstractions::periodic::{
    Periodic,
    PeriodicTask, //
};
use crate::engine::Released;
use crate::host::{
    set_master,
    CommandBuffers, //
};
use crate::sys::{
    Atomic,
    Relaxed, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Windows for which the tables have spare memory at any time.
const SPARE: usize = 128;

/// The period of [`Recovery`], in milliseconds.
const RECOVERY_PERIOD: u32 = 2000;

/// Periods of [`RECOVERY_PERIOD`] between two sums of the windows' uses.
const COUNT_EVERY: u32 = 8;

/// Most batches of lost windows that are retried at a time.
const RECOVERY_BATCHES: usize = 64;

impl Instance<'_> {
    /// Retries a host that does not reply, if that is due or with `hurry`, and retries to unmap
    /// the windows that the host failed to unmap.
    ///
    /// Context: process, may sleep.
    fn recover(&self, hurry: bool) {
        let wanted = self.engine.with_host(|host| host.needs_new_buffers(hurry));
        // Without memory now, the next period tries again.
        let fresh = wanted.and_then(|entries| CommandBuffers::new(self.dev, entries).ok());
        if let Some(fresh) = fresh {
            set_master(self.dev);
            drop(self.engine.with_host(|host| host.replace_buffers(fresh)));
        }
        let mut stats = self.engine.stats();
        for _ in 0..RECOVERY_BATCHES {
            let before = stats.counters.windows_recovered.get();
            self.engine.retry_lost();
            stats = self.engine.stats();
            // A batch without success predicts the same of the next.
            if stats.counters.windows_recovered.get() == before {
                break;
            }
        }
        self.notices.log();
        let news = |logged: &Atomic<u64>, now: u64| now.saturating_sub(logged.xchg(now, Relaxed));
        let lost = news(&self.lost_logged, stats.counters.windows_lost.get());
        let recovered = news(
            &self.recovered_logged,
            stats.counters.windows_recovered.get(),
        );
        if lost != 0 {
            dev_err!(
                self.dev,
                "host failed to unmap {} mappings; retrying\n",
                lost
            );
        }
        if recovered != 0 {
            dev_info!(self.dev, "host unmapped {} mappings on retry\n", recovered);
        }
    }

    /// Unmaps everything; logs what remains mapped by the host.
    ///
    /// Context: process, may sleep.
    pub(super) fn release(&self) -> Released {
        self.recover(true);
        self.close_pool();
        let released = self.engine.release();
        self.notices.log();
        if released.lost != 0 {
            dev_err!(
                self.dev,
                "host failed to unmap {} mappings; they remain until QEMU exits\n",
                released.lost
            );
        }
        released
    }
}

/// Unmaps windows that have been idle for `max_idle`.
pub(super) struct Ageing<'a>(Arc<Instance<'a>>);

impl<'a> Ageing<'a> {
    /// Starts the work on `instance`, if its mode and parameters ask for it.
    ///
    /// Context: process, may sleep.
    pub(super) fn start(instance: &Arc<Instance<'a>>) -> Result<Option<Pin<KBox<Periodic<Self>>>>> {
        let max_idle = instance.params.max_idle;
        if max_idle == 0 || !instance.mode.reclaims_by_age() {
            return Ok(None);
        }
        // The first run marks an idle window, the second unmaps it.
        let period = max_idle.saturating_mul(1000) / 2;
        let task = Periodic::new(Self(instance.clone()), period);
        Ok(Some(KBox::pin_init(task, GFP_KERNEL)?))
    }
}

impl PeriodicTask for Ageing<'_> {
    // The device reaches an idle window for `max_idle` at most, whether a CPU is busy or not.
    const DEFERRABLE: bool = false;

    fn run(&self) {
        self.0.engine.age();
    }
}

/// Recovers from failures of the host and of earlier kernels, and keeps the tables ready.
pub(super) struct Recovery<'a> {
    instance: Arc<Instance<'a>>,
    runs: Atomic<u32>,
}

impl<'a> Recovery<'a> {
    /// Starts the work on `instance`.
    ///
    /// Context: process, may sleep.
    pub(super) fn start(instance: &Arc<Instance<'a>>) -> Result<Pin<KBox<Periodic<Self>>>> {
        let task = Self {
            instance: instance.clone(),
            runs: Atomic::new(0),
        };
        KBox::pin_init(Periodic::new(task, RECOVERY_PERIOD), GFP_KERNEL)
    }
}

impl PeriodicTask for Recovery<'_> {
    const DEFERRABLE: bool = true;

    fn run(&self) {
        let instance = &self.instance;
        // A failure is not an error: without spare memory, calls with interrupts off still try to
        // allocate.
        let _ = instance.engine.reserve(SPARE);
        instance.retry_update_ram();
        instance.recover(false);
        instance.engine.make_room_for_others();
        // Windows that were in use when a limit was lowered.
        instance.engine.trim();
        if self.runs.fetch_add(1, Relaxed) % COUNT_EVERY == 0 {
            instance.engine.count_uses();
        }
        instance.continue_search();
        instance.notices.log();
    }
}
