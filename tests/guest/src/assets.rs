// SPDX-License-Identifier: GPL-2.0
//! Where the things are that a guest is made of: kernels and base archives from
//! tests/env/setup, modules from tests/env/build-modules, scripts from image/.

use std::fs;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use clap::ValueEnum;
use serde::Deserialize;

use crate::cpio::Archive;

/// A guest's architecture, by Debian's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
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

/// The directories that assets are in.
#[derive(Clone, Debug)]
pub struct Assets {
    cache: PathBuf,
    repo: PathBuf,
    programs: PathBuf,
}

impl Assets {
    /// With what setup made in `cache`. The repository is the one that this program
    /// was built from; the simulator is next to this program.
    pub fn new(cache: &Path) -> Result<Self> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let program = std::env::current_exe().context("where this program is")?;
        Ok(Assets {
            cache: cache.to_owned(),
            repo: fs::canonicalize(&repo).with_context(|| repo.display().to_string())?,
            programs: program.parent().unwrap_or(Path::new("/")).to_owned(),
        })
    }

    /// The simulated Mac's program.
    pub fn mac(&self) -> PathBuf {
        self.programs.join("apple-dma-mac")
    }

    /// Directory for what runs leave behind.
    pub fn runs(&self) -> PathBuf {
        self.repo.join("build/guest")
    }

    /// The file that declares the scenarios.
    pub fn scenarios(&self) -> PathBuf {
        self.repo.join("tests/guest/scenarios.toml")
    }

    /// A guest's kernel.
    pub fn kernel(&self, arch: Arch) -> PathBuf {
        self.guest(arch).join("vmlinuz")
    }

    fn guest(&self, arch: Arch) -> PathBuf {
        self.cache.join(format!("guest-{}", arch.name()))
    }

    fn image(&self) -> PathBuf {
        self.repo.join("tests/guest/image")
    }

    /// What tests/env/build-selftests installed.
    fn selftests(&self, arch: Arch) -> PathBuf {
        self.repo.join(format!("build/selftests-{}", arch.name()))
    }

    /// Finds a module among those that were built for `arch`.
    fn module(&self, arch: Arch, name: &str) -> Result<PathBuf> {
        let built = self.repo.join(format!("build/modules-{}", arch.name()));
        let file = format!("{name}.ko");
        [built.join(&file), built.join("tests/driver").join(&file)]
            .into_iter()
            .find(|path| path.exists())
            .with_context(|| {
                format!(
                    "no {file} in {}: run tests/env/build-modules {}",
                    built.display(),
                    arch.name()
                )
            })
    }

    /// Writes an initial root file system to `path`: the base of `arch`, the scripts
    /// of image/, the named modules, with `selftests` the kselftest, and `variables` as
    /// shell assignments.
    pub fn initrd(
        &self,
        path: &Path,
        arch: Arch,
        modules: &[String],
        selftests: bool,
        variables: &[(String, String)],
    ) -> Result<()> {
        let base = self.guest(arch).join("base.cpio");
        let mut out = File::create(path).with_context(|| path.display().to_string())?;
        let size = File::open(&base)
            .and_then(|mut file| io::copy(&mut file, &mut out))
            .with_context(|| format!("{}: run 'make setup'", base.display()))?;
        if size % 4 != 0 {
            bail!("{}: {size} bytes, not a multiple of 4", base.display());
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
        for name in modules {
            let module = read(&self.module(arch, name)?)?;
            archive.file(&format!("test/modules/{name}.ko"), &module)?;
        }
        if selftests {
            let from = self.selftests(arch);
            tree(&mut archive, "test/selftests", &from).with_context(|| {
                format!(
                    "{}: run tests/env/in-root tests/env/build-selftests {}",
                    from.display(),
                    arch.name()
                )
            })?;
        }
        archive.file("test/variables", assignments(variables).as_bytes())?;
        archive.finish()?;
        Ok(())
    }
}

/// Adds all that is below `from` as `to`.
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

/// Shell assignments, quoted.
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
