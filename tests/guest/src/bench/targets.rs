// SPDX-License-Identifier: GPL-2.0

//! Targets for the figures, and the comparison with them.

use super::figures::{
    ratio,
    Figure,
    Figures, //
};
use super::tables::LIVE;
use serde::Serialize;
use std::collections::BTreeSet;

/// Default of the module parameter `max_bytes`.
pub const BUDGET: f64 = 1_342_177_280.0;

/// Direction of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// The figure must not exceed the target.
    Ceiling,
    /// The figure must not fall below the target.
    Floor,
}

/// A figure and its target.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// Name of the figure.
    pub what: &'static str,
    pub bound: Bound,
    pub target: f64,
    /// The measured value; `None` if it was not measured.
    pub measured: Option<f64>,
    /// True if the target is reached.
    pub reached: bool,
}

/// All figures of a run, with the targets.
#[derive(Serialize)]
pub struct Report<'a> {
    #[serde(flatten)]
    figures: &'a Figures,
    targets: Vec<Target>,
}

/// Returns `figures` with their targets.
pub fn with(figures: &Figures) -> Report<'_> {
    Report {
        figures,
        targets: all(figures),
    }
}

/// Returns the targets.
pub fn all(figures: &Figures) -> Vec<Target> {
    use Bound::{
        Ceiling,
        Floor, //
    };

    let calls = |mode: &str, case: &str| figures.one("calls", mode, case).and_then(Figure::pair);
    let hits = LIVE.map(|live| calls("hit", &format!("page-{live}")));
    let spread = highest(&hits).and_then(|most| Some(most / lowest(&hits)? - 1.0));
    let doorbells = figures
        .figures
        .iter()
        .filter(|f| {
            f.group == "calls" && ["hit", "copied", "whole", "ranges"].contains(&f.mode.as_str())
        })
        .map(|f| f.value("doorbells"))
        .collect::<Vec<_>>();
    let capacity = |case: &str, key: &str| figures.one("capacity", "default", case)?.value(key);
    let gpu = [1, 2, 3].map(|seed| capacity(&format!("gpu-{seed}"), "bytes"));
    let aligned = ["1", "2", "3", "2m"].map(|case| capacity(&format!("aligned-{case}"), "bytes"));
    let large_pages: Vec<_> = figures
        .figures
        .iter()
        .filter(|f| f.group == "congruence" && ["low", "high"].contains(&f.mode.as_str()))
        .collect();
    let large_page = |part: &str, of: &str| -> Vec<_> {
        large_pages
            .iter()
            .map(|f| ratio(f.value(part), f.value(of)))
            .collect()
    };
    let io: Vec<_> = figures
        .figures
        .iter()
        .filter(|f| f.group == "io" && ["whole", "hit"].contains(&f.mode.as_str()))
        .map(|f| (f.mode.as_str(), f.case.as_str()))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let disk_doorbells: Vec<_> = io
        .iter()
        .map(|(mode, case)| doorbells_per_io(figures, mode, case))
        .collect();
    let throughput: Vec<_> = io
        .iter()
        .map(|(mode, case)| throughput(figures, mode, case))
        .collect();

    let speeds = |mode: &str, cases: &[&str]| -> Vec<_> {
        cases
            .iter()
            .map(|case| speed(figures, mode, case))
            .collect()
    };
    let entries = |mode: &str| STREAMS.map(|case| entries_per_100_mib(figures, mode, case));

    let target = |what, bound, target: f64, measured: Option<f64>| Target {
        what,
        bound,
        target,
        measured,
        reached: measured.is_some_and(|measured| match bound {
            Ceiling => measured <= target,
            Floor => measured >= target,
        }),
    };
    vec![
        target(
            "doorbells per call in steady state",
            Ceiling,
            0.0,
            highest(&doorbells),
        ),
        target(
            "doorbells per NVMe I/O after warm-up",
            Ceiling,
            0.001,
            highest(&disk_doorbells),
        ),
        target(
            "hit path, map and unmap, to direct mapping",
            Ceiling,
            2.0,
            ratio(calls("hit", "page-10"), calls("direct", "page-10")),
        ),
        target(
            "hit path, most to least from 10 to 50,000 live, less 1",
            Ceiling,
            0.1,
            spread,
        ),
        target(
            "whole-ram mode, map and unmap, to direct mapping",
            Ceiling,
            1.3,
            ratio(calls("whole", "page-10"), calls("direct-small", "page-10")),
        ),
        target(
            "whole-ram mode by dma_range_map, map and unmap, to direct mapping",
            Ceiling,
            1.15,
            ratio(calls("ranges", "page-10"), calls("direct-small", "page-10")),
        ),
        target(
            "scattered 4 KiB pages live at once",
            Floor,
            60_000.0,
            capacity("pages-64k", "mapped"),
        ),
        target(
            "GPU-like trace, part of max_bytes live at once",
            Floor,
            0.95,
            ratio(lowest(&gpu), Some(BUDGET)),
        ),
        target(
            "the same with aligned large pages (congruent=2)",
            Floor,
            0.93,
            ratio(lowest(&aligned), Some(BUDGET)),
        ),
        target(
            "large pages that are aligned (congruent=2), hosts that fill from one end",
            Floor,
            0.95,
            lowest(&large_page("congruent", "large")),
        ),
        target(
            "doorbells per window for these",
            Ceiling,
            1.3,
            highest(&large_page("doorbells", "windows")),
        ),
        target(
            "NVMe throughput to that of direct mapping",
            Floor,
            0.9,
            lowest(&throughput),
        ),
        target(
            "files and TCP on a slow host, one after the other, to direct mapping",
            Floor,
            0.85,
            lowest(&speeds("copied", &["write", "read", "send", "receive"])),
        ),
        target(
            "files on a slow host at random, to direct mapping",
            Floor,
            0.8,
            lowest(&speeds("copied", &["randread"])),
        ),
        target(
            "entries that the host is sent for 100 MiB of these",
            Ceiling,
            1.0,
            highest(&entries("copied")),
        ),
        target(
            "files and TCP on a slow host in strict mode, to direct mapping",
            Floor,
            0.8,
            lowest(&speeds("strict", &STREAMS)),
        ),
        target(
            "entries that the host is sent for 100 MiB of these",
            Ceiling,
            0.0,
            highest(&entries("strict")),
        ),
        target(
            "files on a slow host without DMA operations, to direct mapping",
            Floor,
            0.8,
            lowest(&speeds("bounced", &["write", "read", "randread"])),
        ),
        target(
            "mappings of a buffer that fits, which have a window",
            Floor,
            0.99,
            hot_hits(figures, "copied"),
        ),
        target(
            "copies of these",
            Ceiling,
            0.0,
            figures
                .one("hot", "copied", "read")
                .and_then(|hot| hot.value("copies")),
        ),
    ]
}

