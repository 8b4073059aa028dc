// SPDX-License-Identifier: GPL-2.0

//! Scatterlists, and streaming mappings of them.
//!
//! `kernel::scatterlist` maps the pages of a vector; here the entries start and end anywhere.

use crate::bindings as helpers;
use crate::buffer::Buffer;
use crate::coherent::Export;
use crate::device::raw;
use crate::engine::Iova;
use crate::exchange::Segment;
use crate::failure::{
    Doing,
    Failure, //
};
use crate::mapping::{
    self,
    Attrs, //
};
use crate::span::Span;
use core::{
    marker::PhantomData,
    mem::ManuallyDrop, //
};
use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::DataDirection,
    error::to_result,
    prelude::*, //
};

/// The functions that create the mapping, with those that unmap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    /// `dma_map_sg_attrs`, `dma_unmap_sg_attrs`
    Sg,
    /// `dma_map_sgtable`, `dma_unmap_sgtable`
    SgTable,
}

/// Place of an entry's bytes: the buffer, and the offset in the buffer.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) buffer: usize,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

impl Entry {
    /// Returns the entry's bytes, [`None`] if there is no such buffer or range.
    pub(crate) fn span(self, buffers: &[Buffer]) -> Option<Span<'_>> {
        buffers
            .get(self.buffer)?
            .whole()
            .part(self.offset, self.len)
    }
}

/// A scatterlist without contents, chained if it is long.
///
/// # Invariants
///
/// `table` was made by `sg_alloc_table` and has `table.orig_nents` entries.
pub(crate) struct List {
    table: bindings::sg_table,
}

// SAFETY: A scatterlist belongs to no thread.
unsafe impl Send for List {}

impl List {
    /// Allocates a list of `entries` entries. May sleep.
    pub(crate) fn new(entries: usize) -> Result<Self> {
        let entries = u32::try_from(entries)?;
        let mut table = bindings::sg_table::default();

        // SAFETY: `table` is valid for writing; the function refuses numbers it cannot handle.
        to_result(unsafe { bindings::sg_alloc_table(&mut table, entries, bindings::GFP_KERNEL) })?;

        // INVARIANT: The table was just made.
        Ok(Self { table })
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::sg_free_table(&mut self.table) };
    }
}

/// A list that describes memory.
///
/// # Invariants
///
/// The first `used` entries of `list` have pages, which stay for `'a`.
pub(crate) struct Described<'a> {
    list: &'a mut List,
    used: c_uint,
    _buffers: PhantomData<&'a [Buffer]>,
}

impl<'a> Described<'a> {
    /// Writes `entries`, which lie in `buffers`, into `list`. Works in any context.
    pub(crate) fn new(
        list: &'a mut List,
        entries: &[Entry],
        buffers: &'a [Buffer],
    ) -> Result<Self, Failure> {
        let used = describe(list, entries, buffers).doing("describing the scatterlist")?;

        // INVARIANT: As many entries were just written.
        Ok(Self {
            list,
            used,
            _buffers: PhantomData,
        })
    }
}

/// The way to map a list.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) function: Function,
    pub(crate) direction: DataDirection,
    pub(crate) attrs: Attrs,
}

/// A mapped scatterlist, unmapped when dropped. Works in any context.
///
/// # Invariants
///
/// `table` describes a list whose `orig_nents` entries are mapped as `request` demands, as `nents`
/// segments.
pub(crate) struct Mapping<'a> {
    dev: &'a Device<Bound>,
    request: Request,
    table: bindings::sg_table,
    /// Neither the list nor the memory is used otherwise while it is mapped.
    _list: PhantomData<&'a mut List>,
}

