// SPDX-License-Identifier: GPL-2.0

//! Messages of the module in the kernel's log, since the last one without a problem.

use crate::doctor::finding::{
    Finding,
    Severity, //
};
use crate::doctor::guest::Guest;
use crate::doctor::messages::{
    Known,
    Message,
    CAUSES,
    ENDS,
    KERNEL,
    LOADING,
    MANAGES,
    MESSAGES, //
};
use regex_lite::Regex;

/// Log files of a system that does not run.
const FILES: &[&str] = &["/var/log/kern.log", "/var/log/dmesg"];

/// A message from the log, with its values.
struct LogEntry {
    /// Source of the message: a companion's address, or the module.
    source: String,
    text: String,
    message: &'static Message,
    advice: &'static str,
    count: usize,
}

/// Returns the log, or the finding why there is none.
pub fn text(guest: &Guest) -> Result<String, Finding> {
    if guest.system.is_live() {
        return match guest.system.run("dmesg", &[]) {
            Some(output) if output.success => Ok(output.text),
            _ => Err(Finding::unknown(
                "the kernel's log cannot be read: dmesg fails",
                "run this as root",
            )),
        };
    }
    let texts: Vec<_> = FILES
        .iter()
        .filter_map(|path| guest.system.text(path).ok())
        .collect();
    if texts.is_empty() {
        return Err(Finding::unknown(
            "there is no kernel log",
            format!("put the output of dmesg into {}", FILES[FILES.len() - 1]),
        ));
    }
    Ok(texts.concat())
}

