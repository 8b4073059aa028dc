// SPDX-License-Identifier: GPL-2.0

//! The index of windows alone: which window is found where, which keys and addresses are taken, and
//! that each window takes only its own entries along when it goes.

use super::{
    host::span,
    rig::{
        BASE,
        GIB,
        KIB,
        LARGE,
        MIB,
        RAM, //
    },
};
use crate::{
    addr::{
        Address,
        Gpa,
        Iova,
        IovaSpan,
        GRANULE,
        PAGE, //
    },
    engine::{
        index::{
            arena::{
                Id,
                Segment,
                NONE, //
            },
            IndexWriter,
            ReserveError,
            WindowIndex, //
        },
        ram::Ram,
        window::{
            State,
            Window, //
        },
    },
    sys::{
        Alloc,
        BoxedSlice, //
    },
};
use std::collections::{
    BTreeMap,
    BTreeSet, //
};

const IOVA: u64 = 0x10_0000_0000;

struct Rig {
    index: WindowIndex,
    writer: IndexWriter,
}

impl Rig {
    /// An index with room for all that a test needs. It has 64 buckets of keys.
    fn new() -> Self {
        // Most of what is mapped has no place in the table, so that both maps are used.
        Self::with(RAM, 1)
    }

    /// An index with a table for the first `table_max` granules of `ram`.
    fn with(ram: &[(u64, u64)], table_max: usize) -> Self {
        let blocks = BoxedSlice::new(ram.len(), Alloc::Sleep, |i| span(ram[i].0, ram[i].1));
        let ram = Ram::new(blocks.expect("memory"));
        let index = WindowIndex::new(256, 64 * MIB, &ram, table_max);
        let (index, mut writer) = index.expect("memory");
        for _ in 0..4 {
            let windows = Segment::new(Alloc::Sleep).expect("memory");
            assert!(index.add_windows(&mut writer, windows).is_ok());
        }
        for _ in 0..16 {
            let chunks = Segment::new(Alloc::Sleep).expect("memory");
            assert!(index.add_chunks(&mut writer, chunks).is_ok());
        }
        Self { index, writer }
    }

    fn window(&self, id: Id) -> &Window {
        self.index.window(id).expect("a window")
    }

    /// A pending window, found by its memory; without `anchor` a tile.
    fn insert(&mut self, start: u64, len: u64, anchor: Option<u64>) -> Id {
        let anchor = anchor.map(|start| start / GRANULE);
        let created = self
            .index
            .create(&mut self.writer, &span(start, len), anchor);
        let (id, window) = created.expect("room");
        let inserted = self.index.insert(&mut self.writer, id, window);
        assert!(inserted.is_ok(), "there are chunks");
        id
    }

    /// Makes the host have it, and takes its place.
    fn open(&mut self, id: Id, iova: u64) -> Result<(), ReserveError> {
        let window = self.index.window(id).expect("a window");
        let all = window.span().expect("it is used");
        let iovas = IovaSpan::new(Iova::new(iova), all.len()).expect("a span");
        self.index
            .reserve_iova(&mut self.writer, id, window, &iovas)?;
        self.index.shadow(&mut self.writer, id, window, &all);
        window.open(false);
        Ok(())
    }

    fn remove(&mut self, id: Id) {
        let window = self.index.window(id).expect("a window");
        let _ = window.force_close();
        self.index.remove(&mut self.writer, id, window);
    }

    fn destroy(&mut self, id: Id) {
        let window = self.index.window(id).expect("a window");
        self.index.destroy(&mut self.writer, id, window);
    }

    fn unshadow(&mut self, id: Id) {
        let window = self.index.window(id).expect("a window");
        self.index.unshadow(&mut self.writer, id, window);
    }

