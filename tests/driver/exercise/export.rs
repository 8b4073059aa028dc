// SPDX-License-Identifier: GPL-2.0

//! `sgtable`: coherent memory described by its pages, and mapped once more by them.

use super::prelude::*;
use crate::coherent::{
    Coherent,
    Export, //
};
use crate::failure::expect;
use crate::scatterlist::Shared;
use core::iter::empty;
use kernel::page::page_align;

const DIRECTION: DataDirection = DataDirection::Bidirectional;

/// `dma_get_sgtable`
pub(crate) struct SgTable;

impl Exercise<'_> for SgTable {
    const NAME: &'static str = "sgtable";
    const KEYS: &'static [Key] = &[Key::Attr, Key::Len];
    const ATOMIC: bool = false;

    fn prepare(_: &Device<Bound>, _: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let len = turn.rng.within(turn.spec.len);

        Self::check(len, turn).at(|| Place::whole(len, DIRECTION))
    }
}

impl SgTable {
    fn check(len: usize, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let memory = Coherent::new(turn.dev, len, turn.gfp(), turn.spec.attrs)?;
        let mut export = memory.export()?;
        let described = export
            .spans()
            .fold(0_usize, |sum, span| sum.wrapping_add(span.len()));

        // Allocations are whole pages; the table may have the length in bytes or in whole pages.
        if page_align(described) != page_align(len) || described < len {
            expect("what the table describes", len as u64, described as u64)?;
        }
        Self::use_allocation(&memory, &export, turn)?;
        Self::use_second_mapping(&mut export, turn)
    }

    /// Exchanges data: the engine uses the allocation's address, the CPU the pages.
    fn use_allocation(
        memory: &Coherent<'_>,
        export: &Export<'_>,
        turn: &mut Turn<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let (iova, len) = (memory.iova(), memory.len());
        let exchange = Exchange::new(export.spans(), DIRECTION, turn.rng.next());

        exchange.stage();
        exchange.engine(turn.channel, once(Segment { iova, len }))?;
        exchange.verify(turn.channel, once(len))
    }

    /// Exchanges data: the engine uses the addresses of a second mapping, as another device would.
    fn use_second_mapping(
        export: &mut Export<'_>,
        turn: &mut Turn<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let seed = turn.rng.next();
        let mut lengths = KVec::new();

        Exchange::new(export.spans(), DIRECTION, seed).stage();
        {
            let shared = Shared::new(turn.dev, export, DIRECTION)?;

            for segment in shared.segments() {
                lengths
                    .push(segment.len, GFP_KERNEL)
                    .doing("counting the segments")?;
            }
            // The engine's part does not access the memory.
            Exchange::new(empty(), DIRECTION, seed).engine(turn.channel, shared.segments())?;
        }
        Exchange::new(export.spans(), DIRECTION, seed).verify(turn.channel, lengths.iter().copied())
    }
}
