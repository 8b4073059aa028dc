// SPDX-License-Identifier: GPL-2.0

//! Heat: how much time copying has taken lately, for each tile of memory.
//!
//! The heat of a tile is one word, which is changed without a lock. If several CPUs change it at
//! once, one of the changes is lost: heat is an estimate. Lately means in this epoch and, half as
//! much, in the one before; what an epoch is, the caller decides. Pure code.
//!
//! Context of all functions: any, if not said otherwise.

use crate::addr::{
    Address,
    GpaSpan,
    GRANULE_SHIFT, //
};
use crate::engine::ram::Ram;
use crate::sys::{
    Alloc,
    AllocError,
    Atomic,
    BoxedSlice,
    Relaxed, //
};

/// log2 of the bytes of a tile: one granule for each bit of [`Heat::granules`].
const TILE_SHIFT: u32 = GRANULE_SHIFT + 4;

/// The most tiles with heat of their own, 256 GiB; beyond, several tiles share it.
const TILES_MAX: usize = 1 << 20;

/// The time that copying some memory takes, or would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heat {
    /// Nanoseconds.
    pub(super) ns: u32,
    /// The granules of a tile that were used, a bit each.
    pub(super) granules: u16,
    /// The epoch of the last change, which wraps.
    pub(super) epoch: u16,
}

impl Heat {
    /// Returns the heat that `slot` has.
    pub(super) fn of(slot: &Atomic<u64>) -> Self {
        let word = slot.load(Relaxed);
        // CAST: Each is as wide as what is taken.
        Self {
            ns: (word >> 32) as u32,
            granules: (word >> 16) as u16,
            epoch: word as u16,
        }
    }

    /// Stores the heat in `slot`.
    pub(super) fn store(self, slot: &Atomic<u64>) {
        let (ns, granules) = (u64::from(self.ns), u64::from(self.granules));
        slot.store(
            (ns << 32) | (granules << 16) | u64::from(self.epoch),
            Relaxed,
        );
    }

    /// Returns what is left of the heat in `epoch`. Memory that was not used for more than one is
    /// cold.
    pub(super) fn at(self, epoch: u16) -> Self {
        match epoch.wrapping_sub(self.epoch) {
            0 => self,
            1 => Self {
                ns: self.ns / 2,
                epoch,
                ..self
            },
            _ => Self {
                ns: 0,
                granules: 0,
                epoch,
            },
        }
    }

    /// Returns the heat with `ns` nanoseconds more.
    pub(super) fn plus(self, ns: u64) -> Self {
        let more = u32::try_from(ns).unwrap_or(u32::MAX);
        Self {
            ns: self.ns.saturating_add(more),
            ..self
        }
    }

    /// Returns the part of the heat of a tile that belongs to `granules`, in nanoseconds.
    fn part(self, granules: u16) -> u64 {
        let part = u64::from((self.granules & granules).count_ones());
        let all = u64::from(self.granules.count_ones());
        let scaled = u64::from(self.ns).saturating_mul(part);
        scaled.checked_div(all).unwrap_or(0)
    }
}

/// The use of some memory lately.
pub(super) struct Use {
    /// The nanoseconds that it took to copy it.
    pub(super) ns: u64,
    /// The number of granules that were copied.
    pub(super) granules: u64,
}

/// The heat of all tiles of RAM, by the low bits of their number.
pub(super) struct Tiles(BoxedSlice<Atomic<u64>>);

impl Tiles {
    /// Creates the tiles of `ram`, all of them cold.
    ///
    /// Context: process, may sleep.
    pub(super) fn new(ram: &Ram) -> Result<Self, AllocError> {
        let last = ram.blocks().last().map_or(0, GpaSpan::last) >> TILE_SHIFT;
        let tiles = usize::try_from(last).unwrap_or(TILES_MAX);
        let tiles = tiles.saturating_add(1).min(TILES_MAX).next_power_of_two();
        BoxedSlice::new(tiles, Alloc::Sleep, |_| Atomic::new(0)).map(Self)
    }

    /// Returns the tiles that `span` touches, and the bits of its granules in each.
    fn of<'a>(&'a self, span: &'a GpaSpan) -> impl Iterator<Item = (&'a Atomic<u64>, u16)> {
        let numbers = span.start().raw() >> TILE_SHIFT..=span.last() >> TILE_SHIFT;
        numbers.filter_map(|number| {
            // CAST: The number of tiles is a power of two, so only low bits matter.
            let index = number as usize & self.0.len().wrapping_sub(1);
            Some((self.0.get(index)?, granules_in(number, span)))
        })
    }

    /// Returns the use of `span` lately.
    pub(super) fn used(&self, span: &GpaSpan, epoch: u16) -> Use {
        let mut used = Use { ns: 0, granules: 0 };
        for (tile, granules) in self.of(span) {
            let heat = Heat::of(tile).at(epoch);
            let count = (heat.granules & granules).count_ones();
            used.ns = used.ns.saturating_add(heat.part(granules));
            used.granules = used.granules.saturating_add(count.into());
        }
        used
    }

    /// Counts that copying `span` takes `ns` nanoseconds.
    pub(super) fn warm(&self, span: &GpaSpan, ns: u64, epoch: u16) {
        let all = span.granules();
        for (tile, granules) in self.of(span) {
            let share = ns.saturating_mul(granules.count_ones().into());
            let heat = Heat::of(tile).at(epoch);
            let heat = Heat {
                granules: heat.granules | granules,
                ..heat.plus(share.checked_div(all).unwrap_or(0))
            };
            heat.store(tile);
        }
    }

    /// Forgets the heat of `span`, which has a window now.
    pub(super) fn cool(&self, span: &GpaSpan, epoch: u16) {
        for (tile, granules) in self.of(span) {
            let heat = Heat::of(tile).at(epoch);
            let heat = Heat {
                // CAST: It is a part of a number of 32 bits.
                ns: heat.part(!granules) as u32,
                granules: heat.granules & !granules,
                ..heat
            };
            heat.store(tile);
        }
    }
}

/// Returns the bits of the granules of tile number `tile` that `span`, which touches it, has.
fn granules_in(tile: u64, span: &GpaSpan) -> u16 {
    let first = tile << (TILE_SHIFT - GRANULE_SHIFT);
    let from = span.first_granule().saturating_sub(first);
    let to = span.last_granule().saturating_sub(first).min(15);
    // CAST: Both are below 16.
    let (from, behind) = (from as u32, 15u64.wrapping_sub(to) as u32);
    u16::MAX.checked_shl(from).unwrap_or(0) & u16::MAX.checked_shr(behind).unwrap_or(0)
}
