// SPDX-License-Identifier: GPL-2.0

//! The module: installed for the running kernel, loaded, in which version, and with which
//! parameters.

use crate::doctor::dkms;
use crate::doctor::finding::Finding;
use crate::doctor::guest::{
    underscores,
    Guest,
    MODULE, //
};
use object::{
    Object,
    ObjectSection, //
};
use regex_lite::Regex;
use std::collections::BTreeMap;

/// Directories of modules that are not the kernel's own, below those of a kernel.
const PLACES: &[&str] = &["updates", "updates/dkms", "extra", "misc"];

/// End of a file that has a signature.
const SIGNED: &[u8] = b"~Module signature appended~\n";

const INSTALL: &str = "install the package apple-dma-pci-dkms, or the one that has the module for \
    this kernel, apple-dma-pci-modules-RELEASE, or run 'make install'";

/// The directory in which the packages apple-dma-pci-modules-RELEASE have the module.
const PREBUILT: &str = "updates/apple-dma-pci";

/// Fields of a module's file.
pub struct Info(BTreeMap<String, String>);

impl Info {
    /// Returns a field, by its name in modinfo(8).
    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }
}

/// Returns whether a path is that of the module `module`, perhaps compressed.
fn is_module(path: &str, module: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split_once('.')
        .is_some_and(|(stem, end)| underscores(stem) == module && end.starts_with("ko"))
}

/// Returns the files of a module for a kernel that depmod knows.
fn known(guest: &Guest, release: &str, module: &str) -> Vec<String> {
    let dep = guest
        .system
        .text(&format!("/lib/modules/{release}/modules.dep"));
    dep.unwrap_or_default()
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.to_owned()))
        .filter(|path| is_module(path, module))
        .collect()
}

/// Returns the module's files that exist below the modules of a kernel.
pub fn files(guest: &Guest, release: &str) -> Vec<String> {
    files_of(guest, release, MODULE)
}

/// Returns the file of the module for a kernel that a package has that was built for that kernel.
pub fn prebuilt(guest: &Guest, release: &str) -> Option<String> {
    let directory = format!("/lib/modules/{release}/{PREBUILT}");
    let names = guest.system.names(&directory);
    let name = names.iter().find(|name| is_module(name, MODULE))?;
    Some(format!("{PREBUILT}/{name}"))
}

/// Returns the files of a module that exist below the modules of a kernel.
pub fn files_of(guest: &Guest, release: &str, module: &str) -> Vec<String> {
    let mut files = known(guest, release, module);
    for place in PLACES {
        for name in guest
            .system
            .names(&format!("/lib/modules/{release}/{place}"))
        {
            let path = format!("{place}/{name}");
            if is_module(&path, module) && !files.contains(&path) {
                files.push(path);
            }
        }
    }
    files.retain(|path| {
        guest
            .system
            .exists(&format!("/lib/modules/{release}/{path}"))
    });
    files
}

/// Returns the module's file for the running kernel that modprobe(8) loads, or would load after
/// depmod(8).
pub fn file(guest: &Guest) -> Option<String> {
    let file = files(guest, &guest.release).into_iter().next()?;
    Some(guest.modules(&file))
}

/// Returns the fields of a module's file, [`None`] if it cannot be read here.
pub fn info(guest: &Guest, path: &str) -> Option<Info> {
    if !path.ends_with(".ko") {
        // Compressed: only the kernel's tools can read it.
        let output = guest.system.run("modinfo", &[path])?;
        let fields = output.text.lines().filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        return output.success.then(|| Info(fields.collect()));
    }
    let bytes = guest.system.bytes(path).ok()?;
    let object = object::File::parse(&*bytes).ok()?;
    let section = object.section_by_name(".modinfo")?.data().ok()?;
    let mut fields: BTreeMap<_, _> = String::from_utf8_lossy(section)
        .split('\0')
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if bytes.ends_with(SIGNED) {
        let signer = guest.system.run("modinfo", &["--field", "signer", path]);
        let signer = signer.map(|output| output.text.trim().to_owned());
        fields.insert("signer".to_owned(), signer.unwrap_or_default());
    }
    Some(Info(fields))
}

