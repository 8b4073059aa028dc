// SPDX-License-Identifier: GPL-2.0

//! The calls of a device driver whose mappings may be copied, in place of those of
//! [`calls`](super::calls). Where an existing window serves a mapping they do the same as those.
//!
//! Which mappings may be copied is decided here, by what the driver says of them; which of these
//! are, is the engine's decision.

use super::copy_pool::CopyPool;
use super::report::{
    Call,
    Loudness, //
};
use super::scatterlist::{
    Entries,
    DMA_MAPPING_ERROR, //
};
use super::Instance;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan, //
};
use crate::compat;
use crate::driver::params::CopyMode;
use crate::engine::copy::stats::CopyStats;
use crate::engine::copy::Transfer;
use crate::engine::{
    MapPath,
    Request, //
};
use crate::observe::trace::{
    self,
    MapTrace,
    TraceStart, //
};
use kernel::ffi::c_ulong;

/// Attributes of a mapping that must not be copied: its driver synchronizes by itself or not at
/// all, the device and the CPU must see the same memory, or the CPU does not reach it.
// CAST: The attributes are bits of an `unsigned long`.
const NEVER_COPIED: c_ulong = (kernel::bindings::DMA_ATTR_SKIP_CPU_SYNC
    | kernel::bindings::DMA_ATTR_REQUIRE_COHERENT
    | kernel::bindings::DMA_ATTR_MMIO) as c_ulong;

/// Returns the direction of a mapping that may be copied. Mappings in both directions may live long
/// without their driver ever passing the memory to the CPU.
pub(super) fn transfer(
    direction: kernel::bindings::dma_data_direction,
    attrs: c_ulong,
) -> Option<Transfer> {
    if attrs & NEVER_COPIED != 0 {
        return None;
    }
    match direction {
        compat::DMA_TO_DEVICE => Some(Transfer::ToDevice),
        compat::DMA_FROM_DEVICE => Some(Transfer::FromDevice),
        _ => None,
    }
}

/// Returns whether unmapping with `attrs` passes the memory to the CPU.
fn syncs(attrs: c_ulong) -> bool {
    // CAST: The attribute is a bit of an `unsigned long`.
    attrs & kernel::bindings::DMA_ATTR_SKIP_CPU_SYNC as c_ulong == 0
}

/// The owner that a mapping is passed to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The CPU.
    Cpu,
    /// The device.
    Device,
}

