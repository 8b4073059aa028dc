// SPDX-License-Identifier: GPL-2.0

//! Doorbells: the engine rings once for all misses of a call, and not at all for hits.

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
    Iova, //
};

#[test]
fn a_hit_rings_no_doorbell() {
    let rig = Rig::new(Setup::default());
    let first = rig.map(BASE + 4096, 4096).expect("room");
    assert_eq!(rig.host.doorbells(), 1);
    // From now on the window serves all requests that it covers.
    for (offset, len) in [(0, 1), (0, 256 * KIB), (4096, 4096), (256 * KIB - 6, 6)] {
        let iova = rig.map(BASE + offset, len).expect("a hit");
        assert_eq!(iova.raw(), first.raw() - 4096 + offset);
        rig.unmap(BASE + offset, len, iova);
    }
    let entries = list(&[(BASE, 1), (BASE + 64 * KIB, 64 * KIB), (BASE, 1)]);
    rig.map_all(&entries, ALL).expect("hits");
    rig.unmap_all(&entries);
    assert_eq!(rig.host.doorbells(), 1);
    // An idle window serves, too.
    rig.unmap(BASE + 4096, 4096, first);
    assert_eq!(rig.map(BASE + 4096, 4096), Ok(first));
    assert_eq!(rig.host.doorbells(), 1);
    rig.release();
}

#[test]
fn misses_of_a_list_share_a_doorbell() {
    for policy in [TestPolicy::Aligned(18), TestPolicy::Smallest] {
        let rig = Rig::new(Setup {
            policy,
            ..Setup::default()
        });
        rig.map(BASE, 4096).expect("room");
        let entries: Vec<_> = (0..50u64).map(|n| (BASE + n * MIB, 4096)).collect();
        let entries = list(&entries);
        rig.map_all(&entries, ALL).expect("room");
        assert_eq!(rig.host.look().map_batches, [1, 49]);
        rig.unmap_all(&entries);
        rig.release();
    }
}

#[test]
fn a_long_list_fills_its_batches() {
    let rig = Rig::new(Setup {
        batch_max: 16,
        ..Setup::default()
    });
    let entries: Vec<_> = (0..50u64).map(|n| (BASE + n * MIB, 4096)).collect();
    rig.map_all(&list(&entries), ALL).expect("room");
    assert_eq!(rig.host.look().map_batches, [16, 16, 16, 2]);
    rig.release();
}

#[test]
fn requests_of_a_list_share_windows() {
    let rig = Rig::new(Setup::default());
    // Duplicates, neighbours and overlaps in two windows.
    let entries = list(&[
        (BASE, 4096),
        (BASE, 4096),
        (BASE + 4096, 4096),
        (BASE + 2048, 8192),
        (BASE + 256 * KIB, 1),
        (BASE + 255 * KIB, 1024),
    ]);
    rig.map_all(&entries, ALL).expect("room");
    assert_eq!(rig.host.look().map_batches, [2]);
    rig.unmap_all(&entries);
    rig.release();
}

#[test]
fn a_repeated_straddling_mapping_hits() {
    let rig = Rig::new(Setup::default());
    let start = BASE + 256 * KIB - 4096;
    // The two windows that it straddles exist and are found first.
    rig.map(BASE, 1).expect("room");
    rig.map(BASE + 256 * KIB, 1).expect("room");
    let iova = rig.map(start, 8192).expect("room");
    assert_eq!(rig.host.look().map_doorbells, 3);
    assert_eq!(rig.map(start, 8192), Ok(iova));
    assert_eq!(
        rig.map(start + 100, 5000).map(|i| i.raw()),
        Ok(iova.raw() + 100)
    );
    rig.unmap(start, 8192, iova);
    rig.unmap(start, 8192, iova);
    assert_eq!(rig.map(start, 8192), Ok(iova));
    assert_eq!(rig.host.doorbells(), 3);
    rig.release();
}

