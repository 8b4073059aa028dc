// SPDX-License-Identifier: GPL-2.0

//! Tracepoints: safe wrappers of `trace.c`.
//!
//! `docs/ABI/testing/tracefs-driver-apple-dma-pci` documents the meaning of the events. Those on
//! the paths of map and unmap calls share one static key, [`is_enabled`], and cost a no-op there
//! while none of them is enabled; each of the others costs a call of a C function that has a no-op
//! in it.
//!
//! Context of all functions: any.

use crate::addr::{
    Address,
    GpaSpan,
    Iova, //
};
use crate::bindings::{
    self,
    apple_dma_pci_origin, //
};
use crate::engine::copy::Transfer;
use crate::engine::{
    Command,
    HostError,
    MapError,
    MapPath,
    Observer,
    Pressure,
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

/// Returns whether an event on the paths of map and unmap calls is enabled: a no-op if none is.
#[inline(always)]
#[cfg(all(CONFIG_TRACEPOINTS, CONFIG_JUMP_LABEL))]
pub(crate) fn is_enabled() -> bool {
    'key: {
        // SAFETY: `apple_dma_trace_key` is a static key that is defined in this module. The branch
        // touches no register, memory nor stack.
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

/// Returns whether an event on the paths of map and unmap calls is enabled.
#[inline(always)]
#[cfg(all(CONFIG_TRACEPOINTS, not(CONFIG_JUMP_LABEL)))]
pub(crate) fn is_enabled() -> bool {
    // SAFETY: `apple_dma_trace_key` is a static key; without jump labels a static key is a counter,
    // which may be read at any time.
    unsafe {
        (&raw const bindings::apple_dma_trace_key)
            .cast::<i32>()
            .read_volatile()
            > 0
    }
}

/// Returns `false`: the kernel has no tracepoints.
#[inline(always)]
#[cfg(not(CONFIG_TRACEPOINTS))]
pub(crate) fn is_enabled() -> bool {
    false
}

/// The time at which a call began, if an event on its path was enabled then.
#[derive(Clone, Copy)]
pub(crate) struct TraceStart(Option<Instant<Monotonic>>);

impl TraceStart {
    /// Returns the current time, if an event is enabled.
    #[inline(always)]
    pub(crate) fn now() -> Self {
        Self(is_enabled().then(Instant::now))
    }

    /// Returns the start of a call whose time is not known.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Returns whether an event was enabled at the start.
    #[inline(always)]
    pub(crate) fn is_enabled(self) -> bool {
        self.0.is_some()
    }

    /// Returns the nanoseconds since the start; 0 if the start is not known.
    fn ns(self) -> u64 {
        self.0.map_or(0, |start| ns(start.elapsed()))
    }
}

/// The fields of a map call's event that are known before the call.
#[derive(Clone, Copy)]
pub(crate) struct MapTrace {
    start: TraceStart,
    /// The direction, if the mapping may be copied.
    transfer: Option<Transfer>,
}

impl MapTrace {
    /// The fields of a call that gets no event.
    pub(crate) const NONE: Self = Self::new(TraceStart::none(), None);

    /// Creates the fields of a call that began at `start`; it may copy if it is for a `transfer`.
    pub(crate) const fn new(start: TraceStart, transfer: Option<Transfer>) -> Self {
        Self { start, transfer }
    }

    /// Returns the fields of a call that begins now, otherwise as [`Self::new`].
    pub(crate) fn now(transfer: Option<Transfer>) -> Self {
        Self::new(TraceStart::now(), transfer)
    }

    /// Returns the time at which the call began.
    pub(crate) fn start(self) -> TraceStart {
        self.start
    }

    /// Returns the word for the transfer.
    fn copyable(self) -> &'static CStr {
        match self.transfer {
            None => c"no",
            Some(Transfer::ToDevice) => c"to-device",
            Some(Transfer::FromDevice) => c"from-device",
        }
    }
}

/// Returns a time as a number of nanoseconds; 0 if it is negative.
pub(crate) fn ns(delta: kernel::time::Delta) -> u64 {
    u64::try_from(delta.as_nanos()).unwrap_or(0)
}

/// A writer of text into bytes, which drops what does not fit.
struct Bytes<'a>(core::slice::IterMut<'a, u8>);

impl Write for Bytes<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        // In this order, since `zip` drops an item of the first iterator when the second ends.
        for (byte, place) in text.bytes().zip(self.0.by_ref()) {
            *place = byte;
        }
        Ok(())
    }
}

