// SPDX-License-Identifier: GPL-2.0

//! Drivers that leave a managed device to programs. What such a program has the device access are
//! guest-physical addresses, at which the DART maps nothing, or RAM of something else: the module
//! sees nothing of it.
//!
//! The notifier of the PCI bus cannot keep a driver from binding, so there is a warning.

use super::attach::LockedDevice;
use super::bdf::ManagedFunction;
use crate::abstractions::raw;
use kernel::prelude::*;

/// Names of drivers that give programs access to any device. `pci-stub` does not by itself, but
/// reserves the device for something that does.
const NAMES: &[&[u8]] = &[b"uio_pci_generic", b"igb_uio", b"pci-stub"];

/// Ends of the names of VFIO's drivers: the general one, and those for some devices.
const VFIO: &[&[u8]] = &[b"vfio-pci", b"vfio_pci"];

impl LockedDevice<'_> {
    /// Returns the name of the device's driver.
    fn driver_name(&self) -> Option<&CStr> {
        // SAFETY: The device is valid, and its driver does not change while the lock is held. A
        // driver has a name, which lives as long as the driver.
        unsafe {
            let driver = (*raw::device(self.device())).driver;
            (!driver.is_null()).then(|| CStr::from_char_ptr((*driver).name))
        }
    }
}

impl ManagedFunction<'_> {
    /// Warns if the driver of `dev`, which is at this address, leaves it to programs.
    ///
    /// Context: process, may sleep.
    pub(super) fn warn_of_user_space(&self, dev: &LockedDevice<'_>) {
        let Some(driver) = dev.driver_name() else {
            return;
        };
        let name = driver.to_bytes();
        if NAMES.contains(&name) || VFIO.iter().any(|end| name.ends_with(end)) {
            dev_warn!(
                self.companion(),
                "{}: driver {} leaves DMA to programs: it is not managed; unbind that driver\n",
                self,
                driver
            );
        }
    }
}
