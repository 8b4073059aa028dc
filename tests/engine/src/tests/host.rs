// SPDX-License-Identifier: GPL-2.0

//! A model of the host that is strict about the protocol: a request that is not allowed panics. Its
//! replies can be made wrong on purpose.
//!
//! The model also keeps a list of the mappings that drivers hold, and panics when one of them is
//! unmapped. It does not know how the engine finds windows, so its checks are independent of that.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE,
    GRANULE_SHIFT, //
};
use crate::engine::cost::BATCH_NS;
use crate::engine::{
    Host,
    MapEntry,
    MapOutcome,
    Observer,
    ReplyError,
    UnmapEntry,
    UnmapOutcome,
    WindowInfo, //
};
use crate::sys::{
    pass_ms,
    pass_ns, //
};
use std::{
    collections::{
        BTreeMap,
        BTreeSet,
        VecDeque, //
    },
    sync::{
        Arc,
        Mutex,
        MutexGuard,
        PoisonError, //
    },
};

/// The placement of mappings by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// At the lowest free granules.
    Low,
    /// At the highest free granules.
    High,
    /// At random free granules.
    Random,
    /// At the guest-physical address, as by a host without an IOMMU.
    Identity,
    /// At this distance from the guest-physical address, in bytes.
    Offset(u64),
}

/// A fault of one entry of a map batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapFault {
    /// No fault.
    None,
    /// Refused without a reason.
    Refuse,
    /// Mapped, but the reply says refused.
    RefuseMapped,
    /// Mapped, but the reply cannot be trusted.
    RejectMapped(ReplyError),
    /// Not mapped, and the reply cannot be trusted.
    RejectEmpty(ReplyError),
    /// Mapped, and there is no reply.
    SilentMapped,
    /// Not mapped, and there is no reply.
    SilentEmpty,
    /// Mapped, but the reply has the address of another mapping.
    Overlap,
    /// Mapped, but the reply has an address from which the range wraps around.
    Wrap,
}

/// A fault of one entry of an unmap batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnmapFault {
    /// No fault.
    None,
    /// Stays mapped, and the reply says refused.
    Refuse,
    /// Unmapped, and there is no reply.
    SilentGone,
    /// Stays mapped, and there is no reply.
    SilentKept,
}

/// One mapping of the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    /// The guest memory.
    pub(crate) span: GpaSpan,
    /// The first IOVA.
    pub(crate) iova: u64,
}

/// The state of a requested key that the engine must assume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Mapped at a known address by a trusted reply.
    Open,
    /// Mapped or not: the reply could not be trusted.
    Doubtful,
    /// Not unmapped when requested, at an unknown address.
    Lost,
    /// Not unmapped when requested, at a known address.
    Kept,
}

/// A mapping that a driver holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The memory that the driver mapped.
    pub(crate) span: GpaSpan,
    /// The IOVA that the driver got.
    pub(crate) iova: u64,
}

/// A DART, which several hosts may share: asking it for more than it holds panics the Mac.
pub(crate) struct Dart {
    max_bytes: u64,
    max_entries: u64,
    bytes: u64,
    entries: u64,
}

impl Dart {
    /// Creates a DART that holds `max_bytes` bytes, in whole granules, in `max_entries` mappings.
    pub(crate) fn new(max_bytes: u64, max_entries: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            max_bytes,
            max_entries,
            bytes: 0,
            entries: 0,
        }))
    }

    fn add(&mut self, span: &GpaSpan) {
        self.bytes += cost(span);
        self.entries += 1;
        assert!(
            self.bytes <= self.max_bytes && self.entries <= self.max_entries,
            "the Mac panics: {:#x} bytes in {} mappings",
            self.bytes,
            self.entries
        );
    }

    fn remove(&mut self, span: &GpaSpan) {
        self.bytes -= cost(span);
        self.entries -= 1;
    }

    /// Returns the bytes and the mappings that it has.
    pub(crate) fn live(&self) -> (u64, u64) {
        (self.bytes, self.entries)
    }
}

