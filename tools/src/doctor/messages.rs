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

const BROKEN: &str =
    "use another version of QEMU: its companion does not do what docs/protocol.md \
    says";
const NO_IOMMU: &str = "start QEMU without a virtual IOMMU, or other things that translate \
    addresses: the module cannot be put on top of them";
const ALL_OF_RAM: &str = "leave out the parameter, give the guest less RAM, or raise max_bytes if \
    the platform has room; or use a kernel with CONFIG_ARCH_HAS_DMA_OPS";
const PARAMETER: &str = "correct the parameter where it is given, in modprobe.d or on the \
    kernel's command line, and load the module again";
const DRIVER_BUG: &str = "report it to those who wrote the driver; CONFIG_DMA_API_DEBUG finds \
    out where it is";

/// The message of a module without problems: earlier messages no longer apply.
pub const MANAGES: &str = "manages {device}: {mode} mode, {dialect} dialect, addresses like \
    {address}, at most {mib} MiB in {n} mappings";

/// Messages, with the earlier messages that no longer apply after them.
pub const ENDS: &[(&str, &[&str])] = &[
    (
        "the host {how} after {n} ms: it is asked again",
        &[
            "the host did not finish a batch in {n} ms: nothing new is mapped",
            "registers read all-ones: the device is gone",
        ],
    ),
    (
        "{device} is here now",
        &["there is no managed device at {device} yet"],
    ),
    (
        "the host took back {n} mappings when it was asked again",
        &["the host did not take back {n} mappings: it is asked again"],
    ),
];

