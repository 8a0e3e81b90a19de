//! What the logs of a node hold after opening, and whether a replica may rely on it.
//!
//! Guarantees at stake: G1 and G11. A write-ahead log that was shortened or lost looks like a power cut to RocksDB, and
//! a replica that forgot a vote or an acknowledged entry is an amnesiac voter. So each log is checked for holes, for
//! order, and against the watermark, before Raft sees anything.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::keys::RaftMetaField;
use super::records::{EntryRecord, GroupRow, LogId, LogIdRecord, OwnedRecord, Record, VoteRecord};
use super::small_file::SmallFile;
use super::watermark::{GroupMark, Watermark, WatermarkFile};
use super::{Direction, Engine, KeyRange, StorageError, Table, View, install, keys};
use crate::seams::planted;
use crate::types::{GroupId, LogIndex};

/// What a healthy log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLogState {
    /// The vote.
    pub vote: Option<VoteRecord>,
    /// Up to where it was purged.
    pub purged: Option<LogId>,
    /// The last entry, or the purge mark if there is none behind it.
    pub last: Option<LogId>,
    /// A recent committed log id, of an entry that the log holds.
    pub committed: Option<LogId>,
}

/// A group's log after opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRecovery {
    /// It can be relied on.
    Healthy(GroupLogState),
    /// It cannot: the replica must not vote, acknowledge or serve.
    Damaged {
        /// Why.
        reason: String,
    },
}

/// Examines the log of every group that the log, the state or the watermark knows of.
pub fn recover(
    log: &dyn View,
    state: &dyn View,
    watermark: &Watermark,
) -> Result<BTreeMap<GroupId, GroupRecovery>, StorageError> {
    let rows = group_rows(state)?;
    let mut groups: BTreeSet<GroupId> = rows.keys().copied().collect();
    groups.extend(watermark.groups.keys());
    groups.extend(groups_with_votes(log)?);
    let mut recovered = BTreeMap::new();
    for group in groups {
        let recovery = match examine(log, group) {
            Ok(found) => match doubts(&found, watermark.groups.get(&group), rows.get(&group)) {
                None => GroupRecovery::Healthy(found),
                Some(reason) => GroupRecovery::Damaged { reason },
            },
            Err(error @ (StorageError::Damaged { .. } | StorageError::Newer { .. })) => {
                GroupRecovery::Damaged { reason: error.to_string() }
            }
            Err(error) => return Err(error),
        };
        recovered.insert(group, recovery);
    }
    Ok(recovered)
}

/// What a node's databases are after [`make_ready`].
pub struct Recovered {
    /// The watermark as it stands.
    pub watermark: WatermarkFile,
    /// Every group, damaged ones included.
    pub groups: BTreeMap<GroupId, GroupRecovery>,
}

/// Makes databases that were just opened ready for use: rolls interrupted installs forward, examines every log, and
/// keeps what was found in the watermark, which `file` is. What a log holds when it was opened is on stable storage.
/// Blocks.
///
/// # Errors
/// A database failed, a snapshot cannot be rolled forward, or the watermark is missing beside groups.
pub fn make_ready(
    log: &dyn Engine,
    state: &dyn Engine,
    file: impl SmallFile + Clone + 'static,
) -> Result<Recovered, StorageError> {
    for group in install::roll_forward(state)? {
        tracing::info!(%group, "finished the install of a snapshot that a stop had interrupted");
    }
    let mut watermark = open_watermark(file, log, state)?;
    let groups = recover(log, state, watermark.stored())?;
    remember(&mut watermark, &groups)?;
    Ok(Recovered { watermark, groups })
}

/// Damage is not forgotten by a restart: what a later opening cannot see any more may still be missing. And what a log
/// holds is relied on from now on, though the process may have died before the mark told of it: the vote in it is given
/// again to whoever asks, without another write.
fn remember(
    watermark: &mut WatermarkFile,
    groups: &BTreeMap<GroupId, GroupRecovery>,
) -> Result<(), StorageError> {
    let mut marks = watermark.stored().clone();
    for (group, recovery) in groups {
        match recovery {
            GroupRecovery::Damaged { reason } => {
                marks.groups.entry(*group).or_default().damaged = Some(reason.clone());
            }
            GroupRecovery::Healthy(found) if found.vote.is_some() || found.last.is_some() => {
                let mark = marks.groups.entry(*group).or_default();
                (mark.vote, mark.last) = (found.vote, found.last);
            }
            GroupRecovery::Healthy(_) => {}
        }
    }
    watermark.store(marks)
}

/// The watermark file, made where there never was a group.
fn open_watermark(
    file: impl SmallFile + Clone + 'static,
    log: &dyn View,
    state: &dyn View,
) -> Result<WatermarkFile, StorageError> {
    match stored_watermark(file.clone(), log, state)? {
        Some(watermark) => Ok(watermark),
        None => WatermarkFile::create(Box::new(file)),
    }
}

/// The watermark file as it was left; none where there is none and never was a group.
///
/// # Errors
/// It cannot be read, or is missing beside groups.
pub(super) fn stored_watermark(
    file: impl SmallFile + Clone + 'static,
    log: &dyn View,
    state: &dyn View,
) -> Result<Option<WatermarkFile>, StorageError> {
    let stored = WatermarkFile::load(Box::new(file.clone()))?;
    if stored.is_none() && !recover(log, state, &Watermark::default())?.is_empty() {
        return Err(StorageError::Damaged {
            place: file.place(),
            reason: "it is missing, and the databases have groups".to_owned(),
        });
    }
    Ok(stored)
}

