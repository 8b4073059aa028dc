// SPDX-License-Identifier: GPL-2.0

//! Alignment of large buffers: their IOVAs are congruent to their guest addresses where the host
//! allows that, and trying costs no more than its budget elsewhere.

use super::host::{
    MapFault,
    Placement,
    UnmapFault, //
};
use super::rig::{
    list,
    order,
    Rig,
    Setup,
    TestPolicy,
    ALL,
    KIB,
    MIB, //
};
use crate::{
    addr::{
        Address,
        Iova, //
    },
    engine::{
        HostError,
        LargePages,
        MapError,
        ReplyError, //
    },
};

/// A block of RAM with room in front of [`FIRST`].
const BLOCK: &[(u64, u64)] = &[(0x8000_0000, 512 * MIB)];
const FIRST: u64 = 0x8000_0000 + 4 * MIB;

fn rig(placement: Placement) -> Rig {
    let rig = Rig::with_ram(
        Setup {
            policy: TestPolicy::Adaptive(18),
            large_pages: LargePages::Preferred,
            // So much that the budget of padding does not matter in most tests.
            max_bytes: 4096 * MIB,
            max_entries: 4096,
            placement,
            ..Setup::default()
        },
        BLOCK,
    );
    let mut state = rig.host.look();
    state.max_bytes = u64::MAX;
    state.max_entries = usize::MAX;
    // IOVAs that do not begin at a large page.
    state.iovas = 0x2_0001..0x20_0000;
    drop(state);
    rig
}

fn is_congruent(start: u64, iova: Iova, page: u64) -> bool {
    start.wrapping_sub(iova.raw()) % page == 0
}

#[test]
fn a_host_that_fills_free_ranges_from_one_end_aligns_all() {
    for placement in [Placement::Low, Placement::High] {
        let rig = rig(placement);
        // Small windows in between, so that no buffer is aligned by itself.
        for (n, len) in (0..).zip([64 * KIB, 128 * KIB, 2 * MIB, 64 * KIB, 4 * MIB]) {
            let small = FIRST + 64 * MIB + n * MIB;
            rig.map(small, 4 * KIB).expect("room");
            let start = FIRST + n * 8 * MIB;
            let iova = rig.map(start, len).expect("room");
            let page = if len >= 2 * MIB { 2 * MIB } else { 64 * KIB };
            assert!(
                is_congruent(start, iova, page),
                "{len:#x} bytes at {start:#x} are at {iova:x?} by {placement:?}"
            );
        }
        let stats = rig.engine.stats();
        assert_eq!(stats.counters.large.get(), 5);
        assert_eq!(stats.counters.congruent.get(), 5);
        rig.release();
    }
}

#[test]
fn a_run_of_buffers_needs_one_shift() {
    let rig = rig(Placement::Low);
    rig.map(FIRST + 256 * MIB, 4 * KIB).expect("room");
    let before = rig.host.doorbells();
    for n in 0..16 {
        let start = FIRST + n * 2 * MIB;
        let iova = rig.map(start, 2 * MIB).expect("room");
        assert!(is_congruent(start, iova, 2 * MIB));
    }
    // The first is mapped, unmapped, and mapped again with padding.
    assert_eq!(rig.host.doorbells() - before, 16 + 2);
    let padding = rig.engine.stats().usage.padding;
    assert!(padding != 0 && padding < 2 * MIB, "{padding:#x}");
    rig.release();
}

#[test]
fn the_addresses_of_a_lost_try_are_in_use() {
    let rig = rig(Placement::Low);
    // The first try is misaligned and the host does not unmap it. By the reply, the second is at
    // the same address.
    rig.host.look().unmap_faults.push_back(UnmapFault::Refuse);
    let faults = [MapFault::None, MapFault::Overlap];
    rig.host.look().map_faults.extend(faults);
    rig.map(FIRST, 2 * MIB).expect("the third try works");
    let stats = rig.engine.stats();
    assert_eq!(stats.counters.retries_misplaced.get(), 1);
    let overlap = HostError::Rejected(ReplyError::Overlap);
    assert_eq!(rig.host_errors(overlap), 1);
    rig.release();
}

#[test]
fn a_host_with_random_addresses_aligns_some() {
    let rig = rig(Placement::Random);
    let mut aligned = 0;
    for n in 0..200 {
        let start = FIRST + n * MIB;
        let before = rig.host.doorbells();
        let iova = rig.map(start, 64 * KIB).expect("room");
        aligned += u32::from(is_congruent(start, iova, 64 * KIB));
        assert!(rig.host.doorbells() - before <= 7, "four tries at most");
    }
    // One of four is aligned by chance; four tries make that two of three.
    assert!((110..=160).contains(&aligned), "{aligned} of 200");
    assert_eq!(
        rig.engine.stats().counters.congruent.get(),
        u64::from(aligned)
    );
    rig.release();
}

