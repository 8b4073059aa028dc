// SPDX-License-Identifier: GPL-2.0

//! The wire in Rust: bindings generated from `uapi/apple_dma_pci.h` and `tests/uapi/dma_engine.h`;
//! only the argument that the structures may be copied as bytes is written by hand.

use vm_memory::ByteValued;

/// Registers and structures of the companion.
#[allow(missing_docs, non_camel_case_types, dead_code)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks)]
pub mod companion {
    include!(concat!(env!("OUT_DIR"), "/apple_dma_pci.rs"));
}

/// Registers of the DMA engine.
#[allow(missing_docs, non_camel_case_types, dead_code)]
pub mod engine {
    include!(concat!(env!("OUT_DIR"), "/dma_engine.rs"));
}

// The wire is little-endian and the bindings are native.
const _: () = assert!(cfg!(target_endian = "little"));

// SAFETY: integers only, and no padding: every member is naturally aligned and the size is the sum
// of the members' sizes.
unsafe impl ByteValued for companion::apple_dma_pci_cmd {}
// SAFETY: as above.
unsafe impl ByteValued for companion::apple_dma_pci_map_req32 {}
// SAFETY: as above.
unsafe impl ByteValued for companion::apple_dma_pci_map_resp32 {}
// SAFETY: integers only, packed.
unsafe impl ByteValued for companion::apple_dma_pci_map_req64 {}
// SAFETY: integers only, packed.
unsafe impl ByteValued for companion::apple_dma_pci_map_resp64 {}
// SAFETY: integers only, no padding.
unsafe impl ByteValued for companion::apple_dma_pci_unmap_req {}
// SAFETY: integers only, no padding.
unsafe impl ByteValued for companion::apple_dma_pci_unmap_resp {}
