// SPDX-License-Identifier: GPL-2.0

//! Mapping by what is mapped already: by the static map of all RAM, or by an existing window.
//!
//! Nothing here takes the engine lock, except after a failure. A request that no window serves goes
//! to `miss.rs`.

use super::index::arena::Id;
use super::{
    Engine,
    Host,
    Locked,
    MapError,
    MapPath,
    Observer,
    WindowInfo, //
};
use crate::addr::{
    Address,
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::engine::policy::Policy;
use crate::engine::window::Window;
use core::cell::Cell;

/// A range to map, with a place for its address.
pub(crate) trait Request {
    /// Returns the guest memory; [`None`] if it is empty or wraps around.
    fn span(&self) -> Option<GpaSpan>;

    /// Returns the address where it is mapped; [`None`] if it is not mapped.
    fn iova(&self) -> Option<Iova>;

    /// Returns all addresses where it is mapped.
    fn mapped(&self) -> Option<IovaSpan> {
        IovaSpan::new(self.iova()?, self.span()?.len())
    }

    /// Records the address where it is mapped, or that it is not mapped.
    fn set_iova(&self, iova: Option<Iova>);

    /// Returns the modulus to which the address must be congruent to the guest memory's, if there
    /// is one; see [`Engine::map_allocation`].
    fn modulus(&self) -> Option<u64> {
        None
    }
}

/// A single request.
pub(super) struct Single {
    span: GpaSpan,
    modulus: Option<u64>,
    iova: Cell<Option<Iova>>,
}

impl Single {
    /// Creates a request for `span`, whose address must be congruent to the memory's modulo
    /// `modulus`, if there is one.
    pub(super) fn new(span: GpaSpan, modulus: Option<u64>) -> Self {
        Self {
            span,
            modulus,
            iova: Cell::new(None),
        }
    }
}

impl Request for Single {
    fn span(&self) -> Option<GpaSpan> {
        Some(self.span)
    }

    fn iova(&self) -> Option<Iova> {
        self.iova.get()
    }

    fn set_iova(&self, iova: Option<Iova>) {
        self.iova.set(iova);
    }

    fn modulus(&self) -> Option<u64> {
        self.modulus
    }
}

/// Returns whether a device that reaches addresses up to `dma_limit` can use all of `span` at
/// `iova`.
#[inline]
pub(super) fn reachable(iova: Iova, span: &GpaSpan, dma_limit: u64) -> bool {
    // No window's addresses wrap around.
    iova.raw().wrapping_add(span.len().wrapping_sub(1)) <= dma_limit
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Maps `span` if that takes no more than an addition: all of RAM is mapped, and the device
    /// reaches the address. Such a mapping need not be unmapped.
    ///
    /// Context: any.
    #[inline(always)]
    pub(crate) fn map_at_once(&self, span: &GpaSpan, dma_limit: u64) -> Option<Iova> {
        self.static_iova(span)
            .filter(|iova| reachable(*iova, span, dma_limit))
    }

    /// Maps `span` if the first look-up finds a window that serves it, as most do; otherwise
    /// [`Self::map`] is to be called. Small, so that its callers are. Not for large pages where
    /// drivers rely on their alignment, see [`Self::has_large_pages`].
    ///
    /// Context: any.
    #[inline(always)]
    pub(crate) fn map_hit(&self, span: &GpaSpan, dma_limit: u64) -> Option<Iova> {
        let id = self.index.at_gpa(span.first_granule());
        let (iova, _) = self.index.window(id)?.take(span)?;
        if reachable(iova, span, dma_limit) {
            Some(iova)
        } else {
            self.undo_unreachable(iova, *span)
        }
    }

    /// Maps `span` if a window serves it, after [`Self::map_hit`] found none; for requests that may
    /// be copied. Lock-free; may miss a window.
    ///
    /// Context: any.
    pub(crate) fn map_served(&self, span: &GpaSpan, dma_limit: u64) -> Option<Iova> {
        let iova = self.hit(span)?;
        if reachable(iova, span, dma_limit) {
            Some(iova)
        } else if self.static_iova(span).is_some() {
            None
        } else {
            self.undo_unreachable(iova, *span)
        }
    }

    /// Drops the reference that [`Self::map_hit`] took to a window that serves `span` at `iova`,
    /// which the device does not reach. Returns [`None`].
    #[cold]
    #[inline(never)]
    fn undo_unreachable(&self, iova: Iova, span: GpaSpan) -> Option<Iova> {
        self.undo(iova, span.len());
        None
    }

    /// Maps `span` for a device that reaches addresses up to `dma_limit`.
    ///
    /// Context: any.
    pub(crate) fn map(&self, span: GpaSpan, dma_limit: u64) -> Result<Iova, MapError> {
        match self.hit(&span) {
            Some(iova) if reachable(iova, &span, dma_limit) => return Ok(iova),
            Some(iova) if self.static_iova(&span).is_some() => {
                return Err(MapError::Unreachable(iova));
            }
            Some(iova) => self.undo(iova, span.len()),
            None => {}
        }
        self.map_single(span, dma_limit)
    }

    /// Unmaps a mapping that was just made at an address that the device does not reach, or that is
    /// not aligned.
    #[cold]
    fn undo(&self, iova: Iova, len: u64) {
        let mut state = self.state.lock();
        state.counters.undone.inc();
        let span = IovaSpan::new(iova, len);
        if span.is_some_and(|span| self.put_unreachable(&state, &span)) {
            drop(state);
            self.unmap_retired();
        }
    }

    /// Drops the reference of a mapping at `span`, which the device does not reach, or which is not
    /// where it should be, and closes the window if that was the last one: as long as it is open it
    /// is found first, and the host may place another window for the same memory elsewhere. Returns
    /// whether the window was retired.
    ///
    /// Context: engine lock held.
    pub(super) fn put_unreachable(&self, state: &Locked<H>, span: &IovaSpan) -> bool {
        let id = self
            .index
            .at_iova_locked(&state.index, span.first_granule());
        let Some(window) = self.index.window(id) else {
            return false;
        };
        // The mapping was just made, so the reference is held.
        let put = window.put(span, true);
        put.is_ok_and(|put| self.needs_flush(id, window, put))
    }

    /// Maps `span`, which no window serves.
    #[cold]
    #[inline(never)]
    fn map_single(&self, span: GpaSpan, dma_limit: u64) -> Result<Iova, MapError> {
        let single = Single::new(span, None);
        self.map_all(core::iter::once(&single), dma_limit)?;
        single.iova.get().ok_or(MapError::Refused)
    }

    /// Maps all of `requests`, or none of them. Those that no window serves go to the host
    /// together.
    ///
    /// Context: any.
    pub(crate) fn map_all<'a, R, I>(&self, requests: I, dma_limit: u64) -> Result<(), MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let result = match self.map_all_served(requests.clone(), dma_limit) {
            Ok(false) => Ok(()),
            Ok(true) => self.map_missing(requests.clone(), dma_limit),
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.release_partial(requests, dma_limit);
        }
        result
    }

    /// Maps those of `requests` that windows serve, and clears the addresses of the others. Returns
    /// whether there are others. If one of them is invalid, or its address is known and beyond
    /// `dma_limit`, fails, and some may be mapped. Lock-free; may miss windows.
    ///
    /// Context: any.
    #[inline(always)]
    pub(super) fn map_all_served<'a, R, I>(
        &self,
        requests: I,
        dma_limit: u64,
    ) -> Result<bool, MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let mut missing = false;
        let mut result = Ok(());
        let mut rest = requests;
        let mut next = rest.next();
        while let Some(request) = next {
            next = rest.next();
            // The place of the address may hold anything before the call.
            request.set_iova(None);
            if result.is_err() {
                continue;
            }
            let Some(span) = request.span() else {
                result = Err(MapError::Invalid);
                continue;
            };
            if let Some(iova) = self.static_iova(&span) {
                if reachable(iova, &span, dma_limit) {
                    request.set_iova(Some(iova));
                } else {
                    result = Err(MapError::Unreachable(iova));
                }
                continue;
            }
            let Some((iova, window)) = self.hit_window(&span) else {
                missing = true;
                continue;
            };
            if !reachable(iova, &span, dma_limit) {
                self.undo(iova, span.len());
                missing = true;
                continue;
            }
            request.set_iova(Some(iova));
            // Neighbours in a list mostly are in one window, which stays what it is while the first
            // of them is mapped.
            let others = (next, rest.clone());
            let mut count: u32 = 0;
            while let Some(other) = next.filter(|_| count < u32::MAX) {
                let iova = other.span().and_then(|span| {
                    let iova = window.iova_of(&span)?;
                    reachable(iova, &span, dma_limit).then_some(iova)
                });
                if iova.is_none() {
                    break;
                }
                other.set_iova(iova);
                count = count.wrapping_add(1);
                next = rest.next();
            }
            if count != 0 && !window.take_more(count) {
                // CAST: `usize` has at least 32 bits.
                let others = others.0.into_iter().chain(others.1).take(count as usize);
                others.for_each(|other| other.set_iova(None));
                missing = true;
            }
        }
        result.map(|()| missing)
    }

    /// Unmaps what a failed call, for a device that reaches addresses up to `dma_limit`, has mapped
    /// so far.
    pub(super) fn release_partial<'a, R, I>(&self, requests: I, dma_limit: u64)
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let mapped = requests.clone().filter_map(Request::mapped);
        let undone = mapped.filter(|span| !self.is_static(span));
        // Unlike this, Iterator::count() may refer to a panic.
        let undone = undone.fold(0, |count: u64, _| count.saturating_add(1));
        if undone != 0 {
            self.state.lock().counters.undone.add(undone);
        }
        let mut retired = false;
        for request in requests.clone() {
            let unreachable = |span: &IovaSpan| span.last() > dma_limit && !self.is_static(span);
            if let Some(span) = request.mapped().filter(unreachable) {
                retired |= self.put_unreachable(&self.state.lock(), &span);
                request.set_iova(None);
            }
        }
        if retired {
            self.unmap_retired();
        }
        // These were just mapped, so the references are held.
        let _ = self.unmap_all(requests.clone());
        for request in requests {
            request.set_iova(None);
        }
    }

    /// Returns the way in which `span` would be mapped now, which may change at any time.
    ///
    /// Context: any.
    pub(crate) fn source(&self, span: &GpaSpan) -> MapPath {
        let granule = span.first_granule();
        let covers = |id| {
            self.index
                .window(id)
                .is_some_and(|window| window.covers(span))
        };
        if self.static_iova(span).is_some() {
            MapPath::WholeRam
        } else if covers(self.index.at_gpa(granule)) || covers(self.index.at_start(granule)) {
            MapPath::Window
        } else {
            MapPath::Host
        }
    }

    /// Takes a reference to a window that covers `span`. Returns the address of `span`, and the
    /// window. Lock-free; may miss a window.
    ///
    /// Not inlined: the loop over a list would keep the addresses of all that this uses in
    /// registers, and save them for each entry.
    #[inline(never)]
    fn hit_window(&self, span: &GpaSpan) -> Option<(Iova, &Window)> {
        let granule = span.first_granule();
        let take = |id| {
            let iova = self.take(id, span)?;
            Some((iova, self.index.window(id)?))
        };
        take(self.index.at_gpa(granule)).or_else(|| take(self.index.at_start(granule)))
    }

    /// Takes a reference to a window that covers `span`. Lock-free; may miss a window.
    #[inline(always)]
    fn hit(&self, span: &GpaSpan) -> Option<Iova> {
        if let Some(iova) = self.static_iova(span) {
            return Some(iova);
        }
        match self.take(self.index.at_gpa(span.first_granule()), span) {
            Some(iova) => Some(iova),
            None => self.hit_by_start(span),
        }
    }

    /// Takes a reference as [`Self::hit`], after the first look-up found nothing.
    #[inline(never)]
    fn hit_by_start(&self, span: &GpaSpan) -> Option<Iova> {
        self.take(self.index.at_start(span.first_granule()), span)
    }

    /// Takes a reference as [`Self::hit`], but misses no window.
    ///
    /// Context: engine lock held.
    pub(super) fn hit_locked(&self, state: &Locked<H>, span: &GpaSpan) -> Option<Iova> {
        if let Some(iova) = self.static_iova(span) {
            return Some(iova);
        }
        self.index
            .candidates(&state.index, span)
            .iter()
            .find_map(|id| match self.index.window(*id)?.take(span)? {
                (iova, false) => Some(iova),
                (iova, true) => Some(self.reused(*id, iova)),
            })
    }

    /// Takes a reference to the window `id` if it covers `span`, unless it is idle, and another one
    /// can be better.
    #[inline(always)]
    fn take(&self, id: Id, span: &GpaSpan) -> Option<Iova> {
        match self.index.window(id)?.take(span)? {
            (iova, false) => Some(iova),
            (iova, true) => self.reuse(id, span, iova),
        }
    }

    /// Continues [`Self::take`] with the window `id`, which was idle, and has `span` at `iova`.
    #[inline(never)]
    fn reuse(&self, id: Id, span: &GpaSpan, iova: Iova) -> Option<Iova> {
        if self.is_misaligned(id, span, iova) {
            self.undo(iova, span.len());
            return None;
        }
        Some(self.reused(id, iova))
    }

    /// Reports that the window `id`, to which the caller has a reference, is in use again. Returns
    /// `iova`.
    #[inline(never)]
    pub(super) fn reused(&self, id: Id, iova: Iova) -> Iova {
        if let Some(info) = self.index.window(id).and_then(WindowInfo::new) {
            self.observer.reused(&info);
        }
        iova
    }

    /// Returns the address of `span` if all of RAM is mapped.
    #[inline(always)]
    fn static_iova(&self, span: &GpaSpan) -> Option<Iova> {
        self.static_map.as_ref()?.iova_of(span)
    }
}
