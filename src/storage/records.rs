//! What the tables hold. Each value is one version byte, the postcard form of the record, and the CRC-32C of key,
//! version and body: a value that is damaged, or stands under another's key, is not decoded.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Bytes that are borrowed from where they were read. Stored, they look like any others.
pub use serde_bytes::Bytes as Blob;

use super::{StorageError, Table};
use crate::types::{
    AttemptId, ConversationId, ConversationName, GroupId, HashRange, LogIndex, ReplicaId, Seq,
    Term, Timestamp,
};

const CHECKSUM_BYTES: usize = 4;
/// More than most records take beside what callers fill them with.
const BYTES_ESTIMATE: usize = 192;

/// A value of one table.
pub trait Record: Serialize + Sized {
    /// Where it is kept.
    const TABLE: Table;
    /// For messages about it.
    const WHAT: &'static str;
    /// The version written. Older versions are decoded where the type has had one.
    const VERSION: u8 = 1;

    /// About how many bytes the stored form takes, rather more than fewer.
    fn bytes_estimate(&self) -> usize {
        BYTES_ESTIMATE
    }

    /// The stored form under `key`.
    fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.bytes_estimate());
        value.push(Self::VERSION);
        value = postcard::to_extend(self, value).expect("records serialize without failure");
        let checksum = crc32c::crc32c_append(crc32c::crc32c(key), &value);
        value.extend_from_slice(&checksum.to_le_bytes());
        value
    }

    /// The record stored under `key`, verified.
    fn decode<'a>(key: &[u8], value: &'a [u8]) -> Result<Self, StorageError>
    where
        Self: Deserialize<'a>,
    {
        let body = checked(Self::TABLE, key, value)?;
        if body[0] > Self::VERSION {
            return Err(StorageError::Newer {
                what: Self::WHAT,
                found: body[0].into(),
                known: Self::VERSION.into(),
            });
        }
        postcard::from_bytes(&body[1..])
            .map_err(|error| damaged(Self::TABLE, key, error.to_string()))
    }
}

/// A record that borrows nothing from where it was read.
pub trait OwnedRecord: Record + DeserializeOwned {}

impl<R: Record + DeserializeOwned> OwnedRecord for R {}

/// Verifies the checksum of a stored value, of whatever record it is.
pub fn verify(table: Table, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
    checked(table, key, value).map(|_| ())
}

/// Version and body of a stored value whose checksum is right.
fn checked<'a>(table: Table, key: &[u8], value: &'a [u8]) -> Result<&'a [u8], StorageError> {
    let Some(checked) = value.len().checked_sub(CHECKSUM_BYTES).filter(|len| *len > 0) else {
        return Err(damaged(table, key, format!("{} bytes are too few", value.len())));
    };
    let (body, stored) = value.split_at(checked);
    let computed = crc32c::crc32c_append(crc32c::crc32c(key), body);
    if computed.to_le_bytes() != stored {
        let reason = format!("checksum {computed:08x} does not match the stored one");
        return Err(damaged(table, key, reason));
    }
    Ok(body)
}

fn damaged(table: Table, key: &[u8], reason: String) -> StorageError {
    StorageError::Damaged { place: format!("{} key {}", table.name(), hex::encode(key)), reason }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// What people and programs say.
    Content,
    /// Blanks another message.
    Redaction,
    /// Replaces another message.
    Replacement,
    /// Notices of the calling service.
    System,
}

