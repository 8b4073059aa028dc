// SPDX-License-Identifier: GPL-2.0

//! VT-d's registers, by qtest: turning translation on, invalidation, the fault records.

use super::qtest::Client;
use crate::addr::{
    Gpa,
    Iova, //
};
use crate::stats::Direction;
use std::io;

/// Address of the registers in q35.
const REGISTERS: u64 = 0xfed9_0000;

const CAP: u64 = 0x08;
const ECAP: u64 = 0x10;
const GCMD: u64 = 0x18;
const GSTS: u64 = 0x1c;
const RTADDR: u64 = 0x20;
const CCMD: u64 = 0x28;
const FSTS: u64 = 0x34;

/// CAP: adjusted guest address widths; here, four levels.
const CAP_FOUR_LEVELS: u64 = 1 << 10;
/// ECAP: pass through.
const ECAP_PASS_THROUGH: u64 = 1 << 6;
/// GCMD and GSTS: translation, and the root table.
const TRANSLATION: u32 = 1 << 31;
const ROOT: u32 = 1 << 30;
/// GSTS: the states that a command must repeat.
const KEPT: u32 = 0x96ff_ffff;
/// CCMD: invalidate, globally.
const CCMD_INVALIDATE: u64 = 1 << 63;
const CCMD_GLOBAL: u64 = 1 << 61;
/// IOTLB: invalidate, globally or a domain.
const IOTLB_INVALIDATE: u64 = 1 << 63;
const IOTLB_GLOBAL: u64 = 1 << 60;
const IOTLB_DOMAIN: u64 = 2 << 60;
const IOTLB_DOMAIN_SHIFT: u32 = 32;
/// Offset of the IOTLB register from that of IVA.
const IOTLB: u64 = 8;
/// FSTS: faults were lost, faults are recorded.
const FSTS_OVERFLOW: u32 = 1;
const FSTS_PENDING: u32 = 2;
/// A fault record's upper word: valid, and read rather than write.
const RECORD_VALID: u64 = 1 << 63;
const RECORD_READ: u64 = 1 << 62;
const RECORD_SIZE: u64 = 16;

/// Number of times that a command's completion is looked for. QEMU completes at once.
const TRIES: u32 = 100;

/// A recorded fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The function that made the access.
    pub bdf: u16,
    /// Page of the access.
    pub page: Iova,
    /// Direction of the access.
    pub direction: Direction,
    /// The specification's code of the reason.
    pub reason: u8,
}

/// Offset of the fault records, and their number.
#[derive(Clone, Copy, Debug)]
struct Records {
    offset: u64,
    count: u64,
}

/// The registers.
#[derive(Debug)]
pub struct Registers {
    client: Client,
    iotlb: u64,
    records: Records,
}

impl Registers {
    /// Reads the capabilities.
    pub fn new(mut client: Client) -> io::Result<Self> {
        let capabilities = client.read64(REGISTERS + CAP)?;
        let extended = client.read64(REGISTERS + ECAP)?;
        if capabilities & CAP_FOUR_LEVELS == 0 || extended & ECAP_PASS_THROUGH == 0 {
            return Err(io::Error::other(format!(
                "no VT-d with four levels and pass-through: {capabilities:#x}, {extended:#x}"
            )));
        }
        Ok(Self {
            client,
            iotlb: ((extended >> 8) & 0x3ff) * 16 + IOTLB,
            records: Records {
                offset: ((capabilities >> 24) & 0x3ff) * 16,
                count: ((capabilities >> 40) & 0xff) + 1,
            },
        })
    }

    /// Returns whether translation is on.
    pub fn is_on(&mut self) -> io::Result<bool> {
        Ok(self.client.read32(REGISTERS + GSTS)? & TRANSLATION != 0)
    }

    /// Turns translation on, by the root table at `root`.
    pub fn turn_on(&mut self, root: Gpa) -> io::Result<()> {
        self.client.write64(REGISTERS + RTADDR, root.0)?;
        self.command(ROOT)?;
        self.invalidate_contexts()?;
        self.invalidate(IOTLB_GLOBAL)?;
        self.command(TRANSLATION)
    }

    /// Forgets cached context entries; QEMU looks anew which functions are translated.
    pub fn invalidate_contexts(&mut self) -> io::Result<()> {
        let value = CCMD_INVALIDATE | CCMD_GLOBAL;
        self.client.write64(REGISTERS + CCMD, value)?;
        self.until("CCMD", |client| {
            Ok(client.read64(REGISTERS + CCMD)? & CCMD_INVALIDATE == 0)
        })
    }

    /// Forgets cached translations of a domain. QEMU has done so when it answers, and no time is
    /// lost by looking.
    pub fn invalidate_domain(&mut self, domain: u16) -> io::Result<()> {
        let what = IOTLB_DOMAIN | (u64::from(domain) << IOTLB_DOMAIN_SHIFT);
        let register = REGISTERS + self.iotlb;
        self.client.write64(register, IOTLB_INVALIDATE | what)
    }

    fn invalidate(&mut self, what: u64) -> io::Result<()> {
        let register = REGISTERS + self.iotlb;
        self.client.write64(register, IOTLB_INVALIDATE | what)?;
        self.until("IOTLB", |client| {
            Ok(client.read64(register)? & IOTLB_INVALIDATE == 0)
        })
    }

    fn command(&mut self, bit: u32) -> io::Result<()> {
        let status = self.client.read32(REGISTERS + GSTS)?;
        let value = (status & KEPT) | bit;
        self.client.write32(REGISTERS + GCMD, value)?;
        self.until("GCMD", |client| {
            Ok(client.read32(REGISTERS + GSTS)? & bit != 0)
        })
    }

    fn until(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Client) -> io::Result<bool>,
    ) -> io::Result<()> {
        for _ in 0..TRIES {
            if done(&mut self.client)? {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("{what} does not complete")))
    }

    /// Takes the recorded faults, and makes room for further ones. Returns them, and whether others
    /// were lost.
    pub fn take_faults(&mut self) -> io::Result<(Vec<Fault>, bool)> {
        let mut faults = Vec::new();
        let status = self.client.read32(REGISTERS + FSTS)?;
        if status & FSTS_PENDING != 0 {
            for index in 0..self.records.count {
                let record = REGISTERS + self.records.offset + index * RECORD_SIZE;
                let high = self.client.read64(record + 8)?;
                if high & RECORD_VALID != 0 {
                    let low = self.client.read64(record)?;
                    faults.push(fault(low, high));
                    self.client.write64(record + 8, RECORD_VALID)?;
                }
            }
        }
        let lost = status & FSTS_OVERFLOW != 0;
        if lost {
            self.client.write32(REGISTERS + FSTS, FSTS_OVERFLOW)?;
        }
        Ok((faults, lost))
    }
}

/// Parses a fault record.
fn fault(low: u64, high: u64) -> Fault {
    Fault {
        bdf: high as u16,
        page: Iova(low & !0xfff),
        direction: match high & RECORD_READ {
            0 => Direction::Write,
            _ => Direction::Read,
        },
        reason: (high >> 32) as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_records() {
        let low = 0x8001_0000_4000;
        assert_eq!(
            fault(low, 0xc000_0006_0000_0028),
            Fault {
                bdf: 0x28,
                page: Iova(low),
                direction: Direction::Read,
                reason: 6,
            }
        );
        assert_eq!(fault(low, 1 << 63).direction, Direction::Write);
    }
}
