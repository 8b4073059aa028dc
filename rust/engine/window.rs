// SPDX-License-Identifier: GPL-2.0

//! A window: one mapping of the host, shared and counted by many mappings of drivers.
//!
//! One word, [`Refs`], tells whether a window may be used and counts its references. Everything
//! else about a window changes only while that word is closed, which excludes all users. Finding a
//! window is the index's part, and talking to the host is not done here.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan,
    PAGE, //
};
use crate::engine::index::arena::{
    Linked,
    NONE, //
};
use crate::engine::refs::Refs;
use crate::sys::{
    Atomic,
    Relaxed, //
};

pub(crate) use crate::engine::refs::{
    NotHeld,
    Put, //
};

/// The state of a window. Changes only under the engine's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not in use.
    Free,
    /// Part of a map batch that the host has not answered yet.
    Pending,
    /// Mapped.
    Live,
    /// Mapped until the end, as a region of the static map of RAM: not in the index, never idle.
    Fixed,
    /// Closed and to be unmapped; its key is in use until then.
    Retired,
    /// The host refused to unmap it, or did not reply; its key may be in use. The unmap is retried.
    Lost,
}

/// The anchor of a tile.
const TILE: u64 = u64::MAX;

/// The anchor of a filler.
const FILLER: u64 = u64::MAX - 1;

/// A window, free or in use; see the module's documentation. "Lock" marks what is accessed only
/// with the engine's lock held.
pub(crate) struct Window {
    refs: Refs,
    /// The next window in the free list or in a list of windows to unmap.
    link: Atomic<u32>,
    /// The next window in the same bucket of keys. Lock.
    pub(crate) next_key: Atomic<u32>,
    state: Atomic<u32>,
    /// The count of uses up to which the engine has counted. Lock.
    counted: Atomic<u32>,
    /// The count of uses that the window was opened with. Lock.
    first_use: Atomic<u32>,
    start: Atomic<u64>,
    len: Atomic<u64>,
    iova: Atomic<u64>,
    /// The granule that finds a window which is not a tile; [`TILE`] or [`FILLER`] for others.
    /// Lock.
    anchor: Atomic<u64>,
    /// Pages of [`PAGE`] bytes that are mapped only to align the address of the rest. Lock.
    padding: Atomic<u32>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            refs: Refs::closed(),
            link: Atomic::new(NONE),
            next_key: Atomic::new(NONE),
            state: Atomic::new(State::Free as u32),
            counted: Atomic::new(0),
            first_use: Atomic::new(0),
            start: Atomic::new(0),
            len: Atomic::new(0),
            iova: Atomic::new(0),
            anchor: Atomic::new(TILE),
            padding: Atomic::new(0),
        }
    }
}

impl Linked for Window {
    fn link(&self) -> &Atomic<u32> {
        &self.link
    }
}

impl Window {
    /// Takes a reference if the window is open and covers `want`. Returns where `want` is mapped,
    /// and whether the window was idle, that is had no reference before. Lock-free: the id that led
    /// here may be out of date. A window that does not cover `want` is not changed, not even for a
    /// moment.
    #[inline(always)]
    pub(crate) fn take(&self, want: &GpaSpan) -> Option<(Iova, bool)> {
        self.refs.get(|| self.iova_of(want))
    }

    /// Takes a reference as [`Self::take`], if `accepts` returns true for the address of `want`.
    pub(crate) fn take_if(
        &self,
        want: &GpaSpan,
        accepts: impl Fn(Iova) -> bool,
    ) -> Option<(Iova, bool)> {
        self.refs
            .get(|| self.iova_of(want).filter(|iova| accepts(*iova)))
    }

    /// Takes `count` references besides one that the caller has, for mappings for which
    /// [`Self::iova_of`] returned an address. Returns false if that is not possible; none is taken
    /// then.
    pub(crate) fn take_more(&self, count: u32) -> bool {
        self.refs.get_more(count)
    }

