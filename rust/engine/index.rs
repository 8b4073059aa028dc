// SPDX-License-Identifier: GPL-2.0

//! The index of windows: which windows exist, by which addresses they are found, and which keys and
//! IOVAs are taken.
//!
//! [`WindowIndex`] is read without a lock, and changed through an [`IndexWriter`], which the engine
//! lock protects. Nothing here calls the host, chooses a window or knows of the limits.

pub(crate) mod arena;
pub(crate) mod granule_map;
mod keys;
pub(crate) mod ram_table;

use self::arena::{
    Arena,
    FreeList,
    Id,
    Segment, //
};
use self::granule_map::{
    chunks_anywhere,
    chunks_for,
    ChunkSegment,
    Chunks,
    GranuleMap, //
};
use self::keys::KeyTable;
use self::ram_table::RamTable;
use super::marker::Markers;
use super::ram::Ram;
use super::window::{
    State,
    Window, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    IovaSpan,
    PAGE, //
};
use crate::sys::AllocError;
use core::ops::RangeInclusive;

/// The most other keys that are tried, above and below each, if the key of a window is taken.
const MAX_KEYS: u64 = 1024;

/// The most objects of an arena.
const MAX_OBJECTS: usize = 1 << 28;

/// Windows that are allocated but not part of the index.
pub(crate) type WindowSegment = Segment<Window>;

/// The windows, and the maps that find them.
///
/// A reader without the lock may miss a window, or find one that has become another: it must take a
/// reference and then check what the window covers.
pub(crate) struct WindowIndex {
    windows: Arena<Window>,
    chunks: Chunks,
    /// Finds a window by a granule that it covers.
    by_gpa: RamTable,
    /// Finds a window that is not a tile by the granule that its request began in.
    by_start: GranuleMap,
    /// Finds a window by a granule of its IOVAs.
    by_iova: GranuleMap,
}

/// The part of a [`WindowIndex`] that the engine lock protects: a reference to it shows that the
/// lock is held.
pub(crate) struct IndexWriter {
    free_windows: FreeList,
    free_chunks: FreeList,
    /// Chunks that pending windows need when they are mapped.
    reserved_chunks: usize,
    keys: KeyTable,
    /// Markers, whose keys no window has.
    markers: Markers,
}

/// A reason why the IOVAs of a window were not all reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReserveError {
    /// Some belong to another window.
    Taken {
        /// Set if one of the other windows is lost.
        lost: bool,
    },
    /// The maps have too few chunks.
    NoChunks,
}

