// SPDX-License-Identifier: GPL-2.0

//! The static map of guest RAM: it takes few doorbells, then none; it is made completely or not at
//! all; and windows serve what its regions do not.

use super::host::{
    span,
    MapFault,
    Placement,
    UnmapFault, //
};
use super::rig::{
    list,
    order,
    Rig,
    Setup,
    ALL,
    BASE,
    GIB,
    KIB,
    LARGE,
    MIB,
    RAM, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE, //
};
use crate::engine::static_map::{
    Adjacency,
    Region,
    MAX_REGIONS, //
};
use crate::engine::{
    Limit,
    MapError,
    ReplyError, //
};

fn roomy() -> Setup {
    Setup {
        max_bytes: 256 * MIB,
        ..Setup::default()
    }
}

/// Creates an engine whose tables have room for a few regions.
fn ready(setup: Setup) -> Rig {
    ready_with(setup, RAM)
}

fn ready_with(setup: Setup, ram: &[(u64, u64)]) -> Rig {
    let rig = Rig::with_ram(setup, ram);
    rig.engine
        .reserve(setup.max_entries.min(64) as usize)
        .expect("memory");
    rig
}

/// Releases the engine and checks that the host has nothing left.
fn end(rig: Rig) {
    rig.host.look().held.clear();
    let released = rig.engine.release();
    assert_eq!((released.busy, released.lost), (0, 0));
    assert!(rig.host.look().mappings.is_empty());
}

#[test]
fn each_block_gets_a_region() {
    for &ram in LARGE.iter().chain([&RAM]) {
        let regions: u64 = ram.iter().map(|&(_, len)| len.div_ceil(2 * GIB)).sum();
        let mut rig = ready_with(
            Setup {
                max_bytes: 256 * GIB,
                ..Setup::default()
            },
            ram,
        );
        rig.host.look().iovas = 0x8000_0000 / GRANULE..(1 << 48) / GRANULE;
        let mapped = rig.engine.premap_ram();
        if regions > MAX_REGIONS as u64 {
            assert_eq!(mapped, Err(MapError::Full(Limit::Entries)), "{ram:x?}");
            assert!(rig.host.look().mappings.is_empty());
            end(rig);
            continue;
        }
        assert_eq!(mapped, Ok(()), "{ram:x?}");
        assert_eq!(rig.host.look().mappings.len() as u64, regions);
        let doorbells = rig.host.doorbells();
        for &(start, len) in ram {
            for (at, len) in [
                (0, 1),
                (0, len.min(2 * GIB)),
                (len - 6, 6),
                (4096, 4096),
                ((len - 1) & !(2 * GIB - 1), 1),
            ] {
                let iova = rig.map(start + at, len).expect("it is mapped");
                assert_eq!(rig.engine.translate(iova, len), Some(Gpa::new(start + at)));
                rig.unmap(start + at, len, iova);
            }
        }
        let (start, len) = ram[ram.len() - 1];
        let entries = list(&[
            (start, 1),
            (start + len - MIB, 100),
            (ram[0].0, 4096),
            (start, 1),
        ]);
        rig.map_all(&entries, ALL).expect("all are mapped");
        rig.unmap_all(&entries);
        assert_eq!(rig.host.doorbells(), doorbells);
        end(rig);
    }
}

#[test]
fn no_static_map_of_a_large_guest_within_the_usual_limits() {
    for ram in LARGE {
        let mut rig = ready_with(
            Setup {
                max_bytes: 1280 * MIB,
                max_entries: 61440,
                ..Setup::default()
            },
            ram,
        );
        let full = Err(MapError::Full(Limit::Bytes));
        assert_eq!(rig.engine.premap_ram(), full);
        assert_eq!(rig.host.doorbells(), 0, "the host is not asked");
        for &(start, len) in *ram {
            let iova = rig.map(start + len - 6, 6).expect("windows serve");
            rig.unmap(start + len - 6, 6, iova);
        }
        end(rig);
    }
}

