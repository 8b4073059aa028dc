// SPDX-License-Identifier: GPL-2.0

//! One companion with its managed device.
//!
//! An [`Instance`] owns the engine and the operations that the managed device's driver ends up in.
//! It says in words what went wrong, at a limited rate; the engine and the companion decide what
//! does. A [`Binding`] is an instance with the managed device attached: what the companion's driver
//! has as its data.

pub(crate) mod attach;
pub(crate) mod dma_ops;
pub(crate) mod dma_range_map;
pub(crate) mod scatterlist;

use self::attach::{
    Attachment,
    ManagedFunction, //
    Translation,
};
use self::dma_ops::{
    Ops,
    OPS, //
};
use self::dma_range_map::{
    DmaRangeMap, //
    RangeError,
};
use self::scatterlist::{
    Entries,
    DMA_MAPPING_ERROR, //
};
use crate::abstractions::memory_notifier::{
    MemoryEvents,
    MemoryNotifier, //
};
use crate::abstractions::periodic::{
    Periodic,
    PeriodicTask, //
};
use crate::abstractions::pm::PmOps;
use crate::abstractions::ram;
use crate::abstractions::ratelimit::RateLimit;
use crate::abstractions::raw;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan,
    GRANULE,
    GRANULE_SHIFT, //
};
use crate::engine::policy::{
    Adaptive,
    WINDOW_SHIFT, //
};
use crate::engine::window::NotHeld;
use crate::engine::{
    Config,
    Engine,
    HostError,
    Limit,
    MapError,
    MapPath, //
    Released,
};
use crate::host::wire::Dialect;
use crate::host::{
    CommandBuffers, //
    Companion,
    Dart,
};
use crate::observe::files::DeviceFiles;
use crate::observe::trace::{
    self,
    EventSource, //
    TraceStart,
};
use crate::params::{
    Params,
    WholeRam,
    HAS_OPS, //
};
use crate::sys::{
    Atomic,
    Relaxed, //
};

mod show;

use core::ops::{
    Deref,
    DerefMut, //
};
use kernel::{
    device::{
        Bound,
        Core, //
    },
    fmt,
    pci,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// Most granules of RAM that have a place in a flat table, 4 bytes each: enough for 256 GiB of RAM,
/// which take 64 MiB.
const TABLE_MAX: usize = 1 << 24;

/// Windows that memory for the tables is there for from the beginning.
const RESERVE: usize = 512;

/// Windows that there is memory in the tables for, beyond those that are in use, as time goes by.
const SPARE: usize = 128;

/// How often a host that failed is looked after, in milliseconds.
const RECOVERY_PERIOD: u32 = 2000;

/// Batches of [`RECOVERY_PERIOD`] in which to look for what an earlier kernel left: some hundred
/// milliseconds, and some tens of seconds for all of a GiB.
const SEARCH_BATCHES: u32 = 64;

/// In how many of [`RECOVERY_PERIOD`] windows' uses are added up once.
const COUNT_EVERY: u32 = 8;

/// Batches of lost windows that are asked for at a time at most.
const RECOVERY_TURNS: usize = 64;

/// An engine that gives everything back when it goes, also where setting up fails half-way.
struct Mappings<'a>(Engine<Companion<'a>, Adaptive, EventSource>);

impl<'a> Deref for Mappings<'a> {
    type Target = Engine<Companion<'a>, Adaptive, EventSource>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Mappings<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Mappings<'_> {
    fn drop(&mut self) {
        // What the host does not take back here it did not before, and the instance said so.
        self.release();
    }
}

/// What something is done to, for a message: so many bytes, or a scatterlist.
struct What(Option<usize>);

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("a scatterlist"),
            Some(size) => write!(f, "{size} bytes"),
        }
    }
}

