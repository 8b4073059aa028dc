// SPDX-License-Identifier: GPL-2.0

//! The end of an engine, whatever drivers still do: nothing that is not mapped is handed out, and
//! nothing is unmapped twice.

use super::host::span;
use super::rig::{
    list,
    Rig,
    Setup,
    ALL,
    BASE,
    KIB,
    MIB, //
};
use crate::engine::MapError;
use crate::sys::Stopwatch;

/// Checks that `rig`, whose engine was released, maps nothing and sends nothing.
#[track_caller]
fn check_closed(rig: &Rig) {
    let doorbells = rig.host.doorbells();
    let request = span(BASE, 4 * KIB);
    assert_eq!(rig.engine.map_at_once(&request, ALL), None);
    assert_eq!(rig.engine.map_hit(&request, ALL), None);
    assert_eq!(rig.engine.map(request, ALL), Err(MapError::Closed));
    let entries = list(&[(BASE, 4 * KIB), (BASE + MIB, 4 * KIB)]);
    assert_eq!(
        rig.engine.map_all(entries.iter(), ALL),
        Err(MapError::Closed)
    );
    rig.engine.age();
    rig.engine.retry_lost();
    assert!(!rig.engine.search_stale());
    assert_eq!(rig.engine.release().busy, 0, "once more");
    assert_eq!(rig.host.doorbells(), doorbells, "no request");
    assert!(rig.host.look().mappings.is_empty());
}

#[test]
fn a_released_engine_maps_nothing() {
    for strict in [false, true] {
        let rig = Rig::new(Setup {
            strict,
            ..Setup::default()
        });
        rig.map(BASE, 4 * KIB).expect("room");
        let idle = rig.map(BASE + MIB, 4 * KIB).expect("room");
        rig.unmap(BASE + MIB, 4 * KIB, idle);
        rig.host.look().held.clear();
        assert_eq!(rig.engine.release().busy, 1);
        check_closed(&rig);
    }
}

#[test]
fn a_released_static_map_maps_nothing() {
    let mut rig = Rig::new(Setup {
        max_bytes: 512 * MIB,
        ..Setup::default()
    });
    rig.engine.reserve(16).expect("memory");
    rig.engine.premap_ram().expect("room");
    let iova = rig.map(BASE, 4 * KIB).expect("it is mapped");
    rig.host.look().held.clear();
    rig.engine.release();
    check_closed(&rig);
    // A driver that unmaps late is not wrong.
    assert_eq!(rig.engine.unmap(iova, 4 * KIB), Ok(()));
}

#[test]
fn a_released_identity_map_maps_nothing() {
    let mut rig = Rig::new(Setup::default());
    rig.engine.set_identity().expect("memory");
    let request = span(BASE, 4 * KIB);
    assert!(rig.engine.map_at_once(&request, ALL).is_some());
    rig.engine.release();
    check_closed(&rig);
}

#[test]
fn a_panic_unmaps_all_unless_the_lock_is_held() {
    let rig = Rig::new(Setup::default());
    rig.map(BASE, 4 * KIB).expect("room");
    let idle = rig.map(BASE + MIB, 4 * KIB).expect("room");
    rig.unmap(BASE + MIB, 4 * KIB, idle);
    rig.host.look().held.clear();
    let doorbells = rig.host.doorbells();
    // Another CPU stopped in there.
    assert!(!rig.engine.with_host(|_| rig.engine.release_in_crash(1000)));
    assert_eq!(rig.host.doorbells(), doorbells);
    assert!(rig.engine.release_in_crash(1000));
    check_closed(&rig);
}

#[test]
fn a_panic_leaves_what_a_slow_host_does_not_unmap_in_time() {
    let rig = Rig::new(Setup {
        batch_max: 4,
        ..Setup::default()
    });
    for n in 0..40 {
        rig.map(BASE + n * MIB, 4 * KIB).expect("room");
    }
    rig.host.look().held.clear();
    rig.host.look().batch_ms = 300;
    let time = Stopwatch::start();
    assert!(!rig.engine.release_in_crash(1000));
    assert!(
        time.elapsed_ms() <= 1000 + 300,
        "no batch begins after that"
    );
    // The fourth began before the time was up; batches become shorter.
    let left = rig.host.look().mappings.len();
    assert!((40 - 4 * 4..40 - 4).contains(&left), "{left} are left");
    rig.host.look().batch_ms = 0;
    assert!(rig.engine.release_in_crash(1000));
    check_closed(&rig);
}
