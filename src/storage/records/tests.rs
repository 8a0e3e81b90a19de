//! The stored form of each record: golden bytes, round trips, and damage.

use std::fmt::Debug;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::types::{HashRange, Incarnation, NodeId, PlacementHash};

const KEY: &[u8] = b"key";

fn replica(node: u32) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: Incarnation(2) }
}

fn log_id() -> LogId {
    LogId { term: Term(3), leader: replica(1), index: LogIndex(300) }
}

fn message() -> MessageRecord {
    MessageRecord {
        seq: Seq(7),
        kind: Kind::Replacement,
        sender: "alice".to_owned(),
        client_msg_id: "id".to_owned(),
        issued_at: Timestamp(1),
        commit_time: Timestamp(300),
        content_type: "text/plain".to_owned(),
        headers: vec![("h".to_owned(), Bytes::from_static(&[1, 2]))],
        payload: Bytes::from_static(b"hello"),
        payload_crc32c: 0x0102_0304,
        target_seq: Some(Seq(3)),
        traceparent: "tp".to_owned(),
        unread_ordinal: 4,
        salt: [0xaa; 16],
        digest: [0xbb; 32],
    }
}

fn head() -> ConversationHead {
    ConversationHead {
        name: ConversationName("room".to_owned()),
        generation: 1,
        first_seq: Seq(2),
        tail: Seq(300),
        bytes: 5,
        last_commit_time: Timestamp(6),
        digest: [0xcc; 32],
        base_digest: [0xdd; 32],
        unread_total: 7,
    }
}

fn committed() -> DedupRow {
    committed_with(Some(ContentIdentity { salt: [0xdd; 16], hash: [0xee; 16] }))
}

fn committed_with(content: Option<ContentIdentity>) -> DedupRow {
    let outcome = DedupOutcome::Committed {
        seq: Seq(2),
        commit_time: Timestamp(3),
        content,
        attempt: Some(AttemptId(300)),
    };
    DedupRow { issued_at: Timestamp(1), outcome }
}

fn group() -> GroupRow {
    GroupRow {
        replica: replica(1),
        applied: Some(log_id()),
        membership: MembershipRecord {
            log_id: Some(log_id()),
            configs: vec![vec![replica(1)], vec![replica(2)]],
            replicas: vec![replica(1), replica(2), replica(3)],
        },
        range: Some(HashRange { start: PlacementHash(1), end: Some(PlacementHash(2)) }),
        epoch: 9,
        dedup_floor: Timestamp(10),
        installing: Some("staged".to_owned()),
    }
}

fn entry(payload: EntryPayload) -> EntryRecord {
    EntryRecord { log_id: log_id(), payload }
}

/// Compares with the golden bytes and reads those back.
#[track_caller]
fn golden<R: OwnedRecord + Debug + PartialEq>(record: &R, expected: &str) {
    assert_eq!(hex::encode(record.encode(KEY)), expected, "{record:?}");
    assert_eq!(R::decode(KEY, &record.encode(KEY)).unwrap(), *record);
}

#[test]
fn messages_have_their_golden_bytes() {
    golden(
        &message(),
        "01070205616c69636502696401ac020a746578742f706c61696e0101680201020568656c6c6f84868808\
         010302747004aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\
         bbbbbbbbbbbbbbbbbbbbbbbb916f5813",
    );
}

#[test]
fn kinds_have_their_golden_bytes() {
    let kinds = [Kind::Content, Kind::Redaction, Kind::Replacement, Kind::System];
    assert_eq!(kinds.map(|kind| postcard::to_allocvec(&kind).unwrap()), [[0], [1], [2], [3]]);
}

#[test]
fn heads_have_their_golden_bytes() {
    golden(
        &head(),
        "0104726f6f6d0102ac020506cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\
         ccccdddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd07b7ce13ce",
    );
}

#[test]
fn names_have_their_golden_bytes() {
    golden(&NameRow(ConversationId([0x11; 16])), "01111111111111111111111111111111111d0e932d");
}

#[test]
fn dedup_rows_have_their_golden_bytes() {
    golden(
        &committed(),
        "010100020301ddddddddddddddddddddddddddddddddeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee01ac02d6e079\
         bc",
    );
    golden(&committed_with(None), "01010002030001ac02143925b7");
    golden(&DedupRow { issued_at: Timestamp(1), outcome: DedupOutcome::Burnt }, "010101c956a386");
}

