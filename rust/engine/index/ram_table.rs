// SPDX-License-Identifier: GPL-2.0

//! A map from granules of guest memory to ids, read without a lock.
//!
//! Guest RAM is known and dense, so its granules have a flat table: 4 bytes for 16 KiB. Granules
//! outside the table, such as those of memory that was added later, are in a [`GranuleMap`].

use crate::engine::index::arena::{
    FreeList,
    Id,
    NONE, //
};
use crate::engine::index::granule_map::{
    Chunks,
    GranuleMap, //
};
use crate::engine::ram::Ram;
use crate::sys::{
    Acquire,
    Alloc,
    AllocError,
    Atomic,
    BoxedSlice,
    Relaxed,
    Release, //
};

/// A map from granules of guest memory to ids; see the module's documentation.
pub(crate) struct RamTable {
    /// The granule of the first slot.
    first: u64,
    slots: BoxedSlice<Atomic<u32>>,
    /// The granules outside the table.
    beyond: GranuleMap,
}

impl RamTable {
    /// Creates an empty map with a table for the first `max` granules from the lowest of `ram` on,
    /// and `beyond` for the rest.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(ram: &Ram, max: usize, beyond: GranuleMap) -> Result<Self, AllocError> {
        let (first, granules) = match (ram.blocks().first(), ram.blocks().last()) {
            (Some(low), Some(high)) => {
                let first = low.first_granule();
                let granules = high.last_granule().wrapping_sub(first).wrapping_add(1);
                (first, usize::try_from(granules).unwrap_or(usize::MAX))
            }
            _ => (0, 0),
        };
        Ok(Self {
            first,
            slots: BoxedSlice::new(granules.min(max), Alloc::Sleep, |_| Atomic::new(NONE))?,
            beyond,
        })
    }

    #[inline(always)]
    fn slot(&self, granule: u64) -> Option<&Atomic<u32>> {
        // A granule below the table wraps around to an index that is too large.
        // CAST: `usize` has 64 bits on all supported architectures.
        self.slots.get(granule.wrapping_sub(self.first) as usize)
    }

    /// Returns the id of `granule`, or [`NONE`]. Lock-free; as [`GranuleMap::get`].
    #[inline(always)]
    pub(crate) fn get(&self, chunks: &Chunks, granule: u64) -> Id {
        match self.slot(granule) {
            Some(slot) => slot.load(Acquire),
            None => self.beyond.get(chunks, granule),
        }
    }

    /// Returns the id of `granule`, or [`NONE`], and misses no id, unlike [`Self::get`].
    ///
    /// Context: engine lock held.
    pub(crate) fn get_locked(&self, chunks: &Chunks, granule: u64) -> Id {
        match self.slot(granule) {
            Some(slot) => slot.load(Relaxed),
            None => self.beyond.get_locked(chunks, granule),
        }
    }

    /// Sets the id of `granule` to `id`, which is not [`NONE`]; as [`GranuleMap::set`].
    ///
    /// Context: engine lock held.
    pub(crate) fn set(
        &self,
        chunks: &Chunks,
        free: &mut FreeList,
        granule: u64,
        id: Id,
    ) -> Result<(), AllocError> {
        match self.slot(granule) {
            Some(slot) => {
                // Release: a reader that finds the id finds the object as it was prepared.
                slot.store(id, Release);
                Ok(())
            }
            None => self.beyond.set(chunks, free, granule, id),
        }
    }

    /// Clears the id of `granule` if it is `id`; as [`GranuleMap::clear`].
    ///
    /// Context: engine lock held.
    pub(crate) fn clear(&self, chunks: &Chunks, free: &mut FreeList, granule: u64, id: Id) {
        match self.slot(granule) {
            Some(slot) => {
                if slot.load(Relaxed) == id {
                    slot.store(NONE, Relaxed);
                }
            }
            None => self.beyond.clear(chunks, free, granule, id),
        }
    }
}
