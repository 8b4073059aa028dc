// SPDX-License-Identifier: GPL-2.0

//! The controller against RAM of its own, driven as a driver does.

use super::spec::{
    admin,
    io,
    reg,
    Status,
    ALL_NAMESPACES,
    CSTS_CFS,
    CSTS_RDY,
    CSTS_SHST_DONE, //
};
use super::{
    Controller,
    Disk,
    Params, //
};
use crate::addr::Gpa;
use crate::bus::fixture::{
    self,
    RAM, //
};
use crate::bus::Bus;
use crate::dart::Mode;
use crate::device::Device;
use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// The guest's structures, as offsets in RAM.
const ASQ: u64 = 0;
const ACQ: u64 = 0x1000;
const PAGE: u64 = 0x2000;
const RINGS: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const LIST: u64 = 0x30_0000;
/// Entries of all queues.
const DEPTH: u32 = 8;
const BLOCKS: u64 = 4096;

/// One queue pair, as the guest sees it.
struct Ring {
    id: u16,
    sq: u64,
    cq: u64,
    tail: u32,
    head: u32,
    phase: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Completion {
    cid: u16,
    result: u32,
    status: Status,
    sq_head: u16,
    sq_id: u16,
}

struct Guest {
    controller: Controller,
    bus: Arc<Bus>,
    image: PathBuf,
    /// Difference between an IOVA and the offset in RAM.
    base: u64,
    next_cid: u16,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.image);
    }
}

fn image(blocks: u64) -> PathBuf {
    use std::sync::atomic::{
        AtomicU32,
        Ordering, //
    };
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("apple-dma-mac-{}-{n}", std::process::id()));
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(blocks * 512).unwrap();
    path
}

fn guest_with(params: Params, delay: Duration) -> Guest {
    let bus = fixture::bus(Mode::Dext, params.queues + 1);
    let base = fixture::map(&bus, RAM, fixture::RAM_SIZE as u64).0;
    let image = image(BLOCKS);
    let disk = Disk::open(&image, params.lba_shift).unwrap();
    let controller = Controller::new(bus.clone(), disk, params, delay).unwrap();
    Guest {
        controller,
        bus,
        image,
        base,
        next_cid: 100,
    }
}

fn guest() -> Guest {
    guest_with(Params::default(), Duration::ZERO)
}

impl Guest {
    fn get(&self, at: u64) -> u32 {
        let mut data = [0; 4];
        self.controller.read(0, at, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&self, at: u64, value: u32) {
        self.controller.write(0, at, &value.to_le_bytes());
    }

    fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        self.bus.ram.read(Gpa(RAM + at), &mut buf).unwrap();
        buf
    }

    fn poke(&self, at: u64, bytes: &[u8]) {
        self.bus.ram.write(Gpa(RAM + at), bytes).unwrap();
    }

    fn iova(&self, at: u64) -> u64 {
        self.base + at
    }

