// SPDX-License-Identifier: GPL-2.0

//! Failures: each way in which a mapping can fail leaves nothing behind.

use super::host::{
    span,
    MapFault,
    Placement,
    UnmapFault, //
};
use super::rig::{
    list,
    Entry,
    Rig,
    Setup,
    TestPolicy,
    ALL,
    BASE,
    KIB,
    MIB,
    RAM, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova, //
};
use crate::engine::{
    HostError,
    Limit,
    MapError,
    ReplyError,
    Request, //
};
use crate::sys::{
    fail_atomic_allocations,
    pass_ms,
    Stopwatch, //
};

const REPLY_ERRORS: [ReplyError; 6] = [
    ReplyError::Status,
    ReplyError::Id,
    ReplyError::Length,
    ReplyError::Offset,
    ReplyError::Range,
    ReplyError::Overlap,
];

const OVERLAP: HostError = HostError::Rejected(ReplyError::Overlap);

#[test]
fn invalid() {
    let rig = Rig::new(Setup::default());
    // A list may have an entry that is no span, since it is empty or wraps around.
    let bad = [
        Entry::new(Some(span(BASE, 4096))),
        Entry::new(None),
        Entry::new(Some(span(BASE + MIB, 4096))),
    ];
    assert_eq!(rig.map_all(&bad, ALL), Err(MapError::Invalid));
    assert_eq!(rig.host.doorbells(), 0);
    // The page of the last address would wrap around.
    let top = GpaSpan::new(Gpa::new(u64::MAX - 2), 2).expect("it does not wrap");
    assert_eq!(rig.map_within(top, ALL), Err(MapError::Invalid));
    assert_eq!(rig.host.doorbells(), 0);
    assert_eq!(rig.engine.stats().usage.peak_entries, 0);
    rig.release();
}

#[test]
fn full() {
    for strict in [false, true] {
        let rig = Rig::new(Setup {
            policy: TestPolicy::Smallest,
            strict,
            max_bytes: 64 * KIB,
            max_entries: 3,
            ..Setup::default()
        });
        let a = rig.map(BASE, 48 * KIB).expect("it fits");
        assert_eq!(
            rig.map(BASE + MIB, 16 * KIB + 1),
            Err(MapError::Full(Limit::Bytes))
        );
        let b = rig.map(BASE + MIB, 16 * KIB).expect("it fits exactly");
        rig.unmap(BASE, 48 * KIB, a);
        let c = rig.map(BASE + 2 * MIB, 1).expect("room again");
        let d = rig.map(BASE + 3 * MIB, 1).expect("room again");
        assert_eq!(
            rig.map(BASE + 4 * MIB, 1),
            Err(MapError::Full(Limit::Entries))
        );
        rig.unmap(BASE + MIB, 16 * KIB, b);
        rig.unmap(BASE + 2 * MIB, 1, c);
        rig.unmap(BASE + 3 * MIB, 1, d);
        assert_eq!(rig.engine.stats().usage.peak_entries, 3);
        rig.release();
    }
}

#[test]
fn unreachable() {
    for strict in [false, true] {
        let rig = Rig::new(Setup {
            strict,
            ..Setup::default()
        });
        let first = 0x8000_0000;
        // A limit at the last byte, and one below it.
        let request = span(BASE + 256 * KIB, 100);
        let iova = rig.map_within(request, first + 99).expect("within");
        assert_eq!(iova.raw(), first);
        // With an open window.
        assert_eq!(
            rig.map_within(request, first + 98),
            Err(MapError::Unreachable(iova))
        );
        rig.unmap(request.start().raw(), 100, iova);
        // With new windows for a list, of which some are reachable.
        let entries = list(&[
            (BASE + MIB, 1),
            (BASE + 2 * MIB, 256 * KIB),
            (BASE + 3 * MIB, 1),
            (BASE + 4 * MIB, 1),
        ]);
        let dma_limit = first + 512 * KIB;
        assert!(matches!(
            rig.map_all(&entries, dma_limit),
            Err(MapError::Unreachable(_))
        ));
        assert_eq!(rig.host.look().mappings.is_empty(), strict);
        rig.release();
    }
}

/// Has the host place its next windows at `first` and above.
fn place_at(rig: &Rig, first: u64) {
    rig.host.look().iovas.start = first >> 14;
}

const LIMIT_32: u64 = 0xffff_ffff;

