// SPDX-License-Identifier: GPL-2.0

//! The differences between the kernel series that the modules can be built for; no other file
//! depends on a version. `kernel.mk` lists the series and configures `since_linux_*`.

// The module uses one part of this file, its test driver another.
#![allow(dead_code)]

use kernel::{
    bindings,
    dma::{
        Coherent,
        DmaAddress, //
    },
    module_param::{
        ModuleParam,
        ModuleParamAccess, //
    },
    pci, //
};

/// The data of the matching entry of the device table, as a PCI driver's probe receives it.
#[cfg(not(since_linux_7_3))]
pub(crate) type IdInfo<'a, T> = &'a T;
#[cfg(since_linux_7_3)]
pub(crate) type IdInfo<'a, T> = Option<&'a T>;

/// Defines the device table of a PCI driver from its name, the type of the data of an ID, and an
/// array of pairs of an ID and its data.
macro_rules! pci_device_table {
    ($table:ident, $info:ty, $entries:tt) => {
        #[cfg(not(since_linux_7_3))]
        ::kernel::pci_device_table!($table, MODULE_PCI_TABLE, $info, $entries);
        #[cfg(since_linux_7_3)]
        ::kernel::pci_device_table!($table, $info, $entries);
    };
}
pub(crate) use pci_device_table;

/// A mapped BAR, which is unmapped when its device is unbound at the latest.
#[cfg(not(since_linux_7_3))]
pub(crate) type DevresBar<const SIZE: usize> = kernel::devres::Devres<pci::Bar<'static, SIZE>>;
#[cfg(since_linux_7_3)]
pub(crate) type DevresBar<const SIZE: usize> = pci::DevresBar<SIZE>;

/// The return value of an interrupt handler whose device raised the interrupt.
#[cfg(not(since_linux_7_3))]
pub(crate) const IRQ_HANDLED: bindings::irqreturn_t = bindings::irqreturn_IRQ_HANDLED;
#[cfg(since_linux_7_3)]
pub(crate) const IRQ_HANDLED: bindings::irqreturn_t = bindings::irqreturn::IRQ_HANDLED;

/// The direction of a mapping that the device reads.
#[cfg(not(since_linux_7_3))]
pub(crate) const DMA_TO_DEVICE: bindings::dma_data_direction =
    bindings::dma_data_direction_DMA_TO_DEVICE;
#[cfg(since_linux_7_3)]
pub(crate) const DMA_TO_DEVICE: bindings::dma_data_direction =
    bindings::dma_data_direction::DMA_TO_DEVICE;

/// The direction of a mapping that the device writes.
#[cfg(not(since_linux_7_3))]
pub(crate) const DMA_FROM_DEVICE: bindings::dma_data_direction =
    bindings::dma_data_direction_DMA_FROM_DEVICE;
#[cfg(since_linux_7_3)]
pub(crate) const DMA_FROM_DEVICE: bindings::dma_data_direction =
    bindings::dma_data_direction::DMA_FROM_DEVICE;

/// Returns the DMA address of `words`.
pub(crate) fn dma_address(words: &Coherent<[u32]>) -> DmaAddress {
    #[cfg(not(since_linux_7_3))]
    return words.dma_handle();
    #[cfg(since_linux_7_3)]
    words.dma_address()
}

/// Returns the value of a module's parameter.
pub(crate) fn value<T: ModuleParam>(param: &ModuleParamAccess<T>) -> T {
    #[cfg(not(since_linux_7_3))]
    return *param.value();
    #[cfg(since_linux_7_3)]
    param.value()
}
