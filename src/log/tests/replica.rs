//! One group's state in memory, changed through `apply` as the shell does it.

use bytes::Bytes;

use super::memory::MemoryView;
use crate::log::invariants::{self, Report};
use crate::log::{
    Append, Applied, ApplyError, Command, GroupState, NewMessage, Outcome, Proposal, ProposalRef,
    apply,
};
use crate::storage::records::{GroupRow, Kind, Record};
use crate::storage::{Overlay, Table, keys};
use crate::types::{
    ConversationName, GroupId, HashRange, Incarnation, NodeId, ReplicaId, Timestamp,
};

pub const MINUTE: u64 = 60 * 1_000_000;

pub fn minutes(count: u64) -> Timestamp {
    Timestamp(count * MINUTE)
}

pub fn name(text: &str) -> ConversationName {
    ConversationName(text.to_owned())
}

/// A message of content issued at minute 10, salted with its id.
pub fn text_message(client_msg_id: &str, text: &str) -> NewMessage {
    let mut salt = [0; 16];
    for (to, from) in salt.iter_mut().zip(client_msg_id.bytes()) {
        *to = from;
    }
    NewMessage {
        client_msg_id: client_msg_id.to_owned(),
        issued_at: minutes(10),
        kind: Kind::Content,
        content_type: "text/plain".to_owned(),
        headers: Vec::new(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        payload_crc32c: crc32c::crc32c(text.as_bytes()),
        target_seq: None,
        traceparent: String::new(),
        salt,
    }
}

pub fn append_of(conversation: &str, sender: &str, messages: Vec<NewMessage>) -> Append {
    Append {
        conversation: name(conversation),
        sender: sender.to_owned(),
        messages,
        expected_tail: None,
        lane: None,
    }
}

pub struct Replica {
    pub view: MemoryView,
    pub group: GroupState,
}

impl Replica {
    pub fn blank(id: GroupId) -> Replica {
        let group = GroupState { id, range: None, epoch: 0, dedup_floor: Timestamp(0) };
        Replica { view: MemoryView::default(), group }
    }

    /// Group 1, which holds everything.
    pub fn of_everything() -> Replica {
        let mut replica = Replica::blank(GroupId(1));
        let configure = Command::Configure { range: HashRange::ALL, epoch: 1 };
        replica.apply(Timestamp(0), &configure);
        replica
    }

    pub fn apply(&mut self, stamped_at: Timestamp, command: &Command) -> Applied {
        self.apply_all(&[(stamped_at, command.clone())]).remove(0)
    }

    /// Applies commands over one overlay and writes what changed.
    pub fn apply_all(&mut self, commands: &[(Timestamp, Command)]) -> Vec<Applied> {
        self.try_all(commands).expect("the state is sound")
    }

    /// The same, of a state that may be unsound. Each command goes through an entry, as it would to be applied.
    pub fn try_all(
        &mut self,
        commands: &[(Timestamp, Command)],
    ) -> Result<Vec<Applied>, ApplyError> {
        let mut overlay = Overlay::new(&self.view);
        let mut all = Vec::new();
        for (stamped_at, command) in commands {
            let proposal = Proposal { stamped_at: *stamped_at, commands: vec![command.clone()] };
            let entry = proposal.encode();
            let ProposalRef { stamped_at, commands } = Proposal::decode(&entry).expect("its form");
            all.push(apply(&mut overlay, &mut self.group, stamped_at, &commands[0])?);
        }
        let batch = overlay.into_batch();
        self.view.write(batch);
        self.store_group();
        Ok(all)
    }

    pub fn append(&mut self, stamped_at: Timestamp, request: Append) -> Outcome {
        self.apply(stamped_at, &Command::Append(request)).outcome
    }

    pub fn check(&self) -> Report {
        invariants::check(&self.view, &mut |_| ())
    }

    pub fn put_record<R: Record>(&mut self, key: Vec<u8>, record: &R) {
        let value = record.encode(&key);
        self.view.put(R::TABLE, key, value);
    }

    pub fn store_group(&mut self) {
        let key = keys::group(self.group.id);
        let mut row = GroupRow::blank(ReplicaId { node: NodeId(1), incarnation: Incarnation(1) });
        self.group.store_in(&mut row);
        assert_eq!(GroupState::of(self.group.id, &row), self.group);
        let value = row.encode(&key);
        self.view.put(Table::Groups, key, value);
    }
}
