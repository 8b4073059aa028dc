// SPDX-License-Identifier: GPL-2.0

//! Windows for memory that might as well be copied, and the idle windows that make room for them.
//!
//! Such a window is worth less than a call that must have one: where the lock is taken, where only
//! hotter windows could make room, or where the host refuses it, the memory is copied.

use super::admission::{
    threshold,
    Admit,
    CopyCost,
    Offer, //
};
use super::budget::cost;
use super::cost::Price;
use super::create::Choice;
use super::index::arena::{
    Id,
    NONE, //
};
use super::map::{
    Request,
    Single, //
};
use super::miss::RoundResult;
use super::{
    Engine,
    Host,
    Limit,
    Locked,
    MapError,
    Observer, //
};
use crate::addr::{
    GpaSpan,
    Iova,
    IovaSpan,
    GRANULE_SHIFT, //
};
use crate::engine::policy::Policy;
use crate::engine::window::Window;
use crate::sys::Stopwatch;

/// Idle windows that are compared.
const SAMPLE: usize = 64;

/// Windows that are looked at to find [`SAMPLE`] idle ones.
const SCAN: u32 = 1024;

/// Windows that make room at a time at most.
const VICTIMS: usize = 8;

/// The windows that made room for an offer so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Displaced {
    /// Their number.
    windows: u64,
    /// Their heat in nanoseconds.
    heat: u64,
}

/// A window that may make room.
#[derive(Clone, Copy)]
struct Victim {
    id: Id,
    heat: u64,
    /// The heat of a granule in nanoseconds.
    each: u64,
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Decides whether `span`, which may be copied at the cost of `copy`, is to be copied or to get
    /// a window, and counts the request as copied. To be called for requests that no window serves.
    /// Lock-free.
    ///
    /// Context: any.
    pub(crate) fn admit(&self, span: &GpaSpan, copy: CopyCost) -> Admit {
        match &self.admission {
            Some(admission) => admission.choose(span, copy, self.price()),
            None => Admit::Copy,
        }
    }

    /// Returns the price of a window; if it is not known yet, that of a host which costs nothing,
    /// so that it gets known.
    fn price(&self) -> Price {
        self.costs.price().unwrap_or(Price {
            map_ns: 0,
            unmap_ns: 0,
        })
    }

    /// Maps `span` by a window as offered by [`Self::admit`]. Returns [`None`] if that cannot be
    /// had, or not at once: the request is to be copied then.
    ///
    /// Context: any. Interrupts are off for one doorbell at a time.
    pub(crate) fn map_admitted(&self, span: GpaSpan, offer: Offer, dma_limit: u64) -> Option<Iova> {
        let admission = self.admission.as_ref()?;
        let time = Stopwatch::start();
        let request = Single::new(span, None);
        let choice = Choice::Admitted(offer);
        let requests = core::iter::once(&request);
        let result = self.map_missing_by(requests, dma_limit, choice, time, 1);
        admission.pay(time.elapsed_ns());
        if result == Err(MapError::Refused) {
            admission.refused(offer.size);
        }
        let iova = result.ok().and(request.iova())?;
        // It cannot be unmapped before its only mapping is.
        let id = IovaSpan::new(iova, span.len()).map(|span| span.first_granule());
        let id = id.map_or(NONE, |granule| self.index.at_iova(granule));
        if let Some(window) = self.index.window(id).and_then(Window::span) {
            admission.opened(id, &window, Some(offer.worth));
        }
        Some(iova)
    }

    /// Records what there is room for, for calls without the lock.
    ///
    /// Context: engine lock held.
    pub(super) fn note_room(&self, state: &Locked<H>) {
        if let Some(admission) = &self.admission {
            admission.note_room(state.budget.bytes(), state.budget.entries());
        }
    }

    /// Adds up the uses of the window `id` since the last call. Returns its heat.
    ///
    /// Context: engine lock held.
    pub(super) fn count_uses_of(&self, state: &mut Locked<H>, id: Id, window: &Window) -> u64 {
        let uses = window.count_uses();
        state.counters.uses.add(u64::from(uses));
        let admission = self.admission.as_ref();
        admission.map_or(0, |admission| admission.credit(id, uses, self.price()))
    }

    /// Unmaps the coldest of some idle windows, to make room for `offer`, if they are so much
    /// colder that this is worth its price; fails with `error` otherwise.
    ///
    /// Context: engine lock held.
    pub(super) fn displace(
        &self,
        state: &mut Locked<H>,
        offer: &Offer,
        displaced: &mut Displaced,
        limit: Limit,
    ) -> RoundResult {
        let failed = RoundResult::Failed(MapError::Full(limit));
        let Some(admission) = &self.admission else {
            return failed;
        };
        if !state.host.is_ready() {
            return RoundResult::Failed(MapError::NoAnswer);
        }
        let victims = self.coldest(state);
        let price = self.price();
        let mut left = state.budget.bytes().left;
        let mut found = false;
        for victim in victims.iter().filter(|victim| victim.id != NONE) {
            if found && (left >= offer.size || state.unmap.is_full()) {
                break;
            }
            let windows = displaced.windows.saturating_add(1);
            let heat = displaced.heat.saturating_add(victim.heat);
            let unmaps = price.unmap_ns.saturating_mul(windows);
            if offer.worth < threshold(price.map_ns.saturating_add(unmaps), heat) {
                break;
            }
            let window = self.index.window(victim.id);
            let Some((window, span)) = window.and_then(|window| Some((window, window.span()?)))
            else {
                continue;
            };
            if window.close() {
                *displaced = Displaced { windows, heat };
                found = true;
                left = left.saturating_add(cost(&span));
                admission.displaced(&span, victim.heat);
                state.counters.windows_reclaimed.inc();
                self.unmap_closed(state, victim.id, window);
            }
        }
        if !found {
            // Without any that is idle, the next one must be as hot as this one at least.
            let coldest = victims.first().filter(|victim| victim.id != NONE);
            let own = offer
                .worth
                .checked_div((offer.size >> GRANULE_SHIFT).max(1));
            admission.raise_bar(coldest.map_or(own.unwrap_or(0), |victim| victim.each));
            return failed;
        }
        self.submit_unmap(state);
        RoundResult::Again
    }

    /// Returns the coldest of some idle windows, the coldest first.
    fn coldest(&self, state: &mut Locked<H>) -> [Victim; VICTIMS] {
        let nothing = Victim {
            id: NONE,
            heat: u64::MAX,
            each: u64::MAX,
        };
        let mut coldest = [nothing; VICTIMS];
        let last = state.index.last_id();
        let mut seen: usize = 0;
        for _ in 0..SCAN.min(last) {
            state.sampled = match state.sampled.checked_add(1) {
                Some(id) if id <= last => id,
                _ => 1,
            };
            let id = state.sampled;
            let Some(window) = self.index.window(id).filter(|window| window.is_idle()) else {
                continue;
            };
            let granules = window.span().map_or(1, |span| span.granules());
            let heat = self.count_uses_of(state, id, window);
            let each = heat.checked_div(granules).unwrap_or(0);
            let mut new = Victim { id, heat, each };
            for place in &mut coldest {
                if new.each < place.each {
                    core::mem::swap(place, &mut new);
                }
            }
            seen = seen.saturating_add(1);
            if seen >= SAMPLE {
                break;
            }
        }
        coldest
    }
}
