//! Every table and the layout of its keys. Tags are frozen: a retired one stays reserved. Numbers in keys are big
//! endian, so that byte order is number order.

/// A table. The tag is what snapshots carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// log: group, index -> entry.
    RaftLog = 1,
    /// log: group -> vote, purge mark, committed.
    RaftMeta = 2,
    /// state: conversation, seq -> message.
    Messages = 16,
    /// state: conversation -> head.
    Conversations = 17,
    /// state: name -> conversation. Derived from the heads, for listing by prefix.
    Names = 18,
    /// state: conversation, sender, client_msg_id -> what became of it.
    Dedup = 19,
    /// state: conversation, recipient -> watermarks. Reserved: nothing writes it yet.
    Cursors = 20,
    /// state: group -> range, epoch, applied log id, membership.
    Groups = 21,
    /// state: the meta group's nodes and groups.
    Topology = 22,
    // 23 is reserved for a per-group feed of everything.
}

impl Table {
    /// The tables of the log database.
    pub const LOG: &[Table] = &[Table::RaftLog, Table::RaftMeta];
    /// The tables of the state database.
    pub const STATE: &[Table] = &[
        Table::Messages,
        Table::Conversations,
        Table::Names,
        Table::Dedup,
        Table::Cursors,
        Table::Groups,
        Table::Topology,
    ];
    /// The tables whose keys start with a conversation id: what a conversation group owns by range.
    pub const BY_CONVERSATION: &[Table] =
        &[Table::Messages, Table::Conversations, Table::Dedup, Table::Cursors];

    /// The name of the column family.
    pub fn name(self) -> &'static str {
        match self {
            Table::RaftLog => "raft_log",
            Table::RaftMeta => "raft_meta",
            Table::Messages => "messages",
            Table::Conversations => "conversations",
            Table::Names => "names",
            Table::Dedup => "dedup",
            Table::Cursors => "cursors",
            Table::Groups => "groups",
            Table::Topology => "topology",
        }
    }

    /// The table of a tag, if there is one.
    pub fn from_tag(tag: u8) -> Option<Table> {
        Table::LOG.iter().chain(Table::STATE).copied().find(|table| *table as u8 == tag)
    }
}

/// Keys, one function a layout.
pub mod keys {
    use super::super::KeyRange;
    use crate::types::{ConversationId, ConversationName, GroupId, HashRange, LogIndex, Seq};

    /// `raft_log`: group (8), index (8).
    pub fn raft_log(group: GroupId, index: LogIndex) -> Vec<u8> {
        [group.0.to_be_bytes(), index.0.to_be_bytes()].concat()
    }

    /// The index in a key of `raft_log`.
    pub fn raft_log_index(key: &[u8]) -> Option<LogIndex> {
        Some(LogIndex(u64::from_be_bytes(key.get(8..16)?.try_into().ok()?)))
    }

    /// Entries of a group in `[start, end)`; no end means to the last one.
    pub fn raft_log_range(group: GroupId, start: LogIndex, end: Option<LogIndex>) -> KeyRange {
        let end = match end {
            Some(end) => Some(raft_log(group, end)),
            None => group.0.checked_add(1).map(|next| next.to_be_bytes().to_vec()),
        };
        KeyRange { start: raft_log(group, start), end }
    }

    /// `raft_meta`: group (8), field (1).
    pub fn raft_meta(group: GroupId, field: RaftMetaField) -> Vec<u8> {
        let mut key = group.0.to_be_bytes().to_vec();
        key.push(field as u8);
        key
    }

