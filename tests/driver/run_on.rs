// SPDX-License-Identifier: GPL-2.0

//! `run_on`: an engine that goes on copying after the command, and memory that stays mapped, as by
//! a driver that neither stops its device nor unmaps what it mapped.

use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::exercise::{
    Report,
    Verdict, //
};
use crate::failure::{
    Doing,
    Failure, //
};
use crate::kept::Kept;
use crate::mapping::{
    Function,
    Mapping,
    Request, //
};
use crate::spec::Spec;
use kernel::{
    device::Bound,
    dma::DataDirection,
    pci,
    prelude::*, //
};

/// Starts the engine on memory that is never unmapped nor freed. The channel is not released.
pub(crate) fn run_on(
    pdev: &pci::Device<Bound>,
    engine: &Engine,
    _: &mut Kept,
    spec: &Spec,
) -> Verdict {
    start(pdev, engine, spec)
        .map(|()| None)
        .map_err(Report::of_command)
}

fn start(pdev: &pci::Device<Bound>, engine: &Engine, spec: &Spec) -> Result<(), Failure> {
    let half = spec.len.high;
    let len = half.checked_mul(2).ok_or(EINVAL).doing("choosing a size")?;
    let channel = engine.claim(pdev)?;
    let buffer = Buffer::new(len).doing("allocating the memory to map")?;
    let buffer = KBox::new(buffer, GFP_KERNEL).doing("allocating the memory to map")?;
    // The engine uses it until it is stopped.
    let buffer: &Buffer = KBox::leak(buffer);
    let request = Request {
        function: Function::Single,
        offset: 0,
        len,
        direction: DataDirection::Bidirectional,
        attrs: 0,
    };
    let mapping = Mapping::new(pdev.as_ref(), buffer, request)?;
    let (src, dst) = (mapping.iova(), mapping.iova().add(half));
    core::mem::forget(mapping);
    channel.copy_until_stopped(src, dst, half)
}
