//! Operations that go on from where another was cut off, or through a node that knows little or what is old (G9).

use std::sync::Arc;
use std::time::Duration;

use quorate_client::proto::{ReplaceRequest, ReplaceResponse};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::fixture::{Asked, Notes, ScriptedNode, peers, status, topology};
use super::{ClusterApi, MetaGroup};
use crate::consensus::solitary::{Disks, EVENTUALLY, NODE, Process};
use crate::log::{Topology, TopologyChange};
use crate::service::AllowAll;
use crate::transport::proto::change_membership_request::Step;
use crate::types::{GroupId, HashRange, Incarnation, NodeId, PlacementHash, ReplicaId};

const META: GroupId = GroupId::META;
const GROUP: GroupId = GroupId(1);
/// Leads whatever there is.
const LEADER: NodeId = NodeId(1);
/// Is replaced.
const REPLACED: NodeId = NodeId(2);
/// Steps that nobody takes.
const STEPS_MAX: usize = 64;

fn replaced(incarnation: u32) -> ReplicaId {
    ReplicaId { node: REPLACED, incarnation: Incarnation(incarnation) }
}

/// The node that leads, and knows what is wanted.
fn leader(topology: Topology, notes: &Notes) -> ScriptedNode {
    let replicas = vec![status(META, 1, "leader", 5), status(GROUP, 1, "leader", 5)];
    let (topology, notes) = (Some(topology), notes.clone());
    ScriptedNode { node: LEADER, replicas, topology, bound: None, notes }
}

/// The operators' service of a node, which is asked for nothing itself.
fn api<const N: usize>(process: &Process, others: [ScriptedNode; N]) -> ClusterApi {
    ClusterApi {
        replicas: process.replicas.clone(),
        peers: peers(process, others),
        operations: Arc::new(ScriptedNode { node: NODE, ..Default::default() }),
        authorizer: Arc::new(AllowAll),
        stopping: Default::default(),
    }
}

/// Replaces node 2, whose replicas of the meta group and of the group are so, where the topology is this. What the nodes
/// were asked.
async fn replace(wanted: Topology, meta: (u32, &str), group: (u32, &str)) -> Vec<(NodeId, Asked)> {
    let (disks, notes) = (Disks::default(), Notes::default());
    let process = disks.start().await;
    let replicas = vec![status(META, meta.0, meta.1, 5), status(GROUP, group.0, group.1, 5)];
    let node =
        ScriptedNode { node: REPLACED, replicas, notes: notes.clone(), ..Default::default() };
    let api = api(&process, [leader(wanted, &notes), node]);
    let (sender, _steps) = mpsc::channel(STEPS_MAX);
    let request = ReplaceRequest { node_id: REPLACED.0.into(), ..Default::default() };
    api.replace(request, sender).await.unwrap();
    disks.crash(process).await;
    std::mem::take(&mut notes.lock().unwrap())
}

