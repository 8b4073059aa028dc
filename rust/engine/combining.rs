// SPDX-License-Identifier: GPL-2.0

//! Flat combining: the lock holder serves the requests of waiting CPUs with its own doorbell.
//!
//! A CPU that misses while another one rings the doorbell would wait for the lock, and then ring
//! for itself. Instead it publishes its requests in the [`PublicationList`] before it waits. The
//! CPU that holds the lock and is about to ring adds windows for the published requests, and takes
//! a reference for each that is mapped. The publishing CPU collects them when it has the lock.
//!
//! A record is owned by the CPU that claimed it, except `iova` and the step to [`SERVED`], which
//! the lock holder writes.

use super::create::Choice;
use super::{
    Engine,
    Host,
    Locked,
    Observer,
    Request, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::engine::policy::Policy;
use crate::sys::{
    Acquire,
    Alloc,
    AllocError,
    Atomic,
    BoxedSlice,
    Relaxed,
    Release, //
};

/// Number of records: one for each bit of a word. A CPU that finds none free waits and rings for
/// itself.
const RECORDS: usize = u32::BITS as usize;

/// State of a record that is free, or claimed and being written.
const CLAIMED: u32 = 0;
/// State of a record that waits to be served.
const PUBLISHED: u32 = 1;
/// State of a record that was served: there is a reference for it.
const SERVED: u32 = 2;

/// A published request.
struct Record {
    state: Atomic<u32>,
    start: Atomic<u64>,
    len: Atomic<u64>,
    /// The IOVA of the request, once it is served. Lock.
    iova: Atomic<u64>,
}

impl Record {
    fn new() -> Self {
        Self {
            state: Atomic::new(CLAIMED),
            start: Atomic::new(0),
            len: Atomic::new(0),
            iova: Atomic::new(0),
        }
    }

    /// Returns the span of the request, if it is still to be served. Lock.
    fn wanted(&self) -> Option<GpaSpan> {
        // Acquire: the span was written before the state.
        if self.state.load(Acquire) != PUBLISHED {
            return None;
        }
        GpaSpan::new(Gpa::new(self.start.load(Relaxed)), self.len.load(Relaxed))
    }
}

/// The records of all CPUs; see the module's documentation.
pub(super) struct PublicationList {
    /// A bit for each claimed record, so that one load tells when there are none.
    claimed: Atomic<u32>,
    records: BoxedSlice<Record>,
}

/// The records of one call, a bit each.
#[derive(Clone, Copy)]
pub(super) struct RecordSet(u32);

impl RecordSet {
    /// The empty set.
    pub(super) const NONE: Self = Self(0);
}

impl PublicationList {
    /// Creates a list of free records.
    ///
    /// Context: process, may sleep.
    pub(super) fn new() -> Result<Self, AllocError> {
        Ok(Self {
            claimed: Atomic::new(0),
            records: BoxedSlice::new(RECORDS, Alloc::Sleep, |_| Record::new())?,
        })
    }

    /// Publishes those of `requests` that are not mapped yet and are `eligible`, in their order, as
    /// far as records are free. Lock-free. The caller must call [`Engine::collect`] next.
    pub(super) fn publish<'a, R, I>(
        &self,
        requests: I,
        eligible: impl Fn(&GpaSpan) -> bool,
    ) -> RecordSet
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        let mut set = RecordSet::NONE;
        for request in requests.filter(|request| request.iova().is_none()) {
            let Some(span) = request.span().filter(&eligible) else {
                continue;
            };
            let Some((bit, record)) = self.claim() else {
                break;
            };
            record.start.store(span.start().raw(), Relaxed);
            record.len.store(span.len(), Relaxed);
            // Release: a CPU that sees the record published sees its span.
            record.state.store(PUBLISHED, Release);
            set.0 |= bit;
        }
        set
    }

    /// Claims a free record. Returns its bit and the record.
    fn claim(&self) -> Option<(u32, &Record)> {
        let mut old = self.claimed.load(Relaxed);
        loop {
            let index = old.trailing_ones();
            let bit = 1u32.checked_shl(index)?;
            // Acquire: all that the last owner did with the record comes before.
            match self.claimed.cmpxchg(old, old | bit, Acquire) {
                // CAST: `usize` has at least 32 bits.
                Ok(_) => return Some((bit, self.records.get(index as usize)?)),
                Err(now) => old = now,
            }
        }
    }

    /// Frees the records in `set`.
    fn release(&self, set: RecordSet) {
        let mut old = self.claimed.load(Relaxed);
        // Release: all that the owner did with the records comes before the next claim.
        while let Err(now) = self.claimed.cmpxchg(old, old & !set.0, Release) {
            old = now;
        }
    }

    /// Returns the records in `set`.
    fn of(&self, set: RecordSet) -> impl Iterator<Item = &Record> {
        let mut rest = set.0;
        core::iter::from_fn(move || {
            let index = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            // CAST: `usize` has at least 32 bits. With no bit left the index is out of range.
            self.records.get(index as usize)
        })
    }

    /// Returns all claimed records.
    fn all(&self) -> impl Iterator<Item = &Record> {
        // A record that is claimed after this waits for the next doorbell.
        self.of(RecordSet(self.claimed.load(Relaxed)))
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Takes over the references of the records in `set` that were served, and frees the records.
    /// `requests` are those that they were published from.
    ///
    /// Context: engine lock held.
    pub(super) fn collect<'a, R, I>(&self, state: &mut Locked<H>, set: RecordSet, requests: I)
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        if set.0 == 0 {
            return;
        }
        for record in self.published.of(set) {
            if record.state.load(Relaxed) == SERVED {
                let iova = Iova::new(record.iova.load(Relaxed));
                let start = Gpa::new(record.start.load(Relaxed));
                let span = GpaSpan::new(start, record.len.load(Relaxed));
                // Each has one: only this call maps its own missing requests.
                let request = requests
                    .clone()
                    .find(|request| request.iova().is_none() && request.span() == span);
                match (request, span) {
                    (Some(request), _) => {
                        state.counters.shared.inc();
                        request.set_iova(Some(iova));
                    }
                    // Cannot happen: a published request is still missing.
                    (None, span) => {
                        if let Some(span) = span.and_then(|s| IovaSpan::new(iova, s.len())) {
                            let _ = self.put_ref_locked(state, &span);
                        }
                    }
                }
            }
            record.state.store(CLAIMED, Relaxed);
        }
        self.published.release(set);
    }

    /// Adds windows for published requests to the batch, as far as it has room.
    ///
    /// Context: engine lock held.
    pub(super) fn add_published(&self, state: &mut Locked<H>) {
        self.serve_published(state);
        for record in self.published.all() {
            let Some(span) = record.wanted() else {
                continue;
            };
            if self.index.is_pending(&state.index, &span) {
                continue;
            }
            if self.add(state, &span, Choice::Policy, None).is_err() {
                // The CPU that published the request deals with the obstacle.
                return;
            }
        }
    }

    /// Takes references for the published requests that are mapped now.
    ///
    /// Context: engine lock held.
    pub(super) fn serve_published(&self, state: &mut Locked<H>) {
        for record in self.published.all() {
            let Some(iova) = record
                .wanted()
                .and_then(|span| self.hit_locked(state, &span))
            else {
                continue;
            };
            record.iova.store(iova.raw(), Relaxed);
            record.state.store(SERVED, Relaxed);
        }
    }
}
