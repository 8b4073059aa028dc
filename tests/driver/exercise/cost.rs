// SPDX-License-Identifier: GPL-2.0

//! `cost`, `cost_sg`: the time that mapping and unmapping take.
//!
//! C code that does nothing else times one call at a time. Where the clock counts instructions
//! (QEMU's `-icount shift=0`) the exercises count instructions.

use super::prelude::*;
use crate::bindings as helpers;
use crate::land::{
    Land,
    Ranges, //
};
use crate::mapping::Mapping;
use crate::scatterlist::{
    self,
    Described,
    Entry,
    List, //
};
use kernel::{
    fmt,
    time::{
        Instant,
        Monotonic, //
    },
};

const DIRECTION: DataDirection = DataDirection::Bidirectional;

/// Durations of the calls of one kind, in nanoseconds.
struct Times(KVVec<u64>);

impl Times {
    fn with_capacity(room: usize) -> Result<Self, Failure> {
        KVVec::with_capacity(room, GFP_KERNEL)
            .map(Self)
            .doing("listing the samples")
    }

    fn add(&mut self, taken: u64) -> Result<(), Failure> {
        self.0
            .push_within_capacity(taken)
            .map_err(|_| ENOMEM)
            .doing("listing the samples")
    }

    /// Returns the median.
    fn median(&self) -> u64 {
        self.0
            .get(self.0.len().saturating_sub(1) / 2)
            .copied()
            .unwrap_or(0)
    }

    fn mean(&self) -> u64 {
        let sum = self
            .0
            .iter()
            .fold(0u64, |sum, taken| sum.saturating_add(*taken));

        // CAST: `usize` is not wider than `u64`.
        sum.checked_div(self.0.len() as u64).unwrap_or(0)
    }

    fn highest(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }
}

/// Durations of the timed calls.
struct Samples {
    /// Duration of nothing at all: the cost of reading the clock.
    nothing: Times,
    map: Times,
    unmap: Times,
    /// Duration of a pair of calls, clock included, when pairs follow each other.
    pair: u64,
}

impl Samples {
    fn new(spec: &Spec) -> Result<Self, Failure> {
        let room = usize::try_from(spec.iterations)
            .map_err(Error::from)
            .and_then(|turns| turns.checked_mul(spec.samples).ok_or(ENOMEM))
            .doing("listing the samples")?;

        Ok(Self {
            nothing: Times::with_capacity(room)?,
            map: Times::with_capacity(room)?,
            unmap: Times::with_capacity(room)?,
            pair: 0,
        })
    }

    /// Adds the duration of nothing.
    fn add_nothing(&mut self) -> Result<(), Failure> {
        let mut taken = 0;

        // SAFETY: `taken` is valid for writing.
        unsafe { helpers::dma_test_time_nothing(&mut taken) };
        self.nothing.add(taken)
    }

    /// Sorts the samples, for [`fmt::Display`].
    fn sort(&mut self) {
        for times in [&mut self.nothing, &mut self.map, &mut self.unmap] {
            let samples = &mut times.0;
            // SAFETY: The pointer is that of as many values.
            unsafe { helpers::dma_test_sort(samples.as_mut_ptr(), samples.len()) };
        }
    }

    /// Times `count` runs of `pair` as a whole.
    fn time_pairs(
        &mut self,
        count: usize,
        mut pair: impl FnMut() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let start = Instant::<Monotonic>::now();

        for _ in 0..count {
            pair()?;
        }
        // CAST: A monotonic clock does not run backwards; `usize` is not wider than `u64`.
        let taken = start.elapsed().as_nanos() as u64;
        self.pair = taken.checked_div(count as u64).unwrap_or(0);
        Ok(())
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            " samples={} map={} unmap={} nothing={} map_mean={} unmap_mean={} map_max={} \
             unmap_max={} pair={} ns",
            self.map.0.len(),
            self.map.median(),
            self.unmap.median(),
            self.nothing.median(),
            self.map.mean(),
            self.unmap.mean(),
            self.map.highest(),
            self.unmap.highest(),
            self.pair,
        )
    }
}

/// Returns the number of ranges needed: `count`, and with `fresh` one more for each of `lists`
/// times `samples`.
fn ranges_needed(count: usize, spec: &Spec, lists: usize) -> usize {
    let fresh = match spec.fresh {
        true => spec.samples.saturating_mul(lists),
        false => 0,
    };

    count.saturating_add(fresh)
}

/// Returns the ranges that `spec` describes.
fn ranges(spec: &Spec) -> Result<Ranges> {
    Ranges::new(spec.offset.high, spec.len.high, spec.stride)
}

/// `dma_map_page` and its opposite, while many other mappings are live.
pub(crate) struct Cost {
    land: Land,
    ranges: Ranges,
    samples: Samples,
}

