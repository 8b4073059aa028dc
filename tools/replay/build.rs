// SPDX-License-Identifier: GPL-2.0

//! Generates the bindings of the wire from the header that the kernel module uses.

use std::{
    env,
    path::PathBuf, //
};

pub(crate) fn main() {
    let header = "../../uapi/apple_dma_pci.h";
    println!("cargo:rerun-if-changed={header}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    bindgen::Builder::default()
        .header(header)
        .allowlist_item("(APPLE_DMA_PCI|apple_dma_pci).*")
        .generate()
        .expect("the header can be read")
        .write_to_file(out.join("uapi.rs"))
        .expect("OUT_DIR can be written");
}
