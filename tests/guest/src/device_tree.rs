// SPDX-License-Identifier: GPL-2.0

//! The device tree of machines whose PCI bus is in another domain than QEMU has it in.

use crate::scenario::Case;
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use std::{
    path::{
        Path,
        PathBuf, //
    },
    process::Command, //
};

/// The property of a host bridge that has the domain.
const DOMAIN: &str = "linux,pci-domain";

/// Writes QEMU's tree into `directory`, with the host bridge in the domain of `case`'s scenario.
/// Returns the path of the tree.
pub fn make(case: &Case, directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("guest.dtb");
    run(Command::new("qemu-system-aarch64")
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-cpu",
            "max",
            "-smp",
            "2",
        ])
        .arg("-m")
        .arg(format!("{}M", case.scenario.memory))
        .arg("-machine")
        .arg(format!("virt,dumpdtb={}", tree.display())))?;

    let nodes = run(Command::new("fdtget").arg("-l").arg(&tree).arg("/"))?;
    let bridge = format!("/{}", host_bridge(&nodes)?);
    let domain = run(Command::new("fdtget")
        .args(["-t", "u"])
        .arg(&tree)
        .args([&bridge, DOMAIN]))?;
    ensure!(domain.trim() == "0", "QEMU has {bridge} in domain {domain}");
    run(Command::new("fdtput").args(["-t", "u"]).arg(&tree).args([
        &bridge,
        DOMAIN,
        &case.scenario.domain.to_string(),
    ]))?;
    Ok(tree)
}

/// Returns the only PCI host bridge among `nodes`, the names of the tree's uppermost nodes.
fn host_bridge(nodes: &str) -> Result<&str> {
    let bridges: Vec<_> = nodes
        .lines()
        .filter(|node| node.starts_with("pcie@"))
        .collect();
    match bridges[..] {
        [bridge] => Ok(bridge),
        _ => bail!("QEMU's tree has {} PCI host bridges", bridges.len()),
    }
}

/// Runs `command` and returns its output; fails if the command does.
fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| program.clone())?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_host_bridge() {
        let nodes = |bridges: &str| format!("psci\nmemory@40000000\n{bridges}pl011@9000000\n");
        assert_eq!(host_bridge(&nodes("pcie@1000\n")).unwrap(), "pcie@1000");
        for none_or_two in ["", "pcie@1000\npcie@2000\n"] {
            assert!(host_bridge(&nodes(none_or_two)).is_err());
        }
    }
}
