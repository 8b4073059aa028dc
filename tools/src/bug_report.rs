// SPDX-License-Identifier: GPL-2.0

//! `bug-report`: a text with everything that is needed to find a bug of the module, to be read and
//! sent by its user. Nothing is changed, and nothing is sent. `bug_report/redact.rs` leaves out
//! what is private. What cannot be read is said in its place: where the module does not load, that
//! is what the report is about.

mod redact;

use crate::doctor;
use crate::doctor::guest::{
    underscores,
    Guest,
    MODULE, //
};
use crate::doctor::module;
use crate::doctor::system::System;
use crate::host;
use crate::output;
use crate::system;
use anyhow::Result;
use redact::Redactor;
use serde::Serialize;
use std::{
    env,
    fmt::Write,
    path::{
        Path,
        PathBuf, //
    },
    process::ExitCode,
    time::Duration, //
};

/// The most lines of the log, and of a build's log.
const LOG: usize = 400;
const BUILD: usize = 60;

/// The most windows of a companion.
const WINDOWS: usize = 2000;

/// Files of a companion in sysfs and in debugfs.
const SYSFS: &[&str] = &[
    "managed",
    "mode",
    "bytes",
    "max_bytes",
    "entries",
    "max_entries",
    "pressure",
];
const DEBUGFS: &[&str] = &["status", "counters", "doorbells", "sizes"];

/// Parameters of the kernel whose values matter; of others there is the name only, since a command
/// line may have anything.
const SHOWN: &[&str] = &[
    "apple_dma_pci",
    "cma",
    "crashkernel",
    "dis_ucode_ldr",
    "initcall_blacklist",
    "intel_iommu",
    "iommu",
    "isolcpus",
    "kvm-arm",
    "lockdown",
    "mem",
    "memmap",
    "modprobe",
    "module",
    "module_blacklist",
    "movablecore",
    "nokaslr",
    "nosmp",
    "nvme",
    "nvme_core",
    "panic",
    "pci",
    "pcie_aspm",
    "pcie_ports",
    "quiet",
    "ro",
    "rw",
    "snd_hda_intel",
    "swiotlb",
    "thunderbolt",
    "vfio",
    "vfio-pci",
    "vfio_pci",
];

/// Options of the kernel's configuration that matter.
const CONFIG: &[&str] = &[
    "RUST",
    "MODULES",
    "MODVERSIONS",
    "MODULE_SIG_FORCE",
    "PREEMPT_RT",
    "ARCH_HAS_DMA_OPS",
    "SWIOTLB_DYNAMIC",
    "DMA_API_DEBUG",
    "DMA_CMA",
    "ARM64_4K_PAGES",
    "ARM64_16K_PAGES",
    "ARM64_64K_PAGES",
    "DEBUG_FS",
    "MEMORY_HOTPLUG",
    "VFIO_NOIOMMU",
    "KASAN",
    "KCSAN",
    "LOCKDEP",
];

#[derive(clap::Args)]
pub struct Options {
    /// Write the report to FILE; - is the standard output
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "apple-dma-pci-report.txt"
    )]
    output: PathBuf,
    /// Keep addresses of memory, in windows and messages: they tell where the kernel is
    #[arg(long)]
    addresses: bool,
    /// Describe the system in DIR, a copy of its files, and run no programs
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// The result, for programs.
#[derive(Serialize)]
struct Summary {
    file: PathBuf,
    bytes: usize,
}

