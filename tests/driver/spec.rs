// SPDX-License-Identifier: GPL-2.0

//! The parameters of a command: `name key=value ...`, parsed.

mod parse;

use self::parse::{
    api,
    attribute,
    bounds,
    context,
    cpus,
    direction,
    failure,
    layout,
    limited,
    mistake,
    number,
    page,
    size,
    trace,
    wait, //
};
use crate::context::Context;
use crate::engine::Wait;
use crate::mapping::Attrs;
use crate::rng::{
    Bounds,
    Rng, //
};
use crate::scatterlist;
use kernel::{
    dma::DataDirection,
    prelude::*, //
};

/// A value that a command sets, or leaves to chance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice<T> {
    Is(T),
    Any,
}

impl<T: Copy> Choice<T> {
    /// Returns the value, or one of `items`.
    pub(crate) fn pick(self, rng: &mut Rng, items: &[T]) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Any => rng.choose(items),
        }
    }
}

/// Layout of the entries of a scatterlist in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Every entry starts where the one before it ends.
    Adjacent,
    /// There is a gap, and often another allocation, between any two.
    Scattered,
}

/// A series of requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trace {
    /// Ranges of one length at regular distances, in random order.
    Pages,
    /// Requests of a GPU's driver: pages in clusters, and large buffers between them.
    Gpu,
}

/// Mistakes that a driver may make.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// Unmaps a range that was never mapped.
    Never,
    /// Unmaps a range twice.
    Twice,
    /// Unmaps more than was mapped.
    Longer,
    /// Maps, and unmaps, a range beyond the last address.
    Wrap,
    /// Unmaps a scatterlist twice.
    List,
    /// Frees memory by an unused address.
    Free,
    /// Frees memory by the address of other memory.
    FreeOther,
    /// Frees pages by the address of others.
    FreePages,
    /// Synchronizes a range after unmapping it.
    Sync,
}

impl Mistake {
    const NAMES: [(&'static str, Self); 9] = [
        ("never", Self::Never),
        ("twice", Self::Twice),
        ("longer", Self::Longer),
        ("wrap", Self::Wrap),
        ("list", Self::List),
        ("free", Self::Free),
        ("free_other", Self::FreeOther),
        ("free_pages", Self::FreePages),
        ("sync", Self::Sync),
    ];
}

/// A parameter that not every command has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Addr,
    Align,
    Api,
    Attr,
    Beside,
    Bits,
    Boundary,
    Check,
    Count,
    Dir,
    Expect,
    Fd,
    Fresh,
    Import,
    Kind,
    Layout,
    Len,
    Limited,
    Off,
    Page,
    Pairs,
    Part,
    Samples,
    SkipSync,
    Spread,
    Stride,
    Sync,
    Trace,
}

/// All parameters of commands.
#[derive(Clone, Copy)]
pub(crate) struct Spec {
    /// Length, in bytes.
    pub(crate) len: Bounds,
    /// Offset from the start of a page, in bytes.
    pub(crate) offset: Bounds,
    /// Number of entries, blocks or mappings, whichever the command uses.
    pub(crate) count: Bounds,
    /// Address of memory of the process that writes the command.
    pub(crate) address: usize,
    /// Alignment of the DMA address.
    pub(crate) align: usize,
    /// The functions that map scatterlists.
    pub(crate) api: Choice<scatterlist::Function>,
    /// `DMA_ATTR_*`
    pub(crate) attrs: Attrs,
    /// True if the device is to write beside its mappings, in vain.
    pub(crate) beside: bool,
    /// Bits of the DMA mask.
    pub(crate) bits: Bounds,
    /// Boundary that blocks must not cross a multiple of; 0 for none.
    pub(crate) boundary: usize,
    /// Number of live mappings to check, 0 for all.
    pub(crate) check: usize,
    pub(crate) direction: Choice<DataDirection>,
    /// True if the kernel must refuse.
    pub(crate) expect_failure: bool,
    /// A file descriptor of the process that writes the command.
    pub(crate) fd: c_int,
    /// True if nothing is mapped twice.
    pub(crate) fresh: bool,
    /// Number of an imported buffer.
    pub(crate) import: usize,
    pub(crate) layout: Choice<Layout>,
    /// True if the device must count as one whose mask is too small, false if it must not.
    pub(crate) limited: Choice<bool>,
    /// The mistake to make.
    pub(crate) mistake: Mistake,
    /// Bytes of a page of the device.
    pub(crate) page: Choice<usize>,
    /// Number of pairs of operations that are timed as a whole.
    pub(crate) pairs: usize,
    /// Most bytes in one scatterlist.
    pub(crate) part: usize,
    /// Number of timed operations of a turn.
    pub(crate) samples: usize,
    /// True to map and unmap with `DMA_ATTR_SKIP_CPU_SYNC`.
    pub(crate) skip_sync: bool,
    /// Of the allocated pages, one of this many is kept.
    pub(crate) spread: usize,
    /// Bytes from the start of one mapping to the start of the next, 0 for as few as possible.
    pub(crate) stride: usize,
    /// Number of synchronizations of the memory in either direction while it is mapped.
    pub(crate) syncs: usize,
    /// The series of mappings.
    pub(crate) trace: Trace,

