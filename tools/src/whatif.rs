// SPDX-License-Identifier: GPL-2.0

//! Replays of a recording's calls through the module's own engine, with the guest's parameters and
//! with others. The simulated host grants every request and takes as long for an entry as the
//! recorded one did; calls are sequential.

use crate::calls::Call;
use crate::debugfs::WindowStatus;
use crate::event::{
    Copyable,
    Event,
    EventKind, //
};
use crate::recording::Snapshot;
use crate::text;
use anyhow::{
    anyhow,
    bail,
    Context,
    Result, //
};
use apple_dma_replay::{
    default_copy_bytes,
    CopyMode,
    Counters,
    EntryTimes,
    HostRecord,
    Mapping,
    Mode,
    Parameters,
    Replay,
    Window,
    WINDOW_SHIFT, //
};

/// The module's minimum for the limits.
const LEAST_BYTES: u64 = 1 << 20;
const LEAST_ENTRIES: u32 = 16;

/// The input of replays.
pub struct Replayer<'a> {
    /// The companion's state at the start.
    before: &'a Snapshot,
    /// Calls of drivers, with microseconds.
    calls: Vec<(u64, Call)>,
    host: HostRecord,
    ram: Vec<(u64, u64)>,
    /// True if it is known which mappings may be copied.
    copies_known: bool,
}

/// A replay with other parameters.
pub struct Variant {
    /// Description, in words.
    pub name: String,
    pub parameters: Parameters,
}

impl<'a> Replayer<'a> {
    /// Returns the input; `events` are those of the companion of `before`.
    pub fn new(
        before: &'a Snapshot,
        ram: &[(u64, u64)],
        calls: Vec<(u64, Call)>,
        events: &[&Event],
    ) -> Self {
        let details = before.companion.details.as_ref();
        let times = |command: &str| EntryTimes {
            before: details
                .and_then(|details| details.doorbells.get(&format!("{command}_entry_ns")))
                .copied(),
            batches: Vec::new(),
        };
        let mut host = HostRecord {
            created: Vec::new(),
            map: times("map"),
            unmap: times("unmap"),
        };
        let mut copies_known = true;
        for event in events {
            match &event.kind {
                EventKind::Map { copyable, .. } => copies_known &= *copyable != Copyable::Unknown,
                EventKind::WindowCreated { gpa, dma, size, .. } => host.created.push(Mapping {
                    gpa: *gpa,
                    dma: *dma,
                    size: *size,
                }),
                EventKind::Doorbell {
                    command,
                    entries,
                    status,
                    ns,
                } if &**status == "answered" => {
                    let times = match &**command {
                        "map" => &mut host.map,
                        _ => &mut host.unmap,
                    };
                    times.batches.extend(ns.checked_div((*entries).into()));
                }
                _ => (),
            }
        }
        Self {
            before,
            calls,
            host,
            ram: ram.to_vec(),
            copies_known,
        }
    }

    /// Returns the guest's parameters; fails if no replay is possible.
    pub fn parameters(&self) -> Result<Parameters> {
        let companion = &self.before.companion;
        let details = companion.details.as_ref();
        let details = details.context("the recording has no counters")?;
        let mode = match companion.mode.as_str() {
            "lazy" => Mode::Lazy,
            "strict" => Mode::Strict,
            "whole-ram" => Mode::WholeRam,
            mode => bail!("in mode {mode} the module maps nothing"),
        };
        let batch_max = details.status_number("batch_max").context("no batch_max")?;
        Ok(Parameters {
            mode,
            window_shift: WINDOW_SHIFT,
            max_bytes: companion.max_bytes,
            max_entries: u32::try_from(companion.max_entries)?,
            batch_max: usize::try_from(batch_max)?,
            len_max: match details.status.get("dialect").map(String::as_str) {
                Some("u32") => u32::MAX.into(),
                _ => u64::MAX,
            },
            congruent: details.status_number("congruent").unwrap_or(0),
            copy: match details.status.get("copy").map(String::as_str) {
                Some("auto") => CopyMode::Auto,
                Some("always") => CopyMode::Always,
                _ => CopyMode::Never,
            },
            copy_bytes: match details.status_number("copy_bytes") {
                None | Some(0) => {
                    let ram_bytes = self.ram.iter().map(|(_, len)| len).sum();
                    default_copy_bytes(ram_bytes, companion.max_bytes)
                }
                Some(bytes) => bytes,
            },
            ram: self.ram.clone(),
        })
    }

