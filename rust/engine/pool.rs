// SPDX-License-Identifier: GPL-2.0

//! What several engines have mapped together, where the same limits hold for all of them.
//!
//! No engine takes another's lock: this is shared without one.

use super::caution::Caution;
use super::error::Limit;
use crate::sys::{
    Atomic,
    Relaxed, //
};

/// The amount that several engines have mapped together, which the same limits hold for.
///
/// Each engine has a part of the limits for itself, a [`SHARE`]th, so that it works whatever the
/// others have. It takes that part when it is created, and takes from the rest what it needs
/// beyond. What the host failed to unmap stays taken when an engine ends.
pub(crate) struct Pool {
    /// Bytes that are taken, in whole granules.
    pub(crate) bytes: Atomic<u64>,
    /// Windows that are taken.
    pub(crate) entries: Atomic<u64>,
    /// The number of times that an engine did not get what it needed; wraps.
    pub(crate) shortages: Atomic<u32>,
    /// The number of engines.
    pub(crate) engines: Atomic<u64>,
    /// Bytes in windows, in whole granules, and in markers.
    pub(crate) used_bytes: Atomic<u64>,
    /// Windows and markers.
    pub(crate) used_entries: Atomic<u64>,
    /// Markers.
    pub(crate) markers: Atomic<u64>,
    /// The strictest of [`Self::cautions`].
    pub(crate) caution: Atomic<u32>,
    /// The caution of each engine that has one, also of such that ended: [`Caution::raw`] in the
    /// lowest byte, the engine's number in the others; 0 for an entry that is not in use.
    pub(crate) cautions: [Atomic<u64>; CAUTIONS],
    /// The number of the only companion whose engines have had the pool; 0 for none yet, and
    /// [`SEVERAL`] for more.
    pub(crate) companion: Atomic<u64>,
}

/// Value of [`Pool::companion`] if there have been several.
const SEVERAL: u64 = u64::MAX;

/// The most engines of a pool whose caution is known. That of any further one counts for good.
pub(crate) const CAUTIONS: usize = 32;

/// The part of the limits that each engine has for itself, as a divisor.
pub(super) const SHARE: u32 = 16;

/// Adds `amount` to `sum`, unless that would exceed `max`; 0 always fits. Returns whether it did.
pub(super) fn add(sum: &Atomic<u64>, amount: u64, max: u64) -> bool {
    // No ordering: it is only a sum.
    let mut old = sum.load(Relaxed);
    loop {
        let new = old.saturating_add(amount);
        if amount != 0 && new > max {
            return false;
        }
        match sum.cmpxchg(old, new, Relaxed) {
            Ok(_) => return true,
            Err(now) => old = now,
        }
    }
}

/// Subtracts `amount` from `sum`.
pub(super) fn subtract(sum: &Atomic<u64>, amount: u64) {
    let mut old = sum.load(Relaxed);
    while let Err(now) = sum.cmpxchg(old, old.saturating_sub(amount), Relaxed) {
        old = now;
    }
}

/// Returns the caution in the lowest byte of `word`.
fn from_word(word: u64) -> Caution {
    // CAST: The other bytes are dropped.
    Caution::from_raw(word as u8)
}

impl Pool {
    /// Takes `bytes` and `entries`, of `max_bytes` and `max_entries` in all.
    pub(super) fn take(&self, bytes: u64, entries: u32, max: (u64, u32)) -> Result<(), Limit> {
        let (max_bytes, max_entries) = max;
        if !add(&self.bytes, bytes, max_bytes) {
            return Err(Limit::Bytes);
        }
        if !add(&self.entries, entries.into(), max_entries.into()) {
            subtract(&self.bytes, bytes);
            return Err(Limit::Entries);
        }
        Ok(())
    }

    /// Returns `bytes` and `entries` to the pool.
    pub(super) fn put(&self, bytes: u64, entries: u32) {
        subtract(&self.bytes, bytes);
        subtract(&self.entries, entries.into());
    }