/// `module-installed`
pub fn installed(guest: &Guest) -> Vec<Finding> {
    let release = &guest.release;
    let known = known(guest, release, MODULE);
    let files = files(guest, release);
    let Some(file) = files.first() else {
        if let Some(path) = known.first() {
            return vec![Finding::problem(
                format!("modules.dep has {path} of kernel {release}, but it does not exist"),
                format!("{INSTALL}, then: depmod {release}"),
            )];
        }
        let others: Vec<_> = guest
            .system
            .names("/lib/modules")
            .into_iter()
            .filter(|other| other != release && !self::files(guest, other).is_empty())
            .collect();
        return vec![if others.is_empty() {
            let advice = match guest.system.exists(dkms::STATE) {
                true => "see dkms for why",
                false => INSTALL,
            };
            Finding::problem("the module is not installed", advice)
        } else {
            Finding::problem(
                format!(
                    "the module is installed for {}, but not for the running kernel {release}",
                    others.join(", ")
                ),
                format!(
                    "install linux-headers-{release}, then: dkms autoinstall --kernelver \
                     {release}; or boot a kernel that has it"
                ),
            )
        }];
    };
    let mut found = Vec::new();
    if !known.contains(file) {
        found.push(Finding::problem(
            format!("{file} is not in modules.dep of kernel {release}: modprobe does not see it"),
            format!("depmod {release}"),
        ));
    }
    found.extend(several(guest, &files));
    let info = info(guest, &guest.modules(file));
    let magic = info.as_ref().and_then(|info| info.get("vermagic"));
    match magic.and_then(|magic| magic.split_whitespace().next()) {
        Some(built) if built != release => found.push(Finding::problem(
            format!("{file} was built for kernel {built}, not for {release}"),
            format!("dkms autoinstall --kernelver {release}, or: make install"),
        )),
        _ => {}
    }
    if found.is_empty() {
        found.push(Finding::ok(format!(
            "the module is installed for the running kernel: {file}"
        )));
    }
    found
}

/// Returns what is to be said about several files of the module for one kernel.
fn several(guest: &Guest, files: &[String]) -> Option<Finding> {
    let release = &guest.release;
    let [first, _, ..] = files else {
        return None;
    };
    let prebuilt = prebuilt(guest, release);
    let dkms = files.iter().find(|path| path.starts_with("updates/dkms/"));
    let (Some(prebuilt), Some(dkms), 2) = (&prebuilt, dkms, files.len()) else {
        return Some(Finding::warning(
            format!(
                "the module is installed more than once: {}",
                files.join(", ")
            ),
            format!("remove all but one, then: depmod {release}; now {first} is loaded"),
        ));
    };
    let version = |path: &String| {
        let info = info(guest, &guest.modules(path))?;
        info.get("version").map(str::to_owned)
    };
    match (version(prebuilt), version(dkms)) {
        (Some(a), Some(b)) if a == b => None,
        (a, b) => Some(Finding::warning(
            format!(
                "{PREBUILT}{release} has version {} of the module, and DKMS built {}: {first} is \
                 loaded",
                a.as_deref().unwrap_or("?"),
                b.as_deref().unwrap_or("?")
            ),
            format!(
                "upgrade both packages; or keep one: apt remove {PREBUILT}{release}, or: apt \
                 remove apple-dma-pci-dkms, which also builds the module for other kernels"
            ),
        )),
    }
}

/// Returns the setting that keeps the module from being loaded automatically, if any.
fn forbidden(guest: &Guest) -> Option<String> {
    for option in ["module_blacklist", "modprobe.blacklist"] {
        let mut names = guest.options(option).flat_map(|names| names.split(','));
        if names.any(|name| underscores(name) == MODULE) {
            return Some(format!("{option}= on the kernel's command line"));
        }
    }
    guest
        .modprobe
        .iter()
        .find(|line| match &line[..] {
            [word, name, ..] => {
                (word == "blacklist" || word == "install") && underscores(name) == MODULE
            }
            _ => false,
        })
        .map(|line| format!("'{}' in modprobe.d", line.join(" ")))
}