    /// Returns the counts of a replay with `parameters`. With `as_it_was` it starts with all
    /// windows of the guest, which the host places as it did there; else with those that were in
    /// use.
    pub fn replay(&self, parameters: &Parameters, as_it_was: bool) -> Result<Counters> {
        let windows = self
            .before
            .windows
            .iter()
            .filter(|window| match window.state {
                WindowStatus::Live => true,
                WindowStatus::Idle => as_it_was,
                WindowStatus::Fixed | WindowStatus::Lost | WindowStatus::Returning => false,
            });
        let windows: Vec<_> = windows
            .map(|window| Window {
                at: Mapping {
                    gpa: window.gpa,
                    dma: window.dma,
                    size: window.bytes,
                },
                users: window.users,
            })
            .collect();
        let anywhere;
        let host = if as_it_was {
            &self.host
        } else {
            anywhere = HostRecord {
                created: Vec::new(),
                ..self.host.clone()
            };
            &anywhere
        };
        let replay = Replay::new(parameters, &windows, host);
        let mut replay = replay.map_err(|error| anyhow!(error))?;
        // The module does the same, but the time at which it started is not known.
        let half_idle = self.max_idle().filter(|_| parameters.mode == Mode::Lazy);
        let half_idle = half_idle.map(|seconds| seconds * 1_000_000 / 2);
        let start = self.calls.first().map_or(0, |(us, _)| *us);
        let mut ticked = start;
        for (us, call) in &self.calls {
            replay.advance_to(us.saturating_sub(start));
            if let Some(half_idle) = half_idle {
                while us.saturating_sub(ticked) >= half_idle {
                    replay.tick();
                    ticked += half_idle;
                }
            }
            match call {
                Call::Map(list, copyable) => {
                    replay.map(list, *copyable);
                }
                Call::Unmap(list) => replay.unmap(list),
                Call::Attempt { gpa, size } => replay.attempt(*gpa, *size),
            }
        }
        Ok(replay.counters())
    }

    /// Returns the seconds until an idle window is unmapped; [`None`] if it is kept.
    fn max_idle(&self) -> Option<u64> {
        let details = self.before.companion.details.as_ref()?;
        details
            .status_number("max_idle")
            .filter(|seconds| *seconds != 0)
    }

    /// Returns the replays of interest: other windows, other modes, limits below the peak usage,
    /// and copying if it is known what may be copied.
    pub fn variants(&self, parameters: &Parameters, took: &Counters) -> Vec<Variant> {
        let lazy = Parameters {
            mode: Mode::Lazy,
            ..parameters.clone()
        };
        let mut variants = Vec::new();
        let mut add = |name: String, parameters| variants.push(Variant { name, parameters });
        for window_shift in [14, 16, 18, 20, 22] {
            let size = text::bytes(1 << window_shift);
            add(
                format!("windows of up to {size}"),
                Parameters {
                    window_shift,
                    ..lazy.clone()
                },
            );
        }
        for (name, mode) in [("strict=1", Mode::Strict), ("all of RAM", Mode::WholeRam)] {
            add(
                name.to_owned(),
                Parameters {
                    mode,
                    ..lazy.clone()
                },
            );
        }
        for divisor in [2, 4] {
            let max_bytes = (took.peak_bytes / divisor).max(LEAST_BYTES);
            add(
                format!("max_bytes={max_bytes}"),
                Parameters {
                    max_bytes,
                    ..lazy.clone()
                },
            );
        }
        for divisor in [2, 4] {
            let max_entries = (took.peak_entries / divisor).max(LEAST_ENTRIES);
            add(
                format!("max_entries={max_entries}"),
                Parameters {
                    max_entries,
                    ..lazy.clone()
                },
            );
        }
        let copying = [
            ("copy=never", Mode::Lazy, CopyMode::Never),
            ("copy=auto", Mode::Lazy, CopyMode::Auto),
            ("copy=always", Mode::Lazy, CopyMode::Always),
            ("strict=1 copy=auto", Mode::Strict, CopyMode::Auto),
        ];
        for (name, mode, copy) in copying {
            if self.copies_known && copy != parameters.copy {
                add(
                    name.to_owned(),
                    Parameters {
                        mode,
                        copy,
                        ..lazy.clone()
                    },
                );
            }
        }
        variants.dedup_by(|a, b| a.name == b.name);
        variants
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::calls;
    use crate::debugfs::number;
    use crate::recording::{
        self,
        Recording, //
    };

    /// Checks that a replay has the guest's counts: the fixture's events are complete.
    #[test]
    fn a_replay_counts_what_the_guest_counted() {
        let (_dir, path) = recording::tests::fixture();
        let recording = Recording::read(&path, |_, _| ()).unwrap();
        let events: Vec<_> = recording.events.iter().collect();
        let mut before = recording.header.before[0].clone();
        before.windows.clear();
        let ram = &recording.header.ram;
        let replayer = Replayer::new(&before, ram, calls(&recording.events), &events);
        let parameters = replayer.parameters().unwrap();
        let counters = replayer.replay(&parameters, true).unwrap();
        let after = &recording.end.after[0].companion;
        let guest = &after.details.as_ref().unwrap().counters;
        for (name, count) in [
            ("maps", counters.maps),
            ("unmaps", counters.unmaps),
            ("hits", counters.hits),
            ("misses", counters.misses),
            ("windows_created", counters.windows_created),
            ("windows_returned", counters.windows_returned),
            ("refusals", counters.refusals),
        ] {
            assert_eq!(count, number(guest, name), "{name}");
        }
        assert_eq!(
            (counters.bytes, u64::from(counters.entries)),
            (after.bytes, after.entries)
        );
        assert_eq!(counters.unknown, 0);

        // Smaller windows are more in number, and each covers less.
        let small = Parameters {
            window_shift: 14,
            ..parameters
        };
        let small = replayer.replay(&small, false).unwrap();
        assert!(small.windows_created > counters.windows_created);
        assert!(small.peak_bytes < counters.peak_bytes);
    }
}
