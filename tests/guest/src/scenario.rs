// SPDX-License-Identifier: GPL-2.0

//! What scenarios.toml says: which guests to boot, with what, and what must come of it.

use crate::assets::{
    Arch,
    System, //
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use regex_lite::Regex;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::Path,
    time::Duration, //
};

/// The module that all of this is about.
const MODULE: &str = "apple_dma_pci";

/// How much longer a guest may take on a kernel that it was not made for.
const SLOWER: u64 = 5;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Scenario>,
    /// Patterns of kernel messages by name, for several scenarios.
    #[serde(default)]
    patterns: BTreeMap<String, Vec<String>>,
}

/// One `[[scenario]]`. tests/README.md describes the fields.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Unique name.
    pub name: String,
    /// What it is about, in a line.
    pub about: String,
    /// Script in image/scenarios/; the name when absent.
    pub script: Option<String>,
    /// Architectures to run on.
    pub arch: Vec<Arch>,
    /// Those to run on as well when all of a kernel is tested, for which `make check` has no time.
    #[serde(default)]
    pub elsewhere: Vec<Arch>,
    /// The kernel to boot, as tests/env/kernel calls it; Debian's usual one when absent.
    pub kernel: Option<String>,
    /// Kernels that cannot do it, whatever we do.
    #[serde(default)]
    pub never_on: Vec<String>,
    /// Whether every kernel that is supported must do it.
    #[serde(default)]
    pub core: bool,
    /// Devices, as the simulator's `--device` takes them, without `file=`.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Bytes of every NVMe image.
    #[serde(default = "default_disk")]
    pub disk: u64,
    /// Further options of the simulator.
    #[serde(default)]
    pub mac: Vec<String>,
    /// Let BAR writes return before the device saw them.
    #[serde(default)]
    pub posted: bool,
    /// Let the guest boot again when it reboots, or panics, instead of ending there.
    #[serde(default)]
    pub reboot: bool,
    /// Give the guest its own kernel and root file system as disks, for another start.
    #[serde(default)]
    pub kexec: bool,
    /// The bus that managed devices and companions are on.
    #[serde(default)]
    pub bus: Bus,
    /// The PCI domain that arm64 guests find it in.
    #[serde(default)]
    pub domain: u16,
    /// The system to boot, of those that tests/env/package installed, from the first disk; its own
    /// kernel and initial root file system, not ours.
    pub installed: Option<String>,
    /// Boot it by UEFI with Secure Boot, from disks of the machine's own; the firmware's variables
    /// are those in `vars-NAME.fd`.
    pub secure_boot: Option<String>,
    /// Our modules, put into /test/modules.
    #[serde(default = "default_modules")]
    pub modules: Vec<String>,
    /// Where they were built, below build/, if not where tests/env/build-modules does.
    pub modules_in: Option<String>,
    /// Put the kselftest into /test/selftests.
    #[serde(default)]
    pub selftests: bool,
    /// Put the tool of tools/ among the programs.
    #[serde(default)]
    pub tool: bool,
    /// The mode that the module is to be in, and must say it is in.
    #[serde(default)]
    pub mode: Mode,
    /// Further parameters of the module.
    #[serde(default)]
    pub parameters: String,
    /// Guest RAM in MiB.
    #[serde(default = "default_memory")]
    pub memory: u32,
    /// KiB of guest RAM besides, a multiple of 8: where the end of RAM is to be no window's.
    #[serde(default)]
    pub tail: u32,
    /// MiB of memory that the script may plug into the running guest; 0 is none.
    #[serde(default)]
    pub hotplug: u32,
    /// Firmware of amd64 guests.
    #[serde(default = "default_firmware")]
    pub firmware: String,
    /// Let the guest's clock count instructions, and its processors take turns.
    #[serde(default)]
    pub icount: bool,
    /// Let the guest's processors take turns; if absent, those of amd64 guests do.
    pub turns: Option<bool>,
    /// Added to the kernel's command line.
    #[serde(default)]
    pub append: String,
    /// Shell variables for the script.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Seconds until the guest is given up.
    #[serde(default = "default_timeout")]
    pub timeout: u64,
    /// Patterns of kernel messages that are no failure here, or `@NAME` for those of that name.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Patterns that some line of the guest's log must match.
    #[serde(default)]
    pub log: Vec<String>,
    /// Devices that must have had DART faults; all others must have none.
    #[serde(default)]
    pub faulty: Vec<String>,
    /// Devices whose companions may have refused requests; no other may.
    #[serde(default)]
    pub refused: Vec<String>,
    /// Devices of which a kernel that crashed left mappings, whose size the next cannot know.
    #[serde(default)]
    pub left: Vec<String>,
    /// Devices that need not have moved data; all others must have, through mappings.
    #[serde(default)]
    pub idle: Vec<String>,
}

