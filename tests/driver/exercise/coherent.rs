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
use kernel::page::PAGE_SIZE;

/// The alignment of CMA: `CONFIG_CMA_ALIGNMENT` is 8 in all kernels of the tests.
const CMA_ALIGNMENT: usize = 1 << 20;

/// The largest block of the page allocator, with pages of 4 KiB.
const LARGEST_BLOCK: usize = 4 << 20;

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
    check_order(memory)?;
    // A kernel that checks the users of the DMA API must be told in any case. Operations with hooks
    // for synchronization are called for all memory.
    if !cfg!(CONFIG_DMA_API_DEBUG) && !memory.is_synced_by_ops() {
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

/// Fails unless both addresses of `memory` are aligned to the smallest page order that holds it, as
/// the DMA API promises. CMA does not align memory to more than [`CMA_ALIGNMENT`]; the DMA address
/// has to be as aligned as the memory.
fn check_order(memory: &Memory<'_>) -> Result<(), Failure> {
    let order = memory
        .len()
        .max(PAGE_SIZE)
        .checked_next_power_of_two()
        .unwrap_or(0);
    let Some(address) = memory.address() else {
        return check_align(memory.iova(), order.min(CMA_ALIGNMENT));
    };
    let beyond = address & order.min(CMA_ALIGNMENT).wrapping_sub(1);
    // CAST: `usize` is not wider than `u64`.
    expect("the CPU's address beyond its order", 0, beyond as u64)?;
    let aligned = 1usize.checked_shl(address.trailing_zeros()).unwrap_or(0);
    check_align(memory.iova(), order.min(aligned).min(LARGEST_BLOCK))
}

/// Fails unless `iova` is a multiple of `align`.
pub(super) fn check_align(iova: Iova, align: usize) -> Result<(), Failure> {
    // CAST: `usize` is not wider than `u64`.
    let beyond = iova.value().checked_rem(align as u64).unwrap_or(0);

    expect("the DMA address beyond its alignment", 0, beyond)
}
