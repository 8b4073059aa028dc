// SPDX-License-Identifier: GPL-2.0

//! A device with a queue, whose requests may be copied, on a host that takes its time: what becomes
//! of a trace of requests, and how long it takes.
//!
//! Time is modelled: that of the device, of copies, and of the host's entries. Hits are free.

use super::host::span;
use super::rig::ALL;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE, //
};
use crate::engine::admission::{
    Admit,
    CopyCost, //
};
use crate::engine::policy::{
    Adaptive,
    WINDOW_SHIFT, //
};
use crate::engine::ram::Ram;
use crate::engine::{
    Config,
    Engine,
    Host,
    LargePages,
    MapEntry,
    MapOutcome,
    UnmapEntry,
    UnmapOutcome, //
};
use crate::sys::{
    pass_ns,
    Alloc,
    BoxedSlice,
    Stopwatch, //
};
use std::collections::VecDeque;

/// What a request costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    /// Nanoseconds that the host takes for an entry.
    pub(crate) entry_ns: u64,
    pub(crate) copy: CopyCost,
    /// Nanoseconds that the device takes for a KiB.
    pub(crate) device_ns: u64,
}

/// The real machine, with this cost of an entry: 10 µs to copy 128 KiB, a disk of 3 GiB/s.
pub(crate) const fn real(entry_ns: u64) -> World {
    World {
        entry_ns,
        copy: CopyCost {
            request_ns: 300,
            kib_ns: 78,
        },
        device_ns: 325,
    }
}

/// An emulated machine, thirty times as slow, with this cost of an entry: a disk of 100 MiB/s.
pub(crate) const fn scaled(entry_ns: u64) -> World {
    World {
        entry_ns,
        copy: CopyCost {
            request_ns: 9000,
            kib_ns: 2340,
        },
        device_ns: 9765,
    }
}

/// What becomes of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// What admission decides.
    Auto,
    /// All are copied.
    Copy,
    /// All get windows.
    Map,
}

/// A host that grants every request.
struct TraceHost {
    entry_ns: u64,
    next: u64,
}

impl Host for TraceHost {
    fn batch_max(&self) -> usize {
        256
    }

    fn len_max(&self) -> u64 {
        u64::MAX
    }

    fn is_ready(&mut self) -> bool {
        true
    }

    fn map(&mut self, batch: &mut [MapEntry]) {
        for entry in batch {
            pass_ns(self.entry_ns);
            let offset = entry.span.start().raw() % GRANULE;
            entry.outcome = MapOutcome::Mapped(Iova::new(self.next + offset));
            self.next += entry.span.granules() * GRANULE;
        }
    }

    fn unmap(&mut self, batch: &mut [UnmapEntry]) {
        for entry in batch {
            pass_ns(self.entry_ns);
            entry.outcome = UnmapOutcome::Unmapped;
        }
    }
}

/// What became of a trace.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) hits: u64,
    pub(crate) copies: u64,
    pub(crate) copied: u64,
    /// Entries sent to the host.
    pub(crate) entries: u64,
    /// Nanoseconds of the device.
    pub(crate) device: u64,
    /// Nanoseconds of copies and entries.
    pub(crate) cost: u64,
}

impl Outcome {
    /// Returns the part of the requests that were hits.
    pub(crate) fn hit_rate(&self) -> f64 {
        self.hits as f64 / self.requests as f64
    }

    /// Returns the entries for each 100 MiB.
    pub(crate) fn entries_per_100_mib(&self) -> f64 {
        self.entries as f64 * (100 << 20) as f64 / self.bytes as f64
    }

    /// Returns the throughput to that without a DART.
    pub(crate) fn ratio(&self) -> f64 {
        self.device as f64 / (self.device + self.cost) as f64
    }
}

/// The device; see the module's documentation.
pub(crate) struct Device {
    engine: Engine<TraceHost, Adaptive>,
    world: World,
    way: Way,
    time: Stopwatch,
    queue: VecDeque<Option<(Iova, u64)>>,
    depth: usize,
    outcome: Outcome,
    since: (u64, u64),
}

impl Device {
    /// Creates a device with this much RAM, from 1 GiB on, and `max_bytes` for windows.
    pub(crate) fn new(world: World, way: Way, ram: u64, max_bytes: u64) -> Self {
        Self::create(world, way, ram, max_bytes, false)
    }

