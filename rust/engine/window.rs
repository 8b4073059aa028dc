// SPDX-License-Identifier: GPL-2.0

//! A window: one mapping of the host, shared and counted by many mappings of drivers.
//!
//! A window's life is in one word, [`Refs`]: who may use it and how many do. Everything else about
//! a window changes only while that word says that nobody may. See `docs/architecture.md` for the
//! orderings.

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

/// How many mappings use a window, how many did, and whether more may.
///
/// Bits 29:0 count references. [`Refs::USED`] tells the reclaimer that somebody took one since it
/// last looked. [`Refs::CLOSED`] keeps everybody out; whoever sets it owns the window. Bits 63:32
/// count how often a reference was taken, and wrap: what counts mappings is the word that each of
/// them writes anyway.
struct Refs(Atomic<u64>);

/// Why a reference could not be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotHeld;

/// What giving back a reference did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The window stays open.
    Open,
    /// It was the last reference, and the window is closed: the caller owns it.
    Closed,
}

/// What came of trying to use a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// The caller has a reference, and what it wants is mapped from this address on. Nobody had
    /// one before if the second part says so.
    Hit(Iova, bool),
    /// The window does not serve.
    Miss,
    /// The window does not serve, and the caller closed it: the caller owns it.
    Closed,
}

impl Refs {
    const CLOSED: u64 = 1 << 31;
    const USED: u64 = 1 << 30;
    const COUNT: u64 = Self::USED - 1;
    /// No more are counted.
    const FULL: u64 = 1 << 29;
    const USES_SHIFT: u32 = 32;
    const USES: u64 = !0 << Self::USES_SHIFT;
    /// One more use.
    const USE: u64 = 1 << Self::USES_SHIFT;

    /// Takes a reference, and says whether there was none. Fails if the window is closed, or counts
    /// as many as it can.
    #[inline(always)]
    fn get(&self) -> Option<bool> {
        let mut old = self.0.load(Relaxed);
        loop {
            if old & (Self::CLOSED | Self::FULL) != 0 {
                return None;
            }
            let new = old.wrapping_add(Self::USE + 1) | Self::USED;
            // Acquire: what is read of the window after this is what it was opened with.
            match self.0.cmpxchg(old, new, Acquire) {
                Ok(_) => return Some(old & Self::COUNT == 0),
                Err(now) => old = now,
            }
        }
    }

    /// Gives back `count` references, or none if there are fewer; closes the window if they were
    /// the last and `close` is set. `uses` of [`Self::USE`] were none after all.
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
            // Release: all that was done with the window comes before it is closed. Acquire: what
            // the others did with it came before, too.
            match self.0.cmpxchg(old, new.wrapping_sub(uses), Full) {
                Ok(_) if closes => return Ok(Put::Closed),
                Ok(_) => return Ok(Put::Open),
                Err(now) => old = now,
            }
        }
    }

    /// Closes the window if nobody has a reference.
    fn close(&self) -> bool {
        let old = self.0.load(Relaxed);
        let new = old & Self::USES | Self::CLOSED;
        old & (Self::CLOSED | Self::COUNT) == 0 && self.0.cmpxchg(old, new, Full).is_ok()
    }

    /// How often a reference was taken, modulo 2^32.
    fn uses(&self) -> u32 {
        // CAST: What is left are 32 bits.
        (self.0.load(Relaxed) >> Self::USES_SHIFT) as u32
    }
}

/// What a window is to the engine. Changes only under the engine's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not in use.
    Free,
    /// Asked for, not answered.
    Pending,
    /// Mapped.
    Live,
    /// Mapped for good, as a piece of all of RAM: not in the maps, and never idle.
    Fixed,
    /// To be given back; its key is in use until then.
    Retired,
    /// The host would not take it back, or never answered; its key may be in use. To be asked for
    /// again.
    Lost,
}

