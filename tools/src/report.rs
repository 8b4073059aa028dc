// SPDX-License-Identifier: GPL-2.0

//! `report`: the analysis of a recording, in words and tables.

use crate::analysis::{
    analyse,
    Analysis,
    Histogram,
    Spread, //
};
use crate::debugfs::{
    number,
    Numbers, //
};
use crate::event::MapPath;
use crate::output;
use crate::progress::Progress;
use crate::recording::Recording;
use crate::text::{
    self,
    table, //
};
use anyhow::Result;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{
        Path,
        PathBuf, //
    },
    process::ExitCode, //
};

/// Number of tasks in the report.
const TASKS: usize = 10;

/// Width of the bars of histograms.
const BAR: usize = 24;

#[derive(clap::Args)]
pub struct Options {
    /// A recording that `record` wrote; - is the standard input
    file: PathBuf,
}

/// The report, for programs.
#[derive(Serialize)]
struct Report<'a> {
    kernel: &'a str,
    command: &'a [String],
    seconds: f64,
    events: u64,
    lost: u64,
    /// Reasons why the results are of a part of the recording.
    warnings: Vec<&'a str>,
    companions: &'a [Analysis],
}

/// Reads a recording, with progress if it takes long.
pub fn read(path: &Path) -> Result<Recording> {
    let mut progress = Progress::new();
    Recording::read(path, |done, all| {
        progress.show(|| {
            let name = path.display();
            match all {
                Some(all) => format!("reading {name}: {:.0} %", text::part(done, all) * 100.0),
                None => format!("reading {name}: {}", text::bytes(done)),
            }
        });
    })
}

