// SPDX-License-Identifier: GPL-2.0

//! Counters of errors of the module. docs/ABI describes the files.

use crate::doctor::finding::Finding;
use crate::doctor::guest::{
    Companion,
    Guest, //
};
use std::{
    collections::BTreeMap,
    io::ErrorKind, //
};

const DEBUGFS: &str = "/sys/kernel/debug/apple_dma_pci";

/// The causes of refusals, each with its meaning and advice.
const REFUSALS: &[(&str, &str, &str)] = &[
    (
        "invalid",
        "its driver requested an empty range, or one outside of system RAM",
        "report it to the driver's developers",
    ),
    (
        "mmio",
        "its driver requested DMA to another device's memory",
        "disable peer-to-peer DMA in that driver, if possible",
    ),
    (
        "max_bytes",
        "max_bytes was reached",
        "reduce the device's load, or raise max_bytes if the platform has room: it holds about \
         1.5 GiB",
    ),
    (
        "max_entries",
        "max_entries was reached",
        "reduce the device's load, or raise max_entries if the platform has room: it holds 65536",
    ),
    (
        "unreachable",
        "the DART's addresses are beyond the device's DMA mask",
        "no setting of the guest helps; on the Mac, try the device in another slot or port",
    ),
    (
        "host_refused",
        "the host refused",
        "end other guests with passed-through devices, or lower max_bytes and max_entries",
    ),
    (
        "host_rejected",
        "the host's replies were rejected",
        "use another version of QEMU: its companion does not do what docs/protocol.md says",
    ),
    (
        "host_silent",
        "the host did not reply",
        "if it persists, restart QEMU",
    ),
    (
        "no_memory",
        "the guest was out of memory",
        "add RAM to the guest, or reduce its load",
    ),
    (
        "no_key",
        "mappings that the host failed to unmap block it",
        "restart QEMU",
    ),
    (
        "closed",
        "the device was stopped because the guest shuts down",
        "nothing: no mapping is needed any more",
    ),
    (
        "misaligned",
        "the host assigned no address that is a multiple of the size",
        "try again; raise max_bytes if the platform has room",
    ),
];

/// Errors of the host, each with its meaning.
const HOST_ERRORS: &[(&str, &str)] = &[
    ("refused", "refused"),
    ("silent", "did not reply"),
    ("status", "returned an unknown status"),
    ("id", "replied to another request"),
    ("length", "mapped another length"),
    (
        "offset",
        "returned an address with another offset in the granule",
    ),
    ("range", "returned addresses that wrap around"),
    ("overlap", "returned addresses that are in use"),
];

/// Ends of batches that no host should have, each with its meaning.
const STATUSES: &[(&str, &str)] = &[
    ("invalid", "rejected a batch of requests as invalid"),
    (
        "unknown",
        "ended a batch of requests with an unknown status",
    ),
];

const LOST_NOTHING: &str = "no data were lost in the guest; see log for the time, and the logs of \
    QEMU and of the Mac for the reason";

/// Advice for a host whose replies look wrong.
const ONE_AT_A_TIME: &str = "to see whether it gets several requests at once wrong: echo 'options \
    apple_dma_pci max_batch=1' >/etc/modprobe.d/apple-dma-pci-batch.conf, and reboot; report it \
    with 'apple-dma-pci bug-report'";

/// The fewest large pages that tell how the host places mappings.
const LARGE_PAGES: u64 = 20;

type Values = BTreeMap<String, String>;

