use bytes::Bytes;
use quorate::log::{Append, Command, IdKey, LanePlace, NewMessage, Predecessor, Proposal};
use quorate::storage::records::{
    ContentIdentity, ConversationHead, DedupOutcome, DedupRow, GroupRow, Kind, LogId,
    MembershipRecord, MessageRecord,
};
use quorate::types::{
    AttemptId, ConversationName, HashRange, Incarnation, LogIndex, NodeId, ReplicaId, Seq, Term,
    Timestamp,
};

/// Whether appends name the one before them in their conversation, as on a session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lanes {
    /// Unary appends.
    Without,
    /// Each is let in only if the one before it was accepted.
    With,
}

/// Appends of one message each, to conversations in turn, without an end. Ids look like those that clients make.
pub struct Appends {
    conversations: Vec<ConversationName>,
    payload: Bytes,
    lanes: Lanes,
    next: u64,
}

const STAMPED_AT: Timestamp = Timestamp(1_764_340_800_000_000);
const SENDER: &str = "user-48213@acme.example";

impl Appends {
    /// The first of them will be message 0.
    pub fn new(conversations: usize, payload_bytes: usize, lanes: Lanes) -> Appends {
        let name = |number| ConversationName(format!("acme/support/room-{number:06}"));
        Appends {
            conversations: (0..conversations).map(name).collect(),
            payload: (0..payload_bytes).map(|place| (place * 31) as u8).collect(),
            lanes,
            next: 0,
        }
    }

    /// The first conversation.
    pub fn conversation(&self) -> &ConversationName {
        &self.conversations[0]
    }

    /// The id of an append.
    fn client_msg_id(number: u64) -> String {
        format!("0193{:04x}-7a1c-7b2e-9f10-{number:012x}", number % 7919)
    }

    /// The next proposal with this many of them.
    pub fn proposal(&mut self, commands: usize) -> Proposal {
        let commands = (0..commands).map(|_| Command::Append(self.append())).collect();
        Proposal { stamped_at: STAMPED_AT, commands }
    }

    fn append(&mut self) -> Append {
        let number = self.next;
        self.next += 1;
        let turns = self.conversations.len() as u64;
        let before = number.checked_sub(turns).map(|number| Predecessor {
            attempt: AttemptId(number),
            last: IdKey {
                sender: SENDER.to_owned(),
                client_msg_id: Appends::client_msg_id(number),
            },
        });
        let lane = LanePlace { attempt: AttemptId(number), predecessor: before };
        Append {
            conversation: self.conversations[(number % turns) as usize].clone(),
            sender: SENDER.to_owned(),
            messages: vec![self.message(number)],
            expected_tail: None,
            lane: Some(lane).filter(|_| self.lanes == Lanes::With),
        }
    }

    fn message(&self, number: u64) -> NewMessage {
        NewMessage {
            client_msg_id: Appends::client_msg_id(number),
            issued_at: STAMPED_AT,
            kind: Kind::Content,
            content_type: "application/octet-stream".to_owned(),
            headers: Vec::new(),
            payload_crc32c: crc32c::crc32c(&self.payload),
            payload: self.payload.clone(),
            target_seq: None,
            traceparent: String::new(),
            salt: [0x5a; 16],
        }
    }

    /// The record that such an append leaves.
    pub fn record(&self) -> MessageRecord {
        MessageRecord {
            seq: Seq(70_000),
            kind: Kind::Content,
            sender: SENDER.to_owned(),
            client_msg_id: Appends::client_msg_id(70_000),
            issued_at: STAMPED_AT,
            commit_time: STAMPED_AT,
            content_type: "application/octet-stream".to_owned(),
            headers: Vec::new(),
            payload_crc32c: crc32c::crc32c(&self.payload),
            payload: self.payload.clone(),
            target_seq: None,
            traceparent: String::new(),
            unread_ordinal: 70_000,
            salt: [0x5a; 16],
            digest: [0xa5; 32],
        }
    }

    /// The head of a conversation with such messages.
    pub fn head(&self) -> ConversationHead {
        ConversationHead {
            name: self.conversation().clone(),
            generation: 0,
            first_seq: Seq::FIRST,
            tail: Seq(70_001),
            bytes: 70_000 * self.payload.len() as u64,
            last_commit_time: STAMPED_AT,
            digest: [0xa5; 32],
            base_digest: [0x77; 32],
            unread_total: 70_000,
        }
    }

    /// The row of such a message's id.
    pub fn dedup_row(&self) -> DedupRow {
        let outcome = DedupOutcome::Committed {
            seq: Seq(70_000),
            commit_time: STAMPED_AT,
            content: Some(ContentIdentity { salt: [0x5a; 16], hash: [0xee; 16] }),
            attempt: Some(AttemptId(70_000)),
        };
        DedupRow { issued_at: STAMPED_AT, outcome }
    }

    /// The row of a group with three voters.
    pub fn group_row(&self) -> GroupRow {
        let replica = |node| ReplicaId { node: NodeId(node), incarnation: Incarnation(1) };
        let log_id = |index| LogId { term: Term(7), leader: replica(1), index: LogIndex(index) };
        let replicas: Vec<ReplicaId> = (1..=3).map(replica).collect();
        GroupRow {
            applied: Some(log_id(1_000_000)),
            membership: MembershipRecord {
                log_id: Some(log_id(1)),
                configs: vec![replicas.clone()],
                replicas,
            },
            range: Some(HashRange::ALL),
            epoch: 1,
            dedup_floor: Timestamp(1),
            ..GroupRow::blank(replica(1))
        }
    }
}
