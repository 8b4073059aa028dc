// SPDX-License-Identifier: GPL-2.0

//! Mapping all of RAM, or some memory for good, when the engine is set up. The result is a
//! [`StaticMap`], which does the look-ups from then on.
//!
//! A region whose IOVA is congruent to its guest address serves all allocations at the alignment
//! that the DMA API promises. The whole of RAM cannot be extended by padding, so a misaligned
//! region is unmapped and mapped again while a filler, some other mapping, takes as many IOVAs as
//! are missing: on a host that fills free ranges from one end, the region moves by the filler's
//! length.

use super::alignment::{
    misalignment,
    of_region,
    AllocOrder,
    ALIGNMENT_MAX, //
};
use super::budget::cost;
use super::create::Obstacle;
use super::forecast::GUARD_MAX;
use super::host::{
    MapOutcome,
    ReplyError, //
};
use super::index::arena::Id;
use super::{
    Command,
    Engine,
    Host,
    HostError,
    Limit,
    MapEntry,
    MapError,
    Observer,
    WindowInfo, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE_SHIFT, //
};
use crate::engine::policy::Policy;
use crate::engine::static_map::{
    Region,
    StaticMap,
    MAX_REGIONS, //
};
use crate::engine::window::State;
use crate::sys::{
    Alloc,
    AllocError,
    BoxedSlice, //
};

/// Largest region to request, in bytes: the largest power of two that both dialects of the wire can
/// express.
const REGION_MAX: u64 = 2 << 30;

/// Smallest region size to try, in bytes.
const REGION_MIN: u64 = 64 << 20;

/// Most fillers for one region.
const FILLERS: usize = 6;

/// A mapping that was made in advance.
#[derive(Clone, Copy)]
pub(super) struct Premapped {
    id: Id,
    region: Region,
}

impl Premapped {
    /// Returns the memory and its IOVAs.
    pub(super) fn region(&self) -> Region {
        self.region
    }

    /// Returns the first IOVA.
    fn iova(&self) -> Iova {
        self.region.iova().start()
    }
}

/// The pattern in which the host assigns IOVAs to mappings in a row.
struct Pattern {
    order: AllocOrder,
    /// Bytes that the host leaves free between two mappings.
    guard: u64,
}

impl Pattern {
    /// Returns the length of the filler that should move a mapping, which is misaligned by
    /// `missing` modulo `modulus`, to an aligned IOVA.
    fn filler(&self, missing: u64, modulus: u64) -> u64 {
        let shift = match self.order {
            AllocOrder::BottomUp => missing,
            AllocOrder::TopDown => missing.wrapping_neg(),
        };
        match shift.wrapping_sub(self.guard) & modulus.wrapping_sub(1) {
            0 => modulus,
            len => len,
        }
    }

