// SPDX-License-Identifier: GPL-2.0

//! Leaves out what a report for others must not have: names of the machine and its users, serial
//! numbers, identifiers, and addresses of networks and, unless wanted, of memory. Names and serial
//! numbers are those that the system knows; all else is found by its form.

use crate::doctor::system::System;
use regex_lite::{
    Captures,
    Regex, //
};
use std::{
    collections::BTreeMap,
    env, //
};

/// The least length of a text that is replaced wherever it is: shorter ones are parts of others.
const LEAST: usize = 3;

/// The user IDs of login accounts, as Debian assigns them: above those of system accounts, and
/// below the kernel's overflow ID.
const LOGIN_IDS: std::ops::Range<u32> = 1000..65534;

/// Names that are no secret, and that other texts have.
const COMMON: &[&str] = &[
    "localhost",
    "debian",
    "ubuntu",
    "fedora",
    "linux",
    "root",
    "guest",
];

/// Directories with a file of each device that has its serial number.
const SERIALS: &[(&str, &str)] = &[
    ("/sys/class/nvme", "serial"),
    ("/sys/block", "serial"),
    ("/sys/block", "device/serial"),
    ("/sys/bus/usb/devices", "serial"),
];

/// Files with identifiers of the machine.
const IDENTIFIERS: &[&str] = &[
    "/etc/machine-id",
    "/sys/class/dmi/id/product_serial",
    "/sys/class/dmi/id/product_uuid",
    "/sys/class/dmi/id/board_serial",
    "/sys/class/dmi/id/chassis_serial",
    "/sys/class/dmi/id/chassis_asset_tag",
];

/// Forms of what is left out, each with what it is replaced by.
const FORMS: &[(&str, &str)] = &[
    // Of 8 and 20 bytes as well, as InfiniBand has.
    (r"\b(?:[0-9A-Fa-f]{2}[:-]){5,19}[0-9A-Fa-f]{2}\b", "MAC"),
    (r"\benx[0-9a-f]{12}\b", "enxMAC"),
    (
        r"\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b",
        "UUID",
    ),
    (r"\b(?:eui|naa|nvme)\.[0-9A-Za-z]{12,}\b", "ID"),
    (r"\bwwn-0x[0-9a-f]+\b", "wwn-ID"),
    (r"\bnqn\.[0-9]{4}-[0-9]{2}\.[^\s,]+", "nqn.ID"),
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b", "IP"),
    (r"\bf[cde][0-9a-f]{2}:(?::?[0-9a-f]{1,4}){1,7}\b", "IP"),
    (r"\b(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b", "IP"),
    (
        r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z0-9.-]+\b",
        "MAIL",
    ),
    (
        r"(?i)\b(serial(?:[ _-]?(?:number|no))?[ :=]+)[0-9A-Za-z._-]*[0-9][0-9A-Za-z._-]*",
        "${1}SERIAL",
    ),
    (r"/home/[^/\s]+", "/home/USER"),
];

/// The names, serial numbers and identifiers of a system, and the forms of others.
pub struct Redactor {
    /// Replacements by text, the longest texts first.
    known: Vec<(Regex, &'static str)>,
    forms: Vec<(Regex, &'static str)>,
    /// The addresses of memory, if they are left out.
    addresses: Option<Regex>,
}

impl Redactor {
    /// Returns the redactor for reports about `system`.
    pub fn new(system: &System, keeps_addresses: bool) -> Self {
        let mut known = BTreeMap::new();
        let mut add = |text: &str, name: &'static str| {
            let text = text.trim();
            if text.len() >= LEAST && !COMMON.contains(&text) {
                known.entry(text.to_owned()).or_insert(name);
            }
        };
        for file in ["/proc/sys/kernel/hostname", "/etc/hostname"] {
            let name = system.line(file).unwrap_or_default();
            add(&name, "HOST");
            add(name.split('.').next().unwrap_or_default(), "HOST");
        }
        if let Some(domain) = system.line("/proc/sys/kernel/domainname") {
            if domain != "(none)" {
                add(&domain, "DOMAIN");
            }
        }
        for user in system.text("/etc/passwd").unwrap_or_default().lines() {
            let fields: Vec<_> = user.split(':').collect();
            let [name, _, id, _, person, ..] = fields[..] else {
                continue;
            };
            if id.parse().is_ok_and(|id: u32| LOGIN_IDS.contains(&id)) {
                add(name, "USER");
                add(person.split(',').next().unwrap_or_default(), "USER");
            }
        }
        if system.is_live() {
            for variable in ["SUDO_USER", "USER", "LOGNAME"] {
                add(&env::var(variable).unwrap_or_default(), "USER");
            }
        }
        for (directory, file) in SERIALS {
            for device in system.names(directory) {
                let serial = system.line(&format!("{directory}/{device}/{file}"));
                add(&serial.unwrap_or_default(), "SERIAL");
            }
        }
        for file in IDENTIFIERS {
            add(&system.line(file).unwrap_or_default(), "ID");
        }
        let mut known: Vec<_> = known.into_iter().collect();
        known.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let word = |(text, name): (String, &'static str)| {
            // A text that begins or ends with another character than a word's has no bound there.
            let bound = |c: Option<char>| match c {
                Some(c) if c.is_ascii_alphanumeric() || c == '_' => r"\b",
                _ => "",
            };
            let (first, last) = (bound(text.chars().next()), bound(text.chars().last()));
            let text = regex_lite::escape(&text);
            Some((Regex::new(&format!("{first}{text}{last}")).ok()?, name))
        };
        let form = |(form, name): &(&str, &'static str)| Some((Regex::new(form).ok()?, *name));
        Self {
            known: known.into_iter().filter_map(word).collect(),
            forms: FORMS.iter().filter_map(form).collect(),
            // Some are the host's, which say nothing about the guest.
            addresses: match keeps_addresses {
                true => None,
                false => Regex::new(r"(addresses like )?\b0x[0-9a-f]*([0-9a-f]{4})\b").ok(),
            },
        }
    }

    /// Returns the text without them.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (regex, name) in self.known.iter().chain(&self.forms) {
            text = regex.replace_all(&text, *name).into_owned();
        }
        text
    }

