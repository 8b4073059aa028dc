// SPDX-License-Identifier: GPL-2.0

//! The mapping engine: turns many mappings of device drivers into few mappings of the host.
//!
//! The engine knows which windows the host has, finds the one that serves a request, creates new
//! ones in batches and unmaps idle ones. It is pure: everything that it needs of the system is in
//! [`crate::sys`], and everything that it needs of the host in [`Host`], so that the same code runs
//! in the kernel and in user-space tests.
//!
//! # Terms
//!
//! - *GPA*: a guest-physical address. *IOVA*: an address that the device uses, which the host
//!   assigns.
//! - *Granule*: 16 KiB, the page of the host's IOMMU, the DART. The host maps whole granules, and
//!   limits count them.
//! - *Mapping*: what a device driver gets from the DMA API and holds until it unmaps it.
//! - *Window*: a mapping of the host, which any number of mappings of device drivers share. A
//!   *tile* is a window that is aligned to its size and serves every request within it. The
//!   *anchor* of any other window is the granule that its request began in.
//! - *Key*: the first GPA of a window, by which the host knows it. No two windows have the same.
//! - *Batch*: the entries of one command. *Doorbell*: the register write that submits a batch.
//! - *Hit*: a request that an existing window serves. *Miss*: any other.
//! - *Lost*: of a window, that the host failed to unmap it, so that the host may have it.
//! - *Stale*: of a mapping of the host, that an earlier kernel created it.
//! - *Marker*: a mapping that tells the next kernel that this one has not unmapped everything.
//!
//! # The life of a window
//!
//! ```text
//!         create             mapped by the host           last unmap
//!   Free --------> Pending ----------------------> Live <------------> Idle
//!    ^              |   |                            |     map           |
//!    |   refused    |   | in doubt                   | last unmap        | reclaim, age,
//!    |<-------------+   |                            | (strict mode)     | evict
//!    |                  v                            v                   |
//!    |               Retired <-------------------------------------------+
//!    |   unmapped     |  |
//!    |<---------------+  | not unmapped
//!    |                   v
//!    |<---------------- Lost
//!        unmapped by a retry
//! ```
//!
//! Live and idle windows are open: they differ by their number of references only, and are one
//! [`State`](window::State). *Fixed* windows are regions of RAM that are mapped for good: pending
//! first, then fixed until [`Engine::release`].
//!
//! # Concurrency
//!
//! All entry points may be called in any context unless their documentation says otherwise. A hit
//! takes no lock, allocates nothing and does not involve the host. Everything else runs under one
//! lock with interrupts off, which is held for one doorbell at most, whose entries take the host
//! [`cost::BATCH_NS`] at most. [`Locked`] is what the lock
//! protects; beside it, every change of the [`WindowIndex`] and of the state of a window needs the
//! lock. References to windows are taken and dropped without it, and so are windows added to the
//! queue of retired windows and requests to the publication list. `docs/architecture.md` has the
//! reasons.

pub(crate) mod admission;
mod align_target;
mod alignment;
mod batch;
pub(crate) mod budget;
pub(crate) mod caution;
mod coherent;
mod combining;
pub(crate) mod copy;
pub(crate) mod cost;
mod create;
mod displace;
mod error;
mod forecast;
mod grow;
mod heat;
mod host;
pub(crate) mod index;
mod large_pages;
mod length;
mod limits;
mod map;
pub(crate) mod marker;
mod miss;
mod observer;
pub(crate) mod policy;
pub(crate) mod pool;
mod premap;
mod pressure;
pub(crate) mod ram;
mod reclaim;
mod recovery;
mod refs;
mod release;
mod stale;
pub(crate) mod static_map;
mod stats;
mod time_share;
mod unmap;
pub(crate) mod window;

pub(crate) use self::error::{
    ErrorClass,
    Limit,
    MapError, //
};
pub(crate) use self::host::{
    Command,
    Host,
    HostError,
    MapEntry,
    MapOutcome,
    ReplyError,
    UnmapEntry,
    UnmapOutcome,
    HOST_ERRORS, //
};
pub(crate) use self::large_pages::LargePages;
pub(crate) use self::map::Request;
pub(crate) use self::marker::{
    KernelKind,
    Markers, //
};
pub(crate) use self::observer::{
    MapPath,
    Observer, //
};
pub(crate) use self::pressure::Pressure;
pub(crate) use self::release::Released;
pub(crate) use self::stale::SearchState;
pub(crate) use self::stats::{
    Snapshot,
    WindowInfo,
    WindowStatus, //
};

