// SPDX-License-Identifier: GPL-2.0

//! The modes of mapping: which one the parameters and the host allow, what each maps in advance,
//! and everything else that differs between them.
//!
//! A new mode belongs here, and so does a new difference between modes: as a method of [`Mode`].

use super::dma_range_map::{
    DmaRangeMap,
    RangeError, //
};
use super::swiotlb::{
    self,
    CoherentMemory, //
};
use super::{
    search,
    DeviceEngine, //
};
use crate::addr::{
    Address,
    GpaSpan,
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
    /// Bounce buffers and coherent memory are mapped; the kernel's direct mapping translates
    /// addresses, and bounces.
    Bounce,
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
            Dart::Assigns(_) if params.whole_ram == WholeRam::Bounce => Mode::Bounce,
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
            Mode::Bounce => c"bounce",
            Mode::Strict => c"strict",
            Mode::WholeRam => c"whole-ram",
            Mode::Lazy => c"lazy",
        }
    }

    /// Returns the logarithm of the length of windows, as long as nothing is known of the driver's
    /// pattern. In strict mode the device is to reach as little memory as possible.
    pub(super) fn initial_window_shift(self) -> u32 {
        match self {
            Mode::Strict => GRANULE_SHIFT,
            Mode::Identity | Mode::Direct | Mode::Bounce | Mode::WholeRam | Mode::Lazy => {
                WINDOW_SHIFT
            }
        }
    }

    /// Returns whether windows that are idle for long are to be unmapped.
    pub(super) fn reclaims_by_age(self) -> bool {
        match self {
            Mode::Identity | Mode::Strict | Mode::Bounce => false,
            Mode::Direct | Mode::WholeRam | Mode::Lazy => true,
        }
    }

    /// Returns whether memory that is added later cannot be mapped.
    pub(super) fn is_fixed(self) -> bool {
        self == Mode::Direct
    }

    /// Returns whether the engine has all of RAM mapped if it has any mapped for good.
    pub(super) fn fixes_all_ram(self) -> bool {
        self != Mode::Bounce
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
            Mode::Identity | Mode::Direct | Mode::Bounce | Mode::WholeRam => {
                let max = params.max_bytes.min(dialect.max_len());
                max.saturating_sub(GRANULE) & !(GRANULE - 1)
            }
        }
    }

    /// Maps what the mode needs in advance, and returns the mode in effect: whole-ram mode becomes
    /// lazy mode where RAM cannot be mapped at once, and direct mode becomes bounce mode where that
    /// is not asked for and all of RAM does not fit. Logs why the mode is not possible. Sets
    /// `coherent` in bounce mode.
    ///
    /// Context: process, may sleep.
    pub(super) fn set_up(
        self,
        dev: &pci::Device<Bound>,
        engine: &mut DeviceEngine<'_>,
        params: &Params,
        coherent: &mut Option<CoherentMemory>,
    ) -> Result<Self> {
        match self {
            Mode::Identity => {
                engine.set_identity()?;
                dev_warn!(dev, "host has no DART; DMA addresses are guest-physical\n");
            }
            Mode::Direct => {
                check_conflicts(dev, params)?;
                let mut result = premap_ram(engine);
                if result.is_err()
                    && engine.search_state().is_running
                    && search::needs_all_ram(engine, params)
                {
                    // Something was found that an earlier kernel had left: first all must be.
                    search::to_the_end(dev, engine)?;
                    result = premap_ram(engine);
                }
                match result {
                    Ok(()) => warn_if_misaligned(dev, engine, None),
                    Err(MapError::Full(_)) if params.whole_ram == WholeRam::IfItFits => {
                        return Mode::Bounce.set_up(dev, engine, params, coherent);
                    }
                    Err(error) => return Err(cannot_map_all_ram(dev, engine, params, error)),
                }
            }
            Mode::Bounce => {
                check_conflicts(dev, params)?;
                let memory = coherent.insert(swiotlb::set_up(dev, engine, params)?);
                warn_if_misaligned(dev, engine, memory.pool().span());
            }
            Mode::WholeRam if !try_map_all_ram(dev, engine) => return Ok(Mode::Lazy),
            Mode::WholeRam | Mode::Strict | Mode::Lazy => {}
        }
        Ok(self)
    }
}

