// SPDX-License-Identifier: GPL-2.0
//! Boots guests against the simulated Mac. This file is the command line; `run` is one
//! guest, `verdict` judges it, `check` runs many, `demo` shows two.

mod assets;
mod channel;
mod check;
mod cpio;
mod demo;
mod mac;
mod process;
mod qemu;
mod report;
mod run;
mod scenario;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use clap::Parser;
use clap::Subcommand;
use regex_lite::Regex;

use crate::assets::Arch;
use crate::assets::Assets;
use crate::qemu::Console;
use crate::scenario::Case;

/// Boots unmodified Debian guests in QEMU against the simulated Mac.
///
/// tests/env/guest builds what it needs and runs it.
#[derive(Parser)]
struct Cli {
    /// Where tests/env/setup put kernels and guest roots.
    #[arg(long, env = "APPLE_DMA_PCI_CACHE")]
    cache: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show an NVMe disk without the module, and with it.
    Demo,
    /// Run scenarios and judge them; the last line is "N passed, N failed".
    Check {
        /// Only cases whose name, ARCH/SCENARIO, matches.
        #[arg(long, value_name = "REGEX")]
        filter: Option<Regex>,
        /// Only this architecture.
        #[arg(long)]
        arch: Option<Arch>,
        /// Print what would run.
        #[arg(long)]
        list: bool,
        /// Guests at a time.
        #[arg(long, value_name = "N", default_value_t = 2)]
        jobs: usize,
        /// Keep disk images, also of what passed.
        #[arg(long)]
        keep: bool,
    },
    /// Boot a guest for a developer: a scenario's machine, and a shell on this terminal.
    ///
    /// Ctrl-A X ends it, Ctrl-A C talks to QEMU. In the guest, 'run' runs the scenario's
    /// script.
    Boot {
        /// ARCH/SCENARIO, as 'check --list' shows them.
        case: String,
        /// Run this command in the guest and power off, in place of a shell.
        #[arg(long, value_name = "COMMAND")]
        run: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("apple-dma-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let assets = Assets::new(&cli.cache)?;
    let all = scenario::load(&assets.scenarios())?;
    match cli.command {
        Command::Demo => demo::demo(&assets, &all),
        Command::Check {
            filter,
            arch,
            list,
            jobs,
            keep,
        } => {
            let cases: Vec<Case> = all
                .into_iter()
                .filter(|case| arch.is_none_or(|arch| arch == case.arch))
                .filter(|case| filter.as_ref().is_none_or(|f| f.is_match(&case.name())))
                .collect();
            if cases.is_empty() {
                bail!("no case matches");
            }
            if list {
                for case in &cases {
                    println!("{:<32} {}", case.name(), case.scenario.about);
                }
                return Ok(ExitCode::SUCCESS);
            }
            let totals = check::check(&assets, &cases, jobs.max(1), keep);
            println!("{}", report::totals(totals.passed, totals.failed));
            Ok(ExitCode::from(u8::from(totals.failed != 0)))
        }
        Command::Boot { case, run } => {
            let mut case = all
                .into_iter()
                .find(|other| other.name() == case)
                .with_context(|| format!("no case '{case}': see 'check --list'"))?;
            let command = run.unwrap_or_else(|| "exec setsid -c bash -l".to_owned());
            case.scenario.set.insert("COMMAND".to_owned(), command);
            run::run(&assets, &case, Console::Terminal, |_| {})?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
