// SPDX-License-Identifier: GPL-2.0

//! The wire format: the layout of requests in guest RAM, and which replies can be trusted.
//!
//! This is the one place that knows the layout of the structures in `uapi/apple_dma_pci.h` and
//! their two dialects. It classifies replies into the outcomes of the engine; it does not talk to
//! the device. All structures are arrays of little-endian 32-bit words, which is how the
//! companion's code reads and writes them. Pure code.
//!
//! Context of all functions: any.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    IovaSpan,
    GRANULE, //
};
use crate::engine::{
    Command,
    MapOutcome,
    ReplyError,
    UnmapOutcome, //
};
use crate::uapi::{
    apple_dma_pci_cmd,
    apple_dma_pci_map_req32,
    apple_dma_pci_map_req64,
    apple_dma_pci_map_resp32,
    apple_dma_pci_map_resp64,
    apple_dma_pci_unmap_req,
    apple_dma_pci_unmap_resp,
    APPLE_DMA_PCI_CMD_MAP,
    APPLE_DMA_PCI_CMD_UNMAP,
    APPLE_DMA_PCI_STATUS_INVAL,
    APPLE_DMA_PCI_STATUS_IOERR,
    APPLE_DMA_PCI_STATUS_OK, //
};
use core::{
    ffi::CStr,
    mem::{
        offset_of,
        size_of, //
    }, //
};

/// The word that the guest fills responses and the status of the command block with before it
/// rings. It is no status, so a status that still has this value was not written.
pub(crate) const SENTINEL: u32 = 0xa5a5_a5a5;

/// Words of the command block.
pub(crate) const CMD_WORDS: usize = size_of::<apple_dma_pci_cmd>() / 4;

/// The word of the command block that the host writes its status into.
pub(crate) const CMD_STATUS_WORD: usize = offset_of!(apple_dma_pci_cmd, status) / 4;

/// Words of the longest request, in either dialect.
pub(crate) const REQ_WORDS: usize = size_of::<apple_dma_pci_map_req64>() / 4;

/// Words of the longest response, in either dialect.
pub(crate) const RESP_WORDS: usize = size_of::<apple_dma_pci_map_resp64>() / 4;

/// A structure of at most `N` words, of which [`Self::words`] are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<const N: usize> {
    words: [u32; N],
    used: usize,
}

/// A command block as it stands in guest RAM.
pub(crate) type CommandBlock = Record<CMD_WORDS>;

/// A request as it stands in guest RAM.
pub(crate) type Request = Record<REQ_WORDS>;

/// A response as it stands in guest RAM.
pub(crate) type Response = Record<RESP_WORDS>;

impl<const N: usize> Record<N> {
    /// Creates a record of `bytes` bytes, every word of which is `fill`.
    pub(crate) fn filled(bytes: usize, fill: u32) -> Self {
        Self {
            words: [fill; N],
            used: (bytes / 4).min(N),
        }
    }

    /// Returns the words of the record.
    pub(crate) fn words(&self) -> &[u32] {
        self.words.get(..self.used).unwrap_or(&[])
    }

    /// Returns the words of the record, to be filled in.
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        self.words.get_mut(..self.used).unwrap_or(&mut [])
    }

    fn put32(&mut self, offset: usize, value: u32) {
        if let Some(word) = self.words_mut().get_mut(offset / 4) {
            *word = value;
        }
    }

    fn put64(&mut self, offset: usize, value: u64) {
        // CAST: Each word has one half of the value.
        self.put32(offset, value as u32);
        self.put32(offset.saturating_add(4), (value >> 32) as u32);
    }

    /// Returns a word; one that lies outside of the record reads as one that was not written.
    fn get32(&self, offset: usize) -> u32 {
        self.words().get(offset / 4).copied().unwrap_or(SENTINEL)
    }

    fn get64(&self, offset: usize) -> u64 {
        u64::from(self.get32(offset)) | (u64::from(self.get32(offset.saturating_add(4))) << 32)
    }
}

/// The form of map requests and responses, of which hosts use two behind the same version number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Lengths are 32 bits wide.
    U32,
    /// Lengths are 64 bits wide, structures are packed.
    U64,
}

/// Statuses of batches and of single requests.
struct Status;

impl Status {
    const OK: u32 = APPLE_DMA_PCI_STATUS_OK;
    const IOERR: u32 = APPLE_DMA_PCI_STATUS_IOERR;
    const INVAL: u32 = APPLE_DMA_PCI_STATUS_INVAL;
}

