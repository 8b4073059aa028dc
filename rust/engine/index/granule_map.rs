// SPDX-License-Identifier: GPL-2.0

//! Maps from granule numbers to ids, read without a lock.
//!
//! A [`GranuleMap`] is a hash table of chunks; a chunk holds the ids of 64 neighbouring granules
//! (1 MiB). A look-up takes constant time and writes nothing. Writers hold the engine's lock, which
//! also protects the [`Chunks`]' free list.
//!
//! An emptied chunk is reused for other granules, maybe in another bucket or another map. A reader
//! that is at the chunk at that moment may miss the id that it looks for, or find that of another
//! granule: the chunk may have the key of the granule when the reader looks at it, and serve
//! another one when the reader loads the id. A reader must check that what it finds is what it
//! looks for, and repeat the look-up under the lock if it is not.

use crate::engine::index::arena::{
    Arena,
    FreeList,
    Id,
    Linked,
    Segment,
    NONE, //
};
use crate::sys::{
    Acquire,
    Alloc,
    AllocError,
    Atomic,
    BoxedSlice,
    Relaxed,
    Release, //
};

/// log2 of [`CHUNK`].
const CHUNK_SHIFT: u32 = 6;

/// Number of granules of a chunk.
pub(crate) const CHUNK: usize = 1 << CHUNK_SHIFT;

/// The bits of a granule's number that tell its place in a chunk.
const CHUNK_MASK: u64 = CHUNK as u64 - 1;

/// Position of the map's number in a key. Granule numbers have 50 bits, of which the lowest
/// [`CHUNK_SHIFT`] are not part of the key.
const TAG_SHIFT: u32 = 60;

/// Most chunks of a bucket that a reader follows while writers may change the bucket.
const MAX_STEPS: usize = 64;

/// The ids of 64 neighbouring granules.
pub(crate) struct Chunk {
    /// Number of the first granule divided by [`CHUNK`], with the number of the map above it.
    key: Atomic<u64>,
    /// The next chunk in the bucket, or in the free list.
    link: Atomic<u32>,
    /// Number of slots that are not [`NONE`]. Writers only.
    used: Atomic<u32>,
    slots: [Atomic<u32>; CHUNK],
}

impl Default for Chunk {
    fn default() -> Self {
        Self {
            key: Atomic::new(0),
            link: Atomic::new(NONE),
            used: Atomic::new(0),
            slots: core::array::from_fn(|_| Atomic::new(NONE)),
        }
    }
}

impl Linked for Chunk {
    fn link(&self) -> &Atomic<u32> {
        &self.link
    }
}

/// The chunks that several maps share.
pub(crate) type Chunks = Arena<Chunk, SEGMENT>;

/// Chunks that are allocated but not part of [`Chunks`].
pub(crate) type ChunkSegment = Segment<Chunk, SEGMENT>;

/// Chunks of a segment, which fit a page.
const SEGMENT: usize = 15;

/// A map from granules to ids; see the module's documentation.
pub(crate) struct GranuleMap {
    buckets: BoxedSlice<Atomic<u32>>,
    /// Right shift that turns a hash into the index of a bucket.
    shift: u32,
    /// The number of the map, above the bits of a granule's number.
    tag: u64,
}

/// Returns the most chunks that the granules `first..=last` can need.
pub(crate) fn chunks_for(first: u64, last: u64) -> usize {
    let chunks = (last >> CHUNK_SHIFT).saturating_sub(first >> CHUNK_SHIFT);
    usize::try_from(chunks).map_or(usize::MAX, |n| n.saturating_add(1))
}

/// Returns the most chunks that `granules` neighbouring granules can need, wherever they begin.
pub(crate) fn chunks_anywhere(granules: u64) -> usize {
    let last = CHUNK_MASK.saturating_add(granules).saturating_sub(1);
    chunks_for(CHUNK_MASK, last)
}

