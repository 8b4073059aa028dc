// SPDX-License-Identifier: GPL-2.0

//! An instance of tracefs with the module's events, which is always removed.

use crate::output;
use anyhow::{
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
    fs::OFlags,
    io::Errno, //
};
use std::{
    fs::{
        self,
        File,
        OpenOptions, //
    },
    io::{
        ErrorKind,
        Read, //
    },
    os::unix::fs::OpenOptionsExt,
    path::{
        Path,
        PathBuf, //
    },
    process,
    thread,
    time::Duration, //
};

/// Prefix of instances' names, before the number of the process.
const PREFIX: &str = "apple-dma-pci-";

/// Number of attempts to remove the instance while the kernel still uses it.
const TRIES: usize = 50;

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// The directory of an instance, removed when dropped.
struct Instance(PathBuf);

impl Drop for Instance {
    fn drop(&mut self) {
        // Its files are removed with it. The directory is busy until the last reader has closed
        // them.
        for _ in 0..TRIES {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    thread::sleep(Duration::from_millis(20));
                }
                _ => return,
            }
        }
        output::remark(&format!(
            "apple-dma-pci: cannot remove {}",
            self.0.display()
        ));
    }
}

/// The instance with its pipe. See the module's documentation.
pub struct Tracer {
    /// Closed before the instance is removed.
    pipe: Option<File>,
    instance: Instance,
    rest: Vec<u8>,
}

impl Tracer {
    /// Creates an instance with a buffer of `kib` KiB for events of each CPU; no event is enabled
    /// yet.
    pub fn new(tracefs: &Path, kib: u32) -> Result<Self> {
        let instances = tracefs.join("instances");
        remove_orphans(&instances);
        let path = instances.join(format!("{PREFIX}{}", process::id()));
        fs::create_dir(&path)
            .with_context(|| format!("cannot make a tracing instance: {}", path.display()))?;
        let instance = Instance(path.clone());
        // One that all CPUs share.
        write(&path.join("trace_clock"), "mono")?;
        write(&path.join("buffer_size_kb"), &kib.to_string())?;
        let pipe = path.join("trace_pipe");
        let pipe = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(&pipe)
            .with_context(|| pipe.display().to_string())?;
        Ok(Self {
            pipe: Some(pipe),
            instance,
            rest: Vec::new(),
        })
    }

    /// Enables or disables the events.
    pub fn enable(&self, on: bool) -> Result<()> {
        self.switch("events/apple_dma_pci/enable", on)
    }

    /// Enables or disables one event.
    pub fn enable_event(&self, event: &str, on: bool) -> Result<()> {
        self.switch(&format!("events/apple_dma_pci/{event}/enable"), on)
    }

    fn switch(&self, file: &str, on: bool) -> Result<()> {
        write(&self.instance.0.join(file), if on { "1" } else { "0" })
    }

    /// Reads the available events, line by line; waits for some time if there are none. Returns
    /// whether there were any.
    pub fn read(
        &mut self,
        wait: Duration,
        mut line: impl FnMut(&str) -> Result<()>,
    ) -> Result<bool> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(false);
        };
        let mut buffer = [0; 1 << 16];
        let mut read = 0;
        // The kernel returns a page at a time.
        while read < buffer.len() {
            match pipe.read(&mut buffer[read..]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("trace_pipe"),
            }
        }
        if read == 0 {
            let wait = Timespec::try_from(wait)?;
            match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&wait)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("trace_pipe"),
            }
            return Ok(false);
        }
        self.rest.extend_from_slice(&buffer[..read]);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(true);
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        for text in String::from_utf8_lossy(&whole).lines() {
            line(text)?;
        }
        Ok(true)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.enable(false);
        self.pipe = None;
    }
}

/// Removes instances of processes that were killed.
fn remove_orphans(instances: &Path) {
    let Ok(entries) = fs::read_dir(instances) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let is_orphan = pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if is_orphan {
            let _ = fs::write(entry.path().join("events/enable"), "0");
            let _ = fs::remove_dir(entry.path());
        }
    }
}
