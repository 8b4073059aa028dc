// SPDX-License-Identifier: GPL-2.0

//! Stopping a managed device, so that none of its DMA is under way when windows are unmapped.
//!
//! Most drivers have no shutdown callback, and the PCI core turns bus mastering off only if another
//! kernel is started, so a device may well do DMA until the machine is reset. A driver may also
//! leave its device running when it unbinds, as an earlier kernel does when it crashes.

use super::attach::{
    DeviceGuard,
    LockedDevice, //
};
use super::bdf::ManagedFunction;
use crate::abstractions::raw;
use kernel::{
    bindings,
    prelude::*, //
};

impl ManagedFunction<'_> {
    /// Stops the DMA of the present device, if there is one, whether it has a driver or not. The
    /// driver is not told. Returns whether no DMA is under way any more; logs if some is.
    ///
    /// Context: process, may sleep. The lock of the device is not held.
    pub(super) fn stop_dma(&self) -> bool {
        match self.device() {
            Some(dev) => self.stop_dma_of(&DeviceGuard::new(&dev)),
            None => true,
        }
    }

    /// Stops the DMA of `dev`, which is at this address; otherwise as [`Self::stop_dma`].
    ///
    /// Context: process, may sleep.
    pub(super) fn stop_dma_of(&self, dev: &LockedDevice<'_>) -> bool {
        let pci_dev = raw::pci_dev(dev.device());
        // A device that was unplugged does no DMA, and its registers read as ones.
        //
        // SAFETY: The device is valid.
        if !unsafe { bindings::pci_device_is_present(pci_dev) } {
            return true;
        }
        // SAFETY: The device is valid. Its lock is held, so that no driver is being bound that
        // turns bus mastering on again.
        unsafe { bindings::pci_clear_master(pci_dev) };
        // The device may have sent requests before that are not complete. Reading its
        // configuration, as this does, also waits for the write above.
        //
        // SAFETY: The device is valid.
        let is_over = unsafe { bindings::pci_wait_for_pending_transaction(pci_dev) } != 0;
        if !is_over {
            dev_err!(
                self.companion(),
                "{}: its DMA does not end: transactions are pending\n",
                self
            );
        }
        is_over
    }
}
