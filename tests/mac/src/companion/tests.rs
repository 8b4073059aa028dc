// SPDX-License-Identifier: GPL-2.0

//! The companion against RAM of its own: both dialects, every error.

use super::*;
use crate::addr::{
    granule_offset,
    Iova, //
};
use crate::cost::Preset;
use crate::dart::{
    Limits,
    Mode, //
};
use crate::iova::{
    IovaSpace,
    Placement, //
};

const RAM: u64 = 0x4000_0000;
const RAM_SIZE: u64 = 16 << 20;
const CMD: u64 = RAM + 0x1000;
const REQ: u64 = RAM + 0x2000;
const RESP: u64 = RAM + 0x3_0000;
const DATA: u64 = RAM + 0x10_0000;
/// Value with which a guest prefills responses; not a valid status.
const SENTINEL: u8 = 0xa5;
const UNTOUCHED: u32 = 0xa5a5_a5a5;

struct Guest {
    companion: Companion,
    shared: Arc<Shared>,
    ram: Arc<GuestRam>,
}

fn guest(dialect: Dialect) -> Guest {
    guest_with(dialect, None)
}

fn guest_with(dialect: Dialect, translator: Option<Box<dyn Translator>>) -> Guest {
    let ram = Arc::new(GuestRam::new());
    ram.add_anonymous(Gpa(RAM), RAM_SIZE as usize).unwrap();
    let space = IovaSpace::new(Iova(0x8001_0000_0000), 1 << 32, Placement::Low).unwrap();
    let dart = Dart::new(Mode::Dext, Limits::default(), space);
    let dart = Arc::new(RwLock::new(dart));
    let mut shared = Shared::new("c", dart, Settings::default());
    shared.translator = translator;
    let shared = Arc::new(shared);
    let config = Config {
        dialect,
        max_batch: 8,
        reg_version: APPLE_DMA_PCI_VERSION,
        reg_bdf: 0x28,
        reg_max_entries: 8,
    };
    let mut companion = Companion::new(shared.clone(), ram.clone(), config);
    companion.set_master(true);
    Guest {
        companion,
        shared,
        ram,
    }
}

impl Guest {
    fn get(&mut self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.companion.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, register: u32, value: u32) {
        self.companion.write(register.into(), &value.to_le_bytes());
    }

    /// Rings for a command block with these fields. Returns its status and the STATUS register.
    fn ring(&mut self, type_: u32, count: u32, req_gpa: u64, resp_gpa: u64) -> (u32, u32) {
        let cmd = apple_dma_pci_cmd {
            type_,
            count,
            status: UNTOUCHED,
            reserved: 0,
            req_gpa,
            resp_gpa,
        };
        self.ram.write_obj(Gpa(CMD), &cmd).unwrap();
        self.set(APPLE_DMA_PCI_REG_CMD_GPA_LO, CMD as u32);
        self.set(APPLE_DMA_PCI_REG_CMD_GPA_HI, (CMD >> 32) as u32);
        self.set(APPLE_DMA_PCI_REG_DOORBELL, 1);
        let cmd: apple_dma_pci_cmd = self.ram.read_obj(Gpa(CMD)).unwrap();
        (cmd.status, self.get(APPLE_DMA_PCI_REG_STATUS))
    }

    /// Maps ranges in one batch. Returns the status and the response bytes.
    fn map(&mut self, ranges: &[(u64, u64)]) -> (u32, Vec<Vec<u8>>) {
        let dialect = self.companion.config.dialect;
        let mut requests = Vec::new();
        for &(gpa, len) in ranges {
            match dialect {
                Dialect::U32 => requests.extend_from_slice(
                    apple_dma_pci_map_req32 {
                        gpa,
                        len: len as u32,
                        flags: 0,
                    }
                    .as_slice(),
                ),
                Dialect::U64 => requests
                    .extend_from_slice(apple_dma_pci_map_req64 { gpa, len, flags: 0 }.as_slice()),
            }
        }
        self.ram.write(Gpa(REQ), &requests).unwrap();
        let size = dialect.response_size();
        let mut responses = vec![SENTINEL; ranges.len() * size + 8];
        self.ram.write(Gpa(RESP), &responses).unwrap();
        let (status, register) = self.ring(APPLE_DMA_PCI_CMD_MAP, ranges.len() as u32, REQ, RESP);
        let truthful = lock(&self.shared.settings).hostile == Hostile::None
            && self.shared.snapshot().lies == 0;
        if truthful && self.shared.translator.is_none() {
            assert_eq!(status, register);
        }
        self.ram.read(Gpa(RESP), &mut responses).unwrap();
        let tail = responses.split_off(ranges.len() * size);
        assert_eq!(tail, [SENTINEL; 8], "written past the array");
        (status, responses.chunks(size).map(<[u8]>::to_vec).collect())
    }

