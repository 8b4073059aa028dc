// SPDX-License-Identifier: GPL-2.0

//! Memory that is added and removed, and windows that are reclaimed by age.

use super::host::{
    span,
    UnmapFault, //
};
use super::rig::{
    Rig,
    Setup,
    TestPolicy,
    BASE,
    KIB,
    MIB, //
};
use crate::addr::Address;
use crate::engine::ram::Ram;
use crate::sys::{
    Alloc,
    BoxedSlice, //
};

fn ram(blocks: &[(u64, u64)]) -> Ram {
    let blocks = BoxedSlice::new(blocks.len(), Alloc::Sleep, |i| {
        span(blocks[i].0, blocks[i].1)
    });
    Ram::new(blocks.expect("memory"))
}

fn keys(rig: &Rig) -> Vec<(u64, u64)> {
    let state = rig.host.look();
    let spans = state.mappings.values().map(|m| m.span);
    spans.map(|s| (s.start().raw(), s.len())).collect()
}

#[test]
fn windows_follow_memory() {
    let rig = Rig::new(Setup::default());
    // The engine knows the first 2 MiB and 32 KiB; the rest is RAM to the host only.
    rig.engine.set_ram(ram(&[(BASE, 2 * MIB + 32 * KIB)]));
    rig.map(BASE + 2 * MIB, 4 * KIB).expect("room");
    assert_eq!(keys(&rig), [(BASE + 2 * MIB, 32 * KIB)], "cut off");
    // In unknown memory a window has the pages of its request.
    rig.map(BASE + 3 * MIB + 8 * KIB, 4 * KIB).expect("room");
    assert_eq!(
        keys(&rig).last(),
        Some(&(BASE + 3 * MIB + 8 * KIB, 4 * KIB))
    );
    // Once the engine knows the memory windows are as usual.
    rig.engine.set_ram(ram(&[(BASE, 8 * MIB)]));
    rig.map(BASE + 4 * MIB + 8 * KIB, 4 * KIB).expect("room");
    assert_eq!(keys(&rig).last(), Some(&(BASE + 4 * MIB, 256 * KIB)));
    rig.release();
}

#[test]
fn removing_memory_unmaps_its_idle_windows() {
    let rig = Rig::new(Setup::default());
    for n in 0..4 {
        let iova = rig.map(BASE + n * MIB, 4 * KIB).expect("room");
        if n != 2 {
            rig.unmap(BASE + n * MIB, 4 * KIB, iova);
        }
    }
    assert_eq!(rig.engine.evict(&span(BASE + MIB, 2 * MIB)), 1);
    let left: Vec<_> = keys(&rig).iter().map(|(start, _)| *start).collect();
    assert_eq!(left, [BASE, BASE + 2 * MIB, BASE + 3 * MIB]);
    assert_eq!(rig.engine.evict(&span(BASE + 64 * MIB, MIB)), 0);
    rig.release();
}

#[test]
fn a_window_in_use_does_not_serve_what_replaces_its_memory() {
    for strict in [false, true] {
        // One window, of which a part is removed.
        let rig = Rig::new(Setup {
            strict,
            ..Setup::default()
        });
        let (used, gone) = (BASE + 192 * KIB, BASE + 64 * KIB);
        let held = rig.map(used, 4 * KIB).expect("room");
        assert_eq!(keys(&rig), [(BASE, 256 * KIB)]);
        assert_eq!(
            rig.engine.evict(&span(BASE, 128 * KIB)),
            0,
            "no bug of a driver"
        );
        // The memory is back: another module, perhaps.
        let doorbells = rig.host.doorbells();
        let new = rig.map(gone, 4 * KIB).expect("room");
        assert_eq!(rig.host.doorbells(), doorbells + 1, "a new mapping");
        assert!(!(held.raw() - 192 * KIB..held.raw() + 64 * KIB).contains(&new.raw()));
        rig.unmap(gone, 4 * KIB, new);
        rig.unmap(used, 4 * KIB, held);
        rig.release();
    }
}

#[test]
fn regions_of_the_static_map_stay() {
    let mut rig = Rig::new(Setup {
        max_bytes: 256 * MIB,
        ..Setup::default()
    });
    rig.engine.reserve(8).expect("memory");
    assert!(!rig.engine.is_fixed(&span(BASE, 1)));
    rig.engine.premap_ram().expect("room");
    assert!(rig.engine.is_fixed(&span(BASE, 1)));
    assert!(!rig.engine.is_fixed(&span(BASE + 64 * MIB, MIB)));
    // Neither removal of memory nor age unmaps it.
    assert_eq!(rig.engine.evict(&span(BASE, 64 * MIB)), 0);
    rig.engine.age();
    rig.engine.age();
    assert_eq!(keys(&rig).len(), 3);
    rig.release();
}

#[test]
fn unused_windows_are_reclaimed_by_age() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        max_entries: 200,
        ..Setup::default()
    });
    let start = |n: u64| BASE + n * 64 * KIB;
    for n in 0..150 {
        let iova = rig.map(start(n), 4 * KIB).expect("room");
        // One stays in use, whatever its age.
        if n != 7 {
            rig.unmap(start(n), 4 * KIB, iova);
        }
    }
    let doorbells = rig.host.doorbells();
    rig.engine.age();
    assert_eq!(rig.host.doorbells(), doorbells, "all were used lately");
    // Some are used again now.
    for n in 20..30 {
        let iova = rig.map(start(n), 4 * KIB).expect("a hit");
        rig.unmap(start(n), 4 * KIB, iova);
    }
    rig.engine.age();
    assert_eq!(keys(&rig).len(), 11);
    assert_eq!(rig.engine.stats().counters.windows_aged.get(), 139);
    // In batches.
    assert_eq!(rig.host.look().unmap_batches, [64, 64, 11]);
    rig.engine.age();
    assert_eq!(keys(&rig), [(start(7), 16 * KIB)]);
    rig.release();
}

#[test]
fn age_does_not_retry_lost_windows() {
    let rig = Rig::new(Setup::default());
    let iova = rig.map(BASE, 4 * KIB).expect("room");
    rig.unmap(BASE, 4 * KIB, iova);
    rig.host
        .look()
        .unmap_faults
        .push_back(UnmapFault::SilentKept);
    for _ in 0..5 {
        rig.engine.age();
    }
    assert_eq!(rig.host.look().unmap_doorbells, 1);
    assert_eq!(rig.engine.stats().counters.windows_lost.get(), 1);
    rig.release();
}
