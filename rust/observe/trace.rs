// SPDX-License-Identifier: GPL-2.0

//! The tracepoints: safe wrappers, and what it costs if they are off.
//!
//! `docs/ABI/testing/tracefs-driver-apple-dma-pci` says what the events mean. Those of mappings,
//! which have one [`is_enabled`] together, are off by a no-op; others are a call of a C function with a
//! no-op in it. Any context.

use crate::addr::{
    Address,
    GpaSpan,
    Iova, //
};
use crate::bindings::{
    self,
    apple_dma_pci_origin, //
};
use crate::engine::{
    Command,
    HostError,
    MapError,
    MapPath,
    Observer,
    WindowInfo, //
};
use crate::host::wire::BatchStatus;
use core::fmt::Write;
use kernel::{
    fmt,
    prelude::*,
    time::{
        Instant,
        Monotonic, //
    },
};

/// Whether one of the events of mappings is on: a no-op if none is.
#[inline(always)]
#[cfg(all(CONFIG_TRACEPOINTS, CONFIG_JUMP_LABEL))]
pub(crate) fn is_enabled() -> bool {
    'key: {
        // SAFETY: The key is one, and is defined in this module. The branch touches no register,
        // memory nor stack.
        unsafe {
            kernel::asm!(
                include!("../static_branch_generated.rs");
                on = label { break 'key true },
                key = sym bindings::apple_dma_trace_key,
                offset = const 0,
                likely = const 0,
            );
        }
        false
    }
}

/// Whether one of the events of mappings is on.
#[inline(always)]
#[cfg(all(CONFIG_TRACEPOINTS, not(CONFIG_JUMP_LABEL)))]
pub(crate) fn is_enabled() -> bool {
    // SAFETY: The key is one; without jump labels it is a counter, which may be read at any time.
    unsafe {
        (&raw const bindings::apple_dma_trace_key)
            .cast::<i32>()
            .read_volatile()
            > 0
    }
}

/// There are no tracepoints.
#[inline(always)]
#[cfg(not(CONFIG_TRACEPOINTS))]
pub(crate) fn is_enabled() -> bool {
    false
}

/// When something began, if anyone wants to know.
#[derive(Clone, Copy)]
pub(crate) struct TraceStart(Option<Instant<Monotonic>>);

impl TraceStart {
    /// Now.
    #[inline(always)]
    pub(crate) fn now() -> Self {
        Self(is_enabled().then(Instant::now))
    }

    /// Nobody knows.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Whether anyone wants to know.
    #[inline(always)]
    pub(crate) fn is_enabled(self) -> bool {
        self.0.is_some()
    }

    /// Nanoseconds since then.
    fn ns(self) -> u64 {
        self.0.map_or(0, |began| ns(began.elapsed()))
    }
}

/// A time as a number of nanoseconds.
pub(crate) fn ns(delta: kernel::time::Delta) -> u64 {
    u64::try_from(delta.as_nanos()).unwrap_or(0)
}

/// Writes text into bytes, as far as it fits.
struct Bytes<'a>(core::slice::IterMut<'a, u8>);

impl Write for Bytes<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        // In this order, as the first of both loses one when the other ends.
        for (byte, place) in text.bytes().zip(self.0.by_ref()) {
            *place = byte;
        }
        Ok(())
    }
}

/// The text of `what`, with at least one zero behind it.
fn name(what: &dyn fmt::Display) -> [u8; NAME] {
    let mut name = [0; NAME];
    let text = name.get_mut(..NAME - 1).unwrap_or(&mut []);
    // What does not fit is cut off.
    let _ = Bytes(text.iter_mut()).write_fmt(fmt!("{}", what));
    name
}

// CAST: It is a small constant.
const NAME: usize = bindings::APPLE_DMA_PCI_NAME as usize;

/// Where events come from: a companion and its managed device, by their names.
#[derive(Clone, Copy)]
pub(crate) struct EventSource(apple_dma_pci_origin);