#[test]
fn strict_mode_unmaps_at_once() {
    let rig = Rig::new(Setup {
        strict: true,
        ..Setup::default()
    });
    let a = rig.map(BASE, 4096).expect("room");
    let b = rig.map(BASE + 4096, 4096).expect("a hit");
    rig.unmap(BASE, 4096, a);
    assert_eq!(rig.host.look().unmap_doorbells, 0);
    rig.unmap(BASE + 4096, 4096, b);
    assert_eq!(rig.host.look().unmap_doorbells, 1);
    assert!(rig.host.look().mappings.is_empty());

    // A list is unmapped with one doorbell.
    let entries: Vec<_> = (0..50u64).map(|n| (BASE + n * MIB, 4096)).collect();
    let entries = list(&entries);
    rig.map_all(&entries, ALL).expect("room");
    rig.unmap_all(&entries);
    assert_eq!(rig.host.look().map_batches, [1, 50]);
    assert_eq!(rig.host.look().unmap_batches, [1, 50]);
    rig.release();
}

#[test]
fn requests_of_one_granule_do_not_close_each_others_windows() {
    // None of the three windows serves another's request, and the same granule finds all of them.
    let rig = Rig::new(Setup {
        policy: TestPolicy::Aligned(14),
        strict: true,
        ..Setup::default()
    });
    let entries = list(&[
        (BASE + 4096, 1),
        (BASE + 4096, 12 * KIB + 1),
        (BASE + 10 * KIB, 22 * KIB + 1),
    ]);
    rig.map_all(&entries, ALL).expect("room");
    assert!(rig.host.doorbells() <= 5, "{}", rig.host.doorbells());
    rig.unmap_all(&entries);
    assert!(rig.host.look().mappings.is_empty());
    rig.release();
}

#[test]
fn lazy_mode_keeps_windows_until_the_end() {
    let rig = Rig::new(Setup {
        batch_max: 8,
        ..Setup::default()
    });
    for n in 0..20 {
        let iova = rig.map(BASE + n * MIB, 4096).expect("room");
        rig.unmap(BASE + n * MIB, 4096, iova);
    }
    assert_eq!(rig.host.look().unmap_doorbells, 0);
    let host = rig.host.clone();
    rig.release();
    assert_eq!(host.look().unmap_batches, [8, 8, 4]);
}

#[test]
fn release_reports_windows_in_use() {
    let rig = Rig::new(Setup::default());
    rig.map(BASE, 1).expect("room");
    rig.map(BASE + 1, 1).expect("a hit");
    rig.map(BASE + MIB, 1).expect("room");
    let iova = rig.map(BASE + 2 * MIB, 1).expect("room");
    rig.unmap(BASE + 2 * MIB, 1, iova);
    rig.host.look().held.clear();
    let released = rig.engine.release();
    assert_eq!((released.busy, released.lost), (2, 0));
    assert!(rig.host.look().mappings.is_empty());
    // A second release is harmless, and finds nothing.
    let doorbells = rig.host.doorbells();
    let released = rig.engine.release();
    assert_eq!((released.busy, released.lost), (0, 0));
    assert_eq!(rig.host.doorbells(), doorbells);
    assert!(rig.engine.unmap(iova, 1).is_err());
}

#[test]
fn translation_has_byte_granularity() {
    for placement in [
        Placement::Low,
        Placement::High,
        Placement::Random,
        Placement::Identity,
    ] {
        let rig = Rig::new(Setup {
            placement,
            ..Setup::default()
        });
        let iova = rig.map(BASE + 12345, 6).expect("room");
        let at = |offset: i64, len| {
            let iova = iova.raw().wrapping_add_signed(offset);
            rig.engine.translate(Iova::new(iova), len)
        };
        assert_eq!(at(0, 6), Some(Gpa::new(BASE + 12345)));
        assert_eq!(at(5, 1), Some(Gpa::new(BASE + 12350)));
        assert_eq!(at(-12345, 256 * KIB), Some(Gpa::new(BASE)));
        assert_eq!(at(-12345, 256 * KIB + 1), None);
        assert_eq!(at(-12346, 1), None);
        assert_eq!(at(0, 0), None);
        rig.unmap(BASE + 12345, 6, iova);
        rig.release();
    }
}

#[test]
fn the_batch_has_the_span_of_the_window() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        ..Setup::default()
    });
    rig.map(BASE + 20 * KIB, 1).expect("room");
    let state = rig.host.look();
    let spans: Vec<_> = state.mappings.values().map(|m| m.span).collect();
    assert_eq!(spans, [span(BASE + 16 * KIB, 16 * KIB)]);
}
