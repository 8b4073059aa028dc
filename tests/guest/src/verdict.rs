// SPDX-License-Identifier: GPL-2.0

//! Judges an outcome: assertions about a guest that its own scripts cannot make.

use crate::channel::Event;
use crate::run::Outcome;
use crate::scenario::{
    Case,
    Scenario, //
};
use anyhow::{
    Context,
    Result, //
};
use regex_lite::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Kernel messages that fail every guest.
const TROUBLE: &[&str] = &[
    r"WARNING:",
    r"BUG:",
    r"\bOops\b",
    r"Kernel panic",
    r"[Cc]all [Tt]race",
    r"INFO: task .* blocked",
    r"rcu: INFO",
    r"(soft|hard) lockup",
    r"Unable to handle kernel",
    r"general protection fault",
    r"UBSAN:|KASAN:|refcount_t:|list_(add|del) corruption",
    r"scheduling while atomic",
    r"DMA-API:",
    r"swiotlb buffer is full",
    r"I/O error",
    r"nvme.*(timeout|controller is down|Abort|Removing after probe failure)",
    r"EXT4-fs (error|warning)",
    r"XFS .*([Cc]orrupt|error|[Ss]hutdown)|BTRFS (error|critical|warning)",
    // A page that changed after it was freed, with page_poison=1.
    r"pagealloc:",
    r"[Ss]egfault|unhandled level",
];

/// QEMU's message at the first access that VT-d refuses.
const TRANSLATION_FAILURE: &str = "detected translation failure";

/// A condition that must hold, with the reason if it does not.
pub type Assertion = (String, Result<(), String>);

/// Returns all assertions about `outcome`.
pub fn judge(case: &Case, outcome: &Outcome) -> Vec<Assertion> {
    let scenario = &case.scenario;
    let mut all: Vec<Assertion> = outcome
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Ok(name) => Some((name.clone(), Ok(()))),
            Event::Fail(name, reason) => Some((name.clone(), Err(reason.clone()))),
            Event::Info(_) | Event::Figure(_) | Event::Done => None,
        })
        .collect();
    all.push(("script came to its end".into(), came_to_its_end(outcome)));
    all.push(("QEMU ended well".into(), qemu(scenario, outcome)));
    all.push(("kernel is content".into(), kernel(scenario, outcome)));
    if case.has_module() {
        let mode = scenario.mode.name();
        all.push((
            format!("module is in {mode} mode"),
            logged(&format!("manages .*: {mode} mode"), &outcome.console),
        ));
    }
    for pattern in &scenario.log {
        all.push((
            format!("log has '{pattern}'"),
            logged(pattern, &outcome.console),
        ));
    }
    if case.has_vtd() && scenario.faulty.is_empty() {
        let fault = outcome
            .words
            .lines()
            .find(|line| line.contains(TRANSLATION_FAILURE));
        let none = fault.map_or(Ok(()), |line| Err(line.to_owned()));
        all.push(("QEMU reports no translation failure".into(), none));
    }
    match stats(outcome) {
        Err(error) => all.push(("statistics".into(), Err(format!("{error:#}")))),
        Ok(stats) => {
            for (name, pair) in &stats.devices {
                judge_pair(scenario, name, pair, &mut all);
            }
        }
    }
    all
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(otherwise())
    }
}

fn came_to_its_end(outcome: &Outcome) -> Result<(), String> {
    ensure(outcome.events.last() == Some(&Event::Done), || {
        "the guest did not say so".into()
    })?;
    let assertions = outcome
        .events
        .iter()
        .filter(|event| matches!(event, Event::Ok(_) | Event::Fail(..)))
        .count();
    ensure(assertions > 0, || "and asserted nothing".into())
}

fn qemu(scenario: &Scenario, outcome: &Outcome) -> Result<(), String> {
    match outcome.qemu {
        None => Err(format!("the guest took more than {} s", scenario.timeout)),
        Some(status) => ensure(status.success(), || status.to_string()),
    }
}

