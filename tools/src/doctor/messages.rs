// SPDX-License-Identifier: GPL-2.0

//! Every message of the module, with its meaning and advice, and the kernel's messages about the
//! module. docs/troubleshooting.md has the same tables; a test compares these, the module's sources
//! and the document.
//!
//! A format is that of the sources, with names in its braces.

use crate::doctor::finding::Severity;
use regex_lite::Regex;

/// A message.
pub struct Message {
    /// The format, with names for the variable parts.
    pub format: &'static str,
    /// Severity; [`Severity::Ok`] if no action is needed.
    pub severity: Severity,
    /// The meaning.
    pub meaning: &'static str,
    /// The advice.
    pub advice: &'static str,
}

impl Message {
    /// Returns the format as the document has it.
    #[cfg(test)]
    pub fn shown(&self) -> String {
        let mut shown = String::new();
        for (index, part) in self.format.split(['{', '}']).enumerate() {
            if index % 2 == 0 {
                shown.push_str(part);
            } else {
                shown.push_str(&part.to_uppercase());
            }
        }
        shown
    }

    /// Returns the expression that matches the message.
    fn regex(&self) -> Option<Regex> {
        let mut regex = String::from("^");
        for (index, part) in self.format.split(['{', '}']).enumerate() {
            if index % 2 == 0 {
                regex.push_str(&regex_lite::escape(part));
            } else {
                regex.push_str("(.+?)");
            }
        }
        Regex::new(&(regex + "$")).ok()
    }

    /// Returns the number of constant characters.
    fn weight(&self) -> usize {
        self.format.split(['{', '}']).step_by(2).map(str::len).sum()
    }
}

const fn message(
    severity: Severity,
    format: &'static str,
    meaning: &'static str,
    advice: &'static str,
) -> Message {
    Message {
        format,
        severity,
        meaning,
        advice,
    }
}

const fn problem(format: &'static str, meaning: &'static str, advice: &'static str) -> Message {
    message(Severity::Problem, format, meaning, advice)
}

const fn warning(format: &'static str, meaning: &'static str, advice: &'static str) -> Message {
    message(Severity::Warning, format, meaning, advice)
}

const fn remark(format: &'static str, meaning: &'static str) -> Message {
    message(Severity::Ok, format, meaning, "nothing to do")
}

const BROKEN: &str = "use another version of QEMU: its companion does not follow docs/protocol.md";
const NO_IOMMU: &str = "start QEMU without a virtual IOMMU and without anything else that \
    translates addresses: the module cannot work on top of them";
const ALL_OF_RAM: &str = "remove the parameter, reduce the guest's RAM, or raise max_bytes if the \
    platform has room; or use a kernel with CONFIG_ARCH_HAS_DMA_OPS";
const NAME_IT: &str =
    "name the companion's device: managed=COMPANION=DEVICE, see docs/parameters.md";
const PARAMETER: &str =
    "correct the parameter, in modprobe.d or on the kernel's command line, and \
    load the module again";
const DRIVER_BUG: &str = "report it to the authors of the driver; CONFIG_DMA_API_DEBUG locates it";
const RETRIED: &str =
    "the module retries every few seconds, and less often the longer the host is \
    silent; if it stays silent, restart QEMU";
const BAD_PARAMETER: &str = "the module was not loaded because of this parameter";

/// The message of a module without problems: earlier messages no longer apply.
pub const MANAGES: &str = "manages {device}: {mode} mode, {dialect} dialect, addresses like \
    {address}, at most {mib} MiB in {n} mappings";

/// Messages, with the earlier messages that no longer apply after them.
pub const ENDS: &[(&str, &[&str])] = &[
    (
        "host is responding again after {n} ms ({how})",
        &[
            "host timed out after {n} ms; new mappings fail until it responds",
            "registers read all-ones: companion does not respond",
        ],
    ),
    (
        "{device}: managed device appeared",
        &["{device}: managed device not present; waiting for it"],
    ),
    (
        "unmapped all that an earlier kernel left: {n} mappings",
        &[
            "an earlier kernel did not unmap its memory: unmapped {n} mappings so far; until all \
             are found, in about {n} s, at most {n} MiB in {n} mappings are used",
        ],
    ),
    (
        "host unmapped {n} mappings on retry",
        &["host failed to unmap {n} mappings; retrying"],
    ),
];

