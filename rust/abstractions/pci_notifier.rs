// SPDX-License-Identifier: GPL-2.0

//! PCI bus notifier.
//!
//! C header: [`include/linux/device/bus.h`](srctree/include/linux/device/bus.h)

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

/// Callbacks of a [`BusNotifier`].
///
/// Context of all methods: process, may sleep.
pub(crate) trait BusEvents: Send + Sync {
    /// Handles that `dev` was added. No driver was bound to it yet.
    fn added(&self, dev: &pci::Device);

    /// Handles that a driver is about to be bound to `dev`: DMA is configured, and the driver's
    /// probe is next. The lock of `dev` is held.
    fn binding(&self, dev: &pci::Device);

    /// Handles that a driver was bound to `dev`. The lock of `dev` is held.
    fn bound(&self, dev: &pci::Device);

    /// Handles that a driver was unbound from `dev`, or failed to bind to it. The lock of `dev` is
    /// held.
    fn unbound(&self, dev: &pci::Device);

    /// Handles that `dev` was removed: no driver is bound to it, nor will be.
    fn removed(&self, dev: &pci::Device);
}

/// A registration of the callbacks of `T` for all PCI devices, until it is dropped.
pub(crate) type BusNotifier<T> = Notifier<BusChain, T>;

/// The PCI bus' notifier chain.
pub(crate) struct BusChain;

// SAFETY: `bus_register_notifier()` and its counterpart add the block to a chain and remove it.
unsafe impl Chain for BusChain {
    unsafe fn register(block: *mut notifier_block) -> c_int {
        // SAFETY: By the safety requirements.
        unsafe { bindings::bus_register_notifier(&raw const bindings::pci_bus_type, block) }
    }

    unsafe fn unregister(block: *mut notifier_block) {
        // SAFETY: By the safety requirements. The result is ignored: it is an error only if the
        // block was not registered.
        unsafe { bindings::bus_unregister_notifier(&raw const bindings::pci_bus_type, block) };
    }
}

impl<T: BusEvents> Listener<BusChain> for T {
    unsafe fn call(&self, action: c_ulong, data: *mut c_void) -> Result {
        let dev: *mut bindings::device = data.cast();
        // SAFETY: By the safety requirements `data` is a device of the PCI bus, so is embedded in a
        // `struct pci_dev`, which lives for the duration of the call. `pci::Device` is a
        // transparent wrapper of `struct pci_dev`.
        let dev: &pci::Device = unsafe { &*container_of!(dev, bindings::pci_dev, dev).cast() };
        match action {
            ADD_DEVICE => self.added(dev),
            BIND_DRIVER => self.binding(dev),
            BOUND_DRIVER => self.bound(dev),
            UNBOUND_DRIVER | DRIVER_NOT_BOUND => self.unbound(dev),
            REMOVED_DEVICE => self.removed(dev),
            _ => {}
        }
        Ok(())
    }
}

// CAST: The actions are small numbers.
const ADD_DEVICE: c_ulong = bindings::bus_notifier_event_BUS_NOTIFY_ADD_DEVICE as c_ulong;
const BIND_DRIVER: c_ulong = bindings::bus_notifier_event_BUS_NOTIFY_BIND_DRIVER as c_ulong;
const BOUND_DRIVER: c_ulong = bindings::bus_notifier_event_BUS_NOTIFY_BOUND_DRIVER as c_ulong;
const UNBOUND_DRIVER: c_ulong = bindings::bus_notifier_event_BUS_NOTIFY_UNBOUND_DRIVER as c_ulong;
const DRIVER_NOT_BOUND: c_ulong =
    bindings::bus_notifier_event_BUS_NOTIFY_DRIVER_NOT_BOUND as c_ulong;
const REMOVED_DEVICE: c_ulong = bindings::bus_notifier_event_BUS_NOTIFY_REMOVED_DEVICE as c_ulong;