    /// Returns the text without them, and without all but the last four digits of addresses of
    /// memory, which are the offset in a granule. Where the host's addresses are is no secret.
    pub fn redact_addresses(&self, text: &str) -> String {
        let text = self.redact(text);
        let Some(addresses) = &self.addresses else {
            return text;
        };
        let shortened = addresses.replace_all(&text, |found: &Captures<'_>| {
            let whole = &found[0];
            match (found.get(1), whole.len() > "0x12345".len()) {
                (None, true) => format!("0x…{}", &found[2]),
                _ => whole.to_owned(),
            }
        });
        shortened.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::Fixture;

    fn system() -> (Fixture, System) {
        let fixture = Fixture::healthy();
        fixture.write("proc/sys/kernel/hostname", "walnut.example.org\n");
        fixture.write("proc/sys/kernel/domainname", "(none)\n");
        fixture.write(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nmail:x:8:8:mail:/var/mail:/bin/sh\n\
             mabel:x:1000:1000:Mabel Pines,,,:/home/mabel:/bin/bash\n\
             nobody:x:65534:65534:nobody:/:/bin/sh\n",
        );
        fixture.write("sys/class/nvme/nvme0/serial", "S4EWNX0R123456  \n");
        fixture.write("sys/bus/usb/devices/1-1/serial", "0001:ab\n");
        fixture.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        let system = fixture.guest_at_rest().system;
        (fixture, system)
    }

    #[test]
    fn names_and_numbers_are_left_out() {
        let (_fixture, system) = system();
        let redactor = Redactor::new(&system, false);
        for (text, expected) in [
            ("[ 1.0] walnut kernel: x", "[ 1.0] HOST kernel: x"),
            ("walnut.example.org", "HOST"),
            ("mabel@walnut: by Mabel Pines", "USER@HOST: by USER"),
            ("/home/other/src/x.c", "/home/USER/src/x.c"),
            ("mail and nobody stay", "mail and nobody stay"),
            ("mabels", "mabels"),
            (
                "nvme0: S4EWNX0R123456, 1-1: 0001:ab",
                "nvme0: SERIAL, 1-1: SERIAL",
            ),
            ("52:54:00:12:34:56 and 52-54-00-12-34-56", "MAC and MAC"),
            ("00:11:22:33:44:55:66:77", "MAC"),
            ("enx525400123456: up", "enxMAC: up"),
            (
                "root=UUID=01234567-89ab-cdef-0123-456789abcdef",
                "root=UUID=UUID",
            ),
            ("id 0123456789abcdef0123456789abcdef", "id ID"),
            ("nvme-eui.0025385b71b0c1d2", "nvme-ID"),
            ("nqn.2014-08.org.nvmexpress:x:y, z", "nqn.ID, z"),
            ("SerialNumber: ABC-12", "SerialNumber: SERIAL"),
            ("a serial console", "a serial console"),
            ("from 192.168.1.7 to fe80::1:2", "from IP to IP"),
            ("me.too@example.org", "MAIL"),
        ] {
            assert_eq!(redactor.redact(text), expected, "{text}");
        }
    }

    #[test]
    fn all_else_stays() {
        let (_fixture, system) = system();
        let redactor = Redactor::new(&system, true);
        for text in [
            "0000:00:10.0 manages 0000:00:05.0 (driver nvme)",
            "[    1.234567] apple_dma_pci 0000:00:10.0: manages 0000:00:05.0: lazy mode",
            "Linux 7.2.1+deb13-amd64, gcc 14.2.0, rustc 1.85.1",
            "pci 1b36:0015 class 0x0880 addresses like 0x800100000000",
            "map_ns 2101927 map_ns_max 340130",
            "12:34:56 and 2026-11-26 12:00:00",
        ] {
            assert_eq!(redactor.redact_addresses(text), text);
        }
    }

    #[test]
    fn addresses_are_left_out_unless_wanted() {
        let (_fixture, system) = system();
        let text = "cannot map 4096 bytes at 0x4fe2e000: 0x801c0000 > 0xffff; class 0x010802; \
                    addresses like 0x800100000000";
        let expected = "cannot map 4096 bytes at 0x…e000: 0x…0000 > 0xffff; class 0x…0802; \
                        addresses like 0x800100000000";
        assert_eq!(
            Redactor::new(&system, false).redact_addresses(text),
            expected
        );
        assert_eq!(Redactor::new(&system, true).redact_addresses(text), text);
    }

    #[test]
    fn every_form_is_an_expression() {
        let (_fixture, system) = system();
        assert_eq!(Redactor::new(&system, false).forms.len(), FORMS.len());
    }
}
