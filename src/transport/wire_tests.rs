//! Messages of peers, made of every number and bent bytes: none may bring a node down. `tests/decoders.rs` has what is on
//! disk.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::snapshots::{checksum, verified};
use super::{proto, wire};
use crate::types::GroupId;

fn config() -> ProptestConfig {
    let cases = std::env::var("DECODER_CASES").ok().map(|cases| cases.parse().expect("a number"));
    ProptestConfig { cases: cases.unwrap_or(3_000), ..ProptestConfig::default() }
}

/// Numbers where arithmetic ends are as likely as others.
fn number() -> impl Strategy<Value = u64> {
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

proptest! {
    #![proptest_config(config())]

    #[test]
    fn append_requests(
        vote in optional(vote()),
        prev in optional(log_id()),
        commit in optional(log_id()),
        entries in vec(some_bytes(), 0..3),
    ) {
        let request = proto::AppendRequest { route: None, vote, prev, entries, commit };
        if let Ok(decoded) = wire::append_from_wire(GroupId(1), &request) {
            let again = wire::append_to_wire(GroupId(1), None, &decoded);
            prop_assert_eq!(again, request);
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
        if let Ok(decoded) = wire::vote_request_from_wire(&request) {
            prop_assert_eq!(wire::vote_request_to_wire(&decoded), request);
        }
        let reply = proto::VoteReply { vote, granted: flag, last };
        if let Ok(decoded) = wire::vote_reply_from_wire(&reply) {
            prop_assert_eq!(wire::vote_reply_to_wire(&decoded), reply);
        }
        let transfer = proto::TransferRequest { from_leader: vote, to, last };
        if let Ok(decoded) = wire::transfer_from_wire(&transfer) {
            prop_assert_eq!(wire::transfer_to_wire(&decoded), transfer);
        }
    }

    #[test]
    fn append_responses(last in optional(log_id()), conflict in log_id(), vote in vote()) {
        use proto::append_response::Result as Wire;
        let accepted = Wire::Accepted(proto::Accepted { last });
        for result in [accepted, Wire::Conflict(conflict), Wire::HigherVote(vote)] {
            let response = proto::AppendResponse { result: Some(result) };
            if let Ok(decoded) = wire::result_from_wire(&response) {
                prop_assert_eq!(wire::result_to_wire(&decoded), response);
            }
        }
    }

    /// Any bytes at all, as protobuf and behind it.
    #[test]
    fn garbage(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(request) = proto::AppendRequest::decode(&bytes[..]) {
            let _ = wire::append_from_wire(GroupId(1), &request);
        }
        if let Ok(frame) = proto::SnapshotFrame::decode(&bytes[..])
            && let Some(proto::snapshot_frame::Step::Rows(rows)) = frame.step
        {
            let _ = verified(rows);
        }
        prop_assert!(wire::cluster_from_wire(&bytes).is_none() || bytes.len() == 16);
    }

    #[test]
    fn snapshot_rows(
        rows in vec((any::<u32>(), some_bytes(), some_bytes()), 0..4),
        table in 0..30u32,
        flip in any::<u8>(),
    ) {
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(any, key, value)| {
                let table = if any % 2 == 0 { table } else { any };
                proto::SnapshotRow { table, key, value }
            })
            .collect();
        let mut frame = proto::SnapshotRows { crc32c: checksum(&rows), rows: rows.clone() };
        if let Ok(taken) = verified(frame.clone()) {
            prop_assert_eq!(taken.len(), rows.len());
        }
        frame.crc32c ^= u32::from(flip);
        prop_assert!(flip == 0 || verified(frame).is_err(), "damage is taken");
    }
}
