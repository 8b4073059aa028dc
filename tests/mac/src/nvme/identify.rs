// SPDX-License-Identifier: GPL-2.0

//! Descriptions of the controller: identify structures and log pages.
//!
//! Offsets are the specification's, in bytes.

use crate::nvme::spec::{
    admin,
    io,
    VERSION, //
};
use crate::nvme::{
    Disk,
    Params, //
};

/// Bytes of an identify structure.
pub const SIZE: usize = 4096;

/// The one namespace.
pub const NSID: u32 = 1;

/// Maximum number of outstanding asynchronous event requests.
pub const MAX_ASYNC_EVENTS: usize = 4;

/// The temperature that the controller reports, in kelvins.
const TEMPERATURE: u16 = 310;
/// Temperature above which the controller would warn, in kelvins.
pub const WARNING_TEMPERATURE: u16 = 343;
const CRITICAL_TEMPERATURE: u16 = 353;

const FIRMWARE: &[u8] = b"1.0";

/// Stores `value` at `at`.
fn put<const N: usize>(page: &mut [u8], at: usize, value: [u8; N]) {
    page[at..at + N].copy_from_slice(&value);
}

/// Stores text at `at`, padded with blanks to `len`.
fn text(page: &mut [u8], at: usize, len: usize, value: &[u8]) {
    let field = &mut page[at..at + len];
    field.fill(b' ');
    let n = value.len().min(len);
    field[..n].copy_from_slice(&value[..n]);
}

/// Returns the controller's structure (CNS 01h).
pub fn controller(name: &str, params: &Params) -> Vec<u8> {
    let mut p = vec![0; SIZE];
    put(&mut p, 0, 0x1234u16.to_le_bytes());
    put(&mut p, 2, 0x1af4u16.to_le_bytes());
    text(&mut p, 4, 20, name.as_bytes());
    text(&mut p, 24, 40, b"apple-dma-pci simulated NVMe");
    text(&mut p, 64, 8, FIRMWARE);
    let mdts = params.mdts.trailing_zeros() - 12;
    p[77] = mdts as u8;
    put(&mut p, 78, 1u16.to_le_bytes());
    put(&mut p, 80, VERSION.to_le_bytes());
    // An I/O controller.
    p[111] = 1;
    // Abort and asynchronous event limits, 0-based.
    p[258] = 3;
    p[259] = MAX_ASYNC_EVENTS as u8 - 1;
    // One firmware slot, read-only.
    p[260] = 0x03;
    // Commands-supported log, offsets into logs.
    p[261] = 0x06;
    // Four error log entries, 0-based.
    p[262] = 3;
    put(&mut p, 266, WARNING_TEMPERATURE.to_le_bytes());
    put(&mut p, 268, CRITICAL_TEMPERATURE.to_le_bytes());
    p[512] = 0x66;
    p[513] = 0x44;
    put(&mut p, 516, NSID.to_le_bytes());
    // Compare, dataset management, write zeroes, verify.
    put(&mut p, 520, 0x008du16.to_le_bytes());
    // A volatile write cache; flush takes the broadcast namespace.
    p[525] = 0x07;
    let nqn = format!("nqn.2014-08.org.nvmexpress:apple-dma-mac:{name}");
    let nqn = &nqn.as_bytes()[..nqn.len().min(223)];
    p[768..768 + nqn.len()].copy_from_slice(nqn);
    // Power state 0: 25 W.
    put(&mut p, 2048, 2500u16.to_le_bytes());
    p
}

/// Returns the namespace's structure (CNS 00h).
pub fn namespace(name: &str, disk: &Disk) -> Vec<u8> {
    let mut p = vec![0; SIZE];
    for at in [0, 8, 16] {
        put(&mut p, at, disk.blocks().to_le_bytes());
    }
    // Deallocated blocks read as zeroes; write zeroes may deallocate.
    p[33] = 0x09;
    put(&mut p, 104, nguid(name));
    p[130] = disk.lba_shift() as u8;
    p
}

