// SPDX-License-Identifier: GPL-2.0

//! The PCI driver of companions: its device table, its probe, and the module's parameters as the
//! probe sees them.
//!
//! The work of a bound companion is [`Binding`]'s responsibility. A device ID belongs here, and so
//! does the conversion of a new parameter, which [`params`] checks.

pub(crate) mod params;

use self::params::{
    Params,
    RawParams, //
};
use crate::abstractions::pm;
use crate::bindings;
use crate::compat::{
    self,
    value,
    IdInfo, //
};
use crate::device::claims::Claims;
use crate::device::Binding;
use crate::module_parameters;
use kernel::{
    device::Core,
    driver::Registration,
    pci,
    prelude::*, //
};

/// The module's registrations with the PCI bus.
#[pin_data]
pub(crate) struct Registrations {
    #[pin]
    driver: Registration<pci::Adapter<CompanionDriver>>,
    /// Dropped after the driver, whose companions are entered here.
    #[pin]
    claims: Claims,
}

impl Registrations {
    /// Registers the driver, once everything that it needs is there.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            claims <- Claims::new(),
            driver <- Registration::new(c"apple_dma_pci", module),
        })
    }
}

/// The driver of companions.
struct CompanionDriver;

compat::pci_device_table!(
    PCI_TABLE,
    <CompanionDriver as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(pci::Vendor::REDHAT, bindings::APPLE_DMA_PCI_DEVICE_ID),
        ()
    )]
);

impl pci::Driver for CompanionDriver {
    type IdInfo = ();
    type Data<'bound> = Binding<'bound>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        dev: &'bound pci::Device<Core<'_>>,
        _info: IdInfo<'bound, Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        // The scope runs when the memory for the binding exists: nothing can fail after the binding
        // was made.
        pin_init::pin_init_scope(move || {
            // SAFETY: `dev` is being probed, and the driver's data is a `Binding`.
            unsafe { pm::install_pm_ops::<Binding<'bound>>(dev) };
            Ok(Binding::new(dev, &params()?))
        })
    }
}

/// Returns the value of a parameter that is text; empty if it is not set.
///
/// # Safety
///
/// `text` is null, or the value of a parameter.
unsafe fn text(text: *const kernel::ffi::c_char) -> &'static CStr {
    if text.is_null() {
        return c"";
    }
    // SAFETY: The parameter is text that ends with a zero, which stays as it is until the module is
    // unloaded.
    unsafe { CStr::from_char_ptr(text) }
}

/// Returns the checked parameters of the module; logs which one is wrong.
pub(crate) fn params() -> Result<Params> {
    Params::new(&RawParams {
        strict: value(&module_parameters::strict),
        whole_ram: value(&module_parameters::whole_ram),
        max_bytes: value(&module_parameters::max_bytes),
        max_entries: value(&module_parameters::max_entries),
        share_limits: value(&module_parameters::share_limits),
        max_idle: value(&module_parameters::max_idle),
        congruent: value(&module_parameters::congruent),
        max_batch: value(&module_parameters::max_batch),
        // SAFETY: This is the value of a parameter.
        copy: unsafe { text(bindings::apple_dma_param_copy()) },
        // SAFETY: Always safe to call.
        copy_bytes: unsafe { bindings::apple_dma_param_copy_bytes() },
        // SAFETY: This is the value of a parameter.
        managed: unsafe { text(bindings::apple_dma_param_managed()) },
    })
}
