// SPDX-License-Identifier: GPL-2.0

//! The facts about a host, by the module's files and the requests that were watched. Pure code.

use crate::debugfs::{
    below,
    number,
    Numbers,
    Window,
    WindowStatus, //
};
use crate::system::Companion;
use apple_dma_replay::GRANULE;
use serde::Serialize;
use std::collections::BTreeMap;

/// Requests that the host got with one doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Set for requests to map, not to unmap.
    pub is_map: bool,
    /// Set if all of them have a response.
    pub is_answered: bool,
    /// Number of requests.
    pub entries: u32,
    /// Nanoseconds that the host took.
    pub ns: u64,
}

/// Requests of one command since the module was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Command {
    pub doorbells: u64,
    pub entries: u64,
    /// The most requests of one doorbell.
    pub entries_max: u64,
    /// Nanoseconds of a request, on average.
    pub mean_entry_ns: u64,
    /// The same, lately, as the module measures it.
    pub entry_ns: Option<u64>,
    /// Half of the doorbells took less than this: a power of two.
    pub median_below_ns: u64,
    pub longest_ns: u64,
    /// Numbers of doorbells by powers of two of their requests.
    pub by_entries: BTreeMap<u64, u64>,
    /// Numbers of doorbells by powers of two of nanoseconds.
    pub by_ns: BTreeMap<u64, u64>,
}

impl Command {
    fn new(doorbells: &Numbers, name: &str) -> Option<Self> {
        let value = |what: &str| number(doorbells, &format!("{name}_{what}"));
        let histogram = |what: &str| -> BTreeMap<u64, u64> {
            below(doorbells, &format!("{name}_{what}"))
                .filter_map(|(from, count)| Some((from.parse().ok()?, count)))
                .collect()
        };
        let (count, entries) = (value("count"), value("entries"));
        let by_ns = histogram("ns");
        let mut seen = 0;
        let median = by_ns.iter().find(|(_, count)| {
            seen += **count;
            seen * 2 >= value("count")
        });
        Some(Self {
            doorbells: count,
            entries,
            entries_max: value("entries_max"),
            mean_entry_ns: value("ns").checked_div(entries)?,
            entry_ns: doorbells.get(&format!("{name}_entry_ns")).copied(),
            median_below_ns: median.map_or(0, |(from, _)| from.saturating_mul(2)),
            longest_ns: value("ns_max"),
            by_entries: histogram("entries"),
            by_ns,
        })
    }
}

/// The places of mappings at the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placement {
    pub windows: u64,
    /// The first address and the last one that the host assigned.
    pub lowest: u64,
    pub highest: u64,
    /// Bits of the last address.
    pub bits: u32,
    /// The least distance in bytes between granules of two windows.
    pub least_gap: Option<u64>,
    /// True if the addresses are in the order of those in the guest.
    pub in_order: Option<bool>,
}

impl Placement {
    fn new(windows: &[&Window]) -> Option<Self> {
        let mut sorted = windows.to_vec();
        sorted.sort_by_key(|window| window.dma);
        let (first, last) = (sorted.first()?, sorted.last()?);
        let highest = last.dma.saturating_add(last.bytes.saturating_sub(1));
        let gaps = sorted.windows(2).map(|pair| {
            let end = pair[0].dma.saturating_add(pair[0].bytes).div_ceil(GRANULE);
            (pair[1].dma / GRANULE)
                .saturating_sub(end)
                .saturating_mul(GRANULE)
        });
        let order = sorted.windows(2).map(|pair| pair[0].gpa < pair[1].gpa);
        Some(Self {
            windows: sorted.len() as u64,
            lowest: first.dma,
            highest,
            bits: u64::BITS - highest.leading_zeros(),
            least_gap: gaps.min(),
            in_order: order.reduce(|all, next| all && next),
        })
    }
}

/// The addresses at the host compared with those in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offsets {
    pub windows: u64,
    /// Windows whose addresses differ within a granule.
    pub violations: u64,
    /// Number of low bits in which both addresses are alike, of all windows.
    pub alike_bits: u32,
}

impl Offsets {
    fn new(windows: &[&Window]) -> Option<Self> {
        let alike = |window: &&Window| (window.gpa ^ window.dma).trailing_zeros();
        let granule = GRANULE.trailing_zeros();
        Some(Self {
            windows: windows.len() as u64,
            violations: windows
                .iter()
                .filter(|window| alike(window) < granule)
                .count() as u64,
            alike_bits: windows.iter().map(alike).min()?,
        })
    }
}

/// The cost of doorbells that were watched: a part that is the same for all, and one for each
/// request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fit {
    pub doorbells: u64,
    /// The least and the most requests of a doorbell.
    pub least: u32,
    pub most: u32,
    /// Nanoseconds of a doorbell without its requests; [`None`] if all had as many.
    pub fixed_ns: Option<u64>,
    /// Nanoseconds of a request.
    pub entry_ns: u64,
}

