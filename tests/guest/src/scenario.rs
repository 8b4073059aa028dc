// SPDX-License-Identifier: GPL-2.0

//! The contents of scenarios/*.toml: the guests to boot, their configuration, and the expected
//! outcome.

use crate::assets::{
    Arch,
    System, //
};
use crate::mac;
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use regex_lite::Regex;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{
        Path,
        PathBuf, //
    },
    time::Duration, //
};

/// Name of the module under test.
const MODULE: &str = "apple_dma_pci";

/// Name of the module of the test driver.
const TEST_DRIVER: &str = "apple_dma_test";

/// Parameters of kernels of guests with VT-d, whose tables are the simulated Mac's: Linux leaves
/// VT-d and the RAM for tables alone.
const VTD_PARAMETERS: &str = " intel_iommu=off memmap=64M$0x30000000";

/// Factor by which the timeout of a guest is longer on a kernel that the scenario was not written
/// for.
const SLOWER: u64 = 5;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
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
    /// Purpose, in a line.
    pub about: String,
    /// Script in image/scenarios/; the scenario's name when absent.
    pub script: Option<String>,
    /// Architectures to run on.
    pub arch: Vec<Arch>,
    /// Further architectures for a test of all of a kernel, for which `make check` has no time.
    #[serde(default)]
    pub elsewhere: Vec<Arch>,
    /// The kernel to boot, as tests/env/kernel calls it; Debian's usual one when absent.
    pub kernel: Option<String>,
    /// Kernels on which the scenario cannot pass, for reasons outside the module.
    #[serde(default)]
    pub never_on: Vec<String>,
    /// Architectures on which only `make check-all` has time for the scenario.
    #[serde(default)]
    pub long: Long,
    /// True if the scenario must pass on every supported kernel.
    #[serde(default)]
    pub core: bool,
    /// Devices, as the simulator's `--device` takes them, without `file=`.
    #[serde(default)]
    pub devices: Vec<String>,
    /// For each device of the kind `qemu`, options of QEMU's `-device`: those of the device itself,
    /// without its address, then those of devices on its buses.
    #[serde(default)]
    pub managed: BTreeMap<String, Vec<String>>,
    /// Further arguments of QEMU, before the devices.
    #[serde(default)]
    pub qemu: Vec<String>,
    /// Bytes of every disk image.
    #[serde(default = "default_disk")]
    pub disk: u64,
    /// Further options of the simulator.
    #[serde(default)]
    pub mac: Vec<String>,
    /// Let BAR writes return before the device has seen them.
    #[serde(default)]
    pub posted: bool,
    /// Let the guest boot again when it reboots, or panics, instead of ending there.
    #[serde(default)]
    pub reboot: bool,
    /// Provide the guest's own kernel and root file system as disks, for another start.
    #[serde(default)]
    pub kexec: bool,
    /// The bus that managed devices and companions are on.
    #[serde(default)]
    pub bus: Bus,
    /// The devices whose companions are on the first bus all the same.
    #[serde(default)]
    pub apart: Vec<String>,
    /// The PCI domain of the bus in arm64 guests.
    #[serde(default)]
    pub domain: u16,
    /// The system to boot from the first disk, one of those that tests/env/package installed; with
    /// its own kernel and initial root file system.
    pub installed: Option<String>,
    /// Boot the system by UEFI with Secure Boot, from disks of the machine's own; the firmware's
    /// variables are those in `vars-NAME.fd`.
    pub secure_boot: Option<String>,
    /// Our modules, put into /test/modules.
    #[serde(default = "default_modules")]
    pub modules: Vec<String>,
    /// Directory of the modules below build/, if they are not from tests/env/build-modules.
    pub modules_in: Option<String>,
    /// Put the kselftest into /test/selftests.
    #[serde(default)]
    pub selftests: bool,
    /// Put the tool of tools/ among the programs.
    #[serde(default)]
    pub tool: bool,
    /// Add the programs of tests/env/prepare-programs.
    #[serde(default)]
    pub programs: bool,
    /// Modules of Debian's kernel to add, besides those that every guest has, with their
    /// dependencies; tests/env/unpack-drivers has the list.
    #[serde(default)]
    pub drivers: Vec<String>,
    /// The mode to load the module in, which the module must report.
    #[serde(default)]
    pub mode: Mode,
    /// Several modes in place of `mode`, each for a scenario of its own, whose name ends with it.
    #[serde(default)]
    pub modes: Vec<Mode>,
    /// Further parameters of the module.
    #[serde(default)]
    pub parameters: String,
    /// Guest RAM in MiB.
    #[serde(default = "default_memory")]
    pub memory: u32,
    /// Processors of the guest.
    #[serde(default = "default_cpus")]
    pub cpus: u32,
    /// Further KiB of guest RAM, a multiple of 8: for an end of RAM that is not the end of a
    /// window.
    #[serde(default)]
    pub tail: u32,
    /// MiB of memory that the script may plug into the running guest; 0 for none.
    #[serde(default)]
    pub hotplug: u32,
    /// MiB of which the script may give the running guest any part, by virtio-mem; 0 for none.
    #[serde(default)]
    pub elastic: u32,
    /// Add a balloon, with free page reporting, whose size the script sets.
    #[serde(default)]
    pub balloon: bool,
    /// Boot by UEFI firmware, which describes the machine by ACPI. Arm64 guests only.
    #[serde(default)]
    pub uefi: bool,
    /// The place in which that firmware finds the kernel.
    #[serde(default)]
    pub boot: Boot,
    /// Firmware of amd64 guests.
    #[serde(default = "default_firmware")]
    pub firmware: String,
    /// Let the guest's clock count instructions, and its processors take turns.
    #[serde(default)]
    pub icount: bool,
    /// Let the guest's processors take turns; if absent, those of amd64 guests do.
    pub turns: Option<bool>,
    /// Parameters to append to the kernel's command line.
    #[serde(default)]
    pub append: String,
    /// Shell variables for the script.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Seconds until the guest is stopped.
    #[serde(default = "default_timeout")]
    pub timeout: u64,
    /// Patterns of kernel messages that are no failure here, or `@NAME` for the patterns of that
    /// name.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Patterns that some line of the guest's log must match.
    #[serde(default)]
    pub log: Vec<String>,
    /// Devices that must have had DART faults; all others must have none.
    #[serde(default)]
    pub faulty: Vec<String>,
    /// Devices whose companions may have refused requests; no others may.
    #[serde(default)]
    pub refused: Vec<String>,
    /// Devices of which a crashed kernel left mappings, whose length the next kernel cannot know.
    #[serde(default)]
    pub left: Vec<String>,
    /// Devices that need not have moved data; all others must have, through mappings.
    #[serde(default)]
    pub idle: Vec<String>,
}

