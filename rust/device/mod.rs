// SPDX-License-Identifier: GPL-2.0

//! The managed device of a companion: everything between the kernel's DMA API and the engine.
//!
//! An [`Instance`] owns the engine, and the DMA operations through which the managed device's
//! driver reaches it. A [`Binding`] is an instance with the managed device attached: the data of
//! the companion's driver. The folder may use all other parts of the module; only the driver, and
//! the companion for the names of functions, use the folder. Code belongs in this file if it is
//! about the life of an instance, and otherwise in the file for its subject:
//!
//! - `mode`: the differences between the modes of mapping;
//! - `swiotlb`: the memory of bounce mode;
//! - `calls`, `copying`: map and unmap calls of the device driver, with tracing; those that may be
//!   copied;
//! - `report`: counters and messages about failed calls;
//! - `dma_ops`, `copy_ops`, `scatterlist`, `dma_range_map`: the C interfaces of the DMA API;
//! - `copy_pool`: the copy pool of an instance;
//! - `binding`: an instance with everything that ends when the driver is unbound;
//! - `bdf`, `attach`: the managed device's address, and the takeover of its DMA;
//! - `claims`: devices that appear while their companion has no driver;
//! - `quiesce`, `crash`: the end of its DMA, in general and in a panic;
//! - `user_space`: drivers whose DMA cannot be managed;
//! - `hotplug`, `maintenance`: memory that is added or removed, and periodic work;
//! - `search`: what earlier kernels left on the host;
//! - `limits`, `pressure`: changing the limits of the device, and watching how near they are;
//! - `show`: the contents of the files in debugfs and sysfs.

mod attach;
pub(crate) mod bdf;
mod binding;
mod calls;
pub(crate) mod claims;
mod copy_ops;
mod copy_pool;
mod copying;
mod crash;
mod dma_ops;
mod dma_range_map;
mod hotplug;
mod limits;
mod maintenance;
mod mode;
pub(crate) mod pci_address;
mod pressure;
mod quiesce;
mod report;
mod scatterlist;
mod search;
mod show;
mod swiotlb;
mod user_space;

pub(crate) use self::binding::Binding;

use self::attach::Translation;
use self::bdf::ManagedFunction;
use self::copy_pool::CopyPool;
use self::dma_ops::Ops;
use self::mode::Mode;
use self::swiotlb::CoherentMemory;
use crate::abstractions::coherent_pool::CoherentPool;
use crate::abstractions::pool_memory::PoolMemory;
use crate::abstractions::ram;
use crate::abstractions::ratelimit::RateLimit;
use crate::addr::{
    Address,
    Iova,
    IovaSpan,
    GRANULE, //
};
use crate::driver::params::{
    Congruent,
    Params, //
};
use crate::engine::policy::Adaptive;
use crate::engine::pool::{
    Pool,
    CAUTIONS, //
};
use crate::engine::{
    Config,
    Engine,
    LargePages,
    MapError, //
};
use crate::host::wire::Dialect;
use crate::host::{
    Companion,
    Dart,
    Notices,
    OpenedCompanion, //
};
use crate::observe::trace::EventSource;
use crate::sys::Atomic;
use core::ops::{
    Deref,
    DerefMut, //
};
use kernel::{
    device::{
        Bound,
        Core, //
    },
    pci,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// Most granules of RAM with an entry in a flat table, 4 bytes each: enough for 256 GiB of RAM,
/// which take 64 MiB.
const TABLE_MAX: usize = 1 << 24;

/// Windows for which the tables have memory from the beginning.
const RESERVE: usize = 512;

/// The amount that all managed devices have mapped together.
static POOL: Pool = Pool {
    bytes: Atomic::new(0),
    entries: Atomic::new(0),
    shortages: Atomic::new(0),
    engines: Atomic::new(0),
    used_bytes: Atomic::new(0),
    used_entries: Atomic::new(0),
    markers: Atomic::new(0),
    caution: Atomic::new(0),
    cautions: [const { Atomic::new(0) }; CAUTIONS],
    companion: Atomic::new(0),
};

/// The engine of a managed device.
type DeviceEngine<'a> = Engine<Companion<'a>, Adaptive, EventSource>;

/// An engine that unmaps everything when it is dropped, also where probing fails half-way, unless
/// it was closed before.
struct ReleaseOnDrop<'a> {
    engine: DeviceEngine<'a>,
    /// Memory that the host has mapped until the engine is released.
    pool_memory: PoolMemory,
}