impl WindowIndex {
    /// Creates an empty index for up to `max_windows` windows of up to `max_bytes` bytes in all,
    /// with a table of up to `table_max` granules of `ram`.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(
        max_windows: u32,
        max_bytes: u64,
        ram: &Ram,
        table_max: usize,
    ) -> Result<(Self, IndexWriter), AllocError> {
        let windows = usize::try_from(max_windows).unwrap_or(usize::MAX);
        let megabytes = usize::try_from(max_bytes >> 20).unwrap_or(usize::MAX);
        // In the worst case every window has chunks of its own in all three maps: one where it is
        // known by its start, two more than it has megabytes in each of the others.
        let chunks = windows
            .saturating_mul(5)
            .saturating_add(megabytes.saturating_mul(2))
            .min(MAX_OBJECTS);
        let bits = (max_windows / 4).max(64).checked_ilog2().unwrap_or(0);
        let index = Self {
            windows: Arena::new(windows.min(MAX_OBJECTS))?,
            chunks: Arena::new(chunks)?,
            by_gpa: RamTable::new(ram, table_max, GranuleMap::new(bits, 0)?)?,
            by_start: GranuleMap::new(bits, 1)?,
            by_iova: GranuleMap::new(bits, 2)?,
        };
        let writer = IndexWriter {
            free_windows: FreeList::new(),
            free_chunks: FreeList::new(),
            reserved_chunks: 0,
            keys: KeyTable::new(bits)?,
            markers: Markers::NONE,
        };
        Ok((index, writer))
    }

    /// Returns the window with the number `id`, if the index has grown that far. Lock-free.
    #[inline(always)]
    pub(crate) fn window(&self, id: Id) -> Option<&Window> {
        self.windows.get(id)
    }

    /// Returns the window that covers `granule` of guest memory, or
    /// [`arena::NONE`]. Lock-free; may miss one.
    #[inline(always)]
    pub(crate) fn at_gpa(&self, granule: u64) -> Id {
        self.by_gpa.get(&self.chunks, granule)
    }

    /// Returns the window whose request began in `granule`; otherwise as [`Self::at_gpa`].
    #[inline(always)]
    pub(crate) fn at_start(&self, granule: u64) -> Id {
        self.by_start.get(&self.chunks, granule)
    }

    /// Returns the window that is mapped at `granule` of the IOVAs; otherwise as [`Self::at_gpa`].
    #[inline(always)]
    pub(crate) fn at_iova(&self, granule: u64) -> Id {
        self.by_iova.get(&self.chunks, granule)
    }

    /// As [`Self::at_iova`], but misses none.
    pub(crate) fn at_iova_locked(&self, _: &IndexWriter, granule: u64) -> Id {
        self.by_iova.get_locked(&self.chunks, granule)
    }

    /// Returns the windows that may cover `span`.
    pub(crate) fn candidates(&self, _: &IndexWriter, span: &GpaSpan) -> [Id; 2] {
        let granule = span.first_granule();
        [
            self.by_gpa.get_locked(&self.chunks, granule),
            self.by_start.get_locked(&self.chunks, granule),
        ]
    }

    /// Returns the length of the window that covers `granule`, if there is one.
    pub(crate) fn len_at(&self, _: &IndexWriter, granule: u64) -> Option<u64> {
        let id = self.by_gpa.get_locked(&self.chunks, granule);
        Some(self.windows.get(id)?.span()?.len())
    }

    /// Returns whether a pending window covers `span`.
    pub(crate) fn is_pending(&self, writer: &IndexWriter, span: &GpaSpan) -> bool {
        self.candidates(writer, span).iter().any(|id| {
            self.windows.get(*id).is_some_and(|window| {
                window.state() == State::Pending
                    && window.span().is_some_and(|all| all.covers(span))
            })
        })
    }

    /// Returns whether no window has the key `key`, and none of the markers either.
    pub(crate) fn key_is_free(&self, writer: &IndexWriter, key: Gpa) -> bool {
        !writer.markers.has_key(key) && !writer.keys.contains(&self.windows, key)
    }

    /// Returns `span` with its start moved by as few pages as make its key free, within `starts`.
    pub(crate) fn with_free_key(
        &self,
        writer: &IndexWriter,
        span: &GpaSpan,
        starts: RangeInclusive<u64>,
    ) -> Option<GpaSpan> {
        if self.key_is_free(writer, span.start()) {
            return Some(*span);
        }
        let start = span.start().raw();
        let mut step: u64 = 0;
        for _ in 0..MAX_KEYS {
            step = step.saturating_add(PAGE);
            for start in [start.saturating_add(step), start.saturating_sub(step)] {
                if starts.contains(&start) && self.key_is_free(writer, Gpa::new(start)) {
                    return GpaSpan::from_bounds(start, span.end());
                }
            }
        }
        None
    }

    /// Creates a pending window for `span` and takes its key. `anchor` is the granule that its
    /// request began in, unless the window is a tile. Returns [`None`] if no window is free.
    pub(crate) fn create(
        &self,
        writer: &mut IndexWriter,
        span: &GpaSpan,
        anchor: Option<u64>,
    ) -> Option<(Id, &Window)> {
        let (id, window) = self.windows.take(&mut writer.free_windows)?;
        window.prepare(span, anchor);
        writer.keys.insert(id, window);
        Some((id, window))
    }

    /// Frees a removed window that the host does not have, with its key and its IOVAs.
    pub(crate) fn destroy(&self, writer: &mut IndexWriter, id: Id, window: &Window) {
        writer.keys.remove(&self.windows, id, window);
        // A window that never was mapped has no IOVAs in the map.
        if let Some(span) = window.iova_span() {
            let free = &mut writer.free_chunks;
            for granule in span.first_granule()..=span.last_granule() {
                self.by_iova.clear(&self.chunks, free, granule, id);
            }
        }
        window.set_state(State::Free);
        self.windows.free(&mut writer.free_windows, id);
    }

    /// Makes a pending window found by the memory that it covers.
    pub(crate) fn insert(
        &self,
        writer: &mut IndexWriter,
        id: Id,
        window: &Window,
    ) -> Result<(), AllocError> {
        let Some(span) = window.span() else {
            return Ok(());
        };
        let free = &mut writer.free_chunks;
        let anchor = window.anchor();
        for granule in span.first_granule()..=span.last_granule() {
            // A tile serves every request in it, so it comes first; other windows only fill the
            // gaps until they are open.
            let old = self.by_gpa.get_locked(&self.chunks, granule);
            if anchor.is_none() || self.windows.get(old).is_none() {
                self.by_gpa.set(&self.chunks, free, granule, id)?;
            }
        }
        match anchor {
            Some(granule) => self.by_start.set(&self.chunks, free, granule, id),
            None => Ok(()),
        }
    }

    /// Replaces the windows that `window`, which covers `span` and is about to open, covers
    /// completely. Not done before that: if the host did not create `window`, the others would not
    /// be found.
    pub(crate) fn shadow(&self, writer: &mut IndexWriter, id: Id, window: &Window, span: &GpaSpan) {
        if window.anchor().is_none() {
            return;
        }
        for granule in span.first_granule()..=span.last_granule() {
            let old = self.by_gpa.get_locked(&self.chunks, granule);
            let covers = |old: &Window| old.span().is_some_and(|old| span.covers(&old));
            if old != id && self.windows.get(old).is_none_or(covers) {
                // Without memory the window is not found here.
                let free = &mut writer.free_chunks;
                let _ = self.by_gpa.set(&self.chunks, free, granule, id);
            }
        }
    }

    /// Restores the entries of an open window after the windows that shadowed it in the same batch
    /// have failed.
    pub(crate) fn unshadow(&self, writer: &mut IndexWriter, id: Id, window: &Window) {
        let Some(span) = window.span() else {
            return;
        };
        // Without memory the window is not found there.
        let free = &mut writer.free_chunks;
        for granule in span.first_granule()..=span.last_granule() {
            let old = self.by_gpa.get_locked(&self.chunks, granule);
            if self.windows.get(old).is_none() {
                let _ = self.by_gpa.set(&self.chunks, free, granule, id);
            }
        }
        if let Some(granule) = window.anchor() {
            let old = self.by_start.get_locked(&self.chunks, granule);
            if self.windows.get(old).is_none() {
                let _ = self.by_start.set(&self.chunks, free, granule, id);
            }
        }
    }

    /// Makes a closed window not found by memory any more. Its key and its IOVAs stay taken: the
    /// host may have it.
    pub(crate) fn remove(&self, writer: &mut IndexWriter, id: Id, window: &Window) {
        let free = &mut writer.free_chunks;
        if let Some(granule) = window.anchor() {
            self.by_start.clear(&self.chunks, free, granule, id);
        }
        if let Some(span) = window.span() {
            for granule in span.first_granule()..=span.last_granule() {
                self.by_gpa.clear(&self.chunks, free, granule, id);
            }
        }
    }

    /// Records that a closed window is mapped at `iovas`, until [`Self::destroy`]. On failure the
    /// addresses that are not taken are recorded as far as there are chunks.
    pub(crate) fn reserve_iova(
        &self,
        writer: &mut IndexWriter,
        id: Id,
        window: &Window,
        iovas: &IovaSpan,
    ) -> Result<(), ReserveError> {
        let mut taken = None;
        let mut reserved = Ok(());
        window.set_iova(iovas.start());
        for granule in iovas.first_granule()..=iovas.last_granule() {
            let other = self.by_iova.get_locked(&self.chunks, granule);
            if let Some(other) = self.windows.get(other) {
                let lost = taken.unwrap_or(false) || other.state() == State::Lost;
                taken = Some(lost);
                continue;
            }
            let free = &mut writer.free_chunks;
            // Chunks are reserved for replies to MAP; for a lost window this may fail.
            let set = self.by_iova.set(&self.chunks, free, granule, id);
            reserved = reserved.and(set);
        }
        match taken {
            Some(lost) => Err(ReserveError::Taken { lost }),
            None => reserved.map_err(|_| ReserveError::NoChunks),
        }
    }

    /// Adds windows. Returns the segment if the index has its most windows already, to be freed
    /// after the lock is dropped.
    pub(crate) fn add_windows(
        &self,
        writer: &mut IndexWriter,
        segment: WindowSegment,
    ) -> Result<(), WindowSegment> {
        self.windows.grow(&mut writer.free_windows, segment)
    }

    /// Adds chunks; otherwise as [`Self::add_windows`].
    pub(crate) fn add_chunks(
        &self,
        writer: &mut IndexWriter,
        segment: ChunkSegment,
    ) -> Result<(), ChunkSegment> {
        self.chunks.grow(&mut writer.free_chunks, segment)
    }
}

