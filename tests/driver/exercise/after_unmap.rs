// SPDX-License-Identifier: GPL-2.0

//! `use_after_unmap`: the device keeps using memory that was unmapped, and must be stopped.

use super::prelude::*;
use crate::mapping::{
    Function,
    Mapping,
    Request, //
};
use kernel::page::PAGE_SIZE;

/// The memory that the device keeps using; it stays allocated.
pub(crate) struct AfterUnmap(Buffer);

impl Exercise<'_> for AfterUnmap {
    const NAME: &'static str = "use_after_unmap";
    const KEYS: &'static [Key] = &[Key::Dir, Key::Len, Key::Off];
    // Another worker's mapping may rightly get the same address.
    const ALONE: bool = true;

    fn prepare(_: &Device<Bound>, spec: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        let len = PAGE_SIZE
            .saturating_add(spec.offset.high)
            .saturating_add(spec.len.high);

        Ok(Self(
            Buffer::new(len).doing("allocating the memory to map")?,
        ))
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let Self(buffer) = self;
        let request = Request {
            function: Function::Single,
            offset: turn.rng.within(turn.spec.offset),
            len: turn.rng.within(turn.spec.len),
            direction: turn.direction(),
            attrs: 0,
        };
        let len = request.len;
        let mut place = Place {
            len,
            offset: request.offset,
            direction: request.direction,
            iova: None,
        };
        let memory = buffer
            .part(request.offset, len)
            .doing("choosing what to map")?;
        let exchange = Exchange::new(once(memory), request.direction, turn.rng.next());

        exchange.stage();
        let iova = {
            let mapping = Mapping::new(turn.dev, buffer, request).at(|| place)?;
            let iova = mapping.iova();

            place.iova = Some(iova);
            exchange
                .engine(turn.channel, once(Segment { iova, len }))
                .at(|| place)?;
            iova
        };

        turn.channel.must_fault(iova, len).at(|| place)?;
        exchange.verify(turn.channel, once(len)).at(|| place)
    }
}
