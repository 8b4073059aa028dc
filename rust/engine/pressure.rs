// SPDX-License-Identifier: GPL-2.0

//! The pressure on the limits: how little of what they allow new windows can still have.
//!
//! An idle window is unmapped when room is needed, so what it holds is available. Memory pressure
//! of the kernel is another thing; the levels have its names.

use super::budget::Room;
use super::{
    Engine,
    Host,
    Observer, //
};
use crate::engine::budget::cost;
use crate::engine::policy::Policy;
use core::ffi::CStr;

/// A level of pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// A quarter of both limits is available.
    None,
    /// Less than a quarter of a limit is available.
    Medium,
    /// Less than a sixteenth of a limit is available, so that mappings may fail soon.
    Critical,
}

impl Pressure {
    /// Returns the name, as sysfs, debugfs and events print it.
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            Pressure::None => c"none",
            Pressure::Medium => c"medium",
            Pressure::Critical => c"critical",
        }
    }

    /// Returns the level of a limit of which `room` is available.
    fn of(room: Room) -> Self {
        if room.left < room.max / 16 {
            Pressure::Critical
        } else if room.is_tight() {
            Pressure::Medium
        } else {
            Pressure::None
        }
    }
}

/// The parts of both limits that are available to new windows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Available {
    /// The bytes, in whole granules.
    pub(crate) bytes: Room,
    /// The number of windows.
    pub(crate) entries: Room,
}

impl Available {
    /// Returns the level of the limit that is nearer.
    pub(crate) fn pressure(&self) -> Pressure {
        Pressure::of(self.bytes).max(Pressure::of(self.entries))
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Returns what is available to new windows: what is left of the limits, and what idle windows
    /// of this engine hold. Those of other engines are unmapped some seconds after room was needed.
    ///
    /// Context: any. Interrupts are off for some thousand windows at a time.
    pub(crate) fn available(&self) -> Available {
        let (mut bytes, mut entries) = (0u64, 0u32);
        self.sweep(|_, _, window| {
            if let Some(span) = window.span().filter(|_| window.is_idle()) {
                bytes = bytes.saturating_add(cost(&span));
                entries = entries.saturating_add(1);
            }
        });
        self.left_without(bytes, entries)
    }

    /// Returns the pressure. It is none where all of RAM is mapped, so that nothing more is needed.
    ///
    /// Context: any. Interrupts are off for some thousand windows at a time.
    pub(crate) fn pressure(&self) -> Pressure {
        // While enough is left, idle windows make no difference.
        let is_mapped = self.static_map.is_some();
        if is_mapped || self.left_without(0, 0).pressure() == Pressure::None {
            return Pressure::None;
        }
        self.available().pressure()
    }

    /// Returns what would be left of the limits without `bytes` and `entries` of idle windows.
    fn left_without(&self, bytes: u64, entries: u32) -> Available {
        let budget = &self.state.lock().budget;
        Available {
            bytes: budget.bytes_without(bytes),
            entries: budget.entries_without(entries),
        }
    }
}