/// Work of which much more moves than can be mapped.
const STREAMS: [&str; 5] = ["write", "read", "randread", "send", "receive"];

/// Returns the doorbells per I/O of a busy disk.
pub fn doorbells_per_io(figures: &Figures, mode: &str, case: &str) -> Option<f64> {
    let sum = |key| figures.sum("io", mode, case, key);
    ratio(sum("doorbells"), sum("ours"))
}

/// Returns the throughput of a disk relative to that of one with direct mapping.
pub fn throughput(figures: &Figures, mode: &str, case: &str) -> Option<f64> {
    let sum = |key| figures.sum("io", mode, case, key);
    ratio(sum("ours"), sum("theirs"))
}

/// Returns the speed of a stream relative to that of one with direct mapping, in the last rounds:
/// the first is the warm-up.
pub fn speed(figures: &Figures, mode: &str, case: &str) -> Option<f64> {
    let last = |key| figures.find("stream", mode, case).last()?.value(key);
    ratio(last("theirs"), last("ours"))
}

/// Returns the entries that the host is sent for 100 MiB of a stream, in the last round.
pub fn entries_per_100_mib(figures: &Figures, mode: &str, case: &str) -> Option<f64> {
    let last = |key| figures.find("stream", mode, case).last()?.value(key);
    let entries = last("mapped")? + last("unmapped")?;
    Some(ratio(Some(entries), last("mib"))? * 100.0)
}

