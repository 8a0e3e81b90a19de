//! Taking a snapshot in so that a crash at any point is rolled forward on opening.
//!
//! Guarantees at stake: G1 and G11. The old state is removed before the new one is in, so the steps are: seal all rows
//! in a staging area; write into the group's row that this area is being installed, and flush; remove and bring in
//! table by table; write the new row, which ends the mark, and flush. Opening repeats everything after the mark.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::records::{ConversationHead, GroupRow, NameRow, Record};
use super::{
    Batch, Direction, Durability, Engine, KeyRange, Overlay, Rows, Staging, StorageError, Table,
    View, keys,
};
use crate::seams::{crash, planted};
use crate::types::{GroupId, HashRange, ReplicaId};

/// Names that are written together while the listing is rebuilt.
const NAMES_PER_WRITE: usize = 1_000;

/// Rows on their way into a staging area.
pub struct SnapshotSink {
    group: GroupId,
    area: StagingArea,
    staging: Box<dyn Staging>,
}

/// A sealed staging area and the row that its rows belong to.
#[derive(Debug)]
pub struct StagedSnapshot {
    area: StagingArea,
    row: GroupRow,
}

/// A staging area of one transfer, removed with its owner unless an install has begun: from then on the mark in the
/// group's row names it, and rolling forward needs it.
struct StagingArea {
    engine: Arc<dyn Engine>,
    name: String,
    is_installing: AtomicBool,
}

impl StagingArea {
    /// If it stays, the next start removes it.
    fn remove(&self) {
        if let Err(error) = self.engine.unstage(&self.name) {
            tracing::warn!(name = self.name, %error, "a staging area could not be removed");
        }
    }
}

impl Drop for StagingArea {
    fn drop(&mut self) {
        if !self.is_installing.load(Ordering::Acquire) {
            self.remove();
        }
    }
}

impl fmt::Debug for StagingArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl StagedSnapshot {
    /// The group's row as of the snapshot.
    pub fn row(&self) -> &GroupRow {
        &self.row
    }
}

impl SnapshotSink {
    /// Begins a transfer, in an area of its own: two leaders may send at the same time, and what one of them has sent
    /// must never be sealed by the other. `transfer` is a number that this process gave to no other transfer.
    pub fn begin(
        engine: Arc<dyn Engine>,
        group: GroupId,
        transfer: u64,
    ) -> Result<Self, StorageError> {
        let name = format!("group-{group}-{transfer}");
        let staging = engine.stage(&name)?;
        let area = StagingArea { engine, name, is_installing: AtomicBool::new(false) };
        Ok(SnapshotSink { group, area, staging })
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
        crash::staging_sealed();
        Ok(StagedSnapshot { area: self.area, row })
    }
}

/// Replaces a group's state by a snapshot and returns the group's new row. Blocks; durable on return.
pub fn install(
    engine: &dyn Engine,
    group: GroupId,
    replica: ReplicaId,
    staged: StagedSnapshot,
) -> Result<GroupRow, StorageError> {
    let StagedSnapshot { area, row } = staged;
    let old = stored_row(engine, group)?;
    let mark = Some(area.name.clone()).filter(|_| !planted::non_atomic_install());
    let mut new = GroupRow { replica, installing: mark, ..row };
    // The mark carries the new row already, so that rolling forward needs nothing else; until it is cleared, nothing
    // but rolling forward reads it. The range to clear is that of both states.
    let clear = union(old.and_then(|row| row.range), new.range);
    area.is_installing.store(true, Ordering::Release);
    write_row(engine, group, &new)?;
    engine.flush()?;
    crash::install_marked();
    complete(engine, group, &mut new, &area.name, clear)?;
    crash::install_complete();
    // The new state is in and durable: what is left of the area is no reason to stop.
    area.remove();
    Ok(new)
}

/// Removes a group's state, its row included, in one flush: whatever a crash leaves, the row tells whether the rest is
/// there. Blocks; durable on return.
pub fn remove(
    engine: &dyn Engine,
    group: GroupId,
    range: Option<HashRange>,
) -> Result<(), StorageError> {
    let mut batch = Batch::default();
    if let Some(range) = range {
        // The listing of other groups shares the table, so it goes name by name, and first: as long as the row is
        // there, this is done again.
        forget_names(engine, range)?;
        for table in Table::BY_CONVERSATION {
            batch.delete_range(*table, keys::conversations_in(range));
        }
    }
    if group.is_meta() {
        batch.delete(Table::Topology, keys::topology());
    }
    batch.delete(Table::Groups, keys::group(group));
    engine.write(batch, Durability::Flushed)?;
    engine.flush()
}

/// Finishes installs that a crash interrupted and removes what transfers that did not get that far have left. Before
/// anything else reads the state.
pub fn roll_forward(engine: &dyn Engine) -> Result<Vec<GroupId>, StorageError> {
    let mut finished = Vec::new();
    let rows = engine.scan(Table::Groups, whole_table(), Direction::Forward);
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
        complete(engine, group, &mut row, &name, range)?;
        engine.unstage(&name)?;
        finished.push(group);
    }
    for name in engine.staged()? {
        engine.unstage(&name)?;
    }
    Ok(finished)
}