pub fn run(options: &Options, json: bool) -> Result<ExitCode> {
    let guest = Guest::new(System::open(&options.root)?)?;
    let text = report(&guest, &options.root, options.addresses);
    output::write(&options.output, &text)?;
    if output::is_standard(&options.output) {
        return Ok(ExitCode::SUCCESS);
    }
    let file = options.output.canonicalize();
    let file = file.unwrap_or_else(|_| options.output.clone());
    let bytes = text.len();
    output::print(&match json {
        true => output::json(&Summary { file, bytes })?,
        false => format!(
            "the report is in {}: read it, and add what you did and what happened, before you \
             send it\n",
            file.display()
        ),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The text, as far as it is written.
struct Report<'a> {
    guest: &'a Guest,
    redactor: Redactor,
    text: String,
}

/// Returns the report about a guest, whose files are below `root`.
fn report(guest: &Guest, root: &Path, keeps_addresses: bool) -> String {
    let mut report = Report {
        guest,
        redactor: Redactor::new(&guest.system, keeps_addresses),
        text: format!(
            "Report of apple-dma-pci {} for those who maintain it. Read it before you send it: \
             names, serial\nnumbers and addresses are left out as far as they could be recognised. \
             Please add:\n\n\
             - what you did, what you expected, and what happened:\n\
             - the Mac's model, the version of macOS, and the passed-through device:\n\
             - the version of QEMU and of its DriverKit extension, and QEMU's command line:\n",
            env!("CARGO_PKG_VERSION")
        ),
    };
    report.section("Doctor", &doctor::page(guest));
    report.kernel();
    report.module();
    report.host(root);
    report.devices();
    for companion in &guest.companions {
        report.companion(&companion.address, keeps_addresses);
    }
    report.build();
    report.log();
    report.text
}

impl Report<'_> {
    /// Adds a section, without what is private.
    fn section(&mut self, title: &str, text: &str) {
        let text = self.redactor.redact_addresses(text);
        let text = text.trim_end();
        let text = if text.is_empty() { "nothing" } else { text };
        let _ = write!(self.text, "\n== {title} ==\n{text}\n");
    }

    /// Returns the first line of a file, or why there is none.
    fn line(&self, path: &str) -> String {
        match self.guest.system.text(path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) => format!("({error})"),
        }
    }

    fn kernel(&mut self) {
        let guest = self.guest;
        let mut text = format!("release {}\n", guest.release);
        // The names of those who built it are in brackets.
        let version = self.line("/proc/version");
        let compilers = version.split_once(") (").map_or("", |(_, rest)| rest);
        let _ = writeln!(text, "built by ({compilers}");
        let _ = writeln!(text, "architecture {}", env::consts::ARCH);
        let release = guest.system.text("/etc/os-release").unwrap_or_default();
        let pretty = release
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let _ = writeln!(text, "distribution {}", pretty.unwrap_or("(unknown)"));
        for (name, file) in [
            ("machine", "product_name"),
            ("machine version", "product_version"),
            ("firmware", "bios_version"),
        ] {
            let line = guest.system.line(&format!("/sys/class/dmi/id/{file}"));
            if let Some(line) = line.filter(|line| !line.is_empty()) {
                let _ = writeln!(text, "{name} {line}");
            }
        }
        let memory = guest.system.text("/proc/meminfo").unwrap_or_default();
        for line in memory.lines() {
            if ["MemTotal", "MemAvailable", "CmaTotal"]
                .contains(&line.split(':').next().unwrap_or(""))
            {
                let _ = writeln!(
                    text,
                    "{}",
                    line.split_whitespace().collect::<Vec<_>>().join(" ")
                );
            }
        }
        let processors = guest.system.line("/sys/devices/system/cpu/online");
        let _ = writeln!(text, "processors {}", processors.unwrap_or_default());
        let _ = writeln!(text, "uptime {}", self.line("/proc/uptime"));
        let _ = writeln!(text, "tainted {}", self.line("/proc/sys/kernel/tainted"));
        let _ = writeln!(text, "parameters {}", parameters(&guest.command_line));
        match &guest.config {
            None => text.push_str("configuration (not found)\n"),
            Some(config) => {
                for name in CONFIG {
                    let name = format!("CONFIG_{name}");
                    if let Some(value) = config.get(&name) {
                        let _ = writeln!(text, "{name}={value}");
                    }
                }
            }
        }
        self.section("Kernel", &text);
    }

    fn module(&mut self) {
        let guest = self.guest;
        let mut text = String::new();
        for field in ["version", "srcversion", "taint", "refcnt"] {
            let line = self.line(&format!("/sys/module/{MODULE}/{field}"));
            let _ = writeln!(text, "loaded: {field} {line}");
        }
        for file in module::files(guest, &guest.release) {
            let _ = writeln!(text, "installed: {file}");
            let info = module::info(guest, &guest.modules(&file));
            for field in ["version", "srcversion", "vermagic", "signer"] {
                if let Some(value) = info.as_ref().and_then(|info| info.get(field)) {
                    let _ = writeln!(text, "installed: {field} {value}");
                }
            }
        }
        let ours = |line: &&Vec<String>| line.iter().any(|word| underscores(word) == MODULE);
        for line in guest.modprobe.iter().filter(ours) {
            let _ = writeln!(text, "modprobe.d: {}", line.join(" "));
        }
        self.section("Module", &text);
    }

    fn host(&mut self, root: &Path) {
        let text = match host::report(&system::System::at(root), Duration::ZERO) {
            Ok(report) => host::page(&report),
            Err(error) => format!("not known: {error:#}"),
        };
        self.section("Host", &text);
    }

    /// Adds all PCI devices, with their drivers.
    fn devices(&mut self) {
        let guest = self.guest;
        let mut text = String::new();
        for address in guest.system.names("/sys/bus/pci/devices") {
            let id = |file: &str| {
                let line = guest.system.line(&guest.device(&address, file));
                line.unwrap_or_default().trim_start_matches("0x").to_owned()
            };
            let driver = guest.driver(&address);
            let has_msi = guest.system.exists(&guest.device(&address, "msi_irqs"));
            let _ = writeln!(
                text,
                "{address} {}:{} class {} revision {} driver {}{}",
                id("vendor"),
                id("device"),
                id("class"),
                id("revision"),
                driver.as_deref().unwrap_or("none"),
                if has_msi { " MSI" } else { "" }
            );
        }
        self.section("PCI devices", &text);
    }

    fn companion(&mut self, address: &str, keeps_addresses: bool) {
        let guest = self.guest;
        let debug = format!("/sys/kernel/debug/{MODULE}/{address}");
        let mut text = String::new();
        for file in SYSFS {
            let path = guest.device(address, &format!("{MODULE}/{file}"));
            let _ = writeln!(text, "{file} {}", self.line(&path));
        }
        self.section(&format!("Companion {address}"), &text);
        for file in DEBUGFS {
            let text = self.line(&format!("{debug}/{file}"));
            self.section(&format!("Companion {address}: {file}"), &text);
        }
        let text = match guest.system.text(&format!("{debug}/windows")) {
            Ok(text) => windows(&text, keeps_addresses),
            Err(error) => format!("({error})"),
        };
        self.section(&format!("Companion {address}: windows"), &text);
    }

    /// Adds the end of the last build by DKMS.
    fn build(&mut self) {
        let guest = self.guest;
        for version in guest.system.names(doctor::DKMS) {
            let log = format!("{}/{version}/build/make.log", doctor::DKMS);
            if let Ok(text) = guest.system.text(&log) {
                self.section(
                    &format!("Last build of {version}"),
                    &tail(text.lines(), BUILD),
                );
            }
        }
    }

    /// Adds the messages of the module, and those about it.
    fn log(&mut self) {
        let text = match doctor::kernel_log(self.guest) {
            Err(finding) => finding,
            Ok(log) => {
                let is_ours = |line: &&str| {
                    let line = underscores(line);
                    line.contains("apple_dma") || MENTIONED.iter().any(|text| line.contains(text))
                };
                let lines: Vec<_> = log.lines().filter(is_ours).collect();
                tail(lines.into_iter(), LOG)
            }
        };
        self.section("Log", &text);
    }
}

