//! What the logs of a node hold after opening, and whether a replica may rely on it.
//!
//! Guarantees at stake: G1 and G11. A write-ahead log that was shortened or lost looks like a power cut to RocksDB, and
//! a replica that forgot a vote or an acknowledged entry is an amnesiac voter. So each log is checked for holes, for
//! order, and against the watermark, before Raft sees anything.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::RaftMetaField;
use super::records::{EntryRecord, GroupRow, LogId, LogIdRecord, Record, VoteRecord};
use super::watermark::{GroupMark, Watermark};
use super::{Direction, KeyRange, StorageError, Table, View, keys};
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
    /// A recent committed log id.
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

/// Reads a whole log: each entry's checksum, that no index is missing, and that terms do not go back.
fn examine(log: &dyn View, group: GroupId) -> Result<GroupLogState, StorageError> {
    let damaged =
        |reason: String| StorageError::Damaged { place: format!("log of group {group}"), reason };
    let purged = meta::<LogIdRecord>(log, group, RaftMetaField::Purged)?.map(|record| record.0);
    let mut last = purged;
    let first = purged.map_or(LogIndex(0), |id| LogIndex(id.index.0 + 1));
    let range = keys::raft_log_range(group, first, None);
    for row in log.scan(Table::RaftLog, range, Direction::Forward) {
        let (key, value) = row?;
        let id = EntryRecord::decode(&key, &value)?.log_id;
        if keys::raft_log_index(&key) != Some(id.index) {
            return Err(damaged(format!("entry {} stands at another index", id.index)));
        }
        let expected = last.map_or(LogIndex(0), |last| LogIndex(last.index.0 + 1));
        if id.index != expected {
            return Err(damaged(format!("entry {expected} is missing before {}", id.index)));
        }
        if last.is_some_and(|last| (id.term, id.leader) < (last.term, last.leader)) {
            return Err(damaged(format!("the term goes back at entry {}", id.index)));
        }
        last = Some(id);
    }
    Ok(GroupLogState {
        vote: meta::<VoteRecord>(log, group, RaftMetaField::Vote)?,
        purged,
        last,
        committed: meta::<LogIdRecord>(log, group, RaftMetaField::Committed)?
            .map(|record| record.0)
            .min(last),
    })
}

fn meta<R: Record>(
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
    if let Some(mark) = mark {
        if let Some(reason) = &mark.damaged {
            return Some(reason.clone());
        }
        let rank = |vote: VoteRecord| (vote.term, vote.candidate, vote.committed);
        if found.vote.map(rank) < mark.vote.map(rank) {
            return Some("a vote that was answered is gone from the log".to_owned());
        }
        if found.last < mark.last {
            let last = |id: Option<LogId>| id.map_or("none".to_owned(), |id| id.index.to_string());
            return Some(format!(
                "the log ends at entry {}, and it had reached {}",
                last(found.last),
                last(mark.last)
            ));
        }
    }
    let applied = row.and_then(|row| row.applied)?;
    if found.last.is_none() && found.vote.is_none() {
        return Some(format!("the log is gone, and entry {} was applied", applied.index));
    }
    if found.purged.is_some_and(|purged| purged.index > applied.index) {
        return Some(format!(
            "the log was purged beyond entry {}, which was applied last",
            applied.index
        ));
    }
    None
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Incarnation, NodeId, ReplicaId, Term};

    fn replica() -> ReplicaId {
        ReplicaId { node: NodeId(1), incarnation: Incarnation(1) }
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId { term: Term(term), leader: replica(), index: LogIndex(index) }
    }

    fn vote(term: u64) -> VoteRecord {
        VoteRecord { term: Term(term), candidate: replica(), committed: true }
    }

    fn log(last: u64) -> GroupLogState {
        GroupLogState {
            vote: Some(vote(2)),
            purged: None,
            last: Some(id(2, last)),
            committed: None,
        }
    }

    #[test]
    fn a_log_below_its_watermark_is_not_relied_on() {
        let mark = GroupMark { vote: Some(vote(2)), last: Some(id(2, 5)), damaged: None };
        assert_eq!(doubts(&log(5), Some(&mark), None), None);
        assert_eq!(doubts(&log(6), Some(&mark), None), None);
        assert!(doubts(&log(4), Some(&mark), None).is_some());
        let forgot = GroupLogState { vote: Some(vote(1)), ..log(5) };
        assert!(doubts(&forgot, Some(&mark), None).is_some());
        let damaged = GroupMark { damaged: Some("torn".to_owned()), ..mark };
        assert_eq!(doubts(&log(9), Some(&damaged), None).as_deref(), Some("torn"));
    }

    #[test]
    fn applied_state_without_its_log_is_not_relied_on() {
        let row = GroupRow { applied: Some(id(2, 3)), ..GroupRow::blank(replica()) };
        assert!(doubts(&GroupLogState::default(), None, Some(&row)).is_some());
        assert_eq!(
            doubts(&GroupLogState::default(), None, Some(&GroupRow::blank(replica()))),
            None
        );
        let purged = GroupLogState { purged: Some(id(2, 4)), ..log(9) };
        assert!(doubts(&purged, None, Some(&row)).is_some());
    }
}