/// Returns the identifiers of the namespace (CNS 03h).
pub fn descriptors(name: &str) -> Vec<u8> {
    let mut p = vec![0; SIZE];
    // NGUID and UUID, 16 bytes each after a header of 4.
    for (at, kind, id) in [(0, 2, nguid(name)), (20, 3, uuid(name))] {
        p[at] = kind;
        p[at + 1] = 16;
        put(&mut p, at + 4, id);
    }
    p
}

/// Returns the active namespaces above `after` (CNS 02h).
pub fn active(after: u32) -> Vec<u8> {
    let mut p = vec![0; SIZE];
    if after < NSID {
        put(&mut p, 0, NSID.to_le_bytes());
    }
    p
}

/// Returns an identifier of the namespace that no other device of the same run has.
fn nguid(name: &str) -> [u8; 16] {
    let mut id = *b"apple-dma-mac\0\0\0";
    let hash = crc32fast::hash(name.as_bytes());
    id[12..].copy_from_slice(&hash.to_be_bytes());
    id
}

/// Returns the same identifier as a UUID: version 8, the kind that vendors define.
fn uuid(name: &str) -> [u8; 16] {
    let mut id = nguid(name);
    id[6] = (id[6] & 0x0f) | 0x80;
    id[8] = (id[8] & 0x3f) | 0x80;
    id
}

/// Counters of the SMART log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Smart {
    /// Bytes read by the guest.
    pub read: u64,
    /// Bytes written by the guest.
    pub written: u64,
    /// Read commands.
    pub reads: u64,
    /// Write commands.
    pub writes: u64,
}

/// Returns a log page in full, or `None` if there is none of that id.
pub fn log_page(id: u8, smart: &Smart) -> Option<Vec<u8>> {
    Some(match id {
        // Errors: none, in four entries.
        0x01 => vec![0; 4 * 64],
        0x02 => smart_log(smart),
        // Firmware: slot 1 is active.
        0x03 => {
            let mut p = vec![0; 512];
            p[0] = 1;
            text(&mut p, 8, 8, FIRMWARE);
            p
        }
        // Changed namespaces: none.
        0x04 => vec![0; SIZE],
        0x05 => effects(),
        _ => return None,
    })
}

fn smart_log(smart: &Smart) -> Vec<u8> {
    let mut p = vec![0; 512];
    put(&mut p, 1, TEMPERATURE.to_le_bytes());
    // Spare: all of it, to warn below a tenth.
    p[3] = 100;
    p[4] = 10;
    // Thousands of 512-byte units, rounded up.
    put(&mut p, 32, smart.read.div_ceil(512_000).to_le_bytes());
    put(&mut p, 48, smart.written.div_ceil(512_000).to_le_bytes());
    put(&mut p, 64, smart.reads.to_le_bytes());
    put(&mut p, 80, smart.writes.to_le_bytes());
    put(&mut p, 112, 1u64.to_le_bytes());
    p
}

/// Returns the commands and their effects: bit 0 is support, bit 1 a change of content.
fn effects() -> Vec<u8> {
    let mut p = vec![0; SIZE];
    for opcode in [
        admin::DELETE_SQ,
        admin::CREATE_SQ,
        admin::GET_LOG_PAGE,
        admin::DELETE_CQ,
        admin::CREATE_CQ,
        admin::IDENTIFY,
        admin::ABORT,
        admin::SET_FEATURES,
        admin::GET_FEATURES,
        admin::ASYNC_EVENT,
    ] {
        p[4 * usize::from(opcode)] = 1;
    }
    for (opcode, effect) in [
        (io::FLUSH, 1),
        (io::WRITE, 3),
        (io::READ, 1),
        (io::COMPARE, 1),
        (io::WRITE_ZEROES, 3),
        (io::DATASET_MANAGEMENT, 3),
        (io::VERIFY, 1),
    ] {
        p[1024 + 4 * usize::from(opcode)] = effect;
    }
    p
}
