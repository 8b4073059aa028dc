// SPDX-License-Identifier: GPL-2.0

//! Setup and end of a companion: checks of the registers, what the first mappings tell about the
//! host, and whether the shared memory may be freed. The engine's lock is not held here.
//!
//! A check that a companion must pass before its first use belongs here; a check of a later reply
//! belongs into [`wire`](super::wire).

use super::{
    buffers::{
        CommandBuffers,
        SharedBuffer, //
    },
    doorbell_stats::DoorbellStats,
    notices::Notices,
    registers::{
        Registers,
        BAR,
        BAR_SIZE,
        PCI_ERROR_RESPONSE, //
    },
    wire::{
        BatchStatus,
        Dialect, //
    },
    Companion, //
};
use crate::abstractions::raw;
use crate::addr::{
    Address,
    Gpa,
    GpaSpan,
    Iova,
    GRANULE, //
};
use crate::bindings as uapi;
use crate::device::bdf::ManagedFunction;
use crate::engine::{
    Command,
    Host,
    MapEntry,
    MapOutcome,
    Markers,
    UnmapEntry,
    UnmapOutcome, //
};
use crate::observe::trace::EventSource;
use core::mem::{
    size_of,
    ManuallyDrop, //
};
use kernel::{
    device::{
        Bound,
        Core, //
    },
    dma::{
        Device as _,
        DmaMask, //
    },
    pci,
    prelude::*,
    sync::Arc, //
};

/// The origin of the managed device's addresses.
#[derive(Clone, Copy)]
pub(crate) enum Dart {
    /// The DART, which assigns them; this was the first.
    Assigns(Iova),
    /// No DART: the device uses guest-physical addresses. This is the case with a host for
    /// development, which has no DriverKit extension to talk to.
    None,
}

/// A PCI device that is enabled, until this is dropped.
pub(super) struct EnabledDevice<'a>(&'a pci::Device<Bound>);

impl<'a> EnabledDevice<'a> {
    fn new(dev: &'a pci::Device<Core<'_>>) -> Result<Self> {
        dev.enable_device_mem()?;
        dev.set_master();
        Ok(Self(dev))
    }
}

impl Drop for EnabledDevice<'_> {
    fn drop(&mut self) {
        // SAFETY: The device was enabled, and its driver is still bound.
        unsafe { kernel::bindings::pci_disable_device(raw::pci_dev(self.0)) };
    }
}

/// Reports that a companion does not respond.
fn report_gone(dev: &pci::Device<Bound>) {
    dev_err!(dev, "registers read all-ones: companion does not respond\n");
}

/// Checks the protocol version, and returns the most requests of a batch that the host accepts.
/// Reports what is wrong.
fn check(dev: &pci::Device<Bound>, registers: &Registers<'_>) -> Result<u32> {
    let version = registers.version();
    if version == PCI_ERROR_RESPONSE {
        report_gone(dev);
        return Err(ENODEV);
    }
    if version != uapi::APPLE_DMA_PCI_VERSION {
        dev_err!(
            dev,
            "protocol version {} is not supported: expected {}\n",
            version,
            uapi::APPLE_DMA_PCI_VERSION
        );
        return Err(ENODEV);
    }
    let max_entries = registers.max_entries();
    if max_entries == 0 || max_entries == PCI_ERROR_RESPONSE {
        dev_err!(
            dev,
            "MAX_ENTRIES: invalid value {:#x}: no batch can be sent\n",
            max_entries
        );
        return Err(ENODEV);
    }
    Ok(max_entries)
}

/// A companion whose registers can be read, and are not checked yet.
pub(crate) struct OpenedCompanion<'a> {
    registers: Registers<'a>,
    /// Last, since it is dropped after the registers.
    enabled: EnabledDevice<'a>,
}

impl<'a> OpenedCompanion<'a> {
    /// Enables `dev` and maps its registers. Reports what is wrong.
    ///
    /// Context: process, may sleep.
    pub(crate) fn new(dev: &'a pci::Device<Core<'_>>) -> Result<Self> {
        let enabled = EnabledDevice::new(dev)?;
        let len = dev.resource_len(BAR)?;
        if len < BAR_SIZE as u64 {
            dev_err!(
                dev,
                "BAR {}: invalid size {:#x}: expected {:#x}\n",
                BAR,
                len,
                BAR_SIZE
            );
            return Err(ENODEV);
        }
        Ok(Self {
            registers: Registers::new(dev)?,
            enabled,
        })
    }

