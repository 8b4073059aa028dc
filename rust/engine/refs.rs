// SPDX-License-Identifier: GPL-2.0

//! The word that counts the references to a window, and tells whether it may be used.
//!
//! All users of a window share this word only. The orderings are argued at each access;
//! `docs/architecture.md` has the whole picture. What a window covers is not known here.

use crate::sys::{
    Acquire,
    Atomic,
    Full,
    Relaxed,
    Release, //
};

/// The reference count of a window, its count of uses, and the bits that change what a put does.
///
/// Bits 28:0 count references. [`Refs::USED`] tells the reclaimer that a reference was taken since
/// it last looked. [`Refs::CLOSED`] keeps all users out; the CPU that sets it owns the window.
/// [`Refs::WATCHED`] tells the user that puts the last reference to tell the reclaimer. Bits 63:32
/// count how often a reference was taken, and wrap: mappings are counted in the word that each of
/// them writes anyway.
///
/// The count of uses goes on where it was when a window is used for other memory, and opening
/// counts as well. So the word has the same value twice only if nothing happened in between, or
/// 2^32 uses. A compare-and-exchange that succeeds shows that the window covers what it covered
/// when the word was loaded.
pub(super) struct Refs(Atomic<u64>);

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
    /// The last reference is gone, and the window stays open; the reclaimer is to be told.
    Idle,
}

impl Refs {
    const CLOSED: u64 = 1 << 31;
    const USED: u64 = 1 << 30;
    const WATCHED: u64 = 1 << 29;
    const COUNT: u64 = Self::WATCHED - 1;
    /// Set once the count is full; no more references are taken.
    const FULL: u64 = 1 << 28;
    const USES_SHIFT: u32 = 32;
    const USES: u64 = !0 << Self::USES_SHIFT;
    /// A single use, as added to the word.
    const USE: u64 = 1 << Self::USES_SHIFT;

    /// Creates the word of a closed window.
    pub(super) fn closed() -> Self {
        Self(Atomic::new(Self::CLOSED))
    }

    /// Takes a reference if the window is open, has room for another one and covers what `find`
    /// looks for. Returns what `find` returned, and whether there was no reference before.
    #[inline(always)]
    pub(super) fn get<T>(&self, find: impl Fn() -> Option<T>) -> Option<(T, bool)> {
        loop {
            // Acquire: `find` sees the window as it was opened.
            let old = self.0.load(Acquire);
            if old & (Self::CLOSED | Self::FULL) != 0 {
                return None;
            }
            let found = find()?;
            let new = old.wrapping_add(Self::USE + 1) | Self::USED;
            // Success shows that the window was not closed since the load, so what was found holds
            // until the reference is put. Acquire: the use of the window comes after this.
            if self.0.cmpxchg(old, new, Acquire).is_ok() {
                return Some((found, old & Self::COUNT == 0));
            }
        }
    }

