// SPDX-License-Identifier: GPL-2.0

//! Texts for people: results of cases, and the summary of the demonstration.

use crate::run::Outcome;
use crate::verdict::{
    self,
    Assertion,
    Companion, //
};
use serde_json::Value;
use std::io::{
    stdout,
    IsTerminal, //
};

/// Number of lines of a guest's console that a failure shows.
const TAIL: usize = 40;

/// Colours, on a terminal only.
#[derive(Clone, Copy)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Returns the style for standard output.
    pub fn for_stdout() -> Self {
        Style {
            colour: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Formats a good result.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Formats a bad result.
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Formats a heading.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// Prints a case's result: a line, and after a failure the information to find the reason.
pub fn case(style: Style, name: &str, outcome: &Outcome, assertions: &[Assertion]) -> String {
    let failed: Vec<_> = assertions
        .iter()
        .filter_map(|(name, result)| result.as_ref().err().map(|why| (name, why)))
        .collect();
    let verdict = if failed.is_empty() {
        style.good("ok  ")
    } else {
        style.bad("FAIL")
    };
    let mut text = format!(
        "{verdict} {name:<32} {:>3} assertions {:>6.1} s, {:>6.1} s of processors{}\n",
        assertions.len(),
        outcome.duration.as_secs_f64(),
        outcome.processor_time.as_secs_f64(),
        doorbell_time(outcome)
    );
    if failed.is_empty() {
        return text;
    }
    for (name, why) in failed {
        text.push_str(&format!("     {}: {why}\n", style.bad(name)));
    }
    if !outcome.places.is_empty() {
        text.push_str("     its processors at the end, a second apart:\n");
    }
    for line in &outcome.places {
        text.push_str(&format!("     | {line}\n"));
    }
    text.push_str("     the guest's last words:\n");
    let lines: Vec<_> = outcome.console.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        text.push_str(&format!("     | {line}\n"));
    }
    if let Ok(stats) = &outcome.stats {
        text.push_str(&format!("     statistics: {stats}\n"));
    }
    text.push_str(&format!("     all of it is in {}\n", outcome.run.display()));
    text
}

/// Formats the time that the guest's processors spent in doorbells, of all companions: the total
/// and the longest, and the same as a Mac is estimated to take if that is configured.
fn doorbell_time(outcome: &Outcome) -> String {
    let Ok(stats) = verdict::stats(outcome) else {
        return String::new();
    };
    let all = || stats.devices.values().filter_map(|p| p.companion.as_ref());
    let time = |total: fn(&Companion) -> u64, longest: fn(&Companion) -> u64| {
        let total: u64 = all().map(total).sum();
        let longest = all().map(longest).max().unwrap_or_default();
        format!("{}, longest {}", time(total), time(longest))
    };
    if all().all(|c| c.doorbells == 0) {
        return String::new();
    }
    let mut text = time(|c| c.doorbell_ns, |c| c.doorbell_ns_max);
    if all().any(|c| c.modelled_ns != 0) {
        let modelled = time(|c| c.modelled_ns, |c| c.modelled_ns_max);
        text.push_str(&format!(" (modelled {modelled})"));
    }
    format!("  doorbells {text}")
}

/// Formats nanoseconds, in the largest unit that leaves digits.
fn time(ns: u64) -> String {
    match ns {
        0..=999_999 => format!("{:.0} µs", ns as f64 / 1e3),
        1_000_000..=999_999_999 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// Formats `N passed, N failed`.
pub fn totals(passed: usize, failed: usize) -> String {
    format!("{passed} passed, {failed} failed")
}

/// Returns the events on both sides, as a table for the demonstration.
pub fn summary(outcome: &Outcome) -> anyhow::Result<String> {
    let mut text = String::new();
    for (name, pair) in &verdict::stats(outcome)?.devices {
        let mut row = |what: &str, value: String| {
            text.push_str(&format!("    {what:<44} {value:>14}\n"));
        };
        let device = &pair.device;
        row(
            &format!("{name}: read from guest memory"),
            bytes(device.read_bytes),
        );
        row(
            &format!("{name}: written to guest memory"),
            bytes(device.written_bytes),
        );
        row(&format!("{name}: commands"), device.commands.to_string());
        row(
            &format!("{name}: interrupts"),
            device.interrupts.to_string(),
        );
        row(&format!("{name}: DART faults"), device.faults.to_string());
        if let Some(fault) = device.fault_list.first() {
            row(&format!("{name}: first fault"), fault_text(fault));
        }
        if let Some(companion) = &pair.companion {
            let mut row = |what: &str, value: String| row(&format!("companion: {what}"), value);
            row("doorbells", companion.doorbells.to_string());
            if companion.doorbells == 0 {
                continue;
            }
            row("time in doorbells", time(companion.doorbell_ns));
            row("the longest doorbell", time(companion.doorbell_ns_max));
            row("ranges mapped", companion.entries_mapped.to_string());
            row("ranges unmapped", companion.entries_unmapped.to_string());
            row(
                "most ranges in one doorbell",
                companion.largest_batch.to_string(),
            );
            row(
                "most mapped at a time, ranges",
                companion.peak_mappings.to_string(),
            );
            row("most mapped at a time", bytes(companion.peak_bytes));
            let left = companion
                .live_at_disconnect
                .unwrap_or(companion.live_mappings);
            row("still mapped at the end", left.to_string());
        }
    }
    Ok(text)
}

/// Formats the direction and the address of a fault.
fn fault_text(fault: &Value) -> String {
    let direction = fault["direction"].as_str().unwrap_or("access");
    let iova = fault["iova"].as_u64().unwrap_or_default();
    format!("{direction} at {iova:#x}")
}

/// Formats a number of bytes, in the largest unit that leaves digits.
fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=9_999_999 => format!("{:.1} KiB", n as f64 / 1024.0),
        _ => format!("{:.1} MiB", n as f64 / f64::from(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn outcome(companions: &[Value]) -> Outcome {
        let violations = json!({ "count": 0, "list": [] });
        let device = json!({
            "read_bytes": 1, "written_bytes": 1, "commands": 1, "interrupts": 1, "faults": 0,
            "missing_faults": 0, "fault_list": [], "violations": violations,
        });
        let mut devices = json!({});
        for (n, own) in companions.iter().enumerate() {
            let mut companion = json!({
                "doorbells": 1, "doorbell_ns": 0, "doorbell_ns_max": 0, "modelled_ns": 0,
                "modelled_ns_max": 0, "entries_mapped": 1, "entries_unmapped": 1,
                "unmap_size_mismatches": 0, "largest_batch": 1, "live_mappings": 0,
                "peak_mappings": 1, "peak_bytes": 1, "live_at_disconnect": 0, "refusals": {},
                "panics": violations, "violations": violations,
            });
            for (key, value) in own.as_object().unwrap() {
                companion[key] = value.clone();
            }
            devices[n.to_string()] = json!({ "device": device, "companion": companion });
        }
        Outcome {
            events: Vec::new(),
            console: String::new(),
            words: String::new(),
            qemu: None,
            places: Vec::new(),
            stats: Ok(json!({ "devices": devices })),
            duration: Duration::ZERO,
            processor_time: Duration::ZERO,
            run: "/".into(),
        }
    }

    #[test]
    fn doorbells_of_all_companions_are_reported() {
        let real = json!({ "doorbell_ns": 2_000_000, "doorbell_ns_max": 1_500_000 });
        let both = json!({
            "doorbell_ns": 3_000_000_000u64, "doorbell_ns_max": 900,
            "modelled_ns": 5_000_000_000u64, "modelled_ns_max": 1_000_000_000,
        });
        assert_eq!(
            doorbell_time(&outcome(&[real.clone(), real.clone()])),
            "  doorbells 4.0 ms, longest 1.5 ms"
        );
        assert_eq!(
            doorbell_time(&outcome(&[real, both])),
            "  doorbells 3.0 s, longest 1.5 ms (modelled 5.0 s, longest 1.0 s)"
        );
        assert_eq!(doorbell_time(&outcome(&[json!({ "doorbells": 0 })])), "");
        assert_eq!(doorbell_time(&outcome(&[])), "");
    }

    #[test]
    fn demonstrations_show_the_time_in_doorbells() {
        let text = summary(&outcome(&[json!({ "doorbell_ns": 31_000 })])).unwrap();
        let row = text.lines().find(|line| line.contains("time in doorbells"));
        assert!(row.is_some_and(|row| row.ends_with("31 µs")), "{text}");
    }
}
