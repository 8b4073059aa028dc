// SPDX-License-Identifier: GPL-2.0

//! Analysis of a recording, for each companion, in numbers: sizes, lifetimes, places and makers of
//! mappings, usage of the host, and replays with other parameters. `report` formats the result.

use crate::calls::calls;
use crate::debugfs::{
    number,
    Numbers, //
};
use crate::event::{
    Copyable,
    Event,
    EventKind,
    MapPath, //
};
use crate::recording::{
    Recording,
    Snapshot, //
};
use crate::whatif::{
    Replayer,
    Variant, //
};
use anyhow::Result;
use apple_dma_replay::{
    Counters,
    GRANULE,
    WINDOW_SHIFT, //
};
use serde::Serialize;
use std::{
    collections::{
        BTreeMap,
        HashMap, //
    },
    num::NonZero,
    sync::{
        atomic::{
            AtomicUsize,
            Ordering, //
        },
        mpsc, //
    },
    thread, //
};

/// Values by powers of two: the lower bound, and the number of values from there on.
pub type Histogram = BTreeMap<u64, u64>;

/// Number and distribution of values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    pub count: u64,
    pub sum: u64,
    pub median: u64,
    /// The value that 99 of 100 do not exceed.
    pub p99: u64,
    pub max: u64,
    pub histogram: Histogram,
}

impl Spread {
    pub fn new(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let at = |part: f64| {
            let last = values.len().saturating_sub(1);
            let index = (last as f64 * part).round() as usize;
            values.get(index).copied().unwrap_or(0)
        };
        let mut histogram = Histogram::new();
        for value in &values {
            let from = value.checked_ilog2().map_or(0, |log| 1 << log);
            *histogram.entry(from).or_default() += 1;
        }
        Self {
            count: values.len() as u64,
            sum: values.iter().sum(),
            median: at(0.5),
            p99: at(0.99),
            max: at(1.0),
            histogram,
        }
    }

    /// Returns the average, [`None`] without values.
    pub fn mean(&self) -> Option<f64> {
        (self.count != 0).then(|| self.sum as f64 / self.count as f64)
    }
}

/// Distribution of mappings over pieces of RAM of one size.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Clusters {
    /// Bytes of a piece.
    pub bytes: u64,
    /// Pieces in which a mapping started.
    pub pieces: u64,
    /// Numbers of mappings that started in each of them.
    pub mappings: Spread,
    /// Address of the piece in which most of them started.
    pub busiest: u64,
}

impl Clusters {
    fn new(bytes: u64, mappings: &[(u64, u64)]) -> Self {
        let mut pieces: HashMap<u64, u64> = HashMap::new();
        for (gpa, _) in mappings {
            *pieces.entry(gpa / bytes).or_default() += 1;
        }
        let busiest = pieces
            .iter()
            .max_by_key(|(piece, count)| (**count, !**piece));
        Self {
            bytes,
            pieces: pieces.len() as u64,
            busiest: busiest.map_or(0, |(piece, _)| piece * bytes),
            mappings: Spread::new(pieces.into_values().collect()),
        }
    }
}

/// A task that ran when mappings were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    pub task: String,
    pub pid: u32,
    pub maps: u64,
    pub bytes: u64,
}

/// Doorbells of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doorbells {
    pub entries: Spread,
    pub ns: Spread,
}

/// One replay, in the names of the module's counters.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Parameters of the replay.
    pub name: String,
    /// Reason why a replay is not possible, in place of its result.
    pub error: Option<String>,
    pub counters: Option<Numbers>,
}

impl Outcome {
    fn new(name: &str, result: &Result<Counters>) -> Self {
        Self {
            name: name.to_owned(),
            error: result.as_ref().err().map(|error| format!("{error:#}")),
            counters: result.as_ref().ok().map(named),
        }
    }
}

