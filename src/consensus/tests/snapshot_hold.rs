//! The log that a replica needs which is being sent a snapshot is kept (G9).

use std::sync::Arc;

use futures::future::join;
use openraft::impls::EmptyNode;
use openraft::network::{NetSnapshot, RPCOption, RaftNetworkFactory};
use tokio::time::Instant;

use super::fixture::{EVENTUALLY, GROUP, append_to, leading, names, replica};
use super::scripted::Scripted;
use crate::consensus::flusher::flush_once;
use crate::consensus::log_needs::LogNeeds;
use crate::consensus::network::GroupNetwork;
use crate::consensus::raft_types::{from_raft_log_id, to_raft_vote};
use crate::consensus::solitary::Disks;
use crate::storage::records::VoteRecord;
use crate::types::{LogIndex, Term};

/// openraft goes on behind the durable mark, which it was told of, though the rows that are sent are newer. A log purged
/// beyond that mark, before the receiver has answered, has the same snapshot sent again.
#[tokio::test]
async fn the_log_behind_the_announced_mark_is_kept_until_the_receiver_has_installed() {
    let disks = Disks::default();
    let process = disks.start().await;
    let own = replica(3, 1);
    let group = leading(&process, own).await;
    let deadline = || Instant::now() + EVENTUALLY;
    flush_once(&process.replicas, u64::MAX).await.unwrap();
    let snapshot = group.raft().get_snapshot().await.unwrap().expect("something is durable");
    let announced = from_raft_log_id(snapshot.meta.last_log_id.as_ref().unwrap()).index;
    group.propose(append_to(&names(GROUP, "room", 1)[0], 1), deadline()).await.unwrap();
    assert!(group.applied_index() > announced);

    let (transport, mut voters) = Scripted::new();
    let mut network = GroupNetwork::new(Arc::new(transport), GROUP, own, LogNeeds::default());
    let (acknowledged, receiver) = (network.acknowledged.clone(), replica(1, 1));
    let mut connection = network.new_client(receiver, &EmptyNode::new()).await;
    let vote = to_raft_vote(&VoteRecord { term: Term(1), candidate: own, committed: true });
    acknowledged.note(receiver, vote, announced);
    assert!(acknowledged.before(receiver, &vote) > announced);
    let closed = std::future::pending();
    let sending = connection.full_snapshot(vote, snapshot, closed, RPCOption::new(EVENTUALLY));
    let source = group.snapshot_source();
    let receiving = async {
        let sending = voters.next_snapshot().await;
        let mut reader = sending.source.open().unwrap();
        let while_read = source.keep_from();
        while !reader.next_part().unwrap().is_empty() {}
        drop(reader);
        let while_installed = source.keep_from();
        sending.installed.send(vote).unwrap();
        [while_read, while_installed]
    };
    let (sent, kept) = join(sending, receiving).await;
    assert_eq!(sent.unwrap().vote, vote);
    assert_eq!(kept, [Some(announced); 2]);
    assert_eq!(source.keep_from(), None, "nothing is sent any more");
    assert_eq!(
        acknowledged.before(receiver, &vote),
        LogIndex(0),
        "it may have dropped that to install"
    );
    disks.crash(process).await;
}
