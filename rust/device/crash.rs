// SPDX-License-Identifier: GPL-2.0

//! The end of a managed device's DMA when the kernel panics and reboots: the device is stopped, and
//! what it could reach is unmapped, so that the next kernel finds nothing.
//!
//! All other CPUs have stopped, so nothing here waits for a lock, and what cannot be done without
//! one is left undone. A kernel for crash dumps is started before this; it stops the device itself.

use super::bdf::ManagedFunction;
use super::Instance;
use crate::abstractions::panic_notifier::PanicEvents;
use crate::abstractions::raw;
use crate::sys::Stopwatch;
use kernel::{
    bindings,
    ffi::c_int,
    prelude::*,
    processor::cpu_relax,
    sync::Arc, //
};

/// The time in milliseconds for which windows are unmapped: enough for all of 256 KiB within the
/// default limits, if the host takes a millisecond for each.
const UNMAP_MS: u64 = 10_000;

/// The time in milliseconds for which transactions may be pending, as in
/// `pci_wait_for_pending_transaction()`.
const PENDING_MS: u64 = 1500;

impl PanicEvents for Arc<Instance<'_>> {
    fn crashing(&self) {
        if !self.notices.is_idle() || !self.managed.stop_dma_in_crash() {
            return;
        }
        self.close_pool();
        if self.engine.release_in_crash(UNMAP_MS) {
            dev_info!(
                self.dev,
                "{}: unmapped everything after a panic\n",
                self.managed
            );
        }
    }
}

impl ManagedFunction<'_> {
    /// Stops the DMA of the device, if there is one. Returns whether no DMA is under way any more.
    ///
    /// Context: a panic.
    fn stop_dma_in_crash(&self) -> bool {
        let Some(config) = Config::of(self) else {
            return false;
        };
        match config.read(COMMAND, 2) {
            None => return false,
            // A device that is not there does no DMA.
            Some(0xffff) => return true,
            Some(command) => {
                config.write(COMMAND, 2, command & !bindings::PCI_COMMAND_MASTER);
            }
        }
        let time = Stopwatch::start();
        while config.has_pending_transactions() {
            if time.elapsed_ms() > PENDING_MS {
                return false;
            }
            cpu_relax();
        }
        true
    }
}

/// The configuration space of a managed function on its companion's bus. Accesses are the bus's
/// own, without the kernel's lock, which a stopped CPU may hold.
struct Config {
    bus: *mut bindings::pci_bus,
    devfn: u32,
}

// CAST: Offsets are small.
const COMMAND: c_int = bindings::PCI_COMMAND as c_int;
const STATUS: c_int = bindings::PCI_STATUS as c_int;
const CAPABILITY_LIST: c_int = bindings::PCI_CAPABILITY_LIST as c_int;
const DEVSTA: c_int = bindings::PCI_EXP_DEVSTA as c_int;

/// Most capabilities of a function, each of at least four bytes.
const CAPABILITIES: usize = 48;

impl Config {
    /// Returns the configuration space of `function`; [`None`] if that is on another bus than its
    /// companion.
    fn of(function: &ManagedFunction<'_>) -> Option<Self> {
        let companion = raw::pci_dev(function.companion());
        // SAFETY: The companion is bound, so it and its bus are valid.
        let bus = unsafe { (*companion).bus };
        let devfn = function.devfn_on_bus_of_companion()?;
        Some(Self {
            bus,
            devfn: devfn.into(),
        })
    }

    /// Reads `size` bytes at `offset`: ones if there is no device; [`None`] if reading failed.
    fn read(&self, offset: c_int, size: c_int) -> Option<u32> {
        let mut value = u32::MAX;
        // SAFETY: The bus is valid, and so are its operations. No other CPU runs.
        let status =
            unsafe { (*(*self.bus).ops).read?(self.bus, self.devfn, offset, size, &mut value) };
        (status == 0).then_some(value)
    }

    /// Writes `size` bytes at `offset`.
    fn write(&self, offset: c_int, size: c_int, value: u32) {
        // SAFETY: The bus is valid, and so are its operations. No other CPU runs.
        unsafe {
            if let Some(write) = (*(*self.bus).ops).write {
                write(self.bus, self.devfn, offset, size, value);
            }
        }
    }

    /// Returns whether the function waits for completions. One that is not PCI Express does not
    /// tell; the read has then waited for the write before it.
    fn has_pending_transactions(&self) -> bool {
        self.express()
            .and_then(|at| self.read(at.checked_add(DEVSTA)?, 2))
            .is_some_and(|status| status & bindings::PCI_EXP_DEVSTA_TRPND != 0)
    }

    /// Returns the offset of the PCI Express capability.
    fn express(&self) -> Option<c_int> {
        let has_list = self.read(STATUS, 2)? & bindings::PCI_STATUS_CAP_LIST != 0;
        let mut at = self.read(CAPABILITY_LIST, 1).filter(|_| has_list)? & !3;
        for _ in 0..CAPABILITIES {
            // CAST: Both are a byte.
            let offset = at as c_int;
            let header = self.read(offset, 2).filter(|_| at >= 0x40)?;
            if header & 0xff == bindings::PCI_CAP_ID_EXP {
                return Some(offset);
            }
            at = header >> 8 & !3;
        }
        None
    }
}
