// SPDX-License-Identifier: GPL-2.0

//! The managed device's `dma_range_map`, by which the kernel's direct mapping translates addresses.
//!
//! Direct mapping can replace the module's DMA operations, at a lower cost and on every kernel,
//! where all of RAM is mapped or the kernel bounces. Direct mapping translates the first byte of a
//! mapping only, so RAM that is contiguous must have contiguous DMA addresses.
//!
//! The driver core frees a device's map whenever a driver unbinds or fails to bind. So a copy is
//! installed each time a driver is about to be bound: after the core has applied the firmware's
//! description of DMA, and before the driver's probe.

use crate::abstractions::raw;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan, //
};
use crate::bindings::{
    self,
    bus_dma_region, //
};
use crate::engine::static_map::{
    Adjacency,
    Region,
    StaticMap, //
};
use kernel::{
    alloc::AllocError,
    pci,
    prelude::*, //
};

/// A reason why direct mapping cannot serve RAM.
pub(super) enum RangeError {
    /// RAM is contiguous at this address, and its DMA addresses are not.
    Discontiguous(Gpa),
    /// Out of memory.
    NoMemory,
}

impl From<AllocError> for RangeError {
    fn from(_: AllocError) -> Self {
        RangeError::NoMemory
    }
}

/// The ranges of a `dma_range_map`.
///
/// # Invariants
///
/// The last range, and no other, has the size 0, which ends the map.
pub(super) struct DmaRangeMap(KVec<bus_dma_region>);

impl DmaRangeMap {
    /// Creates the fewest ranges that describe `whole`. No buffer is partly in `apart`, so that
    /// DMA addresses need not be contiguous where it begins and ends.
    ///
    /// Context: process, may sleep.
    pub(super) fn new(whole: &StaticMap, apart: Option<GpaSpan>) -> Result<Self, RangeError> {
        let is_edge =
            |gpa: u64| apart.is_some_and(|apart| gpa == apart.start().raw() || gpa == apart.end());
        let mut ranges = KVec::new();
        let mut regions = whole.regions().iter();
        let mut last = regions.next().copied();
        while let Some(region) = last {
            let next = regions.next();
            last = match next.map(|next| region.seam(next)) {
                Some(Adjacency::Discontiguous) if !is_edge(region.gpa().end()) => {
                    return Err(RangeError::Discontiguous(Gpa::new(region.gpa().end())));
                }
                Some(Adjacency::Joined(joined)) => Some(joined),
                Some(Adjacency::Gap | Adjacency::Discontiguous) | None => {
                    ranges.push(range(&region), GFP_KERNEL)?;
                    next.copied()
                }
            };
        }
        let end = bus_dma_region {
            cpu_start: 0,
            dma_start: 0,
            size: 0,
        };
        ranges.push(end, GFP_KERNEL)?;
        // INVARIANT: No region is empty, and the last range was just added.
        Ok(Self(ranges))
    }

    /// Installs a copy of the ranges on `dev`.
    ///
    /// Context: process, may sleep.
    ///
    /// # Safety
    ///
    /// The device has no ranges. Its lock is held, and no driver that is or will be bound has
    /// accessed the device yet.
    pub(super) unsafe fn install(&self, dev: &pci::Device) {
        // SAFETY: The device is valid, and by the safety requirements nothing else accesses its
        // map.
        let map = unsafe { &mut (*raw::device(dev)).dma_range_map };
        let ranges = self.0.as_slice();
        // SAFETY: The source is valid for its size. The copy is as the driver core, which frees it,
        // requires: its last range has the size 0, and kfree() may be called on it.
        *map = unsafe {
            bindings::apple_dma_helper_memdup_nofail(
                ranges.as_ptr().cast(),
                core::mem::size_of_val(ranges),
            )
        }
        .cast();
    }
}

/// Converts a region to a range.
fn range(region: &Region) -> bus_dma_region {
    bus_dma_region {
        cpu_start: region.gpa().start().raw(),
        dma_start: region.iova().start().raw(),
        size: region.gpa().len(),
    }
}
