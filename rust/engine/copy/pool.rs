// SPDX-License-Identifier: GPL-2.0

//! The copy pool: memory that is mapped once, and the slots in it.
//!
//! The pool consists of *rows* of 64 pages, contiguous for the CPU and for the device. A slot is a
//! run of pages of one row. It is taken and returned by one exchange each; a record at its first
//! page says what it is for, and exists exactly as long as the mapping.
//!
//! Context of all functions but [`SlotPool::new`]: any.

use super::pages::{
    Pages,
    ROW_PAGES, //
};
use super::slot::{
    len_of,
    pages,
    state,
    Place,
    Slot,
    LIVE,
    WRITABLE, //
};
use super::stats::{
    sum,
    CopyStats,
    Zone, //
};
use super::wait::VAIN_SHARE;
use super::{
    Memory,
    Preference,
    Transfer, //
};
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan,
    PAGE, //
};
use crate::engine::admission::CopyCost;
use crate::engine::static_map::Region;
use crate::engine::time_share::TimeShare;
use crate::engine::window::NotHeld;
use crate::sys::{
    Acquire,
    Alloc,
    AllocError,
    Atomic,
    BoxedSlice,
    Relaxed,
    Release,
    Stopwatch, //
};

/// Bytes of a row: the longest slot.
pub(crate) const ROW: u64 = PAGE * ROW_PAGES as u64;

/// Number of processors that count and search apart from each other.
const ZONES: usize = 16;

/// Pages of a slot above which it is looked for in the opposite direction, so that short ones do
/// not cut up the rows that long ones need.
const LONG: u32 = ROW_PAGES / 4;

/// 64 neighbouring pages of the pool.
pub(super) struct Row {
    pub(super) gpa: Gpa,
    pub(super) iova: Iova,
    pub(super) pages: Pages,
}

/// See the module's documentation.
pub(crate) struct SlotPool<M> {
    pub(super) memory: M,
    preference: Preference,
    /// Clear slots when they are returned, so that the device reaches what is mapped now only.
    wipe: bool,
    /// The rows, sorted by IOVA.
    rows: BoxedSlice<Row>,
    /// A record for each page.
    slots: BoxedSlice<Slot>,
    /// The part of the DMA addresses in which all rows are.
    bounds: (u64, u64),
    /// Pages in use.
    pub(super) used: Atomic<u64>,
    /// The most pages in use so far.
    peak: Atomic<u64>,
    /// Not 0 once nothing is mapped any more.
    closed: Atomic<u32>,
    /// The time that may be waited for slots in vain.
    pub(super) vain: TimeShare,
    /// The counters of processors, in an allocation of their own: the pool is moved when it is set
    /// up, and stacks are small.
    zones: BoxedSlice<Zone>,
}

/// Sorts `regions` by IOVA. The sorts of `core` can panic.
fn sort(regions: &mut [Region]) {
    let mut rest = regions;
    while let [first, others @ ..] = rest {
        for other in others.iter_mut() {
            if other.iova().start() < first.iova().start() {
                core::mem::swap(first, other);
            }
        }
        rest = others;
    }
}

/// Returns row number `index` of `regions`.
fn row(regions: &[Region], index: usize) -> Option<Row> {
    // CAST: `usize` has at most 64 bits.
    let mut offset = (index as u64).checked_mul(ROW)?;
    for region in regions {
        // What is left of a region behind its last row is not used.
        let len = region.gpa().len() & !(ROW - 1);
        match offset.checked_sub(len) {
            Some(rest) => offset = rest,
            None => {
                return Some(Row {
                    gpa: Gpa::new(region.gpa().start().raw().checked_add(offset)?),
                    iova: Iova::new(region.iova().start().raw().checked_add(offset)?),
                    pages: Pages::new(),
                });
            }
        }
    }
    None
}

/// Nanoseconds that a copy takes besides its bytes: to find a slot and to return it.
const REQUEST_NS: u64 = 300;

