// SPDX-License-Identifier: GPL-2.0

//! Placement of mappings in IOVA space: an allocator of granules over one aperture.
//!
//! The allocator knows nothing of guests or keys. Every allocation is followed by a guard granule
//! that is never allocated, so that a device that runs past the end of a mapping faults instead of
//! reaching the next mapping.

use crate::addr::{
    Iova,
    GRANULE, //
};
use rand::{
    rngs::SmallRng,
    Rng,
    SeedableRng, //
};
use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr, //
};
use thiserror::Error;

/// Way to choose the place of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// First fit from the bottom of the aperture.
    Low,
    /// First fit from the top of the aperture.
    High,
    /// Anywhere, from a generator with this seed.
    Random(u64),
}

impl FromStr for Placement {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once(':') {
            None if s == "low" => Ok(Self::Low),
            None if s == "high" => Ok(Self::High),
            None if s == "random" => Ok(Self::Random(0)),
            Some(("random", seed)) => seed
                .parse()
                .map(Self::Random)
                .map_err(|_| format!("'{seed}' is not a decimal seed")),
            _ => Err(format!(
                "'{s}' is no placement: use low, high or random[:SEED]"
            )),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Low => write!(f, "low"),
            Self::High => write!(f, "high"),
            Self::Random(seed) => write!(f, "random:{seed}"),
        }
    }
}

/// Reason for rejecting an aperture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ApertureError {
    /// The first IOVA is not a multiple of the granule.
    #[error("the first IOVA {0:#x} is not a multiple of 16 KiB")]
    Unaligned(u64),
    /// The aperture holds no granule and its guard.
    #[error("an aperture of {0:#x} bytes holds no mapping: 32 KiB is the least")]
    TooSmall(u64),
    /// The aperture runs past the end of the address space.
    #[error("an aperture of {1:#x} bytes at {0:#x} runs past 2^64")]
    TooHigh(u64, u64),
}

/// Number of random places to try before the free extents are searched.
const RANDOM_TRIES: usize = 16;

/// The allocator. Its unit is the granule.
#[derive(Debug)]
pub struct IovaSpace {
    base: u64,
    count: u64,
    placement: Placement,
    rng: SmallRng,
    /// Free extents, start to length, never adjacent to one another.
    free: BTreeMap<u64, u64>,
}

impl IovaSpace {
    /// Creates an empty aperture of `size` bytes from `base` on; `size` is rounded down to whole
    /// granules.
    pub fn new(base: Iova, size: u64, placement: Placement) -> Result<Self, ApertureError> {
        if base.0 % GRANULE != 0 {
            return Err(ApertureError::Unaligned(base.0));
        }
        if size / GRANULE < 2 {
            return Err(ApertureError::TooSmall(size));
        }
        if base.0.checked_add(size).is_none() {
            return Err(ApertureError::TooHigh(base.0, size));
        }
        let base = base.0 / GRANULE;
        let count = size / GRANULE;
        let mut space = Self {
            base,
            count,
            placement,
            rng: SmallRng::seed_from_u64(0),
            free: BTreeMap::from([(base, count)]),
        };
        space.set_placement(placement);
        Ok(space)
    }

    /// Changes the placement of further allocations. Restarts the random generator.
    pub fn set_placement(&mut self, placement: Placement) {
        self.placement = placement;
        if let Placement::Random(seed) = placement {
            self.rng = SmallRng::seed_from_u64(seed);
        }
    }

    /// Allocates `granules` and a guard. Returns the first IOVA, or `None` if no free extent is
    /// long enough.
    pub fn alloc(&mut self, granules: u64) -> Option<Iova> {
        let need = granules.checked_add(1)?;
        let start = match self.placement {
            Placement::Low => self.free.iter().find(|(_, &len)| len >= need).map(|e| *e.0),
            Placement::High => self
                .free
                .iter()
                .rev()
                .find(|(_, &len)| len >= need)
                .map(|(&start, &len)| start + len - need),
            Placement::Random(_) => self.place_randomly(need),
        }?;
        self.carve(start, need);
        Some(Iova(start * GRANULE))
    }

    /// Frees what [`alloc`](Self::alloc) returned for `granules`.
    pub fn release(&mut self, iova: Iova, granules: u64) {
        let mut start = iova.0 / GRANULE;
        let mut len = granules + 1;
        if let Some((&prev, &prev_len)) = self.free.range(..start).next_back() {
            debug_assert!(prev + prev_len <= start, "released twice");
            if prev + prev_len == start {
                start = prev;
                len += prev_len;
            }
        }
        if let Some(next_len) = self.free.remove(&(start + len)) {
            len += next_len;
        }
        self.free.insert(start, len);
    }

