// SPDX-License-Identifier: GPL-2.0

//! The pressure on the limits of a device, and the wake-up of programs that wait for it to change.
//!
//! A mapping that failed is pressure, too, whatever the engine thinks is available: the host may
//! have less, or nothing that is long enough.

use super::Instance;
use crate::abstractions::periodic::{
    Periodic,
    PeriodicTask, //
};
use crate::engine::{
    MapError,
    Pressure, //
};
use crate::observe::files;
use crate::sys::{
    Atomic,
    Relaxed, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The period of [`PressureWatch`], in milliseconds.
const PERIOD: u32 = 250;

/// Periods after which a failed map call is no longer pressure.
pub(super) const FORGOTTEN: u32 = 8;

impl Instance<'_> {
    /// Returns the pressure on the limits.
    ///
    /// Context: any. Interrupts are off for some thousand windows at a time.
    pub(super) fn pressure(&self) -> Pressure {
        if self.refusal_age.load(Relaxed) < FORGOTTEN {
            Pressure::Critical
        } else {
            self.engine.pressure()
        }
    }

    /// Remembers for some time that a map call failed with `error`, if there was no room.
    ///
    /// Context: any.
    pub(super) fn note_refusal(&self, error: MapError) {
        if matches!(error, MapError::Full(_) | MapError::Refused) {
            self.refusal_age.store(0, Relaxed);
        }
    }
}

/// Wakes up those that wait for the pressure to change.
pub(super) struct PressureWatch<'a> {
    instance: Arc<Instance<'a>>,
    /// The pressure of the last run.
    last: Atomic<u32>,
}

impl<'a> PressureWatch<'a> {
    /// Starts the work on `instance`.
    ///
    /// Context: process, may sleep.
    pub(super) fn start(instance: &Arc<Instance<'a>>) -> Result<Pin<KBox<Periodic<Self>>>> {
        let task = Self {
            instance: instance.clone(),
            // CAST: The discriminants are small.
            last: Atomic::new(Pressure::None as u32),
        };
        KBox::pin_init(Periodic::new(task, PERIOD), GFP_KERNEL)
    }
}

impl PeriodicTask for PressureWatch<'_> {
    // An idle CPU maps nothing.
    const DEFERRABLE: bool = true;

    fn run(&self) {
        let instance = &self.instance;
        let pressure = instance.pressure();
        // A map call that fails meanwhile may be forgotten a period early.
        let age = instance.refusal_age.load(Relaxed);
        if age < FORGOTTEN {
            let _ = instance
                .refusal_age
                .cmpxchg(age, age.saturating_add(1), Relaxed);
        }
        // CAST: The discriminants are small.
        if self.last.xchg(pressure as u32, Relaxed) == pressure as u32 {
            return;
        }
        let available = instance.engine.available();
        let (bytes, entries) = (available.bytes.left, available.entries.left);
        instance.source.pressure(pressure, bytes, entries);
        files::notify_pressure(instance.dev);
    }
}
