//! What every index means: entries and states that depend on nothing else, so that child and judge agree on them.

use bytes::Bytes;
use quorate::log::{self, Append, Command, GroupState, NewMessage, Proposal, ProposalRef};
use quorate::storage::records::{
    EntryPayload, EntryRecord, GroupRow, Kind, LogId, Record, VoteRecord, entry_key,
};
use quorate::storage::{Batch, Durability, Engine, Overlay, StorageError, Table, keys};
use quorate::types::{
    ConversationName, GroupId, HashRange, Incarnation, LogIndex, NodeId, PlacementHash, ReplicaId,
    Term, Timestamp,
};

pub const OWN: ReplicaId = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
/// Conversations of each group.
const CONVERSATIONS: usize = 3;

fn range_of(group: u64) -> HashRange {
    let start = PlacementHash((group - 1) << 62);
    HashRange { start, end: (group < 3).then_some(PlacementHash(group << 62)) }
}

pub fn log_id(index: u64, term: u64) -> LogId {
    LogId { term: Term(term), leader: OWN, index: LogIndex(index) }
}

pub fn vote(term: u64) -> VoteRecord {
    VoteRecord { term: Term(term), candidate: OWN, committed: true }
}

/// Bytes that do not compress, so that files grow.
fn noise(group: u64, index: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&group.to_be_bytes()).update(&index.to_be_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes.into()
}

pub fn entry(group: u64, index: u64, term: u64) -> EntryRecord {
    let length = 500 + 997 * (index as usize % 7);
    let payload = EntryPayload::Commands(noise(group, index, length));
    EntryRecord { log_id: log_id(index, term), payload }
}

pub fn encoded_entry(group: u64, index: u64, term: u64) -> Vec<u8> {
    let record = entry(group, index, term);
    record.encode(&entry_key(GroupId(group), &record))
}

/// What the entry at an index does when it is applied.
fn command(group: u64, index: u64) -> Command {
    if index == 0 {
        return Command::Configure { range: range_of(group), epoch: 1 };
    }
    let names = (0..).map(|number| ConversationName(format!("room/{number}")));
    let mut names = names.filter(|name| range_of(group).contains(name.id().placement()));
    let conversation = names.nth(index as usize % CONVERSATIONS).expect("names without end");
    let payload = noise(group, index, if index.is_multiple_of(2) { 300 } else { 2_000 });
    Command::Append(Append {
        conversation,
        sender: "ann".to_owned(),
        messages: vec![NewMessage {
            client_msg_id: format!("message-{index}"),
            issued_at: Timestamp(1_000_000),
            kind: Kind::Content,
            content_type: "text/plain".to_owned(),
            headers: Vec::new(),
            payload_crc32c: crc32c::crc32c(&payload),
            payload,
            target_seq: None,
            traceparent: String::new(),
            salt: [7; 16],
        }],
        expected_tail: None,
        lane: None,
    })
}

pub fn stored_row(engine: &dyn Engine, group: u64) -> Option<GroupRow> {
    let key = keys::group(GroupId(group));
    let value = engine.get(Table::Groups, &key).unwrap()?;
    Some(GroupRow::decode(&key, &value).unwrap())
}

pub fn write_blank_row(engine: &dyn Engine, group: u64) -> Result<(), StorageError> {
    let key = keys::group(GroupId(group));
    let mut batch = Batch::default();
    batch.put(Table::Groups, key.clone(), GroupRow::blank(OWN).encode(&key));
    engine.write(batch, Durability::Flushed)
}

/// Applies what lies between the row and this index, in one write, as a replica does.
pub fn apply_up_to(engine: &dyn Engine, group: u64, upto: u64) -> Result<(), StorageError> {
    let mut row = stored_row(engine, group).expect("the group was made");
    let from = row.applied.map_or(0, |applied| applied.index.0 + 1);
    let mut state = GroupState::of(GroupId(group), &row);
    let mut overlay = Overlay::new(engine);
    for index in from..=upto {
        let commands = vec![command(group, index)];
        let entry = Proposal { stamped_at: Timestamp(2_000_000), commands }.encode();
        let ProposalRef { stamped_at, commands } = Proposal::decode(&entry).unwrap();
        log::apply(&mut overlay, &mut state, stamped_at, &commands[0]).unwrap();
        row.applied = Some(log_id(index, 1));
    }
    state.store_in(&mut row);
    let key = keys::group(GroupId(group));
    overlay.put(Table::Groups, key.clone(), row.encode(&key));
    engine.write(overlay.into_batch(), Durability::Flushed)
}
