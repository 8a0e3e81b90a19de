//! Access, of the present state and of a pinned one.

#![allow(clippy::mem_forget, reason = "what self_cell generates")]

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rocksdb::{ColumnFamily, DB, IteratorMode, ReadOptions, Snapshot};
use self_cell::self_cell;

use super::expiry::ExpiryHold;
use super::storage_error;
use crate::storage::engine::is_empty;
use crate::storage::{Access, Direction, KeyRange, Rows, StorageError, Table, View, Visit};

self_cell!(
    /// A snapshot together with the database that it borrows from.
    struct OwnedSnapshot {
        owner: Arc<DB>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// The first failure of a database: it is not written any more, and its node stops.
pub(super) type Failure = OnceLock<StorageError>;

/// The state at one moment, until dropped.
pub(super) struct PinnedView {
    snapshot: OwnedSnapshot,
    failure: Arc<Failure>,
    _hold: ExpiryHold,
}

impl PinnedView {
    pub(super) fn new(db: Arc<DB>, failure: Arc<Failure>, hold: ExpiryHold) -> Self {
        let snapshot = OwnedSnapshot::new(db, |db| db.snapshot());
        PinnedView { snapshot, failure, _hold: hold }
    }
}

impl View for PinnedView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let snapshot = Some(self.snapshot.borrow_dependent());
        get(self.snapshot.borrow_owner(), &self.failure, snapshot, table, key)
    }

    fn note_damage(&self, error: &StorageError) {
        note_damage(&self.failure, error);
    }

    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_> {
        let snapshot = Some(self.snapshot.borrow_dependent());
        scan(self.snapshot.borrow_owner(), &self.failure, snapshot, table, range, direction)
    }

    fn visit(
        &self,
        table: Table,
        range: KeyRange,
        direction: Direction,
        access: Access,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        if is_empty(&range) {
            return Ok(());
        }
        let db = self.snapshot.borrow_owner();
        let mut options = range_options(Some(self.snapshot.borrow_dependent()), range);
        options.fill_cache(access == Access::Often);
        let mut rows = db.raw_iterator_cf_opt(family(db, table)?, options);
        match direction {
            Direction::Forward => rows.seek_to_first(),
            Direction::Backward => rows.seek_to_last(),
        }
        while let Some((key, value)) = rows.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.prev(),
            }
        }
        rows.status().map_err(|error| read_error("scanning rows", &self.failure, error))
    }
}

pub(super) fn family(db: &DB, table: Table) -> Result<&ColumnFamily, StorageError> {
    db.cf_handle(table.name()).ok_or_else(|| StorageError::Failed {
        action: "choosing a table",
        reason: format!("{} is not in {}", table.name(), db.path().display()),
    })
}

/// Damage fails the database as a whole: its files are shared by all groups of the node, and a compaction would meet
/// the same block.
pub(super) fn note_damage(failure: &Failure, error: &StorageError) {
    if matches!(error, StorageError::Damaged { .. }) {
        let _ = failure.set(error.clone());
    }
}

fn read_error(action: &'static str, failure: &Failure, error: rocksdb::Error) -> StorageError {
    let error = storage_error(action, error);
    note_damage(failure, &error);
    error
}

pub(super) fn get(
    db: &DB,
    failure: &Failure,
    snapshot: Option<&Snapshot<'_>>,
    table: Table,
    key: &[u8],
) -> Result<Option<Bytes>, StorageError> {
    db.get_cf_opt(family(db, table)?, key, &read_options(snapshot))
        .map(|value| value.map(Bytes::from))
        .map_err(|error| read_error("reading a row", failure, error))
}

pub(super) fn scan<'a>(
    db: &'a DB,
    failure: &'a Failure,
    snapshot: Option<&'a Snapshot<'_>>,
    table: Table,
    range: KeyRange,
    direction: Direction,
) -> Rows<'a> {
    if is_empty(&range) {
        return Box::new(std::iter::empty());
    }
    let family = match family(db, table) {
        Ok(family) => family,
        Err(error) => return Box::new(std::iter::once(Err(error))),
    };
    let options = range_options(snapshot, range);
    let mode = match direction {
        Direction::Forward => IteratorMode::Start,
        Direction::Backward => IteratorMode::End,
    };
    let rows = db.iterator_cf_opt(family, options, mode).map(|row| {
        row.map(|(key, value)| (Bytes::from(key), Bytes::from(value)))
            .map_err(|error| read_error("scanning rows", failure, error))
    });
    Box::new(rows)
}

fn range_options(snapshot: Option<&Snapshot<'_>>, range: KeyRange) -> ReadOptions {
    let mut options = read_options(snapshot);
    options.set_iterate_lower_bound(range.start);
    if let Some(end) = range.end {
        options.set_iterate_upper_bound(end);
    }
    options
}

fn read_options(snapshot: Option<&Snapshot<'_>>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    if let Some(snapshot) = snapshot {
        options.set_snapshot(snapshot);
    }
    options
}