impl<'a> Deref for ReleaseOnDrop<'a> {
    type Target = DeviceEngine<'a>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.engine
    }
}

impl DerefMut for ReleaseOnDrop<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.engine
    }
}

impl Drop for ReleaseOnDrop<'_> {
    fn drop(&mut self) {
        if !self.is_closed() {
            self.release();
        }
        // What the host failed to unmap may be memory of the pool.
        if self.stats().usage.entries != 0 {
            self.pool_memory.leak();
        }
    }
}

/// A companion and the engine that maps the memory of its managed device.
#[pin_data(PinnedDrop)]
pub(crate) struct Instance<'a> {
    /// The target of the managed device's `dma_ops`.
    #[pin]
    ops: Ops,
    engine: ReleaseOnDrop<'a>,
    /// The coherent memory of bounce mode: dropped after the engine, which unmaps it.
    _pool: Option<Arc<CoherentPool>>,
    /// The pool that mappings are copied through, if they are.
    copy_pool: Option<CopyPool>,
    dev: &'a pci::Device<Bound>,
    managed: ManagedFunction<'a>,
    source: EventSource,
    /// Events under the engine's lock that are to be logged.
    notices: Arc<Notices<'a>>,
    mode: Mode,
    params: Params,
    dialect: Dialect,
    batch_max: usize,
    /// The longest mapping that the host can be expected to grant, in bytes.
    max_len: u64,
    /// The last address of the first mapping; the DART's addresses are at least that large. 0 if
    /// there is no DART.
    first_last: u64,
    /// Not 0 if the engine may not know the layout of RAM, since reading it failed.
    ram_outdated: Atomic<u32>,
    /// Lost windows that messages have reported.
    lost_logged: Atomic<u64>,
    /// Recovered windows that messages have reported.
    recovered_logged: Atomic<u64>,
    /// Not 0 if a message has reported that what an earlier kernel left is searched for.
    caution_logged: Atomic<u32>,
    /// Limits messages about failed map calls.
    #[pin]
    failure_log: RateLimit,
    /// Limits messages about misuses.
    #[pin]
    misuse_log: RateLimit,
    /// Calls of a device driver about memory that it had not mapped.
    misuses: Atomic<u64>,
    /// Failed map calls, by [`MapError`].
    failures: [Atomic<u64>; MapError::NAMES.len()],
    /// The age of the last map call that failed for lack of room; see [`pressure`].
    refusal_age: Atomic<u32>,
}

// SAFETY: The operations are read by the DMA API from any context, and are never changed; the other
// parts are `Sync` themselves.
unsafe impl Sync for Instance<'_> {}

// SAFETY: Nothing in an instance belongs to a thread: the operations are plain function pointers.
unsafe impl Send for Instance<'_> {}

