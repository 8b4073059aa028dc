// SPDX-License-Identifier: GPL-2.0

//! `lists`: memory as NVIDIA's driver maps it (open-gpu-kernel-modules 595.45.04, `nv-dma.c`). An
//! allocation consists of pages of 4 KiB, 64 KiB or 2 MiB. It is mapped by scatterlists of the
//! kernel's making, each of a limited size, of which the driver reads one DMA address for each of
//! the kernel's pages. The device uses a large page by the address of its first one, which the
//! driver takes to be a multiple of the large page's size.

use super::blocks::{
    Blocks,
    DIRECTION, //
};
use super::prelude::*;
use crate::engine::Iova;
use crate::failure::expect;
use crate::page_list::Table;
use kernel::{
    fmt,
    page::PAGE_SIZE, //
};

/// Sizes of pages that the device has, in bytes.
const PAGES: [usize; 3] = [4 << 10, 64 << 10, 2 << 20];

/// Pages of one size.
struct Allocation {
    page: usize,
    blocks: Blocks,
}

/// Allocations, all mapped at a time.
pub(crate) struct Lists {
    allocations: KVVec<Allocation>,
    /// Number of the lists of the last turn.
    lists: usize,
    /// Number of the large pages of the last turn, and how many of these have aligned addresses.
    large: usize,
    congruent: usize,
}

impl Exercise<'_> for Lists {
    const NAME: &'static str = "lists";
    const KEYS: &'static [Key] = &[Key::Count, Key::Len, Key::Page, Key::Part];
    const ATOMIC: bool = false;

    fn defaults(spec: &mut Spec) {
        // CUDA's first allocation.
        spec.len = Bounds::exactly(16 << 20);
    }

    fn prepare(_: &Device<Bound>, spec: &Spec, rng: &mut Rng) -> Result<Self, Failure> {
        Self::allocate(spec, rng).doing("allocating the memory to map")
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let Self {
            allocations,
            lists,
            large,
            congruent,
        } = self;
        let mut live = KVVec::new();

        (*lists, *large, *congruent) = (0, 0, 0);
        for allocation in allocations.iter() {
            let mapped = allocation.map(turn.dev, turn.spec.part)?;
            let addresses = allocation.addresses(&mapped)?;

            *lists = lists.saturating_add(mapped.len());
            if allocation.page > PAGE_SIZE {
                let aligned = addresses
                    .iter()
                    .filter(|iova| iova.value() & (allocation.page as u64).wrapping_sub(1) == 0);

                *large = large.saturating_add(addresses.len());
                *congruent = congruent.saturating_add(aligned.count());
            }
            live.push((allocation, addresses, mapped), GFP_KERNEL)
                .doing("listing the mappings")?;
        }
        // All are used while all are mapped.
        for (allocation, addresses, _) in live.iter() {
            let blocks = &allocation.blocks;
            let exchange = blocks.exchange(turn.rng.next());

            exchange.stage();
            exchange.engine(turn.channel, blocks.segments(addresses.iter().copied()))?;
            exchange.verify(turn.channel, blocks.lengths())?;
        }
        turn.rng.shuffle(&mut live);
        Ok(())
    }

    fn remark(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            " lists={} large={} congruent={}",
            self.lists, self.large, self.congruent
        )
    }
}

impl Lists {
    fn allocate(spec: &Spec, rng: &mut Rng) -> Result<Self> {
        let mut allocations = KVVec::new();

        for _ in 0..rng.within(spec.count) {
            let page = spec.page.pick(rng, &PAGES).ok_or(EINVAL)?.max(PAGE_SIZE);
            let allocation = Allocation::new(page, rng.within(spec.len))?;
            allocations.push(allocation, GFP_KERNEL)?;
        }
        Ok(Self {
            allocations,
            lists: 0,
            large: 0,
            congruent: 0,
        })
    }
}

impl Allocation {
    /// Allocates at least `len` bytes in pages of `page` bytes. May sleep.
    fn new(page: usize, len: usize) -> Result<Self> {
        let mut blocks = Blocks::EMPTY;

        for _ in 0..len.div_ceil(page) {
            blocks.push(page)?;
        }
        Ok(Self { page, blocks })
    }

    /// Maps all pages, by lists of at most `part` bytes, or none.
    fn map<'a>(&'a self, dev: &'a Device<Bound>, part: usize) -> Result<KVVec<Table<'a>>, Failure> {
        let pages = part.checked_div(self.page).unwrap_or(0).max(1);
        let mut tables = KVVec::new();

        for blocks in self.blocks.as_slice().chunks(pages) {
            tables
                .push(Table::new(dev, blocks, DIRECTION)?, GFP_KERNEL)
                .doing("listing the mappings")?;
        }
        Ok(tables)
    }

    /// Returns the DMA address of each page. Fails if a list does not map the pages, one after the
    /// other, or if a page's addresses are not contiguous.
    fn addresses(&self, mapped: &[Table<'_>]) -> Result<KVVec<Iova>, Failure> {
        let mut addresses = KVVec::new();
        let mut first = Iova::new(0);
        let mut len = 0;

        for segment in mapped.iter().flat_map(Table::segments) {
            for offset in (0..segment.len).step_by(PAGE_SIZE) {
                let iova = segment.iova.add(offset);

                if len == 0 {
                    first = iova;
                }
                expect("an address of a page", first.add(len).value(), iova.value())?;
                len = len.saturating_add(PAGE_SIZE);
                if len == self.page {
                    addresses
                        .push(first, GFP_KERNEL)
                        .doing("listing the addresses")?;
                    len = 0;
                }
            }
        }
        // CAST: `usize` is not wider than `u64`.
        let (pages, found) = (self.blocks.as_slice().len(), addresses.len());
        expect("the number of mapped pages", pages as u64, found as u64)?;
        expect("the bytes behind them", 0, len as u64)?;
        Ok(addresses)
    }
}
