//! What other nodes answer to this one, through its connections. The first byte tells the call, and each message of an
//! answer stands behind its length.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate::consensus::network::{RaftTransport, Route};
use quorate::consensus::parking::Footing;
use quorate::consensus::{ClockSkew, ReadError, RemoteReadIndex};
use quorate::storage::DiskMark;
use quorate::transport::{Introduction, Peers, proto, wire};
use quorate::types::{Clock, ClusterId, GroupId, NodeId, Timestamp};
use tonic::Status;

use super::{Case, choosing, chosen, records};
use crate::ground::{NODE, Reply, Script, dial, messages, runtime, stream};

pub const CASE: Case = Case { seeds, check };

const GROUP: GroupId = GroupId(1);
/// Who answers.
const PEER: NodeId = NodeId(1);
const LIMIT: Duration = Duration::from_secs(1);
const NOW: Timestamp = Timestamp(5_000_000);
const CALLS: usize = 5;

fn check(input: &[u8]) {
    let Some((which, body)) = chosen(input, CALLS) else { return };
    let messages = messages(body);
    let reply = Reply { messages: messages.clone(), status: Status::new(tonic::Code::Ok, "") };
    runtime().block_on(async {
        let own = std::sync::Arc::new(Introduction::new(NODE, Some(ClusterId(42))));
        let peers = Peers::new(own, None, Some(dial(Script::new([reply]))));
        peers.set_addresses([(PEER, "node:7201".to_owned())]);
        match which {
            0 => pulse(&peers, &messages).await,
            1 => park(&peers, &messages).await,
            2 => read_index(&peers, &messages).await,
            3 => vote(&peers, &messages).await,
            _ => transfer(&peers, &messages).await,
        }
    });
}

/// The answer to a call that has one: what follows the first message is passed over if it can be decoded.
fn decoded<M: Message + Default>(sent: &[Bytes]) -> Option<M> {
    let all: Option<Vec<M>> = sent.iter().map(|sent| M::decode(sent.clone()).ok()).collect();
    all?.into_iter().next()
}

/// Time stands still.
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        NOW
    }

    fn elapsed_us(&self) -> u64 {
        NOW.0
    }
}

/// A mark that is not known is not guessed, and a clock is as far away as it says.
async fn pulse(peers: &Peers, sent: &[Bytes]) {
    use proto::pulse_reply::Disk;
    let disk = |reply: &proto::PulseReply| match reply.disk() {
        Disk::Unspecified => None,
        Disk::Ok => Some(DiskMark::Ok),
        Disk::Soft => Some(DiskMark::Soft),
        Disk::Hard => Some(DiskMark::Hard),
    };
    let reply = decoded::<proto::PulseReply>(sent);
    let told = reply.and_then(|reply| Some((reply, disk(&reply)?)));
    match (peers.pulse(PEER, &Still).await, told) {
        (Ok(seen), Some((reply, disk))) => {
            assert_eq!(seen.disk, disk);
            assert_eq!(seen.clock, ClockSkew::measured(NOW, Timestamp(reply.now_us), 0));
            let apart = reply.now_us.abs_diff(NOW.0);
            assert_eq!(
                (seen.clock.is_near(), seen.clock.is_far()),
                (apart <= 500_000, apart > 500_000)
            );
        }
        (Err(_), None) => {}
        other => panic!("{other:?}"),
    }
}

fn route() -> Route {
    let replica = |node| quorate::types::ReplicaId { node, ..records::OWN };
    Route { group: GROUP, from: replica(NODE), to: replica(PEER) }
}

fn log_id() -> proto::LogId {
    proto::LogId { term: 7, leader: Some(wire::replica_to_wire(records::OWN)), index: 9 }
}

fn vote_of(term: u64) -> proto::Vote {
    proto::Vote { term, candidate: Some(wire::replica_to_wire(records::OWN)), committed: true }
}

/// Who refuses is heard, and who is not understood has not agreed.
async fn park(peers: &Peers, sent: &[Bytes]) {
    let vote = wire::vote_from_wire(Some(&vote_of(7))).expect("it is one");
    let last = wire::log_id_from_wire(&log_id()).expect("it is one");
    let groups = vec![(route(), Footing { vote, last })];
    let refused = RaftTransport::park(peers, PEER, groups, LIMIT).await;
    let told = decoded::<proto::ParkReply>(sent);
    let told = told.map(|reply| reply.refused.into_iter().map(GroupId).collect());
    assert_eq!(refused, told);
}

async fn read_index(peers: &Peers, sent: &[Bytes]) {
    match (RemoteReadIndex::read_index(peers, PEER, GROUP).await, decoded(sent)) {
        (Ok(index), Some(proto::ReadIndexReply { index: told })) => assert_eq!(index.0, told),
        (Err(ReadError::NoQuorum { reason }), None) => assert!(!reason.is_empty()),
        other => panic!("{other:?}"),
    }
}

/// A vote is given by who says so alone.
async fn vote(peers: &Peers, sent: &[Bytes]) {
    use proto::raft_reply::Message::Vote;
    let request = proto::VoteRequest { vote: Some(vote_of(8)), ..Default::default() };
    let request = wire::vote_request_from_wire(&request).expect("it is one");
    let given = RaftTransport::vote(peers, route(), request, false, LIMIT).await;
    let told = match decoded::<proto::RaftReply>(sent).and_then(|reply| reply.message) {
        Some(Vote(reply)) => wire::vote_reply_from_wire(&reply).is_ok().then_some(reply),
        _ => None,
    };
    match (given, told) {
        (Ok(given), Some(told)) => assert_eq!(wire::vote_reply_to_wire(&given), told),
        (Err(_), None) => {}
        other => panic!("{other:?}"),
    }
}

/// Leadership is handed over to who takes it alone.
async fn transfer(peers: &Peers, sent: &[Bytes]) {
    use proto::raft_reply::Message::TransferRefused;
    let to = Some(wire::replica_to_wire(records::OWN));
    let request = proto::TransferRequest { from_leader: Some(vote_of(7)), to, last: None };
    let request = wire::transfer_from_wire(&request).expect("it is one");
    let taken = RaftTransport::transfer_leader(peers, route(), request, LIMIT).await;
    let told = decoded::<proto::RaftReply>(sent).and_then(|reply| reply.message);
    match (taken, told) {
        (Ok(taken), Some(TransferRefused(why))) => assert_eq!(taken.is_ok(), why.is_empty()),
        (Err(_), Some(proto::raft_reply::Message::Vote(_)) | None) => {}
        other => panic!("{other:?}"),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    use proto::raft_reply::Message::{TransferRefused, Vote};
    let disk = proto::pulse_reply::Disk::Soft.into();
    let pulse = |now_us| proto::PulseReply { now_us, disk }.encode_to_vec();
    let park = proto::ParkReply { refused: vec![1, 7] };
    let reply = proto::VoteReply { vote: Some(vote_of(8)), granted: true, last: Some(log_id()) };
    let raft = |message| proto::RaftReply { message: Some(message) }.encode_to_vec();
    let one = |which: usize, message: Vec<u8>| choosing(which, &stream([message]));
    vec![
        one(0, pulse(NOW.0 + 500_000)),
        one(0, pulse(u64::MAX)),
        one(1, park.encode_to_vec()),
        one(2, proto::ReadIndexReply { index: 9 }.encode_to_vec()),
        one(3, raft(Vote(reply))),
        one(4, raft(TransferRefused(String::new()))),
        one(4, raft(TransferRefused("another leads".into()))),
    ]
}
