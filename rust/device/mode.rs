// SPDX-License-Identifier: GPL-2.0

//! The modes of mapping: which one the parameters and the host allow, what each maps in advance,
//! and everything else that differs between them.
//!
//! A new mode belongs here, and so does a new difference between modes: as a method of [`Mode`].

use super::dma_range_map::{
    DmaRangeMap,
    RangeError, //
};
use super::{
    search,
    DeviceEngine, //
};
use crate::addr::{
    Address,
    GRANULE,
    GRANULE_SHIFT, //
};
use crate::driver::params::{
    Params,
    WholeRam,
    HAS_OPS, //
};
use crate::engine::policy::WINDOW_SHIFT;
use crate::engine::static_map::StaticMap;
use crate::engine::{
    Limit,
    MapError, //
};
use crate::host::wire::Dialect;
use crate::host::Dart;
use kernel::{
    device::Bound,
    pci,
    prelude::*, //
};

/// A way of mapping the memory of a managed device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// There is no DART: DMA addresses are guest-physical, and nothing is mapped.
    Identity,
    /// All of RAM is mapped, and the kernel's direct mapping translates addresses.
    Direct,
    /// Windows are small, and are unmapped as soon as they are idle.
    Strict,
    /// All of RAM is mapped, and the module's DMA operations translate addresses.
    WholeRam,
    /// Windows are mapped on demand and kept when they are idle.
    Lazy,
}

impl Mode {
    /// Returns the mode that `params` request for a device behind `dart`.
    pub(super) fn requested(params: &Params, dart: Dart) -> Self {
        match dart {
            Dart::None => Mode::Identity,
            Dart::Assigns(_) if params.is_direct() => Mode::Direct,
            Dart::Assigns(_) if params.strict => Mode::Strict,
            Dart::Assigns(_) if params.whole_ram == WholeRam::IfItFits => Mode::WholeRam,
            Dart::Assigns(_) => Mode::Lazy,
        }
    }

    /// Returns the name of the mode, as sysfs, debugfs and messages print it.
    pub(super) fn name(self) -> &'static CStr {
        match self {
            Mode::Identity => c"identity",
            Mode::Direct => c"direct",
            Mode::Strict => c"strict",
            Mode::WholeRam => c"whole-RAM",
            Mode::Lazy => c"lazy",
        }
    }

    /// Returns the logarithm of the length of windows, as long as nothing is known of the driver's
    /// pattern. In strict mode the device is to reach as little memory as possible.
    pub(super) fn initial_window_shift(self) -> u32 {
        match self {
            Mode::Strict => GRANULE_SHIFT,
            Mode::Identity | Mode::Direct | Mode::WholeRam | Mode::Lazy => WINDOW_SHIFT,
        }
    }

    /// Returns whether windows that are idle for long are to be unmapped.
    pub(super) fn reclaims_by_age(self) -> bool {
        match self {
            Mode::Identity | Mode::Strict => false,
            Mode::Direct | Mode::WholeRam | Mode::Lazy => true,
        }
    }

    /// Returns whether memory that is added later cannot be mapped.
    pub(super) fn is_fixed(self) -> bool {
        self == Mode::Direct
    }

    /// Returns the longest mapping that works in this mode, in bytes, or that can be expected to.
    /// To be called after [`Self::set_up`].
    ///
    /// Context: process, may sleep.
    pub(super) fn max_len(
        self,
        engine: &DeviceEngine<'_>,
        params: &Params,
        dialect: Dialect,
    ) -> u64 {
        match self {
            Mode::Strict | Mode::Lazy => engine.learn_max_len(),
            Mode::Identity | Mode::Direct | Mode::WholeRam => {
                let max = params.max_bytes.min(dialect.max_len());
                max.saturating_sub(GRANULE) & !(GRANULE - 1)
            }
        }
    }

    /// Maps what the mode needs in advance, and returns the mode in effect: whole-RAM mode becomes
    /// lazy mode where RAM cannot be mapped at once. Logs why the mode is not possible.
    ///
    /// Context: process, may sleep.
    pub(super) fn set_up(
        self,
        dev: &pci::Device<Bound>,
        engine: &mut DeviceEngine<'_>,
        params: &Params,
    ) -> Result<Self> {
        match self {
            Mode::Identity => {
                engine.set_identity()?;
                dev_warn!(dev, "host has no DART; DMA addresses are guest-physical\n");
            }
            Mode::Direct => {
                map_all_ram(dev, engine, params)?;
                warn_if_misaligned(dev, engine);
            }
            Mode::WholeRam if !try_map_all_ram(dev, engine) => return Ok(Mode::Lazy),
            Mode::WholeRam | Mode::Strict | Mode::Lazy => {}
        }
        Ok(self)
    }
}

