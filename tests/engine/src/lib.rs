// SPDX-License-Identifier: GPL-2.0

//! The pure parts of the kernel module, built in user space to be tested.
//!
//! The files are the module's own; only [`sys`], what they need of the system, is another.

#![allow(dead_code, unused_imports)]

include!("modules.rs");

/// Atomics and locks.
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

/// The wire, from `uapi/apple_dma_pci.h`.
#[allow(non_camel_case_types, unreachable_pub, missing_docs)]
mod uapi {
    include!(concat!(env!("OUT_DIR"), "/uapi.rs"));
}

#[cfg(test)]
mod tests;
