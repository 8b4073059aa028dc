// SPDX-License-Identifier: GPL-2.0

//! The slow path: mapping what no window serves.
//!
//! Each round holds the engine lock for one doorbell at most: it takes what other CPUs have mapped
//! meanwhile, or makes room, or creates windows for what is missing. Rounds are repeated until all
//! requests are mapped or one fails for good.

use super::align_target::AlignTarget;
use super::alignment;
use super::batch::SubmitResult;
use super::combining::RecordSet;
use super::create::{
    Choice,
    Obstacle, //
};
use super::displace::Displaced;
use super::index::arena::NONE;
use super::large_pages::LargePages;
use super::map::{
    reachable,
    Request, //
};
use super::recovery::RetryBudget;
use super::{
    Engine,
    Host,
    Locked,
    MapError,
    Observer, //
};
use crate::addr::{
    GpaSpan,
    Iova, //
};
use crate::engine::policy::Policy;
use crate::sys::{
    Guard,
    Stopwatch, //
};

/// The most rounds of one call. Every round but the last makes progress, so this bounds what a host
/// can do to keep a CPU busy, not what a device driver can map.
pub(super) const MAX_ROUNDS: usize = 4096;

/// The time in milliseconds after which a call rings no more doorbells. With the last one, which
/// takes two seconds at most, it stays below what the watchdogs of a CPU with interrupts off allow;
/// a list of a thousand new windows takes a slow host two seconds.
pub(super) const CALL_MAX_MS: u64 = 4000;

/// The state that the rounds of one call pass on to each other.
struct MissProgress {
    /// The time since the call began.
    time: Stopwatch,
    choice: Choice,
    /// The windows that made room for an admitted one.
    displaced: Displaced,
    /// Set unless the index could not grow the last time that it had to.
    may_grow: bool,
    /// Windows that the reclaimer has looked at since it last found an idle one.
    scanned: u32,
    /// The alignment that the address should have, if that matters.
    target: Option<AlignTarget>,
    /// Retries of lost windows because there was no room, or no key.
    for_room: RetryBudget,
    /// Retries of lost windows because one was in the way of an address.
    for_address: RetryBudget,
    /// Set if stale keys were unmapped since the last progress.
    freed_keys: bool,
    /// Set if the last round sent a batch to the host.
    was_sent: bool,
}

impl MissProgress {
    /// Returns whether the call must end.
    fn is_late(&self) -> bool {
        self.time.elapsed_ms() > CALL_MAX_MS
    }
}

