// SPDX-License-Identifier: GPL-2.0

//! The managed device: finding it, checking that its DMA can be managed, and having it managed from
//! before a driver is there until after.
//!
//! Everything here runs in process context and may sleep.

use crate::abstractions::pci_notifier::{
    BusEvents,
    BusNotifier, //
};
use crate::abstractions::raw;
use crate::bindings;
use crate::device::dma_range_map::DmaRangeMap;
use core::{
    ops::Deref,
    ptr, //
};
use kernel::{
    device::Bound,
    fmt,
    pci,
    prelude::*,
    sync::aref::ARef, //
};

/// Where a companion's managed device is: it may go, and come again.
#[derive(Clone, Copy)]
pub(crate) struct ManagedFunction<'a> {
    companion: &'a pci::Device<Bound>,
    devfn: u8,
}

impl<'a> ManagedFunction<'a> {
    /// That of the device with the guest address `bdf`, `bus << 8 | devfn`, which `companion`
    /// manages. Says what is wrong with it if something is.
    ///
    /// The companion is always on the bus of its managed device. Where the bus part of `bdf` says
    /// otherwise it was taken before the firmware numbered the buses, and only `devfn` counts.
    pub(crate) fn new(companion: &'a pci::Device<Bound>, bdf: u32) -> Result<Self> {
        if bdf > 0xffff {
            dev_err!(
                companion,
                "MANAGED_BDF is {:#x}: not an address of a device\n",
                bdf
            );
            return Err(ENODEV);
        }
        let function = Self {
            companion,
            // CAST: The rest is the bus.
            devfn: bdf as u8,
        };
        // SAFETY: A device that a driver is bound to is on a bus.
        let (number, own) = unsafe {
            (
                u32::from((*function.bus()).number),
                (*raw::pci_dev(companion)).devfn,
            )
        };
        if u32::from(function.devfn) == own {
            dev_err!(
                companion,
                "MANAGED_BDF {:#x} is the companion's own address\n",
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
        Ok(function)
    }

    /// The slot `devfn` beside `companion`, whatever is there, for who needs its name only.
    pub(crate) fn named(companion: &'a pci::Device<Bound>, devfn: u8) -> Self {
        Self { companion, devfn }
    }

    /// The slot that `companion` itself is in, for its name.
    pub(crate) fn of(companion: &'a pci::Device<Bound>) -> Self {
        // SAFETY: The device is valid.
        let devfn = unsafe { (*raw::pci_dev(companion)).devfn };
        // CAST: It has 8 bits.
        Self::named(companion, devfn as u8)
    }

    /// The name of the driver of the device that is there now, in `name`, which it is cut off to.
    /// May sleep.
    pub(crate) fn driver<'b>(&self, name: &'b mut [u8]) -> &'b CStr {
        let Some(dev) = self.device() else {
            return c"-";
        };
        // SAFETY: The device is valid, and `name` is valid for writes of its length.
        unsafe {
            bindings::apple_dma_files_driver(
                raw::device(&dev),
                name.as_mut_ptr().cast(),
                name.len(),
            )
        };
        CStr::from_bytes_until_nul(name).unwrap_or(c"?")
    }

    /// The bus of both, which is there as long as the companion is.
    fn bus(&self) -> *mut kernel::bindings::pci_bus {
        // SAFETY: The device is valid.
        unsafe { (*raw::pci_dev(self.companion)).bus }
    }

    /// Whether `dev` is there.
    fn has(&self, dev: &pci::Device) -> bool {
        let dev = raw::pci_dev(dev);
        // SAFETY: The device is valid, and neither field changes.
        unsafe { ptr::eq((*dev).bus, self.bus()) && (*dev).devfn == u32::from(self.devfn) }
    }

    /// The device that is there now.
    fn device(&self) -> Option<ARef<pci::Device>> {
        // SAFETY: The bus is valid. The reference that this takes becomes ours.
        let dev = unsafe { kernel::bindings::pci_get_slot(self.bus(), self.devfn.into()) };
        // SAFETY: `pci::Device` is a transparent wrapper of `struct pci_dev`, and we own a
        // reference.
        ptr::NonNull::new(dev).map(|dev| unsafe { ARef::from_raw(dev.cast()) })
    }
}

