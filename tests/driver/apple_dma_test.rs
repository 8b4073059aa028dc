// SPDX-License-Identifier: GPL-2.0

//! Test driver for the simulated DMA engine (`tests/uapi/dma_engine.h`).
//!
//! Binds the engine as any driver would, knows nothing of the translation of its DMA addresses, and
//! exercises the DMA API with the engine on command from user space. `README.md` describes the
//! commands.

mod bench;
mod bindings;
mod buffer;
mod coherent;
mod command;
#[path = "../../rust/compat.rs"]
mod compat;
mod context;
mod debugfs;
mod device;
mod driver;
mod engine;
mod exchange;
mod exercise;
mod failure;
mod import;
mod interrupt;
mod kept;
mod land;
mod mapping;
mod mirror;
mod noncontiguous;
mod page_list;
mod pattern;
mod pool;
mod ram;
mod rng;
mod run_on;
mod scatterlist;
mod seeded;
mod share;
mod span;
mod spec;
mod workers;

use kernel::{
    driver::Registration,
    pci,
    prelude::*,
    InPlaceModule, //
};

#[pin_data]
struct TestModule {
    // Dropped in this order: no probe runs while the debugfs directory is removed.
    #[pin]
    _driver: Registration<pci::Adapter<driver::EngineDriver>>,
    _root: debugfs::Root,
}

impl InPlaceModule for TestModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Initialized in this order: the directory exists before the first probe.
            _root: debugfs::Root::new(),
            _driver <- Registration::new(<Self as kernel::ModuleMetadata>::NAME, module),
        })
    }
}

kernel::prelude::module! {
    type: TestModule,
    name: "apple_dma_test",
    authors: ["The apple-dma-pci authors"],
    description: "DMA API tests on the simulated DMA engine",
    license: "GPL v2",
}
