// SPDX-License-Identifier: GPL-2.0

//! Objects with small numbers, found without a lock.
//!
//! An [`Arena`] holds objects of one type, each known by an [`Id`]. It grows in segments that stay
//! where they are and stay of that type until the arena goes, so a reader may follow an id at any
//! time, even one that is out of date: it always finds an object, though perhaps one that serves
//! something else by now, which is for the reader to check. Which ids are in use is known to the
//! [`FreeList`] alone, which belongs under the writers' lock.

use crate::sys::{
    Alloc,
    AllocError,
    Atomic,
    BoxedSlice, //
    OnceArray,
    Relaxed,
};

/// The number of an object, from 1 on; 0 is no object.
pub(crate) type Id = u32;

/// The id of no object.
pub(crate) const NONE: Id = 0;

/// An object that can be part of one list, by ids.
pub(crate) trait Linked: Default {
    /// The id of the next object in the list that the object is in.
    fn link(&self) -> &Atomic<u32>;
}

/// See the module's documentation. It grows by `N` objects at a time; they should fit a page, since
/// that is allocated where memory is scarce.
pub(crate) struct Arena<T, const N: usize = 64> {
    segments: BoxedSlice<OnceArray<T, N>>,
}

/// A segment that is allocated but not yet part of an arena. Allocation and growth are apart so
/// that no memory is allocated under the lock.
pub(crate) struct Segment<T, const N: usize = 64>(BoxedSlice<T>);

/// The ids of an [`Arena`] that are not in use.
pub(crate) struct FreeList {
    head: Id,
    free: usize,
    segments: usize,
    last: Id,
}

impl<T: Linked, const N: usize> Arena<T, N> {
    /// An arena that can grow to at least `max` objects and has none yet. May sleep.
    pub(crate) fn new(max: usize) -> Result<Self, AllocError> {
        Ok(Self {
            segments: BoxedSlice::new(max.div_ceil(N), Alloc::Sleep, |_| OnceArray::new())?,
        })
    }

    /// The object with the number `id`, if the arena has grown that far. Lock-free.
    #[inline(always)]
    pub(crate) fn get(&self, id: Id) -> Option<&T> {
        // CAST: `usize` has at least 32 bits.
        let index = (id as usize).checked_sub(1)?;
        self.segments.get(index / N)?.as_ref()?.get(index % N)
    }

    /// Makes `segment` part of the arena and its objects free; gives it back if the arena has grown
    /// as far as it can. It is not freed here: the caller holds a lock.
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
        // CAST: The number of objects was bounded to 32 bits when the arena was made.
        list.last = list.segments.saturating_mul(N) as Id;
        for id in (before..list.last).rev() {
            self.free(list, id.saturating_add(1));
        }
        Ok(())
    }

    /// Takes an object out of `list`.
    pub(crate) fn take(&self, list: &mut FreeList) -> Option<(Id, &T)> {
        let id = list.head;
        let object = self.get(id)?;
        list.head = object.link().load(Relaxed);
        list.free = list.free.saturating_sub(1);
        Some((id, object))
    }

    /// Puts the object `id` back into `list`.
    pub(crate) fn free(&self, list: &mut FreeList, id: Id) {
        if let Some(object) = self.get(id) {
            object.link().store(list.head, Relaxed);
            list.head = id;
            list.free = list.free.saturating_add(1);
        }
    }
}

impl<T: Linked, const N: usize> Segment<T, N> {
    /// Allocates a segment. May sleep if `alloc` says so.
    pub(crate) fn new(alloc: Alloc) -> Result<Self, AllocError> {
        Ok(Self(BoxedSlice::new(N, alloc, |_| T::default())?))
    }
}

impl FreeList {
    /// The free list of a new arena.
    pub(crate) fn new() -> Self {
        Self {
            head: NONE,
            free: 0,
            segments: 0,
            last: NONE,
        }
    }

    /// How many objects are free.
    pub(crate) fn len(&self) -> usize {
        self.free
    }

    /// The highest id that the arena has grown to.
    pub(crate) fn last_id(&self) -> Id {
        self.last
    }
}
