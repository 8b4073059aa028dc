// SPDX-License-Identifier: GPL-2.0

//! The limits while it is not known what earlier kernels left on the host.
//!
//! A kernel that ended without unmapping its windows may have left as much as its limits allow.
//! What the platform holds beyond that is certainly free. A kernel after it takes a part of that
//! only, until it has searched for everything that was left. It may end in the same way, so each
//! kernel in a row takes a part that the ones before have not taken, and so does a kernel for crash
//! dumps, which runs beside what the crashed kernel left. [`Markers`](super::marker::Markers) tell
//! which kernel in such a row this one is.

use crate::addr::GRANULE;

/// The part of `max_bytes` that is certainly free beside another `max_bytes`, as a divisor: by
/// default 1280 MiB may be mapped of the 1536 MiB that the platform holds.
const FREE_BYTES: u64 = 5;

/// The part of `max_entries` that is certainly free beside another `max_entries`, as a divisor: by
/// default there may be 61,440 mappings of the 65,536 that the platform holds.
const FREE_ENTRIES: u32 = 15;

/// The least that may be mapped, in bytes, however small `max_bytes` is: some granules.
const LEAST_BYTES: u64 = 4 * GRANULE;

/// The fewest mappings that there may be, however small `max_entries` is.
const LEAST_ENTRIES: u32 = 4;

/// The part of what is certainly free that may be used, as a divisor; 0 if all of the limits may
/// be.
///
/// The parts of all kernels in a row are 15/16 together, with those for crash dumps twice: two of
/// these do not know of each other if they run in different memory. The rest is for markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Caution(u8);

impl Caution {
    /// Nothing is left by earlier kernels.
    pub(crate) const NONE: Self = Self(0);

    /// The first kernel after one that may have used all of the limits.
    pub(crate) const FIRST: Self = Self(2);

    /// The first kernel for crash dumps beside such a one.
    pub(crate) const CRASH: Self = Self(8);

    /// The second kernel after one that may have used all of the limits.
    pub(crate) const SECOND: Self = Self(8);

    /// The second kernel for crash dumps.
    pub(crate) const SECOND_CRASH: Self = Self(32);

    /// Any kernel after these: nothing is certainly free.
    pub(crate) const NOTHING_FREE: Self = Self(u8::MAX);

    /// Returns the part as a number, for [`Self::from_raw`]: the larger, the smaller the part.
    pub(super) fn raw(self) -> u8 {
        self.0
    }

    /// Creates the part that has the number `raw`.
    pub(super) fn from_raw(raw: u8) -> Self {
        Self(raw)
    }

    /// Returns the most bytes and mappings to use where the limits are `max`: at most those, and
    /// not 0 but for [`Self::NOTHING_FREE`].
    pub(crate) fn limits(self, max: (u64, u32)) -> (u64, u32) {
        let (max_bytes, max_entries) = max;
        match self {
            Self::NONE => max,
            Self::NOTHING_FREE => (0, 0),
            Self(part) => {
                let bytes = (max_bytes / FREE_BYTES)
                    .checked_div(part.into())
                    .unwrap_or(0);
                let entries = (max_entries / FREE_ENTRIES)
                    .checked_div(part.into())
                    .unwrap_or(0);
                let bytes = bytes & !GRANULE.wrapping_sub(1);
                (
                    bytes.max(LEAST_BYTES).min(max_bytes),
                    entries.max(LEAST_ENTRIES).min(max_entries),
                )
            }
        }
    }
}
