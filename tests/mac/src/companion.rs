// SPDX-License-Identifier: GPL-2.0

//! The companion: its registers, the command block, batches in both dialects.
//!
//! [`crate::dart`] defines mappings; [`crate::hostile`] defines false replies. This companion is
//! stricter than the real one: forbidden acts of a guest are counted as violations.

use crate::addr::Gpa;
use crate::cost::{
    Costs,
    Meter,
    Work, //
};
use crate::dart::{
    Dart,
    Mapping,
    RamBlocks,
    Refusal, //
};
use crate::hostile::{
    Hostile,
    MapReply,
    Scope,
    UnmapReply, //
};
use crate::memory::GuestRam;
use crate::pci::{
    Bar,
    Identity, //
};
use crate::stats::CompanionStats;
use crate::sync::lock;
use crate::wire::companion::*;
use clap::ValueEnum;
use std::{
    fmt,
    mem::{
        offset_of,
        size_of, //
    },
    sync::{
        atomic::{
            AtomicBool,
            AtomicU32,
            Ordering, //
        },
        Arc,
        Mutex,
        RwLock, //
    },
    thread::JoinHandle,
    time::{
        Duration,
        Instant, //
    },
};
use vm_memory::ByteValued;

/// Maximum number of entries in a batch, unless configured otherwise.
pub const DEFAULT_MAX_BATCH: u32 = 4096;

/// Layout of map requests and responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// 32-bit lengths.
    U32,
    /// 64-bit lengths, packed.
    U64,
}

impl Dialect {
    fn other(self) -> Self {
        match self {
            Self::U32 => Self::U64,
            Self::U64 => Self::U32,
        }
    }

    fn request_size(self) -> usize {
        match self {
            Self::U32 => size_of::<apple_dma_pci_map_req32>(),
            Self::U64 => size_of::<apple_dma_pci_map_req64>(),
        }
    }

    fn response_size(self) -> usize {
        match self {
            Self::U32 => size_of::<apple_dma_pci_map_resp32>(),
            Self::U64 => size_of::<apple_dma_pci_map_resp64>(),
        }
    }

    /// Returns (gpa, len, flags) of a request of [`request_size`](Self::request_size) bytes.
    fn parse(self, bytes: &[u8]) -> (u64, u64, u32) {
        match self {
            Self::U32 => {
                let r: apple_dma_pci_map_req32 = object(bytes);
                (r.gpa, r.len.into(), r.flags)
            }
            Self::U64 => {
                let r: apple_dma_pci_map_req64 = object(bytes);
                (r.gpa, r.len, r.flags)
            }
        }
    }

    /// Returns the bytes to write for a reply, and their offset in the response.
    fn render(self, reply: MapReply) -> Option<(usize, Vec<u8>)> {
        match (reply, self) {
            (MapReply::Untouched, _) => None,
            (MapReply::Failed(status), Self::U32) => {
                let at = offset_of!(apple_dma_pci_map_resp32, status);
                Some((at, status.to_le_bytes().to_vec()))
            }
            (MapReply::Failed(status), Self::U64) => {
                let at = offset_of!(apple_dma_pci_map_resp64, status);
                Some((at, status.to_le_bytes().to_vec()))
            }
            (
                MapReply::Full {
                    id,
                    dma_addr,
                    dma_len,
                    status,
                },
                Self::U32,
            ) => {
                let response = apple_dma_pci_map_resp32 {
                    id,
                    dma_addr,
                    dma_len: dma_len as u32,
                    status,
                };
                Some((0, response.as_slice().to_vec()))
            }
            (
                MapReply::Full {
                    id,
                    dma_addr,
                    dma_len,
                    status,
                },
                Self::U64,
            ) => {
                let response = apple_dma_pci_map_resp64 {
                    id,
                    dma_addr,
                    dma_len,
                    status,
                };
                Some((0, response.as_slice().to_vec()))
            }
        }
    }
}

/// Copies a structure of the wire out of exactly its bytes.
fn object<T: ByteValued>(bytes: &[u8]) -> T {
    let mut object = T::zeroed();
    object.as_mut_slice().copy_from_slice(bytes);
    object
}