/// The analysis of a companion.
#[derive(Clone, Debug, Serialize)]
pub struct Analysis {
    pub companion: String,
    pub device: String,
    pub driver: Option<String>,
    pub mode: String,
    /// Bytes of the mappings that drivers got.
    pub sizes: Spread,
    /// Mappings that may be copied; [`None`] if the recording does not say which.
    pub copyable: Option<u64>,
    /// Nanoseconds of the calls that created mappings, by path.
    pub calls: BTreeMap<MapPath, Spread>,
    /// Microseconds from map to unmap.
    pub lifetimes: Spread,
    /// Mappings that were not unmapped.
    pub held: u64,
    /// Clusters by granule, and by the largest window.
    pub clusters: Vec<Clusters>,
    /// Tasks that mapped most, in descending order.
    pub tasks: Vec<Task>,
    /// Doorbells by command.
    pub doorbells: BTreeMap<String, Doorbells>,
    pub windows_created: u64,
    pub windows_reused: u64,
    pub windows_returned: u64,
    /// Refusals by cause.
    pub refusals: BTreeMap<String, u64>,
    pub host_errors: BTreeMap<String, u64>,
    pub misuses: u64,
    /// Counts of the guest in the meantime.
    pub counted: Option<Numbers>,
    /// Counts of a replay with the guest's parameters.
    pub replay: Outcome,
    /// Counters of that replay that differ from the guest's.
    pub differs: Vec<String>,
    /// Replays with other parameters.
    pub variants: Vec<Outcome>,
}

/// Returns counters by the module's names, and by our own.
fn named(counters: &Counters) -> Numbers {
    [
        ("maps", counters.maps),
        ("unmaps", counters.unmaps),
        ("hits", counters.hits),
        ("misses", counters.misses),
        ("copies", counters.copies),
        ("windows_created", counters.windows_created),
        ("windows_returned", counters.windows_returned),
        ("windows_aged", counters.windows_aged),
        ("windows_reclaimed", counters.windows_reclaimed),
        ("refusals", counters.refusals),
        ("doorbells", counters.doorbells),
        ("bytes", counters.bytes),
        ("peak_bytes", counters.peak_bytes),
        ("entries", counters.entries.into()),
        ("peak_entries", counters.peak_entries.into()),
        ("unknown", counters.unknown),
    ]
    .map(|(name, count)| (name.to_owned(), count))
    .into()
}

/// Counters in which a replay and the guest must agree.
const COMPARED: [&str; 9] = [
    "maps",
    "unmaps",
    "hits",
    "misses",
    "copies",
    "windows_created",
    "windows_returned",
    "windows_reclaimed",
    "refusals",
];

/// Returns the counts between two snapshots.
fn counted(before: &Snapshot, after: Option<&Snapshot>) -> Option<Numbers> {
    let before = &before.companion.details.as_ref()?.counters;
    let after = &after?.companion.details.as_ref()?.counters;
    let grown = |(name, now): (&String, &u64)| {
        let grown = now.wrapping_sub(number(before, name));
        (name.clone(), grown)
    };
    Some(after.iter().map(grown).collect())
}

/// Analyses each companion of `recording`; calls `progress` with the next step.
pub fn analyse(recording: &Recording, mut progress: impl FnMut(&str)) -> Vec<Analysis> {
    let mut all = Vec::new();
    for before in &recording.header.before {
        let name = &before.companion.companion;
        let events = recording.events.iter();
        let events: Vec<_> = events.filter(|event| *event.companion == **name).collect();
        let mut after = recording.end.after.iter();
        let after = after.find(|after| after.companion.companion == *name);
        progress(&format!("{name}: analysing {} events", events.len()));
        let mut analysis = analyse_events(before, &events);
        analysis.counted = counted(before, after);
        replay(&mut analysis, recording, before, &events, |variant| {
            progress(&format!(
                "{name}: replaying {} events: {variant}",
                events.len()
            ));
        });
        all.push(analysis);
    }
    all
}