/// See the module's documentation.
#[pin_data(PinnedDrop)]
pub(crate) struct Instance<'a> {
    /// What the managed device's `dma_ops` points to.
    #[pin]
    pub(crate) ops: Ops,
    engine: Mappings<'a>,
    dev: &'a pci::Device<Bound>,
    managed: ManagedFunction<'a>,
    /// Where events come from.
    origin: EventSource,
    mode: &'static CStr,
    dialect: Dialect,
    batch_max: usize,
    max_idle: u32,
    congruent: bool,
    max_bytes: u64,
    max_entries: u32,
    len_max: u64,
    /// The end of the first mapping: the DART's addresses are at least that large.
    first_last: u64,
    /// Whether windows that are idle for long are to be given back.
    ages: bool,
    /// Whether the kernel's direct mapping translates addresses, by what was mapped at first.
    direct: bool,
    /// How many windows were said to be lost, and to be given back after all.
    told_lost: Atomic<u64>,
    told_recovered: Atomic<u64>,
    #[pin]
    failures: RateLimit,
    #[pin]
    misuse: RateLimit,
    /// How often a driver gave up what it had not.
    misuses: Atomic<u64>,
    /// How often a driver did not get what it wanted, by [`MapError`].
    refusals: [Atomic<u64>; MapError::NAMES.len()],
}

// SAFETY: The operations are read by the DMA API from any context, and are never changed; the other
// parts are `Sync` themselves.
unsafe impl Sync for Instance<'_> {}

// SAFETY: Nothing in an instance belongs to a thread: the operations are plain function pointers.
unsafe impl Send for Instance<'_> {}

impl<'a> Instance<'a> {
    /// Sets up everything that is needed to manage the companion's device, with what gives its
    /// drivers their addresses. May sleep.
    fn new(dev: &'a pci::Device<Core<'_>>, params: &Params) -> Result<(Arc<Self>, Translation)> {
        attach::check_bus(dev)?;
        let (companion, dart) = Companion::probe(dev)?;
        let managed = ManagedFunction::new(dev, companion.managed_bdf())?;
        let dialect = companion.dialect();
        let origin = companion.origin();
        let batch_max = companion.batch_max();
        let config = Config {
            strict: params.strict,
            max_bytes: params.max_bytes,
            max_entries: params.max_entries,
            ram: ram::system_ram()?,
            congruent: params.congruent,
            table_max: TABLE_MAX,
        };
        // In strict mode the device is to reach as little as possible.
        let shift = if params.strict {
            GRANULE_SHIFT
        } else {
            WINDOW_SHIFT
        };
        let mut engine = Mappings(Engine::new(
            companion,
            Adaptive::new(shift),
            origin,
            config,
        )?);
        engine.reserve(RESERVE.min(params.max_entries as usize))?;
        let mode = match dart {
            Dart::None => {
                engine.set_identity()?;
                dev_warn!(
                    dev,
                    "the host has no DART: addresses are guest-physical ones\n"
                );
                c"identity"
            }
            Dart::Assigns(_) if params.is_direct() => {
                Self::map_whole_for_direct(dev, &mut engine, params)?;
                c"direct"
            }
            Dart::Assigns(_) if params.strict => c"strict",
            Dart::Assigns(_)
                if params.whole_ram == WholeRam::IfItFits && Self::map_whole(dev, &mut engine) =>
            {
                c"whole-RAM"
            }
            Dart::Assigns(_) => c"lazy",
        };
        let ranges = if params.is_direct() {
            Some(Self::ranges(dev, &engine)?)
        } else {
            None
        };
        let first = match dart {
            Dart::None => None,
            Dart::Assigns(iova) => IovaSpan::new(iova, GRANULE),
        };
        dev_info!(
            dev,
            "manages {}: {} mode, {} dialect, addresses like {:#x}, at most {} MiB in {} mappings\n",
            managed,
            mode,
            dialect.name(),
            first.map_or(0, |span| span.start().raw()),
            params.max_bytes >> 20,
            params.max_entries
        );
        let dev: &'a pci::Device<Bound> = dev;
        let this = Arc::pin_init(
            pin_init!(Self {
                ops: Opaque::new(OPS),
                engine,
                dev,
                managed,
                origin,
                mode,
                dialect,
                batch_max,
                max_idle: params.max_idle,
                congruent: params.congruent,
                max_bytes: params.max_bytes,
                max_entries: params.max_entries,
                len_max: dialect.max_len(),
                first_last: first.map_or(0, |span| span.last()),
                ages: first.is_some() && !params.strict && params.max_idle != 0,
                direct: first.is_some() && params.is_direct(),
                told_lost: Atomic::new(0),
                told_recovered: Atomic::new(0),
                failures <- RateLimit::new(),
                misuse <- RateLimit::new(),
                misuses: Atomic::new(0),
                refusals: [const { Atomic::new(0) }; MapError::NAMES.len()],
            }),
            GFP_KERNEL,
        )?;
        let translation = match ranges {
            Some(ranges) => Translation::Direct(ranges),
            None => Translation::Ops(this.ops.get()),
        };
        Ok((this, translation))
    }

