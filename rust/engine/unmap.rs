// SPDX-License-Identifier: GPL-2.0

//! Unmapping, and translation of the addresses of mappings.
//!
//! To unmap is to drop a reference to the window that serves the mapping, which is found by its
//! IOVAs without the engine lock. What happens to a window without references is up to
//! `reclaim.rs`.

use super::index::arena::Id;
use super::map::Request;
use super::window::{
    NotHeld,
    Put,
    Window, //
};
use super::{
    Engine,
    Host,
    Locked,
    Observer, //
};
use crate::addr::{
    Gpa,
    Iova,
    IovaSpan, //
};
use crate::engine::policy::Policy;

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Returns whether `span` belongs to RAM that is mapped as a whole, so that there is nothing to
    /// unmap.
    ///
    /// Context: any.
    #[inline(always)]
    pub(crate) fn is_static(&self, span: &IovaSpan) -> bool {
        match &self.static_map {
            Some(map) => map.gpa_of(span).is_some(),
            None => false,
        }
    }

    /// Unmaps `span` if the first look-up finds its window, and returns whether it does; otherwise
    /// [`Self::unmap`] is to be called.
    ///
    /// Context: any.
    #[inline(always)]
    pub(crate) fn unmap_hit(&self, span: &IovaSpan) -> bool {
        let id = self.index.at_iova(span.first_granule());
        let Some(window) = self.index.window(id) else {
            return false;
        };
        match window.put(span, self.strict) {
            Ok(Put::Open) => true,
            Ok(put) => {
                self.finish_put(id, window, put);
                true
            }
            Err(NotHeld) => false,
        }
    }

    /// Does what `put` of the last reference of a driver to the window `id` asks for.
    #[cold]
    #[inline(never)]
    fn finish_put(&self, id: Id, window: &Window, put: Put) {
        if self.needs_flush(id, window, put) {
            self.unmap_retired();
        }
    }

    /// Unmaps the mapping of `len` bytes at `iova`.
    ///
    /// Context: any.
    pub(crate) fn unmap(&self, iova: Iova, len: u64) -> Result<(), NotHeld> {
        let retired = self.put_ref(&IovaSpan::new(iova, len).ok_or(NotHeld)?)?;
        if retired {
            self.unmap_retired();
        }
        Ok(())
    }

    /// Unmaps all of `requests` that are mapped, as many as possible. Fails if one of them is not
    /// held.
    ///
    /// Context: any.
    pub(crate) fn unmap_all<'a, R, I>(&self, requests: I) -> Result<(), NotHeld>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        self.unmap_all_or(requests, |_| None)
    }

    /// Unmaps all of `requests` as [`Self::unmap_all`]. Those that the first look-up finds no
    /// window for are passed to `other`, which returns [`None`] for what is not its own.
    ///
    /// Context: any.
    #[inline(always)]
    pub(super) fn unmap_all_or<'a, R, I>(
        &self,
        requests: I,
        mut other: impl FnMut(&IovaSpan) -> Option<Result<(), NotHeld>>,
    ) -> Result<(), NotHeld>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        let mut result = Ok(());
        let mut retired = false;
        let mut spans = requests
            .filter_map(Request::mapped)
            .filter(|span| !self.is_static(span));
        // Peekable::next_if() may refer to a panic.
        let mut next = spans.next();
        while let Some(span) = next {
            next = spans.next();
            let id = self.index.at_iova(span.first_granule());
            let window = self.index.window(id).filter(|window| window.serves(&span));
            let put = match window {
                Some(window) => {
                    // Neighbours in a list mostly are in one window, which stays what it is while
                    // the first of them is mapped.
                    let mut count: u32 = 1;
                    while count < u32::MAX && next.is_some_and(|next| window.serves(&next)) {
                        count = count.wrapping_add(1);
                        next = spans.next();
                    }
                    self.put_refs(id, window, count)
                }
                None => match other(&span) {
                    Some(result) => result.map(|()| false),
                    None => self.put_ref(&span),
                },
            };
            match put {
                Ok(last) => retired |= last,
                Err(error) => result = Err(error),
            }
        }
        if retired {
            self.unmap_retired();
        }
        result
    }

    /// Returns the guest memory behind the mapping of `len` bytes at `iova`, which the caller
    /// holds.
    ///
    /// Context: any.
    pub(crate) fn translate(&self, iova: Iova, len: u64) -> Option<Gpa> {
        let span = IovaSpan::new(iova, len)?;
        match self.static_map.as_ref().and_then(|map| map.gpa_of(&span)) {
            Some(gpa) => Some(gpa),
            None => self.window_at(&span)?.gpa_of(&span),
        }
    }

    /// Drops the reference of the mapping at `span`. Returns whether that retired its window, which
    /// the caller then has to flush.
    #[inline(always)]
    fn put_ref(&self, span: &IovaSpan) -> Result<bool, NotHeld> {
        if self.is_static(span) {
            return Ok(false);
        }
        let id = self.index.at_iova(span.first_granule());
        if let Some(window) = self.index.window(id) {
            if let Ok(put) = window.put(span, self.strict) {
                return Ok(self.needs_flush(id, window, put));
            }
        }
        self.put_ref_slow(span)
    }

    /// Drops a reference as [`Self::put_ref`], when the look-up without the lock found no window.
    #[cold]
    #[inline(never)]
    fn put_ref_slow(&self, span: &IovaSpan) -> Result<bool, NotHeld> {
        self.put_ref_locked(&self.state.lock(), span)
    }

    /// Drops a reference as [`Self::put_ref`], but misses no window.
    ///
    /// Context: engine lock held.
    pub(super) fn put_ref_locked(
        &self,
        state: &Locked<H>,
        span: &IovaSpan,
    ) -> Result<bool, NotHeld> {
        let id = self
            .index
            .at_iova_locked(&state.index, span.first_granule());
        let window = self.index.window(id).ok_or(NotHeld)?;
        let put = window.put(span, self.strict)?;
        Ok(self.needs_flush(id, window, put))
    }

    /// Drops `count` references to a window, as many as there are; otherwise as [`Self::put_ref`].
    fn put_refs(&self, id: Id, window: &Window, count: u32) -> Result<bool, NotHeld> {
        if let Ok(put) = window.put_many(count, self.strict) {
            return Ok(self.needs_flush(id, window, put));
        }
        // The device driver does not hold all of them.
        for _ in 0..count {
            let put = window.put_many(1, self.strict)?;
            if self.needs_flush(id, window, put) {
                self.unmap_retired();
            }
        }
        Err(NotHeld)
    }

    /// Retires the window if `put` closed it. Returns whether the caller has to call
    /// [`Self::unmap_retired`] for the window to be unmapped when the call returns.
    #[inline(always)]
    pub(super) fn needs_flush(&self, id: Id, window: &Window, put: Put) -> bool {
        match put {
            Put::Open => false,
            Put::Closed => {
                self.retire(id, window);
                true
            }
            Put::Idle => {
                self.note_idle(id);
                false
            }
        }
    }

    /// Returns the window that `span`, which the caller holds, is mapped by.
    fn window_at(&self, span: &IovaSpan) -> Option<&Window> {
        let granule = span.first_granule();
        // A look-up without the lock may find any window.
        let found = self.index.window(self.index.at_iova(granule));
        if let Some(window) = found.filter(|window| window.serves(span)) {
            return Some(window);
        }
        let state = self.state.lock();
        let id = self.index.at_iova_locked(&state.index, granule);
        self.index.window(id)
    }
}
