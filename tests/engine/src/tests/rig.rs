// SPDX-License-Identifier: GPL-2.0

//! An engine on the model host that is used as by a driver, with every step checked.
//!
//! Every mapping made through a [`Rig`] is recorded in the host's list of what drivers hold, and
//! must be backed until it is unmapped through the rig.

use super::host::{
    cost,
    span,
    Held,
    ModelHost,
    Placement,
    View, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE,
    PAGE, //
};
use crate::engine::admission::{
    Admit,
    CopyCost, //
};
use crate::engine::budget::{
    Limits,
    Room, //
};
use crate::engine::marker::{
    KernelKind,
    Markers, //
};
use crate::engine::policy::{
    smallest,
    Adaptive,
    Policy,
    Proposal,
    View as Surroundings, //
};
use crate::engine::pool::Pool;
use crate::engine::ram::Ram;
use crate::engine::{
    Config,
    Engine,
    HostError,
    LargePages,
    MapError,
    MapOutcome,
    Pressure,
    Request,
    Snapshot,
    WindowStatus, //
};
use crate::sys::{
    Alloc,
    BoxedSlice, //
};
use std::{
    cell::Cell,
    collections::BTreeSet, //
};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Returns the bytes of the smallest block of the page allocator that holds `len` bytes.
pub(crate) fn order(len: u64) -> u64 {
    len.max(PAGE).next_power_of_two()
}

/// A limit that every address is within.
pub(crate) const ALL: u64 = u64::MAX;

/// The guest RAM of most tests: two blocks with a hole between, one of them off the granules.
pub(crate) const RAM: &[(u64, u64)] = &[
    (0x4000_0000, 16 * MIB),
    (0x4200_1000, 2 * MIB + 36 * KIB),
    (0x8000_0000, 64 * MIB),
];

/// The RAM of large guests.
pub(crate) const LARGE: &[&[(u64, u64)]] = &[
    // arm64, 48 GiB.
    &[(GIB, 48 * GIB)],
    // arm64 with UEFI, 64 GiB: the firmware keeps what it needs at the end of the lowest 4 GiB.
    &[
        (GIB, 2 * GIB - 20 * MIB),
        (3 * GIB - 16 * MIB + 12 * KIB, 3 * MIB - 4 * KIB),
        (3 * GIB - 4 * MIB, 62 * GIB + 4 * MIB),
    ],
    // amd64, 96 GiB: with the holes of the first MiB, and one below 4 GiB.
    &[
        (4 * KIB, 635 * KIB),
        (MIB, 3 * GIB - MIB),
        (4 * GIB, 93 * GIB),
    ],
    // 128 GiB, of which the last was added later, beyond what fits a table.
    &[(GIB, 127 * GIB), (1024 * GIB, GIB)],
];

/// The guest address that most tests map at.
pub(crate) const BASE: u64 = 0x8000_0000;

/// One entry of a list for `map_all`.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    span: Option<GpaSpan>,
    iova: Cell<Option<Iova>>,
}

impl Entry {
    pub(crate) fn new(span: Option<GpaSpan>) -> Self {
        Self {
            span,
            // The value before a call means nothing.
            iova: Cell::new(Some(Iova::new(0x6b6b_6b6b))),
        }
    }

    /// Creates an entry that is mapped at `iova`.
    pub(crate) fn mapped(span: GpaSpan, iova: Iova) -> Self {
        Self {
            span: Some(span),
            iova: Cell::new(Some(iova)),
        }
    }
}

impl Entry {
    /// Returns the IOVA, once it is mapped.
    pub(crate) fn at(&self) -> Option<Iova> {
        self.iova.get()
    }
}

impl Request for Entry {
    fn span(&self) -> Option<GpaSpan> {
        self.span
    }

    fn iova(&self) -> Option<Iova> {
        self.iova.get()
    }

    fn set_iova(&self, iova: Option<Iova>) {
        self.iova.set(iova);
    }
}

