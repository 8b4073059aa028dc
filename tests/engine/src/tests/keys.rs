// SPDX-License-Identifier: GPL-2.0

//! Keys: each window has its own, and an earlier kernel may have left some in use.

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
    KIB,
    MIB,
    RAM, //
};
use crate::addr::GRANULE;
use crate::engine::{
    HostError,
    MapError, //
};

#[test]
fn a_window_whose_key_is_taken_begins_elsewhere() {
    for strict in [false, true] {
        let rig = Rig::new(Setup {
            policy: TestPolicy::Smallest,
            strict,
            ..Setup::default()
        });
        // Windows that begin in the same granule, each longer than the one before.
        let start = BASE + MIB;
        let mut held = Vec::new();
        for n in 1..40 {
            let len = n * 16 * KIB;
            held.push((len, rig.map(start, len).expect("a key")));
        }
        let state = rig.host.look();
        assert_eq!(state.mappings.len(), 39);
        assert!(state
            .mappings
            .values()
            .all(|m| m.span.covers(&span(start, 1))));
        drop(state);
        for (len, iova) in held {
            rig.unmap(start, len, iova);
        }
        assert_eq!(rig.host.look().mappings.is_empty(), strict);
        rig.release();
    }
}

#[test]
fn stale_mappings_are_unmapped() {
    for policy in [TestPolicy::Smallest, TestPolicy::Aligned(18)] {
        let rig = Rig::new(Setup {
            policy,
            // Once one is found, not all of it is used.
            max_bytes: 256 * MIB,
            max_entries: 4096,
            ..Setup::default()
        });
        for n in 0..10 {
            // Mappings of any size.
            rig.host
                .look()
                .leave_stale(&span(BASE + n * MIB, (n + 1) * 4096));
        }
        let entries: Vec<_> = (0..20).map(|n| (BASE + n * MIB, 4096)).collect();
        let entries = list(&entries);
        rig.map_all(&entries, ALL).expect("they do not block it");
        assert_eq!(rig.host.look().stale(), 0);
        assert_eq!(rig.engine.stats().counters.windows_stale.get(), 10);
        assert_eq!(
            rig.host_errors(HostError::Refused),
            20,
            "ten of them, tried twice"
        );
        // The misses, the refused ones in small windows, the stale mappings, and the retry.
        assert_eq!(rig.host.doorbells(), 4);
        rig.unmap_all(&entries);
        rig.release();
    }
}

#[test]
fn stale_mappings_may_outnumber_a_batch() {
    let rig = Rig::new(Setup {
        batch_max: 3,
        max_entries: 4096,
        ..Setup::default()
    });
    for n in 0..10 {
        rig.host.look().leave_stale(&span(BASE + n * MIB, 4096));
    }
    let entries: Vec<_> = (0..10).map(|n| (BASE + n * MIB, 4096)).collect();
    rig.map_all(&list(&entries), ALL)
        .expect("they do not block it");
    assert_eq!(rig.host.look().stale(), 0);
    rig.release();
}

#[test]
fn a_stale_mapping_that_stays_fails_the_request() {
    // The host does not unmap the stale mapping: the request fails, and the engine still works.
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        ..Setup::default()
    });
    rig.host.look().leave_stale(&span(BASE + MIB, 4096));
    rig.host.look().unmap_faults.extend([UnmapFault::Refuse; 4]);
    assert_eq!(rig.map(BASE + MIB, 4096), Err(MapError::Refused));
    assert_eq!(rig.engine.stats().counters.windows_stale.get(), 0);
    assert_eq!(rig.engine.stats().usage.entries, 0);
    rig.map(BASE + 2 * MIB, 4096)
        .expect("another has a key of its own");
    rig.host.look().unmap_faults.clear();
    rig.map(BASE + MIB, 4096).expect("now it is unmapped");
    assert_eq!(rig.engine.stats().counters.windows_stale.get(), 1);
    rig.release();
}

