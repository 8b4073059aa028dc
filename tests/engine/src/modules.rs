// SPDX-License-Identifier: GPL-2.0

// The module's own files and their platform, included by every crate that tests them.
#[path = "../../../rust/addr.rs"]
mod addr;
#[path = "../../../rust/engine/mod.rs"]
mod engine;
#[path = "sys.rs"]
mod sys;