impl<'a> Mapping<'a> {
    /// Maps the memory that `described` describes for `dev`.
    pub(crate) fn new(
        dev: &'a Device<Bound>,
        described: &'a mut Described<'_>,
        request: Request,
    ) -> Result<Self, Failure> {
        let mut table = bindings::sg_table {
            sgl: described.list.table.sgl,
            nents: described.used,
            orig_nents: described.used,
        };

        map(dev, &mut table, request)?;
        // INVARIANT: Just mapped; `map` leaves the number of segments in `nents`.
        Ok(Self {
            dev,
            request,
            table,
            _list: PhantomData,
        })
    }

    /// Maps the memory that `described` describes by `dma_map_sg_attrs`, and returns the duration
    /// in nanoseconds as well.
    pub(crate) fn timed(
        dev: &'a Device<Bound>,
        described: &'a mut Described<'_>,
        direction: DataDirection,
    ) -> Result<(Self, u64), Failure> {
        let mut taken = 0;
        // SAFETY: `dev` is bound, and the list has this many entries, all with pages.
        let nents = unsafe {
            helpers::dma_test_time_map_sg(
                raw(dev),
                described.list.table.sgl,
                described.used as c_int,
                direction.into(),
                &mut taken,
            )
        };
        if nents == 0 {
            return Err(Failure::call("mapping a scatterlist", EIO));
        }

        // INVARIANT: Just mapped, as this many segments.
        let mapping = Self {
            dev,
            request: Request {
                function: Function::Sg,
                direction,
                attrs: 0,
            },
            table: bindings::sg_table {
                sgl: described.list.table.sgl,
                nents,
                orig_nents: described.used,
            },
            _list: PhantomData,
        };
        Ok((mapping, taken))
    }

    /// Unmaps a mapping of [`Mapping::timed`], and returns the duration in nanoseconds.
    pub(crate) fn unmap_timed(self) -> u64 {
        let this = ManuallyDrop::new(self);
        let mut taken = 0;

        // SAFETY: By the type's invariant, these entries are mapped, by the function of lists.
        // They are not unmapped again.
        unsafe {
            helpers::dma_test_time_unmap_sg(
                raw(this.dev),
                this.table.sgl,
                this.table.orig_nents as c_int,
                this.request.direction.into(),
                &mut taken,
            )
        };
        taken
    }

    /// Returns the segments as the device sees them.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        // SAFETY: By the type's invariant.
        unsafe { segments(&self.table) }
    }

    /// Unmaps the entries too early, which the DMA API forbids, as dropping this value unmaps them
    /// again: a test that the implementation under test withstands this.
    pub(crate) fn misunmap(&self) {
        // SAFETY: By the type's invariant, these entries are mapped.
        unsafe {
            bindings::dma_unmap_sg_attrs(
                raw(self.dev),
                self.table.sgl,
                self.table.orig_nents as c_int,
                self.request.direction.into(),
                0,
            )
        };
    }

    /// Transfers the memory to the CPU.
    pub(crate) fn sync_for_cpu(&self) {
        // SAFETY: By the type's invariant, these entries are mapped for the device.
        unsafe {
            helpers::dma_test_sync_sg_for_cpu(
                raw(self.dev),
                self.table.sgl,
                self.table.orig_nents as c_int,
                self.request.direction.into(),
            )
        };
    }

    /// Transfers the memory to the device.
    pub(crate) fn sync_for_device(&self) {
        // SAFETY: As above.
        unsafe {
            helpers::dma_test_sync_sg_for_device(
                raw(self.dev),
                self.table.sgl,
                self.table.orig_nents as c_int,
                self.request.direction.into(),
            )
        };
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        let Request {
            function,
            direction,
            attrs,
        } = self.request;

        match function {
            // SAFETY: By the type's invariant, these entries are mapped, by this function.
            Function::Sg => unsafe {
                bindings::dma_unmap_sg_attrs(
                    raw(self.dev),
                    self.table.sgl,
                    self.table.orig_nents as c_int,
                    direction.into(),
                    attrs,
                )
            },
            // SAFETY: As above.
            Function::SgTable => unsafe {
                bindings::dma_unmap_sgtable(raw(self.dev), &mut self.table, direction.into(), attrs)
            },
        }
    }
}

