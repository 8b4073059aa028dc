// SPDX-License-Identifier: GPL-2.0

//! Scatterlists of whole pages that the kernel makes, and streaming mappings of them.

use crate::buffer::Buffer;
use crate::device::raw;
use crate::exchange::Segment;
use crate::failure::{
    Doing,
    Failure, //
};
use crate::scatterlist::{
    map,
    segments,
    Function,
    Request, //
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::DataDirection,
    error::to_result,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Pages in a list of the kernel's making, which has one entry for pages that are neighbours. They
/// are mapped until it is dropped.
///
/// # Invariants
///
/// `table` was made by `sg_alloc_table_from_pages_segment` of pages that stay for `'a`. It is
/// mapped for `dev` in `direction`.
pub(crate) struct Table<'a> {
    dev: &'a Device<Bound>,
    table: bindings::sg_table,
    direction: DataDirection,
    _buffers: PhantomData<&'a [Buffer]>,
}

impl<'a> Table<'a> {
    /// Lists the pages of `buffers`, and maps them for `dev` by `dma_map_sg_attrs`. May sleep.
    pub(crate) fn new(
        dev: &'a Device<Bound>,
        buffers: &'a [Buffer],
        direction: DataDirection,
    ) -> Result<Self, Failure> {
        let mut table = table_of(buffers).doing("listing the pages")?;
        let request = Request {
            function: Function::Sg,
            direction,
            attrs: 0,
        };

        if let Err(failure) = map(dev, &mut table, request) {
            // SAFETY: The table was made, and is not mapped.
            unsafe { bindings::sg_free_table(&mut table) };
            return Err(failure);
        }
        // INVARIANT: The table was just made of pages of `buffers`, and mapped.
        Ok(Self {
            dev,
            table,
            direction,
            _buffers: PhantomData,
        })
    }

    /// Returns the segments as the device sees them.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        // SAFETY: By the type's invariant.
        unsafe { segments(&self.table) }
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant, the entries are mapped, by the function of lists, and
        // the table is not used afterwards.
        unsafe {
            bindings::dma_unmap_sg_attrs(
                raw(self.dev),
                self.table.sgl,
                self.table.orig_nents as c_int,
                self.direction.into(),
                0,
            );
            bindings::sg_free_table(&mut self.table);
        }
    }
}

/// Returns a table of the pages of `buffers`. May sleep.
fn table_of(buffers: &[Buffer]) -> Result<bindings::sg_table> {
    let mut table = bindings::sg_table::default();
    let mut pages = KVVec::new();

    for buffer in buffers {
        for offset in (0..buffer.len()).step_by(PAGE_SIZE) {
            pages.push(buffer.page(offset)?.0, GFP_KERNEL)?;
        }
    }
    let len = pages.len().checked_mul(PAGE_SIZE).ok_or(EOVERFLOW)?;
    // SAFETY: The table is valid for writing, and these are as many pages. The function does not
    // keep the array.
    to_result(unsafe {
        bindings::sg_alloc_table_from_pages_segment(
            &mut table,
            pages.as_mut_ptr(),
            u32::try_from(pages.len())?,
            0,
            len as c_ulong,
            u32::MAX,
            bindings::GFP_KERNEL,
        )
    })?;
    Ok(table)
}
