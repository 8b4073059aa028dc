// SPDX-License-Identifier: GPL-2.0

//! The module's parameters: their defaults, limits and meaning.
//!
//! A check of a parameter belongs here; the effect of a parameter on a mode belongs in
//! `device/mode.rs`.

use crate::addr::GRANULE;
use crate::device::pci_address::PciAddress;
use crate::engine::copy::pool::ROW;
use crate::engine::copy::setup::{
    default_bytes,
    most_bytes, //
};
use kernel::prelude::*;

/// The default of `max_bytes`: below the 1.5 GiB that the platform can map, since requests beyond
/// that can crash the host.
pub(crate) const MAX_BYTES: u64 = 1280 << 20;

/// The default of `max_entries`: below the 65,536 mappings that the platform can have.
pub(crate) const MAX_ENTRIES: u32 = 61440;

/// The least value of `max_bytes`: 1 MiB.
pub(crate) const LEAST_BYTES: u64 = 64 * GRANULE;

/// The least value of `max_entries`.
pub(crate) const LEAST_ENTRIES: u32 = 16;

/// The default of `max_idle`, in seconds: long enough for memory that a driver uses from time to
/// time, short enough for memory that a driver has stopped using.
pub(crate) const MAX_IDLE: u32 = 60;

/// Most requests of a doorbell, even if the host accepts more: bounds the time for which interrupts
/// are off, since one request costs the host tens of microseconds at least.
const BATCH_MAX: u32 = 256;

/// Set if this kernel lets a device have DMA operations of its own. Otherwise only the kernel's
/// direct mapping is left to translate addresses, by all of RAM or by bounce buffers.
pub(crate) const HAS_OPS: bool = cfg!(CONFIG_ARCH_HAS_DMA_OPS);

/// The values of the parameter `copy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyMode {
    /// `never`: all memory is mapped where it is.
    Never,
    /// `auto`: what is copied is decided at each mapping.
    Auto,
    /// `always`: whatever may be copied is, unless it is mapped already.
    Always,
}

impl CopyMode {
    /// Returns the mode that `text` names.
    fn parse(text: &str) -> Option<Self> {
        match text {
            "never" => Some(Self::Never),
            "" | "auto" => Some(Self::Auto),
            "always" => Some(Self::Always),
            _ => None,
        }
    }

    /// Returns the name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }
}

/// The values of the parameter `whole_ram`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WholeRam {
    /// 0: RAM is mapped on demand.
    Never,
    /// 1: all of RAM is mapped at once if it fits the limits.
    IfItFits,
    /// 2: all of RAM must be mapped, for the kernel's direct mapping.
    Direct,
    /// 3: the kernel's direct mapping bounces, whether RAM fits the limits or not.
    Bounce,
}

/// The values of the parameter `congruent`: whose large pages get aligned addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Congruent {
    /// 0: those of no device.
    Never,
    /// 1: those of displays and accelerators; of other devices, those that take little.
    ByClass,
    /// 2: those of all devices.
    Always,
}

/// The module's parameters, checked.
#[derive(Clone, Copy)]
pub(crate) struct Params {
    /// Unmap windows as soon as they are idle.
    pub(crate) strict: bool,
    /// Map all of guest RAM at once.
    pub(crate) whole_ram: WholeRam,
    /// Most bytes to have mapped at a time.
    pub(crate) max_bytes: u64,
    /// Most mappings to have at a time.
    pub(crate) max_entries: u32,
    /// `max_bytes` and `max_entries` hold for all devices together, not for each.
    pub(crate) share_limits: bool,
    /// Seconds after which an idle window is unmapped; 0 means never.
    pub(crate) max_idle: u32,
    /// Try to map large pages at addresses that are congruent to the memory's.
    pub(crate) congruent: Congruent,
    /// Most requests of a doorbell, 1 at least.
    pub(crate) batch_max: u32,
    /// Copy what may be copied, rather than map it.
    pub(crate) copy: CopyMode,
    /// Bytes of a copy pool; 0 for the default.
    copy_bytes: u64,
    /// The managed devices of companions that the host does not name rightly.
    managed: ManagedDevices,
}