#[test]
fn an_unreachable_window_does_not_stay() {
    for strict in [false, true] {
        let rig = Rig::new(Setup {
            strict,
            ..Setup::default()
        });
        let request = span(BASE, 4 * KIB);
        place_at(&rig, 0x1_0000_0000);
        assert!(matches!(
            rig.map_within(request, LIMIT_32),
            Err(MapError::Unreachable(_))
        ));
        assert_eq!(rig.host.doorbells(), 2, "requested once, and unmapped");
        assert!(rig.host.look().mappings.is_empty());
        // The host has room below again.
        place_at(&rig, 0x8000_0000);
        rig.map_within(request, LIMIT_32).expect("reachable");
        rig.release();
    }
}

#[test]
fn an_idle_window_that_the_device_does_not_reach_is_replaced() {
    // An idle window of a wider mask, for a single mapping and for a list.
    let alone = |rig: &Rig| rig.map_within(span(BASE, 4 * KIB), LIMIT_32).map(drop);
    let in_list = |rig: &Rig| {
        let entries = list(&[(BASE + MIB, 4 * KIB), (BASE, 4 * KIB)]);
        rig.map_all(&entries, LIMIT_32)
    };
    let at_once = |rig: &Rig| {
        let request = span(BASE, 4 * KIB);
        assert_eq!(rig.engine.map_hit(&request, LIMIT_32), None);
        rig.map_within(request, LIMIT_32).map(drop)
    };
    for map in [
        &alone as &dyn Fn(&Rig) -> Result<(), MapError>,
        &in_list,
        &at_once,
    ] {
        let rig = Rig::new(Setup::default());
        place_at(&rig, 0x1_0000_0000);
        let high = rig.map(BASE, 4 * KIB).expect("room");
        place_at(&rig, 0x8000_0000);
        // Not while it is in use.
        assert_eq!(
            rig.map_within(span(BASE, 4 * KIB), LIMIT_32),
            Err(MapError::Unreachable(high))
        );
        rig.unmap(BASE, 4 * KIB, high);
        assert_eq!(map(&rig), Ok(()));
        rig.release();
    }
}

#[test]
fn refused() {
    let rig = Rig::new(Setup::default());
    let (start, len) = RAM[0];
    for request in [
        // Over the end of RAM, over its start, outside it.
        (start + len - 1, 2),
        (start - 1, 2),
        (0x1000, 0x1000),
    ] {
        let doorbells = rig.host.look().map_doorbells;
        assert_eq!(rig.map(request.0, request.1), Err(MapError::Refused));
        assert!(rig.host.look().map_doorbells - doorbells <= 2);
    }
    // One entry of many.
    let entries = list(&[(BASE, 1), (0x1000, 1), (BASE + MIB, 1)]);
    assert_eq!(rig.map_all(&entries, ALL), Err(MapError::Refused));
    assert!(rig.host_errors(HostError::Refused) >= 4);
    assert_eq!(rig.engine.stats().counters.windows_stale.get(), 0);
    rig.release();
}

#[test]
fn refused_but_mapped() {
    let rig = Rig::new(Setup::default());
    // However often the engine unmaps it.
    let faults = [MapFault::RefuseMapped; 100];
    rig.host.look().map_faults.extend(faults);
    assert_eq!(rig.map(BASE, 4096), Err(MapError::Refused));
    assert!(rig.host.doorbells() <= 8, "{}", rig.host.doorbells());
    assert!(rig.host.look().mappings.is_empty());
    rig.host.look().map_faults.clear();
    rig.map(BASE, 4096).expect("the host is well again");
    // Many stale mappings have the keys of one list.
    let list = list(&[0, 1, 2, 3, 4].map(|n| (BASE + (n + 1) * MIB, 4096)));
    for entry in &list {
        let window = entry.span().expect("a span").round_out(256 * KIB);
        rig.host.look().leave_stale(&window.expect("in RAM"));
    }
    rig.map_all(&list, ALL).expect("they are unmapped");
    assert_eq!(rig.engine.stats().counters.windows_stale.get(), 5 + 4);
    rig.release();
}

