// SPDX-License-Identifier: GPL-2.0

//! The limits of one managed device, which root may change while the device is in use.

use super::Instance;
use crate::driver::params::{
    LEAST_BYTES,
    LEAST_ENTRIES, //
};
use crate::engine::budget::Limits;
use crate::engine::Limit;
use kernel::prelude::*;

/// Returns the name of a limit: of the parameter, and of the attribute in sysfs.
fn name(limit: Limit) -> &'static str {
    match limit {
        Limit::Bytes => "max_bytes",
        Limit::Entries => "max_entries",
    }
}

impl Instance<'_> {
    /// Sets a limit to `value`, which is 0 for text that is no number, and unmaps the idle windows
    /// that exceed it; logs why a value is wrong.
    ///
    /// Context: process, may sleep.
    pub(super) fn set_limit(&self, limit: Limit, value: u64) -> Result {
        let (least, most) = match limit {
            Limit::Bytes => (LEAST_BYTES, self.params.max_bytes),
            Limit::Entries => (LEAST_ENTRIES.into(), self.params.max_entries.into()),
        };
        if !(least..=most).contains(&value) {
            dev_err!(
                self.dev,
                "{}: cannot set the limit: must be between {} and {}\n",
                name(limit),
                least,
                most
            );
            return Err(EINVAL);
        }
        let change = |limits: Limits| match limit {
            Limit::Bytes => Limits {
                bytes: value,
                ..limits
            },
            Limit::Entries => Limits {
                entries: u32::try_from(value).unwrap_or(u32::MAX),
                ..limits
            },
        };
        let result = self.engine.set_limits(change);
        self.notices.log();
        if let Err(fixed) = result {
            dev_err!(
                self.dev,
                "{}: cannot set the limit: {} bytes in {} mappings stay mapped\n",
                name(limit),
                fixed.bytes,
                fixed.entries
            );
            return Err(EBUSY);
        }
        let (limits, usage) = (self.engine.limits(), self.engine.stats().usage);
        dev_info!(
            self.dev,
            "{}: limits changed: at most {} bytes in {} mappings; {} in {} are used\n",
            self.managed,
            limits.bytes,
            limits.entries,
            usage.bytes,
            usage.entries
        );
        Ok(())
    }
}