/// Analyses everything but replays.
fn analyse_events(before: &Snapshot, events: &[&Event]) -> Analysis {
    let mut mappings = Vec::new();
    let mut copyable = Some(0);
    let mut calls: BTreeMap<MapPath, Vec<u64>> = BTreeMap::new();
    let mut since: HashMap<(u64, u64), Vec<u64>> = HashMap::new();
    let mut lifetimes = Vec::new();
    let mut tasks: HashMap<(&str, u32), (u64, u64)> = HashMap::new();
    let mut doorbells: BTreeMap<&str, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
    let (mut created, mut reused, mut returned, mut misuses) = (0, 0, 0, 0);
    let mut refusals = BTreeMap::new();
    let mut host_errors = BTreeMap::new();
    for event in events {
        match &event.kind {
            EventKind::Map {
                gpa,
                dma,
                size,
                ns,
                entry,
                source,
                copyable: is_copyable,
                ..
            } => {
                mappings.push((*gpa, *size));
                copyable = match is_copyable {
                    Copyable::Unknown => None,
                    Copyable::No => copyable,
                    Copyable::ToDevice | Copyable::FromDevice => copyable.map(|count| count + 1),
                };
                since.entry((*dma, *size)).or_default().push(event.us);
                let (maps, bytes) = tasks.entry((&*event.task, event.pid)).or_default();
                (*maps, *bytes) = (*maps + 1, *bytes + size);
                if *entry == 0 {
                    calls.entry(*source).or_default().push(*ns);
                }
            }
            EventKind::Unmap { dma, size, .. } => {
                let from = since.get_mut(&(*dma, *size)).and_then(Vec::pop);
                lifetimes.extend(from.map(|from| event.us.saturating_sub(from)));
            }
            EventKind::WindowCreated { .. } => created += 1,
            EventKind::WindowReused { .. } => reused += 1,
            EventKind::WindowReturned { .. } => returned += 1,
            EventKind::Doorbell {
                command,
                entries,
                ns,
                ..
            } => {
                let (all, times) = doorbells.entry(&**command).or_default();
                all.push(u64::from(*entries));
                times.push(*ns);
            }
            EventKind::Refusal { cause, .. } => {
                *refusals.entry(cause.to_string()).or_default() += 1;
            }
            EventKind::HostError { cause, .. } => {
                *host_errors.entry(cause.to_string()).or_default() += 1;
            }
            EventKind::Pressure { .. } => (),
            EventKind::Misuse { .. } => misuses += 1,
        }
    }
    let mut tasks: Vec<_> = tasks
        .into_iter()
        .map(|((task, pid), (maps, bytes))| Task {
            task: task.to_owned(),
            pid,
            maps,
            bytes,
        })
        .collect();
    tasks.sort_by(|a, b| (b.maps, b.bytes, a.pid).cmp(&(a.maps, a.bytes, b.pid)));
    let companion = &before.companion;
    Analysis {
        companion: companion.companion.clone(),
        device: companion.device.clone(),
        driver: companion.driver.clone(),
        mode: companion.mode.clone(),
        sizes: Spread::new(mappings.iter().map(|(_, size)| *size).collect()),
        copyable,
        calls: calls
            .into_iter()
            .map(|(source, ns)| (source, Spread::new(ns)))
            .collect(),
        lifetimes: Spread::new(lifetimes),
        held: since.values().map(|since| since.len() as u64).sum(),
        clusters: [GRANULE, 1 << WINDOW_SHIFT]
            .map(|bytes| Clusters::new(bytes, &mappings))
            .into(),
        tasks,
        doorbells: doorbells
            .into_iter()
            .map(|(command, (entries, ns))| {
                let (entries, ns) = (Spread::new(entries), Spread::new(ns));
                (command.to_owned(), Doorbells { entries, ns })
            })
            .collect(),
        windows_created: created,
        windows_reused: reused,
        windows_returned: returned,
        refusals,
        host_errors,
        misuses,
        counted: None,
        replay: Outcome {
            name: String::new(),
            error: None,
            counters: None,
        },
        differs: Vec::new(),
        variants: Vec::new(),
    }
}

