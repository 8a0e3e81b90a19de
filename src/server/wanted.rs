//! What the topology wants of this node, when a replica of it may be made blank, and when a group may be initialized.
//!
//! Guarantees at stake: G1 and G9. A replica that is made blank has forgotten what its id ever promised, so no id may
//! be made that can have voted or acknowledged anything. And G2: what a group has begun with must not be replaced.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_client::proto::ReplicaStatus;
use tokio::time::Instant;

use crate::consensus::Replicas;
use crate::log::{Topology, TopologyGroup, TopologyReplica};
use crate::seams::planted;
use crate::service::cluster::FIRST;
use crate::types::{GroupId, NodeId, ReplicaId};

/// Whether a replica of this id can never have voted: a group begins only once all of its first replicas are said to be
/// made, and a later one counts only then.
pub fn may_be_blank(topology: &Topology, group: GroupId, replica: ReplicaId) -> bool {
    let group = topology.groups.iter().find(|known| known.id == group);
    group.is_some_and(|group| {
        group.replicas.iter().any(|wanted| {
            wanted.node == replica.node
                && wanted.incarnation == replica.incarnation
                && (wanted.joining || planted::wiped_replica_votes())
        })
    })
}

/// The nodes that have to say how their replicas of a group are before `own` may initialize it: none as long as each of
/// these is the first that was made.
pub fn nodes_to_ask(group: &TopologyGroup, own: NodeId) -> impl Iterator<Item = NodeId> {
    let all_first = group.replicas.iter().all(|replica| replica.incarnation == FIRST);
    others(group, own).filter(move |_| !all_first).map(|replica| replica.node)
}

/// Whether a group whose replicas are all made can be initialized, by what the nodes of `nodes_to_ask` have said. One of
/// whose first replicas another was made in place may have begun with those, and its entries must not be replaced (G2):
/// not as long as a replica of it has ever voted or heard of a leader, has a problem, or is not known.
pub fn has_not_begun(
    group: &TopologyGroup,
    own: NodeId,
    said: &BTreeMap<NodeId, ReplicaStatus>,
) -> bool {
    let is_blank = |replica: &TopologyReplica| {
        said.get(&replica.node).is_some_and(|status| {
            status.incarnation == replica.incarnation.0
                && status.term == 0
                && status.problem.is_empty()
        })
    };
    let all_first = nodes_to_ask(group, own).next().is_none();
    all_first || others(group, own).all(is_blank)
}

fn others(group: &TopologyGroup, own: NodeId) -> impl Iterator<Item = &TopologyReplica> {
    group.replicas.iter().filter(move |replica| replica.node != own)
}

/// The topology as of now, confirmed by the meta group's leader; none while the cluster is being made.
///
/// A node that was wiped replays the meta group's log, and so sees again how its groups were being created. Were it to
/// believe that, it would make blank replicas under ids that have voted.
///
/// # Errors
/// It cannot be confirmed in time, or not be read.
pub async fn confirmed(
    replicas: &Replicas,
    deadline: Instant,
) -> Result<Option<Arc<Topology>>, String> {
    let meta = replicas.get(GroupId::META).ok_or("no meta replica here")?;
    let barrier = meta.barrier(deadline).await;
    barrier.map_err(|error| format!("the topology is not confirmed: {error}"))?;
    let read = replicas.refresh_topology();
    read.map_err(|error| format!("the topology cannot be read: {error}"))?;
    Ok(replicas.topology().borrow().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{HashRange, Incarnation, PlacementHash};

    const SECOND: Incarnation = Incarnation(2);

    fn group(incarnations: [Incarnation; 3]) -> TopologyGroup {
        let replicas = (1..).zip(incarnations).map(|(node, incarnation)| TopologyReplica {
            node: NodeId(node),
            incarnation,
            joining: false,
        });
        TopologyGroup {
            id: GroupId(1),
            range: HashRange { start: PlacementHash(0), end: None },
            epoch: 1,
            active: false,
            replicas: replicas.collect(),
        }
    }

    fn blank(incarnation: Incarnation) -> ReplicaStatus {
        let role = "learner".to_owned();
        ReplicaStatus { group_id: 1, incarnation: incarnation.0, role, ..Default::default() }
    }

    /// What was lost may have voted, and those who heard of it know.
    #[test]
    fn a_group_has_not_begun_if_all_other_replicas_are_known_to_be_blank() {
        let (own, group) = (NodeId(1), group([SECOND, FIRST, SECOND]));
        assert_eq!(nodes_to_ask(&group, own).collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
        let decide = |second: Option<ReplicaStatus>| {
            let third = (NodeId(3), blank(SECOND));
            let second = second.map(|status| (NodeId(2), status));
            has_not_begun(&group, own, &second.into_iter().chain([third]).collect())
        };
        assert!(decide(Some(blank(FIRST))));
        assert!(!decide(None), "its node did not answer, or has no replica");
        assert!(!decide(Some(ReplicaStatus { term: 1, ..blank(FIRST) })), "it has voted");
        assert!(!decide(Some(blank(SECOND))), "it is another one");
        let problem = "its data is not here".to_owned();
        assert!(!decide(Some(ReplicaStatus { problem, ..blank(FIRST) })), "it may have voted");
    }

    #[test]
    fn a_group_of_first_replicas_has_not_begun_without_its_first_one() {
        let (own, group) = (NodeId(1), group([FIRST; 3]));
        assert_eq!(nodes_to_ask(&group, own).count(), 0);
        assert!(has_not_begun(&group, own, &BTreeMap::new()));
    }

    #[test]
    fn a_group_of_one_has_nobody_to_ask() {
        let mut group = group([SECOND; 3]);
        group.replicas.truncate(1);
        assert!(has_not_begun(&group, NodeId(1), &BTreeMap::new()));
    }
}