impl fmt::Display for ManagedFunction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bus = self.bus();
        // SAFETY: The bus is valid.
        let (domain, number) =
            unsafe { (bindings::apple_dma_helper_pci_domain_nr(bus), (*bus).number) };
        let (slot, function) = (self.devfn >> 3, self.devfn & 7);
        write!(f, "{domain:04x}:{number:02x}:{slot:02x}.{function:x}")
    }
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

/// A device whose lock is held.
struct LockedDevice<'a>(&'a pci::Device);

impl LockedDevice<'_> {
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
    /// No driver uses the device; `ops` is null or valid until it is replaced in the same way.
    unsafe fn set_ops(&self, ops: *const bindings::dma_map_ops) {
        // SAFETY: By the safety requirements nobody can be using the operations.
        unsafe { bindings::apple_dma_helper_set_dma_ops(raw::device(self.0), ops) };
    }
}

/// A device's lock, held by us.
struct DeviceGuard<'a>(LockedDevice<'a>);

impl<'a> DeviceGuard<'a> {
    fn new(dev: &'a pci::Device) -> Self {
        // SAFETY: `dev` is a valid device.
        unsafe { bindings::apple_dma_helper_device_lock(raw::device(dev)) };
        Self(LockedDevice(dev))
    }

    /// The lock of `dev`, when no driver is bound to it: takes off the one that is. Says whether
    /// there was one.
    fn without_driver(dev: &'a pci::Device) -> (Self, bool) {
        let mut had = false;
        loop {
            let locked = Self::new(dev);
            if !locked.has_driver() {
                return (locked, had);
            }
            drop(locked);
            had = true;
            // SAFETY: `dev` is a valid device, and its lock is not held.
            unsafe { kernel::bindings::device_release_driver(raw::device(dev)) };
        }
    }
}

impl<'a> Deref for DeviceGuard<'a> {
    type Target = LockedDevice<'a>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for DeviceGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: `new` took the lock.
        unsafe { bindings::apple_dma_helper_device_unlock(raw::device(self.0 .0)) };
    }
}

/// What gives a device's driver the addresses that the host assigned.
pub(crate) enum Translation {
    /// Our operations.
    Ops(*const bindings::dma_map_ops),
    /// The kernel's direct mapping.
    Direct(DmaRangeMap),
}

// SAFETY: The operations are not looked at here, and those who do may be any thread.
unsafe impl Send for Translation {}

// SAFETY: As above; nothing here changes.
unsafe impl Sync for Translation {}

impl Translation {
    /// Whether the device has this.
    fn is_installed(&self, dev: &LockedDevice<'_>) -> bool {
        match self {
            Translation::Ops(ops) => ptr::eq(dev.ops(), *ops),
            Translation::Direct(_) => dev.has_ranges(),
        }
    }

    /// What is on the device already, and in the way of this.
    fn obstacle(&self, dev: &LockedDevice<'_>) -> Option<&'static str> {
        match self {
            Translation::Ops(_) if self.is_installed(dev) => None,
            _ if !dev.ops().is_null() => Some("DMA operations"),
            Translation::Direct(_) if dev.has_ranges() => Some("DMA address ranges"),
            _ => None,
        }
    }

    /// Has the driver use this that is about to be bound.
    ///
    /// # Safety
    ///
    /// The driver has not seen the device yet. [`Self::remove`] is called before this is dropped,
    /// and before the operations cease to be valid, unless the device is gone by then.
    unsafe fn install(&self, dev: &LockedDevice<'_>) {
        match self {
            // SAFETY: By the safety requirements.
            Translation::Ops(ops) => unsafe { dev.set_ops(*ops) },
            // SAFETY: The lock is held, and by the safety requirements.
            Translation::Direct(ranges) => unsafe { ranges.install(dev.0) },
        }
    }

    /// Undoes [`Self::install`].
    ///
    /// # Safety
    ///
    /// No driver is bound.
    unsafe fn remove(&self, dev: &LockedDevice<'_>) {
        match self {
            // SAFETY: By the safety requirements.
            Translation::Ops(_) if self.is_installed(dev) => unsafe { dev.set_ops(ptr::null()) },
            Translation::Ops(_) => {}
            // The driver core took the ranges away when the driver unbound.
            Translation::Direct(_) => {}
        }
    }
}

/// Has whatever device is in a slot managed, from before a driver sees it until after.
struct DeviceHook<'a> {
    function: ManagedFunction<'a>,
    translation: Translation,
}

