//! The sending side of a snapshot: rows read in bounded parts from a pinned view of the live state.

use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::state_machine::Applied;
use crate::storage::install::{SnapshotSink, StagedSnapshot};
use crate::storage::records::{self, GroupRow, Record};
use crate::storage::{Direction, Engine, KeyRange, StorageError, Table, View, keys};
use crate::types::{GroupId, LogIndex};

/// Bytes of rows read at one time.
const PART_BYTES_TARGET: usize = 1024 * 1024;

/// The number of a transfer within this process, of which a replica takes one at a time. Those over the network count
/// from 1.
const WITHOUT_A_WIRE: u64 = 0;

/// What can send a replica's state. Clones share it.
#[derive(Clone)]
pub struct SnapshotSource {
    group: GroupId,
    applied: Arc<Applied>,
    /// The entries behind which the log is kept.
    held: Arc<Mutex<Vec<LogIndex>>>,
}

/// While it lives, the log behind an entry is kept, so that whoever has the state as of that entry can go on from there.
pub struct LogHold {
    held: Arc<Mutex<Vec<LogIndex>>>,
    index: LogIndex,
}

/// The rows of one transfer.
pub struct SnapshotReader {
    view: Arc<dyn View>,
    row: GroupRow,
    ranges: Vec<(Table, KeyRange)>,
}

/// A row of a snapshot.
pub type SnapshotRow = (Table, Bytes, Bytes);

impl SnapshotSource {
    /// The source of a replica.
    pub fn new(group: GroupId, applied: Arc<Applied>) -> Self {
        SnapshotSource { group, applied, held: Arc::default() }
    }

    /// Which group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The replica's applied state.
    pub(super) fn applied(&self) -> &Arc<Applied> {
        &self.applied
    }

    /// Stages the present state for a replica of `group` in the same process: what a transfer does, without a wire.
    /// Blocks. Nothing is staged if the source is of another group.
    pub fn stage_into(
        &self,
        group: GroupId,
        engine: Arc<dyn Engine>,
    ) -> Result<StagedSnapshot, StorageError> {
        if group != self.group {
            return Err(StorageError::Failed {
                action: "staging a snapshot",
                reason: format!("it is of group {} and not of {group}", self.group),
            });
        }
        let mut reader = self.open()?;
        let mut sink = SnapshotSink::begin(engine, group, WITHOUT_A_WIRE)?;
        loop {
            let part = reader.next_part()?;
            if part.is_empty() {
                return sink.finish(reader.row().clone());
            }
            for (table, key, value) in part {
                sink.add(table, &key, &value)?;
            }
        }
    }

    /// Pins the present state for one transfer.
    pub fn open(&self) -> Result<SnapshotReader, StorageError> {
        let view = self.applied.engine().pin();
        let key = keys::group(self.group);
        let stored = view.get(Table::Groups, &key)?;
        let row = stored.map(|value| GroupRow::decode(&key, &value)).transpose();
        let row = row.inspect_err(|error| view.note_damage(error))?;
        let row = row.unwrap_or_else(|| GroupRow::blank(self.applied.replica()));
        // Kept from the back: the reader takes ranges from the end.
        let mut ranges = match (self.group.is_meta(), row.range) {
            (true, _) => vec![(Table::Topology, whole_table())],
            (false, Some(range)) => {
                let keys = keys::conversations_in(range);
                Table::BY_CONVERSATION.iter().map(|table| (*table, keys.clone())).collect()
            }
            (false, None) => Vec::new(),
        };
        ranges.reverse();
        Ok(SnapshotReader { view, row, ranges })
    }

    /// Keeps the log behind an entry while the result lives.
    pub fn hold_log(&self, index: LogIndex) -> LogHold {
        self.held.lock().expect("no panic while locked").push(index);
        LogHold { held: self.held.clone(), index }
    }

    /// The log behind this entry is needed by a transfer under way.
    pub fn keep_from(&self) -> Option<LogIndex> {
        self.held.lock().expect("no panic while locked").iter().min().copied()
    }

    /// Runs a job that reads from disk where it blocks nobody.
    pub fn offload(&self, job: Box<dyn FnOnce() + Send>) {
        self.applied.engine().offload(job);
    }
}

impl fmt::Debug for SnapshotSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replica = self.applied.replica();
        f.debug_struct("SnapshotSource")
            .field("group", &self.group)
            .field("replica", &replica)
            .finish_non_exhaustive()
    }
}

fn whole_table() -> KeyRange {
    KeyRange { start: Vec::new(), end: None }
}

impl SnapshotReader {
    /// The group's row as of the snapshot.
    pub fn row(&self) -> &GroupRow {
        &self.row
    }

    /// The next rows, each of them verified; none at the end. Blocks on the disk.
    pub fn next_part(&mut self) -> Result<Vec<SnapshotRow>, StorageError> {
        let mut part = Vec::new();
        let mut bytes = 0;
        while let Some((table, range)) = self.ranges.pop() {
            let end = range.end.clone();
            let mut resume = None;
            for row in self.view.scan(table, range, Direction::Forward) {
                let (key, value) = row?;
                let verified = records::verify(table, &key, &value);
                verified.inspect_err(|error| self.view.note_damage(error))?;
                bytes += key.len() + value.len();
                let mut after = key.to_vec();
                after.push(0);
                part.push((table, key, value));
                if bytes >= PART_BYTES_TARGET {
                    resume = Some(after);
                    break;
                }
            }
            if let Some(start) = resume {
                self.ranges.push((table, KeyRange { start, end }));
                return Ok(part);
            }
        }
        Ok(part)
    }
}

impl Drop for LogHold {
    fn drop(&mut self) {
        let mut held = self.held.lock().expect("no panic while locked");
        if let Some(at) = held.iter().position(|index| *index == self.index) {
            held.swap_remove(at);
        }
    }
}