/// Messages of the module.
pub const MESSAGES: &[Message] = &[
    // Probing a companion.
    remark(
        MANAGES,
        "all is well. MODE is whole-ram, direct, bounce, lazy or strict, see docs/parameters.md, \
         or identity: the host has no DART",
    ),
    remark(
        "{device}: detached its driver; it is re-probed with managed DMA",
        "the driver was bound before the module was loaded; it is bound again at once",
    ),
    remark(
        "{device}: managed device appeared",
        "the device was added, for the first time or after a removal",
    ),
    remark(
        "unmapped a mapping that an earlier kernel left",
        "the guest was not shut down in order",
    ),
    warning(
        "an earlier kernel did not unmap its memory: unmapped {n} mappings so far; until all \
         are found, in about {n} s, at most {n} MiB in {n} mappings are used",
        "the guest crashed, or was reset. The platform may still hold all that the kernel \
         before had mapped, so only what is certainly free beside that is used, and mappings \
         beyond that fail; see docs/parameters.md",
        "wait; to be done with it at once, restart QEMU",
    ),
    remark(
        "unmapped all that an earlier kernel left: {n} mappings",
        "max_bytes and max_entries apply",
    ),
    remark(
        "searching for what an earlier kernel left, before the device is used: {n}% done",
        "all of RAM must be mapped, or nothing of the platform is certainly free, since several \
         kernels in a row have crashed",
    ),
    problem(
        "cannot find what an earlier kernel left: host does not reply",
        "the host is silent, and all of RAM must be mapped, or nothing of the platform is \
         certainly free",
        "restart QEMU",
    ),
    remark(
        "kernel for crash dumps: beside what the crashed kernel left, at most {n} MiB in {n} \
         mappings are used",
        "that is enough to write a dump",
    ),
    problem(
        "kernel for crash dumps: others like it left mappings, and no more are certainly free",
        "kernels for crash dumps have crashed themselves, or were reset",
        "restart the guest: a full kernel finds what all of them left",
    ),
    remark(
        "cannot map all of RAM at once before all is found that an earlier kernel left; mapping \
         on demand",
        "the module uses lazy mode until it is loaded again",
    ),
    remark(
        "MANAGED_BDF: unexpected bus {bus}; using the companion's bus {bus}",
        "the device is behind a bridge that the firmware had not numbered yet when QEMU created \
         the companion",
    ),
    remark(
        "MANAGED_BDF: using bus {bus}, which it names; the companion is on bus {bus}",
        "the companion was created apart from its device, and names it rightly",
    ),
    warning(
        "MANAGED_BDF: {device} and {device} may be meant; the parameter managed can name either",
        "the device has the same place on the companion's bus as another device on the bus that \
         the companion names; the message 'manages DEVICE' says which one was taken",
        NAME_IT,
    ),
    remark(
        "{device}: named by the parameter managed; MANAGED_BDF is {n}",
        "the parameter decides which device the companion manages",
    ),
    remark(
        "cannot map all of RAM at once: {cause}; mapping on demand",
        "the module uses lazy mode",
    ),
    warning(
        "host has no DART; DMA addresses are guest-physical",
        "a QEMU for development, without the DriverKit extension: nothing is mapped",
        "on a Mac with a passed-through device, have the DriverKit extension loaded and approved, \
         and restart QEMU",
    ),
    problem(
        "{device}: managed device not present; waiting for it",
        "QEMU was started with the companion but without its device, or the device was removed",
        "add the device to the guest; the module manages it when it appears, at the latest after: \
         echo 1 >/sys/bus/pci/rescan",
    ),
    problem(
        "protocol version {n} is not supported: expected {n}",
        "the versions of QEMU and of the module are too far apart",
        "update the older of the two",
    ),
    problem(
        "MAX_ENTRIES: invalid value {n}: no batch can be sent",
        "the companion is broken",
        BROKEN,
    ),
    problem(
        "MANAGED_BDF: invalid value {n}: not the address of a device",
        "the companion is broken",
        BROKEN,
    ),
    problem(
        "MANAGED_BDF: invalid value {n}: the companion's own address",
        "the companion is broken",
        BROKEN,
    ),
    problem(
        "MANAGED_BDF: invalid value {n}: a bridge; name the device by the parameter managed",
        "the companion was created before its device's bus had a number, and on another bus",
        NAME_IT,
    ),
    problem(
        "{device}: named by the parameter managed, but a bridge or a companion",
        "the companion is not used, and its device is not managed",
        NAME_IT,
    ),
    message(
        Severity::Ok,
        "{device}: gets no driver until its companion {companion} is bound",
        "the device appeared while its companion could not be used, or was unbound",
        "see the messages about the companion; then: \
         echo COMPANION >/sys/bus/pci/drivers/apple_dma_pci/bind",
    ),
    problem(
        "{device}: gets no driver, since its DMA is not managed; when the cause is mended, bind \
         this companion again",
        "the companion's probe failed, as the messages before this one say. With a driver, the \
         device would access memory by guest-physical addresses, which can bring the Mac down",
        "mend the cause, then: echo COMPANION >/sys/bus/pci/drivers/apple_dma_pci/bind, or restart \
         the guest",
    ),
    problem(
        "BAR {n}: invalid size {n}: expected {n}",
        "the companion is another device than this module knows",
        BROKEN,
    ),
    problem(
        "bus is not supported: DMA is not cache-coherent",
        "the firmware says that the CPU's caches are not coherent with DMA",
        "use QEMU's machine 'virt' on arm64 and 'q35' on amd64, whose DMA is coherent",
    ),
    problem(
        "bus is not supported: the guest has an IOMMU on it",
        "a virtual IOMMU assigns the device's addresses already",
        NO_IOMMU,
    ),
    problem(
        "bus is not supported: DMA addresses are translated",
        "the firmware says that DMA addresses are not guest-physical",
        NO_IOMMU,
    ),
    problem(
        "{device}: failed to create a device link to the companion",
        "the driver core does not make the companion the device's supplier",
        "see the kernel's messages before this one; something else may manage the device, or the \
         guest is out of memory",
    ),
    warning(
        "{device}: driver {driver} leaves DMA to programs: it is not managed; unbind that driver",
        "a driver for programs, as that of VFIO without an IOMMU, was bound to the device, or one \
         that reserves the device for such use. A program has it access guest-physical addresses, \
         which are not mapped: that may bring the Mac down",
        "echo DEVICE >/sys/bus/pci/drivers/DRIVER/unbind; echo >/sys/bus/pci/devices/DEVICE/\
         driver_override; echo DEVICE >/sys/bus/pci/drivers_probe",
    ),
    problem(
        "{device}: cannot manage its DMA: it has {what} of its own",
        "something else in the guest manages the device's DMA",
        "prevent that from being loaded, or start QEMU without it",
    ),
    problem(
        "host refused to map a single page of guest RAM",
        "the host is at its limits, or its DriverKit extension does not run",
        "on the Mac, check that the extension is loaded and the device is free; end other guests, \
         and restart QEMU",
    ),
    problem(
        "invalid reply to the first request: {cause}",
        "the companion does not follow the protocol",
        BROKEN,
    ),
    problem(
        "no reply to the first request",
        "the companion does not follow the protocol, or QEMU hangs",
        BROKEN,
    ),
    problem(
        "host failed to unmap the first mapping",
        "the companion does not follow the protocol",
        BROKEN,
    ),
    problem(
        "host rejected the first request as malformed",
        "the companion does not follow the protocol",
        BROKEN,
    ),
    problem(
        "{because}: cannot map all of RAM at once: excluded by {parameter}",
        "the kernel or the parameters require two things that exclude each other",
        ALL_OF_RAM,
    ),
    problem(
        "{because}: cannot map all of RAM at once: {n} MiB do not fit max_bytes={n} with an \
         eighth to spare",
        "the guest has more RAM than may be mapped",
        ALL_OF_RAM,
    ),
    problem(
        "{because}: cannot map all of RAM at once: {cause}",
        "the host did not map it",
        ALL_OF_RAM,
    ),
    problem(
        "{because}: cannot use direct mapping: RAM is contiguous at {address}, but its DMA \
         addresses are not",
        "the host has no contiguous range of addresses for RAM",
        ALL_OF_RAM,
    ),
    warning(
        "coherent memory may be misaligned: RAM at {address} is mapped at {address}",
        "in direct mode coherent memory is as aligned as RAM is mapped: some drivers rely on \
         addresses that are multiples of the size",
        "use whole_ram=1; on a kernel without CONFIG_ARCH_HAS_DMA_OPS, load the module again",
    ),
    problem(
        "{because}: cannot bounce: the kernel has {n} MiB of fixed bounce buffers, not {n}; boot \
         it with swiotlb=65536",
        "all of RAM does not fit, and the kernel reserved too few bounce buffers, or can move \
         them (CONFIG_SWIOTLB_DYNAMIC)",
        "add swiotlb=65536 (128 MiB) to the kernel's command line, or reduce the guest's RAM, or \
         use a kernel with CONFIG_ARCH_HAS_DMA_OPS",
    ),
    problem(
        "{because}: cannot bounce: not known how this kernel reserves coherent memory",
        "the kernel has no CONFIG_DMA_DECLARE_COHERENT, or is newer than this version of the \
         module",
        "use a version of the module that knows the kernel, or reduce the guest's RAM, or use a \
         kernel with CONFIG_ARCH_HAS_DMA_OPS",
    ),
    problem(
        "{because}: cannot bounce: no coherent memory",
        "the guest has no contiguous memory left",
        "load the module earlier, or restart the guest",
    ),
    problem(
        "{because}: cannot bounce: the kernel does not use reserved coherent memory as expected",
        "the kernel's sources differ from those that the module knows",
        "report it, with the kernel's version",
    ),
    problem(
        "{because}: cannot bounce: cannot map {n} MiB of bounce buffers and {n} MiB of coherent \
         memory: {cause}",
        "the host did not map them, or they do not fit max_bytes",
        "raise max_bytes if the platform has room, reduce swiotlb=, or reduce the guest's RAM, \
         or use a kernel with CONFIG_ARCH_HAS_DMA_OPS",
    ),
    remark(
        "bounces through {n} MiB of buffers of the kernel, has {n} MiB of coherent memory",
        "all of RAM does not fit: what drivers map is copied through these buffers",
    ),
    problem(
        "{device}: its driver gets no coherent memory: addresses up to {address} may not fit its \
         mask",
        "in bounce mode addresses of coherent memory are not checked: beyond 32 bits only NVMe \
         controllers get any",
        "reduce the guest's RAM, or use a kernel with CONFIG_ARCH_HAS_DMA_OPS",
    ),
    warning(
        "{device}: cannot set up its copy pool: no memory or no room on the host; not copying",
        "all of the device's memory is mapped by windows, whatever the parameter copy says",
        "give the guest more memory, or make copy_bytes smaller or max_bytes larger, and load the \
         module again",
    ),
    // Parameters.
    problem(
        "{parameter}={n}: invalid value: must be 0 or 1",
        BAD_PARAMETER,
        PARAMETER,
    ),
    problem(
        "whole_ram={n}: invalid value: must be 0 to 3",
        BAD_PARAMETER,
        PARAMETER,
    ),
    problem(
        "congruent={n}: invalid value: must be 0 to 2",
        BAD_PARAMETER,
        PARAMETER,
    ),
    problem(
        "max_bytes={n}: invalid value: must be between 1 MiB and 1 PiB",
        BAD_PARAMETER,
        PARAMETER,
    ),
    problem(
        "max_entries={n}: invalid value: must be between 16 and 1048576",
        BAD_PARAMETER,
        PARAMETER,
    ),
    problem(
        "max_idle={n}: invalid value: must be at most 86400",
        BAD_PARAMETER,
        PARAMETER,
    ),
    problem(
        "max_batch={n}: invalid value: must be 0 to 256",
        BAD_PARAMETER,
        PARAMETER,
    ),
    problem(
        "copy={text}: invalid value: must be auto, never or always",
        BAD_PARAMETER,
        PARAMETER,
    ),
    problem(
        "copy_bytes={n}: invalid value: must be 0, or between 256 KiB and half of max_bytes",
        BAD_PARAMETER,
        PARAMETER,
    ),
    problem(
        "managed={list}: invalid value: must be COMPANION=DEVICE[,...], PCI addresses",
        BAD_PARAMETER,
        PARAMETER,
    ),
    // Limits that are written to sysfs.
    problem(
        "{limit}: cannot set the limit: must be between {n} and {n}",
        "something else was written to the file max_bytes or max_entries of the companion; the \
         limit is what it was",
        "write a number of bytes or mappings in that range; the parameter of the same name is the \
         most",
    ),
    problem(
        "{limit}: cannot set the limit: {n} bytes in {n} mappings stay mapped",
        "the limit that was written is below what stays mapped until the module is unloaded: all \
         of RAM in `whole-ram` mode, else the copy pool; it is what it was",
        "write at least that, or load the module with whole_ram=0, copy=never or less copy_bytes",
    ),
    remark(
        "{device}: limits changed: at most {n} bytes in {n} mappings; {n} in {n} are used",
        "a limit was written to a file of the companion in sysfs. If more is used, nothing is \
         mapped until the driver has unmapped enough",
    ),
    // Calls of the device's driver.
    problem(
        "{device}: cannot map {what} at {address}: {cause}: {n} of max_bytes={n}, {n} of \
         max_entries={n} used",
        "the device's driver has more mapped than the limits allow: its I/O fails or waits",
        "reduce the device's load, or raise the limit if the platform has room",
    ),
    problem(
        "{device}: cannot map {what} at {address}: {cause}: {address} > {address}",
        "the DART's addresses are beyond the device's DMA mask",
        "nothing in the guest helps; on the Mac, try the device in another slot or port",
    ),
    problem(
        "{device}: cannot map {what} at {address}: {cause}: {detail}",
        "the host's reply was rejected, and what it may have mapped is unmapped",
        BROKEN,
    ),
    problem(
        "{device}: cannot map {what} at {address}: {cause}",
        "see CAUSE below",
        "see CAUSE below",
    ),
    problem(
        "{device}: driver bug: unmapping {what} at {address}, which is not mapped",
        "nothing was unmapped, and memory that was to be freed stays allocated",
        DRIVER_BUG,
    ),
    warning(
        "{device}: driver bug: {n} windows left mapped; unmapped them",
        "the driver unbound without unmapping its memory",
        DRIVER_BUG,
    ),
    // The host.
    problem(
        "registers read all-ones: companion does not respond",
        "the companion was removed, or does not respond",
        "new mappings fail until it responds again, which is retried; if it does not, restart QEMU",
    ),
    problem(
        "host timed out after {n} ms; new mappings fail until it responds",
        "QEMU or the DriverKit extension hangs or is very slow; existing mappings stay usable",
        RETRIED,
    ),
    remark(
        "host is responding again after {n} ms ({how})",
        "HOW is 'batch finished' or 'new buffers': after 32 times with new buffers the module \
         only waits for the batch to be finished, until it is loaded again",
    ),
    warning(
        "host failed to unmap {n} mappings; retrying",
        "they count against the limits until it unmaps them",
        "nothing, if a retry succeeds; else reload the module",
    ),
    remark("host unmapped {n} mappings on retry", "all is well"),
    warning(
        "host failed to unmap {n} mappings; they remain until QEMU exits",
        "they take room of the host's",
        "end QEMU rather than reboot the guest, if there are many",
    ),
    warning(
        "command buffers are not freed: the host may still write to them",
        "a few pages are lost to the guest",
        "reboot the guest if it is short of memory",
    ),
    // Memory.
    remark(
        "hotplug of {n} MiB at {address}: all of RAM was mapped before; mapping on demand",
        "memory was added; reload the module to have it mapped at once, too",
    ),
    warning(
        "rejecting hotplug of {n} MiB at {address}: {device} uses a fixed direct map; reload the \
         module afterwards",
        "in direct mode memory cannot be added",
        "unload the module, add the memory, load it again",
    ),
    warning(
        "rejecting removal of {n} MiB at {address}: all of RAM is mapped; whole_ram=0 avoids that",
        "all of RAM stays mapped until the module is unloaded",
        "to remove memory from the guest, load the module with whole_ram=0",
    ),
    warning(
        "removal of {n} MiB at {address}: driver bug: {device} has {n} windows mapped there",
        "the memory was removed while the driver had it mapped",
        DRIVER_BUG,
    ),
    warning(
        "failed to read the memory layout: {error}; retrying",
        "memory was added or removed, and the guest was out of memory at that moment",
        "nothing, if it is not repeated",
    ),
    // Power management, and the end.
    warning(
        "rejecting hibernation: the mappings of {device} would be lost",
        "the system was to hibernate, and did not",
        "suspend instead, or unload the module before",
    ),
    warning(
        "{device}: its DMA does not end: transactions are pending",
        "the device was stopped, but does not finish what it had begun; if the guest shuts down, \
         what is mapped stays mapped",
        "end QEMU, which resets the device, before the guest is used again",
    ),
    remark(
        "{device}: unmapped everything for shutdown",
        "a reboot, power-off or kexec with the module loaded",
    ),
    remark(
        "{device}: unmapped everything after a panic",
        "the kernel panicked; the device was stopped, and the next kernel finds nothing left",
    ),
    remark(
        "{device}: released, {n} windows unmapped",
        "the module does not manage the device any more; all other numbers were in debugfs until \
         then",
    ),
];

