// SPDX-License-Identifier: GPL-2.0

//! The data of the companion's driver: an [`Instance`] with its managed device attached, and what
//! else lives as long as the driver is bound.
//!
//! The order of these parts belongs here; what is about the instance alone belongs in
//! [`device`](super).

use super::attach::{
    self,
    Attachment,
    Claim, //
};
use super::bdf::ManagedFunction;
use super::claims;
use super::maintenance::{
    Ageing,
    Recovery, //
};
use super::mode::Mode;
use super::pressure::PressureWatch;
use super::Instance;
use crate::abstractions::memory_notifier::MemoryNotifier;
use crate::abstractions::panic_notifier::PanicNotifier;
use crate::abstractions::periodic::Periodic;
use crate::abstractions::pm::PmOps;
use crate::driver::params::Params;
use crate::host::{
    Companion,
    OpenedCompanion, //
};
use crate::observe::files::DeviceFiles;
use kernel::{
    device::Core,
    pci,
    prelude::*,
    sync::Arc, //
};

/// An instance with its managed device attached. Fields are dropped in this order, the instance
/// last.
pub(crate) struct Binding<'a> {
    _attachment: Attachment<'a>,
    _memory: Pin<KBox<MemoryNotifier<Arc<Instance<'a>>>>>,
    _crash: Pin<KBox<PanicNotifier<Arc<Instance<'a>>>>>,
    ageing: Option<Pin<KBox<Periodic<Ageing<'a>>>>>,
    recovery: Pin<KBox<Periodic<Recovery<'a>>>>,
    pressure: Pin<KBox<Periodic<PressureWatch<'a>>>>,
    _files: DeviceFiles<'a, Instance<'a>>,
    instance: Arc<Instance<'a>>,
}

impl<'a> Binding<'a> {
    /// Sets up the companion and attaches its managed device. That device has no driver from the
    /// moment that it is known, and gets none if anything fails, since its DMA would be by
    /// guest-physical addresses.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(dev: &'a pci::Device<Core<'_>>, params: &Params) -> Result<Self> {
        let opened = OpenedCompanion::new(dev)?;
        let managed = ManagedFunction::choose(dev, opened.managed_bdf()?, params)?;
        claims::remember(&managed)
            // Without memory for that, a device that is there can still be claimed.
            .and(attach::claim(&managed))
            .and_then(|claim| Self::with_claim(dev, opened, managed, claim, params))
            .inspect_err(|_| {
                dev_err!(
                    dev,
                    "{}: gets no driver, since its DMA is not managed; when the cause is mended, \
                     bind this companion again\n",
                    managed
                );
            })
    }

    /// Continues [`Self::new`] when the managed device has no driver.
    fn with_claim(
        dev: &'a pci::Device<Core<'_>>,
        opened: OpenedCompanion<'a>,
        managed: ManagedFunction<'a>,
        claim: Claim,
        params: &Params,
    ) -> Result<Self> {
        let (instance, translation) = Instance::new(dev, opened, managed, params)?;
        let memory = KBox::pin_init(MemoryNotifier::new(instance.clone()), GFP_KERNEL)?;
        let crash = KBox::pin_init(PanicNotifier::new(instance.clone()), GFP_KERNEL)?;
        // Memory may have been added or removed before the notifier existed.
        instance.update_ram();
        let ageing = Ageing::start(&instance)?;
        let recovery = Recovery::start(&instance)?;
        let pressure = PressureWatch::start(&instance)?;
        let files = DeviceFiles::new(instance.dev, instance.clone())?;
        let has_dart = instance.mode != Mode::Identity;
        // SAFETY: The operations live as long as the instance, which outlives the attachment, and
        // so do its mappings. This is the last step of the companion's probe, so both live until
        // its driver unbinds.
        let attachment =
            unsafe { Attachment::new(instance.managed, translation, claim, has_dart)? };
        Ok(Self {
            _attachment: attachment,
            _memory: memory,
            _crash: crash,
            ageing,
            recovery,
            pressure,
            _files: files,
            instance,
        })
    }
}

impl PmOps for Binding<'_> {
    fn shutdown(self: Pin<&Self>) {
        let this = &self.instance;
        // Otherwise these would go on, also while another kernel starts.
        self.recovery.stop();
        self.pressure.stop();
        if let Some(ageing) = &self.ageing {
            ageing.stop();
        }
        // The managed device's driver was shut down before only if it has a callback for that.
        if this.managed.stop_dma() {
            this.release();
            dev_info!(
                this.dev,
                "{}: unmapped everything for shutdown\n",
                this.managed
            );
        } else {
            this.close_pool();
            this.engine.close();
        }
    }

    fn resume(self: Pin<&Self>) {
        // The host kept the mappings during suspend.
        self.instance.engine.with_host(Companion::program);
    }

    fn freeze(self: Pin<&Self>) -> Result {
        // The restored kernel would rely on mappings that ended with the QEMU process.
        dev_err!(
            self.instance.dev,
            "rejecting hibernation: the mappings of {} would be lost\n",
            self.instance.managed
        );
        Err(EBUSY)
    }
}
