// SPDX-License-Identifier: GPL-2.0

//! The DMA engine of `tests/uapi/dma_engine.h`: a device that moves bytes to and from any IOVA on
//! command, on several channels at once.

use crate::addr::Iova;
use crate::bus::{
    Bus,
    DmaError,
    Expect, //
};
use crate::device::Device;
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
use crate::wire::engine::*;
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

/// Maximum number of channels, which the register block limits.
pub const MAX_CHANNELS: u16 =
    ((DMA_ENGINE_BAR_SIZE - DMA_ENGINE_CHANNEL_BASE) / DMA_ENGINE_CHANNEL_STRIDE) as u16;

/// Bytes of memory per channel.
pub const MEM_SIZE: usize = 16 << 20;

/// The BAR of the MSI-X table; the registers fill BAR0.
const MSIX_BAR: u8 = 2;
const MSIX_PENDING: u32 = 0x800;

/// Bytes between two checks whether a reset has stopped the channel.
const PIECE: usize = 64 << 10;

/// Time between two repetitions of a command.
const REPEAT_PAUSE: Duration = Duration::from_micros(500);

const COMMAND_MASK: u32 = 0xff;
const COMMAND_FLAGS: u32 = DMA_ENGINE_CMD_EXPECT_FAULT | DMA_ENGINE_CMD_IRQ | DMA_ENGINE_CMD_REPEAT;

/// Registers of a channel, as the guest reads them.
#[derive(Clone, Copy, Debug, Default)]
struct Registers {
    src: u64,
    dst: u64,
    len: u32,
    seed: u64,
    status: u32,
    result: u32,
    fault: u64,
    completed: u32,
}

/// A command, as of the write of CMD.
#[derive(Clone, Copy, Debug)]
struct Command {
    src: u64,
    dst: u64,
    len: usize,
    seed: u64,
    cmd: u32,
}

#[derive(Debug, Default)]
struct State {
    registers: Registers,
    pending: Option<Command>,
    running: bool,
    quit: bool,
}

/// The result of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Checksum(u32),
    Inval,
    Fault(Iova),
    Aborted,
}

impl From<DmaError> for Outcome {
    fn from(e: DmaError) -> Self {
        match e {
            DmaError::Fault(iova) => Self::Fault(iova),
            DmaError::Down => Self::Aborted,
        }
    }
}

#[derive(Debug)]
struct Channel {
    index: u16,
    bus: Arc<Bus>,
    delay: Duration,
    state: Mutex<State>,
    /// Notified when the state has changed.
    changed: Condvar,
    /// Set if the running command must end as soon as possible.
    abort: AtomicBool,
    memory: Mutex<Vec<u8>>,
}

/// The device.
#[derive(Debug)]
pub struct Engine {
    bus: Arc<Bus>,
    channels: Vec<Arc<Channel>>,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Creates an engine whose commands take at least `delay` before they move a byte. It has one
    /// channel per vector of `bus`.
    pub fn new(bus: Arc<Bus>, delay: Duration) -> std::io::Result<Self> {
        let channels: Vec<_> = (0..bus.msix.count())
            .map(|index| {
                Arc::new(Channel {
                    index,
                    bus: bus.clone(),
                    delay,
                    state: Mutex::default(),
                    changed: Condvar::new(),
                    abort: AtomicBool::new(false),
                    memory: Mutex::new(vec![0; MEM_SIZE]),
                })
            })
            .collect();
        let threads = channels
            .iter()
            .map(|channel| {
                let channel = channel.clone();
                thread::Builder::new()
                    .name(format!("{}-{}", bus.name, channel.index))
                    .spawn(move || channel.work())
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            bus,
            channels,
            threads,
        })
    }

    /// Returns the channel of `offset` in BAR0, and the offset in its block.
    fn channel(&self, offset: u32) -> Option<(&Channel, u32)> {
        let at = offset.checked_sub(DMA_ENGINE_CHANNEL_BASE)?;
        let channel = self
            .channels
            .get((at / DMA_ENGINE_CHANNEL_STRIDE) as usize)?;
        Some((channel, at % DMA_ENGINE_CHANNEL_STRIDE))
    }