/// Returns the advice for a message: that for its cause, if it is known.
fn advice(message: &'static Message, values: &[&str], causes: &Known) -> &'static str {
    let names: Vec<_> = message
        .format
        .split(['{', '}'])
        .skip(1)
        .step_by(2)
        .collect();
    names
        .iter()
        .zip(values)
        .filter(|(name, _)| **name == "cause")
        .find_map(|(_, value)| causes.find(value))
        .map_or(message.advice, |(cause, _)| cause.advice)
}

/// Returns the module's messages in the log that still apply.
fn entries(text: &str, is_loaded: bool) -> Vec<LogEntry> {
    let known = Known::new(&[MESSAGES, KERNEL]);
    let causes = Known::new(&[CAUSES]);
    let loading = Known::new(&[LOADING]);
    let Ok(ours) =
        Regex::new(r"\bapple_dma_pci(?: ([0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]))?: (.*)$")
    else {
        return Vec::new();
    };
    let mut entries: Vec<LogEntry> = Vec::new();
    for line in text.lines() {
        let line = line.trim_end();
        let (source, text, found) = if let Some(captures) = ours.captures(line) {
            let part = |index| captures.get(index).map_or("", |part| part.as_str());
            (part(1), part(2), known.find(part(2)))
        } else if is_loaded {
            continue;
        } else {
            // [    1.234567] TEXT, or DATE HOST kernel: TEXT
            let text = line.rsplit_once("] ").map_or(line, |(_, text)| text);
            let text = text.rsplit_once(" kernel: ").map_or(text, |(_, text)| text);
            ("", text, loading.find(text))
        };
        let Some((message, values)) = found else {
            continue;
        };
        if message.format == MANAGES {
            // Earlier problems no longer apply; nor do problems of loading the module, which is
            // loaded now.
            entries.retain(|other| other.source != source && !other.source.is_empty());
        }
        for (end, ended) in ENDS {
            if message.format == *end {
                entries.retain(|other| {
                    other.source != source || !ended.contains(&other.message.format)
                });
            }
        }
        let same = |other: &&mut LogEntry| {
            other.source == source
                && std::ptr::eq(other.message, message)
                && other.advice == advice(message, &values, &causes)
        };
        if let Some(other) = entries.iter_mut().find(same) {
            other.count += 1;
            text.clone_into(&mut other.text);
            continue;
        }
        entries.push(LogEntry {
            source: source.to_owned(),
            text: text.to_owned(),
            message,
            advice: advice(message, &values, &causes),
            count: 1,
        });
    }
    entries
}

/// `log`
pub fn log(guest: &Guest) -> Vec<Finding> {
    let text = match text(guest) {
        Ok(text) => text,
        Err(finding) => return vec![finding],
    };
    let entries = entries(&text, guest.is_loaded());
    let total: usize = entries.iter().map(|entry| entry.count).sum();
    let mut found: Vec<_> = entries
        .iter()
        .filter(|entry| entry.message.severity != Severity::Ok)
        .map(|entry| {
            let source = match &*entry.source {
                "" => String::new(),
                source => format!("{source}: "),
            };
            let times = match entry.count {
                1 => String::new(),
                count => format!(", {count} times"),
            };
            Finding {
                severity: entry.message.severity,
                found: format!("{source}'{}'{times}: {}", entry.text, entry.message.meaning),
                advice: Some(entry.advice.to_owned()),
            }
        })
        .collect();
    if found.is_empty() {
        found.push(Finding::ok(match total {
            0 => "the kernel's log has no message of the module".to_owned(),
            total => {
                format!("the kernel's log has {total} messages about the module, none of a problem")
            }
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::fixture::{
        Fixture,
        MANAGED, //
    };

    const COMPANION: &str = "apple_dma_pci 0000:00:10.0";

    fn check(lines: &[&str]) -> Vec<Finding> {
        let mut fixture = Fixture::healthy();
        let lines: Vec<_> = lines
            .iter()
            .map(|line| format!("[    1.234567] {line}\n"))
            .collect();
        fixture.prints(
            "dmesg",
            &format!("[    0.000000] Linux\n{}", lines.concat()),
        );
        log(&fixture.guest())
    }

    fn says(text: &str) -> String {
        format!("{COMPANION}: {text}")
    }

    #[test]
    fn logs_without_trouble() {
        Fixture::is_ok(&check(&[]));
        let findings = check(&[
            "apple_dma_pci: loading out-of-tree module taints kernel.",
            &says("enabling device (0000 -> 0002)"),
            &says(MANAGED),
            &says("0000:00:05.0: managed device appeared"),
        ]);
        Fixture::is_ok(&findings);
        assert!(findings[0].found.contains("has 2 messages"));
    }

    #[test]
    fn every_message_of_trouble_is_found() {
        for message in MESSAGES.iter().chain(KERNEL) {
            let text = message.shown();
            let findings = check(&[&says(MANAGED), &says(&text), &says(&text)]);
            if message.severity == Severity::Ok {
                Fixture::is_ok(&findings);
            } else {
                assert_eq!(findings.len(), 1, "{text}");
                assert_eq!(findings[0].severity, message.severity, "{text}");
                let found = format!("0000:00:10.0: '{text}', 2 times: {}", message.meaning);
                assert_eq!(findings[0].found, found);
            }
        }
    }

    #[test]
    fn causes_have_their_own_advice() {
        for cause in CAUSES {
            let text = format!(
                "0000:00:05.0: cannot map 8 bytes at 0x1000: {}",
                cause.format
            );
            let findings = check(&[&says(&text)]);
            Fixture::is_problem(&findings, cause.format);
            assert_eq!(findings[0].advice.as_deref(), Some(cause.advice));
        }
        let findings = check(&[
            &says("0000:00:05.0: cannot map 8 bytes at 0x1000: refused by the host"),
            &says("0000:00:05.0: cannot map 8 bytes at 0x1000: out of memory"),
        ]);
        assert_eq!(findings.len(), 2);
    }

    #[test]
    fn what_is_over_is_not_said() {
        let trouble = says("host refused to map a single page of guest RAM");
        let parameter = "apple_dma_pci: strict=2: invalid value: must be 0 or 1";
        Fixture::is_problem(&check(&[&says(MANAGED), &trouble]), "refused to map");
        Fixture::is_problem(&check(&[parameter, &trouble]), "strict=2");
        Fixture::is_ok(&check(&[parameter, &trouble, &says(MANAGED)]));
        // The problems of other companions still apply.
        let other = "apple_dma_pci 0000:00:11.0: protocol version 3 is not supported: expected 2";
        Fixture::is_problem(&check(&[other, &says(MANAGED)]), "version 3");
        let silent = says("host timed out after 2000 ms; new mappings fail until it responds");
        Fixture::is_problem(&check(&[&silent]), "timed out");
        let back = says("host is responding again after 3000 ms (batch finished)");
        Fixture::is_ok(&check(&[&silent, &back]));
        Fixture::is_problem(&check(&[&back, &silent]), "timed out");
    }

    #[test]
    fn why_a_module_is_not_loaded() {
        let mut fixture = Fixture::healthy();
        let line = "[    2.0] Loading of module with unavailable key is rejected\n";
        fixture.prints("dmesg", line);
        Fixture::is_ok(&log(&fixture.guest()));
        fixture.unload();
        Fixture::is_problem(&log(&fixture.guest()), "unavailable key");
        fixture.prints(
            "dmesg",
            "[    2.0] Lockdown: modprobe: unsigned module loading is restricted; see man \
             kernel_lockdown.7\n",
        );
        Fixture::is_problem(&log(&fixture.guest()), "unsigned module loading");
    }

    #[test]
    fn logs_that_cannot_be_read() {
        let mut fixture = Fixture::healthy();
        fixture.prints("dmesg", "");
        Fixture::is_unknown(&log(&fixture.guest()), "dmesg fails");
    }

    #[test]
    fn logs_of_systems_that_do_not_run() {
        let fixture = Fixture::healthy();
        Fixture::is_unknown(&log(&fixture.guest_at_rest()), "no kernel log");
        let line = format!(
            "Nov 21 12:00:00 host kernel: {}\n",
            says("BAR 0: invalid size 0x1: expected 0x2")
        );
        fixture.write("var/log/kern.log", &line);
        Fixture::is_problem(&log(&fixture.guest_at_rest()), "BAR 0: invalid size 0x1");
    }
}
