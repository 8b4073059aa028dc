// SPDX-License-Identifier: GPL-2.0

//! The commands: which exercise a word stands for.

use kernel::{
    device::Bound,
    pci,
    prelude::*, //
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

/// A command.
pub(crate) struct Command {
    name: &'static str,
    keys: &'static [Key],
    defaults: fn(&mut Spec),
    drive: fn(&pci::Device<Bound>, &Engine, &Spec) -> Result<(), Report>,
}

impl Command {
    const fn of<E: Exercise>() -> Self {
        Self {
            name: E::NAME,
            keys: E::KEYS,
            defaults: E::defaults,
            drive: exercise::drive::<E>,
        }
    }

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

    /// Does it.
    pub(crate) fn run(
        &self,
        pdev: &pci::Device<Bound>,
        engine: &Engine,
        spec: &Spec,
    ) -> Result<(), Report> {
        (self.drive)(pdev, engine, spec)
    }
}

const COMMANDS: &[Command] = &[
    Command::of::<exercise::Single>(),
    Command::of::<exercise::Page>(),
    Command::of::<exercise::Phys>(),
];
