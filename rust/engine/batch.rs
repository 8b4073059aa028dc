// SPDX-License-Identifier: GPL-2.0

//! Batches of requests to the host: their memory, their submission, and what becomes of windows by
//! the outcomes.
//!
//! A submission rings the doorbell once. Batches are filled in by the other files of the engine.
//! Keys that belong to no window have submissions of their own, in `stale.rs`, and lost windows are
//! mapped again in `recovery.rs`.

use super::align_target::{
    AlignTarget,
    Verdict, //
};
use super::host::{
    Command,
    Host,
    HostError,
    MapEntry,
    MapOutcome,
    ReplyError,
    UnmapEntry,
    UnmapOutcome, //
};
use super::index::arena::{
    Id,
    NONE, //
};
use super::index::ReserveError;
use super::{
    Engine,
    Locked,
    MapError,
    Observer,
    WindowInfo, //
};
use crate::addr::{
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::engine::policy::Policy;
use crate::engine::static_map::Region;
use crate::engine::window::{
    State,
    Window, //
};
use crate::sys::{
    Alloc,
    AllocError,
    BoxedSlice, //
};

/// A list of bounded length, whose memory is allocated once.
pub(super) struct Batch<T> {
    entries: BoxedSlice<T>,
    pub(super) len: usize,
    /// The length from which on the list counts as full.
    limit: usize,
}

impl<T: Copy> Batch<T> {
    /// Creates an empty batch for up to `max` entries. `fill` is any entry.
    ///
    /// Context: process, may sleep.
    pub(super) fn new(max: usize, fill: T) -> Result<Self, AllocError> {
        Ok(Self {
            entries: BoxedSlice::new(max, Alloc::Sleep, |_| fill)?,
            len: 0,
            limit: max,
        })
    }

    /// Returns the most entries that the list is to have.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Creates an empty batch as [`Self::new`], which is to have `limit` entries at most for now.
    ///
    /// Context: process, may sleep.
    pub(super) fn with_limit(max: usize, fill: T, limit: usize) -> Result<Self, AllocError> {
        let mut batch = Self::new(max, fill)?;
        batch.set_limit(limit);
        Ok(batch)
    }

    /// Sets the most entries that the list is to have, one at least.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1).min(self.entries.len());
    }

    /// Returns whether there are no entries.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether there is no room for another entry.
    pub(super) fn is_full(&self) -> bool {
        self.len >= self.limit
    }

    /// Returns whether there is room for `entries` more.
    pub(super) fn has_room_for(&self, entries: usize) -> bool {
        self.len.saturating_add(entries) <= self.limit
    }

    /// Adds an entry, if there is room.
    pub(super) fn push(&mut self, entry: T) {
        if let Some(slot) = self.entries.get_mut(self.len) {
            *slot = entry;
            self.len = self.len.saturating_add(1);
        }
    }

    /// Removes the last entry and returns it.
    pub(super) fn pop(&mut self) -> Option<T> {
        let last = self.filled().last().copied()?;
        self.len = self.len.saturating_sub(1);
        Some(last)
    }

    /// Returns the entry at `index`.
    pub(super) fn get(&self, index: usize) -> Option<T> {
        self.filled().get(index).copied()
    }

    /// Returns all entries.
    pub(super) fn filled(&self) -> &[T] {
        self.entries.get(..self.len).unwrap_or(&[])
    }

    /// Returns all entries, to be changed.
    pub(super) fn filled_mut(&mut self) -> &mut [T] {
        self.entries.get_mut(..self.len).unwrap_or(&mut [])
    }

    /// Removes all entries.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }
}

/// The result of a submission of new windows, for the call that submitted them.
pub(super) enum SubmitResult {
    /// The host created a window, and it is open.
    Opened,
    /// The host created the window, but not at an address that the call aims at.
    Misplaced,
    /// The host created no window.
    Failed(MapError),
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Submits the batch of new windows and opens those that the host created. The batch keeps a
    /// reference to each until [`Self::settle`]. The first `own` entries are those of the call, and
    /// decide alone about the result.
    ///
    /// Context: engine lock held.
    pub(super) fn submit_map(
        &self,
        state: &mut Locked<H>,
        own: usize,
        mut target: Option<&mut AlignTarget>,
    ) -> SubmitResult {
        state.send_map(&self.costs);
        state.index.unreserve_chunks();
        let mut created = None;
        let mut error = None;
        let mut opened: usize = 0;
        for index in 0..state.map.len {
            let Some(entry) = state.map.get(index) else {
                break;
            };
            let Some(window) = self.index.window(entry.id) else {
                continue;
            };
            let is_own = index < own && !window.is_filler();
            let target = target.as_deref_mut().filter(|_| is_own);
            let result = self.finish_map(state, &entry, window, target);
            if matches!(result, SubmitResult::Opened) {
                opened = opened.saturating_add(1);
            }
            match result {
                _ if !is_own => {}
                SubmitResult::Failed(new) => error = error.or(Some(new)),
                result => created = Some(result),
            }
        }
        if opened != 0 && opened != state.map.len {
            self.unshadow_batch(state);
        }
        self.note_room(state);
        created.unwrap_or(SubmitResult::Failed(error.unwrap_or(MapError::Refused)))
    }

