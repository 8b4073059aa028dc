// SPDX-License-Identifier: GPL-2.0

//! The system that is looked at: files below a root, and programs where that is the running
//! system's. What the files mean is no matter of this file.

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

/// Where programs are that are not in the path of those who are not root.
const ADMIN_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// How often the kernel is asked again that could not be sure where a path leads.
const RETRIES: usize = 1000;

/// What a program came to.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it succeeded.
    pub success: bool,
    /// What it printed.
    pub text: String,
}

/// What runs programs.
enum Programs {
    /// The running system.
    Live,
    /// Nothing: it is not the running system.
    Absent,
    /// A test: what is printed, by command line; none fails.
    #[cfg(test)]
    Canned(BTreeMap<String, String>),
}

/// A system.
pub struct System {
    root: OwnedFd,
    programs: Programs,
}

impl System {
    /// The system in `root`; programs are run only if that is the running system's.
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

    /// A system whose programs print what `canned` has for them.
    #[cfg(test)]
    pub fn canned(root: &Path, canned: BTreeMap<String, String>) -> Result<Self> {
        Ok(System {
            programs: Programs::Canned(canned),
            ..System::open(root)?
        })
    }

    /// Whether this is the running system.
    pub fn is_live(&self) -> bool {
        !matches!(self.programs, Programs::Absent)
    }

    /// Opens an absolute path; links in it are the system's own.
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
        // The kernel gives up at a "..", which links of sysfs have, if anything is renamed or
        // mounted anywhere meanwhile.
        for _ in 0..RETRIES {
            match open() {
                Err(Errno::AGAIN) => {}
                result => return Ok(result?),
            }
        }
        Ok(open()?)
    }

    /// What is in a file.
    pub fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::from(self.at(path, OFlags::RDONLY)?).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// What is in a file of text.
    pub fn text(&self, path: &str) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes(path)?).into_owned())
    }

    /// What is in a file of one line, if it can be read.
    pub fn line(&self, path: &str) -> Option<String> {
        Some(self.text(path).ok()?.trim().to_owned())
    }

    /// Whether there is something.
    pub fn exists(&self, path: &str) -> bool {
        self.at(path, OFlags::PATH).is_ok()
    }

    /// The names in a directory, sorted; none if it cannot be read.
    pub fn names(&self, path: &str) -> Vec<String> {
        self.list(path).unwrap_or_default()
    }

    /// The names in a directory, sorted.
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

    /// Where a symbolic link points to.
    pub fn link(&self, path: &str) -> Option<String> {
        let fd = self.at(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        let target = rustix::fs::readlinkat(&fd, "", Vec::new()).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    /// The last part of where a symbolic link points to.
    pub fn link_name(&self, path: &str) -> Option<String> {
        Some(self.link(path)?.rsplit('/').next()?.to_owned())
    }

    /// When a file was changed, in seconds since 1970.
    pub fn changed(&self, path: &str) -> Option<i64> {
        let fd = self.at(path, OFlags::PATH).ok()?;
        Some(rustix::fs::fstat(&fd).ok()?.st_mtime)
    }

    /// Runs a program that changes nothing. None if this is not the running system, or it does not
    /// have the program.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Option<Output> {
        match &self.programs {
            Programs::Absent => None,
            Programs::Live => {
                let path = env::var("PATH").unwrap_or_default();
                let path = format!("{path}:{ADMIN_PATH}");
                // It is looked up here: with another PATH the standard library would need sockets
                // for that, which a small kernel may not have.
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
