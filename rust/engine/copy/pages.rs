// SPDX-License-Identifier: GPL-2.0

//! Which pages of a row are in use: 64 bits that are taken and returned in runs, without a lock.
//!
//! Context of all functions: any.

use crate::sys::{
    Acquire,
    Atomic,
    Relaxed,
    Release, //
};

/// Pages of a row.
pub(crate) const ROW_PAGES: u32 = u64::BITS;

/// The pages of a row, a bit for each that is in use.
///
/// A page belongs to the caller that took it until that caller returns it. Taking is an acquire of
/// what returning released, so accesses of two owners to the same page never overlap.
pub(crate) struct Pages(Atomic<u64>);

/// Returns the bits of `count` pages from page `first` on; 0 if the row does not have them.
fn bits(first: u32, count: u32) -> u64 {
    let end = first.checked_add(count).filter(|end| *end <= ROW_PAGES);
    let unused = end.and(ROW_PAGES.checked_sub(count));
    let run = unused.and_then(|unused| u64::MAX.checked_shr(unused));
    run.and_then(|run| run.checked_shl(first)).unwrap_or(0)
}

/// Returns the first of `count` pages in a row that are not in `used`.
fn run(used: u64, count: u32) -> Option<u32> {
    // Bit number n of `free` says that the pages from n on, `len` of them, are free.
    let mut free = !used;
    let mut len: u32 = 1;
    while len < count {
        let step = len.min(count.wrapping_sub(len));
        free &= free.checked_shr(step)?;
        len = len.wrapping_add(step);
    }
    (free != 0 && count != 0).then(|| free.trailing_zeros())
}

impl Pages {
    /// Creates a row of pages, none in use.
    pub(crate) fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Takes `count` neighbouring pages, and returns the number of the first; [`None`] if there is
    /// no such run.
    pub(crate) fn take(&self, count: u32) -> Option<u32> {
        let mut used = self.0.load(Relaxed);
        loop {
            let first = run(used, count)?;
            match self.0.cmpxchg(used, used | bits(first, count), Acquire) {
                Ok(_) => return Some(first),
                Err(now) => used = now,
            }
        }
    }

    /// Returns `count` pages from page `first` on, which the caller took.
    pub(crate) fn put(&self, first: u32, count: u32) {
        let run = bits(first, count);
        let mut used = self.0.load(Relaxed);
        while let Err(now) = self.0.cmpxchg(used, used & !run, Release) {
            used = now;
        }
    }

    /// Returns the number of pages in use.
    pub(crate) fn used(&self) -> u32 {
        self.0.load(Relaxed).count_ones()
    }
}