    /// Puts the reference of a mapping at `span`; closes the window if it was the last one and
    /// `close` is set. Fails if `span` does not lie in the window's IOVAs.
    #[inline(always)]
    pub(crate) fn put(&self, span: &IovaSpan, close: bool) -> Result<Put, NotHeld> {
        if self.serves(span) {
            self.refs.put(1, close)
        } else {
            Err(NotHeld)
        }
    }

    /// Puts `count` references of mappings for which [`Self::serves`] returned true while the
    /// caller held one of them; otherwise as [`Self::put`]. On failure none is put.
    pub(crate) fn put_many(&self, count: u32, close: bool) -> Result<Put, NotHeld> {
        self.refs.put(count, close)
    }

    /// Returns whether `span` lies in the window's IOVAs. Reliable if the caller has a reference.
    #[inline(always)]
    pub(crate) fn serves(&self, span: &IovaSpan) -> bool {
        span.offset_in(self.iova.load(Relaxed), self.len.load(Relaxed))
            .is_some()
    }

    /// Returns the IOVA of `want`, if the window covers it. Reliable if the caller has a reference
    /// or owns the window.
    #[inline(always)]
    pub(crate) fn iova_of(&self, want: &GpaSpan) -> Option<Iova> {
        let offset = want.offset_in(self.start.load(Relaxed), self.len.load(Relaxed))?;
        // The window was opened only after a check that its IOVAs do not wrap around.
        Some(Iova::new(self.iova.load(Relaxed).wrapping_add(offset)))
    }

    /// Returns the guest address that is mapped at `span`, if the window is open and has `span`.
    #[inline]
    pub(crate) fn gpa_of(&self, span: &IovaSpan) -> Option<Gpa> {
        if self.refs.is_closed() {
            return None;
        }
        let offset = self.iova_span()?.offset_of(span)?;
        Some(Gpa::new(self.start.load(Relaxed).wrapping_add(offset)))
    }

    /// Returns the guest memory that the window covers.
    #[inline(always)]
    pub(crate) fn span(&self) -> Option<GpaSpan> {
        GpaSpan::new(Gpa::new(self.start.load(Relaxed)), self.len.load(Relaxed))
    }

    /// Returns the first IOVA of the window; 0 if that is not known.
    pub(crate) fn iova(&self) -> Iova {
        Iova::new(self.iova.load(Relaxed))
    }

    /// Returns the IOVAs that the window covers.
    #[inline(always)]
    pub(crate) fn iova_span(&self) -> Option<IovaSpan> {
        IovaSpan::new(Iova::new(self.iova.load(Relaxed)), self.len.load(Relaxed))
    }

    /// Returns the granule that finds the window, if it is not a tile. Lock.
    pub(crate) fn anchor(&self) -> Option<u64> {
        match self.anchor.load(Relaxed) {
            TILE | FILLER => None,
            granule => Some(granule),
        }
    }

    /// Returns whether the window is a filler, which takes IOVAs and serves nothing. Lock.
    pub(crate) fn is_filler(&self) -> bool {
        self.anchor.load(Relaxed) == FILLER
    }

    /// Makes a pending window a filler. Lock.
    pub(crate) fn set_filler(&self) {
        self.anchor.store(FILLER, Relaxed);
    }

    /// Returns the bytes that the window covers only to align the address of the rest. Lock.
    pub(crate) fn padding(&self) -> u64 {
        u64::from(self.padding.load(Relaxed)).saturating_mul(PAGE)
    }

    /// Records the bytes that the window covers only to align the address of the rest, which are
    /// whole pages. Lock.
    pub(crate) fn set_padding(&self, bytes: u64) {
        // No window has as many as 2^32 pages.
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        self.padding.store(pages, Relaxed);
    }

    /// Returns the number of references.
    pub(crate) fn users(&self) -> u32 {
        self.refs.count()
    }