/// Settings that are fixed when a companion is created.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Layout of map requests and responses.
    pub dialect: Dialect,
    /// Maximum number of entries of a batch.
    pub max_batch: u32,
    /// Value of VERSION.
    pub reg_version: u32,
    /// Value of MANAGED_BDF.
    pub reg_bdf: u32,
    /// Value of MAX_ENTRIES.
    pub reg_max_entries: u32,
}

/// Settings that may change while the guest runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// The time that doorbells and their entries take before they have any effect.
    pub costs: Costs,
    /// Number of works since the seed of the costs was set.
    pub works: u64,
    /// Number of the next MAP entries to refuse.
    pub refuse_next: u64,
    /// Number of the next UNMAP entries to refuse.
    pub refuse_unmap_next: u64,
    /// The Nth MAP entry from now on is refused; 0 for none.
    pub refuse_at: u64,
    /// The Nth UNMAP entry from now on is refused; 0 for none.
    pub refuse_unmap_at: u64,
    /// Every Nth MAP entry is refused; 0 for none.
    pub refuse_every: u64,
    /// MAP entries since `refuse_every` was set.
    pub seen: u64,
    /// The way to falsify replies.
    pub hostile: Hostile,
    /// The batches whose replies are falsified.
    pub hostile_about: Scope,
    /// Number of replies to falsify; `None` for all.
    pub hostile_next: Option<u64>,
    /// Milliseconds after which late doorbells are handled.
    pub late_ms: u64,
    /// Value of VERSION from now on.
    pub reg_version: Option<u32>,
    /// Value of MAX_ENTRIES from now on.
    pub reg_max_entries: Option<u32>,
}

/// A DART whose mappings have effect in another process, for which batches wait.
pub trait Translator: fmt::Debug + Send + Sync {
    /// Makes the other process ready for a batch. The error is the reason for INVAL.
    fn begin(&self) -> Result<(), String>;
    /// Makes the other process forget what a batch has unmapped.
    fn unmapped(&self) -> Result<(), String>;
    /// Handles a reset by the guest's machine.
    fn reset(&self);
}

/// State that the control socket shares with a companion.
#[derive(Debug)]
pub struct Shared {
    /// Name for logs.
    pub name: String,
    /// The DART that the companion programs.
    pub dart: Arc<RwLock<Dart>>,
    /// Its counters. [`snapshot`](Self::snapshot) updates `live_*`.
    pub stats: Mutex<CompanionStats>,
    /// Settings that may change.
    pub settings: Mutex<Settings>,
    /// Translates in the DART's place. Batches have threads of their own then: QEMU may wait for a
    /// register while a batch waits for QEMU.
    pub translator: Option<Box<dyn Translator>>,
}

impl Shared {
    /// Creates the state of a companion that has handled no batch.
    pub fn new(name: &str, dart: Arc<RwLock<Dart>>, settings: Settings) -> Self {
        Self {
            name: name.to_owned(),
            dart,
            stats: Mutex::default(),
            settings: Mutex::new(settings),
            translator: None,
        }
    }

    /// Returns the current counters.
    pub fn snapshot(&self) -> CompanionStats {
        let (live, bytes) = self.live();
        let mut stats = lock(&self.stats);
        stats.live_mappings = live;
        stats.live_bytes = bytes;
        stats.clone()
    }

    /// Sets all counters to 0, except those of panics, and the peaks to the live amounts.
    pub fn clear(&self) {
        let (live, bytes) = self.live();
        let mut stats = lock(&self.stats);
        *stats = CompanionStats {
            peak_mappings: live,
            peak_bytes: bytes,
            panics: std::mem::take(&mut stats.panics),
            ..CompanionStats::default()
        };
    }

    /// Drops the mappings after QEMU has disconnected.
    pub fn disconnected(&self) {
        let mut dart = self.dart.write().unwrap_or_else(|e| e.into_inner());
        let live = dart.live();
        dart.clear();
        drop(dart);
        if live != 0 {
            log::info!("{}: {live} mappings were live at disconnect", self.name);
        }
        lock(&self.stats).live_at_disconnect = Some(live);
    }

