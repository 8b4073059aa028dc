// SPDX-License-Identifier: GPL-2.0

//! Policies: the choice of the window to request from the host when no window covers a request.
//!
//! A policy only proposes: the engine accepts a window that covers the request, lies in one block
//! of guest RAM and fits the limits, and falls back to the smallest window otherwise. Pure code.
//!
//! Context of all functions: any.

use crate::addr::{
    GpaSpan,
    GRANULE,
    PAGE, //
};
use crate::engine::budget::Room;

/// log2 of the size in bytes that windows grow to: larger windows save few requests to the host,
/// and waste more of `max_bytes` where a cluster ends.
pub(crate) const WINDOW_SHIFT: u32 = 18;

/// A window that a policy proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// The memory that the window covers.
    pub(crate) span: GpaSpan,
    /// Set if the window is a tile: one of those that tile the block, so that it serves every
    /// request in it.
    pub(crate) tile: bool,
}

/// A view of the engine's state for a policy.
pub(crate) struct View<'a> {
    /// A function that returns the length in bytes of the window that covers a granule, if any.
    pub(crate) len_at: &'a dyn Fn(u64) -> Option<u64>,
    /// The limit of bytes that are mapped.
    pub(crate) bytes: Room,
    /// The limit of windows.
    pub(crate) entries: Room,
}

impl View<'_> {
    /// Returns whether no window covers a granule of `span`.
    fn is_empty(&self, span: &GpaSpan) -> bool {
        (span.first_granule()..=span.last_granule()).all(|granule| (self.len_at)(granule).is_none())
    }

    /// Returns the length in bytes of the longer one of the windows that adjoin `span`; 0 if there
    /// is none.
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

/// A policy; see the module's documentation.
pub(crate) trait Policy {
    /// Returns the window to request from the host so that `request`, which lies in `block`, gets
    /// mapped; [`None`] for the smallest.
    fn propose(&self, request: &GpaSpan, block: &GpaSpan, view: &View<'_>) -> Option<Proposal>;
}

/// Returns the smallest window that covers `request`: whole granules cut to `block`, which has
/// whole pages, or whole pages without a block, since the host refuses memory that is not RAM.
/// [`None`] if the window would wrap around or lies outside `block`.
pub(crate) fn smallest(request: &GpaSpan, block: Option<&GpaSpan>) -> Option<Proposal> {
    let span = match block {
        Some(block) => request.round_out(GRANULE)?.intersection(block)?,
        None => request.round_out(PAGE)?,
    };
    Some(Proposal { span, tile: false })
}

/// Returns the largest tile of up to `size` bytes that covers `request`, which lies in `block`, and
/// in which nothing is mapped; [`None`] if there is none.
pub(crate) fn largest_tile(
    request: &GpaSpan,
    block: &GpaSpan,
    size: u64,
    view: &View<'_>,
) -> Option<Proposal> {
    let mut size = size.checked_next_power_of_two()?;
    loop {
        if let Some(tile) = Adaptive::tile(request, size, view) {
            let span = tile.intersection(block)?;
            return Some(Proposal { span, tile: true });
        }
        size /= 2;
        if size < GRANULE {
            return None;
        }
    }
}

/// A policy whose windows grow where mappings cluster.
///
/// A mapping far from all others gets the smallest window. A mapping beside a window gets a window
/// of up to twice that one's length, so that windows grow with the cluster, and never cover more
/// unused bytes than used ones. Windows are aligned to their size and do not overlap, so that they
/// tile RAM.
///
/// When bytes get short windows stay small; when the number of windows gets short they become as
/// large as possible.
pub(crate) struct Adaptive {
    /// Most bytes of a window, unless a request is longer.
    max: u64,
}

impl Adaptive {
    /// Creates a policy with windows of at most `1 << shift` bytes, unless a request is longer.
    pub(crate) fn new(shift: u32) -> Self {
        Self {
            max: 1u64.checked_shl(shift).unwrap_or(0).max(GRANULE),
        }
    }

    /// Returns the tile of `size` bytes that covers `request`, if there is one and nothing in it is
    /// mapped.
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
