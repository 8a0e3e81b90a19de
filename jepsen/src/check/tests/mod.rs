//! Checkers against valid histories, on which all must pass, and against broken ones, on which the right one must not.

mod brute_force;
mod mutations;
pub mod simulate;

use super::{CHECKERS, Findings, vacuity};
use crate::model::Model;
use simulate::{Simulated, simulate};

/// The names of the checkers that found something, and what.
fn found(simulated: Simulated) -> Vec<(&'static str, Findings)> {
    let Simulated { run, faults, events } = simulated;
    let model = Model::of(run, faults, events).unwrap();
    let findings = CHECKERS.iter().map(|checker| {
        let mut findings = Findings::default();
        checker.check(&model, &mut findings);
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
            *examined.entry(name).or_insert(0) += findings.examined;
        }
    }
    // A checker that looked at nothing has not passed anything.
    assert!(examined.values().all(|count| *count > 100), "{examined:?}");
}

#[test]
fn a_long_run_of_a_correct_cluster_proves_something() {
    let Simulated { run, faults, events } = simulate(1, 2, 1_500);
    assert_eq!(vacuity::doubts(&Model::of(run, faults, events).unwrap()), Vec::<String>::new());
}