/// The state of the host.
pub(crate) struct State {
    /// The DART behind it.
    pub(crate) dart: Arc<Mutex<Dart>>,
    /// Keys of markers, which engines may unmap at any time.
    markers: BTreeSet<u64>,
    /// Blocks of guest RAM.
    pub(crate) ram: Vec<GpaSpan>,
    pub(crate) batch_max: usize,
    pub(crate) len_max: u64,
    /// The longest range, in bytes, for which there is one segment of IOVAs.
    pub(crate) segment_max: u64,
    /// The host's own limits.
    pub(crate) max_bytes: u64,
    pub(crate) max_entries: usize,
    pub(crate) placement: Placement,
    /// Granules that stay free behind each mapping.
    pub(crate) guard: u64,
    /// The granules of IOVAs that can be used.
    pub(crate) iovas: std::ops::Range<u64>,
    /// The engine's limits now: bytes in whole granules, and entries. More may be in use if they
    /// were lowered.
    pub(crate) budget: (u64, u32),
    /// Faults of the next map entries, one each.
    pub(crate) map_faults: VecDeque<MapFault>,
    /// Faults of the next unmap entries, one each.
    pub(crate) unmap_faults: VecDeque<UnmapFault>,
    /// Number `n` of which every `n`th map entry is refused.
    pub(crate) refuse_every: Option<u64>,
    /// Set while the host processes batches.
    pub(crate) ready: bool,
    /// Milliseconds that a batch takes.
    pub(crate) batch_ms: u64,
    /// Milliseconds that a key to unmap takes besides.
    pub(crate) key_ms: u64,
    /// Nanoseconds that an entry takes, by command.
    pub(crate) map_ns: u64,
    pub(crate) unmap_ns: u64,
    /// Set once a batch was answered in all, so that the engine knows what an entry takes.
    measured: bool,

    /// Mappings, by their keys.
    pub(crate) mappings: BTreeMap<u64, Mapping>,
    /// First granule and number of granules of the IOVAs in use.
    used: BTreeMap<u64, u64>,
    /// Keys that the engine must assume to be in use.
    pub(crate) view: BTreeMap<u64, (GpaSpan, View)>,
    /// Keys that were refused; the engine may try to unmap them.
    refused_keys: BTreeSet<u64>,
    /// Mappings of drivers.
    pub(crate) held: Vec<Held>,
    /// Number of mappings of drivers so far.
    pub(crate) holds: u64,
    /// Keys of the windows that the engine reported as created, and not as returned.
    pub(crate) reported: BTreeSet<u64>,

    pub(crate) map_doorbells: u64,
    pub(crate) unmap_doorbells: u64,
    pub(crate) map_entries: u64,
    /// Faults that were injected so far.
    pub(crate) injected: u64,
    /// Map entries that were refused because a stale mapping has the key.
    pub(crate) refused_stale: u64,
    /// Set if the engine may unmap keys that it never mapped.
    pub(crate) accepts_unknown_keys: bool,
    /// Map entries that were refused for another valid reason.
    pub(crate) refused_for_cause: u64,
    /// Number of times that the engine asked whether the host is ready: once for each time that it
    /// takes the lock for long.
    pub(crate) looks: u64,
    /// The sizes of the map batches so far.
    pub(crate) map_batches: Vec<usize>,
    /// The sizes of the unmap batches so far.
    pub(crate) unmap_batches: Vec<usize>,
    rng: u64,
}

/// The model host; see the module's documentation. Clones are the same host.
#[derive(Clone)]
pub(crate) struct ModelHost(Arc<Mutex<State>>);

/// Returns the bytes that a mapping of `span` costs, in whole granules.
pub(crate) fn cost(span: &GpaSpan) -> u64 {
    let first = span.start().raw() / GRANULE;
    let last = (span.start().raw() + (span.len() - 1)) / GRANULE;
    (last - first + 1) * GRANULE
}

/// Creates a span of guest memory, which must not be empty nor wrap around.
pub(crate) fn span(start: u64, len: u64) -> GpaSpan {
    GpaSpan::new(Gpa::new(start), len).expect("a good span")
}

