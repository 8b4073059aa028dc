// SPDX-License-Identifier: GPL-2.0

//! Failures of a call of a device driver to map memory.
//!
//! A new cause is a variant of [`MapError`] and a row of the table below, which classifies the
//! cause, names it for debugfs and tracepoints, and describes it for messages.

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
    /// The engine is closed: the device is stopped.
    Closed,
    /// The host assigned no address that is aligned as memory of the DMA API must be.
    Misaligned,
}

/// A class of causes, which decides about the error code that the caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    /// The request can never be served.
    Request,
    /// The request may be served when mappings are gone.
    Space,
    /// The host failed, or its address cannot be used.
    Host,
}

/// Implements classes, names, texts and indices of [`MapError`] by one row for each cause, in the
/// order of the indices.
macro_rules! causes {
    ($($cause:pat => $class:ident, $name:literal, $text:literal;)*) => {
        impl MapError {
            /// The names of all causes, in the order of [`Self::index`].
            pub(crate) const NAMES: [&'static CStr; [$($name),*].len()] = [$($name),*];

            /// Returns the class of the cause.
            pub(crate) const fn class(self) -> ErrorClass {
                match self {
                    $($cause => ErrorClass::$class,)*
                }
            }

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
    MapError::Invalid => Request, c"invalid", "empty range or not system RAM";
    MapError::Mmio => Request, c"mmio", "device memory, which the DART does not map";
    MapError::Full(Limit::Bytes) =>
        Space, c"max_bytes", "max_bytes reached and no idle window to reclaim";
    MapError::Full(Limit::Entries) =>
        Space, c"max_entries", "max_entries reached and no idle window to reclaim";
    MapError::Unreachable(_) =>
        Host, c"unreachable", "the assigned address is beyond the device's DMA mask";
    MapError::Refused => Host, c"host_refused", "refused by the host";
    MapError::Rejected(_) => Host, c"host_rejected", "invalid reply from the host";
    MapError::NoAnswer => Host, c"host_silent", "no reply from the host";
    MapError::NoMemory => Space, c"no_memory", "out of memory";
    MapError::NoKey => Host, c"no_key", "no free key";
    MapError::Closed => Host, c"closed", "the device was stopped";
    MapError::Misaligned => Host, c"misaligned", "no aligned address from the host";
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
