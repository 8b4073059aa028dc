// SPDX-License-Identifier: GPL-2.0

//! `misuse`: a mistake that no driver may make, once in every turn. It must have no effect.

use super::prelude::*;
use crate::coherent::Coherent;
use crate::engine::Iova;
use crate::mapping::{
    self,
    Function,
    Mapping,
    Request, //
};
use crate::noncontiguous::Pages;
use crate::scatterlist::{
    self,
    Described,
    Entry,
    List, //
};
use crate::spec::Mistake;
use kernel::{
    bindings,
    page::PAGE_SIZE, //
};

/// An address where nothing is mapped: no host assigns it.
const NOWHERE: u64 = 0x1000;

/// A length greater than any window's.
const MUCH: usize = 64 << 20;

/// The direction of pages that the DMA API allocates.
const DIRECTION: DataDirection = DataDirection::Bidirectional;

/// Memory to map.
pub(crate) struct Misuse {
    buffers: KVec<Buffer>,
    list: List,
}

impl Exercise<'_> for Misuse {
    const NAME: &'static str = "misuse";
    const KEYS: &'static [Key] = &[Key::Dir, Key::Kind];
    const ATOMIC: bool = false;
    // The range that is unmapped by mistake may be another worker's.
    const ALONE: bool = true;

    fn prepare(_: &Device<Bound>, _: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Self::allocate().doing("allocating the memory to map")
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let dev = turn.dev;
        let direction = turn.direction();
        let coherent = || Coherent::new(dev, PAGE_SIZE, bindings::GFP_KERNEL, 0);
        match turn.spec.mistake {
            Mistake::Never => self.map(dev, direction)?.misunmap(NOWHERE, PAGE_SIZE),
            Mistake::Twice => {
                // Unmapped once here, and once when dropped.
                let mapping = self.map(dev, direction)?;
                mapping.misunmap(mapping.iova().value(), PAGE_SIZE);
            }
            Mistake::Longer => {
                let mapping = self.map(dev, direction)?;
                mapping.misunmap(mapping.iova().value(), MUCH);
            }
            Mistake::Wrap => {
                mapping::must_refuse(dev, !0xfff, MUCH)?;
                let mapping = self.map(dev, direction)?;
                mapping.misunmap(mapping.iova().value(), usize::MAX);
            }
            Mistake::List => self.map_list(dev, direction)?,
            Mistake::Free => coherent()?.misfree(Iova::new(NOWHERE)),
            Mistake::FreeOther => {
                let other = coherent()?;
                coherent()?.misfree(other.iova());
            }
            Mistake::FreePages => {
                let other = Pages::new(dev, PAGE_SIZE, DIRECTION)?;
                let pages = Pages::new(dev, PAGE_SIZE, DIRECTION)?;
                pages.misfree(other.segment().iova);
            }
            Mistake::Sync => {
                let mapping = self.map(dev, direction)?;
                mapping.misunmap(mapping.iova().value(), PAGE_SIZE);
                mapping.sync_for_cpu();
                mapping.sync_for_device();
            }
        }
        Ok(())
    }
}

impl Misuse {
    fn allocate() -> Result<Self> {
        let mut buffers = KVec::with_capacity(1, GFP_KERNEL)?;
        buffers.push(Buffer::new(PAGE_SIZE)?, GFP_KERNEL)?;
        Ok(Self {
            buffers,
            list: List::new(1)?,
        })
    }

    fn buffer(&self) -> Result<&Buffer, Failure> {
        self.buffers
            .first()
            .ok_or(EINVAL)
            .doing("choosing what to map")
    }

    fn map<'a>(
        &'a self,
        dev: &'a Device<Bound>,
        direction: DataDirection,
    ) -> Result<Mapping<'a>, Failure> {
        let request = Request {
            function: Function::Phys,
            offset: 0,
            len: PAGE_SIZE,
            direction,
            attrs: 0,
        };
        Mapping::new(dev, self.buffer()?, request)
    }

    /// Maps a scatterlist, and unmaps it twice.
    fn map_list(&mut self, dev: &Device<Bound>, direction: DataDirection) -> Result<(), Failure> {
        let request = scatterlist::Request {
            function: scatterlist::Function::Sg,
            direction,
            attrs: 0,
        };
        let entries = [Entry {
            buffer: 0,
            offset: 0,
            len: PAGE_SIZE,
        }];
        let mut described = Described::new(&mut self.list, &entries, &self.buffers)?;
        scatterlist::Mapping::new(dev, &mut described, request)?.misunmap();
        Ok(())
    }
}