    /// Maps all of RAM at once for the kernel's direct mapping; says why if that cannot be.
    fn map_whole_for_direct(
        dev: &pci::Device<Bound>,
        engine: &mut Engine<Companion<'_>, Adaptive, EventSource>,
        params: &Params,
    ) -> Result {
        let wanted = direct_because();
        let excluded = if params.strict {
            Some("strict=1")
        } else if params.whole_ram == WholeRam::Never {
            Some("whole_ram=0")
        } else {
            None
        };
        if let Some(parameter) = excluded {
            dev_err!(
                dev,
                "{}: all of RAM must be mapped at once, which {} forbids\n",
                wanted,
                parameter
            );
            return Err(ENODEV);
        }
        match engine.map_whole() {
            Ok(()) => Ok(()),
            Err(MapError::Full(Limit::Bytes)) => {
                dev_err!(
                    dev,
                    "{}: all of RAM must be mapped at once, and its {} MiB do not fit max_bytes={} \
                     with an eighth to spare\n",
                    wanted,
                    engine.ram_bytes() >> 20,
                    params.max_bytes
                );
                Err(ENODEV)
            }
            Err(error) => {
                dev_err!(
                    dev,
                    "{}: all of RAM must be mapped at once, and cannot be: {}\n",
                    wanted,
                    error.as_str()
                );
                Err(ENODEV)
            }
        }
    }

    /// What the kernel's direct mapping is to know; says why if it cannot do with it.
    fn ranges(
        dev: &pci::Device<Bound>,
        engine: &Engine<Companion<'_>, Adaptive, EventSource>,
    ) -> Result<DmaRangeMap> {
        match engine.whole().map(DmaRangeMap::new) {
            Some(Ok(ranges)) => Ok(ranges),
            Some(Err(RangeError::Discontiguous(gpa))) => {
                dev_err!(
                    dev,
                    "{}: RAM goes on at {:#x}, but its DMA addresses do not\n",
                    direct_because(),
                    gpa.raw()
                );
                Err(ENODEV)
            }
            Some(Err(RangeError::NoMemory)) => Err(ENOMEM),
            None => Err(EINVAL),
        }
    }

    /// Maps all of RAM at once if that is possible; says if the host would not.
    fn map_whole(
        dev: &pci::Device<Bound>,
        engine: &mut Engine<Companion<'_>, Adaptive, EventSource>,
    ) -> bool {
        match engine.map_whole() {
            Ok(()) => true,
            Err(MapError::Full(_)) => false,
            Err(error) => {
                dev_info!(dev, "cannot map all of RAM at once: {}\n", error.as_str());
                false
            }
        }
    }

    /// `struct device` of the companion, whose memory is plain guest memory.
    pub(crate) fn companion(&self) -> *mut kernel::bindings::device {
        raw::device(self.dev)
    }

    /// Maps `size` bytes at `gpa` for a streaming mapping; all-ones says that it did not work. Any
    /// context.
    ///
    /// What is done at once needs no stack frame, which would be a good part of the cost.
    #[inline(always)]
    pub(crate) fn map_streaming(&self, gpa: u64, size: usize, limit: u64) -> u64 {
        if trace::is_enabled() {
            return self.map_slow(gpa, size, limit);
        }
        match dma_ops::span(gpa, size).and_then(|span| self.engine.map_at_once(&span, limit)) {
            Some(iova) => iova.raw(),
            None => self.map_window(gpa, size, limit),
        }
    }

