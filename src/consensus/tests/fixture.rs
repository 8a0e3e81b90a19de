//! States made by the real state machine, and a group that leads itself.

use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::Group;
use crate::consensus::solitary::Process;
use crate::log::{
    self, Append, Command, GroupState, NewMessage, Proposal, ProposalRef, invariants,
};
use crate::storage::records::{GroupRow, Kind, LogId, Record};
use crate::storage::{Direction, Durability, Engine, KeyRange, Overlay, Table, View, keys};
use crate::types::{
    ConversationName, GroupId, HashRange, Incarnation, LogIndex, NodeId, PlacementHash, ReplicaId,
    Term, Timestamp,
};

pub use crate::consensus::solitary::EVENTUALLY;

pub const GROUP: GroupId = GroupId(1);
pub const NEIGHBOUR: GroupId = GroupId(2);

/// The lower half of the hashes for `GROUP`, the upper one for its neighbour.
pub fn range_of(group: GroupId) -> HashRange {
    let middle = PlacementHash(1 << 63);
    match group {
        GROUP => HashRange { start: PlacementHash(0), end: Some(middle) },
        _ => HashRange { start: middle, end: None },
    }
}

pub fn replica(node: u32, incarnation: u32) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: Incarnation(incarnation) }
}

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), leader: replica(1, 1), index: LogIndex(index) }
}

/// The first names with this prefix that the group holds.
pub fn names(group: GroupId, prefix: &str, count: usize) -> Vec<ConversationName> {
    let all = (0..).map(|number| ConversationName(format!("{prefix}/{number}")));
    all.filter(|name| range_of(group).contains(name.id().placement())).take(count).collect()
}

fn message(number: usize) -> NewMessage {
    // Large enough for a blob, and not to be compressed away.
    let mut payload = vec![0; 2_000];
    blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof().fill(&mut payload);
    NewMessage {
        client_msg_id: format!("message-{number}"),
        issued_at: Timestamp(1_000_000),
        kind: Kind::Content,
        content_type: "text/plain".to_owned(),
        headers: Vec::new(),
        payload_crc32c: crc32c::crc32c(&payload),
        payload: Bytes::from(payload),
        target_seq: None,
        traceparent: String::new(),
        salt: [7; 16],
    }
}

/// Appends this many messages, the same ones each time.
pub fn append_to(conversation: &ConversationName, messages: usize) -> Command {
    Command::Append(Append {
        conversation: conversation.clone(),
        sender: "alice".to_owned(),
        messages: (0..messages).map(message).collect(),
        expected_tail: None,
        lane: None,
    })
}

/// What the group's replica has on disk once it has applied this: its range, and `messages` in each conversation.
pub fn fill(
    engine: &dyn Engine,
    group: GroupId,
    replica: ReplicaId,
    conversations: &[ConversationName],
    messages: usize,
    applied: LogId,
) {
    let mut row = GroupRow { applied: Some(applied), ..GroupRow::blank(replica) };
    let mut state = GroupState::of(group, &row);
    let mut overlay = Overlay::new(engine);
    let configure = Command::Configure { range: range_of(group), epoch: 1 };
    let appends = conversations.iter().map(|conversation| append_to(conversation, messages));
    let commands = [configure].into_iter().chain(appends).collect();
    let entry = Proposal { stamped_at: Timestamp(2_000_000), commands }.encode();
    let ProposalRef { stamped_at, commands } = Proposal::decode(&entry).unwrap();
    for command in &commands {
        let applied = log::apply(&mut overlay, &mut state, stamped_at, command).unwrap();
        let grows = matches!(command, Command::Append(_));
        assert_eq!(applied.tail_moved.is_some(), grows, "{:?}", applied.outcome);
    }
    state.store_in(&mut row);
    let key = keys::group(group);
    overlay.put(Table::Groups, key.clone(), row.encode(&key));
    engine.write(overlay.into_batch(), Durability::Flushed).unwrap();
    engine.flush().unwrap();
}

pub type Row = (Table, Bytes, Bytes);

/// Every row of the state database.
pub fn rows(view: &dyn View) -> Vec<Row> {
    let mut found = Vec::new();
    for table in Table::STATE {
        let whole = KeyRange { start: Vec::new(), end: None };
        for row in view.scan(*table, whole, Direction::Forward) {
            let (key, value) = row.unwrap();
            found.push((*table, key, value));
        }
    }
    found
}

#[track_caller]
pub fn assert_sound(view: &dyn View) {
    let report = invariants::check(view, &mut |_| ());
    assert!(report.is_clean(), "{:?}", report.violations);
}

/// A group that this node's replica alone makes up, and leads, with its range.
pub async fn leading(process: &Process, own: ReplicaId) -> Arc<Group> {
    process.leading(GROUP, own, range_of(GROUP)).await
}
