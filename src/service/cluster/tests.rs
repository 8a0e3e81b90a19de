//! Operations that go on from where another was cut off, or through a node that knows little or what is old (G9).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use quorate_client::proto::{ReplaceRequest, ReplaceResponse, ReplicaStatus};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::Request;

use super::fixture::{Asked, Notes, ScriptedNode, peers, status, statuses, topology};
use super::{ClusterApi, ClusterService, MetaGroup};
use crate::consensus::solitary::{Disks, EVENTUALLY, NODE, Process};
use crate::log::{Topology, TopologyChange, TopologyGroup, TopologyNode};
use crate::service::AllowAll;
use crate::service::servers::cluster_server::Cluster;
use crate::transport::proto::AdoptReply;
use crate::transport::proto::change_membership_request::Step;
use crate::types::{GroupId, HashRange, Incarnation, NodeId, PlacementHash, ReplicaId};

const META: GroupId = GroupId::META;
const GROUP: GroupId = GroupId(1);
/// Where there are two.
const NEXT: GroupId = GroupId(2);
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
    let led = [META, GROUP, NEXT].map(|group| status(group, 1, "leader", 5));
    let (topology, notes) = (Some(topology), notes.clone());
    ScriptedNode { node: LEADER, replicas: statuses(led), topology, notes, ..Default::default() }
}

/// The node that is to be replaced, with these replicas.
fn to_be_replaced<const N: usize>(replicas: [ReplicaStatus; N], notes: &Notes) -> ScriptedNode {
    let (replicas, notes) = (statuses(replicas), notes.clone());
    ScriptedNode { node: REPLACED, replicas, notes, ..Default::default() }
}

fn request() -> ReplaceRequest {
    ReplaceRequest { node_id: REPLACED.0.into(), ..Default::default() }
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
    let replicas = [status(META, meta.0, meta.1, 5), status(GROUP, group.0, group.1, 5)];
    let api = api(&process, [leader(wanted, &notes), to_be_replaced(replicas, &notes)]);
    let (sender, _steps) = mpsc::channel(STEPS_MAX);
    api.replace(request(), sender).await.unwrap();
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
    let replicas = [status(META, 1, "follower", 5), status(GROUP, 1, "missing", 5)];
    let node = to_be_replaced(replicas, &notes);
    let bound = Some((GROUP, "the others are away".to_owned()));
    let leader = ScriptedNode { bound, ..leader(topology(1, 1, 1), &notes) };
    let api = api(&process, [leader, node]);
    let (sender, mut steps) = mpsc::channel::<ReplaceResponse>(STEPS_MAX);
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
    let (ended, reasons) = tokio::join!(api.replace(request(), sender), listening);
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

/// One that cannot be repaired now may be so for long, and the others would be one loss from their end meanwhile.
#[tokio::test(start_paused = true)]
async fn a_group_that_cannot_be_repaired_keeps_no_other_from_it() {
    let (disks, notes) = (Disks::default(), Notes::default());
    let process = disks.start().await;
    let mut wanted = topology(1, 1, 1);
    wanted.groups.push(TopologyGroup { id: NEXT, ..wanted.groups[0].clone() });
    let lost = [GROUP, NEXT].map(|group| status(group, 1, "missing", 5));
    let [first, second] = lost;
    let node = to_be_replaced([status(META, 1, "follower", 5), first, second], &notes);
    let bound = Some((GROUP, "the others are away".to_owned()));
    let leader = ScriptedNode { bound, ..leader(wanted, &notes) };
    let service = ClusterService(Arc::new(api(&process, [leader, node])));
    let steps = service.replace(Request::new(request())).await.unwrap().into_inner();
    let mut steps: Vec<_> = steps.collect().await;

    let error = steps.pop().unwrap().unwrap_err();
    let named = "replicas could not be made anew: group 1: ";
    assert!(error.message().starts_with(named), "{}", error.message());
    assert!(error.message().contains("the others are away"), "{}", error.message());
    let steps: Vec<_> = steps.into_iter().map(Result::unwrap).collect();
    let failed: Vec<_> = steps.iter().filter(|step| step.step == "failed").collect();
    assert!(failed.len() == 1 && failed[0].group_id == GROUP.0, "{failed:?}");
    assert!(failed[0].reason.contains("the others are away"), "{failed:?}");
    let last = steps.last().unwrap();
    assert_eq!((last.groups_done, last.groups_total), (2, 3));
    let promoted = Asked::Membership(NEXT, Step::Promote, replaced(2));
    assert!(notes.lock().unwrap().contains(&(LEADER, promoted)));
    disks.crash(process).await;
}

/// The node belongs to no cluster yet.
#[tokio::test(start_paused = true)]
async fn a_meta_replica_that_cannot_be_made_anew_ends_the_replacement_and_is_named() {
    let (disks, notes) = (Disks::default(), Notes::default());
    let process = disks.start().await;
    let lost = [META, GROUP].map(|group| status(group, 1, "missing", 5));
    let node = to_be_replaced(lost, &notes);
    let bound = Some((META, "the others are away".to_owned()));
    let leader = ScriptedNode { bound, ..leader(topology(1, 1, 1), &notes) };
    let (sender, _steps) = mpsc::channel(STEPS_MAX);
    let error = api(&process, [leader, node]).replace(request(), sender).await.unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("replicas could not be made anew: meta group: "), "{error}");
    let check = Asked::Membership(META, Step::CheckRemoval, replaced(2));
    assert!(notes.lock().unwrap().iter().all(|(_, asked)| *asked == check), "nothing is begun");
    disks.crash(process).await;
}

