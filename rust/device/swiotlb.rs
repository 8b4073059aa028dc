// SPDX-License-Identifier: GPL-2.0

//! Bounce mode: the device reaches the kernel's bounce buffers and one pool of coherent memory,
//! which are mapped for good, and nothing else.
//!
//! The kernel's direct mapping bounces by itself what the managed device's `dma_range_map` does not
//! cover, with or without DMA operations of devices. Bounce buffers are streaming mappings only:
//! the kernel takes coherent memory from anywhere and fails where the device does not reach that,
//! unless the device has a [`CoherentPool`].

use super::mode::direct_cause;
use super::DeviceEngine;
use crate::abstractions::coherent_pool::CoherentPool;
use crate::abstractions::raw;
use crate::addr::{
    Address,
    GpaSpan,
    Iova, //
};
use crate::bindings;
use crate::driver::params::Params;
use kernel::{
    device::Bound,
    pci,
    prelude::*,
    sync::Arc, //
};

/// Fewest bytes of bounce buffers, of all devices together, to work with: enough for some requests
/// of the largest length, 256 KiB, on every processor.
const BUFFERS_MIN: u64 = 16 << 20;

/// Most and fewest bytes of a device's coherent memory.
const POOL_MAX: u64 = 256 << 20;
const POOL_MIN: u64 = 1 << 20;

/// The share of RAM, and of `max_bytes`, that is used for coherent memory at most.
const RAM_SHARE: u64 = 32;
const LIMIT_SHARE: u64 = 8;

/// The programming interface and class of NVMe controllers, which have 64 address bits.
const NVME: u32 = 0x01_08_02;

/// The coherent memory of a managed device.
pub(super) struct CoherentMemory {
    pool: Arc<CoherentPool>,
    /// The last address of the pool, as the device has it.
    last: u64,
    /// The last address of the bounce buffers, as the device has it.
    buffers_last: u64,
}

impl CoherentMemory {
    /// Returns the pool.
    pub(super) fn pool(&self) -> &CoherentPool {
        &self.pool
    }

    /// Returns another reference to the pool.
    pub(super) fn share(&self) -> Arc<CoherentPool> {
        self.pool.clone()
    }

    /// Returns the pool's last address.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Returns whether every driver of `dev` can be expected to have a mask that the pool's
    /// addresses fit: allocations from a pool are not checked, and a driver may set its mask after
    /// it was given the pool. Drivers of NVMe controllers set at least 48 bits. Of other masks,
    /// direct mapping accepts all of 32 bits, and smaller ones if the last byte of RAM below 4 GiB
    /// fits, which can be that of the bounce buffers but is out of reach otherwise.
    pub(super) fn fits(&self, dev: &pci::Device) -> bool {
        // SAFETY: The device is valid, and its class does not change.
        let class = unsafe { (*raw::pci_dev(dev)).class };
        if class == NVME {
            return self.last >> 48 == 0;
        }
        let no_smaller_mask = self.buffers_last >> 31 != 0;
        self.last >> 32 == 0 && (no_smaller_mask || self.last <= self.buffers_last)
    }
}

/// The memory that a device is to reach.
struct Reach {
    buffers: GpaSpan,
    coherent: GpaSpan,
}

impl Reach {
    /// Returns both spans, sorted by address.
    fn sorted(&self) -> [GpaSpan; 2] {
        if self.buffers.start() < self.coherent.start() {
            [self.buffers, self.coherent]
        } else {
            [self.coherent, self.buffers]
        }
    }
}

/// Returns the kernel's bounce buffers, which are the same for all devices without restricted ones.
fn buffers(dev: &pci::Device<Bound>) -> Option<GpaSpan> {
    let (mut start, mut end) = (0, 0);
    // SAFETY: The device is valid, and so are the pointers.
    let has_buffers = unsafe {
        bindings::apple_dma_helper_bounce_buffers(raw::device(dev), &raw mut start, &raw mut end)
    };
    GpaSpan::from_bounds(start, end).filter(|_| has_buffers)
}

/// Allocates coherent memory, as much as there is in one piece, up to a share of RAM.
fn new_pool(ram: u64, max_bytes: u64) -> Option<CoherentPool> {
    let most = POOL_MAX.min(ram / RAM_SHARE).min(max_bytes / LIMIT_SHARE);
    let mut size = 1u64.checked_shl(most.checked_ilog2()?)?;
    while size >= POOL_MIN {
        // CAST: The kernel has 64 bits.
        if let Ok(pool) = CoherentPool::new(size as usize) {
            return Some(pool);
        }
        size /= 2;
    }
    None
}

/// Maps the bounce buffers and new coherent memory; returns that. Logs why if that is not possible.
///
/// Context: process, may sleep.
pub(super) fn set_up(
    dev: &pci::Device<Bound>,
    engine: &mut DeviceEngine<'_>,
    params: &Params,
) -> Result<CoherentMemory> {
    let cause = direct_cause(params);
    let found = buffers(dev);
    let Some(buffers) = found.filter(|span| span.len() >= BUFFERS_MIN) else {
        dev_err!(
            dev,
            "{}: cannot bounce: the kernel has {} MiB of fixed bounce buffers, not {}; boot it \
             with swiotlb=65536\n",
            cause,
            found.map_or(0, |span| span.len()) >> 20,
            BUFFERS_MIN >> 20
        );
        return Err(ENODEV);
    };
    if !CoherentPool::is_possible() {
        dev_err!(
            dev,
            "{}: cannot bounce: not known how this kernel reserves coherent memory\n",
            cause
        );
        return Err(ENODEV);
    }
    let (max_bytes, _) = engine.allowance();
    let pool = new_pool(engine.ram_bytes(), max_bytes);
    let pool = pool.and_then(|pool| Some((pool.span()?, pool)));
    let Some((coherent, mut pool)) = pool else {
        dev_err!(dev, "{}: cannot bounce: no coherent memory\n", cause);
        return Err(ENOMEM);
    };
    // SAFETY: The companion is being probed: its command block was allocated, and is not freed
    // meanwhile.
    if !unsafe { pool.works(dev) } {
        dev_err!(
            dev,
            "{}: cannot bounce: the kernel does not use reserved coherent memory as expected\n",
            cause
        );
        return Err(ENODEV);
    }
    let reach = Reach { buffers, coherent };
    let result = engine.premap_spans(&reach.sorted());
    engine.with_host(|host| host.notices()).log();
    result.map_err(|error| {
        dev_err!(
            dev,
            "{}: cannot bounce: cannot map {} MiB of bounce buffers and {} MiB of coherent \
             memory: {}\n",
            cause,
            buffers.len() >> 20,
            coherent.len() >> 20,
            error.as_str()
        );
        ENODEV
    })?;
    // `dma_ranges` makes sure that the addresses of each of the two are contiguous.
    let iova = |span: GpaSpan| -> Result<Iova> {
        let first = GpaSpan::new(span.start(), 1);
        let iova = first.and_then(|first| engine.static_map()?.iova_of(&first));
        iova.ok_or(EINVAL)
    };
    let last = |span: GpaSpan| -> Result<u64> {
        Ok(iova(span)?
            .raw()
            .saturating_add(span.len().saturating_sub(1)))
    };
    pool.set_address(iova(coherent)?);
    dev_info!(
        dev,
        "bounces through {} MiB of buffers of the kernel, has {} MiB of coherent memory\n",
        buffers.len() >> 20,
        coherent.len() >> 20
    );
    Ok(CoherentMemory {
        last: last(coherent)?,
        buffers_last: last(buffers)?,
        pool: Arc::new(pool, GFP_KERNEL)?,
    })
}
