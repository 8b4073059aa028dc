// SPDX-License-Identifier: GPL-2.0

//! The pressure on the limits: it counts what cannot be had, and not what is idle. [`Rig`] computes
//! it anew after every step of every test.

use super::budgets::pool;
use super::rig::{
    Rig,
    Setup,
    TestPolicy,
    BASE,
    KIB,
    MIB, //
};
use crate::addr::Iova;
use crate::engine::pool::Pool;
use crate::engine::Pressure;

const GRANULE: u64 = 16 * KIB;

/// Returns an engine whose windows are single granules, of which the limits allow 64.
fn rig(max_bytes: u64, max_entries: u32, pool: Option<&'static Pool>, id: u64) -> Rig {
    let setup = Setup {
        policy: TestPolicy::Smallest,
        max_bytes,
        max_entries,
        id,
        ..Setup::default()
    };
    Rig::with_pool(setup, &[(BASE, 64 * MIB)], pool)
}

/// Returns the start of the window with this number.
fn at(n: u64) -> u64 {
    BASE + n * 64 * KIB
}

/// Maps the windows of these numbers.
fn map(rig: &Rig, windows: impl Iterator<Item = u64>) -> Vec<(u64, Iova)> {
    windows
        .map(|n| (n, rig.map(at(n), 4096).expect("room")))
        .collect()
}

fn unmap(rig: &Rig, windows: &[(u64, Iova)]) {
    for (n, iova) in windows {
        rig.unmap(at(*n), 4096, *iova);
    }
}

#[test]
fn pressure_rises_as_windows_are_used_and_falls_when_they_are_idle() {
    for (max_bytes, max_entries) in [(64 * GRANULE, 1000), (64 * MIB, 64)] {
        let rig = rig(max_bytes, max_entries, None, 1);
        let mut held = map(&rig, 0..48);
        assert_eq!(rig.engine.pressure(), Pressure::None);
        held.extend(map(&rig, 48..49));
        assert_eq!(rig.engine.pressure(), Pressure::Medium);
        held.extend(map(&rig, 49..60));
        assert_eq!(rig.engine.pressure(), Pressure::Medium);
        held.extend(map(&rig, 60..61));
        assert_eq!(rig.engine.pressure(), Pressure::Critical);
        held.extend(map(&rig, 61..64));
        assert!(rig.map(at(64), 4096).is_err());
        assert_eq!(rig.engine.pressure(), Pressure::Critical);

        // The windows stay, and are available.
        unmap(&rig, &held.split_off(56));
        assert_eq!(rig.engine.stats().usage.entries, 64);
        assert_eq!(rig.engine.pressure(), Pressure::Medium);
        unmap(&rig, &held);
        assert_eq!(rig.engine.stats().usage.entries, 64);
        assert_eq!(rig.engine.pressure(), Pressure::None);
        rig.release();
    }
}

#[test]
fn idle_windows_beyond_a_lower_limit_are_not_available() {
    let rig = rig(64 * GRANULE, 1000, None, 1);
    let held = map(&rig, 0..40);
    rig.limit(20 * GRANULE, 1000);
    assert_eq!(rig.engine.pressure(), Pressure::Critical);
    // Half of what is in use becomes idle; no more than the limit is in use then, and no less.
    unmap(&rig, &held[..20]);
    assert_eq!(rig.engine.available().bytes.left, 0);
    unmap(&rig, &held[20..25]);
    assert_eq!(rig.engine.available().bytes.left, 5 * GRANULE);
    assert_eq!(rig.engine.pressure(), Pressure::None);
    unmap(&rig, &held[25..]);
    rig.release();
}

#[test]
fn windows_of_others_are_not_available() {
    let pool = Some(pool());
    let one = rig(64 * GRANULE, 1000, pool, 1);
    let other = rig(64 * GRANULE, 1000, pool, 2);
    let mut held = map(&one, 0..40);
    assert_eq!(one.engine.pressure(), Pressure::None);
    assert_eq!(other.engine.pressure(), Pressure::None);
    held.extend(map(&one, 40..52));
    // Four granules are the other's share.
    assert_eq!(one.engine.available().bytes.left, 8 * GRANULE);
    assert_eq!(one.engine.pressure(), Pressure::Medium);
    assert_eq!(other.engine.pressure(), Pressure::Medium);
    assert_eq!(other.engine.available().bytes.left, 12 * GRANULE);
    // What is idle goes to the other when it needs it.
    unmap(&one, &held);
    assert_eq!(one.engine.pressure(), Pressure::None);
    assert_eq!(other.engine.pressure(), Pressure::Medium);
    let _ = map(&other, 0..12);
    assert!(other.map(at(12), 4096).is_err());
    one.engine.make_room_for_others();
    assert_eq!(other.engine.available().bytes.left, 48 * GRANULE);
    one.release();
    other.release();
}
