// SPDX-License-Identifier: GPL-2.0

//! The contents of an instance's files in debugfs and sysfs; see `limits` for what is written to
//! them.
//!
//! `docs/ABI/testing/` documents the names that are printed here, and has to be changed with them.

use super::{
    search,
    Instance, //
};
use crate::engine::index::arena::Id;
use crate::engine::{
    Host,
    HostError,
    Limit,
    MapError,
    Pressure,
    SearchState,
    Snapshot,
    WindowInfo,
    WindowStatus, //
};
use crate::observe::files::{
    FileKind,
    Inspect,
    Summary, //
};
use crate::sys::Relaxed;
use kernel::{
    fmt,
    prelude::*,
    seq_file::SeqFile,
    seq_print, //
};

/// The length of the buffer for a driver's name.
const DRIVER: usize = 64;

/// Prints a line of a name and a value.
fn line(file: &SeqFile, name: &str, value: impl fmt::Display) {
    seq_print!(file, "{} {}\n", name, value);
}

/// Prints a line for each counter.
fn counters(file: &SeqFile, counters: impl Iterator<Item = (&'static str, u64)>) {
    for (name, value) in counters {
        line(file, name, value);
    }
}

/// Prints a line for each count of a histogram by powers of two that is not 0.
fn histogram(file: &SeqFile, name: impl fmt::Display, counts: &[u32]) {
    for (power, count) in counts.iter().enumerate().filter(|(_, count)| **count != 0) {
        // CAST: There are at most 64 places.
        let size = 1u64.checked_shl(power as u32).unwrap_or(0);
        seq_print!(file, "{}_{} {}\n", name, size, count);
    }
}

impl Instance<'_> {
    /// Prints the state of the instance and its limits.
    fn show_status(&self, file: &SeqFile) {
        let mut name = [0; DRIVER];
        let (usage, ram) = (self.engine.stats().usage, self.engine.ram_bytes());
        let limits = self.engine.limits();
        let is_ready = self.engine.with_host(Host::is_ready);
        line(file, "managed", self.managed);
        line(file, "driver", self.managed.driver(&mut name));
        line(file, "mode", self.mode.name());
        line(file, "dialect", self.dialect.name());
        line(file, "host", if is_ready { "ready" } else { "silent" });
        line(file, "ram_bytes", ram);
        line(file, "bytes", usage.bytes);
        line(file, "peak_bytes", usage.peak_bytes);
        line(file, "max_bytes", limits.bytes);
        line(file, "padding_bytes", usage.padding);
        line(file, "entries", usage.entries);
        line(file, "peak_entries", usage.peak_entries);
        line(file, "max_entries", limits.entries);
        let (search, (limit_bytes, limit_entries)) =
            (self.engine.search_state(), self.engine.allowance());
        line(file, "limit_bytes", limit_bytes);
        line(file, "limit_entries", limit_entries);
        line(
            file,
            "search",
            match search {
                SearchState {
                    is_running: true, ..
                } => "running",
                SearchState { scanned: 0, .. } => "none",
                _ => "done",
            },
        );
        line(file, "search_percent", search::percent(search));
        let available = self.engine.available();
        line(file, "available_bytes", available.bytes.left);
        line(file, "available_entries", available.entries.left);
        let pressure = Instance::pressure(self);
        line(file, "pressure", pressure.name().to_str().unwrap_or("?"));
        line(file, "batch_max", self.batch_max);
        line(file, "max_idle", self.params.max_idle);
        // CAST: The discriminants are small.
        line(file, "congruent", self.engine.large_pages() as u8);
        let copies = self.copy_stats();
        line(file, "copy", self.copy_mode().name());
        line(file, "copy_bytes", copies.pool);
        line(file, "copy_used_bytes", copies.used);
        line(file, "copy_peak_bytes", copies.peak);
    }

    /// Prints the counters of events.
    fn show_counters(&self, file: &SeqFile, snapshot: &Snapshot) {
        let (stats, copies) = (&snapshot.stats, self.copy_stats());
        line(file, "maps", snapshot.maps().saturating_add(copies.copies));
        line(
            file,
            "unmaps",
            snapshot.unmaps().saturating_add(copies.ended),
        );
        line(file, "hits", snapshot.hits());
        counters(file, stats.counters.mappings());
        line(file, "misuses", self.misuses.load(Relaxed));
        line(file, "copies", copies.copies);
        line(file, "copies_bytes_in", copies.bytes_in);
        line(file, "copies_bytes_out", copies.bytes_out);
        line(file, "copies_waited", copies.waited);
        line(file, "copies_full", copies.full);
        counters(file, stats.counters.windows());
        let mut all: u64 = 0;
        for (name, count) in MapError::NAMES.iter().zip(&self.failures) {
            let count = count.load(Relaxed);
            all = all.saturating_add(count);
            seq_print!(file, "refusals_{} {}\n", *name, count);
        }
        line(file, "refusals", all);
        counters(file, stats.counters.retries());
        let renewals = self.engine.with_host(|host| host.renewals());
        line(file, "retries_renewed", renewals);
        let mut all: u64 = 0;
        for (error, count) in HostError::all().zip(stats.host_errors) {
            let count = count.get();
            all = all.saturating_add(count);
            seq_print!(file, "host_errors_{} {}\n", error.name(), count);
        }
        line(file, "host_errors", all);
    }

    /// Prints the statistics of the batches that were sent to the host.
    fn show_doorbells(&self, file: &SeqFile) {
        let (doorbell_stats, max_entries) = self
            .engine
            .with_host(|host| (host.doorbell_stats(), host.max_entries()));
        line(file, "host_max_batch", max_entries);
        for (command, stats) in doorbell_stats.commands() {
            let name = command.name();
            for (what, value) in [
                ("count", stats.count),
                ("entries", stats.requests),
                ("entries_max", stats.requests_max.into()),
                ("ns", stats.ns),
                ("ns_max", stats.ns_max),
            ] {
                seq_print!(file, "{}_{} {}\n", name, what, value);
            }
            histogram(file, fmt!("{}_entries", name), &stats.by_requests);
            histogram(file, fmt!("{}_ns", name), &stats.by_ns);
        }
        for (status, count) in doorbell_stats.statuses() {
            seq_print!(file, "status_{} {}\n", status.name(), count);
        }
        line(file, "posted", doorbell_stats.posted);
        counters(file, self.engine.costs().known());
    }

    /// Prints the number of windows by status and length.
    fn show_sizes(file: &SeqFile, snapshot: &Snapshot) {
        for (status, sizes) in WindowStatus::ALL.iter().zip(&snapshot.sizes) {
            if let Ok(name) = status.name().to_str() {
                histogram(file, name, sizes);
            }
        }
    }
}