    /// Unmaps keys in one batch. Returns the status and the responses.
    fn unmap(&mut self, keys: &[(u64, u64)]) -> (u32, Vec<apple_dma_pci_unmap_resp>) {
        for (i, &(id, size)) in keys.iter().enumerate() {
            let request = apple_dma_pci_unmap_req { id, size };
            self.ram
                .write_obj(Gpa(REQ + 16 * i as u64), &request)
                .unwrap();
            self.ram
                .write(Gpa(RESP + 16 * i as u64), &[SENTINEL; 16])
                .unwrap();
        }
        let (status, _) = self.ring(APPLE_DMA_PCI_CMD_UNMAP, keys.len() as u32, REQ, RESP);
        let responses = (0..keys.len() as u64)
            .map(|i| self.ram.read_obj(Gpa(RESP + 16 * i)).unwrap())
            .collect();
        (status, responses)
    }

    fn violations(&self) -> u64 {
        self.shared.snapshot().violations.count
    }
}

/// Returns (id, dma_addr, dma_len, status).
fn fields(response: &[u8]) -> (u64, u64, u64, u32) {
    match response.len() {
        24 => {
            let r: apple_dma_pci_map_resp32 = object(response);
            (r.id, r.dma_addr, r.dma_len.into(), r.status)
        }
        _ => {
            let r: apple_dma_pci_map_resp64 = object(response);
            (r.id, r.dma_addr, r.dma_len, r.status)
        }
    }
}

#[test]
fn registers_read_as_configured() {
    let mut g = guest(Dialect::U32);
    assert_eq!(g.get(APPLE_DMA_PCI_REG_VERSION), 2);
    assert_eq!(g.get(APPLE_DMA_PCI_REG_MANAGED_BDF), 0x28);
    assert_eq!(g.get(APPLE_DMA_PCI_REG_MAX_ENTRIES), 8);
    assert_eq!(g.get(APPLE_DMA_PCI_REG_STATUS), 0);
    assert_eq!(g.violations(), 0);
}

#[test]
fn odd_accesses_are_violations() {
    let mut g = guest(Dialect::U32);
    for (offset, len) in [
        (0, 1),
        (0, 2),
        (0, 8),
        (2, 4),
        (0x10, 4),
        (0x1c, 4),
        (0xffd, 4),
    ] {
        let mut data = vec![0; len];
        g.companion.read(offset, &mut data);
        assert_eq!(data, vec![0xff; len]);
    }
    assert_eq!(g.violations(), 7);
    for (offset, len) in [
        (0, 4),
        (0x0c, 4),
        (0x18, 1),
        (0x18, 8),
        (0x1c, 4),
        (0x10, 0),
    ] {
        g.companion.write(offset, &vec![0; len]);
    }
    assert_eq!(g.violations(), 13);
    assert_eq!(g.shared.snapshot().doorbells, 0);
}

#[test]
fn map_and_unmap_in_both_dialects() {
    for dialect in [Dialect::U32, Dialect::U64] {
        let mut g = guest(dialect);
        let (status, r) = g.map(&[(DATA, 0x1000), (DATA + 0x5006, 6)]);
        assert_eq!(status, APPLE_DMA_PCI_STATUS_OK);
        for (response, (gpa, len)) in r.iter().zip([(DATA, 0x1000), (DATA + 0x5006, 6)]) {
            let (id, dma_addr, dma_len, status) = fields(response);
            assert_eq!((id, dma_len, status), (gpa, len, 0));
            assert_eq!(granule_offset(dma_addr), granule_offset(gpa));
            let dart = g.shared.dart.read().unwrap();
            assert_eq!(dart.translate(Iova(dma_addr), len), Ok(Gpa(gpa)));
        }
        let (status, r) = g.unmap(&[(DATA, 0x1000), (DATA + 0x5006, 6)]);
        assert_eq!(status, APPLE_DMA_PCI_STATUS_OK);
        assert_eq!((r[0].id, r[0].status, r[0].reserved), (DATA, 0, 0));
        assert_eq!((r[1].id, r[1].status), (DATA + 0x5006, 0));
        let s = g.shared.snapshot();
        assert_eq!((s.entries_mapped, s.entries_unmapped), (2, 2));
        assert_eq!((s.live_mappings, s.peak_mappings), (0, 2));
        assert_eq!((s.map_batches, s.unmap_batches, s.doorbells), (1, 1, 2));
        assert_eq!((s.largest_batch, s.unmap_size_mismatches), (2, 0));
        assert_eq!(s.violations.count, 0);
    }
}

