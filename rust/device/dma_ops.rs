// SPDX-License-Identifier: GPL-2.0

//! `struct dma_map_ops`: the DMA API's callbacks for the managed device.
//!
//! The callbacks convert between the C interface and the methods of [`Instance`], and do nothing
//! else. The operations are a member of the instance, so a callback finds its instance by their
//! address.
//!
//! Context: any, except that `alloc` and `alloc_pages_op` sleep if their flags allow it, and that
//! `mmap` and `get_sgtable` may sleep. Hooks for syncing are left out, since DMA is coherent: the
//! core skips them then. [`copy_ops`](super::copy_ops) has them, for copies. So is
//! `opt_mapping_size`, since no length is better than another, and `get_merge_boundary`, since
//! entries of a scatterlist are never merged.

use super::report::Loudness;
use super::scatterlist::{
    map_list,
    Entries, //
};
use super::Instance;
use crate::addr::{
    Address,
    Gpa, //
};
use crate::bindings;
use crate::observe::trace;
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
pub(super) type Ops = Opaque<bindings::dma_map_ops>;

/// The attribute of a mapping that is not of RAM.
// CAST: The attribute is a bit of an `unsigned long`.
pub(super) const MMIO: c_ulong = kernel::bindings::DMA_ATTR_MMIO as c_ulong;

/// The direction of a mapping.
pub(super) type Direction = kernel::bindings::dma_data_direction;

