// SPDX-License-Identifier: GPL-2.0

//! The endpoint that the kernel's `pci_endpoint_test` driver tests: registers in BAR0, plain memory
//! in the other BARs, DMA of one buffer at a time, and every kind of interrupt.
//!
//! The registers are those of `drivers/misc/pci_endpoint_test.c`. A read in the terms of a real
//! endpoint's function is DMA out of guest memory, a write is DMA into it.

use crate::addr::Iova;
use crate::bus::{
    Bus,
    DmaError,
    Line, //
};
use crate::device::Device;
use crate::engine::pattern;
use crate::pci::{
    Bar,
    Identity,
    MsixLayout, //
};
use crate::stats::count;
use crate::sync::{
    lock,
    pause,
    wait, //
};
use std::{
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc,
        Condvar,
        Mutex, //
    },
    thread::{
        self,
        JoinHandle, //
    },
    time::Duration, //
};

/// MSI-X vectors.
pub const MSIX_VECTORS: u16 = 8;
/// MSI messages.
const MSI_MESSAGES: u16 = 32;

/// Texas Instruments DRA74x, one of the ids that the driver knows.
const VENDOR_ID: u16 = 0x104c;
const DEVICE_ID: u16 = 0xb500;
const CLASS: u32 = 0xff_0000;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x08;
const SRC: usize = 0x0c;
const DST: usize = 0x14;
const SIZE: usize = 0x1c;
const CHECKSUM: usize = 0x20;
const IRQ_TYPE: usize = 0x24;
/// Number of the interrupt to raise, from 1.
const IRQ_NUMBER: usize = 0x28;
/// Read-only: capabilities of the endpoint.
const CAPS: usize = 0x30;

const COMMAND_INTX: u32 = 1 << 0;
const COMMAND_MSI: u32 = 1 << 1;
const COMMAND_MSIX: u32 = 1 << 2;
const COMMAND_READ: u32 = 1 << 3;
const COMMAND_WRITE: u32 = 1 << 4;
const COMMAND_COPY: u32 = 1 << 5;

const STATUS_READ_SUCCESS: u32 = 1 << 0;
const STATUS_READ_FAIL: u32 = 1 << 1;
const STATUS_WRITE_SUCCESS: u32 = 1 << 2;
const STATUS_WRITE_FAIL: u32 = 1 << 3;
const STATUS_COPY_SUCCESS: u32 = 1 << 4;
const STATUS_COPY_FAIL: u32 = 1 << 5;
const STATUS_IRQ_RAISED: u32 = 1 << 6;

const IRQ_TYPE_INTX: u32 = 0;
const IRQ_TYPE_MSI: u32 = 1;
const IRQ_TYPE_MSIX: u32 = 2;

const CAP_UNALIGNED_ACCESS: u32 = 1 << 0;
const CAP_MSI: u32 = 1 << 1;
const CAP_MSIX: u32 = 1 << 2;
const CAP_INTX: u32 = 1 << 3;
const CAP_BAR5_RESERVED: u32 = 1 << 11;
const CAPABILITIES: u32 = CAP_UNALIGNED_ACCESS | CAP_MSI | CAP_MSIX | CAP_INTX | CAP_BAR5_RESERVED;

/// Bytes of the BARs. The last one holds the MSI-X table, which QEMU emulates.
const BARS: [usize; 6] = [0x1000, 0x1000, 0x4000, 0x100, 0x2000, 0x1000];
const MSIX_BAR: u8 = 5;
const MSIX_PENDING: u32 = 0x800;

/// Bytes between two checks whether a reset has stopped the transfer.
const PIECE: usize = 64 << 10;

/// A command, as of the write of COMMAND.
#[derive(Clone, Copy, Debug)]
struct Order {
    command: u32,
    src: u64,
    dst: u64,
    size: usize,
    checksum: u32,
    irq_type: u32,
    irq_number: u32,
}

#[derive(Debug)]
struct State {
    bars: Vec<Vec<u8>>,
    pending: Option<Order>,
    running: bool,
    quit: bool,
}

