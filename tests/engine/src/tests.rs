// SPDX-License-Identifier: GPL-2.0

//! Tests of the pure parts, one topic per file, and the model host that they run against.

mod admission;
mod alignment;
mod arena;
mod budgets;
mod copy;
mod copy_wait;
mod costs;
mod crash;
mod doorbells;
mod drive;
mod errors;
mod granule_map;
mod host;
mod index;
mod keys;
mod large_pages;
mod limits;
mod lists;
mod memory;
mod policy;
mod pressure;
mod property;
mod release;
mod rig;
mod static_map;
mod trace;
mod wire;
