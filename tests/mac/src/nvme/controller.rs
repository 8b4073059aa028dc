// SPDX-License-Identifier: GPL-2.0

//! The register file, the life of the queues, and the state that they share.

use crate::addr::Iova;
use crate::bus::{
    Bus,
    DmaError, //
};
use crate::device::Device;
use crate::nvme::identify::Smart;
use crate::nvme::pace::Pace;
use crate::nvme::queue::{
    CompletionQueue,
    Stop,
    SubmissionQueue, //
};
use crate::nvme::spec::*;
use crate::nvme::{
    admin,
    io as nvm,
    Disk,
    Params, //
};
use crate::pci::{
    Bar,
    Identity,
    MsixLayout, //
};
use crate::stats::count;
use crate::sync::lock;
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        Mutex, //
    },
    thread::{
        self,
        JoinHandle, //
    },
    time::Duration, //
};

const BAR_SIZE: u64 = 0x4000;
const MSIX_TABLE: u32 = 0x2000;
const MSIX_PENDING: u32 = 0x3000;

/// A submission queue with its thread.
pub struct Worker {
    /// The queue.
    pub sq: Arc<SubmissionQueue>,
    thread: JoinHandle<()>,
}

/// State that changes while the controller runs.
#[derive(Default)]
pub struct State {
    cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    /// Submission queues by number.
    pub sqs: BTreeMap<u16, Worker>,
    /// Completion queues by number.
    pub cqs: BTreeMap<u16, Arc<CompletionQueue>>,
    /// Features that were set, by identifier and selector.
    pub features: BTreeMap<(u8, u32), u32>,
    /// Asynchronous event requests, which wait for an event that never happens.
    pub async_events: usize,
}

/// State that the threads of the queues share.
pub struct Core {
    /// The device's side of the bus.
    pub bus: Arc<Bus>,
    /// The medium.
    pub disk: Disk,
    /// Geometry and limits.
    pub params: Params,
    /// Time that an I/O command takes before its data moves.
    pub delay: Duration,
    /// The speed of the medium.
    pub pace: Pace,
    /// Registers and queues. Not held during DMA.
    pub state: Mutex<State>,
    /// Counters for the SMART log.
    pub smart: Mutex<Smart>,
}

/// The device.
pub struct Controller {
    core: Arc<Core>,
}

impl Controller {
    /// Creates a controller of `disk`. `bus` has a vector for each pair of queues and one for the
    /// admin queues.
    pub fn new(bus: Arc<Bus>, disk: Disk, params: Params, delay: Duration) -> io::Result<Self> {
        Ok(Self {
            core: Arc::new(Core {
                bus,
                disk,
                params,
                delay,
                pace: Pace::new(params.rate),
                state: Mutex::default(),
                smart: Mutex::default(),
            }),
        })
    }

    /// Returns the number of threads of queues.
    #[cfg(test)]
    pub fn threads(&self) -> usize {
        Arc::strong_count(&self.core) - 1
    }

    fn violation(&self, what: String) {
        let bus = &self.core.bus;
        bus.counters.violation(&bus.name, what);
    }

    /// Returns the aligned dword at `offset`.
    fn get(&self, offset: u64) -> u32 {
        let state = lock(&self.core.state);
        let cap = capabilities();
        match offset {
            reg::CAP => cap as u32,
            0x04 => (cap >> 32) as u32,
            reg::VS => VERSION,
            reg::CC => state.cc,
            reg::CSTS => state.csts,
            reg::AQA => state.aqa,
            reg::ASQ => state.asq as u32,
            0x2c => (state.asq >> 32) as u32,
            reg::ACQ => state.acq as u32,
            0x34 => (state.acq >> 32) as u32,
            // Write-only, reserved, or of a feature that the controller lacks: 0.
            _ => 0,
        }
    }

    fn set(&self, offset: u64, value: u32) {
        let mut state = lock(&self.core.state);
        let high = |old: u64| (old & 0xffff_ffff) | (u64::from(value) << 32);
        let low = |old: u64| (old & !0xffff_ffff) | u64::from(value);
        match offset {
            reg::CC => {
                drop(state);
                self.core.set_cc(value);
            }
            reg::AQA => state.aqa = value & 0x0fff_0fff,
            reg::ASQ => state.asq = low(state.asq) & !0xfff,
            0x2c => state.asq = high(state.asq),
            reg::ACQ => state.acq = low(state.acq) & !0xfff,
            0x34 => state.acq = high(state.acq),
            // MSI-X has its own masks; there is no subsystem to reset.
            reg::INTMS | reg::INTMC | reg::NSSR => (),
            _ => {
                drop(state);
                self.violation(format!("write to read-only register {offset:#x}"));
            }
        }
    }

