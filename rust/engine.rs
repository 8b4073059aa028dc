// SPDX-License-Identifier: GPL-2.0

//! The mapping engine: turns many mappings of a driver into few mappings of the host.
//!
//! The engine knows which windows the host has, finds the one that serves a request, asks for new
//! ones in batches and gives idle ones back. It is pure: what it needs of the system is in
//! [`crate::sys`], what it needs of the host in [`Host`], so the same code runs in the kernel and in
//! user-space tests.
//!
//! All entry points may be called in any context unless they say otherwise. A request that existing
//! windows serve takes no lock, allocates nothing and does not go to the host. Everything else runs
//! under one lock with interrupts off, which is held for one doorbell at most.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan,
    GRANULE,
    PAGE, //
};
use crate::arena::{
    Arena,
    FreeList,
    Id,
    Linked,
    Segment,
    NONE, //
};
use crate::granule_map::{
    chunks_anywhere,
    chunks_for,
    Chunks,
    GranuleMap, //
};
use crate::policy::{
    smallest,
    Policy,
    Proposal,
    Ram,
    Room,
    View, //
};
use crate::ram_map::RamMap;
use crate::sys::{
    Acquire,
    Alloc,
    AllocError,
    Atomic,
    Guard,
    Lock,
    Relaxed,
    Release,
    Slab, //
};
use crate::whole::{
    Piece,
    Whole,
    MAX_PIECES, //
};
use crate::window::{
    NotHeld,
    Put,
    State,
    Take,
    Window, //
};
use crate::wire::{
    MapOutcome,
    Reject,
    UnmapOutcome, //
};

/// Rounds of the slow path before a request is given up. Every round but the last makes progress, so
/// this bounds what a host can do that keeps us busy, not what a driver can map.
const MAX_ROUNDS: usize = 4096;

/// How many other keys are tried when a window's own is taken.
const MAX_KEYS: u64 = 1024;

/// What one reclaim gives back at least, if so many windows are idle.
const RECLAIM: usize = 64;

/// How many windows are looked at under the lock at a time when idle ones are wanted.
const SCAN: u32 = 4096;

/// The largest piece of RAM that is asked for when all of it is mapped at once, in bytes: the most
/// that is a power of two and that both dialects can say.
const WHOLE_MAX: u64 = 2 << 30;

/// The smallest such piece.
const WHOLE_MIN: u64 = 64 << 20;

/// One entry of a batch of map requests.
#[derive(Clone, Copy)]
pub(crate) struct MapEntry {
    /// What to map. Its first address is the key of the mapping.
    pub(crate) span: GpaSpan,
    /// What the host said.
    pub(crate) outcome: MapOutcome,
    id: Id,
}

/// One entry of a batch of unmap requests.
#[derive(Clone, Copy)]
pub(crate) struct UnmapEntry {
    /// What to unmap. Its first address is the key of the mapping.
    pub(crate) span: GpaSpan,
    /// What the host said.
    pub(crate) outcome: UnmapOutcome,
    id: Id,
}

impl MapEntry {
    /// An entry that has no window of the engine.
    pub(crate) fn new(span: GpaSpan) -> Self {
        Self {
            span,
            outcome: MapOutcome::Unknown,
            id: NONE,
        }
    }
}

impl UnmapEntry {
    /// An entry that has no window of the engine.
    pub(crate) fn new(span: GpaSpan) -> Self {
        Self {
            span,
            outcome: UnmapOutcome::Unknown,
            id: NONE,
        }
    }
}

/// The host, as the engine sees it: one that does what it is asked in batches, or does not.
///
/// It is called under the engine's lock, with interrupts off, and must not sleep.
pub(crate) trait Host: Unpin {
    /// Most entries of one batch. Does not change.
    fn batch_max(&self) -> usize;

    /// Most bytes of one mapping.
    fn len_max(&self) -> u64;

    /// Asks for the mappings of `batch`, which is not empty nor longer than [`Self::batch_max`],
    /// with one doorbell, and fills in every outcome.
    fn map(&mut self, batch: &mut [MapEntry]);

    /// Gives back the mappings of `batch`; as [`Self::map`].
    fn unmap(&mut self, batch: &mut [UnmapEntry]);
}

/// One thing to map, with a place for its address.
pub(crate) trait Request {
    /// The guest memory; [`None`] if it is empty or wraps around.
    fn span(&self) -> Option<GpaSpan>;

    /// Where it is mapped, once it is.
    fn iova(&self) -> Option<Iova>;

    /// The addresses that it is mapped at, once it is.
    fn mapped(&self) -> Option<IovaSpan> {
        IovaSpan::new(self.iova()?, self.span()?.len())
    }

    /// Notes where it is mapped, or that it is not.
    fn set_iova(&self, iova: Option<Iova>);
}

/// Which of the limits a request did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Bytes mapped.
    Bytes,
    /// Mappings.
    Entries,
}

/// Why something was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapError {
    /// The request is empty or wraps around.
    Invalid,
    /// A limit is reached and nothing idle can be given back.
    Full(Limit),
    /// The host put the mapping where the device cannot reach it.
    Unreachable(Iova),
    /// The host refused.
    Refused,
    /// The host's answer could not be believed.
    Rejected(Reject),
    /// The host did not answer.
    NoAnswer,
    /// No memory for the engine's own tables.
    NoMemory,
    /// No free key was found for the window.
    NoKey,
}

impl MapError {
    /// What is wrong, in words for a message.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            MapError::Invalid => "it is empty, or not plain memory",
            MapError::Full(Limit::Bytes) => "no room in max_bytes, and nothing is idle",
            MapError::Full(Limit::Entries) => "no room in max_entries, and nothing is idle",
            MapError::Unreachable(_) => "the device does not reach the address it got",
            MapError::Refused => "the host refuses",
            MapError::Rejected(_) => "the host's answer is wrong",
            MapError::NoAnswer => "the host does not answer",
            MapError::NoMemory => "out of memory",
            MapError::NoKey => "all keys are taken",
        }
    }
}

/// How the engine is set up.
pub(crate) struct Config {
    /// Give windows back as soon as they are idle.
    pub(crate) strict: bool,
    /// Most bytes to have mapped at a time, in whole granules.
    pub(crate) max_bytes: u64,
    /// Most mappings to have at a time.
    pub(crate) max_entries: u32,
    /// The blocks of guest RAM.
    pub(crate) ram: Ram,
    /// Most granules of RAM that have a place in a flat table.
    pub(crate) table_max: usize,
}

/// What happened so far. Costs the fast path nothing: it is counted under the lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Batches sent.
    pub(crate) doorbells: u64,
    /// Windows made.
    pub(crate) mapped: u64,
    /// Windows given back.
    pub(crate) unmapped: u64,
    /// Mappings that the host refused.
    pub(crate) refused: u64,
    /// Answers that could not be believed.
    pub(crate) rejected: u64,
    /// Requests that the host did not answer.
    pub(crate) unanswered: u64,
    /// Mappings of an earlier kernel that were in the way and were given back.
    pub(crate) stale: u64,
    /// Windows that the host would not take back.
    pub(crate) lost: u64,
    /// Requests that failed.
    pub(crate) failed: u64,
    /// Bytes mapped now, in whole granules.
    pub(crate) bytes: u64,
    /// The most that there were.
    pub(crate) peak_bytes: u64,
    /// Mappings now.
    pub(crate) entries: u32,
    /// The most that there were.
    pub(crate) peak_entries: u32,
}

