// SPDX-License-Identifier: GPL-2.0

//! Addresses of PCI functions, and their text.

use kernel::fmt;

/// The address of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PciAddress {
    /// The domain, which Linux also calls a segment.
    pub(crate) domain: u32,
    /// The bus.
    pub(crate) bus: u8,
    /// Slot and function, `slot << 3 | function`.
    pub(crate) devfn: u8,
}

/// Parses a hexadecimal number of one to `digits` digits.
fn hex(text: &str, digits: usize) -> Option<u32> {
    let valid = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !valid || text.len() > digits {
        return None;
    }
    u32::from_str_radix(text, 16).ok()
}

impl PciAddress {
    /// Returns the address as a number, which is not 0.
    pub(crate) fn number(self) -> u64 {
        let place = (u64::from(self.bus) << 8) | u64::from(self.devfn);
        ((u64::from(self.domain) << 16) | place).saturating_add(1)
    }

    /// Parses `[DOMAIN:]BUS:SLOT.FUNCTION`, in hexadecimal digits as everywhere.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (bus, place) = text.rsplit_once(':')?;
        let (domain, bus) = match bus.split_once(':') {
            Some((domain, bus)) => (hex(domain, 8)?, bus),
            None => (0, bus),
        };
        let (slot, function) = place.split_once('.')?;
        let (slot, function) = (hex(slot, 2)?, hex(function, 1)?);
        if slot > 0x1f || function > 7 {
            return None;
        }
        Some(Self {
            domain,
            bus: u8::try_from(hex(bus, 2)?).ok()?,
            devfn: u8::try_from(slot << 3 | function).ok()?,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (slot, function) = (self.devfn >> 3, self.devfn & 7);
        write!(
            f,
            "{:04x}:{:02x}:{slot:02x}.{function:x}",
            self.domain, self.bus
        )
    }
}