    fn doorbell(&self, offset: u64, value: u32) {
        let index = (offset - reg::DOORBELLS) / 4;
        let id = (index / 2) as u16;
        let state = lock(&self.core.state);
        let good = match index % 2 {
            0 => state.sqs.get(&id).map(|w| w.sq.set_tail(value)),
            _ => state.cqs.get(&id).map(|cq| cq.set_head(value)),
        };
        drop(state);
        let side = ["submission", "completion"][(index % 2) as usize];
        match good {
            Some(true) => (),
            Some(false) => self.violation(format!("{side} doorbell {id}: bad value {value}")),
            None => self.violation(format!("{side} doorbell {id}: no such queue")),
        }
    }
}

/// Returns whether a register may be at `offset`. An access aligned to its size ends inside, too.
fn inside(bar: u8, offset: u64) -> bool {
    bar == 0 && offset < BAR_SIZE
}

/// Returns CAP: 1024 entries, contiguous queues, 10 s to get ready, the NVM command set, pages of 4
/// KiB to 64 KiB.
fn capabilities() -> u64 {
    u64::from(MAX_ENTRIES - 1) | (1 << 16) | (20 << 24) | (1 << 37) | (u64::from(MPS_MAX) << 52)
}

impl Device for Controller {
    fn kind(&self) -> &'static str {
        "nvme"
    }

    fn identity(&self) -> Identity {
        Identity {
            vendor: 0x1234,
            device: 0xd3a1,
            class: 0x01_0802,
            bars: vec![Bar {
                index: 0,
                size: BAR_SIZE,
                wide: true,
            }],
            msix: Some(MsixLayout {
                vectors: self.core.bus.msix.count(),
                bar: 0,
                table: MSIX_TABLE,
                pending: MSIX_PENDING,
            }),
            msi: 0,
        }
    }

    fn read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        let len = data.len() as u64;
        let good = inside(bar, offset) && matches!(len, 1 | 2 | 4 | 8) && offset % len == 0;
        if !good {
            self.violation(format!("read of {len} bytes at BAR{bar} + {offset:#x}"));
            data.fill(0xff);
            return;
        }
        for (at, byte) in (offset..).zip(data) {
            let dword = self.get(at & !3).to_le_bytes();
            *byte = dword[(at & 3) as usize];
        }
    }

    fn write(&self, bar: u8, offset: u64, data: &[u8]) {
        let len = data.len() as u64;
        let good = inside(bar, offset) && matches!(len, 4 | 8) && offset % len == 0;
        if !good {
            self.violation(format!("write of {len} bytes at BAR{bar} + {offset:#x}"));
            return;
        }
        for (at, dword) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
            let value = u32::from_le_bytes([dword[0], dword[1], dword[2], dword[3]]);
            match at {
                0..reg::DOORBELLS => self.set(at, value),
                at if at < MSIX_TABLE.into() => self.doorbell(at, value),
                _ => (),
            }
        }
    }

    fn reset(&self) {
        self.core.stop_all();
        *lock(&self.core.state) = State::default();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.core.stop_all();
    }
}

impl Core {
    /// Returns the bytes of a page, which the guest chose.
    pub fn page(&self) -> usize {
        cc_page(lock(&self.state).cc)
    }

    /// Returns CC.
    pub fn cc(&self) -> u32 {
        lock(&self.state).cc
    }

    fn set_cc(self: &Arc<Self>, cc: u32) {
        let was = std::mem::replace(&mut lock(&self.state).cc, cc);
        match (was & CC_EN != 0, cc & CC_EN != 0) {
            (false, true) => self.enable(),
            (true, false) => {
                // The guest may reuse its memory once it sees RDY at 0: every thread has ended by
                // then.
                self.stop_all();
                let mut state = lock(&self.state);
                *state = State {
                    cc,
                    aqa: state.aqa,
                    asq: state.asq,
                    acq: state.acq,
                    ..State::default()
                };
            }
            _ => (),
        }
        let mut state = lock(&self.state);
        match cc_shn(cc) {
            0 => state.csts &= !(3 << 2),
            // No cache here has to be written at a shutdown.
            _ => state.csts = (state.csts & !(3 << 2)) | CSTS_SHST_DONE,
        }
    }