#[test]
fn a_refused_window_shadows_no_other() {
    for strict in [false, true] {
        let rig = Rig::new(Setup {
            policy: TestPolicy::Adaptive(14),
            strict,
            max_bytes: 128 * MIB,
            ..Setup::default()
        });
        // In the same batch: a valid entry, and one that covers it but is not RAM.
        let len = RAM[2].1;
        let entries = list(&[(BASE + MIB, 4096), (BASE + 137, len)]);
        assert_eq!(rig.map_all(&entries, ALL), Err(MapError::Refused));
        assert!(rig.host.doorbells() <= 8, "{}", rig.host.doorbells());
        // With a window from an earlier call.
        let iova = rig.map(BASE + MIB, 4096).expect("room");
        assert_eq!(rig.map(BASE + 137, len), Err(MapError::Refused));
        let doorbells = rig.host.doorbells();
        let again = rig.map(BASE + MIB, 4096).expect("it is mapped");
        assert_eq!((again, rig.host.doorbells()), (iova, doorbells));
        rig.unmap(BASE + MIB, 4096, iova);
        rig.unmap(BASE + MIB, 4096, again);
        rig.release();
    }
}

/// The first window of the list covers the granule in which the other two begin. So these two are
/// found by their start alone, and the last one shadows the other there. The other has the key of
/// the last one, and the host refuses the key that this gets instead: a stale mapping has it.
#[test]
fn a_refused_window_shadows_none_of_its_batch() {
    for strict in [false, true] {
        let rig = Rig::new(Setup {
            policy: TestPolicy::Smallest,
            strict,
            ..Setup::default()
        });
        let page = BASE + MIB + 12 * KIB;
        rig.host.look().leave_stale(&span(page + 8 * KIB, 4096));
        let entries = list(&[
            (page + 1, 4096),
            (page + 4 * KIB + 1, 21 * KIB),
            (page + 14 * KIB, 24 * KIB),
        ]);
        assert_eq!(rig.map_all(&entries, ALL), Ok(()), "strict: {strict}");
        // The list, the refused entry in a small window, the stale key, and the retry.
        assert_eq!(rig.host.doorbells(), 4);
        assert_eq!(rig.host.look().stale(), 0);
        rig.release();
    }
}

#[test]
fn longer_than_the_host_can_map() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Aligned(20),
        len_max: 256 * KIB,
        ..Setup::default()
    });
    rig.map(BASE, 4096).expect("a smaller window serves");
    assert_eq!(rig.map(BASE + MIB, 300 * KIB), Err(MapError::Refused));
    rig.release();
}

#[test]
fn rejected() {
    for strict in [false, true] {
        for reject in REPLY_ERRORS {
            for mapped in [false, true] {
                let rig = Rig::new(Setup {
                    strict,
                    ..Setup::default()
                });
                let fault = if mapped {
                    MapFault::RejectMapped(reject)
                } else {
                    MapFault::RejectEmpty(reject)
                };
                // The second try is with the smallest window.
                rig.host.look().map_faults.extend([fault; 2]);
                assert_eq!(rig.map(BASE + MIB, 4096), Err(MapError::Rejected(reject)));
                let stats = rig.engine.stats();
                assert_eq!(rig.host_errors(HostError::Rejected(reject)), 2);
                assert!(rig.host.look().mappings.is_empty(), "it is unmapped");
                assert_eq!(stats.usage.entries, if mapped { 0 } else { 2 });
                assert_eq!(
                    stats.counters.windows_lost.get(),
                    if mapped { 0 } else { 2 }
                );
                rig.map(BASE + MIB, 4096).expect("the host is well again");
                rig.release();
            }
        }
    }
}

#[test]
fn a_valid_reply_with_an_address_in_use() {
    for fault in [MapFault::Overlap, MapFault::Wrap] {
        let rig = Rig::new(Setup::default());
        let iova = rig.map(BASE, 256 * KIB).expect("no fault yet");
        rig.host.look().map_faults.extend([fault; 2]);
        let expected = match fault {
            MapFault::Overlap => ReplyError::Overlap,
            _ => ReplyError::Range,
        };
        assert_eq!(
            rig.map(BASE + MIB, 16 * KIB),
            Err(MapError::Rejected(expected))
        );
        // The earlier mapping is unchanged.
        assert_eq!(
            rig.engine.translate(iova, 256 * KIB),
            Some(Gpa::new(BASE)),
            "{fault:?}"
        );
        assert_eq!(rig.host.look().mappings.len(), 1);
        rig.unmap(BASE, 256 * KIB, iova);
        rig.release();
    }
}

