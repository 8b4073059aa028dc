// SPDX-License-Identifier: GPL-2.0

//! Paths of the parts of a guest: kernels and base archives from tests/env/setup and
//! tests/env/kernel, modules from tests/env/build-modules, scripts from image/.

use crate::cpio::Archive;
use crate::drivers;
use crate::scenario::Case;
use anyhow::{
    bail,
    Context,
    Result, //
};
use clap::ValueEnum;
use serde::Deserialize;
use std::{
    fmt,
    fs::{
        self,
        File, //
    },
    io::{
        self,
        BufWriter, //
    },
    os::unix::fs::PermissionsExt,
    path::{
        Path,
        PathBuf, //
    },
};

/// A guest's architecture, by Debian's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit Arm.
    Arm64,
    /// x86-64.
    Amd64,
}

impl Arch {
    /// Debian's name.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Arm64 => "arm64",
            Arch::Amd64 => "amd64",
        }
    }
}

/// Architecture and kernel of a guest: files built for one system can be used on it alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct System {
    /// The architecture.
    pub arch: Arch,
    /// Name of a kernel of tests/env/kernel; Debian's kernel when absent.
    pub kernel: Option<String>,
}

impl fmt::Display for System {
    /// Writes `ARCH`, or `ARCH-KERNEL`: the end of names of directories.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kernel {
            None => f.write_str(self.arch.name()),
            Some(kernel) => write!(f, "{}-{kernel}", self.arch.name()),
        }
    }
}

/// The directories of the assets.
#[derive(Clone, Debug)]
pub struct Assets {
    cache: PathBuf,
    repo: PathBuf,
    programs: PathBuf,
}

