//! What the service reads from a group's state beyond the queries of floor 2.

pub use crate::log::queries::{Slice, first_seq_at_or_after, head, list, messages};
use crate::log::{GroupState, IdKey, OutcomeState, queries};
use crate::storage::records::{GroupRow, Record};
use crate::storage::{StorageError, View, keys};
use crate::types::{ConversationName, GroupId, Timestamp};

/// A group's own row: what it holds and how far it has applied.
pub fn group_row(view: &dyn View, group: GroupId) -> Result<Option<GroupRow>, StorageError> {
    let key = keys::group(group);
    view.get(GroupRow::TABLE, &key)?.map(|value| GroupRow::decode(&key, &value)).transpose()
}

/// What became of an id, as of a group's row.
pub fn outcome(
    view: &dyn View,
    group: GroupId,
    row: &GroupRow,
    name: &ConversationName,
    id: &IdKey,
    issued_at: Option<Timestamp>,
) -> Result<OutcomeState, StorageError> {
    queries::outcome(view, &GroupState::of(group, row), name, id, issued_at)
}