    fn get(&self, offset: u32) -> Option<u32> {
        Some(match offset {
            DMA_ENGINE_REG_MAGIC => DMA_ENGINE_MAGIC,
            DMA_ENGINE_REG_CHANNELS => self.channels.len() as u32,
            DMA_ENGINE_REG_MEM_SIZE => MEM_SIZE as u32,
            _ => {
                let (channel, at) = self.channel(offset)?;
                return channel.get(at);
            }
        })
    }

    fn violation(&self, what: &str, offset: u64, len: usize) {
        self.bus.counters.violation(
            &self.bus.name,
            format!("{what} of {len} bytes at BAR0 + {offset:#x}"),
        );
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for channel in &self.channels {
            channel.abort.store(true, Ordering::SeqCst);
            lock(&channel.state).quit = true;
            channel.changed.notify_all();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Device for Engine {
    fn kind(&self) -> &'static str {
        "engine"
    }

    fn identity(&self) -> Identity {
        let bar = |index, size| Bar {
            index,
            size,
            wide: false,
        };
        Identity {
            vendor: DMA_ENGINE_VENDOR_ID as u16,
            device: DMA_ENGINE_DEVICE_ID as u16,
            class: DMA_ENGINE_CLASS,
            bars: vec![
                bar(DMA_ENGINE_BAR as u8, u64::from(DMA_ENGINE_BAR_SIZE)),
                bar(MSIX_BAR, 0x1000),
            ],
            msix: Some(MsixLayout {
                vectors: self.channels.len() as u16,
                bar: MSIX_BAR,
                table: 0,
                pending: MSIX_PENDING,
            }),
            msi: 0,
        }
    }

    fn read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar == MSIX_BAR {
            data.fill(0);
            return;
        }
        let value = match data.len() {
            4 => u32::try_from(offset).ok().and_then(|at| self.get(at)),
            _ => None,
        };
        match value {
            Some(value) => data.copy_from_slice(&value.to_le_bytes()),
            None => {
                self.violation("read", offset, data.len());
                data.fill(0xff);
            }
        }
    }

    fn write(&self, bar: u8, offset: u64, data: &[u8]) {
        if bar == MSIX_BAR {
            return;
        }
        let done = data
            .try_into()
            .ok()
            .map(u32::from_le_bytes)
            .zip(u32::try_from(offset).ok())
            .and_then(|(value, at)| {
                let (channel, at) = self.channel(at)?;
                channel.set(at, value)
            });
        if done.is_none() {
            self.violation("write", offset, data.len());
        }
    }

    fn reset(&self) {
        for channel in &self.channels {
            channel.abort.store(true, Ordering::SeqCst);
            channel.changed.notify_all();
        }
        for channel in &self.channels {
            let mut state = lock(&channel.state);
            state.pending = None;
            while state.running {
                state = wait(&channel.changed, state);
            }
            state.registers = Registers::default();
            *lock(&channel.memory) = vec![0; MEM_SIZE];
            channel.abort.store(false, Ordering::SeqCst);
        }
    }
}

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn set_low(target: &mut u64, value: u32) {
    *target = (*target & !0xffff_ffff) | u64::from(value);
}

fn set_high(target: &mut u64, value: u32) {
    *target = (*target & 0xffff_ffff) | (u64::from(value) << 32);
}

impl Channel {
    fn get(&self, at: u32) -> Option<u32> {
        let r = lock(&self.state).registers;
        Some(match at {
            DMA_ENGINE_CH_SRC_LO => low(r.src),
            DMA_ENGINE_CH_SRC_HI => high(r.src),
            DMA_ENGINE_CH_DST_LO => low(r.dst),
            DMA_ENGINE_CH_DST_HI => high(r.dst),
            DMA_ENGINE_CH_LEN => r.len,
            DMA_ENGINE_CH_SEED_LO => low(r.seed),
            DMA_ENGINE_CH_SEED_HI => high(r.seed),
            DMA_ENGINE_CH_STATUS => r.status,
            DMA_ENGINE_CH_RESULT => r.result,
            DMA_ENGINE_CH_FAULT_LO => low(r.fault),
            DMA_ENGINE_CH_FAULT_HI => high(r.fault),
            DMA_ENGINE_CH_COMPLETED => r.completed,
            _ => return None,
        })
    }

