// SPDX-License-Identifier: GPL-2.0

//! The commands: which exercise a word stands for.

use crate::engine::Engine;
use crate::exercise::{
    self,
    Exercise,
    Verdict, //
};
use crate::import;
use crate::kept::Kept;
use crate::mirror;
use crate::run_on;
use crate::share;
use crate::spec::{
    Key,
    Spec, //
};
use kernel::{
    device::Bound,
    pci,
    prelude::*, //
};

/// Function that runs an exercise and returns its remarks.
///
/// The value that it keeps things in must be dropped before the device loses its driver.
type Drive = unsafe fn(&pci::Device<Bound>, &Engine, &mut Kept, &Spec) -> Verdict;

/// A command.
pub(crate) struct Command {
    name: &'static str,
    keys: &'static [Key],
    defaults: fn(&mut Spec),
    drive: Drive,
}

impl Command {
    /// Finds the command that `line` names, and parses the rest of the line.
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

    /// Runs the command and returns its remarks.
    ///
    /// # Safety
    ///
    /// `kept` must be dropped before `pdev` loses its driver.
    pub(crate) unsafe fn run(
        &self,
        pdev: &pci::Device<Bound>,
        engine: &Engine,
        kept: &mut Kept,
        spec: &Spec,
    ) -> Verdict {
        // SAFETY: By the function's contract.
        unsafe { (self.drive)(pdev, engine, kept, spec) }
    }
}

/// Defines the command that runs an exercise.
macro_rules! command {
    ($exercise:ty) => {
        Command {
            name: <$exercise as Exercise<'_>>::NAME,
            keys: <$exercise as Exercise<'_>>::KEYS,
            defaults: <$exercise as Exercise<'_>>::defaults,
            drive: |pdev, engine, _, spec| exercise::drive::<$exercise>(pdev, engine, spec),
        }
    };
}

const COMMANDS: &[Command] = &[
    command!(exercise::Single),
    command!(exercise::Page),
    command!(exercise::Phys),
    command!(exercise::Copy),
    command!(exercise::Partial),
    command!(exercise::Sg),
    command!(exercise::Coherent<'_>),
    command!(exercise::Pages),
    command!(exercise::Noncontig),
    command!(exercise::Pool<'_>),
    command!(exercise::SgTable),
    command!(exercise::Hold),
    command!(exercise::Many),
    command!(exercise::Empty),
    command!(exercise::Mask<'_>),
    command!(exercise::Sizes<'_>),
    command!(exercise::Resource),
    command!(exercise::AfterUnmap),
    command!(exercise::Misuse),
    command!(exercise::Mmap),
    command!(exercise::Capacity),
    command!(exercise::Cost),
    command!(exercise::CostSg),
    command!(exercise::Ends),
    command!(exercise::Evict),
    command!(exercise::Lists),
    command!(exercise::Stress<'_>),
    Command {
        name: "share",
        keys: &[Key::Attr, Key::Len],
        defaults: |_| (),
        drive: share::share,
    },
    Command {
        name: "shared_checksum",
        keys: &[],
        defaults: |_| (),
        drive: share::checksum,
    },
    Command {
        name: "shared_fill",
        keys: &[],
        defaults: |_| (),
        drive: share::fill,
    },
    Command {
        name: "import",
        keys: &[Key::Fd],
        defaults: |_| (),
        drive: import::import,
    },
    Command {
        name: "import_checksum",
        keys: &[Key::Import],
        defaults: |_| (),
        drive: import::checksum,
    },
    Command {
        name: "import_fill",
        keys: &[Key::Import],
        defaults: |_| (),
        drive: import::fill,
    },
    Command {
        name: "import_release",
        keys: &[Key::Import],
        defaults: |_| (),
        drive: import::release,
    },
    Command {
        name: "mirror",
        keys: &[Key::Addr, Key::Len],
        defaults: |_| (),
        drive: mirror::mirror,
    },
    Command {
        name: "mirror_checksum",
        keys: &[],
        defaults: |_| (),
        drive: mirror::checksum,
    },
    Command {
        name: "mirror_fill",
        keys: &[],
        defaults: |_| (),
        drive: mirror::fill,
    },
    Command {
        name: "mirror_release",
        keys: &[],
        defaults: |_| (),
        drive: mirror::release,
    },
    Command {
        name: "run_on",
        keys: &[Key::Len],
        defaults: |_| (),
        drive: run_on::run_on,
    },
    Command {
        name: "unshare",
        keys: &[],
        defaults: |_| (),
        drive: share::unshare,
    },
];
