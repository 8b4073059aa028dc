// SPDX-License-Identifier: GPL-2.0

//! The byte pattern that the engine's FILL writes, and its checksum.

use crate::bindings;

/// Returns the output function of SplitMix64 for the state `x`.
pub(crate) fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An endless sequence of bytes, defined in `tests/uapi/dma_engine.h`.
#[derive(Clone, Copy)]
pub(crate) struct Pattern {
    seed: u64,
}

impl Pattern {
    /// Returns the pattern that the engine makes of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Returns the seed, for the engine.
    pub(crate) fn seed(self) -> u64 {
        self.seed
    }

    fn mixed(self, index: usize) -> u64 {
        // CAST: `usize` is not wider than `u64`.
        mix(self.seed.wrapping_add(index as u64))
    }

    /// Returns the byte at `index`.
    pub(crate) fn byte(self, index: usize) -> u8 {
        let shift = (index % 8).wrapping_mul(8);

        // CAST: Takes the low byte.
        (self.mixed(index / 8) >> shift) as u8
    }

    /// Returns the eight bytes from `index` on, the first one least significant.
    pub(crate) fn word(self, index: usize) -> u64 {
        let first = index / 8;
        let shift = (index % 8).wrapping_mul(8);

        if shift == 0 {
            return self.mixed(first);
        }
        let low = self.mixed(first) >> shift;
        let high = self.mixed(first.wrapping_add(1)) << 64_usize.wrapping_sub(shift);
        low | high
    }

    /// Returns the CRC-32 (IEEE) of the `len` bytes from `index` on.
    pub(crate) fn crc32(self, index: usize, len: usize) -> u32 {
        let words = len / 8;
        let mut crc = !0;

        for word in 0..words {
            let at = index.wrapping_add(word.wrapping_mul(8));
            crc = crc32_le(crc, &self.word(at).to_le_bytes());
        }
        for byte in words.wrapping_mul(8)..len {
            crc = crc32_le(crc, &[self.byte(index.wrapping_add(byte))]);
        }
        !crc
    }
}

/// Continues the CRC-32 (IEEE) `crc`, which starts as all-ones and is inverted at the end.
pub(crate) fn crc32_le(crc: u32, bytes: &[u8]) -> u32 {
    // SAFETY: The function reads `bytes.len()` bytes from the pointer.
    unsafe { bindings::crc32_le(crc, bytes.as_ptr().cast(), bytes.len()) }
}
