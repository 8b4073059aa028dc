// SPDX-License-Identifier: GPL-2.0

//! Admission: whether memory that a driver maps and that may be copied is worth a window.
//!
//! Windows are a cache with a dear miss, so what streams through it is copied, and what is hot gets
//! windows. Copying is rent, a window is bought:
//!
//! - Each tile of memory has a [`Heat`]: the time that copying it has taken lately. So has each
//!   window: the time that copying would have taken instead of its hits.
//! - While there is room, memory is worth a window once all of it, as far as it is used, was copied
//!   twice. What that takes of the host's time is at most 1/8 of the time that passes.
//! - Without room, copying must have taken as long as the windows that come and go would have, and
//!   twice as long as without the coldest of the idle windows, which make room; see
//!   `displace.rs`.
//! - The window is the largest of which at least three quarters are used, to [`SIZE_MAX`] where
//!   the host is dear.
//!
//! Heat is forgotten at a rate that depends on what is copied and hit, not on time: half of it in
//! each *epoch*, which is as long as it takes to copy all windows some times and to buy them once.
//! While there is room, and nothing is hot enough, epochs get longer.
//!
//! Nothing here takes a lock. See `heat.rs`.
//!
//! Context of all functions: any, if not said otherwise.

use super::cost::Price;
use super::heat::{
    Heat,
    Tiles,
    Use, //
};
use super::index::arena::Id;
use crate::addr::{
    GpaSpan,
    GRANULE, //
};
use crate::engine::budget::Room;
use crate::engine::policy::WINDOW_SHIFT;
use crate::engine::ram::Ram;
use crate::engine::time_share::TimeShare;
use crate::sys::{
    Alloc,
    AllocError,
    Atomic,
    BoxedSlice,
    Relaxed, //
};

/// The bytes of the largest window that is bought.
const SIZE_MAX: u64 = 4 << 20;

/// The bytes that windows may have however cheap the host is.
const SIZE_ALWAYS: u64 = 1 << WINDOW_SHIFT;

/// The number of copies of a large window that must cost less than its price.
const DEAR: u64 = 8;

/// The number of copies after which memory gets a window while there is room.
const TOUCHES: u64 = 2;

/// The part of its price, as a divisor, that copying must have taken before memory gets a window
/// while there is room.
const SOME: u64 = 8;

/// The factor by which a new window must be hotter than those that make room.
const MARGIN: u64 = 2;

/// The part of the time that may be spent on windows, as a divisor.
const SHARE: u64 = 8;

/// Bits of the progress of an epoch.
const EPOCH_SHIFT: u32 = 48;

/// The most of [`Admission::stretch`].
const STRETCH_MAX: u32 = 6;

/// The least number of copies of the limit of bytes in an epoch.
const EPOCH_COPIES: u64 = 8;

/// The time that copying takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopyCost {
    /// Nanoseconds for each request.
    pub(crate) request_ns: u64,
    /// Nanoseconds for each KiB.
    pub(crate) kib_ns: u64,
}

impl CopyCost {
    /// Returns the nanoseconds to copy `len` bytes in one request.
    fn of(self, len: u64) -> u64 {
        self.request_ns.saturating_add(self.of_bytes(len))
    }

    /// Returns the nanoseconds to copy `len` bytes among others.
    fn of_bytes(self, len: u64) -> u64 {
        self.kib_ns.saturating_mul(len) >> 10
    }
}

/// A window that is worth its price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The most bytes that the window is to have.
    pub(crate) size: u64,
    /// The heat of its memory in nanoseconds: what its absence has cost lately.
    pub(crate) worth: u64,
}

/// A decision about a request that no window serves, and that may be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// The request is copied.
    Copy,
    /// The request gets this window; see [`Engine::map_admitted`](super::Engine::map_admitted).
    Window(Offer),
}

/// See the module's documentation.
pub(crate) struct Admission {
    /// Set unless a window is unmapped when its last mapping is.
    lasting: bool,
    max_bytes: u64,
    /// The heat of memory.
    tiles: Tiles,
    /// The heat of windows, by their ids. Lock.
    windows: BoxedSlice<Atomic<u64>>,
    /// The epoch, in the upper 16 bits, and how much of it is over, in nanoseconds of copying.
    progress: Atomic<u64>,
    /// The least nanoseconds of an epoch.
    epoch_len: Atomic<u64>,
    /// log2 of how much longer epochs are, since there is room for windows and none are worth it.
    stretch: Atomic<u32>,
    /// Set once a window was opened or used in this epoch.
    windows_used: Atomic<u32>,
    /// The average time to copy a request, in 1/16 nanoseconds.
    request: Atomic<u64>,
    /// Bytes and windows that there is room for, as of the last change.
    bytes_left: Atomic<u64>,
    entries_left: Atomic<u64>,
    entries_used: Atomic<u64>,
    /// The most bytes of a window: less than [`SIZE_MAX`] where the host refused those.
    size_max: Atomic<u64>,
    /// The heat of a granule of the windows that would have to make room.
    bar: Atomic<u64>,
    /// The time that windows may take.
    share: TimeShare,
}

