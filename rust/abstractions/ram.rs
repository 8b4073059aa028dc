// SPDX-License-Identifier: GPL-2.0

//! The layout of RAM: what the kernel's resource tree lists as system RAM, and is online.
//!
//! C header: [`include/linux/ioport.h`](srctree/include/linux/ioport.h)

use crate::addr::{
    Address,
    GpaSpan,
    GRANULE, //
};
use crate::bindings;
use crate::engine::ram::Ram;
use crate::sys::{
    Alloc,
    BoxedSlice, //
};
use kernel::{
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*, //
};

/// The blocks of RAM that a walk has found so far, in ascending order, none touching the next.
struct Blocks(KVec<GpaSpan>);

impl Blocks {
    /// Adds a block after the others; joins it with the last one if they touch.
    fn push(&mut self, block: GpaSpan) -> Result {
        if let Some(last) = self.0.as_mut_slice().last_mut() {
            if last.end() == block.start().raw() {
                *last = GpaSpan::from_bounds(last.start().raw(), block.end()).ok_or(EINVAL)?;
                return Ok(());
            }
        }
        Ok(self.0.push(block, GFP_KERNEL)?)
    }

    /// Adds the sections of `span` that are online.
    fn push_online(&mut self, span: &GpaSpan) -> Result {
        // SAFETY: Always safe to call.
        let section = match unsafe { bindings::apple_dma_helper_memory_section_size() } {
            0 => return self.push(*span),
            size => size,
        };
        let mut start = span.start().raw();
        while start < span.end() {
            let end = start
                .checked_add(1)
                .and_then(|next| next.checked_next_multiple_of(section))
                .unwrap_or(u64::MAX)
                .min(span.end());
            // SAFETY: Any address is valid.
            if unsafe { bindings::apple_dma_helper_is_online(start) } {
                self.push(GpaSpan::from_bounds(start, end).ok_or(EINVAL)?)?;
            }
            start = end;
        }
        Ok(())
    }
}

/// Adds a range of RAM to `blocks`. The walk calls this in ascending order of addresses, and ends
/// with the first error.
///
/// # Safety
///
/// `res` must point to a resource, and `blocks` to a [`Blocks`] that is not used otherwise, for the
/// duration of the call.
unsafe extern "C" fn add(res: *mut kernel::bindings::resource, blocks: *mut c_void) -> c_int {
    // SAFETY: By the safety requirements.
    let (res, blocks) = unsafe { (&*res, &mut *blocks.cast::<Blocks>()) };
    let span = res
        .end
        .checked_add(1)
        .and_then(|end| GpaSpan::from_bounds(res.start, end));
    match span.map_or(Err(EINVAL), |span| blocks.push_online(&span)) {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// Stores the start of a range of RAM in `start`, and ends the walk, if the range has two whole
/// granules.
///
/// # Safety
///
/// `res` must point to a resource, and `start` to a `u64` that is not used otherwise, for the
/// duration of the call.
unsafe extern "C" fn find(res: *mut kernel::bindings::resource, start: *mut c_void) -> c_int {
    // SAFETY: By the safety requirements.
    let (res, start) = unsafe { (&*res, &mut *start.cast::<u64>()) };
    let end = res
        .start
        .checked_next_multiple_of(GRANULE)
        .and_then(|whole| whole.checked_add(2 * GRANULE));
    // The end of a resource is its last address.
    if end.is_some_and(|end| end <= res.end) {
        *start = res.start;
        return 1;
    }
    0
}

/// Returns the start of the first block of RAM with two whole granules, online or not: every kernel
/// that all of this RAM belongs to returns the same.
///
/// Context: process, may sleep.
pub(crate) fn first_block() -> Result<u64> {
    let mut start = 0u64;
    // SAFETY: `find` is called with resources, and with `start`, which is borrowed for the call
    // alone.
    let ret = unsafe { walk(find, (&raw mut start).cast()) };
    if kernel::error::to_result(ret).is_ok() && ret == 1 {
        Ok(start)
    } else {
        Err(ENODEV)
    }
}

/// Returns whether this kernel is one for crash dumps, which has its own RAM beside that of the
/// kernel that crashed.
///
/// Context: any.
pub(crate) fn is_crash_kernel() -> bool {
    // SAFETY: Always safe to call.
    unsafe { bindings::apple_dma_helper_is_crash_kernel() }
}

/// Calls `visit` for each range of RAM, in ascending order, until it does not return 0. Returns the
/// last value that it returned, or an error if there is no RAM.
///
/// # Safety
///
/// `visit` must be safe to call with a resource and `argument`.
unsafe fn walk(
    visit: unsafe extern "C" fn(*mut kernel::bindings::resource, *mut c_void) -> c_int,
    argument: *mut c_void,
) -> c_int {
    // CAST: Constants that fit into a `long`.
    let desc = kernel::bindings::IORES_DESC_NONE as c_ulong;
    let flags =
        (kernel::bindings::IORESOURCE_SYSTEM_RAM | kernel::bindings::IORESOURCE_BUSY) as c_ulong;
    // SAFETY: By the safety requirements.
    unsafe {
        kernel::bindings::walk_iomem_res_desc(desc, flags, 0, u64::MAX, argument, Some(visit))
    }
}

/// Returns the blocks of RAM that are online now.
///
/// Context: process, may sleep.
pub(crate) fn system_ram() -> Result<Ram> {
    let mut blocks = Blocks(KVec::new());
    // SAFETY: `add` is called with resources, and with `blocks`, which is borrowed for the call
    // alone.
    let ret = unsafe { walk(add, (&raw mut blocks).cast()) };
    kernel::error::to_result(ret)?;
    let Blocks(blocks) = blocks;
    let fill = blocks.first().copied().ok_or(ENODEV)?;
    let slab = BoxedSlice::new(blocks.len(), Alloc::Sleep, |index| {
        blocks.get(index).copied().unwrap_or(fill)
    })?;
    Ok(Ram::new(slab))
}
