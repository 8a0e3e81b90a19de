//! What is counted of a run, so that runs can be summed up without their records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check;
use crate::history::{ENDED_BY_ITSELF, Nanos};
use crate::model::{Ending, Model, Span};

/// Of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// From its beginning to the last answer.
    pub lasted: Nanos,
    /// Calls by how they ended.
    pub calls: Calls,
    /// Messages that were acknowledged and are not there at the end.
    pub messages_lost: u64,
    /// Messages that were acknowledged, and that no read at the end had to show: whether they are lost nobody knows.
    pub messages_not_looked_for: u64,
    /// What was broken, by nemesis.
    pub faults: BTreeMap<String, Faults>,
    /// How often a node ended that nobody had ended: also where it had to, after an error of its disk.
    pub ended_by_themselves: u64,
}

/// Calls by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Answered: they took effect.
    pub acknowledged: u64,
    /// They certainly did not take effect.
    pub failed: u64,
    /// They may have.
    pub unknown: u64,
}

/// Faults of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Faults {
    /// How many were made.
    pub made: u64,
    /// How many of them were seen to take effect.
    pub took_effect: u64,
    /// From mending until every group served, where that was measured: in ascending order.
    pub served_after: Vec<Nanos>,
}

impl Figures {
    /// Counts.
    pub fn of(model: &Model) -> Figures {
        let unfound = check::unfound(model);
        let mut figures = Figures {
            messages_lost: unfound.lost,
            messages_not_looked_for: unfound.not_looked_for,
            ..Figures::default()
        };
        model.appends.iter().for_each(|op| figures.count(&op.ending, &op.span));
        model.reads.iter().for_each(|op| figures.count(&op.ending, &op.span));
        model.outcomes.iter().for_each(|op| figures.count(&op.ending, &op.span));
        model.follows.iter().for_each(|op| figures.count(&op.ending, &op.span));
        for fault in &model.faults {
            if fault.nemesis == ENDED_BY_ITSELF {
                figures.ended_by_themselves += 1;
                continue;
            }
            let kind = figures.faults.entry(fault.nemesis.clone()).or_default();
            kind.made += 1;
            kind.took_effect += u64::from(fault.effect.is_some());
            kind.served_after.extend(fault.served_after);
        }
        figures.faults.values_mut().for_each(|kind| kind.served_after.sort_unstable());
        figures
    }

    fn count<T>(&mut self, ending: &Ending<T>, span: &Span) {
        self.lasted = self.lasted.max(span.end().at);
        *match ending {
            Ending::Ok(_) => &mut self.calls.acknowledged,
            Ending::Failed(_) => &mut self.calls.failed,
            Ending::Unknown(_) | Ending::Open => &mut self.calls.unknown,
        } += 1;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Figures) {
        self.lasted += other.lasted;
        self.calls.acknowledged += other.calls.acknowledged;
        self.calls.failed += other.calls.failed;
        self.calls.unknown += other.calls.unknown;
        self.messages_lost += other.messages_lost;
        self.messages_not_looked_for += other.messages_not_looked_for;
        self.ended_by_themselves += other.ended_by_themselves;
        for (nemesis, faults) in &other.faults {
            let all = self.faults.entry(nemesis.clone()).or_default();
            all.made += faults.made;
            all.took_effect += faults.took_effect;
            all.served_after.extend(&faults.served_after);
            all.served_after.sort_unstable();
        }
    }
}

impl Calls {
    /// However they ended.
    pub fn all(self) -> u64 {
        self.acknowledged + self.failed + self.unknown
    }
}

impl Faults {
    /// The time that this share of measured faults does not exceed, in seconds; none if none was measured.
    pub fn served_after_s(&self, share: f64) -> Option<f64> {
        let nanos = crate::report::quantile(&self.served_after, share)?;
        Some(nanos as f64 / 1e9)
    }
}