    fn place_randomly(&mut self, need: u64) -> Option<u64> {
        let last = self.count.checked_sub(need)?;
        for _ in 0..RANDOM_TRIES {
            let start = self.base + self.rng.random_range(0..=last);
            let fits = self
                .free
                .range(..=start)
                .next_back()
                .is_some_and(|(&from, &len)| start + need <= from + len);
            if fits {
                return Some(start);
            }
        }
        let candidates: Vec<(u64, u64)> = self
            .free
            .iter()
            .filter(|(_, &len)| len >= need)
            .map(|(&start, &len)| (start, len))
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let (start, len) = candidates[self.rng.random_range(0..candidates.len())];
        Some(start + self.rng.random_range(0..=len - need))
    }

    /// Removes `[start, start + len)`, which is free, from the free extents.
    fn carve(&mut self, start: u64, len: u64) {
        let Some((&from, &from_len)) = self.free.range(..=start).next_back() else {
            unreachable!("callers pick from the free extents");
        };
        self.free.remove(&from);
        if start > from {
            self.free.insert(from, start - from);
        }
        let end = from + from_len;
        if start + len < end {
            self.free.insert(start + len, end - (start + len));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: u64 = 0x8001_0000_0000;

    fn space(granules: u64, placement: Placement) -> IovaSpace {
        IovaSpace::new(Iova(BASE), granules * GRANULE, placement).unwrap()
    }

    #[test]
    fn low_packs_from_below_with_guards() {
        let mut s = space(16, Placement::Low);
        assert_eq!(s.alloc(1), Some(Iova(BASE)));
        assert_eq!(s.alloc(2), Some(Iova(BASE + 2 * GRANULE)));
        assert_eq!(s.alloc(1), Some(Iova(BASE + 5 * GRANULE)));
        s.release(Iova(BASE + 2 * GRANULE), 2);
        assert_eq!(s.alloc(1), Some(Iova(BASE + 2 * GRANULE)));
    }

    #[test]
    fn high_packs_from_above_with_guards() {
        let mut s = space(16, Placement::High);
        assert_eq!(s.alloc(1), Some(Iova(BASE + 14 * GRANULE)));
        assert_eq!(s.alloc(2), Some(Iova(BASE + 11 * GRANULE)));
    }

    #[test]
    fn random_repeats_with_its_seed() {
        let take = |seed| {
            let mut s = space(1 << 20, Placement::Random(seed));
            (0..8).map(|_| s.alloc(3).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn full_then_empty_again() {
        for placement in [Placement::Low, Placement::High, Placement::Random(1)] {
            let mut s = space(8, placement);
            let all: Vec<_> = std::iter::from_fn(|| s.alloc(1)).collect();
            assert!(!all.is_empty());
            assert_eq!(s.alloc(1), None);
            for iova in all {
                s.release(iova, 1);
            }
            assert_eq!(s.free, BTreeMap::from([(BASE / GRANULE, 8)]));
            assert_eq!(s.alloc(8), None);
            assert!(s.alloc(7).is_some());
        }
    }

    #[test]
    fn bad_apertures_are_named() {
        let new = |base, size| IovaSpace::new(Iova(base), size, Placement::Low).err();
        assert_eq!(new(0x1000, 1 << 20), Some(ApertureError::Unaligned(0x1000)));
        assert_eq!(new(0, GRANULE), Some(ApertureError::TooSmall(GRANULE)));
        let top = !(GRANULE - 1);
        assert_eq!(
            new(top, 2 * GRANULE),
            Some(ApertureError::TooHigh(top, 2 * GRANULE))
        );
    }

    #[test]
    fn placement_reads_back_as_printed() {
        for placement in [Placement::Low, Placement::High, Placement::Random(42)] {
            assert_eq!(placement.to_string().parse(), Ok(placement));
        }
        assert!("middle".parse::<Placement>().is_err());
        assert!("random:x".parse::<Placement>().is_err());
    }

    proptest! {
        /// Checks that after any sequence of allocations and releases live extents with their
        /// guards are disjoint and inside the aperture, and nothing leaks.
        #[test]
        fn live_extents_are_disjoint(
            ops in prop::collection::vec(
                (any::<bool>(), 1u64..6, any::<prop::sample::Index>()),
                1..200,
            ),
            seed in 0u64..3,
        ) {
            let placement = [Placement::Low, Placement::High, Placement::Random(5)][seed as usize];
            let mut s = space(64, placement);
            let mut live: Vec<(u64, u64)> = Vec::new();
            for (alloc, n, which) in ops {
                if alloc {
                    if let Some(Iova(iova)) = s.alloc(n) {
                        let start = iova / GRANULE;
                        prop_assert!(iova >= BASE && start + n < BASE / GRANULE + 64);
                        for &(other, len) in &live {
                            prop_assert!(start + n < other || other + len < start);
                        }
                        live.push((start, n));
                    }
                } else if !live.is_empty() {
                    let (start, n) = live.swap_remove(which.index(live.len()));
                    s.release(Iova(start * GRANULE), n);
                }
                let used: u64 = live.iter().map(|(_, n)| n + 1).sum();
                prop_assert_eq!(used + s.free.values().sum::<u64>(), 64);
            }
        }
    }
}