    /// Counts `bytes` and `entries` as used, unless there would be more than `max` in all then.
    pub(super) fn add_used(&self, bytes: u64, entries: u32, max: (u64, u64)) -> Result<(), Limit> {
        let (max_bytes, max_entries) = max;
        if !add(&self.used_bytes, bytes, max_bytes) {
            return Err(Limit::Bytes);
        }
        if !add(&self.used_entries, entries.into(), max_entries) {
            subtract(&self.used_bytes, bytes);
            return Err(Limit::Entries);
        }
        Ok(())
    }

    /// Counts `bytes` and `entries` as not used any more.
    pub(super) fn subtract_used(&self, bytes: u64, entries: u32) {
        subtract(&self.used_bytes, bytes);
        subtract(&self.used_entries, entries.into());
    }

    /// Counts `markers` of one engine instead of the `old` ones, which are bytes and mappings each.
    /// They are mapped, whether there is room for them or not.
    pub(super) fn replace_markers(&self, old: (u64, u32), markers: (u64, u32)) {
        let ((old_bytes, old_entries), (bytes, entries)) = (old, markers);
        for sum in [&self.bytes, &self.used_bytes] {
            add(sum, bytes, u64::MAX);
            subtract(sum, old_bytes);
        }
        for sum in [&self.entries, &self.used_entries, &self.markers] {
            add(sum, entries.into(), u64::MAX);
            subtract(sum, old_entries.into());
        }
    }

    /// Returns whether any engine has windows.
    pub(super) fn has_windows(&self) -> bool {
        self.used_entries.load(Relaxed) > self.markers.load(Relaxed)
    }

    /// Returns the caution that all engines have to exercise.
    pub(super) fn caution(&self) -> Caution {
        from_word(self.caution.load(Relaxed).into())
    }

    /// Sets the caution because of the engine `id`, which is not 0.
    pub(super) fn set_caution(&self, id: u64, caution: Caution) {
        let entry = (id << 8) | u64::from(caution.raw());
        let new = if caution == Caution::NONE { 0 } else { entry };
        // Stricter at once, since another engine may take something meanwhile.
        self.raise_caution(caution);
        let is_own = |old: u64| old >> 8 == id;
        let own = self.cautions.iter().find(|old| is_own(old.load(Relaxed)));
        match own {
            Some(own) => own.store(new, Relaxed),
            None if new == 0 => return,
            None => {
                let take = |free: &Atomic<u64>| free.cmpxchg(0, new, Relaxed).is_ok();
                if !self.cautions.iter().any(take) {
                    return;
                }
            }
        }
        self.settle_caution();
    }

    /// Makes the caution at least as strict as `caution`.
    fn raise_caution(&self, caution: Caution) {
        let new = u32::from(caution.raw());
        let mut old = self.caution.load(Relaxed);
        while old < new {
            match self.caution.cmpxchg(old, new, Relaxed) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    /// Makes the caution as strict as the strictest of all engines.
    fn settle_caution(&self) {
        let strictest = || {
            let all = self.cautions.iter().map(|entry| entry.load(Relaxed));
            all.map(from_word).max().unwrap_or(Caution::NONE)
        };
        self.caution.store(strictest().raw().into(), Relaxed);
        // Another engine may have become more cautious since.
        self.raise_caution(strictest());
    }

    /// Notes that the companion `id`, which is neither 0 nor [`SEVERAL`], has an engine.
    pub(super) fn note_companion(&self, id: u64) {
        if let Err(other) = self.companion.cmpxchg(0, id, Relaxed) {
            if other != id {
                self.companion.store(SEVERAL, Relaxed);
            }
        }
    }

    /// Returns whether engines of several companions have had the pool.
    pub(super) fn is_shared(&self) -> bool {
        self.companion.load(Relaxed) == SEVERAL
    }

    /// Notes that an engine did not get what it needed.
    pub(super) fn note_shortage(&self) {
        // A lost increment is as good as the one that overwrote it.
        let shortages = self.shortages.load(Relaxed);
        self.shortages.store(shortages.wrapping_add(1), Relaxed);
    }
}
