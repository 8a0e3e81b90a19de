//! Whether a replica may lead: pure decisions on what its node last saw of each voter's clock and disk.
//!
//! Guarantees at stake: G4 and the truth of commit times. A leader stamps times, and proposes the dedup floor by its
//! clock: one that runs ahead would declare ids too old that may still be retried, one that runs behind would refuse
//! new ones as from the future. And G12: a leader whose quorum needs a voter without room would fill that voter's disk
//! to the point where it cannot reopen. What is not known never counts against a leader: a clock is off only where it
//! is off however the unknown ones stand.

use crate::log::Command;
use crate::storage::DiskMark;
use crate::types::{Clock, Timestamp};

/// How far a leader's clock may be from the median of its voters' clocks, in microseconds.
pub const CLOCK_SKEW_US_MAX: i64 = 500_000;

/// A node's clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// The wall clock.
    pub wall: Timestamp,
    /// `Clock::elapsed_us`.
    pub elapsed_us: u64,
}

/// What is known of another clock: by how much it is ahead of the own one, in microseconds, at least and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSkew {
    least_us: i64,
    most_us: i64,
}

/// What an exchange with a node told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its clock.
    pub clock: ClockSkew,
    /// Its disk.
    pub disk: DiskMark,
}

/// What the voters of a group mean for its leader. None stands for a node that did not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fitness {
    /// The own clock is too far from the median for certain.
    pub clock_is_off: bool,
    /// A majority's clocks are near the own one for certain.
    pub clocks_agree: bool,
    /// There is no quorum without a voter whose disk is low.
    pub needs_low_disk: bool,
}

impl ClockReading {
    /// The clocks now.
    pub fn of(clock: &dyn Clock) -> Self {
        ClockReading { wall: clock.now(), elapsed_us: clock.elapsed_us() }
    }

    /// What the wall clock shows later, if nobody sets it.
    pub fn at(self, elapsed_us: u64) -> Timestamp {
        self.wall.plus_us(elapsed_us.saturating_sub(self.elapsed_us))
    }

    /// Whether the wall clock was set between this reading and a later one, by more than clocks may be apart.
    pub fn is_set_in(self, later: ClockReading) -> bool {
        let expected = self.at(later.elapsed_us);
        later.wall.0.abs_diff(expected.0) > CLOCK_SKEW_US_MAX.unsigned_abs()
    }
}

impl ClockSkew {
    /// The own clock against itself.
    pub const NONE: ClockSkew = ClockSkew { least_us: 0, most_us: 0 };
    const UNKNOWN: ClockSkew = ClockSkew { least_us: i64::MIN, most_us: i64::MAX };

    /// From a round trip: the other clock showed `theirs` at some moment between `sent`, on the own clock, and
    /// `round_trip_us` later (Cristian's algorithm).
    pub fn measured(sent: Timestamp, theirs: Timestamp, round_trip_us: u64) -> ClockSkew {
        let ahead_of = |own: Timestamp| {
            let ahead = i128::from(theirs.0) - i128::from(own.0);
            ahead.clamp(i64::MIN.into(), i64::MAX.into()) as i64
        };
        ClockSkew { least_us: ahead_of(sent.plus_us(round_trip_us)), most_us: ahead_of(sent) }
    }

    /// Whether it is near the own clock for certain.
    pub fn is_near(self) -> bool {
        self.least_us >= -CLOCK_SKEW_US_MAX && self.most_us <= CLOCK_SKEW_US_MAX
    }

    /// Whether it is too far from the own clock for certain.
    pub fn is_far(self) -> bool {
        self.least_us > CLOCK_SKEW_US_MAX || self.most_us < -CLOCK_SKEW_US_MAX
    }
}

impl Sighting {
    /// Whether a node may be given leadership: its clock is not far from the own one, and its disk has room.
    pub fn is_fit(&self) -> bool {
        !self.clock.is_far() && self.disk == DiskMark::Ok
    }
}

impl Fitness {
    /// Of a leader in one configuration; `voters` holds what is known of each, the leader itself included if it is a
    /// voter.
    pub fn of(voters: &[Option<Sighting>]) -> Fitness {
        let clocks: Vec<ClockSkew> = voters
            .iter()
            .map(|voter| voter.map_or(ClockSkew::UNKNOWN, |sighting| sighting.clock))
            .collect();
        let majority = voters.len() / 2 + 1;
        let near = clocks.iter().filter(|clock| clock.is_near()).count();
        let with = |wanted: fn(DiskMark) -> bool| {
            voters.iter().flatten().filter(|sighting| wanted(sighting.disk)).count()
        };
        let low = with(|mark| mark != DiskMark::Ok);
        Fitness {
            clock_is_off: median(&clocks).is_some_and(ClockSkew::is_far),
            clocks_agree: near >= majority,
            needs_low_disk: low > 0 && with(|mark| mark == DiskMark::Ok) < majority,
        }
    }

