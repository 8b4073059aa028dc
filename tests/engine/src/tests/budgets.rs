// SPDX-License-Identifier: GPL-2.0

//! The limits, and how the engine stays within them: it reclaims idle windows first, those not used
//! lately before others, many with one doorbell; then it makes windows smaller.

use super::host::{
    span,
    Placement,
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
    MIB, //
};
use crate::addr::Iova;
use crate::engine::budget::Limits;
use crate::engine::pool::Pool;
use crate::engine::{
    Limit,
    MapError, //
};
use crate::sys::Atomic;
use std::collections::BTreeSet;

/// Maps and unmaps a page in each of `windows`, in megabytes from the base.
fn touch(rig: &Rig, windows: impl IntoIterator<Item = u64>) {
    for n in windows {
        let iova = rig.map(BASE + n * MIB, 4096).expect("room");
        rig.unmap(BASE + n * MIB, 4096, iova);
    }
}

/// Returns the windows that the host has, in megabytes from the base.
fn windows(rig: &Rig) -> BTreeSet<u64> {
    let state = rig.host.look();
    state
        .mappings
        .keys()
        .map(|key| (key - BASE) / MIB)
        .collect()
}

#[test]
fn idle_windows_are_reclaimed_in_batches() {
    let rig = Rig::with_ram(
        Setup {
            max_entries: 100,
            ..Setup::default()
        },
        &[(BASE, 256 * MIB)],
    );
    touch(&rig, 0..100);
    assert_eq!(rig.host.look().unmap_doorbells, 0);
    touch(&rig, 100..164);
    assert_eq!(rig.host.look().unmap_batches, [64]);
    assert_eq!(rig.engine.stats().counters.windows_returned.get(), 64);
    assert_eq!(rig.engine.stats().usage.peak_entries, 100);
    let fewer = |limits| Limits {
        entries: 50,
        ..limits
    };
    assert!(rig.engine.set_limits(fewer).is_ok());
    let usage = rig.engine.stats().usage;
    assert!(usage.entries <= 50);
    assert_eq!(usage.peak_entries, 100);
    rig.engine.reset_peaks();
    let usage = rig.engine.stats().usage;
    assert_eq!(usage.peak_entries, usage.entries);
    assert_eq!(usage.peak_bytes, usage.bytes);
    rig.release();
}

#[test]
fn recently_used_windows_stay() {
    let rig = Rig::with_ram(
        Setup {
            max_entries: 100,
            ..Setup::default()
        },
        &[(BASE, 256 * MIB)],
    );
    touch(&rig, 0..100);
    // 64 are reclaimed; the other idle windows have not been used since.
    rig.map(BASE + 100 * MIB, 4096).expect("room");
    let idle: Vec<_> = windows(&rig).into_iter().filter(|n| *n < 100).collect();
    assert_eq!(idle.len(), 36);
    let (used, unused) = idle.split_at(10);
    touch(&rig, used.iter().copied());
    for n in 101..164 {
        rig.map(BASE + n * MIB, 4096).expect("room");
    }
    assert_eq!(rig.engine.stats().usage.entries, 100);
    rig.map(BASE + 164 * MIB, 4096).expect("room");
    let now = windows(&rig);
    for n in unused {
        assert!(!now.contains(n), "{n} was not used");
    }
    for n in used {
        assert!(now.contains(n), "{n} was used");
    }
    rig.release();
}

#[test]
fn busy_windows_stay() {
    let rig = Rig::new(Setup {
        max_entries: 10,
        ..Setup::default()
    });
    let busy = rig.map(BASE, 4096).expect("room");
    for _ in 0..3 {
        touch(&rig, 1..20);
    }
    assert!(windows(&rig).contains(&0));
    rig.unmap(BASE, 4096, busy);
    touch(&rig, 1..20);
    rig.release();
}

#[test]
fn windows_become_smaller_when_bytes_are_short() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Aligned(20),
        max_bytes: MIB + 32 * KIB,
        ..Setup::default()
    });
    let mut held = Vec::new();
    for n in 0..3 {
        let start = BASE + n * MIB;
        held.push((start, rig.map(start, 4096).expect("a smaller one fits")));
    }
    assert_eq!(rig.engine.stats().usage.bytes, MIB + 32 * KIB);
    for (start, iova) in held {
        rig.unmap(start, 4096, iova);
    }
    rig.release();
}

