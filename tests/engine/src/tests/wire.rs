// SPDX-License-Identifier: GPL-2.0

//! The wire format against an independent description of it: byte offsets written by hand from the
//! comments of `uapi/apple_dma_pci.h`, not from the bindings that the codec uses.

use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova, //
};
use crate::engine::{
    Command,
    MapOutcome,
    ReplyError,
    UnmapOutcome, //
};
use crate::wire::{
    command_block,
    empty_unmap_response,
    unmap_outcome,
    unmap_request,
    BatchStatus,
    Dialect,
    Response,
    CMD_STATUS_WORD,
    CMD_WORDS,
    REQ_WORDS,
    RESP_WORDS,
    SENTINEL,
    UNMAP_REQ_BYTES,
    UNMAP_RESP_BYTES, //
};
use proptest::prelude::*;

/// Byte offsets of the fields of a response to a map request.
struct Layout {
    bytes: usize,
    id: usize,
    dma_addr: usize,
    dma_len: usize,
    /// Number of bytes of `dma_len`.
    len_bytes: usize,
    status: usize,
}

const LAYOUT32: Layout = Layout {
    bytes: 24,
    id: 0,
    dma_addr: 8,
    dma_len: 16,
    len_bytes: 4,
    status: 20,
};

const LAYOUT64: Layout = Layout {
    bytes: 28,
    id: 0,
    dma_addr: 8,
    dma_len: 16,
    len_bytes: 8,
    status: 24,
};

const DIALECTS: [(Dialect, Layout); 2] = [(Dialect::U32, LAYOUT32), (Dialect::U64, LAYOUT64)];