/// Creates a list for `map_all`.
pub(crate) fn list(spans: &[(u64, u64)]) -> Vec<Entry> {
    spans
        .iter()
        .map(|&(start, len)| Entry::new(GpaSpan::new(Gpa::new(start), len)))
        .collect()
}

/// A policy with windows of one size, aligned to it; for a request that no such window covers, the
/// smallest.
pub(crate) struct Aligned(u64);

impl Aligned {
    /// Creates a policy with windows of `1 << shift` bytes, at least a granule.
    pub(crate) fn new(shift: u32) -> Self {
        Self(1u64.checked_shl(shift).unwrap_or(0).max(GRANULE))
    }

    pub(crate) fn propose(&self, request: &GpaSpan, block: &GpaSpan) -> Option<Proposal> {
        let tile = request.round_out(self.0)?;
        if tile.len() == self.0 {
            Some(Proposal {
                span: tile.intersection(block)?,
                tile: true,
            })
        } else {
            smallest(request, Some(block))
        }
    }
}

/// A policy for tests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TestPolicy {
    /// The module's policy.
    Adaptive(u32),
    /// Windows of one size.
    Aligned(u32),
    /// The smallest windows.
    Smallest,
    /// No proposals.
    Mute,
    /// Any window, valid or not, derived from the request and the seed.
    Wild(u64),
}

impl TestPolicy {
    /// Returns the most that a window for `request` can cost, in bytes.
    pub(crate) fn most(&self, request: &GpaSpan, block: &GpaSpan) -> u64 {
        if let TestPolicy::Adaptive(shift) = *self {
            return cost(request).max(1u64.checked_shl(shift).unwrap_or(0));
        }
        let nothing = Surroundings {
            len_at: &|_| None,
            bytes: Room { left: 1, max: 1 },
            entries: Room { left: 1, max: 1 },
        };
        self.propose(request, block, &nothing)
            .map_or(0, |proposal| cost(&proposal.span))
    }
}

impl Policy for TestPolicy {
    fn propose(
        &self,
        request: &GpaSpan,
        block: &GpaSpan,
        view: &Surroundings<'_>,
    ) -> Option<Proposal> {
        match *self {
            TestPolicy::Adaptive(shift) => Adaptive::new(shift).propose(request, block, view),
            TestPolicy::Aligned(shift) => Aligned::new(shift).propose(request, block),
            TestPolicy::Smallest => smallest(request, Some(block)),
            TestPolicy::Mute => None,
            TestPolicy::Wild(seed) => {
                let mut x = (seed ^ request.start().raw() ^ request.len().rotate_left(32)) | 1;
                let mut next = |below: u64| {
                    x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(29) | 1;
                    (x >> 8) % below
                };
                let before = next(96 * KIB) & !(next(8) * 512);
                let after = next(96 * KIB) & !0xfff;
                let start = request.start().raw().wrapping_sub(before);
                let end = request.end().wrapping_add(after);
                let span = match next(8) {
                    0 => return None,
                    // Not covering the request.
                    1 => GpaSpan::from_bounds(request.end(), end)?,
                    2 => GpaSpan::new(request.start(), request.len().div_ceil(2))?,
                    // Not in the block.
                    3 => GpaSpan::from_bounds(start, block.end().wrapping_add(4096))?,
                    4 => *block,
                    _ => GpaSpan::from_bounds(start.max(block.start().raw()), end)?
                        .intersection(block)?,
                };
                Some(Proposal {
                    span,
                    tile: next(4) == 0,
                })
            }
        }
    }
}

