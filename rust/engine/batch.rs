// SPDX-License-Identifier: GPL-2.0

//! A list of bounded length whose memory is allocated once.

use crate::sys::{
    Alloc,
    AllocError,
    BoxedSlice, //
};

/// Entries that go to the host together. Its memory is allocated once.
pub(super) struct Batch<T> {
    pub(super) entries: BoxedSlice<T>,
    pub(super) len: usize,
}

impl<T: Copy> Batch<T> {
    pub(super) fn new(max: usize, fill: T) -> Result<Self, AllocError> {
        Ok(Self {
            entries: BoxedSlice::new(max, Alloc::Sleep, |_| fill)?,
            len: 0,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.len >= self.entries.len()
    }

    pub(super) fn push(&mut self, entry: T) {
        if let Some(slot) = self.entries.get_mut(self.len) {
            *slot = entry;
            self.len = self.len.saturating_add(1);
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<T> {
        self.filled().get(index).copied()
    }

    pub(super) fn filled(&self) -> &[T] {
        self.entries.get(..self.len).unwrap_or(&[])
    }

    pub(super) fn filled_mut(&mut self) -> &mut [T] {
        self.entries.get_mut(..self.len).unwrap_or(&mut [])
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }
}
