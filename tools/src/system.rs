// SPDX-License-Identifier: GPL-2.0

//! Access to the module's interfaces: companions in sysfs, their files in debugfs, and tracefs.
//! Reads them, and resets the peaks; an error tells in a sentence why that is not possible.

use crate::debugfs::{
    self,
    Numbers,
    Window,
    Words, //
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::{
    Deserialize,
    Serialize, //
};
use std::{
    fs,
    io::{
        self,
        ErrorKind,
        Write, //
    },
    path::{
        Path,
        PathBuf, //
    },
    str::FromStr, //
};

/// The module's name.
const MODULE: &str = "apple_dma_pci";

/// Facts about a companion that every user may read, and those for root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Companion {
    /// Its PCI address.
    pub companion: String,
    /// The PCI address of the device that it manages.
    pub device: String,
    /// True if the device is present.
    pub present: bool,
    /// The device's driver.
    pub driver: Option<String>,
    /// Mode of mapping.
    pub mode: String,
    /// Bytes that the host has mapped.
    pub bytes: u64,
    /// Limit of these bytes.
    pub max_bytes: u64,
    /// Mappings that the host has.
    pub entries: u64,
    /// Limit of these mappings.
    pub max_entries: u64,
    /// Facts that only root may read.
    pub details: Option<Details>,
}

/// A companion's files in debugfs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Details {
    /// State, mode and usage.
    #[serde(with = "debugfs::json_words")]
    pub status: Words,
    /// Counters since the start.
    pub counters: Numbers,
    /// Batches that were sent to the host.
    pub doorbells: Numbers,
    /// Numbers of windows.
    pub sizes: Numbers,
}

impl Details {
    /// Returns a number of the file `status`.
    pub fn status_number(&self, name: &str) -> Option<u64> {
        self.status.get(name)?.parse().ok()
    }

    /// Returns the number of windows in `state`.
    pub fn windows(&self, state: &str) -> u64 {
        debugfs::below(&self.sizes, state)
            .map(|(_, count)| count)
            .sum()
    }
}

/// The running system, or a copy of its files.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

fn read(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim_end_matches('\n').to_owned())
}

/// Returns whether an error says that a file of a companion is not there any more.
pub fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| {
        error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV)
    })
}

impl System {
    /// Returns the running system.
    pub fn new() -> Self {
        Self::at(Path::new("/"))
    }