/// There is nobody yet who could change its membership, and nothing to replace.
#[tokio::test(start_paused = true)]
async fn a_first_replica_whose_group_has_not_begun_is_left_as_it_is() {
    let mut wanted = topology(1, 1, 1);
    wanted.groups[0].active = false;
    assert_eq!(replace(wanted, (1, "follower"), (1, "learner")).await, []);
}

/// What is appended while it catches up it lacks too; and of a leader that does not answer nobody knows how much that is.
#[tokio::test(start_paused = true)]
async fn a_new_replica_is_waited_for_until_it_has_nearly_all_that_its_leader_has() {
    let (disks, notes) = (Disks::default(), Notes::default());
    let process = disks.start().await;
    let node =
        to_be_replaced([status(META, 1, "follower", 5), status(GROUP, 2, "learner", 5)], &notes);
    let leader = leader(topology(2, 1, 2), &notes);
    let (of_leader, of_node) = (leader.replicas.clone(), node.replicas.clone());
    let is_asked = |step| {
        let asked = (LEADER, Asked::Membership(GROUP, step, replaced(2)));
        notes.lock().unwrap().contains(&asked)
    };
    let api = api(&process, [leader, node]);
    let (sender, mut steps) = mpsc::channel::<ReplaceResponse>(STEPS_MAX);
    let applied = |leads: Option<u64>, learns: u64| {
        let mut led = of_leader.lock().unwrap();
        led[1].role = if leads.is_some() { "leader" } else { "follower" }.to_owned();
        led[1].applied_index = leads.unwrap_or_default();
        of_node.lock().unwrap()[1].applied_index = learns;
    };
    applied(Some(1_000), 0);
    let catches_up = async {
        let pause = || sleep(Duration::from_secs(5));
        pause().await;
        assert!(is_asked(Step::AddLearner));
        for (leads, learns) in [(Some(1_000), 500), (None, 1_000), (Some(2_000), 1_000)] {
            applied(leads, learns);
            pause().await;
            assert!(!is_asked(Step::Promote), "at {learns} of {leads:?}");
        }
        applied(Some(2_010), 2_000);
        pause().await;
        assert!(is_asked(Step::Promote));
    };
    let listening = async {
        let mut told = Vec::new();
        while let Some(step) = steps.recv().await {
            told.push(step);
        }
        told
    };
    let (replaced, (), told) = tokio::join!(api.replace(request(), sender), catches_up, listening);
    replaced.unwrap();
    let is_why = |step: &ReplaceResponse| step.step == "waiting" && step.reason.contains("leader");
    assert!(told.iter().any(is_why), "{told:?}");
    let is_target = |step: &ReplaceResponse| {
        step.step == "catching_up" && (step.applied_index, step.target_index) == (1_000, 2_000)
    };
    assert!(told.iter().any(is_target), "{told:?}");
    disks.crash(process).await;
}

/// It may be another machine, in another place.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_adopted_again_is_known_by_the_addresses_that_it_has_now() {
    let (disks, notes) = (Disks::default(), Notes::default());
    let process = disks.start().await;
    let replicas = [status(META, 2, "learner", 5), status(GROUP, 1, "follower", 5)];
    let advertised = AdoptReply {
        client_address: "moved:1".to_owned(),
        peer_address: "0.0.0.0:2".to_owned(),
        http_address: "moved:3".to_owned(),
        zone: "b".to_owned(),
    };
    let node = ScriptedNode { advertised, ..to_be_replaced(replicas, &notes) };
    let wanted = topology(2, 2, 1);
    let moved = TopologyNode {
        client_address: "moved:1".to_owned(),
        http_address: "moved:3".to_owned(),
        zone: "b".to_owned(),
        ..wanted.nodes[1].clone()
    };
    let api = api(&process, [leader(wanted, &notes), node]);
    let (sender, _steps) = mpsc::channel(STEPS_MAX);
    api.replace(request(), sender).await.unwrap();
    let made = replaced(2);
    let steps = [
        (LEADER, Asked::Membership(META, Step::Remove, made)),
        (REPLACED, Asked::Adopt(made.incarnation)),
        (LEADER, Asked::Change(TopologyChange::UpdateNode(moved))),
        (LEADER, Asked::Membership(META, Step::AddLearner, made)),
        (LEADER, Asked::Membership(META, Step::Promote, made)),
    ];
    assert_eq!(*notes.lock().unwrap(), steps);
    disks.crash(process).await;
}

/// All that others send a node goes to the address that the topology says.
#[tokio::test(start_paused = true)]
async fn a_node_is_said_to_have_moved_only_where_it_was_found() {
    let (disks, notes) = (Disks::default(), Notes::default());
    let process = disks.start().await;
    let replicas = [status(META, 1, "follower", 5), status(GROUP, 1, "follower", 5)];
    let wanted = topology(1, 1, 1);
    let taken = wanted.nodes[0].peer_address.clone();
    assert_ne!(wanted.nodes[0].id, REPLACED);
    let api = api(&process, [leader(wanted, &notes), to_be_replaced(replicas, &notes)]);
    for (peer_address, says) in [
        (taken.as_str(), "peer_address: node "),
        ("127.0.0.1:1", "at 127.0.0.1:1: "),
        ("nowhere", "not host:port"),
    ] {
        let (sender, _steps) = mpsc::channel(STEPS_MAX);
        let request = ReplaceRequest { peer_address: peer_address.to_owned(), ..request() };
        let refused = api.replace(request, sender).await.unwrap_err();
        assert!(refused.to_string().contains(says), "{peer_address}: {refused}");
    }
    assert_eq!(*notes.lock().unwrap(), []);
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
    let replicas = statuses([status(META, 1, "leader", 4)]);
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
