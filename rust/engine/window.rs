// SPDX-License-Identifier: GPL-2.0

//! A window: one mapping of the host, shared and counted by many mappings of drivers.
//!
//! One word, [`Refs`], tells whether a window may be used and counts its references. Everything
//! else about a window changes only while that word is closed, which excludes all users. The
//! orderings are argued at each access; `docs/architecture.md` has the whole picture. Finding a
//! window is the index's part, and talking to the host is not done here.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::engine::index::arena::{
    Linked,
    NONE, //
};
use crate::sys::{
    Acquire,
    Atomic,
    Full,
    Relaxed,
    Release, //
};

/// The reference count of a window, its count of uses, and the bit that closes it.
///
/// Bits 29:0 count references. [`Refs::USED`] tells the reclaimer that a reference was taken since
/// it last looked. [`Refs::CLOSED`] keeps all users out; the CPU that sets it owns the window. Bits
/// 63:32 count how often a reference was taken, and wrap: mappings are counted in the word that
/// each of them writes anyway.
struct Refs(Atomic<u64>);

/// The error of putting a reference that is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotHeld;

/// The result of putting a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The window stays open.
    Open,
    /// The last reference is gone and the window is closed: the caller owns it.
    Closed,
}

/// The result of trying to take a reference for a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// The caller has a reference, and the span is mapped from this address on. The second part
    /// tells whether the window was idle, that is had no reference before.
    Hit(Iova, bool),
    /// The window does not cover the span, or is closed.
    Miss,
    /// The window does not cover the span, and the caller closed it: the caller owns it.
    Closed,
}

impl Refs {
    const CLOSED: u64 = 1 << 31;
    const USED: u64 = 1 << 30;
    const COUNT: u64 = Self::USED - 1;
    /// Set once the count is full; no more references are taken.
    const FULL: u64 = 1 << 29;
    const USES_SHIFT: u32 = 32;
    const USES: u64 = !0 << Self::USES_SHIFT;
    /// A single use, as added to the word.
    const USE: u64 = 1 << Self::USES_SHIFT;

    /// Takes a reference and returns whether there was none before. Fails if the window is closed
    /// or the count is full.
    #[inline(always)]
    fn get(&self) -> Option<bool> {
        let mut old = self.0.load(Relaxed);
        loop {
            if old & (Self::CLOSED | Self::FULL) != 0 {
                return None;
            }
            let new = old.wrapping_add(Self::USE + 1) | Self::USED;
            // Acquire: reads of the window after this see what it was opened with.
            match self.0.cmpxchg(old, new, Acquire) {
                Ok(_) => return Some(old & Self::COUNT == 0),
                Err(now) => old = now,
            }
        }
    }

    /// Puts `count` references, or none if there are fewer; closes the window if they were the last
    /// and `close` is set. Subtracts `uses`, a multiple of [`Self::USE`], for references that were
    /// taken but not used.
    #[inline(always)]
    fn put(&self, count: u32, close: bool, uses: u64) -> Result<Put, NotHeld> {
        let count = u64::from(count);
        let mut old = self.0.load(Relaxed);
        loop {
            if old & Self::CLOSED != 0 || old & Self::COUNT < count {
                return Err(NotHeld);
            }
            let closes = close && old & Self::COUNT == count;
            let new = if closes {
                old & Self::USES | Self::CLOSED
            } else {
                old.wrapping_sub(count)
            };
            // Release: all that this user did with the window comes before it is closed. Acquire:
            // what the other users did with it came before, too.
            match self.0.cmpxchg(old, new.wrapping_sub(uses), Full) {
                Ok(_) if closes => return Ok(Put::Closed),
                Ok(_) => return Ok(Put::Open),
                Err(now) => old = now,
            }
        }
    }

    /// Closes the window if there are no references. Returns whether it did.
    fn close(&self) -> bool {
        let old = self.0.load(Relaxed);
        let new = old & Self::USES | Self::CLOSED;
        old & (Self::CLOSED | Self::COUNT) == 0 && self.0.cmpxchg(old, new, Full).is_ok()
    }

    /// Returns how often a reference was taken, modulo 2^32.
    fn uses(&self) -> u32 {
        // CAST: The shift leaves 32 bits.
        (self.0.load(Relaxed) >> Self::USES_SHIFT) as u32
    }
}

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

/// A window, free or in use; see the module's documentation. "Lock" marks what is accessed only
/// with the engine's lock held.
pub(crate) struct Window {
    refs: Refs,
    /// The next window in the free list or in a list of windows to unmap.
    link: Atomic<u32>,
    /// The next window in the same bucket of keys. Lock.
    pub(crate) next_key: Atomic<u32>,
    state: Atomic<u32>,
    /// Number of uses that the engine has counted. Lock.
    counted: Atomic<u32>,
    start: Atomic<u64>,
    len: Atomic<u64>,
    iova: Atomic<u64>,
    /// The granule that finds a window which is not a tile; all-ones for a tile. Lock.
    anchor: Atomic<u64>,
    /// Bytes that are mapped only to align the address of the rest. Lock.
    padding: Atomic<u64>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            refs: Refs(Atomic::new(Refs::CLOSED)),
            link: Atomic::new(NONE),
            next_key: Atomic::new(NONE),
            state: Atomic::new(State::Free as u32),
            counted: Atomic::new(0),
            start: Atomic::new(0),
            len: Atomic::new(0),
            iova: Atomic::new(0),
            anchor: Atomic::new(u64::MAX),
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
    /// Takes a reference if the window is open, whatever it covers. Returns whether it did.
    /// Lock-free.
    #[inline(always)]
    pub(crate) fn hold(&self) -> bool {
        self.refs.get().is_some()
    }

