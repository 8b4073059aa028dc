// SPDX-License-Identifier: GPL-2.0

//! The companion device: registers, command block, batches and the doorbell.
//!
//! A [`Companion`] is the engine's [`Host`]. It puts requests into guest RAM, rings, waits for the
//! end and takes the answers out of RAM, once each, since the host may change them at any time.
//! What they mean is [`wire`]'s to say. After `probe` nothing here sleeps; the engine's lock makes
//! sure that there is one batch at a time.

pub(crate) mod doorbell_stats;
pub(crate) mod wire;

use self::doorbell_stats::DoorbellStats;
use self::wire::{
    BatchStatus,
    Dialect,
    Request,
    Response,
    REQ_WORDS,
    RESP_WORDS,
    SENTINEL, //
};
use crate::abstractions::ratelimit::RateLimit;
use crate::abstractions::raw;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE,
    PAGE, //
};
use crate::bindings as uapi;
use crate::compat;
use crate::device::attach::ManagedFunction;
use crate::engine::{
    self,
    Host,
    MapEntry,
    MapOutcome,
    UnmapEntry,
    UnmapOutcome, //
};
use crate::observe::trace::{
    self,
    EventSource, //
};
use core::mem::{
    offset_of,
    size_of,
    ManuallyDrop, //
};
use kernel::{
    device::{
        Bound,
        Core, //
    },
    dma::{
        Coherent,
        Device as _,
        DmaMask, //
    },
    io::Io,
    pci,
    prelude::*,
    processor::cpu_relax,
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
};

// CAST: These are small constants.
const BAR: u32 = uapi::APPLE_DMA_PCI_BAR;
const BAR_SIZE: usize = uapi::APPLE_DMA_PCI_BAR_SIZE as usize;
const REG_VERSION: usize = uapi::APPLE_DMA_PCI_REG_VERSION as usize;
const REG_MANAGED_BDF: usize = uapi::APPLE_DMA_PCI_REG_MANAGED_BDF as usize;
const REG_MAX_ENTRIES: usize = uapi::APPLE_DMA_PCI_REG_MAX_ENTRIES as usize;
const REG_STATUS: usize = uapi::APPLE_DMA_PCI_REG_STATUS as usize;
const REG_CMD_GPA_LO: usize = uapi::APPLE_DMA_PCI_REG_CMD_GPA_LO as usize;
const REG_CMD_GPA_HI: usize = uapi::APPLE_DMA_PCI_REG_CMD_GPA_HI as usize;
const REG_DOORBELL: usize = uapi::APPLE_DMA_PCI_REG_DOORBELL as usize;

/// Most entries of a batch, whatever the host would take: it bounds how long interrupts are off,
/// since one entry costs the host tens of microseconds.
const BATCH_MAX: u32 = 256;

/// How long the host may take for a batch before it is taken for dead. Long enough for any batch,
/// short enough for the watchdogs of a CPU whose interrupts are off.
const TIMEOUT: Delta = Delta::from_secs(2);

/// The same for the first batch after one that the host did not finish in time.
const TRIAL: Delta = Delta::from_millis(250);

/// How long a host that did not finish a batch is left alone at least before it is tried with fresh
/// memory; twice as long each time that it fails then, but for [`PAUSE_DOUBLINGS`] times only.
const PAUSE: Delta = Delta::from_secs(4);

/// See [`PAUSE`].
const PAUSE_DOUBLINGS: u32 = 6;

/// How often fresh memory is taken, since what it replaces may not be used again: a few pages.
const RENEWALS: u32 = 32;

/// What a register reads as when the device is gone.
const PCI_ERROR_RESPONSE: u32 = u32::MAX;

/// Words in guest RAM that the host reads and writes, too.
struct SharedBuffer<'a> {
    words: Coherent<[u32]>,
    _dev: &'a pci::Device<Bound>,
}

impl<'a> SharedBuffer<'a> {
    /// May sleep.
    fn new(dev: &'a pci::Device<Bound>, words: usize) -> Result<Self> {
        Ok(Self {
            words: Coherent::zeroed_slice(dev.as_ref(), words, GFP_KERNEL)?,
            _dev: dev,
        })
    }

    fn gpa(&self) -> Gpa {
        Gpa::new(compat::dma_address(&self.words))
    }

