// SPDX-License-Identifier: GPL-2.0

//! The managed device: finding it, checking that its DMA can be managed, and having it managed from
//! before a driver is there until after.
//!
//! Everything here runs in process context and may sleep.

use crate::bindings;
use crate::range_map::RangeMap;
use crate::raw;
use core::ptr;
use kernel::{
    device::{
        self,
        Bound, //
    },
    pci,
    prelude::*,
    sync::aref::ARef, //
};

/// Finds the device with the guest address `bdf`, `bus << 8 | devfn`, that `companion` manages.
///
/// The companion is always on the bus of its managed device. Where the bus part of `bdf` says
/// otherwise it was taken before the firmware numbered the buses, and only `devfn` counts.
pub(crate) fn find(companion: &pci::Device<Bound>, bdf: u32) -> Result<ARef<pci::Device>> {
    let pdev = raw::pci_dev(companion);
    // SAFETY: A device that a driver is bound to is on a bus.
    let (bus, number, domain) = unsafe {
        let bus = (*pdev).bus;
        let domain = bindings::apple_dma_helper_pci_domain_nr(bus);
        (bus, u32::from((*bus).number), domain)
    };
    let devfn = bdf & 0xff;
    let slot = devfn >> 3;
    let function = devfn & 7;

    if bdf > 0xffff {
        dev_err!(
            companion,
            "MANAGED_BDF is {:#x}: not an address of a device\n",
            bdf
        );
        return Err(ENODEV);
    }
    if bdf >> 8 != number {
        dev_info!(
            companion,
            "MANAGED_BDF names bus {:02x}; looking on the companion's own bus {:02x}\n",
            bdf >> 8,
            number
        );
    }
    // SAFETY: `bus` is valid, see above. The reference that this takes becomes ours.
    let found = unsafe { kernel::bindings::pci_get_slot(bus, devfn) };
    let Some(found) = ptr::NonNull::new(found) else {
        dev_err!(
            companion,
            "there is no managed device at {:04x}:{:02x}:{:02x}.{:x}\n",
            domain,
            number,
            slot,
            function
        );
        return Err(ENODEV);
    };
    // SAFETY: `pci::Device` is a transparent wrapper of `struct pci_dev`, and we own a reference.
    let found: ARef<pci::Device> = unsafe { ARef::from_raw(found.cast()) };
    if ptr::eq(raw::pci_dev(&found), pdev) {
        dev_err!(
            companion,
            "MANAGED_BDF {:#x} is the companion's own address\n",
            bdf
        );
        return Err(ENODEV);
    }
    Ok(found)
}

/// Checks that DMA of devices on the companion's bus is plain: coherent, and with guest-physical
/// addresses as DMA addresses if it were not for the DART.
pub(crate) fn check_bus(companion: &pci::Device<Bound>) -> Result {
    let dev = raw::device(companion);
    // SAFETY: `dev` is a valid device, and its DMA was configured when it was bound.
    let (coherent, iommu, translated) = unsafe {
        (
            bindings::apple_dma_helper_is_coherent(dev),
            bindings::apple_dma_helper_has_iommu(dev),
            bindings::apple_dma_helper_is_translated(dev),
        )
    };
    if !coherent {
        dev_err!(
            companion,
            "DMA is not cache-coherent on this bus: not supported\n"
        );
        return Err(ENODEV);
    }
    if iommu {
        dev_err!(
            companion,
            "the guest has an IOMMU on this bus: not supported\n"
        );
        return Err(ENODEV);
    }
    if translated {
        dev_err!(
            companion,
            "DMA addresses are translated on this bus: not supported\n"
        );
        return Err(ENODEV);
    }
    Ok(())
}

/// A device's lock, held.
struct Locked<'a>(&'a pci::Device);

impl<'a> Locked<'a> {
    fn new(dev: &'a pci::Device) -> Self {
        // SAFETY: `dev` is a valid device.
        unsafe { bindings::apple_dma_helper_device_lock(raw::device(dev)) };
        Self(dev)
    }

    fn has_driver(&self) -> bool {
        // SAFETY: The device is valid, and its driver does not change while the lock is held.
        unsafe { !(*raw::device(self.0)).driver.is_null() }
    }

    fn ops(&self) -> *const bindings::dma_map_ops {
        // SAFETY: The device is valid, and its operations do not change while the lock is held.
        unsafe { bindings::apple_dma_helper_get_dma_ops(raw::device(self.0)) }
    }

    fn has_ranges(&self) -> bool {
        // SAFETY: The device is valid, and its ranges do not change while the lock is held.
        unsafe { bindings::apple_dma_helper_is_translated(raw::device(self.0)) }
    }

    /// # Safety
    ///
    /// No driver is bound; `ops` is null or valid until it is replaced in the same way.
    unsafe fn set_ops(&self, ops: *const bindings::dma_map_ops) {
        // SAFETY: By the safety requirements nobody can be using the operations.
        unsafe { bindings::apple_dma_helper_set_dma_ops(raw::device(self.0), ops) };
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: `new` took the lock.
        unsafe { bindings::apple_dma_helper_device_unlock(raw::device(self.0)) };
    }
}