impl ModelHost {
    /// Creates a host without faults for a guest with `ram`.
    pub(crate) fn new(ram: &[(u64, u64)]) -> Self {
        Self(Arc::new(Mutex::new(State {
            dart: Dart::new(u64::MAX, u64::MAX),
            markers: BTreeSet::new(),
            ram: ram.iter().map(|&(start, len)| span(start, len)).collect(),
            batch_max: 64,
            len_max: u64::MAX,
            segment_max: u64::MAX,
            max_bytes: u64::MAX,
            max_entries: usize::MAX,
            placement: Placement::Low,
            guard: 0,
            iovas: 0x8000_0000 >> GRANULE_SHIFT..0x2_0000_0000 >> GRANULE_SHIFT,
            budget: (u64::MAX, u32::MAX),
            map_faults: VecDeque::new(),
            unmap_faults: VecDeque::new(),
            refuse_every: None,
            ready: true,
            batch_ms: 0,
            key_ms: 0,
            map_ns: 0,
            unmap_ns: 0,
            measured: false,
            mappings: BTreeMap::new(),
            used: BTreeMap::new(),
            view: BTreeMap::new(),
            refused_keys: BTreeSet::new(),
            held: Vec::new(),
            holds: 0,
            reported: BTreeSet::new(),
            map_doorbells: 0,
            unmap_doorbells: 0,
            map_entries: 0,
            injected: 0,
            refused_stale: 0,
            accepts_unknown_keys: false,
            refused_for_cause: 0,
            looks: 0,
            map_batches: Vec::new(),
            unmap_batches: Vec::new(),
            rng: 0x1234_5678_9abc_def1,
        })))
    }

    /// Locks and returns the state of the host.
    pub(crate) fn look(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how often the doorbell rang.
    pub(crate) fn doorbells(&self) -> u64 {
        let state = self.look();
        state.map_doorbells + state.unmap_doorbells
    }
}

impl State {
    /// Returns a random number.
    fn random(&mut self) -> u64 {
        // Xorshift.
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng
    }

    /// Seeds the random placement.
    pub(crate) fn seed(&mut self, seed: u64) {
        self.rng = seed | 1;
    }

    fn is_free(&self, first: u64, count: u64) -> bool {
        self.used
            .range(..first + count)
            .next_back()
            .is_none_or(|(&start, &len)| start + len <= first)
    }

    fn place(&mut self, span: &GpaSpan) -> Option<u64> {
        let count = cost(span) / GRANULE + self.guard;
        let offset = span.start().raw() % GRANULE;
        let end = self.iovas.end.checked_sub(count)?;
        let first = match self.placement {
            Placement::Identity => Some(span.start().raw() / GRANULE),
            Placement::Offset(offset) => {
                let first = (span.start().raw() + offset) / GRANULE;
                self.is_free(first, count).then_some(first)
            }
            Placement::Low => self.first_fit(count),
            Placement::High => {
                let mut candidate = end;
                loop {
                    if candidate < self.iovas.start {
                        break None;
                    }
                    match self.used.range(..candidate + count).next_back() {
                        Some((&start, &len)) if start + len > candidate => {
                            candidate = start.checked_sub(count)?;
                        }
                        _ => break Some(candidate),
                    }
                }
            }
            Placement::Random => {
                let room = end.checked_sub(self.iovas.start)? + 1;
                let start = self.iovas.start;
                let tries: [u64; 8] = std::array::from_fn(|_| start + self.random() % room);
                tries
                    .into_iter()
                    .find(|&first| self.is_free(first, count))
                    .or_else(|| self.first_fit(count))
            }
        }?;
        if self.placement != Placement::Identity {
            assert!(self.is_free(first, count), "the model's own allocator");
            self.used.insert(first, count);
        }
        Some(first * GRANULE + offset)
    }

    fn first_fit(&self, count: u64) -> Option<u64> {
        let mut candidate = self.iovas.start;
        for (&start, &len) in &self.used {
            if start >= candidate + count {
                break;
            }
            candidate = candidate.max(start + len);
        }
        (candidate + count <= self.iovas.end).then_some(candidate)
    }

    fn make(&mut self, span: &GpaSpan) -> Option<u64> {
        let bytes: u64 = self.mappings.values().map(|m| cost(&m.span)).sum();
        let in_ram = self.ram.iter().any(|block| block.covers(span));
        if !in_ram
            || span.len() > self.len_max
            || span.len() > self.segment_max
            || self.mappings.len() >= self.max_entries
            || bytes.saturating_add(cost(span)) > self.max_bytes
        {
            return None;
        }
        let iova = self.place(span)?;
        let old = self
            .mappings
            .insert(span.start().raw(), Mapping { span: *span, iova });
        assert!(old.is_none());
        let mut dart = self.dart.lock().unwrap_or_else(PoisonError::into_inner);
        dart.add(span);
        Some(iova)
    }

