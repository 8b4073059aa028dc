// SPDX-License-Identifier: GPL-2.0

//! All of guest RAM mapped at once, in a few pieces.
//!
//! Where that fits the budgets, a driver's mapping needs no window of its own: its address is that
//! of its piece plus an offset. There is nothing to count and nothing to give back, so drivers'
//! mistakes go unnoticed, and the device reaches all of RAM at all times. Pure code, any context;
//! look-ups are linear in the number of pieces, at most [`MAX_PIECES`], and find the longest
//! first, where most of what drivers map is.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::sys::{
    AllocError,
    BoxedSlice, //
};
use core::cmp::Reverse;

/// Most pieces. UEFI firmware keeps memory for itself here and there, which leaves RAM in nine on
/// QEMU's q35, most of them small.
pub(crate) const MAX_PIECES: usize = 32;

/// A part of guest RAM and where it is mapped.
///
/// # Invariants
///
/// Both spans have the same length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    gpa: GpaSpan,
    iova: IovaSpan,
}

impl Region {
    /// The part `gpa`, mapped from `iova` on; [`None`] if the addresses would wrap around.
    pub(crate) fn new(gpa: GpaSpan, iova: Iova) -> Option<Self> {
        // INVARIANT: The second span is made with the length of the first.
        Some(Self {
            gpa,
            iova: IovaSpan::new(iova, gpa.len())?,
        })
    }

    /// The guest memory.
    pub(crate) fn gpa(&self) -> GpaSpan {
        self.gpa
    }

    /// Where it is mapped.
    pub(crate) fn iova(&self) -> IovaSpan {
        self.iova
    }

    /// How `next`, the piece behind this one, goes on from it.
    pub(crate) fn seam(&self, next: &Self) -> Adjacency {
        if self.gpa.end() != next.gpa.start().raw() {
            return Adjacency::Gap;
        }
        let joined = GpaSpan::from_bounds(self.gpa.start().raw(), next.gpa.end())
            .filter(|_| self.iova.end() == next.iova.start().raw())
            .and_then(|gpa| Self::new(gpa, self.iova.start()));
        joined.map_or(Adjacency::Discontiguous, Adjacency::Joined)
    }

    /// Whether the two are mapped at the same addresses in part.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.iova.overlaps(&other.iova)
    }
}

/// How a piece goes on from the one before it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Adjacency {
    /// There is something else than RAM between them.
    Gap,
    /// Both RAM and its IOVAs go on: this is the two together.
    Joined(Region),
    /// RAM goes on, and its IOVAs do not.
    Discontiguous,
}

/// See the module's documentation.
pub(crate) struct StaticMap {
    /// By guest address.
    regions: BoxedSlice<Region>,
    /// The same, the longest first.
    longest: BoxedSlice<Region>,
}

impl StaticMap {
    /// RAM that is mapped in `regions`, sorted by guest address. May sleep.
    pub(crate) fn new(regions: BoxedSlice<Region>) -> Result<Self, AllocError> {
        let mut longest = BoxedSlice::copy_of(&regions)?;
        longest.sort_unstable_by_key(|region| Reverse(region.gpa.len()));
        Ok(Self { regions, longest })
    }

    /// All pieces, sorted by guest address.
    pub(crate) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Where `span` is mapped, if it lies in one piece.
    #[inline]
    pub(crate) fn iova_of(&self, span: &GpaSpan) -> Option<Iova> {
        self.longest.iter().find_map(|region| {
            let offset = region.gpa.offset_of(span)?;
            // By the type invariant the sum lies in the piece's IOVAs.
            Some(Iova::new(region.iova.start().raw().wrapping_add(offset)))
        })
    }

    /// What is mapped at `span`, if it lies in one piece.
    #[inline]
    pub(crate) fn gpa_of(&self, span: &IovaSpan) -> Option<Gpa> {
        self.longest.iter().find_map(|region| {
            let offset = region.iova.offset_of(span)?;
            // By the type invariant the sum lies in the piece's guest memory.
            Some(Gpa::new(region.gpa.start().raw().wrapping_add(offset)))
        })
    }

    /// Whether one of the pieces is mapped at a part of `span`.
    pub(crate) fn overlaps(&self, span: &IovaSpan) -> bool {
        self.longest.iter().any(|region| region.iova.overlaps(span))
    }
}
