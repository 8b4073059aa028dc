// SPDX-License-Identifier: GPL-2.0

//! Calls of drivers, out of a recording's events: the entries of a scatterlist have events of their
//! own, and are one call.

use crate::event::{
    Event,
    EventKind, //
};
use apple_dma_replay::{
    CopyDirection,
    Mapping, //
};
use std::collections::HashMap;

/// A call of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Mappings that the driver got; they may be copied if they have a direction.
    Map(Vec<Mapping>, Option<CopyDirection>),
    /// Mappings that the driver unmapped.
    Unmap(Vec<Mapping>),
    /// A mapping that the driver did not get.
    Attempt {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
    },
}

/// The kind of a call with a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListKind {
    Map(Option<CopyDirection>),
    Unmap,
}

impl ListKind {
    /// Returns the call with all of `list`.
    fn call(self, list: Vec<Mapping>) -> Option<Call> {
        Some(match self {
            Self::Map(copyable) => Call::Map(list, copyable),
            Self::Unmap => Call::Unmap(list),
        })
    }
}

/// Incomplete lists of one CPU: an interrupt may come between the events of a list.
#[derive(Default)]
struct OpenLists(Vec<(ListKind, u32, Vec<Mapping>)>);

impl OpenLists {
    /// Adds an entry; returns the list when it is complete.
    fn add(&mut self, kind: ListKind, entry: u32, entries: u32, mapping: Mapping) -> Option<Call> {
        if entries <= 1 {
            return kind.call(vec![mapping]);
        }
        if entry == 0 {
            self.0.push((kind, entries, vec![mapping]));
            return None;
        }
        let place = self.0.iter().rposition(|(other, all, list)| {
            (*other, *all, list.len()) == (kind, entries, entry as usize)
        });
        let Some(place) = place else {
            // The events before it were lost.
            return kind.call(vec![mapping]);
        };
        self.0[place].2.push(mapping);
        if entry + 1 == entries {
            let (_, _, list) = self.0.swap_remove(place);
            return kind.call(list);
        }
        None
    }
}

/// Returns whether a call that failed for this reason might have been served.
fn might_be_served(cause: &str) -> bool {
    !matches!(cause, "invalid" | "mmio" | "unreachable")
}

/// Returns the calls among `events`, with the time of their last event.
pub fn calls<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<(u64, Call)> {
    let mut open: HashMap<u32, OpenLists> = HashMap::new();
    let mut calls = Vec::new();
    for event in events {
        let open = open.entry(event.cpu).or_default();
        let call = match &event.kind {
            &EventKind::Map {
                gpa,
                dma,
                size,
                entry,
                entries,
                copyable,
                ..
            } => {
                let kind = ListKind::Map(copyable.direction());
                open.add(kind, entry, entries, Mapping { gpa, dma, size })
            }
            // Nothing was mapped there.
            EventKind::Unmap { gpa: u64::MAX, .. } => None,
            &EventKind::Unmap {
                gpa,
                dma,
                size,
                entry,
                entries,
                ..
            } => open.add(ListKind::Unmap, entry, entries, Mapping { gpa, dma, size }),
            // A list that failed has one event, so its entries are not known.
            EventKind::Refusal {
                gpa,
                size,
                entries: 1,
                cause,
                ..
            } if might_be_served(cause) => Some(Call::Attempt {
                gpa: *gpa,
                size: *size,
            }),
            _ => None,
        };
        calls.extend(call.map(|call| (event.us, call)));
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{
        Copyable,
        MapPath, //
    };

    fn event(cpu: u32, kind: EventKind) -> Event {
        Event {
            us: 1,
            cpu,
            task: "a".into(),
            pid: 1,
            companion: "c".into(),
            device: "d".into(),
            kind,
        }
    }

    fn map(cpu: u32, gpa: u64, entry: u32, entries: u32) -> Event {
        let (dma, size, ns, source) = (gpa, 1, 1, MapPath::Host);
        let copyable = Copyable::ToDevice;
        event(
            cpu,
            EventKind::Map {
                gpa,
                dma,
                size,
                ns,
                entry,
                entries,
                source,
                copyable,
            },
        )
    }

    fn list(gpas: &[u64]) -> Call {
        let mapping = |gpa: &u64| Mapping {
            gpa: *gpa,
            dma: *gpa,
            size: 1,
        };
        Call::Map(
            gpas.iter().map(mapping).collect(),
            Some(CopyDirection::ToDevice),
        )
    }

    #[test]
    fn lists_are_put_together() {
        let events = [
            map(0, 1, 0, 2),
            // Another CPU, and an interrupt with a list of its own.
            map(1, 10, 0, 3),
            map(0, 5, 0, 1),
            map(0, 6, 0, 2),
            map(0, 7, 1, 2),
            map(0, 2, 1, 2),
            map(1, 11, 1, 3),
            map(1, 12, 2, 3),
            // Without its start.
            map(0, 20, 3, 4),
        ];
        let calls: Vec<_> = calls(&events).into_iter().map(|(_, call)| call).collect();
        let expected = [&[5][..], &[6, 7], &[1, 2], &[10, 11, 12], &[20]];
        assert_eq!(calls, expected.map(list));
    }

    #[test]
    fn what_failed_is_tried_if_it_can_be() {
        let refusal = |cause: &str, entries| {
            let cause = cause.into();
            event(
                0,
                EventKind::Refusal {
                    gpa: 1,
                    size: 2,
                    entries,
                    limit: 0,
                    cause,
                    ns: 0,
                },
            )
        };
        let misuse = EventKind::Unmap {
            gpa: u64::MAX,
            dma: 1,
            size: 1,
            ns: 0,
            entry: 0,
            entries: 1,
        };
        let events = [
            refusal("max_bytes", 1),
            refusal("mmio", 1),
            refusal("max_bytes", 4),
            event(0, misuse),
        ];
        assert_eq!(calls(&events), [(1, Call::Attempt { gpa: 1, size: 2 })]);
    }
}
