// SPDX-License-Identifier: GPL-2.0

//! Names that nearly every exercise uses. A name that only some use is imported where it is used,
//! and so are those that `mapping` and `scatterlist` both have.

pub(crate) use super::{
    Exercise,
    Turn, //
};
pub(crate) use crate::{
    buffer::Buffer,
    exchange::{
        Exchange,
        Segment, //
    },
    failure::{
        At,
        Doing,
        Failure,
        Place, //
    },
    rng::{
        Bounds,
        Rng, //
    },
    spec::{
        Key,
        Spec, //
    },
};
pub(crate) use core::iter::once;
pub(crate) use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma::DataDirection,
    prelude::*, //
};
