// SPDX-License-Identifier: GPL-2.0

//! The mapping engine of the kernel module, run with the recorded mappings of a guest's drivers.
//!
//! The engine's files are the module's own, and their platform is that of `tests/engine`.
//! [`Replay`] is the interface.

/// Declares files of the module, of which not all items are used here.
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

mod copying;
mod host;
mod replay;

pub use self::copying::{
    CopyDirection,
    CopyMode, //
};
pub use self::replay::{
    Counters,
    EntryTimes,
    HostRecord,
    Mapping,
    Mode,
    Parameters,
    Replay,
    Window, //
};

/// Size of a granule in bytes.
pub const GRANULE: u64 = addr::GRANULE;

/// log2 of the size in bytes that the module's windows grow to.
pub const WINDOW_SHIFT: u32 = engine::policy::WINDOW_SHIFT;

/// Returns the bytes of a copy pool by default, in a guest with `ram_bytes` of RAM and the limit
/// `max_bytes`.
pub fn default_copy_bytes(ram_bytes: u64, max_bytes: u64) -> u64 {
    engine::copy::setup::default_bytes(ram_bytes, max_bytes)
}

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