impl DeviceHook<'_> {
    /// Makes the companion the supplier of `dev`, so that a driver binds to it only while the
    /// companion's is there. May sleep.
    fn link(&self, dev: &pci::Device) -> Result {
        let companion = self.function.companion;
        // SAFETY: Both are valid devices.
        let linked = unsafe {
            bindings::apple_dma_helper_device_link(raw::device(dev), raw::device(companion))
        };
        if !linked {
            dev_err!(
                companion,
                "cannot link {} to the companion: out of memory?\n",
                self.function
            );
            return Err(ENODEV);
        }
        Ok(())
    }

    fn check(&self, dev: &LockedDevice<'_>) -> Result {
        let Some(obstacle) = self.translation.obstacle(dev) else {
            return Ok(());
        };
        dev_err!(
            self.function.companion,
            "{} has {} of its own\n",
            self.function,
            obstacle
        );
        Err(EBUSY)
    }
}

impl BusEvents for DeviceHook<'_> {
    fn added(&self, dev: &pci::Device) {
        if self.function.has(dev) {
            dev_info!(self.function.companion, "{} is here now\n", self.function);
            // Without a link its driver is taken off in `drop`, if need be.
            let _ = self.link(dev);
        }
    }

    fn binding(&self, dev: &pci::Device) {
        let dev = LockedDevice(dev);
        if self.function.has(dev.0) && self.check(&dev).is_ok() {
            // SAFETY: The driver's probe comes after this. `drop` takes away what is put here, or
            // `removed` does, when nobody can be using it any more.
            unsafe { self.translation.install(&dev) };
        }
    }

    fn removed(&self, dev: &pci::Device) {
        if self.function.has(dev) {
            // SAFETY: A device that is gone has no driver.
            unsafe { self.translation.remove(&DeviceGuard::new(dev)) };
        }
    }
}

impl Drop for DeviceHook<'_> {
    fn drop(&mut self) {
        let Some(dev) = self.function.device() else {
            return;
        };
        if !self.translation.is_installed(&DeviceGuard::new(&dev)) {
            return;
        }
        // The driver core took the driver off, as that of a consumer, if there was a link.
        let (locked, _) = DeviceGuard::without_driver(&dev);
        // SAFETY: No driver is bound.
        unsafe { self.translation.remove(&locked) };
    }
}

/// A companion's managed device: what is in its slot, whenever something is.
pub(crate) struct Attachment<'a> {
    _notifier: Pin<KBox<BusNotifier<DeviceHook<'a>>>>,
}

impl<'a> Attachment<'a> {
    /// Has drivers of the device in `function` use `translation`, and makes the companion its supplier, so
    /// that from now on a driver binds to it only while the companion's driver is there. A driver
    /// that is bound to it is taken off before, and comes back when the companion's probe is done;
    /// so does one that could not be bound before. It is the same with a device that comes later,
    /// for the first time or again. May sleep.
    ///
    /// To be the last thing in the companion's probe that can fail: a link between devices cannot
    /// be taken back before the companion's driver unbinds.
    ///
    /// # Safety
    ///
    /// `translation` is valid until the attachment is dropped, which must be when the companion's driver
    /// unbinds, and never before.
    pub(crate) unsafe fn new(
        function: ManagedFunction<'a>,
        translation: Translation,
    ) -> Result<Self> {
        let managed = DeviceHook {
            function,
            translation,
        };
        let notifier = KBox::pin_init(BusNotifier::new(managed), GFP_KERNEL)?;
        let managed = notifier.listener();
        let Some(dev) = function.device() else {
            dev_warn!(
                function.companion,
                "there is no managed device at {} yet\n",
                function
            );
            return Ok(Self {
                _notifier: notifier,
            });
        };
        // A driver that is bound from now on gets the means; one that was before does not have
        // them.
        let (locked, detached) = DeviceGuard::without_driver(&dev);
        if detached {
            dev_info!(
                function.companion,
                "detached the driver that {} had until its DMA is managed\n",
                function
            );
        }
        let result = managed.check(&locked).and_then(|()| managed.link(&dev));
        drop(locked);
        // On success the link has the driver core bring the driver back when the companion is
        // bound. To ask for it now would leave the device waiting, and the core with a wrong idea
        // of its state.
        if let Err(error) = result {
            drop(notifier);
            if detached {
                // The driver may be gone, which is no error.
                //
                // SAFETY: The device is valid, and its lock is not held.
                let _ = unsafe { kernel::bindings::device_attach(raw::device(&dev)) };
            }
            return Err(error);
        }
        Ok(Self {
            _notifier: notifier,
        })
    }
}
