// SPDX-License-Identifier: GPL-2.0

//! The measured cost of an entry, and batches that are as short as it asks for.

use super::host::{
    span,
    UnmapFault, //
};
use super::rig::{
    list,
    Rig,
    Setup,
    TestPolicy,
    ALL,
    BASE,
    GIB,
    MIB, //
};
use crate::engine::cost::{
    Average,
    BATCH_NS, //
};

/// Nanoseconds of an entry, of which three fit a batch.
const SLOW: u64 = 3_000_000;

fn average(samples: &[u64]) -> u64 {
    let average = Average::new();
    for sample in samples {
        average.add(*sample);
    }
    average.get().expect("there are samples")
}

#[test]
fn an_average_is_between_its_samples() {
    assert_eq!(Average::new().get(), None);
    assert_eq!(average(&[SLOW]), SLOW);
    assert_eq!(average(&[SLOW; 50]), SLOW);
    assert_eq!(average(&[0]), 0);
    let mixed = average(&[1000, 3000, 2000, 1500, 2500]);
    assert!((1000..=3000).contains(&mixed), "{mixed}");
    // A sample of any size does no harm.
    assert!(average(&[u64::MAX, u64::MAX, 0]) > 0);
}

#[test]
fn an_average_follows_a_host_that_changes() {
    let mut samples = vec![30_000; 100];
    samples.extend([SLOW; 4]);
    assert!(average(&samples) > SLOW / 2, "{}", average(&samples));
    samples.extend([30_000; 60]);
    assert!(average(&samples) < 40_000, "{}", average(&samples));
    // One of nothing can grow.
    let samples: Vec<_> = [0; 10].into_iter().chain([SLOW; 8]).collect();
    assert!(average(&samples) > SLOW / 2, "{}", average(&samples));
}

#[test]
fn an_outlier_counts_little() {
    let mut samples = vec![30_000; 100];
    samples.push(1_000_000_000);
    assert!(average(&samples) < 300_000, "{}", average(&samples));
    samples.extend([30_000; 20]);
    assert!(average(&samples) < 60_000, "{}", average(&samples));
}

fn slow_rig(strict: bool) -> Rig {
    Rig::new(Setup {
        policy: TestPolicy::Smallest,
        strict,
        entry_ns: SLOW,
        ..Setup::default()
    })
}

fn most(batches: &[usize]) -> usize {
    batches.iter().copied().max().unwrap_or(0)
}

#[test]
fn batches_of_new_windows_are_short_on_a_slow_host() {
    let rig = slow_rig(false);
    rig.map(BASE, 1).expect("room");
    let entries: Vec<_> = (1..50u64).map(|n| (BASE + n * MIB, 4096)).collect();
    rig.map_all(&list(&entries), ALL).expect("room");
    let state = rig.host.look();
    assert_eq!(most(&state.map_batches), 3, "{:?}", state.map_batches);
    // And no shorter than they must be.
    assert_eq!(state.map_batches.len(), 1 + 49usize.div_ceil(3));
}

#[test]
fn batches_of_unmapped_windows_are_short_on_a_slow_host() {
    // By the last unmap, by need, and at the end.
    let rig = slow_rig(true);
    rig.map(BASE, 1).expect("room");
    let entries: Vec<_> = (1..20u64).map(|n| (BASE + n * MIB, 4096)).collect();
    let entries = list(&entries);
    rig.map_all(&entries, ALL).expect("room");
    rig.unmap_all(&entries);
    assert_eq!(most(&rig.host.look().unmap_batches), 3);
    assert_eq!(rig.host.look().unmap_batches.iter().sum::<usize>(), 19);

    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        max_entries: 30,
        entry_ns: SLOW,
        ..Setup::default()
    });
    for n in 0..60 {
        let iova = rig.map(BASE + n * MIB, 4096).expect("room");
        rig.unmap(BASE + n * MIB, 4096, iova);
    }
    assert_eq!(most(&rig.host.look().unmap_batches), 3);
    let host = rig.host.clone();
    rig.release();
    assert_eq!(most(&host.look().unmap_batches), 3);
    assert!(host.look().mappings.is_empty());
}

