// SPDX-License-Identifier: GPL-2.0

//! Observability: tracepoints, and the files of a companion in debugfs and sysfs.
//!
//! Each is a thin layer of C for what needs the kernel's macros, and a safe wrapper of it. The
//! folder uses types of the engine and of the host that have names to print, and decides nothing:
//! counters are kept where things happen, and the lines of the files are written by
//! `device/show.rs`.
//!
//! A new event belongs in `apple_dma_events.h` and `trace`, a new file in `files`. All names here
//! are documented in `docs/ABI/testing/`.

pub(crate) mod files;
pub(crate) mod trace;
