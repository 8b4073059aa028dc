// SPDX-License-Identifier: GPL-2.0

//! The module's parameters, checked.

use crate::addr::GRANULE;
use kernel::prelude::*;

/// Most bytes that may be mapped at a time, by default: below the 1.5 GiB that the platform holds,
/// since asking it for more can bring the host down.
pub(crate) const MAX_BYTES: u64 = 1280 << 20;

/// Most mappings at a time, by default: below the 65,536 that the platform holds.
pub(crate) const MAX_ENTRIES: u32 = 61440;

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
}

impl Params {
    /// Checks the parameters; says which is wrong and what it may be.
    pub(crate) fn new(strict: u8, whole_ram: u8, max_bytes: u64, max_entries: u32) -> Result<Self> {
        if strict > 1 {
            pr_err!("strict={} is neither 0 nor 1\n", strict);
            return Err(EINVAL);
        }
        let whole_ram = match whole_ram {
            0 => WholeRam::Never,
            1 => WholeRam::IfItFits,
            2 => WholeRam::Direct,
            _ => {
                pr_err!("whole_ram={} is none of 0, 1 and 2\n", whole_ram);
                return Err(EINVAL);
            }
        };
        if !(64 * GRANULE..=1 << 50).contains(&max_bytes) {
            pr_err!("max_bytes={} is not between 1 MiB and 1 PiB\n", max_bytes);
            return Err(EINVAL);
        }
        if !(16..=1 << 20).contains(&max_entries) {
            pr_err!(
                "max_entries={} is not between 16 and 1048576\n",
                max_entries
            );
            return Err(EINVAL);
        }
        Ok(Self {
            strict: strict == 1,
            whole_ram,
            max_bytes,
            max_entries,
        })
    }

    /// Whether the kernel's direct mapping is to translate addresses, rather than operations of
    /// ours: by request, or because this kernel has nothing else.
    pub(crate) fn is_direct(&self) -> bool {
        self.whole_ram == WholeRam::Direct || !HAS_OPS
    }
}
