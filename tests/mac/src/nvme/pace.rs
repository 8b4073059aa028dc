// SPDX-License-Identifier: GPL-2.0

//! The speed of the medium.

use crate::sync::lock;
use std::{
    sync::Mutex,
    time::{
        Duration,
        Instant, //
    },
};

/// A medium that moves so many bytes in a second, whatever the number of queues.
pub struct Pace {
    /// Bytes in a second; 0: no limit.
    rate: u64,
    /// The time at which the medium has done all that it was asked for.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Creates a medium of `rate` bytes in a second; 0: as fast as the machine.
    pub fn new(rate: u64) -> Self {
        Self {
            rate,
            free_at: Mutex::default(),
        }
    }

    /// Returns how long `len` bytes take from `now` on, after all that was asked for before.
    pub fn take(&self, len: u64, now: Instant) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let mut free_at = lock(&self.free_at);
        let begin = free_at.map_or(now, |at| at.max(now));
        let end = begin + Duration::from_secs_f64(len as f64 / self.rate as f64);
        *free_at = Some(end);
        end - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_take_their_turn() {
        let (pace, now) = (Pace::new(1 << 20), Instant::now());
        let ms = |ms| Duration::from_millis(ms);
        assert_eq!(pace.take(1 << 20, now), ms(1000));
        assert_eq!(pace.take(1 << 19, now), ms(1500));
        assert_eq!(pace.take(1 << 19, now + ms(1000)), ms(1000));
        // The time that a medium had nothing to do is lost.
        assert_eq!(pace.take(1 << 20, now + ms(5000)), ms(1000));
        assert_eq!(Pace::new(0).take(u64::MAX, now), ms(0));
    }
}