#[test]
fn a_valid_reply_with_an_address_of_a_lost_window() {
    // The host does not unmap a window, and then reports another at its address.
    for stubborn in [false, true] {
        let rig = Rig::new(Setup {
            policy: TestPolicy::Smallest,
            strict: true,
            ..Setup::default()
        });
        let iova = rig.map(BASE, 4096).expect("no fault yet");
        let times = if stubborn { 20 } else { 1 };
        rig.host
            .look()
            .unmap_faults
            .extend(vec![UnmapFault::Refuse; times]);
        rig.unmap(BASE, 4096, iova);
        assert_eq!(rig.engine.stats().counters.windows_lost.get(), 1);
        assert_eq!(rig.engine.translate(iova, 4096), None, "not held");
        rig.host
            .look()
            .map_faults
            .extend(vec![MapFault::Overlap; times]);
        let mapped = rig.map(BASE + MIB, 4096);
        assert!(rig.host_errors(OVERLAP) > 0);
        if stubborn {
            assert_eq!(mapped, Err(MapError::Rejected(ReplyError::Overlap)));
        } else {
            // The lost window is recovered, and then the request is retried.
            assert_eq!(rig.engine.stats().counters.windows_recovered.get(), 1);
            let other = mapped.expect("the second reply is valid");
            rig.unmap(BASE + MIB, 4096, other);
        }
        rig.host.look().map_faults.clear();
        rig.host.look().unmap_faults.clear();
        for _ in 0..4 {
            rig.engine.retry_lost();
        }
        let stats = rig.engine.stats();
        assert_eq!(
            (stats.counters.windows_recovered.get(), stats.usage.entries),
            (stats.counters.windows_lost.get(), 0)
        );
        rig.release();
    }
}

#[test]
fn many_lost_windows_may_block_an_address() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        strict: true,
        batch_max: 4,
        ..Setup::default()
    });
    let held: Vec<_> = (0..12)
        .map(|n| (n, rig.map(BASE + n * MIB, 4096).expect("room")))
        .collect();
    // The host unmaps all without a reply. The first address is the last to be recovered.
    for (n, iova) in held.into_iter().rev() {
        rig.host
            .look()
            .unmap_faults
            .push_back(UnmapFault::SilentGone);
        rig.unmap(BASE + n * MIB, 4096, iova);
    }
    assert_eq!(rig.engine.stats().counters.windows_lost.get(), 12);
    let iova = rig.map(BASE + 20 * MIB, 4096).expect("all are recovered");
    let stats = rig.engine.stats();
    assert_eq!(
        (stats.counters.windows_recovered.get(), stats.usage.entries),
        (12, 1)
    );
    rig.unmap(BASE + 20 * MIB, 4096, iova);
    rig.release();
}

#[test]
fn lost_windows_take_room_and_then_addresses() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        strict: true,
        batch_max: 1,
        max_bytes: 48 * KIB,
        ..Setup::default()
    });
    let first = rig.map(BASE, 4096).expect("room");
    let second = rig.map(BASE + MIB, 4096).expect("room");
    let faults = [UnmapFault::SilentGone; 2];
    rig.host.look().unmap_faults.extend(faults);
    rig.unmap(BASE + MIB, 4096, second);
    rig.unmap(BASE, 4096, first);
    assert_eq!(rig.engine.stats().counters.windows_lost.get(), 2);
    // Recovering one makes room, and the mapping is then at the address of the other.
    let iova = rig
        .map(BASE + 2 * MIB, 32 * KIB)
        .expect("all are recovered");
    let stats = rig.engine.stats();
    // It takes two steps to learn that the host does not have a window.
    assert_eq!(stats.counters.windows_recovered.get(), 2);
    assert_eq!(rig.host_errors(OVERLAP), 2);
    rig.unmap(BASE + 2 * MIB, 32 * KIB, iova);
    rig.release();
}

#[test]
fn addresses_of_a_rejected_window_are_in_use() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        strict: true,
        placement: Placement::High,
        ..Setup::default()
    });
    let iova = rig.map(BASE, 4096).expect("room");
    rig.host
        .look()
        .unmap_faults
        .push_back(UnmapFault::SilentGone);
    rig.unmap(BASE, 4096, iova);
    // Half of the first is at the lost window's address, so it is rejected. By the reply, the
    // second is at the other half of the first.
    let faults = [MapFault::None, MapFault::Overlap];
    rig.host.look().map_faults.extend(faults);
    let entries = list(&[(BASE + MIB, 32 * KIB), (BASE + 2 * MIB, 4096)]);
    assert_eq!(rig.map_all(&entries, ALL), Ok(()));
    let stats = rig.engine.stats();
    let rejected = rig.host_errors(OVERLAP);
    assert!(rejected >= 2, "{rejected}");
    assert_eq!(
        (stats.counters.windows_recovered.get(), stats.usage.entries),
        (1, 2)
    );
    rig.release();
}