fn kernel(scenario: &Scenario, outcome: &Outcome) -> Result<(), String> {
    let patterns = |list: &mut dyn Iterator<Item = &str>| -> Vec<Regex> {
        // Patterns of scenarios were compiled when they were read, those of this file in a test.
        list.filter_map(|pattern| Regex::new(pattern).ok())
            .collect()
    };
    let trouble = patterns(&mut TROUBLE.iter().copied());
    let allowed = patterns(&mut scenario.allow.iter().map(String::as_str));
    let found = outcome.console.lines().find(|line| {
        trouble.iter().any(|pattern| pattern.is_match(line))
            && !allowed.iter().any(|pattern| pattern.is_match(line))
    });
    found.map_or(Ok(()), |line| Err(line.to_owned()))
}

fn logged(pattern: &str, console: &str) -> Result<(), String> {
    let regex = Regex::new(pattern).map_err(|error| error.to_string())?;
    ensure(console.lines().any(|line| regex.is_match(line)), || {
        "no such line".into()
    })
}

/// The part of the simulator's statistics that is judged or shown.
#[derive(Debug, Deserialize)]
pub struct Stats {
    /// By device name.
    pub devices: BTreeMap<String, Pair>,
}

/// A managed device and its companion.
#[derive(Debug, Deserialize)]
pub struct Pair {
    /// The managed device.
    pub device: Device,
    /// Its companion, if it has one.
    pub companion: Option<Companion>,
    /// Of a device of QEMU: whether VT-d translated its accesses.
    pub translated: Option<bool>,
}

/// Counters of a managed device.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)] // the simulator documents them
pub struct Device {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub commands: u64,
    pub interrupts: u64,
    pub faults: u64,
    pub missing_faults: u64,
    pub fault_list: Vec<Value>,
    pub violations: Violations,
}

/// Counters of a companion.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)] // the simulator documents them
pub struct Companion {
    pub doorbells: u64,
    pub doorbell_ns: u64,
    pub doorbell_ns_max: u64,
    pub modelled_ns: u64,
    pub modelled_ns_max: u64,
    pub entries_mapped: u64,
    pub entries_unmapped: u64,
    pub unmap_size_mismatches: u64,
    pub largest_batch: u64,
    pub live_mappings: u64,
    pub peak_mappings: u64,
    pub peak_bytes: u64,
    pub live_at_disconnect: Option<u64>,
    pub refusals: BTreeMap<String, u64>,
    pub panics: Violations,
    pub violations: Violations,
}

/// Acts of the guest that no test may see: violations of the protocol, panics of the Mac.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)] // the simulator documents them
pub struct Violations {
    pub count: u64,
    pub list: Vec<String>,
}

/// Parses the statistics of `outcome`.
pub fn stats(outcome: &Outcome) -> Result<Stats> {
    match &outcome.stats {
        Ok(value) => Stats::deserialize(value).context("the simulator's statistics"),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    }
}

