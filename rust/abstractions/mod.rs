// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of kernel interfaces that the `kernel` crate lacks: candidates for upstream.
//!
//! A wrapper knows nothing of companions, of the engine or of the host. Exceptions are `ram`, which
//! returns the engine's layout of RAM, `pool_memory`, which accesses memory for it, and the address
//! types. All unsafe code for an interface is
//! in its wrapper. A C macro or inline function that Rust needs gets a function in `helpers.c`;
//! `deferred_free.c` is in C since it uses the freed memory itself as its list.

pub(crate) mod coherent_pool;
pub(crate) mod memory_notifier;
pub(crate) mod notifier;
pub(crate) mod panic_notifier;
pub(crate) mod pci_notifier;
pub(crate) mod periodic;
pub(crate) mod pm;
pub(crate) mod pool_memory;
pub(crate) mod ram;
pub(crate) mod ratelimit;
pub(crate) mod raw;
pub(crate) mod raw_spinlock;
