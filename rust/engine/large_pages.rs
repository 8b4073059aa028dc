// SPDX-License-Identifier: GPL-2.0

//! Large pages of drivers that rely on their alignment: one window for each, and fillers, which
//! move it to where it is aligned.
//!
//! `alignment.rs` says how that works, and `align_target.rs` computes how long a filler is. It is a
//! window that no request finds, and idle from the beginning, so whatever needs room unmaps it.
//! Otherwise it stays until its large page is idle as well, since the hole that it leaves would
//! take the filler of another page. In strict mode it stays while the call maps its large pages.

use super::align_target::{
    AlignTarget,
    Verdict, //
};
use super::alignment::{
    is_congruent,
    modulus,
    small_page, //
};
use super::budget::cost;
use super::create::{
    Choice,
    Obstacle, //
};
use super::host::MapEntry;
use super::index::arena::Id;
use super::miss::CALL_MAX_MS;
use super::{
    Engine,
    Host,
    Limit,
    Locked,
    MapError,
    Observer,
    Request, //
};
use crate::addr::{
    Address,
    GpaSpan,
    Iova,
    IovaSpan,
    GRANULE, //
};
use crate::engine::policy::Policy;
use crate::engine::window::Window;
use crate::sys::Stopwatch;

/// The effort for IOVAs of large pages that are congruent to their guest addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LargePages {
    /// None: they may be anywhere.
    Ignored = 0,
    /// Single mappings are padded, as long as that takes little.
    Preferred = 1,
    /// The driver relies on them, in lists as well.
    Expected = 2,
}

