// SPDX-License-Identifier: GPL-2.0

//! Tracepoints, and the files in debugfs and sysfs.

pub(crate) mod files;
pub(crate) mod trace;