/// Returns the cause of the need to map all of RAM, as a subject for messages.
fn direct_cause() -> &'static str {
    if HAS_OPS {
        "whole_ram=2"
    } else {
        "this kernel has no CONFIG_ARCH_HAS_DMA_OPS"
    }
}

/// Maps all of RAM at once; logs what happened to the host meanwhile, before the caller logs a
/// failure.
fn premap_ram(engine: &mut DeviceEngine<'_>) -> Result<(), MapError> {
    let result = engine.premap_ram();
    engine.with_host(|host| host.notices()).log();
    result
}

/// Maps all of RAM at once for the kernel's direct mapping; logs why if that is not possible.
fn map_all_ram(dev: &pci::Device<Bound>, engine: &mut DeviceEngine<'_>, params: &Params) -> Result {
    let cause = direct_cause();
    let conflict = if params.strict {
        Some("strict=1")
    } else if params.whole_ram == WholeRam::Never {
        Some("whole_ram=0")
    } else {
        None
    };
    if let Some(parameter) = conflict {
        dev_err!(
            dev,
            "{}: cannot map all of RAM at once: excluded by {}\n",
            cause,
            parameter
        );
        return Err(ENODEV);
    }
    let mut result = premap_ram(engine);
    if result.is_err() && engine.search_state().is_running {
        // Something was found that an earlier kernel had left: first all must be.
        search::to_the_end(dev, engine)?;
        result = premap_ram(engine);
    }
    let (max_bytes, _) = engine.allowance();
    result.map_err(|error| {
        match error {
            MapError::Full(Limit::Bytes) => dev_err!(
                dev,
                "{}: cannot map all of RAM at once: {} MiB do not fit max_bytes={} with an eighth \
                 to spare\n",
                cause,
                engine.ram_bytes() >> 20,
                max_bytes
            ),
            error => dev_err!(
                dev,
                "{}: cannot map all of RAM at once: {}\n",
                cause,
                error.as_str()
            ),
        }
        ENODEV
    })
}

/// Warns if allocations of the kernel's direct mapping may be less aligned than the DMA API
/// promises. In other modes such an allocation gets a window of its own.
fn warn_if_misaligned(dev: &pci::Device<Bound>, engine: &DeviceEngine<'_>) {
    if let Some(region) = engine.static_map().and_then(StaticMap::misaligned) {
        dev_warn!(
            dev,
            "coherent memory may be misaligned: RAM at {:#x} is mapped at {:#x}\n",
            region.gpa().start().raw(),
            region.iova().start().raw()
        );
    }
}

/// Maps all of RAM at once if that is possible, and returns whether it was; logs a failure of the
/// host.
fn try_map_all_ram(dev: &pci::Device<Bound>, engine: &mut DeviceEngine<'_>) -> bool {
    let mut result = premap_ram(engine);
    if result.is_err() && search::once_more(engine) {
        result = premap_ram(engine);
    }
    match result {
        Ok(()) => true,
        Err(MapError::Full(_)) => {
            if engine.search_state().is_running {
                dev_info!(
                    dev,
                    "cannot map all of RAM at once before all is found that an earlier kernel \
                     left; mapping on demand\n"
                );
            }
            false
        }
        Err(error) => {
            dev_info!(
                dev,
                "cannot map all of RAM at once: {}; mapping on demand\n",
                error.as_str()
            );
            false
        }
    }
}

/// Returns the ranges for the kernel's direct mapping if it is to translate addresses; logs why if
/// ranges cannot describe the mapping of RAM.
///
/// Context: process, may sleep.
pub(super) fn dma_ranges(
    dev: &pci::Device<Bound>,
    engine: &DeviceEngine<'_>,
    params: &Params,
) -> Result<Option<DmaRangeMap>> {
    if !params.is_direct() {
        return Ok(None);
    }
    match engine.static_map().map(DmaRangeMap::new) {
        Some(Ok(ranges)) => Ok(Some(ranges)),
        Some(Err(RangeError::Discontiguous(gpa))) => {
            dev_err!(
                dev,
                "{}: cannot use direct mapping: RAM is contiguous at {:#x}, but its DMA addresses \
                 are not\n",
                direct_cause(),
                gpa.raw()
            );
            Err(ENODEV)
        }
        Some(Err(RangeError::NoMemory)) => Err(ENOMEM),
        None => Err(EINVAL),
    }
}
