// SPDX-License-Identifier: GPL-2.0

//! Memory that the CPU and the device use in turn.

use crate::failure::{
    Failure,
    Reason, //
};
use crate::pattern::Pattern;
use core::{
    cell::Cell,
    marker::PhantomData,
    ptr::NonNull, //
};

/// A run of kernel memory that is accessed as bytes, and only through [`Span`]s.
///
/// No reference to the bytes ever exists and every access is volatile, since a device, or in a
/// failing test another CPU, may change them at any time.
///
/// # Invariants
///
/// `ptr` is valid for reads and writes of `len` bytes for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    ptr: NonNull<u8>,
    len: usize,
    _memory: PhantomData<&'a [Cell<u8>]>,
}

// SAFETY: The memory belongs to no thread, and volatile accesses may race.
unsafe impl Send for Span<'_> {}

// SAFETY: As for `Send`.
unsafe impl Sync for Span<'_> {}

/// One access of a walk over a span.
enum Access {
    /// The byte at this index.
    Byte(usize),
    /// The eight bytes at this index, naturally aligned.
    Word(usize),
}

impl<'a> Span<'a> {
    /// Creates a span of the `len` bytes at `ptr`.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid for reads and writes of `len` bytes for `'a`, and no references to them
    /// may exist meanwhile.
    pub(crate) unsafe fn new(ptr: NonNull<u8>, len: usize) -> Self {
        // INVARIANT: By the function's contract.
        Self {
            ptr,
            len,
            _memory: PhantomData,
        }
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the address of the first byte.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Returns the `len` bytes from `offset` on, [`None`] if the span does not have them all.
    pub(crate) fn part(&self, offset: usize, len: usize) -> Option<Self> {
        if offset > self.len || len > self.len.checked_sub(offset)? {
            return None;
        }
        // SAFETY: `offset` is within the bytes that `ptr` is valid for.
        let ptr = unsafe { self.ptr.add(offset) };

        // INVARIANT: The part lies within the whole.
        Some(Self { ptr, len, ..*self })
    }

    /// Returns the accesses that see every byte once, in order.
    fn accesses(&self) -> impl Iterator<Item = Access> {
        let head = self.ptr.as_ptr().align_offset(8).min(self.len);
        let words = self.len.saturating_sub(head) / 8;
        let tail = head.saturating_add(words.saturating_mul(8));

        (0..head)
            .map(Access::Byte)
            .chain(
                (0..words).map(move |word| Access::Word(head.wrapping_add(word.wrapping_mul(8)))),
            )
            .chain((tail..self.len).map(Access::Byte))
    }

    /// Writes the bytes of `pattern` from its byte `first` on.
    pub(crate) fn fill(&self, pattern: Pattern, first: usize) {
        self.accesses().for_each(|access| match access {
            Access::Byte(at) => {
                let byte = pattern.byte(first.wrapping_add(at));
                // SAFETY: `accesses` stays within the span.
                unsafe { self.ptr.as_ptr().add(at).write_volatile(byte) };
            }
            Access::Word(at) => {
                let word = pattern.word(first.wrapping_add(at)).to_le();
                // SAFETY: `accesses` stays within the span, and its words are aligned.
                unsafe { self.ptr.as_ptr().add(at).cast::<u64>().write_volatile(word) };
            }
        });
    }

    /// Compares with the bytes of `pattern` from its byte `first` on.
    ///
    /// The failure's index is the index into the pattern.
    pub(crate) fn check(
        &self,
        what: &'static str,
        pattern: Pattern,
        first: usize,
    ) -> Result<(), Failure> {
        self.accesses().try_for_each(|access| match access {
            Access::Byte(at) => {
                // SAFETY: `accesses` stays within the span.
                let found = unsafe { self.ptr.as_ptr().add(at).read_volatile() };
                compare(what, first.wrapping_add(at), pattern, found)
            }
            Access::Word(at) => {
                let index = first.wrapping_add(at);
                // SAFETY: `accesses` stays within the span, and its words are aligned.
                let found = unsafe { self.ptr.as_ptr().add(at).cast::<u64>().read_volatile() };

                if u64::from_le(found) == pattern.word(index) {
                    return Ok(());
                }
                found
                    .to_ne_bytes()
                    .into_iter()
                    .enumerate()
                    .try_for_each(|(byte, found)| {
                        compare(what, index.wrapping_add(byte), pattern, found)
                    })
            }
        })
    }

    /// Checks that every byte is zero.
    pub(crate) fn check_zero(&self) -> Result<(), Failure> {
        self.accesses().try_for_each(|access| {
            let (index, found) = match access {
                Access::Byte(at) => {
                    // SAFETY: `accesses` stays within the span.
                    let found = unsafe { self.ptr.as_ptr().add(at).read_volatile() };
                    (at, u64::from(found))
                }
                Access::Word(at) => {
                    // SAFETY: `accesses` stays within the span, and its words are aligned.
                    let found = unsafe { self.ptr.as_ptr().add(at).cast::<u64>().read_volatile() };
                    (at, found)
                }
            };
            match found.to_ne_bytes().into_iter().find(|byte| *byte != 0) {
                None => Ok(()),
                Some(found) => Err(Failure::new(Reason::Byte {
                    what: "a new allocation is not zeroed",
                    index,
                    expected: 0,
                    found,
                })),
            }
        })
    }
}

fn compare(what: &'static str, index: usize, pattern: Pattern, found: u8) -> Result<(), Failure> {
    let expected = pattern.byte(index);

    if found == expected {
        return Ok(());
    }
    Err(Failure::new(Reason::Byte {
        what,
        index,
        expected,
        found,
    }))
}