    fn drop_mapping(&mut self, key: u64) -> bool {
        let Some(mapping) = self.mappings.remove(&key) else {
            return false;
        };
        if self.placement != Placement::Identity {
            self.used.remove(&(mapping.iova / GRANULE));
        }
        let mut dart = self.dart.lock().unwrap_or_else(PoisonError::into_inner);
        dart.remove(&mapping.span);
        true
    }

    /// Creates a stale mapping, as an earlier kernel would have left it.
    pub(crate) fn leave_stale(&mut self, span: &GpaSpan) {
        let key = span.start().raw();
        if !self.mappings.contains_key(&key) && !self.view.contains_key(&key) {
            let _ = self.make(span);
        }
    }

    /// Returns the number of stale mappings.
    pub(crate) fn stale(&self) -> usize {
        self.mappings
            .keys()
            .filter(|key| !self.view.contains_key(key))
            .count()
    }

    /// Returns the mapping that backs `held` and is known to the engine as open.
    pub(crate) fn backing(&self, held: &Held) -> Option<&Mapping> {
        self.mappings.values().find(|m| {
            m.iova <= held.iova
                && held.iova + held.span.len() <= m.iova + m.span.len()
                && held.span.start().raw().wrapping_sub(m.span.start().raw()) == held.iova - m.iova
                && m.span.covers(&held.span)
                && matches!(
                    self.view.get(&m.span.start().raw()),
                    Some((_, View::Open)) //
                )
        })
    }

    /// Maps a marker, as a kernel does before it has an engine.
    pub(crate) fn map_marker(&mut self, span: &GpaSpan) -> MapOutcome {
        self.markers.insert(span.start().raw());
        self.map_one(span, false)
    }

    /// Unmaps a marker; otherwise as [`Self::map_marker`].
    pub(crate) fn unmap_marker(&mut self, span: &GpaSpan) -> bool {
        self.drop_mapping(span.start().raw())
    }

    /// Forgets what an engine knows of the host: its kernel has ended, whatever it left.
    pub(crate) fn crash(&mut self) {
        self.view.clear();
        self.refused_keys.clear();
        self.held.clear();
        self.holds = 0;
        self.reported.clear();
        self.map_doorbells = 0;
        self.unmap_doorbells = 0;
    }

    /// Records that a driver holds a mapping, which must be backed.
    #[track_caller]
    pub(crate) fn hold(&mut self, span: GpaSpan, iova: Iova) {
        let held = Held {
            span,
            iova: iova.raw(),
        };
        assert_eq!(
            (span.start().raw() ^ iova.raw()) % GRANULE,
            0,
            "{held:?}: wrong offset in the granule"
        );
        assert!(self.backing(&held).is_some(), "{held:?} is not backed");
        self.held.push(held);
        self.holds += 1;
    }

    /// Records that a driver is about to unmap a mapping, which must still be backed.
    #[track_caller]
    pub(crate) fn drop_held(&mut self, span: GpaSpan, iova: Iova) {
        let held = Held {
            span,
            iova: iova.raw(),
        };
        assert!(self.backing(&held).is_some(), "{held:?} is not backed");
        let index = self.held.iter().position(|h| *h == held);
        self.held.swap_remove(index.expect("the driver holds it"));
    }

    /// Returns the keys of the mappings that back drivers' mappings.
    #[track_caller]
    pub(crate) fn busy(&self) -> BTreeSet<u64> {
        self.held
            .iter()
            .map(|held| match self.backing(held) {
                Some(mapping) => mapping.span.start().raw(),
                None => panic!("{held:?} is not backed"),
            })
            .collect()
    }

    /// Returns the bytes in whole granules and the entries that the engine must count.
    pub(crate) fn counted(&self) -> (u64, u32) {
        (
            self.view.values().map(|(span, _)| cost(span)).sum(),
            u32::try_from(self.view.len()).expect("few entries"),
        )
    }

    /// Returns whether the engine must treat the window of `span` as lost.
    fn is_lost(&self, span: &GpaSpan) -> bool {
        self.view
            .get(&span.start().raw())
            .is_some_and(|&(all, view)| all == *span && matches!(view, View::Lost | View::Kept))
    }

