// SPDX-License-Identifier: GPL-2.0

//! Values of parameters, parsed. All functions return `EINVAL` for text that has no meaning.

use super::{
    Choice,
    Layout,
    Mistake,
    Trace, //
};
use crate::context::Context;
use crate::engine::Wait;
use crate::mapping::Attrs;
use crate::rng::Bounds;
use crate::scatterlist;
use crate::workers;
use kernel::{
    dma::DataDirection,
    prelude::*, //
};

pub(super) fn number(value: &str) -> Result<u64> {
    match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    }
    .map_err(|_| EINVAL)
}

/// Parses a number, perhaps followed by `k` or `M`.
pub(super) fn size(value: &str) -> Result<usize> {
    let (digits, unit) = if let Some(digits) = value.strip_suffix('k') {
        (digits, 1 << 10)
    } else if let Some(digits) = value.strip_suffix('M') {
        (digits, 1 << 20)
    } else {
        (value, 1)
    };

    number(digits)?
        .checked_mul(unit)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or(EINVAL)
}

/// Parses `LOW-HIGH`, or one number for both.
pub(super) fn bounds(value: &str) -> Result<Bounds> {
    let (low, high) = value.split_once('-').unwrap_or((value, value));
    let bounds = Bounds {
        low: size(low)?,
        high: size(high)?,
    };

    if bounds.low > bounds.high {
        return Err(EINVAL);
    }
    Ok(bounds)
}

/// Parses the size of a page.
pub(super) fn page(value: &str) -> Result<Choice<usize>> {
    if value == "any" {
        return Ok(Choice::Any);
    }
    let page = size(value)?;

    if !page.is_power_of_two() {
        return Err(EINVAL);
    }
    Ok(Choice::Is(page))
}

pub(super) fn context(value: &str) -> Result<Choice<Context>> {
    if value == "any" {
        return Ok(Choice::Any);
    }
    Context::ALL
        .into_iter()
        .find(|context| context.name() == value)
        .map(Choice::Is)
        .ok_or(EINVAL)
}

pub(super) fn wait(value: &str) -> Result<Wait> {
    match value {
        "irq" => Ok(Wait::Interrupt),
        "poll" => Ok(Wait::Poll),
        _ => Err(EINVAL),
    }
}

pub(super) fn cpus(value: &str) -> Result<u32> {
    if value == "all" {
        return Ok(workers::online_cpus());
    }
    let cpus = number(value)?;

    if cpus == 0 {
        return Err(EINVAL);
    }
    Ok(u32::try_from(cpus)?)
}

pub(super) fn direction(value: &str) -> Result<Choice<DataDirection>> {
    match value {
        "to" => Ok(Choice::Is(DataDirection::ToDevice)),
        "from" => Ok(Choice::Is(DataDirection::FromDevice)),
        "bidir" => Ok(Choice::Is(DataDirection::Bidirectional)),
        "any" => Ok(Choice::Any),
        _ => Err(EINVAL),
    }
}

pub(super) fn api(value: &str) -> Result<Choice<scatterlist::Function>> {
    match value {
        "sg" => Ok(Choice::Is(scatterlist::Function::Sg)),
        "sgtable" => Ok(Choice::Is(scatterlist::Function::SgTable)),
        "any" => Ok(Choice::Any),
        _ => Err(EINVAL),
    }
}

pub(super) fn layout(value: &str) -> Result<Choice<Layout>> {
    match value {
        "adjacent" => Ok(Choice::Is(Layout::Adjacent)),
        "scattered" => Ok(Choice::Is(Layout::Scattered)),
        "mixed" => Ok(Choice::Any),
        _ => Err(EINVAL),
    }
}

pub(super) fn limited(value: &str) -> Result<Choice<bool>> {
    match value {
        "no" => Ok(Choice::Is(false)),
        "yes" => Ok(Choice::Is(true)),
        "any" => Ok(Choice::Any),
        _ => Err(EINVAL),
    }
}

pub(super) fn mistake(value: &str) -> Result<Mistake> {
    let mut names = Mistake::NAMES.into_iter();
    let found = names.find(|(name, _)| *name == value);
    found.map(|(_, mistake)| mistake).ok_or(EINVAL)
}

pub(super) fn trace(value: &str) -> Result<Trace> {
    match value {
        "pages" => Ok(Trace::Pages),
        "gpu" => Ok(Trace::Gpu),
        _ => Err(EINVAL),
    }
}

pub(super) fn failure(value: &str) -> Result<bool> {
    match value {
        "ok" => Ok(false),
        "fail" => Ok(true),
        _ => Err(EINVAL),
    }
}

pub(super) fn attribute(value: &str) -> Result<Attrs> {
    use kernel::bindings;

    let attribute = match value {
        "none" => 0,
        "no_kernel_mapping" => bindings::DMA_ATTR_NO_KERNEL_MAPPING,
        "write_combine" => bindings::DMA_ATTR_WRITE_COMBINE,
        "force_contiguous" => bindings::DMA_ATTR_FORCE_CONTIGUOUS,
        "single_pages" => bindings::DMA_ATTR_ALLOC_SINGLE_PAGES,
        "no_warn" => bindings::DMA_ATTR_NO_WARN,
        "weak_ordering" => bindings::DMA_ATTR_WEAK_ORDERING,
        _ => return Err(EINVAL),
    };
    // CAST: `unsigned long` is at least as wide.
    Ok(attribute as Attrs)
}
