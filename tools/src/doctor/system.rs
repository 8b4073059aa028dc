// SPDX-License-Identifier: GPL-2.0

//! The inspected system: files below a root, and programs if that is the running system's. The
//! meaning of the files is the matter of others.

use anyhow::{
    Context,
    Result, //
};
use rustix::{
    fs::{
        Dir,
        Mode,
        OFlags,
        ResolveFlags, //
    },
    io::Errno, //
};
#[cfg(test)]
use std::collections::BTreeMap;
use std::{
    env,
    fs::File,
    io::{
        self,
        Read, //
    },
    os::fd::OwnedFd,
    path::Path,
    process::Command, //
};

/// Directories of programs that are not in the path of users other than root.
const ADMIN_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Number of retries after the kernel could not resolve a path for certain.
const RETRIES: usize = 1000;

/// The result of a program.
#[derive(Clone, Debug)]
pub struct Output {
    /// True if the program succeeded.
    pub success: bool,
    /// The program's output.
    pub text: String,
}

/// Ways to run programs.
enum Programs {
    /// In the running system.
    Live,
    /// Not at all: the files are not the running system's.
    Absent,
    /// In a test: outputs by command line; no program fails.
    #[cfg(test)]
    Canned(BTreeMap<String, String>),
}

/// A system.
pub struct System {
    root: OwnedFd,
    programs: Programs,
}

impl System {
    /// Returns the system in `root`; programs are run only if that is the running system's.
    pub fn open(root: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty())
            .with_context(|| root.display().to_string())?;
        let live = root.canonicalize()? == Path::new("/");
        Ok(System {
            root: fd,
            programs: if live {
                Programs::Live
            } else {
                Programs::Absent
            },
        })
    }

    /// Returns a system whose programs print the outputs in `canned`.
    #[cfg(test)]
    pub fn canned(root: &Path, canned: BTreeMap<String, String>) -> Result<Self> {
        Ok(System {
            programs: Programs::Canned(canned),
            ..System::open(root)?
        })
    }

    /// Returns whether this is the running system.
    pub fn is_live(&self) -> bool {
        !matches!(self.programs, Programs::Absent)
    }

    /// Opens an absolute path; links in it are relative to the system.
    fn at(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let open = || {
            rustix::fs::openat2(
                &self.root,
                path,
                flags,
                Mode::empty(),
                ResolveFlags::IN_ROOT,
            )
        };
        // The kernel fails at a "..", which links of sysfs have, if anything is renamed or mounted
        // anywhere meanwhile.
        for _ in 0..RETRIES {
            match open() {
                Err(Errno::AGAIN) => {}
                result => return Ok(result?),
            }
        }
        Ok(open()?)
    }

    /// Returns the contents of a file.
    pub fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::from(self.at(path, OFlags::RDONLY)?).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns the contents of a text file.
    pub fn text(&self, path: &str) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes(path)?).into_owned())
    }

    /// Returns the contents of a file of one line, if it can be read.
    pub fn line(&self, path: &str) -> Option<String> {
        Some(self.text(path).ok()?.trim().to_owned())
    }

    /// Returns whether the path exists.
    pub fn exists(&self, path: &str) -> bool {
        self.at(path, OFlags::PATH).is_ok()
    }

    /// Returns the names in a directory, sorted; none if it cannot be read.
    pub fn names(&self, path: &str) -> Vec<String> {
        self.list(path).unwrap_or_default()
    }

    /// Returns the names in a directory, sorted.
    pub fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let fd = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(fd)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Returns the target of a symbolic link.
    pub fn link(&self, path: &str) -> Option<String> {
        let fd = self.at(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        let target = rustix::fs::readlinkat(&fd, "", Vec::new()).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    /// Returns the last part of the target of a symbolic link.
    pub fn link_name(&self, path: &str) -> Option<String> {
        Some(self.link(path)?.rsplit('/').next()?.to_owned())
    }

    /// Returns the time of a file's last change, in seconds since 1970.
    pub fn changed(&self, path: &str) -> Option<i64> {
        let fd = self.at(path, OFlags::PATH).ok()?;
        Some(rustix::fs::fstat(&fd).ok()?.st_mtime)
    }

    /// Runs a program that changes nothing. Returns [`None`] if this is not the running system, or
    /// it does not have the program.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Option<Output> {
        match &self.programs {
            Programs::Absent => None,
            Programs::Live => {
                let path = env::var("PATH").unwrap_or_default();
                let path = format!("{path}:{ADMIN_PATH}");
                // The program is looked up here: with another PATH the standard library would need
                // sockets for that, which a small kernel may not have.
                let file = env::split_paths(&path)
                    .map(|directory| directory.join(program))
                    .find(|file| file.is_file())?;
                let output = Command::new(file)
                    .args(arguments)
                    .env("PATH", path)
                    .env("LC_ALL", "C.UTF-8")
                    .output()
                    .ok()?;
                Some(Output {
                    success: output.status.success(),
                    text: String::from_utf8_lossy(&output.stdout).into_owned(),
                })
            }
            #[cfg(test)]
            Programs::Canned(canned) => {
                let line = [&[program], arguments].concat().join(" ");
                canned.get(&line).map(|text| Output {
                    success: !text.is_empty(),
                    text: text.clone(),
                })
            }
        }
    }
}
