//! When appends were acknowledged, on the generator's clock, so that deliveries can be timed from there.

use std::sync::atomic::{AtomicU64, Ordering};

use super::message::Stamp;

/// Messages that may lie between an acknowledgement and the last delivery: half a minute at rates that one machine
/// reaches, in 32 MiB.
const PLACES: u64 = 4 * 1024 * 1024;

/// The times of acknowledgements, by message number. A place is used again after [`PLACES`] messages.
pub(super) struct Acknowledgements(Box<[AtomicU64]>);

impl Acknowledgements {
    pub(super) fn new() -> Acknowledgements {
        Acknowledgements((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }

    /// Notes that a message was acknowledged, in microseconds from the load's epoch.
    pub(super) fn note(&self, number: u64, at_us: u64) {
        self.place(number).store(at_us, Ordering::Relaxed);
    }

    /// From the acknowledgement of a message to now; zero for one that is delivered before its producer has the
    /// acknowledgement.
    pub(super) fn since(&self, stamp: Stamp, now_us: u64) -> u64 {
        let at_us = self.place(stamp.number).load(Ordering::Relaxed);
        // What was noted before the append began is of an earlier message in this place, or of none.
        if at_us <= stamp.began_us { 0 } else { now_us.saturating_sub(at_us) }
    }

    fn place(&self, number: u64) -> &AtomicU64 {
        &self.0[(number % PLACES) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_timed_from_its_own_acknowledgement() {
        let acknowledgements = Acknowledgements::new();
        let stamp = Stamp { began_us: 100, number: 7 };
        assert_eq!(acknowledgements.since(stamp, 300), 0, "delivered first");
        acknowledgements.note(7, 250);
        assert_eq!(acknowledgements.since(stamp, 300), 50);
        assert_eq!(acknowledgements.since(stamp, 200), 0, "taken before, told later");
        // The next message in the same place.
        let next = Stamp { began_us: 400, number: 7 + PLACES };
        assert_eq!(acknowledgements.since(next, 500), 0);
        acknowledgements.note(7 + PLACES, 450);
        assert_eq!(acknowledgements.since(next, 500), 50);
    }
}
