// SPDX-License-Identifier: GPL-2.0

//! Which window to ask the host for when no window covers a request.
//!
//! A policy only proposes: the engine accepts what covers the request, lies in one block of guest
//! RAM and fits the budgets, and falls back to the smallest window otherwise. Pure code.

use crate::addr::{
    GpaSpan,
    GRANULE,
    PAGE, //
};
use crate::engine::budget::Room;

/// log2 of the size in bytes that windows grow to: larger ones save few requests to the host, and
/// cost more of the byte budget where a cluster ends.
pub(crate) const WINDOW_SHIFT: u32 = 18;

/// A proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// What the window covers.
    pub(crate) span: GpaSpan,
    /// Whether the window is one of those that tile the block, and so serves every request in it.
    pub(crate) tile: bool,
}

/// What a policy may know of the engine.
pub(crate) struct View<'a> {
    /// The length in bytes of the window that covers a granule, if there is one.
    pub(crate) len_at: &'a dyn Fn(u64) -> Option<u64>,
    /// Bytes.
    pub(crate) bytes: Room,
    /// Mappings.
    pub(crate) entries: Room,
}

impl View<'_> {
    fn is_empty(&self, span: &GpaSpan) -> bool {
        (span.first_granule()..=span.last_granule()).all(|granule| (self.len_at)(granule).is_none())
    }

    /// The length of the longer one of the windows that touch `span` from outside.
    fn neighbour(&self, span: &GpaSpan) -> u64 {
        [
            span.first_granule().checked_sub(1),
            span.last_granule().checked_add(1),
        ]
        .iter()
        .flatten()
        .filter_map(|granule| (self.len_at)(*granule))
        .max()
        .unwrap_or(0)
    }
}

/// See the module's documentation.
pub(crate) trait Policy {
    /// The window to ask for, so that `request`, which lies in `block`, gets mapped.
    fn propose(&self, request: &GpaSpan, block: &GpaSpan, view: &View<'_>) -> Option<Proposal>;
}

/// The smallest window that covers `request`: whole granules where guest RAM has them, and whole
/// pages in any case, since the host refuses what is not RAM.
pub(crate) fn smallest(request: &GpaSpan, block: Option<&GpaSpan>) -> Option<Proposal> {
    let span = match block {
        Some(block) => request.round_out(GRANULE)?.intersection(block)?,
        None => request.round_out(PAGE)?,
    };
    Some(Proposal { span, tile: false })
}

/// Windows that grow where mappings cluster.
///
/// The first mapping far from all others gets the smallest window. One beside a window gets a
/// window of up to twice that one's length, so that windows grow with the cluster, and what they
/// cover in vain is never more than what is used. Windows are aligned to their size and do not
/// overlap, so that they tile RAM.
///
/// When bytes get short windows stay small; when mappings get short they are made as large as can
/// be.
pub(crate) struct Adaptive {
    max: u64,
}

impl Adaptive {
    /// Windows of at most `1 << shift` bytes, unless a request is longer.
    pub(crate) fn new(shift: u32) -> Self {
        Self {
            max: 1u64.checked_shl(shift).unwrap_or(0).max(GRANULE),
        }
    }

    /// The tile of `size` bytes that covers `request`, if there is one and nothing in it is mapped.
    fn tile(request: &GpaSpan, size: u64, view: &View<'_>) -> Option<GpaSpan> {
        request
            .round_out(size)
            .filter(|tile| tile.len() == size && view.is_empty(tile))
    }
}

impl Policy for Adaptive {
    fn propose(&self, request: &GpaSpan, block: &GpaSpan, view: &View<'_>) -> Option<Proposal> {
        let granules = request.round_out(GRANULE)?.len();
        let mut size = granules.checked_next_power_of_two()?;
        let Some(mut tile) = Self::tile(request, size, view).filter(|_| size <= self.max) else {
            return smallest(request, Some(block));
        };
        while !view.bytes.is_tight() {
            let Some(double) = size.checked_mul(2).filter(|double| *double <= self.max) else {
                break;
            };
            let Some(larger) = Self::tile(request, double, view) else {
                break;
            };
            if view.neighbour(&larger) < size && !view.entries.is_tight() {
                break;
            }
            size = double;
            tile = larger;
        }
        Some(Proposal {
            span: tile.intersection(block)?,
            tile: true,
        })
    }
}
