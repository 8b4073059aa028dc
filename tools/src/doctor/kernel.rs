// SPDX-License-Identifier: GPL-2.0

//! The running kernel: its version and its configuration.

use crate::doctor::finding::Finding;
use crate::doctor::guest::Guest;
use crate::doctor::module;

/// The supported kernels, the oldest and the newest; rust/kernel.mk has the same.
const OLDEST: (u32, u32) = (7, 2);
const NEWEST: (u32, u32) = (7, 3);

/// Options that must be built in, each with its purpose.
const NEEDED: &[(&str, &str)] = &[
    ("CONFIG_RUST", "the module is written in Rust"),
    ("CONFIG_MODULES", "it is a module"),
    ("CONFIG_PCI", "its devices are on PCI"),
];

const OTHER: &str = "boot a kernel of Debian 13's backports, or build one: docs/kernels.md";

/// Returns the first two numbers of a release.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Returns whether the module can be built for a kernel, as far as its version decides.
pub fn is_supported(release: &str) -> bool {
    numbers(release).is_none_or(|version| (OLDEST..=NEWEST).contains(&version))
}

/// Returns whether a kernel is of a later series than the module knows.
pub fn is_too_new(release: &str) -> bool {
    numbers(release).is_some_and(|version| version > NEWEST)
}

/// Advice for a kernel of a later series.
pub const TOO_NEW: &str =
    "boot a kernel of a supported series, and keep it installed (apt-mark hold \
    of its package); a later version of the module may support this one, and TRY_NEWER=yes in \
    /etc/default/apple-dma-pci has DKMS try it";

