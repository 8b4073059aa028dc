// SPDX-License-Identifier: GPL-2.0

//! Addresses and spans of addresses.
//!
//! A guest-physical address ([`Gpa`]) and an I/O virtual address ([`Iova`]) are different types, so
//! that mixing them up does not compile. Everything here is pure arithmetic: it may be used in any
//! context, and nothing in it can overflow.

/// log2 of [`GRANULE`].
pub(crate) const GRANULE_SHIFT: u32 = 14;

/// The DART page in bytes. The host maps whole granules, and an IOVA has the same offset in its
/// granule as the guest-physical address that it stands for.
pub(crate) const GRANULE: u64 = 1 << GRANULE_SHIFT;

/// The step in which windows begin and end where they need not fill a granule, in bytes. It is the
/// smallest page that a host can hold guest RAM in.
pub(crate) const PAGE: u64 = 4096;

/// A 64-bit address of some address space.
pub(crate) trait Address: Copy {
    /// Makes an address from its number.
    fn new(raw: u64) -> Self;
    /// The number of the address.
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
    /// An I/O virtual address: what the device puts on the bus, and what its driver calls a DMA
    /// address.
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
    /// All addresses but the very last.
    pub(crate) const ALL: Self = Self {
        start: Gpa(0),
        // INVARIANT: The sum is the largest number there is.
        len: u64::MAX,
    };
}

impl<A: Address> Span<A> {
    /// A span of `len` bytes from `start`; [`None`] if it is empty or wraps around.
    #[inline]
    pub(crate) fn new(start: A, len: u64) -> Option<Self> {
        if len == 0 || start.raw().checked_add(len).is_none() {
            return None;
        }
        // INVARIANT: Both conditions were just checked.
        Some(Self { start, len })
    }

    /// A span from `start` up to, not including, `end`.
    #[inline]
    pub(crate) fn from_bounds(start: u64, end: u64) -> Option<Self> {
        Self::new(A::new(start), end.checked_sub(start)?)
    }

    /// The first address.
    #[inline]
    pub(crate) fn start(&self) -> A {
        self.start
    }

    /// The length in bytes.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The number behind the last address.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        // By the type invariant this does not overflow.
        self.start.raw().wrapping_add(self.len)
    }

    /// The number of the last address.
    #[inline]
    pub(crate) fn last(&self) -> u64 {
        self.end().wrapping_sub(1)
    }

    /// Whether all of `other` lies in `self`.
    #[inline]
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.start.raw() <= other.start.raw() && other.end() <= self.end()
    }

    /// Whether `self` and `other` share a byte.
    #[inline]
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.start.raw() < other.end() && other.start.raw() < self.end()
    }

    /// What `self` and `other` share.
    pub(crate) fn intersection(&self, other: &Self) -> Option<Self> {
        Self::from_bounds(
            self.start.raw().max(other.start.raw()),
            self.end().min(other.end()),
        )
    }

    /// The number of the first granule that the span touches.
    #[inline]
    pub(crate) fn first_granule(&self) -> u64 {
        self.start.raw() >> GRANULE_SHIFT
    }

    /// The number of the last granule that the span touches.
    #[inline]
    pub(crate) fn last_granule(&self) -> u64 {
        self.last() >> GRANULE_SHIFT
    }

    /// How many granules the span touches: what it costs the host.
    #[inline]
    pub(crate) fn granules(&self) -> u64 {
        // The last is not below the first, and both are below 2^50.
        self.last_granule()
            .wrapping_sub(self.first_granule())
            .wrapping_add(1)
    }

    /// The smallest span of whole blocks of `block` bytes, a power of two, that covers `self`;
    /// [`None`] if it would wrap around.
    pub(crate) fn round_out(&self, block: u64) -> Option<Self> {
        let mask = block.checked_sub(1)?;
        let end = self.end().checked_add(mask)? & !mask;
        Self::from_bounds(self.start.raw() & !mask, end)
    }

    /// The offset of `inner`'s first address in `self`, if `self` covers `inner`.
    #[inline(always)]
    pub(crate) fn offset_of(&self, inner: &Self) -> Option<u64> {
        inner.offset_in(self.start.raw(), self.len)
    }

    /// The offset of the first address in the `len` bytes from `start`, if all of `self` is in
    /// them. For look-ups: `start` and `len` may be anything, and it is two comparisons.
    #[inline(always)]
    pub(crate) fn offset_in(&self, start: u64, len: u64) -> Option<u64> {
        // What begins before `start` has an offset that is too large.
        let offset = self.start.raw().wrapping_sub(start);
        let room = len.checked_sub(offset)?;
        (self.len <= room).then_some(offset)
    }
}