/// The configuration of a [`Rig`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) ram: &'static [(u64, u64)],
    pub(crate) policy: TestPolicy,
    pub(crate) strict: bool,
    pub(crate) large_pages: LargePages,
    pub(crate) max_bytes: u64,
    pub(crate) max_entries: u32,
    pub(crate) batch_max: usize,
    pub(crate) len_max: u64,
    pub(crate) placement: Placement,
    pub(crate) table_max: usize,
    /// The kind of the kernel, if it has markers.
    pub(crate) kernel: Option<KernelKind>,
    /// The number of the companion.
    pub(crate) id: u64,
    /// Nanoseconds that the host takes for an entry.
    pub(crate) entry_ns: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            ram: RAM,
            policy: TestPolicy::Aligned(18),
            strict: false,
            large_pages: LargePages::Ignored,
            max_bytes: 64 * MIB,
            max_entries: 256,
            batch_max: 64,
            len_max: u64::MAX,
            placement: Placement::Low,
            table_max: 4096,
            kernel: None,
            id: 1,
            entry_ns: 0,
        }
    }
}

/// An engine and its host; see the module's documentation.
pub(crate) struct Rig {
    pub(crate) engine: Engine<ModelHost, TestPolicy, ModelHost>,
    pub(crate) host: ModelHost,
    pub(crate) setup: Setup,
    /// Set if nothing but its windows counts against its limits.
    is_alone: bool,
}

impl Rig {
    pub(crate) fn new(setup: Setup) -> Self {
        Self::with_ram(setup, setup.ram)
    }

    pub(crate) fn with_ram(setup: Setup, ram: &[(u64, u64)]) -> Self {
        Self::with_pool(setup, ram, None)
    }

    pub(crate) fn with_pool(setup: Setup, ram: &[(u64, u64)], pool: Option<&'static Pool>) -> Self {
        Self::on_host(ModelHost::new(ram), setup, ram, pool)
    }

    /// Creates an engine for `host`, on which earlier engines may have left mappings. It knows as
    /// RAM what `ram` says.
    pub(crate) fn on_host(
        host: ModelHost,
        setup: Setup,
        ram: &[(u64, u64)],
        pool: Option<&'static Pool>,
    ) -> Self {
        {
            let mut state = host.look();
            state.batch_max = setup.batch_max;
            state.len_max = setup.len_max;
            state.placement = setup.placement;
            (state.map_ns, state.unmap_ns) = (setup.entry_ns, setup.entry_ns);
            state.budget = (setup.max_bytes, setup.max_entries);
        }
        let markers = setup.kernel.map_or(Markers::NONE, |kernel| {
            let mut markers = Markers::new(ram[0].0, kernel);
            let taken = markers.take(
                &mut host.clone(),
                |host, span| Ok::<_, ()>(host.look().map_marker(span)),
                |host, span| host.look().unmap_marker(span),
            );
            let taken = taken.expect("no error");
            if let Some((_, outcome)) = taken {
                assert!(matches!(outcome, MapOutcome::Mapped(_)), "{outcome:?}");
            }
            markers
        });
        let blocks = BoxedSlice::new(ram.len(), Alloc::Sleep, |i| span(ram[i].0, ram[i].1));
        let config = Config {
            admit: true,
            strict: setup.strict,
            max_bytes: setup.max_bytes,
            max_entries: setup.max_entries,
            ram: Ram::new(blocks.expect("memory")),
            large_pages: setup.large_pages,
            pool,
            id: setup.id,
            markers,
            table_max: setup.table_max,
        };
        let engine = Engine::new(host.clone(), setup.policy, host.clone(), config).expect("memory");
        Self {
            engine,
            host,
            setup,
            is_alone: pool.is_none() && setup.kernel.is_none(),
        }
    }

    /// Maps `len` bytes from `start` on, without a limit on the IOVA.
    #[track_caller]
    pub(crate) fn map(&self, start: u64, len: u64) -> Result<Iova, MapError> {
        self.map_within(span(start, len), ALL)
    }