use self::admission::Admission;
use self::alignment::AllocOrder;
use self::batch::Batch;
use self::budget::{
    cost,
    Budget, //
};
use self::combining::PublicationList;
use self::cost::{
    EntryCosts,
    FIRST_SEARCH, //
};
use self::forecast::Forecast;
use self::index::arena::{
    Id,
    NONE, //
};
use self::index::{
    IndexWriter,
    WindowIndex, //
};
use self::length::Refusals;
use self::policy::Policy;
use self::pool::Pool;
use self::ram::Ram;
use self::reclaim::IdleWatch;
use self::recovery::Lost;
use self::stale::StaleSearch;
use self::static_map::{
    Region,
    StaticMap, //
};
use self::stats::{
    Counter,
    Counters, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova, //
};
use crate::sys::{
    AllocError,
    Atomic,
    BoxedSlice,
    Lock, //
};

/// The parameters of an engine.
pub(crate) struct Config {
    /// Unmap windows as soon as they are idle.
    pub(crate) strict: bool,
    /// The most bytes that are mapped at a time, in whole granules.
    pub(crate) max_bytes: u64,
    /// The most windows at a time.
    pub(crate) max_entries: u32,
    /// The engines that both limits hold for together; [`None`] for this one alone.
    pub(crate) pool: Option<&'static Pool>,
    /// The number of the engine among these, not 0, and that of every engine for its companion.
    pub(crate) id: u64,
    /// The markers that the host has; the engine unmaps them at its end.
    pub(crate) markers: Markers,
    /// The blocks of guest RAM; see [`Engine::set_ram`].
    pub(crate) ram: Ram,
    /// Decide for each request that may be copied whether it is; see [`Engine::admit`].
    pub(crate) admit: bool,
    /// The effort for the addresses of large pages.
    pub(crate) large_pages: LargePages,
    /// The most granules of RAM that have a place in a flat table.
    pub(crate) table_max: usize,
}

/// See the module's documentation.
pub(crate) struct Engine<H, P, O = ()> {
    strict: bool,
    large_pages: LargePages,
    policy: P,
    observer: O,
    /// The map of all RAM, if it is mapped at once.
    static_map: Option<StaticMap>,
    /// The memory of the copy pool, whose addresses no window can have.
    pool_regions: BoxedSlice<Region>,
    index: WindowIndex,
    /// The first of the windows that their last user closed, and that are not in [`Locked`] yet.
    retired: Atomic<u32>,
    /// The watched window that became idle since the reclaimer last looked; [`reclaim::MANY`] for
    /// more than one.
    idled: Atomic<u32>,
    /// Requests of CPUs that wait for the lock.
    published: PublicationList,
    /// What decides about requests that may be copied, if any may.
    admission: Option<Admission>,
    /// What the host takes for an entry. Written under the lock.
    costs: EntryCosts,
    state: Lock<Locked<H>>,
}

