// SPDX-License-Identifier: GPL-2.0

//! Requests of CPUs that wait for the lock, so that who holds it can serve them by its own
//! doorbell.
//!
//! A CPU that misses while another one is at the host would wait, and then ring for itself. It
//! posts what it wants before it waits. Whoever holds the lock and is about to ring adds the
//! windows that are wanted, and takes a reference for each that came; the CPU that posted finds it
//! when it has the lock.
//!
//! A post belongs to who claimed it, but for its answer, which is written under the lock.

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
    BoxedSlice, //
    Relaxed,
    Release,
};

/// How many requests can be posted at a time: a bit of a word each. What finds no place waits and
/// rings for itself.
const RECORDS: usize = u32::BITS as usize;

/// Being written.
const CLAIMED: u32 = 0;
/// To be served.
const PUBLISHED: u32 = 1;
/// Served: there is a reference for it.
const SERVED: u32 = 2;

/// One request.
struct Record {
    state: Atomic<u32>,
    start: Atomic<u64>,
    len: Atomic<u64>,
    /// Where it is mapped, if it is served. Lock.
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

    /// What is wanted, if nobody served it yet. Lock.
    fn wanted(&self) -> Option<GpaSpan> {
        // Acquire: the span was written before the state.
        if self.state.load(Acquire) != PUBLISHED {
            return None;
        }
        GpaSpan::new(Gpa::new(self.start.load(Relaxed)), self.len.load(Relaxed))
    }
}

/// See the module's documentation.
pub(super) struct PublicationList {
    /// A bit for each post that is somebody's, so that there being none is seen at once.
    claimed: Atomic<u32>,
    published: BoxedSlice<Record>,
}

/// The posts of one call, a bit each.
#[derive(Clone, Copy)]
pub(super) struct RecordSet(u32);

impl RecordSet {
    /// None at all.
    pub(super) const NONE: Self = Self(0);
}

impl PublicationList {
    /// May sleep.
    pub(super) fn new() -> Result<Self, AllocError> {
        Ok(Self {
            claimed: Atomic::new(0),
            published: BoxedSlice::new(RECORDS, Alloc::Sleep, |_| Record::new())?,
        })
    }

    /// Posts what is missing of `requests`, in their order, as far as there is room and `eligible`
    /// says so. Lock-free. [`Engine::collect`] is to follow.
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
            // Release: who sees that it is posted sees what.
            record.state.store(PUBLISHED, Release);
            set.0 |= bit;
        }
        set
    }

    /// Takes a post that is nobody's.
    fn claim(&self) -> Option<(u32, &Record)> {
        let mut old = self.claimed.load(Relaxed);
        loop {
            let index = old.trailing_ones();
            let bit = 1u32.checked_shl(index)?;
            // Acquire: what the last owner did with it comes before.
            match self.claimed.cmpxchg(old, old | bit, Acquire) {
                // CAST: `usize` has at least 32 bits.
                Ok(_) => return Some((bit, self.published.get(index as usize)?)),
                Err(now) => old = now,
            }
        }
    }

    /// Gives up the posts in `set`.
    fn release(&self, set: RecordSet) {
        let mut old = self.claimed.load(Relaxed);
        // Release: we are done with them.
        while let Err(now) = self.claimed.cmpxchg(old, old & !set.0, Release) {
            old = now;
        }
    }

    /// The posts in `set`.
    fn of(&self, set: RecordSet) -> impl Iterator<Item = &Record> {
        let mut rest = set.0;
        core::iter::from_fn(move || {
            let index = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            // CAST: `usize` has at least 32 bits. There is no post for no bit.
            self.published.get(index as usize)
        })
    }

    /// All posts that are somebody's.
    fn all(&self) -> impl Iterator<Item = &Record> {
        // What is claimed after this can wait for the next doorbell.
        self.of(RecordSet(self.claimed.load(Relaxed)))
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Takes back the posts in `set`, and with them what they were served; `requests` are those
    /// that they were made from. The caller holds the lock.
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
                // There is one for each, since nobody else maps what is missing of this call.
                let request = requests
                    .clone()
                    .find(|request| request.iova().is_none() && request.span() == span);
                match (request, span) {
                    (Some(request), _) => {
                        state.counters.shared.inc();
                        request.set_iova(Some(iova));
                    }
                    // Cannot be: what was posted is still missing.
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

    /// Adds windows for what others posted to the batch, as far as it has room.
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
                // What stands in the way is for who posted it to deal with.
                return;
            }
        }
    }

    /// Takes references for what others posted and is mapped now.
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
