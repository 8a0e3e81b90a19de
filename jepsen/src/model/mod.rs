//! A run's history, as checkers see it: operations with their beginnings and ends, names and messages as numbers, and
//! the order of each conversation as far as anything shows it.
//!
//! Millions of operations fit: a message that is seen a hundred times is stored once, and a read is a list of numbers.

mod load;
mod order;

use std::ops::Range;

use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxBuildHasher;

use crate::history::{
    Consistency, Fault, LanePlace, Led, Nanos, OutcomeState, Position, Process, Run,
};
pub use load::LoadError;
pub use order::{FinalRead, FinalReplica, Place, Source};

/// A conversation, sender, id or reason by number: see [`Model::name`].
pub type Name = u32;
/// A message's identity by number: see [`Model::key`].
pub type Key = u32;
/// A message as it was seen, by number: see [`Model::record`].
pub type RecordId = u32;

type Set<T> = IndexSet<T, FxBuildHasher>;
type Map<K, V> = IndexMap<K, V, FxBuildHasher>;

/// What a message is known by: its conversation, sender and client_msg_id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The conversation.
    pub conversation: Name,
    /// The sender.
    pub sender: Name,
    /// The client_msg_id.
    pub client_msg_id: Name,
}

/// A place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Line of `history.jsonl`, from 1.
    pub line: u64,
    /// When.
    pub at: Nanos,
    /// Who.
    pub process: Process,
    /// The node that answered, or else that was asked; 0 if neither is known.
    pub node: u32,
}

/// From an operation's call to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it was called, and where that stands.
    pub call: Mark,
    /// Line of the answer; 0 if there is none.
    pub answer_line: u64,
    /// When it was answered, also with an error; `Nanos::MAX` if never.
    pub answered: Nanos,
}

impl Span {
    /// The place of the answer, or of the call where there is no answer.
    pub fn end(&self) -> Mark {
        match self.answer_line {
            0 => self.call,
            line => Mark { line, at: self.answered, ..self.call },
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending<T> {
    /// It succeeded.
    Ok(T),
    /// It certainly did not take effect.
    Failed(Refused),
    /// It may have taken effect, or may yet.
    Unknown(Refused),
    /// It never ended: as unknown.
    Open,
}

impl<T> Ending<T> {
    /// The answer, if it succeeded.
    pub fn ok(&self) -> Option<&T> {
        match self {
            Ending::Ok(answer) => Some(answer),
            _ => None,
        }
    }
}

/// Why an operation did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The stable reason.
    pub reason: Name,
    /// What the error says of itself.
    pub may_have_taken_effect: bool,
    /// What it says: whether the same call can be made again.
    pub retryable: bool,
    /// The tail that it names.
    pub tail: Option<u64>,
}

/// An attempt to append a batch.
#[derive(Clone, Debug)]
pub struct Append {
    /// When.
    pub span: Span,
    /// The conversation.
    pub conversation: Name,
    /// Its messages, in [`Model::sent`].
    pub sent: Range<u32>,
    /// The tail that was asked for.
    pub expected_tail: Option<u64>,
    /// Its place in a lane.
    pub lane: Option<LanePlace>,
    /// Whether its messages were issued between the beginning of the run and this call.
    pub issued_in_run: bool,
    /// How it ended.
    pub ending: Ending<Appended>,
}

impl Append {
    /// Whether this attempt certainly appended nothing, by what its error said.
    pub fn certainly_failed(&self) -> bool {
        match self.ending {
            Ending::Failed(refused) | Ending::Unknown(refused) => !refused.may_have_taken_effect,
            Ending::Ok(_) | Ending::Open => false,
        }
    }
}

/// The answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Seq of the first message.
    pub first_seq: u64,
    /// Seq of the last message.
    pub last_seq: u64,
    /// Commit time of the last message.
    pub commit_time_us: u64,
    /// Whether an earlier attempt had committed.
    pub duplicate: bool,
    /// Up to the last message; none if it was not recorded.
    pub digest: Option<Digest>,
}

/// 32 bytes.
pub type Digest = [u8; 32];

/// A message of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Which message.
    pub key: Key,
    /// Of its payload.
    pub hash: u64,
}

/// One attempt that carried a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    /// The message.
    pub key: Key,
    /// In [`Model::appends`].
    pub append: u32,
    /// Which of its messages, from 0.
    pub nth: u32,
}

/// A read of a part of a conversation.
#[derive(Clone, Debug)]
pub struct Read {
    /// When.
    pub span: Span,
    /// The conversation.
    pub conversation: Name,
    /// How fresh.
    pub consistency: Consistency,
    /// From which seq; of the end that its answer shows, where it was to be of the end.
    pub from_seq: u64,
    /// How many messages at most.
    pub limit: u64,
    /// Of the end: the last messages, all that there are up to the limit.
    pub of_the_end: bool,
    /// Part of the read of everything at the end.
    pub is_final: bool,
    /// How it ended.
    pub ending: Ending<ReadAnswer>,
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadAnswer {
    /// Its messages, in [`Model::seen`].
    pub seen: Range<usize>,
    /// The lowest seq that can be read.
    pub first_seq: u64,
    /// The seq that the next message will get.
    pub tail: u64,
    /// Which replica answered.
    pub position: Position,
}

/// A message as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Which message; its conversation is the one that was read.
    pub key: Key,
    /// Where.
    pub seq: u64,
    /// Of the payload as received.
    pub hash: u64,
    /// When it was committed.
    pub commit_time_us: u64,
    /// Of the conversation up to it; none if it was not recorded.
    pub digest: Option<Digest>,
}