    /// Enables the controller and returns its admin queue.
    fn enable(&self) -> Ring {
        self.poke(ACQ, &[0; 4096]);
        self.set(reg::AQA, (DEPTH - 1) | ((DEPTH - 1) << 16));
        self.set64(reg::ASQ, self.iova(ASQ));
        self.set64(reg::ACQ, self.iova(ACQ));
        self.set(reg::CC, 0x0046_0001);
        assert_eq!(self.get(reg::CSTS), CSTS_RDY);
        Ring {
            id: 0,
            sq: ASQ,
            cq: ACQ,
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    fn set64(&self, at: u64, value: u64) {
        self.controller.write(0, at, &value.to_le_bytes());
    }

    /// Writes a command into a ring without a doorbell. Returns its identifier.
    fn push(&mut self, ring: &mut Ring, opcode: u8, fill: impl FnOnce(&mut [u32; 16])) -> u16 {
        let cid = self.next_cid;
        self.next_cid += 1;
        let mut dwords = [0; 16];
        fill(&mut dwords);
        dwords[0] |= u32::from(opcode) | (u32::from(cid) << 16);
        let bytes: Vec<u8> = dwords.iter().flat_map(|d| d.to_le_bytes()).collect();
        self.poke(ring.sq + u64::from(ring.tail) * 64, &bytes);
        ring.tail = (ring.tail + 1) % DEPTH;
        cid
    }

    fn ring(&self, ring: &Ring) {
        self.set(reg::DOORBELLS + 8 * u64::from(ring.id), ring.tail);
    }

    /// Returns the next completion, if there is one.
    fn poll(&self, ring: &mut Ring) -> Option<Completion> {
        let entry = self.peek(ring.cq + u64::from(ring.head) * 16, 16);
        let dword = |n: usize| u32::from_le_bytes(entry[4 * n..4 * n + 4].try_into().unwrap());
        let last = dword(3);
        if (last & (1 << 16) != 0) != ring.phase {
            return None;
        }
        ring.head += 1;
        if ring.head == DEPTH {
            ring.head = 0;
            ring.phase = !ring.phase;
        }
        Some(Completion {
            cid: last as u16,
            result: dword(0),
            status: Status((last >> 17) as u16 & 0x7ff),
            sq_head: dword(2) as u16,
            sq_id: (dword(2) >> 16) as u16,
        })
    }

    fn wait(&self, ring: &mut Ring) -> Completion {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(completion) = self.poll(ring) {
                return completion;
            }
            assert!(Instant::now() < end, "no completion");
            thread::yield_now();
        }
    }

    fn release(&self, ring: &Ring) {
        self.set(reg::DOORBELLS + 8 * u64::from(ring.id) + 4, ring.head);
    }

    /// Runs one command from start to completion.
    fn run(
        &mut self,
        ring: &mut Ring,
        opcode: u8,
        fill: impl FnOnce(&mut [u32; 16]),
    ) -> Completion {
        let cid = self.push(ring, opcode, fill);
        self.ring(ring);
        let completion = self.wait(ring);
        self.release(ring);
        assert_eq!((completion.cid, completion.sq_id), (cid, ring.id));
        completion
    }

    fn status(&mut self, ring: &mut Ring, opcode: u8, fill: impl FnOnce(&mut [u32; 16])) -> Status {
        self.run(ring, opcode, fill).status
    }

    /// Creates an I/O queue pair.
    fn create(&mut self, admin: &mut Ring, id: u16) -> Ring {
        let ring = Ring {
            id,
            sq: RINGS + u64::from(id) * 0x4000,
            cq: RINGS + u64::from(id) * 0x4000 + 0x2000,
            tail: 0,
            head: 0,
            phase: true,
        };
        self.poke(ring.cq, &[0; 4096]);
        let (sq, cq) = (self.iova(ring.sq), self.iova(ring.cq));
        let id = u32::from(id);
        let done = self.status(admin, admin::CREATE_CQ, |d| {
            prp(d, cq, 0);
            d[10] = id | ((DEPTH - 1) << 16);
            d[11] = 3 | (id << 16);
        });
        assert_eq!(done, Status::SUCCESS);
        let done = self.status(admin, admin::CREATE_SQ, |d| {
            prp(d, sq, 0);
            d[10] = id | ((DEPTH - 1) << 16);
            d[11] = 1 | (id << 16);
        });
        assert_eq!(done, Status::SUCCESS);
        ring
    }

    /// Returns an identify structure.
    fn identify(&mut self, admin: &mut Ring, cns: u32, nsid: u32) -> Result<Vec<u8>, Status> {
        let at = self.iova(PAGE);
        self.poke(PAGE, &[0xee; 4096]);
        let done = self.status(admin, admin::IDENTIFY, |d| {
            d[1] = nsid;
            prp(d, at, 0);
            d[10] = cns;
        });
        match done {
            Status::SUCCESS => Ok(self.peek(PAGE, 4096)),
            status => Err(status),
        }
    }

    fn on_disk(&self, lba: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        let file = OpenOptions::new().read(true).open(&self.image).unwrap();
        file.read_exact_at(&mut buf, lba * 512).unwrap();
        buf
    }
}

fn prp(d: &mut [u32; 16], prp1: u64, prp2: u64) {
    d[6] = prp1 as u32;
    d[7] = (prp1 >> 32) as u32;
    d[8] = prp2 as u32;
    d[9] = (prp2 >> 32) as u32;
}

/// Sets the fields for namespace 1, `count` blocks from `lba` on.
fn rw(d: &mut [u32; 16], lba: u64, count: u32) {
    d[1] = 1;
    d[10] = lba as u32;
    d[11] = (lba >> 32) as u32;
    d[12] = count - 1;
}

fn noise(n: usize, seed: u32) -> Vec<u8> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8)
        .collect()
}