const OK: u32 = 0;
const IOERR: u32 = 1;
const INVAL: u32 = 3;

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Writes `bytes` over the start of the response.
fn write(resp: &mut Response, bytes: &[u8]) {
    for (word, bytes) in resp.words_mut().iter_mut().zip(bytes.chunks(4)) {
        let mut all = word.to_le_bytes();
        all[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_le_bytes(all);
    }
}

fn sentinels(bytes: usize) -> Vec<u8> {
    [0xa5].repeat(bytes)
}

/// Returns the bytes of a response as a host writes them.
fn response(layout: &Layout, id: u64, dma_addr: u64, dma_len: u64, status: u32) -> Vec<u8> {
    let mut bytes = sentinels(layout.bytes);
    bytes[layout.id..layout.id + 8].copy_from_slice(&id.to_le_bytes());
    bytes[layout.dma_addr..layout.dma_addr + 8].copy_from_slice(&dma_addr.to_le_bytes());
    bytes[layout.dma_len..layout.dma_len + layout.len_bytes]
        .copy_from_slice(&dma_len.to_le_bytes()[..layout.len_bytes]);
    bytes[layout.status..layout.status + 4].copy_from_slice(&status.to_le_bytes());
    bytes
}

/// Returns the bytes of a response that a host writes on failure.
fn failure(layout: &Layout, status: u32) -> Vec<u8> {
    let mut bytes = sentinels(layout.bytes);
    bytes[layout.status..layout.status + 4].copy_from_slice(&status.to_le_bytes());
    bytes
}

fn decode(dialect: Dialect, span: &GpaSpan, bytes: &[u8]) -> MapOutcome {
    let mut resp = dialect.empty_map_response();
    write(&mut resp, bytes);
    dialect.map_outcome(span, &resp)
}

fn spans() -> impl Strategy<Value = GpaSpan> {
    let len = prop_oneof![1u64..=0xffff_ffff, any::<u64>(), Just(0xffff_ffff)];
    (any::<u64>(), len).prop_filter_map("a span", |(start, len)| GpaSpan::new(Gpa::new(start), len))
}

/// Generates spans that both dialects can express.
fn short_spans() -> impl Strategy<Value = GpaSpan> {
    (any::<u64>(), 1u64..=0xffff_ffff)
        .prop_filter_map("a span", |(start, len)| GpaSpan::new(Gpa::new(start), len))
}

#[test]
fn sizes() {
    assert_eq!(Dialect::U32.map_req_bytes(), 16);
    assert_eq!(Dialect::U64.map_req_bytes(), 20);
    assert_eq!(Dialect::U32.map_resp_bytes(), 24);
    assert_eq!(Dialect::U64.map_resp_bytes(), 28);
    assert_eq!(UNMAP_REQ_BYTES, 16);
    assert_eq!(UNMAP_RESP_BYTES, 16);
    assert_eq!(REQ_WORDS, 5);
    assert_eq!(RESP_WORDS, 7);
    assert_eq!(Dialect::U32.max_len(), 0xffff_ffff);
    assert_eq!(Dialect::U64.max_len(), u64::MAX);
}

#[test]
fn command_blocks() {
    for (command, code) in [(Command::Map, 1u32), (Command::Unmap, 2)] {
        let arrays = (Gpa::new(0x1_2345_6000), Gpa::new(0x2_3456_7000));
        let block = command_block(command, 7, arrays);
        let words = [
            code,
            7,
            SENTINEL,
            0,
            0x2345_6000,
            1,
            0x3456_7000,
            2, //
        ];
        assert_eq!(block.words(), words);
        assert_eq!(CMD_WORDS, words.len());
        assert_eq!(block.words()[CMD_STATUS_WORD], SENTINEL);
    }
}

#[test]
fn batch_status() {
    assert_eq!(BatchStatus::from_word(0), BatchStatus::Answered);
    assert_eq!(BatchStatus::from_word(1), BatchStatus::Answered);
    assert_eq!(BatchStatus::from_word(3), BatchStatus::Invalid);
    assert_eq!(BatchStatus::from_word(SENTINEL), BatchStatus::Pending);
    for word in [2, 4, 0x8000_0000, u32::MAX] {
        assert_eq!(BatchStatus::from_word(word), BatchStatus::Unknown);
    }
}

#[test]
fn a_length_beyond_u32_is_encoded_as_zero() {
    let span = GpaSpan::new(Gpa::new(0x4000), 1 << 32).expect("a span");
    let bytes = bytes_of(Dialect::U32.map_request(&span).words());
    assert_eq!(bytes[8..12], [0; 4]);
}

#[test]
fn a_range_must_not_reach_the_last_address() {
    for (dialect, layout) in DIALECTS {
        let span = GpaSpan::new(Gpa::new(0x4000), 0x4000).expect("a span");
        let at = |addr: u64| decode(dialect, &span, &response(&layout, 0x4000, addr, 0x4000, OK));
        let last = 0u64.wrapping_sub(0x8000);
        assert_eq!(at(last), MapOutcome::Mapped(Iova::new(last)));
        assert_eq!(
            at(last.wrapping_add(0x4000)),
            MapOutcome::Rejected(ReplyError::Range)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn map_requests(span in spans()) {
        let (gpa, len) = (span.start().raw().to_le_bytes(), span.len().to_le_bytes());

        let bytes = bytes_of(Dialect::U64.map_request(&span).words());
        prop_assert_eq!(bytes.len(), 20);
        prop_assert_eq!(&bytes[0..8], &gpa);
        prop_assert_eq!(&bytes[8..16], &len);
        prop_assert_eq!(&bytes[16..20], &[0; 4]);

        let bytes = bytes_of(Dialect::U32.map_request(&span).words());
        prop_assert_eq!(bytes.len(), 16);
        prop_assert_eq!(&bytes[0..8], &gpa);
        if span.len() <= 0xffff_ffff {
            prop_assert_eq!(&bytes[8..12], &len[..4]);
        } else {
            prop_assert_eq!(&bytes[8..12], &[0; 4]);
        }
        prop_assert_eq!(&bytes[12..16], &[0; 4]);
    }

    #[test]
    fn a_single_short_request_is_the_same_in_both_dialects(span in short_spans()) {
        let short = bytes_of(Dialect::U32.map_request(&span).words());
        let long = bytes_of(Dialect::U64.map_request(&span).words());
        prop_assert_eq!(&short[..16], &long[..16]);
        prop_assert_eq!(&long[16..], &[0; 4]);
    }

    #[test]
    fn unmap_requests(span in spans()) {
        let bytes = bytes_of(unmap_request(&span).words());
        prop_assert_eq!(bytes.len(), 16);
        prop_assert_eq!(&bytes[0..8], &span.start().raw().to_le_bytes());
        prop_assert_eq!(&bytes[8..16], &span.len().to_le_bytes());
    }

    #[test]
    fn map_responses(span in short_spans(), granule: u64, wrong in 1u64.., status in 4u32..) {
        let id = span.start().raw();
        let good = (granule & !0x3fff) | (id & 0x3fff);
        let fits = good.checked_add(span.len()).is_some();
        for (dialect, layout) in DIALECTS {
            let say = |id, addr, len, status| {
                decode(dialect, &span, &response(&layout, id, addr, len, status))
            };
            let expected = if fits {
                MapOutcome::Mapped(Iova::new(good))
            } else {
                MapOutcome::Rejected(ReplyError::Range)
            };
            prop_assert_eq!(say(id, good, span.len(), OK), expected);

            // One wrong field at a time.
            prop_assert_eq!(
                say(id ^ wrong, good, span.len(), OK),
                MapOutcome::Rejected(ReplyError::Id)
            );
            let wrong_len = span.len() ^ wrong;
            if layout.len_bytes == 8 || wrong & 0xffff_ffff != 0 {
                prop_assert_eq!(
                    say(id, good, wrong_len, OK),
                    MapOutcome::Rejected(ReplyError::Length)
                );
            }
            if wrong & 0x3fff != 0 {
                prop_assert_eq!(
                    say(id, good ^ (wrong & 0x3fff), span.len(), OK),
                    MapOutcome::Rejected(ReplyError::Offset)
                );
            }
            for status in [2, status] {
                let expected = if status == SENTINEL {
                    MapOutcome::Unknown
                } else {
                    MapOutcome::Rejected(ReplyError::Status)
                };
                prop_assert_eq!(say(id, good, span.len(), status), expected);
            }
            for status in [IOERR, INVAL] {
                prop_assert_eq!(say(id, good, span.len(), status), MapOutcome::Refused);
                prop_assert_eq!(
                    decode(dialect, &span, &failure(&layout, status)),
                    MapOutcome::Refused
                );
            }
            prop_assert_eq!(
                decode(dialect, &span, &sentinels(layout.bytes)),
                MapOutcome::Unknown
            );
        }
    }

    #[test]
    fn unmap_responses(id: u64, wrong in 1u64.., status in 4u32..) {
        let say = |id: u64, status: u32| {
            let mut bytes = sentinels(16);
            bytes[0..8].copy_from_slice(&id.to_le_bytes());
            bytes[8..12].copy_from_slice(&status.to_le_bytes());
            bytes
        };
        let read = |bytes: &[u8]| {
            let mut resp = empty_unmap_response();
            write(&mut resp, bytes);
            unmap_outcome(Gpa::new(id), &resp)
        };
        prop_assert_eq!(read(&say(id, OK)), UnmapOutcome::Unmapped);
        prop_assert_eq!(read(&say(id ^ wrong, OK)), UnmapOutcome::Rejected(ReplyError::Id));
        prop_assert_eq!(read(&say(id, IOERR)), UnmapOutcome::Refused);
        prop_assert_eq!(read(&say(id, INVAL)), UnmapOutcome::Refused);
        let unknown = UnmapOutcome::Rejected(ReplyError::Status);
        prop_assert_eq!(read(&say(id, 2)), unknown);
        let expected = match status {
            SENTINEL => UnmapOutcome::Unknown,
            _ => unknown,
        };
        prop_assert_eq!(read(&say(id, status)), expected);
        prop_assert_eq!(read(&sentinels(16)), UnmapOutcome::Unknown);
    }

    #[test]
    fn the_dialect_is_detected(span in short_spans(), granule: u64) {
        let id = span.start().raw();
        let addr = (granule & !0x3fff) | (id & 0x3fff);
        for (dialect, layout) in DIALECTS {
            let responses = [
                response(&layout, id, addr, span.len(), OK),
                failure(&layout, IOERR),
                failure(&layout, INVAL),
            ];
            for bytes in responses {
                let mut resp = Dialect::U64.empty_map_response();
                write(&mut resp, &bytes);
                prop_assert_eq!(Dialect::detect(&resp), Some(dialect));
                // The response to the probe is decoded in the detected dialect.
                prop_assert_eq!(
                    dialect.map_outcome(&span, &resp),
                    decode(dialect, &span, &bytes)
                );
            }
        }
        prop_assert_eq!(Dialect::detect(&Dialect::U64.empty_map_response()), None);
    }

    #[test]
    fn all_bytes_are_decoded(span in spans(), bytes in prop::collection::vec(any::<u8>(), 0..28)) {
        for (dialect, _) in DIALECTS {
            if let MapOutcome::Mapped(iova) = decode(dialect, &span, &bytes) {
                prop_assert!(iova.raw().checked_add(span.len()).is_some());
                prop_assert_eq!((iova.raw() ^ span.start().raw()) & 0x3fff, 0);
            }
        }
        let mut resp = Dialect::U64.empty_map_response();
        write(&mut resp, &bytes);
        let _ = Dialect::detect(&resp);
        let mut resp = empty_unmap_response();
        write(&mut resp, &bytes);
        let _ = unmap_outcome(span.start(), &resp);
    }
}