    fn map_one(&mut self, span: &GpaSpan, lost: bool) -> MapOutcome {
        let key = span.start().raw();
        let fault = self.map_faults.pop_front().unwrap_or(MapFault::None);
        self.map_entries += 1;
        let unlucky = self
            .refuse_every
            .is_some_and(|n| self.map_entries % n.max(1) == 0);
        if fault == MapFault::Refuse || unlucky {
            self.injected += 1;
            return MapOutcome::Refused;
        }
        if self.mappings.contains_key(&key) {
            if !lost {
                // The engine does not use the key, so it is a stale mapping's.
                self.refused_stale += 1;
            }
            return MapOutcome::Refused;
        }
        if fault != MapFault::None {
            self.injected += 1;
        }
        match fault {
            MapFault::RejectEmpty(reject) => return MapOutcome::Rejected(reject),
            MapFault::SilentEmpty => return MapOutcome::Unknown,
            _ => {}
        }
        let Some(iova) = self.make(span) else {
            self.refused_for_cause += 1;
            return MapOutcome::Refused;
        };
        let offset = iova % GRANULE;
        match fault {
            MapFault::RefuseMapped => MapOutcome::Refused,
            MapFault::RejectMapped(reject) => MapOutcome::Rejected(reject),
            MapFault::SilentMapped => MapOutcome::Unknown,
            MapFault::Wrap => {
                let wrong = (u64::MAX - (GRANULE - 1)) | offset;
                match wrong.checked_add(span.len()) {
                    Some(_) => MapOutcome::Rejected(ReplyError::Range),
                    None => MapOutcome::Mapped(Iova::new(wrong)),
                }
            }
            MapFault::Overlap => {
                let known: Vec<_> = self
                    .view
                    .iter()
                    .filter(|(_, (_, view))| matches!(view, View::Open | View::Kept))
                    .filter_map(|(key, _)| self.mappings.get(key))
                    .map(|m| m.iova - m.iova % GRANULE)
                    .collect();
                match known.len() {
                    0 => MapOutcome::Rejected(ReplyError::Overlap),
                    n => {
                        let pick = self.random() as usize % n;
                        MapOutcome::Mapped(Iova::new(known[pick] | offset))
                    }
                }
            }
            _ => MapOutcome::Mapped(Iova::new(iova)),
        }
    }

    /// Lets the time of a batch pass, which must not be too long, unless it has one entry, or is
    /// the first, or entries of the other command are cheaper.
    fn take_time(&mut self, entries: usize, each: u64) {
        let entries = u64::try_from(entries).expect("few");
        let is_known = self.measured && self.map_ns == self.unmap_ns;
        assert!(
            !is_known || entries == 1 || entries * each <= BATCH_NS,
            "{entries} entries of {each} ns",
        );
        pass_ns(entries * each);
        pass_ms(self.batch_ms);
    }

    fn map_batch(&mut self, batch: &mut [MapEntry]) {
        assert!(!batch.is_empty(), "an empty batch");
        assert!(batch.len() <= self.batch_max, "a batch too long");
        self.map_doorbells += 1;
        self.map_batches.push(batch.len());
        // Windows count from the moment that they are requested.
        let counted = self.counted();
        let (mut bytes, mut entries) = counted;
        for entry in batch.iter() {
            // Lost windows count already.
            if !self.is_lost(&entry.span) {
                bytes += cost(&entry.span);
                entries += 1;
            }
            assert!(entry.span.len() <= self.len_max, "a request too long");
        }
        assert!(self.ready, "a batch for a host that is not ready");
        let grows = (bytes, entries) != counted;
        assert!(
            bytes <= self.budget.0 || !grows,
            "{bytes} bytes are over the budget"
        );
        assert!(
            entries <= self.budget.1 || !grows,
            "{entries} entries are over the budget"
        );
        for entry in batch {
            let key = entry.span.start().raw();
            let lost = self.is_lost(&entry.span);
            assert!(
                lost || !self.view.contains_key(&key),
                "key {key:#x} is requested, but may be in use"
            );
            entry.outcome = self.map_one(&entry.span, lost);
            if lost {
                // Whatever the reply, the engine must unmap it, and does not record its address.
                self.view.insert(key, (entry.span, View::Lost));
                continue;
            }
            let right = self.mappings.get(&key).map(|m| m.iova);
            let view = match entry.outcome {
                MapOutcome::Refused => {
                    self.refused_keys.insert(key);
                    continue;
                }
                MapOutcome::Mapped(iova) if Some(iova.raw()) == right => {
                    if self.placement == Placement::Identity && self.overlaps(&entry.span) {
                        View::Doubtful
                    } else {
                        View::Open
                    }
                }
                _ => View::Doubtful,
            };
            self.view.insert(key, (entry.span, view));
        }
    }

