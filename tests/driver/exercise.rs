// SPDX-License-Identifier: GPL-2.0

//! What all tests have in common: preparation, turns in any context on any CPU, and a verdict.

mod single;

pub(crate) use self::single::{
    Page,
    Phys,
    Single, //
};

use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::DataDirection,
    fmt,
    new_mutex,
    pci,
    prelude::*, //
};

use crate::{
    context::Context,
    engine::{
        Channel,
        Engine,
        Wait, //
    },
    failure::{
        Doing,
        Failure, //
    },
    rng::Rng,
    spec::{
        Key,
        Spec, //
    },
    workers, //
};

/// The directions that leave something to verify.
const DIRECTIONS: [DataDirection; 3] = [
    DataDirection::ToDevice,
    DataDirection::FromDevice,
    DataDirection::Bidirectional,
];

/// A kind of test. Each worker has one of its own.
pub(crate) trait Exercise: Sized + Send {
    /// What commands call it.
    const NAME: &'static str;
    /// The parameters that it has.
    const KEYS: &'static [Key];
    /// Whether turns work where sleeping is forbidden.
    const ATOMIC: bool = true;

    /// Changes what a command that says nothing asks for.
    fn defaults(_spec: &mut Spec) {}

    /// Allocates what the turns need; may sleep.
    fn prepare(dev: &Device<Bound>, spec: &Spec, rng: &mut Rng) -> Result<Self, Failure>;

    /// Does it once.
    fn turn(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), Failure>;

    /// Follows every turn, and may sleep.
    fn settle(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// What a turn works with.
pub(crate) struct Turn<'a, 'c> {
    pub(crate) dev: &'a Device<Bound>,
    pub(crate) channel: &'a mut Channel<'c>,
    pub(crate) spec: &'a Spec,
    pub(crate) rng: &'a mut Rng,
    pub(crate) context: Context,
}

impl Turn<'_, '_> {
    /// The direction of this turn.
    pub(crate) fn direction(&mut self) -> DataDirection {
        self.spec
            .direction
            .pick(self.rng, &DIRECTIONS)
            .unwrap_or(DataDirection::Bidirectional)
    }

    /// The flags to allocate memory with.
    pub(crate) fn gfp(&self) -> bindings::gfp_t {
        self.context.gfp()
    }
}

/// The failure of a turn, and which turn it was.
pub(crate) struct Report {
    failure: Failure,
    worker: u32,
    turn: u64,
    context: Context,
}

impl Report {
    /// The error number that stands for it.
    pub(crate) fn errno(&self) -> Error {
        self.failure.errno()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.failure, f)?;
        write!(
            f,
            "; worker={} turn={} ctx={}",
            self.worker,
            self.turn,
            self.context.name()
        )
    }
}

/// Runs the exercise `E` as `spec` says; the failure is the first one that any worker met.
pub(crate) fn drive<E: Exercise>(
    pdev: &pci::Device<Bound>,
    engine: &Engine,
    spec: &Spec,
) -> Result<(), Report> {
    pin_init::stack_pin_init!(let first = new_mutex!(None::<Report>));
    let first = first.as_ref().get_ref();

    let started = workers::run(spec.workers, |worker| {
        let result = work::<E>(pdev, engine, spec, worker, || first.lock().is_some());

        if let Err(report) = result {
            first.lock().get_or_insert(report);
        }
    });

    if let Some(report) = first.lock().take() {
        return Err(report);
    }
    started.map_err(|error| Report {
        failure: Failure::call("starting the workers", error),
        worker: 0,
        turn: 0,
        context: Context::Process,
    })
}

/// All turns of one worker, unless `stop` says otherwise.
fn work<E: Exercise>(
    pdev: &pci::Device<Bound>,
    engine: &Engine,
    spec: &Spec,
    worker: u32,
    stop: impl Fn() -> bool,
) -> Result<(), Report> {
    let report = |failure, turn, context| Report {
        failure,
        worker,
        turn,
        context,
    };
    let unprepared = |failure| report(failure, 0, Context::Process);

    let dev: &Device<Bound> = pdev.as_ref();
    let mut rng = Rng::new(spec.seed, u64::from(worker));
    let mut channel = engine.claim(pdev).map_err(unprepared)?;
    let mut exercise = E::prepare(dev, spec, &mut rng).map_err(unprepared)?;

    for number in 0..spec.iterations {
        if stop() {
            break;
        }
        let context = match E::ATOMIC {
            true => spec.context.pick(&mut rng, &Context::ALL),
            false => None,
        }
        .unwrap_or(Context::Process);

        channel.set_wait(if context.may_sleep() {
            spec.wait
        } else {
            Wait::Poll
        });
        context
            .run(|| {
                exercise.turn(&mut Turn {
                    dev,
                    channel: &mut channel,
                    spec,
                    rng: &mut rng,
                    context,
                })
            })
            .unwrap_or_else(|| Err(EIO).doing("entering the context"))
            .and_then(|()| exercise.settle())
            .map_err(|failure| report(failure, number, context))?;
    }
    Ok(())
}