/// Texts for CAUSE and DETAIL.
pub const CAUSES: &[Message] = &[
    problem(
        "empty range or not system RAM",
        "the driver asked for something that cannot be mapped",
        DRIVER_BUG,
    ),
    problem(
        "device memory, which the DART does not map",
        "the driver asked for DMA from device to device",
        "disable peer-to-peer DMA in that driver, if possible",
    ),
    problem(
        "max_bytes reached and no idle window to reclaim",
        "the driver has more bytes mapped than max_bytes allows, or, for a time, what is free \
         after a crash",
        "reduce the device's load, or raise max_bytes if the platform has room: it can map about \
         1.5 GiB",
    ),
    problem(
        "max_entries reached and no idle window to reclaim",
        "the driver has more separate ranges mapped than max_entries allows, or, for a time, what \
         is free after a crash",
        "reduce the device's load, or raise max_entries if the platform has room: it can map 65536",
    ),
    problem(
        "the assigned address is beyond the device's DMA mask",
        "the DART's addresses are beyond the device's DMA mask",
        "nothing in the guest helps; on the Mac, try the device in another slot or port",
    ),
    problem(
        "refused by the host",
        "the host is at its limits, or the memory is not guest RAM",
        "end other guests with passed-through devices, or lower max_bytes and max_entries, so \
         that idle windows are reclaimed before the host is full",
    ),
    problem(
        "invalid reply from the host",
        "the reply was rejected, and what it may have mapped is unmapped; DETAIL names the error",
        BROKEN,
    ),
    problem(
        "no reply from the host",
        "the host has not finished a batch, and is not sent another for a while",
        RETRIED,
    ),
    problem(
        "out of memory",
        "the guest is",
        "increase the guest's RAM, or reduce its load",
    ),
    problem(
        "no free key",
        "mappings that the host failed to unmap are in the way",
        "restart QEMU",
    ),
    remark(
        "the device was stopped",
        "the guest shuts down, and the driver goes on",
    ),
    problem(
        "no aligned address from the host",
        "the driver asked for coherent memory, whose address must be a multiple of its size; the \
         host assigned none",
        "try again, since addresses depend on what is mapped; raise max_bytes if the platform has \
         room",
    ),
    problem("unknown status", "of the reply", BROKEN),
    problem("wrong id", "the reply is to another request", BROKEN),
    problem(
        "wrong length",
        "the mapped length differs from the requested one",
        BROKEN,
    ),
    problem(
        "wrong offset in the granule",
        "the address's low 14 bits are not those of the memory's",
        BROKEN,
    ),
    problem(
        "address range wraps around",
        "the range ends beyond the last address",
        BROKEN,
    ),
    problem(
        "address range already in use",
        "the range overlaps one that is mapped, or that the host failed to unmap",
        BROKEN,
    ),
];

