// SPDX-License-Identifier: GPL-2.0

//! The device tree of machines whose PCI bus is in another domain than QEMU has it in.

use crate::scenario::Case;
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    },
    process::Command, //
};

/// The property that says so.
const DOMAIN: &str = "linux,pci-domain = ";

/// Makes the tree for the guest of `case` in `directory`: QEMU's, with the scenario's domain.
pub fn make(case: &Case, dtc: &Path, directory: &Path) -> Result<PathBuf> {
    let [qemus, source, made] =
        ["qemu.dtb", "guest.dts", "guest.dtb"].map(|name| directory.join(name));
    let mut dump = Command::new("qemu-system-aarch64");
    dump.args([
        "-nodefaults",
        "-display",
        "none",
        "-cpu",
        "max",
        "-smp",
        "2",
    ]);
    dump.arg("-m").arg(format!("{}M", case.scenario.memory));
    dump.arg("-machine");
    dump.arg(format!("virt,dumpdtb={}", qemus.display()));
    run(&mut dump)?;
    // What it warns about is QEMU's.
    let compile = |from: &Path, form: &str, to: &Path, into: &str| {
        run(Command::new(dtc)
            .args(["-q", "-I", form, "-O", into, "-o"])
            .args([to, from]))
    };
    compile(&qemus, "dtb", &source, "dts")?;
    let text = fs::read_to_string(&source)?;
    fs::write(&source, in_domain(&text, case.scenario.domain)?)?;
    compile(&source, "dts", &made, "dtb")?;
    Ok(made)
}

/// `tree` with its PCI host bridge in `domain`.
fn in_domain(tree: &str, domain: u16) -> Result<String> {
    let qemus = format!("{DOMAIN}<0x00>;");
    ensure!(
        tree.matches(&qemus).count() == 1,
        "QEMU's tree does not say '{qemus}' once"
    );
    Ok(tree.replace(&qemus, &format!("{DOMAIN}<{domain}>;")))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| program.clone())?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_bridge_gets_its_domain() {
        let bridge = |domain: &str| format!("\tpcie@1000 {{\n\t\t{DOMAIN}<{domain}>;\n\t}};\n");
        assert_eq!(in_domain(&bridge("0x00"), 5).unwrap(), bridge("5"));
        for tree in [String::new(), bridge("0x01"), bridge("0x00").repeat(2)] {
            assert!(in_domain(&tree, 5).is_err(), "{tree}");
        }
    }
}
