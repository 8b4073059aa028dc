// SPDX-License-Identifier: GPL-2.0

//! Mapping all of RAM at once when the engine is set up. The result is a [`StaticMap`], which does
//! the look-ups from then on.

use super::create::Obstacle;
use super::host::{
    MapOutcome,
    ReplyError, //
};
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
    GpaSpan,
    Iova, //
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

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Maps all of RAM at once, if it fits `max_bytes` with an eighth to spare for memory that is
    /// added later, and if windows may stay mapped. On failure nothing is mapped. To be called
    /// after [`Engine::reserve`], which makes room for the regions.
    ///
    /// Context: process, may sleep.
    pub(crate) fn premap_ram(&mut self) -> Result<(), MapError> {
        let bytes = self.ram_bytes();
        let max_bytes = self.state.lock().budget.max_bytes();
        let budget = max_bytes.saturating_sub(max_bytes / 8);
        if self.strict || bytes > budget {
            return Err(MapError::Full(Limit::Bytes));
        }
        let mut size = REGION_MAX;
        loop {
            match self.premap_regions(size) {
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

    /// Maps all of RAM in regions of at most `size` bytes. On failure some may be mapped.
    pub(super) fn premap_regions(&self, size: u64) -> Result<StaticMap, MapError> {
        let mut regions: BoxedSlice<Option<Region>> =
            BoxedSlice::new(MAX_REGIONS, Alloc::Sleep, |_| None).map_err(|_| MapError::NoMemory)?;
        let mut count: usize = 0;
        let block = |index| self.state.lock().ram.blocks().get(index).copied();
        for block in (0..).map_while(block) {
            let mut start = block.start().raw();
            while start < block.end() {
                let end = start.saturating_add(size).min(block.end());
                let span = GpaSpan::from_bounds(start, end).ok_or(MapError::Invalid)?;
                let (earlier, free) = regions
                    .split_at_mut_checked(count)
                    .ok_or(MapError::Full(Limit::Entries))?;
                let place = free.first_mut().ok_or(MapError::Full(Limit::Entries))?;
                let (region, info) = match self.premap_region(&span) {
                    // An earlier kernel may have left a mapping with this key.
                    Err(MapError::Refused) if self.recover() => self.premap_region(&span),
                    result => result,
                }?;
                let overlaps = earlier
                    .iter()
                    .flatten()
                    .any(|other| other.overlaps(&region));
                if overlaps {
                    let error = HostError::Rejected(ReplyError::Overlap);
                    self.host_error(&mut self.state.lock(), Command::Map, &span, error);
                    return Err(MapError::Rejected(ReplyError::Overlap));
                }
                if let Some(info) = info {
                    self.observer.created(&info);
                }
                *place = Some(region);
                count = count.saturating_add(1);
                start = end;
            }
        }
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

    /// Maps one region, until the end of the engine. Returns it with its window.
    pub(super) fn premap_region(
        &self,
        span: &GpaSpan,
    ) -> Result<(Region, Option<WindowInfo>), MapError> {
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
        state.counters.doorbells.inc();
        state.host.map(state.map.filled_mut());
        let outcome = state.map.get(0).map(|entry| entry.outcome);
        state.map.clear();
        let region = match outcome {
            Some(MapOutcome::Mapped(iova)) => Region::new(*span, iova).map(|region| (iova, region)),
            _ => None,
        };
        match (outcome, region) {
            (_, Some((iova, region))) => {
                state.counters.windows_created.inc();
                window.set_iova(iova);
                window.open(false);
                window.set_state(State::Fixed);
                Ok((region, WindowInfo::new(window)))
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
