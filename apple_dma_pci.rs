// SPDX-License-Identifier: GPL-2.0

//! DMA of a passed-through PCI device in a guest on an Apple Silicon Mac.
//!
//! The Mac's IOMMU, the DART, assigns every I/O virtual address itself. This driver binds the
//! paravirtual companion of such a device and installs `dma_map_ops` on the device that have every
//! mapping made by the host, so that the device's own driver gets the addresses that the DART
//! really uses. `docs/architecture.md` describes the parts.
//!
//! The crate root names the modules and the facts of the kernel module; code belongs below `rust/`.

// The code says what happens where an integer overflows, so that nothing can panic.
#![deny(clippy::arithmetic_side_effects)]

use kernel::prelude::*;

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
#[path = "rust/driver.rs"]
mod driver;
#[path = "rust/engine/mod.rs"]
mod engine;
#[path = "rust/host/mod.rs"]
mod host;
#[path = "rust/observe/mod.rs"]
mod observe;
#[path = "rust/sys.rs"]
mod sys;

// The wire's constants, by the name that user-space tests of the protocol have for them.
use bindings as uapi;

#[pin_data]
struct Module {
    #[pin]
    _driver: driver::Registrations,
    /// Dropped after the driver, whose companions have directories in it.
    _root: observe::files::DebugfsRoot,
}

impl kernel::InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // A wrong parameter fails the load of the module, not the probe of each device.
            _: { driver::params()?; },
            _root: observe::files::DebugfsRoot::new(),
            _driver <- driver::Registrations::new(module),
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
            description: "Map all of RAM: 0 never, 1 if it fits, 2 for direct mapping, 3 bounce",
        },
        strict: u8 {
            default: 0,
            description: "Take memory away from the device as soon as it is unmapped (0 or 1)",
        },
        max_bytes: u64 {
            default: crate::driver::params::MAX_BYTES,
            description: "Most bytes that the host is asked to have mapped at a time",
        },
        max_entries: u32 {
            default: crate::driver::params::MAX_ENTRIES,
            description: "Most mappings that the host is asked to have at a time",
        },
        share_limits: u8 {
            default: 1,
            description: "Limits hold for all devices together (1) or for each of them (0)",
        },
        max_idle: u32 {
            default: crate::driver::params::MAX_IDLE,
            description: "Seconds until idle windows are unmapped (0: never)",
        },
        congruent: u8 {
            default: 1,
            description: "Align DMA addresses of large pages: 0 never, 1 by class, 2 always",
        },
        max_batch: u32 {
            default: 0,
            description: "Most requests of a doorbell (0: as many as the host accepts)",
        },
    },
}
