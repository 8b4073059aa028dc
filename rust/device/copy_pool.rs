// SPDX-License-Identifier: GPL-2.0

//! The copy pool of an instance: whether there is one, its size, and its preference.
//!
//! The calls that use it are in [`copying`](super::copying).

use super::bdf::ManagedFunction;
use super::mode::Mode;
use super::ReleaseOnDrop;
use crate::abstractions::pool_memory::{
    LinearMap,
    PoolMemory, //
};
use crate::driver::params::{
    CopyMode,
    Params, //
};
use crate::engine::copy::pool::{
    measure,
    SlotPool, //
};
use crate::engine::copy::Preference;
use kernel::{
    device::Bound,
    pci,
    prelude::*, //
};

/// A copy pool in memory of the kernel.
pub(super) type CopyPool = SlotPool<LinearMap>;

/// Returns whether a driver of `managed` may be one that does not pass its buffers back and forth:
/// those of displays and accelerators keep mappings for long and never synchronize them. So may be
/// that of a device that is not there yet.
fn is_suspect(managed: &ManagedFunction<'_>) -> bool {
    managed.is_display_or_accelerator().unwrap_or(true)
}

/// Returns the choice between slots and windows; [`None`] if nothing is to be copied.
fn preference(managed: &ManagedFunction<'_>, mode: Mode, params: &Params) -> Option<Preference> {
    let lazy = match params.copy {
        CopyMode::Never => return None,
        CopyMode::Auto if is_suspect(managed) => return None,
        // What a copy costs is measured when there is a pool.
        CopyMode::Auto => Preference::Windows,
        CopyMode::Always => Preference::NewSlots,
    };
    match mode {
        Mode::Lazy => Some(lazy),
        // A window would be made for each mapping.
        Mode::Strict => Some(Preference::Slots),
        Mode::Identity | Mode::Direct | Mode::Bounce | Mode::WholeRam => None,
    }
}

/// Returns whether the engine is to decide which mappings are copied.
pub(super) fn admits(managed: &ManagedFunction<'_>, mode: Mode, params: &Params) -> bool {
    // Where RAM does not fit, this mode becomes lazy mode.
    let mode = match mode {
        Mode::WholeRam => Mode::Lazy,
        other => other,
    };
    preference(managed, mode, params) == Some(Preference::Windows)
}

/// Sets up the copy pool of `engine`, if there is to be one. Without memory or room on the host
/// there is none. To be called after [`Mode::max_len`], which unmaps everything, and before windows
/// are made.
///
/// Context: process, may sleep.
pub(super) fn set_up(
    dev: &pci::Device<Bound>,
    managed: &ManagedFunction<'_>,
    engine: &mut ReleaseOnDrop<'_>,
    mode: Mode,
    params: &Params,
) -> Result<Option<CopyPool>> {
    let Some(preference) = preference(managed, mode, params) else {
        return Ok(None);
    };
    let memory = PoolMemory::new(params.pool_bytes(engine.ram_bytes()))?;
    // From here on the memory lives until the engine is released.
    engine.pool_memory = memory;
    let ReleaseOnDrop {
        engine,
        pool_memory,
    } = engine;
    let regions = engine.map_pool(pool_memory.spans())?;
    if regions.is_empty() {
        dev_warn!(
            dev,
            "{}: cannot set up its copy pool: no memory or no room on the host; not copying\n",
            managed
        );
        return Ok(None);
    }
    let preference = match (preference, regions.first()) {
        (Preference::Windows, Some(region)) => Preference::Admitted(measure(&LinearMap, region)),
        (other, _) => other,
    };
    let pool = SlotPool::new(LinearMap, regions, preference, mode == Mode::Strict)?;
    engine.with_host(|host| host.notices()).log();
    Ok(Some(pool))
}
