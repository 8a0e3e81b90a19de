//! Checkers against valid histories, on which all must pass, and against broken ones, on which the right one must not.

mod brute_force;
mod mutations;
pub mod simulate;

use std::collections::HashSet;

use super::{CHECKERS, Findings, Guarantee, vacuity};
use crate::history::{Call, EventKind, Process};
use crate::model::Model;
use simulate::{Simulated, simulate};

/// The names of the checkers that found something, and what.
fn found(simulated: Simulated) -> Vec<(&'static str, Findings)> {
    let Simulated { run, faults, events } = simulated;
    let model = Model::of(run, faults, events).unwrap();
    let findings = CHECKERS.iter().map(|checker| {
        let mut findings = Findings::default();
        checker.check(&model, &mut findings);
        let named = |guarantee: &Guarantee| checker.guarantees().contains(guarantee);
        let all = findings.examined.keys().chain(findings.by_guarantee.keys());
        assert!(all.clone().all(named), "{} does not name {all:?}", checker.name());
        (checker.name(), findings)
    });
    findings.collect()
}

#[test]
fn every_checker_passes_what_a_correct_cluster_did() {
    let mut examined = std::collections::BTreeMap::new();
    for seed in 0..40 {
        for (name, findings) in found(simulate(seed, 2, 600)) {
            assert!(findings.kept.is_empty(), "seed {seed}, {name}: {:#?}", findings.kept);
            for (guarantee, count) in findings.examined {
                *examined.entry((name, guarantee)).or_insert(0) += count;
            }
        }
    }
    // A checker that looked at nothing has not passed anything.
    for checker in CHECKERS {
        for guarantee in checker.guarantees() {
            let count = examined.get(&(checker.name(), *guarantee)).copied();
            assert!(count > Some(100), "{} {guarantee:?}: {count:?}", checker.name());
        }
    }
}

#[test]
fn a_guarantee_is_looked_at_only_where_something_of_its_kind_happened() {
    let mut simulated = simulate(1, 2, 600);
    let is_of_kind = |call: &Call| matches!(call, Call::Follow(_) | Call::Outcome(_));
    let of_kind: HashSet<Process> = simulated
        .events
        .iter()
        .filter(|event| matches!(&event.kind, EventKind::Invoke(call) if is_of_kind(call)))
        .map(|event| event.process)
        .collect();
    simulated.events.retain(|event| !of_kind.contains(&event.process));
    let found = found(simulated);
    let looks = |name, guarantee| {
        let findings = &found.iter().find(|(checker, _)| *checker == name).unwrap().1;
        findings.looked_at(guarantee) > 0
    };
    assert!(looks("protocol", Guarantee::G2) && looks("protocol", Guarantee::G11));
    assert!(looks("linearizable", Guarantee::G3));
    assert!(!looks("linearizable", Guarantee::G8));
    assert!(found.iter().all(|(name, _)| !looks(name, Guarantee::G6)));
}

#[test]
fn a_long_run_of_a_correct_cluster_proves_something() {
    let Simulated { run, faults, events } = simulate(1, 2, 1_500);
    assert_eq!(vacuity::doubts(&Model::of(run, faults, events).unwrap()), Vec::<String>::new());
}
