// SPDX-License-Identifier: GPL-2.0

//! Says how far something is that takes long: a line on the terminal, if there is one.

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

/// How often the line changes.
const EVERY: Duration = Duration::from_millis(500);

/// See the module's documentation.
pub struct Progress {
    is_on: bool,
    next: Instant,
    is_said: bool,
}

impl Progress {
    /// Says nothing of what does not take long.
    pub fn new() -> Self {
        Self {
            is_on: io::stderr().is_terminal(),
            next: Instant::now() + EVERY,
            is_said: false,
        }
    }

    /// Says it, if it is time.
    pub fn say(&mut self, text: impl FnOnce() -> String) {
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
