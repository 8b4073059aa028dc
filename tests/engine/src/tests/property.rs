// SPDX-License-Identifier: GPL-2.0

//! Random drivers on random hosts: random steps for [`drive`](super::drive).

use super::drive::{
    run,
    Op,
    Want, //
};
use super::host::{
    span,
    MapFault,
    Placement,
    UnmapFault, //
};
use super::rig::{
    Rig,
    Setup,
    TestPolicy,
    ALL,
    GIB,
    KIB,
    LARGE,
    MIB,
    RAM, //
};
use crate::engine::{
    LargePages,
    ReplyError, //
};
use proptest::prelude::*;

/// Guest RAM.
type Layout = &'static [(u64, u64)];

/// Generates spans to map, with `ram`.
fn wants(ram: Layout) -> impl Strategy<Value = Want> {
    let len = prop_oneof![
        6 => Just(4 * KIB),
        2 => Just(16 * KIB),
        2 => Just(64 * KIB),
        3 => 1u64..100,
        3 => 1u64..600 * KIB,
        1 => Just(MIB),
        1 => Just(2 * MIB),
        1 => Just(256 * KIB),
    ];
    // Near the start of a block, where keys are scarce; near its end; close together; anywhere.
    let offset = prop_oneof![
        3 => (0u64..4).prop_map(|n| n * 1024),
        3 => 0u64..64 * KIB,
        6 => (0u64..64).prop_map(|n| n * 4 * KIB),
        3 => (0u64..64).prop_map(|n| n * 252 * KIB + 512),
        3 => (0u64..64).prop_map(|n| n * 64 * KIB),
        1 => (0u64..8).prop_map(|n| n * 2 * MIB),
        2 => 0u64..64 * MIB,
        // In every GiB of a large guest.
        4 => (0u64..128, 0u64..64).prop_map(|(gib, n)| gib * GIB + n * 4 * KIB),
    ];
    let inside = (0..ram.len(), offset, len, any::<bool>()).prop_map(
        move |(block, offset, len, from_end)| {
            let (start, block_len) = ram[block];
            let len = len.min(block_len);
            let offset = offset % (block_len - len + 1);
            Want {
                start: if from_end {
                    start + block_len - len - offset
                } else {
                    start + offset
                },
                len,
            }
        },
    );
    let outside = prop_oneof![
        // Over an edge of RAM, in a hole, below, at the end of the address space, empty, too long.
        (0..ram.len(), 1u64..8 * KIB).prop_map(move |(block, before)| Want {
            start: ram[block].0 + ram[block].1 - before,
            len: before + 1,
        }),
        (0..ram.len()).prop_map(move |block| Want {
            start: ram[block].0 - 1,
            len: 2,
        }),
        (0u64..MIB, 1u64..MIB).prop_map(|(start, len)| Want { start, len }),
        (0u64..MIB, 0u64..2 * MIB).prop_map(|(start, len)| Want {
            start: u64::MAX - start,
            len,
        }),
        any::<u64>().prop_map(|start| Want { start, len: 0 }),
        (any::<u64>(), any::<u64>()).prop_map(|(start, len)| Want { start, len }),
    ];
    let whole = (0..ram.len()).prop_map(move |block| Want {
        start: ram[block].0,
        len: ram[block].1,
    });
    prop_oneof![40 => inside, 1 => outside, 1 => whole]
}

/// Generates lists as drivers make them: scattered, with neighbours, duplicates and overlaps.
fn lists(ram: Layout) -> impl Strategy<Value = Vec<Want>> {
    let scattered = prop::collection::vec(wants(ram), 0..8);
    let near = (
        wants(ram),
        prop::collection::vec((0u64..4, 1u64..32 * KIB), 1..8),
    )
        .prop_map(|(want, steps)| {
            let mut at = want.start;
            steps
                .into_iter()
                .map(|(step, len)| {
                    let start = at;
                    at = at.saturating_add(match step {
                        // A duplicate, a neighbour, an overlap, a gap.
                        0 => 0,
                        1 => len,
                        2 => len / 2,
                        _ => len + 20 * KIB,
                    });
                    Want { start, len }
                })
                .collect()
        });
    let growing = (wants(ram), 2u64..6).prop_map(|(want, n)| {
        (1..n)
            .map(|n| Want {
                start: want.start,
                len: want.len.saturating_mul(n),
            })
            .collect()
    });
    prop_oneof![3 => scattered, 3 => near, 1 => growing]
}

/// Generates limits: few, some, or more than the engine was created with.
fn limits() -> impl Strategy<Value = (u64, u32)> {
    let bytes = prop_oneof![
        (0u64..40).prop_map(|n| n * 16 * KIB),
        0u64..4 * MIB,
        Just(ALL)
    ];
    let entries = prop_oneof![0u32..4, 0u32..100, Just(u32::MAX)];
    (bytes, entries)
}

fn dma_limits() -> impl Strategy<Value = u64> {
    prop_oneof![20 => Just(ALL), 1 => Just(0xffff_ffff), 1 => Just(0x800f_ffff)]
}

fn rejects() -> impl Strategy<Value = ReplyError> {
    prop_oneof![
        Just(ReplyError::Status),
        Just(ReplyError::Id),
        Just(ReplyError::Length),
        Just(ReplyError::Offset),
        Just(ReplyError::Range),
        Just(ReplyError::Overlap),
    ]
}

fn map_faults() -> impl Strategy<Value = MapFault> {
    prop_oneof![
        3 => Just(MapFault::None),
        2 => Just(MapFault::Refuse),
        1 => Just(MapFault::RefuseMapped),
        1 => rejects().prop_map(MapFault::RejectMapped),
        1 => rejects().prop_map(MapFault::RejectEmpty),
        1 => Just(MapFault::SilentMapped),
        1 => Just(MapFault::SilentEmpty),
        2 => Just(MapFault::Overlap),
        1 => Just(MapFault::Wrap),
    ]
}