#[test]
fn no_reply() {
    for (fault, left) in [(MapFault::SilentMapped, 0), (MapFault::SilentEmpty, 2)] {
        let rig = Rig::new(Setup::default());
        rig.host.look().map_faults.extend([fault; 2]);
        assert_eq!(rig.map(BASE + MIB, 4096), Err(MapError::NoAnswer));
        assert_eq!(rig.host_errors(HostError::Silent), 2);
        assert!(rig.host.look().mappings.is_empty(), "it is unmapped");
        // The host refuses to unmap a window that it does not have, so the window counts as lost.
        assert_eq!(rig.engine.stats().counters.windows_lost.get(), left);
        rig.map(BASE + MIB, 4096).expect("the host is well again");
        rig.release();
    }
}

#[test]
fn no_memory() {
    let rig = Rig::new(Setup::default());
    fail_atomic_allocations(true);
    assert_eq!(rig.map(BASE, 4096), Err(MapError::NoMemory));
    assert_eq!(rig.host.doorbells(), 0);
    // Allocations that may sleep do not fail.
    rig.engine.reserve(100).expect("memory");
    for n in 0..100 {
        rig.map(BASE + n * 256 * KIB, 4096)
            .expect("tables are there");
    }
    fail_atomic_allocations(false);
    rig.release();
}

#[test]
fn no_memory_but_idle_windows() {
    let rig = Rig::new(Setup {
        max_entries: 1000,
        ..Setup::default()
    });
    rig.engine.reserve(1).expect("memory");
    fail_atomic_allocations(true);
    for n in 0..200 {
        // The tables hold fewer windows than that.
        let start = BASE + n * 256 * KIB;
        let iova = rig.map(start, 1).expect("an idle one is reclaimed");
        rig.unmap(start, 1, iova);
    }
    fail_atomic_allocations(false);
    rig.release();
}

#[test]
fn reserving_more_than_the_limit() {
    let rig = Rig::new(Setup {
        max_entries: 10,
        ..Setup::default()
    });
    assert!(rig.engine.reserve(10).is_ok());
    assert!(rig.engine.reserve(10_000).is_err());
    rig.map(BASE, 1).expect("it still works");
    rig.release();
}

#[test]
fn no_key() {
    // A request for the first byte of a block has one key.
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        ..Setup::default()
    });
    let first = rig.map(BASE, 4096).expect("the key is free");
    assert_eq!(rig.map(BASE, 64 * KIB), Err(MapError::NoKey));
    let other = rig
        .map(BASE + 4096, 64 * KIB)
        .expect("there are other keys");
    rig.unmap(BASE, 4096, first);
    let all = rig
        .map(BASE, 64 * KIB)
        .expect("an idle window frees its key");
    rig.unmap(BASE, 64 * KIB, all);
    rig.unmap(BASE + 4096, 64 * KIB, other);
    rig.release();
}

#[test]
fn no_batch() {
    // No batch can have an entry, but all calls return.
    let rig = Rig::new(Setup {
        batch_max: 0,
        ..Setup::default()
    });
    rig.engine.reserve(1).expect("memory");
    assert!(rig.map(BASE, 4096).is_err());
    rig.release();
}

#[test]
fn no_budget() {
    let rig = Rig::new(Setup {
        max_bytes: 0,
        max_entries: 0,
        ..Setup::default()
    });
    assert!(matches!(rig.map(BASE, 4096), Err(MapError::Full(_))));
    assert_eq!(rig.host.doorbells(), 0);
    rig.release();
}

#[test]
fn a_failed_list_leaves_what_was_mapped_before() {
    let rig = Rig::new(Setup {
        strict: true,
        ..Setup::default()
    });
    let iova = rig.map(BASE, 4096).expect("room");
    let entries = list(&[(BASE, 4096), (BASE + MIB, 4096), (0x1000, 1), (BASE, 6)]);
    assert_eq!(rig.map_all(&entries, ALL), Err(MapError::Refused));
    assert_eq!(rig.host.look().mappings.len(), 1);
    rig.unmap(BASE, 4096, iova);
    assert_eq!(rig.host.look().mappings.len(), 0);
    rig.release();
}