/// Returns `count` blocks of RAM as UEFI firmware leaves them, the longest somewhere in between.
fn cut(count: u64) -> Vec<(u64, u64)> {
    let block = |n| (BASE + n * 16 * MIB, 4096 * (1 + (n * 7) % count));
    (0..count).map(block).collect()
}

#[test]
fn ram_may_be_cut_up() {
    let ram = cut(MAX_REGIONS as u64);
    let mut rig = ready_with(roomy(), &ram);
    assert_eq!(rig.engine.premap_ram(), Ok(()));
    assert_eq!(rig.host.look().mappings.len(), ram.len());
    let doorbells = rig.host.doorbells();
    for &(start, len) in &ram {
        let iova = rig.map(start, len).expect("it is mapped");
        assert_eq!(rig.engine.translate(iova, len), Some(Gpa::new(start)));
        rig.unmap(start, len, iova);
    }
    assert_eq!(rig.host.doorbells(), doorbells);
    end(rig);
}

#[test]
fn ram_may_not_be_cut_up_too_much() {
    let ram = cut(MAX_REGIONS as u64 + 1);
    let mut rig = ready_with(roomy(), &ram);
    let full = Err(MapError::Full(Limit::Entries));
    assert_eq!(rig.engine.premap_ram(), full);
    assert!(rig.host.look().mappings.is_empty());
    let iova = rig.map(ram[5].0, 4096).expect("windows serve");
    rig.unmap(ram[5].0, 4096, iova);
    rig.release();
}

fn region(gpa: u64, len: u64, iova: u64) -> Region {
    Region::new(span(gpa, len), Iova::new(iova)).expect("no overflow")
}

#[test]
fn contiguous_regions_are_joined() {
    let first = region(BASE, 4 * MIB, 0x10_0000);
    let joined = first.seam(&region(BASE + 4 * MIB, MIB, 0x10_0000 + 4 * MIB));
    let Adjacency::Joined(joined) = joined else {
        panic!("{joined:?}");
    };
    assert_eq!(joined.gpa(), span(BASE, 5 * MIB));
    assert_eq!(joined.iova().start(), Iova::new(0x10_0000));
    assert_eq!(joined.iova().len(), 5 * MIB);
    for iova in [
        0,
        0x10_0000 + 4 * MIB - 16 * KIB,
        0x10_0000 + 4 * MIB + 16 * KIB,
    ] {
        let other = first.seam(&region(BASE + 4 * MIB, MIB, iova));
        assert!(
            matches!(other, Adjacency::Discontiguous),
            "{iova:#x}: {other:?}"
        );
    }
    // A hole in RAM is a gap whatever the IOVAs are.
    for iova in [0, 0x10_0000 + 4 * MIB] {
        let gap = first.seam(&region(BASE + 4 * MIB + 4096, MIB, iova));
        assert!(matches!(gap, Adjacency::Gap), "{iova:#x}: {gap:?}");
    }
}

#[test]
fn regions_are_sorted_by_guest_address() {
    let mut rig = ready(roomy());
    assert!(rig.engine.static_map().is_none());
    rig.engine.premap_ram().expect("room");
    let static_map = rig.engine.static_map().expect("it is mapped");
    let blocks: Vec<_> = static_map
        .regions()
        .iter()
        .map(|region| (region.gpa().start().raw(), region.gpa().len()))
        .collect();
    assert_eq!(blocks, RAM);
    for region in static_map.regions() {
        assert_eq!(
            rig.engine.translate(region.iova().start(), 1),
            Some(region.gpa().start())
        );
    }
    let bytes: u64 = RAM
        .iter()
        .map(|&(start, len)| span(start, len).granules() * 16 * KIB)
        .sum();
    assert_eq!(rig.engine.ram_bytes(), bytes);
    end(rig);
}

