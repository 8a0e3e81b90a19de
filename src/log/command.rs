//! What goes through the log, and what comes out.
//!
//! A command owns its texts and bytes while it waits to be proposed. Decoded from an entry to be applied, it borrows
//! them from there: most of what a command says is only copied into the rows that it leaves.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::storage::records::{Blob, Kind};
use crate::types::{
    AttemptId, ClusterId, ConversationName, GroupId, HashRange, Incarnation, NodeId, Seq,
    Timestamp, allocated,
};

/// What one Raft entry carries. Each command succeeds or fails on its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal<Text = String, Data = Bytes> {
    /// The leader's clock when it proposed.
    pub stamped_at: Timestamp,
    /// In order.
    pub commands: Vec<Command<Text, Data>>,
}

/// One change of state. Variants are only ever added at the end: their order is the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<Text = String, Data = Bytes> {
    /// Gives a new group its range. The first command of each conversation group; later ones change nothing.
    Configure {
        /// What the group holds.
        range: HashRange,
        /// Of the range.
        epoch: u64,
    },
    /// Appends messages.
    Append(Append<Text, Data>),
    /// Makes the outcome of an id final.
    Settle(Settle<Text>),
    /// Raises the dedup floor; a lower one changes nothing.
    RaiseDedupFloor {
        /// The new floor.
        floor: Timestamp,
    },
    /// Changes the topology. In the meta group only.
    ChangeTopology(TopologyChange),
}

/// An append of a batch to one conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append<Text = String, Data = Bytes> {
    /// Where to.
    pub conversation: ConversationName<Text>,
    /// Who.
    pub sender: Text,
    /// What, at least one.
    pub messages: Vec<NewMessage<Text, Data>>,
    /// The tail the caller expects.
    pub expected_tail: Option<Seq>,
    /// Its place in a lane, if it came on a session.
    pub lane: Option<LanePlace<Text>>,
}

/// Where an append stands in its lane (sender order, G5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanePlace<Text = String> {
    /// This attempt.
    pub attempt: AttemptId,
    /// What has to be accepted before: the attempt in front of this one. None where all before it are answered.
    pub predecessor: Option<Predecessor<Text>>,
}

/// An attempt that another one follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor<Text = String> {
    /// Which attempt. That the id stands is not enough: it may stand from an earlier attempt, with another content,
    /// while this one was refused.
    pub attempt: AttemptId,
    /// The last message of its batch, whose dedup row tells.
    pub last: IdKey<Text>,
}

/// What identifies a message within its conversation for idempotency.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdKey<Text = String> {
    /// Who.
    pub sender: Text,
    /// Its idempotency key.
    pub client_msg_id: Text,
}

/// A message on its way in. Limits were checked where it entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMessage<Text = String, Data = Bytes> {
    /// The sender's idempotency key.
    pub client_msg_id: Text,
    /// When the sender first tried.
    pub issued_at: Timestamp,
    /// What it is.
    pub kind: Kind,
    /// Media type of the payload.
    pub content_type: Text,
    /// The caller's headers.
    pub headers: Vec<(Text, Data)>,
    /// The caller's bytes.
    pub payload: Data,
    /// CRC-32C of the payload.
    pub payload_crc32c: u32,
    /// The seq it refers to.
    pub target_seq: Option<Seq>,
    /// W3C trace context.
    pub traceparent: Text,
    /// Drawn by the leader.
    pub salt: [u8; 16],
}

/// Asks what became of an id, and burns it if nothing did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle<Text = String> {
    /// The conversation.
    pub conversation: ConversationName<Text>,
    /// The id.
    pub id: IdKey<Text>,
    /// As the append carried it.
    pub issued_at: Timestamp,
}

/// A proposal that borrows from the entry that carries it.
pub type ProposalRef<'a> = Proposal<&'a str, &'a Blob>;
/// A command that borrows from the entry that carries it.
pub type CommandRef<'a> = Command<&'a str, &'a Blob>;
/// An append that borrows from the entry that carries it.
pub type AppendRef<'a> = Append<&'a str, &'a Blob>;
/// A message that borrows from the entry that carries it.
pub type NewMessageRef<'a> = NewMessage<&'a str, &'a Blob>;
/// A settling question that borrows from the entry that carries it.
pub type SettleRef<'a> = Settle<&'a str>;

