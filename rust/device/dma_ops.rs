// SPDX-License-Identifier: GPL-2.0

//! `struct dma_map_ops`: what the DMA API calls for the managed device.
//!
//! The callbacks translate between the C interface and the [`Instance`], and do nothing else. The
//! operations are a member of the instance, so a callback finds its instance by where they are.
//!
//! All of them may be called in any context, except where `struct dma_map_ops`' users say
//! otherwise: `alloc` and `alloc_pages_op` sleep if their flags allow it, `mmap` and `get_sgtable`
//! may sleep. Hooks for syncing are left out, since DMA is coherent: the core skips them then. So
//! are `opt_mapping_size`, since no size is better than another, and `get_merge_boundary`, since
//! entries of a scatterlist are never merged.

use crate::addr::{Address, Gpa, GpaSpan};
use crate::bindings;
use crate::device::scatterlist::Entries;
use crate::device::Instance;
use crate::engine::MapError;
use core::ptr;
use kernel::{
    bindings::{
        device,
        dma_addr_t,
        gfp_t,
        page,
        phys_addr_t,
        scatterlist,
        sg_table,
        vm_area_struct, //
    },
    container_of,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    types::Opaque, //
};

/// The operations of an instance.
pub(crate) type Ops = Opaque<bindings::dma_map_ops>;

/// The attribute that says that a mapping is not of RAM.
// CAST: It is a bit of an `unsigned long`.
const MMIO: c_ulong = kernel::bindings::DMA_ATTR_MMIO as c_ulong;

type Direction = kernel::bindings::dma_data_direction;

/// The table that every instance's operations are a copy of.
pub(crate) const OPS: bindings::dma_map_ops = bindings::dma_map_ops {
    alloc: Some(alloc),
    free: Some(free),
    alloc_pages_op: Some(alloc_pages),
    free_pages: Some(free_pages),
    mmap: Some(mmap),
    get_sgtable: Some(get_sgtable),
    map_phys: Some(map_phys),
    unmap_phys: Some(unmap_phys),
    map_sg: Some(map_sg),
    unmap_sg: Some(unmap_sg),
    sync_single_for_cpu: None,
    sync_single_for_device: None,
    sync_sg_for_cpu: None,
    sync_sg_for_device: None,
    cache_sync: None,
    dma_supported: Some(dma_supported),
    get_required_mask: Some(get_required_mask),
    max_mapping_size: Some(max_mapping_size),
    opt_mapping_size: None,
    get_merge_boundary: None,
};

/// The instance that manages `dev`.
///
/// # Safety
///
/// `dev` has the operations of an instance, which lives for `'a`: a driver is bound to `dev`, and
/// the call comes from the DMA API.
#[inline]
unsafe fn instance<'a>(dev: *mut device) -> &'a Instance<'a> {
    // SAFETY: By the safety requirements `dev` is valid, and its operations are a member of an
    // instance.
    unsafe {
        let ops = dma_ops(dev);
        &*container_of!(ops, Instance<'a>, ops)
    }
}

/// # Safety
///
/// `dev` is a valid device.
#[inline]
unsafe fn dma_ops(dev: *mut device) -> *mut Ops {
    // SAFETY: By the safety requirements.
    #[cfg(CONFIG_ARCH_HAS_DMA_OPS)]
    let ops = unsafe { (*dev).dma_ops };
    // SAFETY: By the safety requirements.
    #[cfg(not(CONFIG_ARCH_HAS_DMA_OPS))]
    let ops = unsafe { bindings::apple_dma_helper_get_dma_ops(dev) }.cast_mut();
    ops.cast()
}

/// The highest address that `dev` reaches, with the mask `mask`.
///
/// # Safety
///
/// `dev` is a valid device.
#[inline]
unsafe fn limit(dev: *mut device, mask: u64) -> u64 {
    // SAFETY: By the safety requirements.
    match unsafe { (*dev).bus_dma_limit } {
        0 => mask,
        limit => mask.min(limit),
    }
}

/// The highest address that `dev` reaches with streaming mappings.
///
/// # Safety
///
/// `dev` is a valid device with a streaming mask, which the DMA API made sure of.
#[inline]
unsafe fn streaming_limit(dev: *mut device) -> u64 {
    // SAFETY: By the safety requirements.
    unsafe { limit(dev, *(*dev).dma_mask) }
}

/// The highest address that `dev` reaches with coherent memory.
///
/// # Safety
///
/// `dev` is a valid device.
unsafe fn coherent_limit(dev: *mut device) -> u64 {
    // SAFETY: By the safety requirements.
    unsafe { limit(dev, (*dev).coherent_dma_mask) }
}

