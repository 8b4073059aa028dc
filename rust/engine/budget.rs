// SPDX-License-Identifier: GPL-2.0

//! The limits on the windows that the host has, and the windows that count against them.
//!
//! The platform's limits may be those of several devices together, such as the functions of one
//! card, so engines may have one [`Pool`]. Less than the limits may be used while it is unknown
//! what earlier kernels left; see [`Caution`].
//!
//! Every window counts from its creation until it is known that the host does not have it, whether
//! it serves mappings or not. Whether a window is wanted is up to the policy and the slow path.

use super::caution::Caution;
use super::error::Limit;
use super::pool::{
    add,
    subtract,
    Pool,
    SHARE, //
};
use crate::addr::{
    GpaSpan,
    GRANULE, //
};
use crate::sys::Relaxed;

/// The most that one engine may have mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes, in whole granules.
    pub(crate) bytes: u64,
    /// Windows.
    pub(crate) entries: u32,
}

/// The part of a limit that is left, or available.
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
    /// The most windows so far, or since the peaks were reset.
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
///
/// The engine's own limits can be changed, and never exceed those that it was created with, which
/// are those of the pool, too.
pub(super) struct Budget {
    max_bytes: u64,
    max_entries: u32,
    limits: Limits,
    usage: Usage,
    pool: Option<&'static Pool>,
    /// The bytes of the pool that are this engine's own.
    own_bytes: u64,
    /// The windows of the pool that are this engine's own.
    own_entries: u32,
    /// The shortages of the pool that were noticed.
    seen_shortages: u32,
    /// The bytes and the mappings that markers take.
    markers: (u64, u32),
    /// The caution of this engine alone.
    caution: Caution,
    /// The number of this engine, which no other engine of the pool has.
    id: u64,
}

impl Budget {
    /// Creates a budget of `max_bytes` bytes in whole granules and `max_entries` windows, with
    /// nothing used. With a `pool`, the limits hold for all of its engines together, of which this
    /// one has the number `id`, which is not 0.
    pub(super) fn new(
        max_bytes: u64,
        max_entries: u32,
        pool: Option<&'static Pool>,
        id: u64,
    ) -> Self {
        let (own_bytes, own_entries) = match pool {
            Some(_) => (0, 0),
            None => (max_bytes, max_entries),
        };
        let mut budget = Self {
            max_bytes,
            max_entries,
            limits: Limits {
                bytes: max_bytes,
                entries: max_entries,
            },
            usage: Usage::ZERO,
            pool,
            own_bytes,
            own_entries,
            seen_shortages: 0,
            markers: (0, 0),
            caution: Caution::NONE,
            id,
        };
        if let Some(pool) = pool {
            add(&pool.engines, 1, u64::MAX);
            pool.note_companion(id);
            budget.take_share();
        }
        budget
    }

    /// Counts `bytes` and `entries` for markers, instead of what they took before. They are mapped,
    /// whether there is room for them or not.
    pub(super) fn set_markers(&mut self, markers: (u64, u32)) {
        let old = core::mem::replace(&mut self.markers, markers);
        if let Some(pool) = self.pool {
            pool.replace_markers(old, markers);
        }
    }

    /// Returns whether this engine or another one of the pool has windows.
    pub(super) fn has_windows(&self) -> bool {
        self.usage.entries != 0 || self.pool.is_some_and(Pool::has_windows)
    }

    /// Returns whether another companion's engine has had the same pool.
    pub(super) fn is_shared(&self) -> bool {
        self.pool.is_some_and(Pool::is_shared)
    }

    /// Sets the caution because of what earlier kernels left of this engine's companion. It is that
    /// of all engines of the pool, and stays when this engine ends.
    pub(super) fn set_caution(&mut self, caution: Caution) {
        self.caution = caution;
        if let Some(pool) = self.pool {
            pool.set_caution(self.id, caution);
        }
    }

    /// Returns the caution of this engine alone.
    pub(super) fn caution(&self) -> Caution {
        self.caution
    }

    /// Returns what may be mapped at the moment: the most bytes and windows, of this engine and of
    /// the others of the pool together.
    pub(super) fn allowance(&self) -> (u64, u32) {
        let caution = self.pool.map_or(self.caution, Pool::caution);
        caution.limits((self.max_bytes, self.max_entries))
    }

    /// Takes the part of the pool that is this engine's own, unless it has it, or the others have
    /// it all. To be called periodically.
    pub(super) fn take_share(&mut self) {
        let Some(pool) = self.pool else {
            return;
        };
        let share = self.share();
        // What is in use was taken already.
        let missing_bytes = self.taken_bytes(share.bytes);
        let missing_bytes = missing_bytes.saturating_sub(self.taken_bytes(self.own_bytes));
        let missing_entries = self.taken_entries(share.entries);
        let missing_entries = missing_entries.saturating_sub(self.taken_entries(self.own_entries));
        let max = (self.max_bytes, self.max_entries);
        if pool.take(missing_bytes, missing_entries, max).is_ok() {
            (self.own_bytes, self.own_entries) = (share.bytes, share.entries);
        }
    }

