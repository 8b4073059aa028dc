// SPDX-License-Identifier: GPL-2.0

//! The state of all companions, their rates since the previous state, and warnings. `status` and
//! `top` format it.

use crate::debugfs::{
    below,
    number,
    Numbers, //
};
use crate::system::{
    Companion,
    Details,
    System, //
};
use crate::text;
use anyhow::{
    bail,
    Result, //
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    time::{
        Duration,
        Instant, //
    },
};

/// Part of a limit from which on little is left of it.
const NEARLY: f64 = 0.9;

/// Rates of a companion, per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Mappings made.
    pub maps: f64,
    /// Mappings unmapped.
    pub unmaps: f64,
    /// Part of the mappings that found a window; [`None`] if there were no mappings.
    pub hit_part: Option<f64>,
    /// Windows created.
    pub windows_created: f64,
    /// Windows unmapped.
    pub windows_returned: f64,
    /// Doorbells of both kinds.
    pub doorbells: f64,
    /// Nanoseconds of a doorbell, on average; [`None`] without doorbells.
    pub doorbell_ns: Option<u64>,
    /// Calls of drivers that failed.
    pub refusals: f64,
}

impl Rates {
    fn new(before: &Details, now: &Details, time: Duration) -> Self {
        let grown = |before: &Numbers, now: &Numbers, name: &str| {
            number(now, name).wrapping_sub(number(before, name))
        };
        let counter = |name| grown(&before.counters, &now.counters, name);
        let bells = |name| {
            let of = |command| {
                grown(
                    &before.doorbells,
                    &now.doorbells,
                    &format!("{command}_{name}"),
                )
            };
            of("map") + of("unmap")
        };
        let rate = |count: u64| count as f64 / time.as_secs_f64();
        let maps = counter("maps");
        let count = bells("count");
        Self {
            maps: rate(maps),
            unmaps: rate(counter("unmaps")),
            hit_part: (maps != 0).then(|| text::part(counter("hits"), maps)),
            windows_created: rate(counter("windows_created")),
            windows_returned: rate(counter("windows_returned")),
            doorbells: rate(count),
            doorbell_ns: bells("ns").checked_div(count),
            refusals: rate(counter("refusals")),
        }
    }
}

/// A warning.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attention {
    /// The companion.
    pub companion: String,
    /// Kind of the warning, for programs.
    pub kind: &'static str,
    /// The warning and its meaning.
    pub text: String,
}

/// A companion with its rates.
#[derive(Clone, Debug, Serialize)]
pub struct CompanionView {
    /// The companion's state.
    #[serde(flatten)]
    pub now: Companion,
    /// Its rates; [`None`] at first, or without details.
    pub rates: Option<Rates>,
}

/// The state of the system. See the module's documentation.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// Seconds over which rates are measured.
    pub interval: f64,
    /// All companions.
    pub companions: Vec<CompanionView>,
    /// The warnings.
    pub attention: Vec<Attention>,
    /// Reason why details are missing, with advice.
    pub missing: Option<&'static str>,
}

/// Takes views repeatedly.
pub struct Sampler {
    system: System,
    before: BTreeMap<String, Companion>,
    at: Instant,
}

impl Sampler {
    pub fn new(system: System) -> Self {
        Self {
            system,
            before: BTreeMap::new(),
            at: Instant::now(),
        }
    }

    /// Takes a view; fails if there is no companion.
    pub fn sample(&mut self) -> Result<View> {
        let mut now = BTreeMap::new();
        for companion in self.system.companions()? {
            if let Some(state) = self.system.companion(&companion)? {
                now.insert(companion, state);
            }
        }
        if now.is_empty() {
            bail!("all companions have just gone");
        }
        let at = Instant::now();
        let time = at - self.at;
        let mut attention = Vec::new();
        let companions = now.values().map(|companion| {
            let before = self.before.get(&companion.companion);
            attention.extend(needs(companion, before));
            let details = before.and_then(|before| before.details.as_ref());
            let rates = details.zip(companion.details.as_ref());
            CompanionView {
                rates: rates.map(|(before, now)| Rates::new(before, now, time)),
                now: companion.clone(),
            }
        });
        let companions = companions.collect();
        self.before = now;
        self.at = at;
        Ok(View {
            interval: time.as_secs_f64(),
            companions,
            attention,
            missing: self.system.why_no_details(),
        })
    }
}

