// SPDX-License-Identifier: GPL-2.0

//! `mmap`: coherent memory in user space.

use super::prelude::*;
use crate::coherent::{
    Coherent,
    UserView, //
};
use crate::failure::Reason;
use crate::pattern::Pattern;

/// `dma_mmap_attrs`, into the process that wrote the command.
pub(crate) struct Mmap;

impl Exercise<'_> for Mmap {
    const NAME: &'static str = "mmap";
    const KEYS: &'static [Key] = &[Key::Attr, Key::Len];
    const ATOMIC: bool = false;
    // Other workers have no user space.
    const ALONE: bool = true;

    fn prepare(_: &Device<Bound>, _: &Spec, _: &mut Rng) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn turn(&mut self, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let len = turn.rng.within(turn.spec.len);

        Self::check(len, turn).at(|| Place::whole(len, DataDirection::Bidirectional))
    }
}

impl Mmap {
    fn check(len: usize, turn: &mut Turn<'_, '_, '_>) -> Result<(), Failure> {
        let memory = Coherent::new(turn.dev, len, turn.gfp(), turn.spec.attrs)?;
        let user = memory.map_to_user()?;
        let (sent, returned) = (Pattern::new(turn.rng.next()), Pattern::new(turn.rng.next()));

        write(&user, sent).doing("writing as user space")?;
        turn.channel
            .checksum(memory.iova(), len, sent.crc32(0, len))?;
        turn.channel.fill(memory.iova(), len, returned)?;
        read(&user, returned)
    }
}

/// Writes `pattern` through the process's mapping.
fn write(user: &UserView<'_>, pattern: Pattern) -> Result {
    let mut writer = user.slice().writer();
    let mut index = 0;

    while !writer.is_empty() {
        let bytes = pattern.word(index).to_le_bytes();
        let some = writer.len().min(bytes.len());

        writer.write_slice(bytes.get(..some).ok_or(EINVAL)?)?;
        index = index.wrapping_add(some);
    }
    Ok(())
}

/// Compares with `pattern` through the process's mapping.
fn read(user: &UserView<'_>, pattern: Pattern) -> Result<(), Failure> {
    let mut reader = user.slice().reader();
    let mut index = 0;

    while !reader.is_empty() {
        let mut byte = [0];

        reader
            .read_slice(&mut byte)
            .doing("reading as user space")?;
        let [found] = byte;
        let expected = pattern.byte(index);

        if found != expected {
            return Err(Failure::new(Reason::Byte {
                what: "what user space reads",
                index,
                expected,
                found,
            }));
        }
        index = index.wrapping_add(1);
    }
    Ok(())
}