/// What was found when everything was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Released {
    /// Windows that drivers had not unmapped.
    pub(crate) busy: u32,
    /// Windows that the host would not take back.
    pub(crate) lost: u32,
}

/// See the module's documentation.
pub(crate) struct Engine<H, P> {
    strict: bool,
    max_bytes: u64,
    max_entries: u32,
    ram: Ram,
    policy: P,
    /// All of RAM, if it is mapped at once.
    whole: Option<Whole>,
    windows: Arena<Window>,
    chunks: Chunks,
    /// Finds a window by a granule that it covers.
    by_gpa: RamMap,
    /// Finds a window that is not a tile by the granule that its request began in.
    by_start: GranuleMap,
    /// Finds a window by a granule of its IOVAs.
    by_iova: GranuleMap,
    /// Windows that their last user closed, not yet given back.
    retired: Atomic<u32>,
    slow: Lock<Slow<H>>,
}

/// What the lock protects.
struct Slow<H> {
    host: H,
    free_windows: FreeList,
    free_chunks: FreeList,
    /// Chunks that pending windows will need.
    reserved_chunks: usize,
    /// Buckets of windows by their keys.
    keys: Slab<Id>,
    /// The first of the windows to be given back.
    retired: Id,
    /// The last window that the reclaimer looked at.
    hand: Id,
    map: Batch<MapEntry>,
    unmap: Batch<UnmapEntry>,
    /// Keys that the host refused although we do not use them. Perhaps an earlier kernel did.
    suspects: Batch<GpaSpan>,
    stats: Stats,
}

/// Entries that go to the host together. Its memory is allocated once.
struct Batch<T> {
    entries: Slab<T>,
    len: usize,
}

impl<T: Copy> Batch<T> {
    fn new(max: usize, fill: T) -> Result<Self, AllocError> {
        Ok(Self {
            entries: Slab::new(max, Alloc::Sleep, |_| fill)?,
            len: 0,
        })
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn is_full(&self) -> bool {
        self.len >= self.entries.len()
    }

    fn push(&mut self, entry: T) {
        if let Some(slot) = self.entries.get_mut(self.len) {
            *slot = entry;
            self.len = self.len.saturating_add(1);
        }
    }

    fn get(&self, index: usize) -> Option<T> {
        self.filled().get(index).copied()
    }

    fn filled(&self) -> &[T] {
        self.entries.get(..self.len).unwrap_or(&[])
    }

    fn filled_mut(&mut self) -> &mut [T] {
        self.entries.get_mut(..self.len).unwrap_or(&mut [])
    }

    fn clear(&mut self) {
        self.len = 0;
    }
}

/// How windows are chosen for what is still missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// As the policy proposes.
    Policy,
    /// The smallest that serves.
    Smallest,
}

/// What the rounds for one call hand on to each other.
struct Turn {
    choice: Choice,
    /// Whether the tables could grow the last time that they had to.
    may_grow: bool,
    /// Windows that were looked at since the last idle one was found.
    scanned: u32,
}

/// What came of one round of the slow path.
enum Round {
    /// Everything is mapped.
    Done,
    /// There is more to do, and this round brought it nearer.
    Again,
    /// The tables are too small; the round can go on after they have grown.
    Grow,
    /// This choice of windows does not work.
    Failed(MapError),
}

/// What stands in the way of a new window.
enum Obstacle {
    /// The batch has no room.
    Batch,
    /// One of the limits.
    Limit(Limit),
    /// The tables have no room.
    Tables,
    /// All keys that the window could have are taken.
    Key,
    /// It will not get better.
    Fatal(MapError),
}

impl<H: Host, P: Policy> Engine<H, P> {
    /// Sets up an engine that asks `host`. May sleep.
    pub(crate) fn new(host: H, policy: P, config: Config) -> Result<Self, AllocError> {
        let entries = usize::try_from(config.max_entries).unwrap_or(usize::MAX);
        let megabytes = usize::try_from(config.max_bytes >> 20).unwrap_or(usize::MAX);
        // In the worst case every window has chunks of its own in all three maps: one where it is
        // known by its start, two more than it has megabytes in each of the others.
        let chunks = entries
            .saturating_mul(5)
            .saturating_add(megabytes.saturating_mul(2))
            .min(1 << 28);
        let bits = (config.max_entries / 4).max(64).ilog2();
        let batch = host.batch_max();
        let fill = GpaSpan::new(Gpa::new(0), 1).ok_or(AllocError)?;

        let by_gpa = RamMap::new(&config.ram, config.table_max, GranuleMap::new(bits, 0)?)?;

        Ok(Self {
            strict: config.strict,
            max_bytes: config.max_bytes,
            max_entries: config.max_entries,
            ram: config.ram,
            policy,
            whole: None,
            windows: Arena::new(entries.min(1 << 28))?,
            chunks: Arena::new(chunks)?,
            by_gpa,
            by_start: GranuleMap::new(bits, 1)?,
            by_iova: GranuleMap::new(bits, 2)?,
            retired: Atomic::new(NONE),
            slow: Lock::new(Slow {
                host,
                free_windows: FreeList::new(),
                free_chunks: FreeList::new(),
                reserved_chunks: 0,
                keys: Slab::new(1 << bits, Alloc::Sleep, |_| NONE)?,
                retired: NONE,
                hand: NONE,
                map: Batch::new(batch, MapEntry::new(fill))?,
                unmap: Batch::new(batch, UnmapEntry::new(fill))?,
                suspects: Batch::new(batch, fill)?,
                stats: Stats::default(),
            })?,
        })
    }

    /// Makes the tables large enough for `windows` windows of up to 1 MiB beforehand. May sleep.
    pub(crate) fn reserve(&self, windows: usize) -> Result<(), AllocError> {
        let chunks = windows.saturating_mul(2);
        loop {
            let (few_windows, few_chunks) = {
                let slow = self.slow.lock();
                (
                    slow.free_windows.len() < windows,
                    slow.free_chunks.len() < chunks,
                )
            };
            if !few_windows && !few_chunks {
                return Ok(());
            }
            if !self.grow(few_windows, few_chunks, Alloc::Sleep) {
                return Err(AllocError);
            }
        }
    }