#[test]
fn the_scan_for_stale_mappings_makes_room() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        batch_max: 7,
        ..Setup::default()
    });
    // None of them has a key that is needed, but together they are all that the host can hold.
    let (first, second) = (RAM[0].0, RAM[1].0);
    let left = [
        first,
        first + RAM[0].1 - GRANULE,
        second,
        (second | (GRANULE - 1)) + 1,
        (second + RAM[1].1 - 1) & !(GRANULE - 1),
        BASE + 7 * MIB,
        // Begins at a page since the granule's key was taken.
        BASE + 9 * MIB + 4096,
    ];
    for start in left {
        rig.host.look().leave_stale(&span(start, 4096));
    }
    assert!(!rig.engine.search_stale(), "no sign of any yet");
    assert_eq!(rig.host.doorbells(), 0);

    let own = BASE + 5 * MIB;
    rig.map(own, 4096).expect("there is room");
    rig.host.look().max_entries = left.len() + 1;
    assert_eq!(rig.map(BASE + MIB, 4096), Err(MapError::Refused));
    rig.host.look().accepts_unknown_keys = true;
    while rig.engine.search_stale() {}
    assert_eq!(rig.host.look().stale(), 0);
    assert_eq!(
        rig.engine.stats().counters.windows_stale.get(),
        left.len() as u64
    );
    assert_eq!(
        rig.engine.stats().usage.entries,
        1,
        "the engine's own window stays"
    );
    rig.map(BASE + MIB, 4096).expect("there is room again");

    // There is one scan only.
    let doorbells = rig.host.doorbells();
    rig.host.look().max_entries = 2;
    assert_eq!(rig.map(BASE + 2 * MIB, 4096), Err(MapError::Refused));
    assert!(rig.host.doorbells() > doorbells);
    assert!(!rig.engine.search_stale());
    rig.release();
}

/// Creates a rig whose host is full with stale mappings at `left`, of which the engine has a sign.
fn full_of(left: &[u64]) -> Rig {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        batch_max: 7,
        ..Setup::default()
    });
    for &start in left {
        rig.host.look().leave_stale(&span(start, 4096));
    }
    rig.host.look().max_entries = left.len();
    assert_eq!(rig.map(BASE + MIB, 4096), Err(MapError::Refused));
    rig.host.look().accepts_unknown_keys = true;
    rig
}

#[test]
fn the_scan_retries_a_batch_without_a_reply() {
    let left = [RAM[0].0, RAM[0].0 + 20 * GRANULE, RAM[1].0];
    for fault in [UnmapFault::SilentKept, UnmapFault::SilentGone] {
        let rig = full_of(&left);
        // All of the first batch, and then a part of it.
        rig.host.look().unmap_faults.extend([fault; 7 + 3]);
        for _ in 0..2 {
            assert!(!rig.engine.search_stale(), "not retried at once");
        }
        assert_eq!(
            rig.host
                .look()
                .unmap_batches
                .iter()
                .rev()
                .take(2)
                .sum::<usize>(),
            14
        );
        while rig.engine.search_stale() {}
        assert_eq!(rig.host.look().stale(), 0);
        rig.release();
    }
}

#[test]
fn the_scan_skips_keys_that_never_get_a_reply() {
    let left = [RAM[0].0, RAM[0].0 + 20 * GRANULE, RAM[1].0];
    let rig = full_of(&left);
    // The first two batches with all their retries.
    let silent = [UnmapFault::SilentKept; 2 * 7 * (1 + 8)];
    rig.host.look().unmap_faults.extend(silent);
    for _ in 0..2 {
        for _ in 0..8 {
            assert!(!rig.engine.search_stale());
        }
        assert!(rig.engine.search_stale(), "the scan continues");
    }
    while rig.engine.search_stale() {}
    assert!(rig.host.look().unmap_faults.is_empty());
    assert_eq!(rig.host.look().stale(), 1);
    assert_eq!(rig.engine.stats().counters.windows_stale.get(), 2);
    rig.map(BASE + MIB, 4096).expect("there is room");
    rig.release();
}
