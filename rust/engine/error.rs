// SPDX-License-Identifier: GPL-2.0

//! Failures of a call of a device driver to map memory.
//!
//! A new cause is a variant of [`MapError`] and a row of the table below, which names the cause for
//! debugfs and tracepoints and describes it for messages.

use super::host::ReplyError;
use crate::addr::Iova;
use core::ffi::CStr;

/// A limit on the windows that the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Bytes, in whole granules.
    Bytes,
    /// Windows.
    Entries,
}

/// A reason why memory was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapError {
    /// The range is empty, wraps around or is not system RAM.
    Invalid,
    /// The range is memory of a device, which the DART does not map.
    Mmio,
    /// A limit is reached, and no window is idle.
    Full(Limit),
    /// The host assigned an address that is beyond the device's DMA mask.
    Unreachable(Iova),
    /// The host refused.
    Refused,
    /// The host's reply cannot be trusted.
    Rejected(ReplyError),
    /// The host did not reply.
    NoAnswer,
    /// The engine's tables are full, and no memory is available to grow them.
    NoMemory,
    /// The keys that the window could have are taken.
    NoKey,
}

/// Implements names, texts and indices of [`MapError`] by one row for each cause, in the order of
/// the indices.
macro_rules! causes {
    ($($cause:pat => $name:literal, $text:literal;)*) => {
        impl MapError {
            /// The names of all causes, in the order of [`Self::index`].
            pub(crate) const NAMES: [&'static CStr; [$($name),*].len()] = [$($name),*];

            /// Returns the name, as debugfs and tracepoints print it, and the text for messages.
            const fn strings(self) -> (&'static CStr, &'static str) {
                match self {
                    $($cause => ($name, $text),)*
                }
            }

            /// Returns the cause as an index into [`Self::NAMES`].
            pub(crate) const fn index(self) -> usize {
                let index: usize = 0;
                $(
                    if matches!(self, $cause) {
                        return index;
                    }
                    let index = index.wrapping_add(1);
                )*
                // Not reached: the match above is exhaustive.
                index
            }
        }
    };
}

causes! {
    MapError::Invalid => c"invalid", "empty range or not system RAM";
    MapError::Mmio => c"mmio", "device memory, which the DART does not map";
    MapError::Full(Limit::Bytes) =>
        c"max_bytes", "max_bytes reached and no idle window to reclaim";
    MapError::Full(Limit::Entries) =>
        c"max_entries", "max_entries reached and no idle window to reclaim";
    MapError::Unreachable(_) =>
        c"unreachable", "the assigned address is beyond the device's DMA mask";
    MapError::Refused => c"host_refused", "refused by the host";
    MapError::Rejected(_) => c"host_rejected", "invalid reply from the host";
    MapError::NoAnswer => c"host_silent", "no reply from the host";
    MapError::NoMemory => c"no_memory", "out of memory";
    MapError::NoKey => c"no_key", "no free key";
}

impl MapError {
    /// Returns the name of the cause, as debugfs and tracepoints print it.
    pub(crate) fn name(self) -> &'static CStr {
        self.strings().0
    }

    /// Returns the cause as a text for messages.
    pub(crate) fn as_str(self) -> &'static str {
        self.strings().1
    }
}
