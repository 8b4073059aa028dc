// SPDX-License-Identifier: GPL-2.0

//! Random drivers on random hosts: whatever the order, the sizes, the policy, the limits and the
//! faults, what drivers hold is backed, what is counted is true, and a mapping fails only where
//! there is a reason.
//!
//! [`Rig`](super::rig::Rig) checks what must hold after every step. This file adds what a model of
//! the limits says about failures, what misuse may do, and what must be left at the end.

use super::{
    host::{
        cost,
        span,
        Held,
        MapFault,
        Placement,
        UnmapFault,
        View, //
    },
    rig::{
        Entry,
        Rig,
        Setup,
        TestPolicy,
        ALL,
        KIB,
        MIB,
        RAM, //
    },
};
use crate::{
    addr::{
        Address,
        Gpa,
        GpaSpan,
        Iova,
        GRANULE,
        PAGE, //
    },
    engine::{
        Limit,
        MapError, //
    },
    policy::smallest,
    sys::fail_atomic_allocations,
    wire::Reject, //
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Map(Want, u64),
    MapAll(Vec<Want>, u64),
    /// Maps the same as one of those held.
    Again(usize),
    /// Gives up one of those held.
    Unmap(usize),
    /// Gives up all that are held, from this one on in steps.
    UnmapAll(usize, usize),
    /// Gives up what was never mapped.
    Misuse(u64, u64),
    /// Faults of the answers to come.
    MapFaults(Vec<MapFault>),
    UnmapFaults(Vec<UnmapFault>),
    RefuseEvery(Option<u64>),
    /// The host is away, or is back.
    Away(bool),
    /// What is lost is asked for again.
    Retry,
    /// Allocations fail, or succeed again.
    FailAllocations(bool),
    /// An earlier kernel's mapping comes to light.
    Stale(Want),
    /// Time passes.
    Age,
    /// Memory is to go away.
    Evict(Want),
}

/// What a driver asks for.
#[derive(Clone, Copy, Debug)]
struct Want {
    start: u64,
    len: u64,
}

impl Want {
    fn span(self) -> Option<GpaSpan> {
        GpaSpan::new(Gpa::new(self.start), self.len)
    }
}

