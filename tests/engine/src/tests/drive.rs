// SPDX-License-Identifier: GPL-2.0

//! A driver's steps on a host with faults, one after the other: whatever the order, the sizes, the
//! policy, the limits and the faults, mappings that drivers hold are backed, counters are true, and
//! a mapping fails only for a reason.
//!
//! [`Rig`] checks what must hold after every step. This file adds the reasons that a model of the
//! limits has for failures, the effects of misuse, and what must be left at the end. `property` and
//! the fuzzer choose the steps.

use super::host::{
    cost,
    Held,
    MapFault,
    Placement,
    UnmapFault,
    View, //
};
use super::rig::{
    order,
    Entry,
    Rig,
    Setup,
    ALL,
    MIB, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE,
    PAGE, //
};
use crate::engine::admission::CopyCost;
use crate::engine::policy::smallest;
use crate::engine::{
    LargePages,
    Limit,
    MapError, //
};
use crate::sys::{
    fail_atomic_allocations,
    pass_ms, //
};

/// Fails unless the condition holds.
macro_rules! ensure {
    ($holds:expr $(,)?) => {
        ensure!($holds, "{}", stringify!($holds))
    };
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err(format!($($why)*));
        }
    };
}

/// Fails unless the two are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr $(, $why:expr)? $(,)?) => {{
        let (left, right) = (&$left, &$right);
        let message = concat!(stringify!($left) $(, ": ", $why)?);
        ensure!(left == right, "{left:?}, not {right:?}: {message}");
    }};
}

/// A step.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Maps a span for a device that reaches addresses up to a limit.
    Map(Want, u64),
    /// Maps a list; otherwise as `Map`.
    MapAll(Vec<Want>, u64),
    /// Maps memory that the page allocator gave; otherwise as `Map`.
    Alloc(Want, u64),
    /// Maps a span that may be copied, which takes so many microseconds for each KiB.
    MapOrCopy(Want, u64),
    /// Maps the span of a held mapping once more.
    Repeat(usize),
    /// Unmaps a held mapping.
    Unmap(usize),
    /// Unmaps the held mappings from this one on, in steps.
    UnmapAll(usize, usize),
    /// Unmaps what was never mapped.
    Misuse(u64, u64),
    /// Sets faults of the next map replies.
    MapFaults(Vec<MapFault>),
    /// Sets faults of the next unmap replies.
    UnmapFaults(Vec<UnmapFault>),
    /// Sets how often the host refuses map requests.
    RefuseEvery(Option<u64>),
    /// Makes the host unavailable, or available again.
    Away(bool),
    /// Retries to unmap lost windows.
    Retry,
    /// Makes allocations fail, or succeed again.
    FailAllocations(bool),
    /// Creates a stale mapping, as an earlier kernel would have left it.
    Stale(Want),
    /// Reclaims windows by age.
    Age,
    /// Unmaps idle windows of memory that is removed.
    Evict(Want),
    /// Sets the limits of bytes and entries.
    Limit(u64, u32),
}

/// A span that a driver wants mapped, valid or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Want {
    fn span(self) -> Option<GpaSpan> {
        GpaSpan::new(Gpa::new(self.start), self.len)
    }

    /// Returns memory of about this length and place as the page allocator gives it.
    fn allocated(self) -> Option<GpaSpan> {
        let len = self.len.clamp(1, 4 * MIB);
        GpaSpan::new(Gpa::new(self.start & !(order(len) - 1)), len)
    }
}

/// The state before a call that may fail.
struct Before {
    injected: u64,
    refused_for_cause: u64,
    /// Bytes of all windows.
    bytes: u64,
}

impl Before {
    fn of(rig: &Rig) -> Self {
        let state = rig.host.look();
        Self {
            injected: state.injected,
            refused_for_cause: state.refused_for_cause,
            bytes: state.counted().0,
        }
    }
}

/// Returns the less of each of two pairs of limits.
fn least(one: (u64, u32), other: (u64, u32)) -> (u64, u32) {
    (one.0.min(other.0), one.1.min(other.1))
}