impl Inspect for Instance<'_> {
    fn show(&self, kind: FileKind, file: &SeqFile) -> Result {
        let snapshot = || -> Result<KBox<Snapshot>> {
            // A snapshot is too large for the stack.
            let mut snapshot = KBox::new(Snapshot::new(), GFP_KERNEL)?;
            self.engine.snapshot(&mut snapshot);
            Ok(snapshot)
        };
        match kind {
            FileKind::Status => self.show_status(file),
            FileKind::Doorbells => self.show_doorbells(file),
            FileKind::Counters => self.show_counters(file, &*snapshot()?),
            FileKind::Sizes => Self::show_sizes(file, &*snapshot()?),
        }
        Ok(())
    }

    fn window(&self, from: Id) -> Option<(Id, WindowInfo)> {
        self.engine.window_from(from)
    }

    fn summary(&self) -> Summary<'_> {
        let (usage, limits) = (self.engine.stats().usage, self.engine.limits());
        Summary {
            managed: self.source.device(),
            mode: self.mode.name(),
            bytes: (usage.bytes, limits.bytes),
            entries: (usage.entries, limits.entries),
        }
    }

    fn set_limit(&self, limit: Limit, value: u64) -> Result {
        Instance::set_limit(self, limit, value)
    }

    fn pressure(&self) -> Pressure {
        Instance::pressure(self)
    }

    fn reset_peaks(&self) {
        self.engine.reset_peaks();
        self.engine.with_host(|host| host.reset_peaks());
        if let Some(pool) = &self.copy_pool {
            pool.reset_peak();
        }
    }
}
