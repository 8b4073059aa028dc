// SPDX-License-Identifier: GPL-2.0

//! Submission and completion queues: rings in guest memory, doorbells, phase tags.

use crate::addr::Iova;
use crate::bus::{
    Bus,
    DmaError, //
};
use crate::nvme::spec::{
    Command,
    Status,
    CQE_SIZE,
    SQE_SIZE, //
};
use crate::sync::{
    lock,
    pause,
    wait, //
};
use std::{
    sync::{
        atomic::{
            fence,
            AtomicBool,
            Ordering, //
        },
        Arc,
        Condvar,
        Mutex, //
    },
    time::Duration, //
};

/// Reason for the end of a queue's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The queue is deleted, or the controller disabled.
    Asked,
    /// Guest memory could not be accessed.
    Dma(DmaError),
}

impl From<DmaError> for Stop {
    fn from(e: DmaError) -> Self {
        Self::Dma(e)
    }
}

#[derive(Debug)]
struct CqState {
    /// The next entry that the controller writes.
    tail: u32,
    phase: bool,
    /// The next entry that the guest reads, as of its last doorbell.
    head: u32,
}

/// A completion queue.
#[derive(Debug)]
pub struct CompletionQueue {
    /// First entry.
    base: Iova,
    /// Number of entries.
    size: u32,
    /// The vector to raise.
    vector: Option<u16>,
    state: Mutex<CqState>,
    room: Condvar,
}

impl CompletionQueue {
    /// Creates an empty queue.
    pub fn new(base: Iova, size: u32, vector: Option<u16>) -> Self {
        Self {
            base,
            size,
            vector,
            state: Mutex::new(CqState {
                tail: 0,
                phase: true,
                head: 0,
            }),
            room: Condvar::new(),
        }
    }

    /// Sets the entry up to which the guest has read. Returns whether `head` is possible.
    pub fn set_head(&self, head: u32) -> bool {
        let mut state = lock(&self.state);
        let filled = (state.tail + self.size - state.head) % self.size;
        if head >= self.size || (head + self.size - state.head) % self.size > filled {
            return false;
        }
        state.head = head;
        self.room.notify_all();
        true
    }

    /// Writes a completion of a command from `sq` and raises the vector. Waits while
    /// the queue is full.
    fn post(
        &self,
        bus: &Bus,
        sq: &SubmissionQueue,
        cid: u16,
        result: u32,
        status: Status,
    ) -> Result<(), Stop> {
        let mut state = lock(&self.state);
        while (state.tail + 1) % self.size == state.head {
            if sq.stopped() {
                return Err(Stop::Asked);
            }
            state = wait(&self.room, state);
        }
        let head = lock(&sq.state).head;
        let ids = head | (u32::from(sq.id) << 16);
        let last =
            u32::from(cid) | (u32::from(state.phase) << 16) | (u32::from(status.field()) << 17);
        let mut entry = [0; CQE_SIZE];
        entry[0..4].copy_from_slice(&result.to_le_bytes());
        entry[8..12].copy_from_slice(&ids.to_le_bytes());
        // The guest polls the phase tag: the dword that contains it is written last.
        let at = self
            .base
            .0
            .wrapping_add(u64::from(state.tail) * CQE_SIZE as u64);
        bus.write(Iova(at), &entry[..12])?;
        fence(Ordering::Release);
        bus.write(Iova(at.wrapping_add(12)), &last.to_le_bytes())?;
        state.tail += 1;
        if state.tail == self.size {
            state.tail = 0;
            state.phase = !state.phase;
        }
        drop(state);
        if let Some(vector) = self.vector {
            bus.interrupt(vector);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SqState {
    /// The next entry that the controller reads.
    head: u32,
    /// The next entry that the guest writes, as of its last doorbell.
    tail: u32,
}

/// A submission queue. One thread takes entries from it.
#[derive(Debug)]
pub struct SubmissionQueue {
    /// Its number; 0 is the admin queue.
    pub id: u16,
    /// The queue of its completions.
    pub cq: Arc<CompletionQueue>,
    /// Number of that queue.
    pub cq_id: u16,
    base: Iova,
    size: u32,
    state: Mutex<SqState>,
    changed: Condvar,
    stop: AtomicBool,
}

impl SubmissionQueue {
    /// Creates an empty queue.
    pub fn new(id: u16, base: Iova, size: u32, cq: Arc<CompletionQueue>, cq_id: u16) -> Self {
        Self {
            id,
            cq,
            cq_id,
            base,
            size,
            state: Mutex::new(SqState { head: 0, tail: 0 }),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        }
    }

    /// Sets the entry up to which the guest has written. Returns whether `tail` is possible.
    pub fn set_tail(&self, tail: u32) -> bool {
        if tail >= self.size {
            return false;
        }
        lock(&self.state).tail = tail;
        self.changed.notify_all();
        true
    }

    /// Requests that the queue's thread ends as soon as possible.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        // Under the locks, so that no thread is between its check and its wait.
        drop(lock(&self.state));
        self.changed.notify_all();
        drop(lock(&self.cq.state));
        self.cq.room.notify_all();
    }

    /// Returns whether the thread was asked to end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Waits for an entry and returns it.
    pub fn next(&self, bus: &Bus) -> Result<Command, Stop> {
        let mut state = lock(&self.state);
        while state.head == state.tail {
            if self.stopped() {
                return Err(Stop::Asked);
            }
            state = wait(&self.changed, state);
        }
        let at = u64::from(state.head) * SQE_SIZE as u64;
        drop(state);
        if self.stopped() {
            return Err(Stop::Asked);
        }
        let mut entry = [0; SQE_SIZE];
        bus.read(Iova(self.base.0.wrapping_add(at)), &mut entry)?;
        let mut state = lock(&self.state);
        state.head = (state.head + 1) % self.size;
        Ok(Command::new(&entry))
    }

    /// Completes a command.
    pub fn complete(&self, bus: &Bus, cid: u16, result: u32, status: Status) -> Result<(), Stop> {
        self.cq.post(bus, self, cid, result, status)
    }

    /// Waits for `time`, or less if the thread is asked to end.
    pub fn pause(&self, time: Duration) {
        pause(&self.changed, &self.state, time, || self.stopped());
    }
}