    /// Returns whether an identity mapping of `span` shares a granule with an open one.
    fn overlaps(&self, span: &GpaSpan) -> bool {
        self.view.values().any(|(other, view)| {
            *view == View::Open
                && other.first_granule() <= span.last_granule()
                && span.first_granule() <= other.last_granule()
        })
    }

    fn unmap_batch(&mut self, batch: &mut [UnmapEntry]) {
        assert!(!batch.is_empty(), "an empty batch");
        assert!(batch.len() <= self.batch_max, "a batch too long");
        self.unmap_doorbells += 1;
        self.unmap_batches.push(batch.len());
        for entry in batch {
            let key = entry.span.start().raw();
            match self.view.get(&key) {
                Some((span, _)) => assert_eq!(*span, entry.span, "another size was mapped"),
                None => assert!(
                    self.accepts_unknown_keys
                        || self.refused_keys.contains(&key)
                        || self.markers.contains(&key),
                    "key {key:#x} was never requested"
                ),
            }
            let fault = self.unmap_faults.pop_front().unwrap_or(UnmapFault::None);
            if fault != UnmapFault::None {
                self.injected += 1;
            }
            if let Some(held) = self.held.iter().find(|held| {
                self.backing(held)
                    .is_some_and(|mapping| mapping.span.start().raw() == key)
            }) {
                panic!("{:x?} is unmapped while it backs {held:x?}", entry.span);
            }
            entry.outcome = match fault {
                _ if !self.ready => UnmapOutcome::Unknown,
                UnmapFault::None if self.drop_mapping(key) => UnmapOutcome::Unmapped,
                UnmapFault::None | UnmapFault::Refuse => UnmapOutcome::Refused,
                UnmapFault::SilentGone => {
                    self.drop_mapping(key);
                    UnmapOutcome::Unknown
                }
                UnmapFault::SilentKept => UnmapOutcome::Unknown,
            };
            if entry.outcome == UnmapOutcome::Unmapped {
                self.view.remove(&key);
            } else if let Some((_, view)) = self.view.get_mut(&key) {
                *view = match view {
                    View::Open | View::Kept => View::Kept,
                    View::Doubtful | View::Lost => View::Lost,
                };
            }
        }
    }
}

impl Observer for ModelHost {
    fn created(&self, window: &WindowInfo) {
        let mut state = self.look();
        let key = window.span.start().raw();
        let mapping = state.mappings.get(&key).expect("the host has it");
        assert_eq!(mapping.iova, window.iova.raw(), "the reported IOVA");
        assert_eq!(window.uses, 0, "a new window has no uses");
        assert!(state.reported.insert(key), "reported twice");
    }

    fn returned(&self, window: &WindowInfo) {
        self.look().reported.remove(&window.span.start().raw());
    }
}

impl Host for ModelHost {
    fn batch_max(&self) -> usize {
        self.look().batch_max
    }

    fn len_max(&self) -> u64 {
        self.look().len_max
    }

    fn is_ready(&mut self) -> bool {
        let mut state = self.look();
        state.looks += 1;
        state.ready
    }

    fn map(&mut self, batch: &mut [MapEntry]) {
        let mut state = self.look();
        let each = state.map_ns;
        state.take_time(batch.len(), each);
        state.map_batch(batch);
        state.measured |= batch
            .iter()
            .all(|entry| entry.outcome != MapOutcome::Unknown);
    }

    fn unmap(&mut self, batch: &mut [UnmapEntry]) {
        let mut state = self.look();
        let each = state.unmap_ns + state.key_ms * 1_000_000;
        state.take_time(batch.len(), each);
        state.unmap_batch(batch);
        state.measured |= batch
            .iter()
            .all(|entry| entry.outcome != UnmapOutcome::Unknown);
    }
}