#[test]
fn one_entry_reads_the_same_in_both_dialects() {
    // The request of the other dialect, with flags 0.
    for dialect in [Dialect::U32, Dialect::U64] {
        let mut g = guest(dialect);
        let request = apple_dma_pci_map_req64 {
            gpa: DATA,
            len: 0x1000,
            flags: 0,
        };
        g.ram.write_obj(Gpa(REQ), &request).unwrap();
        g.ram.write(Gpa(RESP), &[SENTINEL; 28]).unwrap();
        let (status, _) = g.ring(APPLE_DMA_PCI_CMD_MAP, 1, REQ, RESP);
        assert_eq!(status, APPLE_DMA_PCI_STATUS_OK);
        let mut response = [0; 28];
        g.ram.read(Gpa(RESP), &mut response).unwrap();
        let touched = response[24..] != [SENTINEL; 4];
        assert_eq!(touched, dialect == Dialect::U64);
        assert_eq!(g.violations(), 0);
    }
}

#[test]
fn a_failed_entry_has_only_its_status_written() {
    for dialect in [Dialect::U32, Dialect::U64] {
        let mut g = guest(dialect);
        let (status, r) = g.map(&[
            (DATA, 0x1000),
            (DATA, 0x1000),
            (RAM + RAM_SIZE - 1, 2),
            (DATA + 0x1000, 0),
            (DATA + 0x2000, 1),
        ]);
        assert_eq!(status, APPLE_DMA_PCI_STATUS_IOERR);
        for failed in &r[1..4] {
            let at = failed.len() - 4;
            assert_eq!(failed[..at], vec![SENTINEL; at]);
            assert_eq!(failed[at..], APPLE_DMA_PCI_STATUS_IOERR.to_le_bytes());
        }
        assert_eq!((fields(&r[0]).3, fields(&r[4]).3), (0, 0));
        let s = g.shared.snapshot();
        assert_eq!(s.live_mappings, 2);
        assert_eq!(
            (s.refusals.live_key, s.refusals.not_ram, s.refusals.bad_size),
            (1, 1, 1)
        );
        let (status, r) = g.unmap(&[(DATA, 5), (DATA + 0x1000, 0)]);
        assert_eq!(status, APPLE_DMA_PCI_STATUS_IOERR);
        assert_eq!((r[0].status, r[1].status), (0, 1));
        let s = g.shared.snapshot();
        assert_eq!((s.refusals.unknown_key, s.unmap_size_mismatches), (1, 1));
    }
}

#[test]
fn inval_leaves_responses_untouched() {
    for dialect in [Dialect::U32, Dialect::U64] {
        let mut g = guest(dialect);
        let end = RAM + RAM_SIZE;
        let cases = [
            (1, 0, REQ, RESP),
            (1, 9, REQ, RESP),
            (1, u32::MAX, REQ, RESP),
            (1, 1, 0, RESP),
            (1, 1, REQ, 0),
            (0, 1, REQ, RESP),
            (3, 1, REQ, RESP),
            (1, 1, end - 15, RESP),
            (1, 1, REQ, end - 23),
            (2, 2, end - 16, RESP),
            (2, 2, REQ, end - 16),
            (1, 1, u64::MAX, RESP),
            (1, 1, REQ, u64::MAX - 3),
        ];
        for (n, (type_, count, req, resp)) in cases.into_iter().enumerate() {
            g.ram.write(Gpa(RESP), &[SENTINEL; 64]).unwrap();
            g.ram.write(Gpa(end - 64), &[SENTINEL; 64]).unwrap();
            let got = g.ring(type_, count, req, resp);
            assert_eq!(
                got,
                (APPLE_DMA_PCI_STATUS_INVAL, APPLE_DMA_PCI_STATUS_INVAL),
                "case {n}"
            );
            for gpa in [RESP, end - 64] {
                let mut seen = [0; 64];
                g.ram.read(Gpa(gpa), &mut seen).unwrap();
                assert_eq!(seen, [SENTINEL; 64], "case {n}");
            }
            assert_eq!(g.shared.snapshot().inval_batches, n as u64 + 1);
        }
        assert_eq!(g.shared.snapshot().live_mappings, 0);
    }
}