/// Otherwise the dead one would stay among the voters.
#[tokio::test(start_paused = true)]
async fn a_repeated_replacement_removes_the_older_replica_although_the_new_one_is_made() {
    let made = replaced(2);
    let change =
        TopologyChange::ReplicaMade { group: GROUP, node: REPLACED, incarnation: made.incarnation };
    let asked = replace(topology(2, 1, 2), (1, "follower"), (2, "learner")).await;
    let steps = [
        Asked::Membership(GROUP, Step::Remove, made),
        Asked::Change(change),
        Asked::Membership(GROUP, Step::AddLearner, made),
        Asked::Membership(GROUP, Step::Promote, made),
    ];
    assert_eq!(asked, steps.map(|step| (LEADER, step)));
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_made_once_the_older_one_is_removed_and_counts_once_it_is_said_to_be_made() {
    let new = replaced(2);
    let (group, node, incarnation) = (GROUP, REPLACED, new.incarnation);
    let asked = replace(topology(1, 1, 1), (1, "follower"), (1, "missing")).await;
    let steps = [
        (LEADER, Asked::Membership(GROUP, Step::CheckRemoval, new)),
        (LEADER, Asked::Change(TopologyChange::RenewReplica { group, node, incarnation })),
        (LEADER, Asked::Membership(GROUP, Step::Remove, new)),
        (REPLACED, Asked::Make(GROUP, new)),
        (LEADER, Asked::Change(TopologyChange::ReplicaMade { group, node, incarnation })),
        (LEADER, Asked::Membership(GROUP, Step::AddLearner, new)),
        (LEADER, Asked::Membership(GROUP, Step::Promote, new)),
    ];
    assert_eq!(asked, steps);
}

/// Its replica of the meta group stands, and it knows of no cluster: it cannot be reached by that replica's leader.
#[tokio::test(start_paused = true)]
async fn a_node_whose_adoption_was_cut_off_is_adopted_again() {
    let made = replaced(2);
    let asked = replace(topology(2, 2, 1), (2, "learner"), (1, "follower")).await;
    let steps = [
        (LEADER, Asked::Membership(META, Step::Remove, made)),
        (REPLACED, Asked::Adopt(made.incarnation)),
        (LEADER, Asked::Membership(META, Step::AddLearner, made)),
        (LEADER, Asked::Membership(META, Step::Promote, made)),
    ];
    assert_eq!(asked, steps);
}

/// What it waits for may come about once whoever asked is gone, and has asked elsewhere.
#[tokio::test(start_paused = true)]
async fn a_replacement_that_waits_says_for_what_and_ends_with_its_caller() {
    let (disks, notes) = (Disks::default(), Notes::default());
    let process = disks.start().await;
    let replicas = vec![status(META, 1, "follower", 5), status(GROUP, 1, "missing", 5)];
    let node = ScriptedNode { node: REPLACED, replicas, ..Default::default() };
    let bound = Some("the others are away".to_owned());
    let leader = ScriptedNode { bound, ..leader(topology(1, 1, 1), &notes) };
    let api = api(&process, [leader, node]);
    let (sender, mut steps) = mpsc::channel::<ReplaceResponse>(STEPS_MAX);
    let request = ReplaceRequest { node_id: REPLACED.0.into(), ..Default::default() };
    let began = Instant::now();
    let listening = async move {
        let mut reasons = Vec::new();
        while reasons.len() < 3 {
            let step = steps.recv().await.unwrap();
            let is_told = step.step == "waiting" && !step.reason.is_empty();
            reasons.extend(Some((step.group_id, step.reason)).filter(|_| is_told));
        }
        reasons
    };
    let (ended, reasons) = tokio::join!(api.replace(request, sender), listening);
    assert_eq!(ended.unwrap_err().to_string(), "the caller has gone");
    let is_why = |(group, reason): &(u64, String)| {
        *group == GROUP.0 && reason.ends_with("the others are away")
    };
    assert!(reasons.iter().all(is_why), "{reasons:?}");
    assert!(began.elapsed() < EVENTUALLY.min(Duration::from_secs(10)), "{:?}", began.elapsed());
    let check = Asked::Membership(GROUP, Step::CheckRemoval, replaced(2));
    assert!(notes.lock().unwrap().iter().all(|(_, asked)| *asked == check), "nothing is begun");
    disks.crash(process).await;
}

/// It knows of no leader, and it is through such a node that a replacement may have to be completed.
#[tokio::test(start_paused = true)]
async fn the_topology_is_changed_through_a_node_whose_meta_replica_is_blank() {
    let (disks, notes) = (Disks::default(), Notes::default());
    let process = disks.start().await;
    let own = ReplicaId { node: NODE, incarnation: Incarnation(2) };
    process.replicas.make(META, own).await.unwrap();
    let peers = peers(&process, [leader(topology(1, 1, 1), &notes)]);
    let operations = ScriptedNode { node: NODE, ..Default::default() };
    let meta = MetaGroup { replicas: &process.replicas, peers: &peers, operations: &operations };
    let change = TopologyChange::ActivateGroup { group: GROUP };
    meta.change_topology(change.clone(), Instant::now() + EVENTUALLY).await.unwrap();
    assert_eq!(*notes.lock().unwrap(), [(LEADER, Asked::Change(change))]);
    disks.crash(process).await;
}

/// What such a node has heard of last never changes again, and it goes on naming the leader that it knew: itself, here.
#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_not_looked_up_in_a_meta_replica_that_was_taken_out() {
    let (disks, notes) = (Disks::default(), Notes::default());
    let process = disks.start().await;
    let own = ReplicaId { node: NODE, incarnation: Incarnation(1) };
    let everything = HashRange { start: PlacementHash(0), end: None };
    process.leading(META, own, everything).await;
    process.replicas.learn_topology(topology(1, 1, 1));
    let peers = peers(&process, [leader(topology(2, 2, 2), &notes)]);
    let replicas = vec![status(META, 1, "leader", 4)];
    let operations = ScriptedNode { node: NODE, replicas, ..Default::default() };
    let api = ClusterApi {
        replicas: process.replicas.clone(),
        peers,
        operations: Arc::new(operations),
        authorizer: Arc::new(AllowAll),
        stopping: Default::default(),
    };
    assert_eq!(api.confirmed_topology().await.unwrap(), topology(2, 2, 2));
    disks.crash(process).await;
}