    /// Returns the part of the pool that belongs to this engine.
    fn share(&self) -> Limits {
        let bytes = self.max_bytes.checked_div(SHARE.into()).unwrap_or(0);
        let entries = self.max_entries.checked_div(SHARE).unwrap_or(0);
        Limits {
            bytes: bytes.min(self.limits.bytes),
            entries: entries.min(self.limits.entries),
        }
    }

    /// Returns the bytes of the pool that this engine has taken if `own` are its own.
    fn taken_bytes(&self, own: u64) -> u64 {
        own.max(self.usage.bytes)
    }

    /// Returns the windows of the pool that this engine has taken if `own` are its own.
    fn taken_entries(&self, own: u32) -> u32 {
        own.max(self.usage.entries)
    }

    /// Sets the peaks to what is in use.
    pub(super) fn reset_peaks(&mut self) {
        self.usage.peak_bytes = self.usage.bytes;
        self.usage.peak_entries = self.usage.entries;
    }

    /// Returns the engine's limits.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Sets the engine's limits, to those of the pool at most. More than that may be in use.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = Limits {
            bytes: limits.bytes.min(self.max_bytes),
            entries: limits.entries.min(self.max_entries),
        };
        let Some(pool) = self.pool else {
            return;
        };
        // The others can have what this engine may not use.
        let share = self.share();
        let bytes = self.own_bytes.min(share.bytes);
        let entries = self.own_entries.min(share.entries);
        pool.put(
            self.taken_bytes(self.own_bytes)
                .saturating_sub(self.taken_bytes(bytes)),
            self.taken_entries(self.own_entries)
                .saturating_sub(self.taken_entries(entries)),
        );
        (self.own_bytes, self.own_entries) = (bytes, entries);
        self.take_share();
    }

    /// Returns whether more is in use than the engine's limits allow.
    pub(super) fn is_exceeded(&self) -> bool {
        let (bytes, entries) = self.markers;
        self.usage.bytes.saturating_add(bytes) > self.limits.bytes
            || self.usage.entries.saturating_add(entries) > self.limits.entries
    }

    /// Returns the most bytes that may be mapped.
    pub(super) fn max_bytes(&self) -> u64 {
        self.limits.bytes
    }

    /// Returns the amount that is mapped.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Returns the bytes that are left.
    pub(super) fn bytes(&self) -> Room {
        self.bytes_without(0)
    }

    /// Returns the bytes that would be left without `idle` bytes of what is mapped.
    pub(super) fn bytes_without(&self, idle: u64) -> Room {
        let (markers, _) = self.markers;
        let usage = self.usage.bytes.saturating_sub(idle);
        let own = usage.saturating_add(markers);
        let mut left = self.limits.bytes.saturating_sub(own);
        let mut used = own;
        if let Some(pool) = self.pool {
            let drawn = self.drawn_bytes(self.usage.bytes);
            let less = drawn.saturating_sub(self.drawn_bytes(usage));
            let taken = pool.bytes.load(Relaxed).saturating_sub(less);
            let rest = self.max_bytes.saturating_sub(taken);
            left = left.min(self.own_bytes.saturating_sub(usage).saturating_add(rest));
            used = pool.used_bytes.load(Relaxed).saturating_sub(idle);
        }
        let (max, _) = self.allowance();
        Room {
            left: left.min(max.saturating_sub(used)),
            max: max.min(self.limits.bytes),
        }
    }

    /// Returns the windows that are left.
    pub(super) fn entries(&self) -> Room {
        self.entries_without(0)
    }

    /// Returns the windows that would be left without `idle` of those that exist.
    pub(super) fn entries_without(&self, idle: u32) -> Room {
        let (_, markers) = self.markers;
        let usage = self.usage.entries.saturating_sub(idle);
        let own = usage.saturating_add(markers);
        let mut left = self.limits.entries.saturating_sub(own);
        let mut used = u64::from(own);
        if let Some(pool) = self.pool {
            let drawn = self.drawn_entries(self.usage.entries);
            let less = drawn.saturating_sub(self.drawn_entries(usage));
            let taken = u32::try_from(pool.entries.load(Relaxed)).unwrap_or(u32::MAX);
            let rest = self.max_entries.saturating_sub(taken.saturating_sub(less));
            left = left.min(self.own_entries.saturating_sub(usage).saturating_add(rest));
            used = pool.used_entries.load(Relaxed).saturating_sub(idle.into());
        }
        let (_, max) = self.allowance();
        Room {
            left: u64::from(left).min(u64::from(max).saturating_sub(used)),
            max: u64::from(max.min(self.limits.entries)),
        }
    }

    /// Returns an error if a window for `span` would exceed a limit.
    pub(super) fn check(&self, span: &GpaSpan) -> Result<(), Limit> {
        let result = if self.bytes().left < cost(span) {
            Err(Limit::Bytes)
        } else if self.entries().left == 0 {
            Err(Limit::Entries)
        } else {
            Ok(())
        };
        if let (Some(pool), Err(_)) = (self.pool, result) {
            pool.note_shortage();
        }
        result
    }

    /// Counts a new window for `span`. Fails if that would exceed a limit.
    pub(super) fn charge(&mut self, span: &GpaSpan) -> Result<(), Limit> {
        self.check(span)?;
        let bytes = self.usage.bytes.saturating_add(cost(span));
        let entries = self.usage.entries.saturating_add(1);
        if let Some(pool) = self.pool {
            let more_bytes = self
                .drawn_bytes(bytes)
                .saturating_sub(self.drawn_bytes(self.usage.bytes));
            let more_entries = self
                .drawn_entries(entries)
                .saturating_sub(self.drawn_entries(self.usage.entries));
            let (max_bytes, max_entries) = self.allowance();
            // Without caution, what is taken is within the limits.
            let max = if (max_bytes, max_entries) == (self.max_bytes, self.max_entries) {
                (u64::MAX, u64::MAX)
            } else {
                (max_bytes, max_entries.into())
            };
            pool.add_used(cost(span), 1, max)
                .and_then(|()| {
                    pool.take(more_bytes, more_entries, (self.max_bytes, self.max_entries))
                        .inspect_err(|_| pool.subtract_used(cost(span), 1))
                })
                .inspect_err(|_| pool.note_shortage())?;
        }
        let usage = &mut self.usage;
        usage.bytes = bytes;
        usage.entries = entries;
        usage.peak_bytes = usage.peak_bytes.max(bytes);
        usage.peak_entries = usage.peak_entries.max(entries);
        Ok(())
    }

    /// Returns the bytes beyond the engine's own of `bytes` that it uses.
    fn drawn_bytes(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.own_bytes)
    }

    /// Returns the windows beyond the engine's own of `entries` that it uses.
    fn drawn_entries(&self, entries: u32) -> u32 {
        entries.saturating_sub(self.own_entries)
    }

    /// Returns whether another engine lacks what this one has beyond an equal share, for the first
    /// time since the last call.
    pub(super) fn is_wanted_elsewhere(&mut self) -> bool {
        let Some(pool) = self.pool else {
            return false;
        };
        let shortages = pool.shortages.load(Relaxed);
        let engines = pool.engines.load(Relaxed).max(1);
        let equal_bytes = self.max_bytes.checked_div(engines).unwrap_or(0);
        let equal_entries = u64::from(self.max_entries)
            .checked_div(engines)
            .unwrap_or(0);
        let is_new = core::mem::replace(&mut self.seen_shortages, shortages) != shortages;
        is_new
            && engines > 1
            && (self.usage.bytes > equal_bytes || u64::from(self.usage.entries) > equal_entries)
    }

    /// Counts `bytes` of a window that was charged as padding.
    pub(super) fn charge_padding(&mut self, bytes: u64) {
        self.usage.padding = self.usage.padding.saturating_add(bytes);
    }

    /// Removes a window for `span` from the count, and its `padding`.
    pub(super) fn refund(&mut self, span: &GpaSpan, padding: u64) {
        let bytes = self.usage.bytes.saturating_sub(cost(span));
        let entries = self.usage.entries.saturating_sub(1);
        if let Some(pool) = self.pool {
            pool.put(
                self.drawn_bytes(self.usage.bytes)
                    .saturating_sub(self.drawn_bytes(bytes)),
                self.drawn_entries(self.usage.entries)
                    .saturating_sub(self.drawn_entries(entries)),
            );
            pool.subtract_used(cost(span), 1);
        }
        let usage = &mut self.usage;
        usage.bytes = bytes;
        usage.entries = entries;
        usage.padding = usage.padding.saturating_sub(padding);
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        if let Some(pool) = self.pool {
            // What is still in use is lost.
            pool.put(
                self.own_bytes.saturating_sub(self.usage.bytes),
                self.own_entries.saturating_sub(self.usage.entries),
            );
            pool.replace_markers(self.markers, (0, 0));
            subtract(&pool.engines, 1);
        }
    }
}

/// Returns the bytes that the host counts for a window for `span`: whole granules.
pub(super) fn cost(span: &GpaSpan) -> u64 {
    span.granules().saturating_mul(GRANULE)
}
