// SPDX-License-Identifier: GPL-2.0

//! `import`, `import_checksum`, `import_fill`, `import_release`: buffers of other drivers
//! (dma-buf), imported as a driver of a display does: mapped in both directions for as long as
//! they are imported, and never synchronized by the importer.

use crate::bindings as helpers;
use crate::device::raw;
use crate::engine::{
    Channel,
    Engine, //
};
use crate::exercise::{
    Report,
    Verdict, //
};
use crate::failure::{
    Doing,
    Failure, //
};
use crate::kept::Kept;
use crate::scatterlist;
use crate::seeded::{
    self,
    Part, //
};
use crate::spec::Spec;
use core::ptr::NonNull;
use kernel::{
    device::{
        Bound,
        Device, //
    },
    error::from_err_ptr,
    pci,
    prelude::*,
    str::CString, //
};

/// A buffer of another driver, mapped for the engine.
///
/// # Invariants
///
/// `import` was made by `dma_test_import`; this value owns it.
pub(crate) struct Import {
    import: NonNull<helpers::dma_test_import>,
}

// SAFETY: Neither buffers nor their attachments belong to a thread.
unsafe impl Send for Import {}

impl Import {
    /// Imports the buffer of a file descriptor of the calling process. May sleep.
    ///
    /// # Safety
    ///
    /// The value must be dropped before `dev` loses its driver.
    unsafe fn new(dev: &Device<Bound>, fd: c_int) -> Result<Self, Failure> {
        // SAFETY: `dev` is bound, and by the function's contract as long as the value, which ends
        // the import.
        let import = from_err_ptr(unsafe { helpers::dma_test_import(raw(dev), fd) })
            .map_err(|error| Failure::refused("importing a buffer", error))?;
        let import = NonNull::new(import).ok_or(ENOMEM);

        // INVARIANT: Just made.
        Ok(Self {
            import: import.doing("importing a buffer")?,
        })
    }

    /// Returns the parts of the buffer that are contiguous for the device.
    fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        // SAFETY: By the type's invariant, the table is there, and mapped, as long as the value.
        let segments = unsafe {
            scatterlist::segments(&*helpers::dma_test_import_table(self.import.as_ptr()))
        };

        segments.scan(0usize, |next, segment| {
            let offset = *next;
            *next = offset.checked_add(segment.len)?;
            Some(Part { offset, segment })
        })
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant; the buffer is not used through this afterwards.
        unsafe { helpers::dma_test_import_release(self.import.as_ptr()) };
    }
}

/// Imports the buffer of a descriptor, and prints its number and its segments.
///
/// # Safety
///
/// `kept` must be dropped before `pdev` loses its driver.
pub(crate) unsafe fn import(
    pdev: &pci::Device<Bound>,
    _: &Engine,
    kept: &mut Kept,
    spec: &Spec,
) -> Verdict {
    let put = |kept: &mut Kept| {
        let mut places = kept.imports.iter_mut().enumerate();
        let place = places.find(|(_, place)| place.is_none());
        let (number, place) = place.ok_or(ENOSPC).doing("looking for a place")?;
        // SAFETY: By the function's contract.
        let import = unsafe { Import::new(pdev.as_ref(), spec.fd)? };
        let segments = import.parts().count();
        let bytes: usize = import.parts().map(|part| part.segment.len).sum();

        *place = Some(import);
        CString::try_from_fmt(fmt!(" import={number} bytes={bytes} segments={segments}"))
            .doing("writing the verdict")
    };
    put(kept).map(Some).map_err(Report::of_command)
}

/// Lets the engine read a buffer, and compares it with the pattern of the command's seed.
pub(crate) fn checksum(
    pdev: &pci::Device<Bound>,
    engine: &Engine,
    kept: &mut Kept,
    spec: &Spec,
) -> Verdict {
    operate(pdev, engine, kept, spec, seeded::checksum)
}

/// Lets the engine write that pattern.
pub(crate) fn fill(
    pdev: &pci::Device<Bound>,
    engine: &Engine,
    kept: &mut Kept,
    spec: &Spec,
) -> Verdict {
    operate(pdev, engine, kept, spec, seeded::fill)
}

/// Ends an import.
pub(crate) fn release(_: &pci::Device<Bound>, _: &Engine, kept: &mut Kept, spec: &Spec) -> Verdict {
    let place = kept.imports.get_mut(spec.import);
    let import = place.and_then(Option::take);

    import
        .ok_or(ENOENT)
        .doing("looking for the import")
        .map(|_| None)
        .map_err(Report::of_command)
}

fn operate(
    pdev: &pci::Device<Bound>,
    engine: &Engine,
    kept: &mut Kept,
    spec: &Spec,
    operation: fn(&mut Channel<'_>, Part, u64) -> Result<(), Failure>,
) -> Verdict {
    let run = || {
        let import = kept.imports.get(spec.import).and_then(Option::as_ref);
        let import = import.ok_or(ENOENT).doing("looking for the import")?;
        let mut channel = engine.claim(pdev)?;

        for part in import.parts() {
            operation(&mut channel, part, spec.seed)?;
        }
        Ok(None)
    };
    run().map_err(Report::of_command)
}
