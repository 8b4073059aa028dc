// SPDX-License-Identifier: GPL-2.0

//! `many`: overlapping mappings of one buffer, undone in random order.

use super::prelude::*;
use crate::engine::Channel;
use crate::mapping::{
    Function,
    Mapping,
    Request, //
};
use crate::pattern::Pattern;

const FUNCTIONS: [Function; 3] = [Function::Single, Function::Page, Function::Phys];

/// The buffer.
pub(crate) struct Many(Buffer);

impl Exercise<'_> for Many {
    const NAME: &'static str = "many";
    const KEYS: &'static [Key] = &[Key::Count, Key::Len];

    fn defaults(spec: &mut Spec) {
        spec.count = Bounds::exactly(64);
        spec.len = Bounds {
            low: 1,
            high: 64 << 10,
        };
    }

    fn prepare(_: &Device<Bound>, spec: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Ok(Self(
            Buffer::new(spec.len.high).doing("allocating the memory to map")?,
        ))
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let Self(buffer) = self;
        let count = turn.rng.within(turn.spec.count);
        let pattern = Pattern::new(turn.rng.next());
        let mut mappings =
            KVec::with_capacity(count, turn.context.flags()).doing("listing the mappings")?;

        buffer.whole().fill(pattern, 0);
        for _ in 0..count {
            let len = turn.rng.within(turn.spec.len).min(buffer.len());
            let offset = turn.rng.within(Bounds {
                low: 0,
                high: buffer.len().saturating_sub(len),
            });
            let request = Request {
                function: turn.rng.choose(&FUNCTIONS).unwrap_or(Function::Single),
                offset,
                len,
                // Only the device's reads may overlap.
                direction: DataDirection::ToDevice,
                attrs: 0,
            };
            let mapping = Mapping::new(turn.dev, buffer, request).at(|| place(&request, None))?;

            check(turn.channel, &mapping, pattern)?;
            mappings
                .push_within_capacity(mapping)
                .map_err(|_| ENOMEM)
                .doing("listing the mappings")?;
        }

        turn.rng.shuffle(&mut mappings);
        while let Some(mapping) = mappings.pop() {
            drop(mapping);

            // The remaining mappings still work.
            if let Some(mapping) = mappings.get(turn.rng.below(mappings.len())) {
                check(turn.channel, mapping, pattern)?;
            }
        }
        buffer
            .whole()
            .check("what the CPU wrote and nobody else", pattern, 0)
    }
}

fn check(
    channel: &mut Channel<'_>,
    mapping: &Mapping<'_>,
    pattern: Pattern,
) -> Result<(), Failure> {
    let request = mapping.request();
    let expected = pattern.crc32(request.offset, request.len);

    channel
        .checksum(mapping.iova(), request.len, expected)
        .at(|| place(request, Some(mapping)))
}

fn place(request: &Request, mapping: Option<&Mapping<'_>>) -> Place {
    Place {
        len: request.len,
        offset: request.offset,
        direction: request.direction,
        iova: mapping.map(Mapping::iova),
    }
}
