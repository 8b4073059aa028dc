// SPDX-License-Identifier: GPL-2.0

//! The frame of all tests: preparation, turns in any context on any CPU, and a verdict.

mod after_unmap;
mod alloc;
mod blocks;
mod capacity;
mod coherent;
mod copy;
mod cost;
mod empty;
mod ends;
mod evict;
mod export;
mod hold;
mod limits;
mod lists;
mod many;
mod misuse;
mod mmap;
mod partial;
mod pool;
mod prelude;
mod sg;
mod single;
mod stress;

pub(crate) use self::{
    after_unmap::AfterUnmap,
    alloc::{
        Noncontig,
        Pages, //
    },
    capacity::Capacity,
    coherent::Coherent,
    copy::Copy,
    cost::{
        Cost,
        CostSg, //
    },
    empty::Empty,
    ends::Ends,
    evict::Evict,
    export::SgTable,
    hold::Hold,
    limits::{
        Mask,
        Resource,
        Sizes, //
    },
    lists::Lists,
    many::Many,
    misuse::Misuse,
    mmap::Mmap,
    partial::Partial,
    pool::Pool,
    sg::Sg,
    single::{
        Page,
        Phys,
        Single, //
    },
    stress::Stress, //
};

use crate::context::Context;
use crate::engine::{
    Channel,
    Engine,
    Wait, //
};
use crate::failure::{
    Doing,
    Failure, //
};
use crate::mapping;
use crate::rng::Rng;
use crate::spec::{
    Choice,
    Key,
    Spec, //
};
use crate::workers;
use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::DataDirection,
    fmt, new_mutex, pci,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Mutex, //
    },
};

/// Directions that leave data to verify.
const DIRECTIONS: [DataDirection; 3] = [
    DataDirection::ToDevice,
    DataDirection::FromDevice,
    DataDirection::Bidirectional,
];

/// A kind of test. Each worker has an exercise of its own.
pub(crate) trait Exercise<'d>: Sized + Send {
    /// Name in commands.
    const NAME: &'static str;
    /// Parameters of the exercise.
    const KEYS: &'static [Key];
    /// True if turns work where sleeping is forbidden.
    const ATOMIC: bool = true;
    /// True if nothing else may run at the same time.
    const ALONE: bool = false;

    /// Changes the defaults of the parameters.
    fn defaults(_spec: &mut Spec) {}

    /// Allocates what the turns need. May sleep.
    fn prepare(dev: &'d Device<Bound>, spec: &Spec, rng: &mut Rng) -> Result<Self, Failure>;

    /// Runs the exercise once.
    fn turn(&mut self, turn: &mut Turn<'d, '_, '_>) -> Result<(), Failure>;

    /// Cleans up after every turn, failed ones too, where the turn's context could not. May sleep.
    fn settle(&mut self) {}

    /// Appends the findings of the turns to the verdict.
    fn remark(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Environment of a turn.
pub(crate) struct Turn<'d, 'a, 'c> {
    pub(crate) dev: &'d Device<Bound>,
    pub(crate) channel: &'a mut Channel<'c>,
    pub(crate) spec: &'a Spec,
    pub(crate) rng: &'a mut Rng,
    pub(crate) context: Context,
}

impl Turn<'_, '_, '_> {
    /// Returns the direction of this turn.
    pub(crate) fn direction(&mut self) -> DataDirection {
        self.spec
            .direction
            .pick(self.rng, &DIRECTIONS)
            .unwrap_or(DataDirection::Bidirectional)
    }

    /// Returns the flags to allocate memory with.
    pub(crate) fn gfp(&self) -> bindings::gfp_t {
        self.context.gfp()
    }
}

/// The end of a command: remarks, if any, or the first failure.
pub(crate) type Verdict = Result<Option<CString>, Report>;

/// The failure of a turn, with the number of the turn.
pub(crate) struct Report {
    failure: Failure,
    worker: u32,
    turn: u64,
    context: Context,
}

impl Report {
    /// Returns a failure of the command as a whole.
    pub(crate) fn of_command(failure: Failure) -> Self {
        Self {
            failure,
            worker: 0,
            turn: 0,
            context: Context::Process,
        }
    }

    /// Returns the error number for the failure.
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

/// The remarks of an exercise, as text.
struct Remark<'e, E>(&'e E);

impl<'d, E: Exercise<'d>> fmt::Display for Remark<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.remark(f)
    }
}