    /// Writes a register. Returns `None` if there is no writable register at `at`.
    fn set(&self, at: u32, value: u32) -> Option<()> {
        let mut state = lock(&self.state);
        let r = &mut state.registers;
        match at {
            DMA_ENGINE_CH_SRC_LO => set_low(&mut r.src, value),
            DMA_ENGINE_CH_SRC_HI => set_high(&mut r.src, value),
            DMA_ENGINE_CH_DST_LO => set_low(&mut r.dst, value),
            DMA_ENGINE_CH_DST_HI => set_high(&mut r.dst, value),
            DMA_ENGINE_CH_LEN => r.len = value,
            DMA_ENGINE_CH_SEED_LO => set_low(&mut r.seed, value),
            DMA_ENGINE_CH_SEED_HI => set_high(&mut r.seed, value),
            DMA_ENGINE_CH_CMD => {
                if r.status != DMA_ENGINE_STATUS_BUSY {
                    r.status = DMA_ENGINE_STATUS_BUSY;
                    state.pending = Some(Command {
                        src: r.src,
                        dst: r.dst,
                        len: r.len as usize,
                        seed: r.seed,
                        cmd: value,
                    });
                    self.changed.notify_all();
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Runs commands in the channel's thread.
    fn work(&self) {
        loop {
            let mut state = lock(&self.state);
            let command = loop {
                if state.quit {
                    return;
                }
                if let Some(command) = state.pending.take() {
                    break command;
                }
                state = wait(&self.changed, state);
            };
            state.running = true;
            drop(state);

            self.pause();
            let mut outcome = self.run(&command);
            while command.cmd & DMA_ENGINE_CMD_REPEAT != 0 && outcome == Outcome::Done {
                // The guest needs a processor, too.
                pause(&self.changed, &self.state, REPEAT_PAUSE, || self.aborted());
                outcome = self.run(&command);
            }

            let mut state = lock(&self.state);
            self.finish(&mut state.registers, &command, outcome);
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

    fn finish(&self, r: &mut Registers, command: &Command, outcome: Outcome) {
        r.status = match outcome {
            Outcome::Done => DMA_ENGINE_STATUS_DONE,
            Outcome::Checksum(crc) => {
                r.result = crc;
                DMA_ENGINE_STATUS_DONE
            }
            Outcome::Inval => DMA_ENGINE_STATUS_INVAL,
            Outcome::Fault(iova) => {
                r.fault = iova.0;
                DMA_ENGINE_STATUS_FAULT
            }
            Outcome::Aborted => {
                r.status = DMA_ENGINE_STATUS_IDLE;
                return;
            }
        };
        r.completed = r.completed.wrapping_add(1);
        let counters = &self.bus.counters;
        count(&counters.commands, 1);
        let expected = command.cmd & DMA_ENGINE_CMD_EXPECT_FAULT != 0;
        if expected && r.status == DMA_ENGINE_STATUS_DONE {
            log::warn!("{}: a fault was expected: {command:x?}", self.bus.name);
            count(&counters.missing_faults, 1);
        }
        if command.cmd & DMA_ENGINE_CMD_IRQ != 0 {
            self.bus.interrupt(self.index);
        }
    }

    fn run(&self, command: &Command) -> Outcome {
        self.try_run(command).unwrap_or_else(|outcome| outcome)
    }

    /// Runs a command. Both variants of the result are its outcome.
    fn try_run(&self, command: &Command) -> Result<Outcome, Outcome> {
        let &Command {
            src,
            dst,
            len,
            seed,
            cmd,
        } = command;
        let known = cmd & !(COMMAND_MASK | COMMAND_FLAGS) == 0;
        if !known || len == 0 {
            return Err(Outcome::Inval);
        }
        let expected = if cmd & DMA_ENGINE_CMD_EXPECT_FAULT != 0 {
            Expect::Fault
        } else if cmd & DMA_ENGINE_CMD_REPEAT != 0 {
            Expect::UntilStopped
        } else {
            Expect::Success
        };
        let mut memory = lock(&self.memory);
        let inside = |offset: u64| {
            let from = usize::try_from(offset).map_err(|_| Outcome::Inval)?;
            let to = from.checked_add(len).ok_or(Outcome::Inval)?;
            match to <= MEM_SIZE {
                true => Ok(from..to),
                false => Err(Outcome::Inval),
            }
        };
        match cmd & COMMAND_MASK {
            DMA_ENGINE_CMD_READ => {
                let range = inside(dst)?;
                self.fetch(src, &mut memory[range], expected)?;
            }
            DMA_ENGINE_CMD_WRITE => {
                let range = inside(src)?;
                self.store(dst, &memory[range], expected)?;
            }
            DMA_ENGINE_CMD_COPY => self.copy(src, dst, len, expected)?,
            DMA_ENGINE_CMD_FILL => {
                let mut piece = [0; PIECE];
                for from in (0..len).step_by(PIECE) {
                    let piece = &mut piece[..PIECE.min(len - from)];
                    pattern(seed.wrapping_add(from as u64 / 8), piece);
                    self.store(dst.wrapping_add(from as u64), piece, expected)?;
                }
            }
            DMA_ENGINE_CMD_CHECKSUM => {
                let mut crc = crc32fast::Hasher::new();
                let mut piece = [0; PIECE];
                for from in (0..len).step_by(PIECE) {
                    let piece = &mut piece[..PIECE.min(len - from)];
                    self.fetch(src.wrapping_add(from as u64), piece, expected)?;
                    crc.update(piece);
                }
                return Ok(Outcome::Checksum(crc.finalize()));
            }
            _ => return Err(Outcome::Inval),
        }
        Ok(Outcome::Done)
    }

    /// Copies between IOVA ranges that may overlap, as addresses or, if the length is at most that
    /// of the channel's memory, as the memory behind them.
    fn copy(&self, src: u64, dst: u64, len: usize, expected: Expect) -> Result<(), Outcome> {
        let mut buf = vec![0; len.min(MEM_SIZE)];
        let pieces = len.div_ceil(MEM_SIZE);
        let backwards = dst > src;
        for i in 0..pieces {
            let i = if backwards { pieces - 1 - i } else { i };
            let from = i * MEM_SIZE;
            let piece = &mut buf[..MEM_SIZE.min(len - from)];
            self.fetch(src.wrapping_add(from as u64), piece, expected)?;
            self.store(dst.wrapping_add(from as u64), piece, expected)?;
        }
        Ok(())
    }

    fn fetch(&self, iova: u64, buf: &mut [u8], expected: Expect) -> Result<(), Outcome> {
        let mut at = iova;
        for piece in buf.chunks_mut(PIECE) {
            if self.aborted() {
                return Err(Outcome::Aborted);
            }
            self.bus.read_expecting(Iova(at), piece, expected)?;
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    fn store(&self, iova: u64, buf: &[u8], expected: Expect) -> Result<(), Outcome> {
        let mut at = iova;
        for piece in buf.chunks(PIECE) {
            if self.aborted() {
                return Err(Outcome::Aborted);
            }
            self.bus.write_expecting(Iova(at), piece, expected)?;
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }
}

/// Fills `buf` with the pattern of the header, from the word `x` on.
pub(crate) fn pattern(x: u64, buf: &mut [u8]) {
    for (i, word) in buf.chunks_mut(8).enumerate() {
        let bytes = mix(x.wrapping_add(i as u64)).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

/// Returns the output function of SplitMix64.
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
        engine: Engine,
        bus: Arc<Bus>,
    }

    fn guest(mode: Mode) -> Guest {
        let bus = fixture::bus(mode, 2);
        let engine = Engine::new(bus.clone(), Duration::ZERO).unwrap();
        Guest { engine, bus }
    }

    impl Guest {
        fn get(&self, at: u32) -> u32 {
            let mut data = [0; 4];
            self.engine.read(0, at.into(), &mut data);
            u32::from_le_bytes(data)
        }

        fn set(&self, channel: u32, at: u32, value: u32) {
            let at = DMA_ENGINE_CHANNEL_BASE + channel * DMA_ENGINE_CHANNEL_STRIDE + at;
            self.engine.write(0, at.into(), &value.to_le_bytes());
        }

        fn state(&self, channel: u32, at: u32) -> u32 {
            self.get(DMA_ENGINE_CHANNEL_BASE + channel * DMA_ENGINE_CHANNEL_STRIDE + at)
        }

        fn start(&self, channel: u32, cmd: u32, src: u64, dst: u64, len: u32, seed: u64) {
            self.set(channel, DMA_ENGINE_CH_SRC_LO, low(src));
            self.set(channel, DMA_ENGINE_CH_SRC_HI, high(src));
            self.set(channel, DMA_ENGINE_CH_DST_LO, low(dst));
            self.set(channel, DMA_ENGINE_CH_DST_HI, high(dst));
            self.set(channel, DMA_ENGINE_CH_LEN, len);
            self.set(channel, DMA_ENGINE_CH_SEED_LO, low(seed));
            self.set(channel, DMA_ENGINE_CH_SEED_HI, high(seed));
            self.set(channel, DMA_ENGINE_CH_CMD, cmd);
        }

        fn run(&self, cmd: u32, src: u64, dst: u64, len: u32, seed: u64) -> u32 {
            self.start(0, cmd, src, dst, len, seed);
            loop {
                match self.state(0, DMA_ENGINE_CH_STATUS) {
                    DMA_ENGINE_STATUS_BUSY => thread::yield_now(),
                    status => return status,
                }
            }
        }

        fn memory(&self, gpa: u64, len: usize) -> Vec<u8> {
            let mut buf = vec![0; len];
            self.bus.ram.read(Gpa(gpa), &mut buf).unwrap();
            buf
        }
    }

    fn bytes(n: usize) -> Vec<u8> {
        let mut buf = vec![0; n];
        pattern(99, &mut buf);
        buf
    }

    #[test]
    fn the_pattern_is_splitmix64() {
        // First outputs of the published generator from the state 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(1), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(mix(u64::MAX), 0);
        let mut buf = [0; 9];
        pattern(0, &mut buf);
        assert_eq!(buf[..8], mix(0).to_le_bytes());
        assert_eq!(buf[8], 0xf4);
    }

    #[test]
    fn globals() {
        let g = guest(Mode::Dext);
        assert_eq!(g.get(DMA_ENGINE_REG_MAGIC), 0x454d_4144);
        assert_eq!(g.get(DMA_ENGINE_REG_CHANNELS), 2);
        assert_eq!(g.get(DMA_ENGINE_REG_MEM_SIZE), 16 << 20);
        assert_eq!(g.state(1, DMA_ENGINE_CH_STATUS), DMA_ENGINE_STATUS_IDLE);
    }

    #[test]
    fn read_write_copy_at_any_offset() {
        let g = guest(Mode::Dext);
        let data = bytes(300_001);
        g.bus.ram.write(Gpa(RAM + 3), &data).unwrap();
        let a = fixture::map(&g.bus, RAM + 3, 300_001).0;
        let b = fixture::map(&g.bus, RAM + 0x10_0007, 300_001).0;
        assert_eq!(
            g.run(DMA_ENGINE_CMD_READ, a, 11, 300_001, 0),
            DMA_ENGINE_STATUS_DONE
        );
        assert_eq!(
            g.run(DMA_ENGINE_CMD_WRITE, 11, b, 300_001, 0),
            DMA_ENGINE_STATUS_DONE
        );
        assert_eq!(g.memory(RAM + 0x10_0007, 300_001), data);
        // Overlap, in both directions.
        for (src, dst) in [(a, a + 1000), (a + 1000, a)] {
            let before = g.memory(RAM + 3, 300_001);
            assert_eq!(
                g.run(DMA_ENGINE_CMD_COPY, src, dst, 200_000, 0),
                DMA_ENGINE_STATUS_DONE
            );
            let from = (src - a) as usize;
            let seen = g.memory(RAM + 3 + (dst - a), 200_000);
            assert_eq!(seen, before[from..from + 200_000]);
        }
        assert_eq!(g.state(0, DMA_ENGINE_CH_COMPLETED), 4);
        let s = g.bus.counters.snapshot();
        assert_eq!((s.commands, s.faults, s.interrupts), (4, 0, 0));
    }

    #[test]
    fn a_copy_beyond_the_memory_goes_the_right_way() {
        let g = guest(Mode::Identity);
        let len = MEM_SIZE + 100_000;
        let data = bytes(len);
        g.bus.ram.write(Gpa(RAM), &data).unwrap();
        assert_eq!(
            g.run(DMA_ENGINE_CMD_COPY, RAM, RAM + 5000, len as u32, 0),
            DMA_ENGINE_STATUS_DONE
        );
        assert!(g.memory(RAM + 5000, len) == data);
        assert_eq!(
            g.run(DMA_ENGINE_CMD_COPY, RAM + 5000, RAM + 7, len as u32, 0),
            DMA_ENGINE_STATUS_DONE
        );
        assert!(g.memory(RAM + 7, len) == data);
    }

    #[test]
    fn fill_and_checksum() {
        let g = guest(Mode::Dext);
        let len = 200_003;
        let iova = fixture::map(&g.bus, RAM + 5, len.into()).0;
        g.start(0, DMA_ENGINE_CMD_FILL, 0, iova, len, u64::MAX - 9);
        while g.state(0, DMA_ENGINE_CH_STATUS) == DMA_ENGINE_STATUS_BUSY {}
        let mut expected = vec![0; len as usize];
        pattern(u64::MAX - 9, &mut expected);
        assert_eq!(g.memory(RAM + 5, len as usize), expected);
        assert_eq!(
            g.run(DMA_ENGINE_CMD_CHECKSUM, iova, 0, len, 0),
            DMA_ENGINE_STATUS_DONE
        );
        assert_eq!(g.state(0, DMA_ENGINE_CH_RESULT), crc32fast::hash(&expected));
        g.bus.ram.write(Gpa(RAM), b"123456789").unwrap();
        let iova = fixture::map(&g.bus, RAM, 9).0;
        g.run(DMA_ENGINE_CMD_CHECKSUM, iova, 0, 9, 0);
        assert_eq!(g.state(0, DMA_ENGINE_CH_RESULT), 0xcbf4_3926);
    }

    #[test]
    fn bad_commands_are_inval() {
        let g = guest(Mode::Identity);
        let size = MEM_SIZE as u64;
        let cases = [
            (0, RAM, RAM, 1),
            (6, RAM, RAM, 1),
            (0x800 | DMA_ENGINE_CMD_FILL, RAM, RAM, 1),
            (DMA_ENGINE_CMD_FILL, RAM, RAM, 0),
            (DMA_ENGINE_CMD_READ, RAM, size, 1),
            (DMA_ENGINE_CMD_READ, RAM, size - 1, 2),
            (DMA_ENGINE_CMD_READ, RAM, u64::MAX, 2),
            (DMA_ENGINE_CMD_WRITE, size - 1, RAM, 2),
            (DMA_ENGINE_CMD_WRITE, 0, RAM, u32::MAX),
        ];
        for (cmd, src, dst, len) in cases {
            assert_eq!(
                g.run(cmd, src, dst, len, 0),
                DMA_ENGINE_STATUS_INVAL,
                "{cmd}"
            );
        }
        assert_eq!(g.bus.counters.snapshot().faults, 0);
    }

    #[test]
    fn faults_and_their_announcement() {
        let g = guest(Mode::Dext);
        let iova = fixture::map(&g.bus, RAM, 100).0;
        assert_eq!(
            g.run(DMA_ENGINE_CMD_FILL, 0, iova, 101, 0),
            DMA_ENGINE_STATUS_FAULT
        );
        let at = u64::from(g.state(0, DMA_ENGINE_CH_FAULT_LO))
            | (u64::from(g.state(0, DMA_ENGINE_CH_FAULT_HI)) << 32);
        assert_eq!(at, iova + 100);
        let expect = DMA_ENGINE_CMD_EXPECT_FAULT;
        assert_eq!(
            g.run(DMA_ENGINE_CMD_CHECKSUM | expect, iova - 1, 0, 4, 0),
            DMA_ENGINE_STATUS_FAULT
        );
        assert_eq!(
            g.run(DMA_ENGINE_CMD_CHECKSUM | expect, iova, 0, 4, 0),
            DMA_ENGINE_STATUS_DONE
        );
        let s = g.bus.counters.snapshot();
        assert_eq!((s.faults, s.expected_faults, s.missing_faults), (1, 1, 1));
    }

    #[test]
    fn interrupts_only_when_asked() {
        let g = guest(Mode::Identity);
        g.run(DMA_ENGINE_CMD_FILL, 0, RAM, 1, 0);
        g.run(DMA_ENGINE_CMD_FILL | DMA_ENGINE_CMD_IRQ, 0, RAM, 1, 0);
        // STATUS changes under the lock under which the interrupt is raised.
        assert_eq!(g.bus.counters.snapshot().interrupts, 1);
    }

    #[test]
    fn reset_stops_a_command_and_clears() {
        let bus = fixture::bus(Mode::Identity, 2);
        let engine = Engine::new(bus.clone(), Duration::from_secs(3600)).unwrap();
        let g = Guest { engine, bus };
        g.start(1, DMA_ENGINE_CMD_FILL, 0, RAM, 8, 0);
        // Ignored: the channel is busy.
        g.start(1, DMA_ENGINE_CMD_FILL, 0, RAM, 9, 0);
        assert_eq!(g.state(1, DMA_ENGINE_CH_STATUS), DMA_ENGINE_STATUS_BUSY);
        g.engine.reset();
        assert_eq!(g.state(1, DMA_ENGINE_CH_STATUS), DMA_ENGINE_STATUS_IDLE);
        assert_eq!(g.state(1, DMA_ENGINE_CH_COMPLETED), 0);
        assert_eq!(g.state(1, DMA_ENGINE_CH_LEN), 0);
        assert_eq!(g.bus.counters.snapshot().written_bytes, 0);
    }

    #[test]
    fn odd_accesses_are_violations() {
        let g = guest(Mode::Dext);
        let mut data = [0; 8];
        g.engine.read(0, 0, &mut data);
        assert_eq!(data, [0xff; 8]);
        for at in [0x0c, DMA_ENGINE_CHANNEL_BASE + 0x1c, 0x102, 0x180, 0xffc] {
            assert_eq!(g.get(at), !0);
        }
        g.engine.write(0, 0, &[0; 4]);
        g.engine.write(0, 0x11c, &[0; 2]);
        g.engine.write(0, u64::MAX, &[0; 4]);
        assert_eq!(g.bus.counters.snapshot().violations.count, 9);
        g.engine.write(MSIX_BAR, 0, &[0; 4]);
        g.engine.read(MSIX_BAR, 0x800, &mut data);
        assert_eq!(data, [0; 8]);
        assert_eq!(g.bus.counters.snapshot().violations.count, 9);
    }

    #[test]
    fn a_command_repeats_until_mastering_is_off() {
        let g = guest(Mode::NoDext);
        g.start(
            0,
            DMA_ENGINE_CMD_COPY | DMA_ENGINE_CMD_REPEAT,
            RAM,
            RAM + 64,
            64,
            0,
        );
        let accesses = || g.bus.counters.accesses.load(Ordering::SeqCst);
        let before = accesses();
        while accesses() < before + 10 {
            thread::yield_now();
        }
        assert_eq!(g.state(0, DMA_ENGINE_CH_STATUS), DMA_ENGINE_STATUS_BUSY);
        g.bus.set_master(false);
        while g.state(0, DMA_ENGINE_CH_STATUS) == DMA_ENGINE_STATUS_BUSY {
            thread::yield_now();
        }
        assert_eq!(g.state(0, DMA_ENGINE_CH_STATUS), DMA_ENGINE_STATUS_IDLE);
        assert_eq!(g.bus.counters.snapshot().faults, 0);
    }
}
