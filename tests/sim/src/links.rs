//! Faults of the network: which links they are about, and what becomes of those.

use std::time::Duration;

use turmoil::Sim;

use crate::faults::{Planned, What};
use crate::traffic::{Counts, Traffic};

/// The longest that a message takes where messages are late.
const LATE: Duration = Duration::from_millis(400);
/// How often a message is lost, and its connection with it, where connections break.
const LOSS: f64 = 0.01;

/// The network of a simulation.
pub struct Links {
    /// How many nodes there are.
    pub nodes: u64,
    /// Hosts of those who call them.
    pub callers: Vec<String>,
    /// The longest that a message takes where nothing is broken.
    pub slowest: Duration,
    /// What it does with messages.
    pub traffic: Traffic,
}

impl Links {
    /// Begins a fault.
    pub fn break_for(&self, fault: &Planned, sim: &mut Sim<'static>) {
        for (a, b) in self.of(fault) {
            match fault.what {
                What::Pause => sim.hold(a, b),
                What::Deaf => sim.partition_oneway(a, b),
                What::Loss => sim.set_link_fail_rate(a, b, LOSS),
                What::Delay => sim.set_link_max_message_latency(a, b, LATE),
                _ => sim.partition(a, b),
            }
        }
    }

    /// Ends it.
    pub fn mend(&self, fault: &Planned, sim: &mut Sim<'static>) {
        for (a, b) in self.of(fault) {
            match fault.what {
                What::Pause => sim.release(a, b),
                What::Loss => {
                    sim.set_link_fail_rate(a.clone(), b.clone(), 0.0);
                    sim.repair(a, b);
                }
                What::Delay => sim.set_link_max_message_latency(a, b, self.slowest),
                _ => sim.repair(a, b),
            }
        }
    }

    /// What became so far of messages on the links that a fault is about.
    pub fn counts(&self, fault: &Planned, sim: &Sim<'static>) -> Counts {
        let mut counts = Counts::default();
        for (a, b) in self.of(fault) {
            let of_link = self.traffic.between(sim.lookup(a), sim.lookup(b));
            counts.sent += of_link.sent;
            counts.stopped += of_link.stopped;
        }
        counts
    }

    /// The links that a fault is about. Those of its nodes come first in each.
    fn of(&self, fault: &Planned) -> Vec<(String, String)> {
        let node = |node: u64| format!("n{node}");
        let between = between(fault, self.nodes).into_iter().map(|(a, b)| (node(a), node(b)));
        let mut links: Vec<_> = between.collect();
        if fault.reaches_clients() {
            for a in &fault.nodes {
                links.extend(self.callers.iter().map(|b| (node(*a), b.clone())));
            }
        }
        links
    }
}

/// The links between nodes that a fault is about: of a ring or a bridge those that it does not have.
fn between(fault: &Planned, nodes: u64) -> Vec<(u64, u64)> {
    let order = &fault.nodes;
    let count = order.len();
    let places = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
    let without = |is_cut: &dyn Fn(usize, usize) -> bool| {
        places.filter(|(a, b)| is_cut(*a, *b)).map(|(a, b)| (order[a], order[b])).collect()
    };
    match fault.what {
        What::Ring => without(&|a, b| b - a != 1 && b - a != count - 1),
        What::Bridge => without(&|a, b| a < count / 2 && b > count / 2),
        What::Pause | What::Isolate | What::Deaf | What::Loss | What::Delay => {
            let others = (1..=nodes).filter(|node| !order.contains(node));
            others.flat_map(|b| order.iter().map(move |a| (*a, b))).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(what: What, order: &[u64]) -> Vec<(u64, u64)> {
        let (from, to) = (Duration::ZERO, Duration::ZERO);
        let fault = Planned { from, to, what, nodes: order.to_vec(), clients: false };
        between(&fault, order.len() as u64)
    }

    #[test]
    fn in_a_ring_each_node_has_two_neighbours() {
        let cut = cut(What::Ring, &[3, 1, 5, 2, 4]);
        assert_eq!(cut, [(3, 5), (3, 2), (1, 2), (1, 4), (5, 4)]);
    }

    #[test]
    fn over_a_bridge_one_node_has_all_for_neighbours() {
        assert_eq!(cut(What::Bridge, &[2, 3, 1]), [(2, 1)]);
        let cut = cut(What::Bridge, &[3, 1, 5, 2, 4]);
        assert_eq!(cut, [(3, 2), (3, 4), (1, 2), (1, 4)]);
    }
}
