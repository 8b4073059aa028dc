// SPDX-License-Identifier: GPL-2.0

//! `mirror`, `mirror_checksum`, `mirror_fill`, `mirror_release`: memory of processes, used by the
//! engine where it is, as drivers of accelerators do (HMM). What the engine needs is mapped in both
//! directions, without synchronization, and stays mapped until the kernel invalidates it, as when
//! it moves a page, or shares it with a child.

use crate::bindings as helpers;
use crate::device::raw;
use crate::engine::{
    Channel,
    Engine,
    Iova, //
};
use crate::exchange::Segment;
use crate::exercise::{
    Report,
    Verdict, //
};
use crate::failure::{
    Doing,
    Failure, //
};
use crate::kept::Kept;
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
    error::{
        from_err_ptr,
        to_result, //
    },
    pci,
    prelude::*,
    str::CString, //
};

/// Memory of a process, for the engine.
///
/// # Invariants
///
/// `mirror` was made by `dma_test_mirror`; this value owns it.
pub(crate) struct Mirror {
    mirror: NonNull<helpers::dma_test_mirror>,
}

// SAFETY: Mirrors do not belong to a thread.
unsafe impl Send for Mirror {}

impl Mirror {
    /// Mirrors the `len` bytes at `address` of the calling process. May sleep.
    ///
    /// # Safety
    ///
    /// The value must be dropped before `dev` loses its driver.
    unsafe fn new(dev: &Device<Bound>, address: usize, len: usize) -> Result<Self, Failure> {
        // SAFETY: `dev` is bound, and by the function's contract as long as the value, which ends
        // the mirror.
        let mirror = unsafe { helpers::dma_test_mirror(raw(dev), address as c_ulong, len) };
        let mirror = from_err_ptr(mirror).doing("mirroring memory")?;

        // INVARIANT: Just made.
        Ok(Self {
            mirror: NonNull::new(mirror)
                .ok_or(ENOMEM)
                .doing("mirroring memory")?,
        })
    }

    /// Maps all of the memory. May sleep.
    fn hold(&mut self) -> Result<Held<'_>, Failure> {
        // SAFETY: By the type's invariant. The reference is exclusive, so nothing else holds it.
        to_result(unsafe { helpers::dma_test_mirror_begin(self.mirror.as_ptr()) })
            .map_err(|error| Failure::refused("mapping memory of a process", error))?;

        // INVARIANT: Begun.
        Ok(Held { mirror: self })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant; it is not used afterwards.
        unsafe { helpers::dma_test_mirror_release(self.mirror.as_ptr()) };
    }
}

/// Memory of a process that is mapped, and stays so until this is dropped, which must be soon: the
/// kernel waits to invalidate pages. Nothing may allocate memory meanwhile.
///
/// # Invariants
///
/// `dma_test_mirror_begin` succeeded for `mirror`, and nothing else ends that.
struct Held<'a> {
    mirror: &'a mut Mirror,
}

impl Held<'_> {
    /// Returns the parts of the memory that are contiguous for the device.
    fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        let mut next = 0_usize;

        core::iter::from_fn(move || {
            let (offset, mut iova) = (next, 0);
            // SAFETY: By the type's invariant.
            let len = unsafe {
                helpers::dma_test_mirror_segment(self.mirror.mirror.as_ptr(), offset, &mut iova)
            };

            next = offset.checked_add(len)?;
            (len != 0).then_some(Part {
                offset,
                segment: Segment {
                    iova: Iova::new(iova),
                    len,
                },
            })
        })
    }

    /// Returns the number of pages that were unmapped so far, as the kernel invalidated them.
    fn unmapped(&self) -> u64 {
        // SAFETY: By the type's invariant.
        unsafe { helpers::dma_test_mirror_unmapped(self.mirror.mirror.as_ptr()) }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant.
        unsafe { helpers::dma_test_mirror_end(self.mirror.mirror.as_ptr()) };
    }
}

/// Mirrors memory of the process that writes the command.
///
/// # Safety
///
/// `kept` must be dropped before `pdev` loses its driver.
pub(crate) unsafe fn mirror(
    pdev: &pci::Device<Bound>,
    _: &Engine,
    kept: &mut Kept,
    spec: &Spec,
) -> Verdict {
    let put = |kept: &mut Kept| {
        if kept.mirror.is_some() {
            return Err(EBUSY).doing("looking for a place");
        }
        // SAFETY: By the function's contract.
        kept.mirror = Some(unsafe { Mirror::new(pdev.as_ref(), spec.address, spec.len.high)? });
        Ok(None)
    };
    put(kept).map_err(Report::of_command)
}

/// Lets the engine read that memory, and compares it with the pattern of the command's seed.
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

/// Ends the mirror.
pub(crate) fn release(_: &pci::Device<Bound>, _: &Engine, kept: &mut Kept, _: &Spec) -> Verdict {
    let mirror = kept.mirror.take().ok_or(ENOENT);

    mirror
        .doing("looking for the mirror")
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
    let mut run = || {
        let mirror = kept.mirror.as_mut().ok_or(ENOENT);
        let mirror = mirror.doing("looking for the mirror")?;
        let mut channel = engine.claim(pdev)?;
        let held = mirror.hold()?;

        for part in held.parts() {
            operation(&mut channel, part, spec.seed)?;
        }
        let (segments, unmapped) = (held.parts().count(), held.unmapped());
        drop(held);
        CString::try_from_fmt(fmt!(" segments={segments} unmapped={unmapped}"))
            .map(Some)
            .doing("writing the verdict")
    };
    run().map_err(Report::of_command)
}
