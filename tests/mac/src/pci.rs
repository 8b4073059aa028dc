// SPDX-License-Identifier: GPL-2.0

//! PCI configuration space of the simulated devices.
//!
//! The real host keeps BAR writes and STATUS writes from the device and forwards COMMAND and the
//! capabilities; so does this file. QEMU places the BARs and emulates the MSI-X table by itself.

use serde::Deserialize;

/// Bytes of conventional configuration space.
const CONVENTIONAL_SIZE: usize = 256;
/// Bytes of PCI Express configuration space.
const EXPRESS_SIZE: usize = 4096;

const COMMAND: usize = 0x04;
const COMMAND_MASTER: u16 = 1 << 2;
/// Memory, master, parity, SERR, INTx disable: the writable bits of a function without I/O BARs.
const COMMAND_WRITABLE: u16 = 0x0546;
const STATUS: usize = 0x06;
const STATUS_CAP_LIST: u16 = 1 << 4;
const REVISION: usize = 0x08;
const BAR0: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAP_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

const PM: usize = 0x40;
const PM_CONTROL: usize = PM + 4;
const PM_NO_SOFT_RESET: u8 = 1 << 3;
const MSIX: usize = 0x50;
const EXPRESS: usize = 0x60;
const EXPRESS_CONTROL: usize = EXPRESS + 8;
const EXPRESS_FLR: u16 = 1 << 15;
const EXPRESS_STATUS: usize = EXPRESS + 10;
/// Transactions Pending.
const EXPRESS_PENDING: u8 = 1 << 5;
const MSI: usize = 0xa0;
const MSI_ENABLE: u16 = 1 << 0;
/// Number of enabled messages, as a power of two.
const MSI_USED: u16 = 0x7 << 4;
const MSI_WIDE: u16 = 1 << 7;

/// Subsystem of every device here: none of a real vendor's products.
const SUBSYSTEM_IDS: (u16, u16) = (0x1af4, 0x1100);

/// What a managed device's configuration space reads as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigReads {
    /// What it is.
    #[default]
    True,
    /// The same, with transactions that are pending.
    Pending,
    /// Ones, as of a device that was unplugged.
    Ones,
}

/// A memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Number of the BAR, 0 to 5. A 64-bit BAR occupies the next one as well.
    pub index: u8,
    /// Bytes, a power of two.
    pub size: u64,
    /// True if the BAR may be placed above 4 GiB.
    pub wide: bool,
}

/// Location of the MSI-X table and the pending bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// Vectors, at least 1.
    pub vectors: u16,
    /// The BAR that holds both.
    pub bar: u8,
    /// Offset of the table.
    pub table: u32,
    /// Offset of the pending bits.
    pub pending: u32,
}

/// Identity of a device.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class code, 24 bits.
    pub class: u32,
    /// Its BARs.
    pub bars: Vec<Bar>,
    /// MSI-X; a function with it is a PCI Express endpoint with FLR, one without is conventional
    /// PCI without capabilities.
    pub msix: Option<MsixLayout>,
    /// MSI messages, a power of two and at most 32, or 0. A function that has them has
    /// MSI-X and INTA as well.
    pub msi: u16,
}

/// Effects of a write to configuration space on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Function-level reset was initiated.
    pub flr: bool,
}

/// Configuration space of one function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    /// Bits that a write changes.
    writable: Vec<u8>,
    reset: Vec<u8>,
    express: bool,
}

impl ConfigSpace {
    /// Creates the space of a function that was just reset.
    pub fn new(identity: &Identity) -> Self {
        let express = identity.msix.is_some();
        let size = match express {
            true => EXPRESS_SIZE,
            false => CONVENTIONAL_SIZE,
        };
        let mut space = Self {
            bytes: vec![0; size],
            writable: vec![0; size],
            reset: Vec::new(),
            express,
        };
        space.put16(0x00, identity.vendor);
        space.put16(0x02, identity.device);
        space.allow16(COMMAND, COMMAND_WRITABLE);
        space.put32(REVISION, (identity.class << 8) | 1);
        for bar in &identity.bars {
            let at = BAR0 + 4 * usize::from(bar.index);
            space.put32(at, if bar.wide { 0b100 } else { 0 });
        }
        space.put16(SUBSYSTEM, SUBSYSTEM_IDS.0);
        space.put16(SUBSYSTEM + 2, SUBSYSTEM_IDS.1);
        space.writable[INTERRUPT_LINE] = 0xff;
        if let Some(msix) = identity.msix {
            space.add_capabilities(msix);
        }
        if identity.msi != 0 {
            space.add_msi(identity.msi);
        }
        space.reset = space.bytes.clone();
        space
    }

