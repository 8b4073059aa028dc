// SPDX-License-Identifier: GPL-2.0

//! `host`: the host as the module knows it, in a form to be pasted: how long requests take, where
//! it puts mappings, and how it replies. It is not asked for anything: counters and windows are
//! read, and requests are watched that drivers cause. `host/facts.rs` draws the conclusions.

mod facts;

use crate::event::{
    self,
    EventKind,
    Line, //
};
use crate::output;
use crate::progress::Progress;
use crate::status::interval;
use crate::system::System;
use crate::text;
use crate::tracer::Tracer;
use anyhow::{
    bail,
    Result, //
};
use facts::{
    facts,
    Facts,
    Request, //
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Write,
    process::ExitCode,
    time::{
        Duration,
        Instant, //
    },
};

/// Memory for events of each CPU, in KiB: requests are rare.
const BUFFER: u32 = 256;

/// Time to wait for events.
const WAIT: Duration = Duration::from_millis(100);

/// The most requests that are remembered.
const REQUESTS: usize = 1 << 20;

#[derive(clap::Args)]
pub struct Options {
    /// Watch requests to the host for this long; 0: use the module's counters alone
    #[arg(long, short, value_name = "SECONDS", default_value = "5", value_parser = interval)]
    duration: Duration,
}

/// The result.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of the program.
    program: &'static str,
    /// The kernel's release.
    kernel: String,
    /// The machine's architecture.
    architecture: &'static str,
    /// The module's version.
    module: Option<String>,
    /// Seconds for which requests were watched.
    watched_seconds: f64,
    /// Reason why requests could not be watched.
    not_watched: Option<String>,
    /// The facts about the host of each companion.
    companions: Vec<Facts>,
}

