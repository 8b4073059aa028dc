// SPDX-License-Identifier: GPL-2.0

//! `capacity`: how much can be mapped at once before the DMA API refuses.

use super::prelude::*;
use crate::land::{
    Land,
    Place,
    Ranges, //
};
use crate::mapping::Mapping;
use crate::spec::Trace;
use kernel::fmt;

/// Places of a land in the order in which they are mapped.
enum Requests {
    Pages(Pages),
    Gpu(Gpu),
}

impl Requests {
    fn next<'a>(&mut self, land: &'a Land, rng: &mut Rng) -> Option<Place<'a>> {
        match self {
            Self::Pages(pages) => pages.next(land),
            Self::Gpu(gpu) => gpu.next(land, rng),
        }
    }
}

/// Ranges at regular distances, in random order.
struct Pages {
    ranges: Ranges,
    /// Numbers of the ranges that are still to be mapped.
    rest: KVVec<usize>,
}

impl Pages {
    fn new(spec: &Spec, rng: &mut Rng) -> Result<Self> {
        let mut rest = KVVec::with_capacity(spec.count.high, GFP_KERNEL)?;

        for number in 0..spec.count.high {
            rest.push(number, GFP_KERNEL)?;
        }
        rng.shuffle(&mut rest);
        Ok(Self {
            ranges: Ranges::new(spec.offset.high, spec.len.high, spec.stride)?,
            rest,
        })
    }

    fn next<'a>(&mut self, land: &'a Land) -> Option<Place<'a>> {
        land.range(&self.ranges, self.rest.pop()?).ok()
    }
}

/// Requests of a GPU's driver: of ten requests nine are for pages of 4 KiB, in clusters, the tenth
/// for a buffer of 64 KiB to 16 MiB.
///
/// A cluster is one to seven pages anywhere in an aligned block of 256 KiB: four on average, as
/// mapping such blocks in place of pages was seen to take a quarter of the host's mappings. Several
/// clusters grow at a time. Buffers have powers of two as sizes, each as often as any other, and
/// are aligned to them as the page allocator would.
struct Gpu {
    clusters: KVec<Cluster>,
    /// Lowest cluster so far: clusters are placed from the end of the land downwards.
    top: usize,
    /// End of the buffers so far, which are placed from the start of the land upwards.
    bottom: usize,
}

/// Bytes of guest RAM that the trace may use: more than any host maps at a time.
const GPU_LAND: usize = 2 << 30;
/// Number of clusters that grow at a time.
const CLUSTERS: usize = 16;
/// Bytes of the block that holds a cluster.
const CLUSTER: usize = 256 << 10;
/// Bytes of a cluster's pages.
const PAGE: usize = 4 << 10;
/// Bytes of a buffer, to be shifted left by less than `BUFFER_SIZES`.
const BUFFER: usize = 64 << 10;
const BUFFER_SIZES: usize = 9;

/// A cluster that grows.
#[derive(Clone, Copy)]
struct Cluster {
    /// Start of its block in the land.
    start: usize,
    /// Pages that were not requested yet: bit N is page N.
    free: u64,
    /// Number of pages still to be requested.
    missing: usize,
}

impl Gpu {
    fn new(land: &Land) -> Result<Self> {
        let none = Cluster {
            start: 0,
            free: 0,
            missing: 0,
        };

        Ok(Self {
            clusters: KVec::from_elem(none, CLUSTERS, GFP_KERNEL)?,
            top: land.len(),
            bottom: 0,
        })
    }

    fn next<'a>(&mut self, land: &'a Land, rng: &mut Rng) -> Option<Place<'a>> {
        match rng.below(10) {
            0 => self.buffer(land, rng),
            _ => self.page(land, rng),
        }
    }

    fn page<'a>(&mut self, land: &'a Land, rng: &mut Rng) -> Option<Place<'a>> {
        let cluster = self.clusters.get_mut(rng.below(CLUSTERS))?;

        if cluster.missing == 0 {
            self.top = self.top.checked_sub(CLUSTER)?;
            *cluster = Cluster {
                start: self.top,
                free: u64::MAX,
                missing: rng.within(Bounds { low: 1, high: 7 }),
            };
        }
        cluster.missing = cluster.missing.saturating_sub(1);

        let free = cluster.free;
        let mut pages = (0..u64::BITS).filter(|bit| free & 1u64.wrapping_shl(*bit) != 0);
        // CAST: There are 64 bits at most.
        let page = pages.nth(rng.below(free.count_ones() as usize))?;
        cluster.free &= !1u64.wrapping_shl(page);

        // CAST: As above.
        let start = (page as usize)
            .saturating_mul(PAGE)
            .saturating_add(cluster.start);
        self.room(land, start, PAGE)
    }

    fn buffer<'a>(&mut self, land: &'a Land, rng: &mut Rng) -> Option<Place<'a>> {
        let size = BUFFER.checked_shl(u32::try_from(rng.below(BUFFER_SIZES)).ok()?)?;

        // The page allocator's blocks, and so all smaller sizes, are aligned. Several such
        // blocks have to be neighbours, and begin at a multiple of the size.
        let mut start = self
            .bottom
            .checked_next_multiple_of(size.min(BUFFER_STEP))?;
        while !is_aligned(land, start, size) || land.place(start, size).is_none() {
            start = start.checked_add(BUFFER_STEP)?;
            if start >= self.top {
                return None;
            }
        }
        self.bottom = start.checked_add(size)?;
        self.room(land, start, size)
    }

    /// Returns the place, unless clusters and buffers have met.
    fn room<'a>(&self, land: &'a Land, start: usize, len: usize) -> Option<Place<'a>> {
        land.place(start, len).filter(|_| self.bottom <= self.top)
    }
}