const UNSIGNED: &str = "sign the module by a key that the kernel trusts: README, 'With Secure \
    Boot'";
const OTHER_KERNEL: &str = "build the module for this kernel: dkms autoinstall, or make install";

/// Messages of the kernel about the module. The text is the part after "apple_dma_pci: " or
/// "apple_dma_pci ADDRESS: ".
pub const KERNEL: &[Message] = &[
    remark(
        "loading out-of-tree module taints kernel.",
        "the module is not a part of the kernel",
    ),
    remark(
        "module verification failed: signature and/or required key missing - tainting kernel",
        "the module is not signed by a key that the kernel trusts, which this kernel does not \
         require",
    ),
    warning(
        "unknown parameter '{parameter}' ignored",
        "the module has no such parameter",
        "correct its name: docs/parameters.md has a list of them",
    ),
    problem(
        "`{value}' invalid for parameter `{parameter}'",
        "the parameter's value is no number, or too large",
        PARAMETER,
    ),
    problem(
        "version magic '{version}' should be '{version}'",
        "the module was built for another kernel",
        OTHER_KERNEL,
    ),
    problem(
        "disagrees about version of symbol {symbol}",
        "the module was built for another kernel",
        OTHER_KERNEL,
    ),
    problem(
        "Unknown symbol {symbol} (err {n})",
        "the module was built for another kernel, or by another compiler than the kernel",
        OTHER_KERNEL,
    ),
    problem(
        "probe with driver apple_dma_pci failed with error {n}",
        "the companion is not used; the module's messages before this one say why",
        "see the messages before; -12: the guest is out of memory",
    ),
    remark(
        "{n} callbacks suppressed",
        "that many messages were not printed; at most ten of a kind are in five seconds",
    ),
];