    /// The first word of record `index` if records are `stride` words long, as a pointer to
    /// `len` words; [`None`] if they do not lie in here.
    fn record(&self, index: usize, stride: usize, len: usize) -> Option<*mut u32> {
        let first = index.checked_mul(stride)?;
        if first.checked_add(len)? > self.words.len() {
            return None;
        }
        Some(self.words.as_mut_ptr().cast::<u32>().wrapping_add(first))
    }

    fn write(&self, index: usize, stride: usize, values: &[u32]) {
        let Some(record) = self.record(index, stride, values.len()) else {
            return;
        };
        for (offset, value) in values.iter().enumerate() {
            // SAFETY: `record` checked that all of `values` fits into the allocation from there on.
            // The host may access the words at the same time, which is what volatile is for.
            unsafe { record.add(offset).write_volatile(value.to_le()) };
        }
    }

    /// Reads into `values`; leaves it alone if there is no such record.
    fn read(&self, index: usize, stride: usize, values: &mut [u32]) {
        let Some(record) = self.record(index, stride, values.len()) else {
            return;
        };
        for (offset, value) in values.iter_mut().enumerate() {
            // SAFETY: As in `write`.
            *value = u32::from_le(unsafe { record.add(offset).read_volatile() });
        }
    }
}

/// The memory that the companion and the guest share.
pub(crate) struct CommandBuffers<'a> {
    cmd: SharedBuffer<'a>,
    requests: SharedBuffer<'a>,
    responses: SharedBuffer<'a>,
}

impl<'a> CommandBuffers<'a> {
    /// Memory for batches of `batch_max` entries. May sleep.
    pub(crate) fn new(dev: &'a pci::Device<Bound>, batch_max: usize) -> Result<Self> {
        Ok(Self {
            cmd: SharedBuffer::new(dev, CMD_WORDS)?,
            requests: SharedBuffer::new(dev, batch_max.saturating_mul(REQ_WORDS))?,
            responses: SharedBuffer::new(dev, batch_max.saturating_mul(RESP_WORDS))?,
        })
    }
}

/// A PCI device that is enabled, until this is dropped.
struct EnabledDevice<'a>(&'a pci::Device<Bound>);

impl<'a> EnabledDevice<'a> {
    fn new(dev: &'a pci::Device<Core<'_>>) -> Result<Self> {
        dev.enable_device_mem()?;
        dev.set_master();
        Ok(Self(dev))
    }
}

impl Drop for EnabledDevice<'_> {
    fn drop(&mut self) {
        // SAFETY: The device was enabled, and its driver is still bound.
        unsafe { kernel::bindings::pci_disable_device(raw::pci_dev(self.0)) };
    }
}

/// What the host sees when it looks for the command block's status.
const STATUS_WORD: usize = offset_of!(uapi::apple_dma_pci_cmd, status) / 4;

/// Words of the command block.
const CMD_WORDS: usize = size_of::<uapi::apple_dma_pci_cmd>() / 4;

#[derive(Clone, Copy)]
enum Command {
    Map = uapi::APPLE_DMA_PCI_CMD_MAP as isize,
    Unmap = uapi::APPLE_DMA_PCI_CMD_UNMAP as isize,
}

/// What the managed device's addresses are.
#[derive(Clone, Copy)]
pub(crate) enum Dart {
    /// The DART assigns them; the first was this one.
    Assigns(Iova),
    /// There is no DART: a device uses guest-physical addresses. So it is with a host for
    /// development, which has no DriverKit extension to talk to.
    None,
}

/// See the module's documentation.
pub(crate) struct Companion<'a> {
    dev: &'a pci::Device<Bound>,
    bar: pci::Bar<'a, BAR_SIZE>,
    shared: ManuallyDrop<CommandBuffers<'a>>,
    dialect: Dialect,
    batch_max: usize,
    /// Since when the host owes the end of a batch. It may still write into the shared memory, so
    /// the memory is not used until it has written the status, and nothing is asked of it.
    pending_since: Option<Instant<Monotonic>>,
    /// Batches in a row that it did not finish in time.
    failures: u32,
    /// How often the shared memory was replaced.
    renewals: u32,
    /// What was sent so far.
    doorbell_stats: KBox<DoorbellStats>,
    origin: EventSource,
    /// For what is said when the host goes and comes back.
    log_limit: Pin<KBox<RateLimit>>,
    /// After everything that needs the device.
    _enabled: EnabledDevice<'a>,
}

