// SPDX-License-Identifier: GPL-2.0

//! Mapping memory that the DMA API allocates, at the alignment that it promises.
//!
//! `Documentation/core-api/dma-api-howto.rst`: the CPU's address and the DMA address of
//! `dma_alloc_coherent()` are aligned to the smallest page order that holds the size. Boundaries of
//! a `dma_pool` rest on that. The memory itself is aligned like that; here a window or a region
//! serves a request only if it keeps the alignment, and the call fails if the host gives none that
//! does. `alignment.rs` computes how to get one.

use super::alignment::{
    is_congruent,
    of_allocation, //
};
use super::index::arena::Id;
use super::map::{
    reachable,
    Request,
    Single, //
};
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

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Maps memory that was allocated in pages of `page` bytes, at an IOVA that is aligned as the
    /// DMA API promises; otherwise as [`Self::map`].
    ///
    /// Context: any.
    pub(crate) fn map_allocation(
        &self,
        span: GpaSpan,
        page: u64,
        dma_limit: u64,
    ) -> Result<Iova, MapError> {
        let Some(modulus) = of_allocation(&span, page) else {
            return self.map(span, dma_limit);
        };
        if let Some(iova) = self.static_iova_aligned(&span, modulus) {
            return if reachable(iova, &span, dma_limit) {
                Ok(iova)
            } else {
                Err(MapError::Unreachable(iova))
            };
        }
        let request = Single::new(span, Some(modulus));
        let result = self.map_missing(core::iter::once(&request), dma_limit);
        if let Err(error) = result {
            self.release_partial(core::iter::once(&request), dma_limit);
            return Err(error);
        }
        request.iova().ok_or(MapError::Refused)
    }

    /// Takes a reference to a window that serves `request`, whose memory is `span`, or finds it in
    /// the static map. Misses no window.
    ///
    /// Context: engine lock held.
    pub(super) fn hit_request<R: Request>(
        &self,
        state: &Locked<H>,
        request: &R,
        span: &GpaSpan,
    ) -> Option<Iova> {
        let Some(modulus) = request.modulus() else {
            return self.hit_locked(state, span);
        };
        self.static_iova_aligned(span, modulus).or_else(|| {
            self.index
                .candidates(&state.index, span)
                .iter()
                .find_map(|id| self.take_aligned(*id, span, modulus))
        })
    }

    /// Returns the address of `span` if all of RAM is mapped, and the address is aligned.
    fn static_iova_aligned(&self, span: &GpaSpan, modulus: u64) -> Option<Iova> {
        self.static_map()?
            .iova_of(span)
            .filter(|iova| is_congruent(span.start(), *iova, modulus))
    }

    /// Takes a reference to the window `id` if it covers `span` at an aligned address.
    fn take_aligned(&self, id: Id, span: &GpaSpan, modulus: u64) -> Option<Iova> {
        let accepts = |iova| is_congruent(span.start(), iova, modulus);
        match self.index.window(id)?.take_if(span, accepts)? {
            (iova, false) => Some(iova),
            (iova, true) => Some(self.reused(id, iova)),
        }
    }
}
