// SPDX-License-Identifier: GPL-2.0

//! Arenas: objects with small numbers, found without a lock.
//!
//! An [`Arena`] holds objects of one type, each known by an [`Id`]. It grows in segments that are
//! neither moved nor freed nor reused for another type until the arena is dropped. So a reader may
//! follow an id at any time, even one that is out of date: it always finds an object, though
//! perhaps one that was reused meanwhile, which the reader must check. Only the [`FreeList`] knows
//! which ids are in use; the writers' lock protects it.

use crate::sys::{
    Alloc,
    AllocError,
    Atomic,
    BoxedSlice,
    OnceArray,
    Relaxed, //
};

/// The number of an object, from 1 on; 0 is [`NONE`].
pub(crate) type Id = u32;

/// The id that no object has.
pub(crate) const NONE: Id = 0;

/// An object that can be in one list at a time, linked by ids.
pub(crate) trait Linked: Default {
    /// Returns the id of the next object in the list that the object is in.
    fn link(&self) -> &Atomic<u32>;
}

/// An arena; see the module's documentation. It grows by `N` objects at a time; these should fit a
/// page, since segments are allocated where memory is scarce.
pub(crate) struct Arena<T, const N: usize = 64> {
    segments: BoxedSlice<OnceArray<T, N>>,
}

/// A segment that is allocated but not yet part of an arena. Allocation and growth are separate
/// steps so that no memory is allocated under the lock.
pub(crate) struct Segment<T, const N: usize = 64>(BoxedSlice<T>);

/// The ids of an [`Arena`] that are not in use.
pub(crate) struct FreeList {
    head: Id,
    free: usize,
    /// Number of segments that the arena has.
    segments: usize,
    last: Id,
}

impl<T: Linked, const N: usize> Arena<T, N> {
    /// Creates an arena that can grow to at least `max` objects and has none yet.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(max: usize) -> Result<Self, AllocError> {
        Ok(Self {
            segments: BoxedSlice::new(max.div_ceil(N), Alloc::Sleep, |_| OnceArray::new())?,
        })
    }

    /// Returns the object with the number `id`, if the arena has grown that far. Lock-free.
    #[inline(always)]
    pub(crate) fn get(&self, id: Id) -> Option<&T> {
        // CAST: `usize` has at least 32 bits.
        let index = (id as usize).checked_sub(1)?;
        self.segments
            .get(index.checked_div(N)?)?
            .as_ref()?
            .get(index.checked_rem(N)?)
    }

    /// Adds `segment` to the arena and its objects to `list`. Fails with `segment` if the arena has
    /// reached its maximum: as the caller holds a lock, the segment is not freed here.
    pub(crate) fn grow(
        &self,
        list: &mut FreeList,
        segment: Segment<T, N>,
    ) -> Result<(), Segment<T, N>> {
        let Some(slot) = self.segments.get(list.segments) else {
            return Err(segment);
        };
        slot.populate(segment.0).map_err(Segment)?;
        list.segments = list.segments.saturating_add(1);
        let before = list.last;
        // CAST: The number of objects was bounded to 32 bits when the arena was created.
        list.last = list.segments.saturating_mul(N) as Id;
        for id in (before..list.last).rev() {
            self.free(list, id.saturating_add(1));
        }
        Ok(())
    }

    /// Removes an object from `list` and returns it with its id; [`None`] if none is free.
    pub(crate) fn take(&self, list: &mut FreeList) -> Option<(Id, &T)> {
        let id = list.head;
        let object = self.get(id)?;
        list.head = object.link().load(Relaxed);
        list.free = list.free.saturating_sub(1);
        Some((id, object))
    }

    /// Adds the object `id` to `list`.
    pub(crate) fn free(&self, list: &mut FreeList, id: Id) {
        if let Some(object) = self.get(id) {
            object.link().store(list.head, Relaxed);
            list.head = id;
            list.free = list.free.saturating_add(1);
        }
    }
}

impl<T: Linked, const N: usize> Segment<T, N> {
    /// Allocates a segment. Sleeps only if `alloc` allows that.
    pub(crate) fn new(alloc: Alloc) -> Result<Self, AllocError> {
        Ok(Self(BoxedSlice::new(N, alloc, |_| T::default())?))
    }
}

impl FreeList {
    /// Creates the free list of a new arena.
    pub(crate) fn new() -> Self {
        Self {
            head: NONE,
            free: 0,
            segments: 0,
            last: NONE,
        }
    }

    /// Returns the number of free objects.
    pub(crate) fn len(&self) -> usize {
        self.free
    }

    /// Returns the highest id that the arena has grown to.
    pub(crate) fn last_id(&self) -> Id {
        self.last
    }
}