    /// [`Self::map_streaming`] by a window that is there.
    #[inline(never)]
    fn map_window(&self, gpa: u64, size: usize, limit: u64) -> u64 {
        match dma_ops::span(gpa, size).and_then(|span| self.engine.map_hit(&span, limit)) {
            Some(iova) => iova.raw(),
            None => self.map_slow(gpa, size, limit),
        }
    }

    /// [`Self::map_streaming`] by whatever it takes.
    #[cold]
    #[inline(never)]
    fn map_slow(&self, gpa: u64, size: usize, limit: u64) -> u64 {
        self.map(gpa, size, limit)
            .map_or(DMA_MAPPING_ERROR, Iova::raw)
    }

    /// Maps `size` bytes at `gpa` for a device that reaches addresses up to `limit`. Any context.
    pub(crate) fn map(&self, gpa: u64, size: usize, limit: u64) -> Result<Iova, MapError> {
        let began = TraceStart::now();
        let span = dma_ops::span(gpa, size);
        let wanted = span.filter(|_| began.is_enabled());
        let source = wanted.map(|span| self.engine.source(&span));
        let result = match span {
            Some(span) => self.engine.map(span, limit),
            None => Err(MapError::Invalid),
        };
        match result {
            Ok(iova) => {
                if let Some((span, source)) = wanted.zip(source) {
                    self.origin.map(&span, iova, began, (0, 1), source);
                }
            }
            Err(error) => {
                // CAST: `usize` has at most 64 bits.
                self.refuse(error, (gpa, size as u64), 1, limit, began);
                self.report(error, gpa, Some(size), limit);
            }
        }
        result
    }

    /// Maps all entries of a scatterlist or none. Any context.
    pub(crate) fn map_all(&self, entries: Entries<'_>, limit: u64) -> Result<(), MapError> {
        let began = TraceStart::now();
        let source = began.is_enabled().then(|| self.source_of(entries.clone()));
        let result = self.engine.map_all(entries.clone(), limit);
        if let Some(source) = source.filter(|_| result.is_ok()) {
            self.trace_map_all(entries.clone(), began, source);
        }
        if let Err(error) = result {
            use crate::engine::Request;

            // CAST: A scatterlist has fewer entries.
            let count = entries.clone().count() as u32;
            let mut spans = entries.filter_map(|entry| entry.span()).peekable();
            let gpa = spans.peek().map_or(0, |span| span.start().raw());
            let size = spans.fold(0, |sum: u64, span| sum.saturating_add(span.len()));
            self.refuse(error, (gpa, size), count, limit, began);
            self.report(error, gpa, None, limit);
        }
        result
    }

    /// How the entries of a scatterlist would be mapped just now.
    #[cold]
    fn source_of(&self, entries: Entries<'_>) -> MapPath {
        use crate::engine::Request;

        let spans = entries.filter_map(|entry| entry.span());
        let sources = spans.map(|span| self.engine.source(&span));
        let worst = sources.max_by_key(|source| *source as u8);
        worst.unwrap_or(MapPath::Host)
    }

    /// Tells that a scatterlist was mapped.
    #[cold]
    fn trace_map_all(&self, entries: Entries<'_>, began: TraceStart, source: MapPath) {
        use crate::engine::Request;

        // CAST: A scatterlist has fewer entries.
        let count = entries.clone().count() as u32;
        for (index, entry) in (0..count).zip(entries) {
            if let Some((span, iova)) = entry.span().zip(entry.iova()) {
                self.origin.map(&span, iova, began, (index, count), source);
            }
        }
    }

    /// Counts what a driver did not get, and tells of it.
    #[cold]
    fn refuse(
        &self,
        error: MapError,
        what: (u64, u64),
        entries: u32,
        limit: u64,
        began: TraceStart,
    ) {
        if let Some(count) = self.refusals.get(error.index()) {
            count.fetch_add(1, Relaxed);
        }
        self.origin.refusal(error, what, entries, limit, began);
    }

