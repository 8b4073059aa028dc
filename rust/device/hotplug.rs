// SPDX-License-Identifier: GPL-2.0

//! Memory hotplug: which memory may be added and removed, and what changes in the engine then.

use super::Instance;
use crate::abstractions::memory_notifier::MemoryEvents;
use crate::abstractions::ram;
use crate::addr::{
    Address,
    GpaSpan, //
};
use crate::sys::Relaxed;
use kernel::{
    prelude::*,
    sync::Arc, //
};

impl Instance<'_> {
    /// Reads the layout of RAM and passes it on to the engine. If that fails, it is tried again
    /// periodically.
    ///
    /// Context: process, may sleep.
    pub(super) fn update_ram(&self) {
        // Cleared first: a change meanwhile sets it again.
        self.ram_outdated.store(0, Relaxed);
        match ram::system_ram() {
            Ok(ram) => drop(self.engine.set_ram(ram)),
            Err(error) => {
                self.ram_outdated.store(1, Relaxed);
                dev_warn!(
                    self.dev,
                    "failed to read the memory layout: {:?}; retrying\n",
                    error
                );
            }
        }
    }

    /// Reads the layout of RAM if that failed before.
    ///
    /// Context: process, may sleep.
    pub(super) fn retry_update_ram(&self) {
        if self.ram_outdated.load(Relaxed) != 0 {
            self.update_ram();
        }
    }
}

impl MemoryEvents for Arc<Instance<'_>> {
    fn going_online(&self, span: GpaSpan) -> Result {
        if !self.mode.is_fixed() {
            return Ok(());
        }
        dev_err!(
            self.dev,
            "rejecting hotplug of {} MiB at {:#x}: {} uses a fixed direct map; reload the module \
             afterwards\n",
            span.len() >> 20,
            span.start().raw(),
            self.managed
        );
        Err(EBUSY)
    }

    fn online(&self, span: GpaSpan) {
        if self.mode.fixes_all_ram() && self.engine.is_fixed(&GpaSpan::ALL) {
            dev_info!(
                self.dev,
                "hotplug of {} MiB at {:#x}: all of RAM was mapped before; mapping on demand\n",
                span.len() >> 20,
                span.start().raw()
            );
        }
        self.update_ram();
    }

    fn going_offline(&self, span: GpaSpan) -> Result {
        if !self.engine.is_fixed(&span) {
            return Ok(());
        }
        dev_err!(
            self.dev,
            "rejecting removal of {} MiB at {:#x}: all of RAM is mapped; whole_ram=0 avoids \
             that\n",
            span.len() >> 20,
            span.start().raw()
        );
        Err(EBUSY)
    }

    fn offline(&self, span: GpaSpan) {
        self.update_ram();
        let busy = self.engine.evict(&span);
        if busy != 0 {
            dev_warn!(
                self.dev,
                "removal of {} MiB at {:#x}: driver bug: {} has {} windows mapped there\n",
                span.len() >> 20,
                span.start().raw(),
                self.managed,
                busy
            );
        }
    }
}
