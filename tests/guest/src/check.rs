// SPDX-License-Identifier: GPL-2.0

//! `check`: runs cases, several at a time, and sums up the results.

use crate::assets::Assets;
use crate::channel::Event;
use crate::qemu::Console;
use crate::report::{
    self,
    Style, //
};
use crate::run;
use crate::scenario::Case;
use crate::verdict;
use anyhow::Result;
use std::{
    cmp::Reverse,
    sync::{
        atomic::{
            AtomicUsize,
            Ordering, //
        },
        Mutex, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Numbers of assertions, and the time that they took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Assertions that held.
    pub passed: usize,
    /// Assertions that failed.
    pub failed: usize,
    /// Processor time of the guests.
    pub processor_time: Duration,
}

/// Runs `cases`, `jobs` at a time, those that may take longest first. With `keep`, disk images are
/// not removed.
pub fn check(assets: &Assets, cases: &[Case], jobs: usize, keep: bool) -> Totals {
    let mut cases: Vec<_> = cases.iter().collect();
    // So that none of them runs alone at the end.
    cases.sort_by_key(|case| Reverse(case.timeout()));
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    let totals = Mutex::new(Totals::default());
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (text, result) = match one(assets, case, keep, cases.len() == 1) {
                Ok(result) => result,
                Err(error) => (
                    format!("FAIL {}: {error:#}\n", case.name()),
                    Totals {
                        failed: 1,
                        ..Totals::default()
                    },
                ),
            };
            let mut totals = totals.lock().unwrap_or_else(|e| e.into_inner());
            print!("{text}");
            totals.passed += result.passed;
            totals.failed += result.failed;
            totals.processor_time += result.processor_time;
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let totals = totals.into_inner().unwrap_or_else(|e| e.into_inner());
    println!(
        "{} guests, {jobs} at a time: {:.0} s, {:.0} s of processors",
        cases.len(),
        start.elapsed().as_secs_f64(),
        totals.processor_time.as_secs_f64()
    );
    totals
}

/// Runs a case; with `live`, the remarks of its script are printed at once.
fn one(assets: &Assets, case: &Case, keep: bool, live: bool) -> Result<(String, Totals)> {
    let outcome = run::run(assets, case, Console::File, |event| match event {
        Event::Info(text) if live => println!("     {text}"),
        _ => {}
    })?;
    let assertions = verdict::judge(case, &outcome);
    let failed = assertions.iter().filter(|(_, result)| result.is_err());
    let failed = failed.count();
    if failed == 0 && !keep {
        run::remove_images(&outcome)?;
    }
    let text = report::case(Style::for_stdout(), &case.name(), &outcome, &assertions);
    let passed = assertions.len() - failed;
    let totals = Totals {
        passed,
        failed,
        processor_time: outcome.processor_time,
    };
    Ok((text, totals))
}