impl Admission {
    /// Creates the admission of an engine with `max_bytes` and `max_entries` for windows of `ram`.
    /// With `strict`, windows do not outlive their mappings.
    ///
    /// Context: process, may sleep.
    pub(super) fn new(
        ram: &Ram,
        strict: bool,
        max_bytes: u64,
        max_entries: u32,
    ) -> Result<Self, AllocError> {
        // CAST: `usize` has at least 32 bits. Ids begin with 1.
        let windows = (max_entries as usize).saturating_add(1);
        Ok(Self {
            lasting: !strict,
            max_bytes,
            tiles: Tiles::new(ram)?,
            windows: BoxedSlice::new(windows, Alloc::Sleep, |_| Atomic::new(0))?,
            progress: Atomic::new(0),
            epoch_len: Atomic::new(u64::MAX),
            stretch: Atomic::new(0),
            windows_used: Atomic::new(0),
            request: Atomic::new(0),
            bytes_left: Atomic::new(max_bytes),
            entries_left: Atomic::new(max_entries.into()),
            entries_used: Atomic::new(0),
            size_max: Atomic::new(SIZE_MAX),
            bar: Atomic::new(0),
            share: TimeShare::new(SHARE),
        })
    }

    /// Decides about `request`, which no window serves, and which takes `copy` to copy, while
    /// windows have the price `price`. Counts the request as copied.
    pub(super) fn choose(&self, request: &GpaSpan, copy: CopyCost, price: Price) -> Admit {
        let cost = copy.of(request.len());
        if !self.lasting || request.len() > SIZE_MAX {
            let offer = Offer {
                size: GRANULE,
                worth: cost,
            };
            return if cost <= price.both() && request.len() <= SIZE_MAX {
                Admit::Copy
            } else {
                Admit::Window(offer)
            };
        }
        let average = self.request.load(Relaxed);
        let sixteenth = average.saturating_sub(average >> 4).saturating_add(cost);
        self.request.store(sixteenth, Relaxed);
        let windows = self.entries_used.load(Relaxed);
        let windows = windows.saturating_add(self.max_bytes / SIZE_MAX);
        let windows = price.both().saturating_mul(windows);
        let copies = copy.of_bytes(self.max_bytes).saturating_mul(EPOCH_COPIES);
        self.epoch_len
            .store(windows.saturating_add(copies), Relaxed);
        let epoch = self.advance(cost);
        self.tiles.warm(request, cost, epoch);
        match self.offer(request, copy, price, epoch) {
            Some(offer) => Admit::Window(offer),
            None => Admit::Copy,
        }
    }

    /// Returns the window that `request` is worth, if it is worth one.
    fn offer(&self, request: &GpaSpan, copy: CopyCost, price: Price, epoch: u16) -> Option<Offer> {
        let granule_ns = copy.of_bytes(GRANULE).max(1);
        let some = price.both() / SOME;
        let is_reused = |used: &Use| {
            let once = used.granules.saturating_mul(granule_ns);
            used.ns >= once.saturating_mul(TOUCHES).max(some)
        };
        let own = request.round_out(GRANULE)?;
        let mut best = (own, self.tiles.used(&own, epoch));
        let mut size = own.len().checked_next_power_of_two()?;
        while size <= self.size_max.load(Relaxed) {
            let is_dear = copy.of_bytes(size).saturating_mul(DEAR) <= price.both();
            if size > SIZE_ALWAYS && !is_dear {
                break;
            }
            if let Some(span) = request.round_out(size).filter(|span| span.len() == size) {
                let used = self.tiles.used(&span, epoch);
                if used.granules.saturating_mul(4) < span.granules().saturating_mul(3) {
                    break;
                }
                best = (span, used);
            }
            size = size.checked_mul(2)?;
        }
        let (span, used) = best;
        if !is_reused(&used) {
            return None;
        }
        let bar = Heat::of(&self.bar).at(epoch);
        let colder = u64::from(bar.ns).saturating_mul(span.granules());
        let is_worth = self.has_room(span.len()) || used.ns >= threshold(price.both(), colder);
        (is_worth && self.share.is_left()).then_some(Offer {
            size: span.len(),
            worth: used.ns,
        })
    }

    /// Returns whether there is room for a window of `len` bytes.
    fn has_room(&self, len: u64) -> bool {
        self.bytes_left.load(Relaxed) >= len && self.entries_left.load(Relaxed) != 0
    }

    /// Returns the epoch.
    fn epoch(&self) -> u16 {
        // CAST: The shift leaves 16 bits.
        (self.progress.load(Relaxed) >> EPOCH_SHIFT) as u16
    }