#[test]
fn an_array_at_0_is_inval_even_in_ram() {
    let mut g = guest(Dialect::U32);
    g.ram.add_anonymous(Gpa(0), 0x10000).unwrap();
    for type_ in [APPLE_DMA_PCI_CMD_MAP, APPLE_DMA_PCI_CMD_UNMAP] {
        for (req, resp) in [(0, RESP), (REQ, 0)] {
            let (status, _) = g.ring(type_, 1, req, resp);
            assert_eq!(status, APPLE_DMA_PCI_STATUS_INVAL);
        }
    }
    // A command block may lie there: nothing forbids it.
    g.set(APPLE_DMA_PCI_REG_CMD_GPA_LO, 0);
    g.set(APPLE_DMA_PCI_REG_CMD_GPA_HI, 0);
    let cmd = apple_dma_pci_cmd {
        type_: APPLE_DMA_PCI_CMD_UNMAP,
        count: 1,
        status: UNTOUCHED,
        reserved: 0,
        req_gpa: REQ,
        resp_gpa: RESP,
    };
    g.ram.write_obj(Gpa(0), &cmd).unwrap();
    g.set(APPLE_DMA_PCI_REG_DOORBELL, 0);
    assert_eq!(g.get(APPLE_DMA_PCI_REG_STATUS), APPLE_DMA_PCI_STATUS_IOERR);
}

#[test]
fn an_unreachable_command_block_is_inval() {
    let mut g = guest(Dialect::U32);
    for gpa in [0u64, RAM - 4, RAM + RAM_SIZE - 31, u64::MAX] {
        g.set(APPLE_DMA_PCI_REG_CMD_GPA_LO, gpa as u32);
        g.set(APPLE_DMA_PCI_REG_CMD_GPA_HI, (gpa >> 32) as u32);
        g.set(APPLE_DMA_PCI_REG_DOORBELL, 0);
        assert_eq!(g.get(APPLE_DMA_PCI_REG_STATUS), APPLE_DMA_PCI_STATUS_INVAL);
    }
}

#[test]
fn a_doorbell_needs_bus_mastering() {
    let mut g = guest(Dialect::U32);
    g.companion.set_master(false);
    let got = g.ring(APPLE_DMA_PCI_CMD_MAP, 1, REQ, RESP);
    assert_eq!(got, (UNTOUCHED, APPLE_DMA_PCI_STATUS_IOERR));
    assert_eq!(g.violations(), 1);
}

#[test]
fn reset_keeps_mappings() {
    let mut g = guest(Dialect::U64);
    g.map(&[(DATA, 0x1000)]);
    g.companion.reset();
    assert_eq!(g.get(APPLE_DMA_PCI_REG_STATUS), 0);
    g.companion.set_master(true);
    let (status, _) = g.map(&[(DATA, 0x1000)]);
    assert_eq!(status, APPLE_DMA_PCI_STATUS_IOERR);
    assert_eq!(g.shared.snapshot().refusals.live_key, 1);
    g.shared.disconnected();
    let s = g.shared.snapshot();
    assert_eq!((s.live_at_disconnect, s.live_mappings), (Some(1), 0));
}

#[test]
fn nonzero_flags_and_reserved_are_violations_only() {
    let mut g = guest(Dialect::U32);
    let request = apple_dma_pci_map_req32 {
        gpa: DATA,
        len: 1,
        flags: 1,
    };
    g.ram.write_obj(Gpa(REQ), &request).unwrap();
    assert_eq!(g.ring(APPLE_DMA_PCI_CMD_MAP, 1, REQ, RESP).0, 0);
    assert_eq!(g.violations(), 1);
}