impl IndexWriter {
    /// Keeps the keys of `markers` from windows.
    pub(crate) fn keep_keys_of(&mut self, markers: Markers) {
        self.markers = markers;
    }

    /// Returns the highest number of a window.
    pub(crate) fn last_id(&self) -> Id {
        self.free_windows.last_id()
    }

    /// Returns the number of free windows.
    pub(crate) fn free_windows(&self) -> usize {
        self.free_windows.len()
    }

    /// Returns the number of free chunks.
    pub(crate) fn free_chunks(&self) -> usize {
        self.free_chunks.len()
    }

    /// Returns whether there are chunks to insert a window for `span` now, and for its IOVAs later,
    /// beside those that are reserved.
    pub(crate) fn has_chunks(&self, span: &GpaSpan) -> bool {
        // By memory, by IOVA, and by the start of the request.
        let needed = self
            .reserved_chunks
            .saturating_add(chunks_anywhere(span.granules()))
            .saturating_add(chunks_for(span.first_granule(), span.last_granule()))
            .saturating_add(1);
        self.free_chunks.len() >= needed
    }

    /// Reserves the chunks that the IOVAs of a window for `span` need at most.
    pub(crate) fn reserve_chunks(&mut self, span: &GpaSpan) {
        self.reserved_chunks = self
            .reserved_chunks
            .saturating_add(chunks_anywhere(span.granules()));
    }

    /// Drops all reservations of chunks, as no window is pending any more.
    pub(crate) fn unreserve_chunks(&mut self) {
        self.reserved_chunks = 0;
    }
}
