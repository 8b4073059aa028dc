// SPDX-License-Identifier: GPL-2.0

//! A set of windows by their keys.
//!
//! The key of a window is its first guest-physical address, which must be unique among all windows
//! that the host may have. A [`KeyTable`] is a hash table whose buckets are lists through
//! [`Window::next_key`].

use crate::addr::{
    Address,
    Gpa,
    PAGE, //
};
use crate::engine::index::arena::{
    Arena,
    Id,
    NONE, //
};
use crate::engine::window::Window;
use crate::sys::{
    Alloc,
    AllocError,
    BoxedSlice,
    Relaxed, //
};

/// See the module's documentation.
///
/// Context of all methods but [`Self::new`]: engine lock held.
pub(super) struct KeyTable {
    /// The first window of each bucket.
    buckets: BoxedSlice<Id>,
}

impl KeyTable {
    /// Creates an empty table of `1 << bits` buckets.
    ///
    /// Context: process, may sleep.
    pub(super) fn new(bits: u32) -> Result<Self, AllocError> {
        Ok(Self {
            buckets: BoxedSlice::new(1 << bits, Alloc::Sleep, |_| NONE)?,
        })
    }

    /// Returns whether a window has the key `key`.
    pub(super) fn contains(&self, windows: &Arena<Window>, key: Gpa) -> bool {
        let head = self.buckets.get(self.bucket(key)).copied();
        let mut id = head.unwrap_or(NONE);
        while let Some(window) = windows.get(id) {
            if window.span().is_some_and(|span| span.start() == key) {
                return true;
            }
            id = window.next_key.load(Relaxed);
        }
        false
    }

    /// Adds the window `id`.
    pub(super) fn insert(&mut self, id: Id, window: &Window) {
        let Some(span) = window.span() else {
            return;
        };
        let bucket = self.bucket(span.start());
        if let Some(head) = self.buckets.get_mut(bucket) {
            window.next_key.store(*head, Relaxed);
            *head = id;
        }
    }

    /// Removes the window `id`, if it is in the table.
    pub(super) fn remove(&mut self, windows: &Arena<Window>, id: Id, window: &Window) {
        let Some(span) = window.span() else {
            return;
        };
        let next = window.next_key.load(Relaxed);
        let bucket = self.bucket(span.start());
        let Some(head) = self.buckets.get_mut(bucket) else {
            return;
        };
        if *head == id {
            *head = next;
            return;
        }
        let mut before = *head;
        while let Some(window) = windows.get(before) {
            let after = window.next_key.load(Relaxed);
            if after == id {
                window.next_key.store(next, Relaxed);
                return;
            }
            before = after;
        }
    }

    /// Returns the bucket of `key`.
    fn bucket(&self, key: Gpa) -> usize {
        let bits = self.buckets.len().checked_ilog2().unwrap_or(0);
        // Multiplicative hashing by 2^64 divided by the golden ratio.
        let hash = (key.raw() / PAGE)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .checked_shr(u64::BITS.wrapping_sub(bits))
            .unwrap_or(0);
        // CAST: The hash is below the number of buckets, a `usize`.
        hash as usize
    }
}