#[test]
fn the_dma_limit_holds() {
    let mut rig = ready(roomy());
    rig.engine.premap_ram().expect("room");
    let iova = rig.map(BASE, 4096).expect("it is mapped");
    let dma_limit = iova.raw() + 4095;
    assert!(rig.map_within(span(BASE, 4096), dma_limit).is_ok());
    assert_eq!(
        rig.map_within(span(BASE, 4096), dma_limit - 1),
        Err(MapError::Unreachable(iova))
    );
    end(rig);
}

#[test]
fn no_static_map_beyond_the_limits() {
    let all: u64 = RAM.iter().map(|(_, len)| len + 16 * KIB).sum();
    for setup in [
        Setup {
            max_bytes: all,
            ..roomy()
        },
        Setup {
            max_entries: 2,
            ..roomy()
        },
        Setup {
            strict: true,
            ..roomy()
        },
    ] {
        let mut rig = ready(setup);
        assert!(matches!(rig.engine.premap_ram(), Err(MapError::Full(_))));
        assert!(rig.host.look().mappings.is_empty());
        let iova = rig.map(BASE, 4096).expect("windows serve");
        rig.unmap(BASE, 4096, iova);
        rig.release();
    }
}

#[test]
fn smaller_regions_if_the_host_refuses_large_ones() {
    let mut rig = ready(Setup {
        len_max: 40 * MIB,
        ..roomy()
    });
    assert_eq!(rig.engine.premap_ram(), Ok(()));
    assert_eq!(rig.host.look().mappings.len(), RAM.len() + 1);
    let doorbells = rig.host.doorbells();
    rig.map(BASE + 32 * MIB - 4096, 4096).expect("in the first");
    rig.map(BASE + 32 * MIB, 4096).expect("in the second");
    assert_eq!(rig.host.doorbells(), doorbells);
    // A window serves what straddles two regions, and is found again.
    let iova = rig.map(BASE + 32 * MIB - 1, 2).expect("a window");
    assert_eq!(rig.host.doorbells(), doorbells + 1);
    assert_eq!(rig.map(BASE + 32 * MIB - 1, 2), Ok(iova));
    assert_eq!(rig.host.doorbells(), doorbells + 1);
    for _ in 0..2 {
        rig.unmap(BASE + 32 * MIB - 1, 2, iova);
    }
    // A span that is not RAM in one block is still refused.
    assert_eq!(rig.map(BASE - 1, 2), Err(MapError::Refused));
    end(rig);
}

#[test]
fn stale_mappings_are_unmapped() {
    let mut rig = ready(roomy());
    for &(start, _) in RAM {
        rig.host.look().leave_stale(&span(start, 4096));
    }
    // What else there may be is found before all of RAM is mapped.
    let result = rig.engine.premap_ram();
    assert_eq!(result, Err(MapError::Full(Limit::Bytes)));
    assert_eq!(rig.host.look().mappings.len(), 1, "the last of them");
    rig.host.look().accepts_unknown_keys = true;
    rig.engine.search_stale_for(u64::MAX);
    assert_eq!(rig.engine.premap_ram(), Ok(()));
    assert_eq!(rig.host.look().stale(), 0);
    assert_eq!(rig.engine.stats().counters.windows_stale.get(), 3);
    end(rig);
}

#[test]
fn a_fault_leaves_nothing_mapped() {
    for fault in [
        MapFault::Refuse,
        MapFault::RejectMapped(ReplyError::Id),
        MapFault::SilentMapped,
        MapFault::Overlap,
        MapFault::Wrap,
    ] {
        for at in 0..RAM.len() {
            let mut rig = ready(roomy());
            {
                let mut state = rig.host.look();
                state.map_faults.extend(vec![MapFault::None; at]);
                state.map_faults.extend([fault; 100]);
            }
            assert!(rig.engine.premap_ram().is_err(), "{fault:?} at {at}");
            assert!(rig.host.look().mappings.is_empty(), "{fault:?} at {at}");
            rig.host.look().map_faults.clear();
            rig.check();
            // Nothing is at the addresses that were unmapped.
            assert_eq!(rig.engine.translate(Iova::new(0x8000_0000), 1), None);
            let iova = rig.map(BASE, 4096).expect("windows serve");
            rig.unmap(BASE, 4096, iova);
            end(rig);
        }
    }
}

