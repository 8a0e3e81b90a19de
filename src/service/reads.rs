//! What the service reads from a group's state: each a pure function of a view.

use crate::log::{IdKey, OutcomeState};
use crate::storage::records::{
    ConversationHead, DedupOutcome, DedupRow, GroupRow, MessageRecord, Record,
};
use crate::storage::{Direction, KeyRange, StorageError, Table, View, keys};
use crate::types::{ConversationName, GroupId, PlacementHash, Seq, Timestamp};

/// A group's own row: what it holds and how far it has applied.
pub fn group_row(view: &dyn View, group: GroupId) -> Result<Option<GroupRow>, StorageError> {
    record(view, &keys::group(group))
}

/// The head of a conversation.
pub fn head(
    view: &dyn View,
    name: &ConversationName,
) -> Result<Option<ConversationHead>, StorageError> {
    let head: Option<ConversationHead> = record(view, &keys::conversation(name.id()))?;
    Ok(head.filter(|head| head.name == *name))
}

/// Messages of `[from, to)`: ascending, or descending from `to - 1`. Ends before the message that would exceed
/// `max_bytes`, but always holds one if there is one.
pub fn messages(
    view: &dyn View,
    name: &ConversationName,
    from: Seq,
    to: Seq,
    direction: Direction,
    max_messages: usize,
    max_bytes: u64,
) -> Result<Vec<MessageRecord>, StorageError> {
    let mut found: Vec<MessageRecord> = Vec::new();
    let mut bytes = 0;
    let range = keys::message_range(name.id(), from, to);
    for row in view.scan(Table::Messages, range, direction).take(max_messages) {
        let (key, value) = row?;
        let message = MessageRecord::decode(&key, &value)?;
        bytes += message.content_bytes() as u64;
        if bytes > max_bytes && !found.is_empty() {
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

/// What became of an id.
pub fn outcome(
    view: &dyn View,
    row: &GroupRow,
    name: &ConversationName,
    id: &IdKey,
    issued_at: Timestamp,
) -> Result<OutcomeState, StorageError> {
    let key = keys::dedup(name.id(), &id.sender, &id.client_msg_id);
    let known: Option<DedupRow> = record(view, &key)?;
    Ok(match known.filter(|known| known.issued_at >= row.dedup_floor) {
        Some(DedupRow { outcome: DedupOutcome::Committed { seq, commit_time, .. }, .. }) => {
            OutcomeState::Committed { seq, commit_time }
        }
        Some(DedupRow { outcome: DedupOutcome::Burnt, .. }) => OutcomeState::Burnt,
        None if issued_at < row.dedup_floor => OutcomeState::TooOld { floor: row.dedup_floor },
        None => OutcomeState::NotCommitted,
    })
}

/// Up to `limit` heads of conversations that are `held`, whose names start with `prefix` and follow `after`, in
/// name order.
pub fn list(
    view: &dyn View,
    held: &dyn Fn(PlacementHash) -> bool,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ConversationHead>, StorageError> {
    let mut start = prefix.as_bytes().to_vec();
    if let Some(after) = after.filter(|after| after.as_bytes() >= prefix.as_bytes()) {
        start = after.as_bytes().to_vec();
        start.push(0);
    }
    let mut heads = Vec::new();
    let range = KeyRange { start, end: None };
    for row in view.scan(Table::Names, range, Direction::Forward) {
        let (key, _) = row?;
        if heads.len() == limit || !key.starts_with(prefix.as_bytes()) {
            break;
        }
        let Ok(text) = std::str::from_utf8(&key) else { continue };
        let name = ConversationName(text.to_owned());
        if held(name.id().placement()) {
            heads.extend(head(view, &name)?);
        }
    }
    Ok(heads)
}

fn record<R: Record>(view: &dyn View, key: &[u8]) -> Result<Option<R>, StorageError> {
    view.get(R::TABLE, key)?.map(|value| R::decode(key, &value)).transpose()
}
