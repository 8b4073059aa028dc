// SPDX-License-Identifier: GPL-2.0

//! A map from granule numbers to ids, read without a lock.
//!
//! A [`GranuleMap`] is a hash table of chunks; a chunk holds the ids of 64 neighbouring granules
//! (1 MiB). Looking up is constant time and writes nothing. Writers hold the engine's lock, which
//! also protects the [`Chunks`]' free list.
//!
//! A chunk that holds nothing any more is used again for other granules, maybe in another bucket
//! or another map. A reader that stands on it at that moment may miss what it looks for, and looks
//! again under the lock when it finds nothing. It may also find an id that is out of date, and
//! checks what it finds. But an id that does not change while it looks is what it finds, or
//! nothing: chunks of different maps never have the same key.

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
    BoxedSlice, //
    Relaxed,
    Release,
};

/// log2 of [`CHUNK`].
const CHUNK_SHIFT: u32 = 6;

/// Granules per chunk.
pub(crate) const CHUNK: usize = 1 << CHUNK_SHIFT;

/// Where the number of the map stands in a key. Granules' numbers have 50 bits, of which
/// [`CHUNK_SHIFT`] are not part of it.
const TAG_SHIFT: u32 = 60;

/// How far a reader follows a bucket that writers change under it before it gives up.
const MAX_STEPS: usize = 64;

/// The ids of 64 neighbouring granules.
pub(crate) struct Chunk {
    /// Number of the first granule divided by [`CHUNK`], with the number of the map above it.
    key: Atomic<u64>,
    /// The next chunk in the bucket, or in the free list.
    link: Atomic<u32>,
    /// Slots that are not [`NONE`]. Writers only.
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

/// Where the chunks of several maps come from.
pub(crate) type Chunks = Arena<Chunk, SEGMENT>;

/// Chunks that are allocated but not part of [`Chunks`].
pub(crate) type ChunkSegment = Segment<Chunk, SEGMENT>;

/// Chunks of a segment, which fit a page.
const SEGMENT: usize = 15;

/// See the module's documentation.
pub(crate) struct GranuleMap {
    buckets: BoxedSlice<Atomic<u32>>,
    /// What a hash is shifted by to become a bucket's number.
    shift: u32,
    /// The number of the map, above the bits of a granule's number.
    tag: u64,
}

/// How many chunks the granules `first..=last` can need.
pub(crate) fn chunks_for(first: u64, last: u64) -> usize {
    let chunks = (last >> CHUNK_SHIFT).saturating_sub(first >> CHUNK_SHIFT);
    usize::try_from(chunks).map_or(usize::MAX, |n| n.saturating_add(1))
}

/// How many chunks `granules` neighbouring granules can need, wherever they begin.
pub(crate) fn chunks_anywhere(granules: u64) -> usize {
    chunks_for(CHUNK as u64 - 1, granules.saturating_add(CHUNK as u64 - 2))
}

impl GranuleMap {
    /// An empty map with `1 << bits` buckets, `bits` from 1 to 31. Maps that share their chunks
    /// differ in `number`, which is below 16. May sleep.
    pub(crate) fn new(bits: u32, number: u8) -> Result<Self, AllocError> {
        let bits = bits.clamp(1, 31);
        Ok(Self {
            buckets: BoxedSlice::new(1 << bits, Alloc::Sleep, |_| Atomic::new(NONE))?,
            shift: u64::BITS - bits,
            tag: u64::from(number) << TAG_SHIFT,
        })
    }

    /// The key of the chunk that `granule` belongs to.
    #[inline(always)]
    fn key(&self, granule: u64) -> u64 {
        (granule >> CHUNK_SHIFT) | self.tag
    }

    #[inline(always)]
    fn bucket(&self, key: u64) -> Option<&Atomic<u32>> {
        // Multiplicative hashing by 2^64 divided by the golden ratio.
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift;
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

    /// The id of `granule`, or [`NONE`]. Lock-free; see the module's documentation for what a
    /// reader without the lock must expect.
    #[inline(always)]
    pub(crate) fn get(&self, chunks: &Chunks, granule: u64) -> Id {
        match self.chunk(chunks, self.key(granule)) {
            Some(chunk) => chunk.slot(granule).load(Acquire),
            None => NONE,
        }
    }

    /// As [`Self::get`], certain to find what is there. The caller holds the lock.
    pub(crate) fn get_locked(&self, chunks: &Chunks, granule: u64) -> Id {
        let (_, chunk) = self.find_locked(chunks, self.key(granule));
        match chunk.and_then(|id| chunks.get(id)) {
            Some(chunk) => chunk.slot(granule).load(Relaxed),
            None => NONE,
        }
    }

    /// The chunk with the key `key` and the one before it in the bucket.
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

    /// Gives `granule` the id `id`, which is not [`NONE`], in place of what it had. Fails if a
    /// chunk is needed and `free` has none. The caller holds the lock.
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

    /// Takes `granule`'s id away if it is `id`. The caller holds the lock.
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
        // The mask keeps the index inside the array, and the compiler sees it.
        &self.slots[(granule & (CHUNK as u64 - 1)) as usize]
    }
}