    /// Counts a forbidden act of the guest.
    pub fn violation(&self, what: String) {
        lock(&self.stats)
            .violations
            .add(&self.name, "violation", what);
    }

    fn live(&self) -> (u64, u64) {
        let dart = self.dart.read().unwrap_or_else(|e| e.into_inner());
        (dart.live(), dart.bytes())
    }

    /// Returns the way to falsify the replies to a batch of `command` now.
    fn hostile(&self, command: u32) -> Hostile {
        let settings = lock(&self.settings);
        match settings.hostile_about.covers(command) {
            true => settings.hostile,
            false => Hostile::None,
        }
    }

    /// Spends the time of a work. No lock is held meanwhile.
    fn spend(&self, meter: &mut Meter, work: Work) {
        let (price, factor) = {
            let mut settings = lock(&self.settings);
            settings.works += 1;
            let costs = settings.costs;
            (costs.price(work, settings.works), costs.factor)
        };
        meter.spend(price, factor);
    }

    /// Counts the modelled time of a doorbell that is complete.
    fn count_modelled(&self, meter: &Meter) {
        let ns = meter.modelled_ns();
        let mut stats = lock(&self.stats);
        stats.modelled_ns = stats.modelled_ns.saturating_add(ns);
        stats.modelled_ns_max = stats.modelled_ns_max.max(ns);
    }

    /// Returns whether the device is gone.
    fn gone(&self) -> bool {
        lock(&self.settings).hostile == Hostile::Gone
    }

    /// Counts a false reply.
    fn count_false_reply(&self) {
        lock(&self.stats).lies += 1;
        let mut settings = lock(&self.settings);
        if let Some(left) = &mut settings.hostile_next {
            *left = left.saturating_sub(1);
            if *left == 0 {
                settings.hostile = Hostile::None;
                settings.hostile_next = None;
            }
        }
    }
}

/// The device behind the companion's BAR.
#[derive(Debug)]
pub struct Companion {
    worker: Worker,
    config: Config,
    master: bool,
    cmd_gpa: u64,
    /// A batch that is still to be handled.
    late: Option<Late>,
}

/// A batch that is handled some time after the doorbell.
#[derive(Debug)]
struct Late {
    /// Address of the command block.
    cmd_gpa: u64,
    /// Set when the batch is handled, except for the status.
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Handler of batches, one after the other.
#[derive(Clone, Debug)]
struct Worker {
    shared: Arc<Shared>,
    ram: Arc<GuestRam>,
    config: Config,
    /// The register.
    status: Arc<AtomicU32>,
    /// Set when a MAP batch was answered since reset.
    answered: Arc<AtomicBool>,
}

/// Returns the companion's identity in configuration space.
pub fn identity() -> Identity {
    Identity {
        vendor: APPLE_DMA_PCI_VENDOR_ID as u16,
        device: APPLE_DMA_PCI_DEVICE_ID as u16,
        class: 0x08_8000,
        bars: vec![Bar {
            index: APPLE_DMA_PCI_BAR as u8,
            size: u64::from(APPLE_DMA_PCI_BAR_SIZE),
            wide: false,
        }],
        msix: None,
        msi: 0,
    }
}

impl Companion {
    /// Creates a companion that accesses guest RAM through `ram`.
    pub fn new(shared: Arc<Shared>, ram: Arc<GuestRam>, config: Config) -> Self {
        Self {
            worker: Worker {
                shared,
                ram,
                config,
                status: Arc::new(AtomicU32::new(APPLE_DMA_PCI_STATUS_OK)),
                answered: Arc::default(),
            },
            config,
            master: false,
            cmd_gpa: 0,
            late: None,
        }
    }

    /// Sets whether the guest lets the companion master the bus.
    pub fn set_master(&mut self, on: bool) {
        self.master = on;
    }

    /// Handles a reset by the guest's machine: registers are reset, mappings stay.
    pub fn reset(&mut self) {
        match &self.worker.shared.translator {
            // A batch needs QEMU, which waits for this reset.
            Some(translator) => translator.reset(),
            None => self.finish(),
        }
        self.master = false;
        self.cmd_gpa = 0;
        self.worker.set_status(APPLE_DMA_PCI_STATUS_OK);
        self.worker.answered.store(false, Ordering::Relaxed);
        lock(&self.worker.shared.stats).resets += 1;
    }