#[test]
fn an_unmap_without_a_mapping_fails() {
    let rig = Rig::new(Setup::default());
    assert!(rig.engine.unmap(Iova::new(0x8000_0000), 1).is_err());
    let iova = rig.map(BASE, 4096).expect("room");
    assert!(rig.engine.unmap(iova, 0).is_err());
    assert!(rig.engine.unmap(iova, 256 * KIB + 1).is_err());
    assert!(rig.engine.unmap(iova, u64::MAX).is_err());
    assert!(rig.engine.unmap(Iova::new(u64::MAX), 1).is_err());
    rig.unmap(BASE, 4096, iova);
    // Twice.
    assert!(rig.engine.unmap(iova, 4096).is_err());
    // In a list with others that are held.
    let iova = rig.map(BASE, 4096).expect("room");
    rig.host.look().drop_held(span(BASE, 4096), iova);
    let entries = [
        Entry::mapped(span(BASE, 1), Iova::new(0x4000)),
        Entry::mapped(span(BASE, 4096), iova),
    ];
    assert!(rig.engine.unmap_all(entries.iter()).is_err());
    assert!(rig.engine.unmap(iova, 4096).is_err(), "it was unmapped");
    rig.release();
}

#[test]
fn a_list_with_more_unmaps_than_mappings_fails() {
    for strict in [false, true] {
        let rig = Rig::new(Setup {
            strict,
            ..Setup::default()
        });
        let iova = rig.map(BASE, 4096).expect("room");
        rig.host.look().drop_held(span(BASE, 4096), iova);
        let entries = [0; 3].map(|_| Entry::mapped(span(BASE, 4096), iova));
        assert!(rig.engine.unmap_all(entries.iter()).is_err());
        // The mapping that was held is unmapped, and nothing else.
        assert!(rig.engine.unmap(iova, 4096).is_err());
        rig.engine.age();
        rig.engine.age();
        assert!(rig.host.look().mappings.is_empty(), "it has no users");
        rig.release();
    }
}

#[test]
fn a_window_that_is_not_unmapped_is_lost_and_recovered() {
    for fault in [
        UnmapFault::Refuse,
        UnmapFault::SilentKept,
        UnmapFault::SilentGone,
    ] {
        let rig = Rig::new(Setup {
            policy: TestPolicy::Smallest,
            strict: true,
            max_entries: 3,
            // Not at the address of the window that may be gone.
            placement: Placement::Random,
            ..Setup::default()
        });
        let lose = |times| {
            let iova = rig.map(BASE, 4096).expect("room");
            // For as many retries.
            rig.host.look().unmap_faults.extend(vec![fault; times]);
            rig.unmap(BASE, 4096, iova);
            iova
        };
        let iova = lose(100);
        let stats = rig.engine.stats();
        assert_eq!(
            (
                stats.counters.windows_lost.get(),
                stats.counters.windows_recovered.get(),
                stats.usage.entries
            ),
            (1, 0, 1)
        );
        assert_eq!(stats.usage.bytes, 16 * KIB);
        // It serves no request, and its key is not reused: the model would panic.
        assert_eq!(rig.engine.translate(iova, 1), None);
        assert!(rig.engine.unmap(iova, 1).is_err());
        let doorbells = rig.host.doorbells();
        assert_eq!(rig.map(BASE, 4096), Err(MapError::NoKey));
        assert!(rig.host.doorbells() - doorbells <= 6);
        let other = rig.map(BASE + 4096, 4096).expect("another key");
        let another = rig.map(BASE + MIB, 4096).expect("room");
        assert_eq!(
            rig.map(BASE + 2 * MIB, 4096),
            Err(MapError::Full(Limit::Entries))
        );
        // The host is well again, and the lost window is recovered when it blocks a request.
        rig.host.look().unmap_faults.clear();
        let third = rig.map(BASE + 2 * MIB, 4096).expect("room again");
        let stats = rig.engine.stats();
        assert_eq!(
            (
                stats.counters.windows_lost.get(),
                stats.counters.windows_recovered.get(),
                stats.usage.entries
            ),
            (1, 1, 3)
        );
        rig.unmap(BASE + 2 * MIB, 4096, third);
        rig.unmap(BASE + 4096, 4096, other);
        // A key that a request needs.
        lose(1);
        let again = rig.map(BASE, 4096).expect("the key is free again");
        rig.unmap(BASE, 4096, again);
        rig.unmap(BASE + MIB, 4096, another);
        // The periodic retry.
        lose(1);
        rig.engine.retry_lost();
        rig.check();
        let stats = rig.engine.stats();
        assert_eq!(
            (
                stats.counters.windows_lost.get(),
                stats.counters.windows_recovered.get(),
                stats.usage.entries
            ),
            (3, 3, 0)
        );
        let doorbells = rig.host.doorbells();
        rig.engine.retry_lost();
        assert_eq!(rig.host.doorbells(), doorbells, "nothing is lost");
        // The end.
        lose(1);
        let host = rig.host.clone();
        rig.release();
        assert_eq!(host.look().view.len(), 0);
        assert!(host.look().mappings.is_empty());
    }
}

