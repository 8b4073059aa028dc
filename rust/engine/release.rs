// SPDX-License-Identifier: GPL-2.0

//! The end of an engine: closing it for good, and unmapping everything.
//!
//! An engine ends when the managed device does no DMA any more, whether its driver knows or not.
//! From then on every request to map fails, whatever it would have been served by, and no request
//! is sent to the host but those that unmap what is left.

use super::{
    Engine,
    Host,
    Observer, //
};
use crate::engine::policy::Policy;
use crate::engine::window::State;
use crate::sys::Stopwatch;

/// The windows that stood out when all were unmapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Released {
    /// Windows that device drivers had not unmapped.
    pub(crate) busy: u32,
    /// Windows that the host failed to unmap, and the marker if it failed to unmap that.
    pub(crate) lost: u32,
}

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Closes the engine for good: map calls fail from now on with
    /// [`MapError::Closed`](super::MapError::Closed). A call on another CPU may be about to return
    /// an address that it found before. Windows stay mapped until [`Self::release`].
    ///
    /// Context: any.
    pub(crate) fn close(&self) {
        if let Some(map) = &self.static_map {
            map.close();
        }
        self.state.lock().closed = true;
    }

    /// Returns whether the engine is closed.
    ///
    /// Context: any.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Closes the engine and unmaps every window, used or not, and then the marker that tells of
    /// them. To be called when the device does no DMA any more; drivers may still call the engine,
    /// and so may this be called again.
    ///
    /// Context: any. Interrupts are off for a batch at a time.
    pub(crate) fn release(&self) -> Released {
        self.close();
        let mut released = self.unmap_all_windows();
        if self.return_marker() {
            released.lost = released.lost.saturating_add(1);
        }
        released
    }

    /// Closes the engine and unmaps windows as [`Self::release`], for `max_ms` milliseconds at most
    /// but for the last batch. Returns whether the host has nothing any more.
    ///
    /// Context: any, with interrupts off. All other CPUs have stopped for good. If one of them
    /// holds the lock, nothing is done.
    pub(crate) fn release_in_crash(&self, max_ms: u64) -> bool {
        if self.state.try_lock().is_none() {
            return false;
        }
        let time = Stopwatch::start();
        self.close();
        self.unmap_windows_until(|| time.elapsed_ms() > max_ms);
        self.state.lock().budget.usage().entries == 0 && !self.return_marker()
    }

    /// Unmaps every window, used or not, that no other CPU is unmapping.
    ///
    /// Context: any. Interrupts are off for a batch at a time.
    pub(super) fn unmap_all_windows(&self) -> Released {
        let mut released = self.unmap_windows_until(|| false);
        self.retry_all_lost();
        // A window that its last user closed just now is not lost, and still counts.
        released.lost = u32::try_from(self.state.lock().lost()).unwrap_or(u32::MAX);
        released
    }

    /// Unmaps windows as [`Self::unmap_all_windows`], except lost ones, until `is_late` returns
    /// true.
    fn unmap_windows_until(&self, is_late: impl Fn() -> bool) -> Released {
        let mut released = Released::default();
        self.unmap_retired();
        self.sweep(|state, id, window| {
            if is_late() {
                return;
            }
            match window.state() {
                State::Free => return,
                State::Live => match window.force_close() {
                    Some(users) => {
                        if users != 0 {
                            released.busy = released.busy.saturating_add(1);
                        }
                        self.index.remove(&mut state.index, id, window);
                    }
                    // Its last user closed it just now, and is about to have it unmapped.
                    None => return,
                },
                // Nothing has references to it.
                State::Fixed => {
                    let _ = window.force_close();
                }
                State::Pending | State::Retired => {}
                // Retried below.
                State::Lost => return,
            }
            self.queue_unmap(state, id, window);
        });
        // Those that their last user closed meanwhile, as far as they are queued.
        self.unmap_retired();
        self.state.lock().suspects.clear();
        released
    }
}