    /// Returns the address of the managed device as the host knows it, `bus << 8 | devfn`; reports
    /// a companion that does not respond at all.
    pub(crate) fn managed_bdf(&self) -> Result<u32> {
        let (bdf, version) = (self.registers.managed_bdf(), self.registers.version());
        if bdf == PCI_ERROR_RESPONSE && version == PCI_ERROR_RESPONSE {
            report_gone(self.enabled.0);
            return Err(ENODEV);
        }
        Ok(bdf)
    }
}

impl<'a> Companion<'a> {
    /// Creates the companion of `dev`, which manages `managed`: checks its registers, and learns
    /// the dialect of the host by mapping one of `markers`. No batch has more than `batch_max`
    /// requests. Reports what is wrong.
    ///
    /// Also returns what was learnt of the host's DART. [`Self::markers`] tells how the kernel
    /// before ended.
    ///
    /// Context: process, may sleep.
    pub(crate) fn probe(
        dev: &'a pci::Device<Core<'_>>,
        opened: OpenedCompanion<'a>,
        managed: &ManagedFunction<'a>,
        markers: Markers,
        batch_max: u32,
    ) -> Result<(Self, Dart)> {
        let OpenedCompanion { registers, enabled } = opened;
        let max_entries = check(dev, &registers)?;
        // CAST: `usize` has at least 32 bits.
        let batch_max = max_entries.min(batch_max) as usize;

        // SAFETY: No mapping nor allocation was made for the device yet.
        unsafe { dev.dma_set_mask_and_coherent(DmaMask::new::<64>())? };
        let notices = Arc::pin_init(Notices::new(dev), GFP_KERNEL)?;
        let doorbell_stats = KBox::new(DoorbellStats::new(), GFP_KERNEL)?;
        // The last step that may fail before there is a companion, whose `drop` frees the buffers.
        let buffers = CommandBuffers::new(dev, batch_max)?;
        let mut companion = Self {
            dev,
            registers,
            buffers: ManuallyDrop::new(buffers),
            dialect: Dialect::U64,
            max_entries,
            batch_max,
            pending_since: None,
            timeouts: 0,
            renewals: 0,
            doorbell_stats,
            origin: EventSource::new(&ManagedFunction::of(dev), managed),
            notices,
            markers,
            _enabled: enabled,
        };
        companion.program();
        let dart = companion.negotiate()?;
        Ok((companion, dart))
    }

    /// Maps the first marker that the host does not have, which also tells the dialect, and that
    /// the host works at all. The managed device does no DMA: an earlier kernel may have mapped the
    /// same memory for it.
    fn negotiate(&mut self) -> Result<Dart> {
        let mut markers = self.markers;
        let taken = markers.take(self, Self::probe_map, Self::probe_unmap);
        self.notices.log();
        // What this kernel has mapped is unmapped if this fails.
        self.markers = markers;
        let Some((span, outcome)) = taken? else {
            // The host has them all, if it does not refuse everything.
            return self.negotiate_by_granule();
        };
        let iova = self.first_iova(outcome).inspect_err(|_| {
            self.markers.returned();
            self.unmap_first(&span);
        })?;
        if iova.raw() != span.start().raw() || !self.is_identity() {
            return Ok(Dart::Assigns(iova));
        }
        // Nothing will be mapped.
        self.markers = Markers::NONE;
        if self.unmap_first(&span) {
            Ok(Dart::None)
        } else {
            Err(EIO)
        }
    }

    /// Maps one granule and unmaps it again.
    fn negotiate_by_granule(&mut self) -> Result<Dart> {
        let dev = self.dev;
        // CAST: A granule is small.
        let words = const { GRANULE as usize / size_of::<u32>() };
        let page = SharedBuffer::new(dev, words)?;
        let span = GpaSpan::new(page.gpa(), GRANULE).ok_or(EINVAL)?;

        // An earlier kernel may have left a mapping with this key; then the second try works.
        let mut outcome = MapOutcome::Refused;
        for _ in 0..2 {
            outcome = self.probe_map(&span)?;
            self.notices.log();
            if outcome != MapOutcome::Refused || !self.probe_unmap(&span) {
                break;
            }
            dev_info!(dev, "unmapped a mapping that an earlier kernel left\n");
        }
        let iova = self.first_iova(outcome);
        if outcome != MapOutcome::Refused && !self.unmap_first(&span) {
            return Err(EIO);
        }
        iova.map(Dart::Assigns)
    }

