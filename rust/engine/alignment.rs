// SPDX-License-Identifier: GPL-2.0

//! DMA addresses of large buffers that are congruent to the memory's addresses.
//!
//! Some drivers take it that a 64 KiB or a 2 MiB page has a DMA address that is a multiple of its
//! size; NVIDIA's asserts it. The DART knows granules only, and puts a mapping where it likes. But
//! where the mapping begins and ends is ours to choose: if it begins some granules before the
//! buffer, the buffer's address in it moves up by as much; and if the host fills free ranges from
//! above, it moves down by what the mapping is longer behind the buffer. So a mapping that came out
//! wrong is given back and asked for again, longer by what is missing. That works where the host
//! puts the second one where it had the first, as a first-fit allocator does, and by luck
//! elsewhere. It is tried a few times, and only while all that is mapped to this end is a small
//! part of the limit.

use super::Request;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE, //
};

/// The pages that drivers have expectations of, in bytes, the larger one first.
const PAGES: [u64; 2] = [2 << 20, 64 << 10];

/// How often a mapping is asked for at most, the first time included.
const TRIES: u32 = 4;

/// What part of the limit may be mapped for nothing but this: less than what a driver would miss.
const PART: u64 = 256;

/// The largest page that `span` could be made of: its address should be congruent modulo that.
pub(super) fn modulus(span: &GpaSpan) -> Option<u64> {
    PAGES
        .into_iter()
        .find(|page| span.len() >= *page && span.start().raw() & page.wrapping_sub(1) == 0)
}

/// The smallest page that matters.
fn small_page() -> u64 {
    PAGES.into_iter().min().unwrap_or(GRANULE)
}

/// How far the base of a mapping of `gpa` should have been further down for it to get an address
/// that is congruent, if it was mapped at `iova`; in bytes, whole granules.
fn miss(gpa: Gpa, iova: Iova, modulus: u64) -> u64 {
    gpa.raw().wrapping_sub(iova.raw()) & modulus.wrapping_sub(1) & !(GRANULE.wrapping_sub(1))
}

/// Whether a buffer at `gpa` that is mapped at `iova` has the address that it should.
pub(super) fn is_congruent(gpa: Gpa, iova: Iova, modulus: u64) -> bool {
    miss(gpa, iova, modulus) == 0
}

/// Which end of a free range the host puts a mapping at, and so which end of ours moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AllocOrder {
    /// The low end: a mapping stays where it was if it gets longer, and more in front of a buffer
    /// moves the buffer up.
    BottomUp,
    /// The high end: a mapping moves down by what it gets longer, and more behind a buffer moves
    /// the buffer down.
    TopDown,
}

/// What one call aims at.
#[derive(Clone, Copy)]
pub(super) struct AlignTarget {
    modulus: u64,
    fill: AllocOrder,
    extra: u64,
    tries: u32,
    /// Where the last try was mapped, and how much longer it was than it had to be.
    last: Option<(Iova, u64)>,
}

impl AlignTarget {
    /// The aim for `requests`: none if they are more than one, or not large.
    pub(super) fn new<'a, R, I>(mut requests: I) -> Option<Self>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        let modulus = modulus(&requests.next()?.span()?)?;
        requests.next().is_none().then_some(Self {
            modulus,
            fill: AllocOrder::BottomUp,
            extra: 0,
            tries: 0,
            last: None,
        })
    }

    /// How many bytes are to be mapped beyond `span`, and what to map then. All of the call's tries
    /// are made from the same span, or from one that is congruent to it.
    pub(super) fn extend(&self, span: &GpaSpan) -> (u64, Option<GpaSpan>) {
        let (start, end) = (span.start().raw(), span.end());
        let (start, end) = match self.fill {
            AllocOrder::BottomUp => (start.checked_sub(self.extra), Some(end)),
            AllocOrder::TopDown => (Some(start), end.checked_add(self.extra)),
        };
        let span = start
            .zip(end)
            .and_then(|(start, end)| GpaSpan::from_bounds(start, end));
        (self.extra, span)
    }

    /// Whether what [`Self::extend`] says may be mapped to no other end if there are `padding` such
    /// bytes. Large pages get half of what there may be, as they would soon have it all.
    pub(super) fn within_budget(&self, padding: u64, max_bytes: u64) -> bool {
        let part = if self.modulus > small_page() {
            PART.saturating_mul(2)
        } else {
            PART
        };
        let most = max_bytes.checked_div(part).unwrap_or(0);
        padding.saturating_add(self.extra) <= most
    }

    /// Aims at less, since there is nothing to extend the mapping by: at small pages, and then at
    /// nothing. Says whether there still is something to aim at.
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

    /// Sees that `span`, extended as [`Self::extend`] says, was mapped at `iova`. Says whether to
    /// try again, extended in another way. `known` is how the host was last seen to fill.
    pub(super) fn observe(&mut self, span: &GpaSpan, iova: Iova, known: &mut AllocOrder) -> bool {
        self.tries = self.tries.saturating_add(1);
        if self.tries > 2 {
            // The host does not put mappings where it had others, so this would be mere luck, and
            // it takes less of that for small pages.
            self.modulus = self.modulus.min(small_page());
        }
        let miss = miss(span.start(), iova, self.modulus);
        if miss == 0 || self.tries >= TRIES {
            return false;
        }
        let fill = self.infer_order(iova).unwrap_or(*known);
        *known = fill;
        let base = if fill == self.fill { self.extra } else { 0 };
        let extra = match fill {
            AllocOrder::BottomUp => base.wrapping_add(miss),
            AllocOrder::TopDown => base.wrapping_sub(miss),
        };
        self.last = Some((iova, self.extra));
        self.fill = fill;
        self.extra = extra & self.modulus.wrapping_sub(1);
        true
    }

    /// How the host fills, by where it put this try and the last one.
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
