//! Who leads: every node is listened to for as long as the run lasts, and what is new is written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_client::proto::{Group, WatchTopologyRequest};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::history::Led;
use crate::workload::Floor;

/// How long a node that does not tell is left alone.
const PAUSE: Duration = Duration::from_millis(200);

/// Listens until what is returned is dropped.
pub(super) fn watch(floor: &Arc<Floor>) -> JoinSet<()> {
    let known = Arc::new(Mutex::new(Known::default()));
    let each = (1..=floor.nodes()).map(|node| follow(floor.clone(), node, known.clone()));
    each.collect()
}

async fn follow(floor: Arc<Floor>, node: u32, known: Arc<Mutex<Known>>) {
    loop {
        // A node that is away, or ends, is what the others tell of meanwhile.
        let _ = listen(&floor, node, &known).await;
        sleep(PAUSE).await;
    }
}

async fn listen(floor: &Floor, node: u32, known: &Mutex<Known>) -> anyhow::Result<()> {
    let topologies = floor.cluster(node)?.watch_topology(WatchTopologyRequest {}).await?;
    let mut topologies = topologies.into_inner();
    while let Some(told) = topologies.message().await? {
        // Held until it is written down, so that the lines are in the order of their times.
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        for group in told.topology.unwrap_or_default().groups {
            if let Some((term, leader)) = known.learn(&group) {
                let at = floor.recorder.now();
                floor.recorder.led(Led { at, group: group.group_id, leader, term });
            }
        }
    }
    Ok(())
}

/// The newest that any node has told of each group: term and leader.
#[derive(Default)]
struct Known(BTreeMap<u64, (u64, Option<u32>)>);

impl Known {
    /// What is new in this. A node that was away tells of what was, and one without a replica of nothing. Within one term
    /// votes go from nobody to a node, and from there to one of a larger id only.
    fn learn(&mut self, group: &Group) -> Option<(u64, Option<u32>)> {
        let leader = u32::try_from(group.leader_node_id).ok().filter(|node| *node > 0);
        let told = (group.leader_term, leader);
        let known = self.0.entry(group.group_id).or_default();
        let is_new = told > *known;
        *known = told.max(*known);
        is_new.then_some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_tells_that_others_are_beyond_is_not_new() {
        let mut known = Known::default();
        let mut learn = |group_id, leader_term, leader_node_id| {
            known.learn(&Group { group_id, leader_node_id, leader_term, ..Group::default() })
        };
        assert_eq!(learn(1, 0, 0), None, "it has no replica");
        assert_eq!(learn(1, 3, 2), Some((3, Some(2))));
        assert_eq!(learn(2, 1, 1), Some((1, Some(1))), "each group has terms of its own");
        assert_eq!(learn(1, 3, 2), None);
        assert_eq!(learn(1, 2, 3), None, "it was away");
        assert_eq!(learn(1, 3, 0), None, "it has lost sight of the leader");
        assert_eq!(learn(1, 4, 0), Some((4, None)));
        assert_eq!(learn(1, 4, 2), Some((4, Some(2))));
    }
}
