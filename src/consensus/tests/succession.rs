//! A leader's process is dead, or seems to be: who gives votes before its lease is over, and who stands (G1, G2, G9).
//!
//! Leases here are longer than any test: what happens does not happen because one is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use tokio::time::Instant;

use super::fixture::{EVENTUALLY, GROUP, log_id, replica};
use super::scripted::{SLOW, Scripted, Voters};
use crate::consensus::raft_types::{RaftVote, to_raft_entry, to_raft_log_id, to_raft_vote};
use crate::consensus::solitary::{Disks, Process};
use crate::consensus::{Group, Refusal};
use crate::storage::records::{EntryPayload, EntryRecord, VoteRecord};
use crate::types::{NodeId, ReplicaId, Term};

/// Where the others stand: node 1 leads the group at first, node 2 is the other survivor.
const LEADER: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

fn vote(term: u64, candidate: ReplicaId, committed: bool) -> RaftVote {
    to_raft_vote(&VoteRecord { term: Term(term), candidate, committed })
}

/// Node 3 as it follows node 1, with two entries from it. The other voters are the test's, and give every vote.
async fn follows(disks: &Disks) -> (Process, Arc<Group>, Voters) {
    let (transport, voters) = Scripted::new();
    let process = disks.start_among(Arc::new(transport), SLOW).await;
    let group = process.replicas.make(GROUP, replica(3, 1)).await.unwrap();
    hears(&group).await;
    (process, group, voters)
}

/// The leader is heard.
async fn hears(group: &Group) {
    let replicas = vec![replica(1, 1), replica(2, 1), replica(3, 1)];
    let members = EntryPayload::Membership { configs: vec![replicas.clone()], replicas };
    let entries = [(0, members), (1, EntryPayload::Blank)];
    let entries = entries.map(|(index, payload)| EntryRecord { log_id: log_id(1, index), payload });
    let request = AppendEntriesRequest {
        vote: vote(1, replica(1, 1), true),
        prev_log_id: None,
        entries: entries.map(to_raft_entry).to_vec(),
        leader_commit: None,
    };
    group.raft().append_entries(request).await.unwrap();
}

/// Connections to a node are refused now, for the first time.
fn refuses(node: NodeId) -> BTreeMap<NodeId, Refusal> {
    let now = Instant::now();
    BTreeMap::from([(node, Refusal { since: now, last: now })])
}

/// Connections to a node are refused now, and were for so long that it is the other survivor's turn.
fn refuses_since_a_turn(node: NodeId) -> BTreeMap<NodeId, Refusal> {
    let last = Instant::now();
    let since = last - Duration::from_millis(SLOW.election_timeout_max_ms / 2);
    BTreeMap::from([(node, Refusal { since, last })])
}

/// Whether the replica would vote for node 2, whose log ends at this index.
async fn would_vote(group: &Group, last: u64) -> bool {
    let last_log_id = Some(to_raft_log_id(&log_id(1, last)));
    let vote = vote(2, replica(2, 1), false);
    let request = VoteRequest { vote, last_log_id, leadership_transfer: false };
    group.pre_vote(request).await.unwrap().vote_granted
}

/// What the replica is, once it has done all that it was told so far.
async fn state(group: &Group) -> ServerState {
    group.raft().with_raft_state(|state| state.server_state).await.unwrap()
}

async fn is_elected(group: &Group) {
    let elected = group.raft().wait(Some(EVENTUALLY));
    elected.state(ServerState::Leader, "the others vote for it").await.unwrap();
}

#[tokio::test]
async fn who_sees_the_leader_dead_stands_during_its_lease() {
    let disks = Disks::default();
    let (process, group, _voters) = follows(&disks).await;
    assert!(group.succeed(&refuses(LEADER)).await, "another leader is to come");
    is_elected(&group).await;
    assert!(!group.succeed(&refuses(LEADER)).await, "it has come");
    disks.crash(process).await;
}

#[tokio::test]
async fn whose_turn_it_is_not_gives_its_vote_during_the_lease() {
    let disks = Disks::default();
    let (process, group, _voters) = follows(&disks).await;
    assert!(!would_vote(&group, 1).await, "the leader is heard");
    let refusals = refuses_since_a_turn(LEADER);
    assert!(group.succeed(&refusals).await);
    assert_eq!(state(&group).await, ServerState::Follower);
    assert!(would_vote(&group, 1).await, "the leader is dead");
    disks.crash(process).await;
}

#[tokio::test]
async fn a_lease_lasts_where_another_node_is_dead_and_where_the_leader_was_heard_since() {
    let disks = Disks::default();
    let (process, group, _voters) = follows(&disks).await;
    assert!(!group.succeed(&BTreeMap::new()).await);
    assert!(!group.succeed(&refuses(OTHER)).await, "it does not lead");
    let before = refuses(LEADER);
    hears(&group).await;
    assert!(group.succeed(&before).await, "it may be dead all the same");
    assert!(!would_vote(&group, 1).await, "it was heard after the refusal");
    assert_eq!(state(&group).await, ServerState::Follower);
    disks.crash(process).await;
}

/// After a false alarm the leader goes on, and the next vote brings the lease back.
#[tokio::test]
async fn a_false_alarm_costs_one_election_at_most() {
    let disks = Disks::default();
    let (process, group, _voters) = follows(&disks).await;
    let refusals = refuses_since_a_turn(LEADER);
    group.succeed(&refusals).await;
    hears(&group).await;
    assert_eq!(group.leader(), Some(LEADER), "it follows as before");
    assert!(would_vote(&group, 1).await, "one election can be held");
    let request = AppendEntriesRequest {
        vote: vote(2, replica(2, 1), true),
        prev_log_id: Some(to_raft_log_id(&log_id(1, 1))),
        entries: Vec::new(),
        leader_commit: None,
    };
    group.raft().append_entries(request).await.unwrap();
    assert_eq!(group.leader(), Some(OTHER));
    group.succeed(&refusals).await;
    let last_log_id = Some(to_raft_log_id(&log_id(9, 9)));
    let third = VoteRequest {
        vote: vote(3, replica(1, 1), false),
        last_log_id,
        leadership_transfer: false,
    };
    assert!(!group.pre_vote(third).await.unwrap().vote_granted, "and then no other");
    disks.crash(process).await;
}

#[tokio::test]
async fn who_has_more_stands_in_place_of_who_cannot_win_unless_it_hears_the_leader() {
    let disks = Disks::default();
    let (process, group, _voters) = follows(&disks).await;
    assert!(!would_vote(&group, 0).await);
    assert_eq!(state(&group).await, ServerState::Follower, "the leader is heard");
    let refusals = refuses_since_a_turn(LEADER);
    group.succeed(&refusals).await;
    assert!(!would_vote(&group, 0).await, "an entry of its own may be committed (G1)");
    is_elected(&group).await;
    disks.crash(process).await;
}