impl<H: Host> Locked<H> {
    /// Returns an error if the limits have no room for windows for both of `spans`.
    fn check_limits_of(&self, spans: [&GpaSpan; 2]) -> Result<(), Obstacle> {
        let bytes = spans.into_iter().map(cost).fold(0, u64::saturating_add);
        if self.budget.bytes().left < bytes {
            Err(Obstacle::Limit(Limit::Bytes))
        } else if self.budget.entries().left < 2 {
            Err(Obstacle::Limit(Limit::Entries))
        } else {
            Ok(())
        }
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Returns the effort for the addresses of large pages.
    pub(crate) fn large_pages(&self) -> LargePages {
        self.large_pages
    }

    /// Returns whether it depends on the choice of windows that large pages are where drivers rely
    /// on them to be.
    pub(crate) fn aligns_windows(&self) -> bool {
        self.large_pages == LargePages::Expected && self.static_map().is_none()
    }

    /// Returns whether `len` bytes may have large pages whose addresses matter, so that
    /// [`Self::map_hit`] is not for them.
    pub(crate) fn has_large_pages(&self, len: u64) -> bool {
        self.large_pages == LargePages::Expected && len >= small_page()
    }

    /// Returns whether `span`, which the idle window `id` has at `iova`, is a large page that is
    /// not aligned there, but probably would be in a window of its own: this one was made for other
    /// requests, smaller ones or one that began elsewhere.
    ///
    /// Context: any, but not with the engine lock held.
    pub(super) fn is_misaligned(&self, id: Id, span: &GpaSpan, iova: Iova) -> bool {
        self.has_large_pages(span.len())
            && modulus(span).is_some_and(|modulus| !is_congruent(span.start(), iova, modulus))
            && self
                .index
                .window(id)
                .and_then(Window::span)
                .is_some_and(|window| {
                    window.start() != span.start() || window.granules() != span.granules()
                })
            && self.state.lock().forecast.guard().is_some()
    }

    /// Returns the most fillers that are made for a request at a time.
    pub(super) fn fillers(&self) -> usize {
        usize::from(self.large_pages == LargePages::Expected)
    }

    /// Maps those of `requests` that are not mapped, for a call that began at `time`: first the
    /// large pages, one by one, as the address of each depends on the one before. On failure some
    /// may be mapped.
    ///
    /// Context: any.
    pub(super) fn map_large_pages<'a, R, I>(
        &self,
        requests: I,
        dma_limit: u64,
        time: Stopwatch,
    ) -> Result<(), MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let missing = requests.clone().filter(|request| request.iova().is_none());
        // CAST: `usize` has at most 64 bits.
        let misses = missing.clone().count() as u64;
        let mut result = Ok(());
        for request in missing {
            if request.span().is_some_and(|span| modulus(&span).is_some()) {
                let request = core::iter::once(request);
                // They are counted when the call succeeds as a whole.
                let map =
                    || self.map_missing_by(request.clone(), dma_limit, Choice::Policy, time, 0);
                result = map();
                if matches!(result, Err(MapError::Full(_))) && self.drop_fillers(time) {
                    result = map();
                }
                if result.is_err() {
                    break;
                }
            }
        }
        self.drop_fillers(time);
        result?;
        self.map_missing_by(requests, dma_limit, Choice::Policy, time, misses)
    }

    /// Keeps the filler `window`, which was just opened, until all large pages of the call are
    /// mapped, since its place would be free for the next filler. Returns false in lazy mode, where
    /// it stays without a reference, and if there are too many.
    ///
    /// Context: engine lock held.
    pub(super) fn keep_filler(&self, state: &mut Locked<H>, id: Id, window: &Window) -> bool {
        if !self.strict || !window.is_filler() || state.fillers.is_full() {
            return false;
        }
        state.fillers.push(id);
        true
    }

    /// Unmaps the fillers that were kept, by this call or another. Where the call, which began at
    /// `time`, is late, the next call or the periodic work does. Returns whether there were any.
    fn drop_fillers(&self, time: Stopwatch) -> bool {
        let mut state = self.state.lock();
        if state.fillers.is_empty() {
            return false;
        }
        while let Some(id) = state.fillers.pop() {
            // The end of the engine has closed them.
            let Some(window) = self.index.window(id).filter(|_| !state.closed) else {
                continue;
            };
            // There is a reference until here.
            if let Ok(put) = window.settle(true) {
                let _ = self.needs_flush(id, window, put);
            }
        }
        drop(state);
        if time.elapsed_ms() <= CALL_MAX_MS {
            self.unmap_retired();
        }
        true
    }

    /// Returns what is to be done with a window for `span` that the host mapped at `iova`. Learns
    /// from that how the host assigns addresses.
    ///
    /// Context: engine lock held.
    pub(super) fn judge(
        &self,
        state: &mut Locked<H>,
        span: &GpaSpan,
        iova: Iova,
        target: Option<&mut AlignTarget>,
    ) -> Verdict {
        let Locked {
            forecast,
            alloc_order,
            ..
        } = state;
        let mut is_last = false;
        let iovas = match self.large_pages {
            LargePages::Expected => IovaSpan::new(iova, span.len()),
            LargePages::Ignored | LargePages::Preferred => None,
        };
        if let Some(iovas) = &iovas {
            // Before the verdict, which is about the next try.
            is_last = forecast.learn(iovas, alloc_order);
        }
        let verdict = match target {
            Some(target) => target.observe(span, iova, alloc_order, forecast.guard()),
            None => Verdict::Accept,
        };
        if let Some(iovas) = iovas.filter(|_| is_last && verdict == Verdict::Accept) {
            forecast.advance(&iovas);
        }
        verdict
    }

    /// Adds the filler that `target` is to have for the window `span`, which covers `request`, to
    /// the batch. Returns whether there is one. It is memory of the request, so that the device
    /// reaches nothing more because of it.
    ///
    /// Context: engine lock held.
    pub(super) fn add_filler(
        &self,
        state: &mut Locked<H>,
        request: &GpaSpan,
        span: &GpaSpan,
        target: &mut AlignTarget,
    ) -> Result<bool, Obstacle> {
        let len = target.filler();
        if len == 0 {
            return Ok(false);
        }
        let filler = self
            .filler_of(state, request, len)
            .filter(|_| state.map.has_room_for(2));
        let Some(filler) = filler else {
            let guard = state.forecast.guard().unwrap_or(0);
            target.do_without_filler(guard, state.alloc_order);
            return Ok(false);
        };
        // Room is made for both.
        state.check_limits_of([&filler, span])?;
        if !state.index.has_chunks(&filler) {
            return Err(Obstacle::Tables);
        }
        let (id, window) = self.create(state, &filler, None)?;
        window.set_filler();
        state.index.reserve_chunks(&filler);
        state.map.push(MapEntry {
            id,
            ..MapEntry::new(filler)
        });
        Ok(true)
    }

    /// Returns memory of `request` for a filler of `len` bytes, in whole granules, with a free key;
    /// [`None`] if there is none.
    fn filler_of(&self, state: &Locked<H>, request: &GpaSpan, len: u64) -> Option<GpaSpan> {
        // Of the second granule on, as the first is the key of the window.
        let first = request.start().raw().checked_add(GRANULE)?;
        let span = GpaSpan::from_bounds(first, first.checked_add(len)?)?;
        let starts = first..=first.saturating_add(GRANULE.wrapping_sub(1));
        self.index
            .with_free_key(&state.index, &span, starts)
            .filter(|span| request.covers(span))
    }

    /// Returns whether `window` is a filler whose memory is in use. Without it, the filler of the
    /// next window would take its place, and not the one before that window.
    ///
    /// Context: engine lock held.
    pub(super) fn is_needed(&self, state: &Locked<H>, window: &Window) -> bool {
        let Some(span) = window.span().filter(|_| window.is_filler()) else {
            return false;
        };
        let mut windows = self.index.candidates(&state.index, &span).into_iter();
        windows.any(|id| {
            let window = self.index.window(id);
            window.is_some_and(|window| window.covers(&span) && window.users() != 0)
        })
    }
}