#[test]
fn only_buffers_that_may_be_pages_are_aligned() {
    let rig = rig(Placement::Low);
    for (start, len) in [
        (FIRST, 60 * KIB),
        (FIRST + MIB + 4 * KIB, 512 * KIB),
        (FIRST + 2 * MIB + 16 * KIB, MIB),
    ] {
        let before = rig.host.doorbells();
        rig.map(start, len).expect("room");
        assert_eq!(rig.host.doorbells() - before, 1);
    }
    // A list shares a doorbell, whatever its addresses.
    let before = rig.host.doorbells();
    let entries = list(&[(FIRST + 16 * MIB, 2 * MIB), (FIRST + 32 * MIB, 2 * MIB)]);
    rig.map_all(&entries, ALL).expect("room");
    assert_eq!(rig.host.doorbells() - before, 1);
    assert_eq!(rig.engine.stats().usage.padding, 0);
    assert_eq!(rig.engine.stats().counters.large.get(), 2);
    rig.release();
}

#[test]
fn nothing_is_aligned_when_disabled() {
    let rig = Rig::with_ram(
        Setup {
            max_bytes: 512 * MIB,
            ..Setup::default()
        },
        BLOCK,
    );
    rig.host.look().iovas = 0x2_0001..0x20_0000;
    let iova = rig.map(FIRST, 2 * MIB).expect("room");
    assert!(!is_congruent(FIRST, iova, 2 * MIB));
    assert_eq!(rig.host.doorbells(), 1);
    rig.release();
}

#[test]
fn no_padding_without_memory_in_front() {
    let rig = rig(Placement::Low);
    let start = BLOCK[0].0;
    rig.map(start, 2 * MIB).expect("room");
    // Mapped, unmapped since it is misaligned, and mapped again without padding.
    assert_eq!(rig.host.doorbells(), 3);
    assert_eq!(rig.engine.stats().usage.padding, 0);
    rig.release();
}

#[test]
fn padding_is_bounded() {
    let rig = rig(Placement::Low);
    let mut small = 0;
    for n in 0..100 {
        // A small window after each, so that each needs other padding.
        let iova = rig.map(FIRST + n * 4 * MIB, 2 * MIB);
        let small_window = rig.map(FIRST + n * 4 * MIB + 3 * MIB, 4 * KIB);
        assert!(small_window.is_ok());
        let start = FIRST + n * 4 * MIB;
        small += u32::from(is_congruent(start, iova.expect("room"), 64 * KIB));
    }
    let padding = rig.engine.stats().usage.padding;
    assert!(padding > 6 * MIB, "{padding:#x}");
    assert!(padding <= 4096 * MIB / 256, "{padding:#x}");
    // With the budget used up, small pages still are aligned.
    assert!((1..100).contains(&rig.engine.stats().counters.congruent.get()));
    assert!(small > 90, "{small}");
    rig.release();
}

#[test]
fn padding_is_uncounted_with_its_window() {
    let rig = rig(Placement::Low);
    rig.map(FIRST + 256 * MIB, 4 * KIB).expect("room");
    let iova = rig.map(FIRST, 2 * MIB).expect("room");
    assert_ne!(rig.engine.stats().usage.padding, 0);
    rig.unmap(FIRST, 2 * MIB, iova);
    for _ in 0..2 {
        rig.engine.age();
    }
    assert_eq!(rig.engine.stats().usage.padding, 0);
    rig.release();
}

#[test]
fn a_refused_second_try_does_not_fail_the_call() {
    let rig = rig(Placement::Low);
    rig.host
        .look()
        .map_faults
        .extend([MapFault::None, MapFault::Refuse, MapFault::None]);
    rig.map(FIRST, 2 * MIB)
        .expect("it is mapped without alignment");
    rig.release();
}

/// Sizes of allocations, in bytes.
const SIZES: [u64; 8] = [
    20 * KIB,
    32 * KIB,
    48 * KIB,
    64 * KIB,
    256 * KIB,
    MIB,
    2 * MIB,
    4 * MIB,
];

#[test]
fn allocations_are_aligned_to_their_order() {
    for large_pages in [
        LargePages::Ignored,
        LargePages::Preferred,
        LargePages::Expected,
    ] {
        for strict in [false, true] {
            for placement in [Placement::Low, Placement::High] {
                let rig = Rig::with_ram(
                    Setup {
                        large_pages,
                        strict,
                        placement,
                        max_bytes: 1280 * MIB,
                        max_entries: 4096,
                        policy: TestPolicy::Adaptive(18),
                        ..Setup::default()
                    },
                    BLOCK,
                );
                rig.host.look().iovas = 0x2_0001..0x20_0000;
                for (n, len) in (0..).zip(SIZES) {
                    let before = rig.host.doorbells();
                    // Small windows in between, so that no buffer is aligned by itself.
                    rig.map(FIRST + 256 * MIB + n * MIB, 4 * KIB).expect("room");
                    // The rig checks the alignment.
                    let iova = rig.alloc(FIRST + n * 8 * MIB, len).expect("room");
                    let doorbells = rig.host.doorbells() - before;
                    // One more try, once the order is known.
                    let most = if n == 0 { 5 } else { 3 };
                    assert!(doorbells <= 1 + most, "{doorbells}");
                    assert_eq!(rig.alloc(FIRST + n * 8 * MIB, len), Ok(iova));
                    assert_eq!(rig.host.doorbells() - before, doorbells);
                }
                rig.release();
            }
        }
    }
}