/// Where managed devices and companions are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// On the first bus, with all else.
    #[default]
    First,
    /// Behind a conventional PCI bridge.
    Bridge,
    /// Behind a PCIe root port, which has one slot: companions are functions 4 to 7.
    Port,
}

/// A mode of the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Mode {
    /// Windows that stay mapped while they are idle. Most scenarios want it: with all of RAM
    /// mapped at once there is next to nothing left to test.
    #[default]
    #[serde(rename = "lazy")]
    Lazy,
    /// Windows that are given back at once.
    #[serde(rename = "strict")]
    Strict,
    /// All of RAM at once, the module's default where it fits.
    #[serde(rename = "whole-RAM")]
    WholeRam,
    /// All of RAM at once, by the kernel's direct mapping: the only mode of kernels that have no
    /// DMA operations for single devices.
    #[serde(rename = "direct")]
    Direct,
    /// Guest-physical addresses, which the module finds out by itself that the host uses.
    #[serde(rename = "identity")]
    Identity,
}

impl Mode {
    /// As the module calls it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Lazy => "lazy",
            Mode::Strict => "strict",
            Mode::WholeRam => "whole-RAM",
            Mode::Direct => "direct",
            Mode::Identity => "identity",
        }
    }

    /// The parameter that asks for it, on Debian's kernels.
    fn parameter(self) -> &'static str {
        match self {
            Mode::Direct => "whole_ram=2",
            Mode::Lazy => "whole_ram=0",
            Mode::Strict => "strict=1",
            Mode::WholeRam | Mode::Identity => "",
        }
    }
}

fn default_disk() -> u64 {
    512 << 20
}

fn default_modules() -> Vec<String> {
    vec![MODULE.to_owned()]
}

fn default_memory() -> u32 {
    1024
}

/// The usual one would drive disks that it knows, without a module of ours.
fn default_firmware() -> String {
    "qboot.rom".to_owned()
}

fn default_timeout() -> u64 {
    300
}

/// A scenario on one architecture: one guest to boot.
#[derive(Clone, Debug)]
pub struct Case {
    /// What to do.
    pub scenario: Scenario,
    /// Where.
    pub arch: Arch,
}

impl Case {
    /// `ARCH/NAME`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.arch.name(), self.scenario.name)
    }

    /// What it runs on.
    pub fn system(&self) -> System {
        System {
            arch: self.arch,
            kernel: self.scenario.kernel.clone(),
        }
    }

    /// Lets the case run on `kernel` instead of Debian's, with more time. Says whether it can: not
    /// if it is about a kernel already, or about what only Debian's is asked for by a parameter, or
    /// if that kernel is known to fail by itself.
    pub fn move_to(&mut self, kernel: &str) -> bool {
        let scenario = &mut self.scenario;
        if scenario.kernel.is_some()
            || scenario.mode == Mode::Direct
            || scenario.never_on.iter().any(|never| never == kernel)
        {
            return false;
        }
        scenario.kernel = Some(kernel.to_owned());
        scenario.timeout = scenario.timeout.saturating_mul(SLOWER);
        true
    }

    /// Whether the guest's processors take turns.
    pub fn takes_turns(&self) -> bool {
        self.scenario.turns.unwrap_or(self.arch == Arch::Amd64)
    }

    /// The file in image/scenarios/ to run.
    pub fn script(&self) -> &str {
        self.scenario
            .script
            .as_deref()
            .unwrap_or(&self.scenario.name)
    }

    /// Variables for the script: those of the scenario, and what every script may use.
    pub fn variables(&self) -> Vec<(String, String)> {
        let scenario = &self.scenario;
        let mode = match (&scenario.kernel, scenario.mode) {
            // It finds out that there is no other way.
            (Some(_), Mode::Direct) => "",
            (_, mode) => mode.parameter(),
        };
        let parameters = [mode, &scenario.parameters].join(" ");
        let mut variables: Vec<_> = scenario.set.clone().into_iter().collect();
        variables.push(("SCENARIO".to_owned(), self.script().to_owned()));
        variables.push(("MODE".to_owned(), scenario.mode.name().to_owned()));
        variables.push(("PARAMETERS".to_owned(), parameters.trim().to_owned()));
        variables
    }

    /// Whether its modules are built by tests/env/build-modules.
    pub fn is_built(&self) -> bool {
        self.scenario.installed.is_none() && self.scenario.modules_in.is_none()
    }

    /// Whether our module is part of it.
    pub fn has_module(&self) -> bool {
        self.scenario.modules.iter().any(|name| name == MODULE)
    }

    /// What to tell the kernel.
    pub fn append(&self) -> String {
        let mut append = self.scenario.append.clone();
        if self.scenario.installed.is_some() {
            for (name, value) in self.variables() {
                append.push_str(&format!(" \"systemd.setenv={name}={value}\""));
            }
        }
        append
    }

    /// How long the guest may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.scenario.timeout)
    }
}