    /// Gives up a streaming mapping. Any context.
    #[inline(always)]
    pub(crate) fn unmap_streaming(&self, iova: u64, size: usize) {
        if trace::is_enabled() {
            return self.unmap_slow(iova, size);
        }
        // CAST: `usize` has at most 64 bits.
        let span = IovaSpan::new(Iova::new(iova), size as u64);
        if !span.is_some_and(|span| self.engine.is_whole(&span)) {
            self.unmap_window(iova, size);
        }
    }

    /// [`Self::unmap_streaming`] by a window.
    #[inline(never)]
    fn unmap_window(&self, iova: u64, size: usize) {
        // CAST: `usize` has at most 64 bits.
        let span = IovaSpan::new(Iova::new(iova), size as u64);
        if !span.is_some_and(|span| self.engine.unmap_hit(&span)) {
            self.unmap_slow(iova, size);
        }
    }

    /// [`Self::unmap_streaming`] for what is not found easily, or not at all.
    #[cold]
    #[inline(never)]
    fn unmap_slow(&self, iova: u64, size: usize) {
        // CAST: `usize` has at most 64 bits.
        if self.unmap_traced(iova, size as u64).is_err() {
            self.report_misuse(iova, Some(size));
        }
    }

    /// Gives up a mapping, and tells of it.
    fn unmap_traced(&self, iova: u64, size: u64) -> Result<(), NotHeld> {
        let began = TraceStart::now();
        let gpa = began.is_enabled().then(|| self.gpa_of(iova, size));
        let result = self.engine.unmap(Iova::new(iova), size);
        if let Some(gpa) = gpa {
            self.origin.unmap(gpa, iova, size, began, (0, 1));
        }
        result
    }

    /// What is mapped at `iova`, for who wants to see; all-ones if nothing is.
    fn gpa_of(&self, iova: u64, size: u64) -> u64 {
        let gpa = self.engine.translate(Iova::new(iova), size);
        gpa.map_or(u64::MAX, Gpa::raw)
    }

    /// Gives up a mapping if it is of what `is_right` says; tells what was mapped, or says that it
    /// was not that. Any context.
    pub(crate) fn unmap(
        &self,
        iova: u64,
        size: usize,
        is_right: impl FnOnce(Gpa) -> bool,
    ) -> Option<Gpa> {
        let gpa = self.translate(iova, size)?;
        // CAST: `usize` has at most 64 bits.
        if !is_right(gpa) || self.unmap_traced(iova, size as u64).is_err() {
            self.report_misuse(iova, Some(size));
            return None;
        }
        Some(gpa)
    }

    /// Gives up the mappings of a scatterlist. Any context.
    pub(crate) fn unmap_all(&self, entries: Entries<'_>) {
        if trace::is_enabled() {
            self.trace_unmap_all(entries.clone());
        }
        if self.engine.unmap_all(entries.clone()).is_err() {
            use crate::engine::Request;

            let mut spans = entries.filter_map(|entry| entry.mapped());
            let iova = spans.next().map_or(0, |span| span.start().raw());
            self.report_misuse(iova, None);
        }
    }

    /// Tells that a scatterlist is given up.
    #[cold]
    fn trace_unmap_all(&self, entries: Entries<'_>) {
        use crate::engine::Request;

        // CAST: A scatterlist has fewer entries.
        let count = entries.clone().count() as u32;
        for (index, entry) in (0..count).zip(entries) {
            if let Some(span) = entry.mapped() {
                let (iova, size) = (span.start().raw(), span.len());
                let gpa = self.gpa_of(iova, size);
                self.origin
                    .unmap(gpa, iova, size, TraceStart::none(), (index, count));
            }
        }
    }

    /// What is mapped at `iova`; says so if nothing is. Any context.
    pub(crate) fn translate(&self, iova: u64, size: usize) -> Option<Gpa> {
        // CAST: `usize` has at most 64 bits.
        let gpa = self.engine.translate(Iova::new(iova), size as u64);
        if gpa.is_none() {
            self.report_misuse(iova, Some(size));
        }
        gpa
    }