#[test]
fn comes_up_and_goes_down() {
    let g = guest();
    assert_eq!(g.get(reg::CAP), 0x1401_03ff);
    assert_eq!(g.get(4), 0x0040_0020);
    assert_eq!(g.get(reg::VS), 0x0001_0400);
    assert_eq!(g.get(reg::CSTS), 0);
    g.enable();
    g.set(reg::CC, 0x0046_4001);
    assert_eq!(g.get(reg::CSTS), CSTS_RDY | CSTS_SHST_DONE);
    g.set(reg::CC, 0x0046_0000);
    assert_eq!(g.get(reg::CSTS), 0);
    // The guest's settings survive.
    assert_eq!(g.get(reg::ASQ), g.iova(ASQ) as u32);
    g.enable();
    g.controller.reset();
    assert_eq!(
        (g.get(reg::CC), g.get(reg::CSTS), g.get(reg::ASQ)),
        (0, 0, 0)
    );
}

#[test]
fn bad_registers_are_fatal() {
    for (aqa, cc) in [
        (0x0000_0000, 0x0046_0001),
        (0x001f_0000, 0x0046_0001),
        (0x001f_001f, 0x0046_0781),
        (0x001f_001f, 0x0046_0071),
    ] {
        let g = guest();
        g.set(reg::AQA, aqa);
        g.set(reg::CC, cc);
        assert_eq!(g.get(reg::CSTS), CSTS_CFS, "{aqa:#x} {cc:#x}");
        g.set(reg::CC, 0);
        assert_eq!(g.get(reg::CSTS), 0);
    }
}

#[test]
fn odd_accesses_are_violations() {
    let g = guest();
    let mut data = [0; 8];
    g.controller.read(0, 0, &mut data);
    assert_eq!(u64::from_le_bytes(data) as u32, g.get(reg::CAP));
    g.controller.read(0, 2, &mut data[..4]);
    g.controller.read(0, u64::MAX, &mut data[..3]);
    g.controller.read(0, u64::MAX - 7, &mut data);
    g.controller.write(0, 0x4000, &data);
    g.controller.write(0, 0x14, &[1]);
    g.controller.write(0, 0x16, &[0; 4]);
    g.controller.write(0, 0, &[0; 4]);
    g.controller.write(0, reg::DOORBELLS, &[0; 4]);
    g.controller.write(0, 0x1ffc, &[0; 4]);
    assert_eq!(g.bus.counters.snapshot().violations.count, 9);
    assert_eq!(g.get(reg::CC), 0);
}

#[test]
fn bad_doorbell_values_are_violations_and_ignored() {
    let mut g = guest();
    let mut admin = g.enable();
    g.set(reg::DOORBELLS, DEPTH);
    g.set(reg::DOORBELLS + 4, DEPTH);
    // More than was completed.
    g.set(reg::DOORBELLS + 4, 1);
    assert_eq!(g.bus.counters.snapshot().violations.count, 3);
    assert!(g.identify(&mut admin, 1, 0).is_ok());
}

