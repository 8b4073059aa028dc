// SPDX-License-Identifier: GPL-2.0

//! `bench`: runs the guests of bench.toml, and prints and stores their measurements. `figures`
//! holds the measurements, `tables` formats them for people, `targets` compares them with the
//! targets.

mod figures;
mod tables;
mod targets;

use self::figures::{
    Figure,
    Figures, //
};
use crate::assets::{
    Arch,
    Assets, //
};
use crate::channel::Event;
use crate::qemu::Console;
use crate::report::{
    self,
    Style, //
};
use crate::run;
use crate::scenario::Case;
use crate::verdict;
use anyhow::{
    Context,
    Result, //
};
use std::{
    fs,
    path::Path,
    process::ExitCode,
    sync::{
        atomic::{
            AtomicUsize,
            Ordering, //
        },
        Mutex, //
    },
    thread,
    time::Instant, //
};

/// Measures in the guests `cases`, or reads the figures of `from`; prints the tables.
pub fn bench(assets: &Assets, cases: &[Case], from: Option<&Path>) -> Result<ExitCode> {
    if let Some(from) = from {
        let text = fs::read(from).with_context(|| from.display().to_string())?;
        let figures: Figures = serde_json::from_slice(&text)?;
        print!("{}", tables::all(&figures));
        return Ok(ExitCode::SUCCESS);
    }

    let start = Instant::now();
    // Guests that count instructions and windows may share the machine with others of their kind;
    // guests that measure time must have it to themselves.
    let (counts, times): (Vec<_>, Vec<_>) = cases
        .iter()
        .partition(|case| case.scenario.icount || case.script() == "bench-capacity");
    let mut all = measure(assets, &counts, 2, start);
    all.extend(measure(assets, &times, 1, start));

    let good = all.iter().all(Option::is_some);
    let figures = Figures {
        kernel: assets.kernel_release(Arch::Arm64)?,
        figures: all.into_iter().flatten().flatten().collect(),
    };
    print!("{}", tables::all(&figures));
    let path = assets.figures();
    let mut text = serde_json::to_string_pretty(&targets::with(&figures))?;
    text.push('\n');
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    println!(
        "Measured in {} s; all figures are in {}.",
        start.elapsed().as_secs(),
        path.display()
    );
    if !good {
        println!("Not all guests did what they should: the figures are not to be trusted.");
    }
    Ok(ExitCode::from(u8::from(!good)))
}

/// Runs `cases`, `jobs` at a time. Returns the figures of each, or [`None`] if it failed.
fn measure(
    assets: &Assets,
    cases: &[&Case],
    jobs: usize,
    start: Instant,
) -> Vec<Option<Vec<Figure>>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let work = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(case) = cases.get(number) else {
            break;
        };
        let result = match one(assets, case, start) {
            Ok(result) => result,
            Err(error) => {
                println!("FAIL {}: {error:#}", case.name());
                None
            }
        };
        let mut results = results.lock().unwrap_or_else(|e| e.into_inner());
        results.push((number, result));
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs `case`. Returns its figures if no assertion failed.
fn one(assets: &Assets, case: &Case, start: Instant) -> Result<Option<Vec<Figure>>> {
    println!("     {}: {}", case.name(), case.scenario.about);
    let mut figures = Vec::new();
    let outcome = run::run(assets, case, Console::File, |event| {
        if let Event::Figure(text) = event {
            let seconds = start.elapsed().as_secs();
            match text.parse::<Figure>() {
                Ok(figure) => {
                    println!("{seconds:4} s {figure}");
                    figures.push(figure);
                }
                Err(error) => println!("{seconds:4} s {error:#}"),
            }
        }
    })?;
    run::remove_images(&outcome)?;
    let assertions = verdict::judge(case, &outcome);
    let style = Style::for_stdout();
    print!(
        "{}",
        report::case(style, &case.name(), &outcome, &assertions)
    );
    let good = assertions.iter().all(|(_, result)| result.is_ok());
    Ok(good.then_some(figures))
}