    /// Makes of `window` what the outcome of its `entry` says.
    fn finish_map(
        &self,
        state: &mut Locked<H>,
        entry: &MapEntry,
        window: &Window,
        target: Option<&mut AlignTarget>,
    ) -> SubmitResult {
        let (id, span) = (entry.id, &entry.span);
        let outcome = match entry.outcome {
            MapOutcome::Mapped(iova) => {
                let verdict = self.judge(state, span, iova, target);
                if verdict != Verdict::Accept {
                    state.counters.windows_created.inc();
                    state.counters.retries_misplaced.inc();
                    // The address matters only if the host fails to unmap the window.
                    state.misplaced = Some((id, iova));
                    self.quarantine(state, id, window);
                    return match verdict {
                        Verdict::Fail => SubmitResult::Failed(MapError::Misaligned),
                        Verdict::Accept | Verdict::Retry => SubmitResult::Misplaced,
                    };
                }
                match self.reserve_iova(state, id, window, span, iova) {
                    Ok(()) => entry.outcome,
                    Err(error) => MapOutcome::Rejected(error),
                }
            }
            other => other,
        };
        match outcome {
            MapOutcome::Mapped(_) => {
                self.open(state, id, window, span);
                SubmitResult::Opened
            }
            MapOutcome::Refused => {
                self.host_error(state, Command::Map, span, HostError::Refused);
                self.index.remove(&mut state.index, id, window);
                self.destroy(state, id, window);
                state.suspects.push(*span);
                if span.granules() == 1 {
                    // Longer ones may be refused for their length.
                    self.suspect(state);
                }
                SubmitResult::Failed(MapError::Refused)
            }
            MapOutcome::Rejected(error) => {
                self.host_error(state, Command::Map, span, HostError::Rejected(error));
                self.quarantine(state, id, window);
                SubmitResult::Failed(MapError::Rejected(error))
            }
            MapOutcome::Unknown => {
                self.host_error(state, Command::Map, span, HostError::Silent);
                self.quarantine(state, id, window);
                SubmitResult::Failed(MapError::NoAnswer)
            }
        }
    }

    /// Opens a window that the host created, and whose IOVAs are reserved.
    fn open(&self, state: &mut Locked<H>, id: Id, window: &Window, span: &GpaSpan) {
        state.counters.windows_created.inc();
        state.refusals.granted(span.len());
        self.index.shadow(&mut state.index, id, window, span);
        if let Some(iovas) = window.iova_span() {
            state.highest_iova = state.highest_iova.max(iovas.last());
        }
        window.open(state.idle_watch.is_on());
        if let Some(info) = WindowInfo::new(window) {
            // Other CPUs may use it already.
            self.observer.created(&WindowInfo { uses: 0, ..info });
        }
    }

    /// Restores the index entries of the windows of the batch that the host created, after others
    /// of the batch have failed.
    fn unshadow_batch(&self, state: &mut Locked<H>) {
        for index in 0..state.map.len {
            let id = state.map.get(index).map_or(NONE, |entry| entry.id);
            if let Some(window) = self.index.window(id) {
                if window.state() == State::Live && !window.is_filler() {
                    self.index.unshadow(&mut state.index, id, window);
                }
            }
        }
    }

    /// Drops the references of the batch to the windows that it opened. In strict mode, a window
    /// that serves no mapping then does not outlive the call; until then no other CPU can close a
    /// window before the call that it was created for has a reference.
    ///
    /// Context: engine lock held.
    pub(super) fn settle(&self, state: &mut Locked<H>) {
        for index in 0..state.map.len {
            let Some(entry) = state.map.get(index) else {
                break;
            };
            let Some(window) = self.index.window(entry.id) else {
                continue;
            };
            if window.state() != State::Live || self.keep_filler(state, entry.id, window) {
                continue;
            }
            if let Ok(put) = window.settle(self.strict) {
                // The end of the call unmaps what is retired here.
                let _ = self.needs_flush(entry.id, window, put);
            }
        }
        state.map.clear();
    }

