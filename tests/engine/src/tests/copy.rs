// SPDX-License-Identifier: GPL-2.0

//! Mappings that are copied: a model of RAM, and of a device that writes what it likes.
//!
//! A driver's buffer must read as if the device had accessed it directly, whenever the driver may
//! look: what the device wrote is there, and what it did not write is as the driver left it.

use super::host::{
    span,
    MapFault,
    ModelHost, //
};
use super::rig::{
    list,
    Entry,
    Rig,
    Setup,
    ALL,
    BASE,
    KIB,
    MIB, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan,
    PAGE, //
};
use crate::engine::admission::CopyCost;
use crate::engine::copy::pages::{
    Pages,
    ROW_PAGES, //
};
use crate::engine::copy::pool::{
    SlotPool,
    ROW, //
};
use crate::engine::copy::{
    Memory,
    Preference,
    Transfer, //
};
use crate::engine::static_map::Region;
use crate::engine::{
    MapError,
    Request, //
};
use crate::sys::pass_ns;
use proptest::prelude::*;
use std::sync::{
    Arc,
    Mutex, //
};

/// Where the pool is in guest RAM.
const POOL: u64 = BASE + 48 * MIB;

/// The work of others in each microsecond that a CPU waits.
type Others = Box<dyn FnMut() + Send>;

/// The contents of guest RAM, and what runs beside the CPU that is tested. Clones are the same
/// memory.
#[derive(Clone)]
pub(super) struct Ram {
    bytes: Arc<Mutex<Vec<u8>>>,
    others: Arc<Mutex<Option<Others>>>,
}

impl Ram {
    fn new() -> Self {
        Self {
            bytes: Arc::new(Mutex::new(vec![0; (64 * MIB) as usize])),
            others: Arc::default(),
        }
    }

    fn read(&self, start: u64, len: u64) -> Vec<u8> {
        let at = (start - BASE) as usize;
        self.bytes.lock().expect("no panic")[at..at + len as usize].to_vec()
    }