/// A list of companions and the devices that they manage, as text: `COMPANION=DEVICE`, separated by
/// commas.
#[derive(Clone, Copy)]
struct ManagedDevices(&'static str);

impl ManagedDevices {
    /// Returns the pairs of a companion and its device; [`None`] for each that is none.
    fn pairs(self) -> impl Iterator<Item = Option<(PciAddress, PciAddress)>> {
        let mut rest = Some(self.0).filter(|list| !list.is_empty());
        // Unlike str::split(), split_once() does not refer to a panic.
        core::iter::from_fn(move || {
            let list = rest?;
            let (pair, others) = match list.split_once(',') {
                Some((pair, others)) => (pair, Some(others)),
                None => (list, None),
            };
            rest = others;
            Some(pair)
        })
        .map(|pair| {
            let (companion, device) = pair.split_once('=')?;
            Some((PciAddress::parse(companion)?, PciAddress::parse(device)?))
        })
    }
}

/// The module's parameters as loaded, unchecked.
pub(crate) struct RawParams {
    /// See [`Params`]; 0 or 1.
    pub(crate) strict: u8,
    /// See [`WholeRam`]; 0 to 3.
    pub(crate) whole_ram: u8,
    /// See [`Params`].
    pub(crate) max_bytes: u64,
    /// See [`Params`].
    pub(crate) max_entries: u32,
    /// See [`Params`]; 0 or 1.
    pub(crate) share_limits: u8,
    /// See [`Params`].
    pub(crate) max_idle: u32,
    /// See [`Congruent`]; 0 to 2.
    pub(crate) congruent: u8,
    /// See [`Params::batch_max`]; 0 for the default.
    pub(crate) max_batch: u32,
    /// See [`CopyMode`]; empty for the default.
    pub(crate) copy: &'static CStr,
    /// See [`Params::pool_bytes`].
    pub(crate) copy_bytes: u64,
    /// See [`Params::managed_by`].
    pub(crate) managed: &'static CStr,
}

/// Converts the value of the boolean parameter `name`; logs a wrong one.
fn flag(name: &str, value: u8) -> Result<bool> {
    if value > 1 {
        pr_err!("{}={}: invalid value: must be 0 or 1\n", name, value);
        return Err(EINVAL);
    }
    Ok(value == 1)
}

impl Params {
    /// Checks the parameters; logs which one is wrong and what it may be.
    pub(crate) fn new(raw: &RawParams) -> Result<Self> {
        let strict = flag("strict", raw.strict)?;
        let share_limits = flag("share_limits", raw.share_limits)?;
        let whole_ram = match raw.whole_ram {
            0 => WholeRam::Never,
            1 => WholeRam::IfItFits,
            2 => WholeRam::Direct,
            3 => WholeRam::Bounce,
            other => {
                pr_err!("whole_ram={}: invalid value: must be 0 to 3\n", other);
                return Err(EINVAL);
            }
        };
        let congruent = match raw.congruent {
            0 => Congruent::Never,
            1 => Congruent::ByClass,
            2 => Congruent::Always,
            other => {
                pr_err!("congruent={}: invalid value: must be 0 to 2\n", other);
                return Err(EINVAL);
            }
        };
        if !(LEAST_BYTES..=1 << 50).contains(&raw.max_bytes) {
            pr_err!(
                "max_bytes={}: invalid value: must be between 1 MiB and 1 PiB\n",
                raw.max_bytes
            );
            return Err(EINVAL);
        }
        if !(LEAST_ENTRIES..=1 << 20).contains(&raw.max_entries) {
            pr_err!(
                "max_entries={}: invalid value: must be between 16 and 1048576\n",
                raw.max_entries
            );
            return Err(EINVAL);
        }
        if raw.max_idle > 86400 {
            pr_err!(
                "max_idle={}: invalid value: must be at most 86400\n",
                raw.max_idle
            );
            return Err(EINVAL);
        }
        if raw.max_batch > BATCH_MAX {
            pr_err!(
                "max_batch={}: invalid value: must be 0 to 256\n",
                raw.max_batch
            );
            return Err(EINVAL);
        }
        let Some(copy) = raw.copy.to_str().ok().and_then(CopyMode::parse) else {
            pr_err!(
                "copy={}: invalid value: must be auto, never or always\n",
                raw.copy
            );
            return Err(EINVAL);
        };
        // A pool takes room from windows.
        if raw.copy_bytes != 0 && !(ROW..=raw.max_bytes / 2).contains(&raw.copy_bytes) {
            pr_err!(
                "copy_bytes={}: invalid value: must be 0, or between 256 KiB and half of \
                 max_bytes\n",
                raw.copy_bytes
            );
            return Err(EINVAL);
        }
        let managed = raw.managed.to_str().ok().map(ManagedDevices);
        let Some(managed) = managed.filter(|list| list.pairs().all(|pair| pair.is_some())) else {
            pr_err!(
                "managed={}: invalid value: must be COMPANION=DEVICE[,...], PCI addresses\n",
                raw.managed
            );
            return Err(EINVAL);
        };
        Ok(Self {
            strict,
            whole_ram,
            max_bytes: raw.max_bytes,
            max_entries: raw.max_entries,
            share_limits,
            max_idle: raw.max_idle,
            congruent,
            batch_max: match raw.max_batch {
                0 => BATCH_MAX,
                most => most,
            },
            copy,
            copy_bytes: raw.copy_bytes,
            managed,
        })
    }

    /// Returns the device that `companion` manages, if a parameter names it.
    pub(crate) fn managed_by(&self, companion: PciAddress) -> Option<PciAddress> {
        let mut pairs = self.managed.pairs().flatten();
        pairs
            .find(|(address, _)| *address == companion)
            .map(|(_, device)| device)
    }

    /// Returns the bytes of a copy pool in a guest with `ram_bytes` of RAM, in whole rows: those
    /// of the parameter, or [`default_bytes`], but no more than [`most_bytes`].
    pub(crate) fn pool_bytes(&self, ram_bytes: u64) -> u64 {
        let bytes = match self.copy_bytes {
            0 => default_bytes(ram_bytes, self.max_bytes),
            bytes => bytes & !(ROW - 1),
        };
        bytes.min(most_bytes(self.max_entries))
    }

    /// Returns whether the kernel's direct mapping is to translate addresses, rather than the
    /// module's DMA operations: by request, or because this kernel has nothing else.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.whole_ram, WholeRam::Direct | WholeRam::Bounce) || !HAS_OPS
    }
}
