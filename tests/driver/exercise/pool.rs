// SPDX-License-Identifier: GPL-2.0

//! `pool`: many small coherent blocks at once.

use super::coherent::check_align;
use super::prelude::*;
use crate::failure::expect;
use crate::pool::{
    Block,
    Pool as Blocks, //
};

/// A pool, created once for all turns.
pub(crate) struct Pool<'d> {
    pool: Blocks<'d>,
}

impl<'d> Exercise<'d> for Pool<'d> {
    const NAME: &'static str = "pool";
    const KEYS: &'static [Key] = &[Key::Align, Key::Boundary, Key::Count, Key::Len];

    fn defaults(spec: &mut Spec) {
        spec.count = Bounds { low: 1, high: 64 };
        spec.len = Bounds::exactly(64);
        spec.align = 8;
    }

    fn prepare(dev: &'d Device<Bound>, spec: &Spec, rng: &mut Rng) -> Result<Self, Failure> {
        let len = rng.within(spec.len);

        Ok(Self {
            pool: Blocks::new(dev, len, spec.align, spec.boundary)?,
        })
    }

    fn turn(&mut self, turn: &mut Turn<'d, '_, '_>) -> Result<(), Failure> {
        let count = turn.rng.within(turn.spec.count);
        let seed = turn.rng.next();
        let mut blocks =
            KVec::with_capacity(count, turn.context.flags()).doing("listing the blocks")?;

        for number in 0..count {
            let block = self.pool.alloc(turn.gfp())?;

            check_new(&block, turn.spec).at(|| place(&block))?;
            // All blocks are written before any is read, so that two blocks at one address show.
            exchange(&block, seed, number).stage();
            blocks
                .push_within_capacity(block)
                .map_err(|_| ENOMEM)
                .doing("listing the blocks")?;
        }
        for (number, block) in blocks.iter().enumerate() {
            exchange(block, seed, number)
                .engine(turn.channel, once(segment(block)))
                .at(|| place(block))?;
        }
        for (number, block) in blocks.iter().enumerate() {
            exchange(block, seed, number)
                .verify(turn.channel, once(block.memory().len()))
                .at(|| place(block))?;
        }

        turn.rng.shuffle(&mut blocks);
        Ok(())
    }
}

fn exchange<'b>(
    block: &'b Block<'_>,
    seed: u64,
    number: usize,
) -> Exchange<impl Iterator<Item = crate::span::Span<'b>> + Clone> {
    // CAST: `usize` is not wider than `u64`.
    let seed = seed.wrapping_add(number as u64);

    Exchange::new(once(block.memory()), DataDirection::Bidirectional, seed)
}

fn segment(block: &Block<'_>) -> Segment {
    Segment {
        iova: block.iova(),
        len: block.memory().len(),
    }
}

fn place(block: &Block<'_>) -> Place {
    Place {
        len: block.memory().len(),
        offset: 0,
        direction: DataDirection::Bidirectional,
        iova: Some(block.iova()),
    }
}

fn check_new(block: &Block<'_>, spec: &Spec) -> Result<(), Failure> {
    let first = block.iova();
    let last = first.add(block.memory().len().saturating_sub(1));
    // CAST: `usize` is not wider than `u64`.
    let part = |iova: u64| iova.checked_div(spec.boundary as u64).unwrap_or(0);

    check_align(first, spec.align)?;
    expect(
        "the number of boundaries in a block",
        0,
        part(last.value()).wrapping_sub(part(first.value())),
    )?;
    block.memory().check_zero()
}