    /// Returns the windows found where a request at `start` begins: by memory, and by its start.
    fn found(&self, start: u64) -> (Id, Id) {
        let granule = start / GRANULE;
        let found = (self.index.at_gpa(granule), self.index.at_start(granule));
        let candidates = self.index.candidates(&self.writer, &span(start, 1));
        assert_eq!([found.0, found.1], candidates, "with the lock or without");
        found
    }
}

#[test]
fn a_window_is_found_until_it_is_removed() {
    let mut rig = Rig::new();
    let chunks = rig.writer.free_chunks();
    let tile = rig.insert(BASE, 64 * KIB, None);
    let other = rig.insert(BASE + MIB + 1, 20 * KIB, Some(BASE + MIB));
    assert!(rig.index.is_pending(&rig.writer, &span(BASE + 5, 7)));
    assert!(!rig
        .index
        .is_pending(&rig.writer, &span(BASE + 60 * KIB, 8 * KIB)));
    assert_eq!(rig.found(BASE + 63 * KIB), (tile, NONE));
    assert_eq!(rig.found(BASE + 64 * KIB), (NONE, NONE));
    assert_eq!(rig.found(BASE + MIB), (other, other));
    assert_eq!(rig.found(BASE + MIB + 16 * KIB), (other, NONE));
    let len_at = |start: u64| rig.index.len_at(&rig.writer, start / GRANULE);
    assert_eq!(len_at(BASE), Some(64 * KIB));
    assert_eq!(len_at(BASE + 64 * KIB), None);
    rig.open(tile, IOVA).expect("it is free");
    assert!(!rig.index.is_pending(&rig.writer, &span(BASE, 1)));
    assert_eq!(rig.index.at_iova(IOVA / GRANULE + 3), tile);
    rig.remove(tile);
    assert_eq!(rig.found(BASE), (NONE, NONE));
    // The host may have it, so that what it takes stays taken.
    assert_eq!(rig.index.at_iova(IOVA / GRANULE), tile);
    assert!(!rig.index.key_is_free(&rig.writer, Gpa::new(BASE)));
    rig.destroy(tile);
    assert_eq!(rig.index.at_iova(IOVA / GRANULE), NONE);
    assert!(rig.index.key_is_free(&rig.writer, Gpa::new(BASE)));
    assert_eq!(rig.window(tile).state(), State::Free);
    rig.remove(other);
    rig.destroy(other);
    assert_eq!(rig.writer.free_chunks(), chunks, "all chunks come back");
    assert_eq!(rig.writer.free_windows(), 256);
}

/// Most granules that the module gives places in the table: 256 GiB.
const TABLE_MAX: u64 = 1 << 24;

#[test]
fn all_of_a_large_guest_is_found() {
    for ram in LARGE {
        let first = ram[0].0 / GRANULE;
        let last = |&(start, len): &(u64, u64)| (start + len - 1) / GRANULE;
        for table in [TABLE_MAX, 3000, 0] {
            let mut rig = Rig::with(ram, usize::try_from(table).expect("64 bits"));
            let chunks = rig.writer.free_chunks();
            // The first and the last granule of each block and of the table, one between, and some
            // in every eighth GiB.
            let mut granules: BTreeSet<u64> = ram
                .iter()
                .flat_map(|block| {
                    let (start, end) = (block.0 / GRANULE, last(block));
                    [start, start + (end - start) / 2, end]
                })
                .chain([first + table.max(1) - 1, first + table])
                .chain(
                    (0..128)
                        .step_by(8)
                        .map(|gib| (gib * GIB + 5 * MIB) / GRANULE),
                )
                .collect();
            granules.retain(|granule| {
                let holds =
                    |block: &(u64, u64)| (block.0 / GRANULE..=last(block)).contains(granule);
                ram.iter().any(holds)
            });
            assert!(granules.len() > 8, "{granules:x?}");
            let mut ids = BTreeMap::new();
            for &granule in &granules {
                let free = rig.writer.free_chunks();
                let id = rig.insert(granule * GRANULE, GRANULE, None);
                let needed = u32::from(granule - first >= table);
                let near = ids.keys().any(|other| other / 64 == granule / 64);
                if needed == 0 || !near {
                    let used = free - rig.writer.free_chunks();
                    assert_eq!(used, needed as usize, "{granule:#x} of {ram:x?}, {table}");
                }
                ids.insert(granule, id);
            }
            for (&granule, &id) in &ids {
                assert_ne!(id, NONE);
                // Neighbours, and granules that a narrow index would take for this one.
                let others = [1, TABLE_MAX, 1 << 32].map(|far| granule + far);
                for other in others
                    .into_iter()
                    .chain([granule, granule.saturating_sub(1)])
                {
                    let wanted = ids.get(&other).copied().unwrap_or(NONE);
                    assert_eq!(rig.found(other * GRANULE), (wanted, NONE));
                }
            }
            for (_, id) in ids {
                rig.remove(id);
                rig.destroy(id);
            }
            assert_eq!(rig.writer.free_chunks(), chunks, "all chunks come back");
        }
    }
}