#[test]
fn refusals_on_demand() {
    let mut g = guest(Dialect::U32);
    lock(&g.shared.settings).refuse_next = 1;
    lock(&g.shared.settings).refuse_unmap_next = 1;
    let (status, r) = g.map(&[(DATA, 1), (DATA + 0x4000, 1)]);
    assert_eq!(status, APPLE_DMA_PCI_STATUS_IOERR);
    assert_eq!((fields(&r[0]).3, fields(&r[1]).3), (1, 0));
    assert_eq!(g.unmap(&[(DATA + 0x4000, 1)]).0, 1);
    assert_eq!(g.unmap(&[(DATA + 0x4000, 1)]).0, 0);

    *lock(&g.shared.settings) = Settings {
        refuse_every: 3,
        ..Settings::default()
    };
    let ranges: Vec<_> = (0..6).map(|i| (DATA + i * 0x4000, 1)).collect();
    let (_, r) = g.map(&ranges);
    let statuses: Vec<_> = r.iter().map(|r| fields(r).3).collect();
    assert_eq!(statuses, [0, 0, 1, 0, 0, 1]);
    assert_eq!(g.shared.snapshot().refusals.injected, 4);

    *lock(&g.shared.settings) = Settings {
        refuse_at: 2,
        refuse_unmap_at: 3,
        ..Settings::default()
    };
    let ranges: Vec<_> = (8..12).map(|i| (DATA + i * 0x4000, 1)).collect();
    let (_, r) = g.map(&ranges);
    let statuses: Vec<_> = r.iter().map(|r| fields(r).3).collect();
    assert_eq!(statuses, [0, 1, 0, 0]);
    let (_, r) = g.unmap(&[ranges[0], ranges[2], ranges[3], ranges[3]]);
    let statuses: Vec<_> = r.iter().map(|r| r.status).collect();
    assert_eq!(statuses, [0, 0, 1, 0]);
}

fn hostile(g: &Guest, hostile: Hostile) {
    lock(&g.shared.settings).hostile = hostile;
}

#[test]
fn false_replies_leave_the_dart_truthful() {
    for dialect in [Dialect::U32, Dialect::U64] {
        let mut g = guest(dialect);
        hostile(&g, Hostile::WrongOffset);
        let (status, r) = g.map(&[(DATA, 0x1000)]);
        let (_, lie, ..) = fields(&r[0]);
        assert_eq!(status, APPLE_DMA_PCI_STATUS_OK);
        let dart = g.shared.dart.read().unwrap();
        let truth = *dart.mappings().next().unwrap();
        assert_eq!(truth.gpa, Gpa(DATA));
        assert_eq!(lie, truth.iova.0 ^ 0x1000);
        assert!(dart.translate(Iova(lie), 1).is_err());
        drop(dart);
        assert_eq!(g.shared.snapshot().lies, 1);
    }
}

#[test]
fn false_replies_about_batches() {
    let mut g = guest(Dialect::U32);
    hostile(&g, Hostile::NeverCompletes);
    let (status, r) = g.map(&[(DATA, 1)]);
    assert_eq!((status, &r[0][..]), (UNTOUCHED, &[SENTINEL; 24][..]));
    assert_eq!(g.shared.snapshot().live_mappings, 0);

    hostile(&g, Hostile::UntouchedBatchStatus);
    let (status, r) = g.map(&[(DATA, 1)]);
    assert_eq!((status, fields(&r[0]).3), (UNTOUCHED, 0));
    assert_eq!(g.get(APPLE_DMA_PCI_REG_STATUS), 0);
    assert_eq!(g.shared.snapshot().live_mappings, 1);

    hostile(&g, Hostile::OkThoughFailed);
    let (status, r) = g.map(&[(DATA, 1)]);
    assert_eq!((status, fields(&r[0]).3), (0, 1));

    hostile(&g, Hostile::UntouchedResponse);
    let (status, r) = g.map(&[(DATA + 0x4000, 1)]);
    assert_eq!((status, &r[0][..]), (0, &[SENTINEL; 24][..]));
}

#[test]
fn the_dialect_changes_only_after_the_first_batch() {
    for dialect in [Dialect::U32, Dialect::U64] {
        let mut g = guest(dialect);
        hostile(&g, Hostile::DialectChange);
        let (_, r) = g.map(&[(DATA, 0x1000)]);
        assert_eq!(fields(&r[0]).3, 0);
        assert_eq!(g.shared.snapshot().lies, 0);
        // `map` ensures that nothing is written past the array.
        let (_, r) = g.map(&[(DATA + 0x4000, 0x1000)]);
        assert_eq!(g.shared.snapshot().lies, 1);
        if dialect == Dialect::U64 {
            assert_eq!(r[0][24..], [SENTINEL; 4]);
        } else {
            // The upper half of a 64-bit length.
            assert_eq!(r[0][20..], [0; 4]);
        }
    }
}