    #[track_caller]
    pub(crate) fn map_within(&self, span: GpaSpan, dma_limit: u64) -> Result<Iova, MapError> {
        let result = self.engine.map(span, dma_limit);
        if let Ok(iova) = result {
            assert!(
                iova.raw() + (span.len() - 1) <= dma_limit,
                "beyond the limit"
            );
            self.host.look().hold(span, iova);
        }
        self.check();
        result
    }

    /// Maps `span`, which may be copied at this cost, by a window if there is one or if it is worth
    /// one.
    #[track_caller]
    pub(crate) fn map_or_copy(
        &self,
        span: GpaSpan,
        copy: CopyCost,
        dma_limit: u64,
    ) -> Option<Iova> {
        let served = self.engine.map_served(&span, dma_limit);
        let iova = served.or_else(|| match self.engine.admit(&span, copy) {
            Admit::Copy => None,
            Admit::Window(offer) => self.engine.map_admitted(span, offer, dma_limit),
        });
        if let Some(iova) = iova {
            assert!(
                iova.raw() + (span.len() - 1) <= dma_limit,
                "beyond the limit"
            );
            self.host.look().hold(span, iova);
        }
        self.check();
        iova
    }

    /// Maps memory that the page allocator gave for `len` bytes at `start`, which is aligned to
    /// their order. The IOVA must be, too.
    #[track_caller]
    pub(crate) fn alloc_within(&self, span: GpaSpan, dma_limit: u64) -> Result<Iova, MapError> {
        let result = self.engine.map_allocation(span, PAGE, dma_limit);
        if let Ok(iova) = result {
            assert!(
                iova.raw() + (span.len() - 1) <= dma_limit,
                "beyond the limit"
            );
            assert_eq!(iova.raw() % order(span.len()), 0, "{span:x?} at {iova:x?}");
            self.host.look().hold(span, iova);
        }
        self.check();
        result
    }

    /// As [`Self::alloc_within`], without a limit on the IOVA.
    #[track_caller]
    pub(crate) fn alloc(&self, start: u64, len: u64) -> Result<Iova, MapError> {
        self.alloc_within(span(start, len), ALL)
    }

    #[track_caller]
    pub(crate) fn map_all(&self, list: &[Entry], dma_limit: u64) -> Result<(), MapError> {
        let result = self.engine.map_all(list.iter(), dma_limit);
        for entry in list {
            match (result, entry.span, entry.iova.get()) {
                (Ok(()), Some(span), Some(iova)) => {
                    assert!(
                        iova.raw() + (span.len() - 1) <= dma_limit,
                        "beyond the limit"
                    );
                    self.host.look().hold(span, iova);
                }
                (Err(_), _, None) => {}
                (result, span, iova) => panic!("{result:?}, but {span:x?} is at {iova:x?}"),
            }
        }
        self.check();
        result
    }

    /// Unmaps what was mapped at `iova`.
    #[track_caller]
    pub(crate) fn unmap(&self, start: u64, len: u64, iova: Iova) {
        self.host.look().drop_held(span(start, len), iova);
        assert_eq!(self.engine.unmap(iova, len), Ok(()), "it was held");
        self.check();
    }

    /// Unmaps a page that was mapped through the engine itself.
    #[track_caller]
    pub(crate) fn unmap_page(&self, iova: Iova) {
        assert_eq!(self.engine.unmap(iova, 4096), Ok(()), "it was held");
    }

    /// Unmaps a list that was mapped.
    #[track_caller]
    pub(crate) fn unmap_all(&self, list: &[Entry]) {
        for entry in list {
            if let (Some(span), Some(iova)) = (entry.span, entry.iova.get()) {
                self.host.look().drop_held(span, iova);
            }
        }
        assert_eq!(self.engine.unmap_all(list.iter()), Ok(()), "all were held");
        self.check();
    }

    /// Unmaps a mapping that a driver holds.
    #[track_caller]
    pub(crate) fn unmap_held(&self, held: &Held) {
        self.unmap(
            held.span.start().raw(),
            held.span.len(),
            Iova::new(held.iova),
        );
    }