    /// Records that the host reports a window for `span` at `iova`, until the window is destroyed.
    /// Fails if the window cannot be opened because some of the range is in use. A range that wraps
    /// around, or where all of RAM or the copy pool is mapped, is not recorded.
    ///
    /// Context: engine lock held.
    fn reserve_iova(
        &self,
        state: &mut Locked<H>,
        id: Id,
        window: &Window,
        span: &GpaSpan,
        iova: Iova,
    ) -> Result<(), ReplyError> {
        let iovas = IovaSpan::new(iova, span.len()).ok_or(ReplyError::Range)?;
        let is_static = self
            .static_map
            .as_ref()
            .is_some_and(|map| map.overlaps(&iovas));
        let is_pool = |region: &Region| region.iova().overlaps(&iovas);
        if is_static || self.pool_regions.iter().any(is_pool) {
            return Err(ReplyError::Overlap);
        }
        let writer = &mut state.index;
        match self.index.reserve_iova(writer, id, window, &iovas) {
            Ok(()) => Ok(()),
            Err(ReserveError::Taken { lost }) => {
                state.lost.in_the_way |= lost;
                Err(ReplyError::Overlap)
            }
            Err(ReserveError::NoChunks) => Err(ReplyError::Range),
        }
    }

    /// Adds a closed window to the batch of windows to unmap.
    ///
    /// Context: engine lock held.
    pub(super) fn queue_unmap(&self, state: &mut Locked<H>, id: Id, window: &Window) {
        window.set_state(State::Retired);
        if let Some(span) = window.span() {
            state.unmap.push(UnmapEntry {
                id,
                ..UnmapEntry::new(span)
            });
        }
    }

    /// Submits the batch of windows to unmap, and destroys those that the host unmapped.
    ///
    /// Context: engine lock held.
    pub(super) fn submit_unmap(&self, state: &mut Locked<H>) {
        if state.unmap.is_empty() {
            return;
        }
        state.send_unmap(&self.costs);
        for index in 0..state.unmap.len {
            let Some(entry) = state.unmap.get(index) else {
                break;
            };
            if let Some(window) = self.index.window(entry.id) {
                self.finish_unmap(state, &entry, window);
            }
        }
        state.unmap.clear();
        self.note_room(state);
    }

    /// Makes of `window` what the outcome of its `entry` says.
    fn finish_unmap(&self, state: &mut Locked<H>, entry: &UnmapEntry, window: &Window) {
        let id = entry.id;
        let was_lost = window.state() == State::Lost;
        let misplaced = state.misplaced.filter(|(misplaced, _)| *misplaced == id);
        if misplaced.is_some() {
            state.misplaced = None;
        }
        let error = match entry.outcome {
            UnmapOutcome::Unmapped => {
                state.counters.windows_returned.inc();
                if let Some(info) = WindowInfo::new(window) {
                    self.observer.returned(&info);
                }
                if was_lost {
                    state.counters.windows_recovered.inc();
                }
                self.destroy(state, id, window);
                return;
            }
            UnmapOutcome::Refused => HostError::Refused,
            UnmapOutcome::Rejected(error) => HostError::Rejected(error),
            UnmapOutcome::Unknown => HostError::Silent,
        };
        self.host_error(state, Command::Unmap, &entry.span, error);
        // The window may be mapped or not. Its key stays taken and its bytes count, so that neither
        // the limits nor the uniqueness of keys depend on which.
        if !was_lost {
            state.counters.windows_lost.inc();
            window.set_state(State::Lost);
            if let Some((_, iova)) = misplaced {
                // Where other windows are, these stay recorded.
                let _ = self.reserve_iova(state, id, window, &entry.span, iova);
            }
        }
        self.queue_recovery(state, id, window, entry.outcome);
    }

    /// Counts and reports that the host failed `command` for the window of `span`.
    ///
    /// Context: engine lock held.
    pub(super) fn host_error(
        &self,
        state: &mut Locked<H>,
        command: Command,
        span: &GpaSpan,
        error: HostError,
    ) {
        if let Some(count) = state.host_errors.get_mut(error.index()) {
            count.inc();
        }
        self.observer.host_error(command, span, error);
    }
}