/// Returns the part of the mappings of a buffer that fits that had a window already.
pub fn hot_hits(figures: &Figures, mode: &str) -> Option<f64> {
    let hot = figures.one("hot", mode, "read")?;
    ratio(hot.value("hits"), hot.value("maps"))
}

/// Returns the highest of `values`; [`None`] if one was not measured.
fn highest(values: &[Option<f64>]) -> Option<f64> {
    let measured: Option<Vec<f64>> = values.iter().copied().collect();
    measured?.into_iter().max_by(f64::total_cmp)
}

/// Returns the lowest of `values`; [`None`] if one was not measured.
fn lowest(values: &[Option<f64>]) -> Option<f64> {
    let measured: Option<Vec<f64>> = values.iter().copied().collect();
    measured?.into_iter().min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_reached() {
        assert!(all(&Figures::default()).iter().all(|t| !t.reached));
    }

    fn figures(lines: &[&str]) -> Figures {
        Figures {
            kernel: String::new(),
            figures: lines.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn find(figures: &Figures, what: &str) -> Target {
        let found = all(figures).into_iter().find(|t| t.what.starts_with(what));
        found.unwrap()
    }

    #[test]
    fn bounds_hold_both_ways() {
        let mut lines = vec![
            "calls direct page-10 map=121 unmap=73 nothing=0",
            "calls hit page-10 map=300 unmap=73 nothing=0 doorbells=0.0",
            "capacity default pages-64k mapped=59999",
        ];
        let before = figures(&lines);
        assert!(find(&before, "hit path, map and unmap").reached);
        assert!(find(&before, "doorbells per call").reached);
        assert!(!find(&before, "scattered").reached);
        lines[1] = "calls hit page-10 map=316 unmap=73 nothing=0 doorbells=0.1";
        lines[2] = "capacity default pages-64k mapped=60000";
        let after = figures(&lines);
        assert!(!find(&after, "hit path, map and unmap").reached);
        assert!(!find(&after, "doorbells per call").reached);
        assert!(find(&after, "scattered").reached);
    }

    #[test]
    fn streams_count_by_their_last_round() {
        let mut lines = vec![
            "stream copied write ours=9 theirs=1 mapped=900 unmapped=0 mib=512",
            "stream copied write ours=2.0 theirs=1.8 mapped=5 unmapped=0 mib=500",
            "stream copied read ours=2.0 theirs=1.9 mapped=0 unmapped=0 mib=500",
            "stream copied randread ours=2.0 theirs=1.7 mapped=2 unmapped=1 mib=100",
            "stream copied send ours=2.0 theirs=2.0 mapped=0 unmapped=0 mib=128",
        ];
        let speed = "files and TCP on a slow host, one after the other";
        let entries = "entries that the host is sent";
        let missing = figures(&lines);
        for what in [speed, entries] {
            let target = find(&missing, what);
            assert!(target.measured.is_none() && !target.reached, "{what}");
        }
        lines.push("stream copied receive ours=2.0 theirs=1.9 mapped=0 unmapped=0 mib=128");
        let complete = figures(&lines);
        let target = find(&complete, speed);
        assert_eq!((target.measured, target.reached), (Some(0.9), true));
        let target = find(&complete, entries);
        assert_eq!((target.measured, target.reached), (Some(3.0), false));
    }

    #[test]
    fn a_buffer_that_fits_has_windows_and_no_copies() {
        let hot = |line| {
            let figures = figures(&[line]);
            ["mappings of a buffer that fits", "copies of these"]
                .map(|what| find(&figures, what).reached)
        };
        assert_eq!(hot("hot copied read hits=99 maps=100 copies=0"), [true; 2]);
        assert_eq!(hot("hot copied read hits=98 maps=100 copies=1"), [false; 2]);
    }
}