#[test]
fn false_replies_end_when_told_so() {
    let mut g = guest(Dialect::U32);
    lock(&g.shared.settings).hostile_next = Some(2);
    hostile(&g, Hostile::ZeroDmaAddr);
    let (_, r) = g.map(&[(DATA, 1), (DATA + 1, 1), (DATA + 2, 1)]);
    let zero: Vec<_> = r.iter().map(|r| fields(r).1 == 0).collect();
    assert_eq!(zero, [true, true, false]);
}

#[test]
fn latency_is_counted() {
    let mut g = guest(Dialect::U32);
    lock(&g.shared.settings).costs.doorbell_us = 2000;
    g.map(&[(DATA, 1)]);
    let s = g.shared.snapshot();
    assert!(s.doorbell_ns >= 2_000_000);
    assert_eq!(s.doorbell_ns_max, s.doorbell_ns);
    g.shared.clear();
    let s = g.shared.snapshot();
    assert_eq!((s.doorbells, s.peak_mappings, s.live_mappings), (0, 1, 1));
}

/// Returns the modelled time of all doorbells, and of the longest, in microseconds.
fn modelled(g: &Guest) -> (u64, u64) {
    let s = g.shared.snapshot();
    (s.modelled_ns / 1000, s.modelled_ns_max / 1000)
}

#[test]
fn every_entry_has_its_price() {
    let mut g = guest(Dialect::U32);
    let mut costs = Costs::from(Preset::Field);
    (costs.doorbell_us, costs.factor) = (30, 0.0);
    lock(&g.shared.settings).costs = costs;
    // The third is refused, which takes as long.
    g.map(&[(DATA, 1), (DATA + 1, 1), (DATA, 1)]);
    assert_eq!(modelled(&g), (6030, 6030));
    g.unmap(&[(DATA, 1), (DATA + 7, 1)]);
    assert_eq!(modelled(&g), (6030 + 3030, 6030));
    // Batches that are INVAL, and doorbells without effect.
    g.ring(APPLE_DMA_PCI_CMD_MAP, 0, REQ, RESP);
    hostile(&g, Hostile::NeverCompletes);
    g.map(&[(DATA, 1)]);
    hostile(&g, Hostile::None);
    g.companion.set_master(false);
    g.map(&[(DATA, 1)]);
    assert_eq!(modelled(&g), (6030 + 3030 + 3 * 30, 6030));
    g.shared.clear();
    assert_eq!(modelled(&g), (0, 0));
}

#[test]
fn spread_prices_repeat_with_their_seed() {
    let total = |seed| {
        let mut g = guest(Dialect::U32);
        let costs = Costs::from(Preset::Field);
        lock(&g.shared.settings).costs = Costs {
            spread: 50,
            seed,
            factor: 0.0,
            ..costs
        };
        g.map(&[(DATA, 1), (DATA + 1, 1), (DATA + 2, 1)]);
        g.unmap(&[(DATA, 1)]);
        let s = g.shared.snapshot();
        (s.modelled_ns, s.modelled_ns_max)
    };
    assert_eq!(total(1), total(1));
    assert_ne!(total(1), total(2));
}

#[test]
fn time_passes_by_the_factor() {
    let mut g = guest(Dialect::U32);
    let costs = Costs::from(Preset::Field);
    lock(&g.shared.settings).costs = Costs {
        factor: 5.0,
        ..costs
    };
    g.map(&[(DATA, 1), (DATA + 1, 1)]);
    let s = g.shared.snapshot();
    assert_eq!(s.modelled_ns, 4_000_000);
    assert!(s.doorbell_ns >= 20_000_000);
}

#[test]
fn late_batches_have_their_price() {
    let mut g = guest(Dialect::U32);
    let costs = Costs::from(Preset::Field);
    lock(&g.shared.settings).costs = Costs {
        factor: 0.0,
        ..costs
    };
    lock(&g.shared.settings).late_ms = 10;
    hostile(&g, Hostile::Late);
    g.map(&[(DATA, 1)]);
    g.companion.finish();
    assert_eq!(modelled(&g), (2000, 2000));
}

