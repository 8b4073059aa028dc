// SPDX-License-Identifier: GPL-2.0

//! The module's parameters, checked.

use crate::addr::GRANULE;
use kernel::prelude::*;

/// Most bytes that may be mapped at a time, by default: below the 1.5 GiB that the platform holds,
/// since asking it for more can bring the host down.
pub(crate) const MAX_BYTES: u64 = 1280 << 20;

/// Most mappings at a time, by default: below the 65,536 that the platform holds.
pub(crate) const MAX_ENTRIES: u32 = 61440;

/// Seconds after which an idle window is given back, by default: long enough for what a driver uses
/// now and then, short enough for what it does not use any more.
pub(crate) const MAX_IDLE: u32 = 60;
/// Whether this kernel lets a device have DMA operations of its own. Where it does not, all of
/// guest RAM must be mapped, since only the kernel's direct mapping is left to translate addresses.
pub(crate) const HAS_OPS: bool = cfg!(CONFIG_ARCH_HAS_DMA_OPS);

/// Whether all of guest RAM is mapped at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WholeRam {
    /// It is not.
    Never,
    /// It is if it fits the limits.
    IfItFits,
    /// It must be, for the kernel's direct mapping.
    Direct,
}

/// See the module's documentation.
pub(crate) struct Params {
    /// Give windows back as soon as they are idle.
    pub(crate) strict: bool,
    /// Map all of guest RAM at once.
    pub(crate) whole_ram: WholeRam,
    /// Most bytes to have mapped at a time.
    pub(crate) max_bytes: u64,
    /// Most mappings to have at a time.
    pub(crate) max_entries: u32,
    /// Seconds after which an idle window is given back; 0 is never.
    pub(crate) max_idle: u32,
    /// Try to give large buffers addresses that are congruent to the memory's.
    pub(crate) congruent: bool,
}

/// The parameters as they were given.
pub(crate) struct RawParams {
    /// See [`Params`]; 0 or 1.
    pub(crate) strict: u8,
    /// See [`Params`]; 0 or 1.
    pub(crate) whole_ram: u8,
    /// See [`Params`].
    pub(crate) max_bytes: u64,
    /// See [`Params`].
    pub(crate) max_entries: u32,
    /// See [`Params`].
    pub(crate) max_idle: u32,
    /// See [`Params`]; 0 or 1.
    pub(crate) congruent: u8,
}

/// The parameter `name`, which says yes or no.
fn flag(name: &str, value: u8) -> Result<bool> {
    if value > 1 {
        pr_err!("{}={} is neither 0 nor 1\n", name, value);
        return Err(EINVAL);
    }
    Ok(value == 1)
}

impl Params {
    /// Checks the parameters; says which is wrong and what it may be.
    pub(crate) fn new(raw: &RawParams) -> Result<Self> {
        let strict = flag("strict", raw.strict)?;
        let congruent = flag("congruent", raw.congruent)?;
        let whole_ram = match raw.whole_ram {
            0 => WholeRam::Never,
            1 => WholeRam::IfItFits,
            2 => WholeRam::Direct,
            other => {
                pr_err!("whole_ram={} is none of 0, 1 and 2\n", other);
                return Err(EINVAL);
            }
        };
        if !(64 * GRANULE..=1 << 50).contains(&raw.max_bytes) {
            pr_err!(
                "max_bytes={} is not between 1 MiB and 1 PiB\n",
                raw.max_bytes
            );
            return Err(EINVAL);
        }
        if !(16..=1 << 20).contains(&raw.max_entries) {
            pr_err!(
                "max_entries={} is not between 16 and 1048576\n",
                raw.max_entries
            );
            return Err(EINVAL);
        }
        if raw.max_idle > 86400 {
            pr_err!("max_idle={} is more than 86400\n", raw.max_idle);
            return Err(EINVAL);
        }
        Ok(Self {
            strict,
            whole_ram,
            max_bytes: raw.max_bytes,
            max_entries: raw.max_entries,
            max_idle: raw.max_idle,
            congruent,
        })
    }

    /// Whether the kernel's direct mapping is to translate addresses, rather than operations of
    /// ours: by request, or because this kernel has nothing else.
    pub(crate) fn is_direct(&self) -> bool {
        self.whole_ram == WholeRam::Direct || !HAS_OPS
    }
}