impl GranuleMap {
    /// Creates an empty map with `1 << bits` buckets, `bits` from 1 to 31. Maps that share their
    /// chunks differ in `number`, which is below 16.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(bits: u32, number: u8) -> Result<Self, AllocError> {
        let bits = bits.clamp(1, 31);
        Ok(Self {
            buckets: BoxedSlice::new(1 << bits, Alloc::Sleep, |_| Atomic::new(NONE))?,
            shift: u64::BITS.wrapping_sub(bits),
            tag: u64::from(number) << TAG_SHIFT,
        })
    }

    /// Returns the key of the chunk that `granule` belongs to.
    #[inline(always)]
    fn key(&self, granule: u64) -> u64 {
        (granule >> CHUNK_SHIFT) | self.tag
    }

    #[inline(always)]
    fn bucket(&self, key: u64) -> Option<&Atomic<u32>> {
        // Multiplicative hashing by 2^64 divided by the golden ratio.
        let hash = key
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_shr(self.shift);
        // CAST: The hash has at most 31 bits left.
        self.buckets.get(hash as usize)
    }

    #[inline(always)]
    fn chunk<'a>(&self, chunks: &'a Chunks, key: u64) -> Option<&'a Chunk> {
        let mut id = self.bucket(key)?.load(Acquire);
        for _ in 0..MAX_STEPS {
            let chunk = chunks.get(id)?;
            if chunk.key.load(Relaxed) == key {
                return Some(chunk);
            }
            id = chunk.link.load(Acquire);
        }
        None
    }

    /// Returns the id of `granule`, or [`NONE`]. Lock-free; see the module's documentation for what
    /// a reader without the lock must expect.
    #[inline(always)]
    pub(crate) fn get(&self, chunks: &Chunks, granule: u64) -> Id {
        match self.chunk(chunks, self.key(granule)) {
            Some(chunk) => chunk.slot(granule).load(Acquire),
            None => NONE,
        }
    }

    /// Returns the id of `granule`, or [`NONE`], and misses no id, unlike [`Self::get`].
    ///
    /// Context: engine lock held.
    pub(crate) fn get_locked(&self, chunks: &Chunks, granule: u64) -> Id {
        let (_, chunk) = self.find_locked(chunks, self.key(granule));
        match chunk.and_then(|id| chunks.get(id)) {
            Some(chunk) => chunk.slot(granule).load(Relaxed),
            None => NONE,
        }
    }

    /// Returns the chunk before the one with the key `key` in the bucket, and that chunk.
    fn find_locked(&self, chunks: &Chunks, key: u64) -> (Option<Id>, Option<Id>) {
        let mut before = None;
        let mut id = match self.bucket(key) {
            Some(bucket) => bucket.load(Relaxed),
            None => NONE,
        };
        while let Some(chunk) = chunks.get(id) {
            if chunk.key.load(Relaxed) == key {
                return (before, Some(id));
            }
            before = Some(id);
            id = chunk.link.load(Relaxed);
        }
        (before, None)
    }

    /// Sets the id of `granule` to `id`, which is not [`NONE`]. Fails if a chunk is needed and
    /// `free` has none.
    ///
    /// Context: engine lock held.
    pub(crate) fn set(
        &self,
        chunks: &Chunks,
        free: &mut FreeList,
        granule: u64,
        id: Id,
    ) -> Result<(), AllocError> {
        let key = self.key(granule);
        let (_, found) = self.find_locked(chunks, key);
        let chunk = match found.and_then(|id| chunks.get(id)) {
            Some(chunk) => chunk,
            None => {
                let bucket = self.bucket(key).ok_or(AllocError)?;
                let (new, chunk) = chunks.take(free).ok_or(AllocError)?;
                chunk.key.store(key, Relaxed);
                chunk.link.store(bucket.load(Relaxed), Release);
                // Release: a reader that finds the chunk finds its key.
                bucket.store(new, Release);
                chunk
            }
        };
        let slot = chunk.slot(granule);
        if slot.load(Relaxed) == NONE {
            chunk
                .used
                .store(chunk.used.load(Relaxed).saturating_add(1), Relaxed);
        }
        // Release: a reader that finds the id finds the object as it was prepared.
        slot.store(id, Release);
        Ok(())
    }

    /// Clears the id of `granule` if it is `id`.
    ///
    /// Context: engine lock held.
    pub(crate) fn clear(&self, chunks: &Chunks, free: &mut FreeList, granule: u64, id: Id) {
        let key = self.key(granule);
        let (before, found) = self.find_locked(chunks, key);
        let Some((number, chunk)) = found.and_then(|id| Some((id, chunks.get(id)?))) else {
            return;
        };
        let slot = chunk.slot(granule);
        if id == NONE || slot.load(Relaxed) != id {
            return;
        }
        slot.store(NONE, Relaxed);
        let used = chunk.used.load(Relaxed).saturating_sub(1);
        chunk.used.store(used, Relaxed);
        if used != 0 {
            return;
        }
        let next = chunk.link.load(Relaxed);
        match before.and_then(|id| chunks.get(id)) {
            Some(before) => before.link.store(next, Release),
            None => {
                if let Some(bucket) = self.bucket(key) {
                    bucket.store(next, Release);
                }
            }
        }
        chunks.free(free, number);
    }
}

impl Chunk {
    #[inline(always)]
    fn slot(&self, granule: u64) -> &Atomic<u32> {
        // The mask keeps the index inside the array, and the compiler sees that.
        &self.slots[(granule & CHUNK_MASK) as usize]
    }
}
