// SPDX-License-Identifier: GPL-2.0

//! `apple-dma-pci`: shows the work of the module, and diagnoses problems. This file is the command
//! line.

mod analysis;
mod calls;
mod debugfs;
mod doctor;
mod event;
mod history;
mod plot;
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
    Parser,
    Subcommand, //
};
use std::process::ExitCode;

/// Inspect DMA through apple-dma-pci: devices, usage, windows and problems
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Print JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show usage, limits and warnings
    Status(status::Options),
    /// Refresh `status` continuously
    Top(top::Options),
    /// Record mappings of drivers and requests to the host in a file
    Record(record::Options),
    /// Analyse a recording: sizes, lifetimes, clusters, tasks, and replays with other parameters
    Report(report::Options),
    /// Plot a recording
    Plot(plot::Options),
    /// Check kernel, module, drivers, boot and logs, with advice for each finding
    Doctor(doctor::Options),
    /// Write the manual page
    #[command(hide = true)]
    Manual,
    /// Write completions for a shell
    #[command(hide = true)]
    Completions(shell::Completions),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    let result = match arguments.command {
        Command::Status(options) => status::run(&options, json),
        Command::Top(options) => top::run(&options, json),
        Command::Record(options) => record::run(&options, json),
        Command::Report(options) => report::run(&options, json),
        Command::Plot(options) => plot::run(&options, json),
        Command::Doctor(options) => doctor::run(&options, json),
        Command::Manual => shell::manual::<Arguments>(),
        Command::Completions(options) => Ok(shell::completions::<Arguments>(&options)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("apple-dma-pci: {error:#}");
        ExitCode::from(2)
    })
}
