// SPDX-License-Identifier: GPL-2.0

//! The simulated Mac as a program: start, wait, write the statistics.

use anyhow::{
    Context,
    Result, //
};
use apple_dma_mac::{
    cli::Cli,
    mac::{
        Event,
        Mac, //
    },
};
use clap::Parser;
use log::LevelFilter;
use signal_hook::{
    consts::{
        SIGINT,
        SIGTERM, //
    },
    iterator::Signals, //
};
use std::{
    fs,
    io::{
        self,
        Write, //
    },
    process::ExitCode,
    sync::mpsc::channel,
    thread, //
};

fn run(cli: &Cli) -> Result<()> {
    let (events, inbox) = channel();
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("signals")?;
    let on_signal = events.clone();
    thread::spawn(move || {
        for _ in signals.forever() {
            let _ = on_signal.send(Event::Quit);
        }
    });

    let mac = Mac::new(cli, events)?;
    let outcome = mac.listen(&cli.dir).and_then(|()| {
        if let Some(qtest) = &cli.qtest {
            mac.connect_vtd(qtest)?;
        }
        let mut out = io::stdout();
        writeln!(out, "ready")?;
        out.flush()?;
        mac.wait(&inbox, cli.once);
        Ok(())
    });
    mac.remove_sockets();
    outcome?;

    if let Some(path) = &cli.stats {
        let mut json = serde_json::to_string_pretty(&mac.stats())?;
        json.push('\n');
        fs::write(path, json).with_context(|| format!("statistics {}", path.display()))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    env_logger::Builder::new()
        .filter_module("apple_dma_mac", level)
        .filter_module("vfio_user", LevelFilter::Warn)
        .init();
    match run(&cli) {
        // Threads that wait for connections end with the process.
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("apple-dma-mac: {e:#}");
            ExitCode::FAILURE
        }
    }
}