    /// Returns the system below `root`.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    fn devices(&self) -> PathBuf {
        self.root.join("sys/bus/pci/devices")
    }

    fn debugfs(&self) -> PathBuf {
        self.root.join("sys/kernel/debug")
    }

    /// Returns the directory of the files of `companion`.
    fn directory(&self, companion: &str) -> PathBuf {
        self.debugfs().join(MODULE).join(companion)
    }

    /// Returns the path of the file that has the pressure on the limits of `companion`.
    pub fn pressure(&self, companion: &str) -> PathBuf {
        self.devices().join(companion).join(MODULE).join("pressure")
    }

    /// Returns the PCI addresses of all companions with their driver; an error tells why there are
    /// none.
    pub fn companions(&self) -> Result<Vec<String>> {
        self.expect_module()?;
        let devices = self.devices();
        let entries = fs::read_dir(&devices).with_context(|| devices.display().to_string())?;
        let mut companions = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.path().join(MODULE).join("managed").exists() {
                companions.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        if companions.is_empty() {
            bail!(
                "the module is loaded, but manages nothing: 'apple-dma-pci doctor' looks for \
                 the reason"
            );
        }
        companions.sort();
        Ok(companions)
    }

    /// Returns the facts about `companion`; [`None`] if it has just been removed. Facts that only
    /// root may read are missing for others.
    pub fn companion(&self, companion: &str) -> Result<Option<Companion>> {
        match self.read_companion(companion) {
            Ok(companion) => Ok(Some(companion)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_companion(&self, companion: &str) -> Result<Companion> {
        let dir = self.devices().join(companion).join(MODULE);
        let word = |name: &str| {
            let path = dir.join(name);
            read(&path).with_context(|| path.display().to_string())
        };
        fn number<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
            (name, word): (&str, String),
        ) -> Result<T> {
            let number = word.parse();
            number.with_context(|| format!("{name}: '{word}' is no number"))
        }
        let number_of = |name| number((name, word(name)?));
        let device = word("managed")?;
        let managed = self.devices().join(&device);
        let driver = fs::read_link(managed.join("driver")).ok();
        let driver = driver.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
        Ok(Companion {
            companion: companion.to_owned(),
            present: managed.exists(),
            driver,
            device,
            mode: word("mode")?,
            bytes: number_of("bytes")?,
            max_bytes: number_of("max_bytes")?,
            entries: number_of("entries")?,
            max_entries: number_of("max_entries")?,
            details: match self.why_no_details() {
                None => Some(self.details(companion)?),
                Some(_) => None,
            },
        })
    }

    /// Returns the reason why the facts for root cannot be read, with advice; [`None`] if they can
    /// be.
    pub fn why_no_details(&self) -> Option<&'static str> {
        let debugfs = self.debugfs();
        match fs::read_dir(debugfs.join(MODULE)) {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(
                "only root sees counters, rates, doorbells and windows, and with them what went \
                 wrong: sudo apple-dma-pci status",
            ),
            Err(_) if fs::read_dir(&debugfs).is_ok_and(|mut dir| dir.next().is_none()) => {
                Some("debugfs is not mounted: mount -t debugfs none /sys/kernel/debug")
            }
            Err(_) => Some("this kernel has no debugfs, so counters cannot be seen"),
        }
    }

    fn parse_file<T>(
        &self,
        companion: &str,
        name: &str,
        parse: impl Fn(&str) -> Result<T>,
    ) -> Result<T> {
        let path = self.directory(companion).join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        parse(&text).with_context(|| path.display().to_string())
    }

    fn details(&self, companion: &str) -> Result<Details> {
        Ok(Details {
            status: self.parse_file(companion, "status", debugfs::words)?,
            counters: self.parse_file(companion, "counters", debugfs::numbers)?,
            doorbells: self.parse_file(companion, "doorbells", debugfs::numbers)?,
            sizes: self.parse_file(companion, "sizes", debugfs::numbers)?,
        })
    }

    /// Returns the windows of `companion`.
    pub fn windows(&self, companion: &str) -> Result<Vec<Window>> {
        self.parse_file(companion, "windows", debugfs::windows)
    }

    /// Sets the peaks of `companion` to the values now.
    pub fn reset_peaks(&self, companion: &str) -> Result<()> {
        let path = self.directory(companion).join("reset_peaks");
        // Not created: modules before this file was added do not have it.
        let file = fs::OpenOptions::new().write(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(b"1"));
        let Err(error) = written else {
            return Ok(());
        };
        if let Some(reason) = self.why_no_details() {
            bail!("the peaks cannot be reset: {reason}");
        }
        Err(error).with_context(|| format!("the peaks cannot be reset: {}", path.display()))
    }

    /// Returns the release of the kernel.
    pub fn kernel(&self) -> String {
        read(&self.root.join("proc/sys/kernel/osrelease")).unwrap_or_default()
    }

    /// Returns the version of the loaded module.
    pub fn module_version(&self) -> Option<String> {
        read(&self.root.join("sys/module").join(MODULE).join("version")).ok()
    }

    /// First addresses and bytes of the blocks of RAM.
    pub fn ram(&self) -> Result<Vec<(u64, u64)>> {
        let path = self.root.join("proc/iomem");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let blocks = ram(&text);
        // Zeroes, for users who may not read the addresses.
        if blocks.contains(&(0, 1)) {
            bail!("only root sees where RAM is, in {}", path.display());
        }
        Ok(blocks)
    }

    /// Fails if the module is not loaded.
    fn expect_module(&self) -> Result<()> {
        if !self.root.join("sys/module").join(MODULE).exists() {
            bail!("the module {MODULE} is not loaded: modprobe {MODULE}");
        }
        Ok(())
    }

    /// Returns the directory of tracefs, with the module's events.
    pub fn tracefs(&self) -> Result<PathBuf> {
        self.expect_module()?;
        let tracefs = self.root.join("sys/kernel/tracing");
        match fs::read_dir(tracefs.join("events")) {
            Ok(_) if tracefs.join("events").join(MODULE).exists() => Ok(tracefs),
            Ok(_) => bail!("the module has no events: its kernel has no CONFIG_TRACEPOINTS"),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                bail!("only root may trace: sudo apple-dma-pci record …")
            }
            Err(_) => bail!("tracefs is not mounted: mount -t tracefs none /sys/kernel/tracing"),
        }
    }
}

/// Error of the files of a driver that was just unbound.
const ENODEV: i32 = 19;

