// SPDX-License-Identifier: GPL-2.0

//! `share`, `shared_checksum`, `shared_fill`, `unshare`: coherent memory that outlives a command,
//! so that processes map it and access it themselves, and the engine verifies their accesses.

use crate::bindings as helpers;
use crate::coherent::Coherent;
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
use crate::pattern::Pattern;
use crate::spec::Spec;
use core::ptr::NonNull;
use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    error::to_result,
    pci,
    prelude::*,
    str::CString, //
};

/// Coherent memory with a file by which processes map it.
///
/// Dropping it waits until no process has it mapped.
///
/// # Invariants
///
/// `file` was made by `dma_test_share` for `memory`; this value owns the reference to it.
pub(crate) struct Share {
    file: NonNull<bindings::file>,
    memory: Coherent<'static>,
}

// SAFETY: Neither files nor memory belong to a thread.
unsafe impl Send for Share {}

impl Share {
    /// Allocates the memory. May sleep.
    ///
    /// # Safety
    ///
    /// The value must be dropped before `dev` loses its driver.
    unsafe fn new(dev: &Device<Bound>, spec: &Spec) -> Result<Self, Failure> {
        // SAFETY: By the function's contract, the device exists and is bound as long as the value.
        let dev: &'static Device<Bound> = unsafe { &*core::ptr::from_ref(dev) };
        let memory = Coherent::new(dev, spec.len.high, bindings::GFP_KERNEL, spec.attrs)?;
        let file = memory.file().doing("making a file")?;

        // INVARIANT: Just made.
        Ok(Self { file, memory })
    }

    /// Returns a descriptor of the file, for the calling process.
    fn descriptor(&self) -> Result<c_int, Failure> {
        // SAFETY: By the type's invariant, this is such a file.
        let fd = unsafe { helpers::dma_test_share_fd(self.file.as_ptr()) };

        to_result(fd.min(0)).doing("making a file descriptor")?;
        Ok(fd)
    }

    fn is_mapped(&self) -> bool {
        // SAFETY: By the type's invariant, this is such a file.
        unsafe { helpers::dma_test_share_is_mapped(self.file.as_ptr()) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant, this is such a file, and this value owns the reference.
        // The memory is freed afterwards.
        unsafe { helpers::dma_test_unshare(self.file.as_ptr()) };
    }
}

/// Shares new memory, in place of the memory shared so far, and prints the descriptor.
///
/// # Safety
///
/// `kept` must be dropped before `pdev` loses its driver.
pub(crate) unsafe fn share(
    pdev: &pci::Device<Bound>,
    _: &Engine,
    kept: &mut Kept,
    spec: &Spec,
) -> Verdict {
    let put = |share: &mut Option<Share>| {
        remove(share)?;
        // SAFETY: By the function's contract.
        let new = unsafe { Share::new(pdev.as_ref(), spec)? };
        let fd = new.descriptor()?;

        *share = Some(new);
        CString::try_from_fmt(fmt!(" fd={fd}")).doing("writing the verdict")
    };
    put(&mut kept.share).map(Some).map_err(Report::of_command)
}

/// Ends sharing, unless a process has the memory mapped.
pub(crate) fn unshare(_: &pci::Device<Bound>, _: &Engine, kept: &mut Kept, _: &Spec) -> Verdict {
    remove(&mut kept.share)
        .map(|()| None)
        .map_err(Report::of_command)
}

fn remove(share: &mut Option<Share>) -> Result<(), Failure> {
    if share.as_ref().is_some_and(Share::is_mapped) {
        return Err(Failure::call("taking back what is mapped", EBUSY));
    }
    *share = None;
    Ok(())
}

/// Lets the engine read, and compares with the pattern of the command's seed.
pub(crate) fn checksum(
    pdev: &pci::Device<Bound>,
    engine: &Engine,
    kept: &mut Kept,
    spec: &Spec,
) -> Verdict {
    operate(pdev, engine, &kept.share, |channel, memory| {
        let expected = Pattern::new(spec.seed).crc32(0, memory.len());

        channel.checksum(memory.iova(), memory.len(), expected)
    })
}

/// Lets the engine write that pattern.
pub(crate) fn fill(
    pdev: &pci::Device<Bound>,
    engine: &Engine,
    kept: &mut Kept,
    spec: &Spec,
) -> Verdict {
    operate(pdev, engine, &kept.share, |channel, memory| {
        channel.fill(memory.iova(), memory.len(), Pattern::new(spec.seed))
    })
}

fn operate(
    pdev: &pci::Device<Bound>,
    engine: &Engine,
    share: &Option<Share>,
    operation: impl FnOnce(&mut Channel<'_>, &Coherent<'_>) -> Result<(), Failure>,
) -> Verdict {
    let memory = share.as_ref().map(|share| &share.memory);

    memory
        .ok_or(ENOENT)
        .doing("looking for what is shared")
        .and_then(|memory| operation(&mut engine.claim(pdev)?, memory))
        .map(|()| None)
        .map_err(Report::of_command)
}
