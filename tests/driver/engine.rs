// SPDX-License-Identifier: GPL-2.0

//! The DMA engine: its registers, its channels, and the commands they take.

use crate::bindings as uapi;
use crate::compat::DevresBar;
use crate::device::raw_pci;
use crate::failure::{
    Doing,
    Failure,
    Reason, //
};
use crate::interrupt::{
    Interrupt,
    Vectors, //
};
use crate::pattern::Pattern;
use kernel::{
    bindings,
    device::Bound,
    io::Io,
    pci,
    prelude::*,
    processor::cpu_relax,
    sync::atomic::{
        Acquire,
        AtomicFlag,
        Release, //
    },
    time::{
        Delta,
        Instant,
        Monotonic,
        Msecs, //
    },
};

/// An address as the device uses it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Iova(u64);

impl Iova {
    pub(crate) const fn new(value: u64) -> Self {
        Self(value)
    }

    pub(crate) const fn value(self) -> u64 {
        self.0
    }

    /// Returns the address `bytes` bytes further on.
    pub(crate) fn add(self, bytes: usize) -> Self {
        // CAST: `usize` is not wider than `u64`.
        Self(self.0.wrapping_add(bytes as u64))
    }
}

/// Ways to learn that the engine is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Sleep until the channel's interrupt arrives.
    Interrupt,
    /// Read the status over and over. Works in any context.
    Poll,
}

/// Time limit of a command. An emulated guest on a loaded machine is slow, and a test that fails
/// for lack of time shows nothing.
const TIMEOUT_MS: Msecs = 10_000;

// CAST: The header's numbers are register offsets within one page.
const BAR_SIZE: usize = uapi::DMA_ENGINE_BAR_SIZE as usize;
const MAGIC: usize = uapi::DMA_ENGINE_REG_MAGIC as usize;
const CHANNELS: usize = uapi::DMA_ENGINE_REG_CHANNELS as usize;
const MEM_SIZE: usize = uapi::DMA_ENGINE_REG_MEM_SIZE as usize;
const CHANNEL_BASE: usize = uapi::DMA_ENGINE_CHANNEL_BASE as usize;
const CHANNEL_STRIDE: usize = uapi::DMA_ENGINE_CHANNEL_STRIDE as usize;

/// Maximum number of channels, which is limited by the size of the BAR.
const MAX_CHANNELS: u32 = ((BAR_SIZE - CHANNEL_BASE) / CHANNEL_STRIDE) as u32;

type Bar<'a> = pci::Bar<'a, BAR_SIZE>;

/// State of each channel that the driver keeps.
struct ChannelState {
    claimed: AtomicFlag,
    interrupt: Interrupt,
}

/// A bound engine.
pub(crate) struct Engine {
    // Dropped in this order: no line is requested any more when its vector is freed.
    channels: KVec<ChannelState>,
    _vectors: Vectors,
    memory_size: usize,
    bar: DevresBar<BAR_SIZE>,
}

impl Engine {
    /// Initializes the engine of `pdev`, whose memory space is enabled.
    ///
    /// The value must be dropped before the device's managed resources are released.
    pub(crate) fn new(pdev: &pci::Device<Bound>) -> Result<Self> {
        let bar = pdev
            .iomap_region_sized::<BAR_SIZE>(uapi::DMA_ENGINE_BAR, c"apple_dma_test")?
            .into_devres()?;
        let registers = bar.access(pdev.as_ref())?;

        if registers.read32(MAGIC) != uapi::DMA_ENGINE_MAGIC {
            dev_err!(pdev, "not a DMA engine\n");
            return Err(ENODEV);
        }
        let count = registers.read32(CHANNELS);
        if count == 0 || count > MAX_CHANNELS {
            dev_err!(pdev, "{count} channels?\n");
            return Err(ENODEV);
        }
        // CAST: `usize` is at least as wide as the register.
        let memory_size = registers.read32(MEM_SIZE) as usize;

        let vectors = Vectors::new(pdev, count)?;
        let mut channels = KVec::new();
        for vector in 0..count {
            channels.push(
                ChannelState {
                    claimed: AtomicFlag::new(false),
                    interrupt: Interrupt::new(pdev, vector)?,
                },
                GFP_KERNEL,
            )?;
        }

        Ok(Self {
            channels,
            _vectors: vectors,
            memory_size,
            bar,
        })
    }

    /// Returns the number of channels.
    pub(crate) fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Returns the number of bytes of memory that each channel has.
    pub(crate) fn memory_size(&self) -> usize {
        self.memory_size
    }

