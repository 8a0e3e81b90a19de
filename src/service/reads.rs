//! What the service reads from a group's state beyond the queries of floor 2.

use super::errors::CallError;
pub use crate::log::queries::{Slice, first_seq_at_or_after, head, list, message, messages};
use crate::log::{GroupState, IdKey, OutcomeState, queries};
use crate::storage::records::{GroupRow, Record};
use crate::storage::{StorageError, View, keys};
use crate::types::{ConversationName, GroupId, Timestamp};

/// A group's own row: what it holds and how far it has applied. Whoever reads anything of a group through a pinned
/// view reads this from the same view (G2).
///
/// # Errors
/// Retryable while a snapshot is being installed: the group's rows are then neither the old state nor the new one.
pub fn group_row(view: &dyn View, group: GroupId) -> Result<Option<GroupRow>, CallError> {
    let key = keys::group(group);
    let stored = view.get(GroupRow::TABLE, &key)?;
    let row = stored.map(|value| GroupRow::decode(&key, &value)).transpose()?;
    match row {
        Some(row) if row.installing.is_some() => Err(CallError::installing()),
        row => Ok(row),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Batch, Database, Durability, Engine, MemoryDisk};
    use crate::types::{Incarnation, NodeId, ReplicaId};

    #[test]
    fn nothing_is_read_of_a_group_while_a_snapshot_is_being_installed() {
        let engine = MemoryDisk::new(Database::State).open();
        let group = GroupId(3);
        let store = |row: &GroupRow| {
            let key = keys::group(group);
            let mut batch = Batch::default();
            batch.put(GroupRow::TABLE, key.clone(), row.encode(&key));
            engine.write(batch, Durability::Flushed).unwrap();
        };
        assert_eq!(group_row(&engine, group).unwrap(), None);
        let row = GroupRow::blank(ReplicaId { node: NodeId(1), incarnation: Incarnation(1) });
        store(&row);
        assert_eq!(group_row(&engine, group).unwrap(), Some(row.clone()));
        store(&GroupRow { installing: Some("group-3".to_owned()), ..row });
        let error = group_row(&engine, group).unwrap_err();
        assert!(error.is_retryable() && !error.may_have_taken_effect(), "{error}");
    }
}
