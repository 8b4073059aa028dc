// SPDX-License-Identifier: GPL-2.0

//! Boots guests against the simulated Mac. This file is the command line; `run` is one
//! guest, `verdict` judges it, `check` runs many, `demo` shows two, `bench` measures.

mod assets;
mod bench;
mod channel;
mod check;
mod cpio;
mod demo;
mod device_tree;
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

/// Boots unmodified Debian guests in QEMU against the simulated Mac.
///
/// tests/env/guest builds what it needs and runs it.
#[derive(Parser)]
struct Cli {
    /// Where tests/env/setup put kernels and guest roots.
    #[arg(long, env = "APPLE_DMA_PCI_CACHE")]
    cache: PathBuf,

    /// Only print what the command's guests need to be built, for tests/env/guest: lines of ARCH,
    /// KERNEL, and what is wanted besides: 'selftests' and 'tool'.
    #[arg(long)]
    systems: bool,

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
        /// Only cases for Debian's usual kernel, on this one instead.
        #[arg(long, value_name = "NAME")]
        kernel: Option<String>,
        /// Only cases that every kernel must do.
        #[arg(long)]
        core: bool,
        /// Not this scenario.
        #[arg(long, value_name = "SCENARIO")]
        without: Vec<String>,
        /// The cases of soak.toml, which take long.
        #[arg(long)]
        soak: bool,
        /// The cases of package.toml, whose systems tests/env/package installs.
        #[arg(long, conflicts_with_all = ["soak", "kernel"])]
        package: bool,
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
    /// Measure what mapping costs, next to the kernel's direct mapping.
    ///
    /// Prints tables, and writes all figures to build/bench.json.
    Bench {
        /// Only guests whose name, as in bench.toml, matches.
        #[arg(long, value_name = "REGEX")]
        filter: Option<Regex>,
        /// Take the figures of an earlier run instead of measuring.
        #[arg(long, value_name = "FILE", conflicts_with = "filter")]
        from: Option<PathBuf>,
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
    let cases = guests(&cli.command, &assets)?;
    if cli.systems {
        // Whether the kselftest and the tool are wanted as well.
        let mut systems: BTreeMap<System, [bool; 2]> = BTreeMap::new();
        for case in cases.iter().filter(|case| case.is_built()) {
            let wants = systems.entry(case.system()).or_default();
            wants[0] |= case.scenario.selftests;
            wants[1] |= case.scenario.tool;
        }
        for (System { arch, kernel }, wants) in systems {
            let kernel = kernel.unwrap_or_else(|| "debian".to_owned());
            let words = ["selftests", "tool"].iter().zip(wants);
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

/// The guests that a command is about.
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
    // What every kernel must do is the same for each.
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
        cases.retain_mut(|case| case.move_to(kernel));
    }
    cases.retain(|case| match command {
        Command::Demo => demo::shows(case),
        Command::Check {
            filter,
            arch,
            core,
            without,
            ..
        } => {
            arch.is_none_or(|arch| arch == case.arch)
                && (case.scenario.core || !core)
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
