// SPDX-License-Identifier: GPL-2.0

//! Numbers and layouts of the NVM Express base specification 1.4, without behaviour.

use crate::addr::Iova;

/// The version that the controller follows: 1.4.0.
pub const VERSION: u32 = 0x0001_0400;

/// Register offsets in BAR0.
pub mod reg {
    #![allow(missing_docs)] // the specification's names
    pub const CAP: u64 = 0x00;
    pub const VS: u64 = 0x08;
    pub const INTMS: u64 = 0x0c;
    pub const INTMC: u64 = 0x10;
    pub const CC: u64 = 0x14;
    pub const CSTS: u64 = 0x1c;
    pub const NSSR: u64 = 0x20;
    pub const AQA: u64 = 0x24;
    pub const ASQ: u64 = 0x28;
    pub const ACQ: u64 = 0x30;
    /// First doorbell; a queue has two, 4 bytes apart.
    pub const DOORBELLS: u64 = 0x1000;
}

/// CC.EN.
pub const CC_EN: u32 = 1;
/// CSTS.RDY.
pub const CSTS_RDY: u32 = 1;
/// CSTS.CFS: a fatal status, until the controller is reset.
pub const CSTS_CFS: u32 = 1 << 1;
/// CSTS.SHST: shutdown is complete.
pub const CSTS_SHST_DONE: u32 = 2 << 2;

/// Returns CC.SHN, not 0 if the guest requests a shutdown.
pub fn cc_shn(cc: u32) -> u32 {
    (cc >> 14) & 3
}

/// Returns the bytes of a page under CC.MPS.
pub fn cc_page(cc: u32) -> usize {
    4096 << ((cc >> 7) & 0xf)
}

/// Returns CC.IOSQES and CC.IOCQES: logarithms of entry sizes of I/O queues.
pub fn cc_entry_sizes(cc: u32) -> (u32, u32) {
    ((cc >> 16) & 0xf, (cc >> 20) & 0xf)
}

/// Largest CC.MPS: 64 KiB pages.
pub const MPS_MAX: u32 = 4;
/// Maximum number of entries of a queue.
pub const MAX_ENTRIES: u32 = 1024;
/// Bytes of a submission queue entry.
pub const SQE_SIZE: usize = 64;
/// Bytes of a completion queue entry.
pub const CQE_SIZE: usize = 16;

/// Admin opcodes.
pub mod admin {
    #![allow(missing_docs)] // the specification's names
    pub const DELETE_SQ: u8 = 0x00;
    pub const CREATE_SQ: u8 = 0x01;
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const DELETE_CQ: u8 = 0x04;
    pub const CREATE_CQ: u8 = 0x05;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0a;
    pub const ASYNC_EVENT: u8 = 0x0c;
}

/// I/O opcodes.
pub mod io {
    #![allow(missing_docs)] // the specification's names
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const COMPARE: u8 = 0x05;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    pub const VERIFY: u8 = 0x0c;
}

/// Feature identifiers.
pub mod feature {
    #![allow(missing_docs)] // the specification's names
    pub const ARBITRATION: u8 = 0x01;
    pub const POWER_MANAGEMENT: u8 = 0x02;
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    pub const ERROR_RECOVERY: u8 = 0x05;
    pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    pub const INTERRUPT_COALESCING: u8 = 0x08;
    pub const INTERRUPT_VECTOR: u8 = 0x09;
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    pub const ASYNC_EVENT: u8 = 0x0b;
}

/// The namespace id that means all of them.
pub const ALL_NAMESPACES: u32 = 0xffff_ffff;

/// Result of a command: bits 10:8 are the status code type, 7:0 the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

#[allow(missing_docs)] // the specification's names
impl Status {
    pub const SUCCESS: Self = Self(0x000);
    pub const INVALID_OPCODE: Self = Self(0x001);
    pub const INVALID_FIELD: Self = Self(0x002);
    pub const DATA_TRANSFER_ERROR: Self = Self(0x004);
    pub const ABORTED_SQ_DELETION: Self = Self(0x008);
    pub const INVALID_NAMESPACE: Self = Self(0x00b);
    pub const COMMAND_SEQUENCE: Self = Self(0x00c);
    pub const PRP_OFFSET: Self = Self(0x013);
    pub const LBA_OUT_OF_RANGE: Self = Self(0x080);
    pub const CQ_INVALID: Self = Self(0x100);
    pub const INVALID_QUEUE_ID: Self = Self(0x101);
    pub const INVALID_QUEUE_SIZE: Self = Self(0x102);
    pub const ASYNC_EVENT_LIMIT: Self = Self(0x105);
    pub const INVALID_VECTOR: Self = Self(0x108);
    pub const INVALID_LOG_PAGE: Self = Self(0x109);
    pub const INVALID_QUEUE_DELETION: Self = Self(0x10c);
    pub const WRITE_FAULT: Self = Self(0x280);
    pub const READ_ERROR: Self = Self(0x281);
    pub const COMPARE_FAILURE: Self = Self(0x285);

    /// Returns the status field of a completion without its phase tag. Errors have the bit that
    /// tells the guest not to retry: the command would fail again.
    pub fn field(self) -> u16 {
        match self {
            Self::SUCCESS => 0,
            Self(code) => code | (1 << 14),
        }
    }
}

/// A submission queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    dwords: [u32; 16],
}

impl Command {
    /// Parses an entry.
    pub fn new(bytes: &[u8; SQE_SIZE]) -> Self {
        let mut dwords = [0; 16];
        for (dword, bytes) in dwords.iter_mut().zip(bytes.chunks_exact(4)) {
            *dword = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self { dwords }
    }

    /// Returns the opcode.
    pub fn opcode(&self) -> u8 {
        self.dwords[0] as u8
    }

    /// Returns the guest's identifier of the command.
    pub fn cid(&self) -> u16 {
        (self.dwords[0] >> 16) as u16
    }

    /// Returns whether the command is half of a fused pair, or describes its data with SGLs. The
    /// controller supports neither.
    pub fn fused_or_sgl(&self) -> bool {
        self.dwords[0] & 0xc300 != 0
    }

    /// Returns the namespace.
    pub fn nsid(&self) -> u32 {
        self.dwords[1]
    }

    /// Returns the first PRP entry.
    pub fn prp1(&self) -> Iova {
        Iova(self.qword(6))
    }

    /// Returns the second PRP entry, or the list.
    pub fn prp2(&self) -> Iova {
        Iova(self.qword(8))
    }

    /// Returns CDW10 to CDW15.
    pub fn cdw(&self, n: usize) -> u32 {
        self.dwords[n]
    }

    /// Returns the two dwords from `n` on.
    pub fn qword(&self, n: usize) -> u64 {
        u64::from(self.dwords[n]) | (u64::from(self.dwords[n + 1]) << 32)
    }
}
