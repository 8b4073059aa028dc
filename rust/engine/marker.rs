// SPDX-License-Identifier: GPL-2.0

//! Markers: mappings that tell the next kernel that this one has not unmapped everything.
//!
//! Mappings outlive the kernel that made them, and the host does not list them. But it refuses a
//! key that is live, so a key that all kernels of the guest agree on tells whether the kernel
//! before ended well. A kernel maps the first marker before anything else, and unmaps it after
//! everything else. If the host refuses the marker, an earlier kernel has left it: it stays, and
//! the kernel maps the second marker besides, or the third if that is left as well. So the number
//! of markers tells how many kernels in a row may have left windows. When all is found that they
//! left, the markers but the first are unmapped.
//!
//! A marker is a page in the first whole granule of the first block of RAM. The pages that begin a
//! granule may be keys of windows; the index keeps the keys of the others from windows.
//!
//! A kernel for crash dumps has its own RAM, in which it cannot find what the crashed kernel left.
//! It leaves that kernel's markers alone, which it may not even know, and has markers of its own:
//! in the second granule, since on some machines its first block of RAM is that of all kernels.

use super::caution::Caution;
use super::host::{
    MapOutcome,
    UnmapOutcome, //
};
use super::stale::StaleScan;
use super::{
    Engine,
    Host,
    Locked,
    Observer,
    UnmapEntry, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    GRANULE,
    PAGE, //
};
use crate::engine::policy::Policy;

/// The number of markers. Together they must not be more than the part of the limits that
/// [`Caution`] leaves for them.
const LEVELS: u32 = 3;

/// A kind of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelKind {
    /// One that all of RAM belongs to.
    Regular,
    /// One for crash dumps, beside the kernel that crashed.
    Crash,
}

/// The markers of a companion, as far as this kernel knows them; see the module's documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Markers {
    /// The address of the granule; [`None`] if there are no markers.
    granule: Option<u64>,
    kind: KernelKind,
    /// The number of markers that the host has: the first ones.
    held: u32,
    /// Set if this kernel mapped the last one of these.
    is_own: bool,
}

impl Markers {
    /// No markers at all, for an engine that maps nothing or that nothing is before or after.
    pub(crate) const NONE: Self = Self {
        granule: None,
        kind: KernelKind::Regular,
        held: 0,
        is_own: false,
    };

    /// Returns the markers for a kernel whose first block of RAM begins at `ram`, with none known
    /// to be on the host.
    pub(crate) fn new(ram: u64, kind: KernelKind) -> Self {
        let whole = ram.checked_next_multiple_of(GRANULE);
        let granule = match kind {
            KernelKind::Regular => whole,
            KernelKind::Crash => whole.and_then(|start| start.checked_add(GRANULE)),
        };
        Self {
            granule,
            kind,
            ..Self::NONE
        }
    }

    /// Returns the memory of marker number `level`.
    fn span(&self, level: u32) -> Option<GpaSpan> {
        let page = u64::from(level).checked_add(1)?.checked_mul(PAGE)?;
        GpaSpan::new(Gpa::new(self.granule?.checked_add(page)?), PAGE)
    }

    /// Returns the first page of the granule that the markers are in, whose key is none of theirs.
    pub(crate) fn neighbour(&self) -> Option<GpaSpan> {
        GpaSpan::new(Gpa::new(self.granule?), PAGE)
    }

    /// Returns whether a marker has the key `key`, whether it is mapped or not. To a kernel for
    /// crash dumps these are also the markers of regular kernels, as far as it knows them.
    pub(super) fn has_key(&self, key: Gpa) -> bool {
        let is_marker = |key: u64| {
            let mut keys = (0..LEVELS).filter_map(|level| self.span(level));
            keys.any(|span| span.start().raw() == key)
        };
        let key = key.raw();
        is_marker(key) || self.kind == KernelKind::Crash && is_marker(key.saturating_add(GRANULE))
    }

    /// Returns the bytes and the mappings that the markers cost the host.
    pub(super) fn cost(&self) -> (u64, u32) {
        (u64::from(self.held).saturating_mul(GRANULE), self.held)
    }

    /// Returns the kind of this kernel.
    pub(crate) fn kind(&self) -> KernelKind {
        self.kind
    }

    /// Returns the number of earlier kernels that are known to have left windows.
    fn predecessors(&self) -> u32 {
        self.held.saturating_sub(u32::from(self.is_own))
    }

    /// Returns what may be used beside what earlier kernels left.
    pub(crate) fn caution(&self) -> Caution {
        match (self.kind, self.predecessors()) {
            (KernelKind::Regular, 0) => Caution::NONE,
            (KernelKind::Regular, 1) => Caution::FIRST,
            (KernelKind::Regular, 2) => Caution::SECOND,
            (KernelKind::Crash, 0) => Caution::CRASH,
            (KernelKind::Crash, 1) => Caution::SECOND_CRASH,
            _ => Caution::NOTHING_FREE,
        }
    }