impl Exercise<'_> for Cost {
    const NAME: &'static str = "cost";
    const KEYS: &'static [Key] = &[
        Key::Count,
        Key::Fresh,
        Key::Len,
        Key::Off,
        Key::Pairs,
        Key::Samples,
        Key::Stride,
    ];
    const ATOMIC: bool = false;

    fn prepare(_: &Device<Bound>, spec: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        let ranges = ranges(spec).doing("choosing what to map")?;
        let count = ranges_needed(spec.count.high, spec, 1);

        Ok(Self {
            land: Land::for_ranges(count, &ranges).doing("allocating the memory to map")?,
            ranges,
            samples: Samples::new(spec)?,
        })
    }

    /// Maps all ranges, then over and over unmaps one at random and maps it again, or, with
    /// `fresh`, one that was never mapped.
    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let Self {
            land,
            ranges,
            samples,
        } = self;
        let count = turn.spec.count.high;
        let place = |index| land.range(ranges, index).doing("choosing what to map");
        let mut mappings: KVVec<(Option<Mapping<'_>>, usize)> =
            KVVec::with_capacity(count, GFP_KERNEL).doing("listing the mappings")?;

        for index in 0..count {
            let (mapping, _) = Mapping::timed(turn.dev, &place(index)?, DIRECTION)?;
            mappings
                .push((Some(mapping), index), GFP_KERNEL)
                .doing("listing the mappings")?;
        }
        for sample in 0..turn.spec.samples {
            let chosen = turn.rng.below(count);
            let Some((mapping, index)) = mappings.get_mut(chosen) else {
                continue;
            };

            samples.add_nothing()?;
            if let Some(mapping) = mapping.take() {
                samples.unmap.add(mapping.unmap_timed())?;
            }
            if turn.spec.fresh {
                *index = count.saturating_add(sample);
            }
            let (new, taken) = Mapping::timed(turn.dev, &place(*index)?, DIRECTION)?;
            samples.map.add(taken)?;
            *mapping = Some(new);
        }
        let mut next = 0usize;
        samples.time_pairs(turn.spec.pairs, || {
            next = next.saturating_add(1).checked_rem(count).unwrap_or(0);
            if let Some((mapping, index)) = mappings.get_mut(next) {
                if let Some(mapping) = mapping.take() {
                    mapping.unmap_timed();
                }
                *mapping = Some(Mapping::timed(turn.dev, &place(*index)?, DIRECTION)?.0);
            }
            Ok(())
        })?;
        samples.sort();

        // The timed mappings must work.
        if let Some((Some(mapping), index)) = mappings.last() {
            let place = place(*index)?;
            let len = place.len();
            let iova = mapping.iova();
            let exchange = Exchange::new(place.spans(), DIRECTION, turn.rng.next());

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
    land: Land,
    ranges: Ranges,
    list: List,
    entries: KVVec<Entry>,
    samples: Samples,
}

impl CostSg {
    /// Chooses the entries of list number `number`.
    fn choose(&mut self, number: usize, count: usize) -> Result {
        let first = number.saturating_mul(count);

        self.entries.clear();
        for index in first..first.saturating_add(count) {
            self.entries
                .push_within_capacity(self.land.entry(&self.ranges, index)?)
                .map_err(|_| ENOMEM)?;
        }
        Ok(())
    }

    /// Maps the entries, checks that the mapping works, and unmaps it.
    fn check(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let Self {
            land,
            list,
            entries,
            ..
        } = self;
        let mut lengths =
            KVVec::with_capacity(entries.len(), GFP_KERNEL).doing("listing the segments")?;
        let spans = entries.iter().filter_map(|entry| entry.span(land.blocks()));
        let exchange = Exchange::new(spans, DIRECTION, turn.rng.next());
        let mut described = Described::new(list, entries, land.blocks())?;

        exchange.stage();
        let (mapping, _) = scatterlist::Mapping::timed(turn.dev, &mut described, DIRECTION)?;
        for segment in mapping.segments() {
            lengths
                .push(segment.len, GFP_KERNEL)
                .doing("listing the segments")?;
        }
        exchange.engine(turn.channel, mapping.segments())?;
        mapping.unmap_timed();
        exchange.verify(turn.channel, lengths.iter().copied())
    }
}

impl Exercise<'_> for CostSg {
    const NAME: &'static str = "cost_sg";
    const KEYS: &'static [Key] = &[
        Key::Count,
        Key::Fresh,
        Key::Len,
        Key::Off,
        Key::Samples,
        Key::Stride,
    ];
    const ATOMIC: bool = false;

    fn defaults(spec: &mut Spec) {
        spec.count = Bounds::exactly(32);
    }

    fn prepare(_: &Device<Bound>, spec: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        let count = spec.count.high;
        let ranges = ranges(spec).doing("choosing what to map")?;
        let needed = ranges_needed(count, spec, count);

        Ok(Self {
            land: Land::for_ranges(needed, &ranges).doing("allocating the memory to map")?,
            ranges,
            list: List::new(count).doing("allocating the scatterlist")?,
            entries: KVVec::with_capacity(count, GFP_KERNEL).doing("listing the entries")?,
            samples: Samples::new(spec)?,
        })
    }

    /// Over and over maps and unmaps a list that was mapped before, or, with `fresh`, a list that
    /// was not.
    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let count = turn.spec.count.high;

        self.choose(0, count).doing("laying out the scatterlist")?;
        self.check(turn)?;
        for sample in 0..turn.spec.samples {
            let number = match turn.spec.fresh {
                true => sample.saturating_add(1),
                false => 0,
            };

            self.choose(number, count)
                .doing("laying out the scatterlist")?;
            let mut described = Described::new(&mut self.list, &self.entries, self.land.blocks())?;

            self.samples.add_nothing()?;
            let (mapping, taken) =
                scatterlist::Mapping::timed(turn.dev, &mut described, DIRECTION)?;
            self.samples.map.add(taken)?;
            self.samples.unmap.add(mapping.unmap_timed())?;
        }
        self.samples.sort();
        // The timed mappings must work.
        self.check(turn)
    }

    fn remark(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.samples, f)
    }
}
