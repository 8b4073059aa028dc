// SPDX-License-Identifier: GPL-2.0

//! The alignment that one call tries to get for the IOVA of its window, and the state of its tries.
//!
//! `alignment.rs` explains what is tried. This file only computes; `miss.rs` makes the requests.

use super::alignment::{
    misalignment,
    modulus,
    small_page,
    AllocOrder, //
};
use super::forecast::Forecast;
use super::large_pages::LargePages;
use super::Request;
use crate::addr::{
    Address,
    GpaSpan,
    Iova,
    GRANULE, //
};

/// Most requests for one mapping whose alignment is preferred, including the first.
const TRIES: u32 = 4;

/// Most requests for one mapping whose alignment is required. On a host that chooses IOVAs at
/// random, this aligns 64 KiB but for one time in 10^8, 256 KiB but for one time in 60.
const TRIES_REQUIRED: u32 = 64;

/// Of these, the tries that are extended by what is missing.
const TRIES_EXTENDED: u32 = 3;

/// Of these, the tries after which only chance can help.
const TRIES_PADDED: u32 = 7;

/// Fraction of the limit that may be padding, as a divisor: too little to be missed by drivers.
const PADDING_DIVISOR: u64 = 256;

/// Fraction of the limit that may be padding for the sake of a required alignment, as a divisor.
const PADDING_DIVISOR_REQUIRED: u64 = 16;

/// Fraction of the limit that may be padding where large pages are expected, as a divisor.
const PADDING_DIVISOR_EXPECTED: u64 = 16;

/// Fraction of a window up to which padding is better than a filler, as a divisor: it takes a
/// mapping less.
const PADDING_OF_WINDOW: u64 = 32;

/// Most tries with a filler.
const TRIES_FILLED: u32 = 4;

/// The bytes by which a mapping is extended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Padding {
    /// Bytes before the buffer.
    front: u64,
    /// Bytes behind it.
    back: u64,
}

impl Padding {
    /// No padding.
    const NONE: Self = Self { front: 0, back: 0 };

    /// Returns `bytes` at the end that a host which allocates in this `order` fills first.
    fn before(bytes: u64, order: AllocOrder) -> Self {
        let (front, back) = match order {
            AllocOrder::BottomUp => (bytes, 0),
            AllocOrder::TopDown => (0, bytes),
        };
        Self { front, back }
    }

    /// Returns the sum of both ends.
    fn bytes(self) -> u64 {
        self.front.saturating_add(self.back)
    }
}

/// The result of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The mapping is to be used.
    Accept,
    /// The mapping is to be unmapped and requested again.
    Retry,
    /// The mapping is to be unmapped, and the call to fail.
    Fail,
}

/// The alignment that one call tries to get, and the state of its tries.
#[derive(Clone, Copy)]
pub(super) struct AlignTarget {
    /// The first address of the request.
    start: u64,
    modulus: u64,
    /// Set if the call fails without the alignment.
    required: bool,
    /// Set if large pages are expected, so that fillers are worth it.
    expected: bool,
    /// Padding of the next try.
    padding: Padding,
    /// Bytes of the filler of the next try; 0 for none.
    filler: u64,
    /// Number of tries with a filler that the host mapped.
    tries_filled: u32,
    /// Number of other tries that the host mapped.
    tries: u32,
    /// The IOVA of the last try and its padding.
    last: Option<(Iova, Padding)>,
}

