// SPDX-License-Identifier: GPL-2.0

//! Granule maps against `HashMap`: several maps on one pool of chunks, with chunks that move from
//! one map to another.

use crate::engine::index::arena::{
    FreeList,
    Segment,
    NONE, //
};
use crate::engine::index::granule_map::{
    chunks_anywhere,
    chunks_for,
    Chunks,
    GranuleMap,
    CHUNK, //
};
use crate::sys::Alloc;
use proptest::prelude::*;
use std::collections::{
    HashMap,
    HashSet, //
};

const CHUNK_GRANULES: u64 = CHUNK as u64;

#[derive(Clone, Debug)]
enum Op {
    Set(usize, u64, u32),
    /// Clears a granule, with its id or the given one.
    Clear(usize, u64, Option<u32>),
}

fn granules() -> impl Strategy<Value = u64> {
    prop_oneof![
        // Few chunks, many collisions.
        0u64..512,
        (0u64..32).prop_map(|chunk| chunk * 0x1000 * CHUNK_GRANULES + 7),
        Just((1 << 50) - 1),
        0u64..1 << 50,
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (0usize..2, granules(), 1u32..50).prop_map(|(m, g, id)| Op::Set(m, g, id)),
        3 => (0usize..2, granules(), Just(None)).prop_map(|(m, g, id)| Op::Clear(m, g, id)),
        1 => (0usize..2, granules(), 0u32..50).prop_map(|(m, g, id)| Op::Clear(m, g, Some(id))),
    ];
    prop::collection::vec(op, 0..200)
}

fn chunks_of(models: &[HashMap<u64, u32>]) -> usize {
    models
        .iter()
        .map(|model| {
            model
                .keys()
                .map(|g| g / CHUNK_GRANULES)
                .collect::<HashSet<_>>()
                .len()
        })
        .sum()
}

#[test]
fn chunks_are_counted() {
    assert_eq!(chunks_for(0, 0), 1);
    assert_eq!(chunks_for(0, 63), 1);
    assert_eq!(chunks_for(63, 64), 2);
    assert_eq!(chunks_for(1, 128), 3);
    assert!(chunks_for(0, u64::MAX) >= 1 << 58);
    for granules in 1..300 {
        let most = (0..64).map(|at| chunks_for(at, at + granules - 1)).max();
        assert_eq!(Some(chunks_anywhere(granules)), most, "{granules}");
    }
}

#[test]
fn chunks_of_a_bucket_are_freed_in_any_order() {
    // A long chain in one of two buckets.
    let map = GranuleMap::new(1, 0).expect("memory");
    let chunks = Chunks::new(64).expect("memory");
    let mut free = FreeList::new();
    while chunks
        .grow(&mut free, Segment::new(Alloc::Sleep).expect("memory"))
        .is_ok()
    {}
    let room = free.len();
    assert!(room >= 64);
    for step in [1, 3, 5, 7, 11] {
        let keys: Vec<u64> = (0..32).map(|n| n * CHUNK_GRANULES).collect();
        for (n, key) in keys.iter().enumerate() {
            let id = u32::try_from(n + 1).expect("small");
            map.set(&chunks, &mut free, *key, id).expect("room");
        }
        assert_eq!(free.len(), room - 32);
        for n in 0..32 {
            let n = n * step % 32;
            let id = u32::try_from(n + 1).expect("small");
            assert_eq!(map.get_locked(&chunks, keys[n]), id);
            map.clear(&chunks, &mut free, keys[n], id);
            assert_eq!(map.get_locked(&chunks, keys[n]), NONE);
        }
        assert_eq!(free.len(), room);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn granule_maps_equal_hash_maps(ops in ops(), bits in 1u32..4) {
        let maps = [
            GranuleMap::new(bits, 0).expect("memory"),
            GranuleMap::new(bits, 1).expect("memory"),
        ];
        let mut models = [HashMap::new(), HashMap::new()];
        let chunks = Chunks::new(64).expect("memory");
        let mut free = FreeList::new();
        let segment = Segment::new(Alloc::Sleep).expect("memory");
        prop_assert!(chunks.grow(&mut free, segment).is_ok());
        let total = free.len();

        for op in ops {
            match op {
                Op::Set(m, granule, id) => {
                    let full = free.len() == 0;
                    let chunk = granule / CHUNK_GRANULES;
                    let new = !models[m].keys().any(|g| g / CHUNK_GRANULES == chunk);
                    let result = maps[m].set(&chunks, &mut free, granule, id);
                    prop_assert_eq!(result.is_err(), full && new);
                    if result.is_ok() {
                        models[m].insert(granule, id);
                    }
                }
                Op::Clear(m, granule, id) => {
                    let now = models[m].get(&granule).copied();
                    let id = id.or(now).unwrap_or(NONE);
                    maps[m].clear(&chunks, &mut free, granule, id);
                    if now == Some(id) {
                        models[m].remove(&granule);
                    }
                }
            }
            prop_assert_eq!(free.len(), total - chunks_of(&models), "chunks in use");
            for (map, model) in maps.iter().zip(&models) {
                for granule in model.keys().flat_map(|g| [*g, g ^ 1, g ^ CHUNK_GRANULES]) {
                    let expected = model.get(&granule).copied().unwrap_or(NONE);
                    prop_assert_eq!(map.get(&chunks, granule), expected);
                    prop_assert_eq!(map.get_locked(&chunks, granule), expected);
                }
            }
        }
        // All chunks are freed.
        for (map, model) in maps.iter().zip(&mut models) {
            for (granule, id) in model.drain() {
                map.clear(&chunks, &mut free, granule, id);
            }
        }
        prop_assert_eq!(free.len(), total);
    }
}
