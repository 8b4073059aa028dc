// SPDX-License-Identifier: GPL-2.0

//! `pages`, `noncontig`: memory from the DMA API that still has to be synchronized.

use super::prelude::*;
use crate::failure::expect;
use crate::noncontiguous::{
    Noncontiguous,
    Pages as Memory, //
};
use kernel::page::page_align;

/// `dma_alloc_pages`
pub(crate) struct Pages;

impl Exercise<'_> for Pages {
    const NAME: &'static str = "pages";
    const KEYS: &'static [Key] = &[Key::Dir, Key::Len, Key::Sync];
    const ATOMIC: bool = false;

    fn prepare(_: &Device<Bound>, _: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let len = turn.rng.within(turn.spec.len);
        let direction = turn.direction();

        Self::check(len, direction, turn).at(|| Place::whole(len, direction))
    }
}

impl Pages {
    fn check(
        len: usize,
        direction: DataDirection,
        turn: &mut Turn<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let memory = Memory::new(turn.dev, len, direction)?;
        let mut exchange = Exchange::new(once(memory.memory()), direction, 0);

        memory.memory().check_zero()?;
        for _ in 0..turn.spec.syncs.saturating_add(1) {
            exchange = exchange.again(turn.rng.next());
            exchange.stage();
            memory.sync_for_device();
            exchange.engine(turn.channel, once(memory.segment()))?;
            memory.sync_for_cpu();
            exchange.verify(turn.channel, once(len))?;
        }
        Ok(())
    }
}

/// `dma_alloc_noncontiguous`
pub(crate) struct Noncontig;

impl Exercise<'_> for Noncontig {
    const NAME: &'static str = "noncontig";
    const KEYS: &'static [Key] = &[Key::Attr, Key::Dir, Key::Len, Key::Sync];
    const ATOMIC: bool = false;

    fn prepare(_: &Device<Bound>, _: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let len = page_align(turn.rng.within(turn.spec.len))
            .ok_or(EINVAL)
            .doing("choosing a length")?;
        let direction = turn.direction();

        Self::check(len, direction, turn).at(|| Place::whole(len, direction))
    }
}

impl Noncontig {
    fn check(
        len: usize,
        direction: DataDirection,
        turn: &mut Turn<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let memory = Noncontiguous::new(turn.dev, len, direction, turn.spec.attrs)?;
        let view = memory.view()?;
        let mut exchange = Exchange::new(once(view.memory()), direction, 0);
        let lengths = || memory.segments().map(|Segment { len, .. }| len);

        expect(
            "what is mapped",
            len as u64,
            lengths().fold(0_u64, |sum, len| sum.wrapping_add(len as u64)),
        )?;
        for _ in 0..turn.spec.syncs.saturating_add(1) {
            exchange = exchange.again(turn.rng.next());
            exchange.stage();
            memory.sync_for_device();
            exchange.engine(turn.channel, memory.segments())?;
            memory.sync_for_cpu();
            exchange.verify(turn.channel, lengths())?;
        }
        Ok(())
    }
}