/// Parses a file of names and values.
fn values(text: &str) -> Values {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn number(values: &Values, name: &str) -> u64 {
    values
        .get(name)
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

/// `counters`
pub fn counters(guest: &Guest) -> Vec<Finding> {
    let ours = guest
        .companions
        .iter()
        .filter(|companion| companion.is_ours());
    ours.flat_map(|companion| of(guest, companion)).collect()
}

fn of(guest: &Guest, companion: &Companion) -> Vec<Finding> {
    let address = &companion.address;
    let read = |file: &str| guest.system.text(&format!("{DEBUGFS}/{address}/{file}"));
    let (counters, status) = match (read("counters"), read("status")) {
        (Ok(counters), Ok(status)) => (values(&counters), values(&status)),
        (Err(error), _) | (_, Err(error)) => {
            let advice = if error.kind() == ErrorKind::PermissionDenied {
                "run this as root"
            } else {
                "mount -t debugfs none /sys/kernel/debug"
            };
            return vec![Finding::unknown(
                format!("the counters of {address} cannot be read: {error}"),
                advice,
            )];
        }
    };
    let device = companion.managed.as_deref().unwrap_or("its device");
    let mut found = Vec::new();
    if status.get("host").is_some_and(|host| host == "silent") {
        found.push(Finding::problem(
            format!("the host is silent: new mappings for {device} fail"),
            "the module retries every few seconds; if it persists, restart QEMU",
        ));
    }
    let value = |name: &str| -> u64 {
        let value = status.get(name).map(|value| value.parse());
        value.and_then(Result::ok).unwrap_or(0)
    };
    if value("limit_bytes") < value("max_bytes") {
        found.push(Finding::warning(
            format!(
                "an earlier kernel crashed: {device} has {} MiB in {} mappings at most until all \
                 is found that it left ({} %)",
                value("limit_bytes") >> 20,
                value("limit_entries"),
                value("search_percent"),
            ),
            "wait; to be done with it at once, restart QEMU",
        ));
    }
    for (cause, what, advice) in REFUSALS {
        let count = number(&counters, &format!("refusals_{cause}"));
        if count != 0 {
            found.push(Finding::problem(
                format!("{device}: {count} calls to map failed: {what}"),
                *advice,
            ));
        }
    }
    for (error, what) in HOST_ERRORS {
        let count = number(&counters, &format!("host_errors_{error}"));
        if count != 0 {
            found.push(Finding::problem(
                format!("{device}: the host {what}, {count} times"),
                match *error {
                    "refused" | "silent" => LOST_NOTHING.to_owned(),
                    _ => format!("{LOST_NOTHING}; {ONE_AT_A_TIME}"),
                },
            ));
        }
    }
    let doorbells = values(&read("doorbells").unwrap_or_default());
    for (status, what) in STATUSES {
        let count = number(&doorbells, &format!("status_{status}"));
        if count != 0 {
            found.push(Finding::problem(
                format!("{device}: the host {what}, {count} times"),
                ONE_AT_A_TIME,
            ));
        }
    }
    let misuses = number(&counters, "misuses");
    if misuses != 0 {
        found.push(Finding::problem(
            format!("{device}: its driver unmapped memory that was not mapped, {misuses} times"),
            "report it to the driver's developers; CONFIG_DMA_API_DEBUG finds the place",
        ));
    }
    let lost = number(&counters, "windows_lost");
    let lost = lost.saturating_sub(number(&counters, "windows_recovered"));
    if lost != 0 {
        found.push(Finding::warning(
            format!(
                "{device}: the host failed to unmap {lost} windows, which count against the limits"
            ),
            "none while the retries succeed; else reload the module",
        ));
    }
    found.extend(misaligned(device, value("congruent"), &counters));
    if found.is_empty() {
        found.push(Finding::ok(format!("{device}: no mapping failed so far")));
    }
    found
}

/// Returns a warning if large pages are expected to be aligned and too many are not; `effort` is
/// that of the module for them.
fn misaligned(device: &str, effort: u64, counters: &Values) -> Option<Finding> {
    let (large, aligned) = (number(counters, "large"), number(counters, "congruent"));
    let many = large.saturating_sub(large / 20);
    (effort == 2 && large >= LARGE_PAGES && aligned < many).then(|| {
        Finding::warning(
            format!(
                "{device}: of {large} large pages {aligned} have an address that is a multiple of \
                 their size, which some drivers of GPUs rely on"
            ),
            "reduce what is mapped at a time, if max_bytes is nearly reached; if not, the host \
             places mappings anywhere, and nothing in the guest can change that: see docs/gpu.md",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::Fixture;
    use std::{
        collections::BTreeSet,
        fs::read_to_string, //
    };

    const FILES: &str = "sys/kernel/debug/apple_dma_pci/0000:00:10.0";

    #[test]
    fn all_is_well() {
        Fixture::is_ok(&counters(&Fixture::healthy().guest()));
    }

    #[test]
    fn what_went_wrong() {
        for (counter, text) in [
            (
                "refusals_max_bytes",
                "7 calls to map failed: max_bytes was reached",
            ),
            (
                "refusals_host_silent",
                "7 calls to map failed: the host did not reply",
            ),
            (
                "host_errors_overlap",
                "returned addresses that are in use, 7 times",
            ),
            ("misuses", "unmapped memory that was not mapped, 7 times"),
        ] {
            let fixture = Fixture::healthy();
            let path = format!("{FILES}/counters");
            fixture.edit(&path, |text| {
                text.replace(&format!("\n{counter} 0\n"), &format!("\n{counter} 7\n"))
            });
            Fixture::is_problem(&counters(&fixture.guest()), text);
        }
    }

    #[test]
    fn batches_that_went_wrong() {
        let fixture = Fixture::healthy();
        let path = format!("{FILES}/doorbells");
        fixture.write(&path, "map_count 5\nstatus_answered 5\nstatus_invalid 0\n");
        Fixture::is_ok(&counters(&fixture.guest()));
        fixture.write(&path, "status_invalid 2\n");
        let findings = counters(&fixture.guest());
        Fixture::is_problem(
            &findings,
            "rejected a batch of requests as invalid, 2 times",
        );
        assert!(findings[0].advice.as_ref().unwrap().contains("max_batch=1"));
    }

    #[test]
    fn replies_that_look_wrong() {
        let advice = |counter: &str| {
            let fixture = Fixture::healthy();
            fixture.write(
                &format!("{FILES}/counters"),
                &format!("host_errors_{counter} 1\n"),
            );
            counters(&fixture.guest())[0].advice.clone().unwrap()
        };
        for counter in ["status", "id", "length", "offset", "range", "overlap"] {
            assert!(advice(counter).contains("max_batch=1"), "{counter}");
        }
        assert!(!advice("refused").contains("max_batch"));
    }

    #[test]
    fn windows_that_are_lost() {
        let fixture = Fixture::healthy();
        let path = format!("{FILES}/counters");
        fixture.write(&path, "windows_lost 5\nwindows_recovered 3\n");
        Fixture::is_warning(&counters(&fixture.guest()), "failed to unmap 2 windows");
        fixture.write(&path, "windows_lost 5\nwindows_recovered 5\n");
        Fixture::is_ok(&counters(&fixture.guest()));
    }

    #[test]
    fn large_pages_that_are_not_aligned() {
        let fixture = Fixture::healthy();
        let findings = |effort: u32, large: u32, aligned: u32| {
            fixture.write(&format!("{FILES}/status"), &format!("congruent {effort}\n"));
            let text = format!("large {large}\ncongruent {aligned}\n");
            fixture.write(&format!("{FILES}/counters"), &text);
            counters(&fixture.guest())
        };
        Fixture::is_warning(
            &findings(2, 100, 94),
            "of 100 large pages 94 have an address",
        );
        for (effort, large, aligned) in [(2, 100, 95), (1, 100, 2), (2, 19, 0), (2, 0, 0)] {
            Fixture::is_ok(&findings(effort, large, aligned));
        }
    }

    #[test]
    fn a_silent_host() {
        let fixture = Fixture::healthy();
        fixture.write(&format!("{FILES}/status"), "host silent\n");
        Fixture::is_problem(&counters(&fixture.guest()), "the host is silent");
    }

    #[test]
    fn caution_after_a_crash() {
        let fixture = Fixture::healthy();
        let path = format!("{FILES}/status");
        let limits = "max_bytes 1342177280\nlimit_bytes 134217728\nlimit_entries 2048\n";
        fixture.write(&path, &format!("{limits}search_percent 7\n"));
        let text = "128 MiB in 2048 mappings at most until all is found that it left (7 %)";
        Fixture::is_warning(&counters(&fixture.guest()), text);
    }

    #[test]
    fn counters_that_cannot_be_read() {
        let fixture = Fixture::healthy();
        fixture.remove(FILES);
        let findings = counters(&fixture.guest());
        Fixture::is_unknown(&findings, "cannot be read");
        assert!(findings[0].advice.as_ref().unwrap().contains("mount"));
    }

    /// Returns the names in the ABI with this prefix.
    fn documented(prefix: &str) -> BTreeSet<String> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/ABI/testing/debugfs-driver-apple-dma-pci"
        );
        let text = read_to_string(path).unwrap();
        text.split_whitespace()
            .filter_map(|word| word.strip_prefix(prefix))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_cause_is_known() {
        let known: BTreeSet<_> = REFUSALS.iter().map(|(name, ..)| name.to_string()).collect();
        assert_eq!(known, documented("refusals_"));
        let known: BTreeSet<_> = HOST_ERRORS
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        assert_eq!(known, documented("host_errors_"));
    }
}
