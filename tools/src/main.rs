// SPDX-License-Identifier: GPL-2.0

//! `apple-dma-pci`: shows what the module does, and what keeps it from doing it. This file is the
//! command line.

mod doctor;

use clap::{Parser, Subcommand};
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
    /// Check kernel, module, drivers, boot and logs, and say what to do about each finding
    Doctor(doctor::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Doctor(options) => doctor::run(&options, arguments.json),
    };
    result.unwrap_or_else(|error| {
        eprintln!("apple-dma-pci: {error:#}");
        ExitCode::from(2)
    })
}
