//! What is recorded of a run: everything that clients asked and were answered, and everything that was broken, in
//! the monotonic nanoseconds of the one process that drives both. Each is a line of JSON.
//!
//! The words are Jepsen's: an operation is invoked, and then is ok (it took effect), failed (it certainly did not) or
//! has an unknown outcome (`info`: it may have, or may yet). A process whose operation ended in `info` never calls
//! again; its client goes on as a new process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a node that ended by itself is written down as, among faults: nobody made it.
pub const ENDED_BY_ITSELF: &str = "ended-by-itself";

/// Nanoseconds since the run began, on the driver's monotonic clock.
pub type Nanos = u64;
/// A logical client. Its operations do not overlap.
pub type Process = u64;

/// One line of `history.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it was recorded: before a call is made, after its answer has come.
    pub at: Nanos,
    /// Who.
    pub process: Process,
    /// The node that was asked; none where the client library chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A call begins.
    Invoke(Call),
    /// The process' call succeeded.
    Ok(Answer),
    /// It certainly did not take effect.
    Fail(Refusal),
    /// Its outcome is not known.
    Info(Refusal),
    /// Something came on a stream.
    Deliver(Delivery),
}

/// A call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Append, or one append of a session.
    Append(AppendCall),
    /// Read, forwards.
    Read(ReadCall),
    /// GetOutcome.
    Outcome(OutcomeCall),
    /// Follow or Subscribe is opened; its deliveries come under the same process.
    Follow(FollowCall),
}

/// An append: all messages or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppendCall {
    /// To which conversation.
    pub conversation: String,
    /// By whom.
    pub sender: String,
    /// What.
    pub messages: Vec<Sent>,
    /// The tail that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_tail: Option<u64>,
    /// Where it stands in a session's lane; none if it was unary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<LanePlace>,
}

/// A place in a lane: the appends of one session to one conversation, between two resets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanePlace {
    /// Which session.
    pub session: u64,
    /// Counts resets of this lane.
    pub reset: u64,
    /// Counts its appends from 0, in the order sent.
    pub position: u64,
}

/// A message as it was sent. Its payload is unique: what it says can be told from its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// The sender's idempotency key.
    pub client_msg_id: String,
    /// When it was first sent.
    pub issued_at_us: u64,
    /// Of the payload.
    pub hash: u64,
}

/// A read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadCall {
    /// Of which conversation.
    pub conversation: String,
    /// How fresh.
    pub consistency: Consistency,
    /// From which seq on.
    pub from_seq: u64,
    /// At most how many messages.
    pub limit: u64,
    /// The last so many, in a BatchRead; `from_seq` says nothing then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_the_end: bool,
    /// Part of the read of everything that ends a run.
    #[serde(default)]
    pub is_final: bool,
}

/// How fresh a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// As of a point between call and answer.
    Linearizable,
    /// Includes everything below this seq.
    AtLeast(u64),
    /// At most this old, in milliseconds.
    MaxStalenessMs(u64),
    /// Whatever the replica has.
    Local,
}

/// An outcome query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutcomeCall {
    /// In which conversation.
    pub conversation: String,
    /// By whom.
    pub sender: String,
    /// Which message.
    pub client_msg_id: String,
    /// When it was first sent.
    pub issued_at_us: u64,
    /// Whether the answer is to be final.
    pub settle: bool,
}

/// A stream of deliveries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FollowCall {
    /// Conversations, and the seq from which each is to be delivered.
    pub from: Vec<(String, u64)>,
    /// Subscribe rather than Follow.
    pub is_subscription: bool,
    /// As the API has it, without the client library, which opens a stream again and refuses what is out of order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_library: bool,
}

/// What a call was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To an append.
    Appended {
        /// Seq of its first message.
        first_seq: u64,
        /// Seq of its last message.
        last_seq: u64,
        /// When it was committed.
        commit_time_us: u64,
        /// Whether an earlier attempt had committed.
        duplicate: bool,
        /// Digest of the conversation up to `last_seq`, in hexadecimal digits.
        digest: String,
    },
    /// To a read.
    Read {
        /// In seq order.
        messages: Vec<Seen>,
        /// The lowest seq that can be read.
        first_seq: u64,
        /// The seq that the next message will get.
        tail: u64,
        /// Where this was read.
        position: Position,
    },
    /// To an outcome query.
    Outcome {
        /// What became of the message.
        state: OutcomeState,
        /// Its seq, where it is committed; 0 otherwise.
        seq: u64,
    },
    /// A stream has ended, because the run does.
    Ended,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeState {
    /// At a seq.
    Committed,
    /// Not so far.
    NotCommitted,
    /// Not ever.
    Burnt,
}

/// A message as it was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Where.
    pub seq: u64,
    /// By whom.
    pub sender: String,
    /// The sender's idempotency key.
    pub client_msg_id: String,
    /// Of the payload as received.
    pub hash: u64,
    /// When it was committed.
    pub commit_time_us: u64,
    /// Digest of the conversation up to it, in hexadecimal digits.
    pub digest: String,
}

