// SPDX-License-Identifier: GPL-2.0

//! The module's directory in debugfs, `apple_dma_test`, in which every engine has a directory.

use kernel::{
    debugfs::Dir,
    prelude::*,
    sync::global_lock, //
};

global_lock! {
    // SAFETY: `Root::new` initializes it, once, before anything locks it.
    unsafe(uninit) static ROOT: Mutex<Option<Dir>> = None;
}

/// The directory, which exists as long as this value.
pub(crate) struct Root(());

impl Root {
    /// Creates the directory. Must be called once in the life of the module.
    pub(crate) fn new() -> Self {
        // SAFETY: Called once, by the module's initialization.
        unsafe { ROOT.init() };
        *ROOT.lock() = Some(Dir::new(c"apple_dma_test"));
        Self(())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        *ROOT.lock() = None;
    }
}

/// Creates the directory `name` in the module's directory.
pub(crate) fn subdir(name: &CStr) -> Result<Dir> {
    ROOT.lock()
        .as_ref()
        .map(|root| root.subdir(name))
        .ok_or(ENODEV)
}