#[test]
fn group_rows_have_their_golden_bytes() {
    golden(
        &group(),
        "01010201030102ac0201030102ac02020101020102020301020202030201010102090a01067374616765\
         643998416e",
    );
    golden(&GroupRow::blank(replica(1)), "0101020000000000000000a0250e70");
}

#[test]
fn votes_and_log_ids_have_their_golden_bytes() {
    golden(
        &VoteRecord { term: Term(3), candidate: replica(1), committed: true },
        "0103010201143bce66",
    );
    golden(&LogIdRecord(log_id()), "01030102ac02059e9020");
}

#[test]
fn entries_have_their_golden_bytes() {
    golden(&entry(EntryPayload::Blank), "01030102ac0200d3d7ac67");
    golden(
        &entry(EntryPayload::Commands(Bytes::from_static(b"abc"))),
        "01030102ac0201036162632c3df19c",
    );
    let configs = vec![vec![replica(1)]];
    golden(
        &entry(EntryPayload::Membership { configs, replicas: vec![replica(1)] }),
        "01030102ac0202010101020101027361beb4",
    );
}

#[test]
fn an_entry_is_kept_under_its_index() {
    let key = entry_key(GroupId(4), &entry(EntryPayload::Blank));
    assert_eq!(hex::encode(&key), "0000000000000004000000000000012c");
}

fn damaged<R: Debug>(decoded: Result<R, StorageError>) -> bool {
    matches!(decoded, Err(StorageError::Damaged { .. }))
}

#[test]
fn any_flipped_bit_is_noticed() {
    let value = message().encode(KEY);
    for place in 0..value.len() * 8 {
        let mut flipped = value.clone();
        flipped[place / 8] ^= 1 << (place % 8);
        assert!(damaged(<MessageRecord>::decode(KEY, &flipped)), "bit {place}");
    }
}

#[test]
fn any_shortened_value_is_noticed() {
    let value = message().encode(KEY);
    for length in 0..value.len() {
        assert!(damaged(<MessageRecord>::decode(KEY, &value[..length])), "{length} bytes");
    }
}

#[test]
fn a_value_under_anothers_key_is_noticed() {
    assert!(damaged(<MessageRecord>::decode(b"kez", &message().encode(KEY))));
}

/// Sealed with a right checksum.
fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(KEY), &body);
    body.extend_from_slice(&checksum.to_le_bytes());
    body
}

