// SPDX-License-Identifier: GPL-2.0

//! `evict`: buffers as drivers of GPUs have them. Each consists of blocks of the page allocator,
//! the largest that fit, as those of the kernel's pool (TTM) do. A buffer is mapped when it is used
//! and stays mapped, in both directions; the CPU and the engine use it by turns without
//! synchronization. When a mapping fails, the buffer that was not used for longest is unmapped, and
//! the mapping tried again.

use super::blocks::{
    Blocks,
    DIRECTION, //
};
use super::prelude::*;
use crate::mapping::{
    Function,
    Mapping,
    Request, //
};
use kernel::{
    fmt,
    page::PAGE_SIZE, //
};

/// Most bytes of a block: the largest page that drivers have special entries for.
const BLOCK: usize = 2 << 20;

/// A buffer.
struct Object {
    blocks: Blocks,
}

/// A buffer's mappings, one for each block.
struct Mapped<'a> {
    blocks: KVec<Mapping<'a>>,
    /// Number of its last use.
    used: usize,
}

/// Buffers, more than can be mapped at a time.
pub(crate) struct Evict {
    objects: KVVec<Object>,
    /// Seeds of the last uses of the buffers.
    seeds: KVVec<Option<u64>>,
    evicted: usize,
}

impl Exercise<'_> for Evict {
    const NAME: &'static str = "evict";
    const KEYS: &'static [Key] = &[Key::Count, Key::Len, Key::Samples];
    const ATOMIC: bool = false;

    fn defaults(spec: &mut Spec) {
        spec.count = Bounds::exactly(32);
        spec.len = Bounds {
            low: PAGE_SIZE,
            high: 4 << 20,
        };
        spec.samples = 200;
    }

    fn prepare(_: &Device<Bound>, spec: &Spec, rng: &mut Rng) -> Result<Self, Failure> {
        Self::allocate(spec, rng).doing("allocating the memory to map")
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let mut mapped =
            KVVec::with_capacity(self.objects.len(), GFP_KERNEL).doing("listing the mappings")?;
        for _ in self.objects.iter() {
            mapped
                .push(None, GFP_KERNEL)
                .doing("listing the mappings")?;
        }
        for used in 1..=turn.spec.samples {
            let number = turn.rng.below(self.objects.len());
            let Some(object) = self.objects.get(number) else {
                continue;
            };
            if mapped.get(number).is_some_and(Option::is_none) {
                let blocks = loop {
                    match object.map(turn.dev) {
                        Err(failure) if failure.is_refusal() && unmap_oldest(&mut mapped) => {
                            self.evicted = self.evicted.saturating_add(1);
                        }
                        result => break result?,
                    }
                };
                if let Some(place) = mapped.get_mut(number) {
                    *place = Some(Mapped { blocks, used });
                }
            }
            let (Some(Some(mapping)), Some(seed)) =
                (mapped.get_mut(number), self.seeds.get_mut(number))
            else {
                continue;
            };
            mapping.used = used;
            // What the last use left is still there.
            if let Some(seed) = *seed {
                object
                    .blocks
                    .exchange(seed)
                    .verify(turn.channel, object.blocks.lengths())?;
            }
            let new = turn.rng.next();
            *seed = Some(new);
            let exchange = object.blocks.exchange(new);
            let addresses = mapping.blocks.iter().map(Mapping::iova);
            exchange.stage();
            exchange.engine(turn.channel, object.blocks.segments(addresses))?;
            exchange.verify(turn.channel, object.blocks.lengths())?;
        }
        turn.rng.shuffle(&mut mapped);
        Ok(())
    }

    fn remark(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " evicted={}", self.evicted)
    }
}

/// Unmaps the buffer that was not used for longest. Returns whether there was one.
fn unmap_oldest(mapped: &mut [Option<Mapped<'_>>]) -> bool {
    let places = mapped.iter_mut().filter(|place| place.is_some());
    let oldest = places.min_by_key(|place| place.as_ref().map_or(0, |mapped| mapped.used));

    oldest.and_then(Option::take).is_some()
}

impl Evict {
    fn allocate(spec: &Spec, rng: &mut Rng) -> Result<Self> {
        let mut objects = KVVec::with_capacity(spec.count.high, GFP_KERNEL)?;
        let mut seeds = KVVec::with_capacity(spec.count.high, GFP_KERNEL)?;

        for _ in 0..rng.within(spec.count) {
            objects.push(Object::new(rng.within(spec.len))?, GFP_KERNEL)?;
            seeds.push(None, GFP_KERNEL)?;
        }
        Ok(Self {
            objects,
            seeds,
            evicted: 0,
        })
    }
}

impl Object {
    /// Allocates at least `len` bytes. May sleep.
    fn new(len: usize) -> Result<Self> {
        let mut blocks = Blocks::EMPTY;
        let mut left = len
            .max(1)
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(ENOMEM)?;

        while left != 0 {
            let order = left.checked_ilog2().unwrap_or(0);
            let size = 1usize.checked_shl(order).ok_or(ENOMEM)?.min(BLOCK);
            blocks.push(size)?;
            left = left.saturating_sub(size);
        }
        Ok(Self { blocks })
    }

    /// Maps all blocks, or none.
    fn map<'a>(&'a self, dev: &'a Device<Bound>) -> Result<KVec<Mapping<'a>>, Failure> {
        let blocks = self.blocks.as_slice();
        let mut mappings =
            KVec::with_capacity(blocks.len(), GFP_KERNEL).doing("listing the mappings")?;

        for block in blocks {
            let request = Request {
                function: Function::Page,
                offset: 0,
                len: block.len(),
                direction: DIRECTION,
                attrs: 0,
            };
            mappings
                .push(Mapping::new(dev, block, request)?, GFP_KERNEL)
                .doing("listing the mappings")?;
        }
        Ok(mappings)
    }
}
