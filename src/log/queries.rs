//! Reading the applied state. Pure functions over a view: pin one, so that head and messages are of one moment.
//! Everything read is verified before it is returned (guarantee G11).

use crate::storage::records::{ConversationHead, DedupRow, MessageRecord, NameRow, Record};
use crate::storage::{Access, Direction, KeyRange, StorageError, Table, View, keys};
use crate::types::{ConversationId, ConversationName, Seq, Timestamp};

use super::dedup::in_force;
use super::rows::row_of_view;
use super::{GroupState, IdKey, OutcomeState};

/// The head of a conversation; none if it has never had a message.
pub fn head(
    view: &dyn View,
    name: &ConversationName,
) -> Result<Option<ConversationHead>, StorageError> {
    let head: Option<ConversationHead> = row_of_view(view, &keys::conversation(name.id()))?;
    Ok(head.filter(|head| head.name == *name))
}

/// Whoever reads no more messages than this reads the end of a conversation, as others will; more are history, which would
/// push everything else out of a cache.
const ENDS_MESSAGES_MAX: u64 = 1_000;

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

/// The messages of a slice that can be read, in its direction, without a gap: what lies below the first seq or not
/// below the tail is left out. `head` is of the same view.
pub fn messages(
    view: &dyn View,
    head: &ConversationHead,
    slice: Slice,
) -> Result<Vec<MessageRecord>, StorageError> {
    let from = slice.from.max(head.first_seq);
    let to = slice.to.min(head.tail);
    let mut messages = Vec::new();
    if from >= to || slice.messages_max == 0 {
        return Ok(messages);
    }
    let conversation = head.name.id();
    let wanted = (to.0 - from.0).min(slice.messages_max as u64);
    let (mut bytes, mut is_full) = (0, false);
    let range = keys::message_range(conversation, from, to);
    let access = if to.0 - from.0 > ENDS_MESSAGES_MAX { Access::Once } else { Access::Often };
    view.visit(Table::Messages, range, slice.direction, access, &mut |key, value| {
        let place = messages.len() as u64;
        let seq = match slice.direction {
            Direction::Forward => from.plus(place),
            Direction::Backward => Seq(to.0 - 1 - place),
        };
        let record = verified(conversation, seq, key, value)?;
        bytes += record.content_bytes() as u64;
        is_full = bytes > slice.bytes_max && place > 0;
        if !is_full {
            messages.push(record);
        }
        Ok(!is_full && messages.len() as u64 != wanted)
    })?;
    if is_full {
        return Ok(messages);
    }
    if (messages.len() as u64) < wanted {
        let reason = format!("{} of {wanted} messages of {} are there", messages.len(), head.name);
        return Err(StorageError::Damaged { place: Table::Messages.name().to_owned(), reason });
    }
    Ok(messages)
}

/// The first seq whose commit time is not before `time`, between the first seq and the tail of `head`. Commit times
/// never go back, so this halves the range until it is found.
pub fn first_seq_at_or_after(
    view: &dyn View,
    head: &ConversationHead,
    time: Timestamp,
) -> Result<Seq, StorageError> {
    if time > head.last_commit_time {
        return Ok(head.tail);
    }
    let conversation = head.name.id();
    let (mut low, mut high) = (head.first_seq.0, head.tail.0);
    while low < high {
        let middle = low + (high - low) / 2;
        let key = keys::message(conversation, Seq(middle));
        let Some(value) = view.get(Table::Messages, &key)? else {
            let reason = format!("seq {middle} of {} is missing", head.name);
            return Err(StorageError::Damaged { place: Table::Messages.name().to_owned(), reason });
        };
        if verified(conversation, Seq(middle), &key, &value)?.commit_time < time {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(Seq(low))
}

/// What became of an id. `issued_at` is as the append carried it; without it an id that expired cannot be told from
/// one that never was. Linearizable behind a read barrier, and even then [`OutcomeState::NotCommitted`] only means
/// "not yet": `Command::Settle` gives the final answer.
pub fn outcome(
    view: &dyn View,
    group: &GroupState,
    name: &ConversationName,
    id: &IdKey,
    issued_at: Option<Timestamp>,
) -> Result<OutcomeState, StorageError> {
    let key = keys::dedup(name.id(), &id.sender, &id.client_msg_id);
    let row: Option<DedupRow> = row_of_view(view, &key)?;
    let stored: Option<ConversationHead> = row_of_view(view, &keys::conversation(name.id()))?;
    let another = stored.is_some_and(|head| head.name != *name);
    Ok(match row.filter(|row| in_force(row, group.dedup_floor) && !another) {
        Some(row) => OutcomeState::of(&row),
        None if issued_at.is_some_and(|at| at < group.dedup_floor) => {
            OutcomeState::TooOld { floor: group.dedup_floor }
        }
        None => OutcomeState::NotCommitted,
    })
}

/// Up to `limit` heads in the order of names: those whose name starts with `prefix`, follows `after`, and whose
/// conversation is `wanted` (a node may have left-over names of groups that it no longer holds).
pub fn list(
    view: &dyn View,
    wanted: impl Fn(ConversationId) -> bool,
    prefix: &str,
    after: Option<&ConversationName>,
    limit: usize,
) -> Result<Vec<ConversationHead>, StorageError> {
    let mut heads = Vec::new();
    if limit == 0 {
        return Ok(heads);
    }
    for row in view.scan(Table::Names, names_range(prefix, after), Direction::Forward) {
        let (key, value) = row?;
        let NameRow(conversation) = NameRow::decode(&key, &value)?;
        if !wanted(conversation) {
            continue;
        }
        let head: Option<ConversationHead> = row_of_view(view, &keys::conversation(conversation))?;
        heads.extend(head.filter(|head| keys::name(&head.name) == key));
        if heads.len() == limit {
            break;
        }
    }
    Ok(heads)
}

/// Keys of names that start with `prefix` and come after `after`.
fn names_range(prefix: &str, after: Option<&ConversationName>) -> KeyRange {
    let mut start = prefix.as_bytes().to_vec();
    if let Some(after) = after {
        // The next key in byte order.
        let mut next = keys::name(after);
        next.push(0);
        start = start.max(next);
    }
    // UTF-8 has no byte 0xff, so that prefix + 0xff is above every name with that prefix.
    let mut end = prefix.as_bytes().to_vec();
    end.push(0xff);
    KeyRange { end: Some(end.max(start.clone())), start }
}

/// One message as it was stored, verified.
pub fn message(
    conversation: ConversationId,
    seq: Seq,
    stored: &[u8],
) -> Result<MessageRecord, StorageError> {
    verified(conversation, seq, &keys::message(conversation, seq), stored)
}

/// The record under a key, if it is what was accepted and stands where it belongs.
pub(super) fn verified(
    conversation: ConversationId,
    seq: Seq,
    key: &[u8],
    value: &[u8],
) -> Result<MessageRecord, StorageError> {
    let record = <MessageRecord>::decode(key, value)?;
    let damaged = |reason: String| StorageError::Damaged {
        place: format!("messages, {conversation:?} seq {seq}"),
        reason,
    };
    if key != keys::message(conversation, seq) || record.seq != seq {
        return Err(damaged(format!("the message found there has seq {}", record.seq)));
    }
    let computed = crc32c::crc32c(&record.payload);
    if computed != record.payload_crc32c {
        return Err(damaged(format!(
            "the payload's checksum is {computed:08x}, and was {:08x} when it was accepted",
            record.payload_crc32c
        )));
    }
    Ok(record)
}
