// SPDX-License-Identifier: GPL-2.0

//! Doorbells: ringing, waiting for the end of a batch, and a host that does not finish one.
//!
//! A host that does not finish a batch in time is left alone: no batch is sent, and the shared
//! memory is not touched, until the host writes the status of the old batch or gets other memory.

use super::{
    buffers::CommandBuffers,
    notices::Notice,
    wire::{
        self,
        BatchStatus, //
    },
    Companion, //
};
use crate::abstractions::raw;
use crate::bindings as uapi;
use crate::engine::{
    Command,
    Host, //
};
use crate::observe::trace;
use core::mem::ManuallyDrop;
use kernel::{
    device::Bound,
    pci,
    processor::cpu_relax,
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
};

/// The time that the host may take for a batch before it counts as dead. Long enough for any batch,
/// short enough for the watchdogs of a CPU whose interrupts are off.
const TIMEOUT: Delta = Delta::from_secs(2);

/// The timeout of the first batch after one that the host did not finish in time.
const TRIAL_TIMEOUT: Delta = Delta::from_millis(250);

/// The least time for which a host that did not finish a batch is left alone before it gets other
/// memory. Doubles with each further timeout, [`PAUSE_DOUBLINGS`] times at most.
const PAUSE: Delta = Delta::from_secs(4);

/// The most doublings of [`PAUSE`].
const PAUSE_DOUBLINGS: u32 = 6;

/// The most times that the host gets other memory. The memory that is replaced, a few pages, is
/// never used again.
const RENEWALS: u32 = 32;

/// Lets the companion `dev` access memory again, in case it has been reset. To be called before
/// [`Companion::replace_buffers`], without the engine lock: the kernel may log it.
///
/// Context: process.
pub(crate) fn set_master(dev: &pci::Device<Bound>) {
    // SAFETY: The device is valid, and enabled as long as its driver is bound.
    unsafe { kernel::bindings::pci_set_master(raw::pci_dev(dev)) };
}

impl<'a> Companion<'a> {
    /// Rings for the first `count` requests in the buffers and waits for the end of the batch.
    ///
    /// To be called only if no earlier batch is pending, since the host may use the buffers until
    /// the end of a batch.
    pub(super) fn ring(&mut self, command: Command, count: usize) -> BatchStatus {
        // CAST: At most `batch_max`, which is a `u32`.
        let requests = count as u32;
        let arrays = self.buffers.array_gpas();
        self.buffers
            .put_command(&wire::command_block(command, requests, arrays));

        let start = Instant::<Monotonic>::now();
        self.registers.ring_doorbell();
        let is_posted = self.status() == BatchStatus::Pending;
        let status = self.wait();
        let ns = trace::ns(start.elapsed());
        self.doorbell_stats.count(command, requests, status, ns);
        self.doorbell_stats.count_posted(is_posted);
        self.origin.doorbell(command, requests, status, ns);
        // SAFETY: Always safe to call.
        //
        // Orders the reads of the responses after that of the status, which says that they are
        // there.
        unsafe { uapi::apple_dma_helper_dma_rmb() };
        status
    }

    /// Returns what the host wrote into the status of the command block.
    pub(super) fn status(&self) -> BatchStatus {
        BatchStatus::from_word(self.buffers.status_word())
    }

    /// Waits until the host has written the status of the command block, or the timeout. Usually
    /// the status is there at once; if the write to the doorbell was posted, reading a register
    /// makes it arrive.
    fn wait(&mut self) -> BatchStatus {
        let timeout = if self.timeouts == 0 {
            TIMEOUT
        } else {
            TRIAL_TIMEOUT
        };
        let mut start = None;
        loop {
            let status = self.status();
            if status != BatchStatus::Pending {
                self.timeouts = 0;
                return status;
            }
            let gone = self.registers.is_gone();
            let start = *start.get_or_insert_with(Instant::<Monotonic>::now);
            if gone || start.elapsed() > timeout {
                self.mark_unresponsive(start, gone, timeout);
                return BatchStatus::Pending;
            }
            cpu_relax();
        }
    }

    /// Notes that the host did not finish the batch that it got at `since` in `timeout`, or that
    /// the device is gone.
    fn mark_unresponsive(&mut self, since: Instant<Monotonic>, gone: bool, timeout: Delta) {
        self.pending_since = Some(since);
        self.timeouts = self.timeouts.saturating_add(1);
        self.notices.push(if gone {
            Notice::Gone
        } else {
            Notice::TimedOut(timeout.as_millis())
        });
    }

    /// Notes that batches can be sent again, after one that was pending from `since` on. `how` is
    /// the reason, for the message.
    pub(super) fn mark_responsive(&mut self, since: Instant<Monotonic>, how: &'static str) {
        self.pending_since = None;
        let ms = since.elapsed().as_millis();
        self.notices.push(Notice::Responsive(ms, how));
    }

    /// Returns for how many requests the memory for [`Self::replace_buffers`] must be, if it is
    /// time to try other memory on a host that does not finish a batch; with `hurry`, as soon as
    /// other memory is of any use at all.
    ///
    /// Context: engine lock held.
    pub(crate) fn needs_new_buffers(&mut self, hurry: bool) -> Option<usize> {
        if self.is_ready() || self.renewals >= RENEWALS {
            return None;
        }
        let since = self.pending_since?;
        let doublings = self.timeouts.saturating_sub(1).min(PAUSE_DOUBLINGS);
        let pause = PAUSE.as_millis() << doublings;
        if !hurry && since.elapsed().as_millis() < pause {
            return None;
        }
        // It must be the same device as before.
        let fits = self.registers.version() == uapi::APPLE_DMA_PCI_VERSION
            && !self.registers.is_gone()
            && self.registers.max_entries() as usize >= self.batch_max;
        fits.then_some(self.batch_max)
    }

    /// Continues with the memory `fresh`, if a batch is still pending; the old memory is never used
    /// again, since the host may still write to it. Returns memory that is not needed, to be
    /// dropped where sleeping is allowed. To be called after [`set_master`].
    ///
    /// A host handles one doorbell after the other. So when the first batch in the new memory is
    /// finished, nothing more happens to the old one.
    ///
    /// Context: engine lock held.
    pub(crate) fn replace_buffers(
        &mut self,
        fresh: CommandBuffers<'a>,
    ) -> Option<CommandBuffers<'a>> {
        if self.is_ready() {
            return Some(fresh);
        }
        let since = self.pending_since.unwrap_or_else(Instant::now);
        self.buffers = ManuallyDrop::new(fresh);
        self.renewals = self.renewals.saturating_add(1);
        self.program();
        self.mark_responsive(since, "new buffers");
        None
    }
}
