// SPDX-License-Identifier: GPL-2.0

//! Memory for the index, which is allocated without the engine lock.

use super::index::arena::Segment;
use super::{
    Engine,
    Host,
    Observer, //
};
use crate::engine::policy::Policy;
use crate::sys::{
    Alloc,
    AllocError, //
};

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Makes the index large enough for `windows` more windows of up to 1 MiB.
    ///
    /// Context: process, may sleep.
    pub(crate) fn reserve(&self, windows: usize) -> Result<(), AllocError> {
        let chunks = windows.saturating_mul(2);
        loop {
            let (few_windows, few_chunks) = {
                let state = self.state.lock();
                (
                    state.index.free_windows() < windows,
                    state.index.free_chunks() < chunks,
                )
            };
            if !few_windows && !few_chunks {
                return Ok(());
            }
            if !self.grow(few_windows, few_chunks, Alloc::Sleep) {
                return Err(AllocError);
            }
        }
    }

    /// Grows the index, if there is memory, so that `windows` more small windows go to the host
    /// together. Returns whether a retry makes sense.
    ///
    /// Context: any.
    pub(super) fn grow_for(&self, windows: usize) -> bool {
        // Each window is in every map, and needs two chunks where it can be anywhere.
        let chunks = windows.saturating_mul(5);
        let mut chunk_grown = false;
        loop {
            let (few_windows, few_chunks) = {
                let state = self.state.lock();
                (
                    state.index.free_windows() < windows,
                    // Large windows need more, so that one more never is too many.
                    state.index.free_chunks() < chunks || !chunk_grown,
                )
            };
            if !few_windows && !few_chunks {
                return true;
            }
            if !self.grow(few_windows, few_chunks, Alloc::Atomic) {
                return chunk_grown;
            }
            chunk_grown = true;
        }
    }

    /// Allocates a segment of windows, of chunks or of both. Returns whether the index has grown.
    fn grow(&self, windows: bool, chunks: bool, alloc: Alloc) -> bool {
        let mut grown = false;
        // A segment that the index has no use for is freed after the lock is dropped.
        if windows {
            if let Ok(segment) = Segment::new(alloc) {
                let left = self
                    .index
                    .add_windows(&mut self.state.lock().index, segment);
                grown |= left.is_ok();
            }
        }
        if chunks {
            if let Ok(segment) = Segment::new(alloc) {
                let left = self.index.add_chunks(&mut self.state.lock().index, segment);
                grown |= left.is_ok();
            }
        }
        grown
    }
}