    /// Returns a channel for exclusive use until it is dropped.
    pub(crate) fn claim<'a>(
        &'a self,
        pdev: &'a pci::Device<Bound>,
    ) -> Result<Channel<'a>, Failure> {
        let bar = self
            .bar
            .access(pdev.as_ref())
            .doing("accessing the engine")?;
        let (index, state) = self
            .channels
            .iter()
            .enumerate()
            .find(|(_, state)| !state.claimed.xchg(true, Acquire))
            .ok_or(EBUSY)
            .doing("claiming a channel")?;

        Ok(Channel {
            pdev,
            bar,
            block: CHANNEL_BASE.wrapping_add(index.wrapping_mul(CHANNEL_STRIDE)),
            state,
            memory_size: self.memory_size,
            wait: Wait::Poll,
            stuck: false,
        })
    }
}

/// A channel in use.
pub(crate) struct Channel<'a> {
    pdev: &'a pci::Device<Bound>,
    bar: &'a Bar<'a>,
    /// Start of the channel's registers.
    block: usize,
    state: &'a ChannelState,
    memory_size: usize,
    wait: Wait,
    /// Set if a command does not end: the channel is not released.
    stuck: bool,
}

impl Channel<'_> {
    /// Sets how to wait for the next commands.
    pub(crate) fn set_wait(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// Returns the number of bytes of the channel's memory.
    pub(crate) fn memory_size(&self) -> usize {
        self.memory_size
    }

    /// Copies `len` bytes at `src` to offset `offset` of the channel's memory.
    pub(crate) fn read(&mut self, src: Iova, offset: usize, len: usize) -> Result<(), Failure> {
        // CAST: `usize` is not wider than `u64`.
        self.run(uapi::DMA_ENGINE_CMD_READ, src.value(), offset as u64, len)
    }

    /// Copies `len` bytes at offset `offset` of the channel's memory to `dst`.
    pub(crate) fn write(&mut self, offset: usize, dst: Iova, len: usize) -> Result<(), Failure> {
        // CAST: `usize` is not wider than `u64`.
        self.run(uapi::DMA_ENGINE_CMD_WRITE, offset as u64, dst.value(), len)
    }

    /// Copies `len` bytes at `src` to `dst`.
    pub(crate) fn copy(&mut self, src: Iova, dst: Iova, len: usize) -> Result<(), Failure> {
        self.run(uapi::DMA_ENGINE_CMD_COPY, src.value(), dst.value(), len)
    }

    /// Writes the first `len` bytes of `pattern` to `dst`.
    pub(crate) fn fill(&mut self, dst: Iova, len: usize, pattern: Pattern) -> Result<(), Failure> {
        let (low, high) = halves(pattern.seed());

        self.set(uapi::DMA_ENGINE_CH_SEED_LO, low)?;
        self.set(uapi::DMA_ENGINE_CH_SEED_HI, high)?;
        self.run(uapi::DMA_ENGINE_CMD_FILL, 0, dst.value(), len)
    }

    /// Fails unless the CRC-32 of the `len` bytes at `src` is `expected`.
    pub(crate) fn checksum(&mut self, src: Iova, len: usize, expected: u32) -> Result<(), Failure> {
        self.run(uapi::DMA_ENGINE_CMD_CHECKSUM, src.value(), 0, len)?;
        let found = self.get(uapi::DMA_ENGINE_CH_RESULT)?;

        if found == expected {
            return Ok(());
        }
        Err(Failure::new(Reason::Checksum { expected, found }))
    }

    /// Has the engine copy `len` bytes at `src` to `dst` over and over, until it is reset or must
    /// not master the bus any more. The channel is not released.
    pub(crate) fn copy_until_stopped(
        mut self,
        src: Iova,
        dst: Iova,
        len: usize,
    ) -> Result<(), Failure> {
        self.stuck = true;
        self.set_ranges(src.value(), dst.value(), len)?;
        self.set(
            uapi::DMA_ENGINE_CH_CMD,
            uapi::DMA_ENGINE_CMD_COPY | uapi::DMA_ENGINE_CMD_REPEAT,
        )
    }

    /// Fails unless a read and a write of the `len` bytes at `iova` both fault.
    pub(crate) fn must_fault(&mut self, iova: Iova, len: usize) -> Result<(), Failure> {
        for command in [uapi::DMA_ENGINE_CMD_CHECKSUM, uapi::DMA_ENGINE_CMD_FILL] {
            let flags = uapi::DMA_ENGINE_CMD_EXPECT_FAULT;

            match self.start(command, flags, iova.value(), iova.value(), len)? {
                uapi::DMA_ENGINE_STATUS_FAULT => (),
                _ => return Err(Failure::new(Reason::NoFault { command })),
            }
        }
        Ok(())
    }

    /// Runs a command that must succeed.
    fn run(&mut self, command: u32, src: u64, dst: u64, len: usize) -> Result<(), Failure> {
        match self.start(command, 0, src, dst, len)? {
            uapi::DMA_ENGINE_STATUS_DONE => Ok(()),
            uapi::DMA_ENGINE_STATUS_FAULT => {
                let low = self.get(uapi::DMA_ENGINE_CH_FAULT_LO)?;
                let high = self.get(uapi::DMA_ENGINE_CH_FAULT_HI)?;
                let iova = Iova::new(u64::from(high) << 32 | u64::from(low));

                Err(Failure::new(Reason::Fault { command, iova }))
            }
            status => Err(Failure::new(Reason::Status { command, status })),
        }
    }

    /// Runs a command and returns its final status.
    fn start(
        &mut self,
        command: u32,
        flags: u32,
        src: u64,
        dst: u64,
        len: usize,
    ) -> Result<u32, Failure> {
        self.set_ranges(src, dst, len)?;
        match self.wait {
            Wait::Interrupt => self.sleep(command, flags),
            Wait::Poll => self.poll(command, flags),
        }
    }

    /// Sets the operands of the next command.
    fn set_ranges(&self, src: u64, dst: u64, len: usize) -> Result<(), Failure> {
        let len = u32::try_from(len).doing("making a command")?;
        let (src_lo, src_hi) = halves(src);
        let (dst_lo, dst_hi) = halves(dst);

        self.set(uapi::DMA_ENGINE_CH_SRC_LO, src_lo)?;
        self.set(uapi::DMA_ENGINE_CH_SRC_HI, src_hi)?;
        self.set(uapi::DMA_ENGINE_CH_DST_LO, dst_lo)?;
        self.set(uapi::DMA_ENGINE_CH_DST_HI, dst_hi)?;
        self.set(uapi::DMA_ENGINE_CH_LEN, len)
    }

    fn sleep(&mut self, command: u32, flags: u32) -> Result<u32, Failure> {
        let signal = self.state.interrupt.signal();

        signal.drain();
        self.set(
            uapi::DMA_ENGINE_CH_CMD,
            command | flags | uapi::DMA_ENGINE_CMD_IRQ,
        )?;
        let interrupted = signal.wait(TIMEOUT_MS);
        match self.get(uapi::DMA_ENGINE_CH_STATUS)? {
            uapi::DMA_ENGINE_STATUS_BUSY => Err(self.give_up(command)),
            status if interrupted => Ok(status),
            _ => Err(Failure::new(Reason::LostInterrupt { command })),
        }
    }

    fn poll(&mut self, command: u32, flags: u32) -> Result<u32, Failure> {
        self.set(uapi::DMA_ENGINE_CH_CMD, command | flags)?;

        let start = Instant::<Monotonic>::now();
        loop {
            // The time is read before the status, lest a long interruption be taken for a slow
            // engine.
            let late = start.elapsed() > Delta::from_millis(i64::from(TIMEOUT_MS));

            match self.get(uapi::DMA_ENGINE_CH_STATUS)? {
                uapi::DMA_ENGINE_STATUS_BUSY if late => return Err(self.give_up(command)),
                uapi::DMA_ENGINE_STATUS_BUSY => cpu_relax(),
                status => return Ok(status),
            }
        }
    }

    /// Keeps an engine that does not stop away from memory that is about to be freed.
    fn give_up(&mut self, command: u32) -> Failure {
        self.stuck = true;
        // SAFETY: `raw_pci` returns a valid device.
        unsafe { bindings::pci_clear_master(raw_pci(self.pdev)) };
        Failure::new(Reason::Timeout { command })
    }

    fn set(&self, register: u32, value: u32) -> Result<(), Failure> {
        // CAST: Offsets within a channel's block are small.
        self.bar
            .try_write32(value, self.block.wrapping_add(register as usize))
            .doing("writing a register")
    }

    fn get(&self, register: u32) -> Result<u32, Failure> {
        // CAST: As above.
        self.bar
            .try_read32(self.block.wrapping_add(register as usize))
            .doing("reading a register")
    }
}

impl Drop for Channel<'_> {
    fn drop(&mut self) {
        if !self.stuck {
            self.state.claimed.store(false, Release);
        }
    }
}

/// Returns the low and the high half of a number.
fn halves(value: u64) -> (u32, u32) {
    // CAST: Takes the halves.
    (value as u32, (value >> 32) as u32)
}
