// SPDX-License-Identifier: GPL-2.0

//! The module's events, as docs/ABI/testing/tracefs-driver-apple-dma-pci has them, out of lines of
//! trace_pipe. Only their text; nothing is read here.

use crate::pages::c_number;
use serde::{
    Deserialize,
    Serialize, //
};

/// What a driver or the host did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A driver got a mapping.
    Map {
        gpa: u64,
        dma: u64,
        size: u64,
        ns: u64,
        entry: u32,
        entries: u32,
        source: Source,
    },
    /// A driver gives a mapping up.
    Unmap {
        gpa: u64,
        dma: u64,
        size: u64,
        ns: u64,
        entry: u32,
        entries: u32,
    },
    /// The host made a window.
    WindowCreated {
        gpa: u64,
        dma: u64,
        size: u64,
        uses: u32,
    },
    /// A window that was idle is used again.
    WindowReused {
        gpa: u64,
        dma: u64,
        size: u64,
        uses: u32,
    },
    /// The host took a window back.
    WindowReturned {
        gpa: u64,
        dma: u64,
        size: u64,
        uses: u32,
    },
    /// The host was asked.
    Doorbell {
        command: String,
        entries: u32,
        status: String,
        ns: u64,
    },
    /// A driver did not get a mapping.
    Refusal {
        gpa: u64,
        size: u64,
        entries: u32,
        limit: u64,
        cause: String,
        ns: u64,
    },
    /// An answer of the host was not what was asked for.
    HostError {
        command: String,
        gpa: u64,
        size: u64,
        cause: String,
    },
    /// A driver gave up what it had not.
    Misuse { dma: u64, size: u64 },
}

/// How a mapping was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// By an addition.
    Whole,
    /// By a window that was there.
    Window,
    /// By one that had to be made, or looked for with the lock.
    Host,
}

/// An event, with when and where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds of the monotonic clock.
    pub us: u64,
    /// Which CPU.
    pub cpu: u32,
    /// The name of what ran on it, and its number.
    pub task: String,
    pub pid: u32,
    /// PCI addresses.
    pub companion: String,
    pub device: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// A line of trace_pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// An event.
    Event(Event),
    /// So many events of a CPU were lost.
    Lost { cpu: u32, events: u64 },
    /// What is none of ours.
    Other,
}

/// The fields of an event, by their names.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn word(&self, name: &str) -> Option<&'a str> {
        let mut fields = self.0.split(' ');
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    }

    fn long(&self, name: &str) -> Option<u64> {
        c_number(self.word(name)?)
    }

    fn int(&self, name: &str) -> Option<u32> {
        self.word(name)?.parse().ok()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.word(name).map(str::to_owned)
    }
}

fn what(name: &str, fields: &Fields<'_>) -> Option<What> {
    let (long, int, text) = (
        |name| fields.long(name),
        |name| fields.int(name),
        |name| fields.text(name),
    );
    Some(match name {
        "map" => What::Map {
            gpa: long("gpa")?,
            dma: long("dma")?,
            size: long("size")?,
            ns: long("ns")?,
            entry: int("entry")?,
            entries: int("entries")?,
            source: match fields.word("source")? {
                "whole" => Source::Whole,
                "window" => Source::Window,
                "host" => Source::Host,
                _ => return None,
            },
        },
        "unmap" => What::Unmap {
            gpa: long("gpa")?,
            dma: long("dma")?,
            size: long("size")?,
            ns: long("ns")?,
            entry: int("entry")?,
            entries: int("entries")?,
        },
        "window_created" => What::WindowCreated {
            gpa: long("gpa")?,
            dma: long("dma")?,
            size: long("size")?,
            uses: int("uses")?,
        },
        "window_reused" => What::WindowReused {
            gpa: long("gpa")?,
            dma: long("dma")?,
            size: long("size")?,
            uses: int("uses")?,
        },
        "window_returned" => What::WindowReturned {
            gpa: long("gpa")?,
            dma: long("dma")?,
            size: long("size")?,
            uses: int("uses")?,
        },
        "doorbell" => What::Doorbell {
            command: text("command")?,
            entries: int("entries")?,
            status: text("status")?,
            ns: long("ns")?,
        },
        "refusal" => What::Refusal {
            gpa: long("gpa")?,
            size: long("size")?,
            entries: int("entries")?,
            limit: long("limit")?,
            cause: text("cause")?,
            ns: long("ns")?,
        },
        "host_error" => What::HostError {
            command: text("command")?,
            gpa: long("gpa")?,
            size: long("size")?,
            cause: text("cause")?,
        },
        "misuse" => What::Misuse {
            dma: long("dma")?,
            size: long("size")?,
        },
        _ => return None,
    })
}

