// SPDX-License-Identifier: GPL-2.0

//! A slot: the record of a mapping that is copied, and its place in a row.
//!
//! Context of all functions: any.

use super::pool::Row;
use super::Transfer;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    PAGE, //
};
use crate::sys::{
    Atomic,
    Relaxed, //
};

/// The record of a slot, at the number of its first page.
pub(super) struct Slot {
    /// The first address of the driver's buffer.
    pub(super) origin: Atomic<u64>,
    /// 0 if no slot begins at this page; otherwise the length and the offset of the buffer, and
    /// flags.
    pub(super) state: Atomic<u64>,
}

/// Flag of a slot's state: there is a slot.
pub(super) const LIVE: u64 = 1 << 63;

/// Flag of a slot's state: the device may write.
pub(super) const WRITABLE: u64 = 1 << 62;

/// Bits of a slot's state that have the length of the buffer, below those with its offset in the
/// page.
const LEN_BITS: u32 = 32;

/// Returns the state of a slot for `span`. It identifies the mapping among those at its page, so
/// that only the mapping that was looked up is unmapped.
pub(super) fn state(span: &GpaSpan, transfer: Transfer) -> u64 {
    let flags = match transfer {
        Transfer::ToDevice => LIVE,
        Transfer::FromDevice => LIVE | WRITABLE,
    };
    flags | ((span.start().raw() & (PAGE - 1)) << LEN_BITS) | span.len()
}

/// Returns the bytes of a slot's buffer.
pub(super) fn len_of(state: u64) -> u64 {
    state & ((1 << LEN_BITS) - 1)
}

/// Returns the offset of a slot's buffer in its page.
fn offset_of(state: u64) -> u64 {
    (state >> LEN_BITS) & (PAGE - 1)
}

/// The place of a mapping in the pool.
pub(super) struct Place<'a> {
    pub(super) row: &'a Row,
    pub(super) slot: &'a Slot,
    /// The number of the slot's first page in its row.
    pub(super) first: u32,
    /// The state of the slot.
    pub(super) state: u64,
}

impl Place<'_> {
    /// Returns the offset of the first address in the row.
    pub(super) fn start(&self) -> u64 {
        // Below 2^18, as `first` is below 64.
        u64::from(self.first)
            .wrapping_mul(PAGE)
            .wrapping_add(offset_of(self.state))
    }

    /// Returns the slot's memory from byte `skip` of the buffer on.
    pub(super) fn memory(&self, skip: u64) -> Gpa {
        let offset = self.start().wrapping_add(skip);
        Gpa::new(self.row.gpa.raw().wrapping_add(offset))
    }

    /// Returns the slot's address for the device.
    pub(super) fn iova(&self) -> Iova {
        Iova::new(self.row.iova.raw().wrapping_add(self.start()))
    }

    /// Returns the driver's buffer from byte `skip` on.
    pub(super) fn buffer(&self, skip: u64) -> Gpa {
        Gpa::new(self.slot.origin.load(Relaxed).wrapping_add(skip))
    }

    /// Returns the number of pages.
    pub(super) fn pages(&self) -> u32 {
        pages(offset_of(self.state), len_of(self.state))
    }
}

/// Returns the pages that `len` bytes from `start` on touch.
pub(super) fn pages(start: u64, len: u64) -> u32 {
    let end = (start & (PAGE - 1)).saturating_add(len);
    u32::try_from(end.div_ceil(PAGE)).unwrap_or(u32::MAX)
}