impl Dialect {
    /// Returns the name, as debugfs prints it: the width of lengths.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Dialect::U32 => "u32",
            Dialect::U64 => "u64",
        }
    }

    /// Returns the bytes of a map request.
    pub(crate) fn map_req_bytes(self) -> usize {
        match self {
            Dialect::U32 => size_of::<apple_dma_pci_map_req32>(),
            Dialect::U64 => size_of::<apple_dma_pci_map_req64>(),
        }
    }

    /// Returns the bytes of a map response.
    pub(crate) fn map_resp_bytes(self) -> usize {
        match self {
            Dialect::U32 => size_of::<apple_dma_pci_map_resp32>(),
            Dialect::U64 => size_of::<apple_dma_pci_map_resp64>(),
        }
    }

    /// Returns the length of the longest range that one request can name, in bytes.
    pub(crate) fn max_len(self) -> u64 {
        match self {
            Dialect::U32 => u64::from(u32::MAX),
            Dialect::U64 => u64::MAX,
        }
    }

    /// Returns a request to map `span`. If the span is longer than [`Self::max_len`] the request
    /// has length 0, which the host must refuse.
    pub(crate) fn map_request(self, span: &GpaSpan) -> Request {
        let mut req = Record::filled(self.map_req_bytes(), 0);
        match self {
            Dialect::U32 => {
                req.put64(offset_of!(apple_dma_pci_map_req32, gpa), span.start().raw());
                req.put32(
                    offset_of!(apple_dma_pci_map_req32, len),
                    u32::try_from(span.len()).unwrap_or(0),
                );
            }
            Dialect::U64 => {
                req.put64(offset_of!(apple_dma_pci_map_req64, gpa), span.start().raw());
                req.put64(offset_of!(apple_dma_pci_map_req64, len), span.len());
            }
        }
        req
    }

    /// Returns a map response as it is before the host writes it.
    pub(crate) fn empty_map_response(self) -> Response {
        Record::filled(self.map_resp_bytes(), SENTINEL)
    }

    /// Returns the outcome of the request to map `span`, by the response `resp`.
    pub(crate) fn map_outcome(self, span: &GpaSpan, resp: &Response) -> MapOutcome {
        let (id, dma_addr, dma_len, status) = match self {
            Dialect::U32 => (
                resp.get64(offset_of!(apple_dma_pci_map_resp32, id)),
                resp.get64(offset_of!(apple_dma_pci_map_resp32, dma_addr)),
                u64::from(resp.get32(offset_of!(apple_dma_pci_map_resp32, dma_len))),
                resp.get32(offset_of!(apple_dma_pci_map_resp32, status)),
            ),
            Dialect::U64 => (
                resp.get64(offset_of!(apple_dma_pci_map_resp64, id)),
                resp.get64(offset_of!(apple_dma_pci_map_resp64, dma_addr)),
                resp.get64(offset_of!(apple_dma_pci_map_resp64, dma_len)),
                resp.get32(offset_of!(apple_dma_pci_map_resp64, status)),
            ),
        };

        match status {
            Status::OK => {}
            Status::IOERR | Status::INVAL => return MapOutcome::Refused,
            SENTINEL => return MapOutcome::Unknown,
            _ => return MapOutcome::Rejected(ReplyError::Status),
        }
        if id != span.start().raw() {
            return MapOutcome::Rejected(ReplyError::Id);
        }
        if dma_len != span.len() {
            return MapOutcome::Rejected(ReplyError::Length);
        }
        if (dma_addr ^ span.start().raw()) & (GRANULE - 1) != 0 {
            return MapOutcome::Rejected(ReplyError::Offset);
        }
        // All-ones means "no mapping" to drivers, so a range may not reach it either.
        if IovaSpan::new(Iova::new(dma_addr), dma_len).is_none() {
            return MapOutcome::Rejected(ReplyError::Range);
        }
        MapOutcome::Mapped(Iova::new(dma_addr))
    }

    /// Returns the dialect of a host that replied to a batch of one map request with `resp`, which
    /// was [`Self::empty_map_response`] of [`Dialect::U64`] before; [`None`] if the host wrote the
    /// status of neither dialect.
    ///
    /// The longer response ends in a word that the shorter one lacks, its status. A response is
    /// written as a whole on success, and only its status on failure, so the last word tells in
    /// both cases.
    pub(crate) fn detect(resp: &Response) -> Option<Self> {
        let status64 = resp.get32(offset_of!(apple_dma_pci_map_resp64, status));
        let status32 = resp.get32(offset_of!(apple_dma_pci_map_resp32, status));
        if status64 != SENTINEL {
            Some(Dialect::U64)
        } else if status32 != SENTINEL {
            Some(Dialect::U32)
        } else {
            None
        }
    }
}

