//! What the service reads from a group's state: each a pure function of a view.

use crate::log::{IdKey, OutcomeState};
use crate::storage::records::{
    ConversationHead, DedupOutcome, DedupRow, GroupRow, MessageRecord, Record,
};
use crate::storage::{Direction, KeyRange, StorageError, Table, View, keys};
use crate::types::{ConversationId, ConversationName, GroupId, Seq, Timestamp};

/// A group's own row: what it holds and how far it has applied.
pub fn group_row(view: &dyn View, group: GroupId) -> Result<Option<GroupRow>, StorageError> {
    record(view, &keys::group(group))
}

/// What became of an id. Without `issued_at` one that expired cannot be told from one that never was.
pub fn outcome(
    view: &dyn View,
    _group: GroupId,
    row: &GroupRow,
    name: &ConversationName,
    id: &IdKey,
    issued_at: Option<Timestamp>,
) -> Result<OutcomeState, StorageError> {
    let key = keys::dedup(name.id(), &id.sender, &id.client_msg_id);
    let known: Option<DedupRow> = record(view, &key)?;
    let floor = row.dedup_floor;
    Ok(match known.filter(|known| known.issued_at >= floor).map(|known| known.outcome) {
        Some(DedupOutcome::Committed { seq, commit_time, .. }) => {
            OutcomeState::Committed { seq, commit_time }
        }
        Some(DedupOutcome::Burnt) => OutcomeState::Burnt,
        None if issued_at.is_some_and(|at| at < floor) => OutcomeState::TooOld { floor },
        None => OutcomeState::NotCommitted,
    })
}

/// The head of a conversation; none if it has never had a message.
pub fn head(
    view: &dyn View,
    name: &ConversationName,
) -> Result<Option<ConversationHead>, StorageError> {
    let head: Option<ConversationHead> = record(view, &keys::conversation(name.id()))?;
    Ok(head.filter(|head| head.name == *name))
}

/// Which messages to read, and how many at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The lowest seq wanted.
    pub from: Seq,
    /// The first seq above that is not wanted.
    pub to: Seq,
    /// From which side.
    pub direction: Direction,
    /// At most this many messages.
    pub messages_max: usize,
    /// At most this many payload and header bytes, but always one message if there is one and one is allowed.
    pub bytes_max: u64,
}

/// The messages of a slice, in its direction. `head` is of the same view.
pub fn messages(
    view: &dyn View,
    head: &ConversationHead,
    slice: Slice,
) -> Result<Vec<MessageRecord>, StorageError> {
    let (from, to) = (slice.from.max(head.first_seq), slice.to.min(head.tail));
    let mut found: Vec<MessageRecord> = Vec::new();
    if from >= to {
        return Ok(found);
    }
    let mut bytes = 0;
    let range = keys::message_range(head.name.id(), from, to);
    for row in view.scan(Table::Messages, range, slice.direction).take(slice.messages_max) {
        let (key, value) = row?;
        let message = MessageRecord::decode(&key, &value)?;
        bytes += message.content_bytes() as u64;
        if bytes > slice.bytes_max && !found.is_empty() {
            break;
        }
        found.push(message);
    }
    Ok(found)
}

/// The first seq whose commit time is not before `time`; the tail if there is none. Commit times never go back, so
/// it is found by halving.
pub fn first_seq_at_or_after(
    view: &dyn View,
    head: &ConversationHead,
    time: Timestamp,
) -> Result<Seq, StorageError> {
    let (mut low, mut high) = (head.first_seq, head.tail);
    while low < high {
        let middle = Seq(low.0 + (high.0 - low.0) / 2);
        let key = keys::message(head.name.id(), middle);
        let Some(message) = record::<MessageRecord>(view, &key)? else {
            return Err(StorageError::Damaged {
                place: format!("messages of {}", head.name),
                reason: format!("seq {middle} is missing"),
            });
        };
        if message.commit_time < time {
            low = middle.next();
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Up to `limit` heads in the order of names: those whose name starts with `prefix`, follows `after`, and whose
/// conversation is `wanted`.
pub fn list(
    view: &dyn View,
    wanted: impl Fn(ConversationId) -> bool,
    prefix: &str,
    after: Option<&ConversationName>,
    limit: usize,
) -> Result<Vec<ConversationHead>, StorageError> {
    let mut start = prefix.as_bytes().to_vec();
    if let Some(after) = after {
        let mut next = keys::name(after);
        next.push(0);
        start = start.max(next);
    }
    let mut heads = Vec::new();
    for row in view.scan(Table::Names, KeyRange { start, end: None }, Direction::Forward) {
        let (key, _) = row?;
        if heads.len() == limit || !key.starts_with(prefix.as_bytes()) {
            break;
        }
        let Ok(text) = std::str::from_utf8(&key) else { continue };
        let name = ConversationName(text.to_owned());
        if wanted(name.id()) {
            heads.extend(head(view, &name)?);
        }
    }
    Ok(heads)
}

fn record<R: Record>(view: &dyn View, key: &[u8]) -> Result<Option<R>, StorageError> {
    view.get(R::TABLE, key)?.map(|value| R::decode(key, &value)).transpose()
}
