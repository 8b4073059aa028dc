// SPDX-License-Identifier: GPL-2.0

//! What the engine tells whoever wants to see what it does, when it does it.

use super::stats::Seen;
use crate::addr::GpaSpan;
use crate::host::wire::{
    Reject,
    REJECTS, //
};

/// What the host is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// To map.
    Map,
    /// To take a mapping back.
    Unmap,
}

/// What is wrong with an answer of the host about a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostError {
    /// It refused.
    Refused,
    /// There is none.
    Silent,
    /// It cannot be believed.
    Rejected(Reject),
}

/// How many kinds of [`HostError`] there are.
pub(crate) const HOST_ERRORS: usize = REJECTS + 2;

impl HostError {
    /// All kinds, in the order of [`Self::index`].
    pub(crate) const ALL: [Self; HOST_ERRORS] = [
        HostError::Refused,
        HostError::Silent,
        HostError::Rejected(Reject::Status),
        HostError::Rejected(Reject::Id),
        HostError::Rejected(Reject::Length),
        HostError::Rejected(Reject::Offset),
        HostError::Rejected(Reject::Range),
        HostError::Rejected(Reject::Overlap),
    ];

    /// The kind as a number below [`HOST_ERRORS`].
    pub(crate) fn index(self) -> usize {
        match self {
            HostError::Refused => 0,
            HostError::Silent => 1,
            // CAST: The discriminants are small.
            HostError::Rejected(reject) => 2usize.saturating_add(reject as usize),
        }
    }
}

/// How a mapping of a driver is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// By an addition: all of RAM is mapped.
    Whole,
    /// By a window that is there.
    Window,
    /// By one that has to be made, or to be looked for with the lock.
    Host,
}

/// Somebody who is told. Called in any context, also with the engine's lock held and interrupts
/// off: must not sleep, nor call the engine.
pub(crate) trait Observer: Send + Sync {
    /// The host made a window.
    fn created(&self, _window: &Seen) {}

    /// A window that was idle is used again.
    fn reused(&self, _window: &Seen) {}

    /// The host took a window back.
    fn returned(&self, _window: &Seen) {}

    /// An answer of the host about the window for `span` is not what was asked for.
    fn host_error(&self, _command: Command, _span: &GpaSpan, _error: HostError) {}
}

/// Nobody.
impl Observer for () {}