impl State {
    fn get(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.bars[0][at..at + 4]);
        u32::from_le_bytes(word)
    }

    fn get64(&self, at: usize) -> u64 {
        u64::from(self.get(at)) | (u64::from(self.get(at + 4)) << 32)
    }

    fn set(&mut self, at: usize, value: u32) {
        self.bars[0][at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Resets the registers and the memory.
    fn clear(&mut self) {
        self.bars.iter_mut().for_each(|bar| bar.fill(0));
        self.set(CAPS, CAPABILITIES);
    }
}

#[derive(Debug)]
struct Core {
    bus: Arc<Bus>,
    delay: Duration,
    state: Mutex<State>,
    /// Notified when the state has changed.
    changed: Condvar,
    /// Set if the running command must end as soon as possible.
    abort: AtomicBool,
}

/// The device.
#[derive(Debug)]
pub struct Endpoint {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Creates an endpoint whose commands take at least `delay`.
    pub fn new(bus: Arc<Bus>, delay: Duration) -> std::io::Result<Self> {
        let mut state = State {
            bars: BARS.iter().map(|&size| vec![0; size]).collect(),
            pending: None,
            running: false,
            quit: false,
        };
        state.clear();
        let name = bus.name.clone();
        let core = Arc::new(Core {
            bus,
            delay,
            state: Mutex::new(state),
            changed: Condvar::new(),
            abort: AtomicBool::new(false),
        });
        let worker = core.clone();
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || worker.work())?;
        Ok(Self {
            core,
            thread: Some(thread),
        })
    }

    fn violation(&self, what: &str, bar: u8, offset: u64, len: usize) {
        self.core.bus.counters.violation(
            &self.core.bus.name,
            format!("{what} of {len} bytes at BAR{bar} + {offset:#x}"),
        );
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.core.abort.store(true, Ordering::SeqCst);
        lock(&self.core.state).quit = true;
        self.core.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Returns the place of `len` bytes at `offset` in a BAR of `size` bytes.
fn inside(size: usize, offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
    let from = usize::try_from(offset).ok()?;
    let to = from.checked_add(len)?;
    (to <= size).then_some(from..to)
}

impl Device for Endpoint {
    fn kind(&self) -> &'static str {
        "endpoint"
    }

    fn identity(&self) -> Identity {
        Identity {
            vendor: VENDOR_ID,
            device: DEVICE_ID,
            class: CLASS,
            bars: (0..)
                .zip(BARS)
                .map(|(index, size)| Bar {
                    index,
                    size: size as u64,
                    wide: false,
                })
                .collect(),
            msix: Some(MsixLayout {
                vectors: MSIX_VECTORS,
                bar: MSIX_BAR,
                table: 0,
                pending: MSIX_PENDING,
            }),
            msi: MSI_MESSAGES,
        }
    }

    fn read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        let state = lock(&self.core.state);
        let memory = &state.bars[usize::from(bar)];
        match inside(memory.len(), offset, data.len()) {
            Some(range) => data.copy_from_slice(&memory[range]),
            None => {
                self.violation("read", bar, offset, data.len());
                data.fill(0xff);
            }
        }
    }

    fn write(&self, bar: u8, offset: u64, data: &[u8]) {
        let mut state = lock(&self.core.state);
        let memory = &mut state.bars[usize::from(bar)];
        let Some(range) = inside(memory.len(), offset, data.len()) else {
            self.violation("write", bar, offset, data.len());
            return;
        };
        memory[range.clone()].copy_from_slice(data);
        if bar != 0 {
            return;
        }
        state.set(CAPS, CAPABILITIES);
        if range.contains(&COMMAND) {
            self.core.order(&mut state);
        }
    }

    fn reset(&self) {
        let core = &self.core;
        core.abort.store(true, Ordering::SeqCst);
        core.changed.notify_all();
        let mut state = lock(&core.state);
        state.pending = None;
        while state.running {
            state = wait(&core.changed, state);
        }
        state.clear();
        core.abort.store(false, Ordering::SeqCst);
    }
}

impl Core {
    /// Accepts the command in COMMAND; a busy endpoint ignores it.
    fn order(&self, state: &mut State) {
        let command = state.get(COMMAND);
        if command == 0 || state.running || state.pending.is_some() {
            return;
        }
        state.pending = Some(Order {
            command,
            src: state.get64(SRC),
            dst: state.get64(DST),
            size: state.get(SIZE) as usize,
            checksum: state.get(CHECKSUM),
            irq_type: state.get(IRQ_TYPE),
            irq_number: state.get(IRQ_NUMBER),
        });
        state.set(COMMAND, 0);
        state.set(STATUS, 0);
        self.changed.notify_all();
    }

