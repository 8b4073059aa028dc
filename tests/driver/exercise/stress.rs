// SPDX-License-Identifier: GPL-2.0

//! `stress`: a random mix of the other exercises, on all CPUs, in all contexts.

use super::prelude::*;
use super::{
    Coherent,
    Copy,
    Many,
    Page,
    Phys,
    Pool,
    Sg,
    Single, //
};
use crate::spec::Choice;
use crate::workers;

/// An exercise with its parameters.
struct Part<E> {
    exercise: E,
    spec: Spec,
}

impl<'d, E: Exercise<'d>> Part<E> {
    /// Prepares the exercise with its defaults, changed by `adapt`.
    fn prepare(
        dev: &'d Device<Bound>,
        rng: &mut Rng,
        adapt: impl FnOnce(&mut Spec),
    ) -> Result<Self, Failure> {
        let mut spec = Spec::DEFAULT;

        E::defaults(&mut spec);
        spec.direction = Choice::Any;
        adapt(&mut spec);
        Ok(Self {
            exercise: E::prepare(dev, &spec, rng)?,
            spec,
        })
    }

    fn turn(&mut self, turn: &mut Turn<'d, '_, '_>) -> Result<(), Failure> {
        self.exercise.turn(&mut Turn {
            dev: turn.dev,
            channel: &mut *turn.channel,
            spec: &self.spec,
            rng: &mut *turn.rng,
            context: turn.context,
        })
    }
}

/// The mix.
pub(crate) struct Stress<'d> {
    coherent: Part<Coherent<'d>>,
    copy: Part<Copy>,
    many: Part<Many>,
    page: Part<Page>,
    phys: Part<Phys>,
    pool: Part<Pool<'d>>,
    sg: Part<Sg>,
    single: Part<Single>,
}

impl<'d> Exercise<'d> for Stress<'d> {
    const NAME: &'static str = "stress";
    const KEYS: &'static [Key] = &[];

    fn defaults(spec: &mut Spec) {
        spec.context = Choice::Any;
        spec.iterations = 1000;
        spec.workers = workers::online_cpus();
    }

    fn prepare(dev: &'d Device<Bound>, _: &Spec, rng: &mut Rng) -> Result<Self, Failure> {
        let range = |spec: &mut Spec| {
            spec.len = Bounds {
                low: 1,
                high: 64 << 10,
            };
            spec.offset = Bounds { low: 0, high: 4095 };
            spec.syncs = 1;
        };

        Ok(Self {
            coherent: Part::prepare(dev, rng, |spec| {
                spec.len = Bounds {
                    low: 8,
                    high: 32 << 10,
                }
            })?,
            copy: Part::prepare(dev, rng, range)?,
            many: Part::prepare(dev, rng, |spec| spec.count = Bounds { low: 1, high: 16 })?,
            page: Part::prepare(dev, rng, range)?,
            phys: Part::prepare(dev, rng, range)?,
            pool: Part::prepare(dev, rng, |spec| spec.count = Bounds { low: 1, high: 16 })?,
            sg: Part::prepare(dev, rng, |_| ())?,
            single: Part::prepare(dev, rng, range)?,
        })
    }

    fn turn(&mut self, turn: &mut Turn<'d, '_, '_>) -> Result<(), Failure> {
        match turn.rng.below(8) {
            0 => self.coherent.turn(turn),
            1 => self.copy.turn(turn),
            2 => self.many.turn(turn),
            3 => self.page.turn(turn),
            4 => self.phys.turn(turn),
            5 => self.pool.turn(turn),
            6 => self.sg.turn(turn),
            _ => self.single.turn(turn),
        }
    }

    fn settle(&mut self) {
        self.coherent.exercise.settle();
    }
}