#[test]
fn the_platforms_limit_panics_and_a_soft_one_refuses() {
    let mut g = guest(Dialect::U64);
    let set = |g: &Guest, max_bytes, panic_bytes| {
        let dart = g.shared.dart.read().unwrap();
        let mut pool = lock(&dart.pool);
        (pool.limits.max_bytes, pool.limits.panic_bytes) = (max_bytes, panic_bytes);
    };
    set(&g, 0x8000, 0xc000);
    assert_eq!(g.map(&[(DATA, 0x8001)]).0, APPLE_DMA_PCI_STATUS_IOERR);
    let s = g.shared.snapshot();
    assert_eq!((s.refusals.bytes, s.refusals.panic), (1, 0));
    assert_eq!(s.panics.count, 0);

    set(&g, 0x8000, 0x8000);
    assert_eq!(g.map(&[(DATA, 0x8000)]).0, APPLE_DMA_PCI_STATUS_OK);
    assert_eq!(g.map(&[(DATA + 0x10000, 1)]).0, APPLE_DMA_PCI_STATUS_IOERR);
    // Panics are never forgotten.
    g.shared.clear();
    let s = g.shared.snapshot();
    assert_eq!((s.refusals.panic, s.panics.count), (0, 1));
    assert!(s.panics.list[0].contains("beside 1 mappings of 32768 bytes"));
    assert_eq!((s.live_mappings, s.live_bytes), (1, 0x8000));
}

#[test]
fn a_split_range_is_answered_short() {
    let mut g = guest(Dialect::U64);
    g.shared.dart.write().unwrap().rules.split_above = 0x8000;
    let (status, r) = g.map(&[(DATA, 0x9000)]);
    let (id, iova, len, entry) = fields(&r[0]);
    assert_eq!((status, id, len, entry), (0, DATA, 0x8000, 0));
    let dart = g.shared.dart.clone();
    let reach = |len| dart.read().unwrap().translate(Iova(iova), len).is_ok();
    assert!(reach(0x8000) && !reach(0x8001));
    assert_eq!(g.unmap(&[(DATA, 0x9000)]).0, 0);
    let s = g.shared.snapshot();
    assert_eq!(
        (s.split, s.unmap_size_mismatches, s.live_mappings),
        (1, 0, 0)
    );
}

#[test]
fn segments_are_refused() {
    let mut g = guest(Dialect::U32);
    g.shared.dart.write().unwrap().rules.max_segment = 0x8000;
    assert_eq!(g.map(&[(DATA, 0x8001)]).0, APPLE_DMA_PCI_STATUS_IOERR);
    g.shared.dart.write().unwrap().rules.fragment = 1000;
    assert_eq!(g.map(&[(DATA, 0x8000)]).0, APPLE_DMA_PCI_STATUS_IOERR);
    let s = g.shared.snapshot();
    assert_eq!((s.refusals.segment, s.refusals.fragmented), (1, 1));
    assert_eq!((s.panics.count, s.live_mappings), (0, 0));
}

#[test]
fn what_is_kept_though_ok_stays_open() {
    let mut g = guest(Dialect::U32);
    let (_, r) = g.map(&[(DATA, 0x1000)]);
    let iova = fields(&r[0]).1;
    hostile(&g, Hostile::OkThoughKept);
    let (status, r) = g.unmap(&[(DATA, 0x1000)]);
    assert_eq!((status, r[0].id, r[0].status), (0, DATA, 0));
    assert!(g
        .shared
        .dart
        .read()
        .unwrap()
        .translate(Iova(iova), 0x1000)
        .is_ok());
    // A key that is not live is refused as always.
    assert_eq!(g.unmap(&[(DATA + 1, 1)]).0, APPLE_DMA_PCI_STATUS_IOERR);
    assert_eq!(g.map(&[(DATA, 0x1000)]).0, APPLE_DMA_PCI_STATUS_IOERR);
    let s = g.shared.snapshot();
    assert_eq!((s.lies, s.entries_unmapped), (1, 0));
    assert_eq!((s.refusals.live_key, s.refusals.unknown_key), (1, 1));
    hostile(&g, Hostile::None);
    assert_eq!(g.unmap(&[(DATA, 0x1000)]).0, 0);
    assert_eq!(g.shared.snapshot().live_mappings, 0);
}