    /// Runs commands in the device's thread.
    fn work(&self) {
        let mut seed = 0;
        loop {
            let mut state = lock(&self.state);
            let order = loop {
                if state.quit {
                    return;
                }
                if let Some(order) = state.pending.take() {
                    break order;
                }
                state = wait(&self.changed, state);
            };
            state.running = true;
            drop(state);

            seed += 1 << 32;
            self.pause();
            let outcome = self.run(&order, seed);

            let mut state = lock(&self.state);
            if !self.aborted() {
                let (status, checksum) = outcome;
                if let Some(checksum) = checksum {
                    state.set(CHECKSUM, checksum);
                }
                state.set(STATUS, status | STATUS_IRQ_RAISED);
                count(&self.bus.counters.commands, 1);
                self.interrupt(&order);
            }
            state.running = false;
            self.changed.notify_all();
        }
    }

    fn aborted(&self) -> bool {
        self.abort.load(Ordering::SeqCst)
    }

    /// Waits for the configured time, or until a reset.
    fn pause(&self) {
        pause(&self.changed, &self.state, self.delay, || self.aborted());
    }

    /// Raises the interrupt that the command names, if it exists.
    fn interrupt(&self, order: &Order) {
        let line = match order.irq_type {
            IRQ_TYPE_INTX => Line::Intx,
            IRQ_TYPE_MSI => Line::Msi,
            IRQ_TYPE_MSIX => Line::Msix,
            _ => return,
        };
        let vector = match line {
            Line::Intx => Some(0),
            _ => order.irq_number.checked_sub(1),
        };
        if let Some(vector) = vector.and_then(|n| u16::try_from(n).ok()) {
            self.bus.interrupt_on(line, vector);
        }
    }

    /// Moves the bytes of a command. Returns its bits of STATUS, and CHECKSUM if it changes.
    fn run(&self, order: &Order, seed: u64) -> (u32, Option<u32>) {
        let either = |good, success, fail| if good { success } else { fail };
        match order.command {
            COMMAND_INTX | COMMAND_MSI | COMMAND_MSIX => (0, None),
            COMMAND_READ => {
                let good = self.fetch(order).is_ok_and(|sum| sum == order.checksum);
                (either(good, STATUS_READ_SUCCESS, STATUS_READ_FAIL), None)
            }
            COMMAND_WRITE => {
                let sum = self.store(order, seed).ok();
                let status = either(sum.is_some(), STATUS_WRITE_SUCCESS, STATUS_WRITE_FAIL);
                (status, sum)
            }
            COMMAND_COPY => {
                let good = self.copy(order).is_ok();
                (either(good, STATUS_COPY_SUCCESS, STATUS_COPY_FAIL), None)
            }
            other => {
                let text = format!("unknown command {other:#x}");
                self.bus.counters.violation(&self.bus.name, text);
                (0, None)
            }
        }
    }

    /// Calls `with` for the pieces of a transfer: the start of each, and its bytes.
    fn pieces(
        &self,
        size: usize,
        mut with: impl FnMut(u64, &mut [u8]) -> Result<(), DmaError>,
    ) -> Result<(), DmaError> {
        let mut piece = [0; PIECE];
        for from in (0..size).step_by(PIECE) {
            if self.aborted() {
                return Err(DmaError::Down);
            }
            with(from as u64, &mut piece[..PIECE.min(size - from)])?;
        }
        Ok(())
    }

    fn fetch(&self, order: &Order) -> Result<u32, DmaError> {
        let mut crc = crc32fast::Hasher::new();
        self.pieces(order.size, |from, piece| {
            self.bus.read(Iova(order.src.wrapping_add(from)), piece)?;
            crc.update(piece);
            Ok(())
        })?;
        Ok(checksum(crc))
    }

    fn store(&self, order: &Order, seed: u64) -> Result<u32, DmaError> {
        let mut crc = crc32fast::Hasher::new();
        self.pieces(order.size, |from, piece| {
            pattern(seed + from / 8, piece);
            crc.update(piece);
            self.bus.write(Iova(order.dst.wrapping_add(from)), piece)
        })?;
        Ok(checksum(crc))
    }

    fn copy(&self, order: &Order) -> Result<(), DmaError> {
        self.pieces(order.size, |from, piece| {
            self.bus.read(Iova(order.src.wrapping_add(from)), piece)?;
            self.bus.write(Iova(order.dst.wrapping_add(from)), piece)
        })
    }
}