#[test]
fn batches_of_lost_windows_are_short_on_a_slow_host() {
    let rig = slow_rig(true);
    let entries: Vec<_> = (0..20u64).map(|n| (BASE + n * MIB, 4096)).collect();
    let entries = list(&entries);
    rig.map(BASE + 50 * MIB, 1).expect("room");
    rig.map_all(&entries, ALL).expect("room");
    let faults = [UnmapFault::Refuse; 20];
    rig.host.look().unmap_faults.extend(faults);
    rig.unmap_all(&entries);
    assert_eq!(rig.host.look().view.len(), 21, "lost, or in use");
    rig.host.look().map_batches.clear();
    for _ in 0..20 {
        rig.engine.retry_lost();
        rig.check();
    }
    let state = rig.host.look();
    assert_eq!(state.view.len(), 1);
    assert_eq!(most(&state.map_batches), 3, "{:?}", state.map_batches);
    assert_eq!(most(&state.unmap_batches), 3, "{:?}", state.unmap_batches);
}

#[test]
fn batches_of_the_search_are_short_on_a_slow_host() {
    let rig = slow_rig(false);
    rig.map(BASE, 1).expect("room");
    rig.host.look().accepts_unknown_keys = true;
    // A stale mapping is met, and the search finds the others.
    for n in 1..40 {
        rig.host.look().leave_stale(&span(BASE + n * MIB, 16 << 10));
    }
    rig.map(BASE + MIB, 1).expect("the stale one makes way");
    while rig.engine.search_stale() {}
    assert_eq!(rig.host.look().stale(), 0);
    let state = rig.host.look();
    assert_eq!(most(&state.unmap_batches), 3);
}

#[test]
fn suspects_are_unmapped_in_short_batches() {
    // Each of a list is in the way, and all are met by one call.
    // A part of the limits is enough for all of them.
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        max_entries: 4096,
        ..Setup::default()
    });
    rig.host.look().map_ns = 30_000;
    rig.host.look().unmap_ns = SLOW;
    let iova = rig.map(BASE, 1).expect("room");
    rig.unmap(BASE, 1, iova);
    rig.engine.age();
    rig.engine.age();
    let entries: Vec<_> = (1..30u64).map(|n| (BASE + n * MIB, 16 << 10)).collect();
    for (start, len) in &entries {
        rig.host.look().leave_stale(&span(*start, *len));
    }
    let entries = list(&entries);
    rig.map_all(&entries, ALL).expect("the stale ones make way");
    let state = rig.host.look();
    assert!(most(&state.map_batches) > 3, "{:?}", state.map_batches);
    assert_eq!(state.stale(), 0);
    // The first of them tells what a key costs that no window has.
    assert_eq!(most(&state.unmap_batches), 3, "{:?}", state.unmap_batches);
}

#[test]
fn a_very_slow_host_gets_one_entry_at_a_time() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        entry_ns: 2 * BATCH_NS,
        ..Setup::default()
    });
    rig.map(BASE, 1).expect("room");
    let entries: Vec<_> = (1..20u64).map(|n| (BASE + n * MIB, 4096)).collect();
    rig.map_all(&list(&entries), ALL).expect("room");
    assert_eq!(rig.host.look().map_batches, [1; 20]);
}

#[test]
fn costs_are_known_by_command() {
    let rig = Rig::with_ram(
        Setup {
            policy: TestPolicy::Smallest,
            ..Setup::default()
        },
        &[(BASE, GIB)],
    );
    let known = |rig: &Rig| rig.engine.costs().known().collect::<Vec<_>>();
    assert_eq!(known(&rig), []);
    {
        let mut state = rig.host.look();
        (state.map_ns, state.unmap_ns) = (2_000_000, 1_000_000);
    }
    rig.map(BASE, 1).expect("room");
    assert_eq!(known(&rig), [("map_entry_ns", 2_000_000)]);
    rig.host.look().held.clear();
    rig.engine.release();
    assert_eq!(
        known(&rig),
        [("map_entry_ns", 2_000_000), ("unmap_entry_ns", 1_000_000)]
    );
}

#[test]
fn a_batch_without_a_reply_tells_nothing() {
    let rig = slow_rig(true);
    let iova = rig.map(BASE, 1).expect("room");
    rig.host
        .look()
        .unmap_faults
        .push_back(UnmapFault::SilentGone);
    rig.unmap(BASE, 1, iova);
    let known: Vec<_> = rig.engine.costs().known().collect();
    assert_eq!(known, [("map_entry_ns", SLOW)]);
}
