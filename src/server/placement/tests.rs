//! When a group is brought to life (G2), and when it is handed on.

use super::*;
use crate::consensus::solitary::{Disks, EVENTUALLY, NODE, Process};
use crate::service::cluster::FIRST;
use crate::service::cluster::fixture::{ScriptedNode, peers, status, statuses, topology};
use crate::types::{HashRange, Incarnation, NodeId, PlacementHash};

const GROUP: GroupId = GroupId(1);
const SECOND: Incarnation = Incarnation(2);

/// The placement of a node of which no other can be reached.
fn alone(process: &Process) -> Placement {
    among(process, [])
}

fn among<const N: usize>(process: &Process, others: [ScriptedNode; N]) -> Placement {
    let operations = Arc::new(ScriptedNode { node: NODE, ..Default::default() });
    Placement { replicas: process.replicas.clone(), peers: peers(process, others), operations }
}

/// A group that is being created, whose replicas are all made: the first one here, in this incarnation.
fn being_created(own: Incarnation) -> TopologyGroup {
    let ids = [(NODE, own), (NodeId(1), FIRST), (NodeId(2), FIRST)];
    let replica = |(node, incarnation)| TopologyReplica { node, incarnation, joining: false };
    TopologyGroup {
        id: GROUP,
        range: HashRange { start: PlacementHash(0), end: None },
        epoch: 1,
        active: false,
        replicas: ids.map(replica).to_vec(),
    }
}

/// Whether a group whose first replica was just made here is initialized by it, while the others' nodes do not answer.
async fn is_initialized(incarnation: Incarnation) -> bool {
    let disks = Disks::default();
    let process = disks.start().await;
    let own = ReplicaId { node: NODE, incarnation };
    let standing = process.replicas.make(GROUP, own).await.unwrap();
    let (group, placement) = (being_created(incarnation), alone(&process));
    let begun = placement.bring_to_life(&group, &standing);
    timeout(EVENTUALLY, begun).await.expect("nobody is waited for");
    let is_initialized = standing.status().last_index.is_some();
    disks.crash(process).await;
    is_initialized
}

/// `wanted.rs` says by what.
#[tokio::test]
async fn a_group_that_may_have_begun_is_not_initialized_once_more() {
    assert!(is_initialized(FIRST).await, "no replica of it was made in the place of another");
    assert!(!is_initialized(SECOND).await);
}

/// Its older replica may still be a member, and this one comes in only once that was removed: `quorate node replace` sees
/// to both.
#[tokio::test]
async fn a_replica_of_a_group_that_has_begun_is_not_made_by_its_node_alone() {
    let disks = Disks::default();
    let process = disks.start().await;
    let mut wanted = topology(2, 1, 1);
    let group = &mut wanted.groups[0];
    let own = group.replicas.iter_mut().find(|replica| replica.node == NODE).unwrap();
    (own.incarnation, own.joining) = (SECOND, true);
    alone(&process).reconcile(&wanted, &wanted.groups[0]).await;
    assert!(process.replicas.get(GROUP).is_none());
    let statuses = process.replicas.statuses();
    let said: Vec<_> = statuses.iter().map(|said| (said.replica.incarnation, said.role)).collect();
    assert_eq!(said, [(SECOND, "missing")], "and whoever runs the cluster is told");
    disks.crash(process).await;
}

/// It may lead groups all the same, and nobody would find them.
#[tokio::test(start_paused = true)]
async fn a_node_whose_meta_replica_is_blank_hears_of_the_topology_from_others() {
    let disks = Disks::default();
    let process = disks.start().await;
    let own = ReplicaId { node: NODE, incarnation: SECOND };
    process.replicas.make(GroupId::META, own).await.unwrap();
    let leader = ScriptedNode {
        node: NodeId(1),
        replicas: statuses([status(GroupId::META, 1, "leader", 5)]),
        topology: Some(topology(4, 1, 1)),
        ..Default::default()
    };
    among(&process, [leader]).hear_of_topology().await;
    let heard = process.replicas.topology().borrow().clone();
    assert_eq!(heard.as_deref(), Some(&topology(4, 1, 1)));
    disks.crash(process).await;
}

/// A node that stops has just handed it over, and answers until it has gone.
#[test]
fn a_group_is_not_handed_on_as_soon_as_it_has_changed_hands() {
    let (one, other) = (GroupId(1), GroupId(2));
    let (mut led, began) = (LedSince::default(), Instant::now());
    led.note([one].into(), began);
    let later = began + SETTLE_TIME - Duration::from_millis(1);
    led.note([one, other].into(), later);
    assert!(!led.is_settled(one, later) && !led.is_settled(other, later));
    let settled = began + SETTLE_TIME;
    assert!(led.is_settled(one, settled) && !led.is_settled(other, settled));
    led.note([other].into(), settled);
    led.note([one, other].into(), settled);
    assert!(!led.is_settled(one, settled), "it was lost in between");
    assert!(led.is_settled(other, later + SETTLE_TIME));
    assert!(!led.is_settled(GroupId(3), settled), "it is not led");
}
