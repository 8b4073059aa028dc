// SPDX-License-Identifier: GPL-2.0

//! `coherent`: memory that is mapped for as long as it exists, with and without a kernel mapping.

use super::prelude::*;
use crate::coherent::Coherent as Memory;
use crate::engine::{
    Channel,
    Iova, //
};
use crate::failure::expect;
use crate::pattern::Pattern;

/// One allocation at a time.
pub(crate) struct Coherent<'d> {
    /// Memory that the turn allocated, perhaps where freeing is forbidden.
    memory: Option<Memory<'d>>,
}

impl<'d> Exercise<'d> for Coherent<'d> {
    const NAME: &'static str = "coherent";
    const KEYS: &'static [Key] = &[Key::Align, Key::Attr, Key::Len];

    fn prepare(_: &'d Device<Bound>, _: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Ok(Self { memory: None })
    }

    fn turn(&mut self, turn: &mut Turn<'d, '_, '_>) -> Result<(), Failure> {
        let len = turn.rng.within(turn.spec.len);
        let mut place = Place::whole(len, DataDirection::Bidirectional);
        let memory = Memory::new(turn.dev, len, turn.gfp(), turn.spec.attrs).at(|| place)?;
        place.iova = Some(memory.iova());

        let memory = self.memory.insert(memory);
        check(memory, turn).at(|| place)
    }

    fn settle(&mut self) {
        self.memory = None;
    }
}

fn check(memory: &Memory<'_>, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
    let (iova, len) = (memory.iova(), memory.len());

    check_align(iova, turn.spec.align)?;
    // A kernel that checks the users of the DMA API must be told in any case.
    if !cfg!(CONFIG_DMA_API_DEBUG) {
        expect(
            "what dma_need_sync() says",
            0,
            u64::from(memory.needs_sync()),
        )?;
    }

    let Some(span) = memory.memory() else {
        return check_by_engine(iova, len, turn.channel, turn.rng.next());
    };
    let mut exchange = Exchange::new(once(span), DataDirection::Bidirectional, 0);

    span.check_zero()?;
    // Repeated without a call of the DMA API: coherent memory needs none.
    for _ in 0..turn.spec.syncs.saturating_add(2) {
        exchange = exchange.again(turn.rng.next());
        exchange.stage();
        exchange.engine(turn.channel, once(Segment { iova, len }))?;
        exchange.verify(turn.channel, once(len))?;
    }
    Ok(())
}

/// Checks memory that has no address for the CPU: the memory must keep the data that the engine
/// writes.
fn check_by_engine(
    iova: Iova,
    len: usize,
    channel: &mut Channel<'_>,
    seed: u64,
) -> Result<(), Failure> {
    let (first, second) = (Pattern::new(seed), Pattern::new(!seed));
    let kept = (len / 2).min(channel.memory_size());
    let rest = len.saturating_sub(kept);

    channel.fill(iova, len, first)?;
    channel.checksum(iova, len, first.crc32(0, len))?;
    if kept != 0 {
        channel.read(iova, 0, kept)?;
        channel.fill(iova, len, second)?;
        channel.write(0, iova, kept)?;
        channel.checksum(iova, kept, first.crc32(0, kept))?;
        channel.checksum(iova.add(kept), rest, second.crc32(kept, rest))?;
    }
    Ok(())
}

/// Fails unless `iova` is a multiple of `align`.
pub(super) fn check_align(iova: Iova, align: usize) -> Result<(), Failure> {
    // CAST: `usize` is not wider than `u64`.
    let beyond = iova.value().checked_rem(align as u64).unwrap_or(0);

    expect("the DMA address beyond its alignment", 0, beyond)
}