    /// Counts `ns` nanoseconds of copying, done or saved. Returns the epoch.
    fn advance(&self, ns: u64) -> u16 {
        const MASK: u64 = (1 << EPOCH_SHIFT) - 1;
        let old = self.progress.load(Relaxed);
        let over = (old & MASK).saturating_add(ns);
        let stretch = self.stretch.load(Relaxed);
        let len = self.epoch_len.load(Relaxed).min(MASK >> STRETCH_MAX) << stretch;
        let is_over = over >= len;
        let new = if is_over {
            // The epoch wraps.
            (old & !MASK).wrapping_add(1 << EPOCH_SHIFT)
        } else {
            old & !MASK | over
        };
        // An epoch must not come again, or what was used since would count as old. If another CPU
        // was faster, this request does not count.
        let counted = self.progress.cmpxchg(old, new, Relaxed).is_ok();
        if counted && is_over {
            let is_quiet = self.windows_used.xchg(0, Relaxed) == 0 && self.has_room(SIZE_ALWAYS);
            let stretch = match is_quiet {
                true => stretch.saturating_add(1).min(STRETCH_MAX),
                false => stretch.saturating_sub(1),
            };
            self.stretch.store(stretch, Relaxed);
        }
        self.epoch()
    }

    /// Counts `uses` of the window `id` since the last call, which saved as many copies if the
    /// window was admitted, and otherwise that it is mapped anew for `price`. Returns the heat of
    /// the window in nanoseconds.
    ///
    /// Context: engine lock held.
    pub(super) fn credit(&self, id: Id, uses: u32, price: Price) -> u64 {
        // CAST: `usize` has at least 32 bits.
        let Some(slot) = self.windows.get(id as usize) else {
            return 0;
        };
        let old = Heat::of(slot);
        let mut epoch = self.epoch();
        let mut heat = old.at(epoch);
        if uses == 0 {
            return heat.ns.into();
        }
        if old.granules == 0 {
            // Of these uses one would be a miss.
            let miss = u32::try_from(price.both()).unwrap_or(u32::MAX);
            heat.ns = heat.ns.max(miss.saturating_mul(2));
        } else {
            self.windows_used.store(1, Relaxed);
            let saved = (self.request.load(Relaxed) >> 4).saturating_mul(uses.into());
            epoch = self.advance(saved);
            // They were in all epochs since the last call.
            let epochs = u64::from(epoch.wrapping_sub(old.epoch)).saturating_add(1);
            let each = saved.checked_div(epochs).unwrap_or(0);
            let before = if epochs > 2 { each } else { 0 };
            heat = old.at(epoch).plus(each.saturating_add(before));
        }
        // A window has no granules; all of it counts as used.
        heat.granules = old.granules;
        heat.store(slot);
        heat.ns.into()
    }

    /// Records that the window `id`, which serves `span`, was created with `worth` as its heat, or
    /// for memory that must not be copied.
    pub(super) fn opened(&self, id: Id, span: &GpaSpan, worth: Option<u64>) {
        let epoch = self.epoch();
        let cold = Heat {
            ns: 0,
            granules: u16::from(worth.is_some()),
            epoch,
        };
        // CAST: `usize` has at least 32 bits.
        if let Some(slot) = self.windows.get(id as usize) {
            cold.plus(worth.unwrap_or(0)).store(slot);
        }
        if worth.is_some() {
            self.windows_used.store(1, Relaxed);
            self.tiles.cool(span, epoch);
        }
    }

    /// Records that the window of `span`, which had the heat `ns`, made room for another.
    pub(super) fn displaced(&self, span: &GpaSpan, ns: u64) {
        self.tiles.warm(span, ns, self.epoch());
    }

    /// Records that windows with less than `ns` nanoseconds of heat for each granule do not make
    /// room.
    pub(super) fn raise_bar(&self, ns: u64) {
        let bar = Heat {
            ns: u32::try_from(ns).unwrap_or(u32::MAX),
            granules: 0,
            epoch: self.epoch(),
        };
        bar.store(&self.bar);
    }

    /// Records that the host refused a window of `len` bytes that was admitted.
    pub(super) fn refused(&self, len: u64) {
        let size = self.size_max.load(Relaxed);
        if len <= size && size > SIZE_ALWAYS {
            self.size_max.store(size / 2, Relaxed);
        }
    }

    /// Counts `ns` nanoseconds that were spent on windows.
    pub(super) fn pay(&self, ns: u64) {
        self.share.spend(ns);
    }

    /// Records what there is room for.
    pub(super) fn note_room(&self, bytes: Room, entries: Room) {
        self.bytes_left.store(bytes.left, Relaxed);
        self.entries_left.store(entries.left, Relaxed);
        let used = entries.max.saturating_sub(entries.left);
        self.entries_used.store(used, Relaxed);
    }
}

/// Returns the heat that memory must have for a window that takes `price` with what makes room for
/// it, if that has the heat `colder`.
pub(super) fn threshold(price: u64, colder: u64) -> u64 {
    price.saturating_add(colder.saturating_mul(MARGIN))
}