#[test]
fn many_lost_windows_are_recovered_past_some_that_stay() {
    let rig = Rig::new(Setup {
        policy: TestPolicy::Smallest,
        strict: true,
        max_entries: 20,
        batch_max: 4,
        ..Setup::default()
    });
    let place = |n: u64| BASE + n * MIB / 2;
    let held: Vec<_> = (0..20)
        .map(|n| rig.map(place(n), 4096).expect("room"))
        .collect();
    let faults = [
        UnmapFault::Refuse,
        UnmapFault::SilentGone,
        UnmapFault::SilentKept,
    ];
    for (n, iova) in (0..20).zip(held) {
        let fault = faults[usize::try_from(n % 3).expect("small")];
        rig.host.look().unmap_faults.push_back(fault);
        rig.unmap(place(n), 4096, iova);
    }
    assert_eq!(rig.engine.stats().usage.entries, 20);
    // Four that the host keeps do not block the others.
    let stubborn = [UnmapFault::Refuse; 4];
    rig.host.look().unmap_faults.extend(stubborn);
    rig.map(place(30), 4096).expect("room");
    for _ in 0..20 {
        rig.engine.retry_lost();
        rig.check();
    }
    let stats = rig.engine.stats();
    assert_eq!(
        (
            stats.counters.windows_lost.get(),
            stats.counters.windows_recovered.get(),
            stats.usage.entries
        ),
        (20, 20, 1)
    );
    rig.release();
}

#[test]
fn a_host_that_is_not_ready() {
    for strict in [false, true] {
        let rig = Rig::new(Setup {
            policy: TestPolicy::Smallest,
            strict,
            max_entries: 3,
            ..Setup::default()
        });
        let held = rig.map(BASE, 4096).expect("room");
        let idle = rig.map(BASE + MIB, 4096).expect("room");
        rig.unmap(BASE + MIB, 4096, idle);
        rig.host.look().ready = false;
        // The engine does not ring, and open windows serve.
        let doorbells = rig.host.doorbells();
        for n in 2..10 {
            assert_eq!(rig.map(BASE + n * MIB, 4096), Err(MapError::NoAnswer));
        }
        let entries = list(&[(BASE, 4096), (BASE + 9 * MIB, 4096)]);
        assert_eq!(rig.map_all(&entries, ALL), Err(MapError::NoAnswer));
        for _ in 0..3 {
            rig.engine.age();
            rig.engine.retry_lost();
        }
        let again = rig.map(BASE, 4096).expect("it is mapped");
        rig.unmap(BASE, 4096, again);
        if !strict {
            let idle = rig.map(BASE + MIB, 4096).expect("it is mapped");
            rig.unmap(BASE + MIB, 4096, idle);
        }
        assert_eq!(rig.host.doorbells(), doorbells);
        assert_eq!(rig.engine.stats().counters.windows_lost.get(), 0);
        rig.unmap(BASE, 4096, held);
        assert_eq!(
            rig.engine.stats().counters.windows_lost.get(),
            u64::from(strict)
        );
        rig.host.look().ready = true;
        for n in 0..3 {
            rig.map(BASE + n * MIB, 4096).expect("room for all");
        }
        assert_eq!(
            rig.engine.stats().counters.windows_recovered.get(),
            u64::from(strict)
        );
        rig.release();
    }
}