    /// Checks what must hold between any two calls.
    #[track_caller]
    pub(crate) fn check(&self) {
        let stats = self.engine.stats();
        let (held, busy) = {
            let state = self.host.look();
            assert_eq!(
                (stats.usage.bytes, stats.usage.entries),
                state.counted(),
                "the engine counts all that the host may have"
            );
            assert!(
                stats.usage.bytes <= stats.usage.peak_bytes
                    && stats.usage.peak_bytes <= self.setup.max_bytes
            );
            assert!(
                stats.usage.entries <= stats.usage.peak_entries
                    && stats.usage.peak_entries <= self.setup.max_entries
            );
            assert_eq!(
                stats.counters.doorbells.get(),
                state.map_doorbells + state.unmap_doorbells,
                "doorbells"
            );
            let busy = state.busy();
            if self.setup.strict {
                let idle: Vec<_> = state
                    .view
                    .iter()
                    .filter(|(key, (_, view))| *view == View::Open && !busy.contains(key))
                    .collect();
                assert!(idle.is_empty(), "idle in strict mode: {idle:x?}");
            }
            let doubtful = state.view.values().any(|(_, view)| *view == View::Doubtful);
            assert!(!doubtful, "doubtful windows are unmapped at once");
            let keys = |open: bool| {
                let windows = state.view.iter();
                let windows = windows.filter(move |(_, (_, view))| !open || *view == View::Open);
                windows.map(|(key, _)| *key).collect::<BTreeSet<_>>()
            };
            assert!(
                state.reported.is_superset(&keys(true)),
                "all windows were reported"
            );
            assert!(
                state.reported.is_subset(&keys(false)),
                "no others were reported"
            );
            (state.held.clone(), busy)
        };
        self.check_snapshot();
        self.check_available();
        // The engine's own view of every mapping.
        for held in &held {
            assert_eq!(
                self.engine.translate(Iova::new(held.iova), held.span.len()),
                Some(held.span.start()),
                "{held:x?}"
            );
            let last = held.iova + (held.span.len() - 1);
            assert!(
                last <= self.engine.highest_iova(),
                "above the highest address: {held:x?}"
            );
        }
        drop(busy);
    }

    /// Checks that all but what is in use, lost or mapped for good is available to new windows, and
    /// that the pressure follows from it.
    #[track_caller]
    fn check_available(&self) {
        let available = self.engine.available();
        let (limits, allowance) = (self.engine.limits(), self.engine.allowance());
        let max_bytes = limits.bytes.min(allowance.0);
        let max_entries = u64::from(limits.entries.min(allowance.1));
        assert_eq!(available.bytes.max, max_bytes);
        assert_eq!(available.entries.max, max_entries);

        let (bytes, entries, _) = self.stuck();
        let bytes = max_bytes.saturating_sub(bytes);
        let entries = max_entries.saturating_sub(entries.into());
        let left = (available.bytes.left, available.entries.left);
        if self.is_alone && !self.has_fixed() {
            assert_eq!(left, (bytes, entries), "available");
        } else {
            assert!(left.0 <= bytes && left.1 <= entries, "available: {left:?}");
        }

        let level = |left, max| match left {
            _ if left < max / 16 => Pressure::Critical,
            _ if left < max / 4 => Pressure::Medium,
            _ => Pressure::None,
        };
        let pressure = match self.engine.static_map() {
            Some(_) => Pressure::None,
            None => level(left.0, max_bytes).max(level(left.1, max_entries)),
        };
        assert_eq!(self.engine.pressure(), pressure, "of {left:?}");
    }

    /// Returns whether a window is mapped for good.
    fn has_fixed(&self) -> bool {
        let mut from = 1;
        while let Some((id, window)) = self.engine.window_from(from) {
            if window.status == WindowStatus::Fixed {
                return true;
            }
            from = id + 1;
        }
        false
    }

