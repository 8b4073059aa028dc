// SPDX-License-Identifier: GPL-2.0

//! A simulated Mac for testing `apple-dma-pci`: PCI devices behind a DART, served over vfio-user to
//! an unmodified QEMU.
//!
//! From the guest inwards: [`server`] speaks vfio-user and [`pci`] is configuration space. Behind
//! them is either a [`companion`], which requests mappings from the [`dart`], or a managed
//! [`device`]: an [`nvme`] controller, a DMA [`engine`] or an [`endpoint`], which accesses guest
//! memory only through its [`bus`] and the DART. Devices of QEMU can be managed too: [`vtd`] has
//! the DART's mappings then. [`mac`] assembles the machine.

#![warn(missing_docs)]

pub mod addr;
pub mod bus;
pub mod cli;
pub mod companion;
pub mod control;
pub mod cost;
pub mod dart;
pub mod device;
pub mod endpoint;
pub mod engine;
pub mod hostile;
pub mod iova;
pub mod irq;
pub mod mac;
pub mod memory;
pub mod nvme;
pub mod pci;
pub mod server;
pub mod stats;
pub mod sync;
pub mod vtd;
pub mod wire;
