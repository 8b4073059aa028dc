// SPDX-License-Identifier: GPL-2.0

//! The PCI driver, which finds engines and creates a test bench for each.

use crate::bench::Bench;
use crate::bindings as uapi;
use crate::compat::{
    self,
    IdInfo, //
};
use crate::debugfs;
use crate::engine::Engine;
use kernel::{
    debugfs::File,
    device::Core,
    dma::{
        Device,
        DmaMask, //
    },
    pci,
    prelude::*,
    sync::aref::ARef, //
};

// CAST: Vendor IDs are 16 bits wide.
//
// SAFETY: `Vendor` is a transparent wrapper of the ID; it has no name for this one.
const VENDOR: pci::Vendor = unsafe { core::mem::transmute(uapi::DMA_ENGINE_VENDOR_ID as u16) };

compat::pci_device_table!(
    PCI_TABLE,
    <EngineDriver as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(VENDOR, uapi::DMA_ENGINE_DEVICE_ID),
        ()
    )]
);

/// The driver of simulated DMA engines.
pub(crate) struct EngineDriver;

/// State of one bound engine.
#[pin_data]
pub(crate) struct Bound {
    /// File `run` in the engine's debugfs directory. It owns the bench: removing the file waits for
    /// the running command.
    #[pin]
    _run: File<Bench>,
}

impl pci::Driver for EngineDriver {
    type IdInfo = ();
    type Data<'bound> = Bound;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: IdInfo<'bound, Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            pdev.enable_device_mem()?;
            pdev.set_master();

            // SAFETY: Nothing is mapped or allocated before probe returns.
            unsafe { pdev.dma_set_mask_and_coherent(DmaMask::new::<64>())? };
            // Segments are limited by the engine's length register only.
            //
            // SAFETY: As above.
            unsafe { pdev.dma_set_max_seg_size(u32::MAX) };

            let engine = Engine::new(pdev)?;
            let dir = debugfs::subdir(pdev.as_ref().name())?;
            dev_info!(
                pdev,
                "{} channels of {} bytes\n",
                engine.channels(),
                engine.memory_size()
            );

            let device = ARef::from(&**pdev);
            Ok(try_pin_init!(Bound {
                _run <- Bench::file(&dir, device, engine),
            }))
        })
    }
}