/// Messages of the module.
pub const MESSAGES: &[Message] = &[
    // When a companion gets its driver.
    remark(
        MANAGES,
        "all is well. MODE is whole-RAM, direct, lazy or strict, see the README's parameters, or \
         identity: the host has no DART",
    ),
    remark(
        "detached the driver that {device} had until its DMA is managed",
        "the driver was there first; it comes back at once",
    ),
    remark(
        "{device} is here now",
        "the device was removed, or was not there yet, and came",
    ),
    remark(
        "gave back a mapping that an earlier kernel left",
        "the guest was not shut down in order",
    ),
    remark(
        "MANAGED_BDF names bus {bus}; looking on the companion's own bus {bus}",
        "the device is behind a bridge that the firmware had not numbered yet when QEMU made the \
         companion",
    ),
    remark(
        "cannot map all of RAM at once: {cause}",
        "windows are used instead",
    ),
    warning(
        "the host has no DART: addresses are guest-physical ones",
        "a QEMU for development, without the DriverKit extension: nothing is mapped",
        "on a Mac with a passed-through device, have the DriverKit extension loaded and approved, \
         and start QEMU anew",
    ),
    problem(
        "there is no managed device at {device} yet",
        "QEMU was started with the companion but without its device, or the device was removed",
        "give the guest the device; it is managed as soon as it comes, at the latest after: echo 1 \
         >/sys/bus/pci/rescan",
    ),
    problem(
        "protocol version {n} is not supported, only {n}",
        "QEMU and this module are too far apart in age",
        "update the older of the two",
    ),
    problem(
        "MAX_ENTRIES is {n}: no batch can be sent",
        "the companion is broken",
        BROKEN,
    ),
    problem(
        "MANAGED_BDF is {n}: not an address of a device",
        "the companion is broken",
        BROKEN,
    ),
    problem(
        "MANAGED_BDF {n} is the companion's own address",
        "the companion is broken",
        BROKEN,
    ),
    problem(
        "BAR {n} has {n} bytes, not {n}",
        "the companion is another device than this module knows",
        BROKEN,
    ),
    problem(
        "DMA is not cache-coherent on this bus: not supported",
        "the machine says that the CPU's caches and DMA do not agree by themselves",
        "use QEMU's machine 'virt' on arm64 and 'q35' on amd64, which say otherwise",
    ),
    problem(
        "the guest has an IOMMU on this bus: not supported",
        "a virtual IOMMU assigns the device's addresses already",
        NO_IOMMU,
    ),
    problem(
        "DMA addresses are translated on this bus: not supported",
        "the firmware says that DMA addresses are not guest-physical ones",
        NO_IOMMU,
    ),
    problem(
        "cannot link {device} to the companion: out of memory?",
        "the driver core does not make the companion the device's supplier",
        "look at what the kernel said before; something else may manage the device",
    ),
    problem(
        "{device} has {what} of its own",
        "something else in the guest manages the device's DMA",
        "have that not loaded, or start QEMU without it",
    ),
    problem(
        "the host refuses to map a single page of guest RAM",
        "the host is at its limits, or its DriverKit extension does not run",
        "on the Mac, see that the extension is loaded and the device is free; end other guests, \
         and start QEMU anew",
    ),
    problem(
        "the host's first answer is wrong: {cause}",
        "the companion does not do what it should",
        BROKEN,
    ),
    problem(
        "the host did not answer the first request",
        "the companion does not do what it should, or QEMU hangs",
        BROKEN,
    ),
    problem(
        "the host would not take back the first mapping",
        "the companion does not do what it should",
        BROKEN,
    ),
    problem(
        "the host calls a batch of one request invalid",
        "the companion does not do what it should",
        BROKEN,
    ),
    problem(
        "{because}: all of RAM must be mapped at once, which {parameter} forbids",
        "the kernel or the parameters ask for two things that exclude each other",
        ALL_OF_RAM,
    ),
    problem(
        "{because}: all of RAM must be mapped at once, and its {n} MiB do not fit max_bytes={n} \
         with an eighth to spare",
        "the guest has more RAM than may be mapped",
        ALL_OF_RAM,
    ),
    problem(
        "{because}: all of RAM must be mapped at once, and cannot be: {cause}",
        "the host did not map it",
        ALL_OF_RAM,
    ),
    problem(
        "{because}: RAM goes on at {address}, but its DMA addresses do not",
        "the host has no room for RAM in one piece",
        ALL_OF_RAM,
    ),
    // Parameters.
    problem(
        "{parameter}={n} is neither 0 nor 1",
        "the module was not loaded because of this parameter",
        PARAMETER,
    ),
    problem(
        "whole_ram={n} is none of 0, 1 and 2",
        "the module was not loaded because of this parameter",
        PARAMETER,
    ),
    problem(
        "max_bytes={n} is not between 1 MiB and 1 PiB",
        "the module was not loaded because of this parameter",
        PARAMETER,
    ),
    problem(
        "max_entries={n} is not between 16 and 1048576",
        "the module was not loaded because of this parameter",
        PARAMETER,
    ),
    problem(
        "max_idle={n} is more than 86400",
        "the module was not loaded because of this parameter",
        PARAMETER,
    ),
    // Mappings.
    problem(
        "{device}: cannot map {what} at {address}: {cause}: {n} of max_bytes={n}, {n} of \
         max_entries={n} used",
        "the device's driver has more mapped than the limits allow: its I/O fails or waits",
        "give the device less to do, or raise the limit if the platform has room",
    ),
    problem(
        "{device}: cannot map {what} at {address}: {cause}: {address} is beyond {address}",
        "the DART's addresses are beyond the device's DMA mask",
        "nothing in the guest helps; on the Mac, try the device in another slot or port",
    ),
    problem(
        "{device}: cannot map {what} at {address}: {cause}: {detail}",
        "the host's answer was thrown away, and what it mapped given back",
        BROKEN,
    ),
    problem(
        "{device}: cannot map {what} at {address}: {cause}",
        "see CAUSE below",
        "see CAUSE below",
    ),
    problem(
        "{device}: {n} bytes of MMIO at {address} cannot be mapped: the DART maps guest RAM only",
        "the driver asked for DMA from device to device",
        "switch peer-to-peer DMA off in that driver, if it can be",
    ),
    problem(
        "{device}: its driver unmaps what is not mapped: {what} at {address}",
        "a bug of that driver; nothing was done, and memory that was to be freed stays allocated",
        DRIVER_BUG,
    ),
    warning(
        "the driver of {device} left {n} windows mapped; they were taken away",
        "a bug of that driver",
        DRIVER_BUG,
    ),
    // The host.
    problem(
        "registers read all-ones: the device is gone",
        "the companion was removed, or does not answer",
        "nothing new is mapped until it comes back, which is tried; if it does not, start QEMU \
         anew",
    ),
    problem(
        "the host did not finish a batch in {n} ms: nothing new is mapped",
        "QEMU or the DriverKit extension hangs or is very slow; what is mapped goes on to serve",
        "it is tried every few seconds, and less often the longer it is silent; if it stays so, \
         start QEMU anew",
    ),
    remark(
        "the host {how} after {n} ms: it is asked again",
        "HOW is 'finished the batch', or 'was given other memory': after 32 times with other \
         memory it is only asked again when the batch is finished, or the module is loaded anew",
    ),
    warning(
        "the host did not take back {n} mappings: it is asked again",
        "they count against the limits until it does",
        "nothing, if it takes them back; else load the module anew",
    ),
    remark(
        "the host took back {n} mappings when it was asked again",
        "all is well",
    ),
    warning(
        "the host did not take back {n} mappings",
        "they stay on the host until its QEMU ends",
        "end QEMU rather than reboot the guest, if there are many",
    ),
    warning(
        "memory that the host may still write to is not freed",
        "a few pages are lost to the guest",
        "reboot the guest if it is short of memory",
    ),
    // Memory.
    remark(
        "the {n} MiB of memory at {address} came after all of RAM was mapped; windows serve it",
        "memory was plugged in; load the module anew to have it mapped at once, too",
    ),
    warning(
        "the {n} MiB of memory at {address} cannot come: {device} would not know of it (load the \
         module anew after it has)",
        "in direct mode memory cannot be added",
        "unload the module, add the memory, load it again",
    ),
    warning(
        "the {n} MiB of memory at {address} cannot go: all of RAM is mapped (whole_ram=0 avoids \
         that)",
        "all of RAM stays mapped until the module is unloaded",
        "to take memory out of the guest load the module with whole_ram=0",
    ),
    warning(
        "the {n} MiB of memory at {address} went, but {device} has {n} windows mapped there",
        "a bug of that driver",
        DRIVER_BUG,
    ),
    warning(
        "cannot see where memory is now: {error}",
        "memory came or went, and the guest was out of memory at that moment",
        "nothing, if mappings go on to work; else load the module anew",
    ),
    // Sleep, and the end.
    warning(
        "hibernation is not supported: what {device} has mapped would be lost",
        "the system was to hibernate, and did not",
        "suspend instead, or unload the module before",
    ),
    remark(
        "gave all mappings of {device} back, since the system goes down",
        "a reboot, power-off or kexec with the module loaded",
    ),
    remark(
        "released {device}: {n} doorbells, {n} windows mapped, {n} given back, {n} of them for \
         age, {n} stale, {n} refused, {n} rejected, {n} unanswered, {n} lost, {n} of them found, \
         {n} requests failed, {n} misuses, {n} shared, {n} of {n} large ones congruent, at most \
         {n} KiB in {n} windows",
        "what happened while it was managed, in numbers",
    ),
];