impl Assets {
    /// Returns the assets that setup created in `cache`. The repository is the one that this
    /// program was built from; the simulator is next to this program.
    pub fn new(cache: &Path) -> Result<Self> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let program = std::env::current_exe().context("where this program is")?;
        Ok(Assets {
            cache: cache.to_owned(),
            repo: fs::canonicalize(&repo).with_context(|| repo.display().to_string())?,
            programs: program.parent().unwrap_or(Path::new("/")).to_owned(),
        })
    }

    /// Returns the program of the simulated Mac.
    pub fn mac(&self) -> PathBuf {
        self.programs.join("apple-dma-mac")
    }

    /// Returns the directory for the results of runs.
    pub fn runs(&self) -> PathBuf {
        self.repo.join("build/guest")
    }

    /// Returns the directory of the files that declare the scenarios.
    pub fn scenarios(&self) -> PathBuf {
        self.repo.join("tests/guest/scenarios")
    }

    /// Returns the file that declares the scenarios that take long.
    pub fn soak(&self) -> PathBuf {
        self.repo.join("tests/guest/soak.toml")
    }

    /// Returns the file that declares the scenarios of systems on which the package is installed.
    pub fn packages(&self) -> PathBuf {
        self.repo.join("tests/guest/package.toml")
    }

    /// Returns the directory in which tests/env/package left such a system: `vmlinuz`, `initrd` and
    /// `root.img`.
    pub fn installed(&self, name: &str) -> PathBuf {
        self.repo.join("build/package").join(name)
    }

    /// Returns the file that declares the guests of `bench`.
    pub fn bench(&self) -> PathBuf {
        self.repo.join("tests/guest/bench.toml")
    }

    /// Returns the file to which `bench` writes its figures.
    pub fn figures(&self) -> PathBuf {
        self.repo.join("build/bench.json")
    }

    /// Returns the release of Debian's kernel.
    pub fn kernel_release(&self, arch: Arch) -> Result<String> {
        let path = self.guest(arch).join("kernelrelease");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().to_owned())
    }

    /// Returns a guest's kernel.
    pub fn kernel(&self, system: &System) -> PathBuf {
        self.made(system)
            .unwrap_or_else(|| self.guest(system.arch))
            .join("vmlinuz")
    }

    /// Returns UEFI firmware for arm64 guests: its code, and variables to copy.
    pub fn firmware(&self) -> [PathBuf; 2] {
        let directory = self.cache.join("firmware-arm64");
        ["code.fd", "variables.fd"].map(|name| directory.join(name))
    }

    /// Returns the base of every guest's root.
    fn guest(&self, arch: Arch) -> PathBuf {
        self.cache.join(format!("guest-{}", arch.name()))
    }

    /// Returns the directory of a kernel of tests/env/make-kernel; [`None`] for Debian's.
    fn made(&self, system: &System) -> Option<PathBuf> {
        let kernel = system.kernel.as_ref()?;
        Some(
            self.cache
                .join(format!("kernel-{kernel}-{}", system.arch.name())),
        )
    }

    /// Returns the archive of the programs that only some guests have.
    fn further_programs(&self, arch: Arch) -> PathBuf {
        self.cache
            .join(format!("programs-{}", arch.name()))
            .join("programs.cpio")
    }

    /// Returns the tree of the drivers that only some guests load.
    fn further_drivers(&self, system: &System) -> PathBuf {
        let name = match &system.kernel {
            None => format!("drivers-{}", system.arch.name()),
            Some(kernel) => format!("drivers-{kernel}-{}", system.arch.name()),
        };
        self.cache.join(name)
    }

    /// Returns whether further drivers exist for a system: not if its kernel is one of
    /// tests/kernels/, which has the drivers of its configuration only.
    pub fn has_drivers(&self, system: &System) -> bool {
        let Some(kernel) = &system.kernel else {
            return true;
        };
        let config = format!("tests/kernels/{kernel}-{}.config", system.arch.name());
        !self.repo.join(config).exists()
    }

    fn image(&self) -> PathBuf {
        self.repo.join("tests/guest/image")
    }

    /// Returns the kselftest that tests/env/build-selftests installed.
    fn selftests(&self, system: &System) -> PathBuf {
        self.repo.join(format!("build/selftests-{system}"))
    }

    /// Returns the tool that tests/env/build-tool built.
    fn tool(&self, arch: Arch) -> PathBuf {
        let directory = format!("build/tool-{}", arch.name());
        self.repo.join(directory).join("apple-dma-pci")
    }

    /// Finds a module among those that were built for the guest of `case`.
    fn module(&self, case: &Case, name: &str) -> Result<PathBuf> {
        let built = match &case.scenario.modules_in {
            Some(directory) => self.repo.join("build").join(directory),
            None => self.repo.join(format!("build/modules-{}", case.system())),
        };
        let file = format!("{name}.ko");
        [built.join(&file), built.join("tests/driver").join(&file)]
            .into_iter()
            .find(|path| path.exists())
            .with_context(|| {
                format!(
                    "no {file} in {}: run it by tests/env/guest, which builds them",
                    built.display()
                )
            })
    }

    /// Writes an initial root file system for the guest of `case` to `path`: the base of its
    /// system, the scripts of image/, its modules, selftests and the tool, and `variables` as
    /// shell assignments.
    pub fn initrd(&self, path: &Path, case: &Case, variables: &[(String, String)]) -> Result<()> {
        let system = &case.system();
        let mut out = File::create(path).with_context(|| path.display().to_string())?;
        let base = self.guest(system.arch).join("base.cpio");
        let modules_of_kernel = self.made(system).map(|made| made.join("modules.cpio"));
        let programs = case.scenario.programs;
        let programs = programs.then(|| self.further_programs(system.arch));
        for from in [Some(base), modules_of_kernel, programs].iter().flatten() {
            let size = File::open(from)
                .and_then(|mut file| io::copy(&mut file, &mut out))
                .with_context(|| format!("{}: run 'make setup-all'", from.display()))?;
            if size % 4 != 0 {
                bail!("{}: {size} bytes, not a multiple of 4", from.display());
            }
        }

        let mut archive = Archive::new(BufWriter::new(out));
        for directory in ["test", "test/scenarios", "test/modules"] {
            archive.directory(directory)?;
        }
        archive.program("init", &read(&self.image().join("init"))?)?;
        archive.file("test/lib.sh", &read(&self.image().join("lib.sh"))?)?;
        for entry in fs::read_dir(self.image().join("scenarios"))? {
            let entry = entry?;
            let name = entry.file_name();
            archive.file(
                &format!("test/scenarios/{}", name.to_string_lossy()),
                &read(&entry.path())?,
            )?;
        }
        if !case.scenario.drivers.is_empty() {
            let from = self.further_drivers(system);
            drivers::add(&mut archive, &from, &case.scenario.drivers)
                .with_context(|| format!("{}: run 'make setup-all'", from.display()))?;
        }
        for name in &case.scenario.modules {
            let module = read(&self.module(case, name)?)?;
            archive.file(&format!("test/modules/{name}.ko"), &module)?;
        }
        if case.scenario.selftests {
            let from = self.selftests(system);
            tree(&mut archive, "test/selftests", &from).with_context(|| {
                format!(
                    "{}: run it by tests/env/guest, which builds them",
                    from.display()
                )
            })?;
        }
        if case.scenario.tool {
            let tool = self.tool(system.arch);
            let program = read(&tool).context("run it by tests/env/guest, which builds it")?;
            archive.program("usr/bin/apple-dma-pci", &program)?;
        }
        archive.file("test/variables", assignments(variables).as_bytes())?;
        archive.finish()?;
        Ok(())
    }
}

/// Adds the tree below `from` as `to`.
fn tree(archive: &mut Archive<impl io::Write>, to: &str, from: &Path) -> Result<()> {
    archive.directory(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = format!("{to}/{name}");
        let meta = fs::metadata(&path)?;
        if meta.is_dir() {
            tree(archive, &to, &path)?;
        } else if meta.permissions().mode() & 0o100 != 0 {
            archive.program(&to, &read(&path)?)?;
        } else {
            archive.file(&to, &read(&path)?)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// Returns `variables` as shell assignments, quoted.
fn assignments(variables: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, value) in variables {
        text.push_str(&format!("{name}='{}'\n", value.replace('\'', r"'\''")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_survive_quotes() {
        let variables = [("A".to_owned(), "it's $x".to_owned())];
        assert_eq!(assignments(&variables), "A='it'\\''s $x'\n");
    }
}
