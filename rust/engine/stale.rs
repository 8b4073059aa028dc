// SPDX-License-Identifier: GPL-2.0

//! What an earlier kernel left on the host when it crashed: finding all of it.
//!
//! What is in the way of a window of ours has its key, and is given back when the host refuses the
//! window. But what is not in the way takes room. Its keys are not known; all but a few begin with
//! a granule. So once there is a sign that something was left, the host is asked to unmap every
//! granule of RAM that is not a key of ours, a batch at a time, in the background.

use super::{
    Engine,
    Host,
    Slow,
    UnmapEntry, //
};
use crate::addr::{
    Address,
    GpaSpan,
    GRANULE, //
};
use crate::policy::Policy;

/// How far the search is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// There is no sign of anything yet.
    Unneeded,
    /// This is the lowest address that was not looked at.
    At(u64),
    /// There is nothing left to find, or what there is keeps a key that this does not guess.
    Done,
}

impl<H: Host, P: Policy> Engine<H, P> {
    /// Notes a sign that an earlier kernel left something: it was found, or the host refuses what
    /// it should have room for.
    pub(super) fn suspect(&self, slow: &mut Slow<H>) {
        if slow.search == Search::Unneeded {
            slow.search = Search::At(0);
        }
    }

    /// Gives back a batch of what an earlier kernel may have left, if there is a sign that it did.
    /// Says whether there is more to look at. Any context; interrupts are off for a doorbell.
    pub(crate) fn search_stale(&self) -> bool {
        let mut slow = self.slow.lock();
        let slow = &mut *slow;
        let Search::At(mut at) = slow.search else {
            return false;
        };
        if !slow.host.is_ready() {
            return false;
        }
        while !slow.unmap.is_full() {
            let Some(span) = next_granule(slow.ram.blocks(), at) else {
                slow.search = Search::Done;
                break;
            };
            at = span.end();
            slow.search = Search::At(at);
            if self.key_is_free(slow, span.start()) {
                slow.unmap.push(UnmapEntry::new(span));
            }
        }
        self.unmap_stale(slow);
        slow.search != Search::Done
    }
}

/// The first granule of `blocks`, which are sorted, from the address `at` on.
fn next_granule(blocks: &[GpaSpan], at: u64) -> Option<GpaSpan> {
    let block = blocks.iter().find(|block| at < block.end())?;
    let start = at.max(block.start().raw());
    let next = start
        .checked_add(1)
        .and_then(|next| next.checked_next_multiple_of(GRANULE))
        .unwrap_or(u64::MAX);
    GpaSpan::from_bounds(start, next.min(block.end()))
}
