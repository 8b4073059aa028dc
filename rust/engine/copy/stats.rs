// SPDX-License-Identifier: GPL-2.0

//! Statistics of a copy pool. Processors count apart from each other.
//!
//! Context of all functions: any.

use crate::sys::{
    Atomic,
    Relaxed, //
};

/// Events on some of the processors.
pub(super) struct Zone {
    /// Mappings that were copied.
    pub(super) copies: Atomic<u64>,
    /// Mappings of these that were unmapped.
    pub(super) ended: Atomic<u64>,
    /// Bytes that were copied to the pool.
    pub(super) bytes_in: Atomic<u64>,
    /// Bytes that were copied from the pool.
    pub(super) bytes_out: Atomic<u64>,
    /// Mappings of these that waited for their slot.
    pub(super) waited: Atomic<u64>,
    /// Mappings that found no slot.
    pub(super) full: Atomic<u64>,
    /// Keeps zones off each other's cache lines, of 128 bytes at most.
    _apart: [u64; 10],
}

impl Zone {
    /// Creates the counters, with nothing counted.
    pub(super) fn new() -> Self {
        Self {
            copies: Atomic::new(0),
            ended: Atomic::new(0),
            bytes_in: Atomic::new(0),
            bytes_out: Atomic::new(0),
            waited: Atomic::new(0),
            full: Atomic::new(0),
            _apart: [0; 10],
        }
    }
}

/// Returns one of the counts of all `zones`.
pub(super) fn sum(zones: &[Zone], count: fn(&Zone) -> &Atomic<u64>) -> u64 {
    let counts = zones.iter().map(|zone| count(zone).load(Relaxed));
    counts.fold(0, u64::wrapping_add)
}

/// The statistics of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CopyStats {
    /// Mappings that were copied.
    pub(crate) copies: u64,
    /// Mappings of these that were unmapped.
    pub(crate) ended: u64,
    /// Bytes that were copied to the pool.
    pub(crate) bytes_in: u64,
    /// Bytes that were copied from the pool.
    pub(crate) bytes_out: u64,
    /// Mappings of these that waited for their slot.
    pub(crate) waited: u64,
    /// Mappings that found no slot.
    pub(crate) full: u64,
    /// Bytes of the pool.
    pub(crate) pool: u64,
    /// Bytes of the pool that are in use.
    pub(crate) used: u64,
    /// The most bytes of the pool that were in use.
    pub(crate) peak: u64,
}
