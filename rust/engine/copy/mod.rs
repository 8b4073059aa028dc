// SPDX-License-Identifier: GPL-2.0

//! Copying: streaming mappings served by memory that the host maps once.
//!
//! The *copy pool* is memory of the module that is mapped for as long as the engine lives. A
//! mapping that is copied gets a *slot* of it: a run of pages, in which the data lie at the same
//! offset in the page as in the driver's buffer. Data are copied into the slot when it is mapped
//! and when it is passed to the device, and out of it when it is passed back or unmapped, if the
//! device may write. Whatever the device does not write reads as before, since the slot always
//! begins with what the buffer contains.
//!
//! - `pages`: which pages of a row are in use;
//! - `slot`: the record of a slot, and its place;
//! - `pool`: the pool, its slots and their copies;
//! - `wait`: waiting for a slot while the pool is full;
//! - `stats`: its statistics;
//! - `setup`: its size, and mapping it;
//! - `paths`: map calls that may be copied, and their opposites.
//!
//! Copying is for drivers that pass a buffer back and forth, as the DMA API demands; the caller of
//! the engine decides which mappings may be copied.

pub(crate) mod pages;
mod paths;
pub(crate) mod pool;
pub(crate) mod setup;
mod slot;
pub(crate) mod stats;
mod wait;

use crate::addr::{
    Gpa,
    GpaSpan, //
};
use crate::engine::admission::CopyCost;

/// The direction of a mapping that may be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// The device reads.
    ToDevice,
    /// The device writes, and what it does not write stays as it was.
    FromDevice,
}

/// The choice between a slot and a window for a mapping that may be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preference {
    /// A slot, also where a window serves the mapping already.
    Slots,
    /// A slot, unless a window serves the mapping already.
    NewSlots,
    /// A window; a slot if it would take long to get one, or if there is none.
    Windows,
    /// The one that [`Engine::admit`](super::Engine::admit) decides for, by what copying costs; a
    /// slot also if a window cannot be had at once.
    Admitted(CopyCost),
}

/// Guest memory as the CPU reaches it.
///
/// Context of all methods: any.
pub(crate) trait Memory: Send + Sync {
    /// Returns whether the CPU reaches all of `span`: whether it is RAM of which the kernel has a
    /// mapping.
    fn reaches(&self, span: &GpaSpan) -> bool;

    /// Copies `len` bytes.
    fn copy(&self, from: Gpa, to: Gpa, len: u64);

    /// Writes zeros to `span`.
    fn clear(&self, span: &GpaSpan);

    /// Returns the number of a processor that this one is, or was recently.
    fn processor(&self) -> usize;

    /// Returns whether others may do something while this processor waits: interrupts of its own,
    /// or another processor.
    fn others_run(&self) -> bool;

    /// Passes a moment of waiting.
    fn pause(&self);
}