#[test]
fn an_allocation_in_a_misaligned_window_gets_one_of_its_own() {
    let rig = rig(Placement::Low);
    // A tile of 256 KiB, off by 16 KiB.
    let tile = FIRST + 64 * MIB;
    let mapped = rig.map(tile, 256 * KIB).expect("room");
    rig.host.look().placement = Placement::Low;
    for n in 0..8 {
        let start = tile + n * 32 * KIB;
        let iova = rig.alloc(start, 32 * KIB).expect("room");
        // Both are unmapped by their IOVAs, and the window serves it again.
        assert_eq!(rig.alloc(start, 32 * KIB), Ok(iova));
        rig.unmap(start, 32 * KIB, iova);
        rig.unmap(start, 32 * KIB, iova);
    }
    rig.unmap(tile, 256 * KIB, mapped);
    rig.release();
}

#[test]
fn a_hole_that_is_too_short_for_padding_does_no_harm() {
    // The free IOVAs below the rest are as long as the buffer, and a little longer.
    for placement in [Placement::Low, Placement::High] {
        for room in 4..8 {
            let rig = rig(placement);
            let spans = [64 * KIB, room * 16 * KIB, 64 * KIB, 7 * 16 * KIB];
            let mut mapped = Vec::new();
            for (n, len) in (0..).zip(spans) {
                let start = FIRST + 16 * KIB + n * MIB;
                mapped.push((start, len, rig.map(start, len).expect("room")));
            }
            // Holes in which the buffer is misaligned.
            for n in [1, 3] {
                let (start, len, iova) = mapped[n];
                rig.unmap(start, len, iova);
            }
            for _ in 0..2 {
                rig.engine.age();
            }
            for n in 0..4 {
                rig.alloc(FIRST + 32 * MIB + n * MIB, 64 * KIB)
                    .expect("an aligned address");
            }
            rig.release();
        }
    }
}

#[test]
fn allocations_on_a_host_with_random_addresses() {
    let rig = rig(Placement::Random);
    for n in 0..200 {
        rig.alloc(FIRST + n * MIB, 64 * KIB)
            .expect("one of 64 tries");
    }
    // Chance is not enough for larger ones: they are aligned, or fail.
    let mut aligned = 0;
    for n in 0..20 {
        match rig.alloc(FIRST + 200 * MIB + n * 4 * MIB, 4 * MIB) {
            Ok(_) => aligned += 1,
            Err(error) => assert_eq!(error, MapError::Misaligned),
        }
    }
    assert!(aligned < 20, "{aligned}");
    rig.release();
}

#[test]
fn a_host_that_never_aligns_is_not_asked_forever() {
    // At a fixed distance, whatever the length.
    let rig = rig(Placement::Offset(16 * KIB));
    let before = rig.host.doorbells();
    assert_eq!(rig.alloc(FIRST, 32 * KIB), Err(MapError::Misaligned));
    let doorbells = rig.host.doorbells() - before;
    assert!(doorbells <= 20, "{doorbells}");
    assert_eq!(rig.engine.stats().usage.bytes, 0);
    rig.release();
}

#[test]
fn padding_of_allocations_is_bounded() {
    let rig = rig(Placement::Low);
    let mut failed = 0;
    for n in 0..60 {
        rig.map(FIRST + 400 * MIB + n * MIB, 4 * KIB).expect("room");
        match rig.alloc(FIRST + n * 4 * MIB, 4 * MIB) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, MapError::Misaligned);
                failed += 1;
            }
        }
        let padding = rig.engine.stats().usage.padding;
        assert!(padding <= 4096 * MIB / 16, "{padding:#x}");
    }
    assert_eq!(failed, 0, "256 MiB are enough for these");
    rig.release();
}

#[test]
fn an_allocation_beyond_the_mask_fails() {
    let rig = rig(Placement::Low);
    let span = super::host::span(FIRST, order(64 * KIB));
    let result = rig.alloc_within(span, 0x8000_ffff);
    assert!(
        matches!(result, Err(MapError::Unreachable(_))),
        "{result:?}"
    );
    rig.release();
}

#[test]
fn a_taken_key_does_not_keep_an_allocation_from_being_aligned() {
    for placement in [Placement::Low, Placement::High] {
        for off in 0..8 {
            for len in [32 * KIB, 64 * KIB, 128 * KIB] {
                let rig = rig(placement);
                rig.host.look().iovas = 0x2_0000 + off..0x20_0000 - off;
                rig.map(FIRST, 256 * KIB).expect("room");
                rig.alloc(FIRST, len).expect("room");
                rig.alloc(FIRST + 256 * KIB - len, len).expect("room");
                rig.release();
            }
        }
    }
}