/// Returns the text of `device`, cut off so that at least one zero follows it.
fn name(device: &dyn fmt::Display) -> [u8; NAME] {
    let mut name = [0; NAME];
    let text = name.get_mut(..NAME - 1).unwrap_or(&mut []);
    // `Bytes` never fails.
    let _ = Bytes(text.iter_mut()).write_fmt(fmt!("{}", device));
    name
}

/// Bytes of a device's name in an event.
// CAST: A small constant.
const NAME: usize = bindings::APPLE_DMA_PCI_NAME as usize;

/// The companion and managed device that events are about, by their names.
#[derive(Clone, Copy)]
pub(crate) struct EventSource(apple_dma_pci_origin);

impl EventSource {
    /// Creates the source of events of `companion` and the managed `device`.
    pub(crate) fn new(companion: &dyn fmt::Display, device: &dyn fmt::Display) -> Self {
        Self(apple_dma_pci_origin {
            companion: name(companion),
            device: name(device),
        })
    }

    /// Returns the name of the managed device.
    pub(crate) fn device(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0.device).unwrap_or(c"?")
    }

    /// Records a mapping that a device driver got, as entry `entry` of a scatterlist of `nents`.
    pub(crate) fn map(
        &self,
        span: &GpaSpan,
        iova: Iova,
        trace: MapTrace,
        (entry, nents): (u32, u32),
        path: MapPath,
    ) {
        // SAFETY: The origin and the strings are valid for the call.
        unsafe {
            bindings::apple_dma_trace_map(
                &self.0,
                span.start().raw(),
                iova.raw(),
                span.len(),
                trace.start.ns(),
                entry,
                nents,
                path.name().as_char_ptr(),
                trace.copyable().as_char_ptr(),
            )
        };
    }

    /// Records that a device driver unmaps `len` bytes at `iova`, which are at `gpa` in memory, as
    /// entry `entry` of a scatterlist of `nents`.
    pub(crate) fn unmap(
        &self,
        gpa: u64,
        iova: u64,
        len: u64,
        start: TraceStart,
        (entry, nents): (u32, u32),
    ) {
        let ns = start.ns();
        // SAFETY: The origin is valid for the call.
        unsafe { bindings::apple_dma_trace_unmap(&self.0, gpa, iova, len, ns, entry, nents) };
    }

    /// Records a doorbell for `requests` requests, which took `ns` nanoseconds.
    pub(crate) fn doorbell(&self, command: Command, requests: u32, status: BatchStatus, ns: u64) {
        // SAFETY: The origin and the strings are valid for the call.
        unsafe {
            bindings::apple_dma_trace_doorbell(
                &self.0,
                command.name().as_char_ptr(),
                requests,
                status.name().as_char_ptr(),
                ns,
            )
        };
    }

    /// Records a failed call to map `len` bytes at `gpa`, which are the first address and the sum
    /// of a scatterlist of `nents`, for a device that reaches addresses up to `dma_limit`.
    pub(crate) fn refusal(
        &self,
        error: MapError,
        (gpa, len): (u64, u64),
        nents: u32,
        dma_limit: u64,
        start: TraceStart,
    ) {
        // SAFETY: The origin and the string are valid for the call.
        unsafe {
            bindings::apple_dma_trace_refusal(
                &self.0,
                gpa,
                len,
                nents,
                dma_limit,
                error.name().as_char_ptr(),
                start.ns(),
            )
        };
    }

    /// Records that the pressure on the limits changed to `level`; `bytes` and `entries` are
    /// available to new windows.
    pub(crate) fn pressure(&self, level: Pressure, bytes: u64, entries: u64) {
        // SAFETY: The origin and the string are valid for the call.
        unsafe {
            bindings::apple_dma_trace_pressure(&self.0, level.name().as_char_ptr(), bytes, entries)
        };
    }

    /// Records an unmap of an address that is not mapped.
    pub(crate) fn misuse(&self, iova: u64, len: u64) {
        // SAFETY: The origin is valid for the call.
        unsafe { bindings::apple_dma_trace_misuse(&self.0, iova, len) };
    }
}

/// Defines the method `$name` of [`Observer`] by the function `$trace` for an event of a window.
macro_rules! window_event {
    ($name:ident, $trace:ident) => {
        fn $name(&self, window: &WindowInfo) {
            let (gpa, len) = (window.span.start().raw(), window.span.len());
            // SAFETY: The origin is valid for the call.
            unsafe { bindings::$trace(&self.0, gpa, window.iova.raw(), len, window.uses) };
        }
    };
}

impl Observer for EventSource {
    window_event!(created, apple_dma_trace_window_created);
    window_event!(reused, apple_dma_trace_window_reused);
    window_event!(returned, apple_dma_trace_window_returned);

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