/// `module-loaded`
pub fn loaded(guest: &Guest) -> Vec<Finding> {
    let forbidden = forbidden(guest);
    if guest.is_loaded() {
        return vec![match forbidden {
            Some(why) => Finding::warning(
                format!("the module is loaded, but not automatically: {why}"),
                "remove that",
            ),
            None => Finding::ok("the module is loaded"),
        }];
    }
    vec![match forbidden {
        Some(why) => Finding::problem(
            format!("the module is not loaded: {why} forbids it"),
            "remove that, then: modprobe apple_dma_pci",
        ),
        None if file(guest).is_none() => Finding::problem(
            "the module is not loaded",
            "install it, see module-installed",
        ),
        None => Finding::problem(
            "the module is not loaded",
            "modprobe apple_dma_pci; if that fails dmesg says why, and so may other findings here",
        ),
    }]
}

/// `module-version`
pub fn version(guest: &Guest) -> Vec<Finding> {
    let of = |field: &str| guest.system.line(&format!("/sys/module/{MODULE}/{field}"));
    if !guest.is_loaded() {
        return Vec::new();
    }
    let Some(file) = file(guest) else {
        return vec![Finding::warning(
            "the module is loaded, but is not installed: it will not be after the next boot",
            INSTALL,
        )];
    };
    let Some(info) = info(guest, &file) else {
        return vec![Finding::unknown(
            format!("{file} cannot be inspected"),
            "run this as root, in the system itself",
        )];
    };
    let differs = |field: &str| match (of(field), info.get(field)) {
        (Some(loaded), Some(installed)) if loaded != installed => {
            Some((loaded, installed.to_owned()))
        }
        _ => None,
    };
    let advice = "reboot, or unload the module and load it again";
    vec![if let Some((loaded, installed)) = differs("version") {
        Finding::warning(
            format!("version {loaded} is loaded, but {installed} is installed"),
            advice,
        )
    } else if differs("srcversion").is_some() {
        Finding::warning(
            "the loaded module was built from other sources than the installed one",
            advice,
        )
    } else {
        let version = of("version").unwrap_or_default();
        Finding::ok(format!("version {version} is loaded, as installed"))
    }]
}

/// Possible values of a parameter, and the range of usual ones: greater ones have been seen to
/// crash the Mac, and smaller ones make drivers fail.
struct Parameter {
    name: &'static str,
    may: (u64, u64),
    usual: (u64, u64),
}

/// The parameters; see rust/params.rs.
const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "strict",
        may: (0, 1),
        usual: (0, 1),
    },
    Parameter {
        name: "whole_ram",
        may: (0, 3),
        usual: (0, 3),
    },
    Parameter {
        name: "max_bytes",
        may: (1 << 20, 1 << 50),
        usual: (64 << 20, 1536 << 20),
    },
    Parameter {
        name: "max_entries",
        may: (16, 1 << 20),
        usual: (1024, 65536),
    },
    Parameter {
        name: "share_limits",
        may: (0, 1),
        usual: (0, 1),
    },
    Parameter {
        name: "max_idle",
        may: (0, 86400),
        usual: (0, 86400),
    },
    Parameter {
        name: "max_batch",
        may: (0, 256),
        usual: (0, 256),
    },
    Parameter {
        name: "congruent",
        may: (0, 2),
        usual: (0, 2),
    },
    Parameter {
        name: "copy_bytes",
        may: (0, 1 << 49),
        usual: (0, 256 << 20),
    },
];

/// The parameter that names the managed devices of companions.
const MANAGED: &str = "managed";

/// Returns whether `value` is a list of companions with their devices.
fn is_managed(value: &str) -> bool {
    let address = "([0-9a-fA-F]{1,8}:)?[0-9a-fA-F]{1,2}:[01]?[0-9a-fA-F][.][0-7]";
    let pair = format!("{address}={address}");
    Regex::new(&format!("^({pair}(,{pair})*)?$")).is_ok_and(|list| list.is_match(value))
}

/// The parameter that says what is copied, and its values.
const COPY: (&str, [&str; 3]) = ("copy", ["auto", "never", "always"]);

/// Returns the parameters that are set, with the place where they are.
fn given(guest: &Guest) -> Vec<(String, String, String)> {
    let mut given = Vec::new();
    let mut add = |option: &str, place: String| {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        given.push((underscores(name), value.to_owned(), place));
    };
    for line in &guest.modprobe {
        if let [word, module, options @ ..] = &line[..] {
            if word == "options" && underscores(module) == MODULE {
                for option in options {
                    add(option, "modprobe.d".to_owned());
                }
            }
        }
    }
    for word in &guest.command_line {
        if let Some((module, option)) = word.split_once('.') {
            if underscores(module) == MODULE {
                add(option, "the kernel's command line".to_owned());
            }
        }
    }
    for companion in &guest.companions {
        for name in ["max_bytes", "max_entries"] {
            let file = format!("apple_dma_pci/{name}");
            if let Some(value) = guest.system.line(&guest.device(&companion.address, &file)) {
                add(&format!("{name}={value}"), companion.address.clone());
            }
        }
    }
    given
}

