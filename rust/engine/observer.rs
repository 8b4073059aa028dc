// SPDX-License-Identifier: GPL-2.0

//! The engine's interface to an observer, which is told of events as they happen.

use super::host::{
    Command,
    HostError, //
};
use super::stats::WindowInfo;
use crate::addr::GpaSpan;
use core::ffi::CStr;

/// The way in which a mapping of a driver is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapPath {
    /// By an addition: all of RAM is mapped.
    WholeRam,
    /// By an existing window.
    Window,
    /// By copying.
    Copy,
    /// By a window that the host has to create, or that is only found under the lock.
    Host,
}

impl MapPath {
    /// Returns the name, as tracepoints print it.
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            MapPath::WholeRam => c"whole",
            MapPath::Window => c"window",
            MapPath::Copy => c"copy",
            MapPath::Host => c"host",
        }
    }
}

/// A receiver of the engine's events.
///
/// Context of all methods: any, also with the engine lock held and interrupts off; must not sleep,
/// nor call the engine.
pub(crate) trait Observer: Send + Sync {
    /// Receives that the host created a window.
    fn created(&self, _window: &WindowInfo) {}

    /// Receives that an idle window is in use again.
    fn reused(&self, _window: &WindowInfo) {}

    /// Receives that the host unmapped a window.
    fn returned(&self, _window: &WindowInfo) {}

    /// Receives that the host failed `command` for the window of `span`.
    fn host_error(&self, _command: Command, _span: &GpaSpan, _error: HostError) {}
}

/// An observer that ignores all events.
impl Observer for () {}
