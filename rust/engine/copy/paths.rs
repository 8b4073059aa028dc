// SPDX-License-Identifier: GPL-2.0

//! Map calls whose mappings may be copied, and their opposites.
//!
//! What a window serves already is not copied, unless the pool says otherwise. What is left is
//! copied or gets a window by the pool's [`Preference`], and the other way where that fails:
//! copying takes no lock and needs no host, so it is also what remains while another processor has
//! the lock, when a limit is reached, and when the host refuses or does not answer.

use super::pool::SlotPool;
use super::wait::WaitLimit;
use super::{
    Memory,
    Preference,
    Transfer, //
};
use crate::addr::{
    GpaSpan,
    Iova, //
};
use crate::engine::admission::{
    Admit,
    CopyCost, //
};
use crate::engine::map::Single;
use crate::engine::policy::Policy;
use crate::engine::window::NotHeld;
use crate::engine::{
    Engine,
    Host,
    MapError,
    Observer,
    Request, //
};

/// A map call that may use the copy pool.
struct Call<'a, M> {
    pool: &'a SlotPool<M>,
    /// The direction, if the mapping may be copied.
    transfer: Option<Transfer>,
    dma_limit: u64,
    /// The time that the call may still wait for slots.
    wait_limit: WaitLimit,
}

impl<M: Memory> Call<'_, M> {
    /// Returns whether `request` is mapped in the pool.
    fn is_copied<R: Request>(&self, request: &R) -> bool {
        request.iova().is_some_and(|iova| self.pool.contains(iova))
    }

    /// Maps `span` in the pool, if it may be copied and there is a slot, now or soon.
    fn copy(&self, span: &GpaSpan) -> Option<Iova> {
        let transfer = self.transfer.filter(|_| self.pool.accepts(span))?;
        self.pool
            .map_or_wait(span, transfer, self.dma_limit, &self.wait_limit)
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Maps `span` for a device that reaches addresses up to `dma_limit`, by a window or, if it is
    /// for a `transfer`, by a slot of `pool`.
    ///
    /// Context: any.
    pub(crate) fn map_or_copy<M: Memory>(
        &self,
        span: GpaSpan,
        pool: &SlotPool<M>,
        transfer: Option<Transfer>,
        dma_limit: u64,
    ) -> Result<Iova, MapError> {
        let single = Single::new(span, None);
        self.map_or_copy_all(core::iter::once(&single), pool, transfer, dma_limit)?;
        single.iova().ok_or(MapError::Refused)
    }

    /// Maps all of `requests`, or none of them, each as [`Self::map_or_copy`].
    ///
    /// Context: any.
    pub(crate) fn map_or_copy_all<'a, R, I, M>(
        &self,
        requests: I,
        pool: &SlotPool<M>,
        transfer: Option<Transfer>,
        dma_limit: u64,
    ) -> Result<(), MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
        M: Memory,
    {
        let call = Call {
            pool,
            transfer,
            dma_limit,
            wait_limit: WaitLimit::new(self.costs.price()),
        };
        let at_hand = if pool.preference() == Preference::Slots {
            self.copy_all(requests.clone(), &call)
        } else {
            self.map_all_served(requests.clone(), dma_limit)
        };
        let missing = match at_hand {
            Ok(true) => self.map_unserved(requests.clone(), &call),
            _ => false,
        };
        let mut result = at_hand.map(|_| ());
        if missing {
            let windows = requests.clone().filter(|r| !call.is_copied(*r));
            result = self.map_missing(windows, dma_limit);
            if let Err(error) = result {
                self.undo_all(requests.clone(), &call);
                let copied = requests.clone().all(|request| {
                    request.set_iova(request.span().and_then(|span| call.copy(&span)));
                    request.iova().is_some()
                });
                result = copied.then_some(()).ok_or(error);
            }
        }
        if result.is_err() {
            self.undo_all(requests, &call);
        }
        result
    }

    /// Unmaps what a failed call has mapped so far.
    fn undo_all<'a, R, I, M>(&self, requests: I, call: &Call<'_, M>)
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
        M: Memory,
    {
        for request in requests.clone().filter(|r| call.is_copied(*r)) {
            if let Some(span) = request.mapped() {
                // It was just mapped, and the device does not know it.
                let _ = call.pool.unmap(&span, false);
            }
            request.set_iova(None);
        }
        self.release_partial(requests, call.dma_limit);
    }

    /// Maps `requests` in the pool, as many as possible, or else by windows that serve them.
    /// Returns whether others are left, as [`Self::map_all_served`].
    fn copy_all<'a, R, I, M>(&self, requests: I, call: &Call<'_, M>) -> Result<bool, MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
        M: Memory,
    {
        let mut missing = false;
        let mut result = Ok(());
        for request in requests {
            // The place of the address may hold anything before the call.
            request.set_iova(None);
            match request.span() {
                Some(span) if result.is_ok() => {
                    let iova = call.copy(&span);
                    let iova = iova.or_else(|| self.map_served(&span, call.dma_limit));
                    request.set_iova(iova);
                    missing |= iova.is_none();
                }
                Some(_) => {}
                None => result = Err(MapError::Invalid),
            }
        }
        result.map(|()| missing)
    }

    /// Maps those of `requests` that have no address yet by what needs no window that is there, if
    /// that is to be. Returns whether others are left.
    fn map_unserved<'a, R, I, M>(&self, requests: I, call: &Call<'_, M>) -> bool
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
        M: Memory,
    {
        let mut missing = false;
        let mut opened = false;
        for request in requests.filter(|request| request.iova().is_none()) {
            let iova = request.span().and_then(|span| {
                // A window that was opened for an entry may serve its neighbours.
                let served = opened.then(|| self.map_served(&span, call.dma_limit));
                served.flatten().or_else(|| self.map_new(call, &span))
            });
            request.set_iova(iova);
            missing |= iova.is_none();
            opened |= iova.is_some_and(|iova| !call.pool.contains(iova));
        }
        missing
    }

    /// Maps `span`, which no window serves, by a slot, or by a window that it is worth, if one of
    /// these is to be.
    fn map_new<M: Memory>(&self, call: &Call<'_, M>, span: &GpaSpan) -> Option<Iova> {
        match call.pool.preference() {
            // That was tried.
            Preference::Slots => None,
            Preference::NewSlots => call.copy(span),
            Preference::Windows => match self.state.try_lock() {
                Some(_) => None,
                None => call.copy(span),
            },
            Preference::Admitted(cost) => self.map_admitted_or_copy(call, span, cost),
        }
    }

    /// Maps `span`, which no window serves, by a window if it is worth one, and otherwise by a
    /// slot; if it may be copied, and `cost` is what that costs.
    fn map_admitted_or_copy<M: Memory>(
        &self,
        call: &Call<'_, M>,
        span: &GpaSpan,
        cost: CopyCost,
    ) -> Option<Iova> {
        call.transfer.filter(|_| call.pool.accepts(span))?;
        let window = match self.admit(span, cost) {
            Admit::Window(offer) => self.map_admitted(*span, offer, call.dma_limit),
            Admit::Copy => None,
        };
        window.or_else(|| call.copy(span))
    }

    /// Unmaps all of `requests` that are mapped, as many as possible, by windows or in `pool`; with
    /// `sync`, what the device may have written to the pool is copied to the drivers' buffers.
    /// Fails if one of them is not held.
    ///
    /// Context: any.
    pub(crate) fn unmap_or_copy_all<'a, R, I, M>(
        &self,
        requests: I,
        pool: &SlotPool<M>,
        sync: bool,
    ) -> Result<(), NotHeld>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
        M: Memory,
    {
        // No window is where the pool is.
        self.unmap_all_or(requests, |span| {
            pool.contains(span.start()).then(|| pool.unmap(span, sync))
        })
    }
}
