// SPDX-License-Identifier: GPL-2.0

//! `empty`: ranges of no bytes, alone and in a scatterlist, which other implementations of the DMA
//! API map.

use super::prelude::*;
use crate::mapping::{
    Function,
    Mapping,
    Request, //
};
use crate::scatterlist::{
    self,
    Described,
    Entry,
    List, //
};
use kernel::page::PAGE_SIZE;

/// Entries of the scatterlist; every second one is empty.
const ENTRIES: usize = 5;

/// Memory to map.
pub(crate) struct Empty {
    buffers: KVec<Buffer>,
    list: List,
}

impl Exercise<'_> for Empty {
    const NAME: &'static str = "empty";
    const KEYS: &'static [Key] = &[Key::Dir];

    fn prepare(_: &Device<Bound>, _: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Self::allocate().doing("allocating the memory to map")
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        self.single(turn)?;
        self.scatterlist(turn)
    }
}

impl Empty {
    fn allocate() -> Result<Self> {
        let mut buffers = KVec::with_capacity(ENTRIES, GFP_KERNEL)?;
        for _ in 0..ENTRIES {
            buffers.push(Buffer::new(PAGE_SIZE)?, GFP_KERNEL)?;
        }
        Ok(Self {
            buffers,
            list: List::new(ENTRIES)?,
        })
    }

    /// Maps and unmaps one empty range.
    fn single(&self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let buffer = self.buffers.first().ok_or(EINVAL);
        let buffer = buffer.doing("choosing what to map")?;
        let request = Request {
            function: Function::Phys,
            offset: turn.rng.within(Bounds {
                low: 0,
                high: PAGE_SIZE - 1,
            }),
            len: 0,
            direction: turn.direction(),
            attrs: 0,
        };
        Mapping::new(turn.dev, buffer, request).map(drop)
    }

    /// Maps a list that has empty entries, and uses the others.
    fn scatterlist(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let mut entries = [Entry {
            buffer: 0,
            offset: 0,
            len: 0,
        }; ENTRIES];
        for (buffer, entry) in entries.iter_mut().enumerate() {
            entry.buffer = buffer;
            if buffer % 2 == 1 {
                entry.len = PAGE_SIZE;
            }
        }
        let used = || entries.iter().filter(|entry| entry.len != 0);
        let request = scatterlist::Request {
            function: scatterlist::Function::Sg,
            direction: turn.direction(),
            attrs: 0,
        };
        let Self { buffers, list } = self;
        let spans = used().filter_map(|entry| entry.span(buffers));
        let exchange = Exchange::new(spans, request.direction, turn.rng.next());

        exchange.stage();
        {
            let mut described = Described::new(list, &entries, buffers)?;
            let mapping = scatterlist::Mapping::new(turn.dev, &mut described, request)?;
            let segments = mapping.segments().filter(|segment| segment.len != 0);
            exchange.engine(turn.channel, segments)?;
        }
        exchange.verify(turn.channel, used().map(|entry| entry.len))
    }
}
