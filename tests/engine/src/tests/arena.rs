// SPDX-License-Identifier: GPL-2.0

//! The arena: numbers, growth and the free list.

use crate::engine::index::arena::{
    Arena,
    FreeList,
    Linked,
    Segment,
    NONE, //
};
use crate::sys::{
    fail_atomic_allocations,
    Alloc,
    AllocError,
    Atomic, //
};
use proptest::prelude::*;
use std::collections::HashSet;

#[derive(Default)]
struct Object {
    link: Link,
}

struct Link(Atomic<u32>);

impl Default for Link {
    fn default() -> Self {
        Self(Atomic::new(NONE))
    }
}

impl Linked for Object {
    fn link(&self) -> &Atomic<u32> {
        &self.link.0
    }
}

fn segment() -> Segment<Object> {
    Segment::new(Alloc::Sleep).expect("memory")
}

#[test]
fn ids_go_from_one_to_the_last() {
    let arena = Arena::<Object>::new(100).expect("memory");
    let mut free = FreeList::new();
    assert!(arena.get(NONE).is_none());
    assert!(arena.get(1).is_none());
    assert!(arena.take(&mut free).is_none());
    assert_eq!(free.last_id(), 0);

    assert!(arena.grow(&mut free, segment()).is_ok());
    assert_eq!((free.len(), free.last_id()), (64, 64));
    assert!(arena.get(1).is_some());
    assert!(arena.get(64).is_some());
    assert!(arena.get(65).is_none());

    // At least the requested maximum, and no more segments than that takes.
    assert!(arena.grow(&mut free, segment()).is_ok());
    assert_eq!((free.len(), free.last_id()), (128, 128));
    assert!(arena.grow(&mut free, segment()).is_err());
    assert_eq!((free.len(), free.last_id()), (128, 128));
    for id in [NONE, 129, u32::MAX] {
        assert!(arena.get(id).is_none());
        // Has no effect.
        arena.free(&mut free, id);
        assert_eq!(free.len(), 128);
    }
}

#[test]
fn an_arena_may_be_empty() {
    let arena = Arena::<Object>::new(0).expect("memory");
    let mut free = FreeList::new();
    assert!(arena.grow(&mut free, segment()).is_err());
    assert!(arena.get(1).is_none());
}

#[test]
fn allocating_a_segment_may_fail() {
    fail_atomic_allocations(true);
    assert_eq!(
        Segment::<Object>::new(Alloc::Atomic).err(),
        Some(AllocError)
    );
    assert!(Segment::<Object>::new(Alloc::Sleep).is_ok());
    fail_atomic_allocations(false);
    assert!(Segment::<Object>::new(Alloc::Atomic).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Takes an object for each `None`, and frees one of those taken for each number.
    #[test]
    fn every_object_has_one_user(ops in prop::collection::vec(any::<Option<usize>>(), 0..300)) {
        let arena = Arena::<Object>::new(128).expect("memory");
        let mut free = FreeList::new();
        let mut taken: Vec<(u32, *const Object)> = Vec::new();
        for op in ops {
            match op {
                None => {
                    if free.len() == 0 {
                        let grows = free.last_id() < 128;
                        prop_assert_eq!(arena.grow(&mut free, segment()).is_ok(), grows);
                    }
                    match arena.take(&mut free) {
                        Some((id, object)) => taken.push((id, object)),
                        None => prop_assert_eq!(taken.len(), 128),
                    }
                }
                Some(_) if taken.is_empty() => {}
                Some(index) => {
                    let (id, _) = taken.swap_remove(index % taken.len());
                    arena.free(&mut free, id);
                }
            }
            let ids: HashSet<_> = taken.iter().map(|(id, _)| id).collect();
            prop_assert_eq!(ids.len(), taken.len());
            prop_assert_eq!(free.len() + taken.len(), free.last_id() as usize);
            // Objects stay where they are.
            for (id, object) in &taken {
                prop_assert!(arena.get(*id).is_some_and(|o| std::ptr::eq(o, *object)));
            }
        }
    }
}