#[test]
fn a_list_gets_smaller_windows_as_a_whole() {
    // Three large windows do not fit, three small ones do. The windows that the list took before
    // it failed must not block its retry.
    let rig = Rig::new(Setup {
        policy: TestPolicy::Aligned(20),
        max_bytes: 2 * MIB,
        ..Setup::default()
    });
    let entries = list(&[(BASE, 4096), (BASE + MIB, 4096), (BASE + 2 * MIB, 4096)]);
    rig.map_all(&entries, ALL).expect("small windows fit");
    rig.unmap_all(&entries);
    rig.release();
}

#[test]
fn windows_across_chunks_fit_up_to_the_limits() {
    // Every window touches two chunks of the tables by its memory and two by its IOVAs, and shares
    // none of them.
    for entries in [1u32, 13, 64] {
        let rig = Rig::with_ram(
            Setup {
                policy: TestPolicy::Smallest,
                max_bytes: u64::from(entries) * 32 * KIB,
                max_entries: entries,
                placement: Placement::Identity,
                ..Setup::default()
            },
            &[(BASE, 256 * MIB)],
        );
        for n in 0..u64::from(entries) {
            let start = BASE + (2 * n + 1) * MIB - 16 * KIB;
            rig.map(start, 32 * KIB).expect("within the limits");
        }
        rig.release();
    }
}

#[test]
fn limits_count_whole_granules() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Mute,
        max_bytes: 48 * KIB,
        ..Setup::default()
    });
    rig.map(BASE + 16 * KIB - 1, 2).expect("two granules");
    assert_eq!(rig.engine.stats().usage.bytes, 32 * KIB);
    rig.map(BASE + MIB, 1).expect("one more");
    assert_eq!(rig.engine.stats().usage.bytes, 48 * KIB);
    rig.map(BASE + 2 * MIB, 1).expect_err("no more");
    rig.release();
}

#[test]
fn refusals_are_cheap_once_no_window_is_idle() {
    const WINDOWS: u64 = 12_000;
    let rig = Rig::with_ram(
        Setup {
            policy: TestPolicy::Smallest,
            max_bytes: WINDOWS * 16 * KIB,
            max_entries: 65_536,
            ..Setup::default()
        },
        &[(BASE, 512 * MIB)],
    );
    let held: Vec<_> = (0..WINDOWS)
        .map(|n| rig.engine.map(span(BASE + n * 16 * KIB, 4096), ALL))
        .map(|result| result.expect("room"))
        .collect();
    let refuse = || {
        let before = rig.host.look().looks;
        let result = rig.engine.map(span(BASE + 384 * MIB, 4096), ALL);
        assert_eq!(result, Err(MapError::Full(Limit::Bytes)));
        rig.host.look().looks - before
    };
    // The first one looks at all windows, some thousand at a time.
    assert!(refuse() > 2 * WINDOWS / 4096);
    for _ in 0..100 {
        assert_eq!(refuse(), 4, "known");
    }
    // A window that becomes idle is found at once, wherever it is.
    for (n, iova) in (0..WINDOWS).zip(&held).step_by(1000).skip(1) {
        assert_eq!(rig.engine.unmap(*iova, 4096), Ok(()));
        let before = rig.host.look().looks;
        let other = rig.engine.map(span(BASE + 256 * MIB, 4096), ALL);
        assert!(other.is_ok());
        assert!(rig.host.look().looks - before <= 8);
        // Used and idle again, and reclaimed.
        assert_eq!(rig.engine.unmap(other.expect("room"), 4096), Ok(()));
        let again = rig.engine.map(span(BASE + n * 16 * KIB, 4096), ALL);
        assert!(again.is_ok());
        assert!(refuse() <= 4);
    }
    // Several at once.
    for n in [17, 18, 10_001] {
        let iova = held[n];
        assert_eq!(rig.engine.unmap(iova, 4096), Ok(()));
    }
    let entries = list(&[0, 1, 2].map(|n| (BASE + (256 + n) * MIB, 4096)));
    rig.engine.map_all(entries.iter(), ALL).expect("room");
    assert!(refuse() > 2 * WINDOWS / 4096, "looks at all once more");
    assert!(refuse() <= 4);
}

/// Returns a new pool.
pub(crate) fn pool() -> &'static Pool {
    Box::leak(Box::new(Pool {
        bytes: Atomic::new(0),
        entries: Atomic::new(0),
        shortages: Atomic::new(0),
        engines: Atomic::new(0),
        used_bytes: Atomic::new(0),
        used_entries: Atomic::new(0),
        markers: Atomic::new(0),
        caution: Atomic::new(0),
        cautions: std::array::from_fn(|_| Atomic::new(0)),
        companion: Atomic::new(0),
    }))
}