/// What a command led to, in the order of the commands of its entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, and nothing to tell.
    Done,
    /// An append was committed, now or earlier.
    Appended(Appended),
    /// An append changed nothing.
    AppendRefused(AppendRefusal),
    /// The answer to a settle.
    Settled(OutcomeState),
    /// A change of topology was refused.
    TopologyRefused(TopologyRefusal),
}

/// Where an append stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Seq of the first message.
    pub first_seq: Seq,
    /// Seq of the last message.
    pub last_seq: Seq,
    /// Commit time of the last message.
    pub commit_time: Timestamp,
    /// Digest up to the last message.
    pub digest: [u8; 32],
    /// Whether an earlier attempt had committed.
    pub duplicate: bool,
}

/// Why an append or a settle changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AppendRefusal {
    /// The conversation belongs to another group.
    #[error("the conversation is not in this group's range")]
    WrongGroup {
        /// Epoch of the group's range.
        epoch: u64,
    },
    /// Another conversation has the same 128-bit id.
    #[error("the conversation's name collides with that of another conversation")]
    NameCollision,
    /// A message was issued before the dedup floor.
    #[error("issued_at_us lies before the dedup floor for client_msg_id {client_msg_id:?}")]
    TooOld {
        /// The message.
        client_msg_id: String,
        /// Appends have to be issued at or after it.
        floor: Timestamp,
    },
    /// A message was issued too far ahead of the leader's clock.
    #[error("issued_at_us lies too far in the future for client_msg_id {client_msg_id:?}")]
    FromTheFuture {
        /// The message.
        client_msg_id: String,
        /// When it says that it was issued.
        issued_at: Timestamp,
        /// Appends have to be issued at or before it.
        latest: Timestamp,
    },
    /// An id stands with other content, or only some ids of a batch stand, or not contiguously in this order.
    #[error("a client_msg_id stands already with another content or in another batch")]
    Conflict {
        /// The seqs found, in the order of the batch.
        seqs: Vec<Seq>,
    },
    /// An id occurs twice in the batch.
    #[error("client_msg_id {client_msg_id} occurs twice in the batch")]
    Repeated {
        /// The id.
        client_msg_id: String,
    },
    /// An id was settled as never to be committed.
    #[error("client_msg_id {client_msg_id} was settled as not committed")]
    Burnt {
        /// The id.
        client_msg_id: String,
    },
    /// The tail is not the one expected.
    #[error("the tail is {actual}")]
    WrongTail {
        /// The tail.
        actual: Seq,
    },
    /// The append that had to come first was not accepted.
    #[error("the append before this one in its lane is not committed")]
    PredecessorMissing,
    /// A target_seq that cannot be read, or missing, or out of place.
    #[error("target_seq does not name a message of the conversation")]
    BadTarget {
        /// The tail: targets lie below it.
        tail: Seq,
    },
}

/// What became of an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutcomeState {
    /// Committed.
    Committed {
        /// Where.
        seq: Seq,
        /// When.
        commit_time: Timestamp,
    },
    /// Not committed so far.
    NotCommitted,
    /// Never to be committed.
    Burnt,
    /// Issued before the dedup floor: it will not be committed from now on, and whether it was is not known here.
    TooOld {
        /// The floor.
        floor: Timestamp,
    },
}

/// The cluster as the meta group holds it: what is wanted. A group's own membership says what is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The cluster.
    pub cluster: ClusterId,
    /// Raised with each change.
    pub version: u64,
    /// The version of commands and formats that all nodes have agreed to.
    pub feature_level: u32,
    /// In order of id.
    pub nodes: Vec<TopologyNode>,
    /// In order of range.
    pub groups: Vec<TopologyGroup>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyNode {
    /// Which.
    pub id: NodeId,
    /// host:port for clients.
    pub client_address: String,
    /// host:port for nodes.
    pub peer_address: String,
    /// host:port for metrics and health.
    pub http_address: String,
    /// Failure domain.
    pub zone: String,
    /// Incarnation of its replica of the meta group.
    pub meta_incarnation: Incarnation,
}

/// A conversation group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyGroup {
    /// Which.
    pub id: GroupId,
    /// What it holds, as last observed.
    pub range: HashRange,
    /// Of the range.
    pub epoch: u64,
    /// False while it is being created: only then may it be initialized.
    pub active: bool,
    /// Where its replicas are to be. The first is the preferred leader.
    pub replicas: Vec<TopologyReplica>,
}

