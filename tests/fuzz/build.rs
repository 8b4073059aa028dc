// SPDX-License-Identifier: GPL-2.0

//! Generates the bindings of the wire as the engine's tests do.

#[path = "../engine/build.rs"]
mod engine;

fn main() {
    engine::main();
}