/// Bytes of an unmap request.
pub(crate) const UNMAP_REQ_BYTES: usize = size_of::<apple_dma_pci_unmap_req>();

/// Bytes of an unmap response.
pub(crate) const UNMAP_RESP_BYTES: usize = size_of::<apple_dma_pci_unmap_resp>();

/// Returns the command block for the first `count` requests at the first of `arrays`, with their
/// responses at the second.
pub(crate) fn command_block(command: Command, count: u32, arrays: (Gpa, Gpa)) -> CommandBlock {
    let code = match command {
        Command::Map => APPLE_DMA_PCI_CMD_MAP,
        Command::Unmap => APPLE_DMA_PCI_CMD_UNMAP,
    };
    let (requests, responses) = arrays;
    let mut block = Record::filled(size_of::<apple_dma_pci_cmd>(), 0);
    block.put32(offset_of!(apple_dma_pci_cmd, type_), code);
    block.put32(offset_of!(apple_dma_pci_cmd, count), count);
    block.put32(offset_of!(apple_dma_pci_cmd, status), SENTINEL);
    block.put64(offset_of!(apple_dma_pci_cmd, req_gpa), requests.raw());
    block.put64(offset_of!(apple_dma_pci_cmd, resp_gpa), responses.raw());
    block
}

/// Returns a request to unmap the mapping that was made for `span`.
pub(crate) fn unmap_request(span: &GpaSpan) -> Request {
    let mut req = Record::filled(UNMAP_REQ_BYTES, 0);
    req.put64(offset_of!(apple_dma_pci_unmap_req, id), span.start().raw());
    req.put64(offset_of!(apple_dma_pci_unmap_req, size), span.len());
    req
}

/// Returns an unmap response as it is before the host writes it.
pub(crate) fn empty_unmap_response() -> Response {
    Record::filled(UNMAP_RESP_BYTES, SENTINEL)
}

/// Returns the outcome of the request to unmap the mapping with the key `key`, by the response
/// `resp`.
pub(crate) fn unmap_outcome(key: Gpa, resp: &Response) -> UnmapOutcome {
    match resp.get32(offset_of!(apple_dma_pci_unmap_resp, status)) {
        Status::OK if resp.get64(offset_of!(apple_dma_pci_unmap_resp, id)) == key.raw() => {
            UnmapOutcome::Unmapped
        }
        Status::OK => UnmapOutcome::Rejected(ReplyError::Id),
        Status::IOERR | Status::INVAL => UnmapOutcome::Refused,
        SENTINEL => UnmapOutcome::Unknown,
        _ => UnmapOutcome::Rejected(ReplyError::Status),
    }
}

/// The status of a whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchStatus {
    /// Processed: every request has a response of its own.
    Answered,
    /// Rejected as a whole; nothing was done.
    Invalid,
    /// Not written yet.
    Pending,
    /// No status that the protocol knows; anything may have been done.
    Unknown,
}

impl BatchStatus {
    /// Every status, in the order of discriminants.
    pub(crate) const ALL: [Self; 4] = [
        BatchStatus::Answered,
        BatchStatus::Invalid,
        BatchStatus::Pending,
        BatchStatus::Unknown,
    ];

    /// Returns the name, as debugfs and tracepoints print it once the wait for a batch is over.
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            BatchStatus::Answered => c"answered",
            BatchStatus::Invalid => c"invalid",
            BatchStatus::Pending => c"unfinished",
            BatchStatus::Unknown => c"unknown",
        }
    }

    /// Returns the meaning of the status word of a command block.
    pub(crate) fn from_word(word: u32) -> Self {
        match word {
            Status::OK | Status::IOERR => BatchStatus::Answered,
            Status::INVAL => BatchStatus::Invalid,
            SENTINEL => BatchStatus::Pending,
            _ => BatchStatus::Unknown,
        }
    }
}