    /// Whether a device that reaches addresses up to `limit` can be expected to work.
    pub(crate) fn reaches(&self, limit: u64) -> bool {
        limit >= self.first_last
    }

    /// The largest single mapping, in bytes: one that is not aligned touches one granule more.
    pub(crate) fn max_mapping_size(&self) -> usize {
        let bytes = self.max_bytes.min(self.len_max).saturating_sub(GRANULE) & !(GRANULE - 1);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Says that MMIO cannot be mapped, which is not to be.
    #[cold]
    #[inline(never)]
    pub(crate) fn refuse_mmio(&self, phys: u64, size: usize, limit: u64) -> u64 {
        // CAST: `usize` has at most 64 bits.
        self.refuse(
            MapError::Mmio,
            (phys, size as u64),
            1,
            limit,
            TraceStart::now(),
        );
        if self.failures.allows() {
            dev_err!(
                self.dev,
                "{}: {} bytes of MMIO at {:#x} cannot be mapped: the DART maps guest RAM only\n",
                self.managed,
                size,
                phys
            );
        }
        DMA_MAPPING_ERROR
    }

    /// Looks where RAM is now. May sleep.
    fn update_ram(&self) {
        match ram::system_ram() {
            Ok(ram) => drop(self.engine.set_ram(ram)),
            Err(error) => dev_warn!(self.dev, "cannot see where memory is now: {:?}\n", error),
        }
    }

    /// Tries a host again that does not answer, if it is time or with `hurry`, and asks again for
    /// what it did not take back. May sleep.
    fn recover(&self, hurry: bool) {
        let wanted = self.engine.with_host(|host| host.needs_new_buffers(hurry));
        // If there is no memory there may be some the next time.
        let fresh = wanted.and_then(|entries| CommandBuffers::new(self.dev, entries).ok());
        if let Some(fresh) = fresh {
            drop(self.engine.with_host(|host| host.replace_buffers(fresh)));
        }
        // As long as that is of use.
        let mut stats = self.engine.stats();
        for _ in 0..RECOVERY_TURNS {
            let before = stats.counters.windows_recovered;
            self.engine.retry_lost();
            stats = self.engine.stats();
            if stats.counters.windows_recovered == before {
                break;
            }
        }
        let news = |told: &Atomic<u64>, now: u64| now.saturating_sub(told.xchg(now, Relaxed));
        let lost = news(&self.told_lost, stats.counters.windows_lost.get());
        let recovered = news(&self.told_recovered, stats.counters.windows_recovered.get());
        if lost != 0 {
            dev_err!(
                self.dev,
                "the host did not take back {} mappings: it is asked again\n",
                lost
            );
        }
        if recovered != 0 {
            dev_info!(
                self.dev,
                "the host took back {} mappings when it was asked again\n",
                recovered
            );
        }
    }

    /// Gives everything back; says what the host keeps. May sleep.
    fn release(&self) -> Released {
        self.recover(true);
        let released = self.engine.release();
        if released.lost != 0 {
            dev_err!(
                self.dev,
                "the host did not take back {} mappings\n",
                released.lost
            );
        }
        released
    }

    /// Says why something could not be mapped; without `size` a scatterlist.
    #[cold]
    #[inline(never)]
    fn report(&self, error: MapError, gpa: u64, size: Option<usize>, limit: u64) {
        if !self.failures.allows() {
            return;
        }
        let name = self.managed;
        let dev = self.dev;
        let what = What(size);
        let stats = self.engine.stats();
        match error {
            MapError::Full(_) => dev_err!(
                dev,
                "{}: cannot map {} at {:#x}: {}: {} of max_bytes={}, {} of max_entries={} used\n",
                name,
                what,
                gpa,
                error.as_str(),
                stats.usage.bytes,
                self.max_bytes,
                stats.usage.entries,
                self.max_entries
            ),
            MapError::Unreachable(iova) => dev_err!(
                dev,
                "{}: cannot map {} at {:#x}: {}: {:#x} is beyond {:#x}\n",
                name,
                what,
                gpa,
                error.as_str(),
                iova.raw(),
                limit
            ),
            MapError::Rejected(reject) => dev_err!(
                dev,
                "{}: cannot map {} at {:#x}: {}: {}\n",
                name,
                what,
                gpa,
                error.as_str(),
                reject.as_str()
            ),
            error => dev_err!(
                dev,
                "{}: cannot map {} at {:#x}: {}\n",
                name,
                what,
                gpa,
                error.as_str()
            ),
        }
    }

    /// Says that a driver gave up what it had not; without `size` a scatterlist.
    #[cold]
    #[inline(never)]
    fn report_misuse(&self, iova: u64, size: Option<usize>) {
        self.misuses.fetch_add(1, Relaxed);
        // CAST: `usize` has at most 64 bits.
        self.origin.misuse(iova, size.unwrap_or(0) as u64);
        if self.misuse.allows() {
            dev_err!(
                self.dev,
                "{}: its driver unmaps what is not mapped: {} at {:#x}\n",
                self.managed,
                What(size),
                iova
            );
        }
    }
}

impl MemoryEvents for Arc<Instance<'_>> {
    fn going_online(&self, span: GpaSpan) -> Result {
        if !self.direct {
            return Ok(());
        }
        dev_err!(
            self.dev,
            "the {} MiB of memory at {:#x} cannot come: {} would not know of it (load the module \
             anew after it has)\n",
            span.len() >> 20,
            span.start().raw(),
            self.managed
        );
        Err(EBUSY)
    }

