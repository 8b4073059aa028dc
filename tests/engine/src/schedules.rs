// SPDX-License-Identifier: GPL-2.0

//! The engine on several CPUs, under a scheduler that decides after every access to an atomic or a
//! lock who runs next: at random, and with few but unlucky preemptions (PCT).
//!
//! What a driver holds must be backed until it gives it up, whatever the others do; the model host
//! refuses to see it go. Memory is sequentially consistent here, whatever ordering the code asks
//! for; `orderings.rs` tests the orderings of the one word that they all meet on.

#![allow(dead_code)]
#![cfg(test)]

#[path = "../../../rust/addr.rs"]
mod addr;
#[path = "../../../rust/engine/mod.rs"]
mod engine;
mod sync {
    pub(crate) use shuttle::sync::{
        atomic::{
            AtomicU32,
            AtomicU64, //
        },
        Mutex,
        MutexGuard, //
    };
}
mod sys;
#[path = "../../../rust/host/wire.rs"]
mod wire;

/// Where the module has it.
mod host {
    pub(crate) use crate::wire;
}

/// The wire, from `uapi/apple_dma_pci.h`.
#[allow(non_camel_case_types, unreachable_pub, missing_docs)]
mod uapi {
    include!(concat!(env!("OUT_DIR"), "/uapi.rs"));
}

mod tests {
    mod host;
    mod rig;
    mod schedules;
}