impl EventSource {
    /// The companion and its device of these names.
    pub(crate) fn new(companion: &dyn fmt::Display, device: &dyn fmt::Display) -> Self {
        Self(apple_dma_pci_origin {
            companion: name(companion),
            device: name(device),
        })
    }

    /// The managed device's name.
    pub(crate) fn device(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0.device).unwrap_or(c"?")
    }

    /// A driver got a mapping.
    pub(crate) fn map(
        &self,
        span: &GpaSpan,
        iova: Iova,
        began: TraceStart,
        (entry, entries): (u32, u32),
        path: MapPath,
    ) {
        // SAFETY: The origin and the string are valid for the call.
        unsafe {
            bindings::apple_dma_trace_map(
                &self.0,
                span.start().raw(),
                iova.raw(),
                span.len(),
                began.ns(),
                entry,
                entries,
                path.name().as_char_ptr(),
            )
        };
    }

    /// A driver gives `size` bytes at `handle` up, which are at `gpa`.
    pub(crate) fn unmap(
        &self,
        gpa: u64,
        handle: u64,
        size: u64,
        began: TraceStart,
        (entry, entries): (u32, u32),
    ) {
        let ns = began.ns();
        // SAFETY: The origin is valid for the call.
        unsafe { bindings::apple_dma_trace_unmap(&self.0, gpa, handle, size, ns, entry, entries) };
    }

    /// The host was asked for `entries` things, which took `ns` nanoseconds.
    pub(crate) fn doorbell(&self, command: Command, entries: u32, status: BatchStatus, ns: u64) {
        // SAFETY: The origin and the strings are valid for the call.
        unsafe {
            bindings::apple_dma_trace_doorbell(
                &self.0,
                command.name().as_char_ptr(),
                entries,
                status.name().as_char_ptr(),
                ns,
            )
        };
    }

    /// A driver did not get `size` bytes at `gpa` mapped, as `entries` of a scatterlist.
    pub(crate) fn refusal(
        &self,
        error: MapError,
        (gpa, size): (u64, u64),
        entries: u32,
        limit: u64,
        began: TraceStart,
    ) {
        // SAFETY: The origin and the string are valid for the call.
        unsafe {
            bindings::apple_dma_trace_refusal(
                &self.0,
                gpa,
                size,
                entries,
                limit,
                error.name().as_char_ptr(),
                began.ns(),
            )
        };
    }

    /// A driver gave up what it had not.
    pub(crate) fn misuse(&self, handle: u64, size: u64) {
        // SAFETY: The origin is valid for the call.
        unsafe { bindings::apple_dma_trace_misuse(&self.0, handle, size) };
    }
}

impl Observer for EventSource {
    fn created(&self, window: &WindowInfo) {
        let (gpa, len) = (window.span.start().raw(), window.span.len());
        // SAFETY: The origin is valid for the call.
        unsafe {
            bindings::apple_dma_trace_created(&self.0, gpa, window.iova.raw(), len, window.uses)
        };
    }

    fn reused(&self, window: &WindowInfo) {
        let (gpa, len) = (window.span.start().raw(), window.span.len());
        // SAFETY: The origin is valid for the call.
        unsafe {
            bindings::apple_dma_trace_reused(&self.0, gpa, window.iova.raw(), len, window.uses)
        };
    }

    fn returned(&self, window: &WindowInfo) {
        let (gpa, len) = (window.span.start().raw(), window.span.len());
        // SAFETY: The origin is valid for the call.
        unsafe {
            bindings::apple_dma_trace_returned(&self.0, gpa, window.iova.raw(), len, window.uses)
        };
    }

    fn host_error(&self, command: Command, span: &GpaSpan, error: HostError) {
        // SAFETY: The origin and the strings are valid for the call.
        unsafe {
            bindings::apple_dma_trace_host_error(
                &self.0,
                command.name().as_char_ptr(),
                span.start().raw(),
                span.len(),
                error.name().as_char_ptr(),
            )
        };
    }
}