    /// Takes `count` more references, for a user that has one. Returns false, and takes none, if
    /// there is no room for as many, or if the window was closed in spite of that one.
    pub(super) fn get_more(&self, count: u32) -> bool {
        let count = u64::from(count);
        let mut old = self.0.load(Relaxed);
        loop {
            let all = (old & Self::COUNT).wrapping_add(count);
            if old & Self::CLOSED != 0 || all >= Self::FULL {
                return false;
            }
            let uses = count << Self::USES_SHIFT;
            let new = old.wrapping_add(uses).wrapping_add(count) | Self::USED;
            // No ordering: the reference of the caller was taken before, and is put after these.
            match self.0.cmpxchg(old, new, Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }

    /// Puts `count` references, or none if there are fewer; closes the window if they were the last
    /// and `close` is set.
    #[inline(always)]
    pub(super) fn put(&self, count: u32, close: bool) -> Result<Put, NotHeld> {
        let wanted = u64::from(count);
        let mut old = self.0.load(Relaxed);
        loop {
            if old & (Self::CLOSED | Self::WATCHED) != 0 || old & Self::COUNT < wanted {
                return self.put_watched(count, close);
            }
            let closes = close && old & Self::COUNT == wanted;
            let new = if closes {
                old & Self::USES | Self::CLOSED
            } else {
                old.wrapping_sub(wanted)
            };
            // Release: all that this user did with the window comes before it is closed. Acquire:
            // what the other users did with it came before, too.
            match self.0.cmpxchg(old, new, Full) {
                Ok(_) if closes => return Ok(Put::Closed),
                Ok(_) => return Ok(Put::Open),
                Err(now) => old = now,
            }
        }
    }

    /// Puts references as [`Self::put`], whatever bits are set.
    #[cold]
    #[inline(never)]
    fn put_watched(&self, count: u32, close: bool) -> Result<Put, NotHeld> {
        let wanted = u64::from(count);
        let mut old = self.0.load(Relaxed);
        loop {
            let left = (old & Self::COUNT).checked_sub(wanted).ok_or(NotHeld)?;
            if old & Self::CLOSED != 0 {
                return Err(NotHeld);
            }
            let open = old.wrapping_sub(wanted);
            let (new, put) = match left {
                0 if close => (old & Self::USES | Self::CLOSED, Put::Closed),
                0 if old & Self::WATCHED != 0 => (open & !Self::WATCHED, Put::Idle),
                _ => (open, Put::Open),
            };
            // The ordering is as in `put`.
            match self.0.cmpxchg(old, new, Full) {
                Ok(_) => return Ok(put),
                Err(now) => old = now,
            }
        }
    }

    /// Closes the window if there are no references. Returns whether it did.
    pub(super) fn close(&self) -> bool {
        let old = self.0.load(Relaxed);
        let new = old & Self::USES | Self::CLOSED;
        old & (Self::CLOSED | Self::COUNT) == 0 && self.0.cmpxchg(old, new, Full).is_ok()
    }

    /// Closes the window whatever references there are. Returns their number; [`None`] if it was
    /// closed, so that another CPU owns it.
    pub(super) fn force_close(&self) -> Option<u32> {
        let mut old = self.0.load(Relaxed);
        loop {
            if old & Self::CLOSED != 0 {
                return None;
            }
            match self.0.cmpxchg(old, old & Self::USES | Self::CLOSED, Full) {
                // CAST: The mask leaves 29 bits.
                Ok(_) => return Some((old & Self::COUNT) as u32),
                Err(now) => old = now,
            }
        }
    }

    /// Sets [`Self::WATCHED`] if there are references. Returns whether there are.
    pub(super) fn watch(&self) -> bool {
        let mut old = self.0.load(Relaxed);
        loop {
            if old & Self::CLOSED != 0 || old & Self::COUNT == 0 {
                return false;
            }
            // No ordering: what the bit is needed for is read from the same word.
            match self.0.cmpxchg(old, old | Self::WATCHED, Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }

    /// Returns how often a reference was taken, modulo 2^32.
    pub(super) fn uses(&self) -> u32 {
        // CAST: The shift leaves 32 bits.
        (self.0.load(Relaxed) >> Self::USES_SHIFT) as u32
    }

    /// Returns the number of references.
    pub(super) fn count(&self) -> u32 {
        // CAST: The mask leaves 29 bits.
        (self.0.load(Relaxed) & Self::COUNT) as u32
    }

    /// Returns whether the window is closed.
    #[inline(always)]
    pub(super) fn is_closed(&self) -> bool {
        self.0.load(Relaxed) & Self::CLOSED != 0
    }

    /// Counts the next opening of a closed window as a use, for its owner.
    pub(super) fn renew(&self) {
        let uses = self.0.load(Relaxed) & Self::USES;
        self.0
            .store(uses.wrapping_add(Self::USE) | Self::CLOSED, Relaxed);
    }

    /// Opens a closed window with one reference, for its owner. If it is `watched`, the put of the
    /// last reference tells.
    pub(super) fn open(&self, watched: bool) {
        let uses = self.0.load(Relaxed) & Self::USES;
        let watched = if watched { Self::WATCHED } else { 0 };
        // Release: a user that takes a reference sees what the owner wrote before.
        self.0.store(uses | Self::USED | watched | 1, Release);
    }

    /// Returns whether a reference was taken since the last call.
    pub(super) fn test_and_clear_used(&self) -> bool {
        let old = self.0.load(Relaxed);
        // If the exchange fails, another CPU changed the word, and the window was used.
        old & Self::USED != 0 && {
            let _ = self.0.cmpxchg(old, old & !Self::USED, Relaxed);
            true
        }
    }
}
