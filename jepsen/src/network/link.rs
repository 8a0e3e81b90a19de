//! What happens to packets on their way from one place to another.

use std::collections::BTreeMap;
use std::iter::Sum;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A place in the network: 0 is where all clients are, others are nodes.
pub type Place = u32;
/// Where all clients are.
pub const CLIENTS: Place = 0;

/// A packet that comes twice comes up to this much later the second time: often behind others, and at times on a
/// connection that is no more.
const AGAIN_WITHIN: Duration = Duration::from_millis(20);

/// How one direction between two places behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// Nothing passes.
    pub is_cut: bool,
    /// Every connection is answered with a reset.
    pub resets: bool,
    /// How long each packet takes.
    pub delay: Duration,
    /// Up to this much more, by chance: packets overtake each other.
    pub jitter: Duration,
    /// The share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// The share of packets that come twice, 0 to 1.
    pub duplication: f64,
}

/// From one place to another.
pub type Direction = (Place, Place);

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed, at once or later.
    pub passed: u64,
    /// Dropped because of a cut.
    pub cut: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Held back.
    pub delayed: u64,
    /// Handed over twice.
    pub duplicated: u64,
    /// Answered with a reset.
    pub reset: u64,
}

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Drop,
    Hold(Duration),
    /// After so long, and once more after so long.
    Twice(Duration, Duration),
    Reset,
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Counts>>(all: I) -> Counts {
        all.fold(Counts::default(), |sum, one| Counts {
            passed: sum.passed + one.passed,
            cut: sum.cut + one.cut,
            lost: sum.lost + one.lost,
            delayed: sum.delayed + one.delayed,
            duplicated: sum.duplicated + one.duplicated,
            reset: sum.reset + one.reset,
        })
    }
}

/// All links that are not sound, what has become of packets on each link so far, and the dice.
pub(super) struct Links {
    links: BTreeMap<Direction, Link>,
    counts: BTreeMap<Direction, Counts>,
    dice: StdRng,
}

impl Links {
    pub fn new(seed: u64) -> Links {
        let dice = StdRng::seed_from_u64(seed);
        Links { links: BTreeMap::new(), counts: BTreeMap::new(), dice }
    }

    pub fn set(&mut self, from: Place, to: Place, change: impl FnOnce(&mut Link)) {
        let link = self.links.entry((from, to)).or_default();
        change(link);
        if *link == Link::default() {
            self.links.remove(&(from, to));
        }
    }

    pub fn mend_all(&mut self) {
        self.links.clear();
    }

    /// What became of packets in these directions, from the beginning on.
    pub fn counts(&self, of: &[Direction]) -> Counts {
        of.iter().filter_map(|direction| self.counts.get(direction)).copied().sum()
    }

    pub fn fate(&mut self, from: Place, to: Place) -> Fate {
        let link = self.links.get(&(from, to)).copied().unwrap_or_default();
        let counts = self.counts.entry((from, to)).or_default();
        if link.is_cut {
            counts.cut += 1;
            return Fate::Drop;
        }
        // No dice are thrown for what a link does not do: those of others stay the same.
        if link.loss > 0.0 && self.dice.random_bool(link.loss.min(1.0)) {
            counts.lost += 1;
            return Fate::Drop;
        }
        if link.resets {
            counts.reset += 1;
            return Fate::Reset;
        }
        counts.passed += 1;
        let held = link.delay + up_to(link.jitter, &mut self.dice);
        counts.delayed += u64::from(!held.is_zero());
        if link.duplication > 0.0 && self.dice.random_bool(link.duplication.min(1.0)) {
            counts.duplicated += 1;
            return Fate::Twice(held, held + up_to(AGAIN_WITHIN, &mut self.dice));
        }
        if held.is_zero() { Fate::Pass } else { Fate::Hold(held) }
    }
}

fn up_to(most: Duration, dice: &mut StdRng) -> Duration {
    match most.is_zero() {
        true => Duration::ZERO,
        false => most.mul_f64(dice.random_range(0.0..1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_one_way_and_the_same_seed_throws_the_same_dice() {
        let fates = |seed| {
            let mut links = Links::new(seed);
            links.set(1, 2, |link| link.loss = 0.5);
            links.set(3, 2, |link| link.is_cut = true);
            assert_eq!(links.fate(3, 2), Fate::Drop);
            assert_eq!(links.fate(2, 3), Fate::Pass);
            (0..64).map(|_| links.fate(1, 2)).collect::<Vec<_>>()
        };
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
        assert!(fates(7).contains(&Fate::Pass) && fates(7).contains(&Fate::Drop));
    }

    #[test]
    fn a_share_of_the_packets_comes_twice_and_is_counted() {
        let mut links = Links::new(1);
        links.set(1, 2, |link| link.duplication = 0.5);
        let fates: Vec<Fate> = (0..64).map(|_| links.fate(1, 2)).collect();
        let is_twice = |fate: &&Fate| match fate {
            Fate::Twice(first, again) => first.is_zero() && *again < AGAIN_WITHIN,
            _ => false,
        };
        let twice = fates.iter().filter(is_twice).count();
        assert_eq!(fates.iter().filter(|fate| **fate == Fate::Pass).count(), 64 - twice);
        assert!((16..48).contains(&twice), "{twice} of 64");
        let counts = Counts { passed: 64, duplicated: twice as u64, ..Counts::default() };
        assert_eq!(links.counts(&[(1, 2)]), counts);

        links.set(2, 1, |link| link.delay = Duration::from_millis(5));
        links.set(2, 1, |link| link.duplication = 1.0);
        let Fate::Twice(first, again) = links.fate(2, 1) else { panic!("it comes once") };
        assert_eq!(first, Duration::from_millis(5));
        assert!(again >= first && again < first + AGAIN_WITHIN, "{again:?}");
        let counts = Counts { passed: 1, delayed: 1, duplicated: 1, ..Counts::default() };
        assert_eq!(links.counts(&[(2, 1)]), counts);
    }

    #[test]
    fn what_is_cut_and_what_is_lost_is_told_apart_on_each_link() {
        let mut links = Links::new(1);
        links.set(1, 2, |link| link.loss = 1.0);
        links.set(2, 1, |link| link.is_cut = true);
        for (from, to) in [(1, 2), (2, 1), (2, 1), (1, 3)] {
            links.fate(from, to);
        }
        assert_eq!(links.counts(&[(1, 2)]), Counts { lost: 1, ..Counts::default() });
        assert_eq!(links.counts(&[(2, 1)]), Counts { cut: 2, ..Counts::default() });
        let all = Counts { passed: 1, cut: 2, lost: 1, ..Counts::default() };
        assert_eq!(links.counts(&[(1, 2), (2, 1), (1, 3), (3, 1)]), all);
    }

    #[test]
    fn mending_leaves_nothing_behind() {
        let mut links = Links::new(1);
        links.set(1, 2, |link| link.is_cut = true);
        links.set(1, 2, |link| link.is_cut = false);
        assert!(links.links.is_empty());
        links.set(1, 2, |link| link.delay = Duration::from_millis(5));
        assert_eq!(links.fate(1, 2), Fate::Hold(Duration::from_millis(5)));
        let counts = Counts { passed: 1, delayed: 1, ..Counts::default() };
        assert_eq!(links.counts(&[(1, 2)]), counts);
        links.mend_all();
        assert_eq!(links.fate(1, 2), Fate::Pass);
    }
}
