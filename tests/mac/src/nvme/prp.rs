// SPDX-License-Identifier: GPL-2.0

//! Physical region pages: the places of a command's data in IOVA space.

use crate::addr::Iova;
use crate::bus::{
    Bus,
    DmaError, //
};
use crate::nvme::spec::Status;

/// Bytes of a PRP entry.
const ENTRY: usize = 8;

/// A piece of a command's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First IOVA.
    pub iova: Iova,
    /// Length in bytes; it does not cross a page.
    pub len: usize,
}

/// Reason for the lack of a command's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrpError {
    /// An entry is not properly aligned.
    Offset,
    /// The list could not be read.
    Dma(DmaError),
}

impl From<DmaError> for PrpError {
    fn from(e: DmaError) -> Self {
        Self::Dma(e)
    }
}

impl PrpError {
    /// Returns the status with which the command ends.
    pub fn status(self) -> Status {
        match self {
            Self::Offset => Status::PRP_OFFSET,
            Self::Dma(_) => Status::DATA_TRANSFER_ERROR,
        }
    }
}

/// Returns the pieces of `len` bytes under pages of `page` bytes.
///
/// Reads the list, if there is one, but no data: data is accessed when it moves.
pub fn segments(
    bus: &Bus,
    prp1: Iova,
    prp2: Iova,
    len: usize,
    page: usize,
) -> Result<Vec<Segment>, PrpError> {
    let mut out = Vec::new();
    if len == 0 {
        return Ok(out);
    }
    let offset = in_page(prp1, page);
    if offset % 4 != 0 {
        return Err(PrpError::Offset);
    }
    let first = len.min(page - offset);
    out.push(Segment {
        iova: prp1,
        len: first,
    });
    let mut rest = len - first;
    if rest == 0 {
        return Ok(out);
    }
    if rest <= page {
        out.push(whole(prp2, rest, page)?);
        return Ok(out);
    }

    let mut list = prp2;
    while rest > 0 {
        let offset = in_page(list, page);
        if offset % ENTRY != 0 {
            return Err(PrpError::Offset);
        }
        let room = (page - offset) / ENTRY;
        let wanted = rest.div_ceil(page);
        // If the entries do not all fit, the last entry of the page points to the next page.
        let (count, chained) = match wanted > room {
            true => (room - 1, true),
            false => (wanted, false),
        };
        let mut bytes = vec![0; (count + usize::from(chained)) * ENTRY];
        bus.read(list, &mut bytes)?;
        let mut entries = bytes.chunks_exact(ENTRY).map(|bytes| {
            let mut entry = [0; ENTRY];
            entry.copy_from_slice(bytes);
            Iova(u64::from_le_bytes(entry))
        });
        for iova in entries.by_ref().take(count) {
            let len = rest.min(page);
            out.push(whole(iova, len, page)?);
            rest -= len;
        }
        if let Some(next) = entries.next() {
            // A chained list starts at the start of a page.
            if in_page(next, page) != 0 {
                return Err(PrpError::Offset);
            }
            list = next;
        }
    }
    Ok(out)
}

fn in_page(iova: Iova, page: usize) -> usize {
    (iova.0 % page as u64) as usize
}

