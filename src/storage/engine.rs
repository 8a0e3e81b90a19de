//! The contract between everything above and whatever keeps the bytes. `rocks` and `memory` implement it, and one
//! conformance suite runs over both.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::Table;

/// What can go wrong below.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The engine or the operating system refused: the node has to stop, because what is on disk is not known.
    #[error("storage failed while {action}: {reason}")]
    Failed {
        /// What was being done.
        action: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// What was read is not what was written.
    #[error("damaged data in {place}: {reason}")]
    Damaged {
        /// Table and key, or file.
        place: String,
        /// How it was noticed.
        reason: String,
    },
    /// The last write was interrupted, and what is left of it was not to be removed.
    #[error("a power cut has torn the end of {place}: start the node, which drops it")]
    Torn {
        /// The file.
        place: String,
    },
    /// Written by a newer version of this software.
    #[error("{what} has format version {found}, and this software knows up to {known}")]
    Newer {
        /// Which record or file.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
}

impl StorageError {
    /// Whether a node goes on only after a start, or not at all on this data: the rest concerns one record or file.
    pub(super) fn stops_a_node(&self) -> bool {
        matches!(self, StorageError::Failed { .. } | StorageError::Damaged { .. })
    }
}

/// Half-open range of keys; no `end` means to the end of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key inside.
    pub start: Vec<u8>,
    /// The first key above that is outside.
    pub end: Option<Vec<u8>>,
}

/// Whether no key can be in the range.
pub(super) fn is_empty(range: &KeyRange) -> bool {
    range.end.as_ref().is_some_and(|end| *end <= range.start)
}

/// Refuses the name of a staging area that could not be a folder's.
pub(super) fn check_staging_name(name: &str) -> Result<(), StorageError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(plain) {
        return Ok(());
    }
    Err(StorageError::Failed {
        action: "naming a staging area",
        reason: format!("{name:?} may have only letters, digits, '-' and '_'"),
    })
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

/// Whether a write has to be on stable storage when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the write-ahead log and synced on return.
    Synced,
    /// In memory, and on disk after the next completed flush. Lost with the process.
    Flushed,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Removes a key.
    Delete(Table, Vec<u8>),
    /// Removes a range of keys.
    DeleteRange(Table, KeyRange),
}

impl Op {
    /// The table that it changes.
    pub fn table(&self) -> Table {
        match self {
            Op::Put(table, ..) | Op::Delete(table, _) | Op::DeleteRange(table, _) => *table,
        }
    }
}

/// Changes that take effect together, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes.
    pub ops: Vec<Op>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.ops.push(Op::Put(table, key, value));
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.ops.push(Op::Delete(table, key));
    }

    /// Removes a range of keys.
    pub fn delete_range(&mut self, table: Table, range: KeyRange) {
        self.ops.push(Op::DeleteRange(table, range));
    }
}

/// Rows of a scan, in order.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>> + Send + 'a>;

/// How likely it is that rows are soon read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Likely: a cache may keep them.
    Often,
    /// Not likely, and there may be many: what is in a cache is to stay there.
    Once,
}

/// Is shown a key and its value, and says whether it wants to see more.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, StorageError> + 'a;

/// Reading. A value is returned as stored; its checksum is verified by the record's decoder, and whoever decodes says
/// with [`View::note_damage`] what came of it.
pub trait View: Send + Sync {
    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Fails the database if `error` says that what was read through this view is damaged, as damage does that the
    /// engine finds by itself. For what only a reader can see: a record's checksum, a row that is missing.
    fn note_damage(&self, error: &StorageError);

    /// The rows of a range. A scan sees the state at its start.
    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_>;

    /// Shows the rows that a scan would return to `visit`, without a copy of each, until that returns false.
    ///
    /// # Errors
    /// As a scan, or as `visit`.
    fn visit(
        &self,
        table: Table,
        range: KeyRange,
        direction: Direction,
        _access: Access,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        for row in self.scan(table, range, direction) {
            let (key, value) = row?;
            if !visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }
}

/// One database of a node. All calls block; callers on a runtime thread use [`Engine::offload`] for what may wait
/// for a disk.
pub trait Engine: View {
    /// Applies a batch: all of it or, after a crash, none.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError>;

    /// Writes a batch with [`Durability::Synced`] from a task that this engine hosts. A real disk blocks the task's
    /// thread meanwhile; a simulated one lets time pass, in which the node can crash. If the future is dropped the
    /// batch may be there or not.
    fn write_synced(&self, batch: Batch) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(std::future::ready(self.write(batch, Durability::Synced)))
    }

    /// Makes everything written before the call durable, all tables at once: after a crash either all of it is
    /// there or what the flush before left.
    fn flush(&self) -> Result<(), StorageError>;

    /// The present state, held for reading until dropped.
    fn pin(&self) -> Arc<dyn View>;

    /// Begins an empty staging area under this name, outside the tables; one of that name is removed first. Names
    /// have letters, digits, '-' and '_'.
    fn stage(&self, name: &str) -> Result<Box<dyn Staging>, StorageError>;

    /// For each table with a range given: removes the range, flushes, and brings in the sealed rows of that table.
    /// Not atomic: the caller marks the operation and repeats it after a crash, with the same result.
    ///
    /// # Errors
    /// Damage if the area is not sealed, or not whole any more; nothing has been removed then.
    fn bring_in(&self, name: &str, clear: &[(Table, KeyRange)]) -> Result<(), StorageError>;

    /// Removes a staging area, sealed or not; nothing happens if there is none.
    fn unstage(&self, name: &str) -> Result<(), StorageError>;

    /// Names of the staging areas there are, sealed or not, in order.
    fn staged(&self) -> Result<Vec<String>, StorageError>;

    /// Runs a job that blocks where it delays nobody: on a thread for blocking work, or at once in a simulation.
    fn offload(&self, job: Box<dyn FnOnce() + Send>);

    /// Runs a long-lived task that blocks in calls of this engine: on a thread of its own that bears the name, or
    /// beside all others in a simulation. Must be called on a runtime; timers work inside while it runs.
    fn host(&self, name: &'static str, task: BoxFuture<'static, ()>);

    /// Lets no compaction begin, or lets them begin again: they take room before they give any back, and what is left of a
    /// disk is for the writes. Those under way go on. Blocks. An engine that has none has nothing to do.
    fn hold_compactions(&self, _hold: bool) -> Result<(), StorageError> {
        Ok(())
    }

    /// Fails the database because of an error that stopped whoever met it for good, though it may have passed by now: only
    /// the next start goes on from what is on disk. What a newer version wrote, or a power cut has torn, fails nothing: it
    /// would be met again.
    fn note_failure(&self, error: &StorageError);

    /// The first failure since opening that no caller can mend: of a write, in the background, damage that a read found,
    /// or one that was noted. After one the node has to stop.
    fn background_error(&self) -> Option<StorageError>;
}

/// Rows on their way into the tables.
pub trait Staging: Send {
    /// Adds a row. Keys of one table ascend; tables may alternate.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StorageError>;

    /// Makes the rows durable under the staging area's name.
    fn seal(self: Box<Self>) -> Result<(), StorageError>;
}
