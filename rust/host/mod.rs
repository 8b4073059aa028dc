// SPDX-License-Identifier: GPL-2.0

//! The host, by way of the companion device.
//!
//! A [`Companion`] is the engine's [`Host`]. It writes requests into guest RAM, rings the doorbell,
//! waits for the end of the batch and reads each response once, since the host may change guest RAM
//! at any time. After [`Companion::probe`] nothing here sleeps. The engine's lock, under which all
//! methods that ring are called, makes sure that there is one batch at a time.
//!
//! - `probe`: what is checked and learnt before the first use;
//! - `registers`: BAR0;
//! - `buffers`: the memory that the guest and the host share;
//! - `wire`: the layout of that memory, and which replies can be trusted; pure code;
//! - `doorbell`: ringing, waiting and timeouts;
//! - `doorbell_stats`: counters of doorbells; pure code;
//! - `notices`: what is to be logged once the engine's lock is dropped.
//!
//! Of the rest of the module this folder uses the engine's interface to the host, `abstractions`
//! and the tracepoints. A new command of the host gets its layout in `wire` and a method of
//! [`Host`].

mod buffers;
mod doorbell;
pub(crate) mod doorbell_stats;
mod notices;
mod probe;
mod registers;
pub(crate) mod wire;

pub(crate) use self::{
    buffers::CommandBuffers,
    doorbell::set_master,
    notices::Notices,
    probe::{
        Dart,
        OpenedCompanion, //
    }, //
};

use self::{
    doorbell_stats::DoorbellStats,
    probe::EnabledDevice,
    registers::Registers,
    wire::{
        BatchStatus,
        Dialect,
        Request,
        Response, //
    }, //
};
use crate::engine::{
    Command,
    Host,
    MapEntry,
    MapOutcome,
    Markers,
    UnmapEntry,
    UnmapOutcome, //
};
use crate::observe::trace::EventSource;
use core::mem::ManuallyDrop;
use kernel::{
    device::Bound,
    pci,
    prelude::*,
    sync::Arc,
    time::{
        Instant,
        Monotonic, //
    },
};

/// The companion device of a managed device.
pub(crate) struct Companion<'a> {
    dev: &'a pci::Device<Bound>,
    registers: Registers<'a>,
    buffers: ManuallyDrop<CommandBuffers<'a>>,
    dialect: Dialect,
    /// The most requests of a batch that the host accepts.
    max_entries: u32,
    /// The most requests of a batch that the module sends.
    batch_max: usize,
    /// The time since which a batch is pending that the host did not finish in time. The host may
    /// still write to the buffers, so these are not used, and no batch is sent, until the host has
    /// written the status.
    pending_since: Option<Instant<Monotonic>>,
    /// Number of batches in a row that the host did not finish in time.
    timeouts: u32,
    /// Number of times that the buffers were replaced.
    renewals: u32,
    doorbell_stats: KBox<DoorbellStats>,
    origin: EventSource,
    /// Events to log when the engine lock is not held.
    notices: Arc<Notices<'a>>,
    /// The markers that the host has, unless the engine is to unmap them.
    markers: Markers,
    /// Last, since it is dropped after everything that needs the device.
    _enabled: EnabledDevice<'a>,
}

impl<'a> Companion<'a> {
    /// Returns what is to be logged when the engine lock is not held.
    pub(crate) fn notices(&self) -> Arc<Notices<'a>> {
        self.notices.clone()
    }

    /// Returns the markers that the host has.
    pub(crate) fn markers(&self) -> Markers {
        self.markers
    }

    /// Returns the dialect of the host.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Returns the source of this companion's events.
    pub(crate) fn event_source(&self) -> EventSource {
        self.origin
    }

    /// Returns the most requests of one batch.
    pub(crate) fn batch_max(&self) -> usize {
        self.batch_max
    }

    /// Returns the most requests of one batch that the host accepts.
    pub(crate) fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// Returns a copy of the counters of doorbells.
    pub(crate) fn doorbell_stats(&self) -> DoorbellStats {
        *self.doorbell_stats
    }

    /// Forgets the largest and the longest doorbell of each command.
    pub(crate) fn reset_peaks(&mut self) {
        self.doorbell_stats.reset_peaks();
    }

    /// Returns how often the host got other memory.
    pub(crate) fn renewals(&self) -> u32 {
        self.renewals
    }

    /// Tells the device where the command block is.
    ///
    /// Context: any.
    pub(crate) fn program(&mut self) {
        self.registers.set_command_block(self.buffers.cmd_gpa());
    }

    /// Sends `batch` with one doorbell: writes what `request` returns for each entry, and has
    /// `complete` fill in the outcome of each entry by its reply. `empty` is the response as it is
    /// before the host writes it.
    ///
    /// If the host is not ready nothing is sent and no entry has a reply.
    fn send<E>(
        &mut self,
        command: Command,
        batch: &mut [E],
        empty: Response,
        request: impl Fn(&E) -> Request,
        complete: impl Fn(&mut E, Reply),
    ) {
        if !self.is_ready() {
            for entry in batch {
                complete(entry, Reply::Missing);
            }
            return;
        }
        for (index, entry) in batch.iter().enumerate() {
            self.buffers.put_request(index, &request(entry), &empty);
        }
        let status = self.ring(command, batch.len());
        for (index, entry) in batch.iter_mut().enumerate() {
            let reply = match status {
                BatchStatus::Answered => Reply::Response(self.buffers.response(index, empty)),
                BatchStatus::Invalid => Reply::Invalid,
                BatchStatus::Pending | BatchStatus::Unknown => Reply::Missing,
            };
            complete(entry, reply);
        }
    }
}

/// The reply to one request of a batch.
enum Reply {
    /// The response that the host wrote.
    Response(Response),
    /// Rejection of the whole batch; nothing was done.
    Invalid,
    /// No response; anything may have been done.
    Missing,
}

impl Host for Companion<'_> {
    fn batch_max(&self) -> usize {
        self.batch_max
    }

    fn len_max(&self) -> u64 {
        self.dialect.max_len()
    }

    fn is_ready(&mut self) -> bool {
        let Some(since) = self.pending_since else {
            return true;
        };
        if self.status() == BatchStatus::Pending || self.registers.is_gone() {
            return false;
        }
        // The responses come too late: the requests already count as not answered.
        self.mark_responsive(since, "batch finished");
        true
    }

    fn map(&mut self, batch: &mut [MapEntry]) {
        let dialect = self.dialect;
        self.send(
            Command::Map,
            batch,
            dialect.empty_map_response(),
            |entry| dialect.map_request(&entry.span),
            |entry, reply| {
                entry.outcome = match reply {
                    Reply::Response(response) => dialect.map_outcome(&entry.span, &response),
                    Reply::Invalid => MapOutcome::Refused,
                    Reply::Missing => MapOutcome::Unknown,
                }
            },
        );
    }

    fn unmap(&mut self, batch: &mut [UnmapEntry]) {
        self.send(
            Command::Unmap,
            batch,
            wire::empty_unmap_response(),
            |entry| wire::unmap_request(&entry.span),
            |entry, reply| {
                entry.outcome = match reply {
                    Reply::Response(response) => wire::unmap_outcome(entry.span.start(), &response),
                    Reply::Invalid => UnmapOutcome::Refused,
                    Reply::Missing => UnmapOutcome::Unknown,
                }
            },
        );
    }
}