    /// Waits until late batches are handled.
    fn finish(&mut self) {
        if let Some(late) = self.late.take() {
            let _ = late.thread.join();
        }
    }

    /// Reads from BAR0. Invalid reads return ones.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        let shared = &self.worker.shared;
        if shared.gone() {
            shared.count_false_reply();
            data.fill(0xff);
            return;
        }
        let (version, max_entries) = {
            let settings = lock(&shared.settings);
            (settings.reg_version, settings.reg_max_entries)
        };
        let config = &self.config;
        let value = match register(offset, data.len()) {
            Some(APPLE_DMA_PCI_REG_VERSION) => version.unwrap_or(config.reg_version),
            Some(APPLE_DMA_PCI_REG_MANAGED_BDF) => config.reg_bdf,
            Some(APPLE_DMA_PCI_REG_MAX_ENTRIES) => max_entries.unwrap_or(config.reg_max_entries),
            Some(APPLE_DMA_PCI_REG_STATUS) => self.worker.status.load(Ordering::Relaxed),
            _ => {
                let len = data.len();
                shared.violation(format!("read of {len} bytes at BAR0 + {offset:#x}"));
                data.fill(0xff);
                return;
            }
        };
        data.copy_from_slice(&value.to_le_bytes());
    }

    /// Writes to BAR0. Returns when all effects are complete, unless they are to be late.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let shared = &self.worker.shared;
        if shared.gone() {
            shared.count_false_reply();
            return;
        }
        let value = data.try_into().map(u32::from_le_bytes).unwrap_or(0);
        match register(offset, data.len()) {
            Some(APPLE_DMA_PCI_REG_CMD_GPA_LO) => {
                self.cmd_gpa = (self.cmd_gpa & !0xffff_ffff) | u64::from(value)
            }
            Some(APPLE_DMA_PCI_REG_CMD_GPA_HI) => {
                self.cmd_gpa = (self.cmd_gpa & 0xffff_ffff) | (u64::from(value) << 32)
            }
            Some(APPLE_DMA_PCI_REG_DOORBELL) => {
                let start = Instant::now();
                self.doorbell();
                let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let mut stats = lock(&self.worker.shared.stats);
                stats.doorbells += 1;
                stats.doorbell_ns = stats.doorbell_ns.saturating_add(ns);
                stats.doorbell_ns_max = stats.doorbell_ns_max.max(ns);
            }
            _ => {
                let len = data.len();
                shared.violation(format!("write of {len} bytes at BAR0 + {offset:#x}"));
            }
        }
    }

    fn doorbell(&mut self) {
        let mut meter = Meter::start();
        self.worker.shared.spend(&mut meter, Work::Doorbell);
        let late_ms = lock(&self.worker.shared.settings).late_ms;
        if !self.master {
            self.worker
                .shared
                .violation("doorbell without bus mastering".into());
            self.worker.set_status(APPLE_DMA_PCI_STATUS_IOERR);
            self.worker.shared.count_modelled(&meter);
            return;
        }
        let cmd_gpa = self.cmd_gpa;
        let hostile = self.worker.shared.hostile(self.worker.command(cmd_gpa));
        if hostile == Hostile::NeverCompletes {
            self.worker.shared.count_false_reply();
            self.worker.shared.count_modelled(&meter);
            return;
        }
        if self
            .late
            .as_ref()
            .is_some_and(|l| l.done.load(Ordering::Acquire))
        {
            self.finish();
        }
        let before = self.late.take();
        if before.as_ref().is_some_and(|late| late.cmd_gpa == cmd_gpa) {
            self.worker
                .shared
                .violation("doorbell for a command block whose batch is not finished".into());
        }
        let delay = match hostile {
            Hostile::Late => Duration::from_millis(late_ms),
            _ => Duration::ZERO,
        };
        let done = Arc::new(AtomicBool::new(false));
        let waits = before.is_some() || self.worker.shared.translator.is_some();
        if delay.is_zero() && !waits {
            self.worker.handle(cmd_gpa, &done, meter);
            return;
        }
        if !delay.is_zero() {
            self.worker.shared.count_false_reply();
        }
        let (worker, flag) = (self.worker.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            if let Some(before) = before {
                let _ = before.thread.join();
            }
            std::thread::sleep(delay);
            meter.resume();
            worker.handle(cmd_gpa, &flag, meter);
        });
        self.late = Some(Late {
            cmd_gpa,
            done,
            thread,
        });
    }
}

