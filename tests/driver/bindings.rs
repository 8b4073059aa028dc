// SPDX-License-Identifier: GPL-2.0

//! Bindings that bindgen generates from `bindings.h`: the engine's registers and the C helpers.
//!
//! Only the wrappers of this crate name items of this module.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

use kernel::{
    bindings::*,
    ffi, //
};

include!(env!("APPLE_DMA_TEST_BINDINGS"));
