// SPDX-License-Identifier: GPL-2.0

//! A managed device's side of the bus: DMA through the DART, and interrupts.
//!
//! A device backend accesses guest memory only through [`Bus`]. Long transfers are cut into chunks
//! and each chunk is translated when its bytes move, so a mapping that is unmapped during a
//! transfer is missed and counted.

use crate::addr::Iova;
use crate::dart::Dart;
use crate::irq::Msix;
use crate::memory::GuestRam;
use crate::pci::ConfigReads;
use crate::stats::{
    count,
    DeviceCounters,
    Direction,
    FaultCause,
    FaultDetail, //
};
use std::sync::{
    atomic::{
        fence,
        AtomicBool,
        Ordering, //
    },
    Arc,
    Mutex,
    RwLock, //
};
use thiserror::Error;

/// Most bytes that move under one translation. Chunks end at multiples of it.
pub const CHUNK: usize = 4096;

/// Reason for the failure of DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DmaError {
    /// The DART refused; the address is the first IOVA that it refused. The fault has been counted.
    #[error("fault at {0}")]
    Fault(Iova),
    /// No guest is connected, which is not an error of the device.
    #[error("no guest is connected")]
    Down,
}

/// Maximum number of messages of MSI.
const MSI_MESSAGES: u16 = 32;

/// A kind of interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A vector of MSI-X.
    Msix,
    /// A message of MSI.
    Msi,
    /// INTA. Level-triggered in the guest, deasserted by the next access to a BAR.
    Intx,
}

/// The result that an access should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Success: a fault fails the test.
    Success,
    /// A fault, which is counted as announced.
    Fault,
    /// Success, until bus mastering is off: that ends the device's work, and is not counted.
    UntilStopped,
}

/// The environment of a managed device.
#[derive(Debug)]
pub struct Bus {
    /// The device's name, for logs.
    pub name: String,
    /// Guest RAM as announced on the device's own connection.
    pub ram: Arc<GuestRam>,
    /// The DART between the device and that RAM.
    pub dart: Arc<RwLock<Dart>>,
    /// The device's MSI-X vectors.
    pub msix: Msix,
    /// Its MSI messages, if it has any.
    pub msi: Msix,
    /// Its INTA, if it has one.
    pub intx: Msix,
    /// Counters of the device's work.
    pub counters: DeviceCounters,
    /// COMMAND has Bus Master Enable and the device is in D0.
    master: AtomicBool,
    /// QEMU is connected.
    up: AtomicBool,
    /// What the device's configuration space reads as.
    pub config: Mutex<ConfigReads>,
}

impl Bus {
    /// Creates a bus without a guest.
    pub fn new(name: &str, ram: Arc<GuestRam>, dart: Arc<RwLock<Dart>>, vectors: u16) -> Self {
        Self {
            name: name.to_owned(),
            ram,
            dart,
            msix: Msix::new(vectors),
            msi: Msix::new(MSI_MESSAGES),
            intx: Msix::new(1),
            counters: DeviceCounters::default(),
            master: AtomicBool::new(false),
            up: AtomicBool::new(false),
            config: Mutex::default(),
        }
    }

    /// Returns the interrupts of all kinds.
    pub fn interrupts(&self) -> [&Msix; 3] {
        [&self.msix, &self.msi, &self.intx]
    }

    /// Sets whether the device may master the bus.
    pub fn set_master(&self, on: bool) {
        self.master.store(on, Ordering::SeqCst);
    }

    /// Sets whether QEMU is connected.
    pub fn set_up(&self, on: bool) {
        self.up.store(on, Ordering::SeqCst);
    }

    /// Copies guest memory at `iova` into `buf`.
    pub fn read(&self, iova: Iova, buf: &mut [u8]) -> Result<(), DmaError> {
        self.read_expecting(iova, buf, Expect::Success)
    }

    /// Copies `buf` to guest memory at `iova`.
    pub fn write(&self, iova: Iova, buf: &[u8]) -> Result<(), DmaError> {
        self.write_expecting(iova, buf, Expect::Success)
    }

