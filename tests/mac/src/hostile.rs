// SPDX-License-Identifier: GPL-2.0

//! The ways in which a hostile host falsifies its replies.
//!
//! Only replies are falsified. The DART maps what a truthful host would map, so a guest that trusts
//! a false reply faults. The exception is [`Hostile::OkThoughKept`], by which mappings stay.

use crate::addr::{
    granule_offset,
    Gpa,
    Iova,
    GRANULE, //
};
use crate::dart::Dart;
use crate::wire::companion::{
    APPLE_DMA_PCI_CMD_MAP,
    APPLE_DMA_PCI_CMD_UNMAP,
    APPLE_DMA_PCI_STATUS_INVAL,
    APPLE_DMA_PCI_STATUS_IOERR,
    APPLE_DMA_PCI_STATUS_OK, //
};
use clap::ValueEnum;
use serde::{
    Deserialize,
    Serialize, //
};

/// A status that the protocol does not know.
const UNKNOWN_STATUS: u32 = 0x7777;

/// A way to falsify replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Hostile {
    /// No falsification.
    #[default]
    None,
    /// Entries name the key of the next granule.
    WrongId,
    /// Mappings are reported at IOVA 0.
    ZeroDmaAddr,
    /// The IOVA's offset in the granule is not the GPA's.
    WrongOffset,
    /// The IOVA is so high that the range runs past 2^64.
    Wrap,
    /// The IOVA is beyond what 32 bits (and 40 bits) hold.
    Beyond32,
    /// The IOVA is inside another live mapping, if there is one.
    Overlap,
    /// The length is one byte short.
    ShortLen,
    /// The length is one granule long.
    LongLen,
    /// Entries have a status that does not exist.
    UnknownStatus,
    /// Batches have a status that does not exist.
    UnknownBatchStatus,
    /// Responses stay as the guest prefilled them.
    UntouchedResponse,
    /// The command block's status stays as the guest prefilled it; all other effects happen.
    UntouchedBatchStatus,
    /// Batches with failed entries are reported as OK.
    OkThoughFailed,
    /// UNMAP entries are reported as OK, and their mappings stay.
    OkThoughKept,
    /// From the second batch on, MAP responses have the other dialect's layout.
    DialectChange,
    /// Entries that succeeded are reported as failed.
    FailedThoughDone,
    /// Batches that succeeded are reported as invalid.
    InvalThoughDone,
    /// Doorbells have no effect at all.
    NeverCompletes,
    /// Doorbells are handled some time after they were rung.
    Late,
    /// The device is gone: registers read as ones, and writes have no effect.
    Gone,
}

/// The batches whose replies are falsified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Every batch.
    #[default]
    All,
    /// MAP batches.
    Map,
    /// UNMAP batches.
    Unmap,
}

impl Scope {
    /// Returns whether replies to batches of this command are falsified.
    pub fn covers(self, command: u32) -> bool {
        match self {
            Self::All => true,
            Self::Map => command == APPLE_DMA_PCI_CMD_MAP,
            Self::Unmap => command == APPLE_DMA_PCI_CMD_UNMAP,
        }
    }
}

/// The reply to one MAP entry, as it will be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapReply {
    /// Nothing is written.
    Untouched,
    /// Only the status is written.
    Failed(u32),
    /// All fields are written.
    Full {
        /// Key of the mapping.
        id: u64,
        /// First IOVA.
        dma_addr: u64,
        /// Length in bytes.
        dma_len: u64,
        /// Status of the entry.
        status: u32,
    },
}

/// The reply to one UNMAP entry, as it will be written; `None` if nothing is written.
pub type UnmapReply = Option<(u64, u32)>;

