// SPDX-License-Identifier: GPL-2.0

//! DKMS builds of the module, as recorded in /var/lib/dkms.

use crate::doctor::finding::Finding;
use crate::doctor::guest::Guest;
use crate::doctor::{
    kernel,
    module, //
};

/// Directory of DKMS's records of the module.
pub const STATE: &str = "/var/lib/dkms/apple-dma-pci";

/// Directory in which packaging/rust-metadata stores its results, and its messages after a failure.
const METADATA: &str = "/var/cache/apple-dma-pci";

/// Returns the version that is installed for a kernel: the link kernel-RELEASE-ARCH points to
/// VERSION/RELEASE/ARCH.
fn installed(guest: &Guest, release: &str) -> Option<String> {
    let prefix = format!("kernel-{release}-");
    let names = guest.system.names(STATE);
    let link = names.iter().find(|name| name.starts_with(&prefix))?;
    let target = guest.system.link(&format!("{STATE}/{link}"))?;
    let mut parts = target.rsplit('/');
    parts.nth(2).map(str::to_owned)
}

/// Returns the numbers of a version, for comparison.
fn numbers(version: &str) -> Vec<u32> {
    let parts = version.split(|character: char| !character.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// A build that failed.
struct Failure {
    /// The kernel's release.
    release: String,
    /// The message of the compiler or of packaging/rust-metadata, in a line.
    why: String,
    /// Path of the whole log.
    log: String,
}

/// Returns the last build of `version`, if it failed: DKMS keeps the log until the next build. The
/// log is a headline, and for each command a part that ends with the command's exit code.
fn failure(guest: &Guest, version: &str) -> Option<Failure> {
    let log = format!("{STATE}/{version}/build/make.log");
    let text = guest.system.text(&log).ok()?;
    let (headline, text) = text.split_once('\n')?;
    let (_, release) = headline.split_once(" for kernel ")?;
    let (mut said, mut failed) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("# exit code: ") {
            Some("0") => said.clear(),
            Some(_) => {
                failed = true;
                break;
            }
            None if line.is_empty() || line.starts_with('#') => {}
            None => said.push(line),
        }
    }
    if !failed {
        return None;
    }
    let is_error = |line: &&&str| line.contains("error: ") || line.contains("error[");
    let why = said.iter().find(is_error).or(said.last())?;
    Some(Failure {
        release: release.split(' ').next()?.to_owned(),
        why: why.trim_start_matches("apple-dma-pci: ").to_owned(),
        log,
    })
}

impl Failure {
    fn found(&self, version: &str) -> String {
        let Failure { release, why, .. } = self;
        format!("DKMS could not build version {version} for kernel {release}: {why}")
    }

    fn advice(&self) -> String {
        let Failure { release, log, .. } = self;
        format!("{log} is the log; after the repair: dkms autoinstall --kernelver {release}")
    }
}

/// `dkms`
pub fn state(guest: &Guest) -> Vec<Finding> {
    let release = &guest.release;
    // The directories of versions; others are of kernels, or of earlier versions.
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
        None if module::prebuilt(guest, release).is_some() => {}
        None => found.push(missing(guest, version)),
    }
    // Kernels that may be booted next.
    let failure = failure(guest, version);
    let others = guest.system.names("/lib/modules");
    let mut without: Vec<_> = others
        .iter()
        .filter(|other| *other != release && !is_too_old(other))
        .filter(|other| guest.system.exists(&format!("/lib/modules/{other}/kernel")))
        .filter(|other| installed(guest, other).is_none())
        .filter(|other| module::files(guest, other).is_empty())
        .map(String::as_str)
        .collect();
    let (too_new, rest): (Vec<_>, Vec<_>) = without
        .into_iter()
        .partition(|other| kernel::is_too_new(other));
    without = rest;
    if !too_new.is_empty() {
        found.push(Finding::warning(
            format!(
                "DKMS does not build the module for kernels of later series: {}",
                too_new.join(", ")
            ),
            kernel::TOO_NEW,
        ));
    }
    if let Some(failure) = failure {
        if without.contains(&&*failure.release) {
            without.retain(|other| *other != failure.release);
            found.push(Finding::warning(failure.found(version), failure.advice()));
        }
    }
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
        found.push(Finding::ok(match module::prebuilt(guest, release) {
            Some(file) if installed(guest, release).is_none() => {
                format!("DKMS need not build the module: a package has {file} for this kernel")
            }
            _ => format!("DKMS installed version {version} for the running kernel"),
        }));
    }
    found
}

