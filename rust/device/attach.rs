// SPDX-License-Identifier: GPL-2.0

//! The takeover of a managed device's DMA: checks that its DMA can be managed, and keeps a
//! [`Translation`] installed from before a driver binds to the device until after it has unbound.
//!
//! Which device that is, is decided in [`bdf`](super::bdf). All functions here run in process
//! context and may sleep.

use super::bdf::ManagedFunction;
use super::dma_range_map::DmaRangeMap;
use super::pci_address::PciAddress;
use super::swiotlb::CoherentMemory;
use crate::abstractions::pci_notifier::{
    BusEvents,
    BusNotifier, //
};
use crate::abstractions::raw;
use crate::bindings;
use core::{
    ops::Deref,
    ptr, //
};
use kernel::{
    device::Bound,
    pci,
    prelude::*, //
};

/// Checks that DMA of devices on the companion's bus is plain: coherent, and, apart from the DART,
/// with guest-physical addresses as DMA addresses.
pub(super) fn check_bus(companion: &pci::Device<Bound>) -> Result {
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
            "bus is not supported: DMA is not cache-coherent\n"
        );
        return Err(ENODEV);
    }
    if iommu {
        dev_err!(
            companion,
            "bus is not supported: the guest has an IOMMU on it\n"
        );
        return Err(ENODEV);
    }
    if translated {
        dev_err!(
            companion,
            "bus is not supported: DMA addresses are translated\n"
        );
        return Err(ENODEV);
    }
    Ok(())
}

/// A device whose lock is held.
pub(super) struct LockedDevice<'a>(&'a pci::Device);

impl LockedDevice<'_> {
    /// Returns the device.
    pub(super) fn device(&self) -> &pci::Device {
        self.0
    }

    /// Returns whether a driver is bound to the device.
    pub(super) fn has_driver(&self) -> bool {
        // SAFETY: The device is valid, and its driver does not change while the lock is held.
        unsafe { !(*raw::device(self.0)).driver.is_null() }
    }

    /// Returns the device's DMA operations; null if it has none of its own.
    fn ops(&self) -> *const bindings::dma_map_ops {
        // SAFETY: The device is valid, and its operations do not change while the lock is held.
        unsafe { bindings::apple_dma_helper_get_dma_ops(raw::device(self.0)) }
    }

    /// Returns whether the device has DMA address ranges.
    fn has_ranges(&self) -> bool {
        // SAFETY: The device is valid, and its ranges do not change while the lock is held.
        unsafe { bindings::apple_dma_helper_is_translated(raw::device(self.0)) }
    }

    /// Replaces the device's DMA operations.
    ///
    /// # Safety
    ///
    /// No driver uses the device; `ops` is null or valid until it is replaced in the same way.
    unsafe fn set_ops(&self, ops: *const bindings::dma_map_ops) {
        // SAFETY: By the safety requirements nothing uses the operations.
        unsafe { bindings::apple_dma_helper_set_dma_ops(raw::device(self.0), ops) };
    }
}

/// A guard that holds a device's lock.
pub(super) struct DeviceGuard<'a>(LockedDevice<'a>);

impl<'a> DeviceGuard<'a> {
    /// Takes the lock of `dev`.
    pub(super) fn new(dev: &'a pci::Device) -> Self {
        // SAFETY: `dev` is a valid device.
        unsafe { bindings::apple_dma_helper_device_lock(raw::device(dev)) };
        Self(LockedDevice(dev))
    }

    /// Unbinds the driver of `dev`, if there is one, and takes the lock; also returns whether there
    /// was one.
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

/// A way of translating a device driver's memory to the addresses that the host assigned.
pub(super) enum Translation {
    /// By the module's DMA operations.
    Ops(*const bindings::dma_map_ops),
    /// By the kernel's direct mapping, which takes coherent memory from a pool in bounce mode.
    Direct(DmaRangeMap, Option<CoherentMemory>),
}

// SAFETY: The operations are not accessed through this pointer here, and the DMA API may use them
// from any thread.
unsafe impl Send for Translation {}

// SAFETY: As above; a shared reference allows no change.
unsafe impl Sync for Translation {}

impl Translation {
    /// Returns whether `dev` has this translation.
    fn is_installed(&self, dev: &LockedDevice<'_>) -> bool {
        match self {
            Translation::Ops(ops) => ptr::eq(dev.ops(), *ops),
            Translation::Direct(_, Some(memory)) => memory.pool().is_installed(dev.0),
            Translation::Direct(_, None) => dev.has_ranges(),
        }
    }