pub fn run(options: &Options, json: bool) -> Result<ExitCode> {
    let report = report(&System::new(), options.duration)?;
    output::print(&match json {
        true => output::json(&report)?,
        false => page(&report),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Returns what is known of the host, after watching requests for some time.
pub fn report(system: &System, duration: Duration) -> Result<Report> {
    let names = system.companions()?;
    if let Some(missing) = system.why_no_details() {
        bail!("{missing}");
    }
    let began = Instant::now();
    let (requests, not_watched) = match duration.is_zero() {
        true => (BTreeMap::new(), None),
        false => match watch(system, duration) {
            Ok(requests) => (requests, None),
            Err(error) => (BTreeMap::new(), Some(format!("{error:#}"))),
        },
    };
    let watched = match (&not_watched, duration.is_zero()) {
        (None, false) => began.elapsed().as_secs_f64(),
        _ => 0.0,
    };
    let mut companions = Vec::new();
    for name in names {
        if let Some(companion) = system.companion(&name)? {
            let windows = system.windows(&name)?;
            let requests = requests.get(&name).map_or(&[][..], Vec::as_slice);
            companions.extend(facts(&companion, &windows, requests));
        }
    }
    if companions.is_empty() {
        bail!("all companions have just gone");
    }
    Ok(Report {
        program: env!("CARGO_PKG_VERSION"),
        kernel: system.kernel(),
        architecture: std::env::consts::ARCH,
        module: system.module_version(),
        watched_seconds: watched,
        not_watched,
        companions,
    })
}

/// Returns the requests that the host gets in some time, by companion.
fn watch(system: &System, duration: Duration) -> Result<BTreeMap<String, Vec<Request>>> {
    let mut tracer = Tracer::new(&system.tracefs()?, BUFFER)?;
    tracer.enable_event("doorbell", true)?;
    let mut progress = Progress::new();
    let mut requests: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    let mut count = 0;
    let began = Instant::now();
    while began.elapsed() < duration {
        let left = duration.saturating_sub(began.elapsed());
        tracer.read(left.min(WAIT), |line| {
            if count < REQUESTS {
                if let Some((companion, request)) = request(line) {
                    requests.entry(companion).or_default().push(request);
                    count += 1;
                }
            }
            Ok(())
        })?;
        progress.show(|| {
            format!(
                "watching: {count} requests, {:.0} s left",
                left.as_secs_f64()
            )
        });
    }
    Ok(requests)
}

/// Parses a line of trace_pipe that is a request to the host.
fn request(line: &str) -> Option<(String, Request)> {
    let Line::Event(event) = event::line(line) else {
        return None;
    };
    let EventKind::Doorbell {
        command,
        entries,
        status,
        ns,
    } = &event.kind
    else {
        return None;
    };
    let request = Request {
        is_map: &**command == "map",
        is_answered: &**status == "answered",
        entries: *entries,
        ns: *ns,
    };
    Some((event.companion.to_string(), request))
}

/// Returns the report in words.
pub fn page(report: &Report) -> String {
    let mut page = String::new();
    let module = report.module.as_deref().unwrap_or("of unknown version");
    let _ = writeln!(
        page,
        "apple-dma-pci {}, module {module}, kernel {}, {}",
        report.program, report.kernel, report.architecture
    );
    if let Some(why) = &report.not_watched {
        let _ = writeln!(page, "requests could not be watched: {why}");
    }
    for facts in &report.companions {
        let driver = facts.driver.as_deref().unwrap_or("none");
        let _ = writeln!(
            page,
            "\n{} manages {} (driver {driver}), {} mode",
            facts.companion, facts.device, facts.mode
        );
        let watched = report.watched_seconds;
        for (name, fact) in lines(facts, watched) {
            let _ = writeln!(page, "  {name:<14}{fact}");
        }
    }
    page
}

/// Returns the facts about a host: a name, and the rest of the line.
fn lines(facts: &Facts, watched: f64) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let known = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    lines.push((
        "protocol",
        format!(
            "{} dialect; at most {} requests a doorbell, the module sends up to {}",
            facts.dialect,
            known(facts.host_max_batch),
            known(facts.batch_max)
        ),
    ));
    lines.push(("doorbells", doorbells(facts)));
    for (name, command) in [("map", &facts.map), ("unmap", &facts.unmap)] {
        let Some(command) = command else {
            lines.push((name, "no requests yet".to_owned()));
            continue;
        };
        let lately = command.entry_ns;
        let lately = lately.map_or(String::new(), |ns| format!(", {} lately", text::ns(ns)));
        lines.push((
            name,
            format!(
                "{} each on average{lately}; {} in {}, at most {} at once; a doorbell: half took \
                 less than {}, the longest {}",
                text::ns(command.mean_entry_ns),
                text::count(command.entries, "request", "requests"),
                text::count(command.doorbells, "doorbell", "doorbells"),
                command.entries_max,
                text::ns(command.median_below_ns),
                text::ns(command.longest_ns)
            ),
        ));
    }
    if let Some(ns) = facts.unknown_key_ns {
        let each = text::ns(ns);
        lines.push((
            "unknown keys",
            format!("{each} to unmap one that is not mapped"),
        ));
    }
    for (name, fit) in [("map", &facts.watched_map), ("unmap", &facts.watched_unmap)] {
        let Some(fit) = fit else { continue };
        let cost = match fit.fixed_ns {
            Some(fixed) => format!(
                "{} for a doorbell and {} for each request",
                text::ns(fixed),
                text::ns(fit.entry_ns)
            ),
            None => format!("{} for each request", text::ns(fit.entry_ns)),
        };
        lines.push((
            match name {
                "map" => "watched map",
                _ => "watched unmap",
            },
            format!(
                "{} of {} to {} requests in {watched:.0} s: {cost}",
                text::count(fit.doorbells, "doorbell", "doorbells"),
                fit.least,
                fit.most
            ),
        ));
    }
    lines.push(("addresses", addresses(facts)));
    if let Some(offsets) = &facts.offsets {
        let rule = match offsets.violations {
            0 => "as in the guest",
            _ => "NOT as in the guest",
        };
        lines.push((
            "offsets",
            format!(
                "the low 14 bits of addresses are {rule}, of {}; the low {} bits are, of all",
                text::count(offsets.windows, "window", "windows"),
                offsets.alike_bits
            ),
        ));
    }
    if let Some(largest) = facts.largest_window {
        lines.push(("largest", format!("{} in one piece", text::bytes(largest))));
    }
    let errors: Vec<_> = facts
        .errors
        .iter()
        .map(|(cause, count)| format!("{cause} {count}"))
        .collect();
    lines.push((
        "errors",
        match &errors[..] {
            [] => "none".to_owned(),
            errors => errors.join(", "),
        },
    ));
    lines.push((
        "in use",
        format!(
            "{} of {}, {} of {} windows; at most {} in {} so far",
            text::bytes(facts.bytes),
            text::bytes(facts.max_bytes),
            facts.entries,
            facts.max_entries,
            text::bytes(facts.peak_bytes),
            text::count(facts.peak_entries, "window", "windows"),
        ),
    ));
    lines
}

/// Returns what became of doorbells.
fn doorbells(facts: &Facts) -> String {
    let others: Vec<_> = facts
        .statuses
        .iter()
        .filter(|(status, count)| *status != "answered" && **count != 0)
        .map(|(status, count)| format!("{count} {status}"))
        .collect();
    let others = match &others[..] {
        [] => "all answered".to_owned(),
        others => others.join(", "),
    };
    let posted = match facts.posted {
        None => "not known whether posted".to_owned(),
        Some(0) => "not posted: each returned when the host was done".to_owned(),
        Some(posted) => format!("posted: {posted} returned before the host was done"),
    };
    format!("{}, {others}; {posted}", facts.doorbells)
}

/// Returns where the host puts mappings.
fn addresses(facts: &Facts) -> String {
    let Some(placement) = &facts.placement else {
        return match &*facts.mode {
            "identity" => "guest-physical ones: there is no DART".to_owned(),
            _ => "nothing is mapped now".to_owned(),
        };
    };
    let order = match placement.in_order {
        Some(true) => ", in the order of guest memory",
        Some(false) => ", in another order than guest memory",
        None => "",
    };
    let gap = placement.least_gap;
    let gap = gap.map_or(String::new(), |gap| match gap {
        0 => ", some next to each other".to_owned(),
        gap => format!(", {} apart at least", text::bytes(gap)),
    });
    format!(
        "{:#x} to {:#x} ({} bits){gap}{order}",
        placement.lowest, placement.highest, placement.bits
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system;
    use std::{
        fs,
        path::Path, //
    };

    #[test]
    fn a_host_is_described() {
        let (_dir, system) = system::tests::fixture();
        let report = report(&system, Duration::ZERO).unwrap();
        let page = page(&report);
        for part in [
            "module 0.1.0, kernel ",
            "\n0000:00:10.0 manages 0000:00:06.0 (driver apple_dma_test), lazy mode\n",
            "  protocol      u32 dialect; at most 4096 requests a doorbell, the module sends up to \
             256\n",
            "  doorbells     18, all answered; not posted: each returned",
            "  map           124 µs each on average, 123 µs lately; 17 requests in 17 doorbells, \
             at most 1 at once; a doorbell: half took less than 131 µs, the longest 340 µs\n",
            "  unmap         56.9 µs each on average, ",
            "  addresses     0x800100000000 to 0x800100127fff (48 bits), ",
            "  offsets       the low 14 bits of addresses are as in the guest, of 16 windows; ",
            "  largest       256 KiB in one piece\n",
            "  errors        none\n",
            "  in use        944 KiB of 1.2 GiB, 16 of 61440 windows; at most 944 KiB in 16 ",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains("watched"), "{page}");
        // No address of the guest's memory.
        assert!(!page.contains("0x44ea0000"), "{page}");
        let json = serde_json::to_value(&report).unwrap();
        let companion = &json["companions"][0];
        assert_eq!(companion["map"]["doorbells"], 17);
        assert_eq!(companion["host_max_batch"], 4096);
        assert_eq!(companion["statuses"]["answered"], 18);
    }

    #[test]
    fn what_prevents_watching_is_said() {
        let (dir, system) = system::tests::fixture();
        let page = page(&report(&system, Duration::from_millis(1)).unwrap());
        let part = "requests could not be watched: tracefs is not mounted";
        assert!(page.contains(part), "{page}");
        fs::remove_dir_all(dir.path().join("sys/kernel/debug/apple_dma_pci")).unwrap();
        let error = report(&system, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("debugfs is not mounted"), "{error}");
        let error = report(&System::at(Path::new("/nowhere")), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("not loaded"), "{error}");
    }

    #[test]
    fn requests_are_found_in_the_trace() {
        let requests: Vec<_> = include_str!("fixtures/trace")
            .lines()
            .filter_map(request)
            .collect();
        assert_eq!(requests.len(), 16);
        for (companion, request) in requests {
            assert_eq!(companion, "0000:00:10.0");
            assert!(request.is_map && request.is_answered);
            assert_eq!(request.entries, 1);
            assert!(request.ns > 10_000);
        }
    }
}
