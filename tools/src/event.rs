// SPDX-License-Identifier: GPL-2.0

//! The module's events, described in docs/ABI/testing/tracefs-driver-apple-dma-pci, parsed from
//! lines of trace_pipe, and from those of recordings. This file parses text and reads no files.

use crate::debugfs::c_number;
use apple_dma_replay::CopyDirection;
use serde::{
    Deserialize,
    Serialize, //
};
use std::{
    borrow::Cow,
    collections::HashSet,
    sync::Arc, //
};

/// A name that many events share.
pub type Name = Arc<str>;

/// Number of names that are found without the set of all.
const RECENT: usize = 8;

/// Names of the events of a recording, each of which is there once.
#[derive(Default)]
pub struct Names {
    recent: Vec<Name>,
    all: HashSet<Name>,
}

impl Names {
    /// Returns the name that is `text`.
    fn get(&mut self, text: &str) -> Name {
        if let Some(name) = self.recent.iter().find(|name| ***name == *text) {
            return name.clone();
        }
        let name = match self.all.get(text) {
            Some(name) => name.clone(),
            None => {
                let name = Name::from(text);
                self.all.insert(name.clone());
                name
            }
        };
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push(name.clone());
        name
    }
}

/// Text that is not copied unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A line of a recording, with the fields of all events. It is parsed in one go, unlike an enum of
/// events with fields of their own and common ones, which takes several times as long.
#[derive(Deserialize)]
struct RawEvent<'a> {
    us: Option<u64>,
    cpu: Option<u32>,
    #[serde(borrow)]
    task: Option<Text<'a>>,
    pid: Option<u32>,
    #[serde(borrow)]
    companion: Option<Text<'a>>,
    #[serde(borrow)]
    device: Option<Text<'a>>,
    #[serde(borrow)]
    event: Option<Text<'a>>,
    gpa: Option<u64>,
    dma: Option<u64>,
    size: Option<u64>,
    ns: Option<u64>,
    limit: Option<u64>,
    entry: Option<u32>,
    entries: Option<u32>,
    uses: Option<u32>,
    bytes: Option<u64>,
    windows: Option<u64>,
    #[serde(borrow)]
    level: Option<Text<'a>>,
    source: Option<MapPath>,
    #[serde(default)]
    copyable: Copyable,
    #[serde(borrow)]
    command: Option<Text<'a>>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow)]
    cause: Option<Text<'a>>,
}

/// A field of a [`RawEvent`] that an event needs as a `T`.
trait RawField<T> {
    fn value(&self, names: &mut Names) -> Option<T>;
}

impl<T: Copy> RawField<T> for Option<T> {
    fn value(&self, _: &mut Names) -> Option<T> {
        *self
    }
}

impl RawField<Copyable> for Copyable {
    fn value(&self, _: &mut Names) -> Option<Copyable> {
        Some(*self)
    }
}

impl RawField<Name> for Option<Text<'_>> {
    fn value(&self, names: &mut Names) -> Option<Name> {
        Some(names.get(&self.as_ref()?.0))
    }
}