#[test]
fn a_larger_window_hides_a_smaller_one_once_it_is_open() {
    let mut rig = Rig::new();
    let (low, high) = (BASE + 4 * KIB, BASE + 20 * KIB);
    let small = rig.insert(low, 12 * KIB, Some(low));
    rig.open(small, IOVA).expect("it is free");
    let large = rig.insert(BASE, 64 * KIB, Some(BASE));
    // Should the host not make it, the other one is still found.
    assert_eq!(rig.found(low), (small, large));
    assert_eq!(rig.found(high), (large, NONE));
    rig.open(large, IOVA + MIB).expect("it is free");
    assert_eq!(rig.found(low), (large, large));
    // What is not all covered stays.
    let beside = rig.insert(BASE + 48 * KIB, 32 * KIB, Some(BASE + 60 * KIB));
    rig.open(beside, IOVA + 2 * MIB).expect("it is free");
    assert_eq!(rig.found(BASE + 60 * KIB), (large, beside));
    assert_eq!(rig.found(BASE + 64 * KIB), (beside, NONE));
    rig.remove(large);
    assert_eq!(
        rig.found(low),
        (NONE, NONE),
        "a shadowed window is not restored by itself"
    );
    rig.unshadow(small);
    assert_eq!(rig.found(low), (small, small));
    assert_eq!(rig.found(high), (NONE, NONE));
    rig.unshadow(beside);
    assert_eq!(rig.found(BASE + 60 * KIB), (beside, beside));
}

#[test]
fn no_window_takes_the_entries_of_another_along() {
    let mut rig = Rig::new();
    let small = rig.insert(BASE + 1, 4 * KIB, Some(BASE));
    let again = rig.insert(BASE + 2, 4 * KIB, Some(BASE));
    assert_eq!(rig.found(BASE), (small, again));
    let tile = rig.insert(BASE, 64 * KIB, None);
    assert_eq!(rig.found(BASE), (tile, again), "a tile comes first");
    rig.remove(small);
    assert_eq!(rig.found(BASE), (tile, again));
    rig.unshadow(small);
    assert_eq!(rig.found(BASE), (tile, again), "nothing is free for it");
    rig.remove(tile);
    assert_eq!(rig.found(BASE), (NONE, again));
    rig.remove(again);
    assert_eq!(rig.found(BASE), (NONE, NONE));
}

#[test]
fn keys_that_share_a_bucket() {
    for step in [1, 7, 97, 199] {
        let mut rig = Rig::new();
        let start = |n: usize| BASE + n as u64 * PAGE;
        // Three to a bucket on average.
        let mut ids: BTreeMap<_, _> = (0..200)
            .map(|n| {
                let created = rig.index.create(&mut rig.writer, &span(start(n), 1), None);
                (n, created.expect("room").0)
            })
            .collect();
        for n in 0..200 {
            let n = n * step % 200;
            let id = ids.remove(&n).expect("each once");
            rig.destroy(id);
            for n in 0..200 {
                let is_free = rig.index.key_is_free(&rig.writer, Gpa::new(start(n)));
                assert_eq!(is_free, !ids.contains_key(&n));
            }
            // One byte further is another key.
            assert!(rig.index.key_is_free(&rig.writer, Gpa::new(start(n) + 1)));
        }
        assert_eq!(rig.writer.free_windows(), 256);
    }
}

