// SPDX-License-Identifier: GPL-2.0

//! Generates the bindings of the two headers that define what the guest sees: the companion's wire
//! and the DMA engine's registers.

use std::{
    env,
    path::{
        Path,
        PathBuf, //
    },
};

/// Writes the bindings of `header` to `OUT_DIR/name`.
fn generate(header: &Path, name: &str) {
    println!("cargo:rerun-if-changed={}", header.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(name);
    bindgen::Builder::default()
        .header(header.to_str().expect("the path is UTF-8"))
        .use_core()
        .derive_default(true)
        .layout_tests(true)
        .allowlist_item("apple_dma_pci_.*")
        .allowlist_item("APPLE_DMA_PCI_.*")
        .allowlist_item("DMA_ENGINE_.*")
        .generate()
        .expect("the header parses")
        .write_to_file(&out)
        .expect("OUT_DIR is writable");
}

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    generate(&here.join("../../uapi/apple_dma_pci.h"), "apple_dma_pci.rs");
    generate(&here.join("../uapi/dma_engine.h"), "dma_engine.rs");
}