    /// Learns from a mapping that a filler of `len` bytes has moved. Returns whether it fits a
    /// pattern.
    fn learn(&mut self, before: Iova, after: Iova, len: u64) -> bool {
        let up = after.raw().wrapping_sub(before.raw());
        for (order, moved) in [
            (AllocOrder::BottomUp, up),
            (AllocOrder::TopDown, up.wrapping_neg()),
        ] {
            if let Some(guard) = moved.checked_sub(len).filter(|guard| *guard <= GUARD_MAX) {
                *self = Self { order, guard };
                return true;
            }
        }
        false
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Maps all of RAM at once, if it fits the limit with an eighth to spare for memory that is
    /// added later, and if windows may stay mapped. On failure nothing is mapped. To be called
    /// after [`Engine::reserve`], which makes room for the regions.
    ///
    /// Context: process, may sleep.
    pub(crate) fn premap_ram(&mut self) -> Result<(), MapError> {
        self.premap_blocks(self.ram_bytes(), |engine, index| {
            engine.state.lock().ram.blocks().get(index).copied()
        })
    }

    /// Maps `spans`, which are sorted by address, and no other memory; otherwise as
    /// [`Self::premap_ram`].
    ///
    /// Context: process, may sleep.
    pub(crate) fn premap_spans(&mut self, spans: &[GpaSpan]) -> Result<(), MapError> {
        let bytes = spans.iter().map(cost).fold(0, u64::saturating_add);
        self.premap_blocks(bytes, |_, index| spans.get(index).copied())
    }

    /// Maps the memory that `block` returns for each index, `bytes` in all.
    fn premap_blocks(
        &mut self,
        bytes: u64,
        block: impl Fn(&Self, usize) -> Option<GpaSpan>,
    ) -> Result<(), MapError> {
        let (max_bytes, _) = self.allowance();
        let budget = max_bytes.saturating_sub(max_bytes / 8);
        if self.strict || bytes > budget {
            return Err(MapError::Full(Limit::Bytes));
        }
        let mut size = REGION_MAX;
        loop {
            match self.premap_regions(size, |index| block(self, index)) {
                Ok(static_map) => {
                    self.static_map = Some(static_map);
                    return Ok(());
                }
                Err(error) => {
                    self.unmap_all_windows();
                    // The host may accept smaller regions, if `MAX_REGIONS` of them suffice.
                    if error != MapError::Refused || size <= REGION_MIN {
                        return Err(error);
                    }
                }
            }
            size /= 4;
        }
    }

    /// Makes all IOVAs equal to the guest-physical addresses, for a host without a DART. Nothing
    /// needs to be mapped then.
    ///
    /// Context: process, may sleep.
    pub(crate) fn set_identity(&mut self) -> Result<(), AllocError> {
        let region = GpaSpan::from_bounds(0, u64::MAX)
            .and_then(|all| Region::new(all, Iova::new(0)))
            .ok_or(AllocError)?;
        self.static_map = Some(StaticMap::new(BoxedSlice::new(1, Alloc::Sleep, |_| {
            region
        })?)?);
        Ok(())
    }

    /// Maps the memory that `block` returns for each index, in regions of at most `size` bytes. On
    /// failure some may be mapped.
    fn premap_regions(
        &self,
        size: u64,
        block: impl Fn(usize) -> Option<GpaSpan>,
    ) -> Result<StaticMap, MapError> {
        let mut regions: BoxedSlice<Option<Region>> =
            BoxedSlice::new(MAX_REGIONS, Alloc::Sleep, |_| None).map_err(|_| MapError::NoMemory)?;
        let mut count: usize = 0;
        let mut pattern = Pattern {
            order: self.state.lock().alloc_order,
            guard: 0,
        };
        for block in (0..).map_while(block) {
            let mut start = block.start().raw();
            while start < block.end() {
                let end = start.saturating_add(size).min(block.end());
                let span = GpaSpan::from_bounds(start, end).ok_or(MapError::Invalid)?;
                let (earlier, free) = regions
                    .split_at_mut_checked(count)
                    .ok_or(MapError::Full(Limit::Entries))?;
                let place = free.first_mut().ok_or(MapError::Full(Limit::Entries))?;
                let premapped = match self.premap_aligned(&span, &mut pattern) {
                    // An earlier kernel may have left a mapping with this key.
                    Err(MapError::Refused) if self.recover() => {
                        self.premap_aligned(&span, &mut pattern)
                    }
                    result => result,
                }?;
                let region = premapped.region;
                let overlaps = earlier
                    .iter()
                    .flatten()
                    .any(|other| other.overlaps(&region));
                if overlaps {
                    let error = HostError::Rejected(ReplyError::Overlap);
                    self.host_error(&mut self.state.lock(), Command::Map, &span, error);
                    return Err(MapError::Rejected(ReplyError::Overlap));
                }
                self.report_premapped(&premapped);
                *place = Some(region);
                count = count.saturating_add(1);
                start = end;
            }
        }
        self.state.lock().alloc_order = pattern.order;
        let regions = regions.get(..count).unwrap_or(&[]);
        let first = regions
            .first()
            .copied()
            .flatten()
            .ok_or(MapError::Invalid)?;
        BoxedSlice::new(count, Alloc::Sleep, |index| {
            regions.get(index).copied().flatten().unwrap_or(first)
        })
        .and_then(StaticMap::new)
        .map_err(|_| MapError::NoMemory)
    }

    /// Maps one region, until the end of the engine, at an aligned IOVA if the host gives one.
    fn premap_aligned(&self, span: &GpaSpan, host: &mut Pattern) -> Result<Premapped, MapError> {
        let mut premapped = self.premap(span)?;
        let Some(modulus) = of_region(span) else {
            return Ok(premapped);
        };
        // They stay until the region is mapped, so that holes that are too short get filled.
        let mut fillers = [None; FILLERS];
        let mut longer = None;
        let mut surprised = false;
        for (slot, index) in fillers.iter_mut().zip(0..) {
            let before = premapped.iova();
            let missing = misalignment(span.start(), before, modulus);
            let shift = host.filler(missing, modulus);
            let expects_shift = longer.is_none();
            let len = longer.take().unwrap_or(shift);
            let Some(filler) = self.filler(len, index).filter(|_| missing != 0) else {
                break;
            };
            self.unmap_premapped(&premapped)?;
            *slot = self.premap(&filler).ok();
            // Of a filler that failed, the host may have something all the same.
            self.unmap_retired();
            premapped = match self.premap(span) {
                // There may be no other place for the region than that of the fillers.
                Err(MapError::Refused) => {
                    self.unmap_fillers(&mut fillers)?;
                    return self.premap(span);
                }
                result => result?,
            };
            if premapped.iova() == before {
                let filler = slot.as_ref().map(Premapped::iova);
                let in_front = filler.is_some_and(|filler| filler < before);
                longer = Some(if in_front == (host.order == AllocOrder::BottomUp) {
                    // It went to a shorter hole: the next is too long for any.
                    shift.saturating_add(ALIGNMENT_MAX)
                } else {
                    // The region is in a hole without room for it: the next fills the hole.
                    cost(span)
                });
            } else if !host.learn(before, premapped.iova(), len) && expects_shift {
                if surprised {
                    // The host does not fill free ranges from one end.
                    break;
                }
                surprised = true;
            }
        }
        self.unmap_fillers(&mut fillers)?;
        Ok(premapped)
    }

    /// Reports that a mapping was made that stays.
    pub(super) fn report_premapped(&self, premapped: &Premapped) {
        let window = self.index.window(premapped.id);
        if let Some(info) = window.and_then(WindowInfo::new) {
            self.observer.created(&info);
        }
    }

    /// Unmaps `fillers`.
    fn unmap_fillers(&self, fillers: &mut [Option<Premapped>]) -> Result<(), MapError> {
        fillers
            .iter_mut()
            .filter_map(Option::take)
            .try_for_each(|filler| self.unmap_premapped(&filler))
    }

    /// Returns RAM for filler number `index` of `len` bytes, in whole granules. Its key is none of
    /// a region's, which begin at a block or a multiple of [`REGION_MIN`] behind.
    fn filler(&self, len: u64, index: u64) -> Option<GpaSpan> {
        let state = self.state.lock();
        state.ram.blocks().iter().find_map(|block| {
            let start = block.start().raw() >> GRANULE_SHIFT;
            let start = start.checked_add(index)?.checked_add(2)? << GRANULE_SHIFT;
            let filler = GpaSpan::new(Gpa::new(start), len)?;
            block.covers(&filler).then_some(filler)
        })
    }

    /// Unmaps what [`Self::premap`] mapped. Fails if the host does not, as its key stays taken.
    fn unmap_premapped(&self, premapped: &Premapped) -> Result<(), MapError> {
        let window = self.index.window(premapped.id).ok_or(MapError::NoKey)?;
        {
            let state = &mut *self.state.lock();
            // Nobody else knows the window.
            let _ = window.force_close();
            // It was not reported as created. The address matters only if the host fails to unmap
            // the window.
            state.misplaced = Some((premapped.id, window.iova()));
            window.set_iova(Iova::new(0));
            self.quarantine(state, premapped.id, window);
        }
        self.unmap_retired();
        let state = self.state.lock();
        let key = premapped.region.gpa().start();
        if self.index.key_is_free(&state.index, key) {
            Ok(())
        } else {
            Err(MapError::NoKey)
        }
    }

    /// Maps `span`, until the end of the engine or [`Self::unmap_premapped`].
    pub(super) fn premap(&self, span: &GpaSpan) -> Result<Premapped, MapError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.map.is_full() {
            return Err(MapError::NoMemory);
        }
        let (id, window) = self
            .create(state, span, None)
            .map_err(|obstacle| match obstacle {
                Obstacle::Limit(limit) => MapError::Full(limit),
                Obstacle::Fatal(error) => error,
                Obstacle::Batch | Obstacle::Tables | Obstacle::Key => MapError::NoMemory,
            })?;
        state.map.push(MapEntry {
            span: *span,
            outcome: MapOutcome::Unknown,
            id,
        });
        state.send_map(&self.costs);
        let outcome = state.map.get(0).map(|entry| entry.outcome);
        state.map.clear();
        let region = match outcome {
            Some(MapOutcome::Mapped(iova)) => Region::new(*span, iova),
            _ => None,
        };
        match (outcome, region) {
            (_, Some(region)) => {
                state.counters.windows_created.inc();
                window.set_iova(region.iova().start());
                window.open(false);
                window.set_state(State::Fixed);
                Ok(Premapped { id, region })
            }
            (Some(MapOutcome::Refused), None) => {
                self.host_error(state, Command::Map, span, HostError::Refused);
                self.destroy(state, id, window);
                state.suspects.push(*span);
                Err(MapError::Refused)
            }
            (Some(MapOutcome::Rejected(reject)), None) => {
                self.host_error(state, Command::Map, span, HostError::Rejected(reject));
                self.quarantine(state, id, window);
                Err(MapError::Rejected(reject))
            }
            _ => {
                self.host_error(state, Command::Map, span, HostError::Silent);
                self.quarantine(state, id, window);
                Err(MapError::NoAnswer)
            }
        }
    }

    /// Unmaps what an earlier kernel left in the way of the last request. Returns whether there was
    /// anything.
    pub(super) fn recover(&self) -> bool {
        let mut state = self.state.lock();
        let stale = state.counters.windows_stale;
        self.unmap_suspects(&mut state);
        state.counters.windows_stale != stale
    }
}