fn unmap_faults() -> impl Strategy<Value = UnmapFault> {
    prop_oneof![
        3 => Just(UnmapFault::None),
        1 => Just(UnmapFault::Refuse),
        1 => Just(UnmapFault::SilentGone),
        1 => Just(UnmapFault::SilentKept),
    ]
}

fn ops(ram: Layout) -> impl Strategy<Value = Vec<Op>> {
    let index = any::<usize>();
    let plain = prop_oneof![
        8 => (wants(ram), dma_limits()).prop_map(|(want, dma_limit)| Op::Map(want, dma_limit)),
        4 => (lists(ram), dma_limits()).prop_map(|(list, dma_limit)| Op::MapAll(list, dma_limit)),
        4 => (wants(ram), dma_limits()).prop_map(|(want, dma_limit)| Op::Alloc(want, dma_limit)),
        4 => (wants(ram), 0u64..100_000).prop_map(|(want, us)| Op::MapOrCopy(want, us)),
        2 => index.prop_map(Op::Repeat),
        8 => index.prop_map(Op::Unmap),
        1 => (index, 1usize..4).prop_map(|(from, step)| Op::UnmapAll(from, step)),
        1 => (any::<u64>(), 0u64..MIB).prop_map(|(iova, len)| Op::Misuse(iova, len)),
        1 => wants(ram).prop_map(Op::Stale),
        1 => Just(Op::Age),
        1 => wants(ram).prop_map(Op::Evict),
        1 => limits().prop_map(|(bytes, entries)| Op::Limit(bytes, entries)),
    ];
    let faults = prop_oneof![
        3 => prop::collection::vec(map_faults(), 1..6).prop_map(Op::MapFaults),
        1 => prop::collection::vec(unmap_faults(), 1..4).prop_map(Op::UnmapFaults),
        1 => prop::option::of(1u64..5).prop_map(Op::RefuseEvery),
        1 => any::<bool>().prop_map(Op::FailAllocations),
        1 => any::<bool>().prop_map(Op::Away),
        1 => Just(Op::Retry),
    ];
    let calm = prop::collection::vec(plain.clone(), 1..60);
    let rough = prop::collection::vec(prop_oneof![6 => plain, 1 => faults], 1..60);
    prop_oneof![calm, rough]
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![3 => Just(RAM), 2 => prop::sample::select(LARGE)]
}

fn setups(ram: Layout) -> impl Strategy<Value = Setup> {
    let policy = prop_oneof![
        4 => (14u32..22).prop_map(TestPolicy::Adaptive),
        2 => (14u32..22).prop_map(TestPolicy::Aligned),
        1 => (0u32..70).prop_map(TestPolicy::Aligned),
        2 => Just(TestPolicy::Smallest),
        1 => Just(TestPolicy::Mute),
        3 => any::<u64>().prop_map(TestPolicy::Wild),
    ];
    let max_bytes = prop_oneof![
        2 => Just(128 * MIB),
        2 => 0u64..2 * MIB,
        1 => Just(MIB),
    ];
    let large_pages = prop::sample::select(
        &[
            LargePages::Ignored,
            LargePages::Preferred,
            LargePages::Expected,
        ][..],
    );
    let max_entries = prop_oneof![2 => Just(1000u32), 2 => 1u32..8, 1 => 0u32..2];
    let batch_max = prop_oneof![2 => Just(64usize), 2 => 1usize..4];
    let len_max = prop_oneof![6 => Just(u64::MAX), 1 => Just(128 * KIB)];
    let placement = prop_oneof![
        Just(Placement::Low),
        Just(Placement::High),
        Just(Placement::Random),
    ];
    // In a large guest, most of RAM has no place in the table.
    let most = if ram == RAM { 1 << 20 } else { 1 << 16 };
    let tables = prop_oneof![2 => Just(most), 1 => 0usize..2000, 1 => Just(0)];
    let entry_ns = prop::sample::select(&[0, 30_000, 3_000_000, 20_000_000][..]);
    (
        policy,
        (any::<bool>(), large_pages),
        max_bytes,
        max_entries,
        batch_max,
        len_max,
        placement,
        tables,
        entry_ns,
    )
        .prop_map(
            move |(
                policy,
                modes,
                max_bytes,
                max_entries,
                batch_max,
                len_max,
                placement,
                table_max,
                entry_ns,
            )| {
                let (strict, large_pages) = modes;
                Setup {
                    ram,
                    policy,
                    strict,
                    large_pages,
                    max_bytes,
                    max_entries,
                    batch_max,
                    len_max,
                    placement,
                    table_max,
                    entry_ns,
                    ..Setup::default()
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig {
        // As many as take seconds; PROPTEST_CASES sets more.
        cases: ProptestConfig::default().cases.saturating_mul(16),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_drivers(
        (setup, ops) in layouts().prop_flat_map(|ram| (setups(ram), ops(ram))),
        seed: u64,
        tidy: bool,
    ) {
        run(setup, seed, ops, tidy).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn a_whole_block_is_one_window_at_most() {
    let (start, len) = RAM[2];
    let rig = Rig::new(Setup {
        policy: TestPolicy::Aligned(40),
        ..Setup::default()
    });
    let iova = rig.map(start, len).expect("it fits");
    rig.map(start + 5, 6).expect("a hit");
    assert_eq!(rig.host.look().mappings.len(), 1);
    assert_eq!(rig.host.look().mappings[&start].span, span(start, len));
    rig.unmap(start, len, iova);
    rig.release();
}
