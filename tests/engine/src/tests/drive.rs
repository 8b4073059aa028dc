// SPDX-License-Identifier: GPL-2.0

//! A driver's steps on a host with faults, one after the other: whatever the order, the sizes, the
//! policy, the limits and the faults, what drivers hold is backed, what is counted is true, and a
//! mapping fails only where there is a reason.
//!
//! [`Rig`] checks what must hold after every step. This file adds what a model of the limits says
//! about failures, what misuse may do, and what must be left at the end. Where the steps come from
//! is for others: `property` and the fuzzer.

use super::host::{
    cost,
    Held,
    MapFault,
    UnmapFault,
    View, //
};
use super::rig::{
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
use crate::engine::{
    Limit,
    MapError, //
};
use crate::engine::policy::smallest;
use crate::sys::fail_atomic_allocations;

/// Fails unless it is so.
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

/// Fails unless they are the same.
macro_rules! ensure_eq {
    ($left:expr, $right:expr $(, $why:expr)? $(,)?) => {{
        let (left, right) = (&$left, &$right);
        let what = concat!(stringify!($left) $(, ": ", $why)?);
        ensure!(left == right, "{left:?}, not {right:?}: {what}");
    }};
}

/// One step.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Map(Want, u64),
    MapAll(Vec<Want>, u64),
    /// Maps the same as one of those held.
    Again(usize),
    /// Gives up one of those held.
    Unmap(usize),
    /// Gives up all that are held, from this one on in steps.
    UnmapAll(usize, usize),
    /// Gives up what was never mapped.
    Misuse(u64, u64),
    /// Faults of the answers to come.
    MapFaults(Vec<MapFault>),
    UnmapFaults(Vec<UnmapFault>),
    RefuseEvery(Option<u64>),
    /// The host is away, or is back.
    Away(bool),
    /// What is lost is asked for again.
    Retry,
    /// Allocations fail, or succeed again.
    FailAllocations(bool),
    /// An earlier kernel's mapping comes to light.
    Stale(Want),
    /// Time passes.
    Age,
    /// Memory is to go away.
    Evict(Want),
}

/// What a driver asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Want {
    fn span(self) -> Option<GpaSpan> {
        GpaSpan::new(Gpa::new(self.start), self.len)
    }
}

/// What was so before a call that may fail.
struct Before {
    injected: u64,
    refused_fairly: u64,
    /// Bytes of all windows.
    bytes: u64,
}

impl Before {
    fn of(rig: &Rig) -> Self {
        let state = rig.host.look();
        Self {
            injected: state.injected,
            refused_fairly: state.refused_fairly,
            bytes: state.counted().0,
        }
    }
}

