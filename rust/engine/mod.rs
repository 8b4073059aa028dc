// SPDX-License-Identifier: GPL-2.0

//! The mapping engine: turns many mappings of a driver into few mappings of the host.
//!
//! The engine knows which windows the host has, finds the one that serves a request, asks for new
//! ones in batches and gives idle ones back. It is pure: what it needs of the system is in
//! [`crate::sys`], what it needs of the host in [`Host`], so the same code runs in the kernel and
//! in user-space tests.
//!
//! All entry points may be called in any context unless they say otherwise. A request that existing
//! windows serve takes no lock, allocates nothing and does not go to the host. Everything else runs
//! under one lock with interrupts off, which is held for one doorbell at most.

mod age;
mod alignment;
mod batch;
pub(crate) mod budget;
mod combining;
mod error;
mod host;
pub(crate) mod index;
mod miss;
mod observer;
pub(crate) mod policy;
mod premap;
mod reclaim;
mod recovery;
mod stale;
pub(crate) mod static_map;
mod stats;
pub(crate) mod window;

pub(crate) use self::error::{
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
pub(crate) use self::observer::{
    MapPath,
    Observer, //
};
pub(crate) use self::stats::{
    Snapshot,
    WindowInfo,
    WindowStatus, //
};

use self::alignment::AllocOrder;
use self::batch::Batch;
use self::budget::{
    cost,
    Budget, //
};
use self::combining::PublicationList;
use self::recovery::Lost;
use self::stale::StaleScan;
use self::stats::{
    Counter,
    Counters, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::engine::index::arena::{
    Arena,
    FreeList,
    Id,
    NONE, //
};
use crate::engine::index::granule_map::{
    Chunks,
    GranuleMap, //
};
use crate::engine::index::ram_table::RamTable;
use crate::engine::policy::{
    Policy,
    Ram, //
};
use crate::engine::static_map::StaticMap;
use crate::engine::window::{
    NotHeld,
    Put,
    Take,
    Window, //
};
use crate::sys::{
    Alloc,
    AllocError,
    Atomic,
    BoxedSlice, //
    Lock,
};

/// One thing to map, with a place for its address.
pub(crate) trait Request {
    /// The guest memory; [`None`] if it is empty or wraps around.
    fn span(&self) -> Option<GpaSpan>;

    /// Where it is mapped, once it is.
    fn iova(&self) -> Option<Iova>;

    /// The addresses that it is mapped at, once it is.
    fn mapped(&self) -> Option<IovaSpan> {
        IovaSpan::new(self.iova()?, self.span()?.len())
    }

    /// Notes where it is mapped, or that it is not.
    fn set_iova(&self, iova: Option<Iova>);
}

/// How the engine is set up.
pub(crate) struct Config {
    /// Give windows back as soon as they are idle.
    pub(crate) strict: bool,
    /// Most bytes to have mapped at a time, in whole granules.
    pub(crate) max_bytes: u64,
    /// Most mappings to have at a time.
    pub(crate) max_entries: u32,
    /// The blocks of guest RAM; see [`Engine::set_ram`].
    pub(crate) ram: Ram,
    /// Try to give large buffers addresses that are congruent to the memory's.
    pub(crate) congruent: bool,
    /// Most granules of RAM that have a place in a flat table.
    pub(crate) table_max: usize,
}

/// What was found when everything was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Released {
    /// Windows that drivers had not unmapped.
    pub(crate) busy: u32,
    /// Windows that the host would not take back.
    pub(crate) lost: u32,
}

/// See the module's documentation.
pub(crate) struct Engine<H, P, O = ()> {
    strict: bool,
    congruent: bool,
    policy: P,
    observer: O,
    /// All of RAM, if it is mapped at once.
    whole: Option<StaticMap>,
    windows: Arena<Window>,
    chunks: Chunks,
    /// Finds a window by a granule that it covers.
    by_gpa: RamTable,
    /// Finds a window that is not a tile by the granule that its request began in.
    by_start: GranuleMap,
    /// Finds a window by a granule of its IOVAs.
    by_iova: GranuleMap,
    /// Windows that their last user closed, not yet given back.
    retired: Atomic<u32>,
    /// What CPUs that wait for the lock want.
    published: PublicationList,
    state: Lock<Locked<H>>,
}

/// What the lock protects.
struct Locked<H> {
    host: H,
    ram: Ram,
    /// How the host was last seen to fill free addresses.
    fill: AllocOrder,
    /// The last window that the host made at another address than was aimed at, and where that is,
    /// until it is given back.
    misplaced: Option<(Id, Iova)>,
    free_windows: FreeList,
    free_chunks: FreeList,
    /// Chunks that pending windows will need.
    reserved_chunks: usize,
    /// Buckets of windows by their keys.
    keys: BoxedSlice<Id>,
    /// The first of the windows to be given back.
    retired: Id,
    /// Windows that the host did not take back.
    lost: Lost,
    /// The search for what an earlier kernel left.
    search: StaleScan,
    /// How often the batch of the search that comes next was sent already.
    search_retries: u32,
    /// The last window that the reclaimer looked at.
    hand: Id,
    map: Batch<MapEntry>,
    unmap: Batch<UnmapEntry>,
    /// Keys that the host refused although we do not use them. Perhaps an earlier kernel did.
    suspects: Batch<GpaSpan>,
    budget: Budget,
    counters: Counters,
    /// Failures of the host for a window, by [`HostError::index`].
    host_errors: [Counter; HOST_ERRORS],
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Sets up an engine that asks `host`. May sleep.
    pub(crate) fn new(host: H, policy: P, observer: O, config: Config) -> Result<Self, AllocError> {
        let entries = usize::try_from(config.max_entries).unwrap_or(usize::MAX);
        let megabytes = usize::try_from(config.max_bytes >> 20).unwrap_or(usize::MAX);
        // In the worst case every window has chunks of its own in all three maps: one where it is
        // known by its start, two more than it has megabytes in each of the others.
        let chunks = entries
            .saturating_mul(5)
            .saturating_add(megabytes.saturating_mul(2))
            .min(1 << 28);
        let bits = (config.max_entries / 4).max(64).ilog2();
        let batch = host.batch_max();
        let fill = GpaSpan::new(Gpa::new(0), 1).ok_or(AllocError)?;

        let by_gpa = RamTable::new(&config.ram, config.table_max, GranuleMap::new(bits, 0)?)?;

        Ok(Self {
            strict: config.strict,
            congruent: config.congruent,
            policy,
            observer,
            whole: None,
            windows: Arena::new(entries.min(1 << 28))?,
            chunks: Arena::new(chunks)?,
            by_gpa,
            by_start: GranuleMap::new(bits, 1)?,
            by_iova: GranuleMap::new(bits, 2)?,
            retired: Atomic::new(NONE),
            published: PublicationList::new()?,
            state: Lock::new(Locked {
                host,
                ram: config.ram,
                fill: AllocOrder::BottomUp,
                misplaced: None,
                free_windows: FreeList::new(),
                free_chunks: FreeList::new(),
                reserved_chunks: 0,
                keys: BoxedSlice::new(1 << bits, Alloc::Sleep, |_| NONE)?,
                retired: NONE,
                lost: Lost::new(),
                search: StaleScan::Unneeded,
                search_retries: 0,
                hand: NONE,
                map: Batch::new(batch, MapEntry::new(fill))?,
                unmap: Batch::new(batch, UnmapEntry::new(fill))?,
                suspects: Batch::new(batch, fill)?,
                budget: Budget::new(config.max_bytes, config.max_entries),
                counters: Counters::ZERO,
                host_errors: [Counter::ZERO; HOST_ERRORS],
            })?,
        })
    }

    /// Makes `ram` the blocks of guest RAM, so that windows stay within it; gives back the old
    /// ones, to be dropped where sleeping is allowed. Memory that comes this way is mapped by
    /// windows in any case. Any context.
    pub(crate) fn set_ram(&self, ram: Ram) -> Ram {
        core::mem::replace(&mut self.state.lock().ram, ram)
    }

    /// Makes the tables large enough for `windows` windows of up to 1 MiB beforehand. May sleep.
    pub(crate) fn reserve(&self, windows: usize) -> Result<(), AllocError> {
        let chunks = windows.saturating_mul(2);
        loop {
            let (few_windows, few_chunks) = {
                let state = self.state.lock();
                (
                    state.free_windows.len() < windows,
                    state.free_chunks.len() < chunks,
                )
            };
            if !few_windows && !few_chunks {
                return Ok(());
            }
            if !self.grow(few_windows, few_chunks, Alloc::Sleep) {
                return Err(AllocError);
            }
        }
    }

    /// Maps `span` if that takes no more than an addition: all of RAM is mapped, and the device
    /// reaches the address. There is nothing to unmap then.
    #[inline(always)]
    pub(crate) fn map_at_once(&self, span: &GpaSpan, mask: u64) -> Option<Iova> {
        self.in_whole(span)
            .filter(|iova| reachable(*iova, span, mask))
    }

    /// Whether there is nothing to do to unmap `span`: it belongs to RAM that is mapped as a whole.
    #[inline(always)]
    pub(crate) fn is_whole(&self, span: &IovaSpan) -> bool {
        match &self.whole {
            Some(whole) => whole.gpa_of(span).is_some(),
            None => false,
        }
    }

    /// Maps `span` if a window serves that is found at the first look, as most are; [`Self::map`]
    /// is for the rest. Small, so that its callers are.
    #[inline(always)]
    pub(crate) fn map_hit(&self, span: &GpaSpan, mask: u64) -> Option<Iova> {
        let id = self.by_gpa.get(&self.chunks, span.first_granule());
        let window = self.windows.get(id)?;
        if !window.hold() {
            return None;
        }
        match window.iova_of(span) {
            Some(iova) if reachable(iova, span, mask) => Some(iova),
            found => self.undo_hit(id, *span, found),
        }
    }

    /// Undoes what [`Self::map_hit`] does not want: a reference to a window that has `span` at
    /// `found`, if at all.
    #[cold]
    #[inline(never)]
    fn undo_hit(&self, id: Id, span: GpaSpan, found: Option<Iova>) -> Option<Iova> {
        match (found, self.windows.get(id)) {
            (Some(iova), _) => self.undo(iova, span.len()),
            (None, Some(window)) => {
                if window.put_mismatched(self.strict) == Take::Closed {
                    self.retire_and_flush(id, window);
                }
            }
            (None, None) => {}
        }
        None
    }

    /// Gives up a mapping at `span` if its window is found at the first look, and says whether it
    /// was; [`Self::unmap`] is for the rest.
    #[inline(always)]
    pub(crate) fn unmap_hit(&self, span: &IovaSpan) -> bool {
        let id = self.by_iova.get(&self.chunks, span.first_granule());
        let Some(window) = self.windows.get(id) else {
            return false;
        };
        match window.put(span, self.strict) {
            Ok(Put::Open) => true,
            Ok(Put::Closed) => {
                self.retire_and_flush(id, window);
                true
            }
            Err(NotHeld) => false,
        }
    }

    /// Gives back a window that the caller closed.
    #[inline(never)]
    fn retire_and_flush(&self, id: Id, window: &Window) {
        self.retire(id, window);
        self.unmap_retired();
    }

    /// Maps `span` where a device that reaches addresses up to `mask` can use it.
    pub(crate) fn map(&self, span: GpaSpan, mask: u64) -> Result<Iova, MapError> {
        match self.hit(&span) {
            Some(iova) if reachable(iova, &span, mask) => Ok(iova),
            Some(iova) => {
                self.undo(iova, span.len());
                Err(MapError::Unreachable(iova))
            }
            None => self.map_one(span, mask),
        }
    }

    /// Gives up a mapping that was just made, and that no driver gets.
    #[cold]
    fn undo(&self, iova: Iova, len: u64) {
        if IovaSpan::new(iova, len).is_some_and(|span| self.is_whole(&span)) {
            return;
        }
        self.state.lock().counters.undone.inc();
        // It was just taken, so it is held.
        let _ = self.unmap(iova, len);
    }

    /// How a mapping of `span` would be made just now. Lock-free; tells nothing for sure.
    pub(crate) fn source(&self, span: &GpaSpan) -> MapPath {
        let granule = span.first_granule();
        let has = |id| {
            self.windows
                .get(id)
                .is_some_and(|window| window.covers(span))
        };
        if self.in_whole(span).is_some() {
            MapPath::WholeRam
        } else if has(self.by_gpa.get(&self.chunks, granule))
            || has(self.by_start.get(&self.chunks, granule))
        {
            MapPath::Window
        } else {
            MapPath::Host
        }
    }

    /// [`Self::map`] for what no window serves.
    #[cold]
    #[inline(never)]
    fn map_one(&self, span: GpaSpan, mask: u64) -> Result<Iova, MapError> {
        let one = One {
            span,
            iova: core::cell::Cell::new(None),
        };
        self.map_all(core::iter::once(&one), mask)?;
        one.iova.get().ok_or(MapError::Refused)
    }

    /// Maps all of `requests`, or none of them. What no window serves goes to the host together.
    pub(crate) fn map_all<'a, R, I>(&self, requests: I, mask: u64) -> Result<(), MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let mut missing = false;
        let mut result = Ok(());
        for request in requests.clone() {
            // What the place of the address held before means nothing.
            request.set_iova(None);
            if result.is_err() {
                continue;
            }
            let Some(span) = request.span() else {
                result = Err(MapError::Invalid);
                continue;
            };
            match self.hit(&span) {
                Some(iova) => {
                    request.set_iova(Some(iova));
                    if !reachable(iova, &span, mask) {
                        result = Err(MapError::Unreachable(iova));
                    }
                }
                None => missing = true,
            }
        }
        if result.is_ok() && missing {
            result = self.map_missing(requests.clone(), mask);
        }
        if result.is_err() {
            self.release_partial(requests);
        }
        result
    }

    /// Gives up what a call that is not done has taken.
    fn release_partial<'a, R, I>(&self, requests: I)
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let taken = requests.clone().filter_map(Request::mapped);
        // CAST: `usize` has at most 64 bits.
        let undone = taken.filter(|span| !self.is_whole(span)).count() as u64;
        if undone != 0 {
            self.state.lock().counters.undone.add(undone);
        }
        // These were just taken, so they are held.
        let _ = self.unmap_all(requests.clone());
        for request in requests {
            request.set_iova(None);
        }
    }

    /// Gives up the mapping of `len` bytes at `iova`.
    pub(crate) fn unmap(&self, iova: Iova, len: u64) -> Result<(), NotHeld> {
        let closed = self.put(&IovaSpan::new(iova, len).ok_or(NotHeld)?)?;
        if closed {
            self.unmap_retired();
        }
        Ok(())
    }

    /// Gives up the mappings of all of `requests` that are mapped, as many as it can; fails if one
    /// of them was not held.
    pub(crate) fn unmap_all<'a, R, I>(&self, requests: I) -> Result<(), NotHeld>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        let mut result = Ok(());
        let mut closed = false;
        let mut spans = requests
            .filter_map(Request::mapped)
            .filter(|span| !self.is_whole(span))
            .peekable();
        while let Some(span) = spans.next() {
            let id = self.by_iova.get(&self.chunks, span.first_granule());
            let window = self.windows.get(id).filter(|window| window.serves(&span));
            let put = match window {
                Some(window) => {
                    // Neighbours in a list mostly are in one window, which stays what it is while
                    // the first of them is mapped.
                    let mut count: u32 = 1;
                    while count < u32::MAX && spans.next_if(|next| window.serves(next)).is_some() {
                        count = count.wrapping_add(1);
                    }
                    self.put_run(id, window, count)
                }
                None => self.put(&span),
            };
            match put {
                Ok(last) => closed |= last,
                Err(error) => result = Err(error),
            }
        }
        if closed {
            self.unmap_retired();
        }
        result
    }

    /// Gives back `count` references to a window, as many as there are; as [`Self::put`].
    fn put_run(&self, id: Id, window: &Window, count: u32) -> Result<bool, NotHeld> {
        if let Ok(put) = window.put_many(count, self.strict) {
            return Ok(self.after_put(id, window, put));
        }
        // The driver does not hold all of them.
        for _ in 0..count {
            let put = window.put_many(1, self.strict)?;
            if self.after_put(id, window, put) {
                self.unmap_retired();
            }
        }
        Err(NotHeld)
    }

    /// The guest memory behind the mapping of `len` bytes at `iova`, which the caller holds.
    pub(crate) fn translate(&self, iova: Iova, len: u64) -> Option<Gpa> {
        let span = IovaSpan::new(iova, len)?;
        match self.whole.as_ref().and_then(|whole| whole.gpa_of(&span)) {
            Some(gpa) => Some(gpa),
            None => self.window_at(&span)?.gpa_of(&span),
        }
    }

    /// All of RAM, if it is mapped at once.
    pub(crate) fn whole(&self) -> Option<&StaticMap> {
        self.whole.as_ref()
    }

    /// Bytes that all of RAM takes, in whole granules.
    pub(crate) fn ram_bytes(&self) -> u64 {
        let state = self.state.lock();
        let costs = state.ram.blocks().iter().map(cost);
        costs.fold(0, u64::saturating_add)
    }

    /// The host, under the lock: `f` must not sleep. Any context.
    pub(crate) fn with_host<R>(&self, f: impl FnOnce(&mut H) -> R) -> R {
        f(&mut self.state.lock().host)
    }

    /// Takes a reference to a window that covers `span`. Lock-free; may miss one that is there.
    #[inline(always)]
    fn hit(&self, span: &GpaSpan) -> Option<Iova> {
        if let Some(iova) = self.in_whole(span) {
            return Some(iova);
        }
        let id = self.by_gpa.get(&self.chunks, span.first_granule());
        match self.take(id, span) {
            Take::Hit(iova, false) => Some(iova),
            Take::Hit(iova, true) => Some(self.revived(id, iova)),
            take => self.hit_by_start(span, take),
        }
    }

    /// [`Self::hit`] for what the first look gave `take`.
    #[inline(never)]
    fn hit_by_start(&self, span: &GpaSpan, take: Take) -> Option<Iova> {
        if take == Take::Closed {
            self.unmap_retired();
        }
        let id = self.by_start.get(&self.chunks, span.first_granule());
        match self.take(id, span) {
            Take::Hit(iova, false) => Some(iova),
            Take::Hit(iova, true) => Some(self.revived(id, iova)),
            Take::Miss => None,
            Take::Closed => {
                self.unmap_retired();
                None
            }
        }
    }

    /// Tells that a window is used again, from which the caller just took `iova`.
    #[inline(never)]
    fn revived(&self, id: Id, iova: Iova) -> Iova {
        // The caller has a reference.
        if let Some(seen) = self.windows.get(id).and_then(WindowInfo::new) {
            self.observer.reused(&seen);
        }
        iova
    }

    /// Where `span` is if all of RAM is mapped.
    #[inline(always)]
    fn in_whole(&self, span: &GpaSpan) -> Option<Iova> {
        self.whole.as_ref()?.iova_of(span)
    }

    /// As [`Self::hit`], certain to find a window that is there. The caller holds the lock.
    fn hit_locked(&self, span: &GpaSpan) -> Option<Iova> {
        if let Some(iova) = self.in_whole(span) {
            return Some(iova);
        }
        self.candidates(span)
            .iter()
            .find_map(|id| match self.take(*id, span) {
                Take::Hit(iova, false) => Some(iova),
                Take::Hit(iova, true) => Some(self.revived(*id, iova)),
                // What was closed is in the queue, and those who hold the lock look there.
                Take::Miss | Take::Closed => None,
            })
    }

    #[inline(always)]
    fn take(&self, id: Id, span: &GpaSpan) -> Take {
        let Some(window) = self.windows.get(id) else {
            return Take::Miss;
        };
        let take = window.take(span, self.strict);
        if take == Take::Closed {
            self.retire(id, window);
        }
        take
    }

    /// Gives back one reference; says whether a window was closed and waits to be given back.
    #[inline(always)]
    fn put(&self, span: &IovaSpan) -> Result<bool, NotHeld> {
        if self.is_whole(span) {
            return Ok(false);
        }
        let id = self.by_iova.get(&self.chunks, span.first_granule());
        if let Some(window) = self.windows.get(id) {
            if let Ok(put) = window.put(span, self.strict) {
                return Ok(self.after_put(id, window, put));
            }
        }
        self.put_slow(span)
    }

    /// [`Self::put`] for what was not found without the lock.
    #[cold]
    #[inline(never)]
    fn put_slow(&self, span: &IovaSpan) -> Result<bool, NotHeld> {
        let id = {
            let _slow = self.state.lock();
            self.by_iova.get_locked(&self.chunks, span.first_granule())
        };
        let window = self.windows.get(id).ok_or(NotHeld)?;
        let put = window.put(span, self.strict)?;
        Ok(self.after_put(id, window, put))
    }

    #[inline(always)]
    fn after_put(&self, id: Id, window: &Window, put: Put) -> bool {
        match put {
            Put::Open => false,
            Put::Closed => {
                self.retire(id, window);
                true
            }
        }
    }

    /// The window that `span` is mapped by.
    fn window_at(&self, span: &IovaSpan) -> Option<&Window> {
        let granule = span.first_granule();
        let id = match self.by_iova.get(&self.chunks, granule) {
            NONE => {
                let _slow = self.state.lock();
                self.by_iova.get_locked(&self.chunks, granule)
            }
            id => id,
        };
        self.windows.get(id)
    }
}

/// A single request.
struct One {
    span: GpaSpan,
    iova: core::cell::Cell<Option<Iova>>,
}

impl Request for One {
    fn span(&self) -> Option<GpaSpan> {
        Some(self.span)
    }

    fn iova(&self) -> Option<Iova> {
        self.iova.get()
    }

    fn set_iova(&self, iova: Option<Iova>) {
        self.iova.set(iova);
    }
}

/// Counts an answer about the window for `span` that was not what was asked for, and tells of it.
fn note<H: Host, P, O: Observer>(
    engine: &Engine<H, P, O>,
    state: &mut Locked<H>,
    command: Command,
    span: &GpaSpan,
    error: HostError,
) {
    if let Some(count) = state.host_errors.get_mut(error.index()) {
        count.inc();
    }
    engine.observer.host_error(command, span, error);
}

/// Whether a device that reaches addresses up to `mask` can use all of `span` at `iova`.
#[inline]
fn reachable(iova: Iova, span: &GpaSpan, mask: u64) -> bool {
    // No window's addresses wrap around.
    iova.raw().wrapping_add(span.len().wrapping_sub(1)) <= mask
}
