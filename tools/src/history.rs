// SPDX-License-Identifier: GPL-2.0

//! The host's mappings over time, and the part of them that drivers used: a recording's events are
//! applied, one after the other, to the windows at the start.

use crate::debugfs::WindowStatus;
use crate::event::{
    Event,
    EventKind, //
};
use crate::recording::Snapshot;
use apple_dma_replay::GRANULE;
use std::collections::BTreeMap;

/// Usage at a point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moment {
    /// Seconds since the first event.
    pub seconds: f64,
    /// Bytes that the host has mapped, in whole granules.
    pub bytes: u64,
    /// Of these, bytes in windows that mappings of drivers use.
    pub live_bytes: u64,
    /// Windows.
    pub entries: u64,
    /// Of these, windows that mappings of drivers use.
    pub live_entries: u64,
}

/// A region of RAM that the host has mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub gpa: u64,
    pub bytes: u64,
    pub state: WindowStatus,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    region: Region,
    users: u64,
}

impl Window {
    /// Returns the bytes that count against the limit.
    fn cost(&self) -> u64 {
        let end = (self.region.gpa + self.region.bytes).div_ceil(GRANULE);
        (end - self.region.gpa / GRANULE) * GRANULE
    }
}

/// Windows and usage over time. See the module's documentation.
pub struct History {
    /// Windows by DMA address, which no two share.
    windows: BTreeMap<u64, Window>,
    first: Option<u64>,
    now: Moment,
}

impl History {
    /// Returns the state at the start of a recording.
    pub fn new(before: &Snapshot) -> Self {
        let mut history = Self {
            windows: BTreeMap::new(),
            first: None,
            now: Moment::default(),
        };
        for window in &before.windows {
            let region = Region {
                gpa: window.gpa,
                bytes: window.bytes,
                state: window.state,
            };
            let users = u64::from(window.users);
            history.add(window.dma, Window { region, users });
        }
        history
    }

    /// Adds a window to the usage, or subtracts it.
    fn count(&mut self, window: &Window, change: fn(&mut u64, u64)) {
        change(&mut self.now.bytes, window.cost());
        change(&mut self.now.entries, 1);
        if window.users != 0 {
            change(&mut self.now.live_bytes, window.cost());
            change(&mut self.now.live_entries, 1);
        }
    }

    fn add(&mut self, dma: u64, window: Window) {
        self.remove(dma);
        self.windows.insert(dma, window);
        self.count(&window, |sum, more| *sum += more);
    }

    fn remove(&mut self, dma: u64) {
        if let Some(window) = self.windows.remove(&dma) {
            self.count(&window, |sum, less| *sum -= less);
        }
    }

    /// Changes the number of users of the window that contains `dma`.
    fn change_users(&mut self, dma: u64, change: impl Fn(u64) -> u64) {
        let window = self.windows.range(..=dma).next_back();
        let window = window.filter(|(start, window)| {
            dma - *start < window.region.bytes && window.region.state != WindowStatus::Fixed
        });
        let Some((start, mut window)) = window.map(|(start, window)| (*start, *window)) else {
            return;
        };
        window.users = change(window.users);
        window.region.state = if window.users == 0 {
            WindowStatus::Idle
        } else {
            WindowStatus::Live
        };
        self.add(start, window);
    }

    /// Applies an event; returns the usage after it.
    pub fn step(&mut self, event: &Event) -> Moment {
        match event.kind {
            EventKind::WindowCreated { gpa, dma, size, .. } => {
                let region = Region {
                    gpa,
                    bytes: size,
                    state: WindowStatus::Idle,
                };
                self.add(dma, Window { region, users: 0 });
            }
            EventKind::WindowReturned { dma, .. } => self.remove(dma),
            EventKind::Map { dma, .. } => self.change_users(dma, |users| users + 1),
            EventKind::Unmap { dma, .. } => self.change_users(dma, |users| users.saturating_sub(1)),
            _ => {}
        }
        let first = *self.first.get_or_insert(event.us);
        self.now.seconds = event.us.saturating_sub(first) as f64 / 1e6;
        self.now
    }

    /// Returns the current usage.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Returns the regions that the host has mapped now.
    pub fn regions(&self) -> Vec<Region> {
        self.windows.values().map(|window| window.region).collect()
    }
}

/// Returns all moments of a recording, and the regions at the time when the most bytes were mapped,
/// and among such times the most of them in use.
pub fn of(before: &Snapshot, events: &[&Event]) -> (Vec<Moment>, Vec<Region>) {
    let mut history = History::new(before);
    let mut moments = vec![history.now()];
    moments.extend(events.iter().map(|event| history.step(event)));
    let key = |moment: &Moment| (moment.bytes, moment.live_bytes);
    let most = moments.iter().map(key).max();
    let peak = moments.iter().position(|moment| Some(key(moment)) == most);
    let mut history = History::new(before);
    for event in events.iter().take(peak.unwrap_or(0)) {
        history.step(event);
    }
    (moments, history.regions())
}

/// Returns about `points` of `moments` at most, with the largest ones.
pub fn thin(moments: &[Moment], points: usize) -> Vec<Moment> {
    let size = moments.len().div_ceil(points.max(1)).max(1);
    let mut thin: Vec<Moment> = Vec::new();
    for chunk in moments.chunks(size) {
        let top = chunk
            .iter()
            .max_by_key(|moment| (moment.bytes, moment.live_bytes));
        thin.extend(top);
        if size > 1 {
            thin.extend(chunk.last());
        }
    }
    thin.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    thin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{
        self,
        Recording, //
    };

    #[test]
    fn a_history_ends_with_what_the_guest_had() {
        let (_dir, path) = recording::tests::fixture();
        let recording = Recording::read(&path, |_, _| ()).unwrap();
        let mut before = recording.header.before[0].clone();
        before.windows.clear();
        let events: Vec<_> = recording.events.iter().collect();
        let (moments, regions) = of(&before, &events);
        let after = &recording.end.after[0].companion;
        let last = moments.last().unwrap();
        assert_eq!((last.bytes, last.entries), (after.bytes, after.entries));
        assert_eq!((last.live_bytes, last.live_entries), (0, 0));
        assert!(moments.iter().any(|moment| moment.live_entries > 1));
        assert_eq!(regions.len() as u64, after.entries);
        assert!(regions
            .iter()
            .any(|region| region.state == WindowStatus::Live));
        assert!(moments
            .windows(2)
            .all(|pair| pair[0].seconds <= pair[1].seconds));
        let thin = thin(&moments, 20);
        assert!((10..=60).contains(&thin.len()));
        assert_eq!(
            thin.iter().map(|moment| moment.bytes).max(),
            Some(after.bytes)
        );
    }
}
