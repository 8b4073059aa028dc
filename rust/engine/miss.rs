// SPDX-License-Identifier: GPL-2.0

//! Mapping what no window serves: rounds under the lock, each with one doorbell at most, until
//! everything is mapped or something stands in the way that does not give.

use super::alignment::{
    self,
    Aim, //
};
use super::combining::Tickets;
use super::index::Obstacle;
use super::recovery::Patience;
use super::{
    bump,
    note,
    reachable,
    Command,
    Engine,
    Host,
    HostError,
    MapEntry,
    MapError,
    Observer,
    Request,
    Seen,
    Slow, //
};
use crate::addr::{
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::engine::index::arena::{
    Id,
    Segment,
    NONE, //
};
use crate::engine::index::granule_map::{
    chunks_anywhere,
    chunks_for, //
};
use crate::engine::policy::{
    smallest,
    Policy,
    Proposal, //
};
use crate::engine::window::{
    Put,
    State,
    Window, //
};
use crate::host::wire::{
    MapOutcome,
    Reject, //
};
use crate::sys::Alloc;

/// Rounds of the slow path before a request is given up. Every round but the last makes progress,
/// so this bounds what a host can do that keeps us busy, not what a driver can map.
pub(super) const MAX_ROUNDS: usize = 4096;

/// How windows are chosen for what is still missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// As the policy proposes.
    Policy,
    /// The smallest that serves.
    Smallest,
}

/// What the rounds for one call hand on to each other.
pub(super) struct Turn {
    pub(super) choice: Choice,
    /// Whether the tables could grow the last time that they had to.
    may_grow: bool,
    /// Windows that were looked at since the last idle one was found.
    scanned: u32,
    /// How the address should come out, if that matters.
    aim: Option<Aim>,
    /// How often what is lost was asked for again since there was no room, or no key.
    for_room: Patience,
    /// How often since it was in the way of an address.
    for_address: Patience,
    /// Whether keys were given back since there was progress.
    freed_keys: bool,
}

/// What came of one doorbell for new windows.
pub(super) enum Ring {
    /// The host made at least one of them.
    Opened,
    /// The host made it, but at an address that is not what the call aims at.
    Misplaced,
    /// The host made none.
    Failed(MapError),
}

/// What came of one round of the slow path.
pub(super) enum Round {
    /// Everything is mapped.
    Done,
    /// There is more to do, and this round brought it nearer.
    Again,
    /// The tables are too small; the round can go on after they have grown.
    Grow,
    /// This choice of windows does not work.
    Failed(MapError),
}