impl<'a> Companion<'a> {
    /// Checks what the device says of itself, and finds out how its host speaks by mapping one
    /// granule. Says what is wrong if something is. May sleep.
    ///
    /// Also returns what was learnt of the host's DART.
    pub(crate) fn probe(dev: &'a pci::Device<Core<'_>>) -> Result<(Self, Dart)> {
        let enabled = EnabledDevice::new(dev)?;
        let len = dev.resource_len(BAR)?;
        if len < BAR_SIZE as u64 {
            dev_err!(
                dev,
                "BAR {} has {:#x} bytes, not {:#x}\n",
                BAR,
                len,
                BAR_SIZE
            );
            return Err(ENODEV);
        }
        let bar = dev.iomap_region_sized::<BAR_SIZE>(BAR, c"apple_dma_pci")?;

        let version = bar.read32(REG_VERSION);
        if version == PCI_ERROR_RESPONSE {
            dev_err!(dev, "registers read all-ones: the device is gone\n");
            return Err(ENODEV);
        }
        if version != uapi::APPLE_DMA_PCI_VERSION {
            dev_err!(
                dev,
                "protocol version {} is not supported, only {}\n",
                version,
                uapi::APPLE_DMA_PCI_VERSION
            );
            return Err(ENODEV);
        }
        let max_entries = bar.read32(REG_MAX_ENTRIES);
        if max_entries == 0 || max_entries == PCI_ERROR_RESPONSE {
            dev_err!(
                dev,
                "MAX_ENTRIES is {:#x}: no batch can be sent\n",
                max_entries
            );
            return Err(ENODEV);
        }
        let batch_max = max_entries.min(BATCH_MAX) as usize;

        // SAFETY: No mapping nor allocation was made for the device yet.
        unsafe { dev.dma_set_mask_and_coherent(DmaMask::new::<64>())? };
        let log_limit = KBox::pin_init(RateLimit::new(), GFP_KERNEL)?;
        let doorbell_stats = KBox::new(DoorbellStats::new(), GFP_KERNEL)?;
        // CAST: The rest is the bus.
        let managed = ManagedFunction::named(dev, bar.read32(REG_MANAGED_BDF) as u8);
        // Nothing may fail until there is a companion, which frees it.
        let shared = CommandBuffers::new(dev, batch_max)?;
        let mut companion = Self {
            dev,
            bar,
            shared: ManuallyDrop::new(shared),
            dialect: Dialect::U64,
            batch_max,
            pending_since: None,
            failures: 0,
            renewals: 0,
            doorbell_stats,
            origin: EventSource::new(&ManagedFunction::of(dev), &managed),
            log_limit,
            _enabled: enabled,
        };
        companion.program();
        let dart = companion.negotiate()?;
        Ok((companion, dart))
    }

    /// The managed device's address, `bus << 8 | devfn`, as the host knows it.
    pub(crate) fn managed_bdf(&self) -> u32 {
        self.bar.read32(REG_MANAGED_BDF)
    }

    /// How the host speaks.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Where events come from.
    pub(crate) fn origin(&self) -> EventSource {
        self.origin
    }

    /// Most entries of one batch.
    pub(crate) fn batch_max(&self) -> usize {
        self.batch_max
    }

    /// What was sent so far.
    pub(crate) fn doorbell_stats(&self) -> DoorbellStats {
        *self.doorbell_stats
    }

    /// How often the host got other memory.
    pub(crate) fn renewals(&self) -> u32 {
        self.renewals
    }

    /// Tells the device where the command block is. Any context.
    pub(crate) fn program(&mut self) {
        let gpa = self.shared.cmd.gpa().raw();
        // CAST: The halves are taken apart on purpose.
        self.bar.write32(gpa as u32, REG_CMD_GPA_LO);
        self.bar.write32((gpa >> 32) as u32, REG_CMD_GPA_HI);
    }

