//! What the plots show: latencies and counts of equal spans of time.

use crate::history::Nanos;
use crate::model::{Ending, Model, Span};

/// Spans of time that a run is divided into.
pub const SPANS: usize = 160;

/// A kind of operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Append,
    Read,
    Outcome,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Ok,
    Fail,
    Info,
}

/// Of one span of time.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// Latencies, sorted, by kind and ending.
    latencies: [[Vec<Nanos>; 3]; 3],
}

/// A run in spans of time.
pub struct Series {
    /// How long the run was.
    pub length: Nanos,
    /// In order.
    pub slots: Vec<Slot>,
}

impl Series {
    /// Of everything that was called and answered.
    pub fn of(model: &Model) -> Self {
        let faults = model.faults.iter().map(|fault| fault.to);
        let operations = || operations(model);
        let ends = operations().map(|(_, _, span)| span.answered.max(span.call.at));
        let length = ends.filter(|at| *at < Nanos::MAX).chain(faults).max().unwrap_or(0).max(1);
        let mut slots = vec![Slot::default(); SPANS];
        for (kind, ended, span) in operations() {
            // Shown where it ended, as a stall shows where it is over; what never ended, where it began.
            let at = if span.answered == Nanos::MAX { span.call.at } else { span.answered };
            let slot = &mut slots[slot_at(at, length)];
            let latency = span.answered.min(length).saturating_sub(span.call.at);
            slot.latencies[kind as usize][ended as usize].push(latency);
        }
        for latencies in slots.iter_mut().flat_map(|slot| slot.latencies.iter_mut().flatten()) {
            latencies.sort_unstable();
        }
        Self { length, slots }
    }

    /// The middle of a span.
    pub fn middle(&self, slot: usize) -> Nanos {
        let middle = u128::from(self.length) * (2 * slot as u128 + 1) / (2 * SPANS as u128);
        Nanos::try_from(middle).expect("it lies within the run")
    }

    /// Operations a second that ended so.
    pub fn rate(&self, slot: usize, ended: Ended) -> f64 {
        let count: usize =
            self.slots[slot].latencies.iter().map(|kind| kind[ended as usize].len()).sum();
        count as f64 * SPANS as f64 / (self.length as f64 / 1e9)
    }
}

impl Slot {
    /// The latency below which this share of operations is; none if there were none.
    pub fn quantile(&self, kind: Kind, ended: Ended, share: f64) -> Option<Nanos> {
        quantile(&self.latencies[kind as usize][ended as usize], share)
    }
}

/// Of sorted values, the one that this share does not exceed.
pub fn quantile(sorted: &[Nanos], share: f64) -> Option<Nanos> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

fn slot_at(at: Nanos, length: Nanos) -> usize {
    let slot = u128::from(at) * SPANS as u128 / u128::from(length);
    (slot as usize).min(SPANS - 1)
}

fn operations(model: &Model) -> impl Iterator<Item = (Kind, Ended, Span)> + '_ {
    fn ended<T>(ending: &Ending<T>) -> Ended {
        match ending {
            Ending::Ok(_) => Ended::Ok,
            Ending::Failed(_) => Ended::Fail,
            Ending::Unknown(_) | Ending::Open => Ended::Info,
        }
    }
    let appends = model.appends.iter().map(|op| (Kind::Append, ended(&op.ending), op.span));
    let reads = model.reads.iter().map(|op| (Kind::Read, ended(&op.ending), op.span));
    let outcomes = model.outcomes.iter().map(|op| (Kind::Outcome, ended(&op.ending), op.span));
    appends.chain(reads).chain(outcomes)
}

#[cfg(test)]
mod tests {
    use super::{SPANS, quantile, slot_at};

    #[test]
    fn quantiles_are_values_that_occur() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1, 2, 3, 4], 0.5), Some(2));
        assert_eq!(quantile(&[1, 2, 3, 4], 0.99), Some(4));
        assert_eq!(quantile(&[7], 0.0), Some(7));
    }

    #[test]
    fn every_time_lies_in_a_span() {
        assert_eq!((slot_at(0, 9), slot_at(9, 9), slot_at(u64::MAX, 9)), (0, SPANS - 1, SPANS - 1));
    }
}