    /// Creates a device as [`Self::new`], whose windows do not outlive their mappings.
    pub(crate) fn strict(world: World, way: Way, ram: u64, max_bytes: u64) -> Self {
        Self::create(world, way, ram, max_bytes, true)
    }

    fn create(world: World, way: Way, ram: u64, max_bytes: u64, strict: bool) -> Self {
        let blocks = BoxedSlice::new(1, Alloc::Sleep, |_| span(1 << 30, ram));
        let config = Config {
            id: 1,
            markers: crate::engine::marker::Markers::NONE,
            strict,
            max_bytes,
            max_entries: 4096,
            pool: None,
            ram: Ram::new(blocks.expect("memory")),
            large_pages: LargePages::Ignored,
            admit: true,
            table_max: 1 << 24,
        };
        let host = TraceHost {
            entry_ns: world.entry_ns,
            next: 1 << 40,
        };
        let policy = Adaptive::new(WINDOW_SHIFT);
        let engine = Engine::new(host, policy, (), config).expect("memory");
        // As the module does when it is bound.
        engine.reserve(16).expect("memory");
        assert_eq!(engine.learn_max_len(), 4 << 20);
        let mut device = Self {
            engine,
            world,
            way,
            time: Stopwatch::start(),
            queue: VecDeque::new(),
            depth: 32,
            outcome: Outcome::default(),
            since: (0, 0),
        };
        device.take();
        device
    }

    /// Describes the host and the way.
    pub(crate) fn name(&self) -> String {
        format!(
            "{:5} us an entry, {:?}",
            self.world.entry_ns / 1000,
            self.way
        )
    }

    /// Returns the entries so far.
    pub(crate) fn entries(&self) -> u64 {
        let counters = self.engine.stats().counters;
        counters.windows_created.get() + counters.windows_returned.get()
    }

    /// Returns what became of the requests since the last call.
    pub(crate) fn take(&mut self) -> Outcome {
        let (entries, now) = (self.entries(), self.time.elapsed_ns());
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.entries = entries - self.since.0;
        outcome.cost = now - self.since.1 - outcome.device;
        self.since = (entries, now);
        outcome
    }

    /// Makes a request of `len` bytes at this offset in RAM, which takes the device its time.
    /// Returns whether a window served it.
    pub(crate) fn request(&mut self, offset: u64, len: u64) -> bool {
        let span = GpaSpan::new(Gpa::new((1 << 30) + offset), len).expect("a good span");
        self.outcome.requests += 1;
        self.outcome.bytes += len;
        let hit = match self.way {
            Way::Copy => None,
            _ => self.engine.map_served(&span, ALL),
        };
        let iova = match hit {
            Some(iova) => {
                self.outcome.hits += 1;
                Some(iova)
            }
            None => self.miss(span),
        };
        if iova.is_none() {
            self.outcome.copies += 1;
            self.outcome.copied += len;
            let copy = self.world.copy;
            pass_ns(copy.request_ns + copy.kib_ns * len / 1024);
        }
        let device = self.world.device_ns * len / 1024;
        self.outcome.device += device;
        pass_ns(device);
        self.queue.push_back(iova.map(|iova| (iova, len)));
        if self.queue.len() > self.depth {
            if let Some(Some((iova, len))) = self.queue.pop_front() {
                self.engine.unmap(iova, len).expect("it was mapped");
            }
        }
        hit.is_some()
    }

    fn miss(&mut self, span: GpaSpan) -> Option<Iova> {
        match self.way {
            Way::Copy => None,
            Way::Map => Some(self.engine.map(span, ALL).expect("room")),
            Way::Auto => match self.engine.admit(&span, self.world.copy) {
                Admit::Copy => None,
                Admit::Window(offer) => self.engine.map_admitted(span, offer, ALL),
            },
        }
    }

    /// Does what the module does every 16 seconds.
    pub(crate) fn tick(&self) {
        self.engine.count_uses();
    }

    /// Returns the bytes that are mapped.
    pub(crate) fn mapped(&self) -> u64 {
        self.engine.stats().usage.bytes
    }
}

/// A pseudo-random sequence.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Returns a number below `below`.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    /// Shuffles a list.
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).expect("small");
            list.swap(last, other);
        }
    }
}
