// SPDX-License-Identifier: GPL-2.0

//! Giving back what nobody has used for long, and what lies in memory that goes away.

use super::{
    Engine,
    Host,
    Observer, //
};
use crate::addr::GpaSpan;
use crate::engine::policy::Policy;
use crate::engine::window::State;

impl<H: Host, P: Policy, O: Observer> Engine<H, P, O> {
    /// Gives back the windows that are idle and were not used since the last time that this was
    /// called. Any context; to be called now and then. Interrupts are off for a batch at a time.
    pub(crate) fn age(&self) {
        self.sweep(|state, id, window| {
            if window.state() != State::Live
                || window.users() != 0
                || !state.host.is_ready()
                || window.test_and_clear_used()
                || !window.close()
            {
                return;
            }
            state.counters.windows_aged.inc();
            self.unlink(state, id, window);
            self.queue_unmap(state, id, window);
        });
    }

    /// Gives back all idle windows that cover a part of `span`; says how many are not idle. Any
    /// context; interrupts are off for a batch at a time.
    pub(crate) fn evict(&self, span: &GpaSpan) -> u32 {
        let mut busy: u32 = 0;
        self.sweep(|state, id, window| {
            let covers = window.span().is_some_and(|all| all.overlaps(span));
            if window.state() != State::Live || !covers {
                return;
            }
            if !window.close() {
                busy = busy.saturating_add(1);
                return;
            }
            self.unlink(state, id, window);
            self.queue_unmap(state, id, window);
        });
        busy
    }

    /// Whether a part of `span` is mapped for good, with all of RAM.
    pub(crate) fn is_fixed(&self, span: &GpaSpan) -> bool {
        let mut fixed = false;
        self.sweep(|_, _, window| {
            fixed |= window.state() == State::Fixed
                && window.span().is_some_and(|all| all.overlaps(span));
        });
        fixed
    }
}
