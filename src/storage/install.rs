//! Taking a snapshot in so that a crash at any point is rolled forward on opening.
//!
//! Guarantees at stake: G1 and G11. The old state is removed before the new one is in, so the steps are: seal all rows
//! in a staging area; write into the group's row that this area is being installed, and flush; remove and bring in
//! table by table; write the new row, which ends the mark, and flush. Opening repeats everything after the mark.

use super::records::{ConversationHead, GroupRow, NameRow, Record};
use super::{
    Batch, Direction, Durability, Engine, KeyRange, Overlay, Staging, StorageError, Table, View,
    keys,
};
use crate::types::{GroupId, HashRange, ReplicaId};

/// Names that are written together while the listing is rebuilt.
const NAMES_PER_WRITE: usize = 1_000;

/// Rows on their way into a staging area.
pub struct SnapshotSink {
    group: GroupId,
    name: String,
    staging: Box<dyn Staging>,
}

/// A sealed staging area and the row that its rows belong to.
#[derive(Clone, Debug)]
pub struct StagedSnapshot {
    name: String,
    row: GroupRow,
}

fn staging_name(group: GroupId) -> String {
    format!("group-{group}")
}

impl SnapshotSink {
    /// Begins anew: what an earlier transfer left is removed. One transfer for each group at a time.
    pub fn begin(engine: &dyn Engine, group: GroupId) -> Result<Self, StorageError> {
        let name = staging_name(group);
        let staging = engine.stage(&name)?;
        Ok(SnapshotSink { group, name, staging })
    }

    /// Adds a row that belongs to the group's state; keys of one table ascend.
    pub fn add(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let expected = match self.group.is_meta() {
            true => table == Table::Topology,
            false => Table::BY_CONVERSATION.contains(&table),
        };
        if !expected {
            return Err(StorageError::Damaged {
                place: format!("snapshot of group {}", self.group),
                reason: format!("it has rows of {}", table.name()),
            });
        }
        self.staging.put(table, key, value)
    }

    /// Makes the rows durable.
    pub fn finish(self, row: GroupRow) -> Result<StagedSnapshot, StorageError> {
        self.staging.seal()?;
        Ok(StagedSnapshot { name: self.name, row })
    }
}

/// Replaces a group's state by a snapshot and returns the group's new row. Blocks; durable on return.
pub fn install(
    engine: &dyn Engine,
    group: GroupId,
    replica: ReplicaId,
    staged: StagedSnapshot,
) -> Result<GroupRow, StorageError> {
    let old = stored_row(engine, group)?;
    let mut new = GroupRow { replica, installing: Some(staged.name.clone()), ..staged.row };
    // The mark carries the new row already, so that rolling forward needs nothing else; until it is cleared, nothing
    // but rolling forward reads it. The range to clear is that of both states.
    let clear = union(old.and_then(|row| row.range), new.range);
    write_row(engine, group, &new)?;
    engine.flush()?;
    complete(engine, group, &mut new, clear)?;
    engine.unstage(&staged.name)?;
    Ok(new)
}

/// Finishes installs that a crash interrupted. Before anything else reads the state.
pub fn roll_forward(engine: &dyn Engine) -> Result<Vec<GroupId>, StorageError> {
    let mut finished = Vec::new();
    let whole = KeyRange { start: Vec::new(), end: None };
    let rows = engine.scan(Table::Groups, whole, Direction::Forward);
    let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    for (key, value) in rows {
        let mut row = GroupRow::decode(&key, &value)?;
        let Some(name) = row.installing.clone() else { continue };
        let id = key.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        let group = GroupId(id.ok_or_else(|| StorageError::Damaged {
            place: "groups".to_owned(),
            reason: "a key is too short".to_owned(),
        })?);
        let range = row.range;
        complete(engine, group, &mut row, range)?;
        engine.unstage(&name)?;
        finished.push(group);
    }
    Ok(finished)
}

/// Everything after the mark: the same result however often it is repeated.
fn complete(
    engine: &dyn Engine,
    group: GroupId,
    row: &mut GroupRow,
    clear: Option<HashRange>,
) -> Result<(), StorageError> {
    let name = row.installing.clone().unwrap_or_else(|| staging_name(group));
    let whole = KeyRange { start: Vec::new(), end: None };
    let tables: Vec<_> = match (group.is_meta(), clear) {
        (true, _) => vec![(Table::Topology, whole)],
        (false, Some(range)) => {
            let keys = keys::conversations_in(range);
            Table::BY_CONVERSATION.iter().map(|table| (*table, keys.clone())).collect()
        }
        (false, None) => Vec::new(),
    };
    if !tables.is_empty() {
        engine.bring_in(&name, &tables)?;
    }
    if let Some(range) = clear {
        rebuild_names(engine, range)?;
    }
    row.installing = None;
    write_row(engine, group, row)?;
    engine.flush()
}

/// The listing of names is derived: what it says of a range is thrown away and written again from the heads.
fn rebuild_names(engine: &dyn Engine, range: HashRange) -> Result<(), StorageError> {
    let whole = KeyRange { start: Vec::new(), end: None };
    let view = engine.pin();
    let mut overlay = Overlay::new(view.as_ref());
    let mut waiting = 0;
    for row in view.scan(Table::Names, whole, Direction::Forward) {
        let (key, value) = row?;
        if range.contains(NameRow::decode(&key, &value)?.0.placement()) {
            overlay.delete(Table::Names, key.to_vec());
            waiting += 1;
        }
        if waiting == NAMES_PER_WRITE {
            waiting = 0;
            write_names(engine, std::mem::replace(&mut overlay, Overlay::new(view.as_ref())))?;
        }
    }
    write_names(engine, overlay)?;
    let view = engine.pin();
    let mut overlay = Overlay::new(view.as_ref());
    let heads = keys::conversations_in(range);
    for row in view.scan(Table::Conversations, heads, Direction::Forward) {
        let (key, value) = row?;
        let head = ConversationHead::decode(&key, &value)?;
        let key = keys::name(&head.name);
        let value = NameRow(head.name.id()).encode(&key);
        overlay.put(Table::Names, key, value);
        waiting += 1;
        if waiting == NAMES_PER_WRITE {
            waiting = 0;
            write_names(engine, std::mem::replace(&mut overlay, Overlay::new(view.as_ref())))?;
        }
    }
    write_names(engine, overlay)
}

fn write_names(engine: &dyn Engine, overlay: Overlay<'_>) -> Result<(), StorageError> {
    let batch = overlay.into_batch();
    if batch.ops.is_empty() { Ok(()) } else { engine.write(batch, Durability::Flushed) }
}

fn union(one: Option<HashRange>, other: Option<HashRange>) -> Option<HashRange> {
    match (one, other) {
        (Some(one), Some(other)) => Some(HashRange {
            start: one.start.min(other.start),
            end: one.end.zip(other.end).map(|(one, other)| one.max(other)),
        }),
        (one, other) => one.or(other),
    }
}

fn stored_row(view: &dyn View, group: GroupId) -> Result<Option<GroupRow>, StorageError> {
    let key = keys::group(group);
    view.get(Table::Groups, &key)?.map(|value| GroupRow::decode(&key, &value)).transpose()
}

fn write_row(engine: &dyn Engine, group: GroupId, row: &GroupRow) -> Result<(), StorageError> {
    let key = keys::group(group);
    let value = row.encode(&key);
    let mut batch = Batch::default();
    batch.put(Table::Groups, key, value);
    engine.write(batch, Durability::Flushed)
}
