// SPDX-License-Identifier: GPL-2.0

//! A driver's steps on a host with faults, from a fuzzer's bytes.

use crate::bytes::Bytes;
use crate::engine::{
    LargePages,
    ReplyError, //
};
use crate::model::drive::{
    Op,
    Want, //
};
use crate::model::host::{
    MapFault,
    Placement,
    UnmapFault, //
};
use crate::model::rig::{
    Setup,
    TestPolicy,
    ALL,
    KIB,
    MIB,
    RAM, //
};

/// Most steps of a run: more steps take longer without finding more.
const STEPS: usize = 200;

const REPLY_ERRORS: [ReplyError; 6] = [
    ReplyError::Status,
    ReplyError::Id,
    ReplyError::Length,
    ReplyError::Offset,
    ReplyError::Range,
    ReplyError::Overlap,
];

/// Returns the setup of the engine, the seed of the host, and whether the driver unmaps all at the
/// end.
pub(crate) fn setup(bytes: &mut Bytes<'_>) -> (Setup, u64, bool) {
    let policy = match bytes.u8() % 6 {
        0 | 1 => TestPolicy::Adaptive(14 + u32::from(bytes.u8()) % 8),
        2 => TestPolicy::Aligned(u32::from(bytes.u8()) % 70),
        3 => TestPolicy::Smallest,
        4 => TestPolicy::Mute,
        _ => TestPolicy::Wild(bytes.u64()),
    };
    let modes = bytes.u8();
    let setup = Setup {
        ram: RAM,
        policy,
        strict: modes & 1 != 0,
        large_pages: match (modes & 2, modes & 16) {
            (0, _) => LargePages::Ignored,
            (_, 0) => LargePages::Preferred,
            _ => LargePages::Expected,
        },
        max_bytes: bytes.pick(&[128 * MIB, MIB, 0]) + u64::from(bytes.u8()) * 16 * KIB,
        max_entries: bytes.pick(&[1000, 16, 3, 1, 0]),
        batch_max: bytes.pick(&[64, 1, 2, 3, 16]),
        len_max: bytes.pick(&[u64::MAX, 128 * KIB]),
        placement: bytes.pick(&[Placement::Low, Placement::High, Placement::Random]),
        table_max: bytes.pick(&[1 << 20, 0, 700]),
        // Of the modes, as the corpus has them.
        entry_ns: [0, 3_000_000][usize::from((modes >> 3) & 1)],
        ..Setup::default()
    };
    (setup, bytes.u8().into(), modes & 4 != 0)
}

/// Returns the steps.
pub(crate) fn ops(bytes: &mut Bytes<'_>) -> Vec<Op> {
    let mut ops = Vec::new();
    while !bytes.is_empty() && ops.len() < STEPS {
        ops.push(op(bytes));
    }
    ops
}

fn op(bytes: &mut Bytes<'_>) -> Op {
    let choice = bytes.u8();
    match choice % 20 {
        // Each multiple of 20 has the same step but the last, which is not complete.
        _ if choice >= 248 => Op::Alloc(want(bytes), dma_limit(bytes)),
        _ if choice >= 240 => {
            let limits = [u64::MAX, MIB, 0];
            Op::Limit(
                bytes
                    .pick(&limits)
                    .saturating_add(u64::from(bytes.u8()) * 16 * KIB),
                bytes.pick(&[u32::MAX, 16, 3, 0]),
            )
        }
        0..=3 => Op::Map(want(bytes), dma_limit(bytes)),
        4..=5 => {
            let count = bytes.u8() % 9;
            let list = (0..count).map(|_| want(bytes)).collect();
            Op::MapAll(list, dma_limit(bytes))
        }
        6 => Op::Repeat(bytes.u8().into()),
        7..=9 => Op::Unmap(bytes.u8().into()),
        10 => Op::UnmapAll(bytes.u8().into(), 1 + usize::from(bytes.u8() % 3)),
        11 => Op::Misuse(bytes.u64(), bytes.u32().into()),
        12 => {
            let count = bytes.u8() % 6;
            Op::MapFaults((0..count).map(|_| map_fault(bytes)).collect())
        }
        13 => {
            let count = bytes.u8() % 6;
            let faults = [
                UnmapFault::None,
                UnmapFault::Refuse,
                UnmapFault::SilentGone,
                UnmapFault::SilentKept,
            ];
            Op::UnmapFaults((0..count).map(|_| bytes.pick(&faults)).collect())
        }
        14 => Op::RefuseEvery(Some(u64::from(bytes.u8() % 5)).filter(|n| *n != 0)),
        15 => match bytes.u8() % 4 {
            0 => Op::FailAllocations(true),
            1 => Op::FailAllocations(false),
            2 => Op::Away(true),
            _ => Op::Away(false),
        },
        16 => Op::Stale(want(bytes)),
        17 => Op::Age,
        18 => Op::Evict(want(bytes)),
        _ => Op::Retry,
    }
}

fn map_fault(bytes: &mut Bytes<'_>) -> MapFault {
    match bytes.u8() % 9 {
        0 => MapFault::None,
        1 => MapFault::Refuse,
        2 => MapFault::RefuseMapped,
        3 => MapFault::RejectMapped(bytes.pick(&REPLY_ERRORS)),
        4 => MapFault::RejectEmpty(bytes.pick(&REPLY_ERRORS)),
        5 => MapFault::SilentMapped,
        6 => MapFault::SilentEmpty,
        7 => MapFault::Overlap,
        _ => MapFault::Wrap,
    }
}

fn dma_limit(bytes: &mut Bytes<'_>) -> u64 {
    bytes.pick(&[ALL, ALL, ALL, 0xffff_ffff, 0x800f_ffff])
}

fn want(bytes: &mut Bytes<'_>) -> Want {
    let (block, block_len) = bytes.pick(RAM);
    let len = match bytes.u8() % 6 {
        0 | 1 => 4 * KIB,
        2 => (16 * KIB) << (bytes.u8() % 5),
        3 => bytes.u16().into(),
        4 => u64::from(bytes.u16()) * 64,
        _ => block_len,
    };
    let offset = match bytes.u8() % 6 {
        0 => u64::from(bytes.u8()) * 4 * KIB,
        1 => u64::from(bytes.u8()) * 64 * KIB,
        2 => bytes.u16().into(),
        3 => u64::from(bytes.u16()) * KIB,
        4 => block_len.saturating_sub(len),
        // Over an edge of RAM, beyond it, anywhere.
        _ => bytes.u64(),
    };
    Want {
        start: block.wrapping_add(offset),
        len,
    }
}