    /// Whether a command may be stamped by this clock. What is settled stays so for all that was issued by then: a clock
    /// that is behind would let some of it in later.
    pub fn may_stamp(&self, command: &Command) -> bool {
        let has_to_agree = matches!(command, Command::Settle(_));
        !self.clock_is_off && (self.clocks_agree || !has_to_agree)
    }

    /// While the membership changes, both configurations have to be content.
    pub fn and(self, other: Fitness) -> Fitness {
        Fitness {
            clock_is_off: self.clock_is_off || other.clock_is_off,
            clocks_agree: self.clocks_agree && other.clocks_agree,
            needs_low_disk: self.needs_low_disk || other.needs_low_disk,
        }
    }
}

/// Where the median of the clocks lies. Of an even number it is anywhere between the two in the middle.
fn median(clocks: &[ClockSkew]) -> Option<ClockSkew> {
    let mut least: Vec<i64> = clocks.iter().map(|clock| clock.least_us).collect();
    let mut most: Vec<i64> = clocks.iter().map(|clock| clock.most_us).collect();
    least.sort_unstable();
    most.sort_unstable();
    let last = clocks.len().checked_sub(1)?;
    Some(ClockSkew { least_us: least[last / 2], most_us: most[clocks.len() / 2] })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::{IdKey, Settle};
    use crate::types::ConversationName;

    const SECOND: i64 = 1_000_000;

    fn voter(ahead_us: i64, uncertainty_us: i64, disk: DiskMark) -> Option<Sighting> {
        let (least_us, most_us) = (ahead_us - uncertainty_us, ahead_us + uncertainty_us);
        Some(Sighting { clock: ClockSkew { least_us, most_us }, disk })
    }

    fn clock(ahead_us: i64) -> Option<Sighting> {
        voter(ahead_us, 1_000, DiskMark::Ok)
    }

    fn disk(mark: DiskMark) -> Option<Sighting> {
        voter(0, 0, mark)
    }

    fn own() -> Option<Sighting> {
        Some(Sighting { clock: ClockSkew::NONE, disk: DiskMark::Ok })
    }

    #[test]
    fn a_round_trip_bounds_the_skew() {
        let measured = ClockSkew::measured(Timestamp(1_000), Timestamp(5_000), 200);
        assert_eq!(measured, ClockSkew { least_us: 3_800, most_us: 4_000 });
        let behind = ClockSkew::measured(Timestamp(5_000), Timestamp(1_000), 200);
        assert_eq!(behind, ClockSkew { least_us: -4_200, most_us: -4_000 });
        let extreme = ClockSkew::measured(Timestamp(0), Timestamp(u64::MAX), u64::MAX);
        assert_eq!(extreme, ClockSkew { least_us: 0, most_us: i64::MAX });
    }

    #[test]
    fn a_clock_that_was_set_is_told_from_one_that_ran_on() {
        let reading = |wall, elapsed_us| ClockReading { wall: Timestamp(wall), elapsed_us };
        let read = reading(5_000_000, 1_000);
        let later = |wall| read.is_set_in(reading(wall, 2_001_000));
        assert_eq!(read.at(2_001_000), Timestamp(7_000_000));
        assert!([6_500_000, 7_000_000, 7_500_000].iter().all(|wall| !later(*wall)));
        assert!([0, 6_499_999, 7_500_001, u64::MAX].iter().all(|wall| later(*wall)));
        assert!(reading(u64::MAX, 0).is_set_in(reading(0, u64::MAX)));
    }

    #[test]
    fn what_is_final_is_stamped_only_by_a_clock_that_others_agree_with() {
        let settle = Command::Settle(Settle {
            conversation: ConversationName("a".to_owned()),
            id: IdKey { sender: "alice".to_owned(), client_msg_id: "1".to_owned() },
            issued_at: Timestamp(1),
        });
        let other = Command::RaiseDedupFloor { floor: Timestamp(1) };
        let may = |voters: &[_]| {
            let fitness = Fitness::of(voters);
            (fitness.may_stamp(&settle), fitness.may_stamp(&other))
        };
        assert_eq!(may(&[own(), clock(0), None]), (true, true));
        assert_eq!(may(&[own(), clock(2 * SECOND), None]), (false, true), "the third may be near");
        assert_eq!(may(&[own(), clock(2 * SECOND), clock(2 * SECOND)]), (false, false));
    }

    #[test]
    fn a_leader_is_off_only_against_a_majority() {
        let off = |voters: &[_]| Fitness::of(voters).clock_is_off;
        assert!(off(&[own(), clock(2 * SECOND), clock(2 * SECOND)]));
        assert!(off(&[own(), clock(-2 * SECOND), clock(-3 * SECOND)]));
        assert!(!off(&[own(), clock(2 * SECOND), clock(0)]), "the other one is off");
        assert!(!off(&[own(), clock(2 * SECOND), clock(-2 * SECOND)]), "it is the median");
        assert!(!off(&[own(), clock(2 * SECOND), None]), "the third may be near");
        assert!(!off(&[own(), clock(2 * SECOND)]), "of two nobody knows which");
        assert!(!off(&[own()]));
        assert!(!off(&[]));
        assert!(!off(&[own(), clock(400_000), clock(400_000)]));
        let slow = voter(2 * SECOND, 1_600_000, DiskMark::Ok);
        assert!(!off(&[own(), slow, slow]), "the round trip took too long to tell");
        let many = [own(), clock(2 * SECOND), clock(2 * SECOND), clock(2 * SECOND), None];
        assert!(off(&many), "a majority of five, with one silent");
    }

    #[test]
    fn clocks_agree_only_for_certain() {
        let agree = |voters: &[_]| Fitness::of(voters).clocks_agree;
        assert!(agree(&[own(), clock(1_000), clock(9 * SECOND)]));
        assert!(agree(&[own()]));
        assert!(!agree(&[own(), clock(2 * SECOND), None]));
        assert!(!agree(&[own(), None, None]));
        assert!(!agree(&[own(), None]));
        assert!(!agree(&[]));
    }

    #[test]
    fn a_low_disk_counts_where_the_quorum_needs_it() {
        use DiskMark::{Hard, Ok, Soft};
        let needs = |voters: &[_]| Fitness::of(voters).needs_low_disk;
        assert!(!needs(&[own(), disk(Ok), disk(Soft)]), "two others are enough");
        assert!(needs(&[own(), disk(Soft), disk(Hard)]));
        assert!(needs(&[own(), None, disk(Soft)]), "without the silent one the low one is needed");
        assert!(!needs(&[own(), None, None]), "there is no quorum, and no low disk");
        assert!(!needs(&[own(), None, disk(Ok)]));
        assert!(needs(&[own(), disk(Ok), disk(Soft), None, None]));
    }

    #[test]
    fn both_configurations_have_to_be_content() {
        let good = Fitness { clock_is_off: false, clocks_agree: true, needs_low_disk: false };
        let bad = Fitness { clock_is_off: true, clocks_agree: false, needs_low_disk: true };
        assert_eq!(good.and(good), good);
        assert_eq!(good.and(bad), bad);
        assert_eq!(bad.and(good), bad);
    }

    fn any_voter() -> impl Strategy<Value = Option<Sighting>> {
        let mark = prop_oneof![Just(DiskMark::Ok), Just(DiskMark::Soft), Just(DiskMark::Hard)];
        let seen = (-3 * SECOND..3 * SECOND, 0..SECOND, mark);
        proptest::option::of(
            seen.prop_map(|(ahead, uncertainty, mark)| voter(ahead, uncertainty, mark).unwrap()),
        )
    }

    proptest! {
        /// Whatever the unknown clocks show, within what is known of the others.
        #[test]
        fn a_verdict_holds_for_every_clock_that_fits(
            mut voters in proptest::collection::vec(any_voter(), 0..6),
            picks in proptest::collection::vec((0..=100i64, -4 * SECOND..4 * SECOND), 6),
        ) {
            voters.push(own());
            let verdict = Fitness::of(&voters);
            let mut shown: Vec<i64> = voters
                .iter()
                .zip(picks)
                .map(|(voter, (percent, anything))| match voter {
                    Some(Sighting { clock, .. }) => {
                        clock.least_us + (clock.most_us - clock.least_us) * percent / 100
                    }
                    None => anything,
                })
                .collect();
            shown.sort_unstable();
            let (low, high) = (shown[(shown.len() - 1) / 2], shown[shown.len() / 2]);
            if verdict.clock_is_off {
                prop_assert!(low > CLOCK_SKEW_US_MAX || high < -CLOCK_SKEW_US_MAX);
            }
            if verdict.clocks_agree {
                prop_assert!(low.abs() <= CLOCK_SKEW_US_MAX || high.abs() <= CLOCK_SKEW_US_MAX);
                prop_assert!(!verdict.clock_is_off);
            }
        }

        /// Every majority of those who answer has a low disk in it, and there is such a majority or too few answer.
        #[test]
        fn a_low_disk_is_needed_exactly_where_the_others_are_too_few(
            voters in proptest::collection::vec(any_voter(), 1..6),
        ) {
            let roomy = voters.iter().flatten().filter(|seen| seen.disk == DiskMark::Ok).count();
            let low = voters.iter().flatten().any(|seen| seen.disk != DiskMark::Ok);
            let enough = roomy * 2 > voters.len();
            prop_assert_eq!(Fitness::of(&voters).needs_low_disk, low && !enough);
        }
    }
}