/// See the module's documentation.
pub(crate) struct Window {
    refs: Refs,
    /// The next window in the free list or in a list of windows to be given back.
    link: Atomic<u32>,
    /// The next window in the same bucket of keys. Lock.
    pub(crate) next_key: Atomic<u32>,
    state: Atomic<u32>,
    /// How many uses the engine has counted. Lock.
    counted: Atomic<u32>,
    start: Atomic<u64>,
    len: Atomic<u64>,
    iova: Atomic<u64>,
    /// The granule that a window with a place of its own is found by, else all-ones. Lock.
    anchor: Atomic<u64>,
    /// Bytes that are mapped just for the address of the rest. Lock.
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
    /// Takes a reference if the window is open, whatever it covers. Lock-free.
    #[inline(always)]
    pub(crate) fn hold(&self) -> bool {
        self.refs.get().is_some()
    }

    /// Takes a reference if the window is open and covers `want`; tells where `want` is mapped.
    /// Lock-free: the window may be any. `close` is as for [`Self::put`].
    #[inline(always)]
    pub(crate) fn take(&self, want: &GpaSpan, close: bool) -> Take {
        let Some(revived) = self.refs.get() else {
            return Take::Miss;
        };
        // From here on the window stays what it is.
        match self.iova_of(want) {
            Some(iova) => Take::Hit(iova, revived),
            None => self.put_mismatched(close),
        }
    }

    /// Gives back a reference to a window that turned out to be another one: it was not used.
    /// `close` is as for [`Self::put`].
    #[cold]
    #[inline(never)]
    pub(crate) fn put_mismatched(&self, close: bool) -> Take {
        // All its users may have gone meanwhile, so that ours is the last reference.
        match self.refs.put(1, close, Refs::USE) {
            Ok(Put::Closed) => Take::Closed,
            Ok(Put::Open) | Err(NotHeld) => Take::Miss,
        }
    }

    /// Gives back a reference for a mapping at `span`; closes the window if it was the last and
    /// `close` is set. Fails if the window is not one that `span` can be mapped by.
    #[inline(always)]
    pub(crate) fn put(&self, span: &IovaSpan, close: bool) -> Result<Put, NotHeld> {
        if self.serves(span) {
            self.refs.put(1, close, 0)
        } else {
            Err(NotHeld)
        }
    }

    /// Gives back `count` references for mappings that [`Self::serves`] told to be of this window,
    /// while the caller held one of them; as [`Self::put`]. On failure none is given back.
    pub(crate) fn put_many(&self, count: u32, close: bool) -> Result<Put, NotHeld> {
        self.refs.put(count, close, 0)
    }

    /// Whether `span` can be mapped by the window. Certain if the caller has a reference.
    #[inline(always)]
    pub(crate) fn serves(&self, span: &IovaSpan) -> bool {
        span.offset_in(self.iova.load(Relaxed), self.len.load(Relaxed))
            .is_some()
    }

    /// Where `want` is mapped, if the window covers it. The caller has a reference or owns it.
    #[inline(always)]
    pub(crate) fn iova_of(&self, want: &GpaSpan) -> Option<Iova> {
        let offset = want.offset_in(self.start.load(Relaxed), self.len.load(Relaxed))?;
        // The end of the window's IOVAs was checked not to wrap around when it was opened.
        Some(Iova::new(self.iova.load(Relaxed).wrapping_add(offset)))
    }

    /// What is mapped at `span`, if it is in the window and that is open.
    #[inline]
    pub(crate) fn gpa_of(&self, span: &IovaSpan) -> Option<Gpa> {
        if self.refs.0.load(Relaxed) & Refs::CLOSED != 0 {
            return None;
        }
        let offset = self.iova_span()?.offset_of(span)?;
        Some(Gpa::new(self.start.load(Relaxed).wrapping_add(offset)))
    }

    /// The guest memory that the window covers.
    #[inline(always)]
    pub(crate) fn span(&self) -> Option<GpaSpan> {
        GpaSpan::new(Gpa::new(self.start.load(Relaxed)), self.len.load(Relaxed))
    }

    /// Where the window is mapped; 0 if that is not known.
    pub(crate) fn iova(&self) -> Iova {
        Iova::new(self.iova.load(Relaxed))
    }

    /// The IOVAs that the window covers.
    #[inline(always)]
    pub(crate) fn iova_span(&self) -> Option<IovaSpan> {
        IovaSpan::new(Iova::new(self.iova.load(Relaxed)), self.len.load(Relaxed))
    }