impl Fit {
    fn new(requests: &[Request], is_map: bool) -> Option<Self> {
        let mut by_entries: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        let wanted = |request: &&Request| request.is_map == is_map && request.is_answered;
        for request in requests.iter().filter(wanted) {
            by_entries
                .entry(request.entries.max(1))
                .or_default()
                .push(request.ns);
        }
        // The median of each number of requests: a host that stood still once is not slow.
        let points: Vec<_> = by_entries
            .iter_mut()
            .map(|(entries, ns)| {
                ns.sort_unstable();
                (
                    f64::from(*entries),
                    ns[ns.len() / 2] as f64,
                    ns.len() as f64,
                )
            })
            .collect();
        let weight: f64 = points.iter().map(|(_, _, count)| count).sum();
        let mean = |value: &dyn Fn(&(f64, f64, f64)) -> f64| {
            points
                .iter()
                .map(|point| value(point) * point.2)
                .sum::<f64>()
                / weight
        };
        let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
        let slope = mean(&|point| (point.0 - x) * (point.1 - y))
            / mean(&|point| (point.0 - x) * (point.0 - x));
        let fixed = y - slope * x;
        // Too little is known for a line if it would have negative parts.
        let is_line = points.len() > 1 && slope >= 0.0 && fixed >= 0.0;
        Some(Self {
            doorbells: by_entries.values().map(|ns| ns.len() as u64).sum(),
            least: *by_entries.keys().next()?,
            most: *by_entries.keys().next_back()?,
            fixed_ns: is_line.then_some(fixed.round() as u64),
            entry_ns: (if is_line { slope } else { y / x }).round() as u64,
        })
    }
}

/// The facts about the host of a companion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Facts {
    pub companion: String,
    pub device: String,
    pub driver: Option<String>,
    pub mode: String,
    pub dialect: String,
    /// The most requests of a doorbell, of the host and of the module.
    pub host_max_batch: Option<u64>,
    pub batch_max: Option<u64>,
    pub doorbells: u64,
    /// Doorbells by what became of them.
    pub statuses: BTreeMap<String, u64>,
    /// Doorbells that returned before the host was done.
    pub posted: Option<u64>,
    pub map: Option<Command>,
    pub unmap: Option<Command>,
    /// Nanoseconds to unmap a key that is not mapped.
    pub unknown_key_ns: Option<u64>,
    /// Costs of requests while they were watched.
    pub watched_map: Option<Fit>,
    pub watched_unmap: Option<Fit>,
    pub placement: Option<Placement>,
    pub offsets: Option<Offsets>,
    /// Bytes of the largest window.
    pub largest_window: Option<u64>,
    /// Errors of the host by cause, those that occurred.
    pub errors: BTreeMap<String, u64>,
    pub bytes: u64,
    pub max_bytes: u64,
    pub peak_bytes: u64,
    pub entries: u64,
    pub max_entries: u64,
    pub peak_entries: u64,
}

