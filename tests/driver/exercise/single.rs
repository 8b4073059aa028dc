// SPDX-License-Identifier: GPL-2.0

//! `single`, `page`, `phys`: one contiguous range, mapped with each of the three functions.

use super::prelude::*;
use crate::mapping::{
    Attrs,
    Function,
    Mapping,
    Request, //
};
use kernel::{
    bindings,
    page::PAGE_SIZE, //
};

/// Room before the mapped range, for a guard.
const LEAD: usize = PAGE_SIZE;

/// A range to map, big enough for any that the command may choose.
struct Range(Buffer);

impl Range {
    const KEYS: &'static [Key] = &[
        Key::Attr,
        Key::Dir,
        Key::Len,
        Key::Off,
        Key::SkipSync,
        Key::Sync,
    ];

    fn new(spec: &Spec) -> Result<Self, Failure> {
        let len = LEAD
            .saturating_add(spec.offset.high)
            .saturating_add(spec.len.high);

        // One byte more, so that there always is a guard behind.
        Ok(Self(
            Buffer::new(len.saturating_add(1)).doing("allocating the memory to map")?,
        ))
    }

    fn turn(&self, function: Function, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let request = Request {
            function,
            offset: LEAD.saturating_add(turn.rng.within(turn.spec.offset)),
            len: turn.rng.within(turn.spec.len),
            direction: turn.direction(),
            attrs: match turn.spec.skip_sync {
                // CAST: `unsigned long` is at least as wide.
                true => bindings::DMA_ATTR_SKIP_CPU_SYNC as Attrs,
                false => 0,
            } | turn.spec.attrs,
        };
        let mut place = Place {
            len: request.len,
            offset: request.offset.saturating_sub(LEAD),
            direction: request.direction,
            iova: None,
        };

        self.map_and_use(&request, turn, &mut place).at(|| place)
    }

    fn map_and_use(
        &self,
        request: &Request,
        turn: &mut Turn<'_, '_, '_>,
        place: &mut Place,
    ) -> Result<(), Failure> {
        let Self(buffer) = self;
        let Request {
            offset,
            len,
            direction,
            ..
        } = *request;
        let memory = buffer.part(offset, len).doing("choosing what to map")?;
        let mut exchange = Exchange::new(once(memory), direction, turn.rng.next());

        buffer.guard(offset, len);
        exchange.stage();
        {
            let mapping = Mapping::new(turn.dev, buffer, *request)?;
            let segment = Segment {
                iova: mapping.iova(),
                len,
            };
            place.iova = Some(mapping.iova());

            if turn.spec.skip_sync {
                mapping.sync_for_device();
            }
            for _ in 0..turn.spec.syncs {
                exchange.engine(turn.channel, once(segment))?;
                mapping.sync_for_cpu();
                exchange.verify(turn.channel, once(len))?;

                exchange = exchange.again(turn.rng.next());
                exchange.stage();
                mapping.sync_for_device();
            }
            exchange.engine(turn.channel, once(segment))?;
            if turn.spec.skip_sync {
                mapping.sync_for_cpu();
            }
        }
        exchange.verify(turn.channel, once(len))?;
        buffer.check_guard(offset, len, 0, buffer.len())
    }
}

/// Defines an exercise for one of the functions.
macro_rules! exercise {
    ($(#[$attr:meta])* $name:ident, $word:literal) => {
        $(#[$attr])*
        pub(crate) struct $name(Range);

        impl Exercise<'_> for $name {
            const NAME: &'static str = $word;
            const KEYS: &'static [Key] = Range::KEYS;

            fn prepare(_: &Device<Bound>, spec: &Spec, _: &mut Rng) -> Result<Self, Failure> {
                Ok(Self(Range::new(spec)?))
            }

            fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
                self.0.turn(Function::$name, turn)
            }
        }
    };
}

exercise! {
    /// `dma_map_single`
    Single, "single"
}
exercise! {
    /// `dma_map_page`
    Page, "page"
}
exercise! {
    /// `dma_map_phys`
    Phys, "phys"
}
