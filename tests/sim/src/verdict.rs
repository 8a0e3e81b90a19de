//! Judges a simulation: by what it found itself, by the checkers of the fault suite, and by whether it did enough to
//! prove anything.

use std::collections::BTreeMap;

use quorate_jepsen::check::vacuity::doubts;
use quorate_jepsen::check::{CHECKERS, Findings};
use quorate_jepsen::history::{
    Answer, Call, Consistency, Event, EventKind, Fault, Process, ReadCall, Run,
};
use quorate_jepsen::model::Model;

use crate::cluster::{Coverage, Outcome};
use crate::faults::{KINDS, REPLACE, What};
use crate::work;

/// Calls that a simulation has to have made, appends that have to have been acknowledged, and faults that have to have
/// taken effect.
pub const CALLS_MIN: usize = 1_000;
/// As above.
pub const ACKNOWLEDGED_MIN: usize = 400;
/// As above.
const FAULTS_MIN: usize = 5;
/// From so many seeds on, everything rare has to have been met, and in a run that has known seeds always.
pub const SEEDS_FOR_COVERAGE: usize = 20;
/// From so many on, every kind of fault has to have taken effect: a ring only one in three can have.
const SEEDS_FOR_KINDS: usize = 100;

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
    let acknowledged = acknowledged(&outcome.events);
    if acknowledged < ACKNOWLEDGED_MIN {
        let least = ACKNOWLEDGED_MIN;
        problems
            .push(format!("vacuous: {acknowledged} acknowledged appends, and {least} are needed"));
    }
    if faults < FAULTS_MIN {
        problems.push(format!("vacuous: {faults} faults took effect, and {FAULTS_MIN} are needed"));
    }
    let events = outcome.events.iter().cloned();
    let model = match Model::of(run(outcome), outcome.faults.clone(), events) {
        Ok(model) => model,
        Err(error) => return vec![format!("the history cannot be judged: {error}")],
    };
    problems.extend(doubts(&model).into_iter().map(|doubt| format!("vacuous: {doubt}")));
    problems.extend(handed_on(&outcome.events));
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

/// How many appends clients were told of that they are there.
pub fn acknowledged(events: &[Event]) -> usize {
    let is_append = |event: &&Event| matches!(event.kind, EventKind::Ok(Answer::Appended { .. }));
    events.iter().filter(is_append).count()
}

/// Reads at `LOCAL` that another node has answered than the one that was asked.
fn handed_on(events: &[Event]) -> Vec<String> {
    let mut asked = BTreeMap::<Process, &ReadCall>::new();
    let mut problems = Vec::new();
    for Event { process, node, kind, .. } in events {
        match kind {
            EventKind::Invoke(Call::Read(call)) if call.consistency == Consistency::Local => {
                asked.insert(*process, call);
            }
            EventKind::Ok(Answer::Read { position, .. }) => {
                let (Some(node), Some(call)) = (node, asked.remove(process)) else { continue };
                if position.node != *node {
                    problems.push(format!(
                        "G10: a LOCAL read of {} from node {node} was answered by node {}",
                        call.conversation, position.node
                    ));
                }
            }
            _ => {
                asked.remove(process);
            }
        }
    }
    problems
}

/// What a run that has to have met everything rare has not met, given the faults that took effect by kind.
pub fn missing(seeds: usize, seen: &Coverage, kinds: &BTreeMap<String, u64>) -> Vec<String> {
    let rare = [
        ("no log was cut short", seen.truncations),
        ("no snapshot was installed", seen.installs),
        ("no leader died with appends in flight and had a successor", seen.leader_deaths_in_flight),
        ("no fault met a node whose groups were parked", seen.faults_at_rest),
        ("no node refused anything for lack of memory", seen.overloads),
    ];
    let undone = work::KINDS.iter().filter(|kind| !seen.work.contains_key(**kind));
    let undone = undone.map(|kind| format!("nothing of this kind succeeded: {kind}"));
    let unmet = rare.into_iter().filter(|(_, count)| *count == 0).map(|(what, _)| what.to_owned());
    let further = [What::Midway, What::Install, What::Stop, What::Wipe].map(What::name);
    let all = KINDS.iter().map(|kind| kind.name()).chain(further).chain([REPLACE]);
    let idle = all.filter(|kind| !kinds.contains_key(*kind));
    // What operators do is work, too.
    let idle = idle.filter(|kind| seeds >= SEEDS_FOR_KINDS || *kind == REPLACE);
    let idle = idle.map(|kind| format!("no fault of kind {kind} took effect"));
    unmet.chain(undone).chain(idle).collect()
}

fn run(outcome: &Outcome) -> Run {
    Run {
        name: format!("seed {}", outcome.seed),
        started: "simulated".to_owned(),
        seed: outcome.seed,
        nodes: outcome.nodes as u32,
        workloads: vec!["simulated".to_owned()],
        nemeses: took_effect(outcome).map(|fault| fault.nemesis.clone()).collect(),
        duration_s: outcome.elapsed.as_secs(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: format!("make sim SEED={}", outcome.seed),
        healed_at: outcome.healed_at,
        replicas: outcome.replicas.clone(),
        ..Run::default()
    }
}