/// Architectures on which a scenario is long.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Long {
    /// All, or none.
    All(bool),
    /// These.
    On(Vec<Arch>),
}

impl Default for Long {
    fn default() -> Self {
        Long::All(false)
    }
}

/// The place in which UEFI firmware finds the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// QEMU has it.
    #[default]
    Kernel,
    /// On a disk that is first in QEMU's boot order.
    FirstDisk,
    /// On a disk. There is no boot order, so that the firmware looks at all devices.
    AnyDisk,
}

/// Location of managed devices and companions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// On the first bus, with all other devices.
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
    /// Windows that stay mapped while they are idle. Most scenarios use this mode: with all of RAM
    /// mapped at once next to nothing is left to test.
    #[default]
    #[serde(rename = "lazy")]
    Lazy,
    /// Windows that are unmapped at once.
    #[serde(rename = "strict")]
    Strict,
    /// All of RAM at once, the module's default where it fits.
    #[serde(rename = "whole-ram")]
    WholeRam,
    /// All of RAM at once, by the kernel's direct mapping: the only mode of kernels that have no
    /// DMA operations for single devices.
    #[serde(rename = "direct")]
    Direct,
    /// Bounce buffers of the kernel, where all of RAM does not fit: the only mode of large guests
    /// with a kernel without DMA operations.
    #[serde(rename = "bounce")]
    Bounce,
    /// Guest-physical addresses; the module itself detects that the host uses them.
    #[serde(rename = "identity")]
    Identity,
    /// No DART, no companion, no module: the same guest without anything of ours, for comparison.
    #[serde(rename = "control")]
    Control,
}

