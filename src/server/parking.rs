//! Tells the other nodes which of the groups that this node leads are parked, in one call each; see `consensus/rest.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::consensus::network::Route;
use crate::consensus::{Answered, AtRest, Footing, Group, Replicas};
use crate::transport::Peers;
use crate::types::{GroupId, NodeId};

/// What this node needs to tell it.
pub struct ParkingRounds {
    pub(super) replicas: Arc<Replicas>,
    pub(super) peers: Arc<Peers>,
    /// Between two rounds, and how long one may take.
    pub(super) interval: Duration,
}

/// Who does not rest on each node; none of a node that was not reached.
type Answers = BTreeMap<NodeId, Option<BTreeSet<GroupId>>>;

impl ParkingRounds {
    /// Runs until the node stops.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let groups = self.replicas.all();
            let told = groups.iter().filter_map(|group| Some((group, group.tell()?)));
            let told: Vec<(&Arc<Group>, AtRest)> = told.collect();
            let answers = self.tell(&told).await;
            for (group, at_rest) in &told {
                group.answered(at_rest, answered(group.id(), at_rest, &answers));
            }
        }
    }

    /// Tells every node at once.
    async fn tell(&self, told: &[(&Arc<Group>, AtRest)]) -> Answers {
        let mut of_nodes: BTreeMap<NodeId, Vec<(Route, Footing)>> = BTreeMap::new();
        for (group, at_rest) in told {
            for to in &at_rest.members {
                let route = Route { group: group.id(), from: group.replica(), to: *to };
                of_nodes.entry(to.node).or_default().push((route, at_rest.footing));
            }
        }
        let asked = of_nodes.iter().map(|(node, groups)| async move {
            let refused = self.peers.park(*node, groups, self.interval).await;
            (*node, refused.ok())
        });
        join_all(asked).await.into_iter().collect()
    }
}

fn answered(group: GroupId, at_rest: &AtRest, answers: &Answers) -> Answered {
    let of_each = at_rest.members.iter().map(|member| match answers.get(&member.node) {
        Some(Some(refused)) if refused.contains(&group) => Answered::Refused,
        Some(Some(_)) => Answered::Agreed,
        Some(None) | None => Answered::Unreached,
    });
    of_each.max().unwrap_or(Answered::Agreed)
}