impl<'a> Instance<'a> {
    /// Creates the instance of a companion, with the translation that its managed device is to use.
    ///
    /// Context: process, may sleep.
    fn new(
        dev: &'a pci::Device<Core<'_>>,
        opened: OpenedCompanion<'a>,
        managed: ManagedFunction<'a>,
        params: &Params,
    ) -> Result<(Arc<Self>, Translation)> {
        attach::check_bus(dev)?;
        let markers = search::markers()?;
        let (companion, dart) = Companion::probe(dev, opened, &managed, markers, params.batch_max)?;
        let (dialect, batch_max) = (companion.dialect(), companion.batch_max());
        let source = companion.event_source();
        let notices = companion.notices();
        let mode = Mode::requested(params, dart);
        let admit = copy_pool::admits(&managed, mode, params);
        let id = ManagedFunction::of(dev).number();
        // Dropped after the engine, which unmaps it.
        let mut coherent = None;
        let large_pages = large_pages(&managed, params);
        let mut engine = new_engine(companion, id, mode, source, params, admit, large_pages)?;
        let is_searching = search::before_mapping(dev, &engine, markers.kind(), mode, params)?;
        let mode = mode.set_up(dev, &mut engine, params, &mut coherent)?;
        let max_len = mode.max_len(&engine, params, dialect);
        let copy_pool = copy_pool::set_up(dev, &managed, &mut engine, mode, params)?;
        let ranges = mode::dma_ranges(dev, &engine, params, coherent.as_ref())?;
        let first = match dart {
            Dart::None => None,
            Dart::Assigns(iova) => {
                let granule = Iova::new(iova.raw() & !(GRANULE - 1));
                IovaSpan::new(granule, GRANULE)
            }
        };
        dev_info!(
            dev,
            "manages {}: {} mode, {} dialect, addresses like {:#x}, at most {} MiB in {} mappings\n",
            managed,
            mode.name(),
            dialect.name(),
            first.map_or(0, |span| span.start().raw()),
            params.max_bytes >> 20,
            params.max_entries
        );
        let ops = copy_ops::ops(copy_pool.as_ref(), engine.aligns_windows());
        let dev: &'a pci::Device<Bound> = dev;
        let pool = coherent.as_ref().map(CoherentMemory::share);
        let this = Arc::pin_init(
            pin_init!(Self {
                ops: Opaque::new(ops),
                engine,
                _pool: pool,
                copy_pool,
                dev,
                managed,
                source,
                notices,
                mode,
                params: *params,
                dialect,
                batch_max,
                max_len,
                first_last: first.map_or(0, |span| span.last()),
                ram_outdated: Atomic::new(0),
                lost_logged: Atomic::new(0),
                recovered_logged: Atomic::new(0),
                caution_logged: Atomic::new(u32::from(is_searching)),
                failure_log <- RateLimit::new(),
                misuse_log <- RateLimit::new(),
                misuses: Atomic::new(0),
                failures: [const { Atomic::new(0) }; MapError::NAMES.len()],
                refusal_age: Atomic::new(pressure::FORGOTTEN),
            }),
            GFP_KERNEL,
        )?;
        let translation = match ranges {
            Some(ranges) => Translation::Direct(ranges, coherent),
            None => Translation::Ops(this.ops.get()),
        };
        Ok((this, translation))
    }
}

/// Returns the effort for the addresses of large pages of `managed`. Drivers of displays and
/// accelerators rely on them.
///
/// Context: process, may sleep.
fn large_pages(managed: &ManagedFunction<'_>, params: &Params) -> LargePages {
    match params.congruent {
        Congruent::Never => LargePages::Ignored,
        Congruent::Always => LargePages::Expected,
        Congruent::ByClass => match managed.is_display_or_accelerator() {
            Some(true) => LargePages::Expected,
            _ => LargePages::Preferred,
        },
    }
}

/// Creates the engine for `companion`, which has the number `id`, with memory for its first
/// windows. With `admit`, it is to decide about mappings that may be copied.
///
/// Context: process, may sleep.
#[inline(never)]
fn new_engine<'a>(
    companion: Companion<'a>,
    id: u64,
    mode: Mode,
    source: EventSource,
    params: &Params,
    admit: bool,
    large_pages: LargePages,
) -> Result<ReleaseOnDrop<'a>> {
    let config = Config {
        admit,
        strict: params.strict,
        max_bytes: params.max_bytes,
        max_entries: params.max_entries,
        pool: params.share_limits.then_some(&POOL),
        id,
        markers: companion.markers(),
        ram: ram::system_ram()?,
        large_pages,
        table_max: TABLE_MAX,
    };
    let policy = Adaptive::new(mode.initial_window_shift());
    let engine = ReleaseOnDrop {
        engine: Engine::new(companion, policy, source, config)?,
        pool_memory: PoolMemory::none(),
    };
    engine.with_host(Companion::leave_markers);
    engine.reserve(RESERVE.min(params.max_entries as usize))?;
    Ok(engine)
}

#[pinned_drop]
impl PinnedDrop for Instance<'_> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Sleeping is allowed here.
        unsafe { crate::bindings::apple_dma_deferred_free_flush() };
        let released = self.release();
        let left = self.slots_in_use().saturating_add(released.busy.into());
        if left != 0 {
            dev_warn!(
                self.dev,
                "{}: driver bug: {} windows left mapped; unmapped them\n",
                self.managed,
                left
            );
        }
        dev_info!(
            self.dev,
            "{}: released, {} windows unmapped\n",
            self.managed,
            self.engine.stats().counters.windows_returned.get()
        );
    }
}
