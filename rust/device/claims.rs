// SPDX-License-Identifier: GPL-2.0

//! The functions that companions manage, known for as long as the companion is there, whether its
//! driver is bound or not: a device that appears at one of them becomes the companion's consumer,
//! and so gets no driver before the companion has its own.
//!
//! Devices that are there already are claimed by [`attach`](super::attach). What is not known is
//! the function of a companion that the module never read it from.

use super::attach::link;
use super::bdf::{
    self,
    ManagedFunction, //
};
use super::pci_address::PciAddress;
use crate::abstractions::pci_notifier::{
    BusEvents,
    BusNotifier, //
};
use crate::abstractions::raw;
use core::ptr;
use kernel::{
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        global_lock, //
    },
};

/// A companion, and the function that it manages.
struct Known {
    companion: ARef<pci::Device>,
    address: PciAddress,
}

global_lock! {
    // SAFETY: `Claims::new` initialises it, before there is a driver that uses it.
    unsafe(uninit) static KNOWN: Mutex<KVec<Known>> = KVec::new();
}

/// The link of each device that appears at a known function, as long as the module is loaded.
#[pin_data(PinnedDrop)]
pub(crate) struct Claims {
    #[pin]
    notifier: BusNotifier<Events>,
}

impl Claims {
    /// Starts with no function known. To be called once, before any companion is bound.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        // SAFETY: Nothing has used the lock yet, as it is to be called once and first.
        unsafe { KNOWN.init() };
        try_pin_init!(Self {
            notifier <- BusNotifier::new(Events),
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Claims {
    fn drop(self: Pin<&mut Self>) {
        // Also frees the memory of the list.
        *KNOWN.lock() = KVec::new();
    }
}

/// Forgets the function of `companion`, if it is known.
fn forget(known: &mut KVec<Known>, companion: &pci::Device) {
    let mut all = known.iter();
    if let Some(index) = all.position(|one| ptr::eq(&*one.companion, companion)) {
        // Unlike KVec::retain(), this does not refer to a panic.
        let _ = known.remove(index);
    }
}

/// Remembers `function` until its companion is removed.
///
/// Context: process, may sleep.
pub(super) fn remember(function: &ManagedFunction<'_>) -> Result {
    let companion: &pci::Device = function.companion();
    let mut known = KNOWN.lock();
    forget(&mut known, companion);
    known.push(
        Known {
            companion: companion.into(),
            address: function.address(),
        },
        GFP_KERNEL,
    )?;
    Ok(())
}

/// The events of the PCI bus.
struct Events;

impl BusEvents for Events {
    fn added(&self, dev: &pci::Device) {
        for one in KNOWN.lock().iter() {
            if !bdf::is_at(dev, one.address) {
                continue;
            }
            // Without a link, the companion's driver unbinds that of the device when it unbinds.
            let _ = link(&one.companion, one.address, dev);
            // SAFETY: The device is valid. A driver that is being bound or unbound makes no
            // difference: this is about a message.
            let driver = unsafe { (*raw::device(&*one.companion)).driver };
            if driver.is_null() {
                // The companion's name would be that of a device without a driver.
                pr_err!(
                    "{}: gets no driver until its companion {} is bound\n",
                    one.address,
                    bdf::address(&*one.companion)
                );
            }
        }
    }

    fn binding(&self, _: &pci::Device) {}

    fn bound(&self, _: &pci::Device) {}

    fn unbound(&self, _: &pci::Device) {}

    fn removed(&self, dev: &pci::Device) {
        forget(&mut KNOWN.lock(), dev);
    }
}
