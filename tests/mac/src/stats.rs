// SPDX-License-Identifier: GPL-2.0

//! The counters, and their JSON. The names here are the names in `--stats` files and in answers on
//! the control socket; README.md explains them.

use crate::addr::Iova;
use crate::dart::{
    Amounts,
    Refusal, //
};
use crate::sync::lock;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{
        atomic::{
            AtomicU64,
            Ordering, //
        },
        Mutex, //
    },
};

/// Maximum number of texts in a list of violations; the count continues.
const MAX_VIOLATIONS: usize = 64;

/// Maximum number of faults in detail; the count continues.
const MAX_FAULTS: usize = 32;

/// Acts of a guest that a test must not see, in words.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Violations {
    /// Number of acts.
    pub count: u64,
    /// The first of them.
    pub list: Vec<String>,
}

impl Violations {
    /// Counts and logs an act of this kind.
    pub fn add(&mut self, device: &str, kind: &str, what: String) {
        log::warn!("{device}: {kind}: {what}");
        self.count += 1;
        if self.list.len() < MAX_VIOLATIONS {
            self.list.push(what);
        }
    }
}

/// Refused entries by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the names of `Refusal`
pub struct Refusals {
    pub live_key: u64,
    pub slots: u64,
    pub bytes: u64,
    pub not_ram: u64,
    pub unknown_key: u64,
    pub bad_size: u64,
    pub iova_space: u64,
    pub panic: u64,
    pub segment: u64,
    pub fragmented: u64,
    pub injected: u64,
}

impl Refusals {
    /// Counts a refusal.
    pub fn add(&mut self, why: Refusal) {
        let counter = match why {
            Refusal::LiveKey => &mut self.live_key,
            Refusal::Slots => &mut self.slots,
            Refusal::Bytes => &mut self.bytes,
            Refusal::NotRam => &mut self.not_ram,
            Refusal::UnknownKey => &mut self.unknown_key,
            Refusal::BadSize => &mut self.bad_size,
            Refusal::IovaSpace => &mut self.iova_space,
            Refusal::PanicSlots | Refusal::PanicBytes => &mut self.panic,
            Refusal::Segment => &mut self.segment,
            Refusal::Fragmented => &mut self.fragmented,
            Refusal::Injected => &mut self.injected,
        };
        *counter += 1;
    }
}

/// Counters of one companion and of its DART.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CompanionStats {
    /// Doorbell writes.
    pub doorbells: u64,
    /// Nanoseconds spent in doorbells.
    pub doorbell_ns: u64,
    /// Nanoseconds spent in the longest of them.
    pub doorbell_ns_max: u64,
    /// Nanoseconds that doorbells take by the configured costs, without the factor.
    pub modelled_ns: u64,
    /// Nanoseconds that the longest of them takes by the configured costs.
    pub modelled_ns_max: u64,
    /// MAP batches that were not INVAL.
    pub map_batches: u64,
    /// UNMAP batches that were not INVAL.
    pub unmap_batches: u64,
    /// Batches that were INVAL.
    pub inval_batches: u64,
    /// Reason for the last of them.
    pub last_inval: Option<String>,
    /// Entries of the largest batch that was not INVAL.
    pub largest_batch: u64,
    /// MAP entries that succeeded.
    pub entries_mapped: u64,
    /// UNMAP entries that succeeded.
    pub entries_unmapped: u64,
    /// UNMAP entries that succeeded though their size was not the mapping's.
    pub unmap_size_mismatches: u64,
    /// MAP entries of which the host mapped the first part only.
    pub split: u64,
    /// Entries that failed, by cause.
    pub refusals: Refusals,
    /// MAP entries that panic a real Mac.
    pub panics: Violations,
    /// Live mappings now.
    pub live_mappings: u64,
    /// Their bytes in whole granules.
    pub live_bytes: u64,
    /// Most live mappings at a time.
    pub peak_mappings: u64,
    /// Most live bytes at a time.
    pub peak_bytes: u64,
    /// Live mappings when QEMU last disconnected; they were dropped then.
    pub live_at_disconnect: Option<u64>,
    /// Answers that were falsified.
    pub lies: u64,
    /// Resets by the guest's machine.
    pub resets: u64,
    /// Accesses that violate the protocol.
    pub violations: Violations,
}

/// The direction of a DMA access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The device reads guest memory.
    Read,
    /// The device writes guest memory.
    Write,
}

/// Reason for the fault of a DMA access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCause {
    /// A byte is in no live mapping.
    Unmapped,
    /// Bus mastering is off, or the device is not in D0.
    NotMaster,
    /// The mapping leads to memory that is no longer guest RAM.
    NotRam,
}

/// A DMA access that faulted.
#[derive(Clone, Debug, Serialize)]
pub struct FaultDetail {
    /// First IOVA of the access.
    pub iova: Iova,
    /// Length of the access in bytes.
    pub len: u64,
    /// First IOVA that was not mapped.
    pub first: Iova,
    /// Direction of the access.
    pub direction: Direction,
    /// The cause.
    pub cause: FaultCause,
    /// True if bus mastering was off.
    pub bme_off: bool,
    /// True if the command announced the fault.
    pub expected: bool,
}

