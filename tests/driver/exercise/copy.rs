// SPDX-License-Identifier: GPL-2.0

//! `copy`: the device moves data from one mapping to another.

use super::prelude::*;
use crate::mapping::{
    Function,
    Mapping,
    Request, //
};
use crate::pattern::Pattern;
use kernel::page::PAGE_SIZE;

/// Room before the mapped ranges, for a guard.
const LEAD: usize = PAGE_SIZE;

/// Memory to copy between.
pub(crate) struct Copy {
    src: Buffer,
    dst: Buffer,
}

impl Exercise<'_> for Copy {
    const NAME: &'static str = "copy";
    const KEYS: &'static [Key] = &[Key::Len, Key::Off];

    fn prepare(_: &Device<Bound>, spec: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        let len = LEAD
            .saturating_add(spec.offset.high)
            .saturating_add(spec.len.high)
            .saturating_add(1);

        Ok(Self {
            src: Buffer::new(len).doing("allocating the memory to map")?,
            dst: Buffer::new(len).doing("allocating the memory to map")?,
        })
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let len = turn.rng.within(turn.spec.len);
        let src = request(len, DataDirection::ToDevice, turn);
        let dst = request(len, DataDirection::FromDevice, turn);

        self.copy(&src, &dst, turn).at(|| Place {
            len,
            offset: dst.offset.saturating_sub(LEAD),
            direction: dst.direction,
            iova: None,
        })
    }
}

impl Copy {
    fn copy(
        &self,
        src: &Request,
        dst: &Request,
        turn: &mut Turn<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let len = dst.len;
        let pattern = Pattern::new(turn.rng.next());
        let from = self
            .src
            .part(src.offset, len)
            .doing("choosing the source")?;
        let to = self
            .dst
            .part(dst.offset, len)
            .doing("choosing the target")?;

        self.dst.guard(dst.offset, len);
        from.fill(pattern, 0);
        to.fill(Pattern::new(!pattern.seed()), 0);
        {
            let src = Mapping::new(turn.dev, &self.src, *src)?;
            let dst = Mapping::new(turn.dev, &self.dst, *dst)?;

            turn.channel.copy(src.iova(), dst.iova(), len)?;
        }
        from.check("the source of a copy", pattern, 0)?;
        to.check("the target of a copy", pattern, 0)?;
        self.dst.check_guard(dst.offset, len, 0, self.dst.len())
    }
}

fn request(len: usize, direction: DataDirection, turn: &mut Turn<'_, '_, '_>) -> Request {
    Request {
        function: Function::Single,
        offset: LEAD.saturating_add(turn.rng.within(turn.spec.offset)),
        len,
        direction,
        attrs: 0,
    }
}
