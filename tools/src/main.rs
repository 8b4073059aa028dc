// SPDX-License-Identifier: GPL-2.0

//! `apple-dma-pci`: shows the work of the module, and diagnoses problems. This file is the command
//! line.

mod analysis;
mod bug_report;
mod calls;
mod debugfs;
mod doctor;
mod event;
mod history;
mod host;
mod output;
mod plot;
mod pressure;
mod progress;
mod record;
mod recording;
mod report;
mod shell;
mod status;
mod system;
mod text;
mod top;
mod tracer;
mod view;
mod whatif;

use clap::{
    error::ErrorKind,
    Parser,
    Subcommand, //
};
use signal_hook::{
    consts::SIGPIPE,
    low_level::emulate_default_handler, //
};
use std::{
    env,
    process::ExitCode, //
};

/// Shows what a passed-through PCI device on an Apple Silicon Mac has mapped, and what is wrong
///
/// In a guest, the kernel module apple_dma_pci has the host map memory for a passed-through device,
/// its managed device, through a second PCI device, the companion. This program shows the module's
/// work: what is mapped and how near the limits are, what drivers map while a program runs, how
/// fast the host is; and it finds out what keeps a device from working.
#[derive(Parser)]
#[command(
    version,
    after_help = "Begin with 'apple-dma-pci doctor', as root. 'man apple-dma-pci' \
    has examples."
)]
struct Arguments {
    /// Print JSON, for programs: results and errors
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check kernel, module, drivers, boot and logs; with advice for each finding
    ///
    /// Each line is the finding of a check: ok; unknown, if the check was not possible; warning, if
    /// the module works, but not as well as it could, or not for long; or problem. What to do is
    /// behind the arrow below it. Nothing is changed. The exit status is 1 if there is a problem.
    Doctor(doctor::Options),
    /// Show what is mapped, the limits, and warnings
    ///
    /// For each companion: its device, the memory and the number of windows (pieces of memory that
    /// the host has mapped) against the limits, and, for root, rates and the time that the host
    /// takes for a request.
    Status(status::Options),
    /// Show the same continuously, with a history
    ///
    /// Keys: q quits; the arrows, page up and down, home and end scroll; r forgets the history.
    /// Prints the lines of 'status' repeatedly with --batch, or where there is no terminal.
    Top(top::Options),
    /// Print how near the limits are: none, medium or critical; and each change of that
    ///
    /// A line for each companion. medium: less than a quarter of max_bytes or max_entries is
    /// available to new mappings; critical: less than a sixteenth is, or a mapping failed within
    /// the last two seconds. With --follow a program learns in time that it should free memory
    /// that the device uses. Needs no root.
    Pressure(pressure::Options),
    /// Record what drivers map, and the requests to the host, in a file
    ///
    /// Records while COMMAND runs, for some time, or until Ctrl-C. 'report' and 'plot' read the
    /// file. Do not write it to a disk that is passed through, or the recording records itself.
    Record(record::Options),
    /// Analyse a recording: sizes, lifetimes, places and tasks; the effect of other parameters
    ///
    /// Prints the sizes and lifetimes of mappings, where in memory they are, who made them, and how
    /// long the host took. Then the recording is replayed through the module's own code, with the
    /// parameters of the guest and with others: a line for each has the most memory and windows in
    /// use, windows created and unmapped, the part of mappings that needed no new one (hits), and
    /// those that were refused.
    Report(report::Options),
    /// Draw a recording: use of the limits over time, and where in RAM
    ///
    /// A picture (SVG) or a page for browsers (HTML), with tool tips, in light or dark colours as
    /// the reader's system has them.
    Plot(plot::Options),
    /// Describe the host, by what the module knows of it: speed, addresses, batches
    ///
    /// Prints how long the host takes for a request, where it puts mappings, how many requests it
    /// takes at once, and how it replies. Nothing is asked of it that drivers do not ask for
    /// anyway: run this while the device is busy. The result can be published: it has no addresses
    /// of the guest's memory.
    Host(host::Options),
    /// Write a file that has all that is needed to find a bug, without names and serial numbers
    ///
    /// The file has the output of 'doctor' and 'host', the module's files, parameters and
    /// messages, the kernel and its options, and the PCI devices. Names of the machine and its
    /// users, serial numbers, identifiers, and addresses of networks are left out, as far as they
    /// can be recognised. So read the file before you send it; this program sends nothing.
    BugReport(bug_report::Options),
    /// Write the manual page
    #[command(hide = true)]
    Manual,
    /// Write completions for a shell
    #[command(hide = true)]
    Completions(shell::Completions),
}

/// Exit status of failures.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misused(&error),
    };
    let json = arguments.json;
    let result = match arguments.command {
        Command::Doctor(options) => doctor::run(&options, json),
        Command::Status(options) => status::run(&options, json),
        Command::Top(options) => top::run(&options, json),
        Command::Pressure(options) => pressure::run(&options, json),
        Command::Record(options) => record::run(&options, json),
        Command::Report(options) => report::run(&options, json),
        Command::Plot(options) => plot::run(&options, json),
        Command::Host(options) => host::run(&options, json),
        Command::BugReport(options) => bug_report::run(&options, json),
        Command::Manual => shell::manual::<Arguments>(),
        Command::Completions(options) => shell::completions::<Arguments>(&options),
    };
    result.unwrap_or_else(|error| {
        if output::is_closed_pipe(&error) {
            // As programs end that do not know of it.
            let _ = emulate_default_handler(SIGPIPE);
            return ExitCode::from(FAILED);
        }
        fail(&format!("{error:#}"), json)
    })
}

/// Prints the reason of a failure.
fn fail(reason: &str, json: bool) -> ExitCode {
    if json {
        // Without a reader the exit status is all that is left.
        let _ = output::print(&output::json_error(reason));
    } else {
        output::remark(&format!("apple-dma-pci: {reason}"));
    }
    ExitCode::from(FAILED)
}

/// Prints help, or the reason why the command line is wrong.
fn misused(error: &clap::Error) -> ExitCode {
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if !is_help && env::args_os().skip(1).any(|argument| argument == "--json") {
        return fail(&reason(&error.to_string()), true);
    }
    // Without a reader the exit status is all that is left.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FAILED))
}

/// Returns the first paragraph of a message of clap, without its head, in a line.
fn reason(message: &str) -> String {
    let lines = message.lines().take_while(|line| !line.is_empty());
    let line = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_misused_is_said_in_a_line() {
        let parse = |arguments: &[&str]| Arguments::try_parse_from(arguments).err().unwrap();
        let error = parse(&["apple-dma-pci", "--json", "status", "--interval", "x"]);
        let line = reason(&error.to_string());
        assert!(
            line.starts_with("invalid value 'x' for '--interval"),
            "{line}"
        );
        let line = reason(&parse(&["apple-dma-pci", "undo"]).to_string());
        assert!(line.contains("unrecognized subcommand 'undo'"), "{line}");
        let line = reason(&parse(&["apple-dma-pci", "report"]).to_string());
        assert!(line.ends_with("not provided: <FILE>"), "{line}");
    }
}