/// Reads a whole log: each entry's checksum, that no index is missing, and that terms do not go back.
fn examine(log: &dyn View, group: GroupId) -> Result<GroupLogState, StorageError> {
    let damaged =
        |reason: String| StorageError::Damaged { place: format!("log of group {group}"), reason };
    let purged = meta::<LogIdRecord>(log, group, RaftMetaField::Purged)?.map(|record| record.0);
    let committed = meta::<LogIdRecord>(log, group, RaftMetaField::Committed)?.map(|id| id.0);
    if purged.is_some_and(LogId::is_beyond_all_logs) {
        return Err(damaged("its purge mark is beyond all logs".to_owned()));
    }
    let vote = meta::<VoteRecord>(log, group, RaftMetaField::Vote)?;
    if vote.is_some_and(|vote| vote.term.is_beyond_all_terms()) {
        return Err(damaged("its vote is beyond all terms".to_owned()));
    }
    let mut holds_committed = false;
    let mut last = purged;
    let first = purged.map_or(LogIndex(0), |id| LogIndex(id.index.0 + 1));
    let range = keys::raft_log_range(group, first, None);
    for row in log.scan(Table::RaftLog, range, Direction::Forward) {
        let (key, value) = row?;
        let id = EntryRecord::decode(&key, &value)?.log_id;
        if keys::raft_log_index(&key) != Some(id.index) {
            return Err(damaged(format!("entry {} stands at another index", id.index)));
        }
        if id.is_beyond_all_logs() {
            let (index, term) = (id.index, id.term);
            return Err(damaged(format!("entry {index} of term {term} is beyond all logs")));
        }
        let expected = last.map_or(LogIndex(0), |last| LogIndex(last.index.0 + 1));
        if id.index != expected {
            return Err(damaged(format!("entry {expected} is missing before {}", id.index)));
        }
        if last.is_some_and(|last| (id.term, id.leader) < (last.term, last.leader)) {
            return Err(damaged(format!("the term goes back at entry {}", id.index)));
        }
        holds_committed |= committed == Some(id);
        last = Some(id);
    }
    Ok(GroupLogState {
        vote,
        purged,
        last,
        // The note may be ahead of the entries that it was synced with. What then stands at their end is not known to
        // be committed, and a leader will tell again.
        committed: committed.filter(|_| holds_committed),
    })
}

fn meta<R: OwnedRecord>(
    log: &dyn View,
    group: GroupId,
    field: RaftMetaField,
) -> Result<Option<R>, StorageError> {
    let key = keys::raft_meta(group, field);
    log.get(Table::RaftMeta, &key)?.map(|value| R::decode(&key, &value)).transpose()
}

/// Why a log that is consistent in itself must not be relied on, if so.
fn doubts(
    found: &GroupLogState,
    mark: Option<&GroupMark>,
    row: Option<&GroupRow>,
) -> Option<String> {
    if let Some(mark) = mark.filter(|_| !planted::watermark_ignored()) {
        if let Some(reason) = &mark.damaged {
            return Some(reason.clone());
        }
        let rank = |vote: VoteRecord| (vote.term, vote.candidate, vote.committed);
        if found.vote.map(rank) < mark.vote.map(rank) {
            return Some("a vote that was answered is gone from the log".to_owned());
        }
        if found.last < mark.last && !has_purged(found, mark.last) {
            let last = |id: Option<LogId>| id.map_or("none".to_owned(), |id| id.index.to_string());
            return Some(format!(
                "the log ends at entry {}, and it had reached {}",
                last(found.last),
                last(mark.last)
            ));
        }
    }
    let applied = row?.applied;
    if applied.is_some_and(LogId::is_beyond_all_logs) {
        return Some("what was applied last is beyond all logs".to_owned());
    }
    if let Some(applied) = applied
        && found.last.is_none()
        && found.vote.is_none()
    {
        return Some(format!("the log is gone, and entry {} was applied", applied.index));
    }
    let index = |id: Option<LogId>| id.map(|id| id.index);
    if index(found.purged) > index(applied) && !planted::purge_before_flush() {
        let applied = applied.map_or("nothing".to_owned(), |id| format!("entry {}", id.index));
        return Some(format!("the log was purged beyond what was applied last: {applied}"));
    }
    None
}

/// Whether the log was purged up to this entry's index or further: the entry was either applied, or an uncommitted one
/// whose place was taken by a snapshot. Such a one may have had a higher term.
fn has_purged(found: &GroupLogState, entry: Option<LogId>) -> bool {
    found.purged.zip(entry).is_some_and(|(purged, entry)| purged.index >= entry.index)
}

fn group_rows(state: &dyn View) -> Result<BTreeMap<GroupId, GroupRow>, StorageError> {
    let mut rows = BTreeMap::new();
    let whole = KeyRange { start: Vec::new(), end: None };
    for row in state.scan(Table::Groups, whole, Direction::Forward) {
        let (key, value) = row?;
        if let Some(group) = group_of(&key) {
            rows.insert(group, GroupRow::decode(&key, &value)?);
        }
    }
    Ok(rows)
}

/// Every group that has written anything to the log has voted or learned of a vote first.
fn groups_with_votes(log: &dyn View) -> Result<BTreeSet<GroupId>, StorageError> {
    let mut groups = BTreeSet::new();
    let whole = KeyRange { start: Vec::new(), end: None };
    for row in log.scan(Table::RaftMeta, whole, Direction::Forward) {
        let (key, _) = row?;
        groups.extend(group_of(&key));
    }
    Ok(groups)
}

fn group_of(key: &[u8]) -> Option<GroupId> {
    Some(GroupId(u64::from_be_bytes(key.get(..8)?.try_into().ok()?)))
}
