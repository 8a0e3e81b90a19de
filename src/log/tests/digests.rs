//! The digest chain: golden digests, and that nothing can change without changing it.

use bytes::Bytes;

use super::replica::name;
use crate::log::dedup::Content;
use crate::log::digest::{genesis, headers_commitment, leaf, payload_commitment};
use crate::storage::records::{Kind, MessageRecord};
use crate::types::{ConversationId, Seq, Timestamp};

fn record() -> MessageRecord {
    MessageRecord {
        seq: Seq(7),
        kind: Kind::Replacement,
        sender: "alice".to_owned(),
        client_msg_id: "id-1".to_owned(),
        issued_at: Timestamp(1_000_001),
        commit_time: Timestamp(1_000_002),
        content_type: "text/plain".to_owned(),
        headers: vec![("lang".to_owned(), Bytes::from_static(b"de"))],
        payload: Bytes::from_static(b"Guten Morgen"),
        payload_crc32c: 0x1234_5678,
        target_seq: Some(Seq(3)),
        traceparent: "00-trace".to_owned(),
        unread_ordinal: 5,
        salt: [9; 16],
        digest: [0; 32],
    }
}

fn leaf_of(record: &MessageRecord) -> String {
    let name = name("acme/room-42");
    hex::encode(leaf(&genesis(&name, 0), name.id(), 0, record))
}

/// Computed by a program of its own from the documentation of `log::digest`, with another binding of BLAKE3.
#[test]
fn golden_digests() {
    assert_eq!(hex::encode(genesis(&name("acme/room-42"), 0)), GENESIS);
    assert_eq!(hex::encode(genesis(&name("acme/room-42"), 1)), GENESIS_OF_SECOND_GENERATION);
    let record = record();
    assert_eq!(hex::encode(headers_commitment(&record.salt, &record.headers)), HEADERS);
    assert_eq!(hex::encode(payload_commitment(&record.salt, &record.payload)), PAYLOAD);
    assert_eq!(leaf_of(&record), LEAF);
    let payload = payload_commitment(&record.salt, &record.payload);
    let content = Content::from(&record).identity(record.salt, &payload);
    assert_eq!((content.salt, hex::encode(content.hash).as_str()), (record.salt, CONTENT));
}

#[test]
fn every_field_of_the_message_is_covered() {
    let changes: Vec<fn(&mut MessageRecord)> = vec![
        |record| record.seq = Seq(8),
        |record| record.kind = Kind::Content,
        |record| record.kind = Kind::System,
        |record| record.kind = Kind::Redaction,
        |record| record.sender.push('!'),
        |record| record.client_msg_id.push('!'),
        |record| record.issued_at.0 += 1,
        |record| record.commit_time.0 += 1,
        |record| record.content_type.clear(),
        |record| record.headers.clear(),
        |record| record.headers[0].0 = "lan".to_owned(),
        |record| record.headers[0].1 = Bytes::from_static(b"en"),
        |record| record.payload = Bytes::from_static(b"Guten Morgen!"),
        |record| record.target_seq = Some(Seq(4)),
        |record| record.target_seq = None,
        |record| record.traceparent.clear(),
        |record| record.unread_ordinal += 1,
        |record| record.salt[15] ^= 1,
        // The end of one field is not the start of the next.
        |record| {
            record.sender = "alicei".to_owned();
            record.client_msg_id = "d-1".to_owned();
        },
    ];
    let mut seen = vec![leaf_of(&record())];
    for (place, change) in changes.into_iter().enumerate() {
        let mut changed = record();
        change(&mut changed);
        let digest = leaf_of(&changed);
        assert!(!seen.contains(&digest), "change {place} is not covered");
        seen.push(digest);
    }
}

#[test]
fn where_the_message_stands_is_covered() {
    let room = name("acme/room-42");
    let start = genesis(&room, 0);
    let elsewhere = ConversationId([1; 16]);
    let digests = [
        leaf(&start, room.id(), 0, &record()),
        leaf(&start, room.id(), 1, &record()),
        leaf(&start, elsewhere, 0, &record()),
        leaf(&genesis(&room, 1), room.id(), 0, &record()),
    ];
    for (place, digest) in digests.iter().enumerate() {
        assert!(!digests[..place].contains(digest), "digest {place} repeats an earlier one");
    }
}

/// What a redaction keeps must not change when what it erases does: the leaf looks at neither the payload's CRC nor
/// the digest in the record.
#[test]
fn what_is_not_covered_is_not_covered() {
    let mut changed = record();
    changed.payload_crc32c ^= 1;
    changed.digest = [1; 32];
    assert_eq!(leaf_of(&changed), leaf_of(&record()));
}

const GENESIS: &str = "a730eacd2f0021cb68e5a03967233b04c0967fcdd7ead6921aa42d0b3e6e7288";
const GENESIS_OF_SECOND_GENERATION: &str =
    "af61dd2da7d87d2295d11b97ca6746ebd925c4c5e476f6cf3087f220120dd4dc";
const HEADERS: &str = "4fe26bf75ec7248ffc6be6843d844dcc57a0899ea300053e7cacf68109e2e9e3";
const PAYLOAD: &str = "efe6a62f06197ed721da41f7bddb926431739866a3aad096e505b123a6bebd23";
const LEAF: &str = "b4701c452ff634ced8eb9a463dbd8b38bbec1e37d053c0b18026aeaf6ae7d046";
const CONTENT: &str = "534d2d41760c8425aabc2d59a9b34afc";
