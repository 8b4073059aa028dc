// SPDX-License-Identifier: GPL-2.0

//! The drivers that a scenario names, from the tree of tests/env/unpack-drivers: finds their files
//! and those that they depend on, and adds them to a guest's root with the indices of modprobe.

use crate::cpio::Archive;
use anyhow::{
    bail,
    Context,
    Result, //
};
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::Path, //
};

/// Directory of modules in the guest's root.
const MODULES: &str = "usr/lib/modules";

/// Adds the modules `names` of the tree `from`, and the modules that they depend on, to `archive`.
pub fn add(archive: &mut Archive<impl Write>, from: &Path, names: &[String]) -> Result<()> {
    let release = fs::read_to_string(from.join("kernelrelease"))?;
    let release = release.trim();
    let tree = from.join("lib/modules").join(release);
    let dependencies = fs::read_to_string(tree.join("modules.dep"))?;
    let builtin = fs::read_to_string(tree.join("modules.builtin"))?;
    let files = closure(&dependencies, &builtin, names)?;

    let to = format!("{MODULES}/{release}");
    let mut directories = BTreeSet::from([MODULES.to_owned(), to.clone()]);
    for file in &files {
        for (at, _) in file.match_indices('/') {
            directories.insert(format!("{to}/{}", &file[..at]));
        }
    }
    // In order, parents are before their children.
    for directory in &directories {
        archive.directory(directory)?;
    }
    for entry in fs::read_dir(&tree)? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&format!("{to}/{name}"), &fs::read(&path)?)?;
        }
    }
    for file in &files {
        let module = fs::read(tree.join(file)).with_context(|| file.clone())?;
        archive.file(&format!("{to}/{file}"), &module)?;
    }
    Ok(())
}

/// Returns the files of the modules `names` and of their dependencies. `dependencies` are the lines
/// of modules.dep, `FILE: FILE...`, which name indirect dependencies too; `builtin` are the lines
/// of modules.builtin, each the file that a part of the kernel would be in as a module.
fn closure(dependencies: &str, builtin: &str, names: &[String]) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    for name in names {
        let wanted = underscores(name);
        let mut lines = dependencies.lines().filter_map(|line| line.split_once(':'));
        if let Some((file, needs)) = lines.find(|(file, _)| module(file) == wanted) {
            files.insert(file.to_owned());
            files.extend(needs.split_whitespace().map(str::to_owned));
        } else if !builtin.lines().any(|file| module(file) == wanted) {
            bail!("no module {name}; tests/env/unpack-drivers has the list");
        }
    }
    Ok(files)
}

/// Returns the name of the module in `file`.
fn module(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    underscores(name.strip_suffix(".ko").unwrap_or(name))
}

/// Returns a module's name as the kernel prints it.
fn underscores(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/usb/uas.ko: kernel/usb/usb-storage.ko kernel/scsi/scsi_mod.ko
kernel/usb/usb-storage.ko: kernel/scsi/scsi_mod.ko
kernel/scsi/scsi_mod.ko:
kernel/net/e1000e.ko:
";
    const BUILTIN: &str = "kernel/drivers/char/hw_random/virtio-rng.ko\n";

    fn files(names: &[&str]) -> Result<Vec<String>> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Ok(closure(DEPENDENCIES, BUILTIN, &names)?
            .into_iter()
            .collect())
    }

    #[test]
    fn a_driver_comes_with_its_dependencies() {
        let all = [
            "kernel/scsi/scsi_mod.ko",
            "kernel/usb/uas.ko",
            "kernel/usb/usb-storage.ko",
        ];
        assert_eq!(files(&["uas", "usb_storage"]).unwrap(), all);
        assert_eq!(files(&["usb-storage"]).unwrap(), [all[0], all[2]]);
    }

    #[test]
    fn a_driver_that_is_built_in_has_no_file() {
        assert_eq!(files(&["virtio_rng"]).unwrap(), [""; 0]);
    }

    #[test]
    fn an_unknown_driver_is_an_error() {
        assert!(files(&["e1000e", "e1000"]).is_err());
    }

    #[test]
    fn directories_are_before_their_contents() {
        let from = tempfile::tempdir().unwrap();
        let tree = from.path().join("lib/modules/1");
        fs::create_dir_all(tree.join("kernel/net")).unwrap();
        fs::write(from.path().join("kernelrelease"), "1\n").unwrap();
        fs::write(tree.join("modules.dep"), "kernel/net/e1000e.ko:\n").unwrap();
        fs::write(tree.join("modules.builtin"), "").unwrap();
        fs::write(tree.join("kernel/net/e1000e.ko"), "elf").unwrap();
        let mut archive = Archive::new(Vec::new());
        add(&mut archive, from.path(), &["e1000e".to_owned()]).unwrap();
        let bytes = archive.finish().unwrap();
        let at = |path: &str| {
            let name = format!("{path}\0").into_bytes();
            let found = bytes.windows(name.len()).position(|bytes| bytes == name);
            found.unwrap_or_else(|| panic!("no {path}"))
        };
        let order = [
            "usr/lib/modules",
            "usr/lib/modules/1",
            "usr/lib/modules/1/kernel",
            "usr/lib/modules/1/kernel/net",
            "usr/lib/modules/1/modules.dep",
            "usr/lib/modules/1/kernel/net/e1000e.ko",
        ];
        assert!(order.map(at).is_sorted());
    }
}