/// Which replica answered, and how far and how fresh it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The node.
    pub node: u32,
    /// The group.
    pub group: u64,
    /// The entry that it had applied.
    pub applied_index: u64,
    /// Age of the answer in milliseconds; none if the replica does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
}

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// The stable reason, or the gRPC code where there is none.
    pub reason: String,
    /// For people.
    pub message: String,
    /// What the error itself says: whether the operation may have taken effect.
    pub may_have_taken_effect: bool,
    /// What it says: whether the same call can be made again. Older records do not say.
    #[serde(default = "unsaid")]
    pub retryable: bool,
    /// The tail that the error names: what an append with another `expected_tail` found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u64>,
}

fn unsaid() -> bool {
    true
}

/// What came on a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Of which conversation.
    pub conversation: String,
    /// What.
    pub what: Delivered,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivered {
    /// In seq order.
    Messages(Vec<Seen>),
    /// History is through.
    CaughtUp {
        /// The seq that comes next.
        next_seq: u64,
    },
    /// `[from_seq, to_seq)` can no longer be read.
    Gap {
        /// The first seq that is gone.
        from_seq: u64,
        /// The first that is there again.
        to_seq: u64,
    },
    /// The subscriber had let the conversation go, all that was under way has come, and it takes it up again.
    AddedAgain {
        /// From which seq.
        from_seq: u64,
    },
}

impl Delivered {
    /// The seq that is to come next, where this says so.
    pub fn next_seq(&self) -> Option<u64> {
        match self {
            Delivered::Messages(seen) => seen.last().map(|last| last.seq + 1),
            Delivered::Gap { to_seq, .. } => Some(*to_seq),
            Delivered::CaughtUp { .. } | Delivered::AddedAgain { .. } => None,
        }
    }
}

/// One line of `nemesis.jsonl`: something that was broken, or mended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// When it took effect.
    pub from: Nanos,
    /// When it was mended.
    pub to: Nanos,
    /// The nemesis, as on the command line: `kill-leader`.
    pub nemesis: String,
    /// The nodes it was about.
    pub nodes: Vec<u32>,
    /// For people: what exactly was done.
    pub what: String,
    /// Whether it was seen to take effect, and how: a process that is gone, packets that were dropped.
    pub effect: Option<String>,
    /// How long it took until every group had acknowledged an append and answered a linearizable read, and the meta group
    /// had confirmed which nodes there are (not in older records): from the beginning of mending this and what was mended
    /// together with it, or from the end of that, whichever is longer; none where that was not measured after this fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_after: Option<Nanos>,
}

/// One line of `leaders.jsonl`: who leads a group from here on, as the first node told that knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Led {
    /// When that was heard.
    pub at: Nanos,
    /// The group.
    pub group: u64,
    /// The node; none while nobody is known to lead in this term.
    pub leader: Option<u32>,
    /// The term of which that is told.
    pub term: u64,
}

/// `run.json`: what was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The name of the run: its matrix entry, or what was on the command line.
    pub name: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// Decides workload and faults.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u32,
    /// The workloads.
    pub workloads: Vec<String>,
    /// The nemeses.
    pub nemeses: Vec<String>,
    /// Nemeses that were asked for and could not be had here, and why.
    #[serde(default)]
    pub without: Vec<String>,
    /// How long faults were made.
    pub duration_s: u64,
    /// What the binary says of its version.
    pub version: String,
    /// The planted fault, in a positive control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planted: Option<String>,
    /// Everything that decided the run, as a command that repeats it.
    pub command: String,
    /// Nanoseconds at which the last fault had been mended and the healed phase began.
    pub healed_at: Option<Nanos>,
    /// Nodes that must not be read at the end: damaged on purpose and not rebuilt, say why.
    #[serde(default)]
    pub excused: Vec<(u32, String)>,
    /// Which nodes had a replica of each group at the end, by the cluster's own account: each has to be read. Empty
    /// where that is not known.
    #[serde(default)]
    pub replicas: BTreeMap<u64, Vec<u32>>,
    /// What each node took of memory at most, in bytes, of those that could be asked.
    #[serde(default)]
    pub memory_bytes_max: BTreeMap<u32, u64>,
    /// Nodes that were to be made anew and were not in time, and why.
    #[serde(default)]
    pub unreplaced: BTreeMap<u32, String>,
    /// Nodes that ran on damaged data which they have to read before they serve, each time, and what `quorate check` said of
    /// it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unnoticed: Vec<(u32, String)>,
    /// The first panic in the log of each node that had one.
    #[serde(default)]
    pub panics: BTreeMap<u32, String>,
    /// What `quorate check` found wrong with what each node had stored at the end; none where it found everything as it
    /// should be. Nodes that are excused are not looked at.
    #[serde(default)]
    pub stored: BTreeMap<u32, Option<String>>,
    /// The share of its time in which something on this machine waited for a processor, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_for_processor: Option<f64>,
}

impl Run {
    /// How busy the machine was, where that is known.
    pub fn pressure(&self) -> Option<String> {
        let share = self.waited_for_processor?;
        Some(format!("something waited for a processor {:.0} % of the time", share * 100.0))
    }
}
