//! Who calls the cluster of a simulation.

use rand::Rng;
use rand::rngs::SmallRng;
use turmoil::Sim;

use crate::workload::{self, Plan};
use crate::{keeper, operator};

/// Those who call while things break.
#[derive(Default)]
pub struct Crew {
    /// Their hosts.
    pub hosts: Vec<String>,
    /// How many of them are operators.
    pub operators: u64,
}

impl Crew {
    fn add(
        &mut self,
        sim: &mut Sim<'static>,
        host: String,
        work: impl Future<Output = ()> + 'static,
    ) {
        sim.client(host.clone(), async move {
            work.await;
            Ok(())
        });
        self.hosts.push(host);
    }

    /// Adds whoever replaces nodes that lose their disks. Two know nothing of each other.
    pub fn add_replacers(
        &mut self,
        sim: &mut Sim<'static>,
        plan: &Plan,
        randomness: &mut SmallRng,
    ) {
        for number in 0..randomness.random_range(1..=2) {
            plan.shared.change_working(1);
            let work = operator::replace_wiped(plan.clone(), randomness.random());
            self.add(sim, format!("replacer{number}"), work);
        }
    }
}

/// Adds everybody: who makes the cluster and reads it at the end, clients of every kind, and operators in some.
pub fn add(sim: &mut Sim<'static>, plan: &Plan, groups: u32, randomness: &mut SmallRng) -> Crew {
    let nodes = plan.nodes;
    let keeping = plan.clone();
    sim.client("keeper", async move {
        keeper::keep(keeping, groups).await;
        Ok(())
    });
    let pinned = |randomness: &mut SmallRng| {
        randomness.random_ratio(2, 3).then(|| randomness.random_range(1..=nodes))
    };
    let mut crew = Crew::default();
    for number in 0..4 {
        plan.shared.change_working(1);
        let (node, seed) = (pinned(randomness), randomness.random());
        crew.add(sim, format!("mixed{number}"), workload::mixed(plan.clone(), node, seed));
    }
    for number in 0..2 {
        plan.shared.change_working(1);
        let (node, seed) = (pinned(randomness), randomness.random());
        crew.add(sim, format!("session{number}"), workload::session(plan.clone(), node, seed));
    }
    // Two operators know nothing of each other.
    crew.operators = if randomness.random_ratio(1, 3) { randomness.random_range(1..=2) } else { 0 };
    for number in 0..crew.operators {
        plan.shared.change_working(1);
        let work = operator::operate(plan.clone(), randomness.random());
        crew.add(sim, format!("operator{number}"), work);
    }
    let node = pinned(randomness);
    crew.add(sim, "follow".to_owned(), workload::follow(plan.clone(), node));
    let node = pinned(randomness);
    crew.add(sim, "subscribe".to_owned(), workload::subscribe(plan.clone(), node));
    crew
}