/// State that the workers of a command share.
#[pin_data]
struct Outcome {
    /// The first failure that any worker met.
    #[pin]
    failure: Mutex<Option<Report>>,
    /// Remarks of the first worker.
    #[pin]
    remark: Mutex<Option<CString>>,
    /// Turns made, and those of them that ended because the DMA API refused.
    turns: Atomic<u64>,
    refused: Atomic<u64>,
}

/// Runs the exercise `E` as `spec` demands. Returns the remarks of the first worker, or the first
/// failure of any.
pub(crate) fn drive<'d, E: Exercise<'d>>(
    pdev: &'d pci::Device<Bound>,
    engine: &Engine,
    spec: &Spec,
) -> Verdict {
    check_fitness::<E>(spec)?;
    pin_init::stack_pin_init!(let outcome = pin_init!(Outcome {
        failure <- new_mutex!(None),
        remark <- new_mutex!(None),
        turns: Atomic::new(0),
        refused: Atomic::new(0),
    }));
    let mapped = mapping::counted();
    let outcome = outcome.as_ref().get_ref();
    let channels = u32::try_from(engine.channels()).unwrap_or(u32::MAX);

    let started = workers::run(spec.workers.min(channels), |worker| {
        if let Err(report) = work::<E>(pdev, engine, spec, worker, outcome) {
            outcome.failure.lock().get_or_insert(report);
        }
    });

    if let Some(report) = outcome.failure.lock().take() {
        return Err(report);
    }
    started
        .doing("starting the workers")
        .map_err(Report::of_command)?;
    if spec.may_refuse {
        return CString::try_from_fmt(fmt!(
            " turns={} refused={} mapped={}",
            outcome.turns.load(Relaxed),
            outcome.refused.load(Relaxed),
            mapping::counted().wrapping_sub(mapped)
        ))
        .map(Some)
        .doing("writing the verdict")
        .map_err(Report::of_command);
    }
    let remark = outcome.remark.lock().take();
    Ok(remark)
}

/// Fails if `spec` demands more than `E` can do, rather than testing less.
fn check_fitness<'d, E: Exercise<'d>>(spec: &Spec) -> Result<(), Report> {
    let unfit = |what| Err(Report::of_command(Failure::call(what, EINVAL)));

    if !E::ATOMIC && spec.context != Choice::Is(Context::Process) {
        return unfit("sleeping in an atomic context");
    }
    if E::ALONE && spec.workers != 1 {
        return unfit("running alone on several CPUs");
    }
    Ok(())
}

/// Makes all turns of one worker, until another worker fails.
fn work<'d, E: Exercise<'d>>(
    pdev: &'d pci::Device<Bound>,
    engine: &Engine,
    spec: &Spec,
    worker: u32,
    outcome: &Outcome,
) -> Result<(), Report> {
    let report = |failure, turn, context| Report {
        failure,
        worker,
        turn,
        context,
    };
    let unprepared = |failure| report(failure, 0, Context::Process);

    let dev: &'d Device<Bound> = pdev.as_ref();
    let mut rng = Rng::new(spec.seed, u64::from(worker));
    let mut channel = engine.claim(pdev).map_err(unprepared)?;
    let mut exercise = E::prepare(dev, spec, &mut rng).map_err(unprepared)?;

    for number in 0..spec.iterations {
        if outcome.failure.lock().is_some() {
            return Ok(());
        }
        let context = spec
            .context
            .pick(&mut rng, &Context::ALL)
            .unwrap_or(Context::Process);

        channel.set_wait(match context.may_sleep() {
            true => spec.wait,
            false => Wait::Poll,
        });
        let done = context.run(|| {
            exercise.turn(&mut Turn {
                dev,
                channel: &mut channel,
                spec,
                rng: &mut rng,
                context,
            })
        });
        exercise.settle();
        outcome.turns.fetch_add(1, Relaxed);
        match done.unwrap_or_else(|| Err(Failure::call("entering the context", EIO))) {
            Err(failure) if spec.may_refuse && failure.is_refusal() => {
                outcome.refused.fetch_add(1, Relaxed);
            }
            result => result.map_err(|failure| report(failure, number, context))?,
        }
    }

    if worker == 0 {
        let remark = CString::try_from_fmt(fmt!("{}", Remark(&exercise)))
            .doing("writing the verdict")
            .map_err(unprepared)?;
        *outcome.remark.lock() = Some(remark);
    }
    Ok(())
}