/// `module-parameters`
pub fn parameters(guest: &Guest) -> Vec<Finding> {
    let mut found = Vec::new();
    let given = given(guest);
    for (name, value, place) in &given {
        if name == MANAGED {
            if !is_managed(value) {
                found.push(Finding::problem(
                    format!("{place} has {name}={value}, which keeps the module from being loaded"),
                    "use COMPANION=DEVICE[,...], with PCI addresses as lspci -D prints them",
                ));
            }
            continue;
        }
        let (copy, choices) = COPY;
        if name == copy {
            if !choices.contains(&&**value) {
                found.push(Finding::problem(
                    format!("{place} has {name}={value}, which keeps the module from being loaded"),
                    format!("use one of {}", choices.join(", ")),
                ));
            }
            continue;
        }
        let Some(parameter) = PARAMETERS.iter().find(|other| other.name == name) else {
            found.push(Finding::warning(
                format!("{place} has a parameter that the module does not have: {name}"),
                "correct its name: docs/parameters.md has a table of them",
            ));
            continue;
        };
        let within = |(least, most): (u64, u64), value| (least..=most).contains(&value);
        let (least, most) = parameter.may;
        let Some(number) = number(value).filter(|number| within(parameter.may, *number)) else {
            found.push(Finding::problem(
                format!("{place} has {name}={value}, which keeps the module from being loaded"),
                format!("use {least} to {most}"),
            ));
            continue;
        };
        let (least, most) = parameter.usual;
        if number > most {
            found.push(Finding::warning(
                format!("{place} has {name}={value}, more than the platform holds"),
                format!("use {most} at most: more can crash the Mac"),
            ));
        } else if number < least {
            found.push(Finding::warning(
                format!("{place} has {name}={value}, which is low: mappings may be refused"),
                format!("use {least} or more, or remove it"),
            ));
        }
    }
    if found.is_empty() {
        let given: Vec<_> = given
            .iter()
            .filter(|(_, _, place)| !place.contains(':'))
            .map(|(name, value, _)| format!("{name}={value}"))
            .collect();
        found.push(Finding::ok(if given.is_empty() {
            "no parameter is unusual".to_owned()
        } else {
            format!("parameters are valid: {}", given.join(" "))
        }));
    }
    found
}