/// Checks that there was a reason for the call to fail with `error`.
fn check_reason(
    rig: &Rig,
    before: &Before,
    wants: &[Option<GpaSpan>],
    dma_limit: u64,
    failing: bool,
    error: MapError,
) -> Result<(), String> {
    let (injected, refused) = {
        let state = rig.host.look();
        (
            state.injected != before.injected,
            state.refused_for_cause != before.refused_for_cause,
        )
    };
    let block_of = |span: &GpaSpan| {
        let state = rig.host.look();
        state.ram.iter().find(|block| block.covers(span)).copied()
    };
    let small: Vec<_> = wants
        .iter()
        .map(|want| {
            let want = want.as_ref()?;
            smallest(want, block_of(want).as_ref()).map(|proposal| proposal.span)
        })
        .collect();
    let single = wants.len() == 1;
    let (bytes, entries, keys) = rig.stuck();
    let (max_bytes, max_entries) = rig.host.look().budget;
    let ok = match error {
        MapError::Invalid => wants
            .iter()
            .zip(&small)
            .any(|(w, s)| w.is_none() || s.is_none()),
        MapError::Refused => {
            // A window whose key was taken may begin a little earlier.
            let too_long = small
                .iter()
                .flatten()
                .any(|s| s.len().saturating_add(4 * GRANULE) > rig.setup.len_max);
            injected || refused || too_long
        }
        MapError::Rejected(_) => injected,
        MapError::NoAnswer => injected || !rig.host.look().ready,
        MapError::Unreachable(iova) => wants
            .iter()
            .flatten()
            .any(|want| iova.raw() + (want.len() - 1) > dma_limit),
        // The engine gets no requests for MMIO, and is not closed; allocations must be aligned.
        MapError::Mmio | MapError::Closed | MapError::Misaligned => false,
        MapError::NoMemory => failing,
        MapError::Full(limit) => {
            // The need of a list depends on the windows that it falls into, open ones among them,
            // but is not more than this.
            let mut need = if single { 0 } else { before.bytes };
            for (want, small) in wants.iter().zip(&small) {
                let (Some(want), Some(small)) = (want, small) else {
                    continue;
                };
                let proposed =
                    block_of(want).map_or(0, |block| rig.setup.policy.most(want, &block));
                need = need.saturating_add(if single {
                    cost(small)
                } else {
                    cost(small).max(proposed).saturating_add(4 * GRANULE)
                });
            }
            // A window whose key was taken begins a little elsewhere.
            let moved = small
                .iter()
                .flatten()
                .any(|small| keys.contains(&small.start().raw()));
            if moved {
                need = need.saturating_add(MIB);
            }
            // Less than the limits once a stale mapping was found.
            let (max_bytes, max_entries) = least(rig.engine.allowance(), (max_bytes, max_entries));
            match limit {
                Limit::Bytes => bytes.saturating_add(need) > max_bytes,
                Limit::Entries => {
                    let need = u32::try_from(wants.len()).expect("few");
                    entries + need > max_entries
                }
            }
        }
        MapError::NoKey => wants.iter().zip(&small).any(|(want, small)| {
            let (Some(want), Some(small)) = (want, small) else {
                return false;
            };
            let lowest = block_of(want).map_or(small.start().raw(), |b| b.start().raw());
            // All possible keys, in a block that begins at a page. A list also takes keys itself.
            let mut key = small.start().raw();
            let mut taken = true;
            while key <= want.start().raw() {
                taken &= keys.contains(&key);
                key += PAGE;
            }
            if small.start().raw() > lowest {
                taken &= keys.contains(&(small.start().raw() - PAGE));
            }
            taken || !single
        }),
    };
    if ok {
        Ok(())
    } else {
        Err(format!(
            "{error:x?} for {wants:x?} has no reason: {bytes:#x} bytes and {entries} entries \
             are in use or lost"
        ))
    }
}

/// Checks that there was a reason for an allocation at `span` to fail with `error`.
fn check_alloc_reason(
    rig: &Rig,
    before: &Before,
    span: &GpaSpan,
    dma_limit: u64,
    failing: bool,
    error: MapError,
) -> Result<(), String> {
    // A window with padding in front or behind, wherever it is needed.
    let order = order(span.len());
    let start = span.start().raw();
    let padded = GpaSpan::from_bounds(
        start.saturating_sub(order),
        start.saturating_add(order.saturating_mul(2)),
    );
    let state = rig.host.look();
    let fits = padded.is_some_and(|padded| state.ram.iter().any(|ram| ram.covers(&padded)));
    let faulty = state.injected != before.injected || state.placement == Placement::Random;
    let padding = rig.engine.stats().usage.padding.saturating_add(order);
    let (max_bytes, max_entries) = state.budget;
    let too_long = state.len_max < order.saturating_mul(3);
    drop(state);
    let (bytes, entries, _) = rig.stuck();
    let (max_bytes, max_entries) = least(rig.engine.allowance(), (max_bytes, max_entries));
    match error {
        MapError::Misaligned if faulty || !fits || too_long || padding > max_bytes / 16 => Ok(()),
        MapError::Refused if too_long => Ok(()),
        MapError::Full(Limit::Bytes)
            if bytes.saturating_add(order.saturating_mul(2)) > max_bytes =>
        {
            Ok(())
        }
        MapError::Full(Limit::Entries) if entries + 1 > max_entries => Ok(()),
        error => check_reason(rig, before, &[Some(*span)], dma_limit, failing, error),
    }
}

