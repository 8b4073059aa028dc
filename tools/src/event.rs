// SPDX-License-Identifier: GPL-2.0

//! The module's events, described in docs/ABI/testing/tracefs-driver-apple-dma-pci, parsed from
//! lines of trace_pipe. This file parses text and reads no files.

use crate::debugfs::c_number;
use serde::{
    Deserialize,
    Serialize, //
};

/// Defines [`EventKind`] and its parser from one table: an entry is an event with its name and its
/// fields. A field's name in the trace is its name here, and its type defines its format.
macro_rules! events {
    ($(
        $(#[$doc:meta])*
        $name:literal => $kind:ident { $($field:ident: $type:ty),* $(,)? }
    )*) => {
        /// An event, by what a driver or the host did.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "event")]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $name)] $kind { $($field: $type),* },)*
        }

        impl EventKind {
            /// Parses the event called `name`; [`None`] if it is unknown, or lacks a field.
            fn parse(name: &str, fields: &Fields<'_>) -> Option<Self> {
                match name {
                    $($name => Some(Self::$kind { $($field: fields.get(stringify!($field))?),* }),)*
                    _ => None,
                }
            }
        }
    };
}

events! {
    /// A driver's mapping of memory.
    "map" => Map {
        gpa: u64,
        dma: u64,
        size: u64,
        ns: u64,
        entry: u32,
        entries: u32,
        source: MapPath,
    }
    /// A driver's unmapping.
    "unmap" => Unmap { gpa: u64, dma: u64, size: u64, ns: u64, entry: u32, entries: u32 }
    /// A window that the host created.
    "window_created" => WindowCreated { gpa: u64, dma: u64, size: u64, uses: u32 }
    /// An idle window that is used again.
    "window_reused" => WindowReused { gpa: u64, dma: u64, size: u64, uses: u32 }
    /// A window that the host unmapped.
    "window_returned" => WindowReturned { gpa: u64, dma: u64, size: u64, uses: u32 }
    /// A request to the host, with the host's answer.
    "doorbell" => Doorbell { command: String, entries: u32, status: String, ns: u64 }
    /// A mapping that a driver did not get.
    "refusal" => Refusal { gpa: u64, size: u64, entries: u32, limit: u64, cause: String, ns: u64 }
    /// A reply of the host that does not match the request.
    "host_error" => HostError { command: String, gpa: u64, size: u64, cause: String }
    /// A driver's unmapping of an address that is not mapped.
    "misuse" => Misuse { dma: u64, size: u64 }
}

/// The way in which a mapping was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MapPath {
    /// By an addition.
    Whole,
    /// By a window that was open.
    Window,
    /// By copying.
    Copy,
    /// By a window that had to be created, or found under the lock.
    Host,
}

/// An event, with its time and place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds of the monotonic clock.
    pub us: u64,
    /// The CPU.
    pub cpu: u32,
    /// The name of the task that ran, and its number.
    pub task: String,
    pub pid: u32,
    /// PCI addresses.
    pub companion: String,
    pub device: String,
    /// The event itself.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// A line of trace_pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// An event.
    Event(Event),
    /// Number of events of a CPU that were lost.
    Lost { cpu: u32, events: u64 },
    /// Another line.
    Other,
}

/// The fields of an event, by their names.
struct Fields<'a>(&'a str);

impl Fields<'_> {
    fn get<T: Field>(&self, name: &str) -> Option<T> {
        let mut fields = self.0.split(' ');
        T::parse(fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?)
    }
}

/// A type of a field.
trait Field: Sized {
    fn parse(text: &str) -> Option<Self>;
}

impl Field for u64 {
    fn parse(text: &str) -> Option<Self> {
        c_number(text)
    }
}

impl Field for u32 {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Field for String {
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Field for MapPath {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "whole" => Self::Whole,
            "window" => Self::Window,
            "copy" => Self::Copy,
            "host" => Self::Host,
            _ => return None,
        })
    }
}

/// Splits a line at `[CPU]` and returns the parts before and after it, with the CPU. Names of tasks
/// may have brackets, too: `[CPU]` follows a number and blanks.
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
        companion: fields.get("companion")?,
        device: fields.get("device")?,
        kind: EventKind::parse(name, &fields)?,
    })
}

/// Parses the number of lost events, in the kernel's form: `CPU:1 [LOST 12 EVENTS]`.
fn lost(line: &str) -> Option<Line> {
    let (cpu, events) = line.strip_prefix("CPU:")?.split_once(" [LOST ")?;
    Some(Line::Lost {
        cpu: cpu.parse().ok()?,
        // The kernel does not always know the number.
        events: events.strip_suffix(" EVENTS]")?.parse().unwrap_or(1),
    })
}

/// Parses a line of trace_pipe, without its end.
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
        let many =
            |is: fn(&EventKind) -> bool| events.iter().filter(|event| is(&event.kind)).count();
        assert_eq!(many(|kind| matches!(kind, EventKind::Misuse { .. })), 1);
        assert!(many(|kind| matches!(kind, EventKind::WindowCreated { .. })) > 0);
        let maps = many(|kind| matches!(kind, EventKind::Map { .. }));
        // One misuse, whose unmap has no mapping.
        assert_eq!(
            many(|kind| matches!(kind, EventKind::Unmap { .. })),
            maps + 1
        );
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
                event.kind,
                EventKind::Misuse {
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

    fn mapping() -> impl Strategy<Value = EventKind> {
        (any::<[u64; 4]>(), any::<[u32; 2]>(), 0..4u8).prop_map(
            |([gpa, dma, size, ns], [entry, entries], kind)| match kind {
                0 => EventKind::Unmap {
                    gpa,
                    dma,
                    size,
                    ns,
                    entry,
                    entries,
                },
                1 => EventKind::WindowReturned {
                    gpa,
                    dma,
                    size,
                    uses: entry,
                },
                _ => EventKind::Map {
                    gpa,
                    dma,
                    size,
                    ns,
                    entry,
                    entries,
                    source: MapPath::Host,
                },
            },
        )
    }

    proptest! {
        #[test]
        fn events_are_read_as_the_kernel_writes_them(
            kind in mapping(),
            us in 0..1u64 << 50,
            cpu in 0..1000u32,
            pid: u32,
            task in "[!-~]{1,15}",
        ) {
            let fields = match &kind {
                EventKind::Map { gpa, dma, size, ns, entry, entries, .. } => format!(
                    "map: companion=c device=d gpa={gpa:#x} dma={dma:#x} size={size} ns={ns} \
                     entry={entry} entries={entries} source=host"),
                EventKind::Unmap { gpa, dma, size, ns, entry, entries } => format!(
                    "unmap: companion=c device=d gpa={gpa:#x} dma={dma:#x} size={size} ns={ns} \
                     entry={entry} entries={entries}"),
                EventKind::WindowReturned { gpa, dma, size, uses } => format!(
                    "window_returned: companion=c device=d gpa={gpa:#x} dma={dma:#x} \
                     size={size} uses={uses}"),
                _ => unreachable!(),
            };
            let (seconds, micros) = (us / 1_000_000, us % 1_000_000);
            let time = format!("{seconds:5}.{micros:06}");
            let text = format!("{task:>16}-{pid:<7} [{cpu:03}] d..1. {time}: {fields}");
            let event = Event {
                us, cpu, task, pid, companion: "c".to_owned(), device: "d".to_owned(), kind,
            };
            prop_assert_eq!(line(&text), Line::Event(event.clone()));
            // In the recording's form, too.
            let json = serde_json::to_string(&event).unwrap();
            prop_assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = line(&text);
        }
    }
}