impl Instance<'_> {
    /// Maps `len` bytes at `gpa` as [`Self::map_phys`], or copies them. With `POOL_FIRST`, windows
    /// are not even looked for where the pool serves. With `LARGE_PAGES`, the first look-up, which
    /// takes any address, is not for large pages.
    ///
    /// Context: any.
    #[inline(always)]
    pub(super) fn map_phys_or_copy<const POOL_FIRST: bool, const LARGE_PAGES: bool>(
        &self,
        gpa: u64,
        len: usize,
        dma_limit: u64,
        transfer: Option<Transfer>,
        attrs: c_ulong,
    ) -> u64 {
        // CAST: `usize` has at most 64 bits.
        let skips = POOL_FIRST && transfer.is_some()
            || LARGE_PAGES && self.engine.has_large_pages(len as u64);
        if !skips && !trace::is_enabled() {
            // CAST: `usize` has at most 64 bits.
            let span = GpaSpan::new(Gpa::new(gpa), len as u64);
            if let Some(iova) = span.and_then(|span| self.engine.map_hit(&span, dma_limit)) {
                return iova.raw();
            }
        }
        self.map_phys_or_copy_slow(gpa, len, dma_limit, transfer, attrs)
    }

    /// Continues [`Self::map_phys_or_copy`] with everything that the engine can do.
    #[inline(never)]
    pub(super) fn map_phys_or_copy_slow(
        &self,
        gpa: u64,
        len: usize,
        dma_limit: u64,
        transfer: Option<Transfer>,
        attrs: c_ulong,
    ) -> u64 {
        if len == 0 {
            return self.nothing().raw();
        }
        self.map_by(
            gpa,
            len,
            dma_limit,
            Loudness::of(attrs),
            MapTrace::now(transfer),
            |span| match &self.copy_pool {
                Some(pool) => self.engine.map_or_copy(span, pool, transfer, dma_limit),
                None => self.engine.map(span, dma_limit),
            },
        )
        .map_or(DMA_MAPPING_ERROR, Iova::raw)
    }

    /// Unmaps a mapping as [`Self::unmap_phys`], or the copy of one; `attrs` are those of the call.
    ///
    /// Context: any.
    #[inline(always)]
    pub(super) fn unmap_phys_or_copy<const POOL_FIRST: bool>(
        &self,
        iova: u64,
        len: usize,
        attrs: c_ulong,
    ) {
        if !POOL_FIRST && !trace::is_enabled() {
            // CAST: `usize` has at most 64 bits.
            let span = IovaSpan::new(Iova::new(iova), len as u64);
            if span.is_some_and(|span| self.engine.unmap_hit(&span)) {
                return;
            }
        }
        self.unmap_phys_or_copy_slow(iova, len, attrs);
    }

    /// Continues [`Self::unmap_phys_or_copy`] with copies.
    #[inline(never)]
    fn unmap_phys_or_copy_slow(&self, iova: u64, len: usize, attrs: c_ulong) {
        let Some(pool) = self.pool_at(iova) else {
            return self.unmap_phys(iova, len);
        };
        let start = TraceStart::now();
        // CAST: `usize` has at most 64 bits.
        let len = len as u64;
        let gpa = start.is_enabled().then(|| self.gpa_for_trace(iova, len));
        let span = IovaSpan::new(Iova::new(iova), len);
        if span.is_some_and(|span| pool.unmap(&span, syncs(attrs)).is_ok()) {
            if let Some(gpa) = gpa {
                self.source.unmap(gpa, iova, len, start, (0, 1));
            }
        } else if len != 0 {
            // CAST: It was a `usize`.
            self.report_misuse(Call::single(iova, len as usize));
        }
    }

    /// Unmaps the entries of a scatterlist, some of which may be copies; `attrs` are those of the
    /// call.
    ///
    /// Context: any.
    pub(super) fn unmap_sg_or_copies(&self, entries: Entries<'_>, attrs: c_ulong) {
        let Some(pool) = &self.copy_pool else {
            return self.unmap_sg(entries);
        };
        if trace::is_enabled() {
            self.trace_unmap_sg(entries.clone());
        }
        let result = self
            .engine
            .unmap_or_copy_all(entries.clone(), pool, syncs(attrs));
        self.notices.log();
        if result.is_err() {
            self.report_sg_misuse(entries);
        }
    }

    /// Passes `len` bytes at `iova`, a mapping or a part of one, to `owner`. There is something to
    /// do for copies only.
    ///
    /// Context: any.
    pub(super) fn sync(&self, iova: u64, len: u64, owner: Owner) {
        let span = IovaSpan::new(Iova::new(iova), len);
        if let Some((pool, span)) = self.pool_at(iova).zip(span) {
            match owner {
                Owner::Cpu => pool.sync_for_cpu(&span),
                Owner::Device => pool.sync_for_device(&span),
            }
        }
    }

    /// Passes the entries of a scatterlist to `owner`.
    ///
    /// Context: any.
    pub(super) fn sync_sg(&self, entries: Entries<'_>, owner: Owner) {
        for span in entries.filter_map(|entry| entry.mapped()) {
            self.sync(span.start().raw(), span.len(), owner);
        }
    }

    /// Returns the copy pool if `iova` is in it.
    #[inline]
    fn pool_at(&self, iova: u64) -> Option<&CopyPool> {
        let pool = self.copy_pool.as_ref();
        pool.filter(|pool| pool.contains(Iova::new(iova)))
    }

    /// Returns the way by which a mapping at `iova` was served, `path` if it was not copied.
    pub(super) fn path_of(&self, iova: Iova, path: MapPath) -> MapPath {
        match self.pool_at(iova.raw()) {
            Some(_) => MapPath::Copy,
            None => path,
        }
    }

    /// Returns the driver's memory behind a copy that has `len` bytes at `iova`.
    pub(super) fn copied_gpa(&self, iova: Iova, len: u64) -> Option<Gpa> {
        self.pool_at(iova.raw())?.gpa_of(&IovaSpan::new(iova, len)?)
    }

    /// Ends copying for new mappings.
    pub(super) fn close_pool(&self) {
        if let Some(pool) = &self.copy_pool {
            pool.close();
        }
    }

    /// Returns what is copied: nothing without a pool.
    pub(super) fn copy_mode(&self) -> CopyMode {
        let pool = self.copy_pool.as_ref();
        pool.map_or(CopyMode::Never, |_| self.params.copy)
    }

    /// Returns the statistics of the pool.
    pub(super) fn copy_stats(&self) -> CopyStats {
        let pool = self.copy_pool.as_ref();
        pool.map_or(CopyStats::default(), CopyPool::stats)
    }

    /// Returns the number of copies that are mapped.
    pub(super) fn slots_in_use(&self) -> u64 {
        let stats = self.copy_stats();
        stats.copies.saturating_sub(stats.ended)
    }
}
