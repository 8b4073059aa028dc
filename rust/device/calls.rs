// SPDX-License-Identifier: GPL-2.0

//! The calls of the device driver: from the DMA API's callbacks into the engine, with tracing.
//!
//! Callbacks for streaming mappings try the engine's lock-free paths first; the slow variants trace
//! the call and report a failure. Counters and messages of failures belong in `report.rs`.

use super::copying::transfer;
use super::dma_ops::{
    Direction,
    MMIO, //
};
use super::mode::Mode;
use super::report::{
    Call,
    Loudness, //
};
use super::scatterlist::{
    Entries,
    DMA_MAPPING_ERROR, //
};
use super::Instance;
use crate::abstractions::raw;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan,
    GRANULE, //
};
use crate::engine::window::NotHeld;
use crate::engine::{
    MapError,
    MapPath,
    Request, //
};
use crate::observe::trace::{
    self,
    MapTrace,
    TraceStart, //
};
use kernel::{
    ffi::c_ulong,
    page::PAGE_SIZE, //
};

impl Instance<'_> {
    /// Returns `struct device` of the companion, whose own memory is plain guest memory.
    pub(super) fn companion(&self) -> *mut kernel::bindings::device {
        raw::device(self.dev)
    }

    /// Maps `len` bytes at `gpa` for a streaming mapping, and returns the address or
    /// [`DMA_MAPPING_ERROR`]. To be called while no event on this path is enabled.
    ///
    /// The part that is inlined needs no stack frame, which would be a large share of the cost.
    ///
    /// Context: any.
    #[inline(always)]
    pub(super) fn map_phys(&self, gpa: u64, len: usize, dma_limit: u64, attrs: c_ulong) -> u64 {
        match span(gpa, len).and_then(|span| self.engine.map_at_once(&span, dma_limit)) {
            Some(iova) => iova.raw(),
            None => self.map_phys_window(gpa, len, dma_limit, attrs),
        }
    }

    /// Continues [`Self::map_phys`] with an existing window.
    #[inline(never)]
    fn map_phys_window(&self, gpa: u64, len: usize, dma_limit: u64, attrs: c_ulong) -> u64 {
        match span(gpa, len).and_then(|span| self.engine.map_hit(&span, dma_limit)) {
            Some(iova) => iova.raw(),
            None => self.map_phys_slow(gpa, len, dma_limit, attrs),
        }
    }

    /// Continues [`Self::map_phys`] with everything that the engine can do. An empty range gets an
    /// address at which nothing is mapped for it, as in other implementations.
    #[cold]
    #[inline(never)]
    fn map_phys_slow(&self, gpa: u64, len: usize, dma_limit: u64, attrs: c_ulong) -> u64 {
        if len == 0 {
            return self.nothing().raw();
        }
        let (loudness, trace) = (Loudness::of(attrs), MapTrace::NONE);
        self.map_by(gpa, len, dma_limit, loudness, trace, |span| {
            self.engine.map(span, dma_limit)
        })
        .map_or(DMA_MAPPING_ERROR, Iova::raw)
    }

    /// Maps `len` bytes at `gpa` as [`Self::map_phys`], with an event; rejects MMIO.
    ///
    /// Context: any.
    pub(super) fn map_phys_traced(
        &self,
        gpa: u64,
        len: usize,
        dma_limit: u64,
        dir: Direction,
        attrs: c_ulong,
    ) -> u64 {
        if attrs & MMIO != 0 {
            return self.reject_mmio(gpa, len, dma_limit, attrs);
        }
        self.map_phys_or_copy_slow(gpa, len, dma_limit, transfer(dir, attrs), attrs)
    }

    /// Returns the address of empty ranges: one that the device reaches. It is not at a boundary,
    /// which a range without bytes would cross to those that compute its last byte.
    pub(super) fn nothing(&self) -> Iova {
        Iova::new(self.first_last & !(GRANULE - 1) | 64)
    }

    /// Reports a request to map MMIO, which the DART cannot reach, and returns
    /// [`DMA_MAPPING_ERROR`].
    ///
    /// Context: any.
    #[cold]
    #[inline(never)]
    pub(super) fn reject_mmio(&self, phys: u64, len: usize, dma_limit: u64, attrs: c_ulong) -> u64 {
        let (call, loudness) = (Call::single(phys, len), Loudness::of(attrs));
        self.fail(MapError::Mmio, call, dma_limit, TraceStart::now(), loudness);
        DMA_MAPPING_ERROR
    }

    /// Maps `len` bytes that the DMA API allocated at `gpa` for a device that reaches addresses up
    /// to `dma_limit`; with `aligned`, at an address that is aligned as the DMA API promises.
    ///
    /// Context: any.
    pub(super) fn map_allocation(
        &self,
        gpa: u64,
        len: usize,
        dma_limit: u64,
        aligned: bool,
        loudness: Loudness,
    ) -> Result<Iova, MapError> {
        let trace = MapTrace::now(None);
        self.map_by(gpa, len, dma_limit, loudness, trace, |span| match aligned {
            // CAST: `usize` has at most 64 bits.
            true => self
                .engine
                .map_allocation(span, PAGE_SIZE as u64, dma_limit),
            false => self.engine.map(span, dma_limit),
        })
    }

    /// Maps memory by `map`; traces the call and reports a failure.
    pub(super) fn map_by(
        &self,
        gpa: u64,
        len: usize,
        dma_limit: u64,
        loudness: Loudness,
        trace: MapTrace,
        map: impl FnOnce(GpaSpan) -> Result<Iova, MapError>,
    ) -> Result<Iova, MapError> {
        let span = span(gpa, len);
        let traced = span.filter(|_| trace.start().is_enabled());
        let path = traced.map(|span| self.engine.source(&span));
        let result = match span {
            Some(span) => map(span),
            None => Err(MapError::Invalid),
        };
        self.notices.log();
        match result {
            Ok(iova) => {
                if let Some((span, path)) = traced.zip(path) {
                    let path = self.path_of(iova, path);
                    self.source.map(&span, iova, trace, (0, 1), path);
                }
            }
            Err(error) => {
                let call = Call::single(gpa, len);
                self.fail(error, call, dma_limit, trace.start(), loudness);
            }
        }
        result
    }

    /// Maps all entries of a scatterlist or none. Empty entries are as in [`Self::map_phys`]. With
    /// `COPIES`, they may be copied where `dir` and `attrs` allow that.
    ///
    /// Context: any.
    pub(super) fn map_sg<const COPIES: bool>(
        &self,
        entries: Entries<'_>,
        dma_limit: u64,
        dir: Direction,
        attrs: c_ulong,
    ) -> Result<(), MapError> {
        let start = TraceStart::now();
        let traced = start.is_enabled().then(|| {
            let trace = MapTrace::new(start, transfer(dir, attrs));
            (self.sg_path(entries.clone()), trace)
        });
        let nothing = self.nothing();
        let used = entries
            .clone()
            .filter(move |entry| !entry.set_if_empty(nothing));
        let result = match &self.copy_pool {
            Some(pool) if COPIES => {
                let transfer = transfer(dir, attrs);
                self.engine.map_or_copy_all(used, pool, transfer, dma_limit)
            }
            _ => self.engine.map_all(used, dma_limit),
        };
        self.notices.log();
        if let Some((path, trace)) = traced.filter(|_| result.is_ok()) {
            self.trace_map_sg(entries.clone(), trace, path);
        }
        if let Err(error) = result {
            let (call, loudness) = (Call::scatterlist(entries), Loudness::of(attrs));
            self.fail(error, call, dma_limit, start, loudness);
        }
        result
    }

    /// Returns the slowest path by which an entry of a scatterlist would be mapped now.
    #[cold]
    fn sg_path(&self, entries: Entries<'_>) -> MapPath {
        let spans = entries.filter_map(|entry| entry.span());
        let paths = spans.map(|span| self.engine.source(&span));
        // CAST: The discriminants are small.
        let slowest = paths.max_by_key(|path| *path as u8);
        slowest.unwrap_or(MapPath::Host)
    }

    /// Traces the mapping of a scatterlist, by one event per entry.
    #[cold]
    fn trace_map_sg(&self, entries: Entries<'_>, trace: MapTrace, path: MapPath) {
        let nents = entries.nents();
        for (index, entry) in (0..nents).zip(entries) {
            if let Some((span, iova)) = entry.span().zip(entry.iova()) {
                let path = self.path_of(iova, path);
                self.source.map(&span, iova, trace, (index, nents), path);
            }
        }
    }

    /// Unmaps a streaming mapping.
    ///
    /// Context: any.
    #[inline(always)]
    pub(super) fn unmap_phys(&self, iova: u64, len: usize) {
        if trace::is_enabled() {
            return self.unmap_phys_slow(iova, len);
        }
        // CAST: `usize` has at most 64 bits.
        let span = IovaSpan::new(Iova::new(iova), len as u64);
        if !span.is_some_and(|span| self.engine.is_static(&span)) {
            self.unmap_phys_window(iova, len);
        }
    }

    /// Continues [`Self::unmap_phys`] with the window that is found without the engine's lock.
    #[inline(never)]
    fn unmap_phys_window(&self, iova: u64, len: usize) {
        // CAST: `usize` has at most 64 bits.
        let span = IovaSpan::new(Iova::new(iova), len as u64);
        if !span.is_some_and(|span| self.engine.unmap_hit(&span)) {
            self.unmap_phys_slow(iova, len);
        }
    }

    /// Continues [`Self::unmap_phys`] for mappings that are hard to find or do not exist.
    #[cold]
    #[inline(never)]
    fn unmap_phys_slow(&self, iova: u64, len: usize) {
        if len == 0 {
            return;
        }
        // CAST: `usize` has at most 64 bits.
        if self.unmap_traced(iova, len as u64).is_err() {
            self.report_misuse(Call::single(iova, len));
        }
    }

    /// Unmaps `len` bytes at `iova` and traces the call.
    fn unmap_traced(&self, iova: u64, len: u64) -> Result<(), NotHeld> {
        let start = TraceStart::now();
        let gpa = start.is_enabled().then(|| self.gpa_for_trace(iova, len));
        let result = self.engine.unmap(Iova::new(iova), len);
        self.notices.log();
        if let Some(gpa) = gpa {
            self.source.unmap(gpa, iova, len, start, (0, 1));
        }
        result
    }

    /// Returns the guest-physical address behind `iova` for an event; all-ones if nothing is mapped
    /// there.
    pub(super) fn gpa_for_trace(&self, iova: u64, len: u64) -> u64 {
        let iova = Iova::new(iova);
        let copied = self.copied_gpa(iova, len);
        let gpa = copied.or_else(|| self.engine.translate(iova, len));
        gpa.map_or(u64::MAX, Gpa::raw)
    }

    /// Unmaps memory that was allocated through the DMA API, if `is_right` confirms its address,
    /// which is returned; otherwise reports the misuse.
    ///
    /// Context: any.
    pub(super) fn unmap_allocation(
        &self,
        iova: u64,
        len: usize,
        is_right: impl FnOnce(Gpa) -> bool,
    ) -> Option<Gpa> {
        let gpa = self.translate(iova, len)?;
        // CAST: `usize` has at most 64 bits.
        if !is_right(gpa) || self.unmap_traced(iova, len as u64).is_err() {
            self.report_misuse(Call::single(iova, len));
            return None;
        }
        Some(gpa)
    }

    /// Unmaps the entries of a scatterlist.
    ///
    /// Context: any.
    pub(super) fn unmap_sg(&self, entries: Entries<'_>) {
        if trace::is_enabled() {
            self.trace_unmap_sg(entries.clone());
        }
        let result = self.engine.unmap_all(entries.clone());
        self.notices.log();
        if result.is_err() {
            self.report_sg_misuse(entries);
        }
    }

    /// Traces that a scatterlist is unmapped, by one event per entry.
    #[cold]
    pub(super) fn trace_unmap_sg(&self, entries: Entries<'_>) {
        let nents = entries.nents();
        for (index, entry) in (0..nents).zip(entries) {
            if let Some(span) = entry.mapped() {
                let (iova, len) = (span.start().raw(), span.len());
                let gpa = self.gpa_for_trace(iova, len);
                self.source
                    .unmap(gpa, iova, len, TraceStart::none(), (index, nents));
            }
        }
    }

    /// Returns the guest-physical address behind `iova`; reports a misuse if nothing is mapped
    /// there.
    ///
    /// Context: any.
    pub(super) fn translate(&self, iova: u64, len: usize) -> Option<Gpa> {
        // CAST: `usize` has at most 64 bits.
        let gpa = self.engine.translate(Iova::new(iova), len as u64);
        if gpa.is_none() {
            self.report_misuse(Call::single(iova, len));
        }
        gpa
    }

    /// Returns whether a device that reaches addresses up to `dma_limit` can be expected to work:
    /// whether it reaches what the host assigned first, and all of RAM where that is mapped.
    ///
    /// Context: any.
    pub(super) fn reaches(&self, dma_limit: u64) -> bool {
        let whole = self.engine.static_map();
        dma_limit
            >= match self.mode {
                // Without a DART, the driver allocates by its mask, as on other machines.
                Mode::Identity => 0,
                _ => whole
                    .map_or(0, |map| map.highest_iova())
                    .max(self.first_last),
            }
    }

    /// Returns the smallest mask that covers every address which the device was given so far, or
    /// can be given without the host. [`Self::reaches`] accepts it.
    ///
    /// The DART may assign higher addresses later. But a mask that covered these would be one that
    /// hardly any device has, and drivers of devices with a smaller one would keep to the little
    /// memory below 4 GiB, to no avail.
    ///
    /// Context: any.
    pub(super) fn required_mask(&self) -> u64 {
        let highest = match self.mode {
            Mode::Identity => self.engine.ram_end().saturating_sub(1),
            _ => self.engine.highest_iova().max(self.first_last),
        };
        u64::MAX.checked_shr(highest.leading_zeros()).unwrap_or(0)
    }

    /// Returns the largest length of a single mapping, in bytes, that can be expected to work
    /// beside others; less after the host has refused as much, or after a limit was lowered.
    pub(super) fn max_mapping_size(&self) -> usize {
        // A mapping that is not aligned touches one granule more.
        let refused = self.engine.refused_len().map_or(u64::MAX, |len| {
            len.saturating_sub(2 * GRANULE).max(GRANULE) & !(GRANULE - 1)
        });
        let share = match self.engine.static_map() {
            Some(_) => u64::MAX,
            None => self.engine.share_of_limits(),
        };
        usize::try_from(self.max_len.min(refused).min(share)).unwrap_or(usize::MAX)
    }
}

/// Returns the guest memory of `len` bytes from `gpa`.
fn span(gpa: u64, len: usize) -> Option<GpaSpan> {
    GpaSpan::new(Gpa::new(gpa), u64::try_from(len).ok()?)
}