    fn add_capabilities(&mut self, msix: MsixLayout) {
        self.put16(STATUS, STATUS_CAP_LIST);
        self.bytes[CAP_POINTER] = PM as u8;

        // Power management 1.2, D0 and D3hot, state kept on the way back.
        self.bytes[PM] = 0x01;
        self.bytes[PM + 1] = MSIX as u8;
        self.put16(PM + 2, 0x0003);
        self.bytes[PM_CONTROL] = PM_NO_SOFT_RESET;
        self.writable[PM_CONTROL] = 0x03;

        self.bytes[MSIX] = 0x11;
        self.bytes[MSIX + 1] = EXPRESS as u8;
        self.put16(MSIX + 2, msix.vectors - 1);
        self.allow16(MSIX + 2, 0xc000);
        self.put32(MSIX + 4, msix.table | u32::from(msix.bar));
        self.put32(MSIX + 8, msix.pending | u32::from(msix.bar));

        // Version 2 endpoint, role-based error reporting, FLR, one 2.5 GT/s lane.
        self.bytes[EXPRESS] = 0x10;
        self.put16(EXPRESS + 2, 0x0002);
        self.put32(EXPRESS + 4, (1 << 28) | (1 << 15));
        self.put16(EXPRESS_CONTROL, 0x2810);
        self.allow16(EXPRESS_CONTROL, 0x7fff);
        self.put32(EXPRESS + 0x0c, 0x11);
        self.put16(EXPRESS + 0x12, 0x11);
    }

    /// Adds MSI with 64-bit addresses and without masking, and INTA.
    fn add_msi(&mut self, messages: u16) {
        self.bytes[INTERRUPT_PIN] = 1;
        self.bytes[EXPRESS + 1] = MSI as u8;
        self.bytes[MSI] = 0x05;
        let capable = (messages.trailing_zeros() as u16) << 1;
        self.put16(MSI + 2, MSI_WIDE | capable);
        self.allow16(MSI + 2, MSI_ENABLE | MSI_USED);
        self.allow16(MSI + 4, 0xfffc);
        for at in [MSI + 6, MSI + 8, MSI + 10, MSI + 12] {
            self.allow16(at, 0xffff);
        }
    }

    /// Returns the bytes of the space.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Reads; bytes past the end read as ones.
    pub fn read(&self, offset: u64, data: &mut [u8], reads: ConfigReads) {
        data.fill(0xff);
        if reads == ConfigReads::Ones {
            return;
        }
        let tail = usize::try_from(offset)
            .ok()
            .and_then(|at| self.bytes.get(at..))
            .unwrap_or_default();
        for (byte, value) in data.iter_mut().zip(tail) {
            *byte = *value;
        }
        let status = (EXPRESS_STATUS as u64).checked_sub(offset);
        let status = status.and_then(|at| data.get_mut(usize::try_from(at).ok()?));
        if let Some(status) = status.filter(|_| self.express && reads == ConfigReads::Pending) {
            *status |= EXPRESS_PENDING;
        }
    }

