// SPDX-License-Identifier: GPL-2.0

//! `ends`: ranges at the very ends of every block of RAM.
//!
//! The memory there mostly belongs to others. It is mapped for the device to read, and the engine
//! must read the same data as the CPU. Where the pages can be allocated, data pass both ways.

use super::prelude::*;
use super::DIRECTIONS;
use crate::mapping::{
    Function,
    Mapping, //
};
use crate::pattern::Pattern;
use crate::ram::{
    self,
    Claim,
    End,
    Region, //
};
use crate::span::Span;
use kernel::fmt;

const FUNCTIONS: [Function; 3] = [Function::Single, Function::Page, Function::Phys];

/// Number of pages to allocate at an end; if they cannot be allocated, one page.
const CLAIM: usize = 16;

/// Seed of the contents of the rest of such pages.
const GUARD_SEED: u64 = 0x656e_6473;

/// Attempts to read memory that keeps changing, before a smaller part is read.
const TRIES: usize = 16;

/// The blocks, and the pages at their ends that could be allocated.
pub(crate) struct Ends {
    blocks: KVec<Region<'static>>,
    claims: KVec<(Claim, End)>,
    /// Compared ranges of others, and how many of them did not change as a whole.
    ranges: usize,
    still: usize,
}

impl Exercise<'_> for Ends {
    const NAME: &'static str = "ends";
    const KEYS: &'static [Key] = &[Key::Len, Key::Off];
    // Each end occurs once.
    const ALONE: bool = true;

    fn defaults(spec: &mut Spec) {
        spec.len = Bounds {
            low: 1,
            high: 64 << 10,
        };
    }

    fn prepare(_: &Device<Bound>, _: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Self::find().doing("looking for the ends of RAM")
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        for block in &self.blocks {
            for end in End::BOTH {
                let len = turn.rng.within(turn.spec.len);
                let region = block.at(end, turn.rng.within(turn.spec.offset), len);

                let still = read(&region, end, turn)?;
                self.ranges = self.ranges.saturating_add(1);
                self.still = self.still.saturating_add(usize::from(still));
            }
        }
        for (claim, end) in &self.claims {
            write(claim, *end, turn)?;
        }
        Ok(())
    }

    fn remark(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            " blocks={} claimed={} ranges={} still={}",
            self.blocks.len(),
            self.claims.len(),
            self.ranges,
            self.still
        )
    }
}

impl Ends {
    fn find() -> Result<Self> {
        let blocks = ram::blocks()?;
        let mut claims = KVec::new();

        for block in &blocks {
            for end in End::BOTH {
                let claim = Claim::new(block, end, CLAIM).or_else(|_| Claim::new(block, end, 1));

                if let Ok(claim) = claim {
                    claims.push((claim, end), GFP_KERNEL)?;
                }
            }
        }
        if blocks.is_empty() {
            return Err(ENODEV);
        }
        Ok(Self {
            blocks,
            claims,
            ranges: 0,
            still: 0,
        })
    }
}

fn place(region: &Region<'_>, direction: DataDirection, mapping: Option<&Mapping<'_>>) -> Place {
    Place {
        len: region.len(),
        offset: region.page().1,
        direction,
        iova: mapping.map(Mapping::iova),
    }
}

/// Lets the engine read `region`. Returns whether the memory did not change meanwhile.
fn read(region: &Region<'static>, end: End, turn: &mut Turn<'_, '_, '_>) -> Result<bool, Failure> {
    let direction = DataDirection::ToDevice;
    let function = turn.rng.choose(&FUNCTIONS).unwrap_or(Function::Phys);
    let mapping = Mapping::of_ram(turn.dev, region, function, direction)
        .at(|| place(region, direction, None))?;
    let mut len = region.len();

    // A region that changes all the time is halved, towards the end, until one does not.
    while len != 0 {
        let part = region.at(end, 0, len);
        // CAST: The part is within the region.
        let offset = part.phys().wrapping_sub(region.phys()) as usize;

        for _ in 0..TRIES {
            let expected = part.crc32().doing("reading RAM")?;
            let engine = turn
                .channel
                .checksum(mapping.iova().add(offset), len, expected)
                .at(|| place(region, direction, Some(&mapping)));

            if part.crc32().doing("reading RAM")? == expected {
                return engine.map(|()| len == region.len());
            }
            if engine.is_err_and(|failure| !failure.is_of_data()) {
                return engine.map(|()| false);
            }
        }
        len /= 2;
    }
    Err(Failure::call("waiting for RAM to hold still", EAGAIN))
        .at(|| place(region, direction, Some(&mapping)))
}

/// Passes data both ways through memory at that end of the claim which is the end of the block.
fn write(claim: &Claim, end: End, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
    let direction = turn
        .rng
        .choose(&DIRECTIONS)
        .unwrap_or(DataDirection::Bidirectional);
    let function = turn.rng.choose(&FUNCTIONS).unwrap_or(Function::Phys);
    let whole = claim.region();
    let offset = turn.rng.within(turn.spec.offset);
    let region = whole.at(end, offset, turn.rng.within(turn.spec.len));
    // CAST: The region is within the claim.
    let start = region.phys().wrapping_sub(whole.phys()) as usize;
    let len = region.len();
    let stop = start.saturating_add(len);

    let memory = claim
        .whole()
        .part(start, len)
        .ok_or(EINVAL)
        .doing("choosing what to map")?;
    let guards = [
        claim.whole().part(0, start),
        claim.whole().part(stop, whole.len().saturating_sub(stop)),
    ];
    let guards = || guards.iter().flatten();
    let exchange = Exchange::new(once(memory), direction, turn.rng.next());

    guards().for_each(|guard: &Span<'_>| guard.fill(Pattern::new(GUARD_SEED), 0));
    exchange.stage();
    {
        let mapping = Mapping::of_ram(turn.dev, &region, function, direction)
            .at(|| place(&region, direction, None))?;
        let segment = Segment {
            iova: mapping.iova(),
            len,
        };

        exchange
            .engine(turn.channel, once(segment))
            .at(|| place(&region, direction, Some(&mapping)))?;
    }
    exchange
        .verify(turn.channel, once(len))
        .and_then(|()| {
            guards().try_for_each(|guard| {
                guard.check(
                    "the memory changed beside the mapping",
                    Pattern::new(GUARD_SEED),
                    0,
                )
            })
        })
        .at(|| place(&region, direction, None))
}