fn replay(
    analysis: &mut Analysis,
    recording: &Recording,
    before: &Snapshot,
    events: &[&Event],
    mut progress: impl FnMut(&str),
) {
    let calls = calls(events.iter().copied());
    let replayer = Replayer::new(before, &recording.header.ram, calls, events);
    let name = "as it was";
    progress(name);
    let parameters = replayer.parameters();
    let took = match &parameters {
        Ok(parameters) => replayer.replay(parameters, true),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    analysis.replay = Outcome::new(name, &took);
    if let (Some(replayed), Some(counted)) = (&analysis.replay.counters, &analysis.counted) {
        let differs = COMPARED
            .iter()
            .filter(|name| number(replayed, name) != number(counted, name));
        analysis.differs = differs.map(|name| (*name).to_owned()).collect();
    }
    if let (Ok(parameters), Ok(took)) = (parameters, took) {
        let variants = replayer.variants(&parameters, &took);
        analysis.variants = replay_all(&replayer, &variants, progress);
    }
}

/// Returns the outcomes of `variants`, which are replayed at the same time, as many as there are
/// CPUs; calls `progress` with each that is done.
fn replay_all(
    replayer: &Replayer<'_>,
    variants: &[Variant],
    mut progress: impl FnMut(&str),
) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut outcomes: Vec<Option<Outcome>> = variants.iter().map(|_| None).collect();
    thread::scope(|scope| {
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        for _ in 0..cpus.min(variants.len()) {
            let (next, sender) = (&next, sender.clone());
            scope.spawn(move || loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(variant) = variants.get(index) else {
                    break;
                };
                let result = replayer.replay(&variant.parameters, false);
                // The receiver stays until all senders are gone.
                let _ = sender.send((index, Outcome::new(&variant.name, &result)));
            });
        }
        drop(sender);
        for (index, outcome) in receiver {
            progress(&outcome.name);
            outcomes[index] = Some(outcome);
        }
    });
    outcomes.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording;

    #[test]
    fn spreads() {
        let spread = Spread::new(vec![5, 1, 4, 0, 1000]);
        assert_eq!((spread.count, spread.sum), (5, 1010));
        assert_eq!((spread.median, spread.max), (4, 1000));
        assert_eq!(spread.histogram, [(0, 1), (1, 1), (4, 2), (512, 1)].into());
        assert_eq!(spread.mean(), Some(202.0));
        assert_eq!(Spread::new(Vec::new()), Spread::default());
        assert_eq!(Spread::default().mean(), None);
    }

    #[test]
    fn a_recording_is_analysed() {
        let (_dir, path) = recording::tests::fixture();
        let recording = Recording::read(&path, |_, _| ()).unwrap();
        let analysis = &analyse(&recording, |_| ())[0];
        // Counts of that guest from the start.
        assert_eq!(analysis.sizes.count, 63);
        assert_eq!(analysis.lifetimes.count, 63);
        assert_eq!((analysis.held, analysis.misuses), (0, 1));
        assert_eq!(analysis.windows_created, 16);
        let tasks: u64 = analysis.tasks.iter().map(|task| task.maps).sum();
        assert_eq!(tasks, 63);
        let calls: u64 = analysis.calls.values().map(|spread| spread.count).sum();
        // Two lists of six are two calls.
        assert_eq!(calls, 63 - 2 * 5);
        for clusters in &analysis.clusters {
            assert_eq!(clusters.mappings.sum, 63);
            assert_eq!(clusters.mappings.count, clusters.pieces);
        }
        assert!(analysis.clusters[0].pieces > analysis.clusters[1].pieces);
        assert!(analysis
            .variants
            .iter()
            .all(|variant| variant.counters.is_some()));
        assert!(analysis.variants.len() >= 8);
    }
}