/// # Safety
///
/// As [`instance`]; `handle` is valid for a write.
unsafe extern "C" fn alloc(
    dev: *mut device,
    size: usize,
    handle: *mut dma_addr_t,
    gfp: gfp_t,
    attrs: c_ulong,
) -> *mut c_void {
    // SAFETY: By the safety requirements.
    let (this, limit) = unsafe { (instance(dev), coherent_limit(dev)) };
    let companion = this.companion();
    let mut gpa = 0;
    // SAFETY: The companion is a valid device with no operations of its own.
    let cpu = unsafe { kernel::bindings::dma_alloc_attrs(companion, size, &mut gpa, gfp, attrs) };
    if cpu.is_null() {
        return cpu;
    }
    match this.map(gpa, size, limit) {
        Ok(iova) => {
            // SAFETY: By the safety requirements.
            unsafe { *handle = iova.raw() };
            cpu
        }
        Err(_) => {
            // SAFETY: This is what was allocated above. The companion is coherent, its addresses
            // are guest-physical ones, and its instance flushes before it goes.
            unsafe { bindings::apple_dma_deferred_free(companion, size, cpu, gpa, attrs) };
            ptr::null_mut()
        }
    }
}

/// # Safety
///
/// As [`instance`]; `cpu` and `handle` are what [`alloc`] returned for `size` and `attrs`.
unsafe extern "C" fn free(
    dev: *mut device,
    size: usize,
    cpu: *mut c_void,
    handle: dma_addr_t,
    attrs: c_ulong,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    // SAFETY: `cpu` is what an allocation returned.
    let is_at = |gpa: Gpa| unsafe { bindings::apple_dma_helper_is_at(cpu, gpa.raw(), attrs) };
    // The memory of a handle that is not ours, or another one's, is leaked rather than guessed at.
    if let Some(gpa) = this.unmap(handle, size, is_at) {
        // SAFETY: By the safety requirements `cpu` was allocated like this, at `gpa`.
        unsafe {
            kernel::bindings::dma_free_attrs(this.companion(), size, cpu, gpa.raw(), attrs);
        };
    }
}

/// # Safety
///
/// As [`instance`]; `handle` is valid for a write.
unsafe extern "C" fn alloc_pages(
    dev: *mut device,
    size: usize,
    handle: *mut dma_addr_t,
    dir: Direction,
    gfp: gfp_t,
) -> *mut page {
    // SAFETY: By the safety requirements.
    let (this, limit) = unsafe { (instance(dev), coherent_limit(dev)) };
    let companion = this.companion();
    let mut gpa = 0;
    // SAFETY: The companion is a valid device with no operations of its own.
    let pages = unsafe { kernel::bindings::dma_alloc_pages(companion, size, &mut gpa, dir, gfp) };
    if pages.is_null() {
        return pages;
    }
    match this.map(gpa, size, limit) {
        Ok(iova) => {
            // SAFETY: By the safety requirements.
            unsafe { *handle = iova.raw() };
            pages
        }
        Err(_) => {
            // SAFETY: This is what was allocated above.
            unsafe { kernel::bindings::dma_free_pages(companion, size, pages, gpa, dir) };
            ptr::null_mut()
        }
    }
}

/// # Safety
///
/// As [`instance`]; `pages` and `handle` are what [`alloc_pages`] returned for `size` and `dir`.
unsafe extern "C" fn free_pages(
    dev: *mut device,
    size: usize,
    pages: *mut page,
    handle: dma_addr_t,
    dir: Direction,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    // SAFETY: The pages are not looked at.
    let is_at = |gpa: Gpa| unsafe { bindings::apple_dma_helper_page_is_at(pages, gpa.raw()) };
    if let Some(gpa) = this.unmap(handle, size, is_at) {
        // SAFETY: By the safety requirements `pages` were allocated like this, at `gpa`.
        unsafe {
            kernel::bindings::dma_free_pages(this.companion(), size, pages, gpa.raw(), dir);
        };
    }
}

/// # Safety
///
/// As [`instance`]; `vma` is valid, `cpu` and `handle` are what [`alloc`] returned.
unsafe extern "C" fn mmap(
    dev: *mut device,
    vma: *mut vm_area_struct,
    cpu: *mut c_void,
    handle: dma_addr_t,
    size: usize,
    attrs: c_ulong,
) -> c_int {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    match this.translate(handle, size) {
        // SAFETY: By the safety requirements `cpu` was allocated for the companion, at `gpa`.
        Some(gpa) => unsafe {
            kernel::bindings::dma_mmap_attrs(this.companion(), vma, cpu, gpa.raw(), size, attrs)
        },
        None => EINVAL.to_errno(),
    }
}

