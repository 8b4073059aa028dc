// SPDX-License-Identifier: GPL-2.0

//! The C module `apple_dma`, which was published for the same companion. Whichever of the two is
//! loaded first has the companion, so it must not be loaded at the next boot either.

use crate::doctor::finding::Finding;
use crate::doctor::guest::{
    underscores,
    Guest, //
};
use crate::doctor::module;
use regex_lite::Regex;

/// The module's name.
pub const NAME: &str = "apple_dma";

/// Directories of lists of modules that are loaded at boot.
const MODULES_LOAD: &[&str] = &[
    "/etc/modules-load.d",
    "/run/modules-load.d",
    "/usr/local/lib/modules-load.d",
    "/usr/lib/modules-load.d",
    "/lib/modules-load.d",
];

/// Further such lists, and of the initial root file system's modules.
const LISTS: &[&str] = &["/etc/modules", "/etc/initramfs-tools/modules"];

/// DKMS's records, and the sources that it builds.
const DKMS: &str = "/var/lib/dkms";
const SOURCES: &str = "/usr/src";

/// Returns whether a line of a list names the module.
fn is_named(line: &str) -> bool {
    let name = line.split_whitespace().next().unwrap_or_default();
    underscores(name) == NAME
}

/// Returns the lists that name the module, and whether they name nothing else.
fn lists(guest: &Guest) -> Vec<(String, bool)> {
    let mut paths: Vec<_> = LISTS.iter().map(|path| (*path).to_owned()).collect();
    for directory in MODULES_LOAD {
        let names = guest.system.names(directory);
        let names = names.iter().filter(|name| name.ends_with(".conf"));
        paths.extend(names.map(|name| format!("{directory}/{name}")));
    }
    let list = |path: String| {
        let text = guest.system.text(&path).ok()?;
        let words = |line: &&str| !line.trim().is_empty() && !line.starts_with(['#', ';']);
        let lines: Vec<_> = text.lines().filter(words).collect();
        let is_alone = lines.iter().all(|line| is_named(line));
        lines
            .iter()
            .any(|line| is_named(line))
            .then_some((path, is_alone))
    };
    let lists: Vec<_> = paths.into_iter().filter_map(list).collect();
    // /lib may be a link to /usr/lib.
    let is_twice = |path: &str| {
        let other = format!("/usr{path}");
        path.starts_with("/lib/") && lists.iter().any(|(path, _)| *path == other)
    };
    let once = lists.iter().filter(|(path, _)| !is_twice(path));
    once.cloned().collect()
}

