//! What has to hold of every node's state at each entry, and between the states of different nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate::log::digest::Digest;
use quorate::log::invariants;
use quorate::types::{GroupId, LogIndex, NodeId};

use super::World;

/// How often the states of the nodes that have changed theirs are checked while nothing happens that calls for it. Each
/// write is compared as it is made besides.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// One of so many seeds checks after every step, which takes several times as long.
const SEEDS_PER_THOROUGH: u64 = 32;

/// What was checked so far.
pub(super) struct Checked {
    interval: Duration,
    at: Duration,
    /// How often the state of each node had changed when it was checked.
    changes: BTreeMap<NodeId, u64>,
    /// What the first replica with so many entries applied had. All others that ever have as many have the same.
    digests: BTreeMap<(GroupId, LogIndex), (NodeId, Digest)>,
}

impl Checked {
    /// Nothing yet.
    pub(super) fn new(seed: u64) -> Self {
        let is_thorough = seed.is_multiple_of(SEEDS_PER_THOROUGH);
        Checked {
            interval: if is_thorough { Duration::ZERO } else { CHECK_INTERVAL },
            at: Duration::ZERO,
            changes: BTreeMap::new(),
            digests: BTreeMap::new(),
        }
    }
}

impl World {
    /// Checks every state if something was broken or mended, or the last time was long enough ago.
    pub(super) fn check_in_time(&mut self, now: Duration, changed: bool) {
        if changed || now >= self.checked.at + self.checked.interval {
            self.check_invariants();
            self.checked.at = now;
        }
    }

    /// Checks the states that have changed since they were checked last.
    pub(super) fn check_invariants(&mut self) {
        for machine in self.machines.iter().filter(|machine| !machine.is_half_done()) {
            let changes = machine.changes();
            if self.checked.changes.insert(machine.node, changes) == Some(changes) {
                continue;
            }
            let report = invariants::check(&*machine.state(), &mut |_| {});
            for violation in &report.violations {
                let (place, what) = (&violation.place, &violation.what);
                let problem = format!("G11: node {}: {place}: {what}", machine.node);
                self.plan.shared.problem(problem);
            }
            for group in report.groups {
                let Some(applied) = group.applied else { continue };
                let key = (group.group, applied.index);
                let first = (machine.node, group.digest);
                let (first, digest) = *self.checked.digests.entry(key).or_insert(first);
                if digest != group.digest {
                    self.plan.shared.problem(format!(
                        "G2: nodes {first} and {} differ in group {} at index {}",
                        machine.node, group.group, applied.index
                    ));
                }
            }
        }
    }
}
