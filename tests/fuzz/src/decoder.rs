// SPDX-License-Identifier: GPL-2.0

//! The decoder of responses, against an independent reading of the wire's structures.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    GRANULE, //
};
use crate::bytes::Bytes;
use crate::engine::{
    MapOutcome,
    ReplyError,
    UnmapOutcome, //
};
use crate::uapi::{
    apple_dma_pci_map_resp32,
    apple_dma_pci_map_resp64,
    apple_dma_pci_unmap_resp, //
};
use crate::wire::{
    empty_unmap_response,
    unmap_outcome,
    unmap_request,
    BatchStatus,
    Dialect,
    Response,
    SENTINEL, //
};
use std::mem::{
    offset_of,
    size_of, //
};

/// Writes words of the fuzzer's choice over `empty`, as in memory. Some are those of `truth`, which
/// a correct host would write, or differ from these in one bit.
fn response(bytes: &mut Bytes<'_>, empty: &Response, truth: &[u8]) -> (Response, Vec<u8>) {
    let mut response = *empty;
    for (index, word) in response.words_mut().iter_mut().enumerate() {
        let right: [u8; 4] = truth[index * 4..][..4].try_into().expect("4 bytes");
        *word = match bytes.u8() % 4 {
            0 => *word,
            1 => bytes.u32(),
            // One bit.
            2 => u32::from_le_bytes(right) ^ 1u32.wrapping_shl(bytes.u8().into()),
            _ => u32::from_le_bytes(right),
        };
    }
    let memory = response.words().iter().flat_map(|word| word.to_le_bytes());
    (response, memory.collect())
}

fn number(memory: &[u8], offset: usize, len: usize) -> u64 {
    let mut number = [0; 8];
    number[..len].copy_from_slice(&memory[offset..offset + len]);
    u64::from_le_bytes(number)
}

/// Returns the fields of a map response: id, address, length, status.
fn fields(dialect: Dialect, memory: &[u8]) -> [u64; 4] {
    macro_rules! fields {
        ($resp:ty, $len:expr) => {
            [
                number(memory, offset_of!($resp, id), 8),
                number(memory, offset_of!($resp, dma_addr), 8),
                number(memory, offset_of!($resp, dma_len), $len),
                number(memory, offset_of!($resp, status), 4),
            ]
        };
    }
    match dialect {
        Dialect::U32 => fields!(apple_dma_pci_map_resp32, 4),
        Dialect::U64 => fields!(apple_dma_pci_map_resp64, 8),
    }
}

/// Returns the response of a correct host.
fn truth(dialect: Dialect, span: &GpaSpan, dma_addr: u64) -> Vec<u8> {
    let mut memory = span.start().raw().to_le_bytes().to_vec();
    memory.extend(dma_addr.to_le_bytes());
    match dialect {
        // CAST: The field has 32 bits in this dialect.
        Dialect::U32 => memory.extend((span.len() as u32).to_le_bytes()),
        Dialect::U64 => memory.extend(span.len().to_le_bytes()),
    }
    memory.extend(0u32.to_le_bytes());
    memory
}

/// Checks the decoder with a host that writes `bytes`.
pub(crate) fn check(bytes: &mut Bytes<'_>) {
    let status = bytes.u32();
    let expected = match status {
        0 | 1 => BatchStatus::Answered,
        3 => BatchStatus::Invalid,
        SENTINEL => BatchStatus::Pending,
        _ => BatchStatus::Unknown,
    };
    assert_eq!(BatchStatus::from_word(status), expected);

    let start = bytes.u64();
    let lengths = [bytes.u16().into(), bytes.u64(), 4096, 1 << 32];
    let len = bytes.pick(&lengths);
    let Some(span) = GpaSpan::new(Gpa::new(start), len) else {
        return;
    };
    let dma_addr = match bytes.flag() {
        true => bytes.u64(),
        false => (bytes.u64() & !(GRANULE - 1)) | (start % GRANULE),
    };
    for dialect in [Dialect::U32, Dialect::U64] {
        map(bytes, dialect, &span, dma_addr);
    }
    unmap(bytes, &span);
}