    fn online(&self, span: GpaSpan) {
        if self.engine.is_fixed(&GpaSpan::ALL) {
            dev_info!(
                self.dev,
                "the {} MiB of memory at {:#x} came after all of RAM was mapped; \
                 windows serve it\n",
                span.len() >> 20,
                span.start().raw()
            );
        }
        self.update_ram();
    }

    fn going_offline(&self, span: GpaSpan) -> Result {
        if !self.engine.is_fixed(&span) {
            return Ok(());
        }
        dev_err!(
            self.dev,
            "the {} MiB of memory at {:#x} cannot go: all of RAM is mapped \
             (whole_ram=0 avoids that)\n",
            span.len() >> 20,
            span.start().raw()
        );
        Err(EBUSY)
    }

    fn offline(&self, span: GpaSpan) {
        self.update_ram();
        let busy = self.engine.evict(&span);
        if busy != 0 {
            dev_warn!(
                self.dev,
                "the {} MiB of memory at {:#x} went, but {} has {} windows mapped there\n",
                span.len() >> 20,
                span.start().raw(),
                self.managed,
                busy
            );
        }
    }
}

impl PeriodicTask for Arc<Instance<'_>> {
    fn run(&self) {
        self.engine.age();
    }
}

/// Looks after a host that failed, what a kernel left that did, and the tables.
struct Recovery<'a>(Arc<Instance<'a>>, Atomic<u32>);

impl PeriodicTask for Recovery<'_> {
    fn run(&self) {
        // Those who map with interrupts off may not be able to; without it they try all the same.
        let _ = self.0.engine.reserve(SPARE);
        self.0.recover(false);
        if self.1.fetch_add(1, Relaxed) % COUNT_EVERY == 0 {
            self.0.engine.count_uses();
        }
        for _ in 0..SEARCH_BATCHES {
            if !self.0.engine.search_stale() {
                break;
            }
        }
    }
}

/// Why all of RAM must be mapped, in words for a message.
fn direct_because() -> &'static str {
    if HAS_OPS {
        "whole_ram=2"
    } else {
        "this kernel has no CONFIG_ARCH_HAS_DMA_OPS"
    }
}

