// SPDX-License-Identifier: GPL-2.0

//! Spans, blocks of guest RAM, and the windows that the policies propose.

use super::host::span;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    GRANULE,
    PAGE, //
};
use crate::engine::budget::Room;
use crate::engine::policy::{
    smallest,
    Adaptive,
    Policy,
    View, //
};
use crate::engine::ram::Ram;
use crate::sys::{
    Alloc,
    BoxedSlice, //
};
use proptest::prelude::*;

fn any_span() -> impl Strategy<Value = GpaSpan> {
    let start = prop_oneof![0u64..0x10_0000, any::<u64>(), u64::MAX - 0x10_0000..];
    let len = prop_oneof![1u64..0x10_0000, any::<u64>()];
    (start, len).prop_filter_map("a span", |(start, len)| GpaSpan::new(Gpa::new(start), len))
}

#[test]
fn spans_are_not_empty_and_do_not_wrap() {
    assert!(GpaSpan::new(Gpa::new(5), 0).is_none());
    assert!(GpaSpan::new(Gpa::new(u64::MAX), 1).is_none());
    assert!(GpaSpan::new(Gpa::new(u64::MAX - 1), 1).is_some());
    assert!(GpaSpan::new(Gpa::new(0), u64::MAX).is_some());
    assert!(GpaSpan::from_bounds(5, 5).is_none());
    assert!(GpaSpan::from_bounds(6, 5).is_none());
}

