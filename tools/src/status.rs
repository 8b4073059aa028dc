// SPDX-License-Identifier: GPL-2.0

//! `status`: the state in one screen. `top` prints the same text where there is no terminal.

use crate::output;
use crate::system::System;
use crate::text;
use crate::view::{
    CompanionView,
    Sampler,
    View, //
};
use anyhow::Result;
use std::{
    fmt::Write,
    process::ExitCode,
    thread,
    time::Duration, //
};

/// Width of bars.
const BAR: usize = 30;

#[derive(clap::Args)]
pub struct Options {
    /// Seconds over which rates are measured; 0: no rates
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Reset the module's peaks after they are shown
    #[arg(long)]
    reset_peaks: bool,
}

/// Parses a number of seconds, an hour at most.
pub fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.0..=3600.0).contains(seconds));
    let seconds = seconds.ok_or_else(|| "seconds from 0 to 3600, such as 0.5".to_owned())?;
    Ok(Duration::from_secs_f64(seconds))
}

pub fn run(options: &Options, json: bool) -> Result<ExitCode> {
    let mut sampler = Sampler::new(System::new());
    let mut view = sampler.sample()?;
    if view.missing.is_none() && !options.interval.is_zero() {
        thread::sleep(options.interval);
        view = sampler.sample()?;
    }
    output::print(&match json {
        true => output::json(&view)?,
        false => screen(&view),
    })?;
    if options.reset_peaks {
        for companion in &view.companions {
            System::new().reset_peaks(&companion.now.companion)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the title of a companion, in a line.
pub fn title(companion: &CompanionView) -> String {
    let now = &companion.now;
    let driver = match (&now.driver, now.present) {
        (Some(driver), _) => format!("driver {driver}"),
        (None, true) => "no driver".to_owned(),
        (None, false) => "not present".to_owned(),
    };
    let mut title = format!(
        "{} manages {} ({driver}), {} mode",
        now.companion, now.device, now.mode
    );
    let host = now
        .details
        .as_ref()
        .and_then(|details| details.status.get("host"));
    if let Some(host) = host {
        let _ = write!(title, ", host {host}");
    }
    title
}

/// Returns the usage of the limits: name, part, and numbers in words.
pub fn budgets(companion: &CompanionView) -> [(&'static str, f64, String); 2] {
    let now = &companion.now;
    let peak = |name: &str, show: &dyn Fn(u64) -> String| {
        let details = now.details.as_ref();
        let peak = details.and_then(|details| details.status_number(name));
        peak.map_or(String::new(), |peak| format!(", peak {}", show(peak)))
    };
    [
        (
            "bytes",
            text::part(now.bytes, now.max_bytes),
            format!(
                "{} of {}{}",
                text::bytes(now.bytes),
                text::bytes(now.max_bytes),
                peak("peak_bytes", &text::bytes)
            ),
        ),
        (
            "entries",
            text::part(now.entries, now.max_entries),
            format!(
                "{} of {}{}",
                now.entries,
                now.max_entries,
                peak("peak_entries", &|entries| entries.to_string())
            ),
        ),
    ]
}

/// Returns further facts: a name, and the rest of the line.
pub fn facts(companion: &CompanionView) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(details) = &companion.now.details {
        let windows = ["live", "idle", "fixed", "lost"];
        let windows = windows.map(|state| format!("{state} {}", details.windows(state)));
        facts.push(("windows", windows.join(", ")));
        // Earlier modules do not say it.
        if let (Some(pressure), Some(bytes), Some(entries)) = (
            details.status.get("pressure"),
            details.status_number("available_bytes"),
            details.status_number("available_entries"),
        ) {
            let bytes = text::bytes(bytes);
            facts.push((
                "room",
                format!("pressure {pressure}; {bytes} in {entries} windows are available"),
            ));
        }
    }
    if let Some(details) = &companion.now.details {
        let cost = |command| {
            let ns = details.doorbells.get(&format!("{command}_entry_ns"))?;
            Some(format!("{command} {}", text::ns(*ns)))
        };
        let costs: Vec<_> = ["map", "unmap", "search"]
            .into_iter()
            .filter_map(cost)
            .collect();
        if !costs.is_empty() {
            facts.push(("requests", format!("take the host: {}", costs.join(", "))));
        }
    }
    if let Some(rates) = &companion.rates {
        let hits = rates.hit_part;
        let hits = hits.map_or(String::new(), |part| {
            format!(", hits {:.1} %", part * 100.0)
        });
        facts.push((
            "mappings",
            format!(
                "created {}, unmapped {}{hits}",
                text::rate(rates.maps),
                text::rate(rates.unmaps)
            ),
        ));
        let each = rates.doorbell_ns;
        let each = each.map_or(String::new(), |ns| format!(" of {}", text::ns(ns)));
        facts.push((
            "host",
            format!(
                "doorbells {}{each}, windows created {}, unmapped {}",
                text::rate(rates.doorbells),
                text::rate(rates.windows_created),
                text::rate(rates.windows_returned)
            ),
        ));
    }
    facts
}

/// Returns the whole screen.
pub fn screen(view: &View) -> String {
    let mut screen = String::new();
    for companion in &view.companions {
        screen.push_str(&title(companion));
        screen.push('\n');
        for (name, part, numbers) in budgets(companion) {
            let _ = writeln!(
                screen,
                "  {name:<9}{} {:>3.0} %  {numbers}",
                text::bar(part, BAR),
                part * 100.0
            );
        }
        for (name, fact) in facts(companion) {
            let _ = writeln!(screen, "  {name:<9}{fact}");
        }
        for need in view
            .attention
            .iter()
            .filter(|need| need.companion == companion.now.companion)
        {
            let _ = writeln!(screen, "  ! {}", need.text);
        }
    }
    if let Some(missing) = view.missing {
        let _ = writeln!(screen, "{missing}");
    } else if view.attention.is_empty() {
        screen.push_str("no warnings\n");
    }
    screen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system;

    #[test]
    fn a_screen_has_all() {
        let (_dir, system) = system::tests::fixture();
        let mut sampler = Sampler::new(system);
        sampler.sample().unwrap();
        let screen = screen(&sampler.sample().unwrap());
        for part in [
            "0000:00:10.0 manages 0000:00:06.0 (driver apple_dma_test), lazy mode, host ready",
            "bytes    [#",
            "of 1.2 GiB, peak ",
            "entries  [#",
            "of 61440, peak ",
            "windows  live ",
            "room     pressure none; 1.2 GiB in 61424 windows are available",
            "created 0/s",
            "! driver bug: it unmapped 1 time memory that was not mapped",
        ] {
            assert!(screen.contains(part), "{part}\n{screen}");
        }
    }

    #[test]
    fn everyone_sees_limits_and_what_root_would() {
        let (dir, system) = system::tests::fixture();
        std::fs::remove_dir_all(dir.path().join("sys/kernel/debug")).unwrap();
        let screen = screen(&Sampler::new(system).sample().unwrap());
        assert!(screen.contains("lazy mode\n  bytes    [#"), "{screen}");
        assert!(screen.contains("cannot be seen"), "{screen}");
        assert!(!screen.contains("windows"), "{screen}");
    }

    #[test]
    fn intervals() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "x", "-1", "1e9", "nan"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
