// SPDX-License-Identifier: GPL-2.0

//! Streaming mappings of one contiguous range.

use crate::bindings as helpers;
use crate::buffer::Buffer;
use crate::device::raw;
use crate::engine::Iova;
use crate::failure::{
    Doing,
    Failure,
    Reason, //
};
use crate::land::Place;
use crate::ram::Region;
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
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// The function that creates the mapping; each has a counterpart that unmaps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    /// `dma_map_single_attrs`
    Single,
    /// `dma_map_page_attrs`
    Page,
    /// `dma_map_phys`
    Phys,
}

/// Attributes of a mapping, `DMA_ATTR_*`.
pub(crate) type Attrs = c_ulong;

/// A range to map, with the way to map it.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) function: Function,
    pub(crate) offset: usize,
    pub(crate) len: usize,
    pub(crate) direction: DataDirection,
    pub(crate) attrs: Attrs,
}

/// A mapped range, unmapped when dropped. Works in any context.
///
/// # Invariants
///
/// `iova` is what `request.function` returned for `request` on `dev`, and not unmapped yet.
pub(crate) struct Mapping<'a> {
    dev: &'a Device<Bound>,
    request: Request,
    iova: Iova,
    /// The memory stays allocated while it is mapped.
    _memory: PhantomData<&'a Buffer>,
}

impl<'a> Mapping<'a> {
    /// Maps a range of `buffer` for `dev`.
    pub(crate) fn new(
        dev: &'a Device<Bound>,
        buffer: &'a Buffer,
        request: Request,
    ) -> Result<Self, Failure> {
        let Request {
            function,
            offset,
            len,
            direction,
            attrs,
        } = request;
        let span = buffer.part(offset, len).doing("choosing what to map")?;
        let (page, in_page) = buffer.page(offset).doing("choosing what to map")?;
        let direction = direction.into();
        let dev_raw = raw(dev);

        let iova = match function {
            // SAFETY: `dev` is bound, and `span` is memory of the linear mapping that outlives
            // the mapping.
            Function::Single => unsafe {
                helpers::dma_test_map_single_attrs(
                    dev_raw,
                    span.as_ptr().cast(),
                    len,
                    direction,
                    attrs,
                )
            },
            // SAFETY: `dev` is bound, and the pages from `page` on outlive the mapping.
            Function::Page => unsafe {
                bindings::dma_map_page_attrs(dev_raw, page, in_page, len, direction, attrs)
            },
            // SAFETY: `dev` is bound, and the memory at this address outlives the mapping.
            Function::Phys => unsafe {
                bindings::dma_map_phys(dev_raw, buffer.phys(offset), len, direction, attrs)
            },
        };
        let iova = check(dev, iova, "mapping")?;

        // INVARIANT: This was just returned and is no error.
        Ok(Self {
            dev,
            request,
            iova,
            _memory: PhantomData,
        })
    }

    /// Maps `region` for `dev`.
    pub(crate) fn of_ram(
        dev: &'a Device<Bound>,
        region: &Region<'a>,
        function: Function,
        direction: DataDirection,
    ) -> Result<Self, Failure> {
        let (page, offset) = region.page();
        let len = region.len();
        let dev_raw = raw(dev);

        let iova = match function {
            // SAFETY: `dev` is bound, and `region` is memory of the linear mapping that outlives
            // the mapping.
            Function::Single => unsafe {
                helpers::dma_test_map_single_attrs(
                    dev_raw,
                    region.as_ptr(),
                    len,
                    direction.into(),
                    0,
                )
            },
            // SAFETY: As above.
            Function::Page => unsafe {
                bindings::dma_map_page_attrs(dev_raw, page, offset, len, direction.into(), 0)
            },
            // SAFETY: As above.
            Function::Phys => unsafe {
                bindings::dma_map_phys(dev_raw, region.phys(), len, direction.into(), 0)
            },
        };
        let iova = check(dev, iova, "mapping")?;

        // INVARIANT: This was just returned and is no error.
        Ok(Self {
            dev,
            request: Request {
                function,
                offset,
                len,
                direction,
                attrs: 0,
            },
            iova,
            _memory: PhantomData,
        })
    }

    /// Maps `place` for `dev` by `dma_map_page_attrs`, and returns the duration in nanoseconds as
    /// well.
    pub(crate) fn timed(
        dev: &'a Device<Bound>,
        place: &Place<'a>,
        direction: DataDirection,
    ) -> Result<(Self, u64), Failure> {
        let (page, in_page) = place.page().doing("choosing what to map")?;
        let mut taken = 0;

        // SAFETY: `dev` is bound, and the pages from `page` on outlive the mapping.
        let iova = unsafe {
            helpers::dma_test_time_map_page(
                raw(dev),
                page,
                in_page,
                place.len(),
                direction.into(),
                &mut taken,
            )
        };
        let iova = check(dev, iova, "mapping")?;

        // INVARIANT: This was just returned and is no error.
        let mapping = Self {
            dev,
            request: Request {
                function: Function::Page,
                offset: in_page,
                len: place.len(),
                direction,
                attrs: 0,
            },
            iova,
            _memory: PhantomData,
        };
        Ok((mapping, taken))
    }

