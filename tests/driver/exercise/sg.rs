// SPDX-License-Identifier: GPL-2.0

//! `sg`: a scatterlist of many ranges, laid out anew for every turn.

use super::prelude::*;
use crate::failure::expect;
use crate::mapping::Attrs;
use crate::scatterlist::{
    Described,
    Entry,
    Function,
    List,
    Mapping,
    Request, //
};
use crate::spec::Layout;
use kernel::{
    bindings,
    page::PAGE_SIZE, //
};

const FUNCTIONS: [Function; 2] = [Function::Sg, Function::SgTable];
const LAYOUTS: [Layout; 2] = [Layout::Adjacent, Layout::Scattered];

/// Least size of a buffer, so that short entries can be neighbours.
const MIN_BUFFER: usize = 64 << 10;

/// Memory for a scatterlist.
pub(crate) struct Sg {
    list: List,
    /// Buffers: one for every entry, in case no two share one.
    buffers: KVec<Buffer>,
    /// The layout of this turn, in ascending order.
    entries: KVec<Entry>,
    /// Lengths of the segments while mapped.
    lengths: KVec<usize>,
}

impl Exercise<'_> for Sg {
    const NAME: &'static str = "sg";
    const KEYS: &'static [Key] = &[
        Key::Api,
        Key::Attr,
        Key::Count,
        Key::Dir,
        Key::Layout,
        Key::Len,
        Key::Off,
        Key::SkipSync,
        Key::Sync,
    ];

    fn defaults(spec: &mut Spec) {
        spec.count = Bounds { low: 1, high: 32 };
        spec.len = Bounds { low: 1, high: 8192 };
        spec.offset = Bounds { low: 0, high: 4095 };
    }

    fn prepare(_: &Device<Bound>, spec: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        let count = spec.count.high;
        let len = PAGE_SIZE
            .saturating_add(spec.offset.high)
            .saturating_add(spec.len.high);

        Self::allocate(count, len.saturating_add(1).max(MIN_BUFFER))
            .doing("allocating the memory to map")
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let request = Self::request(turn);

        self.lay_out(turn.spec, turn.rng)?;
        self.map_and_use(request, turn)
            .and_then(|()| self.check_guards())
            .at(|| Place::whole(self.total(), request.direction))
    }
}

impl Sg {
    fn allocate(count: usize, len: usize) -> Result<Self> {
        let mut buffers = KVec::with_capacity(count, GFP_KERNEL)?;

        for _ in 0..count {
            buffers.push(Buffer::new(len)?, GFP_KERNEL)?;
        }
        Ok(Self {
            list: List::new(count)?,
            buffers,
            entries: KVec::with_capacity(count, GFP_KERNEL)?,
            lengths: KVec::with_capacity(count, GFP_KERNEL)?,
        })
    }

    /// Returns the number of bytes in all entries.
    fn total(&self) -> usize {
        self.entries
            .iter()
            .fold(0, |sum, entry| sum.wrapping_add(entry.len))
    }

    /// Chooses how to map.
    fn request(turn: &mut Turn<'_, '_, '_>) -> Request {
        Request {
            function: turn
                .spec
                .api
                .pick(turn.rng, &FUNCTIONS)
                .unwrap_or(Function::Sg),
            direction: turn.direction(),
            attrs: match turn.spec.skip_sync {
                // CAST: `unsigned long` is at least as wide.
                true => bindings::DMA_ATTR_SKIP_CPU_SYNC as Attrs,
                false => 0,
            } | turn.spec.attrs,
        }
    }

    /// Chooses the places of the entries.
    fn lay_out(&mut self, spec: &Spec, rng: &mut Rng) -> Result<(), Failure> {
        let mut buffer = 0;
        let mut end = 0;

        self.entries.clear();
        for _ in 0..rng.within(spec.count) {
            let len = rng.within(spec.len);
            let layout = spec.layout.pick(rng, &LAYOUTS).unwrap_or(Layout::Scattered);
            let size = self.buffers.get(buffer).map_or(0, Buffer::len);
            let start = match layout {
                Layout::Adjacent if end != 0 => end,
                _ => page_after(end).saturating_add(rng.within(spec.offset)),
            };

            let moves = layout == Layout::Scattered && end != 0 && rng.coin();
            if moves || start.saturating_add(len) > size {
                buffer = buffer.saturating_add(1);
                end = rng.within(spec.offset);
            } else {
                end = start;
            }
            self.entries
                .push_within_capacity(Entry {
                    buffer,
                    offset: end,
                    len,
                })
                .map_err(|_| ENOMEM)
                .doing("laying out the scatterlist")?;
            end = end.saturating_add(len);
        }
        Ok(())
    }

    fn map_and_use(
        &mut self,
        request: Request,
        turn: &mut Turn<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let total = self.total();
        let Self {
            list,
            buffers,
            entries,
            lengths,
        } = self;
        let spans = entries.iter().filter_map(|entry| entry.span(buffers));
        let mut exchange = Exchange::new(spans, request.direction, turn.rng.next());

        for entry in entries.iter() {
            if let Some(buffer) = buffers.get(entry.buffer) {
                buffer.guard(entry.offset, entry.len);
            }
        }
        exchange.stage();
        {
            let mut described = Described::new(list, entries, buffers)?;
            let mapping = Mapping::new(turn.dev, &mut described, request)?;

            lengths.clear();
            for segment in mapping.segments() {
                lengths
                    .push_within_capacity(segment.len)
                    .map_err(|_| EOVERFLOW)
                    .doing("counting the segments")?;
            }
            let mapped = lengths
                .iter()
                .fold(0_usize, |sum, len| sum.wrapping_add(*len));
            expect("what is mapped", total as u64, mapped as u64)?;

            if turn.spec.skip_sync {
                mapping.sync_for_device();
            }
            for _ in 0..turn.spec.syncs {
                exchange.engine(turn.channel, mapping.segments())?;
                mapping.sync_for_cpu();
                exchange.verify(turn.channel, lengths.iter().copied())?;

                exchange = exchange.again(turn.rng.next());
                exchange.stage();
                mapping.sync_for_device();
            }
            exchange.engine(turn.channel, mapping.segments())?;
            if turn.spec.skip_sync {
                mapping.sync_for_cpu();
            }
        }
        exchange.verify(turn.channel, lengths.iter().copied())
    }

    /// Checks the memory between the entries.
    fn check_guards(&self) -> Result<(), Failure> {
        for (number, entry) in self.entries.iter().enumerate() {
            let Some(buffer) = self.buffers.get(entry.buffer) else {
                continue;
            };
            let neighbour = |number: Option<usize>| {
                self.entries
                    .get(number?)
                    .filter(|other| other.buffer == entry.buffer)
            };
            let from = neighbour(number.checked_sub(1))
                .map_or(0, |before| before.offset.saturating_add(before.len));
            let to = neighbour(number.checked_add(1)).map_or(buffer.len(), |after| after.offset);

            buffer.check_guard(entry.offset, entry.len, from, to)?;
        }
        Ok(())
    }
}

/// Returns the first page that starts after `offset`.
fn page_after(offset: usize) -> usize {
    (offset / PAGE_SIZE)
        .saturating_add(1)
        .saturating_mul(PAGE_SIZE)
}
