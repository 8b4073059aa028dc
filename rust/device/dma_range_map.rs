// SPDX-License-Identifier: GPL-2.0

//! The managed device's `dma_range_map`: what the kernel's direct mapping makes DMA addresses with.
//!
//! Where all of RAM is mapped, direct mapping can do what our operations would, and does so for
//! less and on every kernel. It looks at the first byte of a mapping only, so RAM that is in one
//! piece must have DMA addresses that are.
//!
//! The driver core frees a device's map whenever a driver unbinds or could not be bound. So a copy
//! of ours is put there each time a driver is about to be bound: after the core has applied what
//! the firmware says of DMA and before the driver sees the device.

use crate::abstractions::raw;
use crate::addr::{
    Address,
    Gpa, //
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

/// Why RAM cannot be left to direct mapping.
pub(crate) enum RangeError {
    /// RAM is in one piece at this address, and its DMA addresses are not.
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
/// The last one, and no other, has the size 0, which ends the map.
pub(crate) struct DmaRangeMap(KVec<bus_dma_region>);

impl DmaRangeMap {
    /// As few ranges as `whole` can be put in. May sleep.
    pub(crate) fn new(whole: &StaticMap) -> Result<Self, RangeError> {
        let mut ranges = KVec::new();
        let mut regions = whole.regions().iter();
        let mut last = regions.next().copied();
        while let Some(region) = last {
            let next = regions.next();
            last = match next.map(|next| region.seam(next)) {
                Some(Adjacency::Discontiguous) => {
                    return Err(RangeError::Discontiguous(Gpa::new(region.gpa().end())));
                }
                Some(Adjacency::Joined(joined)) => Some(joined),
                Some(Adjacency::Gap) | None => {
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
        // INVARIANT: No piece is empty, and the last range was just added.
        Ok(Self(ranges))
    }

    /// Gives `dev` a copy of the ranges. May sleep.
    ///
    /// # Safety
    ///
    /// The device has none. Its lock is held, and no driver has seen it yet that is or will be
    /// bound.
    pub(crate) unsafe fn install(&self, dev: &pci::Device) {
        // SAFETY: The device is valid, and by the safety requirements nobody else looks at its map.
        let map = unsafe { &mut (*raw::device(dev)).dma_range_map };
        let ranges = self.0.as_slice();
        // SAFETY: The source is valid for its size. What comes back is as the driver core wants it,
        // which frees it: it ends with a range of the size 0, and kfree() may be called on it.
        *map = unsafe {
            bindings::apple_dma_helper_memdup_nofail(
                ranges.as_ptr().cast(),
                core::mem::size_of_val(ranges),
            )
        }
        .cast();
    }
}

fn range(region: &Region) -> bus_dma_region {
    bus_dma_region {
        cpu_start: region.gpa().start().raw(),
        dma_start: region.iova().start().raw(),
        size: region.gpa().len(),
    }
}