fn wants() -> impl Strategy<Value = Want> {
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
    ];
    let inside =
        (0..RAM.len(), offset, len, any::<bool>()).prop_map(|(block, offset, len, from_end)| {
            let (start, block_len) = RAM[block];
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
        });
    let outside = prop_oneof![
        // Over an edge of RAM, in a hole, below, at the top of everything, nothing, too much.
        (0..RAM.len(), 1u64..8 * KIB).prop_map(|(block, before)| Want {
            start: RAM[block].0 + RAM[block].1 - before,
            len: before + 1,
        }),
        (0..RAM.len()).prop_map(|block| Want {
            start: RAM[block].0 - 1,
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
    let whole = (0..RAM.len()).prop_map(|block| Want {
        start: RAM[block].0,
        len: RAM[block].1,
    });
    prop_oneof![40 => inside, 1 => outside, 1 => whole]
}

/// Lists as drivers make them: scattered, with neighbours, duplicates and overlaps.
fn lists() -> impl Strategy<Value = Vec<Want>> {
    let scattered = prop::collection::vec(wants(), 0..8);
    let near = (
        wants(),
        prop::collection::vec((0u64..4, 1u64..32 * KIB), 1..8),
    )
        .prop_map(|(want, steps)| {
            let mut at = want.start;
            steps
                .into_iter()
                .map(|(step, len)| {
                    let start = at;
                    at = at.saturating_add(match step {
                        // The same again, the next one, an overlap, a gap.
                        0 => 0,
                        1 => len,
                        2 => len / 2,
                        _ => len + 20 * KIB,
                    });
                    Want { start, len }
                })
                .collect()
        });
    let growing = (wants(), 2u64..6).prop_map(|(want, n)| {
        (1..n)
            .map(|n| Want {
                start: want.start,
                len: want.len.saturating_mul(n),
            })
            .collect()
    });
    prop_oneof![3 => scattered, 3 => near, 1 => growing]
}

fn masks() -> impl Strategy<Value = u64> {
    prop_oneof![20 => Just(ALL), 1 => Just(0xffff_ffff), 1 => Just(0x800f_ffff)]
}

fn rejects() -> impl Strategy<Value = Reject> {
    prop_oneof![
        Just(Reject::Status),
        Just(Reject::Id),
        Just(Reject::Length),
        Just(Reject::Offset),
        Just(Reject::Range),
        Just(Reject::Overlap),
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

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let index = any::<usize>();
    let plain = prop_oneof![
        8 => (wants(), masks()).prop_map(|(want, mask)| Op::Map(want, mask)),
        4 => (lists(), masks()).prop_map(|(list, mask)| Op::MapAll(list, mask)),
        2 => index.prop_map(Op::Again),
        8 => index.prop_map(Op::Unmap),
        1 => (index, 1usize..4).prop_map(|(from, step)| Op::UnmapAll(from, step)),
        1 => (any::<u64>(), 0u64..MIB).prop_map(|(iova, len)| Op::Misuse(iova, len)),
        1 => wants().prop_map(Op::Stale),
        1 => Just(Op::Age),
        1 => wants().prop_map(Op::Evict),
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

fn setups() -> impl Strategy<Value = Setup> {
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
    let max_entries = prop_oneof![2 => Just(1000u32), 2 => 1u32..8, 1 => 0u32..2];
    let batch_max = prop_oneof![2 => Just(64usize), 2 => 1usize..4];
    let len_max = prop_oneof![6 => Just(u64::MAX), 1 => Just(128 * KIB)];
    let placement = prop_oneof![
        Just(Placement::Low),
        Just(Placement::High),
        Just(Placement::Random),
    ];
    (
        policy,
        (any::<bool>(), any::<bool>()),
        max_bytes,
        max_entries,
        batch_max,
        len_max,
        placement,
        prop_oneof![2 => Just(1usize << 20), 1 => 0usize..2000, 1 => Just(0)],
    )
        .prop_map(
            |(policy, modes, max_bytes, max_entries, batch_max, len_max, placement, table_max)| {
                let (strict, congruent) = modes;
                Setup {
                    policy,
                    strict,
                    congruent,
                    max_bytes,
                    max_entries,
                    batch_max,
                    len_max,
                    placement,
                    table_max,
                }
            },
        )
}

/// What was so before a call that may fail.
struct Before {
    injected: u64,
    refused_fairly: u64,
    /// Bytes of all windows.
    bytes: u64,
}

impl Before {
    fn of(rig: &Rig) -> Self {
        let state = rig.host.look();
        Self {
            injected: state.injected,
            refused_fairly: state.refused_fairly,
            bytes: state.counted().0,
        }
    }
}

/// Whether `error` is one that the call had a reason for.
fn excused(
    rig: &Rig,
    before: &Before,
    wants: &[Option<GpaSpan>],
    mask: u64,
    failing: bool,
    error: MapError,
) -> Result<(), String> {
    let (injected, refused) = {
        let state = rig.host.look();
        (
            state.injected != before.injected,
            state.refused_fairly != before.refused_fairly,
        )
    };
    let block_of = |span: &GpaSpan| {
        let state = rig.host.look();
        state.ram.iter().find(|block| block.covers(span)).copied()
    };
    let small: Vec<_> = wants
        .iter()
        .map(|want| {
            let want = want.as_ref()?;
            smallest(want, block_of(want).as_ref()).map(|proposal| proposal.span)
        })
        .collect();
    let single = wants.len() == 1;
    let (bytes, entries, keys) = rig.stuck();
    let ok = match error {
        MapError::Invalid => wants
            .iter()
            .zip(&small)
            .any(|(w, s)| w.is_none() || s.is_none()),
        MapError::Refused => {
            // One whose key was taken may begin a little earlier.
            let too_long = small
                .iter()
                .flatten()
                .any(|s| s.len().saturating_add(4 * GRANULE) > rig.setup.len_max);
            injected || refused || too_long
        }
        MapError::Rejected(_) => injected,
        MapError::NoAnswer => injected || !rig.host.look().ready,
        MapError::Unreachable(iova) => wants
            .iter()
            .flatten()
            .any(|want| iova.raw() + (want.len() - 1) > mask),
        MapError::NoMemory => failing,
        MapError::Full(limit) => {
            // What a list needs depends on how it falls into windows, old ones among them, but it
            // is not more than this.
            let mut need = if single { 0 } else { before.bytes };
            for (want, small) in wants.iter().zip(&small) {
                let (Some(want), Some(small)) = (want, small) else {
                    continue;
                };
                let proposed =
                    block_of(want).map_or(0, |block| rig.setup.policy.most(want, &block));
                need = need.saturating_add(if single {
                    cost(small)
                } else {
                    cost(small).max(proposed).saturating_add(4 * GRANULE)
                });
            }
            // A window whose key was taken begins a little elsewhere.
            let moved = small
                .iter()
                .flatten()
                .any(|small| keys.contains(&small.start().raw()));
            if moved {
                need = need.saturating_add(MIB);
            }
            match limit {
                Limit::Bytes => bytes.saturating_add(need) > rig.setup.max_bytes,
                Limit::Entries => {
                    let need = u32::try_from(wants.len()).expect("few");
                    entries + need > rig.setup.max_entries
                }
            }
        }
        MapError::NoKey => wants.iter().zip(&small).any(|(want, small)| {
            let (Some(want), Some(small)) = (want, small) else {
                return false;
            };
            let lowest = block_of(want).map_or(small.start().raw(), |b| b.start().raw());
            // All the keys that could be, in a block that begins at a page. A list also takes keys
            // for itself.
            let mut key = small.start().raw();
            let mut taken = true;
            while key <= want.start().raw() {
                taken &= keys.contains(&key);
                key += PAGE;
            }
            if small.start().raw() > lowest {
                taken &= keys.contains(&(small.start().raw() - PAGE));
            }
            taken || !single
        }),
    };
    if ok {
        Ok(())
    } else {
        Err(format!(
            "{error:x?} for {wants:x?} without a reason: {bytes:#x} bytes and {entries} entries \
             are in use or lost"
        ))
    }
}

/// Picks one of those that drivers hold.
fn held(rig: &Rig, index: usize) -> Option<Held> {
    let state = rig.host.look();
    let count = state.held.len();
    (count != 0).then(|| state.held[index % count])
}

/// What the engine has mapped for nobody, of what `counts`.
fn idle(rig: &Rig, counts: impl Fn(&GpaSpan) -> bool) -> Vec<GpaSpan> {
    let state = rig.host.look();
    let busy = state.busy();
    state
        .view
        .iter()
        .filter(|(key, (span, view))| *view == View::Open && !busy.contains(key) && counts(span))
        .map(|(_, (span, _))| *span)
        .collect()
}

fn run(setup: Setup, seed: u64, ops: Vec<Op>, tidy: bool) -> Result<(), TestCaseError> {
    // Left over from a case that failed, perhaps.
    fail_atomic_allocations(false);
    let mut failing = false;
    let rig = Rig::new(setup);
    rig.host.look().seed(seed);

    for op in ops {
        let before = Before::of(&rig);
        match op {
            Op::Map(want, mask) => {
                let Some(span) = want.span() else { continue };
                match rig.map_masked(span, mask) {
                    Ok(iova) => {
                        let doorbells = rig.host.doorbells();
                        let again = rig.map_masked(span, mask);
                        prop_assert!(again.is_ok(), "{:?} on a repeat", again);
                        prop_assert_eq!(rig.host.doorbells(), doorbells, "a hit rings");
                        prop_assert!(iova.raw() != u64::MAX);
                    }
                    Err(error) => {
                        excused(&rig, &before, &[Some(span)], mask, failing, error)
                            .map_err(TestCaseError::fail)?;
                    }
                }
            }
            Op::MapAll(wants, mask) => {
                let spans: Vec<_> = wants.iter().map(|want| want.span()).collect();
                let list: Vec<_> = spans.iter().copied().map(Entry::new).collect();
                if let Err(error) = rig.map_all(&list, mask) {
                    excused(&rig, &before, &spans, mask, failing, error)
                        .map_err(TestCaseError::fail)?;
                }
            }
            Op::Again(index) => {
                if let Some(held) = held(&rig, index) {
                    if let Err(error) = rig.map_masked(held.span, ALL) {
                        excused(&rig, &before, &[Some(held.span)], ALL, failing, error)
                            .map_err(TestCaseError::fail)?;
                    }
                }
            }
            Op::Unmap(index) => {
                if let Some(held) = held(&rig, index) {
                    rig.unmap_held(&held);
                }
            }
            Op::UnmapAll(from, step) => {
                let some: Vec<_> = {
                    let state = rig.host.look();
                    let from = from % (state.held.len() + 1);
                    state
                        .held
                        .iter()
                        .skip(from)
                        .step_by(step)
                        .copied()
                        .collect()
                };
                let list: Vec<_> = some
                    .iter()
                    .map(|held| Entry::mapped(held.span, Iova::new(held.iova)))
                    .collect();
                rig.unmap_all(&list);
            }
            Op::Misuse(iova, len) => {
                // Nothing of ours is there, so nothing may come of it.
                let state = rig.host.look();
                let last = iova.saturating_add(len);
                let ours = state
                    .mappings
                    .values()
                    .any(|m| m.iova <= last && iova < m.iova + m.span.len());
                drop(state);
                if !ours {
                    let stats = rig.engine.stats();
                    prop_assert!(rig.engine.unmap(Iova::new(iova), len).is_err());
                    prop_assert_eq!(rig.engine.translate(Iova::new(iova), len), None);
                    prop_assert_eq!(rig.engine.stats(), stats);
                }
                if let Some(held) = held(&rig, len as usize) {
                    // Longer than the window is, and longer than anything.
                    for len in [0, 256 * MIB, u64::MAX] {
                        prop_assert!(rig.engine.unmap(Iova::new(held.iova), len).is_err());
                    }
                }
                rig.check();
            }
            Op::MapFaults(faults) => rig.host.look().map_faults.extend(faults),
            Op::UnmapFaults(faults) => rig.host.look().unmap_faults.extend(faults),
            Op::RefuseEvery(every) => rig.host.look().refuse_every = every,
            Op::Away(away) => rig.host.look().ready = !away,
            Op::Retry => {
                rig.engine.retry_lost();
                rig.check();
            }
            Op::FailAllocations(fail) => {
                failing = fail;
                fail_atomic_allocations(fail);
            }
            Op::Age => {
                for _ in 0..2 {
                    rig.engine.age();
                    rig.check();
                }
                let idle = idle(&rig, |_| true);
                let away = !rig.host.look().ready;
                prop_assert!(
                    away || idle.is_empty(),
                    "not used since the first time: {:x?}",
                    idle
                );
            }
            Op::Evict(want) => {
                let Some(all) = want.span() else { continue };
                let busy = {
                    let state = rig.host.look();
                    let busy = state.busy();
                    let overlaps = |key| state.mappings[key].span.overlaps(&all);
                    busy.iter().filter(|key| overlaps(*key)).count()
                };
                prop_assert_eq!(rig.engine.evict(&all) as usize, busy);
                rig.check();
                let idle = idle(&rig, |span| span.overlaps(&all));
                prop_assert!(idle.is_empty(), "nobody uses them: {:x?}", idle);
            }
            Op::Stale(want) => {
                if let Some(span) = want.span() {
                    rig.host.look().leave_stale(&span);
                }
            }
        }
    }
    fail_atomic_allocations(false);

    if tidy {
        while let Some(held) = held(&rig, 0) {
            rig.unmap_held(&held);
        }
        prop_assert_eq!(rig.host.look().busy().len(), 0);
    }
    // With no more faults all that is really there can be given back, lost or not.
    {
        let mut state = rig.host.look();
        state.map_faults.clear();
        state.unmap_faults.clear();
        state.refuse_every = None;
        state.ready = true;
    }
    // So can be what is lost, while drivers have theirs.
    let lost = rig.host.look().view.len();
    for _ in 0..lost {
        rig.engine.retry_lost();
    }
    rig.check();
    {
        let state = rig.host.look();
        // What cannot be mapped is refused whether it is mapped or not.
        let unmappable = |span: &GpaSpan| !state.ram.iter().any(|block| block.covers(span));
        prop_assert!(
            state
                .view
                .values()
                .all(|(span, view)| *view == View::Open || unmappable(span)),
            "still lost: {:x?}",
            state.view
        );
    }
    let host = rig.host.clone();
    rig.release();
    let state = host.look();
    let left = state
        .mappings
        .keys()
        .filter(|key| state.view.contains_key(key))
        .count();
    prop_assert_eq!(left, 0, "mappings of ours after the end");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        // Many, but still a matter of seconds; PROPTEST_CASES asks for more.
        cases: ProptestConfig::default().cases.saturating_mul(16),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn drivers(setup in setups(), seed: u64, ops in ops(), tidy: bool) {
        run(setup, seed, ops, tidy)?;
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
