// SPDX-License-Identifier: GPL-2.0

//! Races of several CPUs for windows.

use super::host::{
    span,
    Placement, //
};
use super::rig::{
    list,
    Rig,
    Setup,
    TestPolicy,
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
    IovaSpan, //
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
use crate::engine::index::arena::{
    FreeList,
    Segment,
    NONE, //
};
use crate::engine::index::granule_map::{
    Chunks,
    GranuleMap,
    CHUNK, //
};
use crate::engine::{
    LargePages,
    MapError, //
};
use crate::sys::{
    pass_ns,
    Alloc, //
};
use shuttle::{
    scheduler::{
        PctScheduler,
        RandomScheduler, //
    },
    sync::Arc,
    thread,
    Config,
    FailurePersistence,
    Runner, //
};
use std::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

/// Runs `test` in `count` random schedules, and in as many with few, unfavourable preemptions.
fn explore(count: usize, test: impl Fn() + Send + Sync + 'static) {
    let test = std::sync::Arc::new(test);
    let config = || {
        let mut config = Config::new();
        config.failure_persistence = FailurePersistence::None;
        config.stack_size = 1 << 18;
        config.silence_warnings = true;
        config
    };
    // Seeds are fixed, so that a failure can be reproduced.
    for seed in 0..2 {
        let run = test.clone();
        let random = RandomScheduler::new_from_seed(seed, count / 2);
        Runner::new(random, config()).run(move || run());
        let run = test.clone();
        let pct = PctScheduler::new_from_seed(seed, 3, count / 2);
        Runner::new(pct, config()).run(move || run());
    }
}

/// Creates an engine for a test, with tables that need not grow.
fn rig(setup: Setup) -> Arc<Rig> {
    let rig = Rig::with_ram(setup, &[(BASE, 256 * MIB)]);
    let windows = rig.setup.max_entries.min(8) as usize;
    rig.engine.reserve(windows).expect("memory");
    Arc::new(rig)
}

fn few() -> Setup {
    Setup {
        policy: TestPolicy::Aligned(14),
        max_entries: 8,
        batch_max: 4,
        max_bytes: 4 * MIB,
        // All granules are in chunks, which are freed and reused, unlike a flat table.
        table_max: 0,
        ..Setup::default()
    }
}

/// Maps as a driver does, and checks the result; [`None`] if other threads have used up a limit.
fn map(rig: &Rig, start: u64, len: u64) -> Option<Iova> {
    match rig.engine.map(span(start, len), ALL) {
        Ok(iova) => {
            rig.host.look().hold(span(start, len), iova);
            Some(iova)
        }
        Err(MapError::Full(_)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn unmap(rig: &Rig, start: u64, len: u64, iova: Iova) {
    rig.host.look().drop_held(span(start, len), iova);
    assert_eq!(rig.engine.unmap(iova, len), Ok(()));
}

/// Maps and unmaps the spans, one after the other.
fn use_all(rig: &Rig, wants: &[(u64, u64)]) {
    for &(start, len) in wants {
        if let Some(iova) = map(rig, start, len) {
            assert_eq!(rig.engine.translate(iova, len), Some(Gpa::new(start)));
            unmap(rig, start, len, iova);
        }
    }
}

/// Runs `run` in one thread for each of `items`, and joins them.
fn each<I, T, F>(rig: &Arc<Rig>, items: I, run: F) -> Vec<T>
where
    I: IntoIterator<Item: Send + 'static>,
    T: Send + 'static,
    F: Fn(&Rig, I::Item) -> T + Copy + Send + 'static,
{
    let threads: Vec<_> = items
        .into_iter()
        .map(|item| {
            let rig = rig.clone();
            thread::spawn(move || run(&rig, item))
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().expect("the thread succeeds"))
        .collect()
}

/// Maps and unmaps the spans of `lists` in one thread for each list, and joins them.
fn in_parallel(rig: &Arc<Rig>, lists: &[&'static [(u64, u64)]]) {
    each(rig, lists.to_vec(), use_all);
}

/// Checks that no window has a reference and that counters are true, and releases the engine.
fn finish(rig: Arc<Rig>) {
    rig.check();
    assert!(rig.host.look().held.is_empty());
    if rig.setup.strict {
        let state = rig.host.look();
        assert!(state.mappings.is_empty(), "{:x?}", state.mappings);
    }
    let released = rig.engine.release();
    assert_eq!((released.busy, released.lost), (0, 0));
    assert!(rig.host.look().mappings.is_empty());
}

const A: u64 = BASE + MIB;
const B: u64 = BASE + 2 * MIB;
const C: u64 = BASE + 3 * MIB;

#[test]
fn taking_a_reference_against_the_reclaimer() {
    explore(1000, || {
        let rig = rig(Setup {
            max_entries: 1,
            ..few()
        });
        in_parallel(&rig, &[&[(A, 1), (A, 1)], &[(B, 1), (A, 1), (B, 1)]]);
        finish(rig);
    });
}

#[test]
fn a_look_up_against_the_reuse_of_an_id() {
    for strict in [false, true] {
        explore(800, move || {
            let rig = rig(Setup {
                strict,
                max_entries: 2,
                ..few()
            });
            in_parallel(
                &rig,
                &[&[(A, 1), (A, 1)], &[(B, 1), (C, 1)], &[(A, 1), (B, 1)]],
            );
            finish(rig);
        });
    }
}

#[test]
fn a_look_up_that_finds_another_window_first() {
    // A tile and two other windows begin in one granule; a look-up for one tries the others, too.
    explore(1000, || {
        let rig = rig(Setup {
            strict: true,
            ..few()
        });
        in_parallel(
            &rig,
            &[
                &[(A, 4 * KIB), (A, 20 * KIB)],
                &[(A, 20 * KIB), (A, 40 * KIB)],
                &[(A, 40 * KIB)],
            ],
        );
        finish(rig);
    });
}

#[test]
fn several_threads_miss_the_same_window() {
    explore(1000, || {
        let rig = rig(few());
        each(&rig, 0..3, |rig, n| {
            let start = A + n * 4 * KIB;
            let iova = map(rig, start, 4 * KIB).expect("room");
            unmap(rig, start, 4 * KIB, iova);
        });
        assert_eq!(rig.host.look().map_entries, 1, "made once");
        assert_eq!(rig.host.doorbells(), 1);
        finish(rig);
    });
}

#[test]
fn waiting_threads_are_served_by_another_doorbell() {
    use std::sync::atomic::{
        AtomicU64,
        Ordering::Relaxed, //
    };

    static FEWEST: AtomicU64 = AtomicU64::new(u64::MAX);
    for strict in [false, true] {
        FEWEST.store(u64::MAX, Relaxed);
        explore(1000, move || {
            let rig = rig(Setup { strict, ..few() });
            let held = each(&rig, [A, B, C], |rig, start| {
                (start, map(rig, start, 4 * KIB).expect("room"))
            });
            let doorbells = rig.host.look().map_doorbells;
            let stats = rig.engine.stats();
            assert_eq!(
                doorbells + stats.counters.shared.get(),
                3,
                "each is served once"
            );
            FEWEST.fetch_min(doorbells, Relaxed);
            for (start, iova) in held {
                assert_eq!(rig.engine.translate(iova, 4 * KIB), Some(Gpa::new(start)));
                unmap(&rig, start, 4 * KIB, iova);
            }
            finish(rig);
        });
        // At best one thread rings before it sees the others, and one more time serves these.
        assert!(FEWEST.load(Relaxed) <= 2, "{FEWEST:?} doorbells at best");
    }
}

#[test]
fn lists_are_served_by_another_doorbell() {
    for strict in [false, true] {
        explore(600, move || {
            let rig = rig(Setup { strict, ..few() });
            each(&rig, [[A, A, B], [B, C, A]], |rig, starts| {
                let spans = starts.map(|start| (start, 4096));
                let entries = list(&spans);
                rig.engine.map_all(entries.iter(), ALL).expect("room");
                for (entry, start) in entries.iter().zip(starts) {
                    let iova = entry.at().expect("mapped");
                    assert_eq!(rig.engine.translate(iova, 4096), Some(Gpa::new(start)));
                    rig.host.look().hold(span(start, 4096), iova);
                }
                for (entry, start) in entries.iter().zip(starts) {
                    let iova = entry.at().expect("mapped");
                    rig.host.look().drop_held(span(start, 4096), iova);
                }
                assert!(rig.engine.unmap_all(entries.iter()).is_ok());
            });
            finish(rig);
        });
    }
}

#[test]
fn a_served_request_that_the_device_cannot_reach() {
    explore(600, || {
        let rig = rig(few());
        each(
            &rig,
            [(A, 1), (B, ALL), (C, 1)],
            |rig, (start, dma_limit)| {
                let result = rig.engine.map(span(start, 4 * KIB), dma_limit);
                match result {
                    Ok(iova) => {
                        rig.host.look().hold(span(start, 4 * KIB), iova);
                        unmap(rig, start, 4 * KIB, iova);
                    }
                    Err(error) => assert!(matches!(error, MapError::Unreachable(_))),
                }
                assert_eq!(result.is_ok(), dma_limit == ALL);
            },
        );
        finish(rig);
    });
}

#[test]
fn reclaim_by_age_against_users() {
    for strict in [false, true] {
        explore(800, move || {
            let rig = rig(Setup { strict, ..few() });
            let ager = {
                let rig = rig.clone();
                thread::spawn(move || {
                    rig.engine.age();
                    rig.engine.age();
                    rig.engine.evict(&span(A, MIB));
                })
            };
            in_parallel(&rig, &[&[(A, 1), (B, 1), (A, 1)]]);
            ager.join().expect("the thread succeeds");
            finish(rig);
        });
    }
}

#[test]
fn strict_mode_has_unmapped_when_unmap_returns() {
    explore(800, || {
        let rig = rig(Setup {
            strict: true,
            ..few()
        });
        each(&rig, [A, B, C], |rig, start| {
            for _ in 0..2 {
                let iova = map(rig, start, 1).expect("room");
                unmap(rig, start, 1, iova);
                let state = rig.host.look();
                assert!(!state.mappings.contains_key(&start), "still mapped");
            }
        });
        finish(rig);
    });
}

#[test]
fn a_look_up_for_other_memory_does_not_keep_a_window() {
    // The second thread's request begins in the first one's window and ends behind it.
    explore(1500, || {
        let rig = rig(Setup {
            strict: true,
            ..few()
        });
        each(&rig, 0..2, |rig, n| match n {
            0 => {
                for _ in 0..2 {
                    let iova = map(rig, A, 64).expect("room");
                    unmap(rig, A, 64, iova);
                    let state = rig.host.look();
                    let ours = state.mappings.get(&A);
                    let kept = ours.filter(|mapping| mapping.span.len() == 16 * KIB);
                    assert!(kept.is_none(), "still mapped");
                }
            }
            _ => use_all(rig, &[(A + 12 * KIB, 8 * KIB), (A + 12 * KIB, 8 * KIB)]),
        });
        finish(rig);
    });
}

#[test]
fn strict_mode_has_unmapped_when_the_last_unmap_returns() {
    // The second thread may find the window while the first one creates it.
    explore(2000, || {
        let rig = rig(Setup {
            strict: true,
            ..few()
        });
        let others = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (rig, others) = (rig.clone(), others.clone());
                thread::spawn(move || {
                    use std::sync::atomic::Ordering::SeqCst;
                    others.fetch_add(1, SeqCst);
                    let iova = map(&rig, A, 64).expect("room");
                    unmap(&rig, A, 64, iova);
                    // The last user that is left.
                    if others.fetch_sub(1, SeqCst) == 1 {
                        let state = rig.host.look();
                        assert!(!state.mappings.contains_key(&A), "still mapped");
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("the thread succeeds");
        }
        finish(rig);
    });
}

#[test]
fn release_against_the_last_users() {
    for strict in [false, true] {
        explore(2000, move || {
            let rig = rig(Setup { strict, ..few() });
            let held = map(&rig, A, 64).expect("room");
            // The device is stopped, so that nothing has to be backed any more.
            rig.host.look().held.clear();
            let user = {
                let rig = rig.clone();
                thread::spawn(move || {
                    let _ = rig.engine.unmap(held, 64);
                    for start in [A, B] {
                        match rig.engine.map(span(start, 64), ALL) {
                            Ok(iova) => drop(rig.engine.unmap(iova, 64)),
                            Err(error) => assert_eq!(error, MapError::Closed),
                        }
                    }
                })
            };
            rig.engine.release();
            user.join().expect("the thread succeeds");
            assert_eq!(rig.engine.map(span(C, 64), ALL), Err(MapError::Closed));
            assert!(rig.host.look().mappings.is_empty());
            let state = rig.host.look();
            let (maps, unmaps) = (state.map_entries, state.unmap_batches.iter().sum::<usize>());
            assert_eq!(maps, unmaps as u64, "each was unmapped once");
        });
    }
}

#[test]
fn refusals_against_windows_that_become_idle() {
    // A window that becomes idle at any time during a search is found by the next one.
    explore(1500, || {
        let rig = rig(Setup {
            max_entries: 2,
            ..few()
        });
        let held = [A, B].map(|start| map(&rig, start, 64).expect("room"));
        let user = {
            let rig = rig.clone();
            thread::spawn(move || unmap(&rig, B, 64, held[1]))
        };
        for _ in 0..2 {
            if let Some(iova) = map(&rig, C, 64) {
                unmap(&rig, C, 64, iova);
            }
        }
        user.join().expect("the thread succeeds");
        let iova = map(&rig, C, 64).expect("a window is idle");
        unmap(&rig, C, 64, iova);
        unmap(&rig, A, 64, held[0]);
        finish(rig);
    });
}

#[test]
fn lists_that_share_windows() {
    for strict in [false, true] {
        explore(500, move || {
            let rig = rig(Setup {
                strict,
                batch_max: 2,
                ..few()
            });
            each(&rig, [[A, B, C], [C, A, B]], |rig, starts| {
                use_list(rig, starts, 4096);
            });
            finish(rig);
        });
    }
}

/// Maps `len` bytes at each of `starts` as a list, and unmaps them.
fn use_list(rig: &Rig, starts: [u64; 3], len: u64) {
    let spans = starts.map(|start| (start, len));
    let entries = list(&spans);
    rig.engine.map_all(entries.iter(), ALL).expect("room");
    let held: Vec<_> = entries
        .iter()
        .zip(starts)
        .map(|(entry, start)| (start, entry.at().expect("mapped")))
        .collect();
    for (start, iova) in &held {
        rig.host.look().hold(span(*start, len), *iova);
    }
    for (start, iova) in &held {
        rig.host.look().drop_held(span(*start, len), *iova);
    }
    assert!(rig.engine.unmap_all(entries.iter()).is_ok());
}

fn large_pages(strict: bool) -> Arc<Rig> {
    let rig = rig(Setup {
        strict,
        large_pages: LargePages::Expected,
        max_entries: 24,
        ..few()
    });
    let mut state = rig.host.look();
    state.guard = 1;
    state.iovas.start += 1;
    drop(state);
    rig
}

#[test]
fn lists_of_large_pages() {
    // A call may unmap the fillers of another one.
    for strict in [false, true] {
        explore(400, move || {
            let rig = large_pages(strict);
            each(&rig, [[A, B, C], [C, A, B + MIB / 2]], |rig, starts| {
                use_list(rig, starts, 64 * KIB);
            });
            finish(rig);
        });
    }
}

#[test]
fn release_against_a_list_of_large_pages() {
    for strict in [false, true] {
        explore(400, move || {
            let rig = large_pages(strict);
            let user = {
                let rig = rig.clone();
                thread::spawn(move || {
                    let entries = list(&[A, B, C].map(|start| (start, 64 * KIB)));
                    match rig.engine.map_all(entries.iter(), ALL) {
                        Ok(()) => drop(rig.engine.unmap_all(entries.iter())),
                        Err(error) => assert_eq!(error, MapError::Closed),
                    }
                })
            };
            rig.engine.release();
            user.join().expect("the thread succeeds");
            assert!(rig.host.look().mappings.is_empty());
            let state = rig.host.look();
            let (maps, unmaps) = (state.map_entries, state.unmap_batches.iter().sum::<usize>());
            assert_eq!(maps, unmaps as u64, "each was unmapped once");
        });
    }
}

/// Distance of the IOVAs from the guest addresses in the tests of chunks, in bytes.
pub(super) const DISTANCE: u64 = 64 * MIB;

/// Returns the bucket, of 64, of the chunk of an address in the map of IOVAs.
pub(super) fn bucket(addr: u64) -> u64 {
    ((addr / MIB) | (2 << 60)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58
}

/// Returns megabytes of memory whose IOVAs have the same bucket as those of `first`.
fn neighbours(first: u64) -> impl Iterator<Item = u64> {
    (1..192)
        .map(move |n| BASE + n * MIB)
        .filter(move |start| {
            *start != first && bucket(*start + DISTANCE) == bucket(first + DISTANCE)
        })
        .filter(move |start| *start != first + DISTANCE)
}

#[test]
fn chunks_come_and_go_under_a_reader() {
    // A window stays while windows whose chunks share its bucket are mapped and unmapped, and
    // while a chunk of the map of IOVAs is reused in the map of memory, with the same number.
    explore(1000, || {
        let rig = rig(Setup {
            strict: true,
            placement: Placement::Offset(DISTANCE),
            ..few()
        });
        let kept = map(&rig, A, 4096).expect("room");
        let other = neighbours(A).next().expect("a neighbour");
        let late = Iova::new(other + DISTANCE);
        // Its chunk comes before that of the window that stays.
        let first = map(&rig, other, 4096).expect("room");
        assert_eq!(first, late);

        let reader = {
            let rig = rig.clone();
            thread::spawn(move || {
                for _ in 0..3 {
                    assert_eq!(
                        rig.engine.translate(kept, 4096),
                        Some(Gpa::new(A)),
                        "a held mapping is found"
                    );
                    let again = map(&rig, A, 100).expect("a hit");
                    assert_eq!(again, kept, "one window serves");
                    unmap(&rig, A, 100, again);
                }
            })
        };
        let writer = {
            let rig = rig.clone();
            thread::spawn(move || {
                unmap(&rig, other, 4096, first);
                // Memory whose granules have the numbers of the other window's IOVAs.
                use_all(
                    &rig,
                    &[(A + DISTANCE, 4096), (other, 4096), (A + DISTANCE, 1)],
                );
            })
        };
        reader.join().expect("the thread succeeds");
        writer.join().expect("the thread succeeds");
        unmap(&rig, A, 4096, kept);
        finish(rig);
    });
}

#[test]
fn an_id_that_stays_is_found_or_missed() {
    // Two maps on one pool. In the first, a granule keeps its id while its neighbour in the bucket
    // is cleared; the neighbour's chunk is then reused in the other map, for the same granules.
    explore(1000, || {
        let maps = Arc::new([0, 1].map(|n| GranuleMap::new(1, n).expect("memory")));
        let chunks = Arc::new(Chunks::new(64).expect("memory"));
        let mut free = FreeList::new();
        let segment = Segment::new(Alloc::Sleep).expect("memory");
        assert!(chunks.grow(&mut free, segment).is_ok());
        // These two share one of the two buckets.
        let (kept, gone) = (0, 2 * CHUNK as u64);
        maps[0].set(&chunks, &mut free, kept, 1).expect("room");
        maps[0].set(&chunks, &mut free, gone, 2).expect("room");
        let reader = {
            let (maps, chunks) = (maps.clone(), chunks.clone());
            thread::spawn(move || {
                let id = maps[0].get(&chunks, kept);
                assert!(id == 1 || id == NONE, "id {id} is of the other map");
            })
        };
        maps[0].clear(&chunks, &mut free, gone, 2);
        maps[1].set(&chunks, &mut free, kept, 3).expect("room");
        reader.join().expect("the thread succeeds");
        assert_eq!(maps[0].get(&chunks, kept), 1);
    });
}

#[test]
fn tables_grow_under_readers() {
    explore(1000, || {
        let rig = Arc::new(Rig::with_ram(few(), &[(BASE, 256 * MIB)]));
        in_parallel(&rig, &[&[(A, 1), (B, 1)], &[(B, 1), (A, 1)]]);
        finish(rig);
    });
}

/// Guest RAM that records the owner of each page of a pool.
struct Owned(std::sync::Arc<std::sync::Mutex<std::collections::BTreeMap<u64, u64>>>);

impl Memory for Owned {
    fn reaches(&self, _: &GpaSpan) -> bool {
        true
    }

    fn copy(&self, from: Gpa, to: Gpa, len: u64) {
        let mut owners = self.0.lock().expect("no panic");
        let (from, to) = (from.raw(), to.raw());
        let pages = |start: u64| (start / 4096..=(start + (len - 1)) / 4096).map(|n| n * 4096);
        if to >= COPIES {
            // Into the pool.
            for page in pages(to) {
                assert_eq!(
                    owners.insert(page, from / MIB),
                    None,
                    "page {page:#x} has an owner"
                );
            }
        } else {
            for page in pages(from) {
                assert_eq!(
                    owners.remove(&page),
                    Some(to / MIB),
                    "page {page:#x} of another"
                );
            }
        }
        drop(owners);
        thread::yield_now();
    }

    fn clear(&self, _: &GpaSpan) {}

    fn processor(&self) -> usize {
        0
    }

    fn others_run(&self) -> bool {
        true
    }

    fn pause(&self) {
        pass_ns(10_000);
        thread::yield_now();
    }
}

/// Calls that waited for a slot.
static WAITED: AtomicU64 = AtomicU64::new(0);

/// Where the pool is.
const COPIES: u64 = BASE + 128 * MIB;

#[test]
fn slots_have_one_owner_at_a_time() {
    explore(400, || {
        let mut rig = Rig::with_ram(few(), &[(BASE, 256 * MIB)]);
        rig.engine.reserve(8).expect("memory");
        // What finds no slot waits for one.
        rig.host.look().map_ns = 100_000;
        let regions = rig.engine.map_pool(&[span(COPIES, ROW)]).expect("memory");
        let memory = Owned(std::sync::Arc::default());
        let pool = SlotPool::new(memory, regions, Preference::NewSlots, false).expect("memory");
        let shared = Arc::new((rig, pool));
        let threads: Vec<_> = (0..3)
            .map(|n: u64| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (rig, pool) = &*shared;
                    // Two of these fit, and then another, or none.
                    for len in [100 * KIB, 8 * KIB, 100 * KIB] {
                        let start = BASE + n * MIB + 2048;
                        let want = span(start, len);
                        let copied = Some(Transfer::FromDevice);
                        let Ok(iova) = rig.engine.map_or_copy(want, pool, copied, ALL) else {
                            continue;
                        };
                        let mapped = IovaSpan::new(iova, len).expect("a span");
                        let gpa = match pool.contains(iova) {
                            true => pool.gpa_of(&mapped),
                            false => rig.engine.translate(iova, len),
                        };
                        assert_eq!(gpa, Some(Gpa::new(start)));
                        let unmapped = match pool.contains(iova) {
                            true => pool.unmap(&mapped, true),
                            false => rig.engine.unmap(iova, len),
                        };
                        assert_eq!(unmapped, Ok(()));
                        assert!(!pool.contains(iova) || pool.gpa_of(&mapped) != gpa);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("the thread succeeds");
        }
        let stats = shared.1.stats();
        assert_eq!((stats.used, stats.copies), (0, stats.ended));
        WAITED.fetch_add(stats.waited, Relaxed);
    });
    assert!(WAITED.load(Relaxed) > 0, "some schedules make a call wait");
}