#[test]
fn false_replies_about_what_was_done() {
    let mut g = guest(Dialect::U64);
    hostile(&g, Hostile::FailedThoughDone);
    let (status, r) = g.map(&[(DATA, 0x1000)]);
    assert_eq!((status, fields(&r[0]).3), (1, 1));
    assert_eq!(g.shared.snapshot().live_mappings, 1);
    let (status, r) = g.unmap(&[(DATA, 0x1000)]);
    assert_eq!((status, r[0].status), (1, 1));
    assert_eq!(g.shared.snapshot().live_mappings, 0);

    hostile(&g, Hostile::InvalThoughDone);
    let (status, _) = g.map(&[(DATA, 0x1000)]);
    assert_eq!(status, APPLE_DMA_PCI_STATUS_INVAL);
    assert_eq!(g.shared.snapshot().live_mappings, 1);
    // Scope one command only.
    lock(&g.shared.settings).hostile_about = Scope::Map;
    assert_eq!(g.unmap(&[(DATA, 0x1000)]).0, 0);
}

#[test]
fn late_batches_come_in_their_order() {
    let mut g = guest(Dialect::U32);
    lock(&g.shared.settings).late_ms = 100;
    hostile(&g, Hostile::Late);
    let (status, _) = g.map(&[(DATA, 0x1000)]);
    assert_eq!(status, UNTOUCHED);
    assert_eq!(g.shared.snapshot().live_mappings, 0);
    // A second batch in the same place is a violation, and is handled later.
    hostile(&g, Hostile::None);
    assert_eq!(g.violations(), 0);
    g.unmap(&[(DATA, 0x1000)]);
    assert_eq!(g.violations(), 1);
    g.companion.finish();
    let s = g.shared.snapshot();
    assert_eq!((s.live_mappings, s.lies), (0, 1));
    // When the batch is finished another is allowed.
    assert_eq!(g.map(&[(DATA, 0x1000)]).0, 0);
    assert_eq!(g.violations(), 1);
}

#[test]
fn a_device_that_is_gone() {
    let mut g = guest(Dialect::U32);
    hostile(&g, Hostile::Gone);
    let (status, _) = g.map(&[(DATA, 0x1000)]);
    assert_eq!(status, UNTOUCHED);
    assert_eq!(g.get(APPLE_DMA_PCI_REG_VERSION), u32::MAX);
    hostile(&g, Hostile::None);
    assert_eq!(g.get(APPLE_DMA_PCI_REG_VERSION), APPLE_DMA_PCI_VERSION);
    // Registers may change.
    lock(&g.shared.settings).reg_version = Some(7);
    lock(&g.shared.settings).reg_max_entries = Some(8);
    assert_eq!(g.get(APPLE_DMA_PCI_REG_VERSION), 7);
    assert_eq!(g.get(APPLE_DMA_PCI_REG_MAX_ENTRIES), 8);
    assert_eq!(g.map(&[(DATA, 0x1000)]).0, 0);
}

/// A translator that completes nothing before it is told to.
#[derive(Debug)]
struct Slow(Arc<Mutex<()>>);

impl Translator for Slow {
    fn begin(&self) -> Result<(), String> {
        drop(lock(&self.0));
        Ok(())
    }

    fn unmapped(&self) -> Result<(), String> {
        drop(lock(&self.0));
        Err("gone".into())
    }

    fn reset(&self) {}
}

#[test]
fn a_translator_holds_up_batches_and_nothing_else() {
    let gate = Arc::new(Mutex::new(()));
    let mut g = guest_with(Dialect::U32, Some(Box::new(Slow(gate.clone()))));
    let closed = lock(&gate);
    let (status, responses) = g.map(&[(DATA, 0x1000)]);
    assert_eq!(status, UNTOUCHED);
    assert!(responses[0].iter().all(|byte| *byte == SENTINEL));
    assert_eq!(g.get(APPLE_DMA_PCI_REG_VERSION), 2);
    g.companion.reset();
    g.companion.set_master(true);
    drop(closed);
    g.companion.finish();
    assert_eq!(status_in_block(&g), APPLE_DMA_PCI_STATUS_OK);
    assert_eq!(g.shared.snapshot().live_mappings, 1);

    // What could not be invalidated is no success.
    let closed = lock(&gate);
    let (status, _) = g.unmap(&[(DATA, 0x1000)]);
    assert_eq!(status, UNTOUCHED);
    drop(closed);
    g.companion.finish();
    assert_eq!(status_in_block(&g), APPLE_DMA_PCI_STATUS_INVAL);
    assert_eq!(g.shared.snapshot().last_inval.unwrap(), "gone");
}

fn status_in_block(g: &Guest) -> u32 {
    let cmd: apple_dma_pci_cmd = g.ram.read_obj(Gpa(CMD)).unwrap();
    cmd.status
}