/// `kernel-version`
pub fn version(guest: &Guest) -> Vec<Finding> {
    let release = &guest.release;
    let Some(version) = numbers(release) else {
        return vec![Finding::unknown(
            format!("the kernel's release {release} has no version"),
            format!("it should be Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        )];
    };
    vec![if version < OLDEST {
        Finding::problem(
            format!(
                "Linux {release} is too old: {}.{} or newer is needed",
                OLDEST.0, OLDEST.1
            ),
            OTHER,
        )
    } else if version > NEWEST {
        let found = format!(
            "Linux {release} is newer than the supported ones, {}.{} to {}.{}",
            OLDEST.0, OLDEST.1, NEWEST.0, NEWEST.1
        );
        if guest.is_loaded() || !module::files(guest, release).is_empty() {
            Finding::warning(
                found,
                "none if all works; the module was built for it all the same",
            )
        } else {
            Finding::problem(format!("{found}: the module is not built for it"), TOO_NEW)
        }
    } else {
        Finding::ok(format!("Linux {release} is supported"))
    }]
}

/// `kernel-options`
pub fn options(guest: &Guest) -> Vec<Finding> {
    let Some(config) = &guest.config else {
        return vec![Finding::unknown(
            format!(
                "the configuration of kernel {} cannot be found",
                guest.release
            ),
            format!(
                "have it in /boot/config-{}, or build kernels with CONFIG_IKCONFIG_PROC",
                guest.release
            ),
        )];
    };
    let value = |name: &str| config.get(name).map_or("n", String::as_str);
    let is_on = |name: &str| value(name) == "y";
    let mut found = Vec::new();
    for (name, why) in NEEDED {
        if !is_on(name) {
            found.push(Finding::problem(
                format!("the kernel was built without {name}: {why}"),
                OTHER,
            ));
        }
    }
    if !is_on("CONFIG_ARM64") && !is_on("CONFIG_X86_64") {
        found.push(Finding::problem(
            "the kernel is neither for arm64 nor for amd64",
            OTHER,
        ));
    }
    if is_on("CONFIG_ARM64_64K_PAGES") {
        found.push(Finding::problem(
            "the kernel has pages of 64 KiB, four granules of the DART",
            "boot one with pages of 4 or 16 KiB",
        ));
    }
    if !is_on("CONFIG_ARCH_HAS_DMA_OPS") {
        found.push(Finding::warning(
            "the kernel was built without CONFIG_ARCH_HAS_DMA_OPS: what does not fit max_bytes is \
             copied",
            "give the guest less than max_bytes of RAM, or boot a kernel with Xen guest support",
        ));
    }
    if !is_on("CONFIG_DEBUG_FS") {
        found.push(Finding::warning(
            "the kernel was built without CONFIG_DEBUG_FS: the module's counters cannot be read",
            "boot one that has it for debugging; the module does not need it",
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok("the kernel has all necessary options"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::{
        Fixture,
        RELEASE, //
    };

    #[test]
    fn supported_kernels_are_those_that_the_module_builds_for() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../rust/kernel.mk");
        let text = std::fs::read_to_string(path).unwrap();
        let is_there = |line: String| assert!(text.lines().any(|other| other == line), "{line}");
        is_there(format!("linux_oldest := {}.{}", OLDEST.0, OLDEST.1));
        is_there(format!("linux_newest := {}.{}", NEWEST.0, NEWEST.1));
    }

    #[test]
    fn versions() {
        let check = |release: &str| {
            let fixture = Fixture::healthy();
            fixture.write("proc/sys/kernel/osrelease", &format!("{release}\n"));
            version(&fixture.guest())
        };
        Fixture::is_ok(&check("7.2.1+deb13-amd64"));
        Fixture::is_ok(&check("7.3-rc1"));
        Fixture::is_problem(&check("7.1.9"), "too old");
        Fixture::is_problem(&check("6.12.48+deb13-arm64"), "too old");
        Fixture::is_warning(&check("7.10.0"), "newer than");
        let fixture = Fixture::healthy();
        fixture.write("proc/sys/kernel/osrelease", "7.10.0\n");
        fixture.unload();
        Fixture::is_problem(
            &version(&fixture.guest()),
            "7.3: the module is not built for it",
        );
        fixture.write("lib/modules/7.10.0/updates/apple_dma_pci.ko.zst", "");
        Fixture::is_warning(&version(&fixture.guest()), "newer than");
        Fixture::is_warning(&check("8.0.0"), "newer than");
        Fixture::is_unknown(&check("mine"), "no version");
    }

    #[test]
    fn configurations() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&options(&fixture.guest()));
        let check = |from: &str, to: &str| {
            let fixture = Fixture::healthy();
            let path = format!("boot/config-{RELEASE}");
            fixture.edit(&path, |text| text.replace(from, to));
            options(&fixture.guest())
        };
        for name in ["RUST", "MODULES", "PCI"] {
            let line = format!("CONFIG_{name}=y");
            Fixture::is_problem(&check(&line, ""), &format!("without CONFIG_{name}:"));
            let off = format!("# CONFIG_{name} is not set");
            Fixture::is_problem(&check(&line, &off), &format!("without CONFIG_{name}:"));
        }
        Fixture::is_problem(&check("CONFIG_X86_64=y", "CONFIG_RISCV=y"), "neither for");
        let large = "CONFIG_ARM64=y\nCONFIG_ARM64_64K_PAGES=y";
        Fixture::is_problem(&check("CONFIG_X86_64=y", large), "64 KiB");
        Fixture::is_warning(
            &check("CONFIG_ARCH_HAS_DMA_OPS=y", ""),
            "does not fit max_bytes",
        );
        Fixture::is_warning(&check("CONFIG_DEBUG_FS=y", ""), "counters");
    }

    #[test]
    fn configurations_are_found() {
        let fixture = Fixture::healthy();
        let path = format!("boot/config-{RELEASE}");
        let text = fixture.read(&path);
        fixture.remove(&path);
        Fixture::is_unknown(&options(&fixture.guest()), "cannot be found");
        fixture.write(&format!("lib/modules/{RELEASE}/build/.config"), &text);
        Fixture::is_ok(&options(&fixture.guest()));
        fixture.remove(&format!("lib/modules/{RELEASE}/build/.config"));
        fixture.write_packed("proc/config.gz", &text.replace("CONFIG_RUST=y", ""));
        Fixture::is_problem(&options(&fixture.guest()), "without CONFIG_RUST:");
    }
}