/// The template of every instance's operations.
pub(super) const OPS: bindings::dma_map_ops = bindings::dma_map_ops {
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

/// Returns the instance that manages `dev`.
///
/// # Safety
///
/// `dev` has the operations of an instance, which lives for `'a`: a driver is bound to `dev`, and
/// the call comes from the DMA API.
#[inline]
pub(super) unsafe fn instance<'a>(dev: *mut device) -> &'a Instance<'a> {
    // SAFETY: By the safety requirements `dev` is valid, and its operations are a member of an
    // instance.
    unsafe {
        let ops = dma_ops(dev);
        &*container_of!(ops, Instance<'a>, ops)
    }
}

/// Returns the DMA operations of `dev`.
///
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

/// Returns the highest address that `dev` reaches with the mask `mask`.
///
/// # Safety
///
/// `dev` is a valid device.
#[inline]
unsafe fn dma_limit(dev: *mut device, mask: u64) -> u64 {
    // SAFETY: By the safety requirements.
    match unsafe { (*dev).bus_dma_limit } {
        0 => mask,
        limit => mask.min(limit),
    }
}

/// Returns the highest address that `dev` reaches with streaming mappings.
///
/// # Safety
///
/// `dev` is a valid device with a streaming mask, which the DMA API has checked.
#[inline]
pub(super) unsafe fn streaming_limit(dev: *mut device) -> u64 {
    // SAFETY: By the safety requirements.
    unsafe { dma_limit(dev, *(*dev).dma_mask) }
}

/// Returns the highest address that `dev` reaches with coherent memory.
///
/// # Safety
///
/// `dev` is a valid device.
unsafe fn coherent_limit(dev: *mut device) -> u64 {
    // SAFETY: By the safety requirements.
    unsafe { dma_limit(dev, (*dev).coherent_dma_mask) }
}

/// Most bytes of pages whose address must be aligned like that of coherent memory. No more is
/// promised for pages: this much is aligned so that it crosses no boundary of this size, and a page
/// of the size where the host allows that.
const PAGES_ALIGNED: usize = 64 << 10;

/// Maps memory that was allocated at `gpa` for `dev`, writes the address to `dma_handle`, and
/// returns whether that succeeded. With `aligned`, the address must be aligned as the DMA API
/// promises.
///
/// # Safety
///
/// As [`instance`], for the instance `this`; `dma_handle` is valid for a write.
unsafe fn map_allocation(
    this: &Instance<'_>,
    dev: *mut device,
    gpa: u64,
    size: usize,
    dma_handle: *mut dma_addr_t,
    aligned: bool,
    loudness: Loudness,
) -> bool {
    // SAFETY: By the safety requirements.
    let dma_limit = unsafe { coherent_limit(dev) };
    let result = this.map_allocation(gpa, size, dma_limit, aligned, loudness);
    if let Ok(iova) = result {
        // SAFETY: By the safety requirements.
        unsafe { *dma_handle = iova.raw() };
    }
    result.is_ok()
}

/// # Safety
///
/// As [`instance`]; `dma_handle` is valid for a write.
unsafe extern "C" fn alloc(
    dev: *mut device,
    size: usize,
    dma_handle: *mut dma_addr_t,
    gfp: gfp_t,
    attrs: c_ulong,
) -> *mut c_void {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    let companion = this.companion();
    let mut gpa = 0;
    // SAFETY: The companion is a valid device with no operations of its own.
    let cpu = unsafe { kernel::bindings::dma_alloc_attrs(companion, size, &mut gpa, gfp, attrs) };
    let loudness = Loudness::of(attrs);
    // SAFETY: By the safety requirements.
    if cpu.is_null() || unsafe { map_allocation(this, dev, gpa, size, dma_handle, true, loudness) }
    {
        return cpu;
    }
    // SAFETY: This memory was allocated above. The companion is coherent, its addresses are
    // guest-physical, and its instance flushes the queue before the companion is unbound.
    unsafe { bindings::apple_dma_deferred_free(companion, size, cpu, gpa, attrs) };
    ptr::null_mut()
}

/// # Safety
///
/// As [`instance`]; `cpu` and `dma_handle` are the results of [`alloc`] for `size` and `attrs`.
unsafe extern "C" fn free(
    dev: *mut device,
    size: usize,
    cpu: *mut c_void,
    dma_handle: dma_addr_t,
    attrs: c_ulong,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    // SAFETY: `cpu` is the result of an allocation.
    let is_at = |gpa: Gpa| unsafe { bindings::apple_dma_helper_is_at(cpu, gpa.raw(), attrs) };
    // Memory whose address is not mapped, or belongs to another allocation, is leaked rather than
    // freed on a guess.
    if let Some(gpa) = this.unmap_allocation(dma_handle, size, is_at) {
        // SAFETY: By the safety requirements `cpu` was allocated like this, at `gpa`.
        unsafe {
            kernel::bindings::dma_free_attrs(this.companion(), size, cpu, gpa.raw(), attrs);
        };
    }
}

/// # Safety
///
/// As [`instance`]; `dma_handle` is valid for a write.
unsafe extern "C" fn alloc_pages(
    dev: *mut device,
    size: usize,
    dma_handle: *mut dma_addr_t,
    dir: Direction,
    gfp: gfp_t,
) -> *mut page {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    let companion = this.companion();
    let mut gpa = 0;
    // SAFETY: The companion is a valid device with no operations of its own.
    let pages = unsafe { kernel::bindings::dma_alloc_pages(companion, size, &mut gpa, dir, gfp) };
    let (aligned, loudness) = (size <= PAGES_ALIGNED, Loudness::Logged);
    // SAFETY: By the safety requirements.
    let map = || unsafe { map_allocation(this, dev, gpa, size, dma_handle, aligned, loudness) };
    if pages.is_null() || map() {
        return pages;
    }
    // SAFETY: These pages were allocated above.
    unsafe { kernel::bindings::dma_free_pages(companion, size, pages, gpa, dir) };
    ptr::null_mut()
}

/// # Safety
///
/// As [`instance`]; `pages` and `dma_handle` are the results of [`alloc_pages`] for `size` and
/// `dir`.
unsafe extern "C" fn free_pages(
    dev: *mut device,
    size: usize,
    pages: *mut page,
    dma_handle: dma_addr_t,
    dir: Direction,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    // SAFETY: The helper compares the address of the pages, and does not access them.
    let is_at = |gpa: Gpa| unsafe { bindings::apple_dma_helper_page_is_at(pages, gpa.raw()) };
    if let Some(gpa) = this.unmap_allocation(dma_handle, size, is_at) {
        // SAFETY: By the safety requirements `pages` were allocated like this, at `gpa`.
        unsafe {
            kernel::bindings::dma_free_pages(this.companion(), size, pages, gpa.raw(), dir);
        };
    }
}

/// # Safety
///
/// As [`instance`]; `vma` is valid, `cpu` and `dma_addr` are the results of [`alloc`].
unsafe extern "C" fn mmap(
    dev: *mut device,
    vma: *mut vm_area_struct,
    cpu: *mut c_void,
    dma_addr: dma_addr_t,
    size: usize,
    attrs: c_ulong,
) -> c_int {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    match this.translate(dma_addr, size) {
        // SAFETY: By the safety requirements `cpu` was allocated for the companion, at `gpa`.
        Some(gpa) => unsafe {
            kernel::bindings::dma_mmap_attrs(this.companion(), vma, cpu, gpa.raw(), size, attrs)
        },
        None => EINVAL.to_errno(),
    }
}

/// # Safety
///
/// As [`instance`]; `sgt` is valid for a write, `cpu` and `dma_addr` are the results of [`alloc`].
unsafe extern "C" fn get_sgtable(
    dev: *mut device,
    sgt: *mut sg_table,
    cpu: *mut c_void,
    dma_addr: dma_addr_t,
    size: usize,
    attrs: c_ulong,
) -> c_int {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    match this.translate(dma_addr, size) {
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
    dir: Direction,
    attrs: c_ulong,
) -> dma_addr_t {
    // First of all, so that the direction takes no register of the rest.
    if trace::is_enabled() {
        // SAFETY: By the safety requirements.
        return unsafe { map_phys_traced(dev, phys, size, dir, attrs) };
    }
    // SAFETY: By the safety requirements.
    let (this, dma_limit) = unsafe { (instance(dev), streaming_limit(dev)) };
    if attrs & MMIO != 0 {
        return this.reject_mmio(phys, size, dma_limit, attrs);
    }
    this.map_phys(phys, size, dma_limit, attrs)
}

/// # Safety
///
/// As [`instance`].
#[cold]
#[inline(never)]
unsafe fn map_phys_traced(
    dev: *mut device,
    phys: phys_addr_t,
    size: usize,
    dir: Direction,
    attrs: c_ulong,
) -> dma_addr_t {
    // SAFETY: By the safety requirements.
    let (this, dma_limit) = unsafe { (instance(dev), streaming_limit(dev)) };
    this.map_phys_traced(phys, size, dma_limit, dir, attrs)
}

/// # Safety
///
/// As [`instance`].
unsafe extern "C" fn unmap_phys(
    dev: *mut device,
    dma_handle: dma_addr_t,
    size: usize,
    _dir: Direction,
    _attrs: c_ulong,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    this.unmap_phys(dma_handle, size);
}

/// # Safety
///
/// As [`instance`]; `list` is a valid scatterlist of `nents` entries, to be mapped.
unsafe extern "C" fn map_sg(
    dev: *mut device,
    list: *mut scatterlist,
    nents: c_int,
    dir: Direction,
    attrs: c_ulong,
) -> c_int {
    // SAFETY: By the safety requirements.
    unsafe { map_list::<false>(dev, list, nents, dir, attrs) }
}

/// # Safety
///
/// As [`instance`]; `list` was mapped by [`map_sg`] with the same `nents`.
unsafe extern "C" fn unmap_sg(
    dev: *mut device,
    list: *mut scatterlist,
    nents: c_int,
    _dir: Direction,
    _attrs: c_ulong,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    if let Ok(count) = usize::try_from(nents) {
        // SAFETY: By the safety requirements; the module owns the list's DMA fields until the list
        // is unmapped.
        this.unmap_sg(unsafe { Entries::new(list, count) });
    }
}

/// # Safety
///
/// As [`instance`], or the operations are being used for the first time.
unsafe extern "C" fn dma_supported(dev: *mut device, mask: u64) -> c_int {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    // SAFETY: By the safety requirements.
    c_int::from(this.reaches(unsafe { dma_limit(dev, mask) }))
}

/// # Safety
///
/// As [`dma_supported`].
unsafe extern "C" fn get_required_mask(dev: *mut device) -> u64 {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    this.required_mask()
}

/// # Safety
///
/// As [`instance`].
unsafe extern "C" fn max_mapping_size(dev: *mut device) -> usize {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    this.max_mapping_size()
}
