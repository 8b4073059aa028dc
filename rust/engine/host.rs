// SPDX-License-Identifier: GPL-2.0

//! The engine's interface to the host: what the engine asks for, and what can come of it.
//!
//! The engine owns these types; the code that talks to the device classifies each reply into them
//! once. A new command, outcome or way in which a reply can be wrong belongs here.

use crate::addr::{
    GpaSpan,
    Iova, //
};
use crate::engine::index::arena::{
    Id,
    NONE, //
};
use core::ffi::CStr;

/// A command of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Maps guest memory.
    Map,
    /// Removes mappings.
    Unmap,
}

impl Command {
    /// Every command, in the order of discriminants.
    pub(crate) const ALL: [Self; 2] = [Command::Map, Command::Unmap];

    /// Returns the name of the command, as tracepoints print it.
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            Command::Map => c"map",
            Command::Unmap => c"unmap",
        }
    }
}

/// A reason why a reply of the host cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyError {
    /// The status was not written, or is none that the protocol knows.
    Status,
    /// The reply is to another request.
    Id,
    /// The mapped length differs from the requested one.
    Length,
    /// The offset in the granule differs from that of the guest-physical address.
    Offset,
    /// The range wraps around, or ends at the address that means "no mapping".
    Range,
    /// The range overlaps one that is still mapped.
    Overlap,
}

/// Number of [`ReplyError`]s.
const REPLY_ERRORS: usize = 6;

impl ReplyError {
    /// Every [`ReplyError`], in the order of their discriminants.
    pub(crate) const ALL: [Self; REPLY_ERRORS] = [
        ReplyError::Status,
        ReplyError::Id,
        ReplyError::Length,
        ReplyError::Offset,
        ReplyError::Range,
        ReplyError::Overlap,
    ];

    /// Returns the name, as debugfs and tracepoints print it, and the text for messages.
    const fn strings(self) -> (&'static CStr, &'static str) {
        match self {
            ReplyError::Status => (c"status", "unknown status"),
            ReplyError::Id => (c"id", "wrong id"),
            ReplyError::Length => (c"length", "wrong length"),
            ReplyError::Offset => (c"offset", "wrong offset in the granule"),
            ReplyError::Range => (c"range", "address range wraps around"),
            ReplyError::Overlap => (c"overlap", "address range already in use"),
        }
    }

    /// Returns the reason as a text for messages.
    pub(crate) fn as_str(self) -> &'static str {
        self.strings().1
    }
}

/// A failure of the host to do what it was asked for one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostError {
    /// The host refused the request.
    Refused,
    /// The host did not reply.
    Silent,
    /// The reply cannot be trusted.
    Rejected(ReplyError),
}

/// Number of kinds of [`HostError`].
pub(crate) const HOST_ERRORS: usize = REPLY_ERRORS + 2;

impl HostError {
    /// Returns all kinds, in the order of [`Self::index`].
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [HostError::Refused, HostError::Silent]
            .into_iter()
            .chain(ReplyError::ALL.into_iter().map(HostError::Rejected))
    }

    /// Returns the kind as an index below [`HOST_ERRORS`].
    pub(crate) fn index(self) -> usize {
        match self {
            HostError::Refused => 0,
            HostError::Silent => 1,
            // CAST: The discriminants are small.
            HostError::Rejected(error) => 2usize.saturating_add(error as usize),
        }
    }

    /// Returns the name of the kind, as debugfs and tracepoints print it.
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            HostError::Refused => c"refused",
            HostError::Silent => c"silent",
            HostError::Rejected(error) => error.strings().0,
        }
    }
}

/// The outcome of one map request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapOutcome {
    /// Mapped, starting at this address.
    Mapped(Iova),
    /// Refused; nothing is mapped.
    Refused,
    /// The host reports a mapping, but the reply cannot be trusted; something may be mapped.
    Rejected(ReplyError),
    /// No reply; something may be mapped.
    Unknown,
}

/// The outcome of one unmap request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnmapOutcome {
    /// The mapping is gone.
    Unmapped,
    /// Refused: there is no such mapping, or it could not be removed.
    Refused,
    /// The reply cannot be trusted; the mapping may remain.
    Rejected(ReplyError),
    /// No reply; the mapping may remain.
    Unknown,
}

/// One entry of a batch of map requests.
#[derive(Clone, Copy)]
pub(crate) struct MapEntry {
    /// The memory to map. Its first address is the key of the mapping.
    pub(crate) span: GpaSpan,
    /// The outcome, which the host fills in.
    pub(crate) outcome: MapOutcome,
    /// The window that the entry is for.
    pub(super) id: Id,
}

/// One entry of a batch of unmap requests.
#[derive(Clone, Copy)]
pub(crate) struct UnmapEntry {
    /// The memory to unmap. Its first address is the key of the mapping.
    pub(crate) span: GpaSpan,
    /// The outcome, which the host fills in.
    pub(crate) outcome: UnmapOutcome,
    /// The window that the entry is for.
    pub(super) id: Id,
}

impl MapEntry {
    /// Creates an entry without a window.
    pub(crate) fn new(span: GpaSpan) -> Self {
        Self {
            span,
            outcome: MapOutcome::Unknown,
            id: NONE,
        }
    }
}

impl UnmapEntry {
    /// Creates an entry without a window.
    pub(crate) fn new(span: GpaSpan) -> Self {
        Self {
            span,
            outcome: UnmapOutcome::Unknown,
            id: NONE,
        }
    }
}

/// A host that maps and unmaps guest memory in batches.
///
/// Context of all methods: engine lock held, interrupts off; must not sleep.
pub(crate) trait Host: Unpin {
    /// Returns the most entries of one batch; constant.
    fn batch_max(&self) -> usize;

    /// Returns the most bytes of one mapping.
    fn len_max(&self) -> u64;

    /// Returns whether the host can take a batch now. Cheap. A batch that is sent all the same gets
    /// no reply.
    fn is_ready(&mut self) -> bool;

    /// Maps the entries of `batch` with one doorbell and fills in every outcome. `batch` is neither
    /// empty nor longer than [`Self::batch_max`].
    fn map(&mut self, batch: &mut [MapEntry]);

    /// Unmaps the entries of `batch`; otherwise as [`Self::map`].
    fn unmap(&mut self, batch: &mut [UnmapEntry]);
}