/// Checks an entry other than the first: it must be the start of a page.
fn whole(iova: Iova, len: usize, page: usize) -> Result<Segment, PrpError> {
    match in_page(iova, page) {
        0 => Ok(Segment { iova, len }),
        _ => Err(PrpError::Offset),
    }
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
    use proptest::prelude::*;

    const PAGE: usize = 4096;

    fn seg(iova: u64, len: usize) -> Segment {
        let iova = Iova(iova);
        Segment { iova, len }
    }

    #[test]
    fn one_and_two_pages_need_no_list() {
        let bus = fixture::bus(Mode::Dext, 0);
        let go = |prp1, prp2, len| segments(&bus, Iova(prp1), Iova(prp2), len, PAGE);
        assert_eq!(go(0x1000, 0x9999, 4096), Ok(vec![seg(0x1000, 4096)]));
        assert_eq!(go(0x1e00, 7, 512), Ok(vec![seg(0x1e00, 512)]));
        assert_eq!(
            go(0x1e00, 0x5000, 1024),
            Ok(vec![seg(0x1e00, 512), seg(0x5000, 512)])
        );
        assert_eq!(
            go(0x1000, 0x5000, 8192),
            Ok(vec![seg(0x1000, 4096), seg(0x5000, 4096)])
        );
        assert_eq!(go(0x1002, 0, 4), Err(PrpError::Offset));
        assert_eq!(go(0x1e00, 0x5200, 1024), Err(PrpError::Offset));
        assert_eq!(go(0x1000, 0, 0), Ok(vec![]));
    }

    #[test]
    fn a_list_that_cannot_be_read_is_a_transfer_error() {
        let bus = fixture::bus(Mode::Dext, 0);
        let e = segments(&bus, Iova(0x1000), Iova(0x5000), 3 * PAGE, PAGE).unwrap_err();
        assert_eq!(e, PrpError::Dma(DmaError::Fault(Iova(0x5000))));
        assert_eq!(e.status(), Status::DATA_TRANSFER_ERROR);
        let e = segments(&bus, Iova(0x1000), Iova(0x5004), 3 * PAGE, PAGE).unwrap_err();
        assert_eq!(e, PrpError::Offset);
    }

    #[test]
    fn the_last_entry_of_a_page_is_data_when_it_is_the_last() {
        let bus = fixture::bus(Mode::Identity, 0);
        let list = RAM + PAGE as u64 - 16;
        for (i, page) in [0x5000u64, 0x7000].into_iter().enumerate() {
            let at = Gpa(list + 8 * i as u64);
            bus.ram.write(at, &page.to_le_bytes()).unwrap();
        }
        let got = segments(&bus, Iova(0x1000), Iova(list), 3 * PAGE, PAGE);
        let expected = vec![seg(0x1000, PAGE), seg(0x5000, PAGE), seg(0x7000, PAGE)];
        assert_eq!(got, Ok(expected));
    }

    proptest! {
        /// Builds lists as a driver does, starting anywhere in a page and chained where they must
        /// be, and expects the pages back.
        #[test]
        fn lists_of_any_shape(
            offset in (0usize..1024).prop_map(|d| d * 4),
            blocks in 1usize..3000,
            list_offset in (0usize..512).prop_map(|e| e * 8),
        ) {
            let bus = fixture::bus(Mode::Identity, 0);
            let len = blocks * 512;
            let first = len.min(PAGE - offset);
            let rest = len - first;
            let pages = rest.div_ceil(PAGE);
            let data = |i: usize| 0x1_0000_0000 + 2 * (i * PAGE) as u64;
            let mut expected = vec![seg(data(0) + offset as u64, first)];
            for i in 0..pages {
                expected.push(seg(data(i + 1), PAGE.min(rest - i * PAGE)));
            }
            let prp2 = match pages {
                0 => 0xdead_beef,
                1 => data(1),
                _ => {
                    let mut at = RAM + list_offset as u64;
                    let mut next_page = RAM + 0x10000;
                    for i in 0..pages {
                        let last_slot = at % PAGE as u64 == PAGE as u64 - 8;
                        if last_slot && i + 1 < pages {
                            bus.ram.write(Gpa(at), &next_page.to_le_bytes()).unwrap();
                            at = next_page;
                            next_page += 0x3000;
                        }
                        bus.ram.write(Gpa(at), &data(i + 1).to_le_bytes()).unwrap();
                        at += 8;
                    }
                    RAM + list_offset as u64
                }
            };
            let got = segments(&bus, Iova(expected[0].iova.0), Iova(prp2), len, PAGE);
            prop_assert_eq!(got, Ok(expected));
        }
    }
}
