// SPDX-License-Identifier: GPL-2.0

//! Alignment of IOVAs: IOVAs that are congruent to the guest address modulo a power of two.
//!
//! Two kinds of drivers need that. Some assume that a 64 KiB or a 2 MiB page has a DMA address that
//! is a multiple of its size; NVIDIA's driver asserts it. That is *preferred*: a call is served
//! without it. And the DMA API promises that coherent memory is aligned to the page order that its
//! size needs. That is *required*: a call fails without it. Memory of the page allocator is aligned
//! like that, so that a congruent IOVA is, too.
//!
//! The DART works in granules only, and the host chooses the IOVA of a mapping. But the engine
//! chooses where a mapping begins and ends: if it begins some granules before the buffer, the
//! buffer's IOVA in it moves up by as much; and if the host fills free ranges from the top, the
//! buffer's IOVA moves down by what the mapping extends behind the buffer. So a misaligned mapping
//! is unmapped and requested again, extended by what is missing. That works if the host puts the
//! second mapping where the first was, as a first-fit allocator does. Where it does not, since a
//! hole has room for one length but not for the other, a required alignment is tried with a length
//! that stays the same and a buffer that moves within: that works on every host whose choice
//! depends on the length alone. On any other host only chance aligns an address.
//!
//! All padding, the bytes that are mapped for no other purpose, is a small part of the limit. Where
//! drivers rely on large pages that is too little for all of them, so a window is moved by a
//! *filler* as far as possible: a mapping of its own right before the window's in the same batch,
//! of memory that the window has, too. It takes as many IOVAs as are missing, stays while there is
//! room, and can be unmapped while the window is in use. The forecast of the next IOVA tells its
//! length before the first try.
//!
//! This file and `align_target.rs` only compute; `create.rs`, `miss.rs` and `premap.rs` make the
//! requests.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE, //
};

/// Page sizes whose alignment drivers rely on, in bytes, the larger one first.
const PAGES: [u64; 2] = [2 << 20, 64 << 10];

/// Most that an allocation or a region is aligned to. The page allocator has no larger blocks with
/// pages of 4 KiB, and CMA aligns memory to 1 MiB at most.
pub(super) const ALIGNMENT_MAX: u64 = 4 << 20;

/// Returns the size of the largest page that `span` could be made of; its IOVA should be congruent
/// to its guest address modulo that.
pub(super) fn modulus(span: &GpaSpan) -> Option<u64> {
    PAGES
        .into_iter()
        .find(|page| span.len() >= *page && span.start().raw() & page.wrapping_sub(1) == 0)
}

/// Returns the modulus to which the IOVA of an allocation must be congruent to its guest address:
/// the size of the pages of `page` bytes that hold it, rounded up to a power of two, as far as the
/// memory itself is aligned. [`None`] if every IOVA of the memory is.
pub(super) fn of_allocation(span: &GpaSpan, page: u64) -> Option<u64> {
    let order = span.len().max(page).checked_next_power_of_two()?;
    let memory = 1u64.checked_shl(span.start().raw().trailing_zeros());
    let modulus = order.min(memory.unwrap_or(order)).min(ALIGNMENT_MAX);
    (modulus > GRANULE).then_some(modulus)
}

/// Returns the modulus to which the IOVA of a region of RAM should be congruent to its guest
/// address, so that all allocations in it are. [`None`] if every IOVA is.
pub(super) fn of_region(span: &GpaSpan) -> Option<u64> {
    let modulus = span.len().checked_next_power_of_two()?.min(ALIGNMENT_MAX);
    (modulus > GRANULE).then_some(modulus)
}

/// Returns the smallest page size that matters.
pub(super) fn small_page() -> u64 {
    PAGES.into_iter().min().unwrap_or(GRANULE)
}

/// Returns the misalignment of `iova` relative to `gpa` modulo `modulus`: the bytes, in whole
/// granules, by which the mapping should have begun earlier in guest memory.
pub(super) fn misalignment(gpa: Gpa, iova: Iova, modulus: u64) -> u64 {
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