/// Returns the DKMS trees that build the module: names and versions.
fn trees(guest: &Guest) -> Vec<(String, String)> {
    let built = Regex::new(r#"(?m)^\s*BUILT_MODULE_NAME(?:\[0\])?=["']?apple[_-]dma["']?\s*$"#);
    let mut trees = Vec::new();
    for name in guest.system.names(DKMS) {
        for version in guest.system.names(&format!("{DKMS}/{name}")) {
            let conf = format!("{DKMS}/{name}/{version}/source/dkms.conf");
            let is_it = match (guest.system.text(&conf), &built) {
                (Ok(text), Ok(built)) => built.is_match(&text),
                // The sources may be gone. Links are of kernels.
                _ => {
                    underscores(&name) == NAME && version.starts_with(|c: char| c.is_ascii_digit())
                }
            };
            if is_it {
                trees.push((name.clone(), version));
            }
        }
    }
    trees
}

/// `other-module`
pub fn predecessor(guest: &Guest) -> Vec<Finding> {
    let is_loaded = guest.system.exists(&format!("/sys/module/{NAME}"));
    let driver = |driver: &String| underscores(driver) == NAME;
    let bound: Vec<_> = guest
        .companions
        .iter()
        .filter(|companion| companion.driver.as_ref().is_some_and(driver))
        .map(|companion| &*companion.address)
        .collect();
    let (lists, trees) = (lists(guest), trees(guest));
    let files = module::files_of(guest, &guest.release, NAME);
    let mut found = Vec::new();
    if !bound.is_empty() {
        found.push(format!("it has the companions {}", bound.join(", ")));
    } else if is_loaded {
        found.push("it is loaded".to_owned());
    }
    let paths: Vec<_> = lists.iter().map(|(path, _)| &**path).collect();
    if !paths.is_empty() {
        found.push(format!("{} has it loaded at boot", paths.join(", ")));
    }
    let names: Vec<_> = trees
        .iter()
        .map(|(name, version)| format!("{name}/{version}"))
        .collect();
    if !names.is_empty() {
        found.push(format!("DKMS builds it ({})", names.join(", ")));
    } else if !files.is_empty() {
        found.push(format!("{} is installed", files.join(", ")));
    }
    if found.is_empty() {
        return vec![Finding::ok(format!("the C module {NAME} is not here"))];
    }
    let found = format!(
        "the C module {NAME}, which is for the same companion, is here: {}",
        found.join("; ")
    );
    let advice = advice(guest, &lists, &trees, &files);
    vec![if bound.is_empty() && !is_loaded && lists.is_empty() {
        Finding::warning(found, advice)
    } else {
        Finding::problem(found, advice)
    }]
}

/// Returns the commands that remove the module for good, in an order that is safe.
fn advice(
    guest: &Guest,
    lists: &[(String, bool)],
    trees: &[(String, String)],
    files: &[String],
) -> String {
    let mut steps = Vec::new();
    for (path, is_alone) in lists {
        steps.push(match is_alone {
            true if !LISTS.contains(&&**path) => format!("rm {path}"),
            _ => format!("sed -i -E '/^apple[_-]dma( |$)/d' {path}"),
        });
    }
    for (name, version) in trees {
        steps.push(format!("dkms remove {name}/{version} --all"));
        let source = format!("{SOURCES}/{name}-{version}");
        if guest.system.exists(&source) {
            steps.push(format!("rm -r {source}"));
        }
    }
    if trees.is_empty() && !files.is_empty() {
        steps.extend(
            files
                .iter()
                .map(|file| format!("rm {}", guest.modules(file))),
        );
        steps.push("depmod".to_owned());
    }
    steps.push("update-initramfs -u -k all, or: dracut --force --regenerate-all".to_owned());
    format!(
        "{}; then shut down, and start QEMU again: the host still has what that module mapped",
        steps.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::{
        Fixture,
        RELEASE, //
    };

    fn advised(findings: &[Finding]) -> &str {
        findings[0].advice.as_deref().unwrap()
    }

    #[test]
    fn a_guest_without_it() {
        let fixture = Fixture::healthy();
        fixture.write(
            "etc/modules-load.d/a.conf",
            "# apple_dma\napple_dma_pci\nloop\n",
        );
        fixture.write("var/lib/dkms/apple-dma-pci/0.1.0/source/dkms.conf", OURS);
        Fixture::is_ok(&predecessor(&fixture.guest()));
    }

    const OURS: &str = "PACKAGE_NAME=\"apple-dma-pci\"\nBUILT_MODULE_NAME[0]=\"apple_dma_pci\"\n";
    const THEIRS: &str = "PACKAGE_NAME=\"apple-dma\"\nBUILT_MODULE_NAME[0]=\"apple_dma\"\n";

    #[test]
    fn one_that_has_the_companion() {
        let fixture = Fixture::healthy();
        let driver = fixture.companion("driver");
        fixture.remove(&driver);
        fixture.link(&driver, "../../drivers/apple_dma");
        fixture.write("sys/module/apple_dma/initstate", "live\n");
        let findings = predecessor(&fixture.guest());
        Fixture::is_problem(&findings, "is here: it has the companions 0000:00:10.0");
        assert!(advised(&findings).starts_with("update-initramfs"));
        assert!(advised(&findings).contains("start QEMU again"));

        fixture.write("etc/modules-load.d/apple-dma.conf", "# early\napple-dma\n");
        fixture.write("usr/src/apple-dma-1.2/dkms.conf", THEIRS);
        fixture.link(
            "var/lib/dkms/apple-dma/1.2/source",
            "/usr/src/apple-dma-1.2",
        );
        let findings = predecessor(&fixture.guest());
        Fixture::is_problem(
            &findings,
            "0000:00:10.0; /etc/modules-load.d/apple-dma.conf has it loaded at boot; DKMS builds \
             it (apple-dma/1.2)",
        );
        let steps = "rm /etc/modules-load.d/apple-dma.conf; dkms remove apple-dma/1.2 --all; \
                     rm -r /usr/src/apple-dma-1.2; update-initramfs -u -k all";
        assert!(
            advised(&findings).starts_with(steps),
            "{}",
            advised(&findings)
        );
    }

    #[test]
    fn one_that_comes_at_the_next_boot() {
        let fixture = Fixture::healthy();
        fixture.write("etc/modules", "loop\napple_dma option=1\n");
        let findings = predecessor(&fixture.guest());
        Fixture::is_problem(&findings, "/etc/modules has it loaded at boot");
        assert!(advised(&findings).starts_with("sed -i -E '/^apple[_-]dma( |$)/d' /etc/modules; "));
        fixture.write("etc/modules", "apple_dma\n");
        assert!(advised(&predecessor(&fixture.guest())).starts_with("sed "));
    }

    #[test]
    fn one_that_is_installed() {
        let fixture = Fixture::healthy();
        let file = format!("lib/modules/{RELEASE}/updates/apple_dma.ko.xz");
        fixture.write(&file, "");
        let findings = predecessor(&fixture.guest());
        Fixture::is_warning(&findings, "is here: updates/apple_dma.ko.xz is installed");
        assert!(advised(&findings).starts_with(&format!("rm /{file}; depmod; ")));
        // Without its sources, it is known by its name.
        fixture.write("var/lib/dkms/apple_dma/0.3/build/make.log", "");
        let findings = predecessor(&fixture.guest());
        Fixture::is_warning(&findings, "DKMS builds it (apple_dma/0.3)");
        assert!(advised(&findings).starts_with("dkms remove apple_dma/0.3 --all; update-"));
    }
}
