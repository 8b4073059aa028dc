// SPDX-License-Identifier: GPL-2.0

//! `mask`, `sizes`, `resource`: properties that the DMA API reports, and requests that it must
//! refuse.

use super::prelude::*;
use crate::bindings as uapi;
use crate::coherent::Coherent;
use crate::device::raw;
use crate::engine::Iova;
use crate::failure::Reason;
use crate::mapping::{
    self,
    Function,
    Mapping,
    Request, //
};
use crate::spec::Choice;
use kernel::{
    bindings,
    dma::DmaMask,
    error::to_result,
    fmt,
    pci, //
};

/// `dma_set_mask_and_coherent`
pub(crate) struct Mask<'d> {
    dev: &'d Device<Bound>,
    buffer: Buffer,
}

impl<'d> Exercise<'d> for Mask<'d> {
    const NAME: &'static str = "mask";
    const KEYS: &'static [Key] = &[Key::Bits, Key::Expect, Key::Len, Key::Limited];
    const ATOMIC: bool = false;
    // Masks must not be changed while something is being mapped.
    const ALONE: bool = true;

    fn prepare(dev: &'d Device<Bound>, spec: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Ok(Self {
            dev,
            buffer: Buffer::new(spec.len.high).doing("allocating the memory to map")?,
        })
    }

    fn turn(&mut self, turn: &mut Turn<'d, '_, '_>) -> Result<(), Failure> {
        let bits = turn.rng.within(turn.spec.bits);
        let mask = u32::try_from(bits)
            .map_err(Error::from)
            .and_then(DmaMask::try_new)
            .doing("making a mask")?;
        let set = set_mask(self.dev, mask);

        if turn.spec.expect_failure {
            return match set {
                Ok(()) => Err(Failure::new(Reason::Worked {
                    what: "setting the mask",
                })),
                Err(_) => Ok(()),
            };
        }
        set.doing("setting the mask")?;
        self.check_limited(mask, turn)?;
        self.check_mapping(mask, turn)?;
        self.check_coherent(mask, turn)
    }

    fn settle(&mut self) {
        // Restoring the previous mask cannot fail.
        let _ = set_mask(self.dev, DmaMask::new::<64>());
    }
}

impl Mask<'_> {
    /// Checks whether the device counts as one whose mask is too small.
    fn check_limited(&self, mask: DmaMask, turn: &Turn<'_, '_, '_>) -> Result<(), Failure> {
        let dev = raw(self.dev);
        // SAFETY: `dev` is bound, which is all that these functions demand.
        let (limited, required) = unsafe {
            (
                bindings::dma_addressing_limited(dev),
                bindings::dma_get_required_mask(dev),
            )
        };

        match turn.spec.limited {
            Choice::Is(expected) if expected != limited => Err(Failure::new(Reason::Value {
                what: if limited {
                    "addressing is limited; the required mask"
                } else {
                    "addressing is not limited; the required mask"
                },
                expected: mask.value(),
                found: required,
            })),
            _ => Ok(()),
        }
    }

    /// Checks that the mask which the DMA API requires covers memory up to `last`, unless nothing
    /// is to be checked about that mask.
    fn check_required(
        &self,
        iova: Iova,
        len: usize,
        turn: &Turn<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let last = iova.add(len.saturating_sub(1)).value();
        // SAFETY: The device is bound, which is all that the function demands.
        let required = unsafe { bindings::dma_get_required_mask(raw(self.dev)) };

        if turn.spec.limited == Choice::Any || last <= required {
            return Ok(());
        }
        Err(Failure::new(Reason::Value {
            what: "the required mask",
            expected: last,
            found: required,
        }))
    }

    fn check_mapping(&self, mask: DmaMask, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let len = turn.rng.within(turn.spec.len);
        let direction = DataDirection::Bidirectional;
        let memory = self.buffer.part(0, len).doing("choosing what to map")?;
        let exchange = Exchange::new(once(memory), direction, turn.rng.next());

        exchange.stage();
        {
            let mapping = Mapping::new(
                self.dev,
                &self.buffer,
                Request {
                    function: Function::Single,
                    offset: 0,
                    len,
                    direction,
                    attrs: 0,
                },
            )?;
            let iova = mapping.iova();

            check_reach(iova, len, mask)?;
            self.check_required(iova, len, turn)?;
            exchange.engine(turn.channel, once(Segment { iova, len }))?;
        }
        exchange.verify(turn.channel, once(len))
    }

    fn check_coherent(&self, mask: DmaMask, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let len = turn.rng.within(turn.spec.len);
        let memory = Coherent::new(self.dev, len, turn.gfp(), 0)?;
        let iova = memory.iova();
        let exchange = Exchange::new(
            memory.memory().into_iter(),
            DataDirection::Bidirectional,
            turn.rng.next(),
        );

        check_reach(iova, len, mask)?;
        self.check_required(iova, len, turn)?;
        exchange.stage();
        exchange.engine(turn.channel, once(Segment { iova, len }))?;
        exchange.verify(turn.channel, once(len))
    }
}