/// Returns the driver's CRC-32: the usual one without the inversion at the end.
fn checksum(crc: crc32fast::Hasher) -> u32 {
    !crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Gpa;
    use crate::bus::fixture::{
        self,
        RAM, //
    };
    use crate::dart::Mode;

    struct Guest {
        endpoint: Endpoint,
        bus: Arc<Bus>,
    }

    fn guest() -> Guest {
        let bus = fixture::bus(Mode::Dext, MSIX_VECTORS);
        let endpoint = Endpoint::new(bus.clone(), Duration::ZERO).unwrap();
        Guest { endpoint, bus }
    }

    impl Guest {
        fn get(&self, at: usize) -> u32 {
            let mut data = [0; 4];
            self.endpoint.read(0, at as u64, &mut data);
            u32::from_le_bytes(data)
        }

        fn set(&self, at: usize, value: u32) {
            self.endpoint.write(0, at as u64, &value.to_le_bytes());
        }

        fn set64(&self, at: usize, value: u64) {
            self.set(at, value as u32);
            self.set(at + 4, (value >> 32) as u32);
        }

        /// Runs a command to its end. Returns STATUS without the interrupt's bit.
        fn run(&self, command: u32, src: u64, dst: u64, size: usize) -> u32 {
            self.set64(SRC, src);
            self.set64(DST, dst);
            self.set(SIZE, size as u32);
            self.set(IRQ_TYPE, IRQ_TYPE_MSI);
            self.set(IRQ_NUMBER, 1);
            self.set(COMMAND, command);
            while self.get(STATUS) & STATUS_IRQ_RAISED == 0 {
                thread::yield_now();
            }
            self.get(STATUS) & !STATUS_IRQ_RAISED
        }

        fn memory(&self, at: u64, len: usize) -> Vec<u8> {
            let mut data = vec![0; len];
            self.bus.ram.read(Gpa(at), &mut data).unwrap();
            data
        }
    }

    /// Computes the CRC-32 as the driver does, bit by bit.
    fn crc32_le(data: &[u8]) -> u32 {
        data.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn data_goes_both_ways() {
        let g = guest();
        let len = PIECE + 1001;
        let iova = fixture::map(&g.bus, RAM, 4 * PIECE as u64).0;
        assert_eq!(g.run(COMMAND_WRITE, 0, iova + 1, len), STATUS_WRITE_SUCCESS);
        let data = g.memory(RAM + 1, len);
        assert_eq!(g.get(CHECKSUM), crc32_le(&data));
        assert_eq!(g.memory(RAM + 1 + len as u64, 8), [0; 8]);

        assert_eq!(g.run(COMMAND_READ, iova + 1, 0, len), STATUS_READ_SUCCESS);
        assert_eq!(g.run(COMMAND_READ, iova, 0, len), STATUS_READ_FAIL);
        let to = 2 * PIECE as u64 + 3;
        assert_eq!(
            g.run(COMMAND_COPY, iova + 1, iova + to, len),
            STATUS_COPY_SUCCESS
        );
        assert_eq!(g.memory(RAM + to, len), data);
        let s = g.bus.counters.snapshot();
        assert_eq!((s.commands, s.interrupts, s.faults), (4, 4, 0));
    }

    #[test]
    fn what_is_not_mapped_fails() {
        let g = guest();
        let iova = fixture::map(&g.bus, RAM, 0x4000).0;
        assert_eq!(g.run(COMMAND_WRITE, 0, 0x1000, 4), STATUS_WRITE_FAIL);
        assert_eq!(g.run(COMMAND_READ, 0x1000, 0, 4), STATUS_READ_FAIL);
        assert_eq!(g.run(COMMAND_COPY, iova, 0x1000, 4), STATUS_COPY_FAIL);
        assert_eq!(g.bus.counters.snapshot().faults, 3);
    }

    #[test]
    fn bars_are_memory_of_their_own() {
        let g = guest();
        for bar in 0..5 {
            g.endpoint.write(bar, 0, &[bar + 1; 4]);
        }
        for bar in 0..5 {
            let mut data = [0; 4];
            g.endpoint.read(bar, 0, &mut data);
            assert_eq!(data, [bar + 1; 4]);
        }
        g.set(CAPS, 0);
        assert_eq!(g.get(CAPS), CAPABILITIES);
        g.endpoint.reset();
        assert_eq!((g.get(0), g.get(CAPS)), (0, CAPABILITIES));
        g.endpoint.read(3, 0x100, &mut [0]);
        assert_eq!(lock(&g.bus.counters.rare).violations.count, 1);
    }
}