    /// Returns whether the window is open and no mapping uses it. Lock.
    pub(crate) fn is_idle(&self) -> bool {
        self.state() == State::Live && self.users() == 0
    }

    /// Returns how many references were taken since the window was opened, modulo 2^32.
    pub(crate) fn uses(&self) -> u32 {
        self.refs.uses().wrapping_sub(self.first_use.load(Relaxed))
    }

    /// Returns the uses since the last call. To be called again before there are 2^32 more. Lock.
    pub(crate) fn count_uses(&self) -> u32 {
        let uses = self.refs.uses();
        let counted = self.counted.load(Relaxed);
        self.counted.store(uses, Relaxed);
        uses.wrapping_sub(counted)
    }

    /// Returns whether the window covers `want` just now; a hint only, as no reference is taken.
    ///
    /// Context: any.
    pub(crate) fn covers(&self, want: &GpaSpan) -> bool {
        !self.refs.is_closed() && self.iova_of(want).is_some()
    }

    /// Returns the state of the window. Lock.
    pub(crate) fn state(&self) -> State {
        match self.state.load(Relaxed) {
            s if s == State::Pending as u32 => State::Pending,
            s if s == State::Live as u32 => State::Live,
            s if s == State::Fixed as u32 => State::Fixed,
            s if s == State::Retired as u32 => State::Retired,
            s if s == State::Lost as u32 => State::Lost,
            _ => State::Free,
        }
    }

    /// Sets the state; only [`Self::open`] sets [`State::Live`]. Lock; the window is closed, or not
    /// in the index.
    pub(crate) fn set_state(&self, state: State) {
        // CAST: The discriminants are small.
        self.state.store(state as u32, Relaxed);
    }

    /// Turns a free window into a pending one for `span`. Lock; the window is closed.
    pub(crate) fn prepare(&self, span: &GpaSpan, anchor: Option<u64>) {
        self.start.store(span.start().raw(), Relaxed);
        self.len.store(span.len(), Relaxed);
        self.iova.store(0, Relaxed);
        self.anchor.store(anchor.unwrap_or(TILE), Relaxed);
        self.padding.store(0, Relaxed);
        // Opening counts as a use that is not counted, see `Refs`.
        self.refs.renew();
        self.counted.store(self.refs.uses(), Relaxed);
        self.first_use.store(self.refs.uses(), Relaxed);
        self.set_state(State::Pending);
    }

    /// Records that the window is mapped from `iova` on. Lock; the window is closed.
    pub(crate) fn set_iova(&self, iova: Iova) {
        self.iova.store(iova.raw(), Relaxed);
    }

    /// Opens a pending window, whose address was recorded, with one reference, which
    /// [`Self::settle`] puts. If it is `watched`, the put of the last reference tells. Lock.
    pub(crate) fn open(&self, watched: bool) {
        self.set_state(State::Live);
        self.refs.open(watched);
    }

    /// Puts the reference that the window was opened with; `close` is as for [`Self::put`].
    pub(crate) fn settle(&self, close: bool) -> Result<Put, NotHeld> {
        self.refs.put(1, close)
    }

    /// Closes the window if it has no users; the caller then owns it. Returns whether it did.
    pub(crate) fn close(&self) -> bool {
        self.refs.close()
    }

    /// Closes the window even if it has users, and returns their number; the caller then owns it.
    /// Returns [`None`] if the window was closed: its owner is about to retire it. For the end of
    /// the engine, when the device does not access memory any more.
    pub(crate) fn force_close(&self) -> Option<u32> {
        self.refs.force_close()
    }

    /// Has the put of the last reference tell, which it does once. Returns whether there are any
    /// references.
    pub(crate) fn watch(&self) -> bool {
        self.refs.watch()
    }

    /// Returns whether the window was used since the last call. The reclaimer may take an idle
    /// window that was not.
    pub(crate) fn test_and_clear_used(&self) -> bool {
        self.refs.test_and_clear_used()
    }
}
