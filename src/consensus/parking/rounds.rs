//! Tells the other nodes which of the groups that this node leads rest, in one call each; see `rest.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval};

use super::AtRest;
use super::rest::{Answered, Footing};
use crate::consensus::network::Route;
use crate::consensus::{Group, Replicas};
use crate::types::{GroupId, NodeId};

/// Runs until the node stops.
pub async fn run(replicas: Arc<Replicas>) {
    let pause = replicas.timing().rest_interval();
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let groups = replicas.all();
        let told = groups.iter().filter_map(|group| Some((group.as_ref(), group.tell()?)));
        let told: Vec<(&Group, AtRest)> = told.collect();
        let answers = tell(&replicas, &told, pause).await;
        for (group, at_rest) in &told {
            group.answered(at_rest, answered(group.id(), at_rest, &answers));
        }
    }
}

/// Whose replica on each node does not rest; none of a node that was not reached.
type Answers = BTreeMap<NodeId, Option<BTreeSet<GroupId>>>;

/// Tells every node at once, and waits so long for each.
async fn tell(replicas: &Replicas, told: &[(&Group, AtRest)], limit: Duration) -> Answers {
    let mut of_nodes: BTreeMap<NodeId, Vec<(Route, Footing)>> = BTreeMap::new();
    for (group, at_rest) in told {
        for to in &at_rest.members {
            let route = Route { group: group.id(), from: group.replica(), to: *to };
            of_nodes.entry(to.node).or_default().push((route, at_rest.footing));
        }
    }
    let asked = of_nodes.into_iter().map(|(node, groups)| async move {
        (node, replicas.transport().park(node, groups, limit).await)
    });
    join_all(asked).await.into_iter().collect()
}

fn answered(group: GroupId, at_rest: &AtRest, answers: &Answers) -> Answered {
    let of_each = at_rest.members.iter().map(|member| match answers.get(&member.node) {
        Some(Some(refused)) if refused.contains(&group) => Answered::Refused,
        Some(Some(_)) => Answered::Agreed,
        Some(None) | None => Answered::Unreached,
    });
    of_each.max().unwrap_or(Answered::Agreed)
}
