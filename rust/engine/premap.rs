// SPDX-License-Identifier: GPL-2.0

//! Mapping all of RAM at once, in a few pieces, when the engine is set up.

use super::index::Obstacle;
use super::{
    bump,
    note,
    Command,
    Engine,
    Host,
    HostError,
    Limit,
    MapEntry,
    MapError,
    Observer,
    Seen, //
};
use crate::addr::{
    Address,
    GpaSpan,
    Iova, //
};
use crate::engine::policy::Policy;
use crate::engine::static_map::{
    Piece,
    Whole,
    MAX_PIECES, //
};
use crate::engine::window::State;
use crate::host::wire::{
    MapOutcome,
    Reject, //
};
use crate::sys::{
    Alloc,
    AllocError,
    Slab, //
};

/// The largest piece of RAM that is asked for when all of it is mapped at once, in bytes: the most
/// that is a power of two and that both dialects can say.
const WHOLE_MAX: u64 = 2 << 30;

/// The smallest such piece.
const WHOLE_MIN: u64 = 64 << 20;

impl<H: Host, P: Policy> Engine<H, P> {
    /// Maps all of RAM at once, if it fits the budgets with an eighth to spare for what is not RAM
    /// yet, and if windows may stay mapped. Fails with nothing mapped. To be called after
    /// [`Engine::reserve`], which makes room for the pieces. May sleep.
    pub(crate) fn map_whole(&mut self) -> Result<(), MapError> {
        let bytes = self.ram_bytes();
        let budget = self.max_bytes.saturating_sub(self.max_bytes / 8);
        if self.strict || bytes > budget {
            return Err(MapError::Full(Limit::Bytes));
        }
        let mut size = WHOLE_MAX;
        loop {
            match self.map_pieces(size) {
                Ok(whole) => {
                    self.whole = Some(whole);
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
        self.whole = Some(Whole::new(Slab::new(1, Alloc::Sleep, |_| piece)?)?);
        Ok(())
    }

    /// Maps all of RAM in pieces of `size` bytes. On failure some may be mapped.
    pub(super) fn map_pieces(&self, size: u64) -> Result<Whole, MapError> {
        let mut pieces: Slab<Option<Piece>> =
            Slab::new(MAX_PIECES, Alloc::Sleep, |_| None).map_err(|_| MapError::NoMemory)?;
        let mut count: usize = 0;
        let block = |index| self.slow.lock().ram.blocks().get(index).copied();
        for block in (0..).map_while(block) {
            let mut start = block.start().raw();
            while start < block.end() {
                let end = start.saturating_add(size).min(block.end());
                let span = GpaSpan::from_bounds(start, end).ok_or(MapError::Invalid)?;
                let (earlier, free) = pieces
                    .split_at_mut_checked(count)
                    .ok_or(MapError::Full(Limit::Entries))?;
                let place = free.first_mut().ok_or(MapError::Full(Limit::Entries))?;
                let (piece, seen) = match self.map_piece(&span) {
                    // An earlier kernel may have left a mapping with this key.
                    Err(MapError::Refused) if self.recover() => self.map_piece(&span),
                    result => result,
                }?;
                let taken = earlier.iter().flatten().any(|other| other.overlaps(&piece));
                if taken {
                    let error = HostError::Rejected(Reject::Overlap);
                    note(self, &mut self.slow.lock(), Command::Map, &span, error);
                    return Err(MapError::Rejected(Reject::Overlap));
                }
                if let Some(seen) = seen {
                    self.observer.created(&seen);
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
        .and_then(Whole::new)
        .map_err(|_| MapError::NoMemory)
    }

    /// Maps one piece of RAM for good.
    fn map_piece(&self, span: &GpaSpan) -> Result<(Piece, Option<Seen>), MapError> {
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
                window.set_iova(iova);
                window.open();
                window.set_state(State::Fixed);
                Ok((piece, Seen::new(window)))
            }
            (Some(MapOutcome::Refused), None) => {
                bump(&mut slow.stats.refused);
                note(self, slow, Command::Map, span, HostError::Refused);
                self.discard(slow, id, window);
                slow.suspects.push(*span);
                Err(MapError::Refused)
            }
            (Some(MapOutcome::Rejected(reject)), None) => {
                bump(&mut slow.stats.rejected);
                note(self, slow, Command::Map, span, HostError::Rejected(reject));
                self.quarantine(slow, id, window);
                Err(MapError::Rejected(reject))
            }
            _ => {
                bump(&mut slow.stats.unanswered);
                note(self, slow, Command::Map, span, HostError::Silent);
                self.quarantine(slow, id, window);
                Err(MapError::NoAnswer)
            }
        }
    }

    /// Gives back what an earlier kernel left in the way of the last request; says whether it did.
    pub(super) fn recover(&self) -> bool {
        let mut slow = self.slow.lock();
        let stale = slow.stats.stale;
        self.unmap_suspects(&mut slow);
        slow.stats.stale != stale
    }
}