fn set_mask(dev: &Device<Bound>, mask: DmaMask) -> Result {
    // SAFETY: `dev` is bound. Commands run one at a time and this one runs alone, so nothing is
    // being mapped.
    to_result(unsafe { bindings::dma_set_mask_and_coherent(raw(dev), mask.value()) })
}

/// Fails if the last byte is not within `mask`.
fn check_reach(iova: Iova, len: usize, mask: DmaMask) -> Result<(), Failure> {
    let last = iova.add(len.saturating_sub(1)).value();

    if last <= mask.value() {
        return Ok(());
    }
    Err(Failure::new(Reason::Value {
        what: "the last DMA address",
        expected: last & mask.value(),
        found: last,
    }))
}

/// Properties of the device that the DMA API reports.
pub(crate) struct Sizes<'d> {
    dev: &'d Device<Bound>,
}

impl<'d> Exercise<'d> for Sizes<'d> {
    const NAME: &'static str = "sizes";
    const KEYS: &'static [Key] = &[];
    const ATOMIC: bool = false;

    fn prepare(dev: &'d Device<Bound>, _: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Ok(Self { dev })
    }

    fn turn(&mut self, _: &mut Turn<'d, '_, '_>) -> Result<(), Failure> {
        Ok(())
    }

    fn remark(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dev = raw(self.dev);

        // SAFETY: `dev` is bound, which is all that these functions demand.
        let sync = unsafe { uapi::dma_test_dev_need_sync(dev) };
        // SAFETY: As above.
        let (max, opt, boundary, required, limited, mmap) = unsafe {
            (
                bindings::dma_max_mapping_size(dev),
                bindings::dma_opt_mapping_size(dev),
                bindings::dma_get_merge_boundary(dev),
                bindings::dma_get_required_mask(dev),
                bindings::dma_addressing_limited(dev),
                bindings::dma_can_mmap(dev),
            )
        };
        write!(
            f,
            " max_mapping_size={max:#x} opt_mapping_size={opt:#x} merge_boundary={boundary:#x} \
             required_mask={required:#x} addressing_limited={limited} can_mmap={mmap} \
             need_sync={sync}"
        )
    }
}

/// `dma_map_resource`
pub(crate) struct Resource {
    phys: bindings::phys_addr_t,
}

impl<'d> Exercise<'d> for Resource {
    const NAME: &'static str = "resource";
    const KEYS: &'static [Key] = &[Key::Expect, Key::Len];

    fn defaults(spec: &mut Spec) {
        spec.expect_failure = true;
    }

    fn prepare(dev: &'d Device<Bound>, _: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        let pdev: &pci::Device<Bound> = dev.try_into().doing("finding the BAR")?;

        Ok(Self {
            phys: pdev
                .resource_start(uapi::DMA_ENGINE_BAR)
                .doing("finding the BAR")?,
        })
    }

    fn turn(&mut self, turn: &mut Turn<'d, '_, '_>) -> Result<(), Failure> {
        let len = turn.rng.within(turn.spec.len);
        let direction = DataDirection::Bidirectional.into();
        let dev = raw(turn.dev);

        // SAFETY: `dev` is bound, and the device's own BAR is a resource like any other.
        let iova = unsafe { bindings::dma_map_resource(dev, self.phys, len, direction, 0) };
        let mapped = mapping::check(turn.dev, iova, "mapping a resource");

        if mapped.is_ok() {
            // SAFETY: It was just mapped.
            unsafe { bindings::dma_unmap_resource(dev, iova, len, direction, 0) };
        }
        match (mapped, turn.spec.expect_failure) {
            (Ok(_), true) => Err(Failure::new(Reason::Worked {
                what: "mapping a resource",
            })),
            (Err(failure), false) => Err(failure),
            _ => Ok(()),
        }
    }
}