    /// Has `map` map the first marker that the host does not have. Returns the memory and the
    /// outcome; [`None`] if it refused all of them, since it has them, or since it refuses
    /// everything. To be called before anything else of this kernel is mapped.
    ///
    /// That a marker was refused for another reason than that it is live is found out by a second
    /// request; `unmap` unmaps the marker that was mapped in its place, and returns whether it did.
    pub(crate) fn take<H, E>(
        &mut self,
        host: &mut H,
        map: impl Fn(&mut H, &GpaSpan) -> Result<MapOutcome, E>,
        unmap: impl Fn(&mut H, &GpaSpan) -> bool,
    ) -> Result<Option<(GpaSpan, MapOutcome)>, E> {
        for level in 0..LEVELS {
            let Some(span) = self.span(level) else {
                return Ok(None);
            };
            let outcome = map(host, &span)?;
            self.held = level.saturating_add(1);
            if outcome == MapOutcome::Refused {
                continue;
            }
            self.is_own = true;
            let first = self.span(0).filter(|_| level == 1);
            if let (MapOutcome::Mapped(_), Some(first)) = (outcome, first) {
                let again = map(host, &first)?;
                if matches!(again, MapOutcome::Mapped(_)) && unmap(host, &span) {
                    // The kernel before ended well.
                    self.held = 1;
                    return Ok(Some((first, again)));
                }
            }
            return Ok(Some((span, outcome)));
        }
        Ok(None)
    }

    /// Returns the last marker that the host has, if this kernel is to unmap it when it has
    /// unmapped all else: what tells of this kernel only.
    pub(crate) fn returnable(&self) -> Option<GpaSpan> {
        let last = self.held.checked_sub(1).filter(|_| self.is_own)?;
        self.span(last)
    }

    /// Returns the last marker that the host has, if it is to be unmapped when everything was found
    /// that earlier kernels left.
    fn outdated(&self) -> Option<GpaSpan> {
        let last = self.held.checked_sub(1).filter(|last| *last != 0)?;
        self.span(last)
    }

    /// Records that the last marker was unmapped.
    pub(crate) fn returned(&mut self) {
        self.held = self.held.saturating_sub(1);
        self.is_own = false;
    }
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Unmaps the last marker if nothing else of this kernel is mapped. Returns whether the host
    /// failed to.
    ///
    /// Context: any.
    pub(super) fn return_marker(&self) -> bool {
        // A host that did not reply may do so now.
        for _ in 0..2 {
            let state = &mut *self.state.lock();
            let Some(span) = state.markers.returnable() else {
                return false;
            };
            // Lost windows, or such that their last user is about to unmap. Beside what an earlier
            // kernel left of this companion, the marker tells of the windows of other companions,
            // which may get some until what was left is found.
            let is_used = match state.markers.predecessors() {
                0 => state.budget.usage().entries != 0,
                _ => state.budget.has_windows() || state.budget.is_shared(),
            };
            // What an earlier kernel without a marker left, and was not all found.
            let is_searching = state.budget.caution() > state.markers.caution();
            if is_used || is_searching {
                return false;
            }
            if self.unmap_marker(state, &span) == UnmapOutcome::Unmapped {
                self.forget_marker(state);
                return false;
            }
        }
        true
    }

    /// Ends the search for what earlier kernels left, when no key is left to scan: unmaps the
    /// markers but the first, one at a time, and then has the limits apply. Returns whether the
    /// caller should continue at once.
    ///
    /// Context: engine lock held.
    pub(super) fn end_search(&self, state: &mut Locked<H>) -> bool {
        if state.search.scan != StaleScan::Done || !self.is_cautious(state) {
            return false;
        }
        let Some(span) = state.markers.outdated() else {
            // From now on the first marker tells of this kernel.
            state.markers.is_own = state.markers.held != 0;
            state.budget.set_caution(Caution::NONE);
            return false;
        };
        match self.unmap_marker(state, &span) {
            // The host did not have it.
            UnmapOutcome::Unmapped | UnmapOutcome::Refused => {
                self.forget_marker(state);
                true
            }
            UnmapOutcome::Rejected(_) | UnmapOutcome::Unknown => false,
        }
    }

    /// Requests to unmap a marker.
    fn unmap_marker(&self, state: &mut Locked<H>, span: &GpaSpan) -> UnmapOutcome {
        if !state.host.is_ready() {
            return UnmapOutcome::Unknown;
        }
        state.counters.doorbells.inc();
        let mut batch = [UnmapEntry::new(*span)];
        state.host.unmap(&mut batch);
        let [entry] = batch;
        entry.outcome
    }

    /// Stops counting the last marker.
    fn forget_marker(&self, state: &mut Locked<H>) {
        state.markers.returned();
        state.budget.set_markers(state.markers.cost());
    }
}
