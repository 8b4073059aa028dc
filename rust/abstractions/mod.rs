// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of kernel APIs that the `kernel` crate lacks.

pub(crate) mod memory_notifier;
pub(crate) mod notifier;
pub(crate) mod pci_notifier;
pub(crate) mod periodic;
pub(crate) mod pm;
pub(crate) mod ram;
pub(crate) mod ratelimit;
pub(crate) mod raw;
pub(crate) mod raw_spinlock;