/// Defines [`EventKind`] and its parsers from one table: an entry is an event with its name and its
/// fields. A field's name in the trace is its name here, and its type defines its format.
macro_rules! events {
    ($(
        $(#[$doc:meta])*
        $name:literal => $kind:ident { $($field:ident: $type:ty),* $(,)? }
    )*) => {
        /// An event, by what a driver or the host did.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

            /// Returns the event of a recording's line; [`None`] if it is unknown, or lacks a
            /// field.
            fn from_raw(raw: &RawEvent<'_>, names: &mut Names) -> Option<Self> {
                match &*raw.event.as_ref()?.0 {
                    $($name => Some(Self::$kind { $($field: raw.$field.value(names)?),* }),)*
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
        copyable: Copyable,
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
    "doorbell" => Doorbell { command: Name, entries: u32, status: Name, ns: u64 }
    /// A mapping that a driver did not get.
    "refusal" => Refusal { gpa: u64, size: u64, entries: u32, limit: u64, cause: Name, ns: u64 }
    /// A reply of the host that does not match the request.
    "host_error" => HostError { command: Name, gpa: u64, size: u64, cause: Name }
    /// A change of the pressure on the limits.
    "pressure" => Pressure { level: Name, bytes: u64, windows: u64 }
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

/// The permission to copy a mapping, with the direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Copyable {
    /// A mapping of an early module, which did not record it.
    #[default]
    Unknown,
    /// A mapping that must stay where it is.
    No,
    /// A mapping that may be copied, and that the device reads.
    ToDevice,
    /// A mapping that may be copied, and that the device writes.
    FromDevice,
}

impl Copyable {
    /// Returns the direction of a mapping that may be copied.
    pub fn direction(self) -> Option<CopyDirection> {
        match self {
            Self::Unknown | Self::No => None,
            Self::ToDevice => Some(CopyDirection::ToDevice),
            Self::FromDevice => Some(CopyDirection::FromDevice),
        }
    }
}

/// An event, with its time and place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Microseconds of the monotonic clock.
    pub us: u64,
    /// The CPU.
    pub cpu: u32,
    /// The name of the task that ran, and its number.
    pub task: Name,
    pub pid: u32,
    /// PCI addresses.
    pub companion: Name,
    pub device: Name,
    /// The event itself.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl Event {
    /// Parses a line of a recording; [`None`] if it is no event.
    pub fn from_json(line: &[u8], names: &mut Names) -> Option<Self> {
        let raw: RawEvent<'_> = serde_json::from_slice(line).ok()?;
        Some(Self {
            us: raw.us?,
            cpu: raw.cpu?,
            task: raw.task.value(names)?,
            pid: raw.pid?,
            companion: raw.companion.value(names)?,
            device: raw.device.value(names)?,
            kind: EventKind::from_raw(&raw, names)?,
        })
    }
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
        match fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('=')) {
            Some(text) => T::parse(text),
            None => T::absent(),
        }
    }
}

/// A type of a field.
trait Field: Sized {
    fn parse(text: &str) -> Option<Self>;

    /// Returns the value where the module does not have the field yet; [`None`] if it must have it.
    fn absent() -> Option<Self> {
        None
    }
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

impl Field for Name {
    fn parse(text: &str) -> Option<Self> {
        Some(text.into())
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

impl Field for Copyable {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "no" => Self::No,
            "to-device" => Self::ToDevice,
            "from-device" => Self::FromDevice,
            _ => return None,
        })
    }

    fn absent() -> Option<Self> {
        Some(Self::Unknown)
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
        task: task.trim_start().into(),
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
        assert!(events.iter().all(|event| &*event.device == "0000:00:06.0"));
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
            assert_eq!((&*event.task, event.pid, event.cpu), (task, pid, cpu));
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

    #[test]
    fn every_kind_is_recorded() {
        let (a, b) = (Name::from("map"), Name::from("answered"));
        let kinds = [
            EventKind::WindowCreated {
                gpa: 1,
                dma: 2,
                size: 3,
                uses: 4,
            },
            EventKind::WindowReused {
                gpa: 1,
                dma: 2,
                size: 3,
                uses: 4,
            },
            EventKind::Doorbell {
                command: a.clone(),
                entries: 1,
                status: b.clone(),
                ns: 2,
            },
            EventKind::Refusal {
                gpa: 1,
                size: 2,
                entries: 3,
                limit: 4,
                cause: b.clone(),
                ns: 5,
            },
            EventKind::HostError {
                command: a,
                gpa: 1,
                size: 2,
                cause: b,
            },
            EventKind::Misuse { dma: 1, size: 2 },
        ];
        let mut names = Names::default();
        for kind in kinds {
            // A task's name may be anything.
            let (task, companion, device) = ("\"\\\t".into(), "c".into(), "d".into());
            let event = Event {
                us: 1,
                cpu: 2,
                task,
                pid: 3,
                companion,
                device,
                kind,
            };
            let json = serde_json::to_vec(&event).unwrap();
            assert_eq!(Event::from_json(&json, &mut names), Some(event));
        }
        for json in ["", "{}", "[]", r#"{"us":1,"cpu":1,"event":"map"}"#] {
            assert_eq!(
                Event::from_json(json.as_bytes(), &mut names),
                None,
                "{json}"
            );
        }
    }

    #[test]
    fn a_name_is_there_once() {
        let mut names = Names::default();
        let texts: Vec<_> = (0..3 * RECENT).map(|i| i.to_string()).collect();
        let first: Vec<_> = texts.iter().map(|text| names.get(text)).collect();
        for (text, first) in texts.iter().zip(&first) {
            assert!(Arc::ptr_eq(&names.get(text), first));
        }
        assert_eq!(names.all.len(), texts.len());
    }

    fn mapping() -> impl Strategy<Value = EventKind> {
        (any::<[u64; 4]>(), any::<[u32; 2]>(), 0..6u8).prop_map(
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
                    copyable: match kind {
                        2 => Copyable::Unknown,
                        3 => Copyable::No,
                        4 => Copyable::ToDevice,
                        _ => Copyable::FromDevice,
                    },
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
                EventKind::Map { gpa, dma, size, ns, entry, entries, copyable, .. } => format!(
                    "map: companion=c device=d gpa={gpa:#x} dma={dma:#x} size={size} ns={ns} \
                     entry={entry} entries={entries} source=host{}", match copyable {
                        Copyable::Unknown => "",
                        Copyable::No => " copyable=no",
                        Copyable::ToDevice => " copyable=to-device",
                        Copyable::FromDevice => " copyable=from-device",
                     }),
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
                us, cpu, task: task.into(), pid, companion: "c".into(), device: "d".into(), kind,
            };
            prop_assert_eq!(line(&text), Line::Event(event.clone()));
            // In the recording's form, too.
            let json = serde_json::to_vec(&event).unwrap();
            prop_assert_eq!(Event::from_json(&json, &mut Names::default()), Some(event));
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = line(&text);
            let _ = Event::from_json(text.as_bytes(), &mut Names::default());
        }
    }
}
