// SPDX-License-Identifier: GPL-2.0

//! The engine on several CPUs, under a scheduler that decides after every access to an atomic or a
//! lock which thread runs next: at random, and with few preemptions at unfavourable points (PCT).
//!
//! A mapping that a driver holds must stay mapped until the driver unmaps it, whatever other
//! threads do; the model host panics otherwise. Memory is sequentially consistent here, whatever
//! ordering the code requests; `orderings.rs` tests the orderings of the reference word that all
//! threads share.

#![allow(dead_code, unused_imports)]
#![cfg(test)]

include!("modules.rs");

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

mod tests {
    mod host;
    mod rig;
    mod schedules;
    mod strays;
}
