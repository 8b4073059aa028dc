// SPDX-License-Identifier: GPL-2.0

//! The time that the host takes: for a doorbell, and for each entry of its batch.
//!
//! This file knows prices and how to wait; [`crate::companion`] decides what is paid for.

use clap::ValueEnum;
use rand::{
    rngs::SmallRng,
    Rng,
    SeedableRng, //
};
use serde::Deserialize;
use std::{
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// A thing that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A doorbell, whatever its batch contains.
    Doorbell,
    /// A MAP entry, also if it is refused.
    Map,
    /// An UNMAP entry whose key is live.
    Unmap,
    /// An UNMAP entry whose key is not live.
    UnmapUnknown,
}

/// A set of prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// No time.
    Fast,
    /// The time that a Mac is estimated to take: a search through all slots of the dext for each
    /// entry.
    Field,
}

/// The prices of one companion's work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Microseconds of a doorbell.
    pub doorbell_us: u64,
    /// Microseconds of a MAP entry.
    pub map_us: u64,
    /// Microseconds of an UNMAP entry whose key is live.
    pub unmap_us: u64,
    /// Microseconds of an UNMAP entry whose key is not live.
    pub unmap_unknown_us: u64,
    /// Percent by which each price may be higher or lower, at most 100.
    pub spread: u32,
    /// Seed of the generator that spreads prices.
    pub seed: u64,
    /// Factor from the modelled time to the time that passes.
    pub factor: f64,
}

impl From<Preset> for Costs {
    fn from(preset: Preset) -> Self {
        let mut costs = Self {
            doorbell_us: 0,
            map_us: 0,
            unmap_us: 0,
            unmap_unknown_us: 0,
            spread: 0,
            seed: 0,
            factor: 1.0,
        };
        costs.set(preset);
        costs
    }
}

impl Default for Costs {
    fn default() -> Self {
        Preset::Fast.into()
    }
}

impl Costs {
    /// Changes the prices to those of a preset; spread, seed and factor stay.
    pub fn set(&mut self, preset: Preset) {
        self.doorbell_us = 0;
        (self.map_us, self.unmap_us, self.unmap_unknown_us) = match preset {
            Preset::Fast => (0, 0, 0),
            Preset::Field => (2000, 1000, 2000),
        };
    }

    /// Returns the modelled time of the `number`th work since the seed was set.
    pub fn price(&self, work: Work, number: u64) -> Duration {
        let us = match work {
            Work::Doorbell => self.doorbell_us,
            Work::Map => self.map_us,
            Work::Unmap => self.unmap_us,
            Work::UnmapUnknown => self.unmap_unknown_us,
        };
        let ns = us.saturating_mul(1000);
        let most = u128::from(ns) * u128::from(self.spread.min(100)) / 100;
        // Not more than `ns`, by the limit of the spread.
        let most = most as u64;
        if most == 0 {
            return Duration::from_nanos(ns);
        }
        // A generator for each number, so that a price depends on nothing else.
        let mut rng = SmallRng::seed_from_u64(self.seed ^ number.rotate_left(32));
        Duration::from_nanos(rng.random_range(ns - most..=ns.saturating_add(most)))
    }
}

/// Checks a factor of the command line or of the control socket.
pub fn checked_factor(factor: f64) -> Result<f64, String> {
    match factor {
        f if (0.0..=1000.0).contains(&f) => Ok(f),
        f => Err(format!("{f} is no factor from 0 to 1000")),
    }
}

/// Checks a spread of the command line or of the control socket.
pub fn checked_spread(percent: u32) -> Result<u32, String> {
    match percent {
        0..=100 => Ok(percent),
        _ => Err(format!("{percent} is no spread from 0 to 100 percent")),
    }
}

/// The time that one doorbell takes.
#[derive(Debug)]
pub struct Meter {
    modelled: Duration,
    /// The time at which the work so far may be done.
    due: Instant,
}

impl Meter {
    /// Starts with a doorbell that has taken no time.
    pub fn start() -> Self {
        Self {
            modelled: Duration::ZERO,
            due: Instant::now(),
        }
    }

    /// Adds `price`, and waits until so much time has passed, by `factor`. The caller holds no
    /// lock.
    pub fn spend(&mut self, price: Duration, factor: f64) {
        self.modelled = self.modelled.saturating_add(price);
        let real = Duration::try_from_secs_f64(price.as_secs_f64() * factor);
        if let Some(due) = real.ok().and_then(|real| self.due.checked_add(real)) {
            self.due = due;
        }
        let wait = self.due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
    }

    /// Lets work that was postponed begin now.
    pub fn resume(&mut self) {
        self.due = Instant::now();
    }

    /// Returns the modelled time so far, in nanoseconds.
    pub fn modelled_ns(&self) -> u64 {
        u64::try_from(self.modelled.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Work; 4] = [Work::Doorbell, Work::Map, Work::Unmap, Work::UnmapUnknown];

    fn field() -> Costs {
        Preset::Field.into()
    }

    #[test]
    fn presets() {
        let us = |costs: Costs| ALL.map(|work| costs.price(work, 1).as_micros());
        assert_eq!(us(Costs::default()), [0; 4]);
        assert_eq!(us(field()), [0, 2000, 1000, 2000]);
        let mut costs = Costs {
            doorbell_us: 30,
            spread: 5,
            factor: 0.5,
            ..field()
        };
        costs.set(Preset::Fast);
        assert_eq!((costs.spread, costs.factor), (5, 0.5));
        assert_eq!(us(costs), [0; 4]);
    }

    #[test]
    fn the_factor_scales_the_time_that_passes_alone() {
        let start = Instant::now();
        let mut meter = Meter::start();
        meter.spend(Duration::from_secs(3600), 0.0);
        assert_eq!(meter.modelled_ns(), 3600 * 1_000_000_000);
        meter.spend(Duration::from_micros(10), 2000.0);
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(meter.modelled_ns(), 3600 * 1_000_000_000 + 10_000);
    }

    #[test]
    fn bad_values_are_found() {
        for factor in [-1.0, 1001.0, f64::NAN, f64::INFINITY] {
            assert!(checked_factor(factor).is_err(), "{factor}");
        }
        assert_eq!(checked_factor(0.25), Ok(0.25));
        assert!(checked_spread(101).is_err());
    }

    proptest! {
        /// Checks that a price is within its spread, repeats with its seed and number, and that
        /// spread prices differ.
        #[test]
        fn prices_are_spread(
            us in 0u64..100_000,
            spread in 0u32..=100,
            seed: u64,
            number: u64,
        ) {
            let costs = Costs { map_us: us, spread, seed, ..Costs::default() };
            let price = costs.price(Work::Map, number);
            prop_assert_eq!(price, costs.price(Work::Map, number));
            let (ns, off) = (us * 1000, us * 10 * u64::from(spread));
            let price = price.as_nanos() as u64;
            prop_assert!((ns - off..=ns + off).contains(&price));
            if us > 1000 && spread > 10 {
                let prices: std::collections::BTreeSet<_> =
                    (0..20).map(|n| costs.price(Work::Map, n)).collect();
                prop_assert!(prices.len() > 10);
            }
        }
    }
}