#[test]
fn a_newer_version_is_told_from_damage() {
    match VoteRecord::decode(KEY, &sealed(vec![2, 3, 1, 2, 1])) {
        Err(StorageError::Newer { what: "vote", found: 2, known: 1 }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_body_that_is_no_record_is_damage() {
    assert!(damaged(VoteRecord::decode(KEY, &sealed(vec![1, 3, 1, 2, 7]))));
    assert!(damaged(VoteRecord::decode(KEY, &sealed(vec![1, 3]))));
}

#[test]
fn content_bytes_are_those_of_headers_and_payload() {
    assert_eq!(message().content_bytes(), 1 + 2 + 5);
}

fn any_replica() -> impl Strategy<Value = ReplicaId> {
    any::<(u32, u32)>().prop_map(|(node, incarnation)| ReplicaId {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
    })
}

fn any_log_id() -> impl Strategy<Value = LogId> {
    (any::<(u64, u64)>(), any_replica()).prop_map(|((term, index), leader)| LogId {
        term: Term(term),
        leader,
        index: LogIndex(index),
    })
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

prop_compose! {
    fn any_message()(
        numbers in any::<[u64; 4]>(),
        kind in prop::sample::select(&[Kind::Content, Kind::Redaction, Kind::Replacement, Kind::System][..]),
        texts in any::<[String; 4]>(),
        headers in prop::collection::vec((any::<String>(), any_bytes()), 0..4),
        payload in any_bytes(),
        payload_crc32c in any::<u32>(),
        target_seq in any::<Option<u64>>(),
        salt in any::<[u8; 16]>(),
        digest in any::<[u8; 32]>(),
    ) -> MessageRecord {
        let [sender, client_msg_id, content_type, traceparent] = texts;
        MessageRecord {
            seq: Seq(numbers[0]),
            kind,
            sender,
            client_msg_id,
            issued_at: Timestamp(numbers[1]),
            commit_time: Timestamp(numbers[2]),
            content_type,
            headers,
            payload,
            payload_crc32c,
            target_seq: target_seq.map(Seq),
            traceparent,
            unread_ordinal: numbers[3],
            salt,
            digest,
        }
    }
}

prop_compose! {
    fn any_head()(
        name in any::<String>(),
        generation in any::<u32>(),
        numbers in any::<[u64; 5]>(),
        digests in any::<[[u8; 32]; 2]>(),
    ) -> ConversationHead {
        ConversationHead {
            name: ConversationName(name),
            generation,
            first_seq: Seq(numbers[0]),
            tail: Seq(numbers[1]),
            bytes: numbers[2],
            last_commit_time: Timestamp(numbers[3]),
            digest: digests[0],
            base_digest: digests[1],
            unread_total: numbers[4],
        }
    }
}

fn any_dedup_row() -> impl Strategy<Value = DedupRow> {
    let identity = |[salt, hash]: [[u8; 16]; 2]| ContentIdentity { salt, hash };
    let content = any::<Option<[[u8; 16]; 2]>>().prop_map(move |two| two.map(identity));
    let committed =
        (any::<(u64, u64, Option<u64>)>(), content).prop_map(|((seq, at, attempt), content)| {
            DedupOutcome::Committed {
                seq: Seq(seq),
                commit_time: Timestamp(at),
                content,
                attempt: attempt.map(AttemptId),
            }
        });
    let outcome = prop_oneof![committed, Just(DedupOutcome::Burnt)];
    (any::<u64>(), outcome)
        .prop_map(|(issued_at, outcome)| DedupRow { issued_at: Timestamp(issued_at), outcome })
}

fn any_replicas() -> impl Strategy<Value = Vec<ReplicaId>> {
    prop::collection::vec(any_replica(), 0..4)
}

prop_compose! {
    fn any_group()(
        replica in any_replica(),
        applied in prop::option::of(any_log_id()),
        membership in (
            prop::option::of(any_log_id()),
            prop::collection::vec(any_replicas(), 0..3),
            any_replicas(),
        ),
        range in any::<Option<(u64, Option<u64>)>>(),
        numbers in any::<[u64; 2]>(),
        installing in any::<Option<String>>(),
    ) -> GroupRow {
        let (log_id, configs, replicas) = membership;
        let range = range.map(|(start, end)| HashRange {
            start: PlacementHash(start),
            end: end.map(PlacementHash),
        });
        GroupRow {
            replica,
            applied,
            membership: MembershipRecord { log_id, configs, replicas },
            range,
            epoch: numbers[0],
            dedup_floor: Timestamp(numbers[1]),
            installing,
        }
    }
}

fn any_entry() -> impl Strategy<Value = EntryRecord> {
    let configs = prop::collection::vec(any_replicas(), 0..3);
    let payload = prop_oneof![
        Just(EntryPayload::Blank),
        any_bytes().prop_map(EntryPayload::Commands),
        (configs, any_replicas())
            .prop_map(|(configs, replicas)| EntryPayload::Membership { configs, replicas }),
    ];
    (any_log_id(), payload).prop_map(|(log_id, payload)| EntryRecord { log_id, payload })
}

fn survives<R>(record: R, key: &[u8]) -> Result<(), TestCaseError>
where
    R: OwnedRecord + Debug + PartialEq,
{
    let decoded = R::decode(key, &record.encode(key));
    let decoded = decoded.map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(decoded, record);
    Ok(())
}

proptest! {
    #[test]
    fn every_record_survives_its_encoding(
        key in prop::collection::vec(any::<u8>(), 0..40),
        message in any_message(),
        head in any_head(),
        name in any::<[u8; 16]>(),
        dedup in any_dedup_row(),
        group in any_group(),
        vote in (any::<u64>(), any_replica(), any::<bool>()),
        log_id in any_log_id(),
        entry in any_entry(),
    ) {
        survives(message, &key)?;
        survives(head, &key)?;
        survives(NameRow(ConversationId(name)), &key)?;
        survives(dedup, &key)?;
        survives(group, &key)?;
        let (term, candidate, committed) = vote;
        survives(VoteRecord { term: Term(term), candidate, committed }, &key)?;
        survives(LogIdRecord(log_id), &key)?;
        survives(entry, &key)?;
    }

    /// Bytes from anywhere are refused and never a panic.
    #[test]
    fn no_bytes_make_a_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let value = sealed(body.clone());
        let _ = <MessageRecord>::decode(KEY, &value);
        let _ = GroupRow::decode(KEY, &value);
        let _ = EntryRecord::decode(KEY, &value);
        prop_assert!(body.len() < 4 || damaged(<MessageRecord>::decode(KEY, &body)));
    }
}
