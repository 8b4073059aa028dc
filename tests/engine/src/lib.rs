// SPDX-License-Identifier: GPL-2.0

//! The pure parts of the kernel module, built in user space for tests.
//!
//! The files are the module's own, except [`sys`], their platform, which is replaced. Tests of one
//! topic go into a file of `tests/`.

#![allow(dead_code, unused_imports)]

include!("modules.rs");

/// The atomics and locks of the standard library.
mod sync {
    pub(crate) use std::sync::{
        atomic::{
            AtomicU32,
            AtomicU64, //
        },
        Mutex,
        MutexGuard, //
    };
}
#[path = "../../../rust/host/wire.rs"]
mod wire;

/// The structures of the wire, from `uapi/apple_dma_pci.h`.
#[allow(non_camel_case_types, unreachable_pub, missing_docs)]
mod uapi {
    include!(concat!(env!("OUT_DIR"), "/uapi.rs"));
}

#[cfg(test)]
mod tests;