/// When a record was seen.
#[derive(Clone, Copy, Debug)]
pub struct Sightings {
    /// The earliest.
    pub first: Mark,
    /// How many.
    pub count: u64,
}

/// An outcome query.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When.
    pub span: Span,
    /// About which message.
    pub key: Key,
    /// Whether the answer was to be final.
    pub settle: bool,
    /// How it ended: what became of the message, and its seq.
    pub ending: Ending<(OutcomeState, u64)>,
}

/// A stream of deliveries.
#[derive(Clone, Debug)]
pub struct Follow {
    /// When.
    pub span: Span,
    /// Conversations, and from which seq each.
    pub from: Vec<(Name, u64)>,
    /// Subscribe rather than Follow.
    pub is_subscription: bool,
    /// Whether it was opened without the client library.
    pub without_library: bool,
    /// What came, in order.
    pub deliveries: Vec<Delivery>,
    /// How it ended; ok if the run ended it.
    pub ending: Ending<()>,
}

/// What came on a stream.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// When.
    pub mark: Mark,
    /// Of which conversation.
    pub conversation: Name,
    /// What.
    pub what: Delivered,
}

/// What came.
#[derive(Clone, Debug)]
pub enum Delivered {
    /// Messages, in [`Model::seen`].
    Messages(Range<usize>),
    /// History is through; this seq comes next.
    CaughtUp(u64),
    /// Let go and taken up again from this seq.
    AddedAgain(u64),
    /// These seqs can no longer be read.
    Gap(Range<u64>),
}

/// A run's history.
#[derive(Debug)]
pub struct Model {
    /// What was run.
    pub run: Run,
    /// What was broken.
    pub faults: Vec<Fault>,
    /// Who led, for people: nothing is judged by it.
    pub leaders: Vec<Led>,
    /// Lines of the history.
    pub events: u64,
    /// In the order called.
    pub appends: Vec<Append>,
    /// Messages of appends.
    pub sent: Vec<Sent>,
    /// In the order called.
    pub reads: Vec<Read>,
    /// Messages of reads and deliveries.
    pub seen: Vec<RecordId>,
    /// In the order called.
    pub outcomes: Vec<Outcome>,
    /// In the order called.
    pub follows: Vec<Follow>,
    /// Every attempt of every message, by message and then in the order called.
    attempts: Vec<Attempt>,
    names: Set<Box<str>>,
    keys: Set<Identity>,
    records: Map<Record, Sightings>,
    /// What stands where, by conversation and seq, once each.
    places: Vec<Place>,
    /// Where each message stands.
    seqs: Vec<Option<u64>>,
    /// By conversation.
    finals: Vec<FinalRead>,
}

impl Model {
    /// A name as it was written.
    pub fn name(&self, name: Name) -> &str {
        &self.names[name as usize]
    }

    /// What a message is known by.
    pub fn key(&self, key: Key) -> Identity {
        self.keys[key as usize]
    }

    /// The conversation of a message.
    pub fn conversation_of(&self, key: Key) -> Name {
        self.key(key).conversation
    }

    /// Every message that has been named by anything.
    pub fn keys(&self) -> Range<Key> {
        0..u32::try_from(self.keys.len()).expect("keys are numbered with 32 bits")
    }

    /// A message for people: `acme/room alice m-1`.
    pub fn describe(&self, key: Key) -> String {
        let Identity { conversation, sender, client_msg_id } = self.key(key);
        let [conversation, sender, id] =
            [conversation, sender, client_msg_id].map(|name| self.name(name));
        format!("{id} of {sender} in {conversation}")
    }

    /// A message as it was seen.
    pub fn record(&self, id: RecordId) -> &Record {
        self.records.get_index(id as usize).expect("records are numbered by the loader").0
    }

    /// When it was seen.
    pub fn sightings(&self, id: RecordId) -> &Sightings {
        &self.records[id as usize]
    }

    /// Everything that was seen, each distinct record once.
    pub fn records(&self) -> impl Iterator<Item = (RecordId, &Record, &Sightings)> {
        self.records.iter().zip(0..).map(|((record, sightings), id)| (id, record, sightings))
    }

    /// The attempts that carried a message, in the order called.
    pub fn attempts(&self, key: Key) -> &[Attempt] {
        let from = self.attempts.partition_point(|attempt| attempt.key < key);
        let rest = &self.attempts[from..];
        &rest[..rest.partition_point(|attempt| attempt.key == key)]
    }

    /// The append of an attempt.
    pub fn append_of(&self, attempt: &Attempt) -> &Append {
        &self.appends[attempt.append as usize]
    }

    /// What an attempt sent.
    pub fn sent_by(&self, attempt: &Attempt) -> Sent {
        self.sent_in(self.append_of(attempt))[attempt.nth as usize]
    }

    /// The messages of an append.
    pub fn sent_in(&self, append: &Append) -> &[Sent] {
        &self.sent[append.sent.start as usize..append.sent.end as usize]
    }

    /// The messages of an append that was acknowledged, with their seqs. A wrong count of seqs is another checker's.
    pub fn acknowledged<'a>(
        &'a self,
        append: &'a Append,
    ) -> impl Iterator<Item = (Sent, u64)> + 'a {
        let first = append.ending.ok().map(|appended| appended.first_seq);
        first.into_iter().flat_map(|first| self.sent_in(append).iter().copied().zip(first..))
    }
}