impl Hostile {
    /// Falsifies a MAP reply. Returns whether it did. `dart` already contains the mapping, if there
    /// is one.
    pub fn falsify_map(self, reply: &mut MapReply, dart: &Dart) -> bool {
        let before = *reply;
        match (self, &mut *reply) {
            (Self::UntouchedResponse, reply) => *reply = MapReply::Untouched,
            (Self::FailedThoughDone, reply @ MapReply::Full { .. }) => {
                *reply = MapReply::Failed(APPLE_DMA_PCI_STATUS_IOERR)
            }
            (Self::UnknownStatus, MapReply::Failed(status) | MapReply::Full { status, .. }) => {
                *status = UNKNOWN_STATUS
            }
            (
                _,
                MapReply::Full {
                    id,
                    dma_addr,
                    dma_len,
                    ..
                },
            ) => match self {
                Self::WrongId => *id = id.wrapping_add(GRANULE),
                Self::ZeroDmaAddr => *dma_addr = 0,
                Self::WrongOffset => *dma_addr ^= 0x1000,
                Self::Wrap => *dma_addr = wrapping_address(*dma_addr, *dma_len),
                Self::Beyond32 => *dma_addr = (*dma_addr & 0xffff_ffff) | (0x00ff << 48),
                Self::Overlap => {
                    if let Some(iova) = another(dart, Gpa(*id)) {
                        *dma_addr = iova.0 - granule_offset(iova.0) + granule_offset(*dma_addr);
                    }
                }
                Self::ShortLen => *dma_len = dma_len.saturating_sub(1),
                Self::LongLen => *dma_len = dma_len.saturating_add(GRANULE),
                _ => (),
            },
            _ => (),
        }
        *reply != before
    }

    /// Falsifies an UNMAP reply. Returns whether it did.
    pub fn falsify_unmap(self, reply: &mut UnmapReply) -> bool {
        let before = *reply;
        match (self, &mut *reply) {
            (Self::UntouchedResponse, reply) => *reply = None,
            (Self::UnknownStatus, Some((_, status))) => *status = UNKNOWN_STATUS,
            (Self::FailedThoughDone, Some((_, status))) => *status = APPLE_DMA_PCI_STATUS_IOERR,
            (Self::WrongId, Some((id, _))) => *id = id.wrapping_add(GRANULE),
            _ => (),
        }
        *reply != before
    }

    /// Falsifies the status of a batch that was not INVAL. Returns whether it did.
    pub fn falsify_batch(self, status: &mut Option<u32>) -> bool {
        let before = *status;
        match self {
            Self::UnknownBatchStatus => *status = Some(UNKNOWN_STATUS),
            Self::UntouchedBatchStatus => *status = None,
            Self::OkThoughFailed if *status == Some(APPLE_DMA_PCI_STATUS_IOERR) => {
                *status = Some(APPLE_DMA_PCI_STATUS_OK)
            }
            Self::FailedThoughDone => *status = Some(APPLE_DMA_PCI_STATUS_IOERR),
            Self::InvalThoughDone => *status = Some(APPLE_DMA_PCI_STATUS_INVAL),
            _ => (),
        }
        *status != before
    }
}

/// Returns an address that makes `len` bytes run past 2^64, with the offset of `addr` in its
/// granule if the length allows that.
fn wrapping_address(addr: u64, len: u64) -> u64 {
    let last = !(GRANULE - 1) | granule_offset(addr);
    match last.checked_add(len) {
        Some(_) => 0u64.wrapping_sub(len / 2),
        None => last,
    }
}

