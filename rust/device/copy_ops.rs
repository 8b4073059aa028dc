// SPDX-License-Identifier: GPL-2.0

//! `struct dma_map_ops` of an instance with a copy pool: those of [`dma_ops`](super::dma_ops),
//! except for streaming mappings, which may be copied, and with hooks for synchronization; and of
//! one whose device's driver relies on the alignment of large pages.
//!
//! The kernel skips the synchronization of a device whose operations have no such hooks, and asks
//! for it for every mapping of one whose operations have them (`dma_need_sync()`).
//!
//! Context: any.

use super::copy_pool::CopyPool;
use super::copying::{
    transfer,
    Owner, //
};
use super::dma_ops::{
    instance,
    streaming_limit,
    Direction,
    MMIO,
    OPS, //
};
use super::scatterlist::{
    map_list,
    Entries, //
};
use crate::bindings;
use crate::engine::copy::pool::ROW;
use crate::engine::copy::Preference;
use kernel::{
    bindings::{
        device,
        dma_addr_t,
        phys_addr_t,
        scatterlist, //
    },
    ffi::{
        c_int,
        c_ulong, //
    },
};

/// Returns the operations of an instance with `pool`, if it has one; with `large_pages`, its
/// device's driver relies on the alignment of large pages.
pub(super) fn ops(pool: Option<&CopyPool>, large_pages: bool) -> bindings::dma_map_ops {
    match (pool.map(CopyPool::preference), large_pages) {
        (Some(Preference::Slots), false) => template::<true, false>(),
        (Some(Preference::Slots), true) => template::<true, true>(),
        (Some(_), false) => template::<false, false>(),
        (Some(_), true) => template::<false, true>(),
        (None, false) => OPS,
        (None, true) => bindings::dma_map_ops {
            map_phys: Some(map_phys::<false, true>),
            ..OPS
        },
    }
}

/// Returns the operations of an instance with a pool; the parameters are those of
/// [`map_phys_or_copy`](super::Instance::map_phys_or_copy).
const fn template<const POOL_FIRST: bool, const LARGE_PAGES: bool>() -> bindings::dma_map_ops {
    bindings::dma_map_ops {
        map_phys: Some(map_phys::<POOL_FIRST, LARGE_PAGES>),
        unmap_phys: Some(unmap_phys::<POOL_FIRST>),
        map_sg: Some(map_sg),
        unmap_sg: Some(unmap_sg),
        sync_single_for_cpu: Some(sync_single_for_cpu),
        sync_single_for_device: Some(sync_single_for_device),
        sync_sg_for_cpu: Some(sync_sg_for_cpu),
        sync_sg_for_device: Some(sync_sg_for_device),
        opt_mapping_size: Some(opt_mapping_size),
        ..OPS
    }
}

/// # Safety
///
/// As [`instance`].
unsafe extern "C" fn map_phys<const POOL_FIRST: bool, const LARGE_PAGES: bool>(
    dev: *mut device,
    phys: phys_addr_t,
    size: usize,
    dir: Direction,
    attrs: c_ulong,
) -> dma_addr_t {
    // SAFETY: By the safety requirements.
    let (this, dma_limit) = unsafe { (instance(dev), streaming_limit(dev)) };
    if attrs & MMIO != 0 {
        return this.reject_mmio(phys, size, dma_limit, attrs);
    }
    let transfer = transfer(dir, attrs);
    this.map_phys_or_copy::<POOL_FIRST, LARGE_PAGES>(phys, size, dma_limit, transfer, attrs)
}

/// # Safety
///
/// As [`instance`].
unsafe extern "C" fn unmap_phys<const POOL_FIRST: bool>(
    dev: *mut device,
    dma_handle: dma_addr_t,
    size: usize,
    _dir: Direction,
    attrs: c_ulong,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    this.unmap_phys_or_copy::<POOL_FIRST>(dma_handle, size, attrs);
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
    unsafe { map_list::<true>(dev, list, nents, dir, attrs) }
}

/// # Safety
///
/// As [`instance`]; `list` was mapped by [`map_sg`] with the same `nents`.
unsafe extern "C" fn unmap_sg(
    dev: *mut device,
    list: *mut scatterlist,
    nents: c_int,
    _dir: Direction,
    attrs: c_ulong,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    if let Ok(count) = usize::try_from(nents) {
        // SAFETY: By the safety requirements; the module owns the list's DMA fields until the list
        // is unmapped.
        this.unmap_sg_or_copies(unsafe { Entries::new(list, count) }, attrs);
    }
}

/// # Safety
///
/// As [`instance`].
unsafe extern "C" fn sync_single_for_cpu(
    dev: *mut device,
    dma_handle: dma_addr_t,
    size: usize,
    _dir: Direction,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    // CAST: `usize` has at most 64 bits.
    this.sync(dma_handle, size as u64, Owner::Cpu);
}

/// # Safety
///
/// As [`instance`].
unsafe extern "C" fn sync_single_for_device(
    dev: *mut device,
    dma_handle: dma_addr_t,
    size: usize,
    _dir: Direction,
) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    // CAST: `usize` has at most 64 bits.
    this.sync(dma_handle, size as u64, Owner::Device);
}

/// # Safety
///
/// As [`instance`]; `list` was mapped by [`map_sg`] with the same `nents`.
unsafe extern "C" fn sync_sg_for_cpu(
    dev: *mut device,
    list: *mut scatterlist,
    nents: c_int,
    _dir: Direction,
) {
    // SAFETY: By the safety requirements.
    unsafe { sync_list(dev, list, nents, Owner::Cpu) };
}

/// # Safety
///
/// As [`instance`]; `list` was mapped by [`map_sg`] with the same `nents`.
unsafe extern "C" fn sync_sg_for_device(
    dev: *mut device,
    list: *mut scatterlist,
    nents: c_int,
    _dir: Direction,
) {
    // SAFETY: By the safety requirements.
    unsafe { sync_list(dev, list, nents, Owner::Device) };
}

/// Passes the entries of `list` to `owner`.
///
/// # Safety
///
/// As [`instance`]; `list` was mapped by [`map_sg`] with the same `nents`.
unsafe fn sync_list(dev: *mut device, list: *mut scatterlist, nents: c_int, owner: Owner) {
    // SAFETY: By the safety requirements.
    let this = unsafe { instance(dev) };
    if let Ok(count) = usize::try_from(nents) {
        // SAFETY: By the safety requirements; the module owns the list's DMA fields until the list
        // is unmapped.
        this.sync_sg(unsafe { Entries::new(list, count) }, owner);
    }
}

/// Returns the length of the longest slot, which serves buffers that begin at a page.
extern "C" fn opt_mapping_size() -> usize {
    // CAST: A small constant.
    ROW as usize
}