/// Returns whether a kernel is of an earlier series than the module can be built for.
fn is_too_old(release: &str) -> bool {
    !kernel::is_supported(release) && !kernel::is_too_new(release)
}

/// Returns the reason why there is no module of `version` for the running kernel.
fn missing(guest: &Guest, version: &str) -> Finding {
    let release = &guest.release;
    let has = |path: &str| guest.system.exists(path);
    let kept = format!("{METADATA}/{release}.log");
    if has(&format!("{STATE}/{version}/{release}")) {
        return Finding::problem(
            format!("DKMS built version {version} for kernel {release}, but did not install it"),
            format!("dkms install apple-dma-pci/{version} -k {release}"),
        );
    }
    let found = format!("DKMS has version {version}, but not for kernel {release}");
    if kernel::is_too_new(release) {
        return Finding::problem(
            format!("{found}, which is of a later series"),
            kernel::TOO_NEW,
        );
    }
    if !has(&guest.modules("build/.config")) {
        return Finding::problem(
            format!("{found}, whose headers are not installed"),
            format!("apt install linux-headers-{release}"),
        );
    }
    if has(&kept) {
        return Finding::problem(
            format!("{found}: its Rust metadata could not be made"),
            format!("{kept} has the reason; then: dkms autoinstall --kernelver {release}"),
        );
    }
    if let Some(failure) = failure(guest, version).filter(|failure| failure.release == *release) {
        return Finding::problem(failure.found(version), failure.advice());
    }
    Finding::problem(
        found,
        format!(
            "/usr/src/apple-dma-pci-{version}/packaging/rust-metadata prepare {release} says what \
             is missing, then: dkms autoinstall --kernelver {release}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::{
        Fixture,
        RELEASE, //
    };

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
        Fixture::is_problem(&state(&fixture.guest()), "headers are not installed");

        fixture.write(&format!("lib/modules/{RELEASE}/build/.config"), "");
        let findings = state(&fixture.guest());
        Fixture::is_problem(&findings, "but not for kernel");
        let advice = findings[0].advice.as_deref().unwrap();
        assert!(advice.starts_with("/usr/src/apple-dma-pci-0.1.0/packaging/rust-metadata prepare"));

        fixture.write(&format!("var/cache/apple-dma-pci/{RELEASE}.log"), "");
        Fixture::is_problem(&state(&fixture.guest()), "Rust metadata could not be made");

        fixture.remove(DKMS);
        let findings = state(&fixture.guest());
        Fixture::is_ok(&findings);
        assert!(findings[0].found.contains("does not build"));
    }

    /// Returns the log that DKMS keeps of a build for a kernel.
    fn log(release: &str, said: &str) -> String {
        format!(
            "DKMS (dkms-3.2.2) make.log for apple-dma-pci/0.1.0 for kernel {release} (x86_64)\n\
             Sat Nov 21 12:00:00 UTC 2026\n\nRunning the pre_build script\n# command: x\n{said}"
        )
    }

    #[test]
    fn builds_that_failed() {
        let fixture = Fixture::healthy();
        fixture.remove(&link());
        fixture.remove(&format!("{DKMS}/0.1.0/{RELEASE}"));
        fixture.write(&format!("lib/modules/{RELEASE}/build/.config"), "");
        let after = |release: &str, said: &str| {
            fixture.write(&format!("{DKMS}/0.1.0/build/make.log"), &log(release, said));
            state(&fixture.guest())
        };
        let failed = format!("DKMS could not build version 0.1.0 for kernel {RELEASE}: ");
        let missing = "apple-dma-pci: install the packages rust-src\n\n# exit code: 1\n---\n";
        let findings = after(RELEASE, missing);
        Fixture::is_problem(&findings, &format!("{failed}install the packages rust-src"));
        let advice = findings[0].advice.as_ref().unwrap();
        assert!(
            advice.contains("/0.1.0/build/make.log is the log"),
            "{advice}"
        );
        assert!(advice.ends_with(&format!("dkms autoinstall --kernelver {RELEASE}")));

        let wrong = "error: unused\n# exit code: 0\n---\n\nBuilding module(s)\n# command: make\n\
                     warning: x\nerror: no Rust\n --> y\nmake: *** Error 2\n\n# exit code: 2\n";
        Fixture::is_problem(&after(RELEASE, wrong), &format!("{failed}error: no Rust"));
        // The build goes on, or was killed; or the log is of another kernel.
        Fixture::is_problem(&after(RELEASE, "error: x\n"), "but not for kernel");
        Fixture::is_problem(&after("7.3.0-next", wrong), "but not for kernel");
        fixture.write(&format!("{DKMS}/0.1.0/build/make.log"), "");
        let findings = state(&fixture.guest());
        Fixture::is_problem(&findings, "but not for kernel");
        let advice = findings[0].advice.as_deref().unwrap();
        assert!(advice.starts_with("/usr/src/apple-dma-pci-0.1.0/packaging/rust-metadata prepare"));
    }

    #[test]
    fn builds_that_failed_for_other_kernels() {
        let fixture = Fixture::healthy();
        fixture.write("lib/modules/7.3.0-next/kernel/x", "");
        let wrong = log("7.3.0-next", "error[E0425]: x\n# exit code: 2\n");
        fixture.write(&format!("{DKMS}/0.1.0/build/make.log"), &wrong);
        let failed = "DKMS could not build version 0.1.0 for kernel 7.3.0-next: error[E0425]: x";
        Fixture::is_warning(&state(&fixture.guest()), failed);
        fixture.write("lib/modules/7.3.1-next/kernel/x", "");
        let findings = state(&fixture.guest());
        assert_eq!(findings.len(), 2);
        assert!(findings[1]
            .found
            .ends_with("other kernels here: 7.3.1-next"));
        // Removed since.
        fixture.remove("lib/modules/7.3.0-next");
        fixture.remove("lib/modules/7.3.1-next");
        Fixture::is_ok(&state(&fixture.guest()));
    }

    #[test]
    fn kernels_of_later_series() {
        let fixture = Fixture::healthy();
        fixture.write("lib/modules/7.4.0-next/kernel/x", "");
        Fixture::is_warning(&state(&fixture.guest()), "later series: 7.4.0-next");
        fixture.remove("lib/modules/7.4.0-next");
        Fixture::is_ok(&state(&fixture.guest()));
        fixture.write("proc/sys/kernel/osrelease", "7.4.0-next\n");
        Fixture::is_problem(
            &state(&fixture.guest()),
            "but not for kernel 7.4.0-next, which is of a later series",
        );
    }

    #[test]
    fn packages_of_the_module_for_one_kernel() {
        let fixture = Fixture::healthy();
        fixture.remove(&link());
        fixture.remove(&format!("{DKMS}/0.1.0/{RELEASE}"));
        Fixture::is_problem(&state(&fixture.guest()), "headers are not installed");
        let file = "updates/apple-dma-pci/apple_dma_pci.ko";
        fixture.write(&format!("lib/modules/{RELEASE}/{file}"), "");
        let findings = state(&fixture.guest());
        Fixture::is_ok(&findings);
        assert!(findings[0]
            .found
            .contains(&format!("a package has {file} for this")));
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
        // No module is expected for these: a kernel that is too old, and the rest of a removed one.
        fixture.write("lib/modules/6.12.48+deb13-amd64/kernel/x", "");
        fixture.write("lib/modules/7.3.0-removed/modules.dep", "");
        Fixture::is_ok(&state(&fixture.guest()));
    }
}
