// SPDX-License-Identifier: GPL-2.0

//! Addresses of the two spaces that the DART connects, as types that do not mix, and the DART's
//! granule.

use serde::Serialize;
use std::fmt;

/// The DART's page in bytes: 16 KiB. Mappings consist of whole granules, and an IOVA equals its GPA
/// modulo the granule.
pub const GRANULE: u64 = 0x4000;

/// A guest-physical address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Gpa(pub u64);

/// An address as the managed device emits it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Iova(pub u64);

impl Gpa {
    /// Returns the address `bytes` bytes further on, or `None` past the end of the space.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl Iova {
    /// Returns the address `bytes` bytes further on, or `None` past the end of the space.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Returns the offset of `addr` in its granule, in bytes.
pub fn granule_offset(addr: u64) -> u64 {
    addr % GRANULE
}

/// Returns the number of granules that `[addr, addr + len)` touches; 0 if it is empty.
///
/// The range must not run past the end of the address space.
pub fn granules(addr: u64, len: u64) -> u64 {
    match len {
        0 => 0,
        _ => (addr + (len - 1)) / GRANULE - addr / GRANULE + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granules_counts_touched_pages() {
        assert_eq!(granules(0, 0), 0);
        assert_eq!(granules(0, 1), 1);
        assert_eq!(granules(GRANULE - 1, 1), 1);
        assert_eq!(granules(GRANULE - 1, 2), 2);
        assert_eq!(granules(0x1000, 0x10000), 5);
        assert_eq!(granules(u64::MAX, 1), 1);
        assert_eq!(granules(0, u64::MAX), 1 << 50);
    }
}