    /// The granule that the window is found by if it is none of the aligned ones. Lock.
    pub(crate) fn anchor(&self) -> Option<u64> {
        match self.anchor.load(Relaxed) {
            u64::MAX => None,
            granule => Some(granule),
        }
    }

    /// Bytes that the window covers just for the address of the rest. Lock.
    pub(crate) fn padding(&self) -> u64 {
        self.padding.load(Relaxed)
    }

    /// Notes how many bytes of the window are there for the address of the rest. Lock.
    pub(crate) fn set_padding(&self, bytes: u64) {
        self.padding.store(bytes, Relaxed);
    }

    /// How many references there are.
    pub(crate) fn users(&self) -> u32 {
        // CAST: The mask leaves 30 bits.
        (self.refs.0.load(Relaxed) & Refs::COUNT) as u32
    }

    /// How many references were taken since the window was made, modulo 2^32.
    pub(crate) fn uses(&self) -> u32 {
        self.refs.uses()
    }

    /// How many of these there are since this was last called; to be called before there are 2^32.
    /// Lock.
    pub(crate) fn count_uses(&self) -> u32 {
        let uses = self.refs.uses();
        let counted = self.counted.load(Relaxed);
        self.counted.store(uses, Relaxed);
        uses.wrapping_sub(counted)
    }

    /// Whether the window covers `want` just now. Any context; tells nothing for sure.
    pub(crate) fn covers(&self, want: &GpaSpan) -> bool {
        self.refs.0.load(Relaxed) & Refs::CLOSED == 0 && self.iova_of(want).is_some()
    }

    /// What the window is. Lock.
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

    /// Makes the window another state than live. Lock; the window is closed.
    pub(crate) fn set_state(&self, state: State) {
        // CAST: The discriminants are small.
        self.state.store(state as u32, Relaxed);
    }

    /// Makes a free window a pending one for `span`. Lock; the window is closed.
    pub(crate) fn prepare(&self, span: &GpaSpan, anchor: Option<u64>) {
        self.start.store(span.start().raw(), Relaxed);
        self.len.store(span.len(), Relaxed);
        self.iova.store(0, Relaxed);
        self.anchor.store(anchor.unwrap_or(u64::MAX), Relaxed);
        self.padding.store(0, Relaxed);
        self.counted.store(0, Relaxed);
        // Nobody changes the word of a closed window.
        self.refs.0.store(Refs::CLOSED, Relaxed);
        self.set_state(State::Pending);
    }

    /// Notes that the window is mapped from `iova` on. Lock; the window is closed.
    pub(crate) fn set_iova(&self, iova: Iova) {
        self.iova.store(iova.raw(), Relaxed);
    }

    /// Opens a pending window, whose address was noted, with one reference, which [`Self::settle`]
    /// gives back. Lock.
    pub(crate) fn open(&self) {
        self.set_state(State::Live);
        // Release: whoever takes a reference sees the above.
        self.refs.0.store(Refs::USED | 1, Release);
    }

    /// Gives back the reference that the window was opened with; `close` is as for [`Self::put`].
    pub(crate) fn settle(&self, close: bool) -> Result<Put, NotHeld> {
        self.refs.put(1, close, 0)
    }

    /// Closes the window if nobody uses it; the caller then owns it.
    pub(crate) fn close(&self) -> bool {
        self.refs.close()
    }

    /// Closes the window whoever uses it. For the end of the engine, when nobody can any more.
    pub(crate) fn force_close(&self) {
        let uses = self.refs.0.load(Relaxed) & Refs::USES;
        self.refs.0.store(uses | Refs::CLOSED, Relaxed);
    }

    /// Whether the window was used since this was last asked; an idle window that was not is fair
    /// game for the reclaimer.
    pub(crate) fn test_and_clear_used(&self) -> bool {
        let old = self.refs.0.load(Relaxed);
        // Should somebody come between, the window was used.
        old & Refs::USED != 0 && {
            let _ = self.refs.0.cmpxchg(old, old & !Refs::USED, Relaxed);
            true
        }
    }
}