/// Texts for CAUSE and DETAIL.
pub const CAUSES: &[Message] = &[
    problem(
        "it is empty, or not plain memory",
        "the driver asked for something that cannot be mapped",
        DRIVER_BUG,
    ),
    problem(
        "no room in max_bytes, and nothing is idle",
        "the driver has more bytes mapped than max_bytes allows",
        "give the device less to do, or raise max_bytes if the platform has room: it holds about \
         1.5 GiB",
    ),
    problem(
        "no room in max_entries, and nothing is idle",
        "the driver has more mapped, piece by piece, than max_entries allows",
        "give the device less to do, or raise max_entries if the platform has room: it holds \
         65536",
    ),
    problem(
        "the device does not reach the address it got",
        "the DART's addresses are beyond the device's DMA mask",
        "nothing in the guest helps; on the Mac, try the device in another slot or port",
    ),
    problem(
        "the host refuses",
        "the host is at its limits, or the memory is not guest RAM",
        "end other guests with passed-through devices, or lower max_bytes and max_entries, so \
         that idle windows are given back before the host is full",
    ),
    problem(
        "the host's answer is wrong",
        "the answer was thrown away, and what it mapped given back; DETAIL says what is wrong",
        BROKEN,
    ),
    problem(
        "the host does not answer",
        "it owes the end of a batch, and is left alone for a while",
        "it is tried every few seconds, and less often the longer it is silent; if it stays so, \
         start QEMU anew",
    ),
    problem(
        "out of memory",
        "the guest is",
        "give the guest more RAM, or less to do",
    ),
    problem(
        "all keys are taken",
        "mappings that the host did not take back are in the way",
        "start QEMU anew",
    ),
    problem("unknown status", "of the answer", BROKEN),
    problem("wrong id", "the answer is to another request", BROKEN),
    problem(
        "wrong length",
        "more or less was mapped than was asked for",
        BROKEN,
    ),
    problem(
        "wrong offset in the granule",
        "the address's low 14 bits are not those of the memory's",
        BROKEN,
    ),
    problem(
        "address range wraps around",
        "it ends beyond the last address",
        BROKEN,
    ),
    problem(
        "address range already in use",
        "it overlaps one that is mapped, or that the host did not take back",
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
        "the module is not signed by a key that the kernel trusts, which this kernel does not ask \
         for",
    ),
    warning(
        "unknown parameter '{parameter}' ignored",
        "the module has no such parameter",
        "correct its name where it is given: the README has a table of them",
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
        "the companion is not used; what the module said before says why",
        "see what it said before; -12: the guest is out of memory",
    ),
    remark(
        "{n} callbacks suppressed",
        "that many messages were not printed; more than ten of a kind in five seconds are not",
    ),
];