impl Worker {
    fn set_status(&self, status: u32) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Returns the command of a command block, if it is valid.
    fn command(&self, cmd_gpa: u64) -> u32 {
        let cmd = self.ram.read_obj::<apple_dma_pci_cmd>(Gpa(cmd_gpa));
        cmd.map_or(0, |cmd| cmd.type_)
    }

    /// Handles the batch of a command block; sets `done` before the status, which is written last.
    fn handle(&self, cmd_gpa: u64, done: &AtomicBool, mut meter: Meter) {
        let hostile = self.shared.hostile(self.command(cmd_gpa));
        let mut status = match self.batch(cmd_gpa, &mut meter) {
            Ok(status) => Some(status),
            Err(why) => {
                log::debug!("{}: inval: {why}", self.shared.name);
                let mut stats = lock(&self.shared.stats);
                stats.inval_batches += 1;
                stats.last_inval = Some(why);
                Some(APPLE_DMA_PCI_STATUS_INVAL)
            }
        };
        self.shared.count_modelled(&meter);
        self.set_status(status.unwrap_or_default());
        if status != Some(APPLE_DMA_PCI_STATUS_INVAL) && hostile.falsify_batch(&mut status) {
            self.shared.count_false_reply();
            if let Some(status) = status {
                self.set_status(status);
            }
        }
        done.store(true, Ordering::Release);
        if let Some(status) = status {
            // If the block is not in RAM the status cannot be written there; the register reports
            // the error.
            let at = offset_of!(apple_dma_pci_cmd, status) as u64;
            if let Some(at) = Gpa(cmd_gpa).checked_add(at) {
                let _ = self.ram.write_release(at, status);
            }
        }
    }

    /// Executes a command block. The error is the reason for INVAL.
    fn batch(&self, cmd_gpa: u64, meter: &mut Meter) -> Result<u32, String> {
        let cmd: apple_dma_pci_cmd = self
            .ram
            .read_obj(Gpa(cmd_gpa))
            .map_err(|e| format!("command block: {e}"))?;
        if cmd.reserved != 0 {
            self.shared
                .violation(format!("reserved is {:#x} in a command", cmd.reserved));
        }
        if cmd.count == 0 || cmd.count > self.config.max_batch {
            return Err(format!("count is {}", cmd.count));
        }
        if cmd.req_gpa == 0 || cmd.resp_gpa == 0 {
            return Err("an array is at 0".into());
        }
        let dialect = self.config.dialect;
        let (request, response) = match cmd.type_ {
            APPLE_DMA_PCI_CMD_MAP => (dialect.request_size(), dialect.response_size()),
            APPLE_DMA_PCI_CMD_UNMAP => (
                size_of::<apple_dma_pci_unmap_req>(),
                size_of::<apple_dma_pci_unmap_resp>(),
            ),
            other => return Err(format!("type is {other}")),
        };
        let count = cmd.count as usize;
        let mut requests = vec![0; count * request];
        self.ram
            .read(Gpa(cmd.req_gpa), &mut requests)
            .map_err(|e| format!("requests: {e}"))?;
        if !self
            .ram
            .one_block(Gpa(cmd.resp_gpa), (count * response) as u64)
        {
            return Err(format!("responses: {} are not in RAM", Gpa(cmd.resp_gpa)));
        }
        let translator = self.shared.translator.as_ref();
        translator.map_or(Ok(()), |translator| translator.begin())?;

        let mut failed = false;
        for (i, request) in requests.chunks_exact(request).enumerate() {
            let responses = Array {
                gpa: cmd.resp_gpa,
                size: count * response,
            };
            failed |= match cmd.type_ {
                APPLE_DMA_PCI_CMD_MAP => self.map(request, &responses, i, meter),
                _ => self.unmap(request, &responses, i, meter),
            };
        }
        if let Some(translator) = translator.filter(|_| cmd.type_ == APPLE_DMA_PCI_CMD_UNMAP) {
            translator.unmapped()?;
        }

        let mut stats = lock(&self.shared.stats);
        stats.largest_batch = stats.largest_batch.max(u64::from(cmd.count));
        if cmd.type_ == APPLE_DMA_PCI_CMD_MAP {
            stats.map_batches += 1;
            self.answered.store(true, Ordering::Relaxed);
        } else {
            stats.unmap_batches += 1;
        }
        Ok(match failed {
            true => APPLE_DMA_PCI_STATUS_IOERR,
            false => APPLE_DMA_PCI_STATUS_OK,
        })
    }

