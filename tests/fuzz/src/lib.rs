// SPDX-License-Identifier: GPL-2.0

//! The fuzz targets: functions that take a fuzzer's bytes and panic if a check fails.
//!
//! The files are the module's own and those of its tests in `tests/engine`; there is no other model
//! here. `tests/README.md` tells how to run the targets.

#![allow(dead_code, unused_imports)]

include!("../../engine/src/modules.rs");

mod bytes;
mod decoder;
mod model;
mod steps;
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

/// Decodes a request and its response from `data`, in both dialects.
pub fn answers(data: &[u8]) {
    decoder::check(&mut bytes::Bytes::new(data));
}

/// Runs an engine with the setup and the steps of its driver and its host that `data` encodes.
pub fn engine(data: &[u8]) {
    let mut bytes = bytes::Bytes::new(data);
    let (setup, seed, tidy) = steps::setup(&mut bytes);
    let ops = steps::ops(&mut bytes);
    if let Err(why) = model::drive::run(setup, seed, ops, tidy) {
        panic!("{why}");
    }
}

#[cfg(test)]
mod corpus {
    use std::{
        fs,
        path::Path, //
    };

    fn replay(target: &str, run: fn(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        let mut count = 0;
        for file in fs::read_dir(&dir).expect("the corpus is there") {
            let path = file.expect("the corpus can be read").path();
            // Printed so that a panic tells the file.
            println!("{}", path.display());
            run(&fs::read(&path).expect("the corpus can be read"));
            count += 1;
        }
        assert!(count > 10, "{count} files in {}", dir.display());
        // No bytes must work, too.
        run(&[]);
    }

    #[test]
    fn answers() {
        replay("answers", crate::answers);
    }

    #[test]
    fn engine() {
        replay("engine", crate::engine);
    }
}
