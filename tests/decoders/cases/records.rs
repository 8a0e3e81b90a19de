//! Values of all tables. The first byte tells the kind of record, the checksum is made right.

use std::fmt::Debug;

use bytes::Bytes;
use quorate::log::{Topology, TopologyGroup, TopologyNode, TopologyReplica};
use quorate::storage::records::{
    ContentIdentity, ConversationHead, DedupOutcome, DedupRow, EntryPayload, EntryRecord, GroupRow,
    Kind, LogId, LogIdRecord, MembershipRecord, MessageRecord, NameRow, OwnedRecord, Record,
    VoteRecord,
};
use quorate::types::{
    AttemptId, ClusterId, ConversationName, GroupId, HashRange, Incarnation, LogIndex, NodeId,
    ReplicaId, Seq, Term, Timestamp,
};

use super::{Case, broken, choosing, chosen, proposals, sealed, unsealed};

pub const CASE: Case = Case { seeds, check };

pub const OWN: ReplicaId = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
/// The conversation of all that belongs to one.
pub const NAME: &str = "acme/room";
const KEY: &[u8] = b"the key";

const DECODERS: [fn(&[u8]); 9] = [
    holds::<MessageRecord>,
    holds::<ConversationHead>,
    holds::<NameRow>,
    holds::<DedupRow>,
    holds::<GroupRow>,
    holds::<VoteRecord>,
    holds::<LogIdRecord>,
    holds::<EntryRecord>,
    holds::<Topology>,
];

fn check(input: &[u8]) {
    if let Some((which, body)) = chosen(input, DECODERS.len()) {
        DECODERS[which](body);
    }
}

/// What is accepted means itself, under its own key and with its own checksum only.
fn holds<R: OwnedRecord + PartialEq + Debug>(body: &[u8]) {
    let value = sealed(KEY, body);
    match R::decode(KEY, &value) {
        Ok(decoded) => assert_eq!(R::decode(KEY, &decoded.encode(KEY)).unwrap(), decoded),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert!(R::decode(b"another key", &value).is_err(), "a value under another key is accepted");
    assert!(R::decode(KEY, &broken(value)).is_err(), "a wrong checksum is accepted");
}

fn seeds() -> Vec<Vec<u8>> {
    let seed = |which: usize, value: Vec<u8>| choosing(which, unsealed(&value));
    let mut seeds = vec![
        seed(0, message().encode(KEY)),
        seed(1, head().encode(KEY)),
        seed(2, NameRow(head().name.id()).encode(KEY)),
        seed(4, group_row().encode(KEY)),
        seed(5, vote().encode(KEY)),
        seed(6, LogIdRecord(log_id(9)).encode(KEY)),
        seed(8, topology().encode(KEY)),
    ];
    seeds.extend(dedup_rows().iter().map(|row| seed(3, row.encode(KEY))));
    seeds.extend(entries().iter().map(|entry| seed(7, entry.encode(KEY))));
    seeds
}

pub fn log_id(index: u64) -> LogId {
    LogId { term: Term(7), leader: OWN, index: LogIndex(index) }
}

pub fn message() -> MessageRecord {
    MessageRecord {
        seq: Seq(1),
        kind: Kind::Content,
        sender: "ann".into(),
        client_msg_id: "one".into(),
        issued_at: Timestamp(1_000_000),
        commit_time: Timestamp(2_000_000),
        content_type: "text/plain".into(),
        headers: vec![("name".into(), Bytes::from_static(b"value"))],
        payload: Bytes::from_static(b"payload"),
        payload_crc32c: crc32c::crc32c(b"payload"),
        target_seq: Some(Seq(3)),
        traceparent: String::new(),
        unread_ordinal: 1,
        salt: [7; 16],
        digest: [8; 32],
    }
}

pub fn head() -> ConversationHead {
    ConversationHead {
        name: ConversationName(NAME.into()),
        generation: 1,
        first_seq: Seq(1),
        tail: Seq(2),
        bytes: 16,
        last_commit_time: Timestamp(2_000_000),
        digest: [1; 32],
        base_digest: [2; 32],
        unread_total: 1,
    }
}

pub fn dedup_rows() -> [DedupRow; 2] {
    let committed = DedupOutcome::Committed {
        seq: Seq(1),
        commit_time: Timestamp(2_000_000),
        content: Some(ContentIdentity { salt: [8; 16], hash: [9; 16] }),
        attempt: Some(AttemptId(u64::MAX)),
    };
    [committed, DedupOutcome::Burnt]
        .map(|outcome| DedupRow { issued_at: Timestamp(1_000_000), outcome })
}

pub fn group_row() -> GroupRow {
    let membership =
        MembershipRecord { log_id: Some(log_id(0)), configs: vec![vec![OWN]], replicas: vec![OWN] };
    let blank = GroupRow::blank(OWN);
    GroupRow { range: Some(HashRange::ALL), applied: Some(log_id(1)), membership, ..blank }
}

pub fn vote() -> VoteRecord {
    VoteRecord { term: Term(7), candidate: OWN, committed: true }
}

/// A log from its first entry on.
pub fn entries() -> [EntryRecord; 3] {
    let membership = EntryPayload::Membership { configs: vec![vec![OWN]], replicas: vec![OWN] };
    let commands = EntryPayload::Commands(proposals::proposal().encode());
    let payloads = [(0, membership), (1, EntryPayload::Blank), (2, commands)];
    payloads.map(|(index, payload)| EntryRecord { log_id: log_id(index), payload })
}

pub fn topology() -> Topology {
    let node = TopologyNode {
        id: NodeId(1),
        client_address: "127.0.0.1:7101".into(),
        peer_address: "127.0.0.1:7201".into(),
        http_address: "127.0.0.1:7301".into(),
        zone: "a".into(),
        meta_incarnation: Incarnation(1),
    };
    let replica = TopologyReplica { node: NodeId(1), incarnation: Incarnation(1), joining: false };
    let group = TopologyGroup {
        id: GroupId(1),
        range: HashRange::ALL,
        epoch: 1,
        active: true,
        replicas: vec![replica],
    };
    Topology {
        cluster: ClusterId(42),
        version: 1,
        feature_level: 1,
        nodes: vec![node],
        groups: vec![group],
    }
}
