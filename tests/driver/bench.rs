// SPDX-License-Identifier: GPL-2.0

//! The test bench of one engine: takes commands from user space, one at a time.

use crate::command::Command;
use crate::engine::Engine;
use crate::kept::Kept;
use kernel::{
    debugfs::{
        Dir,
        File,
        Reader,
        Writer, //
    },
    device::Bound,
    fmt,
    new_mutex,
    pci,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        Mutex, //
    },
    uaccess::UserSliceReader, //
};

/// A bound engine and the verdict on the last command.
///
/// Writing the file runs a command, and fails if the command failed. Reading the file returns the
/// verdict, and waits while a command runs.
#[pin_data]
pub(crate) struct Bench {
    pdev: ARef<pci::Device>,
    engine: Engine,
    /// Locked while a command runs.
    #[pin]
    state: Mutex<State>,
}

/// State that a command leaves to the next one.
struct State {
    verdict: Option<CString>,
    kept: Kept,
}

impl Bench {
    /// Creates the file `run` in `dir`.
    ///
    /// The file must be removed before `pdev` has lost its driver.
    pub(crate) fn file<'a>(
        dir: &'a Dir,
        pdev: ARef<pci::Device>,
        engine: Engine,
    ) -> impl PinInit<File<Self>, Error> + 'a {
        dir.read_write_file(
            c"run",
            try_pin_init!(Self {
                pdev,
                engine,
                state <- new_mutex!(State {
                    verdict: None,
                    kept: Kept::new(),
                }),
            }),
        )
    }

    /// Returns the device, bound.
    fn device(&self) -> Result<&pci::Device<Bound>> {
        // SAFETY: Commands run within operations of a file whose removal waits for outstanding
        // operations. The file is removed before the driver core goes on to unbind.
        unsafe { self.pdev.as_ref().as_bound() }.try_into()
    }

    fn command(&self, line: &str) -> Result {
        let mut state = self.state.lock();
        let State { verdict, kept } = &mut *state;

        *verdict = None;
        let (command, spec) = match Command::parse(line) {
            Ok(parsed) => parsed,
            Err(error) => {
                *verdict = Some(CString::try_from_fmt(fmt!("fail: not understood: {line}"))?);
                return Err(error);
            }
        };

        // SAFETY: The bench is dropped with the file, which is removed before the device has lost
        // its driver.
        match unsafe { command.run(self.device()?, &self.engine, kept, &spec) } {
            Ok(remark) => {
                let remark = remark.as_ref().and_then(|remark| remark.to_str().ok());
                let remark = remark.unwrap_or_default();

                *verdict = Some(CString::try_from_fmt(fmt!("ok{remark}"))?);
                Ok(())
            }
            Err(report) => {
                dev_err!(self.pdev, "{line}: {report}\n");
                *verdict = Some(CString::try_from_fmt(fmt!("fail: {report}"))?);
                Err(report.errno())
            }
        }
    }
}

impl Reader for Bench {
    fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
        let mut line = KVec::<u8>::new();

        reader.clone_reader().read_all(&mut line, GFP_KERNEL)?;
        self.command(core::str::from_utf8(&line).map_err(|_| EINVAL)?.trim())
    }
}

impl Writer for Bench {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state.lock().verdict.as_ref() {
            Some(verdict) => writeln!(f, "{}", verdict.to_str().unwrap_or("fail: not text")),
            None => writeln!(f, "nothing was run"),
        }
    }
}