fn map(bytes: &mut Bytes<'_>, dialect: Dialect, span: &GpaSpan, dma_addr: u64) {
    let request = dialect.map_request(span);
    assert_eq!(request.words().len() * 4, dialect.map_req_bytes());
    let empty = dialect.empty_map_response();
    assert_eq!(empty.words().len() * 4, dialect.map_resp_bytes());
    let truth = truth(dialect, span, dma_addr);
    let (written, memory) = response(bytes, &empty, &truth);
    check_map(dialect, span, &written, &memory);

    // The correct response except for one bit of each word.
    let mut near = empty;
    for (word, right) in near.words_mut().iter_mut().zip(truth.chunks_exact(4)) {
        *word = u32::from_le_bytes(right.try_into().expect("4 bytes"));
    }
    for index in 0..near.words().len() {
        let mut response = near;
        response.words_mut()[index] ^= 1u32.wrapping_shl(bytes.u8().into());
        let memory: Vec<_> = response
            .words()
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        check_map(dialect, span, &response, &memory);
    }
}

/// Checks how the decoder reads `response`, whose bytes are `memory`.
fn check_map(dialect: Dialect, span: &GpaSpan, response: &Response, memory: &[u8]) {
    let [id, dma_addr, dma_len, status] = fields(dialect, memory);
    let outcome = dialect.map_outcome(span, response);
    let last = dma_addr.checked_add(span.len() - 1);
    let good = [
        (id == span.start().raw(), ReplyError::Id),
        (dma_len == span.len(), ReplyError::Length),
        (
            dma_addr % GRANULE == span.start().raw() % GRANULE,
            ReplyError::Offset,
        ),
        (last.is_some_and(|last| last != u64::MAX), ReplyError::Range),
    ];
    match (status, outcome) {
        (0, MapOutcome::Mapped(iova)) => {
            assert_eq!(iova.raw(), dma_addr);
            for (holds, error) in good {
                assert!(holds, "{error:?} is accepted: {memory:x?}");
            }
        }
        (0, MapOutcome::Rejected(error)) => {
            assert!(
                good.contains(&(false, error)),
                "{error:?} is wrongly reported: {memory:x?}"
            );
        }
        (1 | 3, MapOutcome::Refused) => {}
        (status, MapOutcome::Unknown) => assert_eq!(status, u64::from(SENTINEL)),
        (status, MapOutcome::Rejected(error)) => {
            assert!(![0, 1, 3, u64::from(SENTINEL)].contains(&status));
            assert_eq!(error, ReplyError::Status);
        }
        (status, outcome) => panic!("{outcome:?} for status {status:#x}"),
    }

    // As the first response of a host, which is read in the longer form.
    let mut first = Dialect::U64.empty_map_response();
    first.words_mut()[..response.words().len()].copy_from_slice(response.words());
    let word = |offset| first.words()[offset / 4] != SENTINEL;
    let detected = match (
        word(offset_of!(apple_dma_pci_map_resp64, status)),
        word(offset_of!(apple_dma_pci_map_resp32, status)),
    ) {
        (true, _) => Some(Dialect::U64),
        (false, true) => Some(Dialect::U32),
        (false, false) => None,
    };
    assert_eq!(Dialect::detect(&first), detected);
}

fn unmap(bytes: &mut Bytes<'_>, span: &GpaSpan) {
    assert_eq!(
        unmap_request(span).words().len() * 4,
        size_of::<crate::uapi::apple_dma_pci_unmap_req>()
    );
    let mut truth = span.start().raw().to_le_bytes().to_vec();
    truth.extend([0; 8]);
    let (written, memory) = response(bytes, &empty_unmap_response(), &truth);
    let id = number(&memory, offset_of!(apple_dma_pci_unmap_resp, id), 8);
    let status = number(&memory, offset_of!(apple_dma_pci_unmap_resp, status), 4);
    let expected = match status {
        0 if id == span.start().raw() => UnmapOutcome::Unmapped,
        0 => UnmapOutcome::Rejected(ReplyError::Id),
        1 | 3 => UnmapOutcome::Refused,
        status if status == u64::from(SENTINEL) => UnmapOutcome::Unknown,
        _ => UnmapOutcome::Rejected(ReplyError::Status),
    };
    assert_eq!(unmap_outcome(span.start(), &written), expected);
}
