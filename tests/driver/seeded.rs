// SPDX-License-Identifier: GPL-2.0

//! Memory that has the pattern of a seed, of which processes and the engine access any part.

use crate::engine::Channel;
use crate::exchange::Segment;
use crate::failure::Failure;
use crate::pattern::Pattern;

/// Returns the pattern of `seed` from the byte number `offset` on, which is a multiple of 8.
fn pattern(seed: u64, offset: usize) -> Pattern {
    // CAST: `usize` is not wider than `u64`.
    Pattern::new(seed.wrapping_add(offset as u64 / 8))
}

/// A part of the memory as the device sees it, and its offset in the memory.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) offset: usize,
    pub(crate) segment: Segment,
}

/// Lets the engine read `part`, and compares it with the pattern of `seed`.
pub(crate) fn checksum(channel: &mut Channel<'_>, part: Part, seed: u64) -> Result<(), Failure> {
    let Segment { iova, len } = part.segment;

    channel.checksum(iova, len, pattern(seed, part.offset).crc32(0, len))
}

/// Lets the engine write that pattern.
pub(crate) fn fill(channel: &mut Channel<'_>, part: Part, seed: u64) -> Result<(), Failure> {
    let Segment { iova, len } = part.segment;

    channel.fill(iova, len, pattern(seed, part.offset))
}