#[test]
fn empty_batches_fail() {
    let mut rig = ready(Setup {
        batch_max: 0,
        ..roomy()
    });
    assert!(rig.engine.premap_ram().is_err());
    assert_eq!(rig.host.doorbells(), 0);
}

/// Memory in [`RAM`] that is mapped alone, in bounce mode.
const POOLS: [(u64, u64); 2] = [
    (BASE + MIB + 4 * KIB, 300 * KIB),
    (BASE + 2 * MIB, 256 * KIB),
];

#[test]
fn pools_are_mapped_alone() {
    // RAM would not fit.
    let setup = Setup {
        max_bytes: MIB,
        ..Setup::default()
    };
    let mut rig = ready(setup);
    let pools = POOLS.map(|(start, len)| span(start, len));
    assert_eq!(rig.engine.premap_spans(&pools), Ok(()));
    assert_eq!(rig.host.look().mappings.len(), 2);
    let static_map = rig.engine.static_map().expect("it is mapped");
    for (pool, region) in pools.iter().zip(static_map.regions()) {
        assert_eq!(region.gpa(), *pool);
        let last = GpaSpan::from_bounds(pool.end() - 1, pool.end()).expect("not empty");
        let iova = static_map.iova_of(&last).expect("it is mapped").raw();
        assert_eq!(iova, region.iova().end() - 1);
        let behind = GpaSpan::from_bounds(pool.end(), pool.end() + 1).expect("not empty");
        assert_eq!(static_map.iova_of(&behind), None);
    }
    assert!(rig.engine.is_fixed(&pools[1]));
    assert!(!rig.engine.is_fixed(&span(BASE, 4096)));
    end(rig);
}

#[test]
fn pools_are_mapped_both_or_not_at_all() {
    let pools = POOLS.map(|(start, len)| span(start, len));
    let mut rig = ready(Setup {
        max_bytes: 600 * KIB,
        ..Setup::default()
    });
    // An eighth is to spare.
    let full = Err(MapError::Full(Limit::Bytes));
    assert_eq!(rig.engine.premap_spans(&pools), full);
    assert_eq!(rig.host.doorbells(), 0);
    end(rig);
    let mut rig = ready(roomy());
    rig.host.look().map_faults.push_back(MapFault::None);
    rig.host.look().map_faults.extend([MapFault::Refuse; 100]);
    assert_eq!(rig.engine.premap_spans(&pools), Err(MapError::Refused));
    assert!(rig.host.look().mappings.is_empty());
    assert!(rig.engine.static_map().is_none());
    end(rig);
}

/// Guest RAM whose blocks are larger than what an allocation can be aligned to, and smaller.
const BLOCKS: &[(u64, u64)] = &[
    (0x4000_0000, 64 * MIB),
    (0x4800_0000 + 12 * KIB, 60 * KIB),
    (0x4900_0000, 24 * KIB),
    (0x5000_0000 + 128 * KIB, 3 * MIB),
    (0x8000_0000, 256 * MIB),
];

fn large() -> Setup {
    Setup {
        max_bytes: 512 * MIB,
        ..Setup::default()
    }
}

/// Maps allocations of all sizes all over [`BLOCKS`]; the rig checks their alignment. Returns the
/// number of those that failed for lack of an aligned IOVA.
fn allocate(rig: &Rig) -> u32 {
    let mut misaligned = 0;
    for &(start, len) in BLOCKS {
        for size in [4 * KIB, 20 * KIB, 48 * KIB, 64 * KIB, 256 * KIB, 2 * MIB] {
            let step = order(size);
            let first = start.next_multiple_of(step);
            for at in [first, first + step, (start + len) / step * step - step] {
                if at < start || at + size > start + len {
                    continue;
                }
                match rig.alloc(at, size) {
                    Ok(iova) => rig.unmap(at, size, iova),
                    Err(MapError::Misaligned) => misaligned += 1,
                    // A region has the key, and there is no memory in front.
                    Err(error) => assert_eq!((error, at), (MapError::NoKey, start)),
                }
            }
        }
    }
    misaligned
}