/// Messages of the kernel about any module, of interest while this one is not loaded.
pub const LOADING: &[Message] = &[
    problem(
        "Loading of module with unavailable key is rejected",
        "the kernel takes signed modules only, and does not trust the key",
        "have the key enrolled: mokutil --import /var/lib/dkms/mok.pub, then reboot; README, \
         'With Secure Boot'",
    ),
    problem(
        "Loading of unsigned module is rejected",
        "the kernel takes signed modules only, and the module is not signed",
        UNSIGNED,
    ),
    problem(
        "Lockdown: {program}: unsigned module loading is restricted; see man kernel_lockdown.7",
        "the kernel takes signed modules only, and the module is not signed",
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
            .map(|path| fs::read_to_string(path).unwrap())
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
                "0000:00:06.0: cannot map 4096 bytes at 0x1000: no room in max_entries, and \
                 nothing is idle: 65536 of max_bytes=1048576, 16 of max_entries=16 used",
                "{device}: cannot map {what} at {address}: {cause}: {n} of max_bytes={n}, {n} \
                 of max_entries={n} used",
                vec![
                    "0000:00:06.0",
                    "4096 bytes",
                    "0x1000",
                    "no room in max_entries, and nothing is idle",
                    "65536",
                    "1048576",
                    "16",
                    "16",
                ],
            ),
            (
                "0000:00:06.0: cannot map a scatterlist at 0x1000: the host's answer is wrong: \
                 wrong id",
                "{device}: cannot map {what} at {address}: {cause}: {detail}",
                vec![
                    "0000:00:06.0",
                    "a scatterlist",
                    "0x1000",
                    "the host's answer is wrong",
                    "wrong id",
                ],
            ),
            (
                "0000:00:06.0: cannot map 2 bytes at 0x1000: the host refuses",
                "{device}: cannot map {what} at {address}: {cause}",
                vec!["0000:00:06.0", "2 bytes", "0x1000", "the host refuses"],
            ),
            (
                "strict=7 is neither 0 nor 1",
                "{parameter}={n} is neither 0 nor 1",
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
