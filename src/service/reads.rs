//! What the service reads from a group's state: the queries of floor 2, and what is beyond them. Everything that the
//! service reads through a view is read here, and damage that is found in it fails the database (guarantee G11).

use super::errors::CallError;
pub use crate::log::queries::{Slice, message};
use crate::log::{GroupState, IdKey, OutcomeState, queries};
use crate::storage::records::{ConversationHead, GroupRow, MessageRecord, Record};
use crate::storage::{StorageError, View, keys};
use crate::types::{ConversationId, ConversationName, GroupId, ReplicaId, Seq, Timestamp};

/// The row of a group's replica: what it holds and how far it has applied. Whoever reads anything of a group through a
/// pinned view reads this from the same view (G2).
///
/// # Errors
/// Retryable while a snapshot is being installed: the group's rows are then neither the old state nor the new one. And
/// where another replica stands in the place of this one, which was made anew since it was found: what this one had
/// applied when a read was confirmed, or a delivery begun, is not there yet (G3, G6, G10).
pub fn group_row(
    view: &dyn View,
    group: GroupId,
    replica: ReplicaId,
) -> Result<GroupRow, CallError> {
    let key = keys::group(group);
    let stored = view.get(GroupRow::TABLE, &key)?;
    let row = stored.map(|value| GroupRow::decode(&key, &value)).transpose();
    let row = row.inspect_err(|error| view.note_damage(error))?;
    match row.filter(|row| row.replica == replica) {
        Some(row) if row.installing.is_some() => Err(CallError::installing()),
        Some(row) => Ok(row),
        None => Err(CallError::replica_gone()),
    }
}

/// [`queries::head`].
pub fn head(
    view: &dyn View,
    name: &ConversationName,
) -> Result<Option<ConversationHead>, StorageError> {
    queries::head(view, name).inspect_err(|error| view.note_damage(error))
}

/// [`queries::messages`].
pub fn messages(
    view: &dyn View,
    head: &ConversationHead,
    slice: Slice,
) -> Result<Vec<MessageRecord>, StorageError> {
    queries::messages(view, head, slice).inspect_err(|error| view.note_damage(error))
}

/// [`queries::first_seq_at_or_after`].
pub fn first_seq_at_or_after(
    view: &dyn View,
    head: &ConversationHead,
    time: Timestamp,
) -> Result<Seq, StorageError> {
    queries::first_seq_at_or_after(view, head, time).inspect_err(|error| view.note_damage(error))
}

/// [`queries::list`].
pub fn list(
    view: &dyn View,
    wanted: impl Fn(ConversationId) -> bool,
    prefix: &str,
    after: Option<&ConversationName>,
    limit: usize,
) -> Result<Vec<ConversationHead>, StorageError> {
    let listed = queries::list(view, wanted, prefix, after, limit);
    listed.inspect_err(|error| view.note_damage(error))
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
    let outcome = queries::outcome(view, &GroupState::of(group, row), name, id, issued_at);
    outcome.inspect_err(|error| view.note_damage(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Batch, Database, Durability, Engine, MemoryDisk};
    use crate::types::{Incarnation, NodeId};

    #[test]
    fn nothing_is_read_of_a_group_while_a_snapshot_is_being_installed_or_by_an_older_replica() {
        let engine = MemoryDisk::new(Database::State).open();
        let group = GroupId(3);
        let store = |row: &GroupRow| {
            let key = keys::group(group);
            let mut batch = Batch::default();
            batch.put(GroupRow::TABLE, key.clone(), row.encode(&key));
            engine.write(batch, Durability::Flushed).unwrap();
        };
        let [first, second] =
            [1, 2].map(|at| ReplicaId { node: NodeId(1), incarnation: Incarnation(at) });
        let is_refused = |replica| {
            let error = group_row(&engine, group, replica).unwrap_err();
            assert!(error.is_retryable() && !error.may_have_taken_effect(), "{error}");
        };
        is_refused(first);
        let row = GroupRow::blank(first);
        store(&row);
        assert_eq!(group_row(&engine, group, first).unwrap(), row);
        store(&GroupRow { installing: Some("group-3".to_owned()), ..row });
        is_refused(first);
        store(&GroupRow::blank(second));
        is_refused(first);
        assert_eq!(group_row(&engine, group, second).unwrap(), GroupRow::blank(second));
    }
}
