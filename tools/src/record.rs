// SPDX-License-Identifier: GPL-2.0

//! `record`: writes the module's events to a file while a command runs, or for some time.

use crate::event::{
    self,
    Line, //
};
use crate::output;
use crate::progress::Progress;
use crate::recording::{
    snapshots,
    End,
    Header,
    Writer, //
};
use crate::status::interval;
use crate::system::System;
use crate::text;
use crate::tracer::Tracer;
use anyhow::{
    bail,
    Context,
    Result, //
};
use rustix::process::{
    kill_process,
    Pid,
    Signal, //
};
use serde::Serialize;
use signal_hook::consts::{
    SIGHUP,
    SIGINT,
    SIGTERM, //
};
use std::{
    io::{
        self,
        IsTerminal, //
    },
    os::{
        fd::AsFd,
        unix::process::ExitStatusExt, //
    },
    path::PathBuf,
    process::{
        Child,
        Command,
        ExitCode,
        ExitStatus,
        Stdio, //
    },
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc, //
    },
    time::{
        Duration,
        Instant, //
    },
};

/// Time to wait for events before checking for other conditions.
const WAIT: Duration = Duration::from_millis(100);

/// Interval at which everything so far is written to the file.
const FLUSH: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub struct Options {
    /// Write the recording to FILE; - is the standard output
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "apple-dma-pci.recording"
    )]
    output: PathBuf,
    /// Write lines of JSON as they are, instead of packing them by gzip
    #[arg(long, short)]
    uncompressed: bool,
    /// Record for this long; without it and without a command until Ctrl-C
    #[arg(long, short, value_name = "SECONDS", value_parser = interval)]
    duration: Option<Duration>,
    /// Memory in the kernel for events of each CPU that are not yet read: raise it if events are
    /// lost
    #[arg(long, value_name = "KIB", default_value = "8192",
        value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    buffer: u32,
    /// Run this command, and record until it ends; its exit status becomes that of `record`
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The result, for programs.
#[derive(Serialize)]
struct Summary<'a> {
    file: &'a PathBuf,
    events: u64,
    lost: u64,
    seconds: f64,
    status: Option<i32>,
}

/// Returns the exit status of the command.
pub fn run(options: &Options, json: bool) -> Result<ExitCode> {
    let system = System::new();
    let tracefs = system.tracefs()?;
    if let Some(missing) = system.why_no_details() {
        bail!("{missing}");
    }
    let header = Header::new(&system, &options.command)?;
    let name = options.output.display();
    let file = output::create(&options.output)?;
    let is_standard = output::is_standard(&options.output);
    if is_standard && io::stdout().is_terminal() {
        bail!("a recording is nothing for a terminal: use -o FILE, or a pipe");
    }
    // Before there is anything to be removed.
    let is_asked = on_signal()?;
    let tracer = Tracer::new(&tracefs, options.buffer)?;
    let end = record(
        &system,
        options,
        &is_asked,
        Writer::new(file, !options.uncompressed, &header)?,
        tracer,
    )?;
    if json {
        let summary = Summary {
            file: &options.output,
            events: end.events,
            lost: end.lost,
            seconds: end.seconds,
            status: end.status,
        };
        let summary = output::json_line(&summary)?;
        if is_standard {
            // The standard output has the recording.
            output::remark(summary.trim_end());
        } else {
            output::print(&summary)?;
        }
    } else {
        let events = text::count(end.events, "event", "events");
        let place = match is_standard {
            true => String::new(),
            false => format!(", in {name}"),
        };
        output::remark(&format!("{events} in {:.1} s{place}", end.seconds));
        if end.lost != 0 {
            let lost = text::count(end.lost, "event was", "events were");
            output::remark(&format!(
                "{lost} lost: use a larger --buffer, or a file that is not on a managed device"
            ));
        }
    }
    let status = end.status.and_then(|status| u8::try_from(status).ok());
    Ok(status.map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Returns a flag that the first signal sets that requests the end.
fn on_signal() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}

fn record(
    system: &System,
    options: &Options,
    is_asked: &AtomicBool,
    mut writer: Writer,
    mut tracer: Tracer,
) -> Result<End> {
    let mut progress = Progress::new();
    let began = Instant::now();
    let mut flushed = began;
    tracer.enable(true)?;
    let mut running = Running(start(
        &options.command,
        output::is_standard(&options.output),
    )?);
    let mut status = None;
    loop {
        let mut take = |line: &str| take(&mut writer, line);
        tracer.read(WAIT, &mut take)?;
        if let Some(child) = &mut running.0 {
            status = child.try_wait()?;
        }
        if flushed.elapsed() >= FLUSH {
            writer.flush()?;
            flushed = Instant::now();
        }
        let time = began.elapsed();
        progress.show(|| {
            let (events, lost) = writer.counts();
            format!(
                "{:.0} s, {events} events, {lost} lost; Ctrl-C ends the recording",
                time.as_secs_f64()
            )
        });
        let is_over = options.duration.is_some_and(|duration| time >= duration)
            || status.is_some()
            || is_asked.load(Ordering::Relaxed);
        if is_over {
            break;
        }
    }
    tracer.enable(false)?;
    let seconds = began.elapsed().as_secs_f64();
    let after = snapshots(system)?;
    if let (Some(child), None) = (&mut running.0, status) {
        status = Some(stop(child)?);
    }
    while tracer.read(Duration::ZERO, |line| take(&mut writer, line))? {}
    drop(progress);
    // The signal's number and 128, as shells have it.
    let code = |status: ExitStatus| status.code().or(status.signal().map(|signal| 128 + signal));
    writer.end(seconds, status.and_then(code), after)
}

/// The command, if there is one: terminated when dropped, as after a failure to write the
/// recording.
struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            if matches!(child.try_wait(), Ok(None)) {
                let _ = stop(child);
            }
        }
    }
}

/// Starts the command, if there is one. It prints elsewhere if the standard output has the
/// recording.
fn start(command: &[String], is_standard: bool) -> Result<Option<Child>> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(None);
    };
    let mut child = Command::new(program);
    if is_standard {
        child.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
    }
    let child = child.args(arguments).spawn();
    Ok(Some(
        child.with_context(|| format!("cannot run {program}"))?,
    ))
}

/// Terminates a command that must not run any more.
fn stop(child: &mut Child) -> Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    Ok(child.wait()?)
}

fn take(writer: &mut Writer, line: &str) -> Result<()> {
    match event::line(line) {
        Line::Event(event) => writer.event(&event),
        Line::Lost { cpu, events } => writer.lost(cpu, events),
        Line::Other => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_command_does_not_outlive_a_failure() {
        let command = ["sleep", "1000"].map(str::to_owned);
        let running = Running(start(&command, false).unwrap());
        let pid = running.0.as_ref().unwrap().id().to_string();
        let path = Path::new("/proc").join(pid);
        assert!(path.exists());
        drop(running);
        assert!(!path.exists());
        let error = start(&["/none".to_owned()], true).unwrap_err();
        assert!(format!("{error:#}").starts_with("cannot run /none: No such file"));
    }
}