    /// Returns the subject of a message about what `dev` has already and this would overwrite.
    fn obstacle(&self, dev: &LockedDevice<'_>) -> Option<&'static str> {
        match self {
            Translation::Ops(_) if self.is_installed(dev) => None,
            _ if !dev.ops().is_null() => Some("DMA operations"),
            Translation::Direct(..) if dev.has_ranges() => Some("DMA address ranges"),
            Translation::Direct(_, Some(memory)) if memory.pool().is_foreign(dev.0) => {
                Some("coherent memory")
            }
            _ => None,
        }
    }

    /// Installs the translation for the driver that is about to be bound.
    ///
    /// # Safety
    ///
    /// The driver has not accessed the device yet. [`Self::remove`] is called before this is
    /// dropped, and before the operations cease to be valid, unless the device is removed by then.
    unsafe fn install(&self, dev: &LockedDevice<'_>) {
        match self {
            // SAFETY: By the safety requirements.
            Translation::Ops(ops) => unsafe { dev.set_ops(*ops) },
            Translation::Direct(ranges, memory) => {
                // SAFETY: The lock is held, and by the safety requirements.
                unsafe { ranges.install(dev.0) };
                if let Some(memory) = memory {
                    // SAFETY: By the safety requirements.
                    unsafe { memory.pool().install(dev.0, memory.fits(dev.0)) };
                }
            }
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
            // The driver core freed the ranges when the driver unbound.
            Translation::Direct(_, None) => {}
            // SAFETY: By the safety requirements.
            Translation::Direct(_, Some(memory)) => unsafe { memory.pool().remove(dev.0) },
        }
    }
}

/// Installs a translation on every device that appears at an address, each time before a driver
/// binds to it.
struct DeviceHook<'a> {
    function: ManagedFunction<'a>,
    translation: Translation,
    /// Set unless DMA addresses are guest-physical.
    has_dart: bool,
}

/// Makes `companion` the supplier of `dev`, the device at `address`, so that a driver binds to
/// `dev` only while the companion's driver is bound. Does nothing if it is the supplier already.
pub(super) fn link(companion: &pci::Device, address: PciAddress, dev: &pci::Device) -> Result {
    // SAFETY: Both are valid devices.
    let linked =
        unsafe { bindings::apple_dma_helper_device_link(raw::device(dev), raw::device(companion)) };
    if !linked {
        dev_err!(
            companion,
            "{}: failed to create a device link to the companion\n",
            address
        );
        return Err(ENODEV);
    }
    Ok(())
}

/// A managed device that no driver can be bound to until its companion is bound.
pub(super) struct Claim {
    /// Set if a driver was unbound.
    detached: bool,
}

/// Unbinds the driver of the device at `function`, if there is one, and makes the companion the
/// device's supplier: from now on, a driver binds to the device only while the companion's driver
/// is bound. A link between devices cannot be removed by its supplier, so this holds, if the
/// companion's probe fails, until one of the devices is removed. If it succeeds, then or at any
/// later time, the driver core probes the device's driver.
///
/// The lock of the managed device is taken while that of the companion is held. When a bus is
/// reset, the locks of all of its devices are taken in the order of the bus; but resets by user
/// space and by drivers only try that, and error recovery, which waits, needs a bridge that reports
/// errors.
///
/// To be called in the companion's probe, as soon as the function is known. Does nothing if there
/// is no device yet: [`claims`](super::claims) handles those that appear later.
///
/// Context: process, may sleep.
pub(super) fn claim(function: &ManagedFunction<'_>) -> Result<Claim> {
    let Some(dev) = function.device() else {
        return Ok(Claim { detached: false });
    };
    let (locked, detached) = DeviceGuard::without_driver(&dev);
    // The state of a link is wrong if a driver is bound, or being bound, when it is created; the
    // lock prevents that.
    link(function.companion(), function.address(), locked.0 .0)?;
    // An earlier kernel that crashed may have left the device running, and mappings on the host
    // that are in the way.
    function.stop_dma_of(&locked);
    Ok(Claim { detached })
}

impl DeviceHook<'_> {
    /// Checks that the translation overwrites nothing on `dev`; logs what it would.
    fn check(&self, dev: &LockedDevice<'_>) -> Result {
        let Some(obstacle) = self.translation.obstacle(dev) else {
            return Ok(());
        };
        dev_err!(
            self.function.companion(),
            "{}: cannot manage its DMA: it has {} of its own\n",
            self.function,
            obstacle
        );
        Err(EBUSY)
    }