/// Whether `error` is one that the call had a reason for.
fn excused(
    rig: &Rig,
    before: &Before,
    wants: &[Option<GpaSpan>],
    mask: u64,
    failing: bool,
    error: MapError,
) -> Result<(), String> {
    let (injected, refused) = {
        let state = rig.host.look();
        (
            state.injected != before.injected,
            state.refused_fairly != before.refused_fairly,
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
    let ok = match error {
        MapError::Invalid => wants
            .iter()
            .zip(&small)
            .any(|(w, s)| w.is_none() || s.is_none()),
        MapError::Refused => {
            // One whose key was taken may begin a little earlier.
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
            .any(|want| iova.raw() + (want.len() - 1) > mask),
        // The engine is not asked for it.
        MapError::Mmio => false,
        MapError::NoMemory => failing,
        MapError::Full(limit) => {
            // What a list needs depends on how it falls into windows, old ones among them, but it
            // is not more than this.
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
            match limit {
                Limit::Bytes => bytes.saturating_add(need) > rig.setup.max_bytes,
                Limit::Entries => {
                    let need = u32::try_from(wants.len()).expect("few");
                    entries + need > rig.setup.max_entries
                }
            }
        }
        MapError::NoKey => wants.iter().zip(&small).any(|(want, small)| {
            let (Some(want), Some(small)) = (want, small) else {
                return false;
            };
            let lowest = block_of(want).map_or(small.start().raw(), |b| b.start().raw());
            // All the keys that could be, in a block that begins at a page. A list also takes keys
            // for itself.
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
            "{error:x?} for {wants:x?} without a reason: {bytes:#x} bytes and {entries} entries \
             are in use or lost"
        ))
    }
}

/// Picks one of those that drivers hold.
fn held(rig: &Rig, index: usize) -> Option<Held> {
    let state = rig.host.look();
    let count = state.held.len();
    (count != 0).then(|| state.held[index % count])
}

/// What the engine has mapped for nobody, of what `counts`.
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

/// Runs `ops` on a host that starts from `seed`; with `tidy` the driver gives up all that it holds
/// at the end. Fails with what is wrong; what the rig and the host notice panics.
pub(crate) fn run(setup: Setup, seed: u64, ops: Vec<Op>, tidy: bool) -> Result<(), String> {
    // Left over from a case that failed, perhaps.
    fail_atomic_allocations(false);
    let mut failing = false;
    let rig = Rig::new(setup);
    rig.host.look().seed(seed);

    for op in ops {
        let before = Before::of(&rig);
        match op {
            Op::Map(want, mask) => {
                let Some(span) = want.span() else { continue };
                match rig.map_masked(span, mask) {
                    Ok(iova) => {
                        let doorbells = rig.host.doorbells();
                        let again = rig.map_masked(span, mask);
                        ensure!(again.is_ok(), "{:?} on a repeat", again);
                        ensure_eq!(rig.host.doorbells(), doorbells, "a hit rings");
                        ensure!(iova.raw() != u64::MAX);
                    }
                    Err(error) => {
                        excused(&rig, &before, &[Some(span)], mask, failing, error)?;
                    }
                }
            }
            Op::MapAll(wants, mask) => {
                let spans: Vec<_> = wants.iter().map(|want| want.span()).collect();
                let list: Vec<_> = spans.iter().copied().map(Entry::new).collect();
                if let Err(error) = rig.map_all(&list, mask) {
                    excused(&rig, &before, &spans, mask, failing, error)?;
                }
            }
            Op::Again(index) => {
                if let Some(held) = held(&rig, index) {
                    if let Err(error) = rig.map_masked(held.span, ALL) {
                        excused(&rig, &before, &[Some(held.span)], ALL, failing, error)?;
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
                // Nothing of ours is there, so nothing may come of it.
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
                    // Longer than the window is, and longer than anything.
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
            Op::Age => {
                for _ in 0..2 {
                    rig.engine.age();
                    rig.check();
                }
                let idle = idle(&rig, |_| true);
                let away = !rig.host.look().ready;
                ensure!(
                    away || idle.is_empty(),
                    "not used since the first time: {:x?}",
                    idle
                );
            }
            Op::Evict(want) => {
                let Some(all) = want.span() else { continue };
                let busy = {
                    let state = rig.host.look();
                    let busy = state.busy();
                    let overlaps = |key| state.mappings[key].span.overlaps(&all);
                    busy.iter().filter(|key| overlaps(*key)).count()
                };
                ensure_eq!(rig.engine.evict(&all) as usize, busy);
                rig.check();
                let idle = idle(&rig, |span| span.overlaps(&all));
                ensure!(idle.is_empty(), "nobody uses them: {:x?}", idle);
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
    // With no more faults all that is really there can be given back, lost or not.
    {
        let mut state = rig.host.look();
        state.map_faults.clear();
        state.unmap_faults.clear();
        state.refuse_every = None;
        state.ready = true;
    }
    // So can be what is lost, while drivers have theirs.
    let lost = rig.host.look().view.len();
    for _ in 0..lost {
        rig.engine.retry_lost();
    }
    rig.check();
    {
        let state = rig.host.look();
        // What cannot be mapped is refused whether it is mapped or not.
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
    ensure_eq!(left, 0, "mappings of ours after the end");
    Ok(())
}
