// SPDX-License-Identifier: GPL-2.0

//! What DKMS made of the module, from what it keeps in /var/lib/dkms.

use crate::doctor::finding::Finding;
use crate::doctor::guest::Guest;
use crate::doctor::kernel;
use crate::doctor::module;

/// Where DKMS keeps what it knows of the module.
const STATE: &str = "/var/lib/dkms/apple-dma-pci";

/// Where packaging/rust-metadata keeps what it makes, and what it says when that fails.
const METADATA: &str = "/var/cache/apple-dma-pci";

/// The version that is installed for a kernel: the link kernel-RELEASE-ARCH points to
/// VERSION/RELEASE/ARCH.
fn installed(guest: &Guest, release: &str) -> Option<String> {
    let prefix = format!("kernel-{release}-");
    let names = guest.system.names(STATE);
    let link = names.iter().find(|name| name.starts_with(&prefix))?;
    let target = guest.system.link(&format!("{STATE}/{link}"))?;
    let mut parts = target.rsplit('/');
    parts.nth(2).map(str::to_owned)
}

/// The numbers of a version, to compare.
fn numbers(version: &str) -> Vec<u32> {
    let parts = version.split(|character: char| !character.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// `dkms`
pub fn state(guest: &Guest) -> Vec<Finding> {
    let release = &guest.release;
    // The directories of versions; others are of kernels, or of what was there before.
    let mut versions = guest.system.names(STATE);
    versions.retain(|name| name.starts_with(|first: char| first.is_ascii_digit()));
    versions.sort_by_key(|version| numbers(version));
    let Some(version) = versions.last() else {
        return vec![Finding::ok("DKMS does not build the module here")];
    };
    let mut found = Vec::new();
    match installed(guest, release) {
        Some(other) if other == *version => {}
        Some(other) => found.push(Finding::warning(
            format!("DKMS installed version {other} for kernel {release}, and has {version}"),
            format!("dkms autoinstall --kernelver {release}"),
        )),
        None => found.push(missing(guest, version)),
    }
    // Those that may be booted next.
    let others = guest.system.names("/lib/modules");
    let without: Vec<_> = others
        .iter()
        .filter(|other| *other != release && kernel::is_new_enough(other))
        .filter(|other| guest.system.exists(&format!("/lib/modules/{other}/kernel")))
        .filter(|other| installed(guest, other).is_none())
        .filter(|other| module::files(guest, other).is_empty())
        .map(String::as_str)
        .collect();
    if !without.is_empty() {
        found.push(Finding::warning(
            format!(
                "DKMS has no module for other kernels here: {}",
                without.join(", ")
            ),
            "install their headers, if they are to be booted",
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok(format!(
            "DKMS installed version {version} for the running kernel"
        )));
    }
    found
}

/// Why there is no module of `version` for the running kernel.
fn missing(guest: &Guest, version: &str) -> Finding {
    let release = &guest.release;
    let has = |path: &str| guest.system.exists(path);
    let log = format!("{STATE}/{version}/build/make.log");
    let kept = format!("{METADATA}/{release}.log");
    if has(&format!("{STATE}/{version}/{release}")) {
        return Finding::problem(
            format!("DKMS built version {version} for kernel {release}, but did not install it"),
            format!("dkms install apple-dma-pci/{version} -k {release}"),
        );
    }
    let found = format!("DKMS has version {version}, but not for kernel {release}");
    if !has(&guest.modules("build/.config")) {
        return Finding::problem(
            format!("{found}, whose headers are not there"),
            format!("apt install linux-headers-{release}"),
        );
    }
    if has(&kept) {
        return Finding::problem(
            format!("{found}: its Rust metadata could not be made"),
            format!("{kept} says why; then: dkms autoinstall --kernelver {release}"),
        );
    }
    let rest = if has(&log) {
        format!("; {log} says why")
    } else {
        String::new()
    };
    Finding::problem(
        found,
        format!(
            "/usr/lib/apple-dma-pci/rust-metadata prepare {release} says what is missing, then: \
             dkms autoinstall --kernelver {release}{rest}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::Fixture;
    use crate::doctor::fixture::RELEASE;

    const DKMS: &str = "var/lib/dkms/apple-dma-pci";

    fn link() -> String {
        format!("{DKMS}/kernel-{RELEASE}-x86_64")
    }

    #[test]
    fn states() {
        let fixture = Fixture::healthy();
        Fixture::is_ok(&state(&fixture.guest()));

        fixture.write(&format!("{DKMS}/0.10.0/source/dkms.conf"), "");
        fixture.write(&format!("{DKMS}/0.9.0/source/dkms.conf"), "");
        let findings = state(&fixture.guest());
        Fixture::is_warning(&findings, "installed version 0.1.0");
        assert!(findings[0].found.ends_with("has 0.10.0"));
        fixture.remove(&format!("{DKMS}/0.10.0"));
        fixture.remove(&format!("{DKMS}/0.9.0"));

        fixture.remove(&link());
        Fixture::is_problem(&state(&fixture.guest()), "did not install it");

        fixture.remove(&format!("{DKMS}/0.1.0/{RELEASE}"));
        Fixture::is_problem(&state(&fixture.guest()), "headers are not there");

        fixture.write(&format!("lib/modules/{RELEASE}/build/.config"), "");
        let findings = state(&fixture.guest());
        Fixture::is_problem(&findings, "but not for kernel");
        assert!(!findings[0].advice.as_ref().unwrap().contains("make.log"));

        fixture.write(&format!("{DKMS}/0.1.0/build/make.log"), "");
        let findings = state(&fixture.guest());
        Fixture::is_problem(&findings, "but not for kernel");
        assert!(findings[0].advice.as_ref().unwrap().contains("make.log"));

        fixture.write(&format!("var/cache/apple-dma-pci/{RELEASE}.log"), "");
        Fixture::is_problem(&state(&fixture.guest()), "Rust metadata could not be made");

        fixture.remove(DKMS);
        let findings = state(&fixture.guest());
        Fixture::is_ok(&findings);
        assert!(findings[0].found.contains("does not build"));
    }

    #[test]
    fn other_kernels() {
        let fixture = Fixture::healthy();
        fixture.write("lib/modules/7.3.0-next/kernel/x", "");
        Fixture::is_warning(&state(&fixture.guest()), "other kernels here: 7.3.0-next");
        fixture.write(
            "lib/modules/7.3.0-next/updates/dkms/apple_dma_pci.ko.xz",
            "",
        );
        Fixture::is_ok(&state(&fixture.guest()));
        fixture.remove("lib/modules/7.3.0-next/updates");
        let target = "0.1.0/7.3.0-next/x86_64";
        fixture.link(&format!("{DKMS}/kernel-7.3.0-next-x86_64"), target);
        Fixture::is_ok(&state(&fixture.guest()));
        // Nobody expects one for these: a kernel that is too old, and what is left of one.
        fixture.write("lib/modules/6.12.48+deb13-amd64/kernel/x", "");
        fixture.write("lib/modules/7.3.0-removed/modules.dep", "");
        Fixture::is_ok(&state(&fixture.guest()));
    }
}