/// Returns the first IOVA of a live mapping with another key.
fn another(dart: &Dart, key: Gpa) -> Option<Iova> {
    dart.mappings().find(|m| m.gpa != key).map(|m| m.iova)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::fixture;
    use crate::dart::Mode;

    fn falsify(kind: Hostile) -> Option<(u64, u64, u64, u32)> {
        let bus = fixture::bus(Mode::Dext, 0);
        let gpa = fixture::RAM + 0x1040;
        let iova = fixture::map(&bus, gpa, 0x2000).0;
        fixture::map(&bus, fixture::RAM + 0x10_0000, 0x4000);
        let mut reply = MapReply::Full {
            id: gpa,
            dma_addr: iova,
            dma_len: 0x2000,
            status: 0,
        };
        let falsified = kind.falsify_map(&mut reply, &bus.dart.read().unwrap());
        assert!(falsified, "{kind:?}");
        match reply {
            MapReply::Full {
                id,
                dma_addr,
                dma_len,
                status,
            } => Some((
                id.wrapping_sub(gpa),
                dma_addr.wrapping_sub(iova),
                dma_len,
                status,
            )),
            _ => None,
        }
    }

    #[test]
    fn every_kind_changes_its_field() {
        let base = 0x8001_0000_1040u64;
        assert_eq!(falsify(Hostile::WrongId), Some((GRANULE, 0, 0x2000, 0)));
        let at = |addr: u64| Some((0, addr.wrapping_sub(base), 0x2000, 0));
        assert_eq!(falsify(Hostile::ZeroDmaAddr), at(0));
        assert_eq!(falsify(Hostile::WrongOffset), at(base ^ 0x1000));
        assert_eq!(falsify(Hostile::Beyond32), at(0x00ff_0000_0000_1040));
        assert_eq!(falsify(Hostile::Overlap), at(base + 2 * GRANULE));
        assert_eq!(falsify(Hostile::ShortLen), Some((0, 0, 0x1fff, 0)));
        assert_eq!(falsify(Hostile::LongLen), Some((0, 0, 0x6000, 0)));
        assert_eq!(
            falsify(Hostile::UnknownStatus),
            Some((0, 0, 0x2000, UNKNOWN_STATUS))
        );
        assert_eq!(falsify(Hostile::UntouchedResponse), None);
        assert_eq!(falsify(Hostile::FailedThoughDone), None);
    }

    #[test]
    fn false_replies_are_about_some_commands() {
        for (about, map, unmap) in [
            (Scope::All, true, true),
            (Scope::Map, true, false),
            (Scope::Unmap, false, true),
        ] {
            assert_eq!(about.covers(APPLE_DMA_PCI_CMD_MAP), map);
            assert_eq!(about.covers(APPLE_DMA_PCI_CMD_UNMAP), unmap);
        }
    }

    #[test]
    fn wrap_wraps() {
        for (addr, len) in [(0x8000_3000, 0x2000), (0x8000_0000, 8), (0x8000_0000, 2)] {
            assert!(wrapping_address(addr, len).checked_add(len).is_none());
        }
        assert_eq!(granule_offset(wrapping_address(0x3000, 0x2000)), 0x3000);
    }

    #[test]
    fn batches_and_unmaps() {
        let mut status = Some(APPLE_DMA_PCI_STATUS_OK);
        assert!(!Hostile::OkThoughFailed.falsify_batch(&mut status));
        status = Some(APPLE_DMA_PCI_STATUS_IOERR);
        assert!(Hostile::OkThoughFailed.falsify_batch(&mut status));
        assert_eq!(status, Some(APPLE_DMA_PCI_STATUS_OK));
        assert!(Hostile::FailedThoughDone.falsify_batch(&mut status));
        assert_eq!(status, Some(APPLE_DMA_PCI_STATUS_IOERR));
        assert!(Hostile::InvalThoughDone.falsify_batch(&mut status));
        assert_eq!(status, Some(APPLE_DMA_PCI_STATUS_INVAL));
        assert!(Hostile::UntouchedBatchStatus.falsify_batch(&mut status));
        assert_eq!(status, None);

        let mut reply = Some((5, 0));
        assert!(!Hostile::None.falsify_unmap(&mut reply));
        assert!(Hostile::FailedThoughDone.falsify_unmap(&mut reply));
        assert_eq!(reply, Some((5, APPLE_DMA_PCI_STATUS_IOERR)));
        assert!(Hostile::WrongId.falsify_unmap(&mut reply));
        assert!(Hostile::UnknownStatus.falsify_unmap(&mut reply));
        assert_eq!(reply, Some((5 + GRANULE, UNKNOWN_STATUS)));
    }
}
