//! What a simulation came to, as its process tells the one that started it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::{Coverage, Outcome};
use crate::verdict;

/// What a simulation came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Its seed.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: u64,
    /// Calls that clients made.
    pub calls: usize,
    /// Appends that they were told of that they are there.
    pub acknowledged: usize,
    /// Faults that took effect, by kind.
    pub faults: Vec<String>,
    /// Simulated time.
    pub elapsed: Duration,
    /// From everything mended to every group serving.
    pub served_after: Option<Duration>,
    /// What is rare.
    pub seen: Coverage,
    /// A hash of everything that clients did and saw.
    pub history: String,
    /// A hash of the log at trace level, and its length, if that was asked for.
    pub log: Option<(String, u64)>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

impl Summary {
    /// Of a simulation that came to no end of its own, as when it panics.
    pub fn cut_short(seed: u64, problem: String) -> Self {
        Summary { seed, problems: vec![problem], ..Summary::default() }
    }

    /// Judges a simulation.
    pub fn of(outcome: &Outcome, log: Option<(String, u64)>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for event in &outcome.events {
            let line = serde_json::to_vec(event).expect("an event is JSON without failure");
            hasher.update(&line);
        }
        Summary {
            seed: outcome.seed,
            nodes: outcome.nodes,
            calls: verdict::calls(&outcome.events),
            acknowledged: verdict::acknowledged(&outcome.events),
            faults: verdict::took_effect(outcome).map(|fault| fault.nemesis.clone()).collect(),
            elapsed: outcome.elapsed,
            served_after: outcome.served_after,
            seen: outcome.seen.clone(),
            history: hasher.finalize().to_hex()[..16].to_owned(),
            log,
            problems: verdict::problems(outcome),
        }
    }
}

/// What many simulations came to.
#[derive(Default)]
pub struct Sum {
    /// How many.
    pub seeds: usize,
    /// Those with problems.
    pub failed: Vec<u64>,
    /// Simulated time, all together.
    pub simulated: Duration,
    calls: usize,
    /// Appends acknowledged in the one that had fewest of them.
    acknowledged_least: Option<usize>,
    faults: usize,
    /// Faults by kind.
    kinds: BTreeMap<String, u64>,
    seen: Coverage,
    served_after: Vec<Duration>,
}

impl Sum {
    /// Adds one.
    pub fn add(&mut self, one: &Summary) {
        self.seeds += 1;
        self.simulated += one.elapsed;
        self.calls += one.calls;
        let least =
            self.acknowledged_least.map_or(one.acknowledged, |least| least.min(one.acknowledged));
        self.acknowledged_least = Some(least);
        self.faults += one.faults.len();
        for kind in &one.faults {
            *self.kinds.entry(kind.clone()).or_default() += 1;
        }
        self.seen.add(&one.seen);
        self.served_after.extend(one.served_after);
        if !one.problems.is_empty() {
            self.failed.push(one.seed);
        }
    }

    /// For people: what they came to, in `took` of real time.
    pub fn describe(&mut self, took: Duration) -> String {
        let hours = self.simulated.as_secs_f64() / 3_600.0;
        self.served_after.sort_unstable();
        let served = |percent: usize| {
            let at = (self.served_after.len() * percent).div_ceil(100).saturating_sub(1);
            self.served_after.get(at).copied().unwrap_or_default().as_secs_f64()
        };
        let kinds = self.kinds.iter().map(|(kind, count)| format!("{count} {kind}"));
        let kinds: Vec<String> = kinds.collect();
        format!(
            "{} seeds, {} failed: {} calls, {} appends acknowledged at least, {} faults ({}); {} logs cut short, \
             {} snapshots installed, {} leaders died with appends in flight and had a successor, \
             {} faults met parked nodes, {} times something was refused for lack of memory; \
             served after mending p50 {:.2} s, p99 {:.2} s, max {:.2} s; \
             {hours:.2} simulated hours, {:.2} for each minute",
            self.seeds,
            self.failed.len(),
            self.calls,
            self.acknowledged_least.unwrap_or_default(),
            self.faults,
            kinds.join(", "),
            self.seen.truncations,
            self.seen.installs,
            self.seen.leader_deaths_in_flight,
            self.seen.faults_at_rest,
            self.seen.overloads,
            served(50),
            served(99),
            served(100),
            hours / (took.as_secs_f64() / 60.0),
        )
    }

    /// What is needed to prove anything and was not met, if this many seeds have to have met it, or these ones.
    pub fn missing(&self, has_known: bool) -> Vec<String> {
        if !has_known && self.seeds < verdict::SEEDS_FOR_COVERAGE {
            return Vec::new();
        }
        verdict::missing(self.seeds, &self.seen, &self.kinds)
    }
}
