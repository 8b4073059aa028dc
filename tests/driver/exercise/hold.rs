// SPDX-License-Identifier: GPL-2.0

//! `hold`: very many mappings of memory of their own, all live at once.

use super::prelude::*;
use crate::mapping::{
    Function,
    Mapping,
    Request, //
};
use crate::span::Span;

/// A place in a buffer of its own.
struct BufferRange {
    buffer: Buffer,
    offset: usize,
    len: usize,
    seed: u64,
}

/// Buffers, one for every mapping.
pub(crate) struct Hold {
    ranges: KVVec<BufferRange>,
}

impl Exercise<'_> for Hold {
    const NAME: &'static str = "hold";
    const KEYS: &'static [Key] = &[
        Key::Check,
        Key::Count,
        Key::Dir,
        Key::Len,
        Key::Off,
        Key::Spread,
    ];
    const ATOMIC: bool = false;

    fn defaults(spec: &mut Spec) {
        spec.count = Bounds::exactly(1000);
    }

    fn prepare(_: &Device<Bound>, spec: &Spec, rng: &mut Rng) -> Result<Self, Failure> {
        Self::allocate(spec, rng).doing("allocating the memory to map")
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let direction = turn.direction();
        let mut mappings =
            KVVec::with_capacity(self.ranges.len(), GFP_KERNEL).doing("listing the mappings")?;

        for range in self.ranges.iter_mut() {
            range.seed = turn.rng.next();
        }
        for range in self.ranges.iter() {
            range.exchange(direction).stage();
            let mapping = range.map(turn.dev, direction)?;

            mappings
                .push(mapping, GFP_KERNEL)
                .doing("listing the mappings")?;
        }

        let step = self
            .ranges
            .len()
            .checked_div(turn.spec.check)
            .unwrap_or(1)
            .max(1);
        for (range, mapping) in self.ranges.iter().zip(mappings.iter()).step_by(step) {
            let segment = Segment {
                iova: mapping.iova(),
                len: range.len,
            };

            range
                .exchange(direction)
                .engine(turn.channel, once(segment))
                .at(|| range.place(mapping))?;
        }

        turn.rng.shuffle(&mut mappings);
        drop(mappings);

        for range in self.ranges.iter().step_by(step) {
            range
                .exchange(direction)
                .verify(turn.channel, once(range.len))?;
        }
        Ok(())
    }
}

impl Hold {
    fn allocate(spec: &Spec, rng: &mut Rng) -> Result<Self> {
        let size = spec.offset.high.saturating_add(spec.len.high);
        let count = rng.within(spec.count);
        let mut ranges = KVVec::with_capacity(count, GFP_KERNEL)?;
        // The gaps between the ranges are freed after all allocations, lest the ranges be
        // neighbours.
        let mut between = KVVec::new();

        for _ in 0..count {
            ranges.push(
                BufferRange {
                    buffer: Buffer::new(size)?,
                    offset: rng.within(spec.offset),
                    len: rng.within(spec.len),
                    seed: 0,
                },
                GFP_KERNEL,
            )?;
            for _ in 1..spec.spread {
                between.push(Buffer::new(size)?, GFP_KERNEL)?;
            }
        }
        Ok(Self { ranges })
    }
}

impl BufferRange {
    fn request(&self, direction: DataDirection) -> Request {
        Request {
            function: Function::Page,
            offset: self.offset,
            len: self.len,
            direction,
            attrs: 0,
        }
    }

    fn map<'a>(
        &'a self,
        dev: &'a Device<Bound>,
        direction: DataDirection,
    ) -> Result<Mapping<'a>, Failure> {
        Mapping::new(dev, &self.buffer, self.request(direction)).at(|| Place {
            len: self.len,
            offset: self.offset,
            direction,
            iova: None,
        })
    }

    fn exchange(
        &self,
        direction: DataDirection,
    ) -> Exchange<impl Iterator<Item = Span<'_>> + Clone> {
        let memory = self.buffer.whole().part(self.offset, self.len);

        Exchange::new(memory.into_iter(), direction, self.seed)
    }

    fn place(&self, mapping: &Mapping<'_>) -> Place {
        Place {
            len: self.len,
            offset: self.offset,
            direction: mapping.request().direction,
            iova: Some(mapping.iova()),
        }
    }
}