/// Maps the entries of `table`, which all have pages, and stores the number of segments in it.
pub(crate) fn map(
    dev: &Device<Bound>,
    table: &mut bindings::sg_table,
    request: Request,
) -> Result<(), Failure> {
    let Request {
        function,
        direction,
        attrs,
    } = request;

    match function {
        Function::Sg => {
            // SAFETY: `dev` is bound, and the list has this many entries, all with pages.
            table.nents = unsafe {
                bindings::dma_map_sg_attrs(
                    raw(dev),
                    table.sgl,
                    table.orig_nents as c_int,
                    direction.into(),
                    attrs,
                )
            };
            if table.nents == 0 {
                return Err(Failure::refused("mapping a scatterlist", EIO));
            }
        }
        // SAFETY: As above.
        Function::SgTable => to_result(unsafe {
            bindings::dma_map_sgtable(raw(dev), table, direction.into(), attrs)
        })
        .map_err(|error| Failure::refused("mapping a scatterlist", error))?,
    }
    mapping::count(table.orig_nents);
    Ok(())
}

/// Writes `entries` into `list` and returns their number.
fn describe(list: &mut List, entries: &[Entry], buffers: &[Buffer]) -> Result<c_uint> {
    let used = u32::try_from(entries.len())?;
    if used == 0 || used > list.table.orig_nents {
        return Err(EINVAL);
    }

    let mut sg = list.table.sgl;
    for entry in entries {
        let buffer = buffers.get(entry.buffer).ok_or(EINVAL)?;
        // All bytes have to be in the buffer, not only the first.
        buffer.part(entry.offset, entry.len)?;
        let (page, offset) = buffer.page(entry.offset)?;

        // SAFETY: The list has at least as many entries as are written, so `sg` is one.
        unsafe {
            helpers::dma_test_sg_set_page(
                sg,
                page,
                u32::try_from(entry.len)?,
                u32::try_from(offset)?,
            );
            sg = bindings::sg_next(sg);
        }
    }
    Ok(used)
}

/// Returns the segments of a mapped table.
///
/// # Safety
///
/// `table` must describe a list of which `nents` segments are mapped, as long as the iterator is
/// used.
pub(crate) unsafe fn segments(
    table: &bindings::sg_table,
) -> impl Iterator<Item = Segment> + use<'_> {
    let mut sg = table.sgl;

    (0..table.nents).map_while(move |_| {
        if sg.is_null() {
            return None;
        }
        // SAFETY: By the function's contract, `sg` is one of the mapped segments.
        let segment = unsafe {
            Segment {
                iova: Iova::new(bindings::sg_dma_address(sg)),
                len: bindings::sg_dma_len(sg) as usize,
            }
        };
        // SAFETY: `sg` is an entry of a list.
        sg = unsafe { bindings::sg_next(sg) };
        Some(segment)
    })
}

/// A mapping of a table that other code filled, unmapped when dropped.
///
/// # Invariants
///
/// `table` is mapped for `dev` in `direction`.
pub(crate) struct Shared<'a> {
    dev: &'a Device<Bound>,
    table: &'a mut bindings::sg_table,
    direction: DataDirection,
}

impl<'a> Shared<'a> {
    /// Maps the memory that `export` describes for `dev`.
    pub(crate) fn new(
        dev: &'a Device<Bound>,
        export: &'a mut Export<'_>,
        direction: DataDirection,
    ) -> Result<Self, Failure> {
        let table = export.table();
        let request = Request {
            function: Function::SgTable,
            direction,
            attrs: 0,
        };

        map(dev, table, request)?;
        // INVARIANT: Just mapped.
        Ok(Self {
            dev,
            table,
            direction,
        })
    }

    /// Returns the segments as the device sees them.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        // SAFETY: By the type's invariant.
        unsafe { segments(self.table) }
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::dma_unmap_sgtable(raw(self.dev), self.table, self.direction.into(), 0) };
    }
}
