// SPDX-License-Identifier: GPL-2.0

//! Child processes that do not outlive their handle.

use anyhow::{
    Context,
    Result, //
};
use std::{
    fs,
    process::{
        Child,
        Command,
        ExitStatus, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Interval between checks whether a child has ended.
const POLL: Duration = Duration::from_millis(20);

/// A child process; dropping it kills it.
pub struct Process(Child);

impl Process {
    /// Starts `command`.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
        Ok(Process(child))
    }

    /// Returns the child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Returns the exit status, if the child has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("waiting for a process")
    }

    /// Returns the processor time that the child and its threads have used; zero if it has ended.
    pub fn processor_time(&self) -> Duration {
        processor_time(self.0.id()).unwrap_or_default()
    }

    /// Waits until the child ends or `deadline` has passed; `None` means the latter.
    pub fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }
}

/// Reads the processor time of a process from /proc/PID/stat, see proc_pid_stat(5).
fn processor_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain blanks. State is the field after it, utime and stime
    // are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_whitespace().skip(11).take(2);
    let mut ticks = 0u64;
    for time in times {
        ticks = ticks.checked_add(time.parse().ok()?)?;
    }
    let hertz = rustix::param::clock_ticks_per_second();
    Duration::try_from_secs_f64(ticks as f64 / hertz as f64).ok()
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both calls fail if the child has ended, which is no error here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_processor_time() {
        let before = processor_time(std::process::id()).unwrap();
        let start = Instant::now();
        while processor_time(std::process::id()).unwrap() == before {
            assert!(start.elapsed() < Duration::from_secs(60));
        }
        assert_eq!(processor_time(0), None);
    }
}
