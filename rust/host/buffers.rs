// SPDX-License-Identifier: GPL-2.0

//! Guest RAM that the guest and the host share: the command block, and the arrays of requests and
//! responses.
//!
//! Only volatile accesses to words, and checks that these lie inside of the allocation, belong
//! here. The meaning of the words is [`wire`](super::wire)'s business.

use super::wire::{
    CommandBlock,
    Request,
    Response,
    CMD_STATUS_WORD,
    CMD_WORDS,
    REQ_WORDS,
    RESP_WORDS,
    SENTINEL, //
};
use crate::addr::{
    Address,
    Gpa, //
};
use crate::compat;
use kernel::{
    device::Bound,
    dma::Coherent,
    pci,
    prelude::*, //
};

/// Words in guest RAM that the host reads and writes, too.
pub(super) struct SharedBuffer<'a> {
    words: Coherent<[u32]>,
    _dev: &'a pci::Device<Bound>,
}

impl<'a> SharedBuffer<'a> {
    /// Allocates `words` words, all 0.
    ///
    /// Context: process, may sleep.
    pub(super) fn new(dev: &'a pci::Device<Bound>, words: usize) -> Result<Self> {
        Ok(Self {
            words: Coherent::zeroed_slice(dev.as_ref(), words, GFP_KERNEL)?,
            _dev: dev,
        })
    }

    /// Returns the guest-physical address of the first word.
    pub(super) fn gpa(&self) -> Gpa {
        Gpa::new(compat::dma_address(&self.words))
    }

    /// Returns a pointer to the `len` words of record `index`, where records are `stride` words
    /// apart; [`None`] if they do not lie in the buffer.
    fn record(&self, index: usize, stride: usize, len: usize) -> Option<*mut u32> {
        let first = index.checked_mul(stride)?;
        if first.checked_add(len)? > self.words.len() {
            return None;
        }
        Some(self.words.as_mut_ptr().cast::<u32>().wrapping_add(first))
    }

    /// Writes `values` to record `index`; writes nothing if there is no such record.
    fn write(&self, index: usize, stride: usize, values: &[u32]) {
        let Some(record) = self.record(index, stride, values.len()) else {
            return;
        };
        for (offset, value) in values.iter().enumerate() {
            // SAFETY: `record` checked that all of `values` fits into the allocation from there on.
            // The host may access the words at the same time, hence the volatile access.
            unsafe { record.add(offset).write_volatile(value.to_le()) };
        }
    }

    /// Reads record `index` into `values`; leaves `values` alone if there is no such record.
    fn read(&self, index: usize, stride: usize, values: &mut [u32]) {
        let Some(record) = self.record(index, stride, values.len()) else {
            return;
        };
        for (offset, value) in values.iter_mut().enumerate() {
            // SAFETY: As in `write`.
            *value = u32::from_le(unsafe { record.add(offset).read_volatile() });
        }
    }
}

/// The memory of one batch: command block, requests and responses.
pub(crate) struct CommandBuffers<'a> {
    cmd: SharedBuffer<'a>,
    requests: SharedBuffer<'a>,
    responses: SharedBuffer<'a>,
}

impl<'a> CommandBuffers<'a> {
    /// Allocates memory for batches of `batch_max` requests.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(dev: &'a pci::Device<Bound>, batch_max: usize) -> Result<Self> {
        Ok(Self {
            cmd: SharedBuffer::new(dev, CMD_WORDS)?,
            requests: SharedBuffer::new(dev, batch_max.saturating_mul(REQ_WORDS))?,
            responses: SharedBuffer::new(dev, batch_max.saturating_mul(RESP_WORDS))?,
        })
    }

    /// Returns the address of the command block.
    pub(super) fn cmd_gpa(&self) -> Gpa {
        self.cmd.gpa()
    }

    /// Returns the addresses of the requests and of the responses.
    pub(super) fn array_gpas(&self) -> (Gpa, Gpa) {
        (self.requests.gpa(), self.responses.gpa())
    }

    /// Writes the command block.
    pub(super) fn put_command(&self, block: &CommandBlock) {
        self.cmd.write(0, 0, block.words());
    }

    /// Reads the status word of the command block.
    pub(super) fn status_word(&self) -> u32 {
        let mut status = [SENTINEL];
        self.cmd.read(CMD_STATUS_WORD, 1, &mut status);
        let [word] = status;
        word
    }

    /// Writes request `index` of a batch, and fills the place of its response with `empty`.
    pub(super) fn put_request(&self, index: usize, request: &Request, empty: &Response) {
        self.requests
            .write(index, request.words().len(), request.words());
        self.responses
            .write(index, empty.words().len(), empty.words());
    }

    /// Reads response `index` of a batch over `empty`, which has the length of a response.
    ///
    /// The host may change a response at any time, so a caller that decides by it reads it once.
    pub(super) fn response(&self, index: usize, mut empty: Response) -> Response {
        let stride = empty.words().len();
        self.responses.read(index, stride, empty.words_mut());
        empty
    }
}
