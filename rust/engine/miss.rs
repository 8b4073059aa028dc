// SPDX-License-Identifier: GPL-2.0

//! Mapping what no window serves: rounds under the lock, each with one doorbell at most, until
//! everything is mapped or something stands in the way that does not give.

use super::alignment::{
    self,
    AlignTarget, //
};
use super::combining::RecordSet;
use super::host::{
    MapOutcome,
    ReplyError, //
};
use super::index::Obstacle;
use super::recovery::RetryBudget;
use super::{
    note,
    reachable,
    Command,
    Engine,
    Host,
    HostError,
    Locked, //
    MapEntry,
    MapError,
    Observer,
    Request,
    WindowInfo,
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
pub(super) struct MissProgress {
    pub(super) choice: Choice,
    /// Whether the tables could grow the last time that they had to.
    may_grow: bool,
    /// Windows that were looked at since the last idle one was found.
    scanned: u32,
    /// How the address should come out, if that matters.
    aim: Option<AlignTarget>,
    /// How often what is lost was asked for again since there was no room, or no key.
    for_room: RetryBudget,
    /// How often since it was in the way of an address.
    for_address: RetryBudget,
    /// Whether keys were given back since there was progress.
    freed_keys: bool,
}

/// What came of one doorbell for new windows.
pub(super) enum SubmitResult {
    /// The host made at least one of them.
    Opened,
    /// The host made it, but at an address that is not what the call aims at.
    Misplaced,
    /// The host made none.
    Failed(MapError),
}

/// What came of one round of the slow path.
pub(super) enum RoundResult {
    /// Everything is mapped.
    Done,
    /// There is more to do, and this round brought it nearer.
    Again,
    /// The tables are too small; the round can go on after they have grown.
    Grow,
    /// This choice of windows does not work.
    Failed(MapError),
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Maps what is missing of `requests`.
    #[cold]
    #[inline(never)]
    pub(super) fn map_missing<'a, R, I>(&self, requests: I, mask: u64) -> Result<(), MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let mut progress = MissProgress {
            choice: Choice::Policy,
            may_grow: true,
            scanned: 0,
            aim: self
                .congruent
                .then(|| AlignTarget::new(requests.clone()))
                .flatten(),
            for_room: RetryBudget::default(),
            for_address: RetryBudget::default(),
            freed_keys: false,
        };
        // CAST: `usize` has at most 64 bits.
        let missing = requests.clone().filter(|r| r.iova().is_none()).count() as u64;
        let mut result = Err(MapError::Refused);
        for _ in 0..MAX_ROUNDS {
            let (mut guard, records) = match self.state.try_lock() {
                Some(guard) => (guard, RecordSet::NONE),
                None => {
                    let records = self
                        .published
                        .publish(requests.clone(), |span| self.may_share(span));
                    (self.state.lock(), records)
                }
            };
            self.collect(&mut guard, records, requests.clone());
            match self.round(&mut guard, requests.clone(), mask, &mut progress) {
                RoundResult::Done => {
                    guard.counters.misses.add(missing);
                    result = Ok(());
                    break;
                }
                RoundResult::Again => progress.freed_keys = false,
                RoundResult::Grow => {
                    let missing = requests.clone().filter(|r| r.iova().is_none());
                    let windows = missing.count().min(guard.map.entries.len());
                    drop(guard);
                    // The tables' memory comes from outside the lock.
                    progress.may_grow = self.grow_for(windows);
                }
                RoundResult::Failed(error) => {
                    result = Err(error);
                    if matches!(error, MapError::Unreachable(_) | MapError::Invalid) {
                        break;
                    }
                    let stale = guard.counters.windows_stale;
                    self.unmap_suspects_in_turn(guard);
                    // A host that refuses what it maps would have us do so again and again.
                    let freed_keys = self.state.lock().counters.windows_stale != stale;
                    if freed_keys && !progress.freed_keys {
                        progress.freed_keys = true;
                        continue;
                    }
                    // Perhaps it is something lost that is in the way.
                    let patience = match error {
                        MapError::Rejected(_) => &mut progress.for_address,
                        _ => &mut progress.for_room,
                    };
                    if patience.try_consume(self.lost_steps(error)) && self.retry_lost_step() {
                        progress.scanned = 0;
                        continue;
                    }
                    if progress.choice == Choice::Smallest {
                        break;
                    }
                    self.state.lock().counters.retries_smaller.inc();
                    progress.choice = Choice::Smallest;
                    progress.freed_keys = false;
                    progress.scanned = 0;
                    progress.aim = None;
                    let some = requests.clone().any(|r| r.iova().is_some());
                    if some && matches!(error, MapError::Full(_)) {
                        // The larger windows that this call took are in the way of smaller ones.
                        self.release_partial(requests.clone());
                        self.reclaim_all_idle();
                    }
                }
            }
        }
        // What the host says that it mapped, but not in a way we can use.
        self.unmap_retired();
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
                let state = self.state.lock();
                (
                    state.free_windows.len() < windows,
                    // Large windows need more, so that one more never is too many.
                    state.free_chunks.len() < chunks || !chunk_grown,
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
                    .grow(&mut self.state.lock().free_windows, segment);
                grown |= left.is_ok();
            }
        }
        if chunks {
            if let Ok(segment) = Segment::new(alloc) {
                let left = self
                    .chunks
                    .grow(&mut self.state.lock().free_chunks, segment);
                grown |= left.is_ok();
            }
        }
        grown
    }

    /// One turn under the lock, with one doorbell at most.
    pub(super) fn round<'a, R, I>(
        &self,
        state: &mut Locked<H>,
        requests: I,
        mask: u64,
        progress: &mut MissProgress,
    ) -> RoundResult
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        self.collect_retired(state);
        if state.retired != NONE {
            self.unmap_retired_batch(state);
            return RoundResult::Again;
        }

        let mut all = true;
        for request in requests.clone() {
            if let Some(iova) = request.iova() {
                // Another CPU's doorbell may have served it.
                match request.span() {
                    Some(span) if !reachable(iova, &span, mask) => {
                        return self.abandon(state, MapError::Unreachable(iova));
                    }
                    _ => continue,
                }
            }
            let Some(span) = request.span() else {
                return self.abandon(state, MapError::Invalid);
            };
            if let Some(iova) = self.hit_locked(&span) {
                request.set_iova(Some(iova));
                if !reachable(iova, &span, mask) {
                    return self.abandon(state, MapError::Unreachable(iova));
                }
                continue;
            }
            if self.is_pending(&span) {
                continue;
            }
            if !state.host.is_ready() {
                return self.abandon(state, MapError::NoAnswer);
            }
            let obstacle = match self.add(state, &span, progress.choice, progress.aim.as_mut()) {
                Ok(()) => continue,
                Err(obstacle) => obstacle,
            };
            if matches!(obstacle, Obstacle::Tables) && progress.may_grow {
                // All of it together, after that.
                self.drop_batch(state);
                return RoundResult::Grow;
            }
            if !state.map.is_empty() {
                // First what is there already; the rest has its turn after it.
                all = false;
                break;
            }
            return match obstacle {
                Obstacle::Batch => RoundResult::Failed(MapError::Refused),
                Obstacle::Fatal(error) => RoundResult::Failed(error),
                Obstacle::Tables => self.reclaim(state, &mut progress.scanned, MapError::NoMemory),
                Obstacle::Limit(limit) => {
                    self.reclaim(state, &mut progress.scanned, MapError::Full(limit))
                }
                // Idle windows may have them.
                Obstacle::Key => self.reclaim(state, &mut progress.scanned, MapError::NoKey),
            };
        }

        if state.map.is_empty() {
            return RoundResult::Done;
        }
        let own = state.map.len;
        if all {
            self.add_published(state);
        }
        let round = match self.ring_map(state, own, progress.aim.as_mut()) {
            SubmitResult::Failed(error) => RoundResult::Failed(error),
            SubmitResult::Misplaced => RoundResult::Again,
            SubmitResult::Opened => self.resolve(state, requests, mask),
        };
        self.serve_published(state);
        self.settle(state);
        round
    }

    /// Whether a doorbell of another CPU may serve `span`, which leaves where it goes to the host.
    fn may_share(&self, span: &GpaSpan) -> bool {
        !self.congruent || alignment::modulus(span).is_none()
    }

    /// Takes references to the windows that were just made, before the lock is let go.
    pub(super) fn resolve<'a, R, I>(
        &self,
        state: &mut Locked<H>,
        requests: I,
        mask: u64,
    ) -> RoundResult
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        let mut round = RoundResult::Done;
        for request in requests {
            if request.iova().is_some() {
                continue;
            }
            let Some(span) = request.span() else {
                return RoundResult::Failed(MapError::Invalid);
            };
            match self.hit_locked(&span) {
                Some(iova) => {
                    request.set_iova(Some(iova));
                    if !reachable(iova, &span, mask) {
                        return RoundResult::Failed(MapError::Unreachable(iova));
                    }
                    if let Some(modulus) = alignment::modulus(&span) {
                        state.counters.large.inc();
                        if alignment::is_congruent(span.start(), iova, modulus) {
                            state.counters.congruent.inc();
                        }
                    }
                }
                None => round = RoundResult::Again,
            }
        }
        round
    }

    /// Gives up the windows that were prepared but not asked for.
    pub(super) fn drop_batch(&self, state: &mut Locked<H>) {
        for index in 0..state.map.len {
            if let Some(entry) = state.map.get(index) {
                if let Some(window) = self.windows.get(entry.id) {
                    self.unlink(state, entry.id, window);
                    self.discard(state, entry.id, window);
                }
            }
        }
        state.map.clear();
        state.reserved_chunks = 0;
    }

    /// Ends the call before its batch went to the host.
    pub(super) fn abandon(&self, state: &mut Locked<H>, error: MapError) -> RoundResult {
        self.drop_batch(state);
        RoundResult::Failed(error)
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
        state: &mut Locked<H>,
        request: &GpaSpan,
        choice: Choice,
        aim: Option<&mut AlignTarget>,
    ) -> Result<(), Obstacle> {
        if state.map.is_full() {
            return Err(Obstacle::Batch);
        }

        let block = state.ram.block_of(request).copied();
        let block = block.as_ref();
        let proposal = match (choice, block) {
            (Choice::Policy, Some(block)) => self
                .policy
                .propose(
                    request,
                    block,
                    &self.view(state, &|granule| self.len_at(granule)),
                )
                .filter(|p| p.span.covers(request) && block.covers(&p.span)),
            _ => None,
        };
        let proposal = proposal
            .or_else(|| smallest(request, block))
            .ok_or(Obstacle::Fatal(MapError::Invalid))?;
        let (proposal, padding) = match aim {
            Some(aim) => self.take_aim(state, proposal, block, aim),
            None => (proposal, 0),
        };
        let Proposal { span, tile } = self
            .with_free_key(state, proposal, request, block)
            .ok_or(Obstacle::Key)?;

        self.check_limits(state, &span)?;
        let chunks = chunks_for(span.first_granule(), span.last_granule());
        let later = chunks_anywhere(span.granules());
        let needed = state
            .reserved_chunks
            .saturating_add(later)
            .saturating_add(chunks)
            .saturating_add(1);
        if state.free_chunks.len() < needed {
            return Err(Obstacle::Tables);
        }
        let anchor = if tile {
            None
        } else {
            Some(request.first_granule())
        };
        let (id, window) = self.admit(state, &span, anchor)?;
        window.set_padding(padding);
        state.budget.charge_padding(padding);
        state.reserved_chunks = state.reserved_chunks.saturating_add(later);
        if self.link(state, id, window).is_err() {
            // Cannot be: the chunks were counted before.
            self.unlink(state, id, window);
            self.discard(state, id, window);
            return Err(Obstacle::Fatal(MapError::NoMemory));
        }
        state.map.push(MapEntry {
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
        state: &Locked<H>,
        proposal: Proposal,
        block: Option<&GpaSpan>,
        aim: &mut AlignTarget,
    ) -> (Proposal, u64) {
        loop {
            let (extra, span) = aim.extend(&proposal.span);
            if extra == 0 {
                return (proposal, 0);
            }
            let extended = span
                .filter(|span| block.is_some_and(|block| block.covers(span)))
                .filter(|span| self.check_limits(state, span).is_ok())
                .filter(|_| {
                    aim.within_budget(state.budget.usage().padding, state.budget.max_bytes())
                });
            if let Some(span) = extended {
                return (Proposal { span, tile: false }, extra);
            }
            if !aim.relax() {
                return (proposal, 0);
            }
        }
    }

    /// Rings for the batch of new windows and opens those that the host made; until
    /// [`Self::settle`], the batch has a reference to each. The first `own` entries are those of
    /// the call, which alone decide what came of it.
    pub(super) fn ring_map(
        &self,
        state: &mut Locked<H>,
        own: usize,
        mut aim: Option<&mut AlignTarget>,
    ) -> SubmitResult {
        state.counters.doorbells.inc();
        state.host.map(state.map.filled_mut());
        state.reserved_chunks = 0;
        let mut ring = SubmitResult::Failed(MapError::Refused);
        let mut error = None;
        let mut opened: usize = 0;
        for index in 0..state.map.len {
            let Some(entry) = state.map.get(index) else {
                break;
            };
            let Some(window) = self.windows.get(entry.id) else {
                continue;
            };
            let is_own = index < own;
            let outcome = match entry.outcome {
                MapOutcome::Mapped(iova) => {
                    let aim = aim.as_deref_mut().filter(|_| is_own);
                    if aim.is_some_and(|aim| aim.observe(&entry.span, iova, &mut state.fill)) {
                        state.counters.windows_created.inc();
                        state.counters.retries_misplaced.inc();
                        // Where it is matters only if it is not taken back.
                        state.misplaced = Some((entry.id, iova));
                        self.quarantine(state, entry.id, window);
                        ring = SubmitResult::Misplaced;
                        continue;
                    }
                    match self.claim(state, entry.id, window, &entry.span, iova) {
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
                    state.counters.windows_created.inc();
                    self.displace(state, entry.id, window, &entry.span);
                    window.open();
                    opened = opened.saturating_add(1);
                    if let Some(seen) = WindowInfo::new(window) {
                        // Others may use it already.
                        self.observer.created(&WindowInfo { uses: 0, ..seen });
                    }
                    if is_own {
                        ring = SubmitResult::Opened;
                    }
                }
                MapOutcome::Refused => {
                    note(self, state, Command::Map, &entry.span, HostError::Refused);
                    self.unlink(state, entry.id, window);
                    self.discard(state, entry.id, window);
                    state.suspects.push(entry.span);
                    self.suspect(state);
                    fails(MapError::Refused);
                }
                MapOutcome::Rejected(reject) => {
                    let error = HostError::Rejected(reject);
                    note(self, state, Command::Map, &entry.span, error);
                    self.quarantine(state, entry.id, window);
                    fails(MapError::Rejected(reject));
                }
                MapOutcome::Unknown => {
                    note(self, state, Command::Map, &entry.span, HostError::Silent);
                    self.quarantine(state, entry.id, window);
                    fails(MapError::NoAnswer);
                }
            }
        }
        if opened != 0 && opened != state.map.len {
            self.uncover_batch(state);
        }
        match (ring, error) {
            (SubmitResult::Failed(_), Some(error)) => SubmitResult::Failed(error),
            (ring, _) => ring,
        }
    }

    /// Has the windows of the batch that the host made found, where others hid them that it did
    /// not make.
    fn uncover_batch(&self, state: &mut Locked<H>) {
        for index in 0..state.map.len {
            let id = state.map.get(index).map_or(NONE, |entry| entry.id);
            if let Some(window) = self.windows.get(id) {
                if window.state() == State::Live {
                    self.uncover(state, id, window);
                }
            }
        }
    }

    /// Gives up the batch's references to the windows that it opened. Those that serve nobody then
    /// do not outlive the call in strict mode; and nobody could close one before those had it that
    /// it was made for.
    pub(super) fn settle(&self, state: &mut Locked<H>) {
        for index in 0..state.map.len {
            let Some(entry) = state.map.get(index) else {
                break;
            };
            let Some(window) = self.windows.get(entry.id) else {
                continue;
            };
            if window.state() == State::Live && window.settle(self.strict) == Ok(Put::Closed) {
                self.retire(entry.id, window);
            }
        }
        state.map.clear();
    }

    /// Notes that a window is at the address that the host gave it. That stays noted until the
    /// window is discarded, whether it can be opened or not: it cannot if some of it is in use.
    /// What wraps around, or is where all of RAM is mapped, is not noted. Lock; any context.
    pub(super) fn claim(
        &self,
        state: &mut Locked<H>,
        id: Id,
        window: &Window,
        span: &GpaSpan,
        iova: Iova,
    ) -> Result<(), ReplyError> {
        let iovas = IovaSpan::new(iova, span.len()).ok_or(ReplyError::Range)?;
        if self
            .whole
            .as_ref()
            .is_some_and(|whole| whole.overlaps(&iovas))
        {
            return Err(ReplyError::Overlap);
        }
        let mut result = Ok(());
        window.set_iova(iova);
        for granule in iovas.first_granule()..=iovas.last_granule() {
            let other = self.by_iova.get_locked(&self.chunks, granule);
            if let Some(other) = self.windows.get(other) {
                state.lost.in_the_way |= other.state() == State::Lost;
                result = Err(ReplyError::Overlap);
                continue;
            }
            let free = &mut state.free_chunks;
            let set = self.by_iova.set(&self.chunks, free, granule, id);
            // Chunks are reserved for an answer to MAP; of what is lost as much is noted as can be.
            result = result.and(set.map_err(|_| ReplyError::Range));
        }
        result
    }
}