    /// Handles one MAP entry. Returns whether it failed.
    fn map(&self, request: &[u8], responses: &Array, i: usize, meter: &mut Meter) -> bool {
        let dialect = self.config.dialect;
        let (gpa, len, flags) = dialect.parse(request);
        if flags != 0 {
            self.shared
                .violation(format!("flags are {flags:#x} in a map request"));
        }
        self.shared.spend(meter, Work::Map);
        let outcome = self.try_map(Gpa(gpa), len);
        let mut reply = match outcome {
            Ok(mapping) => MapReply::Full {
                id: mapping.gpa.0,
                dma_addr: mapping.iova.0,
                dma_len: mapping.len,
                status: APPLE_DMA_PCI_STATUS_OK,
            },
            Err(why) => {
                log::debug!("{}: map {gpa:#x}+{len:#x}: {why}", self.shared.name);
                self.count_map_refusal(Gpa(gpa), len, why);
                MapReply::Failed(APPLE_DMA_PCI_STATUS_IOERR)
            }
        };
        let hostile = self.shared.hostile(APPLE_DMA_PCI_CMD_MAP);
        if hostile != Hostile::None {
            let dart = self.shared.dart.read().unwrap_or_else(|e| e.into_inner());
            let falsified = hostile.falsify_map(&mut reply, &dart);
            drop(dart);
            if falsified {
                self.shared.count_false_reply();
            }
        }
        let layout = match hostile {
            Hostile::DialectChange if self.answered.load(Ordering::Relaxed) => {
                self.shared.count_false_reply();
                dialect.other()
            }
            _ => dialect,
        };
        if let Some((at, bytes)) = layout.render(reply) {
            responses.write(&self.ram, i * layout.response_size() + at, &bytes);
        }
        outcome.is_err()
    }

    fn try_map(&self, gpa: Gpa, len: u64) -> Result<Mapping, Refusal> {
        {
            let mut settings = lock(&self.shared.settings);
            settings.seen += 1;
            if count_down(&mut settings.refuse_at) {
                return Err(Refusal::Injected);
            }
            if settings.refuse_next > 0 {
                settings.refuse_next -= 1;
                return Err(Refusal::Injected);
            }
            if settings.refuse_every != 0 && settings.seen % settings.refuse_every == 0 {
                return Err(Refusal::Injected);
            }
        }
        let mut dart = self.shared.dart.write().unwrap_or_else(|e| e.into_inner());
        let mapping = dart.map(gpa, len, &*self.ram)?;
        let (live, bytes) = (dart.live(), dart.bytes());
        drop(dart);
        let mut stats = lock(&self.shared.stats);
        stats.entries_mapped += 1;
        stats.peak_mappings = stats.peak_mappings.max(live);
        stats.peak_bytes = stats.peak_bytes.max(bytes);
        stats.split += u64::from(mapping.len != len);
        Ok(mapping)
    }

