// SPDX-License-Identifier: GPL-2.0

//! The copy pool of a replay: which mappings are copied, and the time that it takes. No data are
//! copied, since a recording has none.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan, //
};
use crate::engine::copy::pool::{
    measure,
    SlotPool,
    ROW, //
};
use crate::engine::copy::{
    Memory,
    Preference,
    Transfer, //
};
use crate::engine::policy::Policy;
use crate::engine::{
    Engine,
    Host, //
};
use crate::replay::{
    Mode,
    Parameters, //
};
use crate::sys::pass_ns;

/// Nanoseconds to copy a KiB: 128 KiB take 10 µs, as in guests on a Mac.
const KIB_NS: u64 = 80;

/// The values of the module's parameter `copy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyMode {
    /// All memory is mapped where it is.
    #[default]
    Never,
    /// The engine decides at each mapping.
    Auto,
    /// Whatever may be copied is, unless it is mapped already.
    Always,
}

/// The direction of a mapping that may be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyDirection {
    /// The device reads.
    ToDevice,
    /// The device writes.
    FromDevice,
}

impl From<CopyDirection> for Transfer {
    fn from(direction: CopyDirection) -> Self {
        match direction {
            CopyDirection::ToDevice => Self::ToDevice,
            CopyDirection::FromDevice => Self::FromDevice,
        }
    }
}

/// Memory without contents.
pub(crate) struct NoContents;

impl Memory for NoContents {
    fn reaches(&self, _: &GpaSpan) -> bool {
        true
    }

    fn copy(&self, _: Gpa, _: Gpa, len: u64) {
        pass_ns(len.saturating_mul(KIB_NS) >> 10);
    }

    fn clear(&self, _: &GpaSpan) {}

    fn processor(&self) -> usize {
        0
    }

    fn others_run(&self) -> bool {
        // Calls are sequential: no other one unmaps meanwhile.
        false
    }

    fn pause(&self) {}
}

/// Returns the memory of the pool that `parameters` ask for: behind all `blocks` of RAM. [`None`]
/// if there is to be no pool.
pub(crate) fn pool_memory(parameters: &Parameters, blocks: &[GpaSpan]) -> Option<GpaSpan> {
    if parameters.copy == CopyMode::Never || parameters.mode == Mode::WholeRam {
        return None;
    }
    let start = blocks.last()?.end().checked_next_multiple_of(ROW)?;
    GpaSpan::new(Gpa::new(start), parameters.copy_bytes & !(ROW - 1))
}

/// Sets up a pool of `memory`, which the host maps at first.
pub(crate) fn set_up<H: Host, P: Policy>(
    engine: &mut Engine<H, P, ()>,
    memory: GpaSpan,
    parameters: &Parameters,
) -> Result<SlotPool<NoContents>, String> {
    let no_memory = |_| "no memory for tables".to_owned();
    let regions = engine.map_pool(&[memory]).map_err(no_memory)?;
    let first = regions
        .first()
        .ok_or("the limits have no room for the copy pool")?;
    let is_strict = parameters.mode == Mode::Strict;
    let preference = match parameters.copy {
        _ if is_strict => Preference::Slots,
        CopyMode::Auto => Preference::Admitted(measure(&NoContents, first)),
        CopyMode::Never | CopyMode::Always => Preference::NewSlots,
    };
    SlotPool::new(NoContents, regions, preference, is_strict).map_err(no_memory)
}
