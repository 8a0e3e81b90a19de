//! Reading Raft logs: bounded, and verified entry by entry.

use std::ops::Range;

use super::records::{EntryRecord, Record};
use super::{Direction, StorageError, Table, View, keys};
use crate::types::{GroupId, LogIndex};

/// Entries of a group in `[start, end)`: at least one if there is one, and no more than about `bytes_max`. Fewer are
/// returned where the log ends; a hole is damage.
pub fn read_entries(
    view: &dyn View,
    group: GroupId,
    range: Range<LogIndex>,
    bytes_max: usize,
) -> Result<Vec<EntryRecord>, StorageError> {
    let keys = keys::raft_log_range(group, range.start, Some(range.end));
    let mut entries: Vec<EntryRecord> = Vec::new();
    let mut bytes = 0;
    for row in view.scan(Table::RaftLog, keys, Direction::Forward) {
        let (key, value) = row?;
        bytes += value.len();
        if !entries.is_empty() && bytes > bytes_max {
            break;
        }
        let entry = EntryRecord::decode(&key, &value)?;
        let index = entry.log_id.index.0;
        if entries.last().is_some_and(|last| last.log_id.index.0.checked_add(1) != Some(index)) {
            return Err(StorageError::Damaged {
                place: format!("log of group {group}"),
                reason: format!("entry {index} follows a hole"),
            });
        }
        entries.push(entry);
    }
    Ok(entries)
}