/// Returns what it costs to copy data through `region`, a part of a pool that is not in use yet, in
/// and out: the least of some measurements, since others may interrupt one.
///
/// Context: process, may sleep.
pub(crate) fn measure<M: Memory>(memory: &M, region: &Region) -> CopyCost {
    let half = ROW / 2;
    let from = region.gpa().start();
    let to = Gpa::new(from.raw().saturating_add(half));
    let times = (0..8).map(|_| {
        let time = Stopwatch::start();
        memory.copy(from, to, half);
        time.elapsed_ns()
    });
    let each = times.min().unwrap_or(0).saturating_mul(2 << 10);
    CopyCost {
        request_ns: REQUEST_NS,
        kib_ns: each.checked_div(half).unwrap_or(0).max(1),
    }
}

impl<M: Memory> SlotPool<M> {
    /// Creates a pool of `regions`, memory of the caller that the host has mapped, at least a row.
    /// With `wipe`, slots are cleared when they are returned. Regions must begin at pages.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(
        memory: M,
        regions: &[Region],
        preference: Preference,
        wipe: bool,
    ) -> Result<Self, AllocError> {
        let mut sorted = BoxedSlice::copy_of(regions)?;
        sort(&mut sorted);
        let rows = sorted.iter().map(|region| region.gpa().len() / ROW);
        let rows = rows.fold(0, u64::saturating_add);
        let rows = usize::try_from(rows).map_err(|_| AllocError)?;
        let pages = rows.checked_mul(ROW_PAGES as usize).ok_or(AllocError)?;
        row(&sorted, 0).ok_or(AllocError)?;
        let rows = BoxedSlice::new(rows, Alloc::Sleep, |index| {
            row(&sorted, index).unwrap_or(Row {
                // Not reached: there are as many rows as were counted.
                gpa: Gpa::new(0),
                iova: Iova::new(0),
                pages: Pages::new(),
            })
        })?;
        let slots = BoxedSlice::new(pages, Alloc::Sleep, |_| Slot {
            origin: Atomic::new(0),
            state: Atomic::new(0),
        })?;
        let first = rows.first().ok_or(AllocError)?.iova.raw();
        let last = rows.last().ok_or(AllocError)?.iova.raw();
        Ok(Self {
            memory,
            preference,
            wipe,
            rows,
            slots,
            bounds: (first, last.saturating_sub(first).saturating_add(ROW)),
            used: Atomic::new(0),
            peak: Atomic::new(0),
            closed: Atomic::new(0),
            vain: TimeShare::new(VAIN_SHARE),
            zones: BoxedSlice::new(ZONES, Alloc::Sleep, |_| Zone::new())?,
        })
    }

    /// Returns the choice between slots and windows.
    pub(crate) fn preference(&self) -> Preference {
        self.preference
    }

    /// Closes the pool for good: nothing is copied for new mappings. Those that exist can be
    /// unmapped as before.
    pub(crate) fn close(&self) {
        // No ordering: a call on another CPU may have been just before this.
        self.closed.store(1, Relaxed);
    }

    /// Returns whether nothing is mapped any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed) != 0
    }

    /// Returns the counters of this processor.
    pub(super) fn zone(&self) -> (usize, Option<&Zone>) {
        let number = self.memory.processor() % ZONES;
        (number, self.zones.get(number))
    }

    /// Returns whether a mapping of `span` can be copied at all.
    pub(crate) fn accepts(&self, span: &GpaSpan) -> bool {
        pages(span.start().raw(), span.len()) <= ROW_PAGES
            && !self.is_closed()
            && self.memory.reaches(span)
    }

    /// Maps `span`, which the pool [`accepts`](Self::accepts), by a slot that the device reaches:
    /// takes one and copies the data. Returns [`None`] if there is no slot.
    pub(crate) fn map(&self, span: &GpaSpan, transfer: Transfer, dma_limit: u64) -> Option<Iova> {
        let (start, len) = (span.start().raw(), span.len());
        let count = pages(start, len);
        let (number, zone) = self.zone();
        let (index, first) = self.take(number, count, dma_limit)?;
        let place = Place {
            row: self.rows.get(index)?,
            slot: self.slot(index, first)?,
            first,
            state: state(span, transfer),
        };
        self.memory.copy(span.start(), place.memory(0), len);
        place.slot.origin.store(start, Relaxed);
        // Release: a look-up that finds the state finds the origin.
        place.slot.state.store(place.state, Release);
        if let Some(zone) = zone {
            zone.copies.fetch_add(1, Relaxed);
            zone.bytes_in.fetch_add(len, Relaxed);
        }
        Some(place.iova())
    }

    /// Takes `count` pages of one row that the device reaches. Returns the numbers of the row and
    /// of its first page.
    fn take(&self, number: usize, count: u32, dma_limit: u64) -> Option<(usize, u32)> {
        let rows = self.rows.len();
        let start = number.checked_mul(rows)? / ZONES;
        let in_reach = |row: &Row| row.iova.raw().saturating_add(ROW - 1) <= dma_limit;
        for step in 0..rows {
            let index = if count <= LONG {
                start.checked_add(step)?.checked_rem(rows)?
            } else {
                let behind = start.checked_add(rows)?.checked_sub(step)?;
                behind.checked_sub(1)?.checked_rem(rows)?
            };
            let row = self.rows.get(index).filter(|row| in_reach(row));
            if let Some(first) = row.and_then(|row| row.pages.take(count)) {
                self.note_used(count);
                return Some((index, first));
            }
        }
        None
    }

    /// Sets the peak to the pages in use now.
    pub(crate) fn reset_peak(&self) {
        self.peak.store(0, Relaxed);
        self.note_used(0);
    }

    /// Counts `count` pages as used.
    fn note_used(&self, count: u32) {
        let before = self.used.fetch_add(count.into(), Relaxed);
        let now = before.saturating_add(count.into());
        let mut peak = self.peak.load(Relaxed);
        while peak < now {
            match self.peak.cmpxchg(peak, now, Relaxed) {
                Ok(_) => break,
                Err(other) => peak = other,
            }
        }
    }

    /// Returns the record of page number `page` of row number `row`.
    fn slot(&self, row: usize, page: u32) -> Option<&Slot> {
        // CAST: There are 64 pages.
        let index = row.checked_mul(ROW_PAGES as usize)?;
        self.slots.get(index.checked_add(page as usize)?)
    }

    /// Returns whether `iova` may be an address of a slot: whether it lies in the pool.
    #[inline]
    pub(crate) fn contains(&self, iova: Iova) -> bool {
        let (first, len) = self.bounds;
        iova.raw().wrapping_sub(first) < len && self.row_of(iova).is_some()
    }

    /// Returns the row with the address `iova`, with its number.
    fn row_of(&self, iova: Iova) -> Option<(usize, &Row)> {
        let (mut low, mut high) = (0, self.rows.len());
        while low < high {
            let middle = low.checked_add(high)? / 2;
            if self.rows.get(middle)?.iova <= iova {
                low = middle.checked_add(1)?;
            } else {
                high = middle;
            }
        }
        let index = low.checked_sub(1)?;
        let row = self.rows.get(index)?;
        (iova.raw().wrapping_sub(row.iova.raw()) < ROW).then_some((index, row))
    }

    /// Returns the place of the mapping that has all of `span`; [`None`] if there is none.
    fn find(&self, span: &IovaSpan) -> Option<Place<'_>> {
        let (index, row) = self.row_of(span.start())?;
        let offset = span.start().raw().wrapping_sub(row.iova.raw());
        let page = u32::try_from(offset / PAGE).ok()?;
        // The slot begins at this page or at one before it.
        let (slot, first, state) = (0..=page).rev().find_map(|page| {
            let slot = self.slot(index, page)?;
            // Acquire: the origin is that of this slot.
            let state = slot.state.load(Acquire);
            (state & LIVE != 0).then_some((slot, page, state))
        })?;
        let place = Place {
            row,
            slot,
            first,
            state,
        };
        let end = place.start().checked_add(len_of(state))?;
        let is_in = place.start() <= offset && offset.checked_add(span.len())? <= end;
        is_in.then_some(place)
    }

    /// Unmaps the mapping at `span`, exactly; with `sync`, copies what the device may have written.
    /// Fails if there is no such mapping.
    pub(crate) fn unmap(&self, span: &IovaSpan, sync: bool) -> Result<(), NotHeld> {
        let place = self.find(span).ok_or(NotHeld)?;
        let len = len_of(place.state);
        if place.iova() != span.start() || len != span.len() {
            return Err(NotHeld);
        }
        // Whoever makes this exchange has the slot for itself. Acquire: what follows uses the
        // origin of this mapping.
        let claimed = place.slot.state.cmpxchg(place.state, 0, Acquire);
        claimed.map_err(|_| NotHeld)?;
        let (_, zone) = self.zone();
        if sync && place.state & WRITABLE != 0 {
            self.memory.copy(place.memory(0), place.buffer(0), len);
            if let Some(zone) = zone {
                zone.bytes_out.fetch_add(len, Relaxed);
            }
        }
        if let Some(memory) = GpaSpan::new(place.memory(0), len).filter(|_| self.wipe) {
            self.memory.clear(&memory);
        }
        self.put(&place);
        if let Some(zone) = zone {
            zone.ended.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Returns the pages of `place`, whose record is gone.
    fn put(&self, place: &Place<'_>) {
        place.row.pages.put(place.first, place.pages());
        let pages = u64::from(place.pages());
        // Release: a call that waits for this to change finds the pages.
        self.used.fetch_add(pages.wrapping_neg(), Release);
    }

    /// Passes the part of a mapping at `span` to the CPU: copies it from the slot if the device may
    /// write. Does nothing if no mapping has all of `span`.
    pub(crate) fn sync_for_cpu(&self, span: &IovaSpan) {
        let place = self.find(span);
        if let Some(place) = place.filter(|place| place.state & WRITABLE != 0) {
            let skip = span.start().raw().wrapping_sub(place.iova().raw());
            self.memory
                .copy(place.memory(skip), place.buffer(skip), span.len());
            if let (_, Some(zone)) = self.zone() {
                zone.bytes_out.fetch_add(span.len(), Relaxed);
            }
        }
    }

    /// Passes the part of a mapping at `span` to the device: copies it to the slot, so that what
    /// the device does not write reads as the CPU left it. Does nothing if no mapping has all of
    /// `span`.
    pub(crate) fn sync_for_device(&self, span: &IovaSpan) {
        if let Some(place) = self.find(span) {
            let skip = span.start().raw().wrapping_sub(place.iova().raw());
            self.memory
                .copy(place.buffer(skip), place.memory(skip), span.len());
            if let (_, Some(zone)) = self.zone() {
                zone.bytes_in.fetch_add(span.len(), Relaxed);
            }
        }
    }

    /// Returns the driver's memory behind the mapping that has all of `span`.
    pub(crate) fn gpa_of(&self, span: &IovaSpan) -> Option<Gpa> {
        let place = self.find(span)?;
        Some(place.buffer(span.start().raw().wrapping_sub(place.iova().raw())))
    }

    /// Returns the statistics.
    pub(crate) fn stats(&self) -> CopyStats {
        let sum = |count| sum(&self.zones, count);
        // CAST: `usize` has at most 64 bits.
        let rows = self.rows.len() as u64;
        let used = self.rows.iter().map(|row| u64::from(row.pages.used()));
        let used = used.fold(0, u64::saturating_add);
        CopyStats {
            copies: sum(|zone| &zone.copies),
            ended: sum(|zone| &zone.ended),
            bytes_in: sum(|zone| &zone.bytes_in),
            bytes_out: sum(|zone| &zone.bytes_out),
            waited: sum(|zone| &zone.waited),
            full: sum(|zone| &zone.full),
            pool: rows.saturating_mul(ROW),
            used: used.saturating_mul(PAGE),
            peak: self.peak.load(Relaxed).saturating_mul(PAGE),
        }
    }
}