/// Parses the blocks of RAM in the text of /proc/iomem.
fn ram(text: &str) -> Vec<(u64, u64)> {
    let mut blocks: Vec<(u64, u64)> = Vec::new();
    for line in text.lines() {
        let block = line.strip_suffix(" : System RAM").and_then(|span| {
            // Nested resources are indented.
            let (first, last) = span.split_once('-')?;
            let first = u64::from_str_radix(first, 16).ok()?;
            let last = u64::from_str_radix(last, 16).ok()?;
            Some((first, last.checked_sub(first)?.checked_add(1)?))
        });
        let Some((first, len)) = block else {
            continue;
        };
        match blocks.last_mut() {
            Some((start, before)) if start.checked_add(*before) == Some(first) => *before += len,
            _ => blocks.push((first, len)),
        }
    }
    blocks
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// Returns a system with one companion, as it was in a guest.
    pub fn fixture() -> (TempDir, System) {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let companion = "sys/bus/pci/devices/0000:00:10.0/apple_dma_pci";
        put("sys/module/apple_dma_pci/version", "0.1.0\n");
        let status = include_str!("fixtures/status");
        let words = debugfs::words(status).unwrap();
        for name in [
            "managed",
            "mode",
            "bytes",
            "max_bytes",
            "entries",
            "max_entries",
        ] {
            put(
                &format!("{companion}/{name}"),
                &format!("{}\n", words[name]),
            );
        }
        put("sys/bus/pci/devices/0000:00:06.0/vendor", "0x1234\n");
        symlink(
            "../../../bus/pci/drivers/apple_dma_test",
            dir.path().join("sys/bus/pci/devices/0000:00:06.0/driver"),
        )
        .unwrap();
        let directory = "sys/kernel/debug/apple_dma_pci/0000:00:10.0";
        put(&format!("{directory}/status"), status);
        put(
            &format!("{directory}/counters"),
            include_str!("fixtures/counters"),
        );
        put(
            &format!("{directory}/doorbells"),
            include_str!("fixtures/doorbells"),
        );
        put(
            &format!("{directory}/sizes"),
            include_str!("fixtures/sizes"),
        );
        put(
            &format!("{directory}/windows"),
            include_str!("fixtures/windows"),
        );
        let system = System::at(dir.path());
        (dir, system)
    }

    #[test]
    fn a_companion_is_read() {
        let (_dir, system) = fixture();
        assert_eq!(system.companions().unwrap(), ["0000:00:10.0"]);
        let companion = system.companion("0000:00:10.0").unwrap().unwrap();
        assert_eq!(companion.device, "0000:00:06.0");
        assert_eq!(companion.driver.as_deref(), Some("apple_dma_test"));
        let details = companion.details.unwrap();
        assert_eq!(details.status_number("entries"), Some(companion.entries));
        let windows = system.windows("0000:00:10.0").unwrap();
        assert_eq!(windows.len() as u64, companion.entries);
        assert_eq!(
            details.windows("live") + details.windows("idle"),
            companion.entries
        );
    }

    #[test]
    fn peaks_are_reset() {
        let (dir, system) = fixture();
        let error = system.reset_peaks("0000:00:10.0").unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("peaks cannot be reset: /"), "{error}");
        assert!(
            error.ends_with("No such file or directory (os error 2)"),
            "{error}"
        );
        let directory = "sys/kernel/debug/apple_dma_pci/0000:00:10.0";
        let file = dir.path().join(directory).join("reset_peaks");
        fs::write(&file, "").unwrap();
        system.reset_peaks("0000:00:10.0").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1");
    }

    #[test]
    fn what_is_missing_is_said() {
        let (dir, system) = fixture();
        let root = dir.path();
        assert!(system.companion("0000:00:11.0").unwrap().is_none());
        fs::remove_dir_all(root.join("sys/kernel/debug/apple_dma_pci")).unwrap();
        let missing = system.why_no_details().unwrap();
        assert!(missing.contains("debugfs is not mounted"), "{missing}");
        assert!(system
            .companion("0000:00:10.0")
            .unwrap()
            .unwrap()
            .details
            .is_none());
        let error = system.tracefs().unwrap_err().to_string();
        assert!(error.contains("tracefs is not mounted"), "{error}");
        fs::create_dir_all(root.join("sys/kernel/tracing/events/sched")).unwrap();
        let error = system.tracefs().unwrap_err().to_string();
        assert!(error.contains("CONFIG_TRACEPOINTS"), "{error}");
        fs::remove_dir_all(root.join("sys/bus/pci/devices/0000:00:10.0")).unwrap();
        let error = system.companions().unwrap_err().to_string();
        assert!(error.contains("manages nothing"), "{error}");
        fs::remove_dir_all(root.join("sys/module")).unwrap();
        let error = system.companions().unwrap_err().to_string();
        assert!(error.contains("not loaded"), "{error}");
        let error = system.tracefs().unwrap_err().to_string();
        assert!(error.contains("not loaded"), "{error}");
    }

    #[test]
    fn ram_is_what_is_system_ram_at_the_top() {
        let text = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
00100000-3ffdffff : System RAM
  01000000-01ffffff : Kernel code
  02000000-02ffffff : System RAM
3ffe0000-3fffffff : System RAM
40000000-4000ffff : PCI Bus 0000:00
";
        assert_eq!(ram(text), [(0x1000, 0x9ec00), (0x10_0000, 0x3ff0_0000)]);
    }
}
