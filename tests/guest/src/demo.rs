// SPDX-License-Identifier: GPL-2.0

//! `demo`: the same disk without the module and with it, for people to watch. `check` runs both
//! scenarios as well.

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
use std::process::ExitCode;

/// A scenario of the demonstration.
struct Demonstration {
    scenario: &'static str,
    heading: &'static str,
    about: &'static str,
}

const DEMONSTRATIONS: &[Demonstration] = &[
    Demonstration {
        scenario: "no-module",
        heading: "Without the module",
        about:
            "The disk's driver gives the device guest-physical addresses. The DART, which has\n   \
                mapped nothing, refuses what the device does with them.",
    },
    Demonstration {
        scenario: "demo",
        heading: "With the module",
        about: "Every address that the disk is given is one that the DART maps.",
    },
];

/// Returns whether `case` is part of the demonstration.
pub fn is_shown(case: &Case) -> bool {
    let mut demonstrations = DEMONSTRATIONS.iter();
    case.arch == Arch::Arm64
        && demonstrations.any(|demonstration| demonstration.scenario == case.scenario.name)
}

/// Runs both guests of `cases` and prints the results.
pub fn demo(assets: &Assets, cases: &[Case]) -> Result<ExitCode> {
    let style = Style::for_stdout();
    let mut good = true;
    println!("Debian's arm64 kernel boots in QEMU; its disk is a passed-through device of a Mac,");
    println!("which is simulated.");
    println!();
    for (number, demonstration) in (1..).zip(DEMONSTRATIONS) {
        let case = cases
            .iter()
            .find(|case| case.scenario.name == demonstration.scenario)
            .with_context(|| format!("no scenario '{}'", demonstration.scenario))?;
        println!(
            "{}",
            style.bold(&format!("{number}. {}", demonstration.heading))
        );
        println!("   {}", demonstration.about);
        println!();
        let outcome = run::run(assets, case, Console::File, |event| show(style, event))?;
        println!();
        println!(
            "   What the simulated Mac counted, in {:.0} s:",
            outcome.duration.as_secs_f64()
        );
        print!("{}", report::summary(&outcome)?);
        println!();

        let assertions = verdict::judge(case, &outcome);
        if assertions.iter().any(|(_, result)| result.is_err()) {
            good = false;
            print!(
                "{}",
                report::case(style, &case.name(), &outcome, &assertions)
            );
            println!();
        } else {
            run::remove_images(&outcome)?;
            println!(
                "   The guest's console is in {}/console.log.",
                outcome.run.display()
            );
            println!();
        }
    }
    if good {
        println!("{}", style.good("All of it as it should be."));
        Ok(ExitCode::SUCCESS)
    } else {
        println!(
            "{}",
            style.bad("Not all of it was as it should be: see above.")
        );
        Ok(ExitCode::FAILURE)
    }
}

fn show(style: Style, event: &Event) {
    match event {
        Event::Ok(name) => println!("   {} {name}", style.good("ok  ")),
        Event::Fail(name, reason) => println!("   {} {name}: {reason}", style.bad("FAIL")),
        Event::Info(text) => println!("        {text}"),
        Event::Figure(_) | Event::Done => {}
    }
}
