// SPDX-License-Identifier: GPL-2.0

//! A reader that strays: the chunk that it is at is freed and leads it to a free chunk, which still
//! has the key that the reader looks for, and which is taken for other addresses before the reader
//! loads the id. What it finds is another window.
//!
//! That takes two interruptions of a reader at certain accesses, which random schedules hardly ever
//! have. So this tries all schedules with two interruptions.

use super::host::{
    span,
    Placement, //
};
use super::rig::{
    Rig,
    Setup,
    TestPolicy,
    ALL,
    BASE,
    MIB, //
};
use super::schedules::{
    bucket,
    DISTANCE, //
};
use crate::addr::{
    Address,
    Gpa,
    Iova, //
};
use shuttle::{
    scheduler::{
        Schedule,
        Scheduler,
        Task,
        TaskId, //
    },
    sync::Arc,
    thread,
    Config,
    FailurePersistence,
    Runner, //
};
use std::sync::atomic::{
    AtomicUsize,
    Ordering::SeqCst, //
};

/// The most accesses of a reader before an interruption.
const STEPS: usize = 20;

/// The parts of the writer's work that are done.
static PARTS: AtomicUsize = AtomicUsize::new(0);

/// A scheduler that interrupts the reader twice, for a part of the writer's work each time: after
/// each number of steps in turn.
struct TwoInterruptions {
    execution: usize,
    /// The reader's steps until the first interruption, and from there to the second.
    steps: [usize; 2],
    /// The reader's steps so far.
    done: usize,
}

impl TwoInterruptions {
    /// Returns the thread that is to run next: 0 the first one, 1 the reader, 2 the writer.
    fn wanted(&self) -> usize {
        match PARTS.load(SeqCst) {
            0 if self.done >= self.steps[0] => 2,
            1 if self.done >= self.steps[0] + self.steps[1] => 2,
            _ => 1,
        }
    }
}

impl Scheduler for TwoInterruptions {
    fn new_execution(&mut self) -> Option<Schedule> {
        PARTS.store(0, SeqCst);
        self.steps = [self.execution / STEPS, self.execution % STEPS];
        self.done = 0;
        self.execution += 1;
        (self.steps[0] < STEPS).then(|| Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], _: Option<TaskId>, _: bool) -> Option<TaskId> {
        let wanted = self.wanted();
        let ids = || runnable.iter().map(|task| task.id());
        let is = |number: usize| move |id: &TaskId| usize::from(*id) == number;
        // The first thread runs until it waits for the others.
        let next = ids()
            .find(is(0))
            .or_else(|| ids().find(is(wanted)))
            .or_else(|| ids().next())?;
        if usize::from(next) == 1 {
            self.done += 1;
        }
        Some(next)
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}

/// Returns the number of schedules that were tried.
fn explore(test: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    let scheduler = TwoInterruptions {
        execution: 0,
        steps: [0; 2],
        done: 0,
    };
    Runner::new(scheduler, config).run(test)
}

#[test]
fn a_reader_that_strays_finds_its_window_all_the_same() {
    let tried = explore(|| {
        let rig = Rig::with_ram(
            Setup {
                policy: TestPolicy::Aligned(14),
                strict: true,
                placement: Placement::Offset(DISTANCE),
                max_entries: 16,
                // Only IOVAs are in chunks.
                table_max: 1 << 20,
                ..Setup::default()
            },
            &[(BASE, 256 * MIB)],
        );
        rig.engine.reserve(8).expect("memory");
        let rig = Arc::new(rig);
        let map = {
            let rig = rig.clone();
            move |start: u64| rig.engine.map(span(start, 4096), ALL).expect("room")
        };
        let at = |start: u64| Iova::new(start + DISTANCE);
        let kept = BASE + MIB;
        let mut others = (2..192).map(|n| BASE + n * MIB);
        // The first chunk that was taken gets the key, and is the last of three free ones.
        let first = [
            kept,
            others.next().expect("one"),
            others.next().expect("one"),
        ];
        first.map(&map).map(|iova| rig.unmap_page(iova));
        // The window that stays gets another chunk; one that goes is before it in the bucket.
        assert_eq!(map(kept), at(kept));
        let same = |start: &u64| bucket(*start + DISTANCE) == bucket(kept + DISTANCE);
        let gone = others.find(same).expect("a neighbour in the bucket");
        let gone = map(gone);

        let reader = {
            let rig = rig.clone();
            thread::spawn(move || {
                let found = rig.engine.translate(at(kept), 4096);
                assert_eq!(found, Some(Gpa::new(kept)), "a mapping that is held");
            })
        };
        let writer = {
            let (rig, map) = (rig.clone(), map.clone());
            let next = [others.next().expect("one"), others.next().expect("one")];
            thread::spawn(move || {
                rig.unmap_page(gone);
                PARTS.store(1, SeqCst);
                // These take the chunk that is gone, and the one that has the key.
                let held = next.map(map);
                PARTS.store(2, SeqCst);
                held
            })
        };
        reader.join().expect("the thread succeeds");
        writer.join().expect("the thread succeeds");
    });
    assert_eq!(tried, STEPS * STEPS);
}