    /// What `raft_meta` holds for a group.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub enum RaftMetaField {
        /// The vote.
        Vote = 1,
        /// The log id up to which the log was purged.
        Purged = 2,
        /// A recent committed log id; may lag.
        Committed = 3,
    }

    /// `messages`: conversation (16), seq (8).
    pub fn message(conversation: ConversationId, seq: Seq) -> Vec<u8> {
        let mut key = Vec::with_capacity(24);
        key.extend_from_slice(&conversation.0);
        key.extend_from_slice(&seq.0.to_be_bytes());
        key
    }

    /// Messages of a conversation in `[start, end)`.
    pub fn message_range(conversation: ConversationId, start: Seq, end: Seq) -> KeyRange {
        KeyRange { start: message(conversation, start), end: Some(message(conversation, end)) }
    }

    /// `conversations`: conversation (16).
    pub fn conversation(conversation: ConversationId) -> Vec<u8> {
        conversation.0.to_vec()
    }

    /// `names`: the name's bytes.
    pub fn name<Text: AsRef<str>>(name: &ConversationName<Text>) -> Vec<u8> {
        name.as_str().as_bytes().to_vec()
    }

    /// `dedup`: conversation (16), length of sender (2), sender, client_msg_id.
    pub fn dedup(conversation: ConversationId, sender: &str, client_msg_id: &str) -> Vec<u8> {
        let mut key = Vec::with_capacity(18 + sender.len() + client_msg_id.len());
        key.extend_from_slice(&conversation.0);
        key.extend_from_slice(&(sender.len() as u16).to_be_bytes());
        key.extend_from_slice(sender.as_bytes());
        key.extend_from_slice(client_msg_id.as_bytes());
        key
    }

    /// `groups`: group (8).
    pub fn group(group: GroupId) -> Vec<u8> {
        group.0.to_be_bytes().to_vec()
    }

    /// `topology`: one row. The whole topology is small (99 nodes, 1,024 groups) and changes rarely.
    pub fn topology() -> Vec<u8> {
        b"topology".to_vec()
    }

    /// The keys of a range of conversations, in each table of `Table::BY_CONVERSATION`.
    pub fn conversations_in(range: HashRange) -> KeyRange {
        KeyRange {
            start: range.start.0.to_be_bytes().to_vec(),
            end: range.end.map(|end| end.0.to_be_bytes().to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::keys::RaftMetaField;
    use super::*;
    use crate::types::{
        ConversationId, ConversationName, GroupId, HashRange, LogIndex, PlacementHash, Seq,
    };

    const GROUP: GroupId = GroupId(0x0102_0304_0506_0708);
    const CONVERSATION: ConversationId = ConversationId([0xaa; 16]);

    #[track_caller]
    fn golden(key: &[u8], expected: &str) {
        assert_eq!(hex::encode(key), expected);
    }

    #[test]
    fn tags_and_names_are_frozen() {
        let tables = Table::LOG.iter().chain(Table::STATE);
        let found: Vec<_> = tables.map(|table| (*table as u8, table.name())).collect();
        let frozen = [
            (1, "raft_log"),
            (2, "raft_meta"),
            (16, "messages"),
            (17, "conversations"),
            (18, "names"),
            (19, "dedup"),
            (20, "cursors"),
            (21, "groups"),
            (22, "topology"),
        ];
        assert_eq!(found, frozen);
        assert!(frozen.iter().all(|(tag, name)| Table::from_tag(*tag).unwrap().name() == *name));
        assert_eq!(Table::from_tag(23), None);
    }

    #[test]
    fn keys_of_the_log_have_their_golden_bytes() {
        golden(&keys::raft_log(GROUP, LogIndex(9)), "01020304050607080000000000000009");
        let fields = [RaftMetaField::Vote, RaftMetaField::Purged, RaftMetaField::Committed];
        for (field, tag) in fields.into_iter().zip(1_u8..) {
            golden(&keys::raft_meta(GROUP, field), &format!("0102030405060708{tag:02x}"));
        }
    }

    #[test]
    fn keys_of_the_state_have_their_golden_bytes() {
        let id = "aa".repeat(16);
        golden(&keys::message(CONVERSATION, Seq(258)), &format!("{id}0000000000000102"));
        golden(&keys::conversation(CONVERSATION), &id);
        golden(&keys::name(&ConversationName("room".to_owned())), "726f6f6d");
        golden(&keys::dedup(CONVERSATION, "al", "i"), &format!("{id}0002616c69"));
        golden(&keys::group(GROUP), "0102030405060708");
        golden(&keys::topology(), "746f706f6c6f6779");
        let range = HashRange { start: PlacementHash(1), end: Some(PlacementHash(2)) };
        let range = keys::conversations_in(range);
        golden(&range.start, "0000000000000001");
        golden(&range.end.unwrap(), "0000000000000002");
    }
}
