// SPDX-License-Identifier: GPL-2.0

//! PCI devices that come and go, and get drivers: a safe wrapper of the PCI bus' notifier.

use crate::abstractions::notifier::{
    Chain,
    Listener,
    Notifier, //
};
use kernel::{
    bindings::{
        self,
        notifier_block, //
    },
    container_of,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    pci,
    prelude::*, //
};

/// What a [`BusNotifier`] tells. All of these run in process context and may sleep.
pub(crate) trait BusEvents: Send + Sync {
    /// `dev` was found. No driver has seen it yet.
    fn added(&self, dev: &pci::Device);

    /// A driver is about to be bound to `dev`, whose DMA is configured; its probe comes next. The
    /// lock of `dev` is held.
    fn binding(&self, dev: &pci::Device);

    /// `dev` is gone, and has no driver any more, nor gets one.
    fn removed(&self, dev: &pci::Device);
}

/// Tells `T` about all PCI devices for as long as it lives.
pub(crate) type BusNotifier<T> = Notifier<BusChain, T>;

/// The PCI bus' notifier chain.
pub(crate) struct BusChain;

// SAFETY: The kernel's functions do so.
unsafe impl Chain for BusChain {
    unsafe fn register(block: *mut notifier_block) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { bindings::bus_register_notifier(&raw const bindings::pci_bus_type, block) }
    }

    unsafe fn unregister(block: *mut notifier_block) {
        // SAFETY: By the safety requirements. What it returns is that the block was there.
        unsafe { bindings::bus_unregister_notifier(&raw const bindings::pci_bus_type, block) };
    }
}

impl<T: BusEvents> Listener<BusChain> for T {
    unsafe fn call(&self, action: c_ulong, data: *mut c_void) -> Result {
        let dev: *mut bindings::device = data.cast();
        // SAFETY: The chain is told about devices of the PCI bus, which are in a `struct pci_dev`
        // that lives during the call; `pci::Device` is a transparent wrapper of that.
        let dev: &pci::Device = unsafe { &*container_of!(dev, bindings::pci_dev, dev).cast() };
        match action {
            ADD_DEVICE => self.added(dev),
            BIND_DRIVER => self.binding(dev),
            REMOVED_DEVICE => self.removed(dev),
            _ => {}
        }
        Ok(())
    }
}

// CAST: The actions are small numbers.
const ADD_DEVICE: c_ulong = bindings::bus_notifier_event_BUS_NOTIFY_ADD_DEVICE as c_ulong;
const BIND_DRIVER: c_ulong = bindings::bus_notifier_event_BUS_NOTIFY_BIND_DRIVER as c_ulong;
const REMOVED_DEVICE: c_ulong = bindings::bus_notifier_event_BUS_NOTIFY_REMOVED_DEVICE as c_ulong;