/// What gives a device's driver the addresses that the host assigned.
pub(crate) enum Means {
    /// Our operations.
    Ops(*const bindings::dma_map_ops),
    /// The kernel's direct mapping.
    Direct(Pin<KBox<RangeMap>>),
}

// SAFETY: The operations are not looked at here, and those who do may be any thread.
unsafe impl Send for Means {}

impl Means {
    /// What is on the device already, and in the way of this.
    fn obstacle(&self, dev: &Locked<'_>) -> Option<&'static str> {
        if !dev.ops().is_null() {
            return Some("DMA operations");
        }
        match self {
            Means::Direct(_) if dev.has_ranges() => Some("DMA address ranges"),
            _ => None,
        }
    }

    /// Has every driver use this that is bound to the device from now on.
    ///
    /// # Safety
    ///
    /// No driver is bound; [`Self::remove`] is called before this is dropped, and before the
    /// operations cease to be valid.
    unsafe fn put(&self, dev: &Locked<'_>) -> Result {
        match self {
            Means::Ops(ops) => {
                // SAFETY: By the safety requirements.
                unsafe { dev.set_ops(*ops) };
                Ok(())
            }
            Means::Direct(map) => map.as_ref().register(),
        }
    }

    /// Undoes [`Self::put`].
    ///
    /// # Safety
    ///
    /// No driver is bound.
    unsafe fn remove(&self, dev: &Locked<'_>) {
        match self {
            // SAFETY: By the safety requirements.
            Means::Ops(_) => unsafe { dev.set_ops(ptr::null()) },
            // The driver core took the ranges away when the last driver unbound.
            Means::Direct(map) => map.as_ref().unregister(),
        }
    }
}

/// A managed device.
pub(crate) struct Attachment {
    dev: ARef<pci::Device>,
    means: Means,
}

impl Attachment {
    /// Has drivers of `dev` use `means`, and makes `companion` its supplier, so that from now on a
    /// driver binds to it only while the companion's driver is there. A driver that is bound to it
    /// is taken off before, and comes back when the companion's probe is done; so does one that
    /// could not be bound before.
    ///
    /// To be the last thing in the companion's probe that can fail: a link between devices cannot
    /// be taken back before the companion's driver unbinds.
    ///
    /// # Safety
    ///
    /// `means` is valid until the attachment is dropped, which must be when the companion's driver
    /// unbinds, and never before.
    pub(crate) unsafe fn new(
        companion: &pci::Device<Bound>,
        dev: ARef<pci::Device>,
        means: Means,
    ) -> Result<Self> {
        let raw = raw::device(&dev);
        let mut detached = false;
        loop {
            let locked = Locked::new(&dev);
            if locked.has_driver() {
                drop(locked);
                dev_info!(
                    companion,
                    "detaching the driver that {} has until its DMA is managed\n",
                    name(&dev)
                );
                detached = true;
                // SAFETY: `raw` is a valid device, and its lock is not held.
                unsafe { kernel::bindings::device_release_driver(raw) };
                continue;
            }
            // SAFETY: No driver is bound, and by the safety requirements.
            let result = unsafe { Self::attach(companion, &dev, &means, &locked) };
            drop(locked);
            // Otherwise the link has the driver core do so when the companion is bound. To ask for
            // it now would leave the device waiting, and the core with a wrong idea of its state.
            if detached && result.is_err() {
                // The driver may be gone, which is no error.
                //
                // SAFETY: `raw` is a valid device, and its lock is not held.
                let _ = unsafe { kernel::bindings::device_attach(raw) };
            }
            return result.map(|()| Self { dev, means });
        }
    }

    /// The steps of [`Self::new`] that need the device's lock: all of them, or none.
    ///
    /// # Safety
    ///
    /// As [`Self::new`], and no driver is bound to `dev`, whose lock is `locked`.
    unsafe fn attach(
        companion: &pci::Device<Bound>,
        dev: &pci::Device,
        means: &Means,
        locked: &Locked<'_>,
    ) -> Result {
        if let Some(obstacle) = means.obstacle(locked) {
            dev_err!(companion, "{} has {} of its own\n", name(dev), obstacle);
            return Err(EBUSY);
        }
        // SAFETY: By the safety requirements; it is undone below or when the attachment is dropped.
        unsafe { means.put(locked)? };
        // SAFETY: Both are valid devices.
        let linked = unsafe {
            bindings::apple_dma_helper_device_link(raw::device(dev), raw::device(companion))
        };
        if !linked {
            dev_err!(companion, "cannot link {} to the companion\n", name(dev));
            // SAFETY: By the safety requirements.
            unsafe { means.remove(locked) };
            return Err(ENODEV);
        }
        Ok(())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // The driver core took the driver off before it unbound the companion's.
        let locked = Locked::new(&self.dev);
        // SAFETY: No driver is bound, and none can be as long as the companion's driver unbinds.
        unsafe { self.means.remove(&locked) };
    }
}

/// The name of a device, for messages.
pub(crate) fn name(dev: &pci::Device) -> &CStr {
    let dev: &device::Device = dev.as_ref();
    dev.name()
}