    /// Returns the address of the first mapping, by the outcome of the request for it; reports what
    /// is wrong.
    fn first_iova(&self, outcome: MapOutcome) -> Result<Iova> {
        let dev = self.dev;
        match outcome {
            MapOutcome::Mapped(iova) => return Ok(iova),
            MapOutcome::Refused => {
                dev_err!(dev, "host refused to map a single page of guest RAM\n");
            }
            MapOutcome::Rejected(error) => {
                dev_err!(
                    dev,
                    "invalid reply to the first request: {}\n",
                    error.as_str()
                );
            }
            MapOutcome::Unknown => {
                dev_err!(dev, "no reply to the first request\n");
            }
        }
        Err(EIO)
    }

    /// Unmaps the first mapping; reports a failure. Returns whether the host did.
    fn unmap_first(&mut self, span: &GpaSpan) -> bool {
        let is_unmapped = self.probe_unmap(span);
        if !is_unmapped {
            dev_err!(self.dev, "host failed to unmap the first mapping\n");
        }
        is_unmapped
    }

    /// Returns whether the host maps a page beside the marker at its guest-physical address as
    /// well, while the marker is mapped there. A DART cannot map two ranges at one address, and the
    /// two are in one granule, so there is none.
    fn is_identity(&mut self) -> bool {
        let Some(page) = self.markers.neighbour() else {
            return false;
        };
        let mut batch = [MapEntry::new(page)];
        self.map(&mut batch);
        let [entry] = batch;
        match entry.outcome {
            MapOutcome::Mapped(iova) => self.probe_unmap(&page) && iova.raw() == page.start().raw(),
            _ => false,
        }
    }

    /// Leaves unmapping of the markers to the engine.
    ///
    /// Context: any.
    pub(crate) fn leave_markers(&mut self) {
        self.markers = Markers::NONE;
    }

    /// Sends the first map request, which reads the same in both dialects, and learns the host's
    /// dialect from the response.
    fn probe_map(&mut self, span: &GpaSpan) -> Result<MapOutcome> {
        let request = Dialect::U64.map_request(span);
        let empty = Dialect::U64.empty_map_response();
        self.buffers.put_request(0, &request, &empty);
        match self.ring(Command::Map, 1) {
            BatchStatus::Answered => {}
            BatchStatus::Invalid => {
                dev_err!(self.dev, "host rejected the first request as malformed\n");
                return Err(EIO);
            }
            BatchStatus::Pending | BatchStatus::Unknown => return Ok(MapOutcome::Unknown),
        }
        let response = self.buffers.response(0, empty);
        let Some(dialect) = Dialect::detect(&response) else {
            return Ok(MapOutcome::Unknown);
        };
        self.dialect = dialect;
        let response = self.buffers.response(0, dialect.empty_map_response());
        Ok(dialect.map_outcome(span, &response))
    }

    /// Unmaps `span` and returns whether the host did.
    fn probe_unmap(&mut self, span: &GpaSpan) -> bool {
        let mut batch = [UnmapEntry::new(*span)];
        self.unmap(&mut batch);
        self.notices.log();
        batch
            .iter()
            .all(|entry| entry.outcome == UnmapOutcome::Unmapped)
    }
}

impl Drop for Companion<'_> {
    fn drop(&mut self) {
        // Nothing else is mapped.
        if let Some(span) = self.markers.returnable() {
            self.unmap_first(&span);
        }
        // The device forgets the command block before its memory is used for something else.
        self.registers.set_command_block(Gpa::new(0));
        if self.pending_since.is_some() && self.status() == BatchStatus::Pending {
            dev_warn!(
                self.dev,
                "command buffers are not freed: the host may still write to them\n"
            );
            return;
        }
        // SAFETY: The buffers are not used after this: not here, and not by the host either, since
        // every batch is finished.
        unsafe { ManuallyDrop::drop(&mut self.buffers) };
    }
}