impl Mode {
    /// Returns the module's name of the mode.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Lazy => "lazy",
            Mode::Strict => "strict",
            Mode::WholeRam => "whole-ram",
            Mode::Direct => "direct",
            Mode::Bounce => "bounce",
            Mode::Identity => "identity",
            Mode::Control => "control",
        }
    }

    /// Returns the parameter that selects the mode on Debian's kernels.
    fn parameter(self) -> &'static str {
        match self {
            Mode::Direct => "whole_ram=2",
            Mode::Bounce => "whole_ram=3",
            Mode::Lazy => "whole_ram=0",
            Mode::Strict => "strict=1",
            Mode::WholeRam | Mode::Identity | Mode::Control => "",
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

fn default_cpus() -> u32 {
    2
}

/// QEMU's usual firmware would drive disks that it knows, without a module of ours.
fn default_firmware() -> String {
    "qboot.rom".to_owned()
}

fn default_timeout() -> u64 {
    300
}

/// A scenario on one architecture: one guest to boot.
#[derive(Clone, Debug)]
pub struct Case {
    /// The scenario.
    pub scenario: Scenario,
    /// The architecture.
    pub arch: Arch,
}

impl Case {
    /// Returns `ARCH/NAME`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.arch.name(), self.scenario.name)
    }

    /// Returns whether only `make check-all` has time for the case.
    pub fn is_long(&self) -> bool {
        match &self.scenario.long {
            Long::All(all) => *all,
            Long::On(long) => long.contains(&self.arch),
        }
    }

    /// Returns the system that the case runs on.
    pub fn system(&self) -> System {
        System {
            arch: self.arch,
            kernel: self.scenario.kernel.clone(),
        }
    }

    /// Moves the case to `kernel` instead of Debian's, with a longer timeout. Returns whether that
    /// is possible: not if the case has a kernel already, nor if a parameter selects a mode that
    /// only Debian's kernel has, nor if that kernel is known to fail by itself.
    pub fn move_to(&mut self, kernel: &str) -> bool {
        let scenario = &mut self.scenario;
        if scenario.kernel.is_some()
            || matches!(scenario.mode, Mode::Direct | Mode::Bounce)
            || scenario.never_on.iter().any(|never| never == kernel)
        {
            return false;
        }
        scenario.kernel = Some(kernel.to_owned());
        scenario.timeout = scenario.timeout.saturating_mul(SLOWER);
        true
    }

    /// Returns whether QEMU emulates managed devices, behind VT-d.
    pub fn has_vtd(&self) -> bool {
        !self.scenario.managed.is_empty()
    }

    /// Returns whether there is no simulated Mac.
    pub fn is_control(&self) -> bool {
        self.scenario.mode == Mode::Control
    }

    /// Returns whether the guest's processors take turns.
    pub fn takes_turns(&self) -> bool {
        self.scenario.turns.unwrap_or(self.arch == Arch::Amd64)
    }

    /// Returns the file in image/scenarios/ to run.
    pub fn script(&self) -> &str {
        self.scenario
            .script
            .as_deref()
            .unwrap_or(&self.scenario.name)
    }

    /// Returns the variables for the script: those of the scenario, and those that every script may
    /// use.
    pub fn variables(&self) -> Vec<(String, String)> {
        let scenario = &self.scenario;
        let mode = match (&scenario.kernel, scenario.mode) {
            // The module detects that no other mode is possible.
            (Some(_), Mode::Direct | Mode::Bounce) => "",
            (_, mode) => mode.parameter(),
        };
        // Devices share limits if they share a DART, unless the scenario says otherwise.
        let own_darts = scenario.devices.len() > 1
            && !scenario.parameters.contains("share_limits=")
            && scenario
                .devices
                .iter()
                .any(|device| !device.contains("dart="));
        let share = if own_darts { "share_limits=0" } else { "" };
        let parameters = [mode, share, &scenario.parameters];
        let parameters: Vec<_> = parameters.into_iter().filter(|p| !p.is_empty()).collect();
        let parameters = parameters.join(" ");
        let mut variables: Vec<_> = scenario.set.clone().into_iter().collect();
        variables.push(("SCENARIO".to_owned(), self.script().to_owned()));
        variables.push(("MODE".to_owned(), scenario.mode.name().to_owned()));
        if self.has_vtd() && !self.is_control() {
            variables.push(("VTD".to_owned(), "1".to_owned()));
        }
        variables.push(("PARAMETERS".to_owned(), parameters.trim().to_owned()));
        // Scripts with the test driver expect windows, unless the scenario says otherwise.
        let test_driver = scenario.modules.iter().any(|name| name == TEST_DRIVER);
        let copy = if test_driver && !scenario.parameters.contains("copy=") {
            "copy=never"
        } else {
            ""
        };
        variables.push(("COPY".to_owned(), copy.to_owned()));
        variables.push(("DRIVERS".to_owned(), scenario.drivers.join(" ")));
        variables
    }

    /// Returns whether tests/env/build-modules builds the modules of the case.
    pub fn is_built(&self) -> bool {
        self.scenario.installed.is_none() && self.scenario.modules_in.is_none()
    }

    /// Returns whether the case has our module.
    pub fn has_module(&self) -> bool {
        self.scenario.modules.iter().any(|name| name == MODULE)
    }

    /// Returns the parameters to append to the kernel's command line.
    pub fn append(&self) -> String {
        let mut append = self.scenario.append.clone();
        if self.has_vtd() {
            append.push_str(VTD_PARAMETERS);
        }
        if self.scenario.installed.is_some() {
            for (name, value) in self.variables() {
                append.push_str(&format!(" \"systemd.setenv={name}={value}\""));
            }
        }
        append
    }

    /// Returns the timeout of the guest.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.scenario.timeout)
    }
}