#[test]
fn regions_are_aligned_where_the_host_fills_free_ranges_from_one_end() {
    for placement in [Placement::Low, Placement::High] {
        for (off, guard) in [(0, 0), (1, 0), (77, 1), (128, 0), (255, 1), (3, 3)] {
            let mut rig = ready_with(large(), BLOCKS);
            {
                let mut state = rig.host.look();
                state.placement = placement;
                state.guard = guard;
                state.iovas = 0x2_0000 + off..0x8_0000 - off;
            }
            assert_eq!(rig.engine.premap_ram(), Ok(()));
            let static_map = rig.engine.static_map().expect("it is mapped");
            let misaligned = static_map.regions().iter().any(Region::is_misaligned);
            assert!(!misaligned, "{placement:?}, {off}");
            // No filler is left.
            assert_eq!(rig.host.look().mappings.len(), BLOCKS.len());
            rig.check();
            let doorbells = rig.host.doorbells();
            assert_eq!(allocate(&rig), 0);
            assert_eq!(rig.host.doorbells(), doorbells);
            end(rig);
        }
    }
}

#[test]
fn windows_serve_what_misaligned_regions_do_not() {
    let mut rig = ready_with(large(), BLOCKS);
    rig.host.look().placement = Placement::Random;
    assert_eq!(rig.engine.premap_ram(), Ok(()));
    let static_map = rig.engine.static_map().expect("it is mapped");
    assert!(static_map.regions().iter().any(Region::is_misaligned));
    // Later mappings are where chance is not needed.
    rig.host.look().placement = Placement::Low;
    assert_eq!(allocate(&rig), 0);
    // Others are served by the regions.
    let doorbells = rig.host.doorbells();
    let iova = rig.map(BASE, 2 * MIB).expect("it is mapped");
    rig.unmap(BASE, 2 * MIB, iova);
    assert_eq!(rig.host.doorbells(), doorbells);
    end(rig);
}

#[test]
fn a_fault_during_alignment_leaves_nothing_behind() {
    for fault in [
        MapFault::Refuse,
        MapFault::RejectMapped(ReplyError::Id),
        MapFault::SilentMapped,
        MapFault::Overlap,
    ] {
        for at in 0..12 {
            let mut rig = ready_with(large(), BLOCKS);
            {
                let mut state = rig.host.look();
                state.iovas = 0x2_0001..0x8_0000;
                state.map_faults.extend(vec![MapFault::None; at]);
                state.map_faults.push_back(fault);
            }
            let mapped = rig.engine.premap_ram();
            rig.check();
            let mappings = rig.host.look().mappings.len();
            let expected = if mapped.is_ok() { BLOCKS.len() } else { 0 };
            assert_eq!(mappings, expected, "{fault:?} at {at}: {mapped:?}");
            allocate(&rig);
            end(rig);
        }
    }
}

#[test]
fn a_region_that_is_not_unmapped_ends_the_static_map() {
    for fault in [UnmapFault::Refuse, UnmapFault::SilentKept] {
        for at in 0..4 {
            let mut rig = ready_with(large(), BLOCKS);
            {
                let mut state = rig.host.look();
                state.iovas = 0x2_0001..0x8_0000;
                state.unmap_faults.extend(vec![UnmapFault::None; at]);
                state.unmap_faults.push_back(fault);
            }
            let mapped = rig.engine.premap_ram();
            assert_eq!(mapped, Err(MapError::NoKey), "{fault:?} at {at}");
            rig.check();
            allocate(&rig);
            end(rig);
        }
    }
}
