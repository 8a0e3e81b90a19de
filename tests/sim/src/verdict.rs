//! Judges a simulation: by what it found itself, by the checkers of the fault suite, and by whether it did enough to
//! prove anything.

use std::collections::BTreeSet;

use quorate_jepsen::check::{CHECKERS, Findings};
use quorate_jepsen::history::{Event, EventKind, Fault, Run};
use quorate_jepsen::model::Model;

use crate::cluster::{Coverage, Outcome};
use crate::faults::{KINDS, REPLACE, What};

/// Calls that a simulation has to have made, and faults that have to have taken effect.
pub const CALLS_MIN: usize = 1_000;
/// As above.
const FAULTS_MIN: usize = 5;
/// From so many seeds on, everything rare has to have been met.
const SEEDS_FOR_COVERAGE: u64 = 20;
/// From so many on, every kind of fault has to have taken effect: a ring only one in three can have.
const SEEDS_FOR_KINDS: u64 = 100;

/// What is wrong with a simulation; nothing if it is as it should be.
pub fn problems(outcome: &Outcome) -> Vec<String> {
    let mut problems = outcome.problems.clone();
    // What was cut short has no final reads to compare with.
    if !problems.is_empty() {
        return problems;
    }
    let broken = took_effect(outcome).filter(|fault| fault.nemesis != REPLACE);
    let (calls, faults) = (calls(&outcome.events), broken.count());
    if calls < CALLS_MIN {
        problems.push(format!("vacuous: {calls} calls, and {CALLS_MIN} are needed"));
    }
    if faults < FAULTS_MIN {
        problems.push(format!("vacuous: {faults} faults took effect, and {FAULTS_MIN} are needed"));
    }
    let events = outcome.events.iter().cloned();
    let model = match Model::of(run(outcome), outcome.faults.clone(), events) {
        Ok(model) => model,
        Err(error) => return vec![format!("the history cannot be judged: {error}")],
    };
    for checker in CHECKERS {
        let mut findings = Findings::default();
        checker.check(&model, &mut findings);
        for violation in &findings.kept {
            let evidence: Vec<String> =
                violation.evidence.iter().map(|evidence| format!("{evidence:?}")).collect();
            problems.push(format!(
                "{:?} ({}): {}\n    {}",
                violation.guarantee,
                checker.name(),
                violation.what,
                evidence.join("\n    ")
            ));
        }
    }
    problems
}

/// Faults that were seen to take effect, and what operators replaced. The others count for nothing, though checkers hear of
/// them: what was done to a node at their end may show.
pub fn took_effect(outcome: &Outcome) -> impl Iterator<Item = &Fault> {
    outcome.faults.iter().filter(|fault| fault.effect.is_some())
}

/// How many calls clients made.
pub fn calls(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event.kind, EventKind::Invoke(_))).count()
}

/// What many seeds have not met and should have, given the faults that took effect by kind.
pub fn missing(seeds: u64, seen: Coverage, kinds: &BTreeSet<String>) -> Vec<String> {
    if seeds < SEEDS_FOR_COVERAGE {
        return Vec::new();
    }
    let rare = [
        ("no log was cut short", seen.truncations),
        ("no snapshot was installed", seen.installs),
        ("no leader died with appends in flight and had a successor", seen.leader_deaths_in_flight),
        ("no fault met a node whose groups were parked", seen.faults_at_rest),
    ];
    let unmet = rare.into_iter().filter(|(_, count)| *count == 0).map(|(what, _)| what.to_owned());
    let all = KINDS.iter().map(|kind| kind.name()).chain([What::Wipe.name(), REPLACE]);
    let idle = all.filter(|kind| !kinds.contains(*kind));
    let idle = idle.filter(|_| seeds >= SEEDS_FOR_KINDS);
    unmet.chain(idle.map(|kind| format!("no fault of kind {kind} took effect"))).collect()
}

fn run(outcome: &Outcome) -> Run {
    Run {
        name: format!("seed {}", outcome.seed),
        started: "simulated".to_owned(),
        seed: outcome.seed,
        nodes: outcome.nodes as u32,
        workloads: vec!["simulated".to_owned()],
        nemeses: vec!["simulated".to_owned()],
        duration_s: outcome.elapsed.as_secs(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: format!("make sim SEED={}", outcome.seed),
        healed_at: outcome.healed_at,
        ..Run::default()
    }
}
