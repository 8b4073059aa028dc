// SPDX-License-Identifier: GPL-2.0

//! Progress of long operations: a line on the terminal, if there is one.

use std::{
    io::{
        self,
        IsTerminal,
        Write, //
    },
    time::{
        Duration,
        Instant, //
    },
};

/// Interval between changes of the line.
const EVERY: Duration = Duration::from_millis(500);

/// The line. See the module's documentation.
pub struct Progress {
    is_on: bool,
    next: Instant,
    is_said: bool,
}

impl Progress {
    /// Returns a line that stays empty during short operations.
    pub fn new() -> Self {
        Self {
            is_on: io::stderr().is_terminal(),
            next: Instant::now() + EVERY,
            is_said: false,
        }
    }

    /// Prints `text`, if it is time.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.is_on && Instant::now() >= self.next {
            self.next = Instant::now() + EVERY;
            self.is_said = true;
            eprint!("\r\x1b[K{}", text());
            let _ = io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_said {
            eprint!("\r\x1b[K");
        }
    }
}