    /// Maps one granule and gives it back, which tells the dialect, and that the host does
    /// what it should at all.
    fn negotiate(&mut self) -> Result<Dart> {
        let dev = self.dev;
        // CAST: A granule is small.
        let page = SharedBuffer::new(dev, GRANULE as usize / size_of::<u32>())?;
        let span = GpaSpan::new(page.gpa(), GRANULE).ok_or(EINVAL)?;

        // An earlier kernel may have left a mapping with this key; then the second try works.
        let mut outcome = MapOutcome::Refused;
        for _ in 0..2 {
            outcome = self.probe_map(&span)?;
            if outcome != MapOutcome::Refused || !self.probe_unmap(&span) {
                break;
            }
            dev_info!(dev, "gave back a mapping that an earlier kernel left\n");
        }
        let result = match outcome {
            MapOutcome::Mapped(iova) => Ok(iova),
            MapOutcome::Refused => {
                dev_err!(dev, "the host refuses to map a single page of guest RAM\n");
                Err(EIO)
            }
            MapOutcome::Rejected(reject) => {
                dev_err!(
                    dev,
                    "the host's first answer is wrong: {}\n",
                    reject.as_str()
                );
                Err(EIO)
            }
            MapOutcome::Unknown => {
                dev_err!(dev, "the host did not answer the first request\n");
                Err(EIO)
            }
        };
        let dart = result.map(|iova| {
            if iova.raw() == span.start().raw() && self.is_identity(&span) {
                Dart::None
            } else {
                Dart::Assigns(iova)
            }
        });
        if outcome != MapOutcome::Refused && !self.probe_unmap(&span) {
            dev_err!(dev, "the host would not take back the first mapping\n");
            return Err(EIO);
        }
        dart
    }

    /// Whether the host answers the guest-physical address for a part of `span`, too, while `span`
    /// is mapped there. A DART cannot map two things at one address, so there is none.
    fn is_identity(&mut self, span: &GpaSpan) -> bool {
        let start = span.start().raw().saturating_add(PAGE);
        let Some(part) = GpaSpan::from_bounds(start, span.end()) else {
            return false;
        };
        let mut batch = [MapEntry::new(part)];
        self.map(&mut batch);
        let [entry] = batch;
        match entry.outcome {
            MapOutcome::Mapped(iova) => self.probe_unmap(&part) && iova.raw() == start,
            _ => false,
        }
    }

    /// Sends the first map request, which reads the same in both dialects, and learns from the
    /// response which one the host speaks.
    fn probe_map(&mut self, span: &GpaSpan) -> Result<MapOutcome> {
        let request = Dialect::U64.map_request(span);
        let mut response = Dialect::U64.empty_map_response();
        self.shared.requests.write(0, 0, request.words());
        self.shared.responses.write(0, 0, response.words());
        match self.ring(Command::Map, 1) {
            BatchStatus::Answered => {}
            BatchStatus::Invalid => {
                dev_err!(self.dev, "the host calls a batch of one request invalid\n");
                return Err(EIO);
            }
            BatchStatus::Pending | BatchStatus::Unknown => return Ok(MapOutcome::Unknown),
        }
        self.shared.responses.read(0, 0, response.words_mut());
        let Some(dialect) = Dialect::detect(&response) else {
            return Ok(MapOutcome::Unknown);
        };
        self.dialect = dialect;
        let mut response = dialect.empty_map_response();
        self.shared.responses.read(0, 0, response.words_mut());
        Ok(dialect.map_outcome(span, &response))
    }

    fn probe_unmap(&mut self, span: &GpaSpan) -> bool {
        let mut batch = [UnmapEntry::new(*span)];
        self.unmap(&mut batch);
        batch
            .iter()
            .all(|entry| entry.outcome == UnmapOutcome::Unmapped)
    }

