//! Messages of other nodes: as protobuf, and behind it. The first byte tells which message, and the checksums of
//! entries are made right.

use std::fmt::Debug;

use bytes::Bytes;
use prost::Message;
use quorate::storage::keys;
use quorate::storage::records::{EntryPayload, EntryRecord, Record, entry_key};
use quorate::transport::proto::{append_frame, append_response, raft_reply, raft_request};
use quorate::transport::wire::{self, Malformed};
use quorate::transport::{Introduction, proto};
use quorate::types::{ClusterId, GroupId, LogIndex, NodeId};
use quorate_client::proto::NodeStatus;

use super::{Case, choosing, chosen, records, sealed, unsealed};

pub const CASE: Case = Case { seeds, check };

const GROUP: GroupId = GroupId(1);
const ALL: usize = 6;

fn check(input: &[u8]) {
    match chosen(input, ALL) {
        Some((0, body)) => decoded(body, append_frames),
        Some((1, body)) => decoded(body, raft_request),
        Some((2, body)) => decoded(body, raft_reply),
        Some((3, body)) => decoded(body, hello),
        Some((4, body)) => decoded(body, status),
        Some((_, body)) => decoded(body, park),
        None => {}
    }
}

fn decoded<M: Message + Default>(body: &[u8], holds: impl Fn(M)) {
    if let Ok(message) = M::decode(body) {
        holds(message);
    }
}

/// What is taken is taken as it was said.
fn means_itself<W: PartialEq + Debug, T>(
    said: &W,
    from_wire: impl Fn(&W) -> Result<T, Malformed>,
    to_wire: impl Fn(&T) -> W,
) {
    match from_wire(said) {
        Ok(taken) => assert_eq!(&to_wire(&taken), said),
        Err(error) => assert!(!error.0.is_empty()),
    }
}

fn append_frames(message: proto::AppendFrames) {
    for step in message.frames.into_iter().filter_map(|frame| frame.step) {
        match step {
            append_frame::Step::Request(request) => append_request(request),
            append_frame::Step::Response(response) => append_response(&response),
            append_frame::Step::Close(_) => {}
        }
    }
}

fn append_request(mut request: proto::AppendRequest) {
    if let Some(route) = &request.route {
        means_itself(
            route,
            |route| wire::route_from_wire(Some(route)),
            |r| wire::route_to_wire(*r),
        );
    }
    let first = request.prev.as_ref().map_or(0, |prev| prev.index.wrapping_add(1));
    for (nth, entry) in request.entries.iter_mut().enumerate() {
        let key = keys::raft_log(GROUP, LogIndex(first.wrapping_add(nth as u64)));
        *entry = Bytes::from(sealed(&key, entry));
    }
    let Ok(taken) = wire::append_from_wire(GROUP, &request) else { return };
    let mut indices = taken.raft.entries.iter().map(|entry| entry.log_id.index);
    assert!(indices.all(|index| index < u64::MAX), "an entry that none can follow is taken");
    let terms = taken.raft.entries.iter().map(|entry| entry.log_id.committed_leader_id().term);
    let mut terms = terms.chain([taken.raft.vote.leader_id.term]);
    assert!(terms.all(|term| term < 1 << 63), "a term that none can follow is taken");
    let again = wire::append_to_wire(GROUP, None, &taken);
    // One entry may be encoded in several ways, and is taken the same.
    let entries_again = wire::append_from_wire(GROUP, &again).unwrap().raft.entries;
    assert_eq!(entries_again, taken.raft.entries);
    let rest = |message: proto::AppendRequest| proto::AppendRequest {
        entries: Vec::new(),
        route: None,
        ..message
    };
    assert_eq!(rest(again), rest(request));
}

fn append_response(response: &proto::AppendResponse) {
    means_itself(response, wire::result_from_wire, wire::result_to_wire);
}

fn raft_request(request: proto::RaftRequest) {
    match request.message {
        Some(raft_request::Message::Vote(vote) | raft_request::Message::PreVote(vote)) => {
            means_itself(&vote, wire::vote_request_from_wire, wire::vote_request_to_wire);
        }
        Some(raft_request::Message::Transfer(transfer)) => {
            means_itself(&transfer, wire::transfer_from_wire, wire::transfer_to_wire);
        }
        None => {}
    }
}

fn raft_reply(reply: proto::RaftReply) {
    if let Some(raft_reply::Message::Vote(vote)) = reply.message {
        means_itself(&vote, wire::vote_reply_from_wire, wire::vote_reply_to_wire);
    }
}