/// Distance between the places that are tried for buffers.
const BUFFER_STEP: usize = 4 << 20;

fn is_aligned(land: &Land, start: usize, size: usize) -> bool {
    // CAST: `usize` is not wider than a physical address.
    land.phys(start)
        .is_some_and(|phys| phys & (size as u64).wrapping_sub(1) == 0)
}

/// Pages that some drivers take to have DMA addresses that are multiples of their size, in bytes;
/// the larger one first.
const LARGE_PAGES: [u64; 2] = [2 << 20, 64 << 10];

/// Returns whether the DMA address `iova` of `place` is as aligned as the memory is; [`None`] if
/// the memory is not made of large pages.
fn is_congruent(place: &Place<'_>, iova: u64) -> Option<bool> {
    let phys = place.phys()?;
    // CAST: `usize` has at most 64 bits.
    let len = place.len() as u64;
    let page = LARGE_PAGES
        .into_iter()
        .find(|page| len >= *page && phys & page.wrapping_sub(1) == 0)?;

    Some(iova & page.wrapping_sub(1) == 0)
}

/// Very many mappings, until the DMA API refuses one.
pub(crate) struct Capacity {
    land: Land,
    requests: Requests,
    mapped: usize,
    bytes: usize,
    refused: bool,
    /// Number of mappings of large pages, and how many of these have aligned addresses.
    large: usize,
    congruent: usize,
}

impl Exercise<'_> for Capacity {
    const NAME: &'static str = "capacity";
    const KEYS: &'static [Key] = &[
        Key::Check,
        Key::Count,
        Key::Len,
        Key::Off,
        Key::Stride,
        Key::Trace,
    ];
    const ATOMIC: bool = false;

    fn defaults(spec: &mut Spec) {
        spec.count = Bounds::exactly(1000);
        spec.check = 100;
    }

    fn prepare(_: &Device<Bound>, spec: &Spec, rng: &mut Rng) -> Result<Self, Failure> {
        Self::allocate(spec, rng).doing("allocating the memory to map")
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let direction = DataDirection::Bidirectional;
        let mut live = KVVec::new();

        (self.mapped, self.bytes, self.refused) = (0, 0, false);
        (self.large, self.congruent) = (0, 0);
        while self.mapped < turn.spec.count.high {
            let Some(place) = self.requests.next(&self.land, turn.rng) else {
                break;
            };
            let Ok((mapping, _)) = Mapping::timed(turn.dev, &place, direction) else {
                self.refused = true;
                break;
            };
            self.mapped = self.mapped.saturating_add(1);
            self.bytes = self.bytes.saturating_add(place.len());
            if let Some(congruent) = is_congruent(&place, mapping.iova().value()) {
                self.large = self.large.saturating_add(1);
                self.congruent = self.congruent.saturating_add(usize::from(congruent));
            }
            live.push((mapping, place), GFP_KERNEL)
                .doing("listing the mappings")?;
        }

        let step = live.len().checked_div(turn.spec.check).unwrap_or(1).max(1);
        for (mapping, place) in live.iter().step_by(step) {
            let iova = mapping.iova();
            let len = place.len();
            let exchange = Exchange::new(place.spans(), direction, turn.rng.next());

            exchange.stage();
            mapping.sync_for_device();
            exchange.engine(turn.channel, once(Segment { iova, len }))?;
            mapping.sync_for_cpu();
            exchange.verify(turn.channel, once(len))?;
        }
        turn.rng.shuffle(&mut live);
        Ok(())
    }

    fn remark(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            " mapped={} bytes={} refused={} large={} congruent={}",
            self.mapped,
            self.bytes,
            u8::from(self.refused),
            self.large,
            self.congruent
        )
    }
}

impl Capacity {
    fn allocate(spec: &Spec, rng: &mut Rng) -> Result<Self> {
        let (land, requests) = match spec.trace {
            Trace::Pages => {
                let pages = Pages::new(spec, rng)?;
                let land = Land::for_ranges(spec.count.high, &pages.ranges)?;
                (land, Requests::Pages(pages))
            }
            Trace::Gpu => {
                let land = Land::new(GPU_LAND)?;
                let gpu = Gpu::new(&land)?;
                (land, Requests::Gpu(gpu))
            }
        };

        Ok(Self {
            land,
            requests,
            mapped: 0,
            bytes: 0,
            refused: false,
            large: 0,
            congruent: 0,
        })
    }
}
