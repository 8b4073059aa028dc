// SPDX-License-Identifier: GPL-2.0

//! The static map: all of guest RAM mapped at once, in a few regions, or the pools through which
//! the kernel bounces.
//!
//! Where that fits the limits, a driver's mapping needs no window of its own: its IOVA is that of
//! its region plus an offset. Nothing is counted and nothing is unmapped, so mistakes of drivers go
//! unnoticed, and the device reaches all of RAM at all times. Lookups are linear in the number of
//! regions, at most [`MAX_REGIONS`], and try the longest first, as it has most of what drivers map.
//! This file only looks addresses up; `premap.rs` has the host map the regions.
//!
//! Context of all functions but [`StaticMap::new`]: any.

use super::alignment::{
    is_congruent,
    of_region, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::sys::{
    Alloc,
    AllocError,
    Atomic,
    BoxedSlice,
    Relaxed, //
};

/// Most regions of a static map. UEFI firmware keeps memory for itself in places, which cuts RAM
/// into nine blocks on QEMU's q35, most of them small.
pub(crate) const MAX_REGIONS: usize = 32;

/// A part of guest RAM and the IOVAs it is mapped at.
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
    /// Creates the region of `gpa`, mapped from `iova` on; [`None`] if the IOVAs would wrap around.
    pub(crate) fn new(gpa: GpaSpan, iova: Iova) -> Option<Self> {
        // INVARIANT: The second span is made with the length of the first.
        Some(Self {
            gpa,
            iova: IovaSpan::new(iova, gpa.len())?,
        })
    }

    /// Returns the guest memory.
    pub(crate) fn gpa(&self) -> GpaSpan {
        self.gpa
    }

    /// Returns the IOVAs that the guest memory is mapped at.
    pub(crate) fn iova(&self) -> IovaSpan {
        self.iova
    }

    /// Returns how `next`, the region with the next higher guest addresses, adjoins this one.
    pub(crate) fn seam(&self, next: &Self) -> Adjacency {
        if self.gpa.end() != next.gpa.start().raw() {
            return Adjacency::Gap;
        }
        let joined = GpaSpan::from_bounds(self.gpa.start().raw(), next.gpa.end())
            .filter(|_| self.iova.end() == next.iova.start().raw())
            .and_then(|gpa| Self::new(gpa, self.iova.start()));
        joined.map_or(Adjacency::Discontiguous, Adjacency::Joined)
    }

    /// Returns whether the IOVAs are not congruent to the guest addresses, so that an allocation in
    /// the region may be less aligned than the DMA API promises.
    pub(crate) fn is_misaligned(&self) -> bool {
        of_region(&self.gpa)
            .is_some_and(|modulus| !is_congruent(self.gpa.start(), self.iova.start(), modulus))
    }

    /// Returns whether the two regions share an IOVA.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.iova.overlaps(&other.iova)
    }
}

/// The relation of a region to the one before it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Adjacency {
    /// There is a hole in RAM between them.
    Gap,
    /// Guest addresses and IOVAs are both contiguous: this is the union of the two.
    Joined(Region),
    /// Guest addresses are contiguous, but IOVAs are not.
    Discontiguous,
}

/// A region as it is looked up.
struct Lookup {
    region: Region,
    /// Bytes of guest memory that are found; 0 once the map is closed.
    len: Atomic<u64>,
}

/// Sorts `regions` by length, the longest first. The sorts of `core` can panic; this one, of at
/// most [`MAX_REGIONS`] elements, cannot.
fn sort_longest_first(regions: &mut [Region]) {
    for _ in 0..regions.len() {
        let mut rest = &mut *regions;
        while let [first, others @ ..] = rest {
            if let Some(second) = others.first_mut() {
                if first.gpa.len() < second.gpa.len() {
                    core::mem::swap(first, second);
                }
            }
            rest = others;
        }
    }
}

/// The regions of guest RAM; see the module's documentation.
pub(crate) struct StaticMap {
    /// The regions, sorted by guest address.
    regions: BoxedSlice<Region>,
    /// The same regions, the longest first.
    longest_first: BoxedSlice<Lookup>,
}

impl StaticMap {
    /// Creates the map of `regions`, which are sorted by guest address.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(regions: BoxedSlice<Region>) -> Result<Self, AllocError> {
        let mut sorted = BoxedSlice::copy_of(&regions)?;
        sort_longest_first(&mut sorted);
        let first = sorted.first().copied().ok_or(AllocError)?;
        let longest_first = BoxedSlice::new(sorted.len(), Alloc::Sleep, |index| {
            let region = sorted.get(index).copied().unwrap_or(first);
            Lookup {
                region,
                len: Atomic::new(region.gpa.len()),
            }
        })?;
        Ok(Self {
            regions,
            longest_first,
        })
    }

    /// Closes the map for good: no guest memory is found any more. IOVAs still are, for drivers
    /// that unmap what they mapped before.
    pub(crate) fn close(&self) {
        for lookup in self.longest_first.iter() {
            // No ordering: a look-up on another CPU may have been just before this.
            lookup.len.store(0, Relaxed);
        }
    }

    /// Returns all regions, sorted by guest address.
    pub(crate) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Returns the highest address that RAM is mapped at.
    pub(crate) fn highest_iova(&self) -> u64 {
        let last = self.regions().iter().map(|region| region.iova.last());
        last.fold(0, u64::max)
    }

    /// Returns the IOVA of `span`, if it lies in one region.
    #[inline]
    pub(crate) fn iova_of(&self, span: &GpaSpan) -> Option<Iova> {
        self.longest_first
            .iter()
            .find_map(|Lookup { region, len }| {
                let offset = span.offset_in(region.gpa.start().raw(), len.load(Relaxed))?;
                // By the type invariant the sum lies in the region's IOVAs.
                Some(Iova::new(region.iova.start().raw().wrapping_add(offset)))
            })
    }

    /// Returns the guest address that is mapped at `span`, if it lies in one region.
    #[inline]
    pub(crate) fn gpa_of(&self, span: &IovaSpan) -> Option<Gpa> {
        self.longest_first.iter().find_map(|Lookup { region, .. }| {
            let offset = region.iova.offset_of(span)?;
            // By the type invariant the sum lies in the region's guest memory.
            Some(Gpa::new(region.gpa.start().raw().wrapping_add(offset)))
        })
    }

    /// Returns whether one of the regions is mapped at a part of `span`.
    pub(crate) fn overlaps(&self, span: &IovaSpan) -> bool {
        self.longest_first
            .iter()
            .any(|Lookup { region, .. }| region.iova.overlaps(span))
    }
}