    /// Maps all of RAM at once, if it fits the budgets with an eighth to spare for what is not RAM
    /// yet, and if windows may stay mapped. Fails with nothing mapped. May sleep.
    pub(crate) fn map_whole(&mut self) -> Result<(), MapError> {
        let bytes = self
            .ram
            .blocks()
            .iter()
            .fold(0u64, |sum, block| sum.saturating_add(cost(block)));
        let budget = self.max_bytes.saturating_sub(self.max_bytes / 8);
        if self.strict || bytes > budget {
            return Err(MapError::Full(Limit::Bytes));
        }
        let mut size = WHOLE_MAX;
        loop {
            match self.map_pieces(size) {
                Ok(pieces) => {
                    self.whole = Some(Whole::new(pieces));
                    return Ok(());
                }
                Err(error) => {
                    self.release();
                    // Perhaps the host can do it in smaller pieces, if only there are few.
                    if error != MapError::Refused || size <= WHOLE_MIN {
                        return Err(error);
                    }
                }
            }
            size /= 4;
        }
    }

    /// Takes DMA addresses to be guest-physical addresses, for a host without a DART. There is
    /// nothing to map then.
    pub(crate) fn set_identity(&mut self) -> Result<(), AllocError> {
        let piece = GpaSpan::from_bounds(0, u64::MAX)
            .and_then(|all| Piece::new(all, Iova::new(0)))
            .ok_or(AllocError)?;
        self.whole = Some(Whole::new(Slab::new(1, Alloc::Sleep, |_| piece)?));
        Ok(())
    }

    /// Maps all of RAM in pieces of `size` bytes. On failure some may be mapped.
    fn map_pieces(&self, size: u64) -> Result<Slab<Piece>, MapError> {
        let mut pieces: [Option<Piece>; MAX_PIECES] = [None; MAX_PIECES];
        let mut count: usize = 0;
        for block in self.ram.blocks() {
            let mut start = block.start().raw();
            while start < block.end() {
                let end = start.saturating_add(size).min(block.end());
                let span = GpaSpan::from_bounds(start, end).ok_or(MapError::Invalid)?;
                let (earlier, free) = pieces
                    .split_at_mut_checked(count)
                    .ok_or(MapError::Full(Limit::Entries))?;
                let place = free.first_mut().ok_or(MapError::Full(Limit::Entries))?;
                let piece = match self.map_piece(&span) {
                    // An earlier kernel may have left a mapping with this key.
                    Err(MapError::Refused) if self.recover() => self.map_piece(&span),
                    result => result,
                }?;
                let taken = earlier.iter().flatten().any(|other| other.overlaps(&piece));
                if taken {
                    return Err(MapError::Rejected(Reject::Overlap));
                }
                *place = Some(piece);
                count = count.saturating_add(1);
                start = end;
            }
        }
        let pieces = pieces.get(..count).unwrap_or(&[]);
        let first = pieces.first().copied().flatten().ok_or(MapError::Invalid)?;
        Slab::new(count, Alloc::Sleep, |index| {
            pieces.get(index).copied().flatten().unwrap_or(first)
        })
        .map_err(|_| MapError::NoMemory)
    }

    /// Maps one piece of RAM for good.
    fn map_piece(&self, span: &GpaSpan) -> Result<Piece, MapError> {
        let mut slow = self.slow.lock();
        let slow = &mut *slow;
        if slow.map.is_full() {
            return Err(MapError::NoMemory);
        }
        let (id, window) = self
            .admit(slow, span, None)
            .map_err(|obstacle| match obstacle {
                Obstacle::Limit(limit) => MapError::Full(limit),
                Obstacle::Fatal(error) => error,
                Obstacle::Batch | Obstacle::Tables | Obstacle::Key => MapError::NoMemory,
            })?;
        slow.map.push(MapEntry {
            span: *span,
            outcome: MapOutcome::Unknown,
            id,
        });
        bump(&mut slow.stats.doorbells);
        slow.host.map(slow.map.filled_mut());
        let outcome = slow.map.get(0).map(|entry| entry.outcome);
        slow.map.clear();
        let piece = match outcome {
            Some(MapOutcome::Mapped(iova)) => Piece::new(*span, iova).map(|piece| (iova, piece)),
            _ => None,
        };
        match (outcome, piece) {
            (_, Some((iova, piece))) => {
                bump(&mut slow.stats.mapped);
                window.open(iova);
                window.set_state(State::Fixed);
                Ok(piece)
            }
            (Some(MapOutcome::Refused), None) => {
                bump(&mut slow.stats.refused);
                self.discard(slow, id, window);
                slow.suspects.push(*span);
                Err(MapError::Refused)
            }
            _ => {
                bump(&mut slow.stats.unanswered);
                self.quarantine(slow, id, window);
                Err(MapError::NoAnswer)
            }
        }
    }

    /// Gives back what an earlier kernel left in the way of the last request; says whether it did.
    fn recover(&self) -> bool {
        let mut slow = self.slow.lock();
        let stale = slow.stats.stale;
        self.unmap_suspects(&mut slow);
        slow.stats.stale != stale
    }

    /// Maps `span` if that takes no more than an addition: all of RAM is mapped, and the device
    /// reaches the address. There is nothing to unmap then.
    #[inline(always)]
    pub(crate) fn map_at_once(&self, span: &GpaSpan, mask: u64) -> Option<Iova> {
        self.in_whole(span)
            .filter(|iova| reachable(*iova, span, mask))
    }

    /// Whether there is nothing to do to unmap `span`: it belongs to RAM that is mapped as a whole.
    #[inline(always)]
    pub(crate) fn is_whole(&self, span: &IovaSpan) -> bool {
        match &self.whole {
            Some(whole) => whole.gpa_of(span).is_some(),
            None => false,
        }
    }

    /// Maps `span` if a window serves that is found at the first look, as most are; [`Self::map`] is
    /// for the rest. Small, so that its callers are.
    #[inline(always)]
    pub(crate) fn map_hit(&self, span: &GpaSpan, mask: u64) -> Option<Iova> {
        let id = self.by_gpa.get(&self.chunks, span.first_granule());
        match self.take(id, span) {
            Take::Hit(iova) if reachable(iova, span, mask) => Some(iova),
            Take::Miss => None,
            take => self.not_hit(take, span),
        }
    }

    /// Undoes what [`Self::map_hit`] does not want.
    #[cold]
    #[inline(never)]
    fn not_hit(&self, take: Take, span: &GpaSpan) -> Option<Iova> {
        match take {
            // It was just taken, so it is held.
            Take::Hit(iova) => drop(self.unmap(iova, span.len())),
            Take::Closed => self.give_back_retired(),
            Take::Miss => {}
        }
        None
    }

    /// Gives up a mapping at `span` if its window is found at the first look, and says whether it
    /// was; [`Self::unmap`] is for the rest.
    #[inline(always)]
    pub(crate) fn unmap_hit(&self, span: &IovaSpan) -> bool {
        let id = self.by_iova.get(&self.chunks, span.first_granule());
        let Some(window) = self.windows.get(id) else {
            return false;
        };
        match window.put(span, self.strict) {
            Ok(Put::Open) => true,
            Ok(Put::Closed) => {
                self.retire_now(id, window);
                true
            }
            Err(NotHeld) => false,
        }
    }

    /// Gives back a window that the caller closed.
    #[inline(never)]
    fn retire_now(&self, id: Id, window: &Window) {
        self.retire(id, window);
        self.give_back_retired();
    }

