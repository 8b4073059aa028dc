// SPDX-License-Identifier: GPL-2.0

//! Alignment of the IOVAs of large buffers: IOVAs that are congruent to the guest address modulo
//! the page size.
//!
//! Some drivers assume that a 64 KiB or a 2 MiB page has a DMA address that is a multiple of its
//! size; NVIDIA's driver asserts it. The DART works in granules only, and the host chooses the IOVA
//! of a mapping. But the engine chooses where a mapping begins and ends: if it begins some granules
//! before the buffer, the buffer's IOVA in it moves up by as much; and if the host fills free
//! ranges from the top, the buffer's IOVA moves down by what the mapping extends behind the buffer.
//! So a misaligned mapping is unmapped and requested again, extended by what is missing. That works
//! if the host puts the second mapping where the first was, as a first-fit allocator does, and by
//! chance otherwise. It is tried a few times, and only while all padding, the bytes that are mapped
//! for no other purpose, is a small part of the limit.
//!
//! This file only computes; `miss.rs` makes the requests.

use super::Request;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE, //
};

/// Page sizes whose alignment drivers rely on, in bytes, the larger one first.
const PAGES: [u64; 2] = [2 << 20, 64 << 10];

/// Most requests for one mapping, including the first.
const TRIES: u32 = 4;

/// Fraction of the limit that may be padding, as a divisor: too little to be missed by drivers.
const PADDING_DIVISOR: u64 = 256;

/// Returns the size of the largest page that `span` could be made of; its IOVA should be congruent
/// to its guest address modulo that.
pub(super) fn modulus(span: &GpaSpan) -> Option<u64> {
    PAGES
        .into_iter()
        .find(|page| span.len() >= *page && span.start().raw() & page.wrapping_sub(1) == 0)
}

/// Returns the smallest page size that matters.
fn small_page() -> u64 {
    PAGES.into_iter().min().unwrap_or(GRANULE)
}

/// Returns the misalignment of `iova` relative to `gpa` modulo `modulus`: the bytes, in whole
/// granules, by which the mapping should have begun earlier in guest memory.
fn misalignment(gpa: Gpa, iova: Iova, modulus: u64) -> u64 {
    gpa.raw().wrapping_sub(iova.raw()) & modulus.wrapping_sub(1) & !(GRANULE.wrapping_sub(1))
}

/// Returns whether a buffer at `gpa` that is mapped at `iova` is aligned as it should be.
pub(super) fn is_congruent(gpa: Gpa, iova: Iova, modulus: u64) -> bool {
    misalignment(gpa, iova, modulus) == 0
}

/// The end of a free range at which the host allocates IOVAs, which decides the end at which a
/// mapping is extended to move the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AllocOrder {
    /// The low end: a longer mapping begins where the shorter one did, and padding in front of a
    /// buffer moves the buffer up.
    BottomUp,
    /// The high end: a longer mapping begins lower by the difference, and padding behind a buffer
    /// moves the buffer down.
    TopDown,
}

/// The alignment that one call tries to get, and the state of its tries.
#[derive(Clone, Copy)]
pub(super) struct AlignTarget {
    modulus: u64,
    /// The order of allocation that the next try assumes.
    order: AllocOrder,
    /// Padding of the next try, in bytes.
    extra: u64,
    /// Number of tries that the host mapped.
    tries: u32,
    /// The IOVA of the last try and its padding in bytes.
    last: Option<(Iova, u64)>,
}

impl AlignTarget {
    /// Creates the target of a call for `requests`; [`None`] for more than one, or one not large.
    pub(super) fn new<'a, R, I>(mut requests: I) -> Option<Self>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        let modulus = modulus(&requests.next()?.span()?)?;
        requests.next().is_none().then_some(Self {
            modulus,
            order: AllocOrder::BottomUp,
            extra: 0,
            tries: 0,
            last: None,
        })
    }

    /// Returns the padding for `span` in bytes, and `span` with that padding; [`None`] for the
    /// latter if it would wrap around. All tries of a call are made from the same span, or from one
    /// that is congruent to it.
    pub(super) fn extend(&self, span: &GpaSpan) -> (u64, Option<GpaSpan>) {
        let (start, end) = (span.start().raw(), span.end());
        let (start, end) = match self.order {
            AllocOrder::BottomUp => (start.checked_sub(self.extra), Some(end)),
            AllocOrder::TopDown => (Some(start), end.checked_add(self.extra)),
        };
        let span = start
            .zip(end)
            .and_then(|(start, end)| GpaSpan::from_bounds(start, end));
        (self.extra, span)
    }

    /// Returns whether the padding budget still has room for the extension proposed by
    /// [`Self::extend`]. `padding` is the number of bytes of padding that are mapped already. Large
    /// pages may use only half of the budget, as they would soon exhaust it.
    pub(super) fn within_budget(&self, padding: u64, max_bytes: u64) -> bool {
        let divisor = if self.modulus > small_page() {
            PADDING_DIVISOR.saturating_mul(2)
        } else {
            PADDING_DIVISOR
        };
        let budget = max_bytes.checked_div(divisor).unwrap_or(0);
        padding.saturating_add(self.extra) <= budget
    }

    /// Relaxes the target when the mapping cannot be extended: to small pages, and then to no
    /// alignment. Returns whether there still is an alignment to try for.
    pub(super) fn relax(&mut self) -> bool {
        let small = small_page();
        if self.modulus > small {
            self.modulus = small;
            self.extra &= small.wrapping_sub(1);
            return true;
        }
        self.extra = 0;
        self.tries = TRIES;
        false
    }

    /// Records that `span`, which includes the padding of [`Self::extend`], was mapped at `iova`.
    /// Returns whether to try again with other padding. `known` is the order of allocation last
    /// observed, and is updated.
    pub(super) fn observe(&mut self, span: &GpaSpan, iova: Iova, known: &mut AllocOrder) -> bool {
        self.tries = self.tries.saturating_add(1);
        if self.tries > 2 {
            // The host does not reuse the addresses of earlier tries, so only chance can align the
            // next one, and chances are better for small pages.
            self.modulus = self.modulus.min(small_page());
        }
        let missing = misalignment(span.start(), iova, self.modulus);
        if missing == 0 || self.tries >= TRIES {
            return false;
        }
        let order = self.infer_order(iova).unwrap_or(*known);
        *known = order;
        let base = if order == self.order { self.extra } else { 0 };
        let extra = match order {
            AllocOrder::BottomUp => base.wrapping_add(missing),
            AllocOrder::TopDown => base.wrapping_sub(missing),
        };
        self.last = Some((iova, self.extra));
        self.order = order;
        self.extra = extra & self.modulus.wrapping_sub(1);
        true
    }

    /// Returns the order in which the host allocates, as far as the IOVAs of this try and the last
    /// one tell.
    fn infer_order(&self, iova: Iova) -> Option<AllocOrder> {
        let (last, extra) = self.last?;
        let longer = self.extra.checked_sub(extra)?;
        match last.raw().wrapping_sub(iova.raw()) {
            0 => Some(AllocOrder::BottomUp),
            moved if moved == longer => Some(AllocOrder::TopDown),
            _ => None,
        }
    }
}
