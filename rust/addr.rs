// SPDX-License-Identifier: GPL-2.0

//! Addresses and spans of addresses.
//!
//! A guest-physical address ([`Gpa`]) and an I/O virtual address ([`Iova`]) are different types, so
//! that mixing them up does not compile. Everything here is pure arithmetic, and nothing in it can
//! overflow.
//!
//! Context of all functions: any.

/// log2 of [`GRANULE`].
pub(crate) const GRANULE_SHIFT: u32 = 14;

/// The page size of the DART in bytes. The host maps whole granules, and an IOVA has the same
/// offset in its granule as the guest-physical address that it maps.
pub(crate) const GRANULE: u64 = 1 << GRANULE_SHIFT;

/// The alignment in bytes of windows that need not fill a granule: the smallest page in which a
/// host can hold guest RAM.
pub(crate) const PAGE: u64 = 4096;

/// A 64-bit address of some address space.
pub(crate) trait Address: Copy {
    /// Creates an address from a number.
    fn new(raw: u64) -> Self;
    /// Returns the address as a number.
    fn raw(self) -> u64;
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $name(u64);

        impl Address for $name {
            #[inline]
            fn new(raw: u64) -> Self {
                Self(raw)
            }

            #[inline]
            fn raw(self) -> u64 {
                self.0
            }
        }
    };
}

address! {
    /// A guest-physical address.
    Gpa
}

address! {
    /// An I/O virtual address: the address that the device puts on the bus and that its driver
    /// calls a DMA address.
    Iova
}

/// A span of addresses in bytes, never empty.
///
/// # Invariants
///
/// `len` is at least 1, and `start + len` does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span<A> {
    start: A,
    len: u64,
}

/// A span of guest-physical addresses.
pub(crate) type GpaSpan = Span<Gpa>;

/// A span of I/O virtual addresses.
pub(crate) type IovaSpan = Span<Iova>;

impl GpaSpan {
    /// The span of all addresses but the very last.
    pub(crate) const ALL: Self = Self {
        start: Gpa(0),
        // INVARIANT: The sum is `u64::MAX`.
        len: u64::MAX,
    };
}

impl<A: Address> Span<A> {
    /// Creates a span of `len` bytes from `start`; [`None`] if it is empty or wraps around.
    #[inline]
    pub(crate) fn new(start: A, len: u64) -> Option<Self> {
        if len == 0 || start.raw().checked_add(len).is_none() {
            return None;
        }
        // INVARIANT: Both conditions were just checked.
        Some(Self { start, len })
    }

    /// Creates a span from `start` up to, not including, `end`; [`None`] if it is empty.
    #[inline]
    pub(crate) fn from_bounds(start: u64, end: u64) -> Option<Self> {
        Self::new(A::new(start), end.checked_sub(start)?)
    }

    /// Returns the first address.
    #[inline]
    pub(crate) fn start(&self) -> A {
        self.start
    }

    /// Returns the length in bytes.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the end of the span, the number behind its last address.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        // By the type invariant this does not overflow.
        self.start.raw().wrapping_add(self.len)
    }

    /// Returns the last address as a number.
    #[inline]
    pub(crate) fn last(&self) -> u64 {
        self.end().wrapping_sub(1)
    }

    /// Returns whether all of `other` lies in `self`.
    #[inline]
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.start.raw() <= other.start.raw() && other.end() <= self.end()
    }

    /// Returns whether `self` and `other` share a byte.
    #[inline]
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.start.raw() < other.end() && other.start.raw() < self.end()
    }

    /// Returns the part that `self` and `other` share.
    pub(crate) fn intersection(&self, other: &Self) -> Option<Self> {
        Self::from_bounds(
            self.start.raw().max(other.start.raw()),
            self.end().min(other.end()),
        )
    }

    /// Returns the number of the first granule that the span touches.
    #[inline]
    pub(crate) fn first_granule(&self) -> u64 {
        self.start.raw() >> GRANULE_SHIFT
    }

    /// Returns the number of the last granule that the span touches.
    #[inline]
    pub(crate) fn last_granule(&self) -> u64 {
        self.last() >> GRANULE_SHIFT
    }

    /// Returns the number of granules that the span touches, which is its cost to the host.
    #[inline]
    pub(crate) fn granules(&self) -> u64 {
        // The last granule is not below the first, and both are below 2^50.
        self.last_granule()
            .wrapping_sub(self.first_granule())
            .wrapping_add(1)
    }

    /// Returns the smallest span of whole blocks of `block` bytes, a power of two, that covers
    /// `self`; [`None`] if it would wrap around.
    pub(crate) fn round_out(&self, block: u64) -> Option<Self> {
        let mask = block.checked_sub(1)?;
        let end = self.end().checked_add(mask)? & !mask;
        Self::from_bounds(self.start.raw() & !mask, end)
    }

    /// Returns the offset of `inner`'s first address in `self`, if `self` covers `inner`.
    #[inline(always)]
    pub(crate) fn offset_of(&self, inner: &Self) -> Option<u64> {
        inner.offset_in(self.start.raw(), self.len)
    }

    /// Returns the offset of the first address in the `len` bytes from `start`, if these cover all
    /// of `self`. For look-ups: takes two comparisons, and accepts any `start` and `len`.
    #[inline(always)]
    pub(crate) fn offset_in(&self, start: u64, len: u64) -> Option<u64> {
        // A span that begins before `start` wraps around to an offset that is too large.
        let offset = self.start.raw().wrapping_sub(start);
        let room = len.checked_sub(offset)?;
        (self.len <= room).then_some(offset)
    }
}
