// SPDX-License-Identifier: GPL-2.0

//! `doctor`: checks all prerequisites of the module, and gives advice for each finding.
//!
//! This file has the list of checks and prints their findings. A check is a function that inspects
//! a [`Guest`] and returns findings; none if there is nothing to inspect.

mod boot;
mod counters;
mod devices;
mod dkms;
mod finding;
#[cfg(test)]
pub mod fixture;
pub mod guest;
mod interrupts;
mod kernel;
mod log;
mod memory;
mod messages;
pub mod module;
mod predecessor;
pub mod system;
mod trust;

use crate::output;
use anyhow::Result;
use finding::{
    Finding,
    Severity, //
};
use guest::Guest;
use serde::Serialize;
use std::{
    fmt::Write,
    path::PathBuf,
    process::ExitCode, //
};
use system::System;

#[derive(clap::Args)]
pub struct Options {
    /// Inspect the files of the system in DIR, and run no programs
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

type Check = fn(&Guest) -> Vec<Finding>;

/// All checks, by name, in the order of dependency.
const CHECKS: &[(&str, Check)] = &[
    ("kernel-version", kernel::version),
    ("kernel-options", kernel::options),
    ("companion", devices::companion),
    ("bus-numbers", devices::bus_numbers),
    ("guest-iommu", devices::iommu),
    ("dkms", dkms::state),
    ("module-installed", module::installed),
    ("secure-boot", trust::secure_boot),
    ("module-loaded", module::loaded),
    ("module-version", module::version),
    ("module-parameters", module::parameters),
    ("other-module", predecessor::predecessor),
    ("companion-driver", devices::companion_driver),
    ("dart", devices::dart),
    ("managed-device", devices::managed),
    ("interrupts", interrupts::interrupts),
    ("memory-devices", memory::devices),
    ("driver-order", boot::order),
    ("driver-built-in", boot::built_in),
    ("initramfs", boot::initramfs),
    ("counters", counters::counters),
    ("log", log::log),
];

/// A finding with the name of its check.
#[derive(Serialize)]
struct Entry {
    check: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

/// All findings.
#[derive(Serialize)]
struct Report {
    /// Numbers of problems and of warnings among `findings`.
    problems: usize,
    warnings: usize,
    findings: Vec<Entry>,
}

impl Report {
    fn new(guest: &Guest) -> Self {
        let findings: Vec<_> = CHECKS
            .iter()
            .flat_map(|(check, run)| {
                let findings = run(guest);
                findings.into_iter().map(|finding| Entry { check, finding })
            })
            .collect();
        let count = |severity| {
            let all = findings.iter().map(|entry| entry.finding.severity);
            all.filter(|one| *one == severity).count()
        };
        Report {
            problems: count(Severity::Problem),
            warnings: count(Severity::Warning),
            findings,
        }
    }

