// SPDX-License-Identifier: GPL-2.0

//! The search for mappings that earlier kernels left: which markers tell of them, how long the
//! search may keep the device waiting, and its messages.
//!
//! The engine searches, and stays within what is certainly free meanwhile.

use super::mode::Mode;
use super::{
    DeviceEngine,
    Instance, //
};
use crate::abstractions::ram;
use crate::driver::params::{
    Params,
    WholeRam, //
};
use crate::engine::caution::Caution;
use crate::engine::{
    KernelKind,
    Markers,
    SearchState, //
};
use crate::sys::{
    Relaxed,
    Stopwatch, //
};
use kernel::{
    device::Bound,
    pci,
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// The time in milliseconds that the search may keep the device waiting: enough for a small guest
/// on a fast host, and short enough for all others.
const PATIENCE_MS: u64 = 2000;

/// The same where all of RAM would be mapped at once after it.
const PATIENCE_WHOLE_MS: u64 = 4000;

/// Milliseconds of each period of the maintenance in which the search goes on.
const BACKGROUND_MS: u64 = 1500;

/// The same while the device's driver maps what only the host can map: a small part of the host's
/// time.
const BUSY_MS: u64 = 100;

/// The same if nothing was found yet, so that all of the limits is used.
const CALM_MS: u64 = 500;

/// The period of the maintenance in milliseconds, as far as the search is concerned.
const PERIOD_MS: u64 = 2000;

/// The time between two messages about a search that the device waits for, in milliseconds.
const NEWS_MS: u64 = 30_000;

/// The most seconds without any progress of a search that the device waits for.
const STALLED_MAX: u32 = 30;

/// Returns the markers of this kernel, none of which was tried yet.
///
/// Context: process, may sleep.
pub(super) fn markers() -> Result<Markers> {
    let kind = if ram::is_crash_kernel() {
        KernelKind::Crash
    } else {
        KernelKind::Regular
    };
    Ok(Markers::new(ram::first_block()?, kind))
}

/// Logs that the search of `state` goes on, of which `scanned` keys took `ms` milliseconds.
fn log_caution(
    dev: &pci::Device<Bound>,
    engine: &DeviceEngine<'_>,
    state: SearchState,
    scanned: u64,
    ms: u64,
) {
    let (bytes, entries) = engine.allowance();
    let left = state.total.saturating_sub(state.scanned);
    let left_ms = left.saturating_mul(ms).checked_div(scanned).unwrap_or(0);
    let seconds = left_ms.saturating_mul(PERIOD_MS) / BACKGROUND_MS / 1000;
    dev_warn!(
        dev,
        "an earlier kernel did not unmap its memory: unmapped {} mappings so far; until all are \
         found, in about {} s, at most {} MiB in {} mappings are used\n",
        state.found,
        seconds.saturating_add(1),
        bytes >> 20,
        entries
    );
}

/// Logs that the search of `state` is over.
fn log_end(dev: &pci::Device<Bound>, state: SearchState) {
    dev_info!(
        dev,
        "unmapped all that an earlier kernel left: {} mappings\n",
        state.found
    );
}

/// Searches for what earlier kernels left, before anything is mapped: until it is found, or for a
/// moment where the rest can be left to the background. Returns whether the rest was.
///
/// Context: process, may sleep.
pub(super) fn before_mapping(
    dev: &pci::Device<Bound>,
    engine: &DeviceEngine<'_>,
    kind: KernelKind,
    mode: Mode,
    params: &Params,
) -> Result<bool> {
    if engine.search_state().caution == Caution::NONE {
        return Ok(false);
    }
    let limits = engine.allowance();
    if kind == KernelKind::Crash {
        if limits == (0, 0) {
            dev_err!(
                dev,
                "kernel for crash dumps: others like it left mappings, and no more are certainly \
                 free\n"
            );
            return Err(EBUSY);
        }
        let (bytes, entries) = limits;
        dev_info!(
            dev,
            "kernel for crash dumps: beside what the crashed kernel left, at most {} MiB in {} \
             mappings are used\n",
            bytes >> 20,
            entries
        );
        return Ok(false);
    }
    let time = Stopwatch::start();
    if (mode == Mode::Direct && needs_all_ram(engine, params)) || limits == (0, 0) {
        to_the_end(dev, engine)?;
    } else {
        engine.search_stale_for(patience(engine, mode, params));
    }
    let state = engine.search_state();
    if state.is_running {
        log_caution(dev, engine, state, state.scanned, time.elapsed_ms());
    } else {
        log_end(dev, state);
    }
    Ok(state.is_running)
}

/// Returns whether all of RAM fits the limits, with an eighth to spare.
fn ram_fits(engine: &DeviceEngine<'_>, params: &Params) -> bool {
    engine.ram_bytes() <= params.max_bytes.saturating_sub(params.max_bytes / 8)
}

/// Returns whether direct mode is to map all of RAM, however long the search takes that comes
/// first; otherwise bounce mode takes its place.
pub(super) fn needs_all_ram(engine: &DeviceEngine<'_>, params: &Params) -> bool {
    params.whole_ram == WholeRam::Direct || ram_fits(engine, params)
}

/// Returns the milliseconds that the search may keep the device waiting in `mode`.
fn patience(engine: &DeviceEngine<'_>, mode: Mode, params: &Params) -> u64 {
    if mode == Mode::WholeRam && ram_fits(engine, params) {
        PATIENCE_WHOLE_MS
    } else {
        PATIENCE_MS
    }
}

/// Searches until all is found that earlier kernels left, however long that takes; logs it if that
/// is long.
///
/// Context: process, may sleep.
pub(super) fn to_the_end(dev: &pci::Device<Bound>, engine: &DeviceEngine<'_>) -> Result {
    let mut news = Stopwatch::start();
    let mut stalled: u32 = 0;
    let mut scanned = 0;
    loop {
        engine.search_stale_for(1000);
        let state = engine.search_state();
        if !state.is_running {
            return Ok(());
        }
        let is_stalled = core::mem::replace(&mut scanned, state.scanned) == state.scanned;
        stalled = if is_stalled {
            stalled.saturating_add(1)
        } else {
            0
        };
        if stalled > STALLED_MAX {
            dev_err!(
                dev,
                "cannot find what an earlier kernel left: host does not reply\n"
            );
            return Err(ETIMEDOUT);
        }
        if news.elapsed_ms() >= NEWS_MS {
            news = Stopwatch::start();
            dev_info!(
                dev,
                "searching for what an earlier kernel left, before the device is used: {}% done\n",
                percent(state)
            );
        }
        // Not for long, unless the host does not reply.
        fsleep(if is_stalled {
            Delta::from_secs(1)
        } else {
            Delta::from_millis(1)
        });
    }
}

/// Searches for a moment after mapping all of RAM was abandoned because something was found that an
/// earlier kernel had left. Returns whether all is found now.
///
/// Context: process, may sleep.
pub(super) fn once_more(engine: &DeviceEngine<'_>) -> bool {
    if !engine.search_state().is_running {
        return false;
    }
    engine.search_stale_for(PATIENCE_WHOLE_MS);
    !engine.search_state().is_running
}

/// Returns how much of the search is done, in percent.
pub(super) fn percent(state: SearchState) -> u64 {
    let done = state.scanned.saturating_mul(100);
    done.checked_div(state.total).unwrap_or(100).min(100)
}

impl Instance<'_> {
    /// Continues the search for what earlier kernels left, if there is one; logs its beginning, if
    /// it began after the device was set up, and its end.
    ///
    /// Context: process, may sleep.
    pub(super) fn continue_search(&self) {
        let before = self.engine.search_state();
        let is_cautious = before.caution != Caution::NONE;
        let time = Stopwatch::start();
        let most = if is_cautious { BACKGROUND_MS } else { CALM_MS };
        self.engine.search_stale_beside(most, BUSY_MS);
        let state = self.engine.search_state();
        if state.is_running && state.caution != Caution::NONE {
            if self.caution_logged.xchg(1, Relaxed) == 0 {
                let scanned = state.scanned.saturating_sub(before.scanned);
                log_caution(self.dev, &self.engine, state, scanned, time.elapsed_ms());
            }
        } else if !state.is_running && self.caution_logged.xchg(0, Relaxed) != 0 {
            log_end(self.dev, state);
        }
    }
}