#[test]
fn identifies_itself() {
    let mut g = guest();
    let mut admin = g.enable();
    let c = g.identify(&mut admin, 1, 0).unwrap();
    assert_eq!(&c[4..8], b"test");
    assert_eq!(c[77], 7);
    assert_eq!((c[111], c[512], c[513]), (1, 0x66, 0x44));
    assert!(c[768..].starts_with(b"nqn."));
    let n = g.identify(&mut admin, 0, 1).unwrap();
    assert_eq!(n[..8], BLOCKS.to_le_bytes());
    assert_eq!(n[130], 9);
    let d = g.identify(&mut admin, 3, 1).unwrap();
    assert_eq!((&d[..2], &d[4..20]), (&[2, 16][..], &n[104..120]));
    assert_eq!((&d[20..22], d[40]), (&[3, 16][..], 0));
    let a = g.identify(&mut admin, 2, 0).unwrap();
    assert_eq!(a[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(g.identify(&mut admin, 2, 1).unwrap(), vec![0; 4096]);
    assert!(g.identify(&mut admin, 6, 0).is_ok());
    for (cns, nsid, status) in [
        (0, 0, Status::INVALID_NAMESPACE),
        (0, 2, Status::INVALID_NAMESPACE),
        (0, ALL_NAMESPACES, Status::INVALID_NAMESPACE),
        (2, ALL_NAMESPACES, Status::INVALID_NAMESPACE),
        (3, 2, Status::INVALID_NAMESPACE),
        (0x1c, 0, Status::INVALID_FIELD),
    ] {
        assert_eq!(g.identify(&mut admin, cns, nsid), Err(status));
    }
    assert_eq!(g.bus.counters.snapshot().faults, 0);
}

#[test]
fn log_pages() {
    let mut g = guest();
    let mut admin = g.enable();
    let at = g.iova(PAGE);
    let mut get = |g: &mut Guest, id: u32, dwords: u32, offset: u32| {
        g.status(&mut admin, admin::GET_LOG_PAGE, |d| {
            prp(d, at, 0);
            d[10] = id | ((dwords - 1) << 16);
            d[12] = offset;
        })
    };
    for id in 1..=5 {
        assert_eq!(get(&mut g, id, 128, 0), Status::SUCCESS, "{id}");
    }
    assert_eq!(get(&mut g, 2, 128, 0), Status::SUCCESS);
    assert_eq!(g.peek(PAGE + 1, 3), [0x36, 1, 100]);
    assert_eq!(get(&mut g, 3, 2, 8), Status::SUCCESS);
    assert_eq!(g.peek(PAGE, 3), b"1.0");
    assert_eq!(get(&mut g, 2, 2, 2), Status::INVALID_FIELD);
    assert_eq!(get(&mut g, 2, 2, 516), Status::INVALID_FIELD);
    assert_eq!(get(&mut g, 9, 2, 0), Status::INVALID_LOG_PAGE);
}

#[test]
fn features() {
    let mut g = guest();
    let mut admin = g.enable();
    let mut set = |g: &mut Guest, id: u32, value: u32| {
        let c = g.run(&mut admin, admin::SET_FEATURES, |d| {
            d[10] = id;
            d[11] = value;
        });
        (c.status, c.result)
    };
    assert_eq!(set(&mut g, 7, 0x0001_0001), (Status::SUCCESS, 0x0003_0003));
    assert_eq!(set(&mut g, 7, 0xffff), (Status::INVALID_FIELD, 0));
    assert_eq!(set(&mut g, 0x0b, 0x100), (Status::SUCCESS, 0));
    assert_eq!(set(&mut g, 4, 400), (Status::SUCCESS, 0));
    assert_eq!(set(&mut g, 2, 1).0, Status::INVALID_FIELD);
    assert_eq!(set(&mut g, 0x8000_0006, 1).0, Status::INVALID_FIELD);
    assert_eq!(set(&mut g, 0x77, 1).0, Status::INVALID_FIELD);
    let mut get = |g: &mut Guest, id: u32, cdw11: u32| {
        let c = g.run(&mut admin, admin::GET_FEATURES, |d| {
            d[10] = id;
            d[11] = cdw11;
        });
        assert_eq!(c.status, Status::SUCCESS);
        c.result
    };
    assert_eq!(get(&mut g, 4, 0), 400);
    assert_eq!(get(&mut g, 4, 0x10_0000), 0);
    assert_eq!(get(&mut g, 0x104, 0), 343);
    assert_eq!(get(&mut g, 6, 0), 1);
    assert_eq!(get(&mut g, 0x0b, 0), 0x100);
    g.create(&mut admin, 1);
    let late = g.status(&mut admin, admin::SET_FEATURES, |d| d[10] = 7);
    assert_eq!(late, Status::COMMAND_SEQUENCE);
}

#[test]
fn queues_that_cannot_be() {
    let mut g = guest();
    let mut admin = g.enable();
    let (sq, cq) = (g.iova(RINGS), g.iova(RINGS + 0x2000));
    let mut go = |g: &mut Guest, opcode, prp1, cdw10, cdw11| {
        g.status(&mut admin, opcode, |d| {
            prp(d, prp1, 0);
            d[10] = cdw10;
            d[11] = cdw11;
        })
    };
    let (ccq, csq) = (admin::CREATE_CQ, admin::CREATE_SQ);
    let cases = [
        (ccq, cq, 0x7_0000, 3, Status::INVALID_QUEUE_ID),
        (ccq, cq, 0x7_0005, 3, Status::INVALID_QUEUE_ID),
        (ccq, cq, 0x0_0001, 3, Status::INVALID_QUEUE_SIZE),
        (ccq, cq, 0x400_0001, 3, Status::INVALID_QUEUE_SIZE),
        (ccq, cq, 0x7_0001, 2, Status::INVALID_FIELD),
        (ccq, cq + 64, 0x7_0001, 3, Status::PRP_OFFSET),
        (ccq, cq, 0x7_0001, 0x5_0003, Status::INVALID_VECTOR),
        (csq, sq, 0x7_0001, 0x1_0001, Status::CQ_INVALID),
        (ccq, cq, 0x7_0001, 0x1_0003, Status::SUCCESS),
        (ccq, cq, 0x7_0001, 0x1_0003, Status::INVALID_QUEUE_ID),
        (csq, sq, 0x7_0001, 0x0_0001, Status::CQ_INVALID),
        (csq, sq, 0x7_0001, 0x1_0001, Status::SUCCESS),
        (csq, sq, 0x7_0001, 0x1_0001, Status::INVALID_QUEUE_ID),
        (admin::DELETE_CQ, 0, 1, 0, Status::INVALID_QUEUE_DELETION),
        (admin::DELETE_CQ, 0, 2, 0, Status::INVALID_QUEUE_ID),
        (admin::DELETE_CQ, 0, 0, 0, Status::INVALID_QUEUE_ID),
        (admin::DELETE_SQ, 0, 0, 0, Status::INVALID_QUEUE_ID),
        (admin::DELETE_SQ, 0, 2, 0, Status::INVALID_QUEUE_ID),
        (admin::DELETE_SQ, 0, 1, 0, Status::SUCCESS),
        (admin::DELETE_CQ, 0, 1, 0, Status::SUCCESS),
        (0x7f, 0, 0, 0, Status::INVALID_OPCODE),
    ];
    for (n, (opcode, prp1, cdw10, cdw11, status)) in cases.into_iter().enumerate() {
        assert_eq!(go(&mut g, opcode, prp1, cdw10, cdw11), status, "case {n}");
    }
}

#[test]
fn async_events_are_held_and_limited() {
    let mut g = guest();
    let mut admin = g.enable();
    for _ in 0..4 {
        g.push(&mut admin, admin::ASYNC_EVENT, |_| ());
    }
    let c = g.run(&mut admin, admin::ASYNC_EVENT, |_| ());
    assert_eq!(c.status, Status::ASYNC_EVENT_LIMIT);
    assert_eq!(c.sq_head, 5);
    let c = g.run(&mut admin, admin::ABORT, |_| ());
    assert_eq!((c.status, c.result), (Status::SUCCESS, 1));
    // Another enable starts at 0.
    g.set(reg::CC, 0);
    let mut admin = g.enable();
    g.push(&mut admin, admin::ASYNC_EVENT, |_| ());
    assert_eq!(g.run(&mut admin, admin::ABORT, |_| ()).sq_head, 2);
}

#[test]
fn reads_and_writes_through_a_list() {
    for shift in [9, 12] {
        let params = Params {
            lba_shift: shift,
            ..Params::default()
        };
        let mut g = guest_with(params, Duration::ZERO);
        let mut admin = g.enable();
        let mut q = g.create(&mut admin, 1);
        // 64 KiB from the middle of a page on: 17 pages, every other one used.
        let len = 64 << 10;
        let data = noise(len, shift);
        let page = |i: u64| DATA + i * 0x2000;
        g.poke(page(0) + 0x800, &data[..0x800]);
        for (i, piece) in data[0x800..].chunks(4096).enumerate() {
            let i = i as u64 + 1;
            g.poke(page(i), piece);
            g.poke(LIST + 8 * (i - 1), &g.iova(page(i)).to_le_bytes());
        }
        let (prp1, prp2) = (g.iova(page(0) + 0x800), g.iova(LIST));
        let (lba, count) = (16, (len >> shift) as u32);
        let fill = |d: &mut [u32; 16]| {
            prp(d, prp1, prp2);
            rw(d, lba, count);
        };
        assert_eq!(g.status(&mut q, io::WRITE, fill), Status::SUCCESS);
        assert!(g.on_disk(lba << (shift - 9), len) == data);
        assert_eq!(g.status(&mut q, io::COMPARE, fill), Status::SUCCESS);
        g.poke(page(3) + 5, &[!g.peek(page(3) + 5, 1)[0]]);
        assert_eq!(g.status(&mut q, io::COMPARE, fill), Status::COMPARE_FAILURE);
        for i in 0..17 {
            g.poke(page(i), &[0x5a; 0x2000]);
        }
        assert_eq!(g.status(&mut q, io::READ, fill), Status::SUCCESS);
        assert_eq!(g.peek(page(0) + 0x800, 0x800), data[..0x800]);
        for (i, piece) in data[0x800..].chunks(4096).enumerate() {
            assert!(g.peek(page(i as u64 + 1), piece.len()) == piece);
        }
        // Nothing around the pages was touched.
        assert_eq!(g.peek(page(0), 0x800), [0x5a; 0x800]);
        assert_eq!(g.peek(page(16) + 0x800, 0x800), [0x5a; 0x800]);
        assert_eq!(g.peek(page(1) + 0x1000, 0x1000), [0x5a; 0x1000]);
        assert_eq!(g.bus.counters.snapshot().faults, 0);
    }
}

#[test]
fn commands_without_data() {
    let mut g = guest();
    let mut admin = g.enable();
    let mut q = g.create(&mut admin, 2);
    let file = OpenOptions::new().write(true).open(&g.image).unwrap();
    file.write_all_at(&[7; 40 * 512], 0).unwrap();
    let mut go = |g: &mut Guest, op, lba, count| g.status(&mut q, op, |d| rw(d, lba, count));
    assert_eq!(go(&mut g, io::WRITE_ZEROES, 8, 8), Status::SUCCESS);
    assert_eq!(g.on_disk(7, 10 * 512)[..512], [7; 512]);
    assert_eq!(g.on_disk(8, 8 * 512), [0; 8 * 512]);
    assert_eq!(g.on_disk(16, 512), [7; 512]);
    assert_eq!(go(&mut g, io::VERIFY, 0, 8), Status::SUCCESS);
    assert_eq!(go(&mut g, io::VERIFY, 4095, 2), Status::LBA_OUT_OF_RANGE);
    assert_eq!(
        go(&mut g, io::WRITE_ZEROES, u64::MAX, 2),
        Status::LBA_OUT_OF_RANGE
    );
    assert_eq!(go(&mut g, io::FLUSH, 0, 1), Status::SUCCESS);
    let flush = g.status(&mut q, io::FLUSH, |d| d[1] = ALL_NAMESPACES);
    assert_eq!(flush, Status::SUCCESS);

    // Dataset management: two ranges, or one that does not exist.
    let range = |blocks: u32, lba: u64| {
        let mut r = vec![0; 4];
        r.extend_from_slice(&blocks.to_le_bytes());
        r.extend_from_slice(&lba.to_le_bytes());
        r
    };
    let list = g.iova(PAGE);
    let mut dsm = |g: &mut Guest, count: u32, attributes: u32| {
        g.status(&mut q, io::DATASET_MANAGEMENT, |d| {
            d[1] = 1;
            prp(d, list, 0);
            d[10] = count - 1;
            d[11] = attributes;
        })
    };
    g.poke(
        PAGE,
        &[range(2, 20), range(4096, 20), range(1, 30)].concat(),
    );
    assert_eq!(dsm(&mut g, 2, 4), Status::LBA_OUT_OF_RANGE);
    assert_eq!(g.on_disk(20, 512), [7; 512]);
    g.poke(PAGE + 16, &range(0, 4096));
    assert_eq!(dsm(&mut g, 3, 0), Status::SUCCESS);
    assert_eq!(g.on_disk(20, 512), [7; 512]);
    assert_eq!(dsm(&mut g, 3, 4), Status::SUCCESS);
    assert_eq!(g.on_disk(20, 1024), [0; 1024]);
    assert_eq!(g.on_disk(30, 512), [0; 512]);
    assert_eq!(g.on_disk(31, 512), [7; 512]);
}

#[test]
fn wrong_commands_fail_as_they_should() {
    let mut g = guest();
    let mut admin = g.enable();
    let mut q = g.create(&mut admin, 1);
    let at = g.iova(DATA);
    type Change<'a> = &'a dyn Fn(&mut [u32; 16]);
    let mut go = |g: &mut Guest, op, change: Change<'_>| {
        g.status(&mut q, op, |d| {
            prp(d, at, at + 0x1000);
            rw(d, 0, 1);
            change(d);
        })
    };
    let cases: [(u8, Change<'_>, Status); 10] = [
        (io::READ, &|_| (), Status::SUCCESS),
        (io::READ, &|d| d[1] = 2, Status::INVALID_NAMESPACE),
        (io::READ, &|d| d[1] = !0, Status::INVALID_NAMESPACE),
        (io::READ, &|d| d[10] = 4096, Status::LBA_OUT_OF_RANGE),
        (io::READ, &|d| d[11] = !0, Status::LBA_OUT_OF_RANGE),
        (io::READ, &|d| d[12] = 1024, Status::INVALID_FIELD),
        (io::READ, &|d| d[0] |= 0x4000, Status::INVALID_FIELD),
        (io::WRITE, &|d| d[0] |= 0x0100, Status::INVALID_FIELD),
        (io::WRITE, &|d| d[6] |= 1, Status::PRP_OFFSET),
        (0x42, &|_| (), Status::INVALID_OPCODE),
    ];
    for (n, (op, change, status)) in cases.into_iter().enumerate() {
        assert_eq!(go(&mut g, op, change), status, "case {n}");
    }
    assert_eq!(g.get(reg::CSTS), CSTS_RDY);
}

#[test]
fn a_fault_in_data_fails_the_command_only() {
    let mut g = guest();
    let mut admin = g.enable();
    let mut q = g.create(&mut admin, 1);
    let file = OpenOptions::new().write(true).open(&g.image).unwrap();
    file.write_all_at(&[7; 8192], 0).unwrap();
    let at = g.iova(DATA);
    let fill = |d: &mut [u32; 16]| {
        prp(d, at, 0x1000);
        rw(d, 0, 16);
    };
    for op in [io::READ, io::WRITE] {
        assert_eq!(g.status(&mut q, op, fill), Status::DATA_TRANSFER_ERROR);
    }
    // Possible writes were made, and the disk is otherwise as before.
    assert_eq!(g.peek(DATA, 4096), [7; 4096]);
    assert_eq!(g.on_disk(0, 8192), [7; 8192]);
    let s = g.bus.counters.snapshot();
    assert_eq!((s.faults, g.get(reg::CSTS)), (2, CSTS_RDY));
    assert_eq!(g.status(&mut q, io::FLUSH, |d| d[1] = 1), Status::SUCCESS);
}

#[test]
fn a_fault_in_a_queue_is_fatal() {
    // Entries cannot be read; completions cannot be written.
    for (asq, acq) in [(0x10_0000, None), (0, Some(0x10_0000))] {
        let g = guest();
        g.set(reg::AQA, 0x0007_0007);
        g.set64(reg::ASQ, if asq != 0 { asq } else { g.iova(ASQ) });
        g.set64(reg::ACQ, acq.unwrap_or(g.iova(ACQ)));
        g.set(reg::CC, 0x0046_0001);
        g.set(reg::DOORBELLS, 1);
        let end = Instant::now() + Duration::from_secs(20);
        while g.get(reg::CSTS) & CSTS_CFS == 0 {
            assert!(Instant::now() < end);
            thread::yield_now();
        }
        assert_eq!(g.bus.counters.snapshot().faults, 1);
        g.set(reg::CC, 0);
        let mut g = g;
        let mut admin = g.enable();
        assert!(g.identify(&mut admin, 1, 0).is_ok());
    }
}

#[test]
fn a_mapping_that_goes_during_a_command_is_missed() {
    let mut g = guest_with(Params::default(), Duration::from_millis(300));
    let mut admin = g.enable();
    let mut q = g.create(&mut admin, 1);
    let at = fixture::map(&g.bus, RAM + DATA, 4096).0;
    g.push(&mut q, io::READ, |d| {
        prp(d, at, 0);
        rw(d, 0, 8);
    });
    g.ring(&q);
    thread::sleep(Duration::from_millis(20));
    g.bus
        .dart
        .write()
        .unwrap()
        .unmap(Gpa(RAM + DATA), 4096)
        .unwrap();
    assert_eq!(g.wait(&mut q).status, Status::DATA_TRANSFER_ERROR);
    assert_eq!(g.bus.counters.snapshot().faults, 1);
}

#[test]
fn a_full_completion_queue_waits_and_phases_alternate() {
    let mut g = guest();
    let mut admin = g.enable();
    let mut q = g.create(&mut admin, 1);
    // Twice as many as fit: the guest reads none of them for a while.
    for round in 0..5 {
        for _ in 0..DEPTH - 1 {
            g.push(&mut q, io::FLUSH, |d| d[1] = 1);
        }
        g.ring(&q);
        // The entries are taken one by one, so the ring must not be filled again before.
        let mut seen = 0;
        while seen < DEPTH - 1 {
            let c = g.wait(&mut q);
            assert_eq!(c.status, Status::SUCCESS);
            seen += 1;
        }
        if round % 2 == 1 {
            g.release(&q);
        } else {
            // The next round's completions have no room until the doorbell is rung.
            g.push(&mut q, io::FLUSH, |d| d[1] = 1);
            g.ring(&q);
            thread::sleep(Duration::from_millis(20));
            assert_eq!(g.poll(&mut q), None);
            g.release(&q);
            g.wait(&mut q);
            g.release(&q);
        }
    }
}

#[test]
fn several_queues_may_share_completions() {
    let mut g = guest();
    let mut admin = g.enable();
    let mut q = g.create(&mut admin, 1);
    let sq = RINGS + 0x4_0000;
    let prp1 = g.iova(sq);
    let done = g.status(&mut admin, admin::CREATE_SQ, |d| {
        prp(d, prp1, 0);
        d[10] = 2 | ((DEPTH - 1) << 16);
        d[11] = 1 | (1 << 16);
    });
    assert_eq!(done, Status::SUCCESS);
    let mut second = Ring { id: 2, sq, ..q };
    let mut ids = [0; 2];
    for _ in 0..100 {
        g.push(&mut q, io::FLUSH, |d| d[1] = 1);
        g.push(&mut second, io::FLUSH, |d| d[1] = 1);
        g.ring(&q);
        g.ring(&second);
        for _ in 0..2 {
            let id = g.wait(&mut q).sq_id;
            ids[usize::from(id) - 1] += 1;
        }
        g.release(&q);
    }
    assert_eq!(ids, [100, 100]);
    assert_eq!(g.bus.counters.snapshot().violations.count, 0);
}

#[test]
fn disable_and_deletion_end_what_is_going_on() {
    for delete in [true, false] {
        let mut g = guest_with(Params::default(), Duration::from_secs(3600));
        let mut admin = g.enable();
        let mut q = g.create(&mut admin, 1);
        let at = g.iova(DATA);
        g.push(&mut q, io::READ, |d| {
            prp(d, at, 0);
            rw(d, 0, 1);
        });
        g.ring(&q);
        thread::sleep(Duration::from_millis(20));
        let before = g.bus.counters.snapshot().written_bytes;
        let start = Instant::now();
        if delete {
            let done = g.status(&mut admin, admin::DELETE_SQ, |d| d[10] = 1);
            assert_eq!(done, Status::SUCCESS);
            assert_eq!(g.bus.counters.snapshot().written_bytes, before + 16);
            assert_eq!(g.controller.threads(), 1);
        } else {
            assert_eq!(g.controller.threads(), 2);
            g.set(reg::CC, 0);
            assert_eq!(g.controller.threads(), 0);
            assert_eq!(g.bus.counters.snapshot().written_bytes, before);
        }
        assert!(start.elapsed() < Duration::from_secs(60));
        assert_eq!(g.poll(&mut q), None);
    }
}

#[test]
fn a_disk_must_hold_a_block() {
    let path = image(0);
    assert!(Disk::open(&path, 9).is_err());
    std::fs::remove_file(&path).unwrap();
    assert!(Disk::open(&path, 9).is_err());
}