    /// Checks that the engine's statistics are what it did.
    #[track_caller]
    fn check_snapshot(&self) {
        let mut snapshot = Snapshot::new();
        self.engine.snapshot(&mut snapshot);
        let windows: u32 = snapshot.sizes.iter().flatten().sum();
        assert_eq!(
            windows, snapshot.stats.usage.entries,
            "windows of all sizes"
        );
        let mut from = 1;
        let mut listed = 0;
        while let Some((id, _)) = self.engine.window_from(from) {
            (from, listed) = (id + 1, listed + 1);
        }
        assert_eq!(listed, windows, "windows one by one");
        for (status, sizes) in WindowStatus::ALL.into_iter().zip(&snapshot.sizes) {
            let none = self.setup.strict && status == WindowStatus::Idle;
            assert!(
                !none || sizes.iter().all(|count| *count == 0),
                "idle in strict mode"
            );
        }
        if self.engine.static_map().is_some() {
            return;
        }
        let state = self.host.look();
        let held = u64::try_from(state.held.len()).expect("few");
        assert_eq!(snapshot.users, held, "mappings in use");
        assert_eq!(snapshot.maps(), state.holds, "mappings so far");
        assert_eq!(
            snapshot.maps() - snapshot.unmaps(),
            held,
            "mappings not unmapped"
        );
        assert!(
            snapshot.hits() + snapshot.stats.counters.misses.get() == snapshot.maps(),
            "each mapping is a hit or a miss"
        );
    }

    /// Returns the number of errors of this kind that the host made about windows.
    pub(crate) fn host_errors(&self, error: HostError) -> u64 {
        self.engine.stats().host_errors[error.index()].get()
    }

    /// Sets the engine's limits, as root does by sysfs.
    #[track_caller]
    pub(crate) fn limit(&self, bytes: u64, entries: u32) {
        let limits = Limits { bytes, entries };
        assert_eq!(self.engine.set_limits(|_| limits), Ok(()));
        let now = self.engine.limits();
        assert_eq!(now.bytes, bytes.min(self.setup.max_bytes));
        assert_eq!(now.entries, entries.min(self.setup.max_entries));
        self.host.look().budget = (now.bytes, now.entries);
    }

    /// Returns the bytes, the number and the keys of the mappings that are in use or lost.
    pub(crate) fn stuck(&self) -> (u64, u32, BTreeSet<u64>) {
        let state = self.host.look();
        let busy = state.busy();
        let stuck: Vec<_> = state
            .view
            .iter()
            .filter(|(key, (_, view))| *view != View::Open || busy.contains(key))
            .collect();
        (
            stuck.iter().map(|(_, (span, _))| cost(span)).sum(),
            u32::try_from(stuck.len()).expect("few entries"),
            stuck.iter().map(|(key, _)| **key).collect(),
        )
    }

    /// Releases the engine, and checks that the host has none of its windows but lost ones.
    #[track_caller]
    pub(crate) fn release(self) {
        let busy = u32::try_from(self.host.look().busy().len()).expect("few entries");
        self.host.look().held.clear();
        let released = self.engine.release();
        assert_eq!(released.busy, busy, "windows that drivers had not unmapped");
        let state = self.host.look();
        let (_, entries) = state.counted();
        assert_eq!(released.lost, entries, "windows that were not unmapped");
        assert!(
            state
                .view
                .values()
                .all(|(_, view)| matches!(view, View::Lost | View::Kept)),
            "the host was requested to unmap all"
        );
        let ours = state
            .mappings
            .keys()
            .filter(|key| state.view.contains_key(key))
            .count();
        assert!(ours <= released.lost as usize);
        let (start, _) = self.setup.ram[0];
        drop(state);
        let late = self.engine.map(span(start, 4096), ALL);
        assert_eq!(late, Err(MapError::Closed), "nothing is mapped any more");
    }
}