/// Reads the scenarios from `path` and spreads them over their architectures, with `elsewhere` over
/// the others, too, that they can run on.
pub fn load(path: &Path, elsewhere: bool) -> Result<Vec<Case>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text, elsewhere).with_context(|| path.display().to_string())
}

fn parse(text: &str, elsewhere: bool) -> Result<Vec<Case>> {
    let file: File = toml::from_str(text)?;
    let mut cases: Vec<Case> = Vec::new();
    for mut scenario in file.scenario {
        scenario.allow = expand(&scenario.allow, &file.patterns)
            .with_context(|| format!("{}: allow", scenario.name))?;
        for pattern in scenario.allow.iter().chain(&scenario.log) {
            Regex::new(pattern).with_context(|| format!("{}: '{pattern}'", scenario.name))?;
        }
        let more = scenario.elsewhere.iter().filter(|_| elsewhere);
        for &arch in scenario.arch.iter().chain(more) {
            let case = Case {
                scenario: scenario.clone(),
                arch,
            };
            if cases.iter().any(|other| other.name() == case.name()) {
                bail!("{}: declared twice", case.name());
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

/// `patterns` with those that have a name in place of it.
fn expand(patterns: &[String], named: &BTreeMap<String, Vec<String>>) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for pattern in patterns {
        match pattern.strip_prefix('@') {
            Some(name) => {
                let them = named.get(name);
                all.extend_from_slice(them.with_context(|| format!("no patterns '{name}'"))?);
            }
            None => all.push(pattern.clone()),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_becomes_a_case_per_architecture() {
        let text =
            "[[scenario]]\nname = 'a'\nabout = 'x'\narch = ['arm64', 'amd64']\nscript = 's'\n";
        let cases = parse(text, false).unwrap();
        let names: Vec<_> = cases.iter().map(Case::name).collect();
        assert_eq!(names, ["arm64/a", "amd64/a"]);
        assert_eq!(cases[0].script(), "s");
    }

    #[test]
    fn a_scenario_runs_elsewhere_when_asked_to() {
        let text =
            "[[scenario]]\nname = 'a'\nabout = 'x'\narch = ['arm64']\nelsewhere = ['amd64']\n";
        let names = |elsewhere| -> Vec<_> {
            let cases = parse(text, elsewhere).unwrap();
            cases.iter().map(Case::name).collect()
        };
        assert_eq!(names(false), ["arm64/a"]);
        assert_eq!(names(true), ["arm64/a", "amd64/a"]);
        let twice = text.replace("amd64", "arm64");
        assert!(parse(&twice, true).is_err());
    }

    #[test]
    fn patterns_have_names() {
        let head = "[[scenario]]\nname = 'a'\nabout = 'x'\narch = ['arm64']\n";
        let text = format!("{head}allow = ['a', '@b', 'd']\n[patterns]\nb = ['b', 'c']\n");
        let case = parse(&text, false).unwrap().remove(0);
        assert_eq!(case.scenario.allow, ["a", "b", "c", "d"]);
        assert!(parse(&text.replace('@', "@@"), false).is_err());
    }

    #[test]
    fn a_case_moves_to_another_kernel_unless_it_is_about_one() {
        let head = "[[scenario]]\nname = 'a'\nabout = 'x'\narch = ['arm64']\n";
        let one = |more: &str| parse(&format!("{head}{more}"), false).unwrap().remove(0);
        let mut case = one("timeout = 10\n");
        assert!(case.move_to("debug"));
        assert_eq!(case.system().to_string(), "arm64-debug");
        assert_eq!(case.timeout(), Duration::from_secs(50));
        assert!(!case.move_to("rt"));
        assert!(!one("kernel = 'rt'\n").move_to("debug"));
        assert!(!one("mode = 'direct'\n").move_to("debug"));
    }

    #[test]
    fn mistakes_are_found() {
        let head = "[[scenario]]\nname = 'a'\nabout = 'x'\narch = ['arm64']\n";
        let parse = |text: &str| parse(text, false);
        assert!(parse(head).is_ok());
        assert!(parse(&format!("{head}tiemout = 1\n")).is_err());
        assert!(parse(&format!("{head}log = ['(']\n")).is_err());
        assert!(parse(&format!("{head}{head}")).is_err());
    }
}