/// The part of an [`Engine`] that its lock protects.
struct Locked<H> {
    host: H,
    ram: Ram,
    /// The order in which the host was last seen to assign addresses.
    alloc_order: AllocOrder,
    /// The address that the next window is expected to get, where large pages are expected.
    forecast: Forecast,
    /// Fillers that have a reference while a call maps large pages.
    fillers: Batch<Id>,
    /// The highest address of all windows that were ever open, other than the regions of RAM, and
    /// of the copy pool.
    highest_iova: u64,
    /// The last window that the host created at an address that the call did not aim at, with that
    /// address, until the window is unmapped.
    misplaced: Option<(Id, Iova)>,
    index: IndexWriter,
    budget: Budget,
    /// The first of the windows to unmap.
    retired: Id,
    /// Windows that the host failed to unmap.
    lost: Lost,
    markers: Markers,
    /// The search for mappings of an earlier kernel.
    search: StaleSearch,
    /// The last window that the reclaimer has looked at.
    hand: Id,
    /// The last window that was looked at for one that is cold.
    sampled: Id,
    idle_watch: IdleWatch,
    /// Set once nothing is mapped any more; see [`Engine::close`].
    closed: bool,
    map: Batch<MapEntry>,
    unmap: Batch<UnmapEntry>,
    /// Refusals that the length may be the cause of.
    refusals: Refusals,
    /// Keys that the host refused although no window has them: an earlier kernel may have.
    suspects: Batch<GpaSpan>,
    counters: Counters,
    /// Failures of the host for a window, by [`HostError::index`].
    host_errors: [Counter; HOST_ERRORS],
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Creates an engine for `host`, with no windows.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(host: H, policy: P, observer: O, config: Config) -> Result<Self, AllocError> {
        let batch = host.batch_max();
        let (max_bytes, max_entries) = (config.max_bytes, config.max_entries);
        let admission = config
            .admit
            .then(|| Admission::new(&config.ram, config.strict, max_bytes, max_entries));
        let fill = GpaSpan::new(Gpa::new(0), 1).ok_or(AllocError)?;
        let (index, mut writer) = WindowIndex::new(
            config.max_entries,
            config.max_bytes,
            &config.ram,
            config.table_max,
        )?;
        writer.keep_keys_of(config.markers);
        let mut budget = Budget::new(config.max_bytes, config.max_entries, config.pool, config.id);
        budget.set_markers(config.markers.cost());
        budget.set_caution(config.markers.caution());
        let search = StaleSearch::new(&config.markers);
        Ok(Self {
            strict: config.strict,
            large_pages: config.large_pages,
            policy,
            observer,
            static_map: None,
            pool_regions: BoxedSlice::copy_of(&[])?,
            index,
            retired: Atomic::new(NONE),
            idled: Atomic::new(NONE),
            published: PublicationList::new()?,
            admission: admission.transpose()?,
            costs: EntryCosts::new(),
            state: Lock::new(Locked {
                host,
                ram: config.ram,
                alloc_order: AllocOrder::BottomUp,
                forecast: Forecast::NONE,
                fillers: Batch::new(batch, NONE)?,
                highest_iova: 0,
                misplaced: None,
                index: writer,
                budget,
                retired: NONE,
                lost: Lost::new(),
                markers: config.markers,
                search,
                hand: NONE,
                sampled: NONE,
                idle_watch: IdleWatch::Off,
                closed: false,
                map: Batch::new(batch, MapEntry::new(fill))?,
                unmap: Batch::new(batch, UnmapEntry::new(fill))?,
                refusals: Refusals::NONE,
                suspects: Batch::with_limit(batch, fill, FIRST_SEARCH)?,
                counters: Counters::ZERO,
                host_errors: [Counter::ZERO; HOST_ERRORS],
            })?,
        })
    }

    /// Replaces the blocks of guest RAM, which windows stay within. Returns the old blocks, to be
    /// dropped where sleeping is allowed. Memory that is added this way is mapped by windows in any
    /// case.
    ///
    /// Context: any.
    pub(crate) fn set_ram(&self, ram: Ram) -> Ram {
        let state = &mut *self.state.lock();
        if state.ram.blocks() != ram.blocks() {
            state.search.note_new_ram();
        }
        core::mem::replace(&mut state.ram, ram)
    }

    /// Returns the bytes of all RAM, in whole granules.
    ///
    /// Context: any.
    pub(crate) fn ram_bytes(&self) -> u64 {
        let state = self.state.lock();
        let costs = state.ram.blocks().iter().map(cost);
        costs.fold(0, u64::saturating_add)
    }

    /// Returns the map of all RAM, if it is mapped at once.
    pub(crate) fn static_map(&self) -> Option<&StaticMap> {
        self.static_map.as_ref()
    }

    /// Returns the end of the last block of RAM.
    ///
    /// Context: any.
    pub(crate) fn ram_end(&self) -> u64 {
        let state = self.state.lock();
        state.ram.blocks().last().map_or(0, |block| block.end())
    }

    /// Returns the highest address that mappings were ever given, or can be without the host. No
    /// mapping lies above it.
    ///
    /// Context: any.
    pub(crate) fn highest_iova(&self) -> u64 {
        let windows = self.state.lock().highest_iova;
        self.static_map
            .as_ref()
            .map_or(windows, |map| windows.max(map.highest_iova()))
    }

    /// Returns what the host takes for an entry.
    pub(crate) fn costs(&self) -> &EntryCosts {
        &self.costs
    }

    /// Calls `f` with the host under the engine lock: `f` must not sleep.
    ///
    /// Context: any.
    pub(crate) fn with_host<R>(&self, f: impl FnOnce(&mut H) -> R) -> R {
        f(&mut self.state.lock().host)
    }
}