fn judge_pair(scenario: &Scenario, name: &str, pair: &Pair, all: &mut Vec<Assertion>) {
    let device = &pair.device;
    let mut assert = |what: &str, outcome| all.push((format!("{name}: {what}"), outcome));

    if scenario.faulty.iter().any(|faulty| faulty == name) {
        let faulted = ensure(device.faults > 0, || "there were none".into());
        assert("DART faults", faulted);
    } else {
        let first = device.fault_list.first().unwrap_or(&Value::Null);
        let none = ensure(device.faults == 0, || {
            format!("{} faults, the first: {first}", device.faults)
        });
        assert("no DART fault", none);
    }
    let announced = ensure(device.missing_faults == 0, || {
        format!("{} did not happen", device.missing_faults)
    });
    assert("all announced faults", announced);
    assert("no violation", no_violation(&device.violations));

    let idle = scenario.idle.iter().any(|idle| idle == name);
    if let Some(translated) = pair.translated {
        // The data that a device of QEMU moves can be counted by scripts alone.
        let outcome = ensure(translated, || "not at the end".into());
        assert("accesses were translated", outcome);
    } else if !idle {
        let moved = ensure(device.read_bytes > 0 && device.written_bytes > 0, || {
            format!(
                "read {}, written {} bytes",
                device.read_bytes, device.written_bytes
            )
        });
        assert("moved data both ways", moved);
    }
    let Some(companion) = &pair.companion else {
        return;
    };
    if !idle {
        let mapped = ensure(companion.entries_mapped > 0, || "nothing was".into());
        assert("mapped by its companion", mapped);
    }
    assert(
        "companion: no violation",
        no_violation(&companion.violations),
    );
    // No scenario may expect one.
    assert("companion: no Mac panic", no_violation(&companion.panics));
    let left = companion
        .live_at_disconnect
        .unwrap_or(companion.live_mappings);
    let empty = ensure(left == 0, || format!("{left} mappings left"));
    assert("companion: nothing mapped at the end", empty);
    if !scenario.refused.iter().any(|refused| refused == name) {
        let refused = companion.refusals.iter().find(|(_, count)| **count > 0);
        let none = refused.map_or(Ok(()), |(why, count)| Err(format!("{count} by {why}")));
        assert("companion: refused nothing", none);
    }
    // A kernel that unmaps mappings of an earlier one cannot know their lengths.
    if !scenario.left.iter().any(|left| left == name) {
        let sizes = ensure(companion.unmap_size_mismatches == 0, || {
            format!("{} were not", companion.unmap_size_mismatches)
        });
        assert("companion: unmapped with the mapping's size", sizes);
    }
}

