// SPDX-License-Identifier: GPL-2.0

//! The size of the copy pool, and mapping its memory when the engine is set up.

use super::pool::ROW;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan, //
};
use crate::engine::policy::Policy;
use crate::engine::static_map::Region;
use crate::engine::{
    Engine,
    Host,
    MapError,
    Observer, //
};
use crate::sys::{
    Alloc,
    AllocError,
    BoxedSlice, //
};

/// Most bytes of a pool by default: some ten milliseconds of the fastest devices.
const DEFAULT_MAX: u64 = 64 << 20;

/// Bytes of the largest block of memory for a pool. No page size has smaller largest blocks.
pub(crate) const BLOCK: u64 = 4 << 20;

/// The part of the mappings at a time that a pool may be, as a divisor.
const ENTRIES_SHARE: u32 = 8;

/// Returns the most bytes of a pool with the limit `max_entries`: with as many as that, the largest
/// blocks leave most mappings to windows.
pub(crate) fn most_bytes(max_entries: u32) -> u64 {
    BLOCK.saturating_mul((max_entries / ENTRIES_SHARE).into())
}

/// Returns the bytes of a pool by default, in a guest with `ram_bytes` of RAM and the limit
/// `max_bytes`: 1/16 of RAM, but no more than 64 MiB nor 1/8 of the limit, in whole rows.
pub(crate) fn default_bytes(ram_bytes: u64, max_bytes: u64) -> u64 {
    DEFAULT_MAX.min(ram_bytes / 16).min(max_bytes / 8) & !(ROW - 1)
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Has the host map `blocks` until the end of the engine, for a copy pool, and returns what
    /// it mapped. Their addresses are kept free of windows. A block that the host refuses is mapped
    /// in parts, a row each at least. After any other failure the rest is left out, and so is what
    /// would take more than an eighth of the limit of mappings, if not one. To be called after
    /// [`Engine::reserve`], which makes room, and before anything else is mapped.
    ///
    /// Context: process, may sleep.
    pub(crate) fn map_pool(&mut self, blocks: &[GpaSpan]) -> Result<&[Region], AllocError> {
        let rows = blocks.iter().map(|block| block.len() / ROW);
        let rows = rows.fold(0, u64::saturating_add);
        let rows = rows.min((self.limits().entries / ENTRIES_SHARE).max(1).into());
        let rows = usize::try_from(rows).map_err(|_| AllocError)?;
        let mut regions: BoxedSlice<Option<Region>> =
            BoxedSlice::new(rows, Alloc::Sleep, |_| None)?;
        let mut count: usize = 0;
        let mut longest = u64::MAX;
        'blocks: for block in blocks {
            let mut start = block.start().raw();
            while let Some(left) = block.end().checked_sub(start).filter(|left| *left >= ROW) {
                let len = left.min(longest);
                let part = GpaSpan::new(Gpa::new(start), len).ok_or(AllocError)?;
                let Some((earlier, [place, ..])) = regions.split_at_mut_checked(count) else {
                    break 'blocks;
                };
                match self.map_part(&part, earlier) {
                    Ok(region) => {
                        *place = Some(region);
                        count = count.saturating_add(1);
                        start = part.end();
                    }
                    // The host may have no room for as much in one piece.
                    Err(MapError::Refused) if len > ROW => {
                        longest = (len / 2).max(ROW) & !(ROW - 1)
                    }
                    Err(_) => break 'blocks,
                }
            }
        }
        // Of a part that failed, the host may have something all the same.
        self.unmap_retired();
        let mapped = regions.get(..count).unwrap_or(&[]);
        if let Some(first) = mapped.first().copied().flatten() {
            self.pool_regions = BoxedSlice::new(count, Alloc::Sleep, |index| {
                mapped.get(index).copied().flatten().unwrap_or(first)
            })?;
        }
        Ok(&self.pool_regions)
    }

    /// Has the host map `part` of a block, apart from `earlier` ones.
    fn map_part(&self, part: &GpaSpan, earlier: &[Option<Region>]) -> Result<Region, MapError> {
        let premapped = match self.premap(part) {
            // An earlier kernel may have left a mapping with this key.
            Err(MapError::Refused) if self.recover() => self.premap(part),
            result => result,
        }?;
        let region = premapped.region();
        if earlier.iter().flatten().any(|e| e.overlaps(&region)) {
            // It stays mapped, and unused, until the engine ends.
            return Err(MapError::NoKey);
        }
        self.report_premapped(&premapped);
        let state = &mut *self.state.lock();
        state.highest_iova = state.highest_iova.max(region.iova().last());
        Ok(region)
    }
}
