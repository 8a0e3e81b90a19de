//! Messages of other nodes, made of every number: what `cases::peers` holds of bytes, where bent bytes rarely come.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use quorate::storage::keys;
use quorate::storage::records::{
    EntryPayload, EntryRecord, GroupRow, LogId, MembershipRecord, Record, entry_key,
};
use quorate::transport::proto::{self, append_frame, append_response, raft_reply, raft_request};
use quorate::transport::wire;
use quorate::types::{GroupId, LogIndex, Term};

use crate::cases::{choosing, peers, records};
use crate::settings;

const GROUP: GroupId = GroupId(1);
/// What `cases::peers` is told by the first byte of its input.
const FRAMES: usize = 0;
const REQUEST: usize = 1;
const REPLY: usize = 2;

fn holds(which: usize, message: &impl Message) {
    (peers::CASE.check)(&choosing(which, &message.encode_to_vec()));
}

fn step_holds(step: append_frame::Step) {
    let frame = proto::AppendFrame { stream: 1, step: Some(step) };
    holds(FRAMES, &proto::AppendFrames { hello: None, frames: vec![frame] });
}

/// Numbers where arithmetic ends are as likely as others.
pub fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>(), 0..1_000u64]
}

fn replica() -> impl Strategy<Value = Option<proto::ReplicaId>> {
    let whole = (any::<u32>(), any::<u32>())
        .prop_map(|(node, incarnation)| proto::ReplicaId { node, incarnation });
    proptest::option::weighted(0.9, whole)
}

fn log_id() -> impl Strategy<Value = proto::LogId> {
    (number(), replica(), number()).prop_map(|(term, leader, index)| proto::LogId {
        term,
        leader,
        index,
    })
}

fn optional<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.8, of)
}

fn vote() -> impl Strategy<Value = proto::Vote> {
    (number(), replica(), any::<bool>()).prop_map(|(term, candidate, committed)| proto::Vote {
        term,
        candidate,
        committed,
    })
}

fn some_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..60).prop_map(Bytes::from)
}

/// Every entry and every term is followed by another, and what comes after the last of all numbers is none.
#[test]
fn what_none_can_follow_is_refused() {
    let own = Some(wire::replica_to_wire(records::OWN));
    let vote = |term| proto::Vote { term, candidate: own, committed: true };
    let id = |term, index| LogId { term: Term(term), leader: records::OWN, index: LogIndex(index) };
    let at = |term, index| proto::LogId { term, leader: own, index };
    let appending = |last: LogId| {
        let entry = EntryRecord { log_id: last, payload: EntryPayload::Blank };
        proto::AppendRequest {
            vote: Some(vote(7)),
            prev: Some(at(7, last.index.0 - 1)),
            entries: vec![Bytes::from(entry.encode(&entry_key(GROUP, &entry)))],
            ..Default::default()
        }
    };
    let taken = |request| wire::append_from_wire(GROUP, &request).is_ok();
    assert!(taken(appending(id(7, 9))));
    for last in [id(7, u64::MAX), id(1 << 63, 9), id(u64::MAX, 9)] {
        assert!(!taken(appending(last)), "{last:?}");
        let applied = GroupRow { applied: Some(last), ..GroupRow::blank(records::OWN) };
        let membership = MembershipRecord { log_id: Some(last), ..Default::default() };
        let changed = GroupRow { membership, ..GroupRow::blank(records::OWN) };
        for row in [applied, changed] {
            let encoded = row.encode(&keys::group(GROUP));
            assert!(wire::group_row_from_wire(GROUP, &encoded).is_err(), "{last:?}");
        }
    }
    for term in [1 << 63, u64::MAX] {
        let ruling = proto::AppendRequest { vote: Some(vote(term)), ..appending(id(7, 9)) };
        assert!(!taken(ruling));
        assert!(wire::vote_from_wire(Some(&vote(term))).is_err());
        assert!(wire::log_id_from_wire(&at(term, 9)).is_err());
    }
}

/// Who only wants to lead has no entries to give, and is not to be taken for a leader by them.
#[test]
fn entries_and_snapshots_come_from_leaders_alone() {
    let own = Some(wire::replica_to_wire(records::OWN));
    for committed in [true, false] {
        let vote = Some(proto::Vote { term: 7, candidate: own, committed });
        let request = proto::AppendRequest { vote, ..Default::default() };
        assert_eq!(wire::append_from_wire(GROUP, &request).is_ok(), committed);
        assert_eq!(wire::leader_vote_from_wire(vote.as_ref()).is_ok(), committed);
        assert!(wire::vote_from_wire(vote.as_ref()).is_ok());
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn append_requests(
        vote in optional(vote()),
        prev in optional(log_id()),
        commit in optional(log_id()),
        entries in vec(some_bytes(), 0..3),
        needed_from in any::<u64>(),
        acknowledged_before in any::<u64>(),
    ) {
        step_holds(append_frame::Step::Request(proto::AppendRequest {
            route: None,
            vote,
            prev,
            entries,
            commit,
            needed_from,
            acknowledged_before,
        }));
    }

    #[test]
    fn append_responses(last in optional(log_id()), conflict in log_id(), vote in vote()) {
        use append_response::Result as Wire;
        let accepted = Wire::Accepted(proto::Accepted { last });
        for result in [accepted, Wire::Conflict(conflict), Wire::HigherVote(vote)] {
            let response = proto::AppendResponse { result: Some(result) };
            step_holds(append_frame::Step::Response(response));
        }
    }

    #[test]
    fn votes_and_transfers(
        vote in optional(vote()),
        last in optional(log_id()),
        to in replica(),
        flag in any::<bool>(),
    ) {
        let request = proto::VoteRequest { vote, last, leadership_transfer: flag };
        let transfer = proto::TransferRequest { from_leader: vote, to, last };
        for message in
            [raft_request::Message::Vote(request), raft_request::Message::Transfer(transfer)]
        {
            holds(REQUEST, &proto::RaftRequest { message: Some(message), ..Default::default() });
        }
        let reply = proto::VoteReply { vote, granted: flag, last };
        holds(REPLY, &proto::RaftReply { message: Some(raft_reply::Message::Vote(reply)) });
    }
}