impl AlignTarget {
    /// Creates the target of a call for `requests`; [`None`] if there is none. Only single requests
    /// have one. For an alignment that no request requires, the effort is that for `large_pages`.
    pub(super) fn new<'a, R, I>(mut requests: I, large_pages: LargePages) -> Option<Self>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        let request = requests.next()?;
        let start = request.span()?.start().raw();
        let required = request.modulus();
        let modulus = match required {
            Some(modulus) => modulus,
            None if large_pages == LargePages::Ignored => return None,
            None => modulus(&request.span()?)?,
        };
        requests.next().is_none().then_some(Self {
            start,
            modulus,
            required: required.is_some(),
            expected: large_pages == LargePages::Expected,
            padding: Padding::NONE,
            filler: 0,
            tries_filled: 0,
            tries: 0,
            last: None,
        })
    }

    /// Returns whether the call fails without the alignment.
    pub(super) fn is_required(&self) -> bool {
        self.required
    }

    /// Prepares the first try for `span`, which is to be aligned where the host is expected to put
    /// it.
    pub(super) fn anticipate(&mut self, span: &GpaSpan, forecast: &Forecast, order: AllocOrder) {
        if self.required || !self.expected || self.tries != 0 || self.tries_filled != 0 {
            return;
        }
        let len = span.granules().saturating_mul(GRANULE);
        (self.padding, self.filler) = (Padding::NONE, 0);
        if let Some((iova, guard)) = forecast.iova(len, order).zip(forecast.guard()) {
            let missing = misalignment(span.start(), iova, self.modulus);
            self.shift(span, missing, guard, order);
        }
    }

    /// Prepares a try that moves the buffer by `missing` bytes, modulo the modulus, against a try
    /// for `span` without padding: by padding, if that takes little, or else by a filler.
    fn shift(&mut self, span: &GpaSpan, missing: u64, guard: u64, order: AllocOrder) {
        let bytes = match order {
            AllocOrder::BottomUp => missing,
            AllocOrder::TopDown => missing.wrapping_neg() & self.modulus.wrapping_sub(1),
        };
        // Beside the filler there is a guard more.
        let filler = bytes.saturating_sub(guard);
        let is_little = bytes <= span.len() / PADDING_OF_WINDOW;
        (self.padding, self.filler) = if is_little || filler == 0 {
            (Padding::before(bytes, order), 0)
        } else {
            (Padding::NONE, filler)
        };
    }

    /// Returns the bytes of the filler of the next try, in whole granules; 0 for none. They are
    /// fewer than those of the buffer.
    pub(super) fn filler(&self) -> u64 {
        self.filler
    }

    /// Replaces the filler of the next try by padding, as there cannot be one. `order` is that of
    /// the host.
    pub(super) fn do_without_filler(&mut self, guard: u64, order: AllocOrder) {
        let bytes = match core::mem::take(&mut self.filler) {
            0 => return,
            filler => filler.saturating_add(guard),
        };
        self.tries_filled = TRIES_FILLED;
        self.padding = Padding::before(bytes, order);
    }

    /// Returns the padding for `span` in bytes, and `span` with that padding; [`None`] for the
    /// latter if it would wrap around. All tries of a call are made from the same span, or from one
    /// that is congruent to it.
    pub(super) fn extend(&self, span: &GpaSpan) -> (u64, Option<GpaSpan>) {
        let start = span.start().raw().checked_sub(self.padding.front);
        let end = span.end().checked_add(self.padding.back);
        let span = start
            .zip(end)
            .and_then(|(start, end)| GpaSpan::from_bounds(start, end));
        (self.padding.bytes(), span)
    }

    /// Returns whether the padding budget still has room for the extension proposed by
    /// [`Self::extend`]. `padding` is the number of bytes of padding that are mapped already. Large
    /// pages may use only half of the budget, as they would soon exhaust it.
    pub(super) fn within_budget(&self, padding: u64, max_bytes: u64) -> bool {
        let divisor = if self.required {
            PADDING_DIVISOR_REQUIRED
        } else if self.expected {
            PADDING_DIVISOR_EXPECTED
        } else if self.modulus > small_page() {
            PADDING_DIVISOR.saturating_mul(2)
        } else {
            PADDING_DIVISOR
        };
        let budget = max_bytes.checked_div(divisor).unwrap_or(0);
        padding.saturating_add(self.padding.bytes()) <= budget
    }

    /// Relaxes the target when the mapping cannot be extended: to small pages, and then to no
    /// alignment; a required one to chance. Returns whether there still is padding to try.
    pub(super) fn relax(&mut self) -> bool {
        let small = small_page();
        if !self.required && self.modulus > small {
            self.modulus = small;
            self.padding.front &= small.wrapping_sub(1);
            self.padding.back &= small.wrapping_sub(1);
            return true;
        }
        self.padding = Padding::NONE;
        if !self.required {
            self.tries = TRIES;
        }
        false
    }

    /// Records that `span`, which includes the padding of [`Self::extend`], was mapped at `iova`.
    /// Returns what is to be done with the mapping. `known` is the order of allocation last
    /// observed, and is updated; `guard` are the bytes that the host leaves free between mappings;
    /// [`None`] if it places them anywhere.
    pub(super) fn observe(
        &mut self,
        span: &GpaSpan,
        iova: Iova,
        known: &mut AllocOrder,
        guard: Option<u64>,
    ) -> Verdict {
        let is_filled = core::mem::take(&mut self.filler) != 0;
        if is_filled {
            self.tries_filled = self.tries_filled.saturating_add(1);
        } else {
            self.tries = self.tries.saturating_add(1);
        }
        if self.tries > 2 && !self.required {
            // The host does not reuse the addresses of earlier tries, so only chance can align the
            // next one, and chances are better for small pages.
            self.modulus = self.modulus.min(small_page());
        }
        let missing = misalignment(span.start(), iova, self.modulus);
        if missing == 0 {
            return Verdict::Accept;
        }
        let is_random = self.expected && guard.is_none();
        if is_random && !self.required && self.modulus > small_page() {
            // Not in a hundred tries.
            return Verdict::Accept;
        }
        if let Some(guard) = guard.filter(|_| self.may_fill()) {
            self.shift(span, missing, guard, *known);
            self.last = None;
            return Verdict::Retry;
        }
        if self.is_exhausted(iova) {
            return if self.required {
                Verdict::Fail
            } else {
                Verdict::Accept
            };
        }
        let order = self.infer_order(iova).unwrap_or(*known);
        *known = order;
        let padding = self.next_padding(span, missing, order);
        // A filler stays, and so this try and the next differ by more than the padding.
        self.last = (!is_filled).then_some((iova, self.padding));
        self.padding = padding;
        Verdict::Retry
    }

    /// Returns whether the next try may have a filler, after one without padding.
    fn may_fill(&self) -> bool {
        let expected = self.expected && !self.required;
        let plain = self.padding == Padding::NONE && self.tries < TRIES;
        expected && plain && self.tries_filled < TRIES_FILLED
    }

    /// Returns whether no other try is worth it after one that was mapped at `iova`.
    fn is_exhausted(&self, iova: Iova) -> bool {
        if !self.required {
            return self.tries >= TRIES;
        }
        // Chance does not help on a host that does the same each time.
        let same = self.last == Some((iova, self.padding));
        self.tries >= TRIES_REQUIRED || self.padding == Padding::NONE && same
    }

    /// Returns the padding of the next try, after one for `span` that was misaligned by `missing`,
    /// on a host that allocates in the order `order`.
    fn next_padding(&self, span: &GpaSpan, missing: u64, order: AllocOrder) -> Padding {
        let mask = self.modulus.wrapping_sub(1);
        let Padding { mut front, back } = self.padding;
        if self.required {
            // A window whose key is taken begins earlier, maybe in another granule.
            let before = self.start.saturating_sub(span.start().raw());
            front = before.checked_next_multiple_of(GRANULE).unwrap_or(front);
        }
        // Without padding the key would be taken once more.
        let front_of = |bytes: u64| match bytes & mask {
            0 if front > self.padding.front => self.modulus,
            bytes => bytes,
        };
        if !self.required || self.tries < TRIES_EXTENDED {
            return match order {
                AllocOrder::BottomUp if back == 0 => Padding {
                    front: front_of(front.wrapping_add(missing)),
                    back: 0,
                },
                AllocOrder::BottomUp => Padding {
                    front: missing,
                    back: 0,
                },
                AllocOrder::TopDown if self.padding.front == 0 => Padding {
                    front: 0,
                    back: back.wrapping_sub(missing) & mask,
                },
                AllocOrder::TopDown => Padding {
                    front: 0,
                    back: missing.wrapping_neg() & mask,
                },
            };
        }
        if self.tries < TRIES_PADDED {
            // The whole is as long each time.
            let front = front_of(front.wrapping_add(missing));
            let all = self.modulus.saturating_sub(GRANULE);
            return Padding {
                front,
                back: all.saturating_sub(front),
            };
        }
        Padding::NONE
    }

    /// Returns the order in which the host allocates, as far as the IOVAs of this try and the last
    /// one tell.
    fn infer_order(&self, iova: Iova) -> Option<AllocOrder> {
        let (last, padding) = self.last?;
        let longer = self.padding.bytes().checked_sub(padding.bytes())?;
        match last.raw().wrapping_sub(iova.raw()) {
            0 => Some(AllocOrder::BottomUp),
            moved if moved == longer => Some(AllocOrder::TopDown),
            _ => None,
        }
    }
}