    /// Reads as [`read`](Self::read) does, with another result expected.
    pub fn read_expecting(
        &self,
        iova: Iova,
        buf: &mut [u8],
        expected: Expect,
    ) -> Result<(), DmaError> {
        let mut at = iova;
        let mut rest = buf;
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at_mut(chunk_len(at, rest.len()));
            self.access(at, chunk.len(), Direction::Read, expected, |ram, gpa| {
                ram.read(gpa, chunk)
            })?;
            at = Iova(at.0.wrapping_add(chunk.len() as u64));
            rest = tail;
        }
        Ok(())
    }

    /// Writes as [`write`](Self::write) does, with another result expected.
    pub fn write_expecting(
        &self,
        iova: Iova,
        buf: &[u8],
        expected: Expect,
    ) -> Result<(), DmaError> {
        let mut at = iova;
        let mut rest = buf;
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(chunk_len(at, rest.len()));
            self.access(at, chunk.len(), Direction::Write, expected, |ram, gpa| {
                ram.write(gpa, chunk)
            })?;
            at = Iova(at.0.wrapping_add(chunk.len() as u64));
            rest = tail;
        }
        Ok(())
    }

    /// Raises a vector, ordered after all writes of this thread to guest memory.
    pub fn interrupt(&self, vector: u16) {
        self.interrupt_on(Line::Msix, vector);
    }

    /// Raises an interrupt as [`interrupt`](Self::interrupt) does, for devices with several kinds.
    pub fn interrupt_on(&self, line: Line, vector: u16) {
        fence(Ordering::SeqCst);
        count(&self.counters.interrupts, 1);
        match line {
            Line::Msix => self.msix.raise(vector),
            Line::Msi => self.msi.raise(vector),
            Line::Intx => self.intx.raise(vector),
        }
    }

    /// Makes one access within a chunk, under the DART's lock from translation to copy.
    fn access<E>(
        &self,
        iova: Iova,
        len: usize,
        direction: Direction,
        expected: Expect,
        copy: impl FnOnce(&GuestRam, crate::addr::Gpa) -> Result<(), E>,
    ) -> Result<(), DmaError> {
        if !self.up.load(Ordering::SeqCst) {
            return Err(DmaError::Down);
        }
        let (master, outcome) = {
            let dart = self.dart.read().unwrap_or_else(|e| e.into_inner());
            // Under the lock: what is unmapped after mastering was turned off is not accessed.
            let master = self.master.load(Ordering::SeqCst);
            if !master && expected == Expect::UntilStopped {
                return Err(DmaError::Down);
            }
            let outcome = match dart.translate(iova, len as u64) {
                _ if !master => Err((iova, FaultCause::NotMaster)),
                Ok(gpa) => copy(&self.ram, gpa).map_err(|_| (iova, FaultCause::NotRam)),
                Err(first) => Err((first, FaultCause::Unmapped)),
            };
            (master, outcome)
        };
        count(&self.counters.accesses, 1);
        let (first, cause) = match outcome {
            Ok(()) => {
                let counter = match direction {
                    Direction::Read => &self.counters.read_bytes,
                    Direction::Write => &self.counters.written_bytes,
                };
                count(counter, len as u64);
                return Ok(());
            }
            Err(fault) => fault,
        };
        if !self.up.load(Ordering::SeqCst) {
            // The guest disconnected in between.
            return Err(DmaError::Down);
        }
        let detail = FaultDetail {
            iova,
            len: len as u64,
            first,
            direction,
            cause,
            bme_off: !master,
            expected: expected == Expect::Fault,
        };
        self.counters.fault(&self.name, detail);
        Err(DmaError::Fault(first))
    }
}

/// Returns how many of `len` bytes at `at` are in `at`'s chunk.
fn chunk_len(at: Iova, len: usize) -> usize {
    let room = CHUNK - (at.0 % CHUNK as u64) as usize;
    room.min(len)
}

/// A bus for tests of backends, with a guest on it.
#[cfg(test)]
pub mod fixture {
    use super::*;
    use crate::addr::Gpa;
    use crate::dart::{
        Limits,
        Mode, //
    };
    use crate::iova::{
        IovaSpace,
        Placement, //
    };

