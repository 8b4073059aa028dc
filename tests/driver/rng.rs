// SPDX-License-Identifier: GPL-2.0

//! Seeded random choices: the same seed makes the same test.

use crate::pattern::mix;

/// Bounds of a number, both included.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) low: usize,
    pub(crate) high: usize,
}

impl Bounds {
    /// Bounds that leave no choice.
    pub(crate) const fn exactly(value: usize) -> Self {
        Self {
            low: value,
            high: value,
        }
    }
}

/// A SplitMix64 generator.
#[derive(Clone, Copy)]
pub(crate) struct Rng {
    state: u64,
}

impl Rng {
    /// Creates a generator that is a function of `seed` and `stream`.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self {
            state: mix(seed ^ mix(stream)),
        }
    }

    /// Returns any number.
    pub(crate) fn next(&mut self) -> u64 {
        let value = mix(self.state);

        self.state = self.state.wrapping_add(1);
        value
    }

    /// Returns a number below `end`, 0 if there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        // CAST: `usize` is 64 bits wide wherever PCI DMA engines are tested, and the remainder
        // fits it anyway.
        self.next().checked_rem(end as u64).unwrap_or(0) as usize
    }

    /// Returns a number within `bounds`.
    pub(crate) fn within(&mut self, bounds: Bounds) -> usize {
        let choices = bounds.high.saturating_sub(bounds.low).saturating_add(1);

        bounds.low.saturating_add(self.below(choices))
    }

    /// Returns true or false.
    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// Returns one of `items`, [`None`] if there are none.
    pub(crate) fn choose<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        items.get(self.below(items.len())).copied()
    }

    /// Puts `items` into random order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        let mut rest = items;

        while let Some((last, others)) = rest.split_last_mut() {
            // The item past the others is the last one itself.
            let chosen = self.below(others.len().saturating_add(1));

            if let Some(other) = others.get_mut(chosen) {
                core::mem::swap(last, other);
            }
            rest = others;
        }
    }
}
