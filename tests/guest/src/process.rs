// SPDX-License-Identifier: GPL-2.0

//! Child processes that do not outlive their handle.

use anyhow::{
    Context,
    Result, //
};
use std::{
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

impl Drop for Process {
    fn drop(&mut self) {
        // Both calls fail if the child has ended, which is no error here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