    /// First GPA of the RAM.
    pub const RAM: u64 = 0x4000_0000;
    /// Bytes of RAM.
    pub const RAM_SIZE: usize = 64 << 20;

    /// Returns a bus with a DART in `mode` before [`RAM_SIZE`] bytes of RAM, and bus mastering on.
    pub fn bus(mode: Mode, vectors: u16) -> Arc<Bus> {
        let ram = Arc::new(GuestRam::new());
        ram.add_anonymous(Gpa(RAM), RAM_SIZE).unwrap();
        let space = IovaSpace::new(Iova(0x8001_0000_0000), 1 << 32, Placement::Low).unwrap();
        let dart = Dart::new(mode, Limits::default(), space);
        let bus = Bus::new("test", ram, Arc::new(RwLock::new(dart)), vectors);
        bus.set_up(true);
        bus.set_master(true);
        Arc::new(bus)
    }

    /// Maps `len` bytes at `gpa` and returns the IOVA.
    pub fn map(bus: &Bus, gpa: u64, len: u64) -> Iova {
        let mut dart = bus.dart.write().unwrap();
        dart.map(Gpa(gpa), len, &*bus.ram).unwrap().iova
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::*;
    use super::*;
    use crate::addr::Gpa;
    use crate::dart::Mode;
    use crate::sync::lock;

    #[test]
    fn bytes_go_where_the_mapping_says() {
        let bus = bus(Mode::Dext, 0);
        let iova = map(&bus, RAM + 0x1003, 10_000);
        let data: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        bus.write(iova, &data).unwrap();
        let mut seen = vec![0; 10_000];
        bus.ram.read(Gpa(RAM + 0x1003), &mut seen).unwrap();
        assert_eq!(seen, data);
        seen.fill(0);
        bus.read(iova, &mut seen).unwrap();
        assert_eq!(seen, data);
        let s = bus.counters.snapshot();
        assert_eq!((s.read_bytes, s.written_bytes), (10_000, 10_000));
        assert_eq!((s.accesses, s.faults), (6, 0));
    }

    #[test]
    fn an_overrun_faults_at_the_first_bad_byte() {
        let bus = bus(Mode::Dext, 0);
        let iova = map(&bus, RAM, 0x1800);
        let end = Iova(iova.0 + 0x1800);
        assert_eq!(bus.write(iova, &[7; 0x2000]), Err(DmaError::Fault(end)));
        let s = bus.counters.snapshot();
        assert_eq!((s.faults, s.faults_bme_off), (1, 0));
        assert_eq!(s.fault_list[0].iova, Iova(iova.0 + 0x1000));
        // The chunk with the fault was not transferred at all, the chunk before it was.
        let mut seen = [0; 0x1001];
        bus.ram.read(Gpa(RAM), &mut seen).unwrap();
        assert_eq!((seen[0xfff], seen[0x1000]), (7, 0));
    }

    #[test]
    fn no_mastering_no_dma() {
        let bus = bus(Mode::Identity, 0);
        bus.set_master(false);
        assert!(bus.write(Iova(RAM), &[1]).is_err());
        let s = bus.counters.snapshot();
        assert_eq!((s.faults, s.faults_bme_off), (1, 1));
        assert_eq!(s.fault_list[0].cause, FaultCause::NotMaster);
    }

    #[test]
    fn a_mapping_to_no_ram_faults() {
        let bus = bus(Mode::Identity, 0);
        assert!(bus.read(Iova(0), &mut [0]).is_err());
        assert_eq!(
            lock(&bus.counters.rare).fault_list[0].cause,
            FaultCause::NotRam
        );
    }

    #[test]
    fn without_a_guest_nothing_is_counted() {
        let bus = bus(Mode::Dext, 0);
        bus.set_up(false);
        assert_eq!(bus.write(Iova(0), &[1]), Err(DmaError::Down));
        assert_eq!(bus.counters.snapshot().faults, 0);
    }

    #[test]
    fn expected_faults_are_counted_apart() {
        let bus = bus(Mode::Dext, 0);
        assert!(bus.write_expecting(Iova(0), &[1], Expect::Fault).is_err());
        let s = bus.counters.snapshot();
        assert_eq!((s.faults, s.expected_faults), (0, 1));
    }
}