/// Returns one of the mappings that drivers hold.
fn held(rig: &Rig, index: usize) -> Option<Held> {
    let state = rig.host.look();
    let count = state.held.len();
    (count != 0).then(|| state.held[index % count])
}

/// Returns the idle windows for which `counts` returns true.
fn idle(rig: &Rig, counts: impl Fn(&GpaSpan) -> bool) -> Vec<GpaSpan> {
    let state = rig.host.look();
    let busy = state.busy();
    state
        .view
        .iter()
        .filter(|(key, (span, view))| *view == View::Open && !busy.contains(key) && counts(span))
        .map(|(_, (span, _))| *span)
        .collect()
}

/// Runs `ops` on a host with the random placement of `seed`; with `tidy` the driver unmaps all that
/// it holds at the end. Fails with a message; failed checks of the rig and the host panic.
pub(crate) fn run(setup: Setup, seed: u64, ops: Vec<Op>, tidy: bool) -> Result<(), String> {
    // An earlier case that failed may have left this set.
    fail_atomic_allocations(false);
    let mut failing = false;
    let rig = Rig::new(setup);
    rig.host.look().seed(seed);
    rig.host.look().guard = seed % 3;

    for op in ops {
        // A length that was refused is asked for again.
        pass_ms(2000);
        let before = Before::of(&rig);
        match op {
            Op::Map(want, dma_limit) => {
                let Some(span) = want.span() else { continue };
                match rig.map_within(span, dma_limit) {
                    Ok(iova) => {
                        let doorbells = rig.host.doorbells();
                        let again = rig.map_within(span, dma_limit);
                        ensure!(again.is_ok(), "{:?} on a repeat", again);
                        ensure_eq!(rig.host.doorbells(), doorbells, "a hit does not ring");
                        ensure!(iova.raw() != u64::MAX);
                    }
                    Err(error) => {
                        check_reason(&rig, &before, &[Some(span)], dma_limit, failing, error)?;
                    }
                }
            }
            Op::Alloc(want, dma_limit) => {
                let Some(span) = want.allocated() else {
                    continue;
                };
                match rig.alloc_within(span, dma_limit) {
                    Ok(_) => {
                        let doorbells = rig.host.doorbells();
                        let again = rig.alloc_within(span, dma_limit);
                        ensure!(again.is_ok(), "{:?} on a repeat", again);
                        ensure_eq!(rig.host.doorbells(), doorbells, "a hit does not ring");
                    }
                    Err(error) => {
                        check_alloc_reason(&rig, &before, &span, dma_limit, failing, error)?;
                    }
                }
            }
            Op::MapAll(wants, dma_limit) => {
                let spans: Vec<_> = wants.iter().map(|want| want.span()).collect();
                let list: Vec<_> = spans.iter().copied().map(Entry::new).collect();
                if let Err(error) = rig.map_all(&list, dma_limit) {
                    check_reason(&rig, &before, &spans, dma_limit, failing, error)?;
                }
            }
            Op::Repeat(index) => {
                if let Some(held) = held(&rig, index) {
                    if let Err(error) = rig.map_within(held.span, ALL) {
                        check_reason(&rig, &before, &[Some(held.span)], ALL, failing, error)?;
                    }
                }
            }
            Op::Unmap(index) => {
                if let Some(held) = held(&rig, index) {
                    rig.unmap_held(&held);
                }
            }
            Op::UnmapAll(from, step) => {
                let some: Vec<_> = {
                    let state = rig.host.look();
                    let from = from % (state.held.len() + 1);
                    state
                        .held
                        .iter()
                        .skip(from)
                        .step_by(step)
                        .copied()
                        .collect()
                };
                let list: Vec<_> = some
                    .iter()
                    .map(|held| Entry::mapped(held.span, Iova::new(held.iova)))
                    .collect();
                rig.unmap_all(&list);
            }
            Op::Misuse(iova, len) => {
                // The engine has nothing there, so the unmap must have no effect.
                let state = rig.host.look();
                let last = iova.saturating_add(len);
                let ours = state
                    .mappings
                    .values()
                    .any(|m| m.iova <= last && iova < m.iova + m.span.len());
                drop(state);
                if !ours {
                    let stats = rig.engine.stats();
                    ensure!(rig.engine.unmap(Iova::new(iova), len).is_err());
                    ensure_eq!(rig.engine.translate(Iova::new(iova), len), None);
                    ensure_eq!(rig.engine.stats(), stats);
                }
                if let Some(held) = held(&rig, len as usize) {
                    // Empty, longer than the window, and longer than all windows.
                    for len in [0, 256 * MIB, u64::MAX] {
                        ensure!(rig.engine.unmap(Iova::new(held.iova), len).is_err());
                    }
                }
                rig.check();
            }
            Op::MapFaults(faults) => rig.host.look().map_faults.extend(faults),
            Op::UnmapFaults(faults) => rig.host.look().unmap_faults.extend(faults),
            Op::RefuseEvery(every) => rig.host.look().refuse_every = every,
            Op::Away(away) => rig.host.look().ready = !away,
            Op::Retry => {
                rig.engine.retry_lost();
                rig.check();
            }
            Op::FailAllocations(fail) => {
                failing = fail;
                fail_atomic_allocations(fail);
            }
            Op::MapOrCopy(want, us) => {
                let Some(span) = want.span() else { continue };
                let copy = CopyCost {
                    request_ns: 300,
                    kib_ns: us * 1000,
                };
                if rig.map_or_copy(span, copy, ALL).is_some() {
                    let doorbells = rig.host.doorbells();
                    let again = rig.map_or_copy(span, copy, ALL);
                    ensure!(again.is_some(), "no hit on a repeat");
                    ensure_eq!(rig.host.doorbells(), doorbells, "a hit does not ring");
                }
            }
            Op::Age => {
                for _ in 0..2 {
                    rig.engine.age();
                    rig.check();
                }
                // Fillers stay with the large pages whose memory they have.
                let used: Vec<_> = {
                    let state = rig.host.look();
                    let busy = state.busy();
                    busy.iter().map(|key| state.mappings[key].span).collect()
                };
                let large_pages = setup.large_pages == LargePages::Expected;
                let may_stay =
                    |span: &GpaSpan| large_pages && used.iter().any(|all| all.covers(span));
                let idle = idle(&rig, |span| !may_stay(span));
                let away = !rig.host.look().ready;
                ensure!(
                    away || idle.is_empty(),
                    "not used between the two calls: {:x?}",
                    idle
                );
            }
            Op::Evict(want) => {
                let Some(all) = want.span() else { continue };
                let busy = {
                    let state = rig.host.look();
                    let busy = state.busy();
                    let is_inside = |key| all.covers(&state.mappings[key].span);
                    busy.iter().filter(|key| is_inside(*key)).count()
                };
                ensure_eq!(rig.engine.evict(&all) as usize, busy);
                rig.check();
                let idle = idle(&rig, |span| span.overlaps(&all));
                ensure!(idle.is_empty(), "idle, but not unmapped: {:x?}", idle);
            }
            Op::Limit(bytes, entries) => {
                rig.limit(bytes, entries);
                rig.check();
                let usage = rig.engine.stats().usage;
                let (bytes, entries) = rig.host.look().budget;
                let away = !rig.host.look().ready;
                let within = usage.bytes <= bytes && usage.entries <= entries;
                ensure!(
                    away || within || idle(&rig, |_| true).is_empty(),
                    "idle beyond the limits"
                );
            }
            Op::Stale(want) => {
                if let Some(span) = want.span() {
                    rig.host.look().leave_stale(&span);
                }
            }
        }
    }
    fail_atomic_allocations(false);

    if tidy {
        while let Some(held) = held(&rig, 0) {
            rig.unmap_held(&held);
        }
        ensure_eq!(rig.host.look().busy().len(), 0);
    }
    // Without faults all windows that the host has can be unmapped, lost or not.
    {
        let mut state = rig.host.look();
        state.map_faults.clear();
        state.unmap_faults.clear();
        state.refuse_every = None;
        state.ready = true;
    }
    // Lost windows are recovered while drivers hold mappings.
    let lost = rig.host.look().view.len();
    for _ in 0..lost {
        rig.engine.retry_lost();
    }
    rig.check();
    {
        let state = rig.host.look();
        // The host refuses a span outside RAM whether it is mapped or not.
        let unmappable = |span: &GpaSpan| !state.ram.iter().any(|block| block.covers(span));
        ensure!(
            state
                .view
                .values()
                .all(|(span, view)| *view == View::Open || unmappable(span)),
            "still lost: {:x?}",
            state.view
        );
    }
    let host = rig.host.clone();
    rig.release();
    let state = host.look();
    let left = state
        .mappings
        .keys()
        .filter(|key| state.view.contains_key(key))
        .count();
    ensure_eq!(left, 0, "mappings of the engine after the end");
    Ok(())
}
