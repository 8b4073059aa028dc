// SPDX-License-Identifier: GPL-2.0

//! Precise descriptions of the failures of a test.
//!
//! A failure is created in any context, so it is a small value; only its reader turns it into text.

use crate::bindings as uapi;
use crate::engine::Iova;
use kernel::{
    dma::DataDirection,
    fmt,
    prelude::*, //
};

/// Reason for the failure of a test.
#[derive(Clone, Copy)]
pub(crate) enum Reason {
    /// A function of the kernel returned an error.
    Call { what: &'static str, error: Error },
    /// The DMA API returned no address for memory.
    Refused { what: &'static str, error: Error },
    /// An operation succeeded that must fail.
    Worked { what: &'static str },
    /// Memory does not hold the expected data.
    Byte {
        what: &'static str,
        index: usize,
        expected: u8,
        found: u8,
    },
    /// The engine read other bytes than the CPU wrote.
    Checksum { expected: u32, found: u32 },
    /// A number is wrong.
    Value {
        what: &'static str,
        expected: u64,
        found: u64,
    },
    /// The engine's access faulted.
    Fault { command: u32, iova: Iova },
    /// The engine's access did not fault.
    NoFault { command: u32 },
    /// The engine ended a command with an unexpected status.
    Status { command: u32, status: u32 },
    /// The engine did not end a command in time.
    Timeout { command: u32 },
    /// The engine ended a command without the requested interrupt.
    LostInterrupt { command: u32 },
}

/// The operation during which a test failed.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) len: usize,
    pub(crate) offset: usize,
    pub(crate) direction: DataDirection,
    /// Address of the memory for the device, if the memory was mapped.
    pub(crate) iova: Option<Iova>,
}

impl Place {
    /// Returns the whole of a memory of `len` bytes, without an address yet.
    pub(crate) fn whole(len: usize, direction: DataDirection) -> Self {
        Self {
            len,
            offset: 0,
            direction,
            iova: None,
        }
    }
}

/// The failure of a test.
#[derive(Clone, Copy)]
pub(crate) struct Failure {
    reason: Reason,
    place: Option<Place>,
}

impl Failure {
    /// Creates a failure for this reason.
    pub(crate) fn new(reason: Reason) -> Self {
        Self {
            reason,
            place: None,
        }
    }

    /// Creates the failure of a function of the kernel, which returned `error`; `what` was the
    /// purpose.
    pub(crate) fn call(what: &'static str, error: Error) -> Self {
        Self::new(Reason::Call { what, error })
    }

    /// Creates the failure of the DMA API to return an address; `what` was the purpose.
    pub(crate) fn refused(what: &'static str, error: Error) -> Self {
        Self::new(Reason::Refused { what, error })
    }

    /// Returns whether the reason is that the DMA API returned no address, as it may at any time.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.reason, Reason::Refused { .. })
    }

    /// Returns whether the reason is that the engine read other data than expected.
    pub(crate) fn is_of_data(&self) -> bool {
        matches!(self.reason, Reason::Checksum { .. })
    }

    /// Returns the error number for the reason.
    pub(crate) fn errno(&self) -> Error {
        match self.reason {
            Reason::Call { error, .. } | Reason::Refused { error, .. } => error,
            Reason::Timeout { .. } | Reason::LostInterrupt { .. } => ETIMEDOUT,
            _ => EIO,
        }
    }
}

/// Adds the place to a failure, which does not know its place.
pub(crate) trait At {
    /// Adds the place, unless code closer to the failure added one.
    fn at(self, place: impl FnOnce() -> Place) -> Self;
}

impl<T> At for Result<T, Failure> {
    fn at(self, place: impl FnOnce() -> Place) -> Self {
        self.map_err(|failure| Failure {
            place: failure.place.or_else(|| Some(place())),
            ..failure
        })
    }
}

/// Turns an error of a function of the kernel into a failure.
pub(crate) trait Doing<T> {
    /// Turns the error into a failure of the operation `what`.
    fn doing(self, what: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::call(what, error.into()))
    }
}

/// Fails unless `found` is `expected`.
pub(crate) fn expect(what: &'static str, expected: u64, found: u64) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    Err(Failure::new(Reason::Value {
        what,
        expected,
        found,
    }))
}

/// Returns the engine's name of a command.
fn command_name(command: u32) -> &'static str {
    match command {
        uapi::DMA_ENGINE_CMD_READ => "READ",
        uapi::DMA_ENGINE_CMD_WRITE => "WRITE",
        uapi::DMA_ENGINE_CMD_COPY => "COPY",
        uapi::DMA_ENGINE_CMD_FILL => "FILL",
        uapi::DMA_ENGINE_CMD_CHECKSUM => "CHECKSUM",
        _ => "unknown command",
    }
}

/// Returns the word for a direction in commands.
pub(crate) fn direction_name(direction: DataDirection) -> &'static str {
    match direction {
        DataDirection::Bidirectional => "bidir",
        DataDirection::ToDevice => "to",
        DataDirection::FromDevice => "from",
        DataDirection::None => "none",
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Call { what, error } | Self::Refused { what, error } => {
                write!(f, "{what}: {error:?}")
            }
            Self::Worked { what } => write!(f, "{what} worked, but must fail"),
            Self::Byte {
                what,
                index,
                expected,
                found,
            } => write!(
                f,
                "{what}: byte {index} is {found:#04x}, not {expected:#04x}"
            ),
            Self::Checksum { expected, found } => write!(
                f,
                "the engine reads other bytes than the CPU wrote: CRC {found:#010x}, not \
                 {expected:#010x}"
            ),
            Self::Value {
                what,
                expected,
                found,
            } => write!(f, "{what} is {found:#x}, not {expected:#x}"),
            Self::Fault { command, iova } => write!(
                f,
                "{} faulted at {:#x}",
                command_name(command),
                iova.value()
            ),
            Self::NoFault { command } => {
                write!(f, "{} did not fault, but must", command_name(command))
            }
            Self::Status { command, status } => {
                write!(f, "{} ended with status {status}", command_name(command))
            }
            Self::Timeout { command } => write!(
                f,
                "{} did not end in time, bus mastering is off now",
                command_name(command)
            ),
            Self::LostInterrupt { command } => {
                write!(f, "{} ended without an interrupt", command_name(command))
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.reason, f)?;
        if let Some(place) = self.place {
            write!(
                f,
                "; len={} off={} dir={}",
                place.len,
                place.offset,
                direction_name(place.direction)
            )?;
            if let Some(iova) = place.iova {
                write!(f, " iova={:#x}", iova.value())?;
            }
        }
        Ok(())
    }
}
