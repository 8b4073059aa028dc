// SPDX-License-Identifier: GPL-2.0

//! `cost`, `cost_sg`: how long mapping and unmapping take.
//!
//! One operation at a time is timed, and the median told: an interrupt costs a sample, not the
//! result. Where the clock counts instructions (QEMU's `-icount shift=0`) so do these exercises.

use core::iter::once;

use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma::DataDirection,
    fmt,
    prelude::*,
    time::{
        Instant,
        Monotonic, //
    },
};

use crate::{
    exchange::Segment,
    failure::{
        Doing,
        Failure, //
    },
    mapping::Mapping,
    rng::{
        Bounds,
        Rng, //
    },
    scatterlist,
    spec::{
        Choice,
        Key,
        Layout,
        Spec, //
    },
};

use super::{
    hold::Hold,
    sg::Sg,
    Exercise,
    Turn, //
};

/// What the timed operations took.
struct Samples {
    /// Nothing at all: the price of looking at the clock.
    nothing: KVVec<i64>,
    map: KVVec<i64>,
    unmap: KVVec<i64>,
}

impl Samples {
    fn new(spec: &Spec) -> Result<Self, Failure> {
        let room = usize::try_from(spec.iterations)
            .map_err(Error::from)
            .and_then(|turns| turns.checked_mul(spec.samples).ok_or(ENOMEM))
            .doing("listing the samples")?;
        let list = || KVVec::with_capacity(room, GFP_KERNEL).doing("listing the samples");

        Ok(Self {
            nothing: list()?,
            map: list()?,
            unmap: list()?,
        })
    }
}

/// Adds to `samples` what `f` takes.
fn time<R>(samples: &mut KVVec<i64>, f: impl FnOnce() -> R) -> Result<R, Failure> {
    let start = Instant::<Monotonic>::now();
    let result = f();
    let taken = start.elapsed().as_nanos();

    samples
        .push_within_capacity(taken)
        .map_err(|_| ENOMEM)
        .doing("listing the samples")?;
    Ok(result)
}

/// The median: the least number that half of the samples are not above.
///
/// Found by bisection, since a remark cannot reorder what it is about.
fn median(samples: &KVVec<i64>) -> i64 {
    let mut low = 0;
    let mut high = samples.iter().copied().max().unwrap_or(0);

    while low < high {
        let middle = low.saturating_add(high.saturating_sub(low) / 2);
        let not_above = samples.iter().filter(|sample| **sample <= middle).count();

        if not_above.saturating_mul(2) >= samples.len() {
            high = middle;
        } else {
            low = middle.saturating_add(1);
        }
    }
    low
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            " samples={} map={} unmap={} nothing={} ns",
            self.map.len(),
            median(&self.map),
            median(&self.unmap),
            median(&self.nothing)
        )
    }
}

/// `dma_map_page` and its opposite, while many other mappings are live.
pub(crate) struct Cost {
    held: Hold,
    samples: Samples,
}

impl Exercise<'_> for Cost {
    const NAME: &'static str = "cost";
    const KEYS: &'static [Key] = &[Key::Count, Key::Len, Key::Off, Key::Samples, Key::Spread];
    const ATOMIC: bool = false;

    fn prepare(dev: &Device<Bound>, spec: &Spec, rng: &mut Rng) -> Result<Self, Failure> {
        Ok(Self {
            held: Hold::prepare(dev, spec, rng)?,
            samples: Samples::new(spec)?,
        })
    }

    /// Maps everything, then unmaps one at random and maps it again, over and over.
    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let Self { held, samples } = self;
        let pieces = held.pieces();
        let direction = DataDirection::Bidirectional;
        let mut mappings: KVVec<Option<Mapping<'_>>> =
            KVVec::with_capacity(pieces.len(), GFP_KERNEL).doing("listing the mappings")?;

        for piece in pieces {
            mappings
                .push(Some(piece.map(turn.dev, direction)?), GFP_KERNEL)
                .doing("listing the mappings")?;
        }
        for _ in 0..turn.spec.samples {
            let chosen = turn.rng.below(pieces.len());
            let (Some(piece), Some(mapping)) = (pieces.get(chosen), mappings.get_mut(chosen))
            else {
                continue;
            };

            time(&mut samples.nothing, || ())?;
            time(&mut samples.unmap, || *mapping = None)?;
            *mapping = Some(time(&mut samples.map, || piece.map(turn.dev, direction))??);
        }

        // What was timed did work.
        if let (Some(piece), Some(Some(mapping))) = (pieces.first(), mappings.first()) {
            let len = piece.len();
            let iova = mapping.iova();
            let exchange = piece.exchange(direction);

            exchange.stage();
            mapping.sync_for_device();
            exchange.engine(turn.channel, once(Segment { iova, len }))?;
            mapping.sync_for_cpu();
            exchange.verify(turn.channel, once(len))?;
        }
        Ok(())
    }

    fn remark(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.samples, f)
    }
}

/// `dma_map_sg` and its opposite.
pub(crate) struct CostSg {
    sg: Sg,
    samples: Samples,
}

impl Exercise<'_> for CostSg {
    const NAME: &'static str = "cost_sg";
    const KEYS: &'static [Key] = &[
        Key::Api,
        Key::Count,
        Key::Layout,
        Key::Len,
        Key::Off,
        Key::Samples,
    ];
    const ATOMIC: bool = false;

    fn defaults(spec: &mut Spec) {
        spec.count = Bounds::exactly(32);
        spec.layout = Choice::Is(Layout::Scattered);
    }

    fn prepare(dev: &Device<Bound>, spec: &Spec, rng: &mut Rng) -> Result<Self, Failure> {
        Ok(Self {
            sg: Sg::prepare(dev, spec, rng)?,
            samples: Samples::new(spec)?,
        })
    }

    /// Maps and unmaps the same list over and over, then uses it.
    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let Self { sg, samples } = self;
        let request = Sg::request(turn);

        sg.lay_out(turn.spec, turn.rng)?;
        {
            let mut described = sg.describe()?;

            for _ in 0..turn.spec.samples {
                time(&mut samples.nothing, || ())?;
                let mapping = time(&mut samples.map, || {
                    scatterlist::Mapping::new(turn.dev, &mut described, request)
                })??;
                time(&mut samples.unmap, || drop(mapping))?;
            }
        }
        sg.turn(turn)
    }

    fn remark(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.samples, f)
    }
}
