// SPDX-License-Identifier: GPL-2.0

//! `pressure`: the pressure on the limits of each companion, and its changes, of which the kernel
//! tells those that poll the file.

use crate::output;
use crate::system::{
    self,
    System, //
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use rustix::{
    event::{
        poll,
        PollFd,
        PollFlags,
        Timespec, //
    },
    io::Errno, //
};
use serde::Serialize;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{
        Path,
        PathBuf, //
    },
    process::ExitCode, //
};

/// The time after which a file is looked for, since the kernel does not tell of one that goes.
const LOOK: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Number of such looks in a row after which the files are read in any case: a level that lasted
/// for less than the module's period may have been read, and its end not be told.
const LOOKS: u32 = 300;

/// The longest content of a file, in bytes.
const LONGEST: usize = 64;

#[derive(clap::Args)]
pub struct Options {
    /// Go on with a line for each change, until Ctrl-C or until no companion is left
    #[arg(long, short)]
    follow: bool,
}

/// A line of the result.
#[derive(Serialize)]
struct Line<'a> {
    companion: &'a str,
    pressure: &'a str,
}

/// The file of a companion.
struct Watched {
    companion: String,
    path: PathBuf,
    file: File,
    /// The pressure when it was last read.
    pressure: String,
}

impl Watched {
    /// Opens the file of `companion` and reads it.
    fn new(path: &Path, companion: String) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let mut watched = Self {
            companion,
            path: path.to_owned(),
            file,
            pressure: String::new(),
        };
        watched.read()?;
        Ok(watched)
    }

    /// Reads the file. Returns whether it has changed.
    fn read(&mut self) -> Result<bool> {
        let mut bytes = [0; LONGEST];
        let len = self.file.read_at(&mut bytes, 0);
        let len = len.with_context(|| format!("pressure of {}", self.companion))?;
        let now = String::from_utf8_lossy(bytes.get(..len).unwrap_or(&[]));
        let now = now.trim_end();
        let changed = self.pressure != now;
        now.clone_into(&mut self.pressure);
        Ok(changed)
    }

    fn print(&self, json: bool) -> Result<()> {
        let (companion, pressure) = (self.companion.as_str(), self.pressure.as_str());
        output::print(&match json {
            true => output::json_line(&Line {
                companion,
                pressure,
            })?,
            false => format!("{companion} {pressure}\n"),
        })
    }
}

pub fn run(options: &Options, json: bool) -> Result<ExitCode> {
    let system = System::new();
    let mut files = Vec::new();
    for companion in system.companions()? {
        let path = system.pressure(&companion);
        if !path.exists() {
            bail!(
                "{}: there is no such file: the module is older than this program",
                path.display()
            );
        }
        files.push(Watched::new(&path, companion)?);
    }
    for file in &files {
        file.print(json)?;
    }
    let mut looks = 0;
    while options.follow && !files.is_empty() {
        let mut waits: Vec<_> = files
            .iter()
            .map(|watched| PollFd::new(&watched.file, PollFlags::PRI))
            .collect();
        let told = match poll(&mut waits, Some(&LOOK)) {
            Err(Errno::INTR) => continue,
            result => result? != 0,
        };
        files.retain(|watched| watched.path.exists());
        looks += 1;
        if !told && looks < LOOKS {
            continue;
        }
        looks = 0;
        let mut left = Vec::new();
        for mut watched in files {
            match watched.read() {
                Ok(true) => watched.print(json)?,
                Ok(false) => (),
                // The companion has just lost its driver.
                Err(error) if system::is_gone(&error) => continue,
                Err(error) => return Err(error),
            }
            left.push(watched);
        }
        files = left;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_change_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pressure");
        fs::write(&path, "none\n").unwrap();
        let mut watched = Watched::new(&path, "0000:00:10.0".to_owned()).unwrap();
        assert_eq!(watched.pressure, "none");
        assert!(!watched.read().unwrap());
        fs::write(&path, "critical\n").unwrap();
        assert!(watched.read().unwrap());
        assert_eq!(watched.pressure, "critical");
        assert!(!watched.read().unwrap());
        assert!(Watched::new(&dir.path().join("none"), String::new()).is_err());
    }
}
