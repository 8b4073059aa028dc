// SPDX-License-Identifier: GPL-2.0

//! Limits that change while the engine is in use: what is idle beyond them goes, what is in use
//! stays, and nothing is added until there is room. `property` does so between any two steps.

use super::budgets::{
    fill,
    pool, //
};
use super::host::span;
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
use crate::addr::PAGE;
use crate::engine::budget::Limits;
use crate::engine::{
    Limit,
    MapError, //
};

const GRANULE: u64 = 16 * KIB;

/// Returns an engine whose windows are single granules.
fn rig() -> Rig {
    Rig::with_ram(
        Setup {
            policy: TestPolicy::Smallest,
            max_bytes: 8 * MIB,
            max_entries: 512,
            ..Setup::default()
        },
        &[(BASE, 64 * MIB)],
    )
}

/// Returns the start of the window with this number.
fn at(n: u64) -> u64 {
    BASE + n * 64 * KIB
}

#[test]
fn a_lower_limit_unmaps_what_is_idle_and_nothing_else() {
    for (limits, error) in [
        ((100 * GRANULE, 512), Limit::Bytes),
        ((8 * MIB, 100), Limit::Entries),
    ] {
        let rig = rig();
        let held: Vec<_> = (0..200)
            .map(|n| rig.map(at(n), 4096).expect("room"))
            .collect();
        for n in 200..500 {
            let iova = rig.map(at(n), 4096).expect("room");
            rig.unmap(at(n), 4096, iova);
        }
        assert_eq!(rig.engine.stats().usage.entries, 500);

        rig.limit(limits.0, limits.1);
        rig.check();
        assert_eq!(rig.engine.stats().usage.entries, 200, "all that is idle");
        // What is mapped can be mapped again, and rings no doorbell.
        let bells = rig.host.doorbells();
        assert_eq!(rig.map(at(0), 4096), Ok(held[0]));
        rig.unmap(at(0), 4096, held[0]);
        assert_eq!(rig.host.doorbells(), bells);
        // There is no room for anything else, while one window after the other becomes idle.
        for (n, iova) in (0..).zip(&held).take(100) {
            assert_eq!(rig.map(at(300), 4096), Err(MapError::Full(error)));
            rig.unmap(at(n), 4096, *iova);
        }
        assert_eq!(
            rig.engine.stats().usage.entries,
            101,
            "the last one is idle"
        );
        assert_eq!(rig.map(at(300), 4096), Err(MapError::Full(error)));
        rig.unmap(at(100), 4096, held[100]);
        rig.map(at(300), 4096).expect("room for one");
        assert_eq!(rig.map(at(301), 4096), Err(MapError::Full(error)));

        rig.limit(ALL, u32::MAX);
        for n in 301..500 {
            rig.map(at(n), 4096).expect("room again");
        }
        rig.release();
    }
}

#[test]
fn what_becomes_idle_beyond_the_limit_goes_by_itself() {
    let rig = rig();
    let held: Vec<_> = (0..200)
        .map(|n| rig.map(at(n), 4096).expect("room"))
        .collect();
    rig.limit(8 * MIB, 50);
    rig.check();
    for (n, iova) in (0..).zip(held) {
        rig.unmap(at(n), 4096, iova);
    }
    assert_eq!(rig.engine.stats().usage.entries, 200);
    rig.engine.trim();
    rig.check();
    let left = rig.engine.stats().usage.entries;
    assert!(left <= 50, "{left} are left");
    // A limit that is kept costs nothing.
    let bells = rig.host.doorbells();
    rig.engine.trim();
    assert_eq!(rig.host.doorbells(), bells);
    rig.release();
}

#[test]
fn a_limit_that_is_lowered_a_little_leaves_most_of_what_is_idle() {
    let rig = rig();
    for n in 0..500 {
        let iova = rig.map(at(n), 4096).expect("room");
        rig.unmap(at(n), 4096, iova);
    }
    rig.limit(8 * MIB, 499);
    assert_eq!(rig.host.look().unmap_batches, [64], "one batch is enough");
    rig.release();
}

#[test]
fn lengths_that_are_promised_fit_the_limit() {
    let rig = rig();
    assert_eq!(rig.engine.share_of_limits(), 512 * KIB);
    rig.limit(MIB + KIB, 512);
    assert_eq!(rig.engine.share_of_limits(), 128 * KIB);
    rig.limit(8 * MIB, 64);
    assert_eq!(rig.engine.share_of_limits(), 64 * KIB);
    rig.release();
}