    /// Rings for the `count` requests in place and waits for the end. To be called only if the host
    /// can be asked, as the requests must be there for it to read until then.
    fn ring(&mut self, command: Command, count: usize) -> BatchStatus {
        let mut block = [0; CMD_WORDS];
        let requests = self.shared.requests.gpa().raw();
        let responses = self.shared.responses.gpa().raw();
        // CAST: Counts are at most `BATCH_MAX`, commands are small, and addresses are taken apart
        // on purpose.
        for (offset, value) in [
            (offset_of!(uapi::apple_dma_pci_cmd, type_), command as u32),
            (offset_of!(uapi::apple_dma_pci_cmd, count), count as u32),
            (offset_of!(uapi::apple_dma_pci_cmd, status), SENTINEL),
            (
                offset_of!(uapi::apple_dma_pci_cmd, req_gpa),
                requests as u32,
            ),
            (
                offset_of!(uapi::apple_dma_pci_cmd, req_gpa) + 4,
                (requests >> 32) as u32,
            ),
            (
                offset_of!(uapi::apple_dma_pci_cmd, resp_gpa),
                responses as u32,
            ),
            (
                offset_of!(uapi::apple_dma_pci_cmd, resp_gpa) + 4,
                (responses >> 32) as u32,
            ),
        ] {
            if let Some(word) = block.get_mut(offset / 4) {
                *word = value;
            }
        }
        self.shared.cmd.write(0, 0, &block);

        let began = Instant::<Monotonic>::now();
        // The write to the register comes after those to memory.
        self.bar.write32(1, REG_DOORBELL);
        let status = self.wait();
        let ns = trace::ns(began.elapsed());
        let what = match command {
            Command::Map => engine::Command::Map,
            Command::Unmap => engine::Command::Unmap,
        };
        // CAST: At most `BATCH_MAX`.
        let entries = count as u32;
        self.doorbell_stats.count(what, entries, status, ns);
        self.origin.doorbell(what, entries, status, ns);
        // SAFETY: Always safe to call.
        //
        // The answers are read after the status that says that they are there.
        unsafe { uapi::apple_dma_helper_dma_rmb() };
        status
    }

    /// What the host wrote into the command block's status.
    fn status(&self) -> BatchStatus {
        let mut status = [SENTINEL];
        self.shared.cmd.read(STATUS_WORD, 1, &mut status);
        let [word] = status;
        BatchStatus::from_word(word)
    }

    /// Waits until the host wrote the command block's status. Usually it has by now; where the
    /// write to the doorbell was posted, reading a register makes it arrive.
    fn wait(&mut self) -> BatchStatus {
        let patience = if self.failures == 0 { TIMEOUT } else { TRIAL };
        let mut began = None;
        loop {
            let status = self.status();
            if status != BatchStatus::Pending {
                self.failures = 0;
                return status;
            }
            let gone = self.bar.read32(REG_STATUS) == PCI_ERROR_RESPONSE;
            let began = *began.get_or_insert_with(Instant::<Monotonic>::now);
            if gone || began.elapsed() > patience {
                self.pending_since = Some(began);
                self.failures = self.failures.saturating_add(1);
                if !self.log_limit.allows() {
                    return BatchStatus::Pending;
                }
                if gone {
                    dev_err!(self.dev, "registers read all-ones: the device is gone\n");
                } else {
                    dev_err!(
                        self.dev,
                        "the host did not finish a batch in {} ms: nothing new is mapped\n",
                        patience.as_millis()
                    );
                }
                return BatchStatus::Pending;
            }
            cpu_relax();
        }
    }

    /// Says that the host can be asked again.
    fn mark_responsive(&mut self, since: Instant<Monotonic>, how: &str) {
        self.pending_since = None;
        if self.log_limit.allows() {
            dev_info!(
                self.dev,
                "the host {} after {} ms: it is asked again\n",
                how,
                since.elapsed().as_millis()
            );
        }
    }

    /// How many entries the memory must be for that [`Self::replace_buffers`] takes, if it is time to try a
    /// host anew that does not finish a batch; with `hurry`, if it is of any use at all.
    pub(crate) fn needs_new_buffers(&mut self, hurry: bool) -> Option<usize> {
        if self.is_ready() || self.renewals >= RENEWALS {
            return None;
        }
        let since = self.pending_since?;
        let doublings = self.failures.saturating_sub(1).min(PAUSE_DOUBLINGS);
        let pause = PAUSE.as_millis() << doublings;
        if !hurry && since.elapsed().as_millis() < pause {
            return None;
        }
        // It must be the device that it was.
        let fits = self.bar.read32(REG_VERSION) == uapi::APPLE_DMA_PCI_VERSION
            && self.bar.read32(REG_STATUS) != PCI_ERROR_RESPONSE
            && self.bar.read32(REG_MAX_ENTRIES) as usize >= self.batch_max;
        fits.then_some(self.batch_max)
    }