    fn enable(self: &Arc<Self>) {
        let state = lock(&self.state);
        let sq_size = (state.aqa & 0xfff) + 1;
        let cq_size = ((state.aqa >> 16) & 0xfff) + 1;
        let page = cc_page(state.cc) as u64;
        let good = (state.cc >> 7) & 0xf <= MPS_MAX
            && (state.cc >> 4) & 7 == 0
            && sq_size >= 2
            && cq_size >= 2
            && state.asq % page == 0
            && state.acq % page == 0;
        let (asq, acq) = (Iova(state.asq), Iova(state.acq));
        drop(state);
        if !good {
            log::warn!("{}: enabled with bad registers", self.bus.name);
            return self.fatal();
        }
        let cq = Arc::new(CompletionQueue::new(acq, cq_size, Some(0)));
        let sq = Arc::new(SubmissionQueue::new(0, asq, sq_size, cq.clone(), 0));
        lock(&self.state).cqs.insert(0, cq);
        match self.start(sq) {
            Ok(()) => lock(&self.state).csts |= CSTS_RDY,
            Err(e) => {
                log::error!("{}: no thread for a queue: {e}", self.bus.name);
                self.fatal();
            }
        }
    }

    /// Starts the thread of a submission queue.
    pub fn start(self: &Arc<Self>, sq: Arc<SubmissionQueue>) -> io::Result<()> {
        let core = self.clone();
        let queue = sq.clone();
        let thread = thread::Builder::new()
            .name(format!("{}-q{}", self.bus.name, sq.id))
            .spawn(move || core.work(&queue))?;
        lock(&self.state).sqs.insert(sq.id, Worker { sq, thread });
        Ok(())
    }

    /// Ends a submission queue: after the return it makes no DMA. Returns whether the queue
    /// existed.
    pub fn stop(&self, id: u16) -> bool {
        let Some(worker) = lock(&self.state).sqs.remove(&id) else {
            return false;
        };
        worker.sq.stop();
        if worker.thread.join().is_err() {
            log::error!("{}: the thread of queue {id} has panicked", self.bus.name);
        }
        true
    }

    /// Ends all queues. The admin queue is the first: it could create new ones.
    fn stop_all(&self) {
        loop {
            let first = lock(&self.state).sqs.keys().next().copied();
            match first {
                Some(id) => self.stop(id),
                None => return,
            };
        }
    }

    /// Sets the fatal status.
    fn fatal(&self) {
        log::warn!("{}: fatal status", self.bus.name);
        lock(&self.state).csts |= CSTS_CFS;
    }

    /// Runs commands in the thread of a submission queue.
    fn work(self: &Arc<Self>, sq: &SubmissionQueue) {
        loop {
            match self.step(sq) {
                Ok(()) => (),
                Err(Stop::Asked | Stop::Dma(DmaError::Down)) => return,
                Err(Stop::Dma(DmaError::Fault(iova))) => {
                    log::warn!("{}: queue {}: fault at {iova}", self.bus.name, sq.id);
                    return self.fatal();
                }
            }
        }
    }

    /// Runs one command.
    fn step(self: &Arc<Self>, sq: &SubmissionQueue) -> Result<(), Stop> {
        let command = sq.next(&self.bus)?;
        log::trace!("{}: queue {}: {command:x?}", self.bus.name, sq.id);
        let outcome = match sq.id {
            0 => admin::execute(self, sq, &command),
            _ => nvm::execute(self, sq, &command).map(|()| Some(0)),
        };
        if sq.stopped() {
            return Err(Stop::Asked);
        }
        let (result, status) = match outcome {
            Ok(Some(result)) => (result, Status::SUCCESS),
            Ok(None) => return Ok(()),
            Err(status) => {
                log::debug!("{}: queue {}: {status:x?}", self.bus.name, sq.id);
                (0, status)
            }
        };
        count(&self.bus.counters.commands, 1);
        sq.complete(&self.bus, command.cid(), result, status)
    }
}
