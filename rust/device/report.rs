// SPDX-License-Identifier: GPL-2.0

//! Failed calls of the device driver: counted, traced, and logged at a limited rate.
//!
//! A message about a single call belongs here.

use super::scatterlist::Entries;
use super::Instance;
use crate::addr::Address;
use crate::engine::{
    MapError,
    Request, //
};
use crate::observe::trace::TraceStart;
use crate::sys::Relaxed;
use kernel::{
    ffi::c_ulong,
    fmt,
    prelude::*, //
};

/// The memory of a call of the device driver.
#[derive(Clone, Copy)]
pub(super) struct Call {
    /// The first address: guest-physical for a map call, otherwise an IOVA.
    addr: u64,
    /// The length in bytes; 0 if it is not known.
    len: u64,
    /// The number of entries if the call is about a scatterlist.
    nents: Option<u32>,
}

impl Call {
    /// Creates a call about `len` bytes at `addr`.
    pub(super) fn single(addr: u64, len: usize) -> Self {
        Self {
            addr,
            // CAST: `usize` has at most 64 bits.
            len: len as u64,
            nents: None,
        }
    }

    /// Creates a call to map the entries of a scatterlist.
    pub(super) fn scatterlist(entries: Entries<'_>) -> Self {
        let nents = entries.nents();
        let mut spans = entries.filter_map(|entry| entry.span()).peekable();
        Self {
            addr: spans.peek().map_or(0, |span| span.start().raw()),
            len: spans.fold(0, |sum: u64, span| sum.saturating_add(span.len())),
            nents: Some(nents),
        }
    }

    /// Creates a call to unmap the entries of a scatterlist.
    pub(super) fn mapped_scatterlist(entries: Entries<'_>) -> Self {
        let nents = entries.nents();
        let mut spans = entries.filter_map(|entry| entry.mapped());
        Self {
            addr: spans.next().map_or(0, |span| span.start().raw()),
            len: 0,
            nents: Some(nents),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nents {
            Some(_) => f.write_str("a scatterlist"),
            None => write!(f, "{} bytes", self.len),
        }
    }
}

/// The choice of whether a failed call is logged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loudness {
    /// At a limited rate.
    Logged,
    /// Not at all: the driver says that it can do without.
    Silent,
}

impl Loudness {
    /// Returns what the attributes of a mapping ask for.
    pub(super) fn of(attrs: c_ulong) -> Self {
        // CAST: The attribute is a bit of an `unsigned long`.
        if attrs & kernel::bindings::DMA_ATTR_NO_WARN as c_ulong != 0 {
            Loudness::Silent
        } else {
            Loudness::Logged
        }
    }
}

impl Instance<'_> {
    /// Reports that `call` of a device that reaches addresses up to `dma_limit` could not be
    /// mapped.
    ///
    /// Context: any.
    #[cold]
    #[inline(never)]
    pub(super) fn fail(
        &self,
        error: MapError,
        call: Call,
        dma_limit: u64,
        start: TraceStart,
        loudness: Loudness,
    ) {
        if let Some(count) = self.failures.get(error.index()) {
            count.fetch_add(1, Relaxed);
        }
        self.note_refusal(error);
        let memory = (call.addr, call.len);
        self.source
            .refusal(error, memory, call.nents.unwrap_or(1), dma_limit, start);
        // Drivers that were not told of a shutdown go on for a while.
        let is_news = loudness == Loudness::Logged && error != MapError::Closed;
        if is_news && self.failure_log.allows() {
            self.log_failure(error, call, dma_limit);
        }
    }

    /// Logs why a call could not be mapped.
    fn log_failure(&self, error: MapError, call: Call, dma_limit: u64) {
        let (dev, name) = (self.dev, self.managed);
        let reason = error.as_str();
        let (usage, limits) = (self.engine.stats().usage, self.engine.limits());
        match error {
            MapError::Full(_) => dev_err!(
                dev,
                "{}: cannot map {} at {:#x}: {}: {} of max_bytes={}, {} of max_entries={} used\n",
                name,
                call,
                call.addr,
                reason,
                usage.bytes,
                limits.bytes,
                usage.entries,
                limits.entries
            ),
            MapError::Unreachable(iova) => dev_err!(
                dev,
                "{}: cannot map {} at {:#x}: {}: {:#x} > {:#x}\n",
                name,
                call,
                call.addr,
                reason,
                iova.raw(),
                dma_limit
            ),
            MapError::Rejected(reply) => dev_err!(
                dev,
                "{}: cannot map {} at {:#x}: {}: {}\n",
                name,
                call,
                call.addr,
                reason,
                reply.as_str()
            ),
            _ => dev_err!(
                dev,
                "{}: cannot map {} at {:#x}: {}\n",
                name,
                call,
                call.addr,
                reason
            ),
        }
    }

    /// Reports a misuse, as [`Self::report_misuse`], of a scatterlist.
    ///
    /// Context: any.
    #[cold]
    #[inline(never)]
    pub(super) fn report_sg_misuse(&self, entries: Entries<'_>) {
        self.report_misuse(Call::mapped_scatterlist(entries));
    }

    /// Reports that a device driver unmapped, or used, memory that it had not mapped.
    ///
    /// Context: any.
    #[cold]
    #[inline(never)]
    pub(super) fn report_misuse(&self, call: Call) {
        if self.engine.is_closed() {
            // The module unmapped it, not the driver.
            return;
        }
        self.misuses.fetch_add(1, Relaxed);
        self.source.misuse(call.addr, call.len);
        if self.misuse_log.allows() {
            dev_err!(
                self.dev,
                "{}: driver bug: unmapping {} at {:#x}, which is not mapped\n",
                self.managed,
                call,
                call.addr
            );
        }
    }
}