    /// Counts a MAP entry that failed, and the panic of the Mac if that is what the real one does.
    fn count_map_refusal(&self, gpa: Gpa, len: u64, why: Refusal) {
        let panics = matches!(why, Refusal::PanicSlots | Refusal::PanicBytes);
        let amounts = panics.then(|| {
            let dart = self.shared.dart.read().unwrap_or_else(|e| e.into_inner());
            let amounts = lock(&dart.pool).amounts();
            amounts
        });
        let mut stats = lock(&self.shared.stats);
        stats.refusals.add(why);
        if let Some(amounts) = amounts {
            let text = format!(
                "map {gpa}+{len:#x} beside {} mappings of {} bytes: {why}",
                amounts.live_mappings, amounts.live_bytes
            );
            stats.panics.add(&self.shared.name, "Mac panic", text);
        }
    }

    /// Handles one UNMAP entry. Returns whether it failed.
    fn unmap(&self, request: &[u8], responses: &Array, i: usize, meter: &mut Meter) -> bool {
        let request: apple_dma_pci_unmap_req = object(request);
        let key = Gpa(request.id);
        let work = match self.has(key) {
            true => Work::Unmap,
            false => Work::UnmapUnknown,
        };
        self.shared.spend(meter, work);
        let hostile = self.shared.hostile(APPLE_DMA_PCI_CMD_UNMAP);
        let outcome = match hostile == Hostile::OkThoughKept && self.has(key) {
            true => {
                self.shared.count_false_reply();
                Ok(())
            }
            false => self.try_unmap(key, request.size),
        };
        let status = match outcome {
            Ok(()) => APPLE_DMA_PCI_STATUS_OK,
            Err(why) => {
                log::debug!("{}: unmap {:#x}: {why}", self.shared.name, request.id);
                lock(&self.shared.stats).refusals.add(why);
                APPLE_DMA_PCI_STATUS_IOERR
            }
        };
        let mut reply: UnmapReply = Some((request.id, status));
        if hostile.falsify_unmap(&mut reply) {
            self.shared.count_false_reply();
        }
        if let Some((id, status)) = reply {
            let response = apple_dma_pci_unmap_resp {
                id,
                status,
                reserved: 0,
            };
            let at = i * size_of::<apple_dma_pci_unmap_resp>();
            responses.write(&self.ram, at, response.as_slice());
        }
        outcome.is_err()
    }

    fn has(&self, key: Gpa) -> bool {
        let dart = self.shared.dart.read().unwrap_or_else(|e| e.into_inner());
        dart.has(key)
    }

    fn try_unmap(&self, key: Gpa, size: u64) -> Result<(), Refusal> {
        {
            let mut settings = lock(&self.shared.settings);
            if count_down(&mut settings.refuse_unmap_at) {
                return Err(Refusal::Injected);
            }
            if settings.refuse_unmap_next > 0 {
                settings.refuse_unmap_next -= 1;
                return Err(Refusal::Injected);
            }
        }
        let mut dart = self.shared.dart.write().unwrap_or_else(|e| e.into_inner());
        let mapping = dart.unmap(key, size)?;
        drop(dart);
        let mut stats = lock(&self.shared.stats);
        stats.entries_unmapped += 1;
        stats.unmap_size_mismatches += u64::from(!mapping.has_size(size));
        Ok(())
    }
}

/// Counts down to 0. Returns whether 0 is reached now.
fn count_down(left: &mut u64) -> bool {
    let reached = *left == 1;
    *left = left.saturating_sub(1);
    reached
}

/// Returns the register at `offset` if the access has the only size that is allowed.
fn register(offset: u64, len: usize) -> Option<u32> {
    match len {
        4 => u32::try_from(offset).ok(),
        _ => None,
    }
}

/// The response array of a batch.
struct Array {
    gpa: u64,
    size: usize,
}

impl Array {
    /// Writes `bytes` at offset `at`, never past the end of the array: the other dialect's layout
    /// may be longer.
    fn write(&self, ram: &GuestRam, at: usize, bytes: &[u8]) {
        let room = self.size.saturating_sub(at);
        let bytes = &bytes[..bytes.len().min(room)];
        // The array was in RAM when the batch began. If QEMU removed it since, no guest is left to
        // read it.
        if let Some(gpa) = Gpa(self.gpa).checked_add(at as u64) {
            let _ = ram.write(gpa, bytes);
        }
    }
}

#[cfg(test)]
mod tests;