    /// Goes on with `fresh` memory, if the host still owes the end of a batch; the old memory is
    /// never used again, since the host may still write to it. Returns memory that is not needed,
    /// to be dropped where sleeping is allowed. Any context.
    ///
    /// A host handles one doorbell after the other. So when the first batch in the new memory is
    /// finished nothing comes of the old one any more.
    pub(crate) fn replace_buffers(
        &mut self,
        fresh: CommandBuffers<'a>,
    ) -> Option<CommandBuffers<'a>> {
        if self.is_ready() {
            return Some(fresh);
        }
        let since = self.pending_since.unwrap_or_else(Instant::now);
        self.shared = ManuallyDrop::new(fresh);
        self.renewals = self.renewals.saturating_add(1);
        // The device may have been reset.
        //
        // SAFETY: The device is valid, and enabled as long as the companion is there.
        unsafe { kernel::bindings::pci_set_master(raw::pci_dev(self.dev)) };
        self.program();
        self.mark_responsive(since, "was given other memory");
        None
    }

    /// The response `index` of a batch, over `empty`, which has the length of one.
    fn response(&self, index: usize, mut empty: Response) -> Response {
        let stride = empty.words().len();
        self.shared.responses.read(index, stride, empty.words_mut());
        empty
    }

    fn put(&self, index: usize, request: &Request, empty: &Response) {
        self.shared
            .requests
            .write(index, request.words().len(), request.words());
        self.shared
            .responses
            .write(index, empty.words().len(), empty.words());
    }
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
        if self.status() == BatchStatus::Pending
            || self.bar.read32(REG_STATUS) == PCI_ERROR_RESPONSE
        {
            return false;
        }
        // What it says of the entries comes too late: they count as not answered.
        self.mark_responsive(since, "finished the batch");
        true
    }

    fn map(&mut self, batch: &mut [MapEntry]) {
        if !self.is_ready() {
            for entry in batch {
                entry.outcome = MapOutcome::Unknown;
            }
            return;
        }
        let dialect = self.dialect;
        for (index, entry) in batch.iter().enumerate() {
            let request = dialect.map_request(&entry.span);
            self.put(index, &request, &dialect.empty_map_response());
        }
        let status = self.ring(Command::Map, batch.len());
        for (index, entry) in batch.iter_mut().enumerate() {
            entry.outcome = match status {
                BatchStatus::Answered => {
                    let response = self.response(index, dialect.empty_map_response());
                    dialect.map_outcome(&entry.span, &response)
                }
                BatchStatus::Invalid => MapOutcome::Refused,
                BatchStatus::Pending | BatchStatus::Unknown => MapOutcome::Unknown,
            };
        }
    }

    fn unmap(&mut self, batch: &mut [UnmapEntry]) {
        if !self.is_ready() {
            for entry in batch {
                entry.outcome = UnmapOutcome::Unknown;
            }
            return;
        }
        for (index, entry) in batch.iter().enumerate() {
            let request = wire::unmap_request(&entry.span);
            self.put(index, &request, &wire::empty_unmap_response());
        }
        let status = self.ring(Command::Unmap, batch.len());
        for (index, entry) in batch.iter_mut().enumerate() {
            entry.outcome = match status {
                BatchStatus::Answered => {
                    let response = self.response(index, wire::empty_unmap_response());
                    wire::unmap_outcome(entry.span.start(), &response)
                }
                BatchStatus::Invalid => UnmapOutcome::Refused,
                BatchStatus::Pending | BatchStatus::Unknown => UnmapOutcome::Unknown,
            };
        }
    }
}

impl Drop for Companion<'_> {
    fn drop(&mut self) {
        // The device forgets the command block before its memory is used for something else.
        self.bar.write32(0, REG_CMD_GPA_LO);
        self.bar.write32(0, REG_CMD_GPA_HI);
        if self.pending_since.is_some() && self.status() == BatchStatus::Pending {
            dev_warn!(
                self.dev,
                "memory that the host may still write to is not freed\n"
            );
            return;
        }
        // SAFETY: Nothing uses the memory after this, neither here nor, as every batch was
        // finished, the host.
        unsafe { ManuallyDrop::drop(&mut self.shared) };
    }
}
