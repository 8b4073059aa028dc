// SPDX-License-Identifier: GPL-2.0

//! Generated bindings: the wire, `struct dma_map_ops` and `bus_dma_region`, the argument of memory
//! notifiers, and the C code of this module.
//!
//! Everything else comes from the bindings of the kernel, which these build on. The headers are
//! listed in `bindings_helper.h`, the allowed items in `Kbuild`.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

use kernel::bindings::*;

include!("bindings_generated.rs");