/// Messages of the kernel about any module, of interest while this one is not loaded.
pub const LOADING: &[Message] = &[
    problem(
        "Loading of module with unavailable key is rejected",
        "the kernel accepts signed modules only, and does not trust the key",
        "enroll the key: mokutil --import /var/lib/dkms/mok.pub, then reboot; README, \
         'With Secure Boot'",
    ),
    problem(
        "Loading of unsigned module is rejected",
        "the kernel accepts signed modules only, and the module is not signed",
        UNSIGNED,
    ),
    problem(
        "Lockdown: {program}: unsigned module loading is restricted; see man kernel_lockdown.7",
        "the kernel accepts signed modules only, and the module is not signed",
        UNSIGNED,
    ),
    problem(
        "module {module}: .gnu.linkonce.this_module section size must match the kernel's built \
         struct module size at run time",
        "a module was built with another configuration than the kernel",
        OTHER_KERNEL,
    ),
];

/// Messages to look for.
pub struct Known(Vec<(Regex, &'static Message)>);

impl Known {
    /// Returns all messages of `tables`.
    pub fn new(tables: &[&'static [Message]]) -> Self {
        let mut all: Vec<_> = tables.iter().flat_map(|table| table.iter()).collect();
        // Longer ones first: shorter ones may match as well.
        all.sort_by_key(|message| std::cmp::Reverse(message.weight()));
        Known(
            all.into_iter()
                .filter_map(|message| Some((message.regex()?, message)))
                .collect(),
        )
    }

    /// Returns the message that `text` is, and the values of its names.
    pub fn find<'a>(&self, text: &'a str) -> Option<(&'static Message, Vec<&'a str>)> {
        self.0.iter().find_map(|(regex, message)| {
            let captures = regex.captures(text)?;
            let values = captures.iter().skip(1).flatten();
            Some((*message, values.map(|value| value.as_str()).collect()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::BTreeSet,
        fs,
        path::{
            Path,
            PathBuf, //
        },
    };

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// Returns the module's sources without the lines of comments, whose examples print nothing.
    fn sources() -> Vec<String> {
        let mut paths = vec![repository().join("apple_dma_pci.rs")];
        let mut directories = vec![repository().join("rust")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path
                    .extension()
                    .is_some_and(|end| end == "rs" || end == "c")
                {
                    paths.push(path);
                }
            }
        }
        paths
            .iter()
            .map(|path| {
                let source = fs::read_to_string(path).unwrap();
                let is_code = |line: &&str| !line.trim_start().starts_with("//");
                source.split_inclusive('\n').filter(is_code).collect()
            })
            .collect()
    }

    /// Returns the string that starts after the quote, as the compiler reads it.
    fn literal(source: &str) -> String {
        let mut text = String::new();
        let mut characters = source.chars().peekable();
        loop {
            match characters.next() {
                None | Some('"') => return text,
                Some('\\') => match characters.next() {
                    Some('n') => text.push('\n'),
                    Some('\n') => while characters.next_if(|c| c.is_whitespace()).is_some() {},
                    Some(other) => text.push(other),
                    None => return text,
                },
                Some(other) => text.push(other),
            }
        }
    }

    /// Returns a format without the names in its braces.
    fn bare(format: &str) -> String {
        let parts: Vec<_> = format.split(['{', '}']).step_by(2).collect();
        parts.join("{}")
    }

    #[test]
    fn the_table_has_every_message_of_the_module() {
        let printing =
            Regex::new(r"\b(dev|pr)_(emerg|alert|crit|err|warn|notice|info|dbg)!\(").unwrap();
        let mut printed = BTreeSet::new();
        for source in sources() {
            for found in printing.find_iter(&source) {
                let rest = &source[found.end()..];
                let message = literal(rest.split_once('"').unwrap().1);
                printed.insert(bare(message.strip_suffix('\n').unwrap()));
            }
        }
        assert!(
            printed.len() > 40,
            "the sources are not read as they should be"
        );
        let known: BTreeSet<_> = MESSAGES
            .iter()
            .map(|message| bare(message.format))
            .collect();
        assert_eq!(known.len(), MESSAGES.len(), "a message is there twice");
        let missing: Vec<_> = printed.difference(&known).collect();
        let gone: Vec<_> = known.difference(&printed).collect();
        assert!(missing.is_empty(), "not in the table: {missing:#?}");
        assert!(gone.is_empty(), "in the table, but not printed: {gone:#?}");
    }

    #[test]
    fn nothing_is_printed_in_other_ways() {
        let level = "(emerg|alert|crit|err|warn|notice|info|dbg)";
        let printing = Regex::new(&format!(
            r"\b(v?printk|(dev|pr|pci|netdev)_{level}[a-z_]*)\(|\b(dev|pr)_[a-z]+_[a-z_]+!"
        ))
        .unwrap();
        for source in sources() {
            for line in source.lines().filter(|line| !line.contains("TP_printk")) {
                assert!(
                    !printing.is_match(line),
                    "no message that is looked for: {line}"
                );
            }
        }
    }

    #[test]
    fn the_table_has_every_cause() {
        // Each text stands behind the name that debugfs prints.
        let row = Regex::new(r#"c"[a-z_]+",\s*""#).unwrap();
        let mut printed = BTreeSet::new();
        for file in ["rust/engine/error.rs", "rust/engine/host.rs"] {
            let source = fs::read_to_string(repository().join(file)).unwrap();
            for found in row.find_iter(&source) {
                printed.insert(literal(&source[found.end()..]));
            }
        }
        let known: BTreeSet<_> = CAUSES.iter().map(|cause| cause.format.to_owned()).collect();
        assert_eq!(known.len(), CAUSES.len());
        assert_eq!(known, printed);
    }

    fn rows(table: &[Message]) -> String {
        let mut rows = String::new();
        for message in table {
            let shown = match message.shown() {
                shown if shown.contains('`') => format!("`` {shown} ``"),
                shown => format!("`{shown}`"),
            };
            let (meaning, advice) = (message.meaning, message.advice);
            let severity = match message.severity {
                Severity::Ok => "",
                Severity::Unknown => "unknown",
                Severity::Warning => "warning",
                Severity::Problem => "problem",
            };
            rows.push_str(&format!(
                "| {shown} | {severity} | {meaning} | {advice} |\n"
            ));
        }
        rows
    }

    #[test]
    fn the_document_has_every_message() {
        let path = repository().join("docs/troubleshooting.md");
        let document = fs::read_to_string(path).unwrap();
        for (name, table) in [
            ("MESSAGES", MESSAGES),
            ("CAUSES", CAUSES),
            ("KERNEL", KERNEL),
            ("LOADING", LOADING),
        ] {
            let rows = rows(table);
            assert!(
                document.contains(&rows),
                "{name} should be there as:\n{rows}"
            );
        }
    }

    #[test]
    fn what_ends_and_is_ended_is_in_the_table() {
        let known: BTreeSet<_> = MESSAGES.iter().map(|message| message.format).collect();
        for (end, ended) in ENDS {
            assert!(known.contains(end), "{end}");
            for format in *ended {
                assert!(known.contains(format), "{format}");
            }
        }
        assert!(known.contains(MANAGES));
    }

    #[test]
    fn messages_are_found_by_what_is_printed() {
        let known = Known::new(&[MESSAGES]);
        for (text, format, values) in [
            (
                "0000:00:06.0: cannot map 4096 bytes at 0x1000: max_entries reached and no \
                 idle window to reclaim: 65536 of max_bytes=1048576, 16 of max_entries=16 used",
                "{device}: cannot map {what} at {address}: {cause}: {n} of max_bytes={n}, {n} \
                 of max_entries={n} used",
                vec![
                    "0000:00:06.0",
                    "4096 bytes",
                    "0x1000",
                    "max_entries reached and no idle window to reclaim",
                    "65536",
                    "1048576",
                    "16",
                    "16",
                ],
            ),
            (
                "0000:00:06.0: cannot map a scatterlist at 0x1000: invalid reply from the host: \
                 wrong id",
                "{device}: cannot map {what} at {address}: {cause}: {detail}",
                vec![
                    "0000:00:06.0",
                    "a scatterlist",
                    "0x1000",
                    "invalid reply from the host",
                    "wrong id",
                ],
            ),
            (
                "0000:00:06.0: cannot map 2 bytes at 0x1000: refused by the host",
                "{device}: cannot map {what} at {address}: {cause}",
                vec!["0000:00:06.0", "2 bytes", "0x1000", "refused by the host"],
            ),
            (
                "strict=7: invalid value: must be 0 or 1",
                "{parameter}={n}: invalid value: must be 0 or 1",
                vec!["strict", "7"],
            ),
        ] {
            let (message, found) = known.find(text).unwrap();
            assert_eq!(message.format, format);
            assert_eq!(found, values);
        }
        assert!(known.find("enabling device (0000 -> 0002)").is_none());
    }
}
