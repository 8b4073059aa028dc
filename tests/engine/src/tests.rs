// SPDX-License-Identifier: GPL-2.0

//! Tests of the pure parts, one topic per file, and the model host they run against.

mod arena;
mod budgets;
mod congruence;
mod doorbells;
mod drive;
mod errors;
mod host;
mod index;
mod keys;
mod maps;
mod memory;
mod policy;
mod property;
mod rig;
mod whole;
mod wire;