    pub(crate) context: Choice<Context>,
    pub(crate) wait: Wait,
    /// True if the DMA API may refuse to map.
    pub(crate) may_refuse: bool,
    /// Turns of each worker.
    pub(crate) iterations: u64,
    pub(crate) workers: u32,
    pub(crate) seed: u64,
}

impl Spec {
    /// Defaults of all parameters.
    pub(crate) const DEFAULT: Self = Self {
        len: Bounds::exactly(4096),
        offset: Bounds::exactly(0),
        count: Bounds::exactly(1),
        address: 0,
        align: 1,
        api: Choice::Any,
        attrs: 0,
        beside: false,
        bits: Bounds::exactly(64),
        boundary: 0,
        check: 0,
        direction: Choice::Is(DataDirection::Bidirectional),
        expect_failure: false,
        fd: -1,
        fresh: false,
        import: 0,
        layout: Choice::Any,
        limited: Choice::Any,
        mistake: Mistake::Never,
        page: Choice::Any,
        pairs: 0,
        part: usize::MAX,
        samples: 1000,
        skip_sync: false,
        spread: 1,
        stride: 0,
        syncs: 0,
        trace: Trace::Pages,
        context: Choice::Is(Context::Process),
        wait: Wait::Interrupt,
        may_refuse: false,
        iterations: 1,
        workers: 1,
        seed: 1,
    };

    /// Applies `parameter`, which reads `key=value`. Parameters outside of `keys` are errors, so
    /// that no test is weaker than its command line suggests.
    pub(crate) fn apply(&mut self, parameter: &str, keys: &[Key]) -> Result {
        let (name, value) = parameter.split_once('=').ok_or(EINVAL)?;

        match name {
            "ctx" => self.context = context(value)?,
            "wait" => self.wait = wait(value)?,
            "refusals" => self.may_refuse = !failure(value)?,
            "iter" => self.iterations = number(value)?,
            "cpus" => self.workers = cpus(value)?,
            "seed" => self.seed = number(value)?,
            _ => self.apply_own(own_key(name).filter(|key| keys.contains(key)), value)?,
        }
        Ok(())
    }

    fn apply_own(&mut self, key: Option<Key>, value: &str) -> Result {
        match key.ok_or(EINVAL)? {
            Key::Addr => self.address = size(value)?,
            Key::Align => self.align = size(value)?,
            Key::Api => self.api = api(value)?,
            Key::Attr => self.attrs |= attribute(value)?,
            Key::Beside => self.beside = number(value)? != 0,
            Key::Bits => self.bits = bounds(value)?,
            Key::Boundary => self.boundary = size(value)?,
            Key::Check => self.check = size(value)?,
            Key::Count => self.count = bounds(value)?,
            Key::Dir => self.direction = direction(value)?,
            Key::Expect => self.expect_failure = failure(value)?,
            Key::Fd => self.fd = c_int::try_from(number(value)?)?,
            Key::Fresh => self.fresh = number(value)? != 0,
            Key::Import => self.import = size(value)?,
            Key::Kind => self.mistake = mistake(value)?,
            Key::Layout => self.layout = layout(value)?,
            Key::Len => self.len = bounds(value)?,
            Key::Limited => self.limited = limited(value)?,
            Key::Off => self.offset = bounds(value)?,
            Key::Page => self.page = page(value)?,
            Key::Pairs => self.pairs = size(value)?,
            Key::Part => self.part = size(value)?,
            Key::Samples => self.samples = size(value)?,
            Key::SkipSync => self.skip_sync = number(value)? != 0,
            Key::Spread => self.spread = size(value)?,
            Key::Stride => self.stride = size(value)?,
            Key::Sync => self.syncs = size(value)?,
            Key::Trace => self.trace = trace(value)?,
        }
        Ok(())
    }
}

fn own_key(name: &str) -> Option<Key> {
    Some(match name {
        "addr" => Key::Addr,
        "align" => Key::Align,
        "api" => Key::Api,
        "attr" => Key::Attr,
        "beside" => Key::Beside,
        "bits" => Key::Bits,
        "boundary" => Key::Boundary,
        "check" => Key::Check,
        "n" => Key::Count,
        "dir" => Key::Dir,
        "expect" => Key::Expect,
        "fd" => Key::Fd,
        "fresh" => Key::Fresh,
        "import" => Key::Import,
        "kind" => Key::Kind,
        "layout" => Key::Layout,
        "len" => Key::Len,
        "limited" => Key::Limited,
        "off" => Key::Off,
        "page" => Key::Page,
        "pairs" => Key::Pairs,
        "part" => Key::Part,
        "samples" => Key::Samples,
        "skip_sync" => Key::SkipSync,
        "spread" => Key::Spread,
        "stride" => Key::Stride,
        "sync" => Key::Sync,
        "trace" => Key::Trace,
        _ => return None,
    })
}
