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
    Slab, //
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
pub(crate) struct Piece {
    gpa: GpaSpan,
    iova: IovaSpan,
}

impl Piece {
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
    pub(crate) fn seam(&self, next: &Self) -> Seam {
        if self.gpa.end() != next.gpa.start().raw() {
            return Seam::Gap;
        }
        let joined = GpaSpan::from_bounds(self.gpa.start().raw(), next.gpa.end())
            .filter(|_| self.iova.end() == next.iova.start().raw())
            .and_then(|gpa| Self::new(gpa, self.iova.start()));
        joined.map_or(Seam::Torn, Seam::Joined)
    }

    /// Whether the two are mapped at the same addresses in part.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.iova.overlaps(&other.iova)
    }
}

/// How a piece goes on from the one before it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seam {
    /// There is something else than RAM between them.
    Gap,
    /// Both RAM and its IOVAs go on: this is the two together.
    Joined(Piece),
    /// RAM goes on, and its IOVAs do not.
    Torn,
}

/// See the module's documentation.
pub(crate) struct Whole {
    /// By guest address.
    pieces: Slab<Piece>,
    /// The same, the longest first.
    longest: Slab<Piece>,
}

impl Whole {
    /// RAM that is mapped in `pieces`, sorted by guest address. May sleep.
    pub(crate) fn new(pieces: Slab<Piece>) -> Result<Self, AllocError> {
        let mut longest = Slab::copy_of(&pieces)?;
        longest.sort_unstable_by_key(|piece| Reverse(piece.gpa.len()));
        Ok(Self { pieces, longest })
    }

    /// All pieces, sorted by guest address.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Where `span` is mapped, if it lies in one piece.
    #[inline]
    pub(crate) fn iova_of(&self, span: &GpaSpan) -> Option<Iova> {
        self.longest.iter().find_map(|piece| {
            let offset = piece.gpa.offset_of(span)?;
            // By the type invariant the sum lies in the piece's IOVAs.
            Some(Iova::new(piece.iova.start().raw().wrapping_add(offset)))
        })
    }

    /// What is mapped at `span`, if it lies in one piece.
    #[inline]
    pub(crate) fn gpa_of(&self, span: &IovaSpan) -> Option<Gpa> {
        self.longest.iter().find_map(|piece| {
            let offset = piece.iova.offset_of(span)?;
            // By the type invariant the sum lies in the piece's guest memory.
            Some(Gpa::new(piece.gpa.start().raw().wrapping_add(offset)))
        })
    }

    /// Whether one of the pieces is mapped at a part of `span`.
    pub(crate) fn overlaps(&self, span: &IovaSpan) -> bool {
        self.longest.iter().any(|piece| piece.iova.overlaps(span))
    }
}