#[test]
fn a_key_that_is_taken_moves_the_start_as_little_as_can_be() {
    let mut rig = Rig::new();
    let want = span(BASE + 64 * KIB, 64 * KIB);
    let start = want.start().raw();
    let moved = |rig: &Rig, starts| {
        let moved = rig.index.with_free_key(&rig.writer, &want, starts);
        moved.inspect(|moved| assert_eq!(moved.end(), want.end()))
    };
    let at = |start| Some(span(start, want.end() - start));
    assert_eq!(moved(&rig, start..=start), Some(want));
    rig.insert(start, 1, None);
    assert_eq!(moved(&rig, BASE..=want.end()), at(start + PAGE));
    assert_eq!(moved(&rig, BASE..=start), at(start - PAGE));
    rig.insert(start - PAGE, 1, None);
    assert_eq!(moved(&rig, BASE..=start), at(start - 2 * PAGE));
    assert_eq!(moved(&rig, start - PAGE..=start), None);
    assert_eq!(moved(&rig, start..=start), None);
}

#[test]
fn addresses_belong_to_one_window() {
    let mut rig = Rig::new();
    let first = rig.insert(BASE, 32 * KIB, None);
    rig.open(first, IOVA + 16 * KIB).expect("it is free");
    let second = rig.insert(BASE + MIB, 64 * KIB, None);
    let taken = |lost| Err(ReserveError::Taken { lost });
    assert_eq!(rig.open(second, IOVA), taken(false));
    let at = |rig: &Rig| [0, 1, 2, 3].map(|n| rig.index.at_iova(IOVA / GRANULE + n));
    // What was free is noted all the same: the host may have it there.
    assert_eq!(at(&rig), [second, first, first, second]);
    rig.remove(second);
    rig.destroy(second);
    assert_eq!(at(&rig), [NONE, first, first, NONE]);
    rig.remove(first);
    rig.window(first).set_state(State::Lost);
    let third = rig.insert(BASE + MIB, 64 * KIB, None);
    assert_eq!(rig.open(third, IOVA), taken(true));
    assert_eq!(at(&rig), [third, first, first, third]);
    rig.destroy(first);
    assert_eq!(at(&rig), [third, NONE, NONE, third]);
}

#[test]
fn chunks_are_there_for_what_is_reserved() {
    let blocks = BoxedSlice::new(1, Alloc::Sleep, |_| span(BASE, GRANULE));
    let ram = Ram::new(blocks.expect("memory"));
    let (index, mut writer) = WindowIndex::new(64, MIB, &ram, 0).expect("memory");
    let one = span(BASE, 1);
    assert!(!writer.has_chunks(&one), "there are none yet");
    let chunks = Segment::new(Alloc::Sleep).expect("memory");
    assert!(index.add_chunks(&mut writer, chunks).is_ok());
    // Three for a granule: by memory, by start, by address.
    for reserved in 0..12 {
        assert!(writer.has_chunks(&one), "{reserved} of 15 are reserved");
        writer.reserve_chunks(&one);
    }
    assert!(writer.has_chunks(&one));
    writer.reserve_chunks(&one);
    assert!(!writer.has_chunks(&one));
    writer.unreserve_chunks();
    assert!(writer.has_chunks(&one));
    // A MiB lies in one or two, wherever it begins; 13 and one more are too many.
    assert!(writer.has_chunks(&span(BASE, 6 * MIB)));
    assert!(!writer.has_chunks(&span(BASE, 7 * MIB)));
}