    /// Unmaps a mapping of [`Mapping::timed`], and returns the duration in nanoseconds.
    pub(crate) fn unmap_timed(self) -> u64 {
        let this = ManuallyDrop::new(self);
        let mut taken = 0;

        // SAFETY: By the type's invariant, the range is mapped, by the function of pages. It is
        // not unmapped again.
        unsafe {
            helpers::dma_test_time_unmap_page(
                raw(this.dev),
                this.iova.value(),
                this.request.len,
                this.request.direction.into(),
                &mut taken,
            )
        };
        taken
    }

    /// Returns the address of the first byte for the device.
    pub(crate) fn iova(&self) -> Iova {
        self.iova
    }

    /// Unmaps `len` bytes at `iova`, mapped or not, which the DMA API forbids: a test that the
    /// implementation under test withstands this.
    pub(crate) fn misunmap(&self, iova: u64, len: usize) {
        // SAFETY: The call tests that the implementation under test withstands this; the device is
        // bound.
        unsafe {
            bindings::dma_unmap_phys(raw(self.dev), iova, len, self.request.direction.into(), 0)
        };
    }

    /// Returns the mapped range, with the way it was mapped.
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// Transfers the memory to the CPU, in two parts.
    pub(crate) fn sync_for_cpu(&self) {
        for (offset, len) in self.parts() {
            // SAFETY: By the type's invariant, the range is mapped for `dev`, and `parts` stays
            // within it.
            unsafe {
                helpers::dma_test_sync_single_range_for_cpu(
                    raw(self.dev),
                    self.iova.value(),
                    offset,
                    len,
                    self.request.direction.into(),
                )
            };
        }
    }

    /// Transfers the memory to the device, in two parts.
    pub(crate) fn sync_for_device(&self) {
        for (offset, len) in self.parts() {
            // SAFETY: As in `sync_for_cpu`.
            unsafe {
                helpers::dma_test_sync_single_range_for_device(
                    raw(self.dev),
                    self.iova.value(),
                    offset,
                    len,
                    self.request.direction.into(),
                )
            };
        }
    }

    /// Returns the range in two parts, so that synchronizing a part of a mapping is tested as well.
    fn parts(&self) -> impl Iterator<Item = (c_ulong, usize)> {
        let half = self.request.len / 2;
        let rest = self.request.len.wrapping_sub(half);

        // CAST: `usize` and `unsigned long` are as wide.
        [(0, half), (half as c_ulong, rest)]
            .into_iter()
            .filter(|(_, len)| *len != 0)
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        let dev = raw(self.dev);
        let iova = self.iova.value();
        let Request {
            function,
            len,
            direction,
            attrs,
            ..
        } = self.request;
        let direction = direction.into();

        match function {
            // SAFETY: By the type's invariant, the range is mapped, by this function.
            Function::Single => unsafe {
                helpers::dma_test_unmap_single_attrs(dev, iova, len, direction, attrs)
            },
            // SAFETY: As above.
            Function::Page => unsafe {
                bindings::dma_unmap_page_attrs(dev, iova, len, direction, attrs)
            },
            // SAFETY: As above.
            Function::Phys => unsafe { bindings::dma_unmap_phys(dev, iova, len, direction, attrs) },
        }
    }
}

/// Maps `len` bytes at `phys`, which must fail.
pub(crate) fn must_refuse(
    dev: &Device<Bound>,
    phys: bindings::phys_addr_t,
    len: usize,
) -> Result<(), Failure> {
    let direction = DataDirection::Bidirectional.into();
    // SAFETY: `dev` is bound. The memory, if any, is not used.
    let iova = unsafe { bindings::dma_map_phys(raw(dev), phys, len, direction, 0) };
    match check(dev, iova, "mapping") {
        Ok(_) => Err(Failure::new(Reason::Worked {
            what: "mapping what is no memory",
        })),
        Err(_) => Ok(()),
    }
}

/// Checks that a function of the DMA API returned an address.
pub(crate) fn check(
    dev: &Device<Bound>,
    iova: bindings::dma_addr_t,
    what: &'static str,
) -> Result<Iova, Failure> {
    // SAFETY: `dev` is a valid device.
    kernel::error::to_result(unsafe { helpers::dma_test_mapping_error(raw(dev), iova) })
        .map_err(|error| Failure::refused(what, error))?;
    count(1);
    Ok(Iova::new(iova))
}

/// Number of ranges mapped for engines since this module was loaded.
static MAPPED: Atomic<u64> = Atomic::new(0);

/// Counts ranges that were mapped. Any context.
pub(crate) fn count(ranges: u32) {
    MAPPED.fetch_add(u64::from(ranges), Relaxed);
}

/// Returns the number of ranges, entries of scatterlists among them, mapped for any engine so far.
pub(crate) fn counted() -> u64 {
    MAPPED.load(Relaxed)
}