/// Parses a number as the kernel does.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::{
        module_file,
        Fixture,
        RELEASE, //
    };

    const FILE: &str = "updates/dkms/apple_dma_pci.ko";

    fn path(file: &str) -> String {
        format!("lib/modules/{RELEASE}/{file}")
    }

    #[test]
    fn installed_modules() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&installed(&fixture.guest()));

        fixture.write(&path("modules.dep"), "");
        Fixture::is_problem(&installed(&fixture.guest()), "not in modules.dep");

        fixture.write(&path("modules.dep"), &format!("{FILE}:\n"));
        fixture.write_bytes(&path("updates/apple-dma-pci.ko.xz"), b"");
        Fixture::is_warning(&installed(&fixture.guest()), "more than once");

        fixture.remove(&path("updates/apple-dma-pci.ko.xz"));
        fixture.remove(&path(FILE));
        Fixture::is_problem(&installed(&fixture.guest()), "does not exist");

        fixture.write(&path("modules.dep"), "");
        let advice = || {
            let findings = installed(&fixture.guest());
            Fixture::is_problem(&findings, "is not installed");
            findings[0].advice.clone().unwrap()
        };
        assert_eq!(advice(), "see dkms for why");
        fixture.remove(&dkms::STATE[1..]);
        assert_eq!(advice(), INSTALL);

        fixture.write("lib/modules/7.3.0-other/modules.dep", "");
        fixture.write("lib/modules/7.3.0-other/updates/apple_dma_pci.ko.zst", "");
        let findings = installed(&fixture.guest());
        Fixture::is_problem(&findings, "installed for 7.3.0-other, but not for");
    }

    #[test]
    fn packages_for_one_kernel() {
        let fixture = Fixture::healthy();
        assert_eq!(prebuilt(&fixture.guest(), RELEASE), None);
        let other = "updates/apple-dma-pci/apple_dma_pci.ko";
        fixture.write_bytes(&path(other), &module_file("0.1.0", RELEASE));
        assert_eq!(prebuilt(&fixture.guest(), RELEASE).as_deref(), Some(other));
        assert_eq!(prebuilt(&fixture.guest(), "7.3.0-other"), None);
        // Beside that of DKMS.
        fixture.write(&path("modules.dep"), &format!("{other}:\n{FILE}:\n"));
        Fixture::is_ok(&installed(&fixture.guest()));
        fixture.write_bytes(&path(other), &module_file("0.2.0", RELEASE));
        let findings = installed(&fixture.guest());
        Fixture::is_warning(
            &findings,
            "has version 0.2.0 of the module, and DKMS built 0.1.0",
        );
        assert!(findings[0].found.ends_with(&format!("{other} is loaded")));
        fixture.write(&path("updates/apple_dma_pci.ko.xz"), "");
        Fixture::is_warning(&installed(&fixture.guest()), "more than once");
        // Without DKMS.
        fixture.remove(&path("updates/apple_dma_pci.ko.xz"));
        fixture.remove(&path(FILE));
        fixture.write(&path("modules.dep"), &format!("{other}:\n"));
        Fixture::is_ok(&installed(&fixture.guest()));
    }

    #[test]
    fn a_module_for_another_kernel() {
        let fixture = Fixture::healthy();
        fixture.write_bytes(&path(FILE), &module_file("0.1.0", "7.2.9-other"));
        Fixture::is_problem(&installed(&fixture.guest()), "built for kernel 7.2.9-other");
    }

    #[test]
    fn loaded_modules() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&loaded(&fixture.guest()));
        fixture.write("etc/modprobe.d/b.conf", "# no\nblacklist apple-dma-pci\n");
        Fixture::is_warning(&loaded(&fixture.guest()), "blacklist apple-dma-pci");
        fixture.unload();
        Fixture::is_problem(&loaded(&fixture.guest()), "blacklist apple-dma-pci");
        // Hides another file of its name.
        fixture.write("lib/modprobe.d/b.conf", "blacklist apple-dma-pci\n");
        fixture.write("etc/modprobe.d/b.conf", "blacklist other\n");
        let findings = loaded(&fixture.guest());
        Fixture::is_problem(&findings, "not loaded");
        assert!(!findings[0].found.contains("forbids"));
        assert!(findings[0].advice.as_ref().unwrap().contains("modprobe"));
        fixture.remove(&path(FILE));
        let findings = loaded(&fixture.guest());
        Fixture::is_problem(&findings, "not loaded");
        assert!(findings[0].advice.as_ref().unwrap().contains("install it"));
        for option in ["module_blacklist", "modprobe.blacklist"] {
            fixture.write("proc/cmdline", &format!("{option}=a,apple_dma_pci ro\n"));
            Fixture::is_problem(&loaded(&fixture.guest()), option);
        }
    }

    #[test]
    fn versions() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&version(&fixture.guest()));
        fixture.write_bytes(&path(FILE), &module_file("0.2.0", RELEASE));
        Fixture::is_warning(&version(&fixture.guest()), "0.1.0 is loaded, but 0.2.0 is");
        fixture.write_bytes(&path(FILE), &module_file("0.1.0", RELEASE));
        fixture.write("sys/module/apple_dma_pci/srcversion", "0000\n");
        Fixture::is_warning(&version(&fixture.guest()), "other sources");
        fixture.write_bytes(&path(FILE), b"rubbish");
        Fixture::is_unknown(&version(&fixture.guest()), "cannot be inspected");
        fixture.remove(&path(FILE));
        Fixture::is_warning(&version(&fixture.guest()), "is not installed");
        fixture.unload();
        assert!(version(&fixture.guest()).is_empty());
    }

    #[test]
    fn packed_modules_are_looked_into_by_modinfo() {
        let mut fixture = Fixture::healthy();
        fixture.remove(&path(FILE));
        fixture.write(&path("modules.dep"), &format!("{FILE}.xz:\n"));
        fixture.write(&path(&format!("{FILE}.xz")), "");
        Fixture::is_unknown(&version(&fixture.guest()), "cannot be inspected");
        let path = path(FILE);
        fixture.prints(
            &format!("modinfo /{path}.xz"),
            &format!("filename:  x\nversion:   0.3.0\nvermagic:  {RELEASE} SMP\n"),
        );
        Fixture::is_warning(&version(&fixture.guest()), "0.1.0 is loaded, but 0.3.0 is");
        Fixture::is_ok(&installed(&fixture.guest()));
    }

    #[test]
    fn parameters_that_are_given() {
        let check = |line: &str, options: &str| {
            let fixture = Fixture::healthy();
            fixture.write("proc/cmdline", line);
            fixture.write("etc/modprobe.d/p.conf", options);
            parameters(&fixture.guest())
        };
        Fixture::is_ok(&check("", ""));
        let findings = check(
            "apple_dma_pci.strict=1",
            "options apple-dma-pci max_idle=0x10",
        );
        Fixture::is_ok(&findings);
        assert!(findings[0].found.ends_with("max_idle=0x10 strict=1"));
        Fixture::is_problem(&check("apple_dma_pci.strict=2", ""), "strict=2");
        Fixture::is_problem(
            &check("", "options apple_dma_pci max_bytes=1G"),
            "max_bytes=1G",
        );
        Fixture::is_problem(
            &check("", "options apple_dma_pci whole_ram=4"),
            "modprobe.d has",
        );
        Fixture::is_problem(&check("apple_dma_pci.max_entries=15", ""), "max_entries=15");
        Fixture::is_problem(&check("apple_dma_pci.max_idle=86401", ""), "max_idle=86401");
        for list in ["00:10.0=01:00.0", "0000:00:1f.7=5:1:0.0,00:11.0=00:05.0"] {
            Fixture::is_ok(&check(&format!("apple_dma_pci.managed={list}"), ""));
        }
        for list in [
            "1",
            "00:10.0",
            "00:10.0=00:20.0",
            "00:10.0=00:05.0,",
            "00:10.0=00:05.8",
        ] {
            let found = check(&format!("apple_dma_pci.managed={list}"), "");
            Fixture::is_problem(&found, "managed=");
        }
        Fixture::is_ok(&check("apple_dma_pci.copy=always", ""));
        Fixture::is_problem(&check("apple_dma_pci.copy=1", ""), "copy=1");
        Fixture::is_warning(
            &check("apple_dma_pci.max_bites=1", ""),
            "does not have: max_bites",
        );
        Fixture::is_warning(
            &check("apple_dma_pci.max_bytes=1610612737", ""),
            "than the platform",
        );
        Fixture::is_warning(
            &check("apple_dma_pci.max_entries=65537", ""),
            "than the platform",
        );
        Fixture::is_warning(&check("apple_dma_pci.max_entries=16", ""), "is low");
        Fixture::is_warning(
            &check("", "options apple_dma_pci max_bytes=1048576"),
            "is low",
        );
    }

    #[test]
    fn parameters_that_are_in_use() {
        let fixture = Fixture::healthy();
        fixture.write(&fixture.companion("apple_dma_pci/max_entries"), "16\n");
        Fixture::is_warning(
            &parameters(&fixture.guest()),
            "0000:00:10.0 has max_entries=16",
        );
    }

    #[test]
    fn parameters_are_those_of_the_module() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../apple_dma_pci.rs");
        let text = std::fs::read_to_string(path).unwrap();
        let (_, text) = text.split_once("    params: {\n").unwrap();
        let mut names: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_suffix(" {")?.trim().split_once(": u"))
            .map(|(name, _)| name)
            .collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../rust/text_params.c");
        let text = std::fs::read_to_string(path).unwrap();
        let in_c = text
            .lines()
            .filter_map(|line| line.strip_prefix("module_param(")?.split_once(','));
        let (text, numbers): (Vec<_>, Vec<_>) = in_c.partition(|(_, rest)| rest.contains("charp"));
        names.extend(numbers.iter().map(|(name, _)| *name));
        names.sort_unstable();
        let text: Vec<_> = text.iter().map(|(name, _)| *name).collect();
        assert_eq!(text, [MANAGED, COPY.0]);
        let mut known: Vec<_> = PARAMETERS.iter().map(|parameter| parameter.name).collect();
        known.sort_unstable();
        assert_eq!(names, known);
    }
}
