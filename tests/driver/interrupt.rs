// SPDX-License-Identifier: GPL-2.0

//! Interrupt vectors of a PCI device, each with a completion to wait for.
//!
//! `kernel::pci` returns the first and the last vector of an allocation only, or ties the
//! allocation to the device's borrow, depending on the kernel; so this file allocates vectors and
//! requests lines by number.

use crate::compat::IRQ_HANDLED;
use crate::device::raw_pci;
use kernel::{
    bindings,
    device::Bound,
    error::to_result,
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    time::{
        msecs_to_jiffies,
        Msecs, //
    },
    types::Opaque, //
};

/// A completion that counts, can be waited for with a timeout, and is used over and over.
#[pin_data]
pub(crate) struct Signal {
    #[pin]
    inner: Opaque<bindings::completion>,
}

// SAFETY: A `struct completion` is not tied to a task.
unsafe impl Send for Signal {}

// SAFETY: A `struct completion` has its own lock.
unsafe impl Sync for Signal {}

impl Signal {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writing a `struct completion`.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// Wakes one waiter. Any context.
    fn complete(&self) {
        // SAFETY: `self.inner` was initialized by `Self::new`.
        unsafe { bindings::complete(self.inner.get()) };
    }

    /// Drops completions that were not waited for.
    pub(crate) fn drain(&self) {
        // SAFETY: `self.inner` was initialized by `Self::new`.
        while unsafe { bindings::try_wait_for_completion(self.inner.get()) } {}
    }

    /// Sleeps until completed; returns whether that happened before the timeout.
    pub(crate) fn wait(&self, timeout: Msecs) -> bool {
        // SAFETY: `self.inner` was initialized by `Self::new`.
        let left = unsafe {
            bindings::wait_for_completion_timeout(self.inner.get(), msecs_to_jiffies(timeout))
        };
        left != 0
    }
}

/// The allocated MSI-X vectors of a device.
///
/// # Invariants
///
/// The device's vectors are allocated.
pub(crate) struct Vectors(ARef<pci::Device>);

impl Vectors {
    /// Allocates `count` vectors.
    ///
    /// The value must be dropped before the device is unbound, and after all of its interrupts.
    pub(crate) fn new(pdev: &pci::Device<Bound>, count: u32) -> Result<Self> {
        // SAFETY: `raw_pci` returns a valid device; the function checks `count`.
        to_result(unsafe {
            bindings::pci_alloc_irq_vectors(raw_pci(pdev), count, count, bindings::PCI_IRQ_MSIX)
        })?;
        // INVARIANT: They were just allocated.
        Ok(Self(ARef::from(&**pdev)))
    }
}

impl Drop for Vectors {
    fn drop(&mut self) {
        // CAST: `pci::Device` is a transparent wrapper of the `struct pci_dev` it refers to.
        let pdev = core::ptr::from_ref::<pci::Device>(&self.0)
            .cast_mut()
            .cast();
        // SAFETY: The device is valid; by the type's invariant its vectors are allocated.
        unsafe { bindings::pci_free_irq_vectors(pdev) };
    }
}

/// A requested interrupt line.
///
/// # Invariants
///
/// A handler is installed for `irq`; its cookie is the address of the pointee of `signal`.
pub(crate) struct Interrupt {
    irq: u32,
    signal: Arc<Signal>,
}

impl Interrupt {
    /// Requests vector `vector` of `pdev`, whose vectors are allocated.
    ///
    /// The value must be dropped before the vectors are freed.
    pub(crate) fn new(pdev: &pci::Device<Bound>, vector: u32) -> Result<Self> {
        let signal = Arc::pin_init(Signal::new(), GFP_KERNEL)?;

        // SAFETY: `raw_pci` returns a valid device; the function checks `vector`.
        let irq = unsafe { bindings::pci_irq_vector(raw_pci(pdev), vector) };
        let irq = u32::try_from(irq).map_err(|_| Error::from_errno(irq))?;

        // SAFETY: `handler` has the right signature, its cookie outlives the handler: `signal`
        // goes into the value that this function returns, whose `Drop` removes the handler first.
        to_result(unsafe {
            bindings::request_irq(
                irq,
                Some(Self::handler),
                0,
                c"apple_dma_test".as_char_ptr(),
                Self::cookie(&signal),
            )
        })?;

        // INVARIANT: The handler was just installed, with this cookie.
        Ok(Self { irq, signal })
    }

    /// Returns the signal that the interrupt completes.
    pub(crate) fn signal(&self) -> &Signal {
        &self.signal
    }

    fn cookie(signal: &Arc<Signal>) -> *mut c_void {
        core::ptr::from_ref::<Signal>(signal).cast_mut().cast()
    }

    /// # Safety
    ///
    /// `cookie` must come from [`Self::cookie`] and the `Signal` be alive.
    unsafe extern "C" fn handler(_irq: c_int, cookie: *mut c_void) -> bindings::irqreturn_t {
        // SAFETY: By the function's contract.
        let signal = unsafe { &*cookie.cast_const().cast::<Signal>() };

        signal.complete();
        IRQ_HANDLED
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant, this line and cookie have a handler. The call waits for
        // the handlers that run.
        unsafe { bindings::free_irq(self.irq, Self::cookie(&self.signal)) };
    }
}
