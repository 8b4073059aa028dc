// SPDX-License-Identifier: GPL-2.0

//! The engine on several CPUs, under a scheduler that decides after every access to an atomic or a
//! lock who runs next: at random, and with few but unlucky preemptions (PCT).
//!
//! What a driver holds must be backed until it gives it up, whatever the others do; the model host
//! refuses to see it go. Memory is sequentially consistent here, whatever ordering the code asks
//! for; `orderings.rs` tests the orderings of the one word that they all meet on.

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
}
