// SPDX-License-Identifier: GPL-2.0

//! The managed device's `dma_range_map`: what the kernel's direct mapping makes DMA addresses with.
//!
//! Where all of RAM is mapped, direct mapping can do what our operations would, and does so for
//! less and on every kernel. It looks at the first byte of a mapping only, so RAM that is in one
//! piece must have DMA addresses that are.
//!
//! The driver core frees a device's map whenever a driver unbinds or could not be bound. So a copy
//! of ours is put there each time a driver is about to be bound: by a notifier, which the driver
//! core calls with the device's lock held, after it has applied what the firmware says of DMA and
//! before the driver sees the device.

use crate::addr::{
    Address,
    Gpa, //
};
use crate::bindings::{
    self,
    bus_dma_region, //
};
use crate::raw;
use crate::whole::{
    Piece,
    Seam,
    Whole, //
};
use core::ptr;
use kernel::{
    alloc::AllocError,
    bindings::notifier_block,
    container_of,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    pci,
    prelude::*,
    sync::aref::ARef,
    types::Opaque, //
};

/// What the bus calls a notifier for when a driver is about to be bound.
// CAST: It is a small number.
const BIND_DRIVER: c_ulong = kernel::bindings::bus_notifier_event_BUS_NOTIFY_BIND_DRIVER as c_ulong;

/// Why RAM cannot be left to direct mapping.
pub(crate) enum RangeError {
    /// RAM is in one piece at this address, and its DMA addresses are not.
    Torn(Gpa),
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
pub(crate) struct Ranges(KVec<bus_dma_region>);

impl Ranges {
    /// As few ranges as `whole` can be put in. May sleep.
    pub(crate) fn new(whole: &Whole) -> Result<Self, RangeError> {
        let mut ranges = KVec::new();
        let mut pieces = whole.pieces().iter();
        let mut last = pieces.next().copied();
        while let Some(piece) = last {
            let next = pieces.next();
            last = match next.map(|next| piece.seam(next)) {
                Some(Seam::Torn) => {
                    return Err(RangeError::Torn(Gpa::new(piece.gpa().end())));
                }
                Some(Seam::Joined(joined)) => Some(joined),
                Some(Seam::Gap) | None => {
                    ranges.push(range(&piece), GFP_KERNEL)?;
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
}

fn range(piece: &Piece) -> bus_dma_region {
    bus_dma_region {
        cpu_start: piece.gpa().start().raw(),
        dma_start: piece.iova().start().raw(),
        size: piece.gpa().len(),
    }
}

/// Ranges for a device, which every driver finds there that is bound while they are registered.
#[pin_data(PinnedDrop)]
pub(crate) struct RangeMap {
    #[pin]
    notifier: Opaque<notifier_block>,
    dev: ARef<pci::Device>,
    ranges: Ranges,
}

// SAFETY: The notifier belongs to the bus while it is registered, and is not looked at here; the
// rest does not change.
unsafe impl Sync for RangeMap {}

// SAFETY: Nothing of it belongs to a thread.
unsafe impl Send for RangeMap {}

impl RangeMap {
    /// For `dev`. May sleep.
    pub(crate) fn new(dev: ARef<pci::Device>, ranges: Ranges) -> Result<Pin<KBox<Self>>> {
        let notifier = notifier_block {
            notifier_call: Some(notify),
            ..Default::default()
        };
        KBox::pin_init(
            pin_init!(Self {
                notifier: Opaque::new(notifier),
                dev,
                ranges,
            }),
            GFP_KERNEL,
        )
    }

    /// Has every driver find the ranges that is bound to the device from now on. May sleep.
    pub(crate) fn register(self: Pin<&Self>) -> Result {
        // SAFETY: The notifier is pinned, and leaves the list of the bus before it ceases to be.
        kernel::error::to_result(unsafe {
            kernel::bindings::bus_register_notifier(
                &raw const kernel::bindings::pci_bus_type,
                self.notifier.get(),
            )
        })
    }

    /// Undoes [`Self::register`]. May sleep: when it returns nobody is in the notifier.
    pub(crate) fn unregister(self: Pin<&Self>) {
        // SAFETY: A notifier that is not in the list is not found there, which is no error.
        unsafe {
            kernel::bindings::bus_unregister_notifier(
                &raw const kernel::bindings::pci_bus_type,
                self.notifier.get(),
            )
        };
    }

    /// Gives the device a copy of the ranges. May sleep.
    ///
    /// # Safety
    ///
    /// The device's lock is held, and its driver has not seen it yet.
    unsafe fn put(&self) {
        let dev = raw::device(&self.dev);
        // SAFETY: The device is valid, and by the safety requirements nobody else looks at its map.
        let map = unsafe { &mut (*dev).dma_range_map };
        if !map.is_null() {
            dev_err!(
                self.dev,
                "DMA address ranges of something else are in the way of the companion's\n"
            );
            return;
        }
        let ranges = self.ranges.0.as_slice();
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

#[pinned_drop]
impl PinnedDrop for RangeMap {
    fn drop(self: Pin<&mut Self>) {
        self.as_ref().unregister();
    }
}

/// Called for what happens to any device of the bus. May sleep.
///
/// # Safety
///
/// `notifier` is that of a registered [`RangeMap`], and `dev` the device that `event` is about.
unsafe extern "C" fn notify(
    notifier: *mut notifier_block,
    event: c_ulong,
    dev: *mut c_void,
) -> c_int {
    // SAFETY: By the safety requirements. The map is there until it is no longer registered.
    let this = unsafe { &*container_of!(Opaque::cast_from(notifier), RangeMap, notifier) };
    if event == BIND_DRIVER && ptr::eq(dev.cast(), raw::device(&this.dev)) {
        // SAFETY: The driver core holds the device's lock for this event, which comes before the
        // driver's probe.
        unsafe { this.put() };
    }
    // CAST: It is 0.
    kernel::bindings::NOTIFY_DONE as c_int
}
