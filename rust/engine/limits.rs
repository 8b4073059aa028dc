// SPDX-License-Identifier: GPL-2.0

//! Changing an engine's limits while it is in use.
//!
//! A limit below what is in use takes effect as mappings are unmapped: until then nothing more is
//! mapped. What counts against the limits, and the limits that engines share, are in
//! [`budget`](super::budget).

use super::budget::{
    cost,
    Limits, //
};
use super::miss::{
    RoundResult,
    MAX_ROUNDS, //
};
use super::{
    Engine,
    Host,
    MapError,
    Observer, //
};
use crate::engine::policy::Policy;
use crate::engine::window::State;

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Returns the limits on what is mapped.
    ///
    /// Context: any.
    pub(crate) fn limits(&self) -> Limits {
        self.state.lock().budget.limits()
    }

    /// Sets the limits that `change` returns for those now, to those of the configuration at most,
    /// and unmaps idle windows that exceed them. Fails with what is mapped for good if that exceeds
    /// them.
    ///
    /// Context: any. Interrupts are off for a batch at a time.
    pub(crate) fn set_limits(&self, change: impl FnOnce(Limits) -> Limits) -> Result<(), Limits> {
        let fixed = self.fixed();
        {
            let budget = &mut self.state.lock().budget;
            let limits = change(budget.limits());
            if fixed.bytes > limits.bytes || fixed.entries > limits.entries {
                return Err(fixed);
            }
            budget.set_limits(limits);
        }
        self.trim();
        Ok(())
    }

    /// Sets the peaks of usage to what is mapped now.
    ///
    /// Context: any.
    pub(crate) fn reset_peaks(&self) {
        self.state.lock().budget.reset_peaks();
    }

    /// Unmaps idle windows until no more is mapped than the limits allow, or no window is idle. To
    /// be called periodically.
    ///
    /// Context: any. Interrupts are off for a batch at a time.
    pub(crate) fn trim(&self) {
        let mut scanned = 0;
        for _ in 0..MAX_ROUNDS {
            let mut state = self.state.lock();
            if !state.budget.is_exceeded() {
                return;
            }
            // Running out of idle windows is not an error here.
            if let RoundResult::Failed(_) =
                self.reclaim(&mut state, &mut scanned, MapError::Refused)
            {
                return;
            }
        }
    }

    /// Returns what is mapped for good, with all of RAM.
    fn fixed(&self) -> Limits {
        let mut fixed = Limits {
            bytes: 0,
            entries: 0,
        };
        self.sweep(|_, _, window| {
            if window.state() == State::Fixed {
                let bytes = window.span().map_or(0, |span| cost(&span));
                fixed.bytes = fixed.bytes.saturating_add(bytes);
                fixed.entries = fixed.entries.saturating_add(1);
            }
        });
        fixed
    }
}