/// What stands before `[CPU]` and behind it, with the CPU: names of tasks may have brackets, too,
/// so it is what comes after a number and blanks.
fn split_at_cpu(line: &str) -> Option<(&str, u32, &str)> {
    line.match_indices('[').find_map(|(at, _)| {
        let (cpu, rest) = line[at + 1..].split_once(']')?;
        let before = line[..at].strip_suffix(' ')?.trim_end();
        let is_pid = before.ends_with(|c: char| c.is_ascii_digit());
        Some((before, cpu.parse().ok()?, rest)).filter(|_| is_pid)
    })
}

fn event(line: &str) -> Option<Event> {
    let (task, cpu, rest) = split_at_cpu(line)?;
    let (task, pid) = task.rsplit_once('-')?;
    let (head, rest) = rest.split_once(": ")?;
    // The interrupt state may stand before the time.
    let (seconds, micros) = head.rsplit(' ').next()?.split_once('.')?;
    let micros = Some(micros).filter(|micros| micros.len() == 6)?;
    let us = seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?;
    let (name, fields) = rest.split_once(": ")?;
    let fields = Fields(fields);
    Some(Event {
        us: us.checked_add(micros.parse().ok()?)?,
        cpu,
        task: task.trim_start().to_owned(),
        pid: pid.parse().ok()?,
        companion: fields.text("companion")?,
        device: fields.text("device")?,
        what: what(name, &fields)?,
    })
}

/// How many events were lost, in the kernel's words: `CPU:1 [LOST 12 EVENTS]`.
fn lost(line: &str) -> Option<Line> {
    let (cpu, events) = line.strip_prefix("CPU:")?.split_once(" [LOST ")?;
    Some(Line::Lost {
        cpu: cpu.parse().ok()?,
        // The kernel does not always know how many.
        events: events.strip_suffix(" EVENTS]")?.parse().unwrap_or(1),
    })
}