impl<H: Host, P: Policy> Engine<H, P> {
    /// Maps what is missing of `requests`.
    #[cold]
    #[inline(never)]
    pub(super) fn map_missing<'a, R, I>(&self, requests: I, mask: u64) -> Result<(), MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let mut turn = Turn {
            choice: Choice::Policy,
            may_grow: true,
            scanned: 0,
            aim: self.congruent.then(|| Aim::new(requests.clone())).flatten(),
            for_room: Patience::default(),
            for_address: Patience::default(),
            freed_keys: false,
        };
        // CAST: `usize` has at most 64 bits.
        let missing = requests.clone().filter(|r| r.iova().is_none()).count() as u64;
        let mut result = Err(MapError::Refused);
        for _ in 0..MAX_ROUNDS {
            let (mut guard, tickets) = match self.slow.try_lock() {
                Some(guard) => (guard, Tickets::NONE),
                None => {
                    let tickets = self
                        .posts
                        .post(requests.clone(), |span| self.may_share(span));
                    (self.slow.lock(), tickets)
                }
            };
            self.collect(&mut guard, tickets, requests.clone());
            match self.round(&mut guard, requests.clone(), mask, &mut turn) {
                Round::Done => {
                    guard.stats.misses = guard.stats.misses.saturating_add(missing);
                    result = Ok(());
                    break;
                }
                Round::Again => turn.freed_keys = false,
                Round::Grow => {
                    let missing = requests.clone().filter(|r| r.iova().is_none());
                    let windows = missing.count().min(guard.map.entries.len());
                    drop(guard);
                    // The tables' memory comes from outside the lock.
                    turn.may_grow = self.grow_for(windows);
                }
                Round::Failed(error) => {
                    result = Err(error);
                    if matches!(error, MapError::Unreachable(_) | MapError::Invalid) {
                        break;
                    }
                    let stale = guard.stats.stale;
                    self.unmap_suspects_in_turn(guard);
                    // A host that refuses what it maps would have us do so again and again.
                    let freed_keys = self.slow.lock().stats.stale != stale;
                    if freed_keys && !turn.freed_keys {
                        turn.freed_keys = true;
                        continue;
                    }
                    // Perhaps it is something lost that is in the way.
                    let patience = match error {
                        MapError::Rejected(_) => &mut turn.for_address,
                        _ => &mut turn.for_room,
                    };
                    if patience.lasts(self.lost_steps(error)) && self.retry_lost_step() {
                        turn.scanned = 0;
                        continue;
                    }
                    if turn.choice == Choice::Smallest {
                        break;
                    }
                    bump(&mut self.slow.lock().stats.smaller);
                    turn.choice = Choice::Smallest;
                    turn.freed_keys = false;
                    turn.scanned = 0;
                    turn.aim = None;
                    let some = requests.clone().any(|r| r.iova().is_some());
                    if some && matches!(error, MapError::Full(_)) {
                        // The larger windows that this call took are in the way of smaller ones.
                        self.let_go(requests.clone());
                        self.give_back_idle();
                    }
                }
            }
        }
        // What the host says that it mapped, but not in a way we can use.
        self.give_back_retired();
        result
    }

    /// Makes the tables larger, if it can, so large that `windows` more small windows go to the
    /// host together. Says whether there is any use in trying again.
    pub(super) fn grow_for(&self, windows: usize) -> bool {
        // Each in every map, by two chunks where it can be anywhere.
        let chunks = windows.saturating_mul(5);
        let mut chunk_grown = false;
        loop {
            let (few_windows, few_chunks) = {
                let slow = self.slow.lock();
                (
                    slow.free_windows.len() < windows,
                    // Large windows need more, so that one more never is too many.
                    slow.free_chunks.len() < chunks || !chunk_grown,
                )
            };
            if !few_windows && !few_chunks {
                return true;
            }
            if !self.grow(few_windows, few_chunks, Alloc::Atomic) {
                return chunk_grown;
            }
            chunk_grown = true;
        }
    }

    /// Allocates what the tables lack. Says whether there is any use in trying again.
    pub(super) fn grow(&self, windows: bool, chunks: bool, alloc: Alloc) -> bool {
        let mut grown = false;
        // What the tables have no use for is freed after the lock is let go.
        if windows {
            if let Ok(segment) = Segment::new(alloc) {
                let left = self
                    .windows
                    .grow(&mut self.slow.lock().free_windows, segment);
                grown |= left.is_ok();
            }
        }
        if chunks {
            if let Ok(segment) = Segment::new(alloc) {
                let left = self.chunks.grow(&mut self.slow.lock().free_chunks, segment);
                grown |= left.is_ok();
            }
        }
        grown
    }

    /// One turn under the lock, with one doorbell at most.
    pub(super) fn round<'a, R, I>(
        &self,
        slow: &mut Slow<H>,
        requests: I,
        mask: u64,
        turn: &mut Turn,
    ) -> Round
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        self.collect_retired(slow);
        if slow.retired != NONE {
            self.unmap_retired(slow);
            return Round::Again;
        }

        let mut all = true;
        for request in requests.clone() {
            if let Some(iova) = request.iova() {
                // Another CPU's doorbell may have served it.
                match request.span() {
                    Some(span) if !reachable(iova, &span, mask) => {
                        return self.abandon(slow, MapError::Unreachable(iova));
                    }
                    _ => continue,
                }
            }
            let Some(span) = request.span() else {
                return self.abandon(slow, MapError::Invalid);
            };
            if let Some(iova) = self.hit_locked(&span) {
                request.set_iova(Some(iova));
                if !reachable(iova, &span, mask) {
                    return self.abandon(slow, MapError::Unreachable(iova));
                }
                continue;
            }
            if self.is_pending(&span) {
                continue;
            }
            if !slow.host.is_ready() {
                return self.abandon(slow, MapError::NoAnswer);
            }
            let obstacle = match self.add(slow, &span, turn.choice, turn.aim.as_mut()) {
                Ok(()) => continue,
                Err(obstacle) => obstacle,
            };
            if matches!(obstacle, Obstacle::Tables) && turn.may_grow {
                // All of it together, after that.
                self.drop_batch(slow);
                return Round::Grow;
            }
            if !slow.map.is_empty() {
                // First what is there already; the rest has its turn after it.
                all = false;
                break;
            }
            return match obstacle {
                Obstacle::Batch => Round::Failed(MapError::Refused),
                Obstacle::Fatal(error) => Round::Failed(error),
                Obstacle::Tables => self.reclaim(slow, &mut turn.scanned, MapError::NoMemory),
                Obstacle::Limit(limit) => {
                    self.reclaim(slow, &mut turn.scanned, MapError::Full(limit))
                }
                // Idle windows may have them.
                Obstacle::Key => self.reclaim(slow, &mut turn.scanned, MapError::NoKey),
            };
        }

        if slow.map.is_empty() {
            return Round::Done;
        }
        let own = slow.map.len;
        if all {
            self.invite(slow);
        }
        let round = match self.ring_map(slow, own, turn.aim.as_mut()) {
            Ring::Failed(error) => Round::Failed(error),
            Ring::Misplaced => Round::Again,
            Ring::Opened => self.resolve(slow, requests, mask),
        };
        self.serve(slow);
        self.settle(slow);
        round
    }

    /// Whether a doorbell of another CPU may serve `span`, which leaves where it goes to the host.
    fn may_share(&self, span: &GpaSpan) -> bool {
        !self.congruent || alignment::modulus(span).is_none()
    }

    /// Takes references to the windows that were just made, before the lock is let go.
    pub(super) fn resolve<'a, R, I>(&self, slow: &mut Slow<H>, requests: I, mask: u64) -> Round
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        let mut round = Round::Done;
        for request in requests {
            if request.iova().is_some() {
                continue;
            }
            let Some(span) = request.span() else {
                return Round::Failed(MapError::Invalid);
            };
            match self.hit_locked(&span) {
                Some(iova) => {
                    request.set_iova(Some(iova));
                    if !reachable(iova, &span, mask) {
                        return Round::Failed(MapError::Unreachable(iova));
                    }
                    if let Some(modulus) = alignment::modulus(&span) {
                        bump(&mut slow.stats.large);
                        if alignment::is_congruent(span.start(), iova, modulus) {
                            bump(&mut slow.stats.congruent);
                        }
                    }
                }
                None => round = Round::Again,
            }
        }
        round
    }

    /// Gives up the windows that were prepared but not asked for.
    pub(super) fn drop_batch(&self, slow: &mut Slow<H>) {
        for index in 0..slow.map.len {
            if let Some(entry) = slow.map.get(index) {
                if let Some(window) = self.windows.get(entry.id) {
                    self.unlink(slow, entry.id, window);
                    self.discard(slow, entry.id, window);
                }
            }
        }
        slow.map.clear();
        slow.reserved_chunks = 0;
    }

    /// Ends the call before its batch went to the host.
    pub(super) fn abandon(&self, slow: &mut Slow<H>, error: MapError) -> Round {
        self.drop_batch(slow);
        Round::Failed(error)
    }

    /// Whether a window that will serve `span` is in the batch.
    pub(super) fn is_pending(&self, span: &GpaSpan) -> bool {
        self.candidates(span).iter().any(|id| {
            self.windows.get(*id).is_some_and(|window| {
                window.state() == State::Pending
                    && window.span().is_some_and(|all| all.covers(span))
            })
        })
    }

    /// Adds a window that serves `request` to the batch.
    pub(super) fn add(
        &self,
        slow: &mut Slow<H>,
        request: &GpaSpan,
        choice: Choice,
        aim: Option<&mut Aim>,
    ) -> Result<(), Obstacle> {
        if slow.map.is_full() {
            return Err(Obstacle::Batch);
        }

        let block = slow.ram.block_of(request).copied();
        let block = block.as_ref();
        let proposal = match (choice, block) {
            (Choice::Policy, Some(block)) => self
                .policy
                .propose(
                    request,
                    block,
                    &self.view(slow, &|granule| self.len_at(granule)),
                )
                .filter(|p| p.span.covers(request) && block.covers(&p.span)),
            _ => None,
        };
        let proposal = proposal
            .or_else(|| smallest(request, block))
            .ok_or(Obstacle::Fatal(MapError::Invalid))?;
        let (proposal, padding) = match aim {
            Some(aim) => self.take_aim(slow, proposal, block, aim),
            None => (proposal, 0),
        };
        let Proposal { span, tile } = self
            .with_free_key(slow, proposal, request, block)
            .ok_or(Obstacle::Key)?;

        self.check_limits(slow, &span)?;
        let chunks = chunks_for(span.first_granule(), span.last_granule());
        let later = chunks_anywhere(span.granules());
        let needed = slow
            .reserved_chunks
            .saturating_add(later)
            .saturating_add(chunks)
            .saturating_add(1);
        if slow.free_chunks.len() < needed {
            return Err(Obstacle::Tables);
        }
        let anchor = if tile {
            None
        } else {
            Some(request.first_granule())
        };
        let (id, window) = self.admit(slow, &span, anchor)?;
        window.set_padding(padding);
        slow.stats.padding = slow.stats.padding.saturating_add(padding);
        slow.reserved_chunks = slow.reserved_chunks.saturating_add(later);
        if self.link(slow, id, window).is_err() {
            // Cannot be: the chunks were counted before.
            self.unlink(slow, id, window);
            self.discard(slow, id, window);
            return Err(Obstacle::Fatal(MapError::NoMemory));
        }
        slow.map.push(MapEntry {
            span,
            outcome: MapOutcome::Unknown,
            id,
        });
        Ok(())
    }

    /// Extends `proposal` as `aim` says, if there is RAM and the limit has room for that. Says by
    /// how many bytes.
    fn take_aim(
        &self,
        slow: &Slow<H>,
        proposal: Proposal,
        block: Option<&GpaSpan>,
        aim: &mut Aim,
    ) -> (Proposal, u64) {
        loop {
            let (extra, span) = aim.extend(&proposal.span);
            if extra == 0 {
                return (proposal, 0);
            }
            let extended = span
                .filter(|span| block.is_some_and(|block| block.covers(span)))
                .filter(|span| self.check_limits(slow, span).is_ok())
                .filter(|_| aim.affords(slow.stats.padding, self.max_bytes));
            if let Some(span) = extended {
                return (Proposal { span, tile: false }, extra);
            }
            if !aim.lower() {
                return (proposal, 0);
            }
        }
    }

    /// Rings for the batch of new windows and opens those that the host made; until
    /// [`Self::settle`], the batch has a reference to each. The first `own` entries are those of
    /// the call, which alone decide what came of it.
    pub(super) fn ring_map(
        &self,
        slow: &mut Slow<H>,
        own: usize,
        mut aim: Option<&mut Aim>,
    ) -> Ring {
        bump(&mut slow.stats.doorbells);
        slow.host.map(slow.map.filled_mut());
        slow.reserved_chunks = 0;
        let mut ring = Ring::Failed(MapError::Refused);
        let mut error = None;
        let mut opened: usize = 0;
        for index in 0..slow.map.len {
            let Some(entry) = slow.map.get(index) else {
                break;
            };
            let Some(window) = self.windows.get(entry.id) else {
                continue;
            };
            let is_own = index < own;
            let outcome = match entry.outcome {
                MapOutcome::Mapped(iova) => {
                    let aim = aim.as_deref_mut().filter(|_| is_own);
                    if aim.is_some_and(|aim| aim.adjust(&entry.span, iova, &mut slow.fill)) {
                        bump(&mut slow.stats.mapped);
                        bump(&mut slow.stats.misplaced);
                        // Where it is matters only if it is not taken back.
                        slow.misplaced = Some((entry.id, iova));
                        self.quarantine(slow, entry.id, window);
                        ring = Ring::Misplaced;
                        continue;
                    }
                    match self.claim(slow, entry.id, window, &entry.span, iova) {
                        Ok(()) => entry.outcome,
                        Err(reject) => MapOutcome::Rejected(reject),
                    }
                }
                other => other,
            };
            let mut fails = |new| {
                if is_own {
                    error = error.or(Some(new));
                }
            };
            match outcome {
                MapOutcome::Mapped(_) => {
                    bump(&mut slow.stats.mapped);
                    self.displace(slow, entry.id, window, &entry.span);
                    window.open();
                    opened = opened.saturating_add(1);
                    if let Some(seen) = Seen::new(window) {
                        // Others may use it already.
                        self.observer.created(&Seen { uses: 0, ..seen });
                    }
                    if is_own {
                        ring = Ring::Opened;
                    }
                }
                MapOutcome::Refused => {
                    bump(&mut slow.stats.refused);
                    note(self, slow, Command::Map, &entry.span, HostError::Refused);
                    self.unlink(slow, entry.id, window);
                    self.discard(slow, entry.id, window);
                    slow.suspects.push(entry.span);
                    self.suspect(slow);
                    fails(MapError::Refused);
                }
                MapOutcome::Rejected(reject) => {
                    bump(&mut slow.stats.rejected);
                    let error = HostError::Rejected(reject);
                    note(self, slow, Command::Map, &entry.span, error);
                    self.quarantine(slow, entry.id, window);
                    fails(MapError::Rejected(reject));
                }
                MapOutcome::Unknown => {
                    bump(&mut slow.stats.unanswered);
                    note(self, slow, Command::Map, &entry.span, HostError::Silent);
                    self.quarantine(slow, entry.id, window);
                    fails(MapError::NoAnswer);
                }
            }
        }
        if opened != 0 && opened != slow.map.len {
            self.uncover_batch(slow);
        }
        match (ring, error) {
            (Ring::Failed(_), Some(error)) => Ring::Failed(error),
            (ring, _) => ring,
        }
    }

    /// Has the windows of the batch that the host made found, where others hid them that it did
    /// not make.
    fn uncover_batch(&self, slow: &mut Slow<H>) {
        for index in 0..slow.map.len {
            let id = slow.map.get(index).map_or(NONE, |entry| entry.id);
            if let Some(window) = self.windows.get(id) {
                if window.state() == State::Live {
                    self.uncover(slow, id, window);
                }
            }
        }
    }

    /// Gives up the batch's references to the windows that it opened. Those that serve nobody then
    /// do not outlive the call in strict mode; and nobody could close one before those had it that
    /// it was made for.
    pub(super) fn settle(&self, slow: &mut Slow<H>) {
        for index in 0..slow.map.len {
            let Some(entry) = slow.map.get(index) else {
                break;
            };
            let Some(window) = self.windows.get(entry.id) else {
                continue;
            };
            if window.state() == State::Live && window.settle(self.strict) == Ok(Put::Closed) {
                self.retire(entry.id, window);
            }
        }
        slow.map.clear();
    }

    /// Notes that a window is at the address that the host gave it. That stays noted until the
    /// window is discarded, whether it can be opened or not: it cannot if some of it is in use.
    /// What wraps around, or is where all of RAM is mapped, is not noted. Lock; any context.
    pub(super) fn claim(
        &self,
        slow: &mut Slow<H>,
        id: Id,
        window: &Window,
        span: &GpaSpan,
        iova: Iova,
    ) -> Result<(), Reject> {
        let iovas = IovaSpan::new(iova, span.len()).ok_or(Reject::Range)?;
        if self
            .whole
            .as_ref()
            .is_some_and(|whole| whole.overlaps(&iovas))
        {
            return Err(Reject::Overlap);
        }
        let mut result = Ok(());
        window.set_iova(iova);
        for granule in iovas.first_granule()..=iovas.last_granule() {
            let other = self.by_iova.get_locked(&self.chunks, granule);
            if let Some(other) = self.windows.get(other) {
                slow.lost.in_the_way |= other.state() == State::Lost;
                result = Err(Reject::Overlap);
                continue;
            }
            let free = &mut slow.free_chunks;
            let set = self.by_iova.set(&self.chunks, free, granule, id);
            // Chunks are reserved for an answer to MAP; of what is lost as much is noted as can be.
            result = result.and(set.map_err(|_| Reject::Range));
        }
        result
    }
}
