// SPDX-License-Identifier: GPL-2.0

//! The pure parts of the kernel module, built in user space to be tested.
//!
//! The files are the module's own; only [`sys`], what they need of the system, is another.

#![allow(dead_code, unused_imports)]

#[path = "../../../rust/addr.rs"]
mod addr;
#[path = "../../../rust/arena.rs"]
mod arena;
#[path = "../../../rust/engine.rs"]
mod engine;
#[path = "../../../rust/granule_map.rs"]
mod granule_map;
#[path = "../../../rust/policy.rs"]
mod policy;
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
#[path = "../../../rust/ram_map.rs"]
mod ram_map;
mod sys;
#[path = "../../../rust/whole.rs"]
mod whole;
#[path = "../../../rust/window.rs"]
mod window;
#[path = "../../../rust/wire.rs"]
mod wire;

/// The wire, from `uapi/apple_dma_pci.h`.
#[allow(non_camel_case_types, unreachable_pub, missing_docs)]
mod uapi {
    include!(concat!(env!("OUT_DIR"), "/uapi.rs"));
}

#[cfg(test)]
mod tests;
