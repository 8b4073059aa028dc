// SPDX-License-Identifier: GPL-2.0

//! The commands: which exercise a word stands for.

use kernel::{
    device::Bound,
    pci,
    prelude::*,
    str::CString, //
};

use crate::{
    engine::Engine,
    exercise::{
        self,
        Exercise,
        Report, //
    },
    spec::{
        Key,
        Spec, //
    },
};

/// Runs an exercise, and returns what it has to say.
type Drive = fn(&pci::Device<Bound>, &Engine, &Spec) -> Result<Option<CString>, Report>;

/// A command.
pub(crate) struct Command {
    name: &'static str,
    keys: &'static [Key],
    defaults: fn(&mut Spec),
    drive: Drive,
}

impl Command {
    /// Finds the command that `line` names, and what else the line asks for.
    pub(crate) fn parse(line: &str) -> Result<(&'static Self, Spec)> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().ok_or(EINVAL)?;
        let command = COMMANDS
            .iter()
            .find(|command| command.name == name)
            .ok_or(EINVAL)?;

        let mut spec = Spec::DEFAULT;
        (command.defaults)(&mut spec);
        for word in words {
            spec.apply(word, command.keys)?;
        }
        Ok((command, spec))
    }

    /// Does it, and returns what it has to say.
    pub(crate) fn run(
        &self,
        pdev: &pci::Device<Bound>,
        engine: &Engine,
        spec: &Spec,
    ) -> Result<Option<CString>, Report> {
        (self.drive)(pdev, engine, spec)
    }
}

/// The command that runs an exercise.
macro_rules! command {
    ($exercise:ty) => {
        Command {
            name: <$exercise as Exercise<'_>>::NAME,
            keys: <$exercise as Exercise<'_>>::KEYS,
            defaults: <$exercise as Exercise<'_>>::defaults,
            drive: |pdev, engine, spec| exercise::drive::<$exercise>(pdev, engine, spec),
        }
    };
}

const COMMANDS: &[Command] = &[
    command!(exercise::Single),
    command!(exercise::Page),
    command!(exercise::Phys),
    command!(exercise::Copy),
    command!(exercise::Sg),
    command!(exercise::Coherent<'_>),
    command!(exercise::Pages),
    command!(exercise::Noncontig),
    command!(exercise::Pool<'_>),
    command!(exercise::SgTable),
    command!(exercise::Hold),
    command!(exercise::Many),
    command!(exercise::Mask<'_>),
    command!(exercise::Sizes<'_>),
    command!(exercise::Resource),
    command!(exercise::AfterUnmap),
    command!(exercise::Mmap),
    command!(exercise::Capacity),
    command!(exercise::Cost),
    command!(exercise::CostSg),
    command!(exercise::Ends),
    command!(exercise::Stress<'_>),
];