/// Who does not say the cluster's name and this node's is not spoken to.
fn hello(hello: proto::Hello) {
    let own = introduction(NodeId(2));
    let known = wire::cluster_from_wire(&hello.cluster_id) == own.cluster();
    if let Ok(from) = own.greet(Some(&hello)) {
        assert!(known && hello.to_node == own.node().0 && hello.from_node == from.0);
    }
    if let Ok(from) = own.greet_stranger(Some(&hello)) {
        assert!(hello.to_node == own.node().0 && hello.from_node == from.0);
    }
}

fn introduction(node: NodeId) -> Introduction {
    Introduction::new(node, Some(ClusterId(42)))
}

fn status(reply: proto::StatusReply) {
    let cluster = wire::cluster_from_wire(&reply.cluster_id);
    assert!(cluster.is_none_or(|cluster| wire::cluster_to_wire(cluster) == reply.cluster_id));
    decoded(&reply.status, |status: NodeStatus| {
        assert_eq!(NodeStatus::decode(&status.encode_to_vec()[..]).as_ref(), Ok(&status));
    });
}

fn park(request: proto::ParkRequest) {
    for group in &request.groups {
        means_itself(group, wire::at_rest_from_wire, |(route, footing)| {
            wire::at_rest_to_wire(*route, footing)
        });
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let id = Some(wire::replica_to_wire(records::OWN));
    let log_id = |index| proto::LogId { term: 7, leader: id, index };
    let vote = proto::Vote { term: 7, candidate: id, committed: true };
    let (vote, last) = (Some(vote), Some(log_id(9)));
    let request =
        raft_request::Message::Vote(proto::VoteRequest { vote, last, leadership_transfer: true });
    let transfer =
        raft_request::Message::Transfer(proto::TransferRequest { from_leader: vote, to: id, last });
    let raft = |message| proto::RaftRequest { message: Some(message), ..Default::default() };
    let reply = proto::VoteReply { vote, granted: true, last };
    let reply = proto::RaftReply { message: Some(raft_reply::Message::Vote(reply)) };
    let status = proto::StatusReply {
        cluster_id: wire::cluster_to_wire(ClusterId(42)),
        ..Default::default()
    };
    let route = Some(proto::Route { group: GROUP.0, from: id, to: id });
    let groups = vec![proto::AtRest { route, vote, last }];
    let park = proto::ParkRequest { groups, ..Default::default() };
    vec![
        choosing(0, &frames().encode_to_vec()),
        choosing(1, &raft(request).encode_to_vec()),
        choosing(1, &raft(transfer).encode_to_vec()),
        choosing(2, &reply.encode_to_vec()),
        choosing(3, &introduction(NodeId(1)).hello(NodeId(2)).encode_to_vec()),
        choosing(4, &status.encode_to_vec()),
        choosing(5, &park.encode_to_vec()),
    ]
}

/// A request that opens a stream, and every kind of response.
pub fn frames() -> proto::AppendFrames {
    use append_response::Result;
    let id = Some(wire::replica_to_wire(records::OWN));
    let log_id = |index| proto::LogId { term: 7, leader: id, index };
    let vote = proto::Vote { term: 7, candidate: id, committed: true };
    let bare = |entry: &_| {
        Bytes::copy_from_slice(unsealed(&Record::encode(entry, &entry_key(GROUP, entry))))
    };
    let request = proto::AppendRequest {
        route: Some(proto::Route { group: GROUP.0, from: id, to: id }),
        vote: Some(vote),
        prev: None,
        entries: records::entries().iter().map(bare).collect(),
        commit: Some(log_id(1)),
        needed_from: 1,
        acknowledged_before: 1,
    };
    let heartbeat = proto::AppendRequest {
        route: None,
        prev: Some(log_id(u64::MAX - 1)),
        entries: Vec::new(),
        ..request
    };
    // The entry after the last of all numbers but one.
    let last = records::log_id(u64::MAX);
    let last = EntryRecord { log_id: last, payload: EntryPayload::Blank };
    let last = proto::AppendRequest { entries: vec![bare(&last)], ..heartbeat };
    // A term that no election can follow.
    let highest = Some(proto::Vote { term: u64::MAX, ..vote });
    let ruling = proto::AppendRequest { vote: highest, entries: Vec::new(), ..last };
    let requests = [request, heartbeat, last, ruling].map(append_frame::Step::Request);
    let accepted = Result::Accepted(proto::Accepted { last: Some(log_id(2)) });
    let failed = Result::Failed("the disk is nearly full".into());
    let results = [accepted, Result::Conflict(log_id(2)), Result::HigherVote(vote), failed];
    let responses = results
        .map(|result| append_frame::Step::Response(proto::AppendResponse { result: Some(result) }));
    let close = [append_frame::Step::Close(proto::Close {})];
    let steps = requests.into_iter().chain(responses).chain(close);
    let frames = steps.map(|step| proto::AppendFrame { stream: 1, step: Some(step) });
    proto::AppendFrames { hello: None, frames: frames.collect() }
}