    /// Takes a reference if the window is open and covers `want`, and returns where `want` is
    /// mapped. Lock-free: the id that led here may be out of date. `close` is as for [`Self::put`].
    #[inline(always)]
    pub(crate) fn take(&self, want: &GpaSpan, close: bool) -> Take {
        let Some(revived) = self.refs.get() else {
            return Take::Miss;
        };
        // The reference keeps the window from changing, so this check is final.
        match self.iova_of(want) {
            Some(iova) => Take::Hit(iova, revived),
            None => self.put_mismatched(close),
        }
    }

    /// Puts a reference to a window that turned out to cover something else; it does not count as
    /// a use. `close` is as for [`Self::put`].
    #[cold]
    #[inline(never)]
    pub(crate) fn put_mismatched(&self, close: bool) -> Take {
        // The other users may have put theirs meanwhile, so that this is the last reference.
        match self.refs.put(1, close, Refs::USE) {
            Ok(Put::Closed) => Take::Closed,
            Ok(Put::Open) | Err(NotHeld) => Take::Miss,
        }
    }

    /// Puts the reference of a mapping at `span`; closes the window if it was the last one and
    /// `close` is set. Fails if `span` does not lie in the window's IOVAs.
    #[inline(always)]
    pub(crate) fn put(&self, span: &IovaSpan, close: bool) -> Result<Put, NotHeld> {
        if self.serves(span) {
            self.refs.put(1, close, 0)
        } else {
            Err(NotHeld)
        }
    }

    /// Puts `count` references of mappings for which [`Self::serves`] returned true while the
    /// caller held one of them; otherwise as [`Self::put`]. On failure none is put.
    pub(crate) fn put_many(&self, count: u32, close: bool) -> Result<Put, NotHeld> {
        self.refs.put(count, close, 0)
    }

    /// Returns whether `span` lies in the window's IOVAs. Reliable if the caller has a reference.
    #[inline(always)]
    pub(crate) fn serves(&self, span: &IovaSpan) -> bool {
        span.offset_in(self.iova.load(Relaxed), self.len.load(Relaxed))
            .is_some()
    }

    /// Returns the IOVA of `want`, if the window covers it. The caller has a reference or owns the
    /// window.
    #[inline(always)]
    pub(crate) fn iova_of(&self, want: &GpaSpan) -> Option<Iova> {
        let offset = want.offset_in(self.start.load(Relaxed), self.len.load(Relaxed))?;
        // The window was opened only after a check that its IOVAs do not wrap around.
        Some(Iova::new(self.iova.load(Relaxed).wrapping_add(offset)))
    }

    /// Returns the guest address that is mapped at `span`, if the window is open and has `span`.
    #[inline]
    pub(crate) fn gpa_of(&self, span: &IovaSpan) -> Option<Gpa> {
        if self.refs.0.load(Relaxed) & Refs::CLOSED != 0 {
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
            u64::MAX => None,
            granule => Some(granule),
        }
    }

    /// Returns the bytes that the window covers only to align the address of the rest. Lock.
    pub(crate) fn padding(&self) -> u64 {
        self.padding.load(Relaxed)
    }

    /// Records the bytes that the window covers only to align the address of the rest. Lock.
    pub(crate) fn set_padding(&self, bytes: u64) {
        self.padding.store(bytes, Relaxed);
    }

    /// Returns the number of references.
    pub(crate) fn users(&self) -> u32 {
        // CAST: The mask leaves 30 bits.
        (self.refs.0.load(Relaxed) & Refs::COUNT) as u32
    }

    /// Returns how many references were taken since the window was prepared, modulo 2^32.
    pub(crate) fn uses(&self) -> u32 {
        self.refs.uses()
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
        self.refs.0.load(Relaxed) & Refs::CLOSED == 0 && self.iova_of(want).is_some()
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
        self.anchor.store(anchor.unwrap_or(u64::MAX), Relaxed);
        self.padding.store(0, Relaxed);
        self.counted.store(0, Relaxed);
        // A closed window's word is written by its owner only.
        self.refs.0.store(Refs::CLOSED, Relaxed);
        self.set_state(State::Pending);
    }

    /// Records that the window is mapped from `iova` on. Lock; the window is closed.
    pub(crate) fn set_iova(&self, iova: Iova) {
        self.iova.store(iova.raw(), Relaxed);
    }

    /// Opens a pending window, whose address was recorded, with one reference, which
    /// [`Self::settle`] puts. Lock.
    pub(crate) fn open(&self) {
        self.set_state(State::Live);
        // Release: a user that takes a reference sees the above.
        self.refs.0.store(Refs::USED | 1, Release);
    }

    /// Puts the reference that the window was opened with; `close` is as for [`Self::put`].
    pub(crate) fn settle(&self, close: bool) -> Result<Put, NotHeld> {
        self.refs.put(1, close, 0)
    }

    /// Closes the window if it has no users; the caller then owns it. Returns whether it did.
    pub(crate) fn close(&self) -> bool {
        self.refs.close()
    }

    /// Closes the window even if it has users. For the end of the engine, when no driver can use a
    /// mapping any more.
    pub(crate) fn force_close(&self) {
        let uses = self.refs.0.load(Relaxed) & Refs::USES;
        self.refs.0.store(uses | Refs::CLOSED, Relaxed);
    }

    /// Returns whether the window was used since the last call. The reclaimer may take an idle
    /// window that was not.
    pub(crate) fn test_and_clear_used(&self) -> bool {
        let old = self.refs.0.load(Relaxed);
        // If the exchange fails, another CPU changed the word, and the window was used.
        old & Refs::USED != 0 && {
            let _ = self.refs.0.cmpxchg(old, old & !Refs::USED, Relaxed);
            true
        }
    }
}
