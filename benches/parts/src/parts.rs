use std::hint::black_box;

use quorate::log::{ProposalRef, digest};
use quorate::storage::keys;
use quorate::storage::records::{
    EntryPayload, EntryRecord, LogId, MessageRecord, OwnedRecord, Record,
};
use quorate::types::{GroupId, LogIndex, ReplicaId, Seq, Term};

use crate::appends::{Appends, Lanes};
use crate::replica::Replica;

/// A part, ready to be measured. Each call does the same once.
pub type Work = Box<dyn Fn()>;

/// One of the hot parts.
pub struct Part {
    /// What is done, then with what.
    pub name: &'static str,
    /// Gets everything ready that is not to be measured.
    pub ready: fn() -> Work,
}

/// All of them.
pub const PARTS: &[Part] = &[
    part("apply/1-of-256-B", || apply(1, 1, 256, Lanes::Without)),
    part("apply/1-of-1024-B", || apply(1, 1, 1024, Lanes::Without)),
    part("apply/1-of-256-B-in-a-lane", || apply(1, 1, 256, Lanes::With)),
    part("apply/64-of-256-B", || apply(16, 64, 256, Lanes::Without)),
    part("apply/64-of-1024-B", || apply(16, 64, 1024, Lanes::Without)),
    part("apply/64-of-256-B-in-16-lanes", || apply(16, 64, 256, Lanes::With)),
    part("apply/64-of-256-B-in-a-lane", || apply(1, 64, 256, Lanes::With)),
    part("encode/proposal-of-1", || encode_proposal(1)),
    part("encode/proposal-of-64", || encode_proposal(64)),
    part("decode/proposal-of-1", || decode_proposal(1)),
    part("decode/proposal-of-64", || decode_proposal(64)),
    part("encode/message-of-256-B", || encode(appends(256).record())),
    part("encode/message-of-1024-B", || encode(appends(1024).record())),
    part("decode/message-of-256-B", || decode(appends(256).record())),
    part("decode/message-of-1024-B", || decode(appends(1024).record())),
    part("encode/head", || encode(appends(256).head())),
    part("decode/head", || decode(appends(256).head())),
    part("encode/dedup-row", || encode(appends(256).dedup_row())),
    part("decode/dedup-row", || decode(appends(256).dedup_row())),
    part("encode/group-row", || encode(appends(256).group_row())),
    part("encode/raft-entry-of-16", || encode(raft_entry())),
    part("decode/raft-entry-of-16", || decode(raft_entry())),
    part("digest/leaf-of-256-B", || digest_leaf(256)),
    part("digest/leaf-of-1024-B", || digest_leaf(1024)),
    part("keys/of-an-append", keys_of_an_append),
];

const fn part(name: &'static str, ready: fn() -> Work) -> Part {
    Part { name, ready }
}

/// Messages that each conversation has before an entry is applied.
const HISTORY: usize = 16;

/// An entry up to the write.
fn apply(conversations: usize, commands: usize, payload_bytes: usize, lanes: Lanes) -> Work {
    let mut appends = Appends::new(conversations, payload_bytes, lanes);
    let mut replica = Replica::blank();
    for _ in 0..HISTORY {
        replica.write(&appends.proposal(conversations).encode());
    }
    let entry = appends.proposal(commands).encode();
    Box::new(move || drop(black_box(replica.try_out(black_box(&entry)))))
}

fn encode_proposal(commands: usize) -> Work {
    let proposal = appends(256).proposal(commands);
    Box::new(move || drop(black_box(black_box(&proposal).encode())))
}

fn decode_proposal(commands: usize) -> Work {
    let encoded = appends(256).proposal(commands).encode();
    Box::new(move || drop(black_box(ProposalRef::decode(black_box(&encoded)))))
}

/// As long as the key of a message, and allocated like one: what a checksum costs depends on where its bytes begin.
fn key() -> Vec<u8> {
    vec![0x5a; 24]
}

fn encode<R: Record + 'static>(record: R) -> Work {
    let key = key();
    Box::new(move || drop(black_box(black_box(&record).encode(black_box(&key)))))
}

fn decode<R: OwnedRecord + 'static>(record: R) -> Work {
    let key = key();
    let encoded = record.encode(&key);
    Box::new(move || drop(black_box(R::decode(black_box(&key), black_box(&encoded)))))
}

fn appends(payload_bytes: usize) -> Appends {
    Appends::new(16, payload_bytes, Lanes::With)
}

fn raft_entry() -> EntryRecord {
    let log_id = LogId { term: Term(7), leader: ReplicaId::default(), index: LogIndex(1_000_000) };
    EntryRecord { log_id, payload: EntryPayload::Commands(appends(256).proposal(16).encode()) }
}

fn digest_leaf(payload_bytes: usize) -> Work {
    let appends = appends(payload_bytes);
    let (conversation, record) = (appends.conversation().id(), appends.record());
    Box::new(move || {
        black_box(digest::leaf(black_box(&record.digest), conversation, 0, black_box(&record)));
    })
}

/// Of the rows that an append reads and writes.
fn keys_of_an_append() -> Work {
    let appends = appends(256);
    let MessageRecord { sender, client_msg_id, .. } = appends.record();
    Box::new(move || {
        let conversation = black_box(appends.conversation()).id();
        black_box(keys::conversation(conversation));
        black_box(keys::message(conversation, black_box(Seq(70_000))));
        black_box(keys::dedup(conversation, black_box(&sender), black_box(&client_msg_id)));
        black_box(keys::group(black_box(GroupId(1))));
    })
}
