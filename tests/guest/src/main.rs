// SPDX-License-Identifier: GPL-2.0

//! Boots guests against the simulated Mac. This file is the command line; `run` runs one guest,
//! `verdict` judges the outcome, `check` runs many guests, `demo` shows two, `bench` measures.

mod assets;
mod bench;
mod channel;
mod check;
mod cpio;
mod demo;
mod device_tree;
mod drivers;
mod mac;
mod process;
mod qemu;
mod report;
mod run;
mod scenario;
mod verdict;

use crate::assets::{
    Arch,
    Assets,
    System, //
};
use crate::qemu::Console;
use crate::scenario::Case;
use anyhow::{
    bail,
    Result, //
};
use clap::{
    Parser,
    Subcommand, //
};
use regex_lite::Regex;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode, //
};

/// Boot unmodified Debian guests in QEMU against the simulated Mac
///
/// tests/env/guest builds what this program needs and runs it.
#[derive(Parser)]
struct Cli {
    /// Directory in which tests/env/setup created kernels and guest roots
    #[arg(long, env = "APPLE_DMA_PCI_CACHE")]
    cache: PathBuf,

    /// Only print what must be built for the command's guests, for tests/env/guest: lines of ARCH,
    /// KERNEL, and 'selftests', 'tool' and 'drivers' if they are needed
    #[arg(long)]
    systems: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show an NVMe disk without the module, and with it
    Demo,
    /// Run scenarios and judge them; the last line is "N passed, N failed"
    Check {
        /// Only cases whose name, ARCH/SCENARIO, matches
        #[arg(long, value_name = "REGEX")]
        filter: Option<Regex>,
        /// Only this architecture
        #[arg(long)]
        arch: Option<Arch>,
        /// Only cases for Debian's usual kernel, on this one instead
        #[arg(long, value_name = "NAME")]
        kernel: Option<String>,
        /// Only cases that must pass on every kernel
        #[arg(long)]
        core: bool,
        /// Also cases for which only 'make check-all' has time; a filter, too, finds those
        #[arg(long)]
        all: bool,
        /// Not this scenario
        #[arg(long, value_name = "SCENARIO")]
        without: Vec<String>,
        /// The cases of soak.toml, which take long
        #[arg(long)]
        soak: bool,
        /// The cases of package.toml, whose systems tests/env/package installs
        #[arg(long, conflicts_with_all = ["soak", "kernel"])]
        package: bool,
        /// Print the names of the cases instead of running them
        #[arg(long)]
        list: bool,
        /// Number of guests to run at a time
        #[arg(long, value_name = "N", default_value_t = 3)]
        jobs: usize,
        /// Keep disk images, also of cases that passed
        #[arg(long)]
        keep: bool,
    },
    /// Measure the cost of mapping, next to the kernel's direct mapping
    ///
    /// Prints tables, and writes all figures to build/bench.json.
    Bench {
        /// Only guests whose name, as in bench.toml, matches
        #[arg(long, value_name = "REGEX")]
        filter: Option<Regex>,
        /// Read the figures of an earlier run instead of measuring
        #[arg(long, value_name = "FILE", conflicts_with = "filter")]
        from: Option<PathBuf>,
    },
    /// Boot a guest for a developer: a scenario's machine, and a shell on this terminal
    ///
    /// Ctrl-A X ends the guest, Ctrl-A C switches to QEMU's monitor. In the guest, 'run' runs the
    /// scenario's script.
    Boot {
        /// ARCH/SCENARIO, as 'check --list' prints them
        case: String,
        /// Run this command in the guest and power off, in place of a shell
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
    let cases = guests(&cli.command, &assets)?;
    if cli.systems {
        // Needs of the guests: the kselftest, the tool, further drivers.
        let mut systems: BTreeMap<System, [bool; 3]> = BTreeMap::new();
        for case in cases.iter().filter(|case| case.is_built()) {
            let wants = systems.entry(case.system()).or_default();
            wants[0] |= case.scenario.selftests;
            wants[1] |= case.scenario.tool;
            wants[2] |= !case.scenario.drivers.is_empty();
        }
        for (System { arch, kernel }, wants) in systems {
            let kernel = kernel.unwrap_or_else(|| "debian".to_owned());
            let words = ["selftests", "tool", "drivers"].iter().zip(wants);
            let words: Vec<_> = words
                .filter_map(|(word, wanted)| wanted.then_some(*word))
                .collect();
            println!("{} {kernel} {}", arch.name(), words.join(" "));
        }
        return Ok(ExitCode::SUCCESS);
    }
    match cli.command {
        Command::Demo => demo::demo(&assets, &cases),
        Command::Check {
            list, jobs, keep, ..
        } => {
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
        Command::Bench { from, .. } => bench::bench(&assets, &cases, from.as_deref()),
        Command::Boot { run, .. } => {
            let command = run.unwrap_or_else(|| "exec setsid -c bash -l".to_owned());
            for mut case in cases {
                case.scenario
                    .set
                    .insert("COMMAND".to_owned(), command.clone());
                run::run(&assets, &case, Console::Terminal, |_| {})?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Returns the guests of a command.
fn guests(command: &Command, assets: &Assets) -> Result<Vec<Case>> {
    let matches = |filter: &Option<Regex>, case: &Case| {
        let filter = filter.as_ref();
        filter.is_none_or(|filter| filter.is_match(&case.name()))
    };
    let file = match command {
        Command::Bench { .. } => assets.bench(),
        Command::Check { soak: true, .. } => assets.soak(),
        Command::Check { package: true, .. } => assets.packages(),
        Command::Demo | Command::Check { .. } | Command::Boot { .. } => assets.scenarios(),
    };
    // Cases that must pass on every kernel are the same for each.
    let elsewhere = matches!(
        command,
        Command::Check {
            kernel: Some(_),
            core: false,
            ..
        }
    );
    let mut cases = scenario::load(&file, elsewhere)?;
    if let Command::Check {
        kernel: Some(kernel),
        ..
    } = command
    {
        cases.retain_mut(|case| {
            let needs_drivers = !case.scenario.drivers.is_empty();
            case.move_to(kernel) && (!needs_drivers || assets.has_drivers(&case.system()))
        });
    }
    cases.retain(|case| match command {
        Command::Demo => demo::is_shown(case),
        Command::Check {
            filter,
            arch,
            core,
            all,
            without,
            ..
        } => {
            arch.is_none_or(|arch| arch == case.arch)
                && (case.scenario.core || !core)
                && (!case.is_long() || *all || filter.is_some())
                && !without.contains(&case.scenario.name)
                && matches(filter, case)
        }
        Command::Bench { filter, .. } => matches(filter, case),
        Command::Boot { case: name, .. } => case.name() == *name,
    });
    if cases.is_empty() {
        bail!("there is no such guest in {}", file.display());
    }
    Ok(cases)
}