/// The result of one round of the slow path.
pub(super) enum RoundResult {
    /// Every request is mapped.
    Done,
    /// Some are missing, and the round made progress.
    Again,
    /// The index is too small; the next round can go on after it has grown.
    Grow,
    /// This choice of windows does not work.
    Failed(MapError),
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Maps those of `requests` that are not mapped. On failure some may be.
    ///
    /// Context: any.
    #[cold]
    #[inline(never)]
    pub(super) fn map_missing<'a, R, I>(&self, requests: I, dma_limit: u64) -> Result<(), MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let time = Stopwatch::start();
        if self.large_pages == LargePages::Expected {
            return self.map_large_pages(requests, dma_limit, time);
        }
        // CAST: `usize` has at most 64 bits.
        let missing = requests.clone().filter(|r| r.iova().is_none()).count() as u64;
        self.map_missing_by(requests, dma_limit, Choice::Policy, time, missing)
    }

    /// Maps as [`Self::map_missing`], by windows of this choice, for a call that began at `time`.
    /// On success `misses` are counted.
    pub(super) fn map_missing_by<'a, R, I>(
        &self,
        requests: I,
        dma_limit: u64,
        choice: Choice,
        time: Stopwatch,
        misses: u64,
    ) -> Result<(), MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let target = match choice {
            // Memory that may be copied may be at any address.
            Choice::Admitted(_) => None,
            _ => AlignTarget::new(requests.clone(), self.large_pages),
        };
        let mut progress = MissProgress {
            time,
            // The larger a window is, the more padding it needs to be aligned.
            choice: match &target {
                Some(target) if target.is_required() => Choice::Smallest,
                _ => choice,
            },
            displaced: Displaced::default(),
            may_grow: true,
            scanned: 0,
            target,
            for_room: RetryBudget::default(),
            for_address: RetryBudget::default(),
            freed_keys: false,
            was_sent: false,
        };
        let mut result = Err(MapError::Refused);
        for _ in 0..MAX_ROUNDS {
            let Some(mut state) = self.lock_and_collect(requests.clone(), progress.choice) else {
                return Err(MapError::NoAnswer);
            };
            match self.round(&mut state, requests.clone(), dma_limit, &mut progress) {
                RoundResult::Done => {
                    state.counters.misses.add(misses);
                    result = Ok(());
                    break;
                }
                RoundResult::Again => progress.freed_keys = false,
                RoundResult::Grow => {
                    let missing = requests.clone().filter(|r| r.iova().is_none());
                    let windows = missing.count().min(state.map.limit());
                    let windows = windows.saturating_add(self.fillers());
                    drop(state);
                    // Memory for the index is allocated without the lock.
                    progress.may_grow = self.grow_for(windows);
                }
                RoundResult::Failed(error) => {
                    result = Err(error);
                    if !self.may_retry(state, requests.clone(), error, dma_limit, &mut progress) {
                        break;
                    }
                }
            }
        }
        // Windows that the host created, but in a way that is of no use. Where the host is slow,
        // the next call or the periodic work unmaps them.
        if !progress.is_late() {
            self.unmap_retired();
        }
        result
    }

    /// Takes the lock. Where another CPU has it, publishes what is missing of `requests` for that
    /// CPU to serve, and collects what was served. Returns [`None`] if the requests may be copied
    /// instead.
    fn lock_and_collect<'a, R, I>(
        &self,
        requests: I,
        choice: Choice,
    ) -> Option<Guard<'_, Locked<H>>>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let (mut state, records) = match self.state.try_lock() {
            Some(state) => (state, RecordSet::NONE),
            None if matches!(choice, Choice::Admitted(_)) => return None,
            None => {
                let shareable = requests.clone().filter(|r| r.modulus().is_none());
                let records = self
                    .published
                    .publish(shareable, |span| self.may_share(span));
                (self.state.lock(), records)
            }
        };
        self.collect(&mut state, records, requests);
        Some(state)
    }

    /// Changes what may have made a round fail with `error`, and returns whether that is worth
    /// another round. Drops the lock.
    fn may_retry<'a, R, I>(
        &self,
        state: Guard<'_, Locked<H>>,
        requests: I,
        error: MapError,
        dma_limit: u64,
        progress: &mut MissProgress,
    ) -> bool
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let is_final = matches!(
            error,
            MapError::Unreachable(_) | MapError::Invalid | MapError::Closed | MapError::Misaligned
        );
        if is_final || progress.is_late() {
            return false;
        }
        let stale = state.counters.windows_stale;
        self.unmap_suspects_in_turn(state);
        let freed_keys = self.state.lock().counters.windows_stale != stale;
        // Only once without progress: a host may refuse windows that it has mapped.
        if freed_keys && !progress.freed_keys {
            progress.freed_keys = true;
            return true;
        }
        if matches!(progress.choice, Choice::Admitted(_)) {
            return false;
        }
        // A lost window may be in the way.
        let budget = match error {
            MapError::Rejected(_) => &mut progress.for_address,
            _ => &mut progress.for_room,
        };
        if budget.try_consume(self.lost_steps(error)) && self.retry_lost_step() {
            progress.scanned = 0;
            return true;
        }
        if progress.choice == Choice::Smallest {
            if error == MapError::Refused && progress.was_sent {
                let missing = requests.filter(|r| r.iova().is_none());
                self.state
                    .lock()
                    .note_refused(missing.filter_map(Request::span));
            }
            return false;
        }
        self.state.lock().counters.retries_smaller.inc();
        progress.choice = Choice::Smallest;
        progress.freed_keys = false;
        progress.scanned = 0;
        progress.target = None;
        let some = requests.clone().any(|r| r.iova().is_some());
        if some && matches!(error, MapError::Full(_)) {
            // The larger windows that this call has mapped are in the way of smaller ones.
            self.release_partial(requests, dma_limit);
            self.reclaim_all_idle();
        }
        true
    }

    /// Makes one round, with one doorbell at most.
    fn round<'a, R, I>(
        &self,
        state: &mut Locked<H>,
        requests: I,
        dma_limit: u64,
        progress: &mut MissProgress,
    ) -> RoundResult
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        progress.was_sent = false;
        if state.closed {
            return self.abandon(state, MapError::Closed);
        }
        self.collect_retired(state);
        let is_late = progress.is_late();
        if state.retired != NONE && !is_late {
            self.unmap_retired_batch(state);
            return RoundResult::Again;
        }

        let mut all = true;
        for request in requests.clone() {
            let Some(span) = request.span() else {
                return self.abandon(state, MapError::Invalid);
            };
            // The doorbell of another CPU may have served the request.
            let found = request.iova().or_else(|| {
                let iova = self.hit_request(state, request, &span)?;
                request.set_iova(Some(iova));
                Some(iova)
            });
            if let Some(iova) = found {
                if reachable(iova, &span, dma_limit) {
                    continue;
                }
                return self.replace_unreachable(state, request, iova);
            }
            if self.index.is_pending(&state.index, &span) {
                continue;
            }
            if is_late || !state.host.is_ready() {
                return self.abandon(state, MapError::NoAnswer);
            }
            if state.is_hopeless(&span) {
                return self.abandon(state, MapError::Refused);
            }
            let obstacle = match self.add(state, &span, progress.choice, progress.target.as_mut()) {
                Ok(()) => continue,
                Err(obstacle) => obstacle,
            };
            if matches!(obstacle, Obstacle::Tables) && progress.may_grow {
                // All of the windows go to the host together after that.
                self.cancel_batch(state);
                return RoundResult::Grow;
            }
            if !state.map.is_empty() {
                // The windows of the batch first; the next round creates the others.
                all = false;
                break;
            }
            return self.make_room(state, obstacle, progress);
        }

        if state.map.is_empty() {
            return RoundResult::Done;
        }
        let own = state.map.len;
        progress.was_sent = true;
        if all {
            self.add_published(state);
        }
        let round = match self.submit_map(state, own, progress.target.as_mut()) {
            SubmitResult::Failed(error) => RoundResult::Failed(error),
            SubmitResult::Misplaced => RoundResult::Again,
            SubmitResult::Opened => self.resolve(state, requests, dma_limit),
        };
        self.serve_published(state);
        self.settle(state);
        round
    }

    /// Makes a round of closing the window that serves `request` at `iova`, which the device does
    /// not reach. Fails if others use the window.
    fn replace_unreachable<R: Request>(
        &self,
        state: &mut Locked<H>,
        request: &R,
        iova: Iova,
    ) -> RoundResult {
        let mapped = request.mapped().filter(|span| !self.is_static(span));
        let Some(span) = mapped else {
            return self.abandon(state, MapError::Unreachable(iova));
        };
        request.set_iova(None);
        state.counters.undone.inc();
        if self.put_unreachable(state, &span) {
            // The next round unmaps it, and the one after that requests another.
            self.cancel_batch(state);
            return RoundResult::Again;
        }
        self.abandon(state, MapError::Unreachable(iova))
    }

    /// Makes a round of reclaiming idle windows, if that may remove `obstacle`.
    fn make_room(
        &self,
        state: &mut Locked<H>,
        obstacle: Obstacle,
        progress: &mut MissProgress,
    ) -> RoundResult {
        if let (Obstacle::Limit(limit), Choice::Admitted(offer)) = (&obstacle, &progress.choice) {
            return self.displace(state, offer, &mut progress.displaced, *limit);
        }
        let error = match obstacle {
            Obstacle::Batch => return RoundResult::Failed(MapError::Refused),
            Obstacle::Fatal(error) => return RoundResult::Failed(error),
            Obstacle::Tables => MapError::NoMemory,
            Obstacle::Limit(limit) => MapError::Full(limit),
            // Idle windows may have the keys.
            Obstacle::Key => MapError::NoKey,
        };
        self.reclaim(state, &mut progress.scanned, error)
    }

    /// Returns whether the doorbell of another CPU may serve `span`: not if the address matters,
    /// which is left to the host then.
    fn may_share(&self, span: &GpaSpan) -> bool {
        self.large_pages == LargePages::Ignored || alignment::modulus(span).is_none()
    }

    /// Takes references to the windows that were just opened, before the lock is dropped.
    fn resolve<'a, R, I>(&self, state: &mut Locked<H>, requests: I, dma_limit: u64) -> RoundResult
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
            match self.hit_request(state, request, &span) {
                Some(iova) => {
                    request.set_iova(Some(iova));
                    if !reachable(iova, &span, dma_limit) {
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

    /// Fails a round before its batch is submitted.
    fn abandon(&self, state: &mut Locked<H>, error: MapError) -> RoundResult {
        self.cancel_batch(state);
        RoundResult::Failed(error)
    }
}