fn no_violation(violations: &Violations) -> Result<(), String> {
    ensure(violations.count == 0, || {
        let first = violations.list.first().map_or("", String::as_str);
        format!("{}, the first: {first}", violations.count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::Arch;
    use serde_json::json;
    use std::{
        os::unix::process::ExitStatusExt,
        process::ExitStatus,
        time::Duration, //
    };

    fn case(extra: &str) -> Case {
        let text = format!("name = 'a'\nabout = 'x'\narch = ['arm64']\n{extra}");
        Case {
            scenario: toml::from_str(&text).unwrap(),
            arch: Arch::Arm64,
        }
    }

    fn good_stats() -> Value {
        let violations = json!({ "count": 0, "list": [] });
        json!({ "devices": { "d": {
            "device": {
                "read_bytes": 1, "written_bytes": 1, "commands": 1, "interrupts": 1, "faults": 0,
                "expected_faults": 0, "missing_faults": 0, "fault_list": [],
                "violations": violations,
            },
            "companion": {
                "doorbells": 1, "doorbell_ns": 1, "doorbell_ns_max": 1,
                "modelled_ns": 1, "modelled_ns_max": 1,
                "entries_mapped": 1, "entries_unmapped": 1,
                "unmap_size_mismatches": 0, "inval_batches": 0, "largest_batch": 1,
                "live_mappings": 0, "peak_mappings": 1, "peak_bytes": 16384,
                "live_at_disconnect": 0, "refusals": { "bytes": 0, "slots": 0 },
                "panics": violations,
                "violations": violations,
            },
        } } })
    }

    fn good() -> Outcome {
        Outcome {
            events: vec![Event::Ok("x".into()), Event::Done],
            console: "Linux version\nmanages d: lazy mode, hello\n".into(),
            words: String::new(),
            qemu: Some(ExitStatus::from_raw(0)),
            places: Vec::new(),
            stats: Ok(good_stats()),
            duration: Duration::ZERO,
            processor_time: Duration::ZERO,
            run: "/".into(),
        }
    }

    /// Returns the names of the assertions that failed.
    fn failed(case: &Case, outcome: &Outcome) -> Vec<String> {
        judge(case, outcome)
            .into_iter()
            .filter(|(_, result)| result.is_err())
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn patterns_are_valid() {
        assert!(TROUBLE.iter().all(|pattern| Regex::new(pattern).is_ok()));
    }

    #[test]
    fn a_good_outcome_passes() {
        assert_eq!(failed(&case(""), &good()), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_can_be_wrong_is_found() {
        let mut outcome = good();
        outcome.events = vec![Event::Done];
        assert_eq!(failed(&case(""), &outcome), ["script came to its end"]);
        outcome = good();
        outcome.events.pop();
        assert_eq!(failed(&case(""), &outcome), ["script came to its end"]);
        outcome = good();
        outcome.events[0] = Event::Fail("x".into(), "y".into());
        assert_eq!(failed(&case(""), &outcome), ["x"]);
        for qemu in [None, Some(ExitStatus::from_raw(256))] {
            outcome = good();
            outcome.qemu = qemu;
            assert_eq!(failed(&case(""), &outcome), ["QEMU ended well"]);
        }
        outcome = good();
        outcome
            .console
            .push_str("[ 1.0] WARNING: CPU: 0 PID: 1 at x\n");
        assert_eq!(failed(&case(""), &outcome), ["kernel is content"]);
        assert!(failed(&case("allow = ['WARNING: .* at x']"), &outcome).is_empty());
        assert!(failed(&case("log = ['hello$']"), &good()).is_empty());
        assert_eq!(failed(&case("log = ['bye']"), &good()), ["log has 'bye'"]);
    }

    #[test]
    fn each_counter_is_looked_at() {
        for (pointer, value, name) in [
            ("/device/faults", 1, "d: no DART fault"),
            ("/device/missing_faults", 1, "d: all announced faults"),
            ("/device/violations/count", 1, "d: no violation"),
            ("/device/read_bytes", 0, "d: moved data both ways"),
            ("/device/written_bytes", 0, "d: moved data both ways"),
            ("/companion/entries_mapped", 0, "d: mapped by its companion"),
            (
                "/companion/violations/count",
                1,
                "d: companion: no violation",
            ),
            ("/companion/panics/count", 1, "d: companion: no Mac panic"),
            (
                "/companion/live_at_disconnect",
                1,
                "d: companion: nothing mapped at the end",
            ),
            (
                "/companion/refusals/slots",
                1,
                "d: companion: refused nothing",
            ),
            (
                "/companion/unmap_size_mismatches",
                1,
                "d: companion: unmapped with the mapping's size",
            ),
        ] {
            let mut outcome = good();
            let stats = outcome.stats.as_mut().unwrap();
            *stats.pointer_mut(&format!("/devices/d{pointer}")).unwrap() = value.into();
            assert_eq!(failed(&case(""), &outcome), [name]);
        }
        assert_eq!(failed(&case("faulty = ['d']"), &good()), ["d: DART faults"]);
    }

    #[test]
    fn no_scenario_may_panic_the_mac() {
        let mut outcome = good();
        let companion = &mut outcome.stats.as_mut().unwrap()["devices"]["d"]["companion"];
        companion["panics"]["count"] = 1.into();
        companion["refusals"]["panic"] = 1.into();
        let case = case("refused = ['d']\nidle = ['d']\nleft = ['d']");
        assert_eq!(failed(&case, &outcome), ["d: companion: no Mac panic"]);
    }

    #[test]
    fn a_device_of_qemu_is_translated_without_faults() {
        let case = case("managed.d = ['nvme']");
        let mut outcome = good();
        let stats = outcome.stats.as_mut().unwrap();
        stats["devices"]["d"]["translated"] = true.into();
        stats["devices"]["d"]["device"]["read_bytes"] = 0.into();
        assert_eq!(failed(&case, &outcome), Vec::<String>::new());
        outcome.words = "qemu: vtd_iommu_translate: detected translation failure (dev=0)\n".into();
        assert_eq!(
            failed(&case, &outcome),
            ["QEMU reports no translation failure"]
        );
        outcome.words.clear();
        outcome.stats.as_mut().unwrap()["devices"]["d"]["translated"] = false.into();
        assert_eq!(failed(&case, &outcome), ["d: accesses were translated"]);
    }
}