impl TopologyGroup {
    /// Nodes that have made their replica, the preferred leader first.
    pub fn made_on(&self) -> impl Iterator<Item = NodeId> {
        self.replicas.iter().filter(|replica| !replica.joining).map(|replica| replica.node)
    }
}

/// A replica that is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyReplica {
    /// Where.
    pub node: NodeId,
    /// Which making.
    pub incarnation: Incarnation,
    /// True until the node has made it: only then may a node make a blank one.
    pub joining: bool,
}

/// A change of topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopologyChange {
    /// Writes the first topology. Refused if there is one of another cluster; changes nothing if it is the same.
    Create(Topology),
    /// A group has committed its first configuration.
    ActivateGroup {
        /// Which.
        group: GroupId,
    },
    /// A node's addresses or zone are now these; its meta incarnation is kept.
    UpdateNode(TopologyNode),
    /// A replica is to be made anew: its incarnation is raised and it is joining. A repeat that names the same new
    /// incarnation changes nothing.
    RenewReplica {
        /// Which group; the meta group raises the node's meta incarnation.
        group: GroupId,
        /// Where.
        node: NodeId,
        /// The new incarnation: the old one plus one.
        incarnation: Incarnation,
    },
    /// A renewed replica has been made and never is blank again.
    ReplicaMade {
        /// Which group.
        group: GroupId,
        /// Where.
        node: NodeId,
        /// Which making.
        incarnation: Incarnation,
    },
}

/// Why a change of topology was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TopologyRefusal {
    /// There is a topology already.
    #[error("the cluster exists already as {cluster}")]
    Exists {
        /// Its id.
        cluster: ClusterId,
    },
    /// There is no topology yet.
    #[error("the cluster has not been initialized")]
    NotInitialized,
    /// No such node, group or replica.
    #[error("there is no such {what}")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The replica has another incarnation than the change supposes.
    #[error("the replica's incarnation is {actual}")]
    WrongIncarnation {
        /// What it is.
        actual: Incarnation,
    },
}

impl Command {
    /// About how many bytes this command takes in an entry: what batching counts.
    pub fn encoded_bytes_estimate(&self) -> usize {
        const ENVELOPE: usize = 96;
        /// Two lengths.
        const HEADER: usize = 4;
        match self {
            Command::Append(append) => {
                let message_bytes = |message: &NewMessage| {
                    let headers = message.headers.iter();
                    let headers: usize =
                        headers.map(|(name, value)| HEADER + name.len() + value.len()).sum();
                    let texts = message.client_msg_id.len()
                        + message.content_type.len()
                        + message.traceparent.len();
                    ENVELOPE + texts + headers + message.payload.len()
                };
                let messages: usize = append.messages.iter().map(message_bytes).sum();
                ENVELOPE + append.conversation.0.len() + append.sender.len() + messages
            }
            _ => ENVELOPE,
        }
    }

    /// About how much memory this command takes while it waits for its outcome (G12).
    pub fn memory_bytes(&self) -> usize {
        let waits = match self {
            Command::Append(append) => append.memory_bytes(),
            Command::Settle(Settle { conversation, id, .. }) => {
                allocated(conversation.0.len()) + id.memory_bytes()
            }
            // Operators send these, one after the other.
            Command::Configure { .. }
            | Command::RaiseDedupFloor { .. }
            | Command::ChangeTopology(_) => 0,
        };
        size_of::<Command>() + waits
    }
}

impl Append {
    fn memory_bytes(&self) -> usize {
        let messages: usize = self.messages.iter().map(NewMessage::memory_bytes).sum();
        let predecessor = self.lane.as_ref().and_then(|lane| lane.predecessor.as_ref());
        allocated(self.conversation.0.len())
            + allocated(self.sender.len())
            + allocated(self.messages.capacity() * size_of::<NewMessage>())
            + messages
            + predecessor.map_or(0, |predecessor| predecessor.last.memory_bytes())
    }
}

impl IdKey {
    fn memory_bytes(&self) -> usize {
        allocated(self.sender.len()) + allocated(self.client_msg_id.len())
    }
}

impl NewMessage {
    /// Beside its place in the list.
    fn memory_bytes(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize =
            headers.map(|(name, value)| allocated(name.len()) + allocated(value.len())).sum();
        allocated(self.client_msg_id.len())
            + allocated(self.content_type.len())
            + allocated(self.traceparent.len())
            + allocated(self.headers.capacity() * size_of::<(String, Bytes)>())
            + headers
            + allocated(self.payload.len())
    }
}