/// # Safety
///
/// As [`instance`]; `sgt` is valid for a write, `cpu` and `handle` are what [`alloc`] returned.
unsafe extern "C" fn get_sgtable(
    dev: *mut device,
    sgt: *mut sg_table,
    cpu: *mut c_void,
    handle: dma_addr_t,
    size: usize,
    attrs: c_ulong,
) -> c_int {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    match this.translate(handle, size) {
        // SAFETY: By the safety requirements `cpu` was allocated for the companion, at `gpa`.
        Some(gpa) => unsafe {
            kernel::bindings::dma_get_sgtable_attrs(
                this.companion(),
                sgt,
                cpu,
                gpa.raw(),
                size,
                attrs,
            )
        },
        None => EINVAL.to_errno(),
    }
}

/// # Safety
///
/// As [`instance`].
unsafe extern "C" fn map_phys(
    dev: *mut device,
    phys: phys_addr_t,
    size: usize,
    _dir: Direction,
    attrs: c_ulong,
) -> dma_addr_t {
    // SAFETY: By the safety requirements.
    let (this, limit) = unsafe { (instance(dev), streaming_limit(dev)) };
    if attrs & MMIO != 0 {
        return this.refuse_mmio(phys, size, limit);
    }
    this.map_streaming(phys, size, limit)
}

/// # Safety
///
/// As [`instance`].
unsafe extern "C" fn unmap_phys(
    dev: *mut device,
    handle: dma_addr_t,
    size: usize,
    _dir: Direction,
    _attrs: c_ulong,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    this.unmap_streaming(handle, size);
}

/// # Safety
///
/// As [`instance`]; `list` is a valid scatterlist of `len` entries, to be mapped.
unsafe extern "C" fn map_sg(
    dev: *mut device,
    list: *mut scatterlist,
    len: c_int,
    _dir: Direction,
    attrs: c_ulong,
) -> c_int {
    // SAFETY: By the safety requirements.
    let (this, limit) = unsafe { (instance(dev), streaming_limit(dev)) };
    if attrs & MMIO != 0 {
        return EINVAL.to_errno();
    }
    let Ok(count) = usize::try_from(len) else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the safety requirements; the list's DMA fields are ours to fill in.
    let entries = unsafe { Entries::new(list, count) };
    match this.map_all(entries.clone(), limit) {
        Ok(()) => len,
        // What the DMA API documents for dma_map_sgtable().
        Err(MapError::Invalid) if entries.clone().any(|entry| entry.is_p2pdma()) => {
            -c_int::try_from(kernel::bindings::EREMOTEIO).unwrap_or(0)
        }
        Err(error) => errno(error),
    }
}

/// # Safety
///
/// As [`instance`]; `list` was mapped by [`map_sg`] with the same `len`.
unsafe extern "C" fn unmap_sg(
    dev: *mut device,
    list: *mut scatterlist,
    len: c_int,
    _dir: Direction,
    _attrs: c_ulong,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    if let Ok(count) = usize::try_from(len) {
        // SAFETY: By the safety requirements; the list's DMA fields are ours until it is unmapped.
        this.unmap_all(unsafe { Entries::new(list, count) });
    }
}

/// # Safety
///
/// As [`instance`], or the operations are only just being used for the first time.
unsafe extern "C" fn dma_supported(dev: *mut device, mask: u64) -> c_int {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    // SAFETY: By the safety requirements.
    c_int::from(this.reaches(unsafe { limit(dev, mask) }))
}

/// The DART may place a mapping anywhere.
///
/// # Safety
///
/// Always safe to call.
unsafe extern "C" fn get_required_mask(_dev: *mut device) -> u64 {
    u64::MAX
}

/// # Safety
///
/// As [`instance`].
unsafe extern "C" fn max_mapping_size(dev: *mut device) -> usize {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    this.max_mapping_size()
}

/// Returns the error number for a scatterlist that was not mapped because of `error`.
fn errno(error: MapError) -> c_int {
    match error {
        MapError::Invalid | MapError::Mmio => EINVAL.to_errno(),
        MapError::Full(_) | MapError::NoMemory => ENOMEM.to_errno(),
        MapError::Unreachable(_)
        | MapError::Refused
        | MapError::Rejected(_)
        | MapError::NoAnswer
        | MapError::NoKey => EIO.to_errno(),
    }
}

/// The guest memory that `size` bytes from `gpa` are.
pub(crate) fn span(gpa: u64, size: usize) -> Option<GpaSpan> {
    GpaSpan::new(Gpa::new(gpa), u64::try_from(size).ok()?)
}