/// Everything after the mark: the same result however often it is repeated.
fn complete(
    engine: &dyn Engine,
    group: GroupId,
    row: &mut GroupRow,
    name: &str,
    clear: Option<HashRange>,
) -> Result<(), StorageError> {
    let tables: Vec<_> = match (group.is_meta(), clear) {
        (true, _) => vec![(Table::Topology, whole_table())],
        (false, Some(range)) => {
            let keys = keys::conversations_in(range);
            Table::BY_CONVERSATION.iter().map(|table| (*table, keys.clone())).collect()
        }
        (false, None) => Vec::new(),
    };
    if !tables.is_empty() {
        engine.bring_in(name, &tables)?;
    }
    if let Some(range) = clear {
        rebuild_names(engine, range)?;
    }
    crash::install_listed();
    row.installing = None;
    write_row(engine, group, row)?;
    crash::install_unmarked();
    engine.flush()
}

/// The listing of names is derived: what it says of a range is thrown away and written again from the heads.
fn rebuild_names(engine: &dyn Engine, range: HashRange) -> Result<(), StorageError> {
    forget_names(engine, range)?;
    let view = engine.pin();
    let heads = keys::conversations_in(range);
    let heads = view.scan(Table::Conversations, heads, Direction::Forward);
    write_names(engine, view.as_ref(), heads, |overlay, key, value| {
        let head = ConversationHead::decode(key, value)?;
        let key = keys::name(&head.name);
        let value = NameRow(head.name.id()).encode(&key);
        overlay.put(Table::Names, key, value);
        Ok(())
    })
}

fn forget_names(engine: &dyn Engine, range: HashRange) -> Result<(), StorageError> {
    let view = engine.pin();
    let names = view.scan(Table::Names, whole_table(), Direction::Forward);
    write_names(engine, view.as_ref(), names, |overlay, key, value| {
        if range.contains(NameRow::decode(key, value)?.0.placement()) {
            overlay.delete(Table::Names, key.to_vec());
        }
        Ok(())
    })
}

/// Changes names as `rows` say, in writes of a bounded size.
fn write_names(
    engine: &dyn Engine,
    view: &dyn View,
    rows: Rows<'_>,
    change: impl Fn(&mut Overlay<'_>, &[u8], &[u8]) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let mut rows = rows.peekable();
    while rows.peek().is_some() {
        let mut overlay = Overlay::new(view);
        for row in rows.by_ref().take(NAMES_PER_WRITE) {
            let (key, value) = row?;
            change(&mut overlay, &key, &value)?;
        }
        let batch = overlay.into_batch();
        if !batch.ops.is_empty() {
            engine.write(batch, Durability::Flushed)?;
        }
    }
    Ok(())
}

fn whole_table() -> KeyRange {
    KeyRange { start: Vec::new(), end: None }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Database, MemoryDisk};
    use crate::types::{Incarnation, NodeId};

    const GROUP: GroupId = GroupId(3);

    fn row() -> GroupRow {
        let replica = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
        GroupRow { range: Some(HashRange::ALL), ..GroupRow::blank(replica) }
    }

    fn add(sink: &mut SnapshotSink, key: &[u8]) {
        sink.add(Table::Messages, key, b"value").unwrap();
    }

    fn messages(engine: &dyn Engine) -> Vec<Vec<u8>> {
        let whole = KeyRange { start: Vec::new(), end: None };
        let rows = engine.scan(Table::Messages, whole, Direction::Forward);
        rows.map(|row| row.unwrap().0.to_vec()).collect()
    }

    /// Breaks G1 if it fails: a leader's whole snapshot would be replaced by another's half.
    #[test]
    fn transfers_of_two_leaders_do_not_touch_each_other() {
        let disk = MemoryDisk::new(Database::State);
        let engine: Arc<dyn Engine> = Arc::new(disk.open());
        let mut older = SnapshotSink::begin(engine.clone(), GROUP, 1).unwrap();
        add(&mut older, b"older 1");
        let mut newer = SnapshotSink::begin(engine.clone(), GROUP, 2).unwrap();
        add(&mut newer, b"newer 1");
        add(&mut older, b"older 2");
        let older = older.finish(row()).unwrap();
        add(&mut newer, b"newer 2");
        let newer = newer.finish(row()).unwrap();
        install(engine.as_ref(), GROUP, row().replica, newer).unwrap();
        assert_eq!(messages(engine.as_ref()), [b"newer 1", b"newer 2"]);
        assert_eq!(engine.staged().unwrap(), ["group-3-1"]);
        drop(older);
        assert!(engine.staged().unwrap().is_empty(), "what was not installed is removed");
    }

    #[test]
    fn a_transfer_that_a_crash_cut_off_leaves_nothing() {
        let disk = MemoryDisk::new(Database::State);
        let engine: Arc<dyn Engine> = Arc::new(disk.open());
        let mut sink = SnapshotSink::begin(engine.clone(), GROUP, 1).unwrap();
        add(&mut sink, b"row");
        disk.crash();
        let reopened = disk.open();
        assert_eq!(roll_forward(&reopened).unwrap(), []);
        assert!(reopened.staged().unwrap().is_empty());
    }
}