/// Returns the warnings for `now`; the difference to `before` is new.
fn needs(now: &Companion, before: Option<&Companion>) -> Vec<Attention> {
    let mut list = Vec::new();
    let mut add = |kind, text| {
        list.push(Attention {
            companion: now.companion.clone(),
            kind,
            text,
        });
    };
    if !now.present {
        let text = format!("there is no device {}", now.device);
        add("no-device", text);
    } else if now.driver.is_none() {
        let text = format!("{} has no driver, so nothing uses it", now.device);
        add("no-driver", text);
    }
    for (kind, name, used, max) in [
        ("bytes", "max_bytes", now.bytes, now.max_bytes),
        ("entries", "max_entries", now.entries, now.max_entries),
    ] {
        let part = text::part(used, max);
        if part >= NEARLY {
            let idle = match now.mode.as_str() {
                "lazy" => "; idle windows of it go when there is no room",
                _ => "",
            };
            add(
                kind,
                format!("{:.0} % of {name} are used{idle}", part * 100.0),
            );
        }
    }
    let Some(details) = &now.details else {
        return list;
    };
    if details
        .status
        .get("host")
        .is_some_and(|host| host == "silent")
    {
        let text = "the host does not answer: nothing new can be mapped until it does";
        add("host-silent", text.to_owned());
    }
    if let (Some(bytes), Some(max)) = (
        details.status_number("limit_bytes"),
        details.status_number("max_bytes"),
    ) {
        if bytes < max {
            let percent = details.status_number("search_percent").unwrap_or(0);
            add(
                "crash",
                format!(
                    "{} MiB at most until all is found that an earlier kernel left ({percent} %)",
                    bytes >> 20
                ),
            );
        }
    }
    let before = before.and_then(|before| before.details.as_ref());
    // Formats a number, with its causes, and the new part of it.
    let counted = |numbers: fn(&Details) -> &Numbers, name: &str| {
        let count = number(numbers(details), name);
        let new = before.map_or(0, |before| {
            count.wrapping_sub(number(numbers(before), name))
        });
        let new = if new == 0 {
            String::new()
        } else {
            format!(", {new} just now")
        };
        (count, new)
    };
    let causes = |numbers: &Numbers, name: &str| {
        let causes = below(numbers, name).filter(|(_, count)| *count != 0);
        let causes: Vec<_> = causes
            .map(|(cause, count)| format!("{cause} {count}"))
            .collect();
        causes.join(", ")
    };
    fn of_counters(details: &Details) -> &Numbers {
        &details.counters
    }
    fn of_doorbells(details: &Details) -> &Numbers {
        &details.doorbells
    }
    let (count, new) = counted(of_counters, "refusals");
    if count != 0 {
        let causes = causes(&details.counters, "refusals");
        let calls = text::count(count, "call", "calls");
        add(
            "refusals",
            format!("{calls} of the driver failed{new}: {causes}"),
        );
    }
    let (count, new) = counted(of_counters, "host_errors");
    if count != 0 {
        let causes = causes(&details.counters, "host_errors");
        let replies = text::count(count, "reply of the host was", "replies of the host were");
        add("host-errors", format!("{replies} rejected{new}: {causes}"));
    }
    let (count, new) = counted(of_counters, "misuses");
    if count != 0 {
        let times = text::count(count, "time", "times");
        add(
            "misuses",
            format!("driver bug: it unmapped {times} memory that was not mapped{new}"),
        );
    }
    let recovered = number(&details.counters, "windows_recovered");
    let lost = number(&details.counters, "windows_lost").saturating_sub(recovered);
    if lost != 0 {
        let windows = text::count(lost, "window", "windows");
        add(
            "lost",
            format!("the host failed to unmap {windows}: retrying; they count against the limits"),
        );
    }
    for (status, what) in [
        ("invalid", "rejected by the host as invalid"),
        ("unfinished", "not finished by the host in time"),
        ("unknown", "ended by the host with an unknown status"),
    ] {
        let (count, new) = counted(of_doorbells, &format!("status_{status}"));
        if count != 0 {
            let batches = text::count(count, "batch", "batches");
            add("doorbells", format!("{batches} {what}{new}"));
        }
    }
    list
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::system;

    /// Returns the warnings for the fixture's companion after `change`.
    fn attention(change: impl Fn(&mut Companion)) -> Vec<(&'static str, String)> {
        let (_dir, system) = system::tests::fixture();
        let before = system.companion("0000:00:10.0").unwrap().unwrap();
        let mut now = before.clone();
        for details in [&mut now].map(|now| now.details.as_mut().unwrap()) {
            details.counters.insert("misuses".to_owned(), 0);
        }
        change(&mut now);
        let needs = needs(&now, Some(&before));
        needs
            .into_iter()
            .map(|need| (need.kind, need.text))
            .collect()
    }

    fn set(numbers: &mut Numbers, name: &str, number: u64) {
        assert!(numbers.insert(name.to_owned(), number).is_some(), "{name}");
    }

    #[test]
    fn all_is_well() {
        assert_eq!(attention(|_| ()), []);
    }

    #[test]
    fn each_trouble_is_said() {
        let only = |kind, part: &str, change: &dyn Fn(&mut Companion)| {
            let list = attention(change);
            let kinds: Vec<_> = list.iter().map(|(kind, _)| *kind).collect();
            assert_eq!(kinds, [kind]);
            assert!(list[0].1.contains(part), "{}", list[0].1);
        };
        fn counters(now: &mut Companion) -> &mut Numbers {
            &mut now.details.as_mut().unwrap().counters
        }
        only("no-device", "no device", &|now| now.present = false);
        only("no-driver", "no driver", &|now| now.driver = None);
        only("bytes", "90 % of max_bytes", &|now| {
            (now.bytes, now.max_bytes) = (9, 10);
        });
        only("entries", "max_entries", &|now| {
            now.entries = now.max_entries
        });
        only("host-silent", "does not answer", &|now| {
            let details = now.details.as_mut().unwrap();
            details
                .status
                .insert("host".to_owned(), "silent".to_owned());
        });
        only("crash", "128 MiB at most", &|now| {
            let details = now.details.as_mut().unwrap();
            let limit = (128 << 20).to_string();
            details.status.insert("limit_bytes".to_owned(), limit);
        });
        only(
            "refusals",
            "2 calls of the driver failed, 2 just now: max_bytes 2",
            &|now| {
                set(counters(now), "refusals", 2);
                set(counters(now), "refusals_max_bytes", 2);
            },
        );
        only(
            "host-errors",
            "1 reply of the host was rejected, 1 just now: id 1",
            &|now| {
                set(counters(now), "host_errors", 1);
                set(counters(now), "host_errors_id", 1);
            },
        );
        only("misuses", "7 times", &|now| {
            set(counters(now), "misuses", 7)
        });
        only("lost", "1 window:", &|now| {
            set(counters(now), "windows_lost", 3);
            set(counters(now), "windows_recovered", 2);
        });
        only(
            "doorbells",
            "1 batch not finished by the host in time",
            &|now| {
                let details = now.details.as_mut().unwrap();
                set(&mut details.doorbells, "status_unfinished", 1);
            },
        );
    }

    #[test]
    fn rates_are_of_a_second() {
        let (_dir, system) = system::tests::fixture();
        let before = system.companion("0000:00:10.0").unwrap().unwrap();
        let before = before.details.unwrap();
        let mut now = before.clone();
        for (name, more) in [("maps", 200), ("hits", 150), ("windows_created", 10)] {
            *now.counters.get_mut(name).unwrap() += more;
        }
        *now.doorbells.get_mut("map_count").unwrap() += 4;
        *now.doorbells.get_mut("map_ns").unwrap() += 4000;
        let rates = Rates::new(&before, &now, Duration::from_secs(2));
        assert_eq!((rates.maps, rates.hit_part), (100.0, Some(0.75)));
        assert_eq!((rates.doorbells, rates.doorbell_ns), (2.0, Some(1000)));
        assert_eq!(rates.windows_created, 5.0);
        let none = Rates::new(&now, &now, Duration::from_secs(1));
        assert_eq!((none.hit_part, none.doorbell_ns), (None, None));
    }
}