/// Returns the cause of the need for direct mapping, as a subject for messages.
pub(super) fn direct_cause(params: &Params) -> &'static str {
    match params.whole_ram {
        WholeRam::Bounce => "whole_ram=3",
        _ if !HAS_OPS => "this kernel has no CONFIG_ARCH_HAS_DMA_OPS",
        _ => "whole_ram=2",
    }
}

/// Maps all of RAM at once; logs what happened to the host meanwhile, before the caller logs a
/// failure.
fn premap_ram(engine: &mut DeviceEngine<'_>) -> Result<(), MapError> {
    let result = engine.premap_ram();
    engine.with_host(|host| host.notices()).log();
    result
}

/// Checks that the parameters allow direct mapping; logs which one does not.
fn check_conflicts(dev: &pci::Device<Bound>, params: &Params) -> Result {
    let conflict = if params.strict {
        Some("strict=1")
    } else if params.whole_ram == WholeRam::Never {
        Some("whole_ram=0")
    } else {
        None
    };
    let Some(parameter) = conflict else {
        return Ok(());
    };
    dev_err!(
        dev,
        "{}: cannot map all of RAM at once: excluded by {}\n",
        direct_cause(params),
        parameter
    );
    Err(ENODEV)
}

/// Logs why all of RAM cannot be mapped for the kernel's direct mapping; returns the error.
fn cannot_map_all_ram(
    dev: &pci::Device<Bound>,
    engine: &DeviceEngine<'_>,
    params: &Params,
    error: MapError,
) -> Error {
    let cause = direct_cause(params);
    match error {
        MapError::Full(Limit::Bytes) => dev_err!(
            dev,
            "{}: cannot map all of RAM at once: {} MiB do not fit max_bytes={} with an eighth \
             to spare\n",
            cause,
            engine.ram_bytes() >> 20,
            engine.allowance().0
        ),
        error => dev_err!(
            dev,
            "{}: cannot map all of RAM at once: {}\n",
            cause,
            error.as_str()
        ),
    }
    ENODEV
}

/// Warns if allocations of the kernel's direct mapping, from `memory` if that is not [`None`], may
/// be less aligned than the DMA API promises. In other modes such an allocation gets a window of
/// its own.
fn warn_if_misaligned(
    dev: &pci::Device<Bound>,
    engine: &DeviceEngine<'_>,
    memory: Option<GpaSpan>,
) {
    let regions = engine.static_map().map_or(&[][..], StaticMap::regions);
    let misaligned = regions.iter().find(|region| {
        region.is_misaligned() && memory.is_none_or(|memory| memory.covers(&region.gpa()))
    });
    if let Some(region) = misaligned {
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
/// ranges cannot describe the mapping of RAM. `coherent` is the memory of bounce mode.
///
/// Context: process, may sleep.
pub(super) fn dma_ranges(
    dev: &pci::Device<Bound>,
    engine: &DeviceEngine<'_>,
    params: &Params,
    coherent: Option<&CoherentMemory>,
) -> Result<Option<DmaRangeMap>> {
    if !params.is_direct() {
        return Ok(None);
    }
    // No buffer is partly in this memory.
    let apart = coherent.and_then(|memory| memory.pool().span());
    match engine.static_map().map(|map| DmaRangeMap::new(map, apart)) {
        Some(Ok(ranges)) => Ok(Some(ranges)),
        Some(Err(RangeError::Discontiguous(gpa))) => {
            dev_err!(
                dev,
                "{}: cannot use direct mapping: RAM is contiguous at {:#x}, but its DMA addresses \
                 are not\n",
                direct_cause(params),
                gpa.raw()
            );
            Err(ENODEV)
        }
        Some(Err(RangeError::NoMemory)) => Err(ENOMEM),
        None => Err(EINVAL),
    }
}
