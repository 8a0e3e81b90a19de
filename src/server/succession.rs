//! Notices that the process of a leader is dead, and has its groups elect another one at once.
//!
//! A process that has died is told from one that is slow or cut off by its machine, which refuses connections to its
//! port. Everything else is left to Raft's timers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::consensus::Replicas;
use crate::transport::Peers;
use crate::types::NodeId;

/// What this node needs to notice it.
pub struct Succession {
    pub(super) replicas: Arc<Replicas>,
    pub(super) peers: Arc<Peers>,
    /// Between two looks: a leader's heartbeat interval.
    pub(super) interval: Duration,
}

impl Succession {
    /// Runs until the node stops.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dead = BTreeMap::new();
        loop {
            ticks.tick().await;
            let before = std::mem::replace(&mut dead, self.dead_leaders());
            for (node, since) in &dead {
                if !before.contains_key(node) {
                    tracing::info!(%node, "the process of a leader is gone: its groups elect others");
                }
                for group in self.replicas.all() {
                    group.succeed(*node, since.elapsed()).await;
                }
            }
        }
    }

    /// The nodes that lead a group as far as known here, and refuse connections; and since when they do.
    fn dead_leaders(&self) -> BTreeMap<NodeId, Instant> {
        let groups = self.replicas.all();
        // Few nodes lead many groups: each is looked at once.
        let leaders: BTreeSet<NodeId> = groups.iter().filter_map(|group| group.leader()).collect();
        let others = leaders.into_iter().filter(|leader| *leader != self.replicas.node());
        others.filter_map(|leader| Some((leader, self.peers.refused_since(leader)?))).collect()
    }
}