/// Texts of other messages of the kernel that matter, with underscores for dashes.
const MENTIONED: &[&str] = &[
    "Linux version",
    "swiotlb",
    "software IO TLB",
    "Lockdown:",
    "DMA_API:",
    "DART",
    "nvme",
    "Xen",
    "call trace",
    "Call Trace",
    "Call trace",
    "BUG:",
    "WARNING:",
    "Oops",
    "soft lockup",
    "rcu:",
    "thunderbolt",
    "snd_hda",
    "AER:",
    "pcieport",
];

/// Returns the last lines, with the number of those before.
fn tail<'a>(lines: impl Iterator<Item = &'a str>, count: usize) -> String {
    let lines: Vec<_> = lines.collect();
    let before = lines.len().saturating_sub(count);
    let head = match before {
        0 => String::new(),
        before => format!("({before} lines before)\n"),
    };
    head + &lines[before..].join("\n")
}

/// Returns the kernel's parameters: all names, and the values that matter.
fn parameters(words: &[String]) -> String {
    let show = |word: &String| {
        let (name, value) = word.split_once('=').unwrap_or((word.as_str(), ""));
        let base = name.split('.').next().unwrap_or(name);
        match (
            value.is_empty(),
            SHOWN.contains(&name) || SHOWN.contains(&base),
        ) {
            (true, _) | (_, true) => word.clone(),
            (false, false) => format!("{name}=…"),
        }
    };
    words.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// Returns windows, line by line: with addresses as they are, otherwise only the offsets of their
/// starts in granules, in the order of addresses in the guest.
fn windows(text: &str, keeps_addresses: bool) -> String {
    let Ok(mut windows) = crate::debugfs::windows(text) else {
        return "(not understood)".to_owned();
    };
    windows.sort_by_key(|window| window.gpa);
    let lines = windows.iter().map(|window| {
        let state = format!("{:?}", window.state).to_lowercase();
        let rest = format!("{} {} {} {state}", window.bytes, window.users, window.uses);
        match keeps_addresses {
            true => format!("{:#x} {:#x} {rest}", window.gpa, window.dma),
            false => format!(
                "{:#06x} {:#06x} {rest}",
                window.gpa & 0x3fff,
                window.dma & 0x3fff
            ),
        }
    });
    let head = match keeps_addresses {
        true => "# gpa dma bytes users uses state",
        false => "# offset of gpa, offset of dma, bytes, users, uses, state",
    };
    let lines: Vec<_> = lines.take(WINDOWS).collect();
    let more = match windows.len() - lines.len() {
        0 => String::new(),
        more => format!("\n(and {more} more)"),
    };
    format!("{head}\n{}{more}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::{
        Fixture,
        RELEASE, //
    };
    use std::fs;

    const FILES: &str = "sys/kernel/debug/apple_dma_pci/0000:00:10.0";

    /// Returns a guest with names that must not be in a report.
    fn fixture() -> Fixture {
        let mut fixture = Fixture::healthy();
        for (name, text) in [
            ("status", include_str!("fixtures/status")),
            ("counters", include_str!("fixtures/counters")),
            ("doorbells", include_str!("fixtures/doorbells")),
            ("sizes", include_str!("fixtures/sizes")),
            ("windows", include_str!("fixtures/windows")),
        ] {
            fixture.write(&format!("{FILES}/{name}"), text);
        }
        for name in ["bytes", "entries"] {
            fixture.write(&fixture.companion(&format!("apple_dma_pci/{name}")), "16\n");
        }
        fixture.write("proc/sys/kernel/hostname", "walnut\n");
        fixture.write("etc/passwd", "mabel:x:1000:1000::/home/mabel:/bin/sh\n");
        fixture.write("sys/class/nvme/nvme0/serial", "S4EWNX0R123456\n");
        fixture.write(
            "proc/version",
            "Linux version 7.2.1+deb13-amd64 (mabel@walnut) (gcc (Debian 14.2) 14.2.0) #1 SMP\n",
        );
        fixture.write(
            "proc/cmdline",
            "root=/dev/nvme0n1p2 ro password=secret apple_dma_pci.max_idle=5 pci=noacpi\n",
        );
        fixture.write("etc/os-release", "NAME=x\nPRETTY_NAME=\"Debian 13\"\n");
        fixture.write("etc/modprobe.d/a.conf", "options apple-dma-pci strict=0\n");
        let log = "\
            [    0.0] Linux version 7.2.1 (mabel@walnut)\n\
            [    1.0] apple_dma_pci 0000:00:10.0: manages 0000:00:05.0: lazy mode\n\
            [    2.0] walnut mabel logged in from 52:54:00:12:34:56\n\
            [    3.0] nvme nvme0: serial S4EWNX0R123456 of mabel at 52:54:00:12:34:56\n\
            [    4.0] apple_dma_pci 0000:00:10.0: cannot map 8 bytes at 0x4fe2e000: x\n";
        fixture.prints("dmesg", log);
        fixture
    }

    const SECRETS: &[&str] = &[
        "walnut",
        "mabel",
        "S4EWNX0R123456",
        "52:54:00:12:34:56",
        "secret",
        "logged in",
    ];

    #[test]
    fn a_report_has_all_and_no_secrets() {
        let fixture = fixture();
        let text = report(&fixture.guest(), fixture.root(), false);
        for part in [
            "Read it before you send it",
            "\n== Doctor ==\nok       kernel-version",
            &format!(
                "\n== Kernel ==\nrelease {RELEASE}\nbuilt by (gcc (Debian 14.2) 14.2.0) #1 SMP\n"
            ),
            "\ndistribution \"Debian 13\"\n",
            "\nparameters root=… ro password=… apple_dma_pci.max_idle=5 pci=noacpi\n",
            "\nCONFIG_RUST=y\n",
            "\n== Module ==\nloaded: version 0.1.0\n",
            "\ninstalled: updates/dkms/apple_dma_pci.ko\ninstalled: version 0.1.0\n",
            "\nmodprobe.d: options apple-dma-pci strict=0\n",
            "\n== Host ==\n",
            "u32 dialect; at most 4096 requests a doorbell",
            "\n== PCI devices ==\n0000:00:05.0 144d:a808 ",
            "\n== Companion 0000:00:10.0 ==\nmanaged 0000:00:05.0\n",
            "\n== Companion 0000:00:10.0: counters ==\nmaps 63\n",
            "\npeak_entries 16\n",
            "\n0x0000 0x0000 262144 0 8 idle\n",
            "\n== Log ==\n[    0.0] Linux version",
            "serial SERIAL of USER at MAC",
            "cannot map 8 bytes at 0x…e000",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret}\n{text}");
        }
        assert!(!text.contains("0x4fe"), "{text}");
        let text = report(&fixture.guest(), fixture.root(), true);
        assert!(
            text.contains("\n0x4fe80000 0x8001000e8000 262144 0 8 idle\n"),
            "{text}"
        );
        assert!(text.contains("at 0x4fe2e000"), "{text}");
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret}\n{text}");
        }
    }

    #[test]
    fn a_report_of_a_module_that_does_not_load() {
        let mut fixture = fixture();
        fixture.unload();
        fixture.remove(FILES);
        fixture.remove(&fixture.companion("apple_dma_pci"));
        fixture.write(
            "var/lib/dkms/apple-dma-pci/0.1.0/build/make.log",
            "DKMS make.log\nerror: /home/mabel/x\n",
        );
        fixture.prints("dmesg", "");
        let text = report(&fixture.guest(), fixture.root(), false);
        for part in [
            "problem  module-loaded",
            "loaded: version (No such file",
            "not known: the module apple_dma_pci is not loaded",
            "counters ==\n(No such file",
            "\n== Last build of 0.1.0 ==\nDKMS make.log\nerror: /home/USER/x\n",
            "\n== Log ==\nthe kernel's log cannot be read",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn it_is_said_where_the_report_is() {
        let fixture = fixture();
        let output = fixture.root().join("report.txt");
        let options = Options {
            output: output.clone(),
            addresses: false,
            root: fixture.root().to_owned(),
        };
        run(&options, false).unwrap();
        assert!(fs::read_to_string(output).unwrap().contains("== Doctor =="));
        let output = fixture.root().join("none/report.txt");
        let error = run(&Options { output, ..options }, false).unwrap_err();
        assert!(format!("{error:#}").contains("none/report.txt: No such file"));
    }

    #[test]
    fn much_is_cut() {
        assert_eq!(tail("a\nb\nc".lines(), 2), "(1 lines before)\nb\nc");
        assert_eq!(tail("a\nb".lines(), 2), "a\nb");
        let many = "0x0 0x0 16384 0 1 live\n".repeat(WINDOWS + 5);
        let text = windows(&many, false);
        assert!(
            text.ends_with("\n(and 5 more)"),
            "{}",
            &text[text.len() - 60..]
        );
        assert_eq!(windows("rubbish", false), "(not understood)");
    }
}
