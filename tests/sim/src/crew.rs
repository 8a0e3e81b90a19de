//! Who calls the cluster of a simulation.

use rand::Rng;
use rand::rngs::SmallRng;
use turmoil::Sim;

use crate::workload::{self, Plan};
use crate::{keeper, operator};

/// Adds everybody: who makes the cluster and reads it at the end, clients of every kind, and operators in some. How many
/// operators there are.
pub fn add(sim: &mut Sim<'static>, plan: &Plan, groups: u32, randomness: &mut SmallRng) -> u64 {
    let nodes = plan.nodes;
    let keeping = plan.clone();
    sim.client("keeper", async move {
        keeper::keep(keeping, groups).await;
        Ok(())
    });
    let pinned = |randomness: &mut SmallRng| {
        randomness.random_ratio(2, 3).then(|| randomness.random_range(1..=nodes))
    };
    for number in 0..4 {
        let (plan, node, seed) = (plan.clone(), pinned(randomness), randomness.random());
        plan.shared.change_working(1);
        sim.client(format!("mixed{number}"), async move {
            workload::mixed(plan, node, seed).await;
            Ok(())
        });
    }
    for number in 0..2 {
        let (plan, node, seed) = (plan.clone(), pinned(randomness), randomness.random());
        plan.shared.change_working(1);
        sim.client(format!("session{number}"), async move {
            workload::session(plan, node, seed).await;
            Ok(())
        });
    }
    // Two operators know nothing of each other.
    let operators = if randomness.random_ratio(1, 3) { randomness.random_range(1..=2) } else { 0 };
    for number in 0..operators {
        let (plan, seed) = (plan.clone(), randomness.random());
        plan.shared.change_working(1);
        sim.client(format!("operator{number}"), async move {
            operator::operate(plan, seed).await;
            Ok(())
        });
    }
    let (follower, node) = (plan.clone(), pinned(randomness));
    sim.client("follow", async move {
        workload::follow(follower, node).await;
        Ok(())
    });
    let (subscriber, node) = (plan.clone(), pinned(randomness));
    sim.client("subscribe", async move {
        workload::subscribe(subscriber, node).await;
        Ok(())
    });
    operators
}

/// Adds whoever replaces nodes that lose their disks. Two know nothing of each other.
pub fn add_replacers(sim: &mut Sim<'static>, plan: &Plan, randomness: &mut SmallRng) {
    for number in 0..randomness.random_range(1..=2) {
        let (plan, seed) = (plan.clone(), randomness.random());
        plan.shared.change_working(1);
        sim.client(format!("replacer{number}"), async move {
            operator::replace_wiped(plan, seed).await;
            Ok(())
        });
    }
}
