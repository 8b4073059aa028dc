// SPDX-License-Identifier: GPL-2.0

//! What differs between the kernels that the modules can be built for: nothing else depends on a
//! version. `kernel.mk` says which there are, and configures `since_linux_*`.

// The module uses a part of it, its test driver another.
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

/// What a PCI driver's probe is told of the entry of its table that the device fits.
#[cfg(not(since_linux_7_3))]
pub(crate) type IdInfo<'a, T> = &'a T;
#[cfg(since_linux_7_3)]
pub(crate) type IdInfo<'a, T> = Option<&'a T>;

/// Makes the table of a PCI driver: its name, the type that goes with every ID, and an array of
/// pairs of both.
macro_rules! pci_device_table {
    ($table:ident, $info:ty, $entries:tt) => {
        #[cfg(not(since_linux_7_3))]
        ::kernel::pci_device_table!($table, MODULE_PCI_TABLE, $info, $entries);
        #[cfg(since_linux_7_3)]
        ::kernel::pci_device_table!($table, $info, $entries);
    };
}
pub(crate) use pci_device_table;

/// A mapped BAR that goes when its device is unbound, at the latest.
#[cfg(not(since_linux_7_3))]
pub(crate) type DevresBar<const SIZE: usize> = kernel::devres::Devres<pci::Bar<'static, SIZE>>;
#[cfg(since_linux_7_3)]
pub(crate) type DevresBar<const SIZE: usize> = pci::DevresBar<SIZE>;

/// What the handler of an interrupt returns that was its.
#[cfg(not(since_linux_7_3))]
pub(crate) const IRQ_HANDLED: bindings::irqreturn_t = bindings::irqreturn_IRQ_HANDLED;
#[cfg(since_linux_7_3)]
pub(crate) const IRQ_HANDLED: bindings::irqreturn_t = bindings::irqreturn::IRQ_HANDLED;

/// Where a device finds `words`.
pub(crate) fn dma_address(words: &Coherent<[u32]>) -> DmaAddress {
    #[cfg(not(since_linux_7_3))]
    return words.dma_handle();
    #[cfg(since_linux_7_3)]
    words.dma_address()
}

/// The value of a module's parameter.
pub(crate) fn value<T: ModuleParam>(param: &ModuleParamAccess<T>) -> T {
    #[cfg(not(since_linux_7_3))]
    return *param.value();
    #[cfg(since_linux_7_3)]
    param.value()
}