    /// Logs if the driver that is about to be bound to `dev` gets no coherent memory.
    fn report_unusable(&self, dev: &LockedDevice<'_>) {
        let Translation::Direct(_, Some(memory)) = &self.translation else {
            return;
        };
        if !memory.fits(dev.0) {
            dev_err!(
                self.function.companion(),
                "{}: its driver gets no coherent memory: addresses up to {:#x} may not fit its \
                 mask\n",
                self.function,
                memory.last()
            );
        }
    }
}

impl BusEvents for DeviceHook<'_> {
    fn added(&self, dev: &pci::Device) {
        if self.function.has(dev) {
            dev_info!(
                self.function.companion(),
                "{}: managed device appeared\n",
                self.function
            );
        }
    }

    fn binding(&self, dev: &pci::Device) {
        let dev = LockedDevice(dev);
        if self.function.has(dev.0) && self.check(&dev).is_ok() {
            // SAFETY: The driver's probe comes after this. Either `drop` or `removed` removes the
            // translation, when nothing can be using it any more.
            unsafe { self.translation.install(&dev) };
            self.report_unusable(&dev);
        }
    }

    fn bound(&self, dev: &pci::Device) {
        if self.has_dart && self.function.has(dev) {
            self.function.warn_of_user_space(&LockedDevice(dev));
        }
    }

    fn unbound(&self, dev: &pci::Device) {
        if self.function.has(dev) {
            // The driver may have left the device running, on memory that is not mapped for long.
            self.function.stop_dma_of(&LockedDevice(dev));
        }
    }

    fn removed(&self, dev: &pci::Device) {
        if self.function.has(dev) {
            // SAFETY: A removed device has no driver.
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
        // If there was a link, the driver core has unbound the driver, as that of a consumer.
        let (locked, _) = DeviceGuard::without_driver(&dev);
        self.function.stop_dma_of(&locked);
        // SAFETY: No driver is bound.
        unsafe { self.translation.remove(&locked) };
    }
}

/// The takeover of a companion's managed device: of each device that appears at its address.
pub(super) struct Attachment<'a> {
    _notifier: Pin<KBox<BusNotifier<DeviceHook<'a>>>>,
}

impl<'a> Attachment<'a> {
    /// Installs `translation` for drivers of the device at `function`, which `claim` keeps off it
    /// until the companion's probe is over. The same holds for a device that is added later, for
    /// the first time or again. Without a DART, `has_dart` is not set.
    ///
    /// # Safety
    ///
    /// `translation` is valid until the attachment is dropped, which must be when the companion's
    /// driver unbinds, and never before.
    pub(super) unsafe fn new(
        function: ManagedFunction<'a>,
        translation: Translation,
        claim: Claim,
        has_dart: bool,
    ) -> Result<Self> {
        let hook = DeviceHook {
            function,
            translation,
            has_dart,
        };
        let notifier = KBox::pin_init(BusNotifier::new(hook), GFP_KERNEL)?;
        // A device may have appeared after the first claim and before the notifier existed.
        let again = self::claim(&function)?;
        match function.device() {
            Some(dev) => notifier.listener().check(&DeviceGuard::new(&dev))?,
            None => dev_warn!(
                function.companion(),
                "{}: managed device not present; waiting for it\n",
                function
            ),
        }
        if claim.detached || again.detached {
            dev_info!(
                function.companion(),
                "{}: detached its driver; it is re-probed with managed DMA\n",
                function
            );
        }
        Ok(Self {
            _notifier: notifier,
        })
    }
}
