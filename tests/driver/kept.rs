// SPDX-License-Identifier: GPL-2.0

//! The state that commands leave to later ones: memory for processes, imported buffers,
//! and memory of processes.

use crate::import::Import;
use crate::mirror::Mirror;
use crate::share::Share;

/// Buffers that may be imported at a time.
const IMPORTS: usize = 8;

/// The state that commands leave to later ones. It must be dropped before the device loses its
/// driver.
pub(crate) struct Kept {
    pub(crate) share: Option<Share>,
    pub(crate) imports: [Option<Import>; IMPORTS],
    pub(crate) mirror: Option<Mirror>,
}

impl Kept {
    /// Creates a value with nothing in it.
    pub(crate) const fn new() -> Self {
        Self {
            share: None,
            imports: [const { None }; IMPORTS],
            mirror: None,
        }
    }
}
