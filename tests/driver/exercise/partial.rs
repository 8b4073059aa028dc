// SPDX-License-Identifier: GPL-2.0

//! `partial`: the device writes a part of a mapping, and writes beside it where it can. What it did
//! not write of the mapping must read as before, and so must the memory beside it with `beside=1`,
//! which demands that the device never sees that memory.

use super::prelude::*;
use crate::engine::Iova;
use crate::mapping::{
    Function,
    Mapping,
    Request, //
};
use crate::pattern::Pattern;
use kernel::page::PAGE_SIZE;

/// Room before the mapped range, for a guard.
const LEAD: usize = PAGE_SIZE;

/// The unit in which the device can be expected to reach memory.
const REACH: u64 = 4096;

/// Memory to map.
pub(crate) struct Partial(Buffer);

impl Exercise<'_> for Partial {
    const NAME: &'static str = "partial";
    const KEYS: &'static [Key] = &[Key::Beside, Key::Dir, Key::Len, Key::Off, Key::Sync];

    fn prepare(_: &Device<Bound>, spec: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        let len = LEAD
            .saturating_add(spec.offset.high)
            .saturating_add(spec.len.high)
            .saturating_add(1);
        Ok(Self(
            Buffer::new(len).doing("allocating the memory to map")?,
        ))
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let request = Request {
            function: Function::Single,
            offset: LEAD.saturating_add(turn.rng.within(turn.spec.offset)),
            len: turn.rng.within(turn.spec.len),
            direction: turn.direction(),
            attrs: 0,
        };
        let mut place = Place {
            len: request.len,
            offset: request.offset.saturating_sub(LEAD),
            direction: request.direction,
            iova: None,
        };
        self.write_parts(&request, turn, &mut place).at(|| place)
    }
}

impl Partial {
    fn write_parts(
        &self,
        request: &Request,
        turn: &mut Turn<'_, '_, '_>,
        place: &mut Place,
    ) -> Result<(), Failure> {
        let Self(buffer) = self;
        let Request { offset, len, .. } = *request;
        let memory = buffer.part(offset, len).doing("choosing what to map")?;
        let last = len.saturating_sub(1);
        let first = turn.rng.within(Bounds { low: 0, high: last });
        let some = turn.rng.within(Bounds {
            low: 1,
            high: len.saturating_sub(first),
        });
        let end = first.saturating_add(some);
        let (before, device) = (Pattern::new(turn.rng.next()), Pattern::new(turn.rng.next()));

        buffer.guard(offset, len);
        memory.fill(before, 0);
        {
            let mapping = Mapping::new(turn.dev, buffer, *request)?;
            let iova = mapping.iova();

            place.iova = Some(iova);
            if turn.spec.beside {
                let (start, stop) = (iova.value(), iova.add(len).value());
                let (front, tail) = (start % REACH, stop.wrapping_neg() % REACH);
                let front_len = usize::try_from(front).unwrap_or(0);
                let tail_len = usize::try_from(tail).unwrap_or(0);

                if front_len != 0 {
                    let at = Iova::new(start.wrapping_sub(front));
                    turn.channel.fill(at, front_len, device)?;
                }
                if tail_len != 0 {
                    turn.channel.fill(Iova::new(stop), tail_len, device)?;
                }
            }
            for _ in 0..turn.spec.syncs {
                // What the CPU writes while it has the memory stays, too.
                mapping.sync_for_cpu();
                memory.fill(before, 0);
                mapping.sync_for_device();
            }
            turn.channel.fill(iova.add(first), some, device)?;
        }
        let part = |from: usize, to: usize| {
            memory
                .part(from, to.saturating_sub(from))
                .ok_or(EINVAL)
                .doing("choosing what to check")
        };
        part(0, first)?.check("what is before the device's part", before, 0)?;
        part(first, end)?.check("what the device wrote", device, 0)?;
        part(end, len)?.check("what is behind the device's part", before, end)?;
        buffer.check_guard(offset, len, 0, buffer.len())
    }
}
