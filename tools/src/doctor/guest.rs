// SPDX-License-Identifier: GPL-2.0

//! Facts for several checks: the running kernel, its modules' files, companions and their devices,
//! without judgement.

use crate::doctor::system::System;
use anyhow::{
    Context,
    Result, //
};
use flate2::read::GzDecoder;
use glob::Pattern;
use std::{
    collections::{
        BTreeMap,
        BTreeSet, //
    },
    io::{
        self,
        Read, //
    },
};

/// The module's name.
pub const MODULE: &str = "apple_dma_pci";

/// Vendor and device of the companion, in sysfs's form; uapi/apple_dma_pci.h defines them.
pub const COMPANION: (&str, &str) = ("0x1b36", "0x0015");

/// Directories of modprobe's configuration; a file hides those of its name in later directories.
const MODPROBE_D: &[&str] = &[
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// A companion, with the facts about its managed device.
#[derive(Clone, Debug)]
pub struct Companion {
    /// Its PCI address.
    pub address: String,
    /// Its driver.
    pub driver: Option<String>,
    /// The managed device's PCI address, from the module.
    pub managed: Option<String>,
}

impl Companion {
    /// Returns whether the module drives the companion.
    pub fn is_ours(&self) -> bool {
        self.driver.as_deref() == Some(MODULE)
    }
}

/// A guest.
pub struct Guest {
    /// Its files and programs.
    pub system: System,
    /// The release of the running kernel.
    pub release: String,
    /// The running kernel's configuration, if it can be found.
    pub config: Option<BTreeMap<String, String>>,
    /// All companions.
    pub companions: Vec<Companion>,
    /// The command line of the running kernel.
    pub command_line: Vec<String>,
    /// The lines of modprobe's configuration, split into words.
    pub modprobe: Vec<Vec<String>>,
}

impl Guest {
    /// Returns the guest in `system`.
    pub fn new(system: System) -> Result<Self> {
        let release = system
            .text("/proc/sys/kernel/osrelease")
            .context("proc/sys/kernel/osrelease: no running system")?
            .trim()
            .to_owned();
        Ok(Guest {
            config: config(&system, &release),
            companions: companions(&system),
            command_line: words(&system.text("/proc/cmdline").unwrap_or_default()),
            modprobe: modprobe(&system),
            release,
            system,
        })
    }

    /// Returns whether the module is loaded.
    pub fn is_loaded(&self) -> bool {
        self.system.exists(&format!("/sys/module/{MODULE}"))
    }

    /// Returns a file of the running kernel's modules.
    pub fn modules(&self, file: &str) -> String {
        format!("/lib/modules/{}/{file}", self.release)
    }

    /// Returns a file of a PCI device in sysfs.
    pub fn device(&self, address: &str, file: &str) -> String {
        format!("/sys/bus/pci/devices/{address}/{file}")
    }

    /// Returns a device's driver.
    pub fn driver(&self, address: &str) -> Option<String> {
        self.system.link_name(&self.device(address, "driver"))
    }

    /// Returns the addresses of managed devices that the module knows and that are present.
    pub fn managed(&self) -> impl Iterator<Item = &str> {
        self.companions
            .iter()
            .filter_map(|companion| companion.managed.as_deref())
            .filter(|managed| self.system.exists(&self.device(managed, "vendor")))
    }

    /// Returns the modules, loaded or not, with an alias for a device, and those that are built in.
    pub fn candidates(&self, address: &str) -> BTreeSet<String> {
        let Some(device) = self.system.line(&self.device(address, "modalias")) else {
            return BTreeSet::new();
        };
        let fits = |alias: &str| Pattern::new(alias).is_ok_and(|alias| alias.matches(&device));
        let mut found = BTreeSet::new();
        let aliases = self.system.text(&self.modules("modules.alias"));
        for line in aliases.unwrap_or_default().lines() {
            if let [_, alias, module] = *line.split_whitespace().collect::<Vec<_>>() {
                if alias.starts_with("pci:") && fits(alias) {
                    found.insert(module.to_owned());
                }
            }
        }
        // NAME.alias=ALIAS, and other things, each with a NUL.
        let built_in = self.system.text(&self.modules("modules.builtin.modinfo"));
        for entry in built_in.unwrap_or_default().split('\0') {
            if let Some((module, alias)) = entry.split_once(".alias=") {
                if alias.starts_with("pci:") && fits(alias) {
                    found.insert(module.to_owned());
                }
            }
        }
        found
    }

    /// Returns whether a module is part of the kernel.
    pub fn is_built_in(&self, module: &str) -> bool {
        let file = format!("{}.ko", underscores(module));
        self.system
            .text(&self.modules("modules.builtin"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.rsplit('/').next())
            .any(|name| underscores(name) == file)
    }

    /// Returns the values of an option of the kernel's command line.
    pub fn options<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.command_line
            .iter()
            .filter_map(move |word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Returns the name with underscores: modules are the same with dashes.
pub fn underscores(module: &str) -> String {
    module.replace('-', "_")
}

/// Splits a line into words.
fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Returns the lines of modprobe's configuration, without comments.
fn modprobe(system: &System) -> Vec<Vec<String>> {
    let mut files = BTreeMap::new();
    for directory in MODPROBE_D {
        for name in system.names(directory) {
            if name.ends_with(".conf") {
                files
                    .entry(name.clone())
                    .or_insert_with(|| format!("{directory}/{name}"));
            }
        }
    }
    let text: Vec<_> = files
        .values()
        .filter_map(|path| system.text(path).ok())
        .collect();
    text.iter()
        .flat_map(|text| text.lines())
        .map(words)
        .filter(|line| !line.is_empty() && !line[0].starts_with('#'))
        .collect()
}

fn companions(system: &System) -> Vec<Companion> {
    let devices = "/sys/bus/pci/devices";
    let file = |address: &str, file: &str| format!("{devices}/{address}/{file}");
    system
        .names(devices)
        .into_iter()
        .filter(|address| {
            system.line(&file(address, "vendor")).as_deref() == Some(COMPANION.0)
                && system.line(&file(address, "device")).as_deref() == Some(COMPANION.1)
        })
        .map(|address| Companion {
            driver: system.link_name(&file(&address, "driver")),
            managed: system.line(&file(&address, "apple_dma_pci/managed")),
            address,
        })
        .collect()
}

fn config(system: &System, release: &str) -> Option<BTreeMap<String, String>> {
    let unpacked = |bytes: Vec<u8>| -> io::Result<String> {
        let mut text = String::new();
        GzDecoder::new(&*bytes).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = system
        .bytes("/proc/config.gz")
        .and_then(unpacked)
        .or_else(|_| system.text(&format!("/boot/config-{release}")))
        .or_else(|_| system.text(&format!("/lib/modules/{release}/config")))
        .or_else(|_| system.text(&format!("/lib/modules/{release}/build/.config")))
        .ok()?;
    Some(
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}
