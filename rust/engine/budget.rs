// SPDX-License-Identifier: GPL-2.0

//! The limits on the windows that the host has, and the windows that count against them.
//!
//! Every window counts from its creation until it is known that the host does not have it, whether
//! it serves mappings or not. Whether a window is wanted is up to the policy and the slow path.

use super::error::Limit;
use crate::addr::{
    GpaSpan,
    GRANULE, //
};

/// The part of a limit that is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// The part that is left.
    pub(crate) left: u64,
    /// The limit.
    pub(crate) max: u64,
}

impl Room {
    /// Returns whether less than a quarter is left.
    pub(super) fn is_tight(&self) -> bool {
        self.left < self.max / 4
    }
}

/// The amount that is mapped now, and the most so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes in windows, in whole granules.
    pub(crate) bytes: u64,
    /// The most bytes so far.
    pub(crate) peak_bytes: u64,
    /// Windows.
    pub(crate) entries: u32,
    /// The most windows so far.
    pub(crate) peak_entries: u32,
    /// Bytes that are mapped only to make addresses congruent.
    pub(crate) padding: u64,
}

impl Usage {
    /// No windows at all.
    pub(super) const ZERO: Self = Self {
        bytes: 0,
        peak_bytes: 0,
        entries: 0,
        peak_entries: 0,
        padding: 0,
    };
}

/// The limits, and the usage that counts against them.
pub(super) struct Budget {
    max_bytes: u64,
    max_entries: u32,
    usage: Usage,
}

impl Budget {
    /// Creates a budget of `max_bytes` bytes in whole granules and `max_entries` windows, with
    /// nothing used.
    pub(super) const fn new(max_bytes: u64, max_entries: u32) -> Self {
        Self {
            max_bytes,
            max_entries,
            usage: Usage::ZERO,
        }
    }

    /// Returns the most bytes that may be mapped.
    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Returns the amount that is mapped.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Returns the bytes that are left.
    pub(super) fn bytes(&self) -> Room {
        Room {
            left: self.max_bytes.saturating_sub(self.usage.bytes),
            max: self.max_bytes,
        }
    }

    /// Returns the windows that are left.
    pub(super) fn entries(&self) -> Room {
        Room {
            left: u64::from(self.max_entries.saturating_sub(self.usage.entries)),
            max: u64::from(self.max_entries),
        }
    }

    /// Returns an error if a window for `span` would exceed a limit.
    pub(super) fn check(&self, span: &GpaSpan) -> Result<(), Limit> {
        if self.bytes().left < cost(span) {
            return Err(Limit::Bytes);
        }
        if self.entries().left == 0 {
            return Err(Limit::Entries);
        }
        Ok(())
    }

    /// Counts a new window for `span`.
    pub(super) fn charge(&mut self, span: &GpaSpan) {
        let usage = &mut self.usage;
        usage.bytes = usage.bytes.saturating_add(cost(span));
        usage.entries = usage.entries.saturating_add(1);
        usage.peak_bytes = usage.peak_bytes.max(usage.bytes);
        usage.peak_entries = usage.peak_entries.max(usage.entries);
    }

    /// Counts `bytes` of a window that was charged as padding.
    pub(super) fn charge_padding(&mut self, bytes: u64) {
        self.usage.padding = self.usage.padding.saturating_add(bytes);
    }

    /// Removes a window for `span` from the count, and its `padding`.
    pub(super) fn refund(&mut self, span: &GpaSpan, padding: u64) {
        let usage = &mut self.usage;
        usage.bytes = usage.bytes.saturating_sub(cost(span));
        usage.entries = usage.entries.saturating_sub(1);
        usage.padding = usage.padding.saturating_sub(padding);
    }
}

/// Returns the bytes that the host counts for a window for `span`: whole granules.
pub(super) fn cost(span: &GpaSpan) -> u64 {
    span.granules().saturating_mul(GRANULE)
}