#[test]
fn a_call_ends_in_time_whatever_it_needs() {
    // A host that is just fast enough for each batch, on which one call needs many.
    let needy: [fn(&Rig); 3] = [
        // A list of more windows than a batch has.
        |rig| {
            let spans: Vec<_> = (0..60).map(|n| (BASE + n * MIB, 4 * KIB)).collect();
            let result = rig.engine.map_all(list(&spans).iter(), ALL);
            assert_eq!(result, Err(MapError::NoAnswer));
        },
        // One that is refused in every way.
        |rig| {
            rig.host.look().refuse_every = Some(1);
            let result = rig.engine.map(span(BASE + 512 * KIB, 64 * KIB), ALL);
            assert!(matches!(
                result,
                Err(MapError::NoAnswer | MapError::Refused)
            ));
        },
        // One whose address is wrong, while many lost windows may be in the way.
        |rig| {
            for n in 0..60 {
                let iova = rig.map(BASE + n * MIB, 4 * KIB).expect("room");
                rig.unmap(BASE + n * MIB, 4 * KIB, iova);
            }
            rig.host.look().unmap_faults = vec![UnmapFault::SilentKept; 60].into();
            rig.engine.evict(&span(BASE, 60 * MIB));
            rig.host.look().batch_ms = 1900;
            rig.host.look().map_faults = vec![MapFault::Overlap; 60].into();
            assert!(rig.engine.map(span(BASE + 63 * MIB, 4 * KIB), ALL).is_err());
        },
    ];
    for (n, call) in needy.into_iter().enumerate() {
        let rig = Rig::new(Setup {
            batch_max: 2,
            ..Setup::default()
        });
        if n != 2 {
            rig.host.look().batch_ms = 1900;
        }
        let before = Stopwatch::start();
        call(&rig);
        assert!(
            before.elapsed_ms() <= 4000 + 1900,
            "{n}: no doorbell after that"
        );
        // The same host, but fast, again does what it should.
        {
            let mut state = rig.host.look();
            state.batch_ms = 0;
            state.refuse_every = None;
            state.map_faults.clear();
            state.unmap_faults.clear();
        }
        for _ in 0..60 {
            rig.engine.retry_lost();
        }
        rig.map(BASE + 62 * MIB, 4 * KIB).expect("room");
        rig.release();
    }
}

/// Has the host refuse whatever is longer than `len` bytes.
fn refuse_beyond(rig: &Rig, len: u64) {
    rig.host.look().segment_max = len;
}

#[test]
fn the_length_that_the_host_grants_is_learnt() {
    for (segment_max, max_bytes, max_entries, learnt) in [
        (u64::MAX, 64 * MIB, 4096, 4 * MIB),
        // With a granule for a mapping that begins within one.
        (4 * MIB + 16 * KIB, 64 * MIB, 4096, 4 * MIB),
        (4 * MIB, 64 * MIB, 4096, 2 * MIB),
        (MIB, 64 * MIB, 4096, 512 * KIB),
        (16 * KIB, 64 * MIB, 4096, 64 * KIB),
        // Within the limits.
        (u64::MAX, 4 * MIB, 4096, 512 * KIB),
        (u64::MAX, 256 * KIB, 4096, 32 * KIB),
        (u64::MAX, 64 * MIB, 64, 64 * KIB),
        (u64::MAX, 64 * MIB, 16, 16 * KIB),
        (u64::MAX, 64 * KIB, 4, 16 * KIB),
    ] {
        let rig = Rig::new(Setup {
            max_bytes,
            max_entries,
            ..Setup::default()
        });
        let reserved = max_entries.min(16) as usize;
        rig.engine.reserve(reserved).expect("memory");
        refuse_beyond(&rig, segment_max);
        assert_eq!(rig.engine.learn_max_len(), learnt, "{segment_max:#x}");
        assert!(rig.host.look().mappings.is_empty());
        assert!(!rig.engine.search_stale(), "not a sign of stale mappings");
        rig.check();
        rig.release();
    }
}

#[test]
fn a_length_that_the_host_refuses_is_not_requested_again_and_again() {
    let rig = Rig::new(Setup::default());
    refuse_beyond(&rig, MIB);
    let ask = |len| {
        let before = rig.host.doorbells();
        let result = rig.map(BASE + 8 * KIB, len);
        (result.map(drop), rig.host.doorbells() - before)
    };
    // A driver that retries every 8 ms, for a minute.
    let mut doorbells = 0;
    for _ in 0..60_000 / 8 {
        let (result, rung) = ask(2 * MIB);
        assert_eq!(result, Err(MapError::Refused));
        doorbells += rung;
        pass_ms(8);
    }
    assert!(doorbells <= 4 * 70, "{doorbells} doorbells");
    assert_eq!(rig.engine.refused_len(), Some(2 * MIB + 16 * KIB));
    // What is shorter is not affected, nor is what others have mapped.
    assert_eq!(ask(512 * KIB).0, Ok(()));
    assert_eq!(ask(4 * KIB).0, Ok(()));
    // The host has room again.
    refuse_beyond(&rig, u64::MAX);
    pass_ms(1100);
    assert_eq!(ask(2 * MIB).0, Ok(()));
    assert_eq!(rig.engine.refused_len(), None);
    assert!(!rig.engine.search_stale(), "not a sign of stale mappings");
    rig.release();
}
