// SPDX-License-Identifier: GPL-2.0

//! `apple-dma-pci`: shows what the module does, and what keeps it from doing it. This file is the
//! command line.

mod analysis;
mod calls;
mod doctor;
mod event;
mod history;
mod pages;
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

/// Look at DMA through apple-dma-pci: devices, budgets, windows, and what is wrong.
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
    /// Say in a screen how full the limits are, what happens, and what needs attention
    Status(status::Options),
    /// Show the same all the time
    Top(top::Options),
    /// Write what drivers map and what the host is asked for to a file
    Record(record::Options),
    /// Say what a recording has: sizes, lifetimes, clusters, who mapped, and what would have been
    Report(report::Options),
    /// Draw what a recording has
    Plot(plot::Options),
    /// Check kernel, module, drivers, boot and logs, and say what to do about each finding
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