    /// Maps `span` where a device that reaches addresses up to `mask` can use it.
    pub(crate) fn map(&self, span: GpaSpan, mask: u64) -> Result<Iova, MapError> {
        match self.hit(&span) {
            Some(iova) if reachable(iova, &span, mask) => Ok(iova),
            Some(iova) => {
                // It was just taken, so it is held.
                let _ = self.unmap(iova, span.len());
                Err(MapError::Unreachable(iova))
            }
            None => self.map_one(span, mask),
        }
    }

    /// [`Self::map`] for what no window serves.
    #[cold]
    #[inline(never)]
    fn map_one(&self, span: GpaSpan, mask: u64) -> Result<Iova, MapError> {
        let one = One {
            span,
            iova: core::cell::Cell::new(None),
        };
        self.map_all(core::iter::once(&one), mask)?;
        one.iova.get().ok_or(MapError::Refused)
    }

    /// Maps all of `requests`, or none of them. What no window serves goes to the host together.
    pub(crate) fn map_all<'a, R, I>(&self, requests: I, mask: u64) -> Result<(), MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let mut missing = false;
        let mut result = Ok(());
        for request in requests.clone() {
            // What the place of the address held before means nothing.
            request.set_iova(None);
            if result.is_err() {
                continue;
            }
            let Some(span) = request.span() else {
                result = Err(MapError::Invalid);
                continue;
            };
            match self.hit(&span) {
                Some(iova) => {
                    request.set_iova(Some(iova));
                    if !reachable(iova, &span, mask) {
                        result = Err(MapError::Unreachable(iova));
                    }
                }
                None => missing = true,
            }
        }
        if result.is_ok() && missing {
            result = self.map_missing(requests.clone(), mask);
        }
        if result.is_err() {
            bump(&mut self.slow.lock().stats.failed);
            self.let_go(requests);
        }
        result
    }

    /// Gives up what a call that is not done has taken.
    fn let_go<'a, R, I>(&self, requests: I)
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        // These were just taken, so they are held.
        let _ = self.unmap_all(requests.clone());
        for request in requests {
            request.set_iova(None);
        }
    }

    /// Gives up the mapping of `len` bytes at `iova`.
    pub(crate) fn unmap(&self, iova: Iova, len: u64) -> Result<(), NotHeld> {
        let closed = self.put(&IovaSpan::new(iova, len).ok_or(NotHeld)?)?;
        if closed {
            self.give_back_retired();
        }
        Ok(())
    }

    /// Gives up the mappings of all of `requests` that are mapped, as many as it can; fails if one
    /// of them was not held.
    pub(crate) fn unmap_all<'a, R, I>(&self, requests: I) -> Result<(), NotHeld>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        let mut result = Ok(());
        let mut closed = false;
        for request in requests {
            let Some(span) = request.mapped() else {
                continue;
            };
            match self.put(&span) {
                Ok(last) => closed |= last,
                Err(error) => result = Err(error),
            }
        }
        if closed {
            self.give_back_retired();
        }
        result
    }

    /// The guest memory behind the mapping of `len` bytes at `iova`, which the caller holds.
    pub(crate) fn translate(&self, iova: Iova, len: u64) -> Option<Gpa> {
        let span = IovaSpan::new(iova, len)?;
        match self.whole.as_ref().and_then(|whole| whole.gpa_of(&span)) {
            Some(gpa) => Some(gpa),
            None => self.window_at(&span)?.gpa_of(&span),
        }
    }

    /// What happened so far.
    pub(crate) fn stats(&self) -> Stats {
        self.slow.lock().stats
    }

    /// Gives every window back, used or not, and says what was wrong. For the end, when no driver can
    /// use a mapping any more. Interrupts are off for a batch at a time.
    pub(crate) fn release(&self) -> Released {
        let mut released = Released::default();
        let mut done: Id = 0;
        self.give_back_retired();
        loop {
            let mut slow = self.slow.lock();
            let slow = &mut *slow;
            let last = slow.free_windows.last_id().min(done.saturating_add(SCAN));
            if done >= last {
                break;
            }
            while done < last {
                let id = done.saturating_add(1);
                let used = self.windows.get(id).filter(|w| w.state() != State::Free);
                if let Some(window) = used {
                    if slow.unmap.is_full() {
                        break;
                    }
                    if window.state() == State::Live {
                        if window.users() != 0 {
                            released.busy = released.busy.saturating_add(1);
                        }
                        window.force_close();
                        self.unlink(slow, id, window);
                    } else if window.state() == State::Fixed {
                        window.force_close();
                    }
                    self.queue_unmap(slow, id, window);
                }
                done = id;
            }
            self.ring_unmap(slow);
        }
        self.slow.lock().suspects.clear();
        released.lost = self.slow.lock().stats.entries;
        released
    }

    /// The host, under the lock.
    #[cfg(test)]
    pub(crate) fn with_host<R>(&self, f: impl FnOnce(&mut H) -> R) -> R {
        f(&mut self.slow.lock().host)
    }

    /// Takes a reference to a window that covers `span`. Lock-free; may miss one that is there.
    #[inline(always)]
    fn hit(&self, span: &GpaSpan) -> Option<Iova> {
        if let Some(iova) = self.in_whole(span) {
            return Some(iova);
        }
        let id = self.by_gpa.get(&self.chunks, span.first_granule());
        match self.take(id, span) {
            Take::Hit(iova) => Some(iova),
            take => self.hit_by_start(span, take),
        }
    }

    /// [`Self::hit`] for what the first look gave `take`.
    #[inline(never)]
    fn hit_by_start(&self, span: &GpaSpan, take: Take) -> Option<Iova> {
        if take == Take::Closed {
            self.give_back_retired();
        }
        let id = self.by_start.get(&self.chunks, span.first_granule());
        match self.take(id, span) {
            Take::Hit(iova) => Some(iova),
            Take::Miss => None,
            Take::Closed => {
                self.give_back_retired();
                None
            }
        }
    }

    /// Where `span` is if all of RAM is mapped.
    #[inline(always)]
    fn in_whole(&self, span: &GpaSpan) -> Option<Iova> {
        self.whole.as_ref()?.iova_of(span)
    }

    /// As [`Self::hit`], certain to find a window that is there. The caller holds the lock.
    fn hit_locked(&self, span: &GpaSpan) -> Option<Iova> {
        if let Some(iova) = self.in_whole(span) {
            return Some(iova);
        }
        self.candidates(span)
            .iter()
            .find_map(|id| match self.take(*id, span) {
                Take::Hit(iova) => Some(iova),
                // What was closed is in the queue, and those who hold the lock look there.
                Take::Miss | Take::Closed => None,
            })
    }

    /// The windows that may serve `span`. The caller holds the lock.
    fn candidates(&self, span: &GpaSpan) -> [Id; 2] {
        let granule = span.first_granule();
        [
            self.by_gpa.get_locked(&self.chunks, granule),
            self.by_start.get_locked(&self.chunks, granule),
        ]
    }

    #[inline(always)]
    fn take(&self, id: Id, span: &GpaSpan) -> Take {
        let Some(window) = self.windows.get(id) else {
            return Take::Miss;
        };
        let take = window.take(span, self.strict);
        if take == Take::Closed {
            self.retire(id, window);
        }
        take
    }

    /// Gives back one reference; says whether a window was closed and waits to be given back.
    #[inline(always)]
    fn put(&self, span: &IovaSpan) -> Result<bool, NotHeld> {
        if self.is_whole(span) {
            return Ok(false);
        }
        let id = self.by_iova.get(&self.chunks, span.first_granule());
        if let Some(window) = self.windows.get(id) {
            if let Ok(put) = window.put(span, self.strict) {
                return Ok(self.after_put(id, window, put));
            }
        }
        self.put_slow(span)
    }

    /// [`Self::put`] for what was not found without the lock.
    #[cold]
    #[inline(never)]
    fn put_slow(&self, span: &IovaSpan) -> Result<bool, NotHeld> {
        let id = {
            let _slow = self.slow.lock();
            self.by_iova.get_locked(&self.chunks, span.first_granule())
        };
        let window = self.windows.get(id).ok_or(NotHeld)?;
        let put = window.put(span, self.strict)?;
        Ok(self.after_put(id, window, put))
    }

    #[inline(always)]
    fn after_put(&self, id: Id, window: &Window, put: Put) -> bool {
        match put {
            Put::Open => false,
            Put::Closed => {
                self.retire(id, window);
                true
            }
        }
    }

    /// The window that `span` is mapped by.
    fn window_at(&self, span: &IovaSpan) -> Option<&Window> {
        let granule = span.first_granule();
        let id = match self.by_iova.get(&self.chunks, granule) {
            NONE => {
                let _slow = self.slow.lock();
                self.by_iova.get_locked(&self.chunks, granule)
            }
            id => id,
        };
        self.windows.get(id)
    }

    /// Queues a window that the caller closed to be given back. Lock-free.
    fn retire(&self, id: Id, window: &Window) {
        let mut head = self.retired.load(Relaxed);
        loop {
            window.link().store(head, Relaxed);
            // Release: whoever takes the list sees its links.
            match self.retired.cmpxchg(head, id, Release) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Gives back all windows that were queued before the call.
    #[cold]
    #[inline(never)]
    fn give_back_retired(&self) {
        loop {
            let mut slow = self.slow.lock();
            let slow = &mut *slow;
            // Whoever took what we queued gave it back under the lock, or left it in `slow`.
            self.collect_retired(slow);
            if slow.retired == NONE {
                return;
            }
            self.unmap_retired(slow);
        }
    }

    /// Moves what was queued without the lock to the list under it.
    fn collect_retired(&self, slow: &mut Slow<H>) {
        let mut id = self.retired.xchg(NONE, Acquire);
        while let Some(window) = self.windows.get(id) {
            let next = window.link().load(Relaxed);
            self.unlink(slow, id, window);
            window.set_state(State::Retired);
            window.link().store(slow.retired, Relaxed);
            slow.retired = id;
            id = next;
        }
    }

    /// Gives back a batch of the retired windows.
    fn unmap_retired(&self, slow: &mut Slow<H>) {
        while !slow.unmap.is_full() {
            let id = slow.retired;
            let Some(window) = self.windows.get(id) else {
                break;
            };
            slow.retired = window.link().load(Relaxed);
            self.queue_unmap(slow, id, window);
        }
        self.ring_unmap(slow);
    }

    /// Adds a closed window to the batch of those to be given back.
    fn queue_unmap(&self, slow: &mut Slow<H>, id: Id, window: &Window) {
        window.set_state(State::Retired);
        if let Some(span) = window.span() {
            slow.unmap.push(UnmapEntry {
                span,
                outcome: UnmapOutcome::Unknown,
                id,
            });
        }
    }

    /// Rings for the batch of windows to be given back, and frees those that are gone.
    fn ring_unmap(&self, slow: &mut Slow<H>) {
        if slow.unmap.is_empty() {
            return;
        }
        bump(&mut slow.stats.doorbells);
        slow.host.unmap(slow.unmap.filled_mut());
        for index in 0..slow.unmap.len {
            let Some(entry) = slow.unmap.get(index) else {
                break;
            };
            let Some(window) = self.windows.get(entry.id) else {
                continue;
            };
            if entry.outcome == UnmapOutcome::Unmapped {
                bump(&mut slow.stats.unmapped);
                self.discard(slow, entry.id, window);
            } else {
                // It may be mapped or not. Its key stays taken and its bytes count, so that
                // neither the limits nor the uniqueness of keys depend on which.
                bump(&mut slow.stats.lost);
                window.set_state(State::Lost);
            }
        }
        slow.unmap.clear();
    }

    /// Gives back keys that an earlier kernel may have left, so that ours can have them.
    fn unmap_suspects(&self, slow: &mut Slow<H>) {
        for index in 0..slow.suspects.len {
            if let Some(span) = slow.suspects.get(index) {
                if self.key_is_free(slow, span.start()) {
                    slow.unmap.push(UnmapEntry::new(span));
                }
            }
        }
        slow.suspects.clear();
        if slow.unmap.is_empty() {
            return;
        }
        bump(&mut slow.stats.doorbells);
        slow.host.unmap(slow.unmap.filled_mut());
        let stale = slow
            .unmap
            .filled()
            .iter()
            .filter(|entry| entry.outcome == UnmapOutcome::Unmapped)
            .count();
        // CAST: `usize` has at most 64 bits.
        slow.stats.stale = slow.stats.stale.saturating_add(stale as u64);
        slow.unmap.clear();
    }

    /// Maps what is missing of `requests`.
    #[cold]
    #[inline(never)]
    fn map_missing<'a, R, I>(&self, requests: I, mask: u64) -> Result<(), MapError>
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        let mut turn = Turn {
            choice: Choice::Policy,
            may_grow: true,
            scanned: 0,
        };
        let mut result = Err(MapError::Refused);
        for _ in 0..MAX_ROUNDS {
            let mut guard = self.slow.lock();
            match self.round(&mut guard, requests.clone(), mask, &mut turn) {
                Round::Done => {
                    result = Ok(());
                    break;
                }
                Round::Again => {}
                Round::Grow => {
                    let missing = requests.clone().filter(|r| r.iova().is_none());
                    let windows = missing.count().min(guard.map.entries.len());
                    drop(guard);
                    // The tables' memory comes from outside the lock.
                    turn.may_grow = self.grow_for(windows);
                }
                Round::Failed(error) => {
                    result = Err(error);
                    if matches!(error, MapError::Unreachable(_) | MapError::Invalid) {
                        break;
                    }
                    let stale = guard.stats.stale;
                    self.unmap_suspects_in_turn(guard);
                    if self.slow.lock().stats.stale != stale {
                        continue;
                    }
                    if turn.choice == Choice::Smallest {
                        break;
                    }
                    turn.choice = Choice::Smallest;
                    turn.scanned = 0;
                    let some = requests.clone().any(|r| r.iova().is_some());
                    if some && matches!(error, MapError::Full(_)) {
                        // The larger windows that this call took are in the way of smaller ones.
                        self.let_go(requests.clone());
                        self.give_back_idle();
                    }
                }
            }
        }
        // What the host says that it mapped, but not in a way we can use.
        self.give_back_retired();
        result
    }

    fn unmap_suspects_in_turn(&self, guard: Guard<'_, Slow<H>>) {
        if guard.suspects.is_empty() {
            return;
        }
        // One doorbell for each time that the lock is taken.
        drop(guard);
        self.unmap_suspects(&mut self.slow.lock());
    }

    /// Makes the tables larger, if it can, so large that `windows` more small windows go to the host
    /// together. Says whether there is any use in trying again.
    fn grow_for(&self, windows: usize) -> bool {
        // Each in every map, by two chunks where it can be anywhere.
        let chunks = windows.saturating_mul(5);
        let mut chunk_grown = false;
        loop {
            let (few_windows, few_chunks) = {
                let slow = self.slow.lock();
                (
                    slow.free_windows.len() < windows,
                    // Large windows need more, so that one more never is too many.
                    slow.free_chunks.len() < chunks || !chunk_grown,
                )
            };
            if !few_windows && !few_chunks {
                return true;
            }
            if !self.grow(few_windows, few_chunks, Alloc::Atomic) {
                return chunk_grown;
            }
            chunk_grown = true;
        }
    }

    /// Allocates what the tables lack. Says whether there is any use in trying again.
    fn grow(&self, windows: bool, chunks: bool, alloc: Alloc) -> bool {
        let mut grown = false;
        if windows {
            if let Ok(segment) = Segment::new(alloc) {
                grown |= self
                    .windows
                    .grow(&mut self.slow.lock().free_windows, segment);
            }
        }
        if chunks {
            if let Ok(segment) = Segment::new(alloc) {
                grown |= self.chunks.grow(&mut self.slow.lock().free_chunks, segment);
            }
        }
        grown
    }

    /// One turn under the lock, with one doorbell at most.
    fn round<'a, R, I>(&self, slow: &mut Slow<H>, requests: I, mask: u64, turn: &mut Turn) -> Round
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R> + Clone,
    {
        self.collect_retired(slow);
        if slow.retired != NONE {
            self.unmap_retired(slow);
            return Round::Again;
        }

        for request in requests.clone() {
            if request.iova().is_some() {
                continue;
            }
            let Some(span) = request.span() else {
                return self.abandon(slow, MapError::Invalid);
            };
            if let Some(iova) = self.hit_locked(&span) {
                request.set_iova(Some(iova));
                if !reachable(iova, &span, mask) {
                    return self.abandon(slow, MapError::Unreachable(iova));
                }
                continue;
            }
            if self.is_pending(&span) {
                continue;
            }
            let obstacle = match self.add(slow, &span, turn.choice) {
                Ok(()) => continue,
                Err(obstacle) => obstacle,
            };
            if matches!(obstacle, Obstacle::Tables) && turn.may_grow {
                // All of it together, after that.
                self.drop_batch(slow);
                return Round::Grow;
            }
            if !slow.map.is_empty() {
                // First what is there already; the rest has its turn after it.
                break;
            }
            return match obstacle {
                Obstacle::Batch => Round::Failed(MapError::Refused),
                Obstacle::Fatal(error) => Round::Failed(error),
                Obstacle::Tables => self.reclaim(slow, &mut turn.scanned, MapError::NoMemory),
                Obstacle::Limit(limit) => {
                    self.reclaim(slow, &mut turn.scanned, MapError::Full(limit))
                }
                // Idle windows may have them.
                Obstacle::Key => self.reclaim(slow, &mut turn.scanned, MapError::NoKey),
            };
        }

        if slow.map.is_empty() {
            return Round::Done;
        }
        let round = match self.ring_map(slow) {
            Some(error) => Round::Failed(error),
            None => self.resolve(requests, mask),
        };
        self.settle(slow);
        round
    }

    /// Takes references to the windows that were just made, before the lock is let go.
    fn resolve<'a, R, I>(&self, requests: I, mask: u64) -> Round
    where
        R: Request + 'a,
        I: Iterator<Item = &'a R>,
    {
        let mut round = Round::Done;
        for request in requests {
            if request.iova().is_some() {
                continue;
            }
            let Some(span) = request.span() else {
                return Round::Failed(MapError::Invalid);
            };
            match self.hit_locked(&span) {
                Some(iova) => {
                    request.set_iova(Some(iova));
                    if !reachable(iova, &span, mask) {
                        return Round::Failed(MapError::Unreachable(iova));
                    }
                }
                None => round = Round::Again,
            }
        }
        round
    }

    /// Gives up the windows that were prepared but not asked for.
    fn drop_batch(&self, slow: &mut Slow<H>) {
        for index in 0..slow.map.len {
            if let Some(entry) = slow.map.get(index) {
                if let Some(window) = self.windows.get(entry.id) {
                    self.unlink(slow, entry.id, window);
                    self.discard(slow, entry.id, window);
                }
            }
        }
        slow.map.clear();
        slow.reserved_chunks = 0;
    }

    /// Ends the call before its batch went to the host.
    fn abandon(&self, slow: &mut Slow<H>, error: MapError) -> Round {
        self.drop_batch(slow);
        Round::Failed(error)
    }

    /// Whether a window that will serve `span` is in the batch.
    fn is_pending(&self, span: &GpaSpan) -> bool {
        self.candidates(span).iter().any(|id| {
            self.windows.get(*id).is_some_and(|window| {
                window.state() == State::Pending
                    && window.span().is_some_and(|all| all.covers(span))
            })
        })
    }

    /// Adds a window that serves `request` to the batch.
    fn add(&self, slow: &mut Slow<H>, request: &GpaSpan, choice: Choice) -> Result<(), Obstacle> {
        if slow.map.is_full() {
            return Err(Obstacle::Batch);
        }

        let block = self.ram.block_of(request);
        let proposal = match (choice, block) {
            (Choice::Policy, Some(block)) => self
                .policy
                .propose(
                    request,
                    block,
                    &self.view(slow, &|granule| self.len_at(granule)),
                )
                .filter(|p| p.span.covers(request) && block.covers(&p.span)),
            _ => None,
        };
        let proposal = proposal
            .or_else(|| smallest(request, block))
            .ok_or(Obstacle::Fatal(MapError::Invalid))?;
        let Proposal { span, tile } = self
            .with_free_key(slow, proposal, request, block)
            .ok_or(Obstacle::Key)?;

        self.check_limits(slow, &span)?;
        let chunks = chunks_for(span.first_granule(), span.last_granule());
        let later = chunks_anywhere(span.granules());
        let needed = slow
            .reserved_chunks
            .saturating_add(later)
            .saturating_add(chunks)
            .saturating_add(1);
        if slow.free_chunks.len() < needed {
            return Err(Obstacle::Tables);
        }
        let anchor = if tile {
            None
        } else {
            Some(request.first_granule())
        };
        let (id, window) = self.admit(slow, &span, anchor)?;
        slow.reserved_chunks = slow.reserved_chunks.saturating_add(later);
        if self.link(slow, id, window).is_err() {
            // Cannot be: the chunks were counted before.
            self.unlink(slow, id, window);
            self.discard(slow, id, window);
            return Err(Obstacle::Fatal(MapError::NoMemory));
        }
        slow.map.push(MapEntry {
            span,
            outcome: MapOutcome::Unknown,
            id,
        });
        Ok(())
    }

    /// What the policy may know.
    fn view<'a>(&'a self, slow: &Slow<H>, len_at: &'a dyn Fn(u64) -> Option<u64>) -> View<'a> {
        View {
            len_at,
            bytes: Room {
                left: self.max_bytes.saturating_sub(slow.stats.bytes),
                max: self.max_bytes,
            },
            entries: Room {
                left: u64::from(self.max_entries.saturating_sub(slow.stats.entries)),
                max: u64::from(self.max_entries),
            },
        }
    }

    /// The length of the window that covers `granule`, if there is one.
    fn len_at(&self, granule: u64) -> Option<u64> {
        let id = self.by_gpa.get_locked(&self.chunks, granule);
        Some(self.windows.get(id)?.span()?.len())
    }

    /// Whether the limits have room for a window for `span`.
    fn check_limits(&self, slow: &Slow<H>, span: &GpaSpan) -> Result<(), Obstacle> {
        if span.len() > slow.host.len_max() {
            return Err(Obstacle::Fatal(MapError::Refused));
        }
        if self.max_bytes.saturating_sub(slow.stats.bytes) < cost(span) {
            return Err(Obstacle::Limit(Limit::Bytes));
        }
        if slow.stats.entries >= self.max_entries {
            return Err(Obstacle::Limit(Limit::Entries));
        }
        Ok(())
    }

    /// Makes a pending window for `span`, with its key taken and counted against the limits.
    fn admit(
        &self,
        slow: &mut Slow<H>,
        span: &GpaSpan,
        anchor: Option<u64>,
    ) -> Result<(Id, &Window), Obstacle> {
        self.check_limits(slow, span)?;
        let (id, window) = self
            .windows
            .take(&mut slow.free_windows)
            .ok_or(Obstacle::Tables)?;
        window.prepare(span, anchor);
        slow.stats.bytes = slow.stats.bytes.saturating_add(cost(span));
        slow.stats.entries = slow.stats.entries.saturating_add(1);
        slow.stats.peak_bytes = slow.stats.peak_bytes.max(slow.stats.bytes);
        slow.stats.peak_entries = slow.stats.peak_entries.max(slow.stats.entries);
        self.insert_key(slow, id, window);
        Ok((id, window))
    }

    /// Rings for the batch of new windows and opens those that the host made; until
    /// [`Self::settle`], the batch has a reference to each. The error is that of a batch that
    /// brought nothing at all.
    fn ring_map(&self, slow: &mut Slow<H>) -> Option<MapError> {
        bump(&mut slow.stats.doorbells);
        slow.host.map(slow.map.filled_mut());
        slow.reserved_chunks = 0;
        let mut opened = false;
        let mut error = None;
        for index in 0..slow.map.len {
            let Some(entry) = slow.map.get(index) else {
                break;
            };
            let Some(window) = self.windows.get(entry.id) else {
                continue;
            };
            let outcome = match entry.outcome {
                MapOutcome::Mapped(iova) => self.open(slow, entry.id, window, &entry.span, iova),
                other => other,
            };
            match outcome {
                MapOutcome::Mapped(_) => {
                    bump(&mut slow.stats.mapped);
                    opened = true;
                }
                MapOutcome::Refused => {
                    bump(&mut slow.stats.refused);
                    self.unlink(slow, entry.id, window);
                    self.discard(slow, entry.id, window);
                    slow.suspects.push(entry.span);
                    error = error.or(Some(MapError::Refused));
                }
                MapOutcome::Rejected(reject) => {
                    bump(&mut slow.stats.rejected);
                    self.quarantine(slow, entry.id, window);
                    error = error.or(Some(MapError::Rejected(reject)));
                }
                MapOutcome::Unknown => {
                    bump(&mut slow.stats.unanswered);
                    self.quarantine(slow, entry.id, window);
                    error = error.or(Some(MapError::NoAnswer));
                }
            }
        }
        if opened {
            None
        } else {
            error
        }
    }

    /// Gives up the batch's references to the windows that it opened. Those that serve nobody then
    /// do not outlive the call in strict mode; and nobody could close one before those had it that
    /// it was made for.
    fn settle(&self, slow: &mut Slow<H>) {
        for index in 0..slow.map.len {
            let Some(entry) = slow.map.get(index) else {
                break;
            };
            let Some(window) = self.windows.get(entry.id) else {
                continue;
            };
            if window.state() == State::Live && window.settle(self.strict) == Ok(Put::Closed) {
                self.retire(entry.id, window);
            }
        }
        slow.map.clear();
    }

    /// Opens a window at the address that the host gave it, unless that is in use.
    fn open(
        &self,
        slow: &mut Slow<H>,
        id: Id,
        window: &Window,
        span: &GpaSpan,
        iova: Iova,
    ) -> MapOutcome {
        let Some(iovas) = IovaSpan::new(iova, span.len()) else {
            return MapOutcome::Rejected(Reject::Range);
        };
        if self
            .whole
            .as_ref()
            .is_some_and(|whole| whole.overlaps(&iovas))
        {
            return MapOutcome::Rejected(Reject::Overlap);
        }
        let granules = iovas.first_granule()..=iovas.last_granule();
        for granule in granules.clone() {
            if self.by_iova.get_locked(&self.chunks, granule) != NONE {
                return MapOutcome::Rejected(Reject::Overlap);
            }
        }
        for granule in granules.clone() {
            let set = self
                .by_iova
                .set(&self.chunks, &mut slow.free_chunks, granule, id);
            if set.is_err() {
                // Cannot be: the chunks were reserved.
                for granule in granules {
                    self.by_iova
                        .clear(&self.chunks, &mut slow.free_chunks, granule, id);
                }
                return MapOutcome::Rejected(Reject::Range);
            }
        }
        window.open(iova);
        MapOutcome::Mapped(iova)
    }

    /// Takes out of use a window of which the host may have a mapping; it is given back later.
    fn quarantine(&self, slow: &mut Slow<H>, id: Id, window: &Window) {
        self.unlink(slow, id, window);
        window.set_state(State::Retired);
        window.link().store(slow.retired, Relaxed);
        slow.retired = id;
    }

    /// Gives back idle windows, as few as make a batch worth its doorbell; what was used lately
    /// stays if there is anything else. Fails with `error` if nothing is idle, which takes several
    /// rounds to find out if there are many; `scanned` counts for them.
    fn reclaim(&self, slow: &mut Slow<H>, scanned: &mut u32, error: MapError) -> Round {
        let last = slow.free_windows.last_id();
        let mut found: usize = 0;
        // More than twice around finds no more.
        let enough = last.saturating_mul(2).saturating_add(1);
        for looked in 0..SCAN.min(enough) {
            // Another time around would find what was used lately.
            let around = looked.checked_rem(last) == Some(0);
            if (found != 0 && around) || found >= RECLAIM || slow.unmap.is_full() {
                break;
            }
            *scanned = scanned.saturating_add(1);
            slow.hand = match slow.hand.checked_add(1) {
                Some(id) if id <= last => id,
                _ => 1,
            };
            let id = slow.hand;
            let Some(window) = self.windows.get(id) else {
                continue;
            };
            if window.state() != State::Live || window.users() != 0 {
                continue;
            }
            if window.test_and_clear_used() || !window.close() {
                continue;
            }
            self.unlink(slow, id, window);
            self.queue_unmap(slow, id, window);
            found = found.saturating_add(1);
        }
        // Once around finds what was not used since the last time, once more finds all.
        if found == 0 && *scanned > last.saturating_mul(2) {
            return Round::Failed(error);
        }
        if found != 0 {
            *scanned = 0;
        }
        self.ring_unmap(slow);
        Round::Again
    }

    /// Gives back what is idle, for a call that cannot have all that it needs otherwise.
    fn give_back_idle(&self) {
        let mut scanned = 0;
        for _ in 0..MAX_ROUNDS {
            let mut slow = self.slow.lock();
            // The error is nobody's.
            if let Round::Failed(_) = self.reclaim(&mut slow, &mut scanned, MapError::Refused) {
                return;
            }
        }
    }

    /// Makes a pending window known by the memory that it covers.
    fn link(&self, slow: &mut Slow<H>, id: Id, window: &Window) -> Result<(), AllocError> {
        let Some(span) = window.span() else {
            return Ok(());
        };
        let free = &mut slow.free_chunks;
        let anchor = window.anchor();
        for granule in span.first_granule()..=span.last_granule() {
            // A tile serves everything in it, so it comes first; others fill the gaps.
            if anchor.is_none() || self.by_gpa.get_locked(&self.chunks, granule) == NONE {
                self.by_gpa.set(&self.chunks, free, granule, id)?;
            }
        }
        match anchor {
            Some(granule) => self.by_start.set(&self.chunks, free, granule, id),
            None => Ok(()),
        }
    }

    /// Makes a closed window unknown to the maps; its key stays taken.
    fn unlink(&self, slow: &mut Slow<H>, id: Id, window: &Window) {
        let free = &mut slow.free_chunks;
        if let Some(granule) = window.anchor() {
            self.by_start.clear(&self.chunks, free, granule, id);
        }
        if let Some(span) = window.span() {
            for granule in span.first_granule()..=span.last_granule() {
                self.by_gpa.clear(&self.chunks, free, granule, id);
            }
        }
        if window.state() == State::Live {
            if let Some(span) = window.iova_span() {
                for granule in span.first_granule()..=span.last_granule() {
                    self.by_iova.clear(&self.chunks, free, granule, id);
                }
            }
        }
    }

    /// Frees an unlinked window that the host does not have.
    fn discard(&self, slow: &mut Slow<H>, id: Id, window: &Window) {
        if let Some(span) = window.span() {
            slow.stats.bytes = slow.stats.bytes.saturating_sub(cost(&span));
        }
        slow.stats.entries = slow.stats.entries.saturating_sub(1);
        self.remove_key(slow, id, window);
        window.set_state(State::Free);
        self.windows.free(&mut slow.free_windows, id);
    }

    /// Moves the start of a proposed window so that its key is free, as little as possible.
    fn with_free_key(
        &self,
        slow: &Slow<H>,
        proposal: Proposal,
        request: &GpaSpan,
        block: Option<&GpaSpan>,
    ) -> Option<Proposal> {
        let span = proposal.span;
        if self.key_is_free(slow, span.start()) {
            return Some(proposal);
        }
        let start = span.start().raw();
        let lowest = block.map_or(start, |block| block.start().raw());
        let mut step: u64 = 0;
        for _ in 0..MAX_KEYS {
            step = step.saturating_add(PAGE);
            for start in [start.saturating_add(step), start.saturating_sub(step)] {
                if start < lowest || start > request.start().raw() {
                    continue;
                }
                if self.key_is_free(slow, Gpa::new(start)) {
                    let span = GpaSpan::from_bounds(start, span.end())?;
                    return Some(Proposal { span, tile: false });
                }
            }
        }
        None
    }

    fn key_is_free(&self, slow: &Slow<H>, key: Gpa) -> bool {
        let mut id = slow
            .keys
            .get(key_bucket(slow, key))
            .copied()
            .unwrap_or(NONE);
        while let Some(window) = self.windows.get(id) {
            if window.span().is_some_and(|span| span.start() == key) {
                return false;
            }
            id = window.next_key.load(Relaxed);
        }
        true
    }

    fn insert_key(&self, slow: &mut Slow<H>, id: Id, window: &Window) {
        let Some(span) = window.span() else {
            return;
        };
        let bucket = key_bucket(slow, span.start());
        if let Some(head) = slow.keys.get_mut(bucket) {
            window.next_key.store(*head, Relaxed);
            *head = id;
        }
    }

    fn remove_key(&self, slow: &mut Slow<H>, id: Id, window: &Window) {
        let Some(span) = window.span() else {
            return;
        };
        let next = window.next_key.load(Relaxed);
        let bucket = key_bucket(slow, span.start());
        let Some(head) = slow.keys.get_mut(bucket) else {
            return;
        };
        if *head == id {
            *head = next;
            return;
        }
        let mut before = *head;
        while let Some(window) = self.windows.get(before) {
            let after = window.next_key.load(Relaxed);
            if after == id {
                window.next_key.store(next, Relaxed);
                return;
            }
            before = after;
        }
    }
}

/// A single request.
struct One {
    span: GpaSpan,
    iova: core::cell::Cell<Option<Iova>>,
}

impl Request for One {
    fn span(&self) -> Option<GpaSpan> {
        Some(self.span)
    }

    fn iova(&self) -> Option<Iova> {
        self.iova.get()
    }

    fn set_iova(&self, iova: Option<Iova>) {
        self.iova.set(iova);
    }
}

/// Counts one more.
fn bump(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

/// Bytes that the host counts for a window: whole granules.
fn cost(span: &GpaSpan) -> u64 {
    span.granules().saturating_mul(GRANULE)
}

/// Whether a device that reaches addresses up to `mask` can use all of `span` at `iova`.
#[inline]
fn reachable(iova: Iova, span: &GpaSpan, mask: u64) -> bool {
    // No window's addresses wrap around.
    iova.raw().wrapping_add(span.len().wrapping_sub(1)) <= mask
}

fn key_bucket<H>(slow: &Slow<H>, key: Gpa) -> usize {
    let bits = slow.keys.len().max(2).ilog2();
    let hash = (key.raw() / PAGE).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - bits);
    // CAST: The hash is below the number of buckets, a `usize`.
    hash as usize
}
