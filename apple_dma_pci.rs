// SPDX-License-Identifier: GPL-2.0

//! DMA of a passed-through PCI device in a guest on an Apple Silicon Mac.
//!
//! The Mac's IOMMU, the DART, assigns every I/O virtual address itself. This driver binds the
//! paravirtual companion of such a device and puts `dma_map_ops` on the device that have every
//! mapping made by the host, so that the device's own driver gets the addresses that the DART
//! really uses. `docs/architecture.md` describes the parts.

use kernel::{
    device::Core,
    driver,
    pci,
    prelude::*,
    InPlaceModule, //
};

#[path = "rust/abstractions/mod.rs"]
mod abstractions;
#[path = "rust/addr.rs"]
mod addr;
#[path = "rust/bindings.rs"]
mod bindings;
#[path = "rust/compat.rs"]
mod compat;
#[path = "rust/device/mod.rs"]
mod device;
#[path = "rust/engine/mod.rs"]
mod engine;
#[path = "rust/host/mod.rs"]
mod host;
#[path = "rust/observe/mod.rs"]
mod observe;
#[path = "rust/params.rs"]
mod params;
#[path = "rust/sys.rs"]
mod sys;

use bindings as uapi;
use compat::{
    value,
    IdInfo, //
};
use device::Binding;
use params::{
    Params, //
    RawParams,
};

struct AppleDmaPci;

compat::pci_device_table!(
    PCI_TABLE,
    <AppleDmaPci as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(pci::Vendor::REDHAT, uapi::APPLE_DMA_PCI_DEVICE_ID),
        ()
    )]
);

impl pci::Driver for AppleDmaPci {
    type IdInfo = ();
    type Data<'bound> = Binding<'bound>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        dev: &'bound pci::Device<Core<'_>>,
        _info: IdInfo<'bound, Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        // Only when there is a place for the binding, so that nothing can fail after it is made.
        pin_init::pin_init_scope(move || {
            // SAFETY: This is the probe, and the driver's data is what it makes.
            unsafe { abstractions::pm::install_pm_ops::<Binding<'bound>>(dev) };
            Ok(Binding::new(dev, &params()?))
        })
    }
}

/// The parameters as they were given.
fn params() -> Result<Params> {
    Params::new(&RawParams {
        strict: value(&module_parameters::strict),
        whole_ram: value(&module_parameters::whole_ram),
        max_bytes: value(&module_parameters::max_bytes),
        max_entries: value(&module_parameters::max_entries),
        max_idle: value(&module_parameters::max_idle),
        congruent: value(&module_parameters::congruent),
    })
}

#[pin_data]
struct Module {
    #[pin]
    _driver: driver::Registration<pci::Adapter<AppleDmaPci>>,
    /// After the driver, whose companions have directories in it.
    _root: observe::files::DebugfsRoot,
}

impl InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // A wrong parameter keeps the module out, rather than one device of several.
            _: { params()?; },
            _root: observe::files::DebugfsRoot::new(),
            _driver <- driver::Registration::new(c"apple_dma_pci", module),
        })
    }
}

module! {
    type: Module,
    name: "apple_dma_pci",
    authors: ["The apple-dma-pci authors"],
    description: "DMA of passed-through PCI devices on Apple Silicon hosts",
    license: "GPL",
    params: {
        whole_ram: u8 {
            default: 1,
            description: "Map all of guest RAM at once: 0 never, 1 if it fits max_bytes, \
                2 always, by the kernel's direct mapping",
        },
        strict: u8 {
            default: 0,
            description: "Take memory away from the device as soon as it is unmapped (0 or 1)",
        },
        max_bytes: u64 {
            default: crate::params::MAX_BYTES,
            description: "Most bytes that the host is asked to have mapped at a time",
        },
        max_entries: u32 {
            default: crate::params::MAX_ENTRIES,
            description: "Most mappings that the host is asked to have at a time",
        },
        max_idle: u32 {
            default: crate::params::MAX_IDLE,
            description: "Seconds until idle windows are given back (0: never)",
        },
        congruent: u8 {
            default: 1,
            description: "Try to align DMA addresses of 64 KiB and 2 MiB pages (0 or 1)",
        },
    },
}
