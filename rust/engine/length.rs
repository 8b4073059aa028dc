// SPDX-License-Identifier: GPL-2.0

//! The length of a mapping that the host grants: learnt when the engine is set up, and from
//! refusals.
//!
//! The DART maps a range only in one piece, so the host may refuse long ranges however much room
//! there is in all. Drivers get a bound for their mappings before the first one, and many try for
//! ever what was refused once. Most make requests as long as that in all, of pages that may be
//! anywhere.

use super::budget::Limits;
use super::{
    Engine,
    Host,
    Locked,
    MapError,
    Observer, //
};
use crate::addr::{
    Address,
    GpaSpan,
    GRANULE,
    PAGE, //
};
use crate::engine::policy::{
    smallest,
    Policy, //
};
use crate::sys::Stopwatch;

/// The longest mapping that is tried, in bytes, with a granule more since a mapping may begin
/// anywhere in one.
const LONGEST: u64 = 4 << 20;

/// The shortest mapping that is tried, in bytes.
const SHORTEST: u64 = 64 << 10;

/// The part of the limit of bytes that the length of one request may be, as a divisor. If its pages
/// are scattered it takes four times as much, and drivers map other memory, too.
const DIVISOR: u64 = 8;

/// The part of the limit of windows that one request may have pages, as a divisor: each of them may
/// need a window of its own.
const PAGES_DIVISOR: u64 = 4;

/// The refusals in a row after which the host is not asked for the same length at once.
const PATIENCE: u32 = 2;

/// The first pause in milliseconds before the host is asked again. It doubles with each refusal.
const PAUSE_MS: u64 = 8;

/// The most doublings of [`PAUSE_MS`]: about a second.
const DOUBLINGS: u32 = 7;

/// Refusals of windows that could not have been smaller, with none granted that was as long.
pub(super) struct Refusals {
    /// The shortest length that was refused, in bytes.
    len: u64,
    /// The number of refusals.
    count: u32,
    /// The time since the last one.
    since: Option<Stopwatch>,
}

impl Refusals {
    /// No refusals.
    pub(super) const NONE: Self = Self {
        len: u64::MAX,
        count: 0,
        since: None,
    };

    /// Returns whether the host is not to be asked for `len` bytes now.
    fn forbids(&self, len: u64) -> bool {
        let Some(doublings) = self.count.checked_sub(PATIENCE) else {
            return false;
        };
        let pause = PAUSE_MS << doublings.min(DOUBLINGS);
        let since = self.since.as_ref().map(Stopwatch::elapsed_ms);
        len >= self.len && since.is_some_and(|elapsed| elapsed < pause)
    }

    /// Records that the host refused `len` bytes. A granule is not too long for any host.
    fn refused(&mut self, len: u64) {
        if len > GRANULE {
            self.len = self.len.min(len);
            self.count = self.count.saturating_add(1);
            self.since = Some(Stopwatch::start());
        }
    }

    /// Records that the host granted `len` bytes.
    pub(super) fn granted(&mut self, len: u64) {
        // A window whose key was taken begins some pages later.
        if len.saturating_add(GRANULE) >= self.len {
            *self = Self::NONE;
        }
    }
}

/// Returns the length, in bytes, of requests that fit `limits` beside others, however their pages
/// are scattered. It is a granule at least.
fn share(limits: Limits) -> u64 {
    let pages = u64::from(limits.entries) / PAGES_DIVISOR;
    let len = (limits.bytes / DIVISOR).min(pages.saturating_mul(PAGE));
    (len & !GRANULE.wrapping_sub(1)).max(GRANULE)
}

impl<H: Host> Locked<H> {
    /// Returns the length in bytes of the smallest window for `request`.
    fn least_len(&self, request: &GpaSpan) -> u64 {
        let proposal = smallest(request, self.ram.block_of(request));
        proposal.map_or(0, |proposal| proposal.span.len())
    }

    /// Returns whether the host has refused windows for `request` so often that it is not to be
    /// asked now.
    pub(super) fn is_hopeless(&self, request: &GpaSpan) -> bool {
        // Most hosts never refused anything.
        self.refusals.count >= PATIENCE && self.refusals.forbids(self.least_len(request))
    }

    /// Records that the host refused the smallest windows for `requests`.
    pub(super) fn note_refused(&mut self, requests: impl Iterator<Item = GpaSpan>) {
        // Of several it is not known which; the longest is the most likely.
        if let Some(len) = requests.map(|request| self.least_len(&request)).max() {
            self.refusals.refused(len);
        }
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Returns the length of a request, in bytes, that the host can be expected to grant beside
    /// others: has it map so many bytes, or fewer if it refuses, and unmap them again. To be called
    /// while nothing is mapped, after [`Engine::reserve`].
    ///
    /// Context: process, may sleep.
    pub(crate) fn learn_max_len(&self) -> u64 {
        let (share, len_max) = {
            let state = self.state.lock();
            let limits = state.budget.limits();
            let (bytes, entries) = state.budget.allowance();
            let allowed = Limits {
                bytes: bytes.min(limits.bytes),
                entries: entries.min(limits.entries),
            };
            (share(allowed), state.host.len_max())
        };
        let most = LONGEST.min(share).min(len_max.saturating_sub(GRANULE));
        let mut len = most & !GRANULE.wrapping_sub(1);
        while len > SHORTEST {
            match self.try_len(len) {
                Ok(()) => break,
                // RAM has no such range, or the host does not grant it.
                Err(MapError::Invalid | MapError::Refused) => len /= 2,
                // This tells nothing of the length.
                Err(_) => return SHORTEST.min(most),
            }
        }
        len & !GRANULE.wrapping_sub(1)
    }

    /// Has the host map `len` bytes and a granule, and unmap them again.
    fn try_len(&self, len: u64) -> Result<(), MapError> {
        let (span, counters) = {
            let state = self.state.lock();
            let blocks = state.ram.blocks().iter();
            let longest = blocks.max_by_key(|block| block.len());
            let inner = longest.and_then(|block| {
                let start = block.start().raw().checked_next_multiple_of(GRANULE)?;
                GpaSpan::from_bounds(start, start.checked_add(len)?.checked_add(GRANULE)?)
                    .filter(|span| block.covers(span))
            });
            (inner.ok_or(MapError::Invalid)?, state.counters)
        };
        let result = match self.premap(&span) {
            // An earlier kernel may have left a mapping with this key.
            Err(MapError::Refused) if self.recover() => self.premap(&span),
            result => result,
        };
        if let Ok(premapped) = &result {
            self.report_premapped(premapped);
        }
        self.unmap_all_windows();
        // This was no window for a driver.
        let mut state = self.state.lock();
        state.counters.windows_created = counters.windows_created;
        state.counters.windows_returned = counters.windows_returned;
        result.map(drop)
    }

    /// Returns the length, in bytes, of requests that fit the limits beside others, however their
    /// pages are scattered.
    ///
    /// Context: any.
    pub(crate) fn share_of_limits(&self) -> u64 {
        share(self.limits())
    }

    /// Returns the shortest length, in bytes, of a window that the host refused lately.
    ///
    /// Context: any.
    pub(crate) fn refused_len(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.refusals.count >= PATIENCE).then_some(state.refusals.len)
    }
}
