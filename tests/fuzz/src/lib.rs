// SPDX-License-Identifier: GPL-2.0

//! What a fuzzer feeds: functions from bytes to nothing, which panic if something is wrong.
//!
//! The files are the module's own and those of its tests in `tests/engine`; there is no other model
//! here. How to run it is in `tests/README.md`.

#![allow(dead_code, unused_imports)]

include!("../../engine/src/modules.rs");

mod bytes;
mod decoder;
mod model;
mod steps;
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

/// Reads `data` as a request and what the host wrote for it, in both dialects.
pub fn answers(data: &[u8]) {
    decoder::check(&mut bytes::Bytes::new(data));
}

/// Runs an engine by `data`: how it is set up, and what its driver and its host do.
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
            // A panic is to say whose it is.
            println!("{}", path.display());
            run(&fs::read(&path).expect("the corpus can be read"));
            count += 1;
        }
        assert!(count > 10, "{count} files in {}", dir.display());
        // Nothing at all must be good, too.
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