/// Reads a line of trace_pipe, without its end.
pub fn line(line: &str) -> Line {
    let line = line.trim_end();
    match event(line) {
        Some(event) => Line::Event(event),
        None => lost(line).unwrap_or(Line::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Event {
        match line(text) {
            Line::Event(event) => event,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn events_of_a_guest() {
        let text = include_str!("fixtures/trace");
        let lines: Vec<_> = text.lines().filter(|text| !text.starts_with('#')).collect();
        let events: Vec<_> = lines.iter().map(|text| one(text)).collect();
        assert!(events.len() > 50);
        assert!(events.iter().all(|event| event.device == "0000:00:06.0"));
        assert!(events.windows(2).all(|pair| pair[0].us <= pair[1].us));
        let many = |is: fn(&What) -> bool| events.iter().filter(|event| is(&event.what)).count();
        assert_eq!(many(|what| matches!(what, What::Misuse { .. })), 1);
        assert!(many(|what| matches!(what, What::WindowCreated { .. })) > 0);
        let maps = many(|what| matches!(what, What::Map { .. }));
        // One misuse, whose unmap has no mapping.
        assert_eq!(many(|what| matches!(what, What::Unmap { .. })), maps + 1);
    }

    #[test]
    fn odd_tasks() {
        let rest = "companion=0000:00:10.0 device=0000:00:06.0 dma=0x1000 size=4096";
        for (text, task, pid, cpu) in [
            (
                "  kworker/u8:1-ev-12      [003] d.h1.",
                "kworker/u8:1-ev",
                12,
                3,
            ),
            (
                "           <...>-1234567 [001] .....",
                "<...>",
                1_234_567,
                1,
            ),
            ("  a [7] b-3-99 [002] .....", "a [7] b-3", 99, 2),
            ("  bash-5 [000]", "bash", 5, 0),
        ] {
            let event = one(&format!("{text} 12345.678901: misuse: {rest}"));
            assert_eq!(
                (event.task.as_str(), event.pid, event.cpu),
                (task, pid, cpu)
            );
            assert_eq!(event.us, 12_345_678_901);
            assert_eq!(
                event.what,
                What::Misuse {
                    dma: 0x1000,
                    size: 4096
                }
            );
        }
    }

    #[test]
    fn what_is_no_event() {
        assert_eq!(
            line("CPU:1 [LOST 12 EVENTS]"),
            Line::Lost { cpu: 1, events: 12 }
        );
        for text in [
            "",
            "# tracer: nop",
            "bash-1 [000] ..... 1.000000: sched: x=1",
        ] {
            assert_eq!(line(text), Line::Other, "{text}");
        }
        // A field is missing.
        let text = "bash-1 [000] ..... 1.000000: misuse: companion=a device=b dma=0x1";
        assert_eq!(line(text), Line::Other);
    }

    fn mapping() -> impl Strategy<Value = What> {
        (any::<[u64; 4]>(), any::<[u32; 2]>(), 0..4u8).prop_map(
            |([gpa, dma, size, ns], [entry, entries], kind)| match kind {
                0 => What::Unmap {
                    gpa,
                    dma,
                    size,
                    ns,
                    entry,
                    entries,
                },
                1 => What::WindowReturned {
                    gpa,
                    dma,
                    size,
                    uses: entry,
                },
                _ => What::Map {
                    gpa,
                    dma,
                    size,
                    ns,
                    entry,
                    entries,
                    source: Source::Host,
                },
            },
        )
    }

    proptest! {
        #[test]
        fn events_are_read_as_the_kernel_writes_them(
            what in mapping(),
            us in 0..1u64 << 50,
            cpu in 0..1000u32,
            pid: u32,
            task in "[!-~]{1,15}",
        ) {
            let fields = match &what {
                What::Map { gpa, dma, size, ns, entry, entries, .. } => format!(
                    "map: companion=c device=d gpa={gpa:#x} dma={dma:#x} size={size} ns={ns} \
                     entry={entry} entries={entries} source=host"),
                What::Unmap { gpa, dma, size, ns, entry, entries } => format!(
                    "unmap: companion=c device=d gpa={gpa:#x} dma={dma:#x} size={size} ns={ns} \
                     entry={entry} entries={entries}"),
                What::WindowReturned { gpa, dma, size, uses } => format!(
                    "window_returned: companion=c device=d gpa={gpa:#x} dma={dma:#x} \
                     size={size} uses={uses}"),
                _ => unreachable!(),
            };
            let (seconds, micros) = (us / 1_000_000, us % 1_000_000);
            let time = format!("{seconds:5}.{micros:06}");
            let text = format!("{task:>16}-{pid:<7} [{cpu:03}] d..1. {time}: {fields}");
            let event = Event {
                us, cpu, task, pid, companion: "c".to_owned(), device: "d".to_owned(), what,
            };
            prop_assert_eq!(line(&text), Line::Event(event.clone()));
            // And as the recording has them.
            let json = serde_json::to_string(&event).unwrap();
            prop_assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = line(&text);
        }
    }
}