/// Returns what is known of the host of `companion`; [`None`] without the files for root.
pub fn facts(companion: &Companion, windows: &[Window], requests: &[Request]) -> Option<Facts> {
    let details = companion.details.as_ref()?;
    let (doorbells, counters) = (&details.doorbells, &details.counters);
    let is_placed = |window: &&Window| window.dma != 0 && window.state != WindowStatus::Lost;
    let placed: Vec<_> = windows.iter().filter(is_placed).collect();
    let owned = |(name, count): (&str, u64)| (name.to_owned(), count);
    let errors = below(counters, "host_errors").filter(|(_, count)| *count != 0);
    let peak = |name: &str| details.status_number(name).unwrap_or(0);
    Some(Facts {
        companion: companion.companion.clone(),
        device: companion.device.clone(),
        driver: companion.driver.clone(),
        mode: companion.mode.clone(),
        dialect: details.status.get("dialect").cloned().unwrap_or_default(),
        host_max_batch: doorbells.get("host_max_batch").copied(),
        batch_max: details.status_number("batch_max"),
        doorbells: number(doorbells, "map_count") + number(doorbells, "unmap_count"),
        statuses: below(doorbells, "status").map(owned).collect(),
        posted: doorbells.get("posted").copied(),
        map: Command::new(doorbells, "map"),
        unmap: Command::new(doorbells, "unmap"),
        unknown_key_ns: doorbells.get("search_entry_ns").copied(),
        watched_map: Fit::new(requests, true),
        watched_unmap: Fit::new(requests, false),
        placement: Placement::new(&placed),
        offsets: Offsets::new(&placed),
        largest_window: placed.iter().map(|window| window.bytes).max(),
        errors: errors.map(owned).collect(),
        bytes: companion.bytes,
        max_bytes: companion.max_bytes,
        peak_bytes: peak("peak_bytes"),
        entries: companion.entries,
        max_entries: companion.max_entries,
        peak_entries: peak("peak_entries"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system;
    use proptest::prelude::*;

    fn window(gpa: u64, dma: u64, bytes: u64) -> Window {
        let (users, uses, state) = (0, 0, WindowStatus::Idle);
        Window {
            gpa,
            dma,
            bytes,
            users,
            uses,
            state,
        }
    }

    fn placed(windows: &[Window]) -> (Option<Placement>, Option<Offsets>) {
        let windows: Vec<_> = windows.iter().collect();
        (Placement::new(&windows), Offsets::new(&windows))
    }

    #[test]
    fn places_of_windows() {
        assert_eq!(placed(&[]), (None, None));
        let (placement, offsets) = placed(&[window(0x4_1000, 0x8001_d000, 0x1000)]);
        let placement = placement.unwrap();
        assert_eq!(
            (placement.lowest, placement.highest),
            (0x8001_d000, 0x8001_dfff)
        );
        assert_eq!(
            (placement.bits, placement.least_gap, placement.in_order),
            (32, None, None)
        );
        let offsets = offsets.unwrap();
        assert_eq!((offsets.violations, offsets.alike_bits), (0, 14));

        let all = [
            window(0x10_0000, 0x8_0000, 0x4000),
            window(0x20_0000, 0x8_8000, 0x4000),
            window(0x30_0000, 0x8_c000, 0x4000),
        ];
        let placement = placed(&all).0.unwrap();
        assert_eq!(
            (placement.least_gap, placement.in_order),
            (Some(0), Some(true))
        );
        let placement = placed(&[window(0, 0x8_c000, 0x4000), all[0].clone()])
            .0
            .unwrap();
        assert_eq!(
            (placement.least_gap, placement.in_order),
            (Some(0x8000), Some(false))
        );
        let offsets = placed(&[window(0x1000, 0x8_2000, 0x1000)]).1.unwrap();
        assert_eq!((offsets.violations, offsets.alike_bits), (1, 12));
    }

    fn requests(list: &[(u32, u64)]) -> Vec<Request> {
        let request = |(entries, ns): &(u32, u64)| Request {
            is_map: true,
            is_answered: true,
            entries: *entries,
            ns: *ns,
        };
        list.iter().map(request).collect()
    }

    #[test]
    fn costs_of_requests() {
        assert_eq!(Fit::new(&[], true), None);
        let all = requests(&[
            (1, 12_000),
            (2, 14_000),
            (10, 30_000),
            (10, 900_000),
            (10, 30_000),
        ]);
        let fit = Fit::new(&all, true).unwrap();
        assert_eq!((fit.doorbells, fit.least, fit.most), (5, 1, 10));
        assert_eq!((fit.fixed_ns, fit.entry_ns), (Some(10_000), 2000));
        assert_eq!(Fit::new(&all, false), None);
        // All alike, and shorter the more there are.
        let fit = Fit::new(&requests(&[(4, 1000), (4, 3000), (4, 2000)]), true).unwrap();
        assert_eq!((fit.fixed_ns, fit.entry_ns), (None, 500));
        let fit = Fit::new(&requests(&[(1, 4000), (3, 2000)]), true).unwrap();
        assert_eq!((fit.fixed_ns, fit.entry_ns), (None, 1500));
        let mut silent = all;
        silent
            .iter_mut()
            .for_each(|request| request.is_answered = false);
        assert_eq!(Fit::new(&silent, true), None);
    }

    #[test]
    fn a_host_that_lies() {
        let (_dir, system) = system::tests::fixture();
        let mut companion = system.companion("0000:00:10.0").unwrap().unwrap();
        let details = companion.details.as_mut().unwrap();
        details.counters.insert("host_errors_id".to_owned(), 3);
        details.doorbells.insert("posted".to_owned(), 5);
        details.doorbells.insert("status_invalid".to_owned(), 2);
        let facts = facts(&companion, &[], &[]).unwrap();
        assert_eq!(facts.errors, [("id".to_owned(), 3)].into());
        assert_eq!((facts.posted, facts.statuses["invalid"]), (Some(5), 2));
        assert_eq!(facts.placement, None);
        companion.details = None;
        assert_eq!(super::facts(&companion, &[], &[]), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(
            list in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..5),
            requested in prop::collection::vec((any::<u32>(), any::<u64>()), 0..5),
        ) {
            let window = |(gpa, dma, len): &(u64, u64, u64)| window(*gpa, *dma, *len);
            let list: Vec<_> = list.iter().map(window).collect();
            let _ = placed(&list);
            let fit = Fit::new(&requests(&requested), true);
            prop_assert_eq!(fit.is_some(), !requested.is_empty());
        }
    }
}
