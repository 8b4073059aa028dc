// SPDX-License-Identifier: GPL-2.0

//! The mapping engine of the kernel module, fed with what a guest's drivers did.
//!
//! The engine's files are the module's own, as in `tests/engine`, and so is what they need of the
//! system. [`Replay`] is all that is seen of it.

/// Files of the module, which need not be used up here.
macro_rules! module_files {
    ($($path:literal $name:ident;)*) => {$(
        #[allow(dead_code, unused_imports)]
        #[path = $path]
        mod $name;
    )*};
}

module_files! {
    "../../../rust/addr.rs" addr;
    "../../../rust/engine/mod.rs" engine;
    "../../../tests/engine/src/sys.rs" sys;
}

mod host;
mod replay;

pub use self::replay::{
    Counters,
    Mapping,
    Mode,
    Parameters,
    Replay,
    Window, //
};

/// Bytes of a granule.
pub const GRANULE: u64 = addr::GRANULE;

/// log2 of the size in bytes that the module's windows grow to.
pub const WINDOW_SHIFT: u32 = engine::policy::WINDOW_SHIFT;

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