    /// Writes the writable bits and returns the effects.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effects {
        let mut effects = Effects::default();
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, &value) in (first.min(self.bytes.len())..self.bytes.len()).zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = (self.bytes[at] & !mask) | (value & mask);
            if self.express && at == EXPRESS_CONTROL + 1 {
                effects.flr |= value & (EXPRESS_FLR >> 8) as u8 != 0;
            }
        }
        effects
    }

    /// Resets the function's space.
    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.reset);
    }

    /// Returns whether the function may master the bus: it is enabled and in D0.
    pub fn master(&self) -> bool {
        let command = u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]]);
        let asleep = self.express && self.bytes[PM_CONTROL] & 0x03 != 0;
        command & COMMAND_MASTER != 0 && !asleep
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn allow16(&mut self, at: usize, mask: u16) {
        self.writable[at..at + 2].copy_from_slice(&mask.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn express() -> ConfigSpace {
        ConfigSpace::new(&Identity {
            vendor: 0x1234,
            device: 0x5678,
            class: 0x01_0802,
            bars: vec![Bar {
                index: 0,
                size: 0x4000,
                wide: true,
            }],
            msix: Some(MsixLayout {
                vectors: 5,
                bar: 0,
                table: 0x2000,
                pending: 0x3000,
            }),
            msi: 32,
        })
    }

    #[test]
    fn reads_may_be_false() {
        let read = |c: &ConfigSpace, at, reads| {
            let mut data = [0; 2];
            c.read(at, &mut data, reads);
            u16::from_le_bytes(data)
        };
        let c = express();
        for (at, reads, value) in [
            (0x6a, ConfigReads::True, 0),
            (0x6a, ConfigReads::Pending, 0x20),
            (0x69, ConfigReads::Pending, 0x2028),
            (0x6c, ConfigReads::Pending, 0x11),
            (0, ConfigReads::Pending, 0x1234),
            (0, ConfigReads::Ones, 0xffff),
        ] {
            assert_eq!(read(&c, at, reads), value, "{at:#x}, {reads:?}");
        }
    }

    fn get(c: &ConfigSpace, at: u64) -> u32 {
        let mut data = [0; 4];
        c.read(at, &mut data, ConfigReads::True);
        u32::from_le_bytes(data)
    }

    #[test]
    fn identity_reads_back() {
        let c = express();
        assert_eq!(get(&c, 0), 0x5678_1234);
        assert_eq!(get(&c, 8), 0x0108_0201);
        assert_eq!(get(&c, 0x10), 4);
        assert_eq!(get(&c, 0x50), 0x0004_6011);
        assert_eq!(get(&c, 0x54), 0x2000);
        assert_eq!(get(&c, 0x100), 0);
        assert_eq!(get(&c, 4096), !0);
        assert_eq!(get(&c, u64::MAX - 1), !0);
    }

    #[test]
    fn bars_and_status_swallow_writes() {
        let mut c = express();
        let before = (get(&c, 0x04), get(&c, 0x10), get(&c, 0x14));
        c.write(0x10, &[0xff; 8]);
        c.write(0x06, &[0xff; 2]);
        c.write(4095, &[0xff; 8]);
        assert_eq!((get(&c, 0x04), get(&c, 0x10), get(&c, 0x14)), before);
    }

    #[test]
    fn mastering_needs_the_bit_and_d0() {
        let mut c = express();
        assert!(!c.master());
        c.write(0x04, &[0x06, 0x04]);
        assert!(c.master());
        assert_eq!(get(&c, 0x04) & 0xffff, 0x0406);
        c.write(PM_CONTROL as u64, &[0x03]);
        assert!(!c.master());
        c.write(PM_CONTROL as u64, &[0x00]);
        assert!(c.master());
        c.reset();
        assert!(!c.master());
    }

    #[test]
    fn flr_is_an_effect_and_reads_as_zero() {
        let mut c = express();
        assert!(!c.write(EXPRESS_CONTROL as u64, &[0x10, 0x28]).flr);
        assert!(c.write(EXPRESS_CONTROL as u64, &[0x10, 0xa8]).flr);
        assert_eq!(get(&c, EXPRESS_CONTROL as u64) & 0xffff, 0x2810);
    }

    #[test]
    fn msi_is_the_last_capability() {
        let mut c = express();
        assert_eq!((get(&c, EXPRESS as u64) >> 8) & 0xff, MSI as u32);
        assert_eq!(get(&c, MSI as u64), 0x008a_0005);
        c.write(MSI as u64, &[0xff; 16]);
        assert_eq!(get(&c, MSI as u64), 0x00fb_0005);
        assert_eq!(get(&c, MSI as u64 + 4), !3);
        assert_eq!(get(&c, MSI as u64 + 8), !0);
        assert_eq!(get(&c, 0x3c) >> 8, 1);
    }

    #[test]
    fn conventional_has_no_capabilities() {
        let mut c = ConfigSpace::new(&Identity {
            vendor: 0x1b36,
            device: 0x15,
            class: 0x08_8000,
            bars: vec![],
            msix: None,
            msi: 0,
        });
        assert_eq!(c.size(), 256);
        assert_eq!(get(&c, 0x34), 0);
        assert!(!c.write(EXPRESS_CONTROL as u64, &[0xff; 2]).flr);
        c.write(0x04, &[4]);
        assert!(c.master());
    }
}
