//! Checkers: each judges a run's history by some of the guarantees, and names what it found with its evidence.
//!
//! They err on one side only: what is called a violation is one, whatever the operations of unknown outcome did. What a
//! checker cannot see is said in the README beside it.

mod atomic;
mod availability;
mod commit_time;
mod delivery;
mod duplicate;
mod evidence;
mod first_outcome;
mod floor;
mod gap;
mod honesty;
mod integrity;
mod lane;
mod linearizable;
mod lost;
mod order;
mod outcome;
pub mod overload;
mod phantom;
mod position;
mod protocol;
mod staleness;
mod stored;
#[cfg(test)]
pub(crate) mod tests;
pub mod vacuity;

use std::collections::BTreeMap;

pub use availability::SERVED_WITHIN;
pub use delivery::DELIVERED_WITHIN;
pub use lost::{Unfound, unfound};
use serde::{Deserialize, Serialize};

use crate::history::{Nanos, Process};
use crate::model::{Mark, Model};

/// What Quorate promises, by the numbers of its README.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it, and README.md has the words")]
pub enum Guarantee {
    G1,
    G2,
    G3,
    G4,
    G5,
    G6,
    G7,
    G8,
    G9,
    G10,
    G11,
    G12,
    /// No number of its own: what was broken and mended serves again.
    Availability,
}

impl Guarantee {
    /// All of them, in order.
    pub const ALL: [Guarantee; 13] = [
        Guarantee::G1,
        Guarantee::G2,
        Guarantee::G3,
        Guarantee::G4,
        Guarantee::G5,
        Guarantee::G6,
        Guarantee::G7,
        Guarantee::G8,
        Guarantee::G9,
        Guarantee::G10,
        Guarantee::G11,
        Guarantee::G12,
        Guarantee::Availability,
    ];

    /// Its name.
    pub fn title(self) -> &'static str {
        match self {
            Guarantee::G1 => "Durability",
            Guarantee::G2 => "One order",
            Guarantee::G3 => "Linearizable",
            Guarantee::G4 => "Exactly once",
            Guarantee::G5 => "Sender order",
            Guarantee::G6 => "Delivery",
            Guarantee::G7 => "Receipts",
            Guarantee::G8 => "Known outcome",
            Guarantee::G9 => "Change without harm",
            Guarantee::G10 => "Bounded staleness",
            Guarantee::G11 => "Integrity",
            Guarantee::G12 => "Overload",
            Guarantee::Availability => "Serves again once mended",
        }
    }

    /// Why a history of clients alone cannot judge it; none if checkers do.
    pub fn beyond(self) -> Option<&'static str> {
        match self {
            Guarantee::G7 => Some("there are no receipts yet"),
            Guarantee::G9 => Some("judged by all others, in runs that replace or restart nodes"),
            _ => None,
        }
    }
}

/// Judges a history.
pub trait Checker: Sync {
    /// Its name, one word or two with a hyphen.
    fn name(&self) -> &'static str;
    /// The guarantees that its violations are of.
    fn guarantees(&self) -> &'static [Guarantee];
    /// What it holds a history to, in a sentence.
    fn rule(&self) -> &'static str;
    /// Looks at everything, in O(n log n) or better.
    fn check(&self, model: &Model, findings: &mut Findings);
}

/// All checkers.
pub const CHECKERS: &[&dyn Checker] = &[
    &lost::Lost,
    &order::Order,
    &gap::Gap,
    &phantom::Phantom,
    &linearizable::Linearizable,
    &atomic::Atomic,
    &duplicate::Duplicate,
    &first_outcome::FirstOutcome,
    &lane::Lane,
    &delivery::DeliveryOrder,
    &protocol::Protocol,
    &outcome::OutcomeTruth,
    &honesty::Honesty,
    &staleness::Staleness,
    &position::AppliedPosition,
    &commit_time::CommitTime,
    &integrity::Integrity,
    &stored::Stored,
    &overload::Overload,
    &availability::Availability,
];

/// Violations that are kept with their evidence, of each checker; all are counted.
pub const VIOLATIONS_KEPT_MAX: usize = 20;

/// What a checker found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// How many operations or messages it looked at for each guarantee; none for one that nothing happened of.
    pub examined: BTreeMap<Guarantee, u64>,
    /// How many violations there are.
    pub violations: u64,
    /// How many there are of each guarantee.
    pub by_guarantee: BTreeMap<Guarantee, u64>,
    /// The first of them.
    pub kept: Vec<Violation>,
}

impl Findings {
    /// Counts operations or messages that were looked at for a guarantee.
    pub fn look_at(&mut self, guarantee: Guarantee, count: u64) {
        if count > 0 {
            *self.examined.entry(guarantee).or_insert(0) += count;
        }
    }

    /// How many were looked at for a guarantee.
    pub fn looked_at(&self, guarantee: Guarantee) -> u64 {
        self.examined.get(&guarantee).copied().unwrap_or(0)
    }

    /// Counts a violation, and keeps it if there is room.
    pub fn violation(&mut self, guarantee: Guarantee, describe: impl FnOnce() -> Described) {
        self.violations += 1;
        *self.by_guarantee.entry(guarantee).or_insert(0) += 1;
        if self.kept.len() < VIOLATIONS_KEPT_MAX {
            let Described { what, evidence } = describe();
            self.kept.push(Violation { guarantee, what, evidence });
        }
    }
}

/// What a violation is and what shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// A sentence for people.
    pub what: String,
    /// The events.
    pub evidence: Vec<Evidence>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// Which.
    pub guarantee: Guarantee,
    /// A sentence for people.
    pub what: String,
    /// The events that show it.
    pub evidence: Vec<Evidence>,
}

/// An event of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Of `history.jsonl`, from 1.
    pub line: u64,
    /// When.
    pub at: Nanos,
    /// Who.
    pub process: Process,
    /// The node; 0 if it is not known.
    pub node: u32,
    /// What it shows.
    pub shows: String,
}

impl Evidence {
    /// That the event at `mark` shows this.
    pub fn new(mark: Mark, shows: impl Into<String>) -> Self {
        let Mark { line, at, process, node } = mark;
        Self { line, at, process, node, shows: shows.into() }
    }
}

/// A violation in a sentence, with its events.
pub fn described(
    what: impl Into<String>,
    evidence: impl IntoIterator<Item = Evidence>,
) -> Described {
    Described { what: what.into(), evidence: evidence.into_iter().collect() }
}