/// Counters of one managed device. Those on the data path are atomics.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    /// Bytes read by DMA.
    pub read_bytes: AtomicU64,
    /// Bytes written by DMA.
    pub written_bytes: AtomicU64,
    /// DMA accesses.
    pub accesses: AtomicU64,
    /// Commands completed.
    pub commands: AtomicU64,
    /// Interrupts raised.
    pub interrupts: AtomicU64,
    /// Commands that announced a fault and had none.
    pub missing_faults: AtomicU64,
    /// Resets: FLR and those by the guest's machine.
    pub resets: AtomicU64,
    /// Rare events.
    pub rare: Mutex<Rare>,
}

/// Rare events of a managed device.
#[derive(Debug, Default)]
pub struct Rare {
    /// Faults that no command announced.
    pub faults: u64,
    /// Of those, with bus mastering off.
    pub faults_bme_off: u64,
    /// Faults that a command announced.
    pub expected_faults: u64,
    /// The first of the unannounced faults.
    pub fault_list: Vec<FaultDetail>,
    /// Accesses that violate the rules of the device's registers.
    pub violations: Violations,
}

/// Adds to a counter.
pub fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl DeviceCounters {
    /// Counts and logs a fault.
    pub fn fault(&self, device: &str, detail: FaultDetail) {
        let mut rare = lock(&self.rare);
        if detail.expected {
            log::debug!("{device}: expected fault: {detail:?}");
            rare.expected_faults += 1;
            return;
        }
        log::warn!("{device}: DART fault: {detail:x?}");
        rare.faults += 1;
        rare.faults_bme_off += u64::from(detail.bme_off);
        if rare.fault_list.len() < MAX_FAULTS {
            rare.fault_list.push(detail);
        }
    }

    /// Counts and logs a violation.
    pub fn violation(&self, device: &str, what: String) {
        lock(&self.rare).violations.add(device, "violation", what);
    }

    /// Returns the current counters.
    pub fn snapshot(&self) -> DeviceStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let rare = lock(&self.rare);
        DeviceStats {
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
            accesses: get(&self.accesses),
            commands: get(&self.commands),
            interrupts: get(&self.interrupts),
            resets: get(&self.resets),
            faults: rare.faults,
            faults_bme_off: rare.faults_bme_off,
            expected_faults: rare.expected_faults,
            missing_faults: get(&self.missing_faults),
            fault_list: rare.fault_list.clone(),
            violations: rare.violations.clone(),
        }
    }

    /// Sets all counters to 0.
    pub fn clear(&self) {
        for counter in [
            &self.read_bytes,
            &self.written_bytes,
            &self.accesses,
            &self.commands,
            &self.interrupts,
            &self.missing_faults,
            &self.resets,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        *lock(&self.rare) = Rare::default();
    }
}

/// [`DeviceCounters`] as JSON.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the names of `DeviceCounters` and `Rare`
pub struct DeviceStats {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub accesses: u64,
    pub commands: u64,
    pub interrupts: u64,
    pub resets: u64,
    pub faults: u64,
    pub faults_bme_off: u64,
    pub expected_faults: u64,
    pub missing_faults: u64,
    pub fault_list: Vec<FaultDetail>,
    pub violations: Violations,
}

/// One managed device with its companion.
#[derive(Clone, Debug, Serialize)]
pub struct PairStats {
    /// `nvme`, `engine`, `endpoint` or `qemu`.
    pub kind: &'static str,
    /// Of a device of QEMU: whether its accesses are translated.
    pub translated: Option<bool>,
    /// The managed device.
    pub device: DeviceStats,
    /// Its companion, when it has one.
    pub companion: Option<CompanionStats>,
}

/// All counters.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// Counters by the names of the managed devices.
    pub devices: BTreeMap<String, PairStats>,
    /// Amounts that the devices behind a DART have mapped together, by the names of the DARTs that
    /// have one.
    pub darts: BTreeMap<String, Amounts>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(expected: bool) -> FaultDetail {
        FaultDetail {
            iova: Iova(0x1000),
            len: 4,
            first: Iova(0x1002),
            direction: Direction::Write,
            cause: FaultCause::Unmapped,
            bme_off: false,
            expected,
        }
    }

    #[test]
    fn lists_are_capped_and_counts_are_not() {
        let counters = DeviceCounters::default();
        for _ in 0..100 {
            counters.fault("d", fault(false));
            counters.violation("d", "x".into());
        }
        counters.fault("d", fault(true));
        let s = counters.snapshot();
        assert_eq!((s.faults, s.fault_list.len()), (100, MAX_FAULTS));
        assert_eq!(s.expected_faults, 1);
        assert_eq!(s.violations.count, 100);
        assert_eq!(s.violations.list.len(), MAX_VIOLATIONS);
        counters.clear();
        assert_eq!(counters.snapshot().faults, 0);
    }

    #[test]
    fn faults_read_well_as_json() {
        let json = serde_json::to_value(fault(false)).unwrap();
        assert_eq!(json["iova"], 0x1000);
        assert_eq!(json["direction"], "write");
        assert_eq!(json["cause"], "unmapped");
    }
}
