// SPDX-License-Identifier: GPL-2.0

//! A forecast of the IOVA of the next window, from those that the host chose before.
//!
//! A host that fills free ranges from one end puts a window beside the one before it, unless a hole
//! elsewhere has room. So the last large window, and the small ones right behind it, tell where the
//! next large one will be. Nothing depends on a forecast: one that is right saves a try.

use super::alignment::AllocOrder;
use crate::addr::{
    Address,
    Iova,
    IovaSpan,
    GRANULE,
    GRANULE_SHIFT, //
};

/// Most bytes that a host is expected to leave free between two mappings.
pub(super) const GUARD_MAX: u64 = 256 << 10;

/// The length in bytes from which on a window is large: it rarely fits a hole.
const LARGE: u64 = 64 << 10;

/// The wrong forecasts in a row after which there are none, until one would have been right.
const SURPRISES: u32 = 4;

/// See the module's documentation.
pub(super) struct Forecast {
    /// The IOVAs of the window beside which the next is expected: the first, and the one behind the
    /// last, in whole granules.
    beside: Option<(u64, u64)>,
    /// Bytes that the host leaves free between two mappings; [`None`] if that was not seen.
    guard: Option<u64>,
    /// Large windows in a row that were elsewhere.
    surprises: u32,
}

impl Forecast {
    /// A forecast before the first window.
    pub(super) const NONE: Self = Self {
        beside: None,
        guard: None,
        surprises: 0,
    };

    /// Returns the bytes that the host leaves free between two mappings, 0 if that is not known
    /// yet; [`None`] if it never puts one beside the other.
    pub(super) fn guard(&self) -> Option<u64> {
        let early = self.surprises < SURPRISES;
        self.guard.or(early.then_some(0))
    }

    /// Returns the IOVA that a window of `len` bytes, in whole granules, is expected to get from a
    /// host that allocates in this `order`.
    pub(super) fn iova(&self, len: u64, order: AllocOrder) -> Option<Iova> {
        let guard = self.guard.filter(|_| self.surprises < SURPRISES)?;
        let (first, end) = self.beside?;
        let iova = match order {
            AllocOrder::BottomUp => end.checked_add(guard)?,
            AllocOrder::TopDown => first.checked_sub(guard)?.checked_sub(len)?,
        };
        Some(Iova::new(iova))
    }

    /// Learns from a window that the host mapped at `iovas`. `order` is that of the host, and is
    /// updated. Returns whether the next window is to be expected beside this one, if it stays.
    pub(super) fn learn(&mut self, iovas: &IovaSpan, order: &mut AllocOrder) -> bool {
        let (first, end) = whole_granules(iovas);
        let is_large = end.saturating_sub(first) >= LARGE;
        let mut adjoins = false;
        if let Some((last_first, last_end)) = self.beside {
            let up = first.checked_sub(last_end);
            let down = last_first.checked_sub(end);
            for (side, distance) in [(AllocOrder::BottomUp, up), (AllocOrder::TopDown, down)] {
                let Some(guard) = distance.filter(|distance| *distance <= GUARD_MAX) else {
                    continue;
                };
                // A small one on the other side is in a hole.
                if side == *order || is_large {
                    (self.guard, *order) = (Some(guard), side);
                    adjoins = true;
                }
            }
            if adjoins {
                self.surprises = 0;
            } else if is_large {
                self.surprises = self.surprises.saturating_add(1);
            }
        }
        adjoins || is_large
    }

    /// Expects the next window beside the one at `iovas`.
    pub(super) fn advance(&mut self, iovas: &IovaSpan) {
        self.beside = Some(whole_granules(iovas));
    }
}

/// Returns the first IOVA of the granules of `iovas`, and the one behind the last.
fn whole_granules(iovas: &IovaSpan) -> (u64, u64) {
    let first = iovas.first_granule() << GRANULE_SHIFT;
    let len = iovas.granules().saturating_mul(GRANULE);
    (first, first.saturating_add(len))
}
