// SPDX-License-Identifier: GPL-2.0

//! Exchange of data between the CPU and the engine through mapped memory, with verification.
//!
//! The CPU writes the outgoing pattern, the engine reads it and overwrites it with incoming
//! patterns, and the CPU reads those. The direction of the mapping decides which of these steps
//! take place. No step trusts a return code as proof that data arrived.

use crate::engine::{
    Channel,
    Iova, //
};
use crate::failure::Failure;
use crate::pattern::{
    mix,
    Pattern, //
};
use crate::span::Span;
use kernel::{
    dma::DataDirection,
    prelude::*, //
};

/// A piece of mapped memory as the device sees it.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) iova: Iova,
    pub(crate) len: usize,
}

/// One exchange over the bytes of `memory`, one span after the other.
#[derive(Clone)]
pub(crate) struct Exchange<M> {
    memory: M,
    direction: DataDirection,
    seed: u64,
}

impl<'m, M: Iterator<Item = Span<'m>> + Clone> Exchange<M> {
    /// Creates an exchange over `memory` as `direction` allows it, with patterns made of `seed`.
    pub(crate) fn new(memory: M, direction: DataDirection, seed: u64) -> Self {
        Self {
            memory,
            direction,
            seed,
        }
    }

    /// Returns another exchange over the same memory.
    pub(crate) fn again(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Returns the pattern that the CPU writes before the device owns the memory.
    fn outgoing(&self) -> Pattern {
        Pattern::new(mix(self.seed))
    }

    /// Returns the pattern that the engine writes to segment number `segment`.
    fn incoming(&self, segment: usize) -> Pattern {
        // CAST: `usize` is not wider than `u64`.
        Pattern::new(mix(!self.seed).wrapping_add((segment as u64) << 32))
    }

    /// Returns how many bytes of a segment of `len` bytes the engine keeps and writes back.
    fn kept(&self, channel: &Channel<'_>, len: usize) -> usize {
        match self.direction {
            DataDirection::Bidirectional => (len / 2).min(channel.memory_size()),
            _ => 0,
        }
    }

    /// Writes the outgoing pattern as the CPU, which owns the memory.
    ///
    /// Memory that the device is about to overwrite is written as well, lest data of an earlier
    /// exchange be taken for the engine's.
    pub(crate) fn stage(&self) {
        let outgoing = self.outgoing();
        let mut first = 0;

        for span in self.memory.clone() {
            span.fill(outgoing, first);
            first = first.wrapping_add(span.len());
        }
    }

    /// Runs the engine's part. The device owns the memory and sees it as `segments`.
    pub(crate) fn engine(
        &self,
        channel: &mut Channel<'_>,
        segments: impl Iterator<Item = Segment>,
    ) -> Result<(), Failure> {
        let mut first = 0;

        for (number, segment) in segments.enumerate() {
            let Segment { iova, len } = segment;

            if self.direction != DataDirection::FromDevice {
                channel.checksum(iova, len, self.outgoing().crc32(first, len))?;
            }
            let kept = self.kept(channel, len);
            if kept != 0 {
                channel.read(iova, 0, kept)?;
            }
            if self.direction != DataDirection::ToDevice {
                channel.fill(iova, len, self.incoming(number))?;
            }
            if kept != 0 {
                channel.write(0, iova, kept)?;
            }
            first = first.wrapping_add(len);
        }
        Ok(())
    }

    /// Reads and verifies as the CPU, which owns the memory again. `lengths` are the lengths of the
    /// segments.
    pub(crate) fn verify(
        &self,
        channel: &Channel<'_>,
        lengths: impl Iterator<Item = usize>,
    ) -> Result<(), Failure> {
        let mut first = 0;

        for (number, len) in lengths.enumerate() {
            let sent = match self.direction {
                DataDirection::ToDevice => len,
                _ => self.kept(channel, len),
            };

            self.check(
                "what the CPU wrote and the engine kept",
                first,
                sent,
                self.outgoing(),
                first,
            )?;
            self.check(
                "what the engine wrote",
                first.wrapping_add(sent),
                len.saturating_sub(sent),
                self.incoming(number),
                sent,
            )?;
            first = first.wrapping_add(len);
        }
        Ok(())
    }

    /// Compares the `len` bytes of memory from byte `start` on with `pattern` from byte `first` on.
    fn check(
        &self,
        what: &'static str,
        start: usize,
        len: usize,
        pattern: Pattern,
        first: usize,
    ) -> Result<(), Failure> {
        let mut skip = start;
        let mut left = len;
        let mut index = first;

        for span in self.memory.clone() {
            let from = skip.min(span.len());
            let some = left.min(span.len().saturating_sub(from));

            if let Some(part) = span.part(from, some) {
                part.check(what, pattern, index)?;
            }
            skip = skip.saturating_sub(from);
            left = left.saturating_sub(some);
            index = index.wrapping_add(some);
        }
        Ok(())
    }
}