/// A committed message. Texts and bytes are its own, or borrowed from where they were read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRecord<Text = String, Data = Bytes> {
    /// Position in the conversation; also in the key.
    pub seq: Seq,
    /// What it is.
    pub kind: Kind,
    /// Who appended it.
    pub sender: Text,
    /// The sender's idempotency key.
    pub client_msg_id: Text,
    /// When the sender first tried.
    pub issued_at: Timestamp,
    /// When the leader stamped it.
    pub commit_time: Timestamp,
    /// Media type of the payload.
    pub content_type: Text,
    /// The caller's headers.
    pub headers: Vec<(Text, Data)>,
    /// The caller's bytes.
    pub payload: Data,
    /// CRC-32C of the payload as it was accepted.
    pub payload_crc32c: u32,
    /// The seq it refers to, if any.
    pub target_seq: Option<Seq>,
    /// W3C trace context, may be empty.
    pub traceparent: Text,
    /// How many messages up to this one count as unread.
    pub unread_ordinal: u64,
    /// What the commitments to headers and payload are salted with.
    pub salt: [u8; 16],
    /// Digest of the history up to and including this message.
    pub digest: [u8; 32],
}

/// A message that borrows its texts and bytes.
pub type MessageRef<'a> = MessageRecord<&'a str, &'a Blob>;

impl<Text, Data> Record for MessageRecord<Text, Data>
where
    Text: AsRef<str> + Serialize,
    Data: AsRef<[u8]> + Serialize,
{
    const TABLE: Table = Table::Messages;
    const WHAT: &'static str = "message";

    fn bytes_estimate(&self) -> usize {
        /// Two lengths.
        const HEADER: usize = 6;
        let texts = [&self.sender, &self.client_msg_id, &self.content_type, &self.traceparent];
        let texts: usize = texts.map(|text| text.as_ref().len()).into_iter().sum();
        BYTES_ESTIMATE + texts + HEADER * self.headers.len() + self.content_bytes()
    }
}

impl<Text: AsRef<str>, Data: AsRef<[u8]>> MessageRecord<Text, Data> {
    /// Header and payload bytes: what limits and credits count.
    pub fn content_bytes(&self) -> usize {
        let bytes = |(name, value): &(Text, Data)| name.as_ref().len() + value.as_ref().len();
        let headers: usize = self.headers.iter().map(bytes).sum();
        headers + self.payload.as_ref().len()
    }
}

/// The head of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationHead {
    /// The name, compared on each access.
    pub name: ConversationName,
    /// Counts deletions: a conversation that was deleted and made again has the next one.
    pub generation: u32,
    /// The lowest seq that can be read.
    pub first_seq: Seq,
    /// The seq that the next message will get.
    pub tail: Seq,
    /// Payload and header bytes that can be read.
    pub bytes: u64,
    /// Commit time of the last message.
    pub last_commit_time: Timestamp,
    /// Digest up to the last message.
    pub digest: [u8; 32],
    /// Digest up to `first_seq - 1`: where verification starts after a trim.
    pub base_digest: [u8; 32],
    /// Unread ordinal of the last message.
    pub unread_total: u64,
}

impl Record for ConversationHead {
    const TABLE: Table = Table::Conversations;
    const WHAT: &'static str = "conversation head";
}

/// Which conversation has a name. Derived from the head, for listing in the order of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRow(pub ConversationId);

impl Record for NameRow {
    const TABLE: Table = Table::Names;
    const WHAT: &'static str = "name";
}

/// What became of a client_msg_id. A row is in force while its `issued_at` is not before the group's dedup floor;
/// later it means nothing, whether it is still there or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupRow {
    /// As given with the first attempt, or a later one that a repeat gave. Of a burnt id the latest that could be given when
    /// it was settled.
    pub issued_at: Timestamp,
    /// What became of it.
    pub outcome: DedupOutcome,
}

/// See [`DedupRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DedupOutcome {
    /// It was committed.
    Committed {
        /// Where.
        seq: Seq,
        /// When.
        commit_time: Timestamp,
        /// What it says, as far as a repeat has to say the same; absent once the message was redacted.
        content: Option<ContentIdentity>,
        /// The attempt on a session that was last accepted, the first one or a repeat, if there was any.
        attempt: Option<AttemptId>,
    },
    /// It was settled as not committed and never will be.
    Burnt,
}