#[test]
fn requests_as_long_as_promised_fit_beside_others() {
    for (max_bytes, max_entries) in [
        (32 * MIB, 16),
        (32 * MIB, 64),
        (32 * MIB, 256),
        (32 * MIB, 4096),
        (MIB, 4096),
        (4 * MIB, 100),
    ] {
        for strict in [false, true] {
            let setup = Setup {
                policy: TestPolicy::Adaptive(18),
                strict,
                max_bytes,
                max_entries,
                ..Setup::default()
            };
            let rig = Rig::with_ram(setup, &[(BASE, 1024 * MIB)]);
            rig.engine.reserve(16).expect("memory");
            let len = rig.engine.learn_max_len();
            // A quarter of the limits is in use for long.
            let entries = u64::from(max_entries / 4).min(max_bytes / 4 / (16 * KIB));
            for n in 0..entries {
                rig.map(BASE + n * 64 * KIB, PAGE).expect("room");
            }
            // All of its pages are far apart, and it begins and ends within a page. The next one
            // has other pages.
            let pages = len / PAGE + 1;
            for turn in 0..3 {
                let at = |n| BASE + 512 * MIB + (turn + n * 3) * 96 * KIB;
                let wants: Vec<_> = (0..pages).map(|n| (at(n), PAGE)).collect();
                let entries = list(&wants);
                let all = entries.iter();
                let result = rig.engine.map_all(all, ALL);
                assert_eq!(result, Ok(()), "{max_bytes} bytes, {max_entries} windows");
                assert!(rig.engine.unmap_all(entries.iter()).is_ok());
            }
        }
    }
}

#[test]
fn a_silent_host_is_left_alone() {
    let rig = rig();
    let iova = rig.map(at(0), 4096).expect("room");
    rig.unmap(at(0), 4096, iova);
    rig.host.look().ready = false;
    rig.limit(0, 0);
    assert_eq!(rig.engine.stats().usage.entries, 1);
    rig.host.look().ready = true;
    rig.engine.trim();
    assert_eq!(rig.engine.stats().usage.entries, 0);
    rig.release();
}

#[test]
fn limits_below_what_is_mapped_for_good_are_refused() {
    let mut rig = Rig::with_ram(
        Setup {
            max_bytes: 64 * MIB,
            ..Setup::default()
        },
        &[(BASE, 16 * MIB), (BASE + 64 * MIB, 16 * MIB)],
    );
    rig.engine.reserve(16).expect("memory");
    rig.engine.premap_ram().expect("it fits");
    let fixed = rig.engine.stats().usage;
    assert_eq!(fixed.bytes, 32 * MIB);
    let all = rig.engine.limits();
    for limits in [
        Limits {
            bytes: fixed.bytes - 1,
            ..all
        },
        Limits {
            entries: fixed.entries - 1,
            ..all
        },
    ] {
        let refused = rig.engine.set_limits(|_| limits);
        let Err(why) = refused else {
            panic!("{limits:?} is below what is mapped");
        };
        assert_eq!((why.bytes, why.entries), (fixed.bytes, fixed.entries));
        assert_eq!(rig.engine.limits(), all, "the limits stay");
    }
    let least = Limits {
        bytes: fixed.bytes,
        entries: fixed.entries,
    };
    assert_eq!(rig.engine.set_limits(|_| least), Ok(()));
    assert_eq!(rig.engine.stats().usage, fixed);
    rig.engine.release();
}

#[test]
fn what_an_engine_may_not_use_is_there_for_the_others() {
    let setup = Setup {
        policy: TestPolicy::Smallest,
        max_entries: 320,
        ..Setup::default()
    };
    let (all, ram) = (pool(), &[(BASE, 64 * MIB)]);
    let limited = Rig::with_pool(setup, ram, Some(all));
    let other = Rig::with_pool(setup, ram, Some(all));
    // A sixteenth is its own, and it may not use it.
    limited.limit(ALL, 5);
    let held = fill(&other);
    assert_eq!(held.len(), 315);
    assert_eq!(fill(&limited).len(), 5);
    // It has its own again once the other has left it.
    limited.limit(ALL, 320);
    assert_eq!(limited.engine.stats().usage.entries, 5);
    assert!(limited.engine.map(span(at(500), 4096), ALL).is_err());
    for iova in &held[..100] {
        other.unmap_page(*iova);
    }
    other.engine.make_room_for_others();
    limited.engine.make_room_for_others();
    fill(&other);
    assert_eq!(other.engine.stats().usage.entries, 300);
    fill(&limited);
    assert_eq!(limited.engine.stats().usage.entries, 20);
    // A limit above the share changes nothing for the other.
    limited.limit(ALL, 100);
    assert!(other.engine.map(span(at(900), 4096), ALL).is_err());
}