    fn write(&self, start: u64, bytes: &[u8]) {
        let at = (start - BASE) as usize;
        self.bytes.lock().expect("no panic")[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Has others run while the CPU waits.
    pub(super) fn run_beside(&self, others: impl FnMut() + Send + 'static) {
        *self.others.lock().expect("no panic") = Some(Box::new(others));
    }
}

impl Memory for Ram {
    fn reaches(&self, span: &GpaSpan) -> bool {
        super::host::span(BASE, 64 * MIB).covers(span)
    }

    fn copy(&self, from: Gpa, to: Gpa, len: u64) {
        self.write(to.raw(), &self.read(from.raw(), len));
    }

    fn clear(&self, span: &GpaSpan) {
        self.write(span.start().raw(), &vec![0; span.len() as usize]);
    }

    fn processor(&self) -> usize {
        0
    }

    fn others_run(&self) -> bool {
        self.others.lock().expect("no panic").is_some()
    }

    fn pause(&self) {
        pass_ns(1000);
        if let Some(others) = &mut *self.others.lock().expect("no panic") {
            others();
        }
    }
}

/// An engine with a copy pool.
pub(super) struct Bench {
    pub(super) rig: Rig,
    pub(super) ram: Ram,
    pub(super) pool: Arc<SlotPool<Ram>>,
}

impl Bench {
    pub(super) fn new(setup: Setup, bytes: u64, preference: Preference) -> Self {
        let mut rig = Rig::new(setup);
        rig.engine.reserve(64).expect("memory");
        let ram = Ram::new();
        let regions = rig.engine.map_pool(&[span(POOL, bytes)]).expect("memory");
        let pool = SlotPool::new(ram.clone(), regions, preference, setup.strict).expect("memory");
        Self {
            rig,
            ram,
            pool: Arc::new(pool),
        }
    }

    pub(super) fn map(&self, span: GpaSpan, transfer: Option<Transfer>) -> Result<Iova, MapError> {
        self.rig.engine.map_or_copy(span, &self.pool, transfer, ALL)
    }

    pub(super) fn unmap(&self, iova: Iova, len: u64, sync: bool) -> bool {
        let span = IovaSpan::new(iova, len).expect("a span");
        match self.pool.contains(iova) {
            true => self.pool.unmap(&span, sync).is_ok(),
            false => self.rig.engine.unmap(iova, len).is_ok(),
        }
    }

    /// Returns the memory that the device reaches at `iova`.
    fn memory(&self, iova: u64, len: u64) -> u64 {
        let state = self.rig.host.look();
        let mapping = state
            .mappings
            .values()
            .find(|m| m.iova <= iova && iova + len <= m.iova + m.span.len())
            .expect("the device faults");
        mapping.span.start().raw() + (iova - mapping.iova)
    }

    fn device_reads(&self, iova: Iova, len: u64) -> Vec<u8> {
        self.ram.read(self.memory(iova.raw(), len), len)
    }

    fn device_writes(&self, iova: Iova, bytes: &[u8]) {
        let len = bytes.len() as u64;
        self.ram.write(self.memory(iova.raw(), len), bytes);
    }

    pub(super) fn is_copied(&self, iova: Iova) -> bool {
        self.pool.contains(iova)
    }
}

/// What copying costs.
pub(super) const COST: CopyCost = CopyCost {
    request_ns: 300,
    kib_ns: 100,
};

pub(super) const TO: Option<Transfer> = Some(Transfer::ToDevice);
pub(super) const FROM: Option<Transfer> = Some(Transfer::FromDevice);

fn always() -> Bench {
    Bench::new(Setup::default(), MIB, Preference::NewSlots)
}

/// Returns `len` bytes that differ from those of other seeds nearly everywhere.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

#[test]
fn pages_are_taken_in_runs_that_are_free() {
    let pages = Pages::new();
    assert_eq!(pages.take(64), Some(0));
    assert_eq!(pages.take(1), None);
    pages.put(10, 3);
    pages.put(20, 4);
    assert_eq!(pages.take(4), Some(20));
    assert_eq!(pages.take(2), Some(10));
    assert_eq!(pages.take(2), None);
    assert_eq!(pages.take(1), Some(12));
    assert_eq!(pages.used(), 64);
    for count in [0, 65, u32::MAX] {
        assert_eq!(Pages::new().take(count), None, "{count} pages");
    }
}

#[test]
fn data_reach_the_device_and_the_driver() {
    let bench = always();
    let buffer = span(BASE + 0x123, 10_000);
    bench.ram.write(BASE + 0x123, &pattern(1, 10_000));
    let iova = bench.map(buffer, FROM).expect("a slot");
    assert!(bench.is_copied(iova));
    assert_eq!(iova.raw() % PAGE, 0x123, "the offset in the page is kept");
    assert_eq!(bench.device_reads(iova, 10_000), pattern(1, 10_000));
    bench.device_writes(Iova::new(iova.raw() + 100), &pattern(2, 50));
    assert!(bench.unmap(iova, 10_000, true));
    let mut expected = pattern(1, 10_000);
    expected[100..150].copy_from_slice(&pattern(2, 50));
    assert_eq!(bench.ram.read(BASE + 0x123, 10_000), expected);
    assert_eq!(bench.rig.host.look().holds, 0);
    let stats = bench.pool.stats();
    assert_eq!((stats.copies, stats.ended), (1, 1));
    assert_eq!((stats.bytes_in, stats.bytes_out), (10_000, 10_000));
    assert_eq!((stats.pool, stats.used, stats.peak), (MIB, 0, 12 * KIB));

    let iova = bench.map(span(BASE, PAGE), TO).expect("a slot");
    bench.pool.reset_peak();
    assert_eq!(bench.pool.stats().peak, PAGE);
    assert!(bench.unmap(iova, PAGE, true));
    bench.pool.reset_peak();
    assert_eq!(bench.pool.stats().peak, 0);
}

#[test]
fn what_the_device_reads_is_not_copied_back() {
    let bench = always();
    bench.ram.write(BASE, &pattern(1, PAGE));
    let iova = bench.map(span(BASE, PAGE), TO).expect("a slot");
    bench.device_writes(iova, &pattern(2, PAGE));
    let whole = IovaSpan::new(iova, PAGE).expect("a span");
    bench.pool.sync_for_cpu(&whole);
    assert!(bench.unmap(iova, PAGE, true));
    assert_eq!(bench.ram.read(BASE, PAGE), pattern(1, PAGE));
}

#[test]
fn nothing_is_copied_back_without_synchronization() {
    let bench = always();
    bench.ram.write(BASE, &pattern(1, PAGE));
    let iova = bench.map(span(BASE, PAGE), FROM).expect("a slot");
    bench.device_writes(iova, &pattern(2, PAGE));
    assert!(bench.unmap(iova, PAGE, false));
    assert_eq!(bench.ram.read(BASE, PAGE), pattern(1, PAGE));
}

#[test]
fn a_slot_that_is_returned_is_cleared_in_strict_mode() {
    let setup = Setup {
        strict: true,
        ..Setup::default()
    };
    let bench = Bench::new(setup, MIB, Preference::Slots);
    bench.ram.write(BASE, &pattern(1, 3 * PAGE));
    let iova = bench.map(span(BASE + 5, 2 * PAGE), TO).expect("a slot");
    assert!(bench.unmap(iova, 2 * PAGE, true));
    assert_eq!(
        bench.device_reads(iova, 2 * PAGE),
        vec![0; 2 * PAGE as usize]
    );
    assert_eq!(bench.rig.host.look().map_doorbells, 1, "for the pool");
}

#[test]
fn misuse_is_noticed_and_has_no_effect() {
    let bench = always();
    bench.ram.write(BASE, &pattern(1, 2 * PAGE));
    let iova = bench.map(span(BASE + 8, 5000), FROM).expect("a slot");
    bench.device_writes(iova, &pattern(2, 5000));
    let at = |offset: u64| Iova::new(iova.raw() + offset);
    for (iova, len) in [
        (iova, 4999),
        (iova, 5001),
        (iova, 1 << 40),
        (at(1), 4999),
        (at(1), 5000),
        (at(PAGE), 5000 - PAGE),
        (at(8 * PAGE), 5000),
    ] {
        assert!(!bench.unmap(iova, len, true), "{iova:x?} {len}");
    }
    // Parts that are not all in the mapping are not synchronized.
    for (offset, len) in [(0, 5001), (4999, 2), (8 * PAGE, 1)] {
        let part = IovaSpan::new(at(offset), len).expect("a span");
        bench.pool.sync_for_cpu(&part);
        bench.pool.sync_for_device(&part);
    }
    assert_eq!(bench.ram.read(BASE, 2 * PAGE), pattern(1, 2 * PAGE));
    assert_eq!(bench.device_reads(iova, 5000), pattern(2, 5000));
    assert!(bench.unmap(iova, 5000, true));
    assert!(!bench.unmap(iova, 5000, true), "it is unmapped");
    assert_eq!(bench.pool.stats().used, 0);
}

#[test]
fn windows_serve_what_cannot_be_copied() {
    let bench = always();
    // Too long, with its offset in the page; without a direction; not reached by the CPU.
    let long = bench.map(span(BASE + 1, ROW), FROM).expect("a window");
    let whole = bench.map(span(BASE + MIB, ROW), FROM).expect("a slot");
    let other = bench.map(span(BASE + 8 * MIB, 64), None).expect("a window");
    let far = bench.map(span(0x4000_0000, PAGE), FROM).expect("a window");
    assert_eq!(
        [long, whole, other, far].map(|iova| bench.is_copied(iova)),
        [false, true, false, false]
    );
    // What a window serves is not copied.
    let hit = bench.map(span(BASE + 8 * MIB, 32), FROM).expect("a window");
    assert!(!bench.is_copied(hit));
    for (iova, len) in [
        (long, ROW),
        (whole, ROW),
        (other, 64),
        (far, PAGE),
        (hit, 32),
    ] {
        assert!(bench.unmap(iova, len, true));
    }
    // In strict mode the pool comes first.
    let setup = Setup {
        strict: true,
        ..Setup::default()
    };
    let bench = Bench::new(setup, MIB, Preference::Slots);
    let window = bench.map(span(BASE, 64), None).expect("a window");
    let slot = bench.map(span(BASE, 64), FROM).expect("a slot");
    assert!(bench.is_copied(slot) && !bench.is_copied(window));
}

#[test]
fn windows_serve_what_finds_no_slot() {
    let bench = Bench::new(Setup::default(), ROW, Preference::NewSlots);
    let slots: Vec<_> = (0..5)
        .map(|n| {
            bench
                .map(span(BASE + n * MIB, 64 * KIB), FROM)
                .expect("mapped")
        })
        .collect();
    let copied: Vec<_> = slots.iter().map(|iova| bench.is_copied(*iova)).collect();
    assert_eq!(copied, [true, true, true, true, false]);
    assert_eq!(bench.pool.stats().full, 1);
    assert!(bench.unmap(slots[2], 64 * KIB, true));
    let again = bench.map(span(BASE + 8 * MIB, 64 * KIB), FROM);
    assert!(bench.is_copied(again.expect("a slot")));
}

#[test]
fn slots_serve_what_finds_no_window() {
    // The host refuses, and a limit is reached.
    let bench = Bench::new(
        Setup {
            max_entries: 2,
            ..Setup::default()
        },
        MIB,
        Preference::Windows,
    );
    bench.rig.host.look().refuse_every = Some(1);
    let refused = bench.map(span(BASE, PAGE), FROM).expect("a slot");
    assert_eq!(bench.map(span(BASE, PAGE), None), Err(MapError::Refused));
    bench.rig.host.look().refuse_every = None;
    let window = bench.map(span(BASE + MIB, PAGE), FROM).expect("a window");
    let full = bench.map(span(BASE + 2 * MIB, PAGE), FROM).expect("a slot");
    assert_eq!(
        [refused, window, full].map(|iova| bench.is_copied(iova)),
        [true, false, true]
    );
    assert!(matches!(
        bench.map(span(BASE + 2 * MIB, PAGE), None),
        Err(MapError::Full(_))
    ));
    bench.rig.host.look().ready = false;
    let silent = bench.map(span(BASE + 3 * MIB, PAGE), FROM).expect("a slot");
    assert!(bench.is_copied(silent));
}

#[test]
fn slots_are_within_the_reach_of_the_device() {
    let bench = always();
    let regions = bench.pool.stats().pool / ROW;
    assert_eq!(regions, 4);
    let first = bench.map(span(BASE, ROW), FROM).expect("a slot");
    assert!(bench.unmap(first, ROW, false));
    let lowest = bench.rig.host.look().mappings[&POOL].iova;
    let limit = lowest + 2 * ROW - 1;
    let map = |at: u64| {
        bench
            .rig
            .engine
            .map_or_copy(span(BASE + at, ROW), &bench.pool, FROM, limit)
    };
    for at in [0, MIB] {
        let iova = map(at).expect("a slot");
        assert!(bench.is_copied(iova) && iova.raw() + ROW - 1 <= limit);
    }
    // The window that serves the third is above the pool.
    let far = map(2 * MIB);
    assert!(matches!(far, Err(MapError::Unreachable(_))), "{far:x?}");
    assert_eq!(bench.pool.stats().used, 2 * ROW);
}

#[test]
fn a_list_is_mapped_as_a_whole_or_not_at_all() {
    let bench = always();
    let wants = [
        (BASE, PAGE),
        (BASE + MIB + 7, 2 * ROW),
        (BASE + 4 * MIB + 9, 100),
        (BASE + 5 * MIB, ROW),
    ];
    let entries = list(&wants);
    bench.ram.write(BASE, &pattern(3, 6 * MIB));
    let map = |entries: &[Entry]| {
        bench
            .rig
            .engine
            .map_or_copy_all(entries.iter(), &bench.pool, FROM, ALL)
    };
    assert_eq!(map(&entries), Ok(()));
    let at = |n: usize| entries[n].at().expect("mapped");
    assert_eq!(
        [0, 1, 2, 3].map(|n| bench.is_copied(at(n))),
        [true, false, true, true]
    );
    for (n, &(start, len)) in wants.iter().enumerate() {
        assert_eq!(bench.device_reads(at(n), len), bench.ram.read(start, len));
        bench.device_writes(at(n), &pattern(n as u64 + 10, len));
    }
    let unmap = |entries: &[Entry]| {
        bench
            .rig
            .engine
            .unmap_or_copy_all(entries.iter(), &bench.pool, true)
    };
    assert_eq!(unmap(&entries), Ok(()));
    for (n, &(start, len)) in wants.iter().enumerate() {
        assert_eq!(bench.ram.read(start, len), pattern(n as u64 + 10, len));
    }
    assert!(unmap(&entries).is_err(), "it is unmapped");

    // The host refuses the entry that is too long for a slot.
    bench.rig.engine.age();
    bench.rig.engine.age();
    bench.rig.host.look().refuse_every = Some(1);
    let entries = list(&[(BASE, PAGE), (BASE + 12 * MIB, 2 * ROW)]);
    assert_eq!(map(&entries), Err(MapError::Refused));
    assert!(entries.iter().all(|entry| entry.at().is_none()));
    assert_eq!(bench.pool.stats().used, 0);
    // An entry without bytes.
    let entries = list(&[(BASE, PAGE), (BASE, 0)]);
    assert_eq!(map(&entries), Err(MapError::Invalid));
    assert_eq!(bench.pool.stats().used, 0);
}

#[test]
fn a_closed_pool_only_unmaps() {
    let bench = always();
    bench.ram.write(BASE, &pattern(1, PAGE));
    let iova = bench.map(span(BASE, PAGE), FROM).expect("a slot");
    bench.device_writes(iova, &pattern(2, PAGE));
    bench.pool.close();
    bench.rig.engine.close();
    assert_eq!(bench.map(span(BASE, PAGE), FROM), Err(MapError::Closed));
    let released = bench.rig.engine.release();
    assert_eq!((released.busy, released.lost), (0, 0));
    assert!(bench.rig.host.look().mappings.is_empty());
    assert!(bench.unmap(iova, PAGE, true));
    assert_eq!(bench.ram.read(BASE, PAGE), pattern(2, PAGE));
}

#[test]
fn the_pool_is_mapped_in_the_pieces_that_the_host_has() {
    let mut rig = Rig::new(Setup::default());
    rig.engine.reserve(64).expect("memory");
    rig.host.look().segment_max = 512 * KIB;
    let blocks = [span(POOL, 2 * MIB), span(POOL + 4 * MIB, MIB + PAGE)];
    let regions = rig.engine.map_pool(&blocks).expect("memory");
    assert_eq!(regions.len(), 6);
    assert!(regions.iter().all(|region| region.gpa().len() == 512 * KIB));

    // A host that refuses rows, or does not answer, leaves a smaller pool.
    let mut rig = Rig::new(Setup::default());
    rig.engine.reserve(64).expect("memory");
    {
        let mut state = rig.host.look();
        state
            .map_faults
            .extend([MapFault::None, MapFault::SilentMapped]);
    }
    let blocks = [
        span(POOL, MIB),
        span(POOL + MIB, MIB),
        span(POOL + 2 * MIB, MIB),
    ];
    assert_eq!(rig.engine.map_pool(&blocks).expect("memory").len(), 1);
    rig.check();
    // The limits hold.
    let mut rig = Rig::new(Setup {
        max_bytes: MIB,
        ..Setup::default()
    });
    rig.engine.reserve(64).expect("memory");
    assert_eq!(rig.engine.map_pool(&blocks).expect("memory").len(), 1);
    rig.check();
    // Most mappings are left to windows.
    let mut rig = Rig::new(Setup {
        max_entries: 16,
        ..Setup::default()
    });
    rig.engine.reserve(64).expect("memory");
    assert_eq!(rig.engine.map_pool(&blocks).expect("memory").len(), 2);
    rig.check();
}

#[test]
fn windows_are_not_accepted_where_the_pool_is() {
    let bench = always();
    bench
        .rig
        .host
        .look()
        .map_faults
        .push_back(MapFault::Overlap);
    assert!(
        bench.map(span(BASE, PAGE), None).is_ok(),
        "the smallest window does it"
    );
    let stats = bench.rig.engine.stats();
    assert_eq!(
        stats
            .host_errors
            .iter()
            .map(|count| count.get())
            .sum::<u64>(),
        1
    );
}

#[test]
fn what_streams_is_copied_and_what_is_hot_gets_windows() {
    // An entry costs the host 2 ms.
    let bench = Bench::new(Setup::default(), MIB, Preference::Admitted(COST));
    {
        let mut state = bench.rig.host.look();
        (state.map_ns, state.unmap_ns) = (2_000_000, 2_000_000);
    }
    let once = |at: u64| {
        let iova = bench.map(span(at, 4 * PAGE), FROM).expect("mapped");
        let copied = bench.is_copied(iova);
        crate::sys::pass_ms(1);
        assert!(bench.unmap(iova, 4 * PAGE, true));
        copied
    };
    let before = bench.rig.host.doorbells();
    // What is mapped once is copied, apart from what makes the price known.
    let copied = (0..512).filter(|n| once(BASE + n * 16 * KIB)).count();
    assert!(copied > 500, "{copied} of 512 copied");
    assert!(bench.rig.host.doorbells() - before < 8);
    // The same again and again.
    let hot = BASE + 32 * MIB;
    let last = (0..20_000).rev().find(|_| once(hot));
    assert!(
        last.is_some_and(|left| left > 10_000),
        "{last:?} copies are left"
    );
}

/// A mapping of the driver, and what both sides must see.
struct Live {
    span: GpaSpan,
    iova: Iova,
    transfer: Option<Transfer>,
    copied: bool,
    /// What the driver sees.
    cpu: Vec<u8>,
    /// What the device sees, if that is something else.
    device: Vec<u8>,
}

/// Buffers of drivers, each with its surroundings.
const AREAS: u64 = 12;
const AREA: u64 = 512 * KIB;

fn run(
    preference: Preference,
    [strict, others]: [bool; 2],
    rows: u64,
    steps: &[(u8, u64, u64, u64)],
) {
    let setup = Setup {
        strict,
        ..Setup::default()
    };
    let bench = Bench::new(setup, rows * ROW, preference);
    if others {
        // They return nothing.
        bench.ram.run_beside(|| ());
        bench.rig.host.look().map_ns = 500_000;
    }
    let all = |ram: &Ram| ram.read(BASE, AREAS * AREA);
    bench.ram.write(BASE, &pattern(99, AREAS * AREA));
    let mut outside = all(&bench.ram);
    let mut live: Vec<Option<Live>> = (0..AREAS).map(|_| None).collect();
    for (n, &(op, area, a, b)) in steps.iter().enumerate() {
        let area = (area % AREAS) as usize;
        let start = BASE + area as u64 * AREA;
        let Some(mapping) = &mut live[area] else {
            let long = [PAGE, 100, 20 * KIB, ROW + 3 * PAGE][(op % 4) as usize];
            let buffer = span(start + a % 9000, 1 + b % long);
            let transfer = [TO, FROM, FROM, None][(b % 4) as usize];
            let cpu = pattern(n as u64, buffer.len());
            bench.ram.write(buffer.start().raw(), &cpu);
            let iova = bench.map(buffer, transfer).expect("room for all");
            let copied = bench.is_copied(iova);
            assert!(!copied || transfer.is_some());
            let device = cpu.clone();
            live[area] = Some(Live {
                span: buffer,
                iova,
                transfer,
                copied,
                cpu,
                device,
            });
            continue;
        };
        let len = mapping.span.len();
        let (from, to) = (a % len, a % len + 1 + b % (len - a % len));
        let range = from as usize..to as usize;
        let part = IovaSpan::new(Iova::new(mapping.iova.raw() + from), to - from).expect("a span");
        let fresh = pattern(n as u64, to - from);
        match op % 6 {
            0 => {
                bench.device_writes(part.start(), &fresh);
                mapping.device[range].copy_from_slice(&fresh);
            }
            1 => {
                // The CPU writes.
                bench.ram.write(mapping.span.start().raw() + from, &fresh);
                mapping.cpu[range].copy_from_slice(&fresh);
            }
            2 => {
                bench.pool.sync_for_device(&part);
                if mapping.copied {
                    let now = mapping.cpu[range.clone()].to_vec();
                    mapping.device[range].copy_from_slice(&now);
                }
            }
            3 => {
                bench.pool.sync_for_cpu(&part);
                if mapping.copied && mapping.transfer == FROM {
                    let now = mapping.device[range.clone()].to_vec();
                    mapping.cpu[range].copy_from_slice(&now);
                }
            }
            4 => {
                // Not quite the mapping: of windows, only the first address counts.
                let wrong = IovaSpan::new(mapping.iova, len + 1 + a % 100).expect("a span");
                if mapping.copied {
                    assert!(bench.pool.unmap(&wrong, true).is_err());
                }
            }
            _ => {
                let sync = a % 2 == 0;
                assert!(bench.unmap(mapping.iova, len, sync));
                if mapping.copied && mapping.transfer == FROM && sync {
                    mapping.cpu = mapping.device.clone();
                }
                let at = (mapping.span.start().raw() - BASE) as usize;
                outside[at..at + len as usize].copy_from_slice(&mapping.cpu);
                live[area] = None;
                continue;
            }
        }
        if !mapping.copied {
            // Both sides see the same memory.
            let written = if op % 6 == 0 {
                &mapping.device
            } else {
                &mapping.cpu
            };
            let written = written.clone();
            (mapping.cpu, mapping.device) = (written.clone(), written);
        }
        // Every mapping reads as it must on both sides, whatever was done to this one.
        for mapping in live.iter().flatten() {
            let len = mapping.span.len();
            assert!(
                bench.device_reads(mapping.iova, len) == mapping.device,
                "device"
            );
            let at = (mapping.span.start().raw() - BASE) as usize;
            outside[at..at + len as usize].copy_from_slice(&mapping.cpu);
        }
        assert!(all(&bench.ram) == outside, "the drivers' memory");
    }
    let (copied, windows): (Vec<_>, Vec<_>) = live.iter().flatten().partition(|live| live.copied);
    let used: u64 = copied
        .iter()
        .map(|live| (live.span.start().raw() % PAGE + live.span.len()).div_ceil(PAGE) * PAGE)
        .sum();
    assert_eq!(bench.pool.stats().used, used);
    for live in copied.iter().chain(&windows) {
        assert!(bench.unmap(live.iova, live.span.len(), true));
    }
    let stats = bench.pool.stats();
    assert_eq!((stats.used, stats.copies), (0, stats.ended));
    assert!(stats.peak <= stats.pool);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn buffers_read_as_if_the_device_had_accessed_them(
        preference in prop_oneof![
            Just(Preference::Slots),
            Just(Preference::NewSlots),
            Just(Preference::Windows),
            Just(Preference::Admitted(COST)),
        ],
        flags in any::<[bool; 2]>(),
        rows in 1u64..5,
        steps in prop::collection::vec(any::<(u8, u64, u64, u64)>(), 1..60),
    ) {
        run(preference, flags, rows, &steps);
    }

    #[test]
    fn runs_of_pages_never_overlap(
        steps in prop::collection::vec((1u32..=ROW_PAGES, any::<prop::sample::Index>()), 1..200),
    ) {
        let pages = Pages::new();
        let mut taken: Vec<(u32, u32)> = Vec::new();
        for (count, index) in steps {
            match pages.take(count) {
                Some(first) => {
                    assert!(first + count <= ROW_PAGES);
                    let apart = |&(other, len): &(u32, u32)| {
                        first + count <= other || other + len <= first
                    };
                    assert!(taken.iter().all(apart), "{first} {count} {taken:?}");
                    taken.push((first, count));
                }
                None => {
                    let used = |page| {
                        taken.iter().any(|&(first, len)| (first..first + len).contains(&page))
                    };
                    let mut runs = (0..=ROW_PAGES - count).map(|n| (n..n + count).any(used));
                    assert!(runs.all(|used| used), "there was room for {count}");
                    if !taken.is_empty() {
                        let (first, len) = taken.swap_remove(index.index(taken.len()));
                        pages.put(first, len);
                    }
                }
            }
            assert_eq!(pages.used(), taken.iter().map(|&(_, len)| len).sum::<u32>());
        }
    }
}