/// Maps as many pages as there is room for, a window each. Returns the addresses.
pub(super) fn fill(rig: &Rig) -> Vec<Iova> {
    (0..)
        .map_while(|n| rig.engine.map(span(BASE + n * 64 * KIB, 4096), ALL).ok())
        .collect()
}

#[test]
fn engines_of_a_pool_stay_within_the_limits_together() {
    for (max_bytes, max_entries) in [(16 * MIB, 4096), (256 * MIB, 320)] {
        let setup = Setup {
            policy: TestPolicy::Smallest,
            max_bytes,
            max_entries,
            ..Setup::default()
        };
        let (all, pool) = (pool(), [(); 3]);
        let rigs = pool.map(|()| Rig::with_pool(setup, &[(BASE, 256 * MIB)], Some(all)));
        let used = || {
            let all = rigs.iter().map(|rig| rig.engine.stats().usage);
            let used = all.fold((0, 0), |sum, usage| {
                (sum.0 + usage.bytes, sum.1 + usage.entries)
            });
            assert!(used.0 <= max_bytes && used.1 <= max_entries, "{used:?}");
            used
        };
        let share = (max_bytes / 16 / (16 * KIB)).min(u64::from(max_entries / 16));
        let most = (max_bytes / (16 * KIB)).min(u64::from(max_entries));
        // The first takes all but what belongs to the others.
        let first = fill(&rigs[0]);
        assert_eq!(first.len() as u64, most - 2 * share);
        used();
        // The others have their own, whatever the first has.
        for rig in &rigs[1..] {
            assert_eq!(fill(rig).len() as u64, share);
            used();
        }
        assert_eq!(used().0.max(u64::from(used().1)), used().0.max(most));
        // What the first has idle is there for them, but not at once.
        for iova in first {
            rigs[0].unmap_page(iova);
        }
        let request = span(BASE + 128 * MIB, 4096);
        assert!(rigs[1].engine.map(request, ALL).is_err());
        rigs[0].engine.make_room_for_others();
        assert_eq!(rigs[0].engine.stats().usage.entries, 0);
        assert!(rigs[1].engine.map(request, ALL).is_ok());
        used();
        // Nobody lacks anything: idle windows stay.
        rigs[1].unmap_page(rigs[1].engine.map(request, ALL).expect("a hit"));
        let before = rigs[1].engine.stats();
        rigs[1].engine.make_room_for_others();
        assert_eq!(rigs[1].engine.stats().usage, before.usage);
        // An engine that ends leaves all that it had.
        for rig in rigs {
            rig.engine.release();
        }
        let alone = Rig::with_pool(setup, &[(BASE, 256 * MIB)], Some(all));
        assert_eq!(fill(&alone).len() as u64, most);
    }
}

#[test]
fn an_engine_that_comes_late_gets_its_share_in_the_end() {
    let setup = Setup {
        policy: TestPolicy::Smallest,
        max_entries: 320,
        ..Setup::default()
    };
    let all = pool();
    let ram = &[(BASE, 64 * MIB)];
    let first = Rig::with_pool(setup, ram, Some(all));
    let held = fill(&first);
    assert_eq!(held.len(), 320);
    let late = Rig::with_pool(setup, ram, Some(all));
    assert!(fill(&late).is_empty());
    for iova in &held[..30] {
        first.unmap_page(*iova);
    }
    first.engine.make_room_for_others();
    late.engine.make_room_for_others();
    // The first cannot have what is the other's own now.
    fill(&first);
    assert_eq!(first.engine.stats().usage.entries, 300);
    assert_eq!(fill(&late).len(), 20);
}

#[test]
fn lost_windows_of_an_engine_that_ended_count() {
    let setup = Setup {
        policy: TestPolicy::Smallest,
        max_entries: 32,
        ..Setup::default()
    };
    let all = pool();
    let rig = Rig::with_pool(setup, &[(BASE, 64 * MIB)], Some(all));
    for iova in fill(&rig) {
        rig.unmap_page(iova);
    }
    rig.host.look().unmap_faults = vec![UnmapFault::SilentKept; 200].into();
    assert_eq!(rig.engine.release().lost, 32);
    drop(rig);
    let next = Rig::with_pool(setup, &[(BASE, 64 * MIB)], Some(all));
    assert!(fill(&next).is_empty(), "the platform may have them all");
}