#[pinned_drop]
impl PinnedDrop for Instance<'_> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: This is where sleeping is allowed.
        unsafe { crate::bindings::apple_dma_deferred_free_flush() };
        let released = self.release();
        let stats = self.engine.stats();
        let counters = &stats.counters;
        let host_errors =
            |error: HostError| stats.host_errors.get(error.index()).map_or(0, |n| n.get());
        let rejected = stats
            .host_errors
            .iter()
            .skip(2)
            .map(|n| n.get())
            .sum::<u64>();
        let failed = self.refusals.iter().map(|n| n.load(Relaxed)).sum::<u64>();
        if released.busy != 0 {
            dev_warn!(
                self.dev,
                "the driver of {} left {} windows mapped; they were taken away\n",
                self.managed,
                released.busy
            );
        }
        dev_info!(
            self.dev,
            "released {}: {} doorbells, {} windows mapped, {} given back, {} of them for age, \
             {} stale, {} refused, {} rejected, {} unanswered, {} lost, {} of them found, \
             {} requests failed, {} misuses, {} shared, \
             {} of {} large ones congruent, at most {} KiB in {} windows\n",
            self.managed,
            counters.doorbells.get(),
            counters.windows_created.get(),
            counters.windows_returned.get(),
            counters.windows_aged.get(),
            counters.windows_stale.get(),
            host_errors(HostError::Refused),
            rejected,
            host_errors(HostError::Silent),
            counters.windows_lost.get(),
            counters.windows_recovered.get(),
            failed,
            self.misuses.load(Relaxed),
            counters.shared.get(),
            counters.congruent.get(),
            counters.large.get(),
            stats.usage.peak_bytes >> 10,
            stats.usage.peak_entries
        );
    }
}

/// See the module's documentation. The parts go in this order; the instance is the last.
pub(crate) struct Binding<'a> {
    _attachment: Attachment<'a>,
    _memory: Pin<KBox<MemoryNotifier<Arc<Instance<'a>>>>>,
    _ager: Option<Pin<KBox<Periodic<Arc<Instance<'a>>>>>>,
    _recovery: Pin<KBox<Periodic<Recovery<'a>>>>,
    _look: DeviceFiles<'a, Instance<'a>>,
    instance: Arc<Instance<'a>>,
}

impl PmOps for Binding<'_> {
    fn shutdown(self: Pin<&Self>) {
        // The managed device's driver was shut down before; what it left mapped it does not use.
        let this = &self.instance;
        this.release();
        dev_info!(
            this.dev,
            "gave all mappings of {} back, since the system goes down\n",
            this.managed
        );
    }

    fn resume(self: Pin<&Self>) {
        // What is mapped is the host's to know, and stays.
        self.instance.engine.with_host(Companion::program);
    }

    fn freeze(self: Pin<&Self>) -> Result {
        // The kernel that is brought back would believe in mappings that have gone with QEMU.
        dev_err!(
            self.instance.dev,
            "hibernation is not supported: what {} has mapped would be lost\n",
            self.instance.managed
        );
        Err(EBUSY)
    }
}

impl<'a> Binding<'a> {
    /// Sets up the companion and attaches its managed device.
    pub(crate) fn new(dev: &'a pci::Device<Core<'_>>, params: &Params) -> Result<Self> {
        let (instance, translation) = Instance::new(dev, params)?;
        let memory = KBox::pin_init(MemoryNotifier::new(instance.clone()), GFP_KERNEL)?;
        // What came or went before the notifier was there.
        instance.update_ram();
        let ager = if instance.ages {
            // What is idle is noticed the first time, and given back the second.
            let period = params.max_idle.saturating_mul(1000) / 2;
            let ager = Periodic::new(instance.clone(), period);
            Some(KBox::pin_init(ager, GFP_KERNEL)?)
        } else {
            None
        };
        let recovery = Periodic::new(Recovery(instance.clone(), Atomic::new(0)), RECOVERY_PERIOD);
        let recovery = KBox::pin_init(recovery, GFP_KERNEL)?;
        let files = DeviceFiles::new(instance.dev, instance.clone())?;
        // SAFETY: The operations live as long as the instance, which outlives the attachment, and
        // so does what it mapped. This is the last step of the companion's probe, so both live
        // until its driver unbinds.
        let attachment = unsafe { Attachment::new(instance.managed, translation)? };
        Ok(Self {
            _attachment: attachment,
            _memory: memory,
            _ager: ager,
            _recovery: recovery,
            _look: files,
            instance,
        })
    }
}