    /// Returns a line for each finding, and one for the advice.
    fn page(&self) -> String {
        let mut page = String::new();
        let width = CHECKS.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for Entry { check, finding } in &self.findings {
            let _ = writeln!(
                page,
                "{:<8} {check:width$}  {}",
                finding.severity, finding.found
            );
            if let Some(advice) = &finding.advice {
                let _ = writeln!(page, "{:<8} {:width$}  -> {advice}", "", "");
            }
        }
        let (problems, warnings) = (self.problems, self.warnings);
        let _ = writeln!(page, "problems: {problems}, warnings: {warnings}");
        page
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(self.problems != 0))
    }
}

/// Returns 0 without problems, 1 with problems; an error, for exit code 2, if the guest cannot be
/// inspected.
pub fn run(options: &Options, json: bool) -> Result<ExitCode> {
    let guest = Guest::new(System::open(&options.root)?)?;
    let report = Report::new(&guest);
    output::print(&match json {
        true => output::json(&report)?,
        false => report.page(),
    })?;
    Ok(report.exit_code())
}

/// Directory of DKMS's records of the module.
pub const DKMS: &str = dkms::STATE;

/// Returns the kernel's log, or the reason why there is none.
pub fn kernel_log(guest: &Guest) -> Result<String, String> {
    log::text(guest).map_err(|finding| finding.found)
}

/// Returns all findings about a guest, as they are printed.
pub fn page(guest: &Guest) -> String {
    Report::new(guest).page()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fixture::Fixture;
    use std::{
        collections::BTreeSet,
        fs,
        sync::atomic::{
            AtomicBool,
            Ordering, //
        },
        thread, //
    };

    #[test]
    fn all_is_well_with_a_healthy_guest() {
        let report = Report::new(&Fixture::healthy().guest());
        for entry in &report.findings {
            let Entry { check, finding } = entry;
            assert_eq!(finding.severity, Severity::Ok, "{check}: {}", finding.found);
        }
        let checks: BTreeSet<_> = report.findings.iter().map(|entry| entry.check).collect();
        assert_eq!(checks.len(), CHECKS.len());
        assert_eq!((report.problems, report.warnings), (0, 0));
        assert_eq!(report.exit_code(), ExitCode::SUCCESS);
    }

    #[test]
    fn problems_are_counted_and_told() {
        let fixture = Fixture::healthy();
        fixture.unload();
        let report = Report::new(&fixture.guest());
        assert_eq!(report.problems, 1);
        assert_eq!(report.exit_code(), ExitCode::from(1));
        let text = report.page();
        assert!(text.contains("\nproblem  module-loaded      the module is not loaded\n"));
        assert!(text.contains("\n                            -> modprobe apple_dma_pci; if"));
        assert!(text.ends_with("problems: 1, warnings: 0\n"));
    }

    #[test]
    fn json_has_all_that_is_printed() {
        let fixture = Fixture::healthy();
        fixture.unload();
        let report = serde_json::to_value(Report::new(&fixture.guest())).unwrap();
        assert_eq!(report["problems"], 1);
        let findings = report["findings"].as_array().unwrap();
        let finding = findings
            .iter()
            .find(|finding| finding["check"] == "module-loaded")
            .unwrap();
        assert_eq!(finding["severity"], "problem");
        assert_eq!(finding["found"], "the module is not loaded");
        assert!(finding["advice"].is_string());
        assert!(findings[0].get("advice").is_none());
    }

    #[test]
    fn without_a_system_nothing_is_found() {
        let at = |root: PathBuf| run(&Options { root }, false);
        assert!(at("/nowhere".into()).is_err());
        let empty = tempfile::TempDir::new().unwrap();
        assert!(at(empty.path().into()).is_err());
        assert!(at(Fixture::healthy().root().into()).is_ok());
    }

    #[test]
    fn programs_are_run_in_the_running_system_only() {
        let report = Report::new(&Fixture::healthy().guest_at_rest());
        let unknown: Vec<_> = report
            .findings
            .iter()
            .filter(|entry| entry.finding.severity != Severity::Ok)
            .map(|entry| (entry.check, entry.finding.severity))
            .collect();
        assert_eq!(
            unknown,
            [("initramfs", Severity::Unknown), ("log", Severity::Unknown)]
        );
    }

    #[test]
    fn links_lead_nowhere_out_of_the_system() {
        let fixture = Fixture::healthy();
        fixture.write("etc/here", "here\n");
        fixture.link("run/absolute", "/etc/here");
        fixture.link("run/above", "../../../../../../../../etc/here");
        let system = fixture.guest_at_rest().system;
        assert_eq!(system.line("/run/absolute").as_deref(), Some("here"));
        assert_eq!(system.line("/run/above").as_deref(), Some("here"));
    }

    #[test]
    fn a_busy_system_is_looked_at_as_well() {
        let fixture = Fixture::healthy();
        let (here, there) = (fixture.root().join("here"), fixture.root().join("there"));
        fixture.write("here/file", "");
        let stop = AtomicBool::new(false);
        let guest = fixture.guest();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::rename(&here, &there).unwrap();
                    fs::rename(&there, &here).unwrap();
                }
            });
            let drivers: BTreeSet<_> = (0..20_000)
                .map(|_| {
                    guest
                        .system
                        .exists("/sys/bus/pci/devices/0000:00:05.0/driver/bind")
                })
                .collect();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(drivers, BTreeSet::from([true]));
        });
    }

    #[test]
    fn the_document_has_every_check() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");
        let document = fs::read_to_string(path).unwrap();
        for (name, _) in CHECKS {
            assert!(document.contains(&format!("\n| `{name}` |")), "{name}");
        }
    }
}