/// By what the content of a repeat is told from that of the message that was committed. `log::dedup` makes and compares
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentIdentity {
    /// The message's own. With the message it is erased here too.
    pub salt: [u8; 16],
    /// Of the payload's commitment with that salt, content type, kind and target.
    pub hash: [u8; 16],
}

impl Record for DedupRow {
    const TABLE: Table = Table::Dedup;
    const WHAT: &'static str = "dedup row";
}

/// A position in a Raft log together with the leadership that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// Term of the leader that wrote the entry.
    pub term: Term,
    /// The leader that wrote it.
    pub leader: ReplicaId,
    /// Position.
    pub index: LogIndex,
}

impl LogId {
    /// Whether it is none that a log can have: nothing could follow it.
    pub fn is_beyond_all_logs(self) -> bool {
        self.index.is_beyond_all_logs() || self.term.is_beyond_all_terms()
    }
}

/// A membership as committed: one config, or two while it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipRecord {
    /// Entry that carries it.
    pub log_id: Option<LogId>,
    /// Voters of each config.
    pub configs: Vec<Vec<ReplicaId>>,
    /// All replicas, voters and learners.
    pub replicas: Vec<ReplicaId>,
}

/// A group as its replica has applied it. Authoritative for range, epoch and membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Which replica this is.
    pub replica: ReplicaId,
    /// The last entry applied; all state of the group is exactly as of it.
    pub applied: Option<LogId>,
    /// The last membership applied.
    pub membership: MembershipRecord,
    /// What the group holds; absent until its first command.
    pub range: Option<HashRange>,
    /// Raised with each change of range.
    pub epoch: u64,
    /// Appends issued before it are refused as too old.
    pub dedup_floor: Timestamp,
    /// Set while a snapshot is being brought in: its staging area. Opening rolls it forward.
    pub installing: Option<String>,
}

impl Record for GroupRow {
    const TABLE: Table = Table::Groups;
    const WHAT: &'static str = "group row";
}

impl GroupRow {
    /// The row of a replica that has nothing yet.
    pub fn blank(replica: ReplicaId) -> Self {
        GroupRow {
            replica,
            applied: None,
            membership: MembershipRecord::default(),
            range: None,
            epoch: 0,
            dedup_floor: Timestamp(0),
            installing: None,
        }
    }
}

/// A vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRecord {
    /// Term voted in.
    pub term: Term,
    /// For whom.
    pub candidate: ReplicaId,
    /// Whether the candidate is known to have won.
    pub committed: bool,
}

impl Record for VoteRecord {
    const TABLE: Table = Table::RaftMeta;
    const WHAT: &'static str = "vote";
}

/// A log id under `raft_meta`: the purge mark or the committed hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogIdRecord(pub LogId);

impl Record for LogIdRecord {
    const TABLE: Table = Table::RaftMeta;
    const WHAT: &'static str = "log id";
}

/// An entry of a Raft log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRecord {
    /// Where it stands.
    pub log_id: LogId,
    /// What it carries.
    pub payload: EntryPayload,
}

/// See [`EntryRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryPayload {
    /// A new leader's first entry.
    Blank,
    /// Encoded commands (`log::Proposal`).
    Commands(Bytes),
    /// A change of membership.
    Membership {
        /// Voters of each config.
        configs: Vec<Vec<ReplicaId>>,
        /// All replicas.
        replicas: Vec<ReplicaId>,
    },
}

impl Record for EntryRecord {
    const TABLE: Table = Table::RaftLog;
    const WHAT: &'static str = "log entry";

    fn bytes_estimate(&self) -> usize {
        let commands = match &self.payload {
            EntryPayload::Commands(encoded) => encoded.len(),
            EntryPayload::Blank | EntryPayload::Membership { .. } => 0,
        };
        BYTES_ESTIMATE + commands
    }
}

/// The key of an entry's record.
pub fn entry_key(group: GroupId, entry: &EntryRecord) -> Vec<u8> {
    super::keys::raft_log(group, entry.log_id.index)
}

#[cfg(test)]
mod tests;