#[test]
fn a_block_must_cover_the_span() {
    let blocks = [
        span(0x1000, 0x1000),
        span(0x2000, 0x1000),
        span(0x8000, 0x100),
    ];
    let ram = Ram::new(BoxedSlice::new(3, Alloc::Sleep, |i| blocks[i]).expect("memory"));
    let at = |start, len| ram.block_of(&span(start, len)).copied();
    assert_eq!(at(0x1000, 0x1000), Some(blocks[0]));
    assert_eq!(at(0x1fff, 1), Some(blocks[0]));
    assert_eq!(at(0x2000, 1), Some(blocks[1]));
    assert_eq!(at(0x80ff, 1), Some(blocks[2]));
    // Before, between, behind, over an edge, and over two blocks that touch.
    for (start, len) in [
        (0, 1),
        (0xfff, 2),
        (0x3000, 1),
        (0x7fff, 2),
        (0x80ff, 2),
        (0x8100, 1),
        (0x1fff, 2),
    ] {
        assert_eq!(at(start, len), None, "{start:#x}");
    }
    let empty = Ram::new(BoxedSlice::new(0, Alloc::Sleep, |_| blocks[0]).expect("memory"));
    assert_eq!(empty.block_of(&blocks[0]), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn span_arithmetic(a in any_span(), b in any_span(), shift in 0u32..40) {
        let (start, end) = (u128::from(a.start().raw()), u128::from(a.end()));
        let (other, other_end) = (u128::from(b.start().raw()), u128::from(b.end()));
        prop_assert_eq!(u128::from(a.len()), end - start);
        prop_assert_eq!(a.covers(&b), start <= other && other_end <= end);
        let common = start.max(other)..end.min(other_end);
        prop_assert_eq!(a.overlaps(&b), !common.is_empty());
        prop_assert_eq!(
            a.intersection(&b).map(|s| (u128::from(s.start().raw()), u128::from(s.end()))),
            (!common.is_empty()).then_some((common.start, common.end))
        );
        prop_assert_eq!(
            a.offset_of(&b),
            a.covers(&b).then(|| b.start().raw() - a.start().raw())
        );
        prop_assert_eq!(u128::from(a.granules()), end.div_ceil(0x4000) - start / 0x4000);

        let block = 1u128 << shift;
        let out = end.div_ceil(block) * block;
        match a.round_out(1 << shift) {
            Some(r) => {
                prop_assert_eq!(u128::from(r.start().raw()), start / block * block);
                prop_assert_eq!(u128::from(r.end()), out);
            }
            None => prop_assert!(out > u128::from(u64::MAX)),
        }
    }

    #[test]
    fn the_smallest_window_has_the_granules_of_the_request(
        block_start in 0u64..1 << 20,
        pages in 1u64..1 << 12,
        at: u64,
        len: u64,
    ) {
        let block = span(block_start * PAGE, pages * PAGE);
        let start = at % block.len();
        let request = span(block.start().raw() + start, 1 + len % (block.len() - start));

        let small = smallest(&request, Some(&block)).expect("it is in the block");
        prop_assert!(small.span.covers(&request) && block.covers(&small.span));
        prop_assert!(!small.tile);
        prop_assert_eq!(small.span.granules(), request.granules());

    }

    #[test]
    fn windows_grow_with_their_cluster(
        block_start in 0u64..1 << 8,
        pages in 1u64..1 << 10,
        at: u64,
        len in prop_oneof![1u64..0x4000, 1u64..0x10_0000],
        shift in 0u32..24,
        mapped in proptest::collection::hash_map(0u64..0x140, 1u64..16, 0..40),
        bytes_left in 0u64..100,
        entries_left in 0u64..100,
    ) {
        let block = span(block_start * PAGE, pages * PAGE);
        let start = at % block.len();
        let request = span(
            block.start().raw() + start,
            1 + (len - 1) % (block.len() - start),
        );
        let len_at = |granule: u64| mapped.get(&granule).map(|granules| granules * GRANULE);
        let view = View {
            len_at: &len_at,
            bytes: Room { left: bytes_left, max: 100 },
            entries: Room { left: entries_left, max: 100 },
        };
        let proposal = Adaptive::new(shift)
            .propose(&request, &block, &view)
            .expect("no wrap-around");
        prop_assert!(proposal.span.covers(&request) && block.covers(&proposal.span));
        let small = smallest(&request, Some(&block)).expect("it is in the block");
        if !proposal.tile {
            prop_assert_eq!(proposal, small);
            return Ok(());
        }

        // A tile: an aligned span, cut to the block, with nothing mapped in it.
        let max = (1u64 << shift).max(GRANULE);
        let size = (0..)
            .map(|n| GRANULE << n)
            .find(|size| request.round_out(*size).is_some_and(|tile| tile.covers(&proposal.span)))
            .expect("some power of two");
        prop_assert!(size <= max);
        let tile = request.round_out(size).expect("no wrap-around");
        prop_assert_eq!(Some(proposal.span), tile.intersection(&block));
        let touched = proposal.span.first_granule()..=proposal.span.last_granule();
        prop_assert!(touched.clone().all(|granule| len_at(granule).is_none()));

        // It is larger than needed only beside windows of half its size, or if entries are short.
        let least = small.span.granules().next_power_of_two() * GRANULE;
        if size > least && tile == proposal.span {
            prop_assert!(bytes_left >= 25);
            let beside = [touched.start().checked_sub(1), Some(touched.end() + 1)]
                .into_iter()
                .flatten()
                .filter_map(len_at)
                .max();
            prop_assert!(entries_left < 25 || beside.is_some_and(|len| len >= size / 2));
        }
    }
}

#[test]
fn a_cluster_costs_few_windows() {
    // Neighbouring granules are mapped in order; `sizes` are the windows in granules.
    let block = span(0, 64 << 20);
    let mut mapped = std::collections::HashMap::new();
    let mut sizes = Vec::new();
    for granule in 0..64u64 {
        if mapped.contains_key(&granule) {
            continue;
        }
        let len_at = |granule: u64| mapped.get(&granule).copied();
        let room = Room {
            left: 100,
            max: 100,
        };
        let view = View {
            len_at: &len_at,
            bytes: room,
            entries: room,
        };
        let window = Adaptive::new(18)
            .propose(&span(granule * GRANULE, PAGE), &block, &view)
            .expect("it is in the block")
            .span;
        sizes.push(window.len() / GRANULE);
        for granule in window.first_granule()..=window.last_granule() {
            assert_eq!(mapped.insert(granule, window.len()), None);
        }
    }
    assert_eq!(sizes, [1, 1, 2, 4, 8, 16, 16, 16]);
}
