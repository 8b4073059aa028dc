// SPDX-License-Identifier: GPL-2.0

//! Looking at the engine: what it did so far, and which windows there are. Nothing here is counted
//! for on the paths where mappings are made and given up: each window's word of references says how
//! often it was taken, and is added up from time to time.

use super::{
    Engine,
    Host,
    Locked,
    Observer,
    Stats, //
};
use crate::addr::{
    GpaSpan,
    Iova, //
};
use crate::engine::index::arena::Id;
use crate::engine::policy::Policy;
use crate::engine::window::{
    State,
    Window, //
};

/// How many windows are looked at under the lock at a time, to find one.
const SCAN: u32 = 1024;

/// What a window is, to who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WindowStatus {
    /// Mappings of drivers use it.
    Live,
    /// None does.
    Idle,
    /// A piece of RAM, mapped for good.
    Fixed,
    /// To be given back at once.
    Returning,
    /// The host did not take it back.
    Lost,
}

/// How many [`WindowStatus`]s there are.
const WINDOW_STATUSES: usize = 5;

impl WindowStatus {
    /// All of them, in order.
    pub(crate) const ALL: [Self; WINDOW_STATUSES] = [
        WindowStatus::Live,
        WindowStatus::Idle,
        WindowStatus::Fixed,
        WindowStatus::Returning,
        WindowStatus::Lost,
    ];
}

/// A window, as it was when somebody looked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowInfo {
    /// The guest memory.
    pub(crate) span: GpaSpan,
    /// Where it is mapped; 0 if that is not known.
    pub(crate) iova: Iova,
    /// Mappings of drivers that use it.
    pub(crate) users: u32,
    /// Mappings of drivers that used it so far, modulo 2^32.
    pub(crate) uses: u32,
    /// What it is.
    pub(crate) status: WindowStatus,
}

impl WindowInfo {
    /// `window`, if it is in use. With the lock, or while it cannot change otherwise.
    pub(super) fn new(window: &Window) -> Option<Self> {
        let users = window.users();
        let (status, users) = match window.state() {
            State::Free => return None,
            State::Live if users == 0 => (WindowStatus::Idle, 0),
            State::Live => (WindowStatus::Live, users),
            State::Fixed => (WindowStatus::Fixed, 0),
            State::Pending | State::Retired => (WindowStatus::Returning, 0),
            State::Lost => (WindowStatus::Lost, 0),
        };
        Some(Self {
            span: window.span()?,
            iova: window.iova(),
            users,
            uses: window.uses(),
            status,
        })
    }
}

/// What an engine did so far, and has now.
pub(crate) struct Snapshot {
    /// What was counted.
    pub(crate) stats: Stats,
    /// Mappings of drivers that there are now.
    pub(crate) users: u64,
    /// Windows by [`WindowStatus`] and by log2 of their bytes.
    pub(crate) sizes: [[u32; u64::BITS as usize]; WINDOW_STATUSES],
}

impl Snapshot {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self {
            stats: Stats::NONE,
            users: 0,
            sizes: [[0; u64::BITS as usize]; WINDOW_STATUSES],
        }
    }

    /// Mappings of drivers that were made by windows.
    pub(crate) fn maps(&self) -> u64 {
        self.stats.uses.saturating_sub(self.stats.undone)
    }

    /// How many of these were given up.
    pub(crate) fn unmaps(&self) -> u64 {
        self.maps().saturating_sub(self.users)
    }

    /// How many of these found a window.
    pub(crate) fn hits(&self) -> u64 {
        self.maps().saturating_sub(self.stats.misses)
    }

    fn add(&mut self, seen: &WindowInfo) {
        self.users = self.users.saturating_add(u64::from(seen.users));
        // CAST: A logarithm is small, and so are the discriminants.
        let size = seen.span.len().checked_ilog2().unwrap_or(0) as usize;
        let sizes = self.sizes.get_mut(seen.status as usize);
        if let Some(count) = sizes.and_then(|sizes| sizes.get_mut(size)) {
            *count = count.saturating_add(1);
        }
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Looks at everything; `snapshot` is a new one. Windows may come and go meanwhile. Any context;
    /// interrupts are off for some thousand windows at a time.
    pub(crate) fn snapshot(&self, snapshot: &mut Snapshot) {
        self.sweep(|state, _, window| {
            count_uses(state, window);
            if let Some(seen) = WindowInfo::new(window) {
                snapshot.add(&seen);
            }
        });
        snapshot.stats = self.stats();
    }

    /// Adds up how often windows were used; to be called before one can have been 2^32 times, and
    /// not only then. Any context; as [`Self::snapshot`].
    pub(crate) fn count_uses(&self) {
        self.sweep(|state, _, window| count_uses(state, window));
    }

    /// The first window in use from the number `from` on, with its number; numbers begin with 1.
    /// Any context; interrupts are off for some windows at a time.
    pub(crate) fn window_from(&self, from: Id) -> Option<(Id, WindowInfo)> {
        let mut id = from.max(1);
        loop {
            let state = self.state.lock();
            let last = state.free_windows.last_id();
            for _ in 0..SCAN {
                if id > last {
                    return None;
                }
                if let Some(seen) = self.windows.get(id).and_then(WindowInfo::new) {
                    return Some((id, seen));
                }
                id = id.checked_add(1)?;
            }
        }
    }
}

/// Counts the uses of a window since it was last counted.
pub(super) fn count_uses<H>(state: &mut Locked<H>, window: &Window) {
    let uses = u64::from(window.count_uses());
    state.stats.uses = state.stats.uses.wrapping_add(uses);
}
