// SPDX-License-Identifier: GPL-2.0

//! The layout of RAM: what the kernel's resource tree lists as system RAM, and is online.
//!
//! C header: [`include/linux/ioport.h`](srctree/include/linux/ioport.h)

use crate::addr::{
    Address,
    GpaSpan, //
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

/// Returns the blocks of RAM that are online now.
///
/// Context: process, may sleep.
pub(crate) fn system_ram() -> Result<Ram> {
    let mut blocks = Blocks(KVec::new());
    // CAST: Constants that fit into a `long`.
    let desc = kernel::bindings::IORES_DESC_NONE as c_ulong;
    let flags =
        (kernel::bindings::IORESOURCE_SYSTEM_RAM | kernel::bindings::IORESOURCE_BUSY) as c_ulong;
    // SAFETY: `add` is called with resources, and with `blocks`, which is borrowed for the call
    // alone.
    let ret = unsafe {
        kernel::bindings::walk_iomem_res_desc(
            desc,
            flags,
            0,
            u64::MAX,
            (&raw mut blocks).cast(),
            Some(add),
        )
    };
    kernel::error::to_result(ret)?;
    let Blocks(blocks) = blocks;
    let fill = blocks.first().copied().ok_or(ENODEV)?;
    let slab = BoxedSlice::new(blocks.len(), Alloc::Sleep, |index| {
        blocks.get(index).copied().unwrap_or(fill)
    })?;
    Ok(Ram::new(slab))
}