pub fn run(options: &Options, json: bool) -> Result<ExitCode> {
    let recording = read(&options.file)?;
    let mut progress = Progress::new();
    let companions = analyse(&recording, |what| progress.show(|| what.to_owned()));
    drop(progress);
    let report = Report {
        kernel: &recording.header.kernel,
        command: &recording.header.command,
        seconds: recording.end.seconds,
        events: recording.end.events,
        lost: recording.end.lost,
        warnings: recording.cut.iter().map(String::as_str).collect(),
        companions: &companions,
    };
    output::print(&match json {
        true => output::json(&report)?,
        false => page(&report),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn page(report: &Report<'_>) -> String {
    let mut page = String::new();
    let events = text::count(report.events, "event", "events");
    let _ = write!(
        page,
        "{events} in {:.1} s, kernel {}",
        report.seconds, report.kernel
    );
    if !report.command.is_empty() {
        let _ = write!(page, ", while running: {}", report.command.join(" "));
    }
    page.push('\n');
    for warning in &report.warnings {
        let _ = writeln!(page, "warning: {warning}");
    }
    if report.lost != 0 {
        let lost = text::count(report.lost, "event was", "events were");
        let _ = writeln!(page, "{lost} lost: the following numbers are too low");
    }
    for analysis in report.companions {
        page.push('\n');
        companion(&mut page, analysis, report.seconds);
    }
    page
}

fn spread(spread: &Spread, show: fn(u64) -> String) -> String {
    format!(
        "median {}, 99 % up to {}, most {}",
        show(spread.median),
        show(spread.p99),
        show(spread.max)
    )
}

fn us(us: u64) -> String {
    text::ns(us.saturating_mul(1000))
}

fn histogram(page: &mut String, histogram: &Histogram, show: fn(u64) -> String) {
    let most = histogram.values().copied().max().unwrap_or(0);
    let row = |(from, count): (&u64, &u64)| {
        vec![
            format!("from {}", show(*from)),
            count.to_string(),
            text::bar(text::part(*count, most), BAR),
        ]
    };
    let rows: Vec<_> = histogram.iter().map(row).collect();
    page.push_str(&table(&rows));
}

fn causes(page: &mut String, what: &str, causes: &BTreeMap<String, u64>) {
    if !causes.is_empty() {
        let causes = causes
            .iter()
            .map(|(cause, count)| format!("{cause} {count}"));
        let causes: Vec<_> = causes.collect();
        let _ = writeln!(page, "{what}: {}", causes.join(", "));
    }
}

fn companion(page: &mut String, analysis: &Analysis, seconds: f64) {
    let driver = analysis.driver.as_deref().unwrap_or("none");
    let _ = writeln!(
        page,
        "{} manages {} (driver {driver}), {} mode",
        analysis.companion, analysis.device, analysis.mode
    );
    let sizes = &analysis.sizes;
    if sizes.count == 0 {
        page.push_str("no mappings\n");
    } else {
        let _ = writeln!(
            page,
            "mappings: {}, {:.0} a second, {} in all; {}",
            sizes.count,
            sizes.count as f64 / seconds.max(1e-6),
            text::bytes(sizes.sum),
            spread(sizes, text::bytes)
        );
        histogram(page, &sizes.histogram, text::bytes);
        match analysis.copyable {
            Some(count) => {
                let _ = writeln!(
                    page,
                    "mappings that may be copied: {count}, {:.1} %",
                    text::part(count, sizes.count) * 100.0
                );
            }
            None => page.push_str(
                "the module did not record which mappings may be copied: no replays with copying\n",
            ),
        }
        calls(page, analysis);
        let lifetimes = &analysis.lifetimes;
        let _ = writeln!(
            page,
            "lifetimes: {}; {} not unmapped",
            spread(lifetimes, us),
            analysis.held
        );
        histogram(page, &lifetimes.histogram, us);
        clusters(page, analysis);
        tasks(page, analysis);
    }
    doorbells(page, analysis);
    causes(page, "refused", &analysis.refusals);
    causes(page, "rejected replies of the host", &analysis.host_errors);
    if analysis.misuses != 0 {
        let _ = writeln!(page, "unmapped without being mapped: {}", analysis.misuses);
    }
    replays(page, analysis);
}

fn calls(page: &mut String, analysis: &Analysis) {
    page.push_str("map calls\n");
    let name = |source: &MapPath| match source {
        MapPath::Whole => "by the map of all of RAM",
        MapPath::Window => "by an existing window",
        MapPath::Copy => "by copying",
        MapPath::Host => "by a new window, or one found under the lock",
    };
    let rows: Vec<_> = analysis
        .calls
        .iter()
        .map(|(source, ns)| {
            vec![
                name(source).to_owned(),
                ns.count.to_string(),
                spread(ns, text::ns),
            ]
        })
        .collect();
    page.push_str(&table(&rows));
}

fn clusters(page: &mut String, analysis: &Analysis) {
    for clusters in &analysis.clusters {
        let _ = writeln!(
            page,
            "in pieces of {}: {} have mappings, {:.1} each on average; most, {}, at {:#x}",
            text::bytes(clusters.bytes),
            clusters.pieces,
            clusters.mappings.mean().unwrap_or(0.0),
            clusters.mappings.max,
            clusters.busiest
        );
    }
}

fn tasks(page: &mut String, analysis: &Analysis) {
    page.push_str("tasks that mapped\n");
    let row = |task: &crate::analysis::Task| {
        vec![
            format!("{} ({})", task.task, task.pid),
            task.maps.to_string(),
            text::bytes(task.bytes),
        ]
    };
    let rows: Vec<_> = analysis.tasks.iter().take(TASKS).map(row).collect();
    page.push_str(&table(&rows));
    let more = analysis.tasks.len().saturating_sub(TASKS);
    if more != 0 {
        let _ = writeln!(page, "  and {more} more");
    }
}

fn doorbells(page: &mut String, analysis: &Analysis) {
    for (command, doorbells) in &analysis.doorbells {
        let _ = writeln!(
            page,
            "doorbells to {command}: {}, with {} entries each: {}",
            doorbells.ns.count,
            doorbells
                .entries
                .mean()
                .map_or(String::new(), |mean| format!("{mean:.1}")),
            spread(&doorbells.ns, text::ns)
        );
        histogram(page, &doorbells.ns.histogram, text::ns);
    }
    let _ = writeln!(
        page,
        "windows: {} created, {} reused, {} unmapped",
        analysis.windows_created, analysis.windows_reused, analysis.windows_returned
    );
}

fn replays(page: &mut String, analysis: &Analysis) {
    let replay = &analysis.replay;
    if let Some(error) = &replay.error {
        let _ = writeln!(page, "no replay is possible: {error}");
        return;
    }
    match (&analysis.counted, analysis.differs.as_slice()) {
        (None, _) => {
            page.push_str("no counters of the end were recorded, so replays cannot be compared\n");
        }
        (Some(_), []) => {
            page.push_str("replayed with the guest's parameters, all counters are the same\n")
        }
        (Some(counted), differs) => {
            let replayed = replay.counters.as_ref();
            let differ = |name: &String| {
                let replayed = replayed.map_or(0, |counters| number(counters, name));
                format!("{name} {replayed}, not {}", number(counted, name))
            };
            let differs: Vec<_> = differs.iter().map(differ).collect();
            let _ = writeln!(
                page,
                "replayed with the guest's parameters, but CPUs in turn and other ages: {}",
                differs.join("; ")
            );
        }
    }
    let _ = writeln!(page, "replays");
    let heads = [
        "", "bytes", "entries", "windows", "unmapped", "hits", "copied", "refused",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for outcome in std::iter::once(replay).chain(&analysis.variants) {
        let mut row = vec![outcome.name.clone()];
        match (&outcome.counters, &outcome.error) {
            (Some(counters), _) => row.extend(outcome_cells(counters)),
            (None, error) => row.push(error.clone().unwrap_or_default()),
        }
        rows.push(row);
    }
    // An error is longer than any number.
    let (errors, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.len() == 2);
    page.push_str(&table(&rows));
    for row in errors {
        let _ = writeln!(page, "  {}: {}", row[0], row[1]);
    }
}

fn outcome_cells(counters: &Numbers) -> [String; 7] {
    let count = |name| number(counters, name).to_string();
    let share = |name| {
        let part = text::part(number(counters, name), number(counters, "maps"));
        format!("{:.1} %", part * 100.0)
    };
    [
        text::bytes(number(counters, "peak_bytes")),
        count("peak_entries"),
        count("windows_created"),
        count("windows_returned"),
        share("hits"),
        share("copies"),
        count("refusals"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{
        Copyable,
        EventKind, //
    };
    use crate::recording;

    #[test]
    fn a_page_has_all() {
        let (_dir, path) = recording::tests::fixture();
        let mut recording = read(&path).unwrap();
        // All events of the guest are in the recording.
        let first = &mut recording.header.before[0];
        first.windows.clear();
        for counter in first
            .companion
            .details
            .as_mut()
            .unwrap()
            .counters
            .values_mut()
        {
            *counter = 0;
        }
        let companions = analyse(&recording, |_| ());
        let page = page(&Report {
            kernel: "7.2",
            command: &["true".to_owned()],
            seconds: 1.0,
            events: recording.end.events,
            lost: 3,
            warnings: vec!["FILE is not whole"],
            companions: &companions,
        });
        for part in [
            "kernel 7.2, while running: true",
            "warning: FILE is not whole",
            "3 events were lost",
            "mappings: 63, 63 a second",
            "from 4 KiB",
            "by an existing window",
            "lifetimes: median ",
            "in pieces of 16 KiB: ",
            "in pieces of 256 KiB: ",
            "bash (",
            "doorbells to map: 16, with 1.0 entries each",
            "windows: 16 created",
            "unmapped without being mapped: 1",
            "replayed with the guest's parameters, all counters are the same",
            "windows of up to 1 MiB",
            "strict=1",
            "all of RAM",
            "the module did not record which mappings may be copied",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains("copy="), "{page}");
    }

    #[test]
    fn copying_is_replayed_if_it_is_known_what_may_be_copied() {
        let (_dir, path) = recording::tests::fixture();
        let mut recording = read(&path).unwrap();
        for event in &mut recording.events {
            if let EventKind::Map { copyable, size, .. } = &mut event.kind {
                *copyable = match *size < 4096 {
                    true => Copyable::No,
                    false => Copyable::FromDevice,
                };
            }
        }
        let analysis = &analyse(&recording, |_| ())[0];
        let may = analysis.copyable.unwrap();
        assert!(may > 0 && may <= analysis.sizes.count, "{may}");
        let count = |name: &str, counter| {
            let mut variants = analysis.variants.iter();
            let variant = variants.find(|variant| variant.name == name).unwrap();
            number(variant.counters.as_ref().unwrap(), counter)
        };
        // Windows that were in use before serve some of them.
        let copied = count("copy=always", "copies");
        assert!(copied > 0 && copied <= may, "{copied}");
        assert_eq!(count("strict=1 copy=auto", "copies"), may);
        assert!(
            count("strict=1 copy=auto", "windows_created") < count("strict=1", "windows_created")
        );
        assert_eq!(count("strict=1", "copies"), 0);
        // The guest did not copy.
        assert!(analysis
            .variants
            .iter()
            .all(|variant| variant.name != "copy=never"));
    }
}
