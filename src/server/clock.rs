use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::types::{Clock, Timestamp};

/// The machine's clocks: the one place of the product that reads them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the wall clock"
    )]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        // A clock before 1970 is as wrong as one at 1970, and the leader's comparison with its voters finds both.
        Timestamp(since_epoch.map_or(0, |elapsed| elapsed.as_micros() as u64))
    }

    /// CLOCK_BOOTTIME rather than CLOCK_MONOTONIC: a machine that slept must not take its reads for fresh (G10).
    fn elapsed_us(&self) -> u64 {
        let time = clock_gettime(ClockId::Boottime);
        time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_in_microseconds_of_our_time() {
        const YEAR_US: u64 = 366 * 24 * 3600 * 1_000_000;
        let now = SystemClock.now().0;
        assert!(now > 50 * YEAR_US && now < 200 * YEAR_US, "{now}");
    }

    #[test]
    fn elapsed_time_never_goes_back() {
        let readings: Vec<u64> = (0..1_000).map(|_| SystemClock.elapsed_us()).collect();
        assert!(readings.is_sorted());
        assert!(readings[0] > 0);
    }
}
