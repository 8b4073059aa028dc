// SPDX-License-Identifier: GPL-2.0

//! Statistics of the engine, and inspection of its windows.
//!
//! A new counter is a line of [`Counters`] and a call of [`Counter::inc`] where the event happens.
//! Mapping and unmapping by an existing window count nothing: the reference word of each window
//! records how often it was taken, and is added up from time to time.

use super::budget::Usage;
use super::host::HOST_ERRORS;
use super::{
    Engine,
    Host,
    Observer, //
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
use core::ffi::CStr;

/// Windows that are looked at while the lock is held, to find one that is in use.
const SCAN: u32 = 1024;

/// A number of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counter(u64);

impl Counter {
    /// No events.
    pub(super) const ZERO: Self = Self(0);

    /// Counts one event.
    pub(super) fn inc(&mut self) {
        self.add(1);
    }

    /// Counts `events` events.
    pub(super) fn add(&mut self, events: u64) {
        self.0 = self.0.saturating_add(events);
    }

    /// Returns the number of events.
    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

/// Defines [`Counters`]. Each group has a method that iterates over its counters in order, with the
/// names that debugfs prints; `unlisted` counters are for other uses.
macro_rules! counters {
    (
        unlisted { $($(#[$unlisted_doc:meta])* $unlisted:ident,)* }
        $(
            $(#[$group_doc:meta])*
            $group:ident { $($(#[$doc:meta])* $name:ident,)* }
        )*
    ) => {
        /// Counters of events, protected by the engine lock.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct Counters {
            $($($(#[$doc])* pub(crate) $name: Counter,)*)*
            $($(#[$unlisted_doc])* pub(crate) $unlisted: Counter,)*
        }

        impl Counters {
            /// No events.
            pub(super) const ZERO: Self = Self {
                $($($name: Counter::ZERO,)*)*
                $($unlisted: Counter::ZERO,)*
            };

            $(
                $(#[$group_doc])*
                pub(crate) fn $group(&self) -> impl Iterator<Item = (&'static str, u64)> {
                    [$((stringify!($name), self.$name.get()),)*].into_iter()
                }
            )*
        }
    };
}

counters! {
    unlisted {
        /// Batches sent.
        doorbells,
        /// References to windows taken, as far as they are added up; see [`Snapshot::maps`].
        uses,
        /// References of these that were dropped again because the map call failed.
        undone,
    }

    /// Returns names and values of the counters of mappings.
    mappings {
        /// Mappings of device drivers that did not find a window without the lock.
        misses,
        /// Mappings of these that the doorbell of another CPU served.
        shared,
    }

    /// Returns names and values of the counters of windows.
    windows {
        /// Windows that the host created.
        windows_created,
        /// Windows that the host unmapped.
        windows_returned,
        /// Windows that were unmapped because they were idle for long.
        windows_aged,
        /// Windows that were unmapped because room was needed.
        windows_reclaimed,
        /// Windows that the host failed to unmap, or did not reply to the request.
        windows_lost,
        /// Windows of these that a retry unmapped.
        windows_recovered,
        /// Windows of an earlier kernel that were unmapped.
        windows_stale,
        /// Buffers of large pages that got a window of their own.
        large,
        /// Buffers of these whose address is congruent to the memory's.
        congruent,
    }

    /// Returns names and values of the counters of retries.
    retries {
        /// Calls that were retried with the smallest windows.
        retries_smaller,
        /// Windows that were retried for the sake of their address.
        retries_misplaced,
        /// Retries to unmap or to map a lost window.
        retries_lost,
    }
}

/// The statistics of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Events.
    pub(crate) counters: Counters,
    /// Failures of the host for a window, by [`super::HostError::index`].
    pub(crate) host_errors: [Counter; HOST_ERRORS],
    /// The amount that is mapped.
    pub(crate) usage: Usage,
}

/// The state of a window as debugfs reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WindowStatus {
    /// Mappings of device drivers use the window.
    Live,
    /// No mapping uses the window.
    Idle,
    /// The window is a region of RAM that is mapped for good.
    Fixed,
    /// The window is about to be unmapped, or not mapped yet.
    Returning,
    /// The host failed to unmap the window.
    Lost,
}

/// Number of [`WindowStatus`]es.
const WINDOW_STATUSES: usize = 5;

impl WindowStatus {
    /// Every [`WindowStatus`], in the order of their discriminants.
    pub(crate) const ALL: [Self; WINDOW_STATUSES] = [
        WindowStatus::Live,
        WindowStatus::Idle,
        WindowStatus::Fixed,
        WindowStatus::Returning,
        WindowStatus::Lost,
    ];

    /// Returns the name, as debugfs prints it.
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            WindowStatus::Live => c"live",
            WindowStatus::Idle => c"idle",
            WindowStatus::Fixed => c"fixed",
            WindowStatus::Returning => c"returning",
            WindowStatus::Lost => c"lost",
        }
    }
}

/// A description of a window at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowInfo {
    /// The guest memory.
    pub(crate) span: GpaSpan,
    /// The address where it is mapped; 0 if that is not known.
    pub(crate) iova: Iova,
    /// Mappings of device drivers that use the window.
    pub(crate) users: u32,
    /// Mappings of device drivers that have used the window, modulo 2^32.
    pub(crate) uses: u32,
    /// The state.
    pub(crate) status: WindowStatus,
}

impl WindowInfo {
    /// Describes `window`; returns [`None`] if it is free.
    ///
    /// Context: engine lock held, or a reference to the window.
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

/// The statistics of an engine, and a summary of its windows.
pub(crate) struct Snapshot {
    /// The statistics, with all uses of windows.
    pub(crate) stats: Stats,
    /// Mappings of device drivers that exist now.
    pub(crate) users: u64,
    /// Windows by [`WindowStatus`] and by log2 of their bytes.
    pub(crate) sizes: [[u32; u64::BITS as usize]; WINDOW_STATUSES],
}

impl Snapshot {
    /// Creates an empty snapshot.
    pub(crate) const fn new() -> Self {
        Self {
            stats: Stats {
                counters: Counters::ZERO,
                host_errors: [Counter::ZERO; HOST_ERRORS],
                usage: Usage::ZERO,
            },
            users: 0,
            sizes: [[0; u64::BITS as usize]; WINDOW_STATUSES],
        }
    }

    /// Returns the number of mappings that device drivers got from windows.
    pub(crate) fn maps(&self) -> u64 {
        let counters = &self.stats.counters;
        counters.uses.get().saturating_sub(counters.undone.get())
    }

    /// Returns the number of these that were unmapped.
    pub(crate) fn unmaps(&self) -> u64 {
        self.maps().saturating_sub(self.users)
    }

    /// Returns the number of these that found a window.
    pub(crate) fn hits(&self) -> u64 {
        self.maps().saturating_sub(self.stats.counters.misses.get())
    }

    fn add(&mut self, window: &WindowInfo) {
        self.users = self.users.saturating_add(u64::from(window.users));
        // CAST: A logarithm is small, and so are the discriminants.
        let size = window.span.len().checked_ilog2().unwrap_or(0) as usize;
        let sizes = self.sizes.get_mut(window.status as usize);
        if let Some(count) = sizes.and_then(|sizes| sizes.get_mut(size)) {
            *count = count.saturating_add(1);
        }
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Returns the statistics, without uses of windows that are not added up yet.
    ///
    /// Context: any.
    pub(crate) fn stats(&self) -> Stats {
        let state = self.state.lock();
        Stats {
            counters: state.counters,
            host_errors: state.host_errors,
            usage: state.budget.usage(),
        }
    }

    /// Fills in `snapshot`, which is a new one. Windows may change meanwhile.
    ///
    /// Context: any. Interrupts are off for some thousand windows at a time.
    pub(crate) fn snapshot(&self, snapshot: &mut Snapshot) {
        self.sweep(|state, id, window| {
            self.count_uses_of(state, id, window);
            if let Some(info) = WindowInfo::new(window) {
                snapshot.add(&info);
            }
        });
        snapshot.stats = self.stats();
    }

    /// Adds up the uses of all windows. Must be called before a window can have been used 2^32
    /// times since the last call, and may be called at any time.
    ///
    /// Context: any. Interrupts are off for some thousand windows at a time.
    pub(crate) fn count_uses(&self) {
        self.sweep(|state, id, window| {
            self.count_uses_of(state, id, window);
        });
    }

    /// Returns the first window that is not free, from the number `from` on, with its number.
    /// Numbers begin with 1.
    ///
    /// Context: any. Interrupts are off for some windows at a time.
    pub(crate) fn window_from(&self, from: Id) -> Option<(Id, WindowInfo)> {
        let mut id = from.max(1);
        loop {
            let state = self.state.lock();
            let last = state.index.last_id();
            for _ in 0..SCAN {
                if id > last {
                    return None;
                }
                if let Some(info) = self.index.window(id).and_then(WindowInfo::new) {
                    return Some((id, info));
                }
                id = id.checked_add(1)?;
            }
        }
    }
}