/// Reads the scenarios from `path`, a file or a directory of files, and spreads them over their
/// architectures, with `elsewhere` over the further ones too.
pub fn load(path: &Path, elsewhere: bool) -> Result<Vec<Case>> {
    let mut file = File::default();
    for path in files(path).with_context(|| path.display().to_string())? {
        let read = || -> Result<File> { Ok(toml::from_str(&fs::read_to_string(&path)?)?) };
        let more = read().with_context(|| path.display().to_string())?;
        file.scenario.extend(more.scenario);
        file.patterns.extend(more.patterns);
    }
    spread(file, elsewhere).with_context(|| path.display().to_string())
}

/// Returns `path`, or the TOML files in it if it is a directory.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn spread(file: File, elsewhere: bool) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for mut scenario in file.scenario.into_iter().flat_map(each_mode) {
        check_managed(&scenario).with_context(|| scenario.name.clone())?;
        if scenario.mode == Mode::Control {
            scenario.modules.clear();
        }
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

/// Returns a scenario for each of the modes of `scenario`.
fn each_mode(scenario: Scenario) -> Vec<Scenario> {
    if scenario.modes.is_empty() {
        return vec![scenario];
    }
    let one = |&mode: &Mode| Scenario {
        script: scenario.script.clone().or(Some(scenario.name.clone())),
        name: format!("{}-{}", scenario.name, mode.name().to_lowercase()),
        modes: Vec::new(),
        mode,
        ..scenario.clone()
    };
    scenario.modes.iter().map(one).collect()
}

/// Checks the fields for devices that QEMU emulates.
fn check_managed(scenario: &Scenario) -> Result<()> {
    let mut kinds = BTreeMap::new();
    for spec in &scenario.devices {
        let device = mac::Device::parse(spec).with_context(|| format!("'{spec}'"))?;
        kinds.insert(device.name, device.emulated);
    }
    for (name, options) in &scenario.managed {
        ensure!(
            kinds.get(name) == Some(&true) && !options.is_empty(),
            "managed: no options, or no qemu:name={name} in devices"
        );
    }
    let emulated = kinds.values().filter(|emulated| **emulated).count();
    ensure!(
        emulated == scenario.managed.len(),
        "devices of QEMU need options in managed"
    );
    let translated = emulated != 0;
    ensure!(
        !translated || scenario.arch == [Arch::Amd64],
        "QEMU has VT-d on amd64 only"
    );
    let control = scenario.mode == Mode::Control;
    ensure!(
        !control || emulated == kinds.len(),
        "a control has devices of QEMU only"
    );
    Ok(())
}

/// Returns `patterns`, with named groups expanded.
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

    fn parse(text: &str, elsewhere: bool) -> Result<Vec<Case>> {
        spread(toml::from_str(text)?, elsewhere)
    }

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
    fn a_scenario_is_long_on_some_architectures_or_all() {
        let text = "[[scenario]]\nname = 'a'\nabout = 'x'\narch = ['arm64', 'amd64']\n";
        let long = |more: &str| -> Vec<_> {
            let cases = parse(&format!("{text}{more}"), false).unwrap();
            cases.iter().map(Case::is_long).collect()
        };
        assert_eq!(long(""), [false, false]);
        assert_eq!(long("long = true\n"), [true, true]);
        assert_eq!(long("long = ['amd64']\n"), [false, true]);
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
    fn each_mode_is_a_case() {
        let text = "[[scenario]]\nname = 'a'\nabout = 'x'\narch = ['amd64']\n\
            devices = ['qemu:name=d,bdf=00:05.0']\nmanaged.d = ['nvme']\n\
            modes = ['whole-ram', 'control']\n";
        let cases = parse(text, false).unwrap();
        let names: Vec<_> = cases.iter().map(Case::name).collect();
        assert_eq!(names, ["amd64/a-whole-ram", "amd64/a-control"]);
        assert!(cases.iter().all(|case| case.script() == "a"));
        assert!(cases[0].has_module() && !cases[0].is_control());
        assert!(!cases[1].has_module() && cases[1].is_control());
        assert!(cases[1].append().contains("memmap="));
    }

    #[test]
    fn devices_of_qemu_have_options() {
        let head = "[[scenario]]\nname = 'a'\nabout = 'x'\n";
        let device = "devices = ['qemu:name=d,bdf=00:05.0']\n";
        let good = format!("{head}arch = ['amd64']\n{device}managed.d = ['nvme']\n");
        assert!(parse(&good, false).is_ok());
        for bad in [
            good.replace("amd64", "arm64"),
            good.replace("managed.d", "managed.e"),
            good.replace("'nvme'", ""),
            good.replace("qemu:", "engine:"),
            format!("{head}arch = ['amd64']\n{device}"),
            format!("{head}arch = ['amd64']\nmode = 'control'\n{device}").replace("qemu", "engine"),
        ] {
            assert!(parse(&bad, false).is_err(), "{bad}");
        }
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
