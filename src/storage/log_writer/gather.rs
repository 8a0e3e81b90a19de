//! What becomes one synced write.

use std::collections::BTreeMap;

use super::{Done, LogWrite};
use crate::storage::keys::{self, RaftMetaField};
use crate::storage::records::{LogId, LogIdRecord, Record};
use crate::storage::watermark::Watermark;
use crate::storage::{Batch, KeyRange, Table};
use crate::types::{GroupId, LogIndex, limits};

/// Changes on their way into one synced write.
pub(super) struct Gathered {
    pub(super) batch: Batch,
    /// The watermark once the batch is synced.
    pub(super) reached: Watermark,
    /// Votes may only be answered once the watermark holds them.
    pub(super) has_votes: bool,
    pub(super) changes: usize,
    pub(super) bytes: usize,
    done: Vec<Done>,
    /// Where in `done` each group's newest append is, if nothing of the group came after it.
    appends: BTreeMap<GroupId, usize>,
    /// What the stored watermark must not exceed while the batch is being synced.
    ceilings: BTreeMap<GroupId, Ceiling>,
}

enum Ceiling {
    /// The log is cut back to this.
    Last(Option<LogId>),
    /// The group goes.
    Absent,
}

impl Gathered {
    pub(super) fn new(reached: Watermark) -> Self {
        Gathered {
            batch: Batch::default(),
            reached,
            has_votes: false,
            changes: 0,
            bytes: 0,
            done: Vec::new(),
            appends: BTreeMap::new(),
            ceilings: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// What is to be told how the write of this batch ended, in the order of the changes.
    pub(super) fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    /// The end of a group's append says that all its earlier appends have ended too, so that of several in a row one
    /// is told: each costs a round of the group's Raft, and openraft delays a second one in quick succession by up to
    /// two milliseconds (its `io_completion_forwarder` sleeps for a microsecond, which a timer rounds up).
    fn report_append(&mut self, group: GroupId, done: Done) {
        match self.appends.get(&group) {
            Some(place) => self.done[*place] = done,
            None => {
                self.appends.insert(group, self.done.len());
                self.done.push(done);
            }
        }
    }

    fn report(&mut self, group: GroupId, done: Done) {
        self.appends.remove(&group);
        self.done.push(done);
    }

    /// Whether a change still fits. The first one always does.
    pub(super) fn has_room_for(&self, write: &LogWrite) -> bool {
        self.is_empty() || self.bytes + write.bytes() <= limits::LOG_WRITER_BATCH_BYTES_MAX
    }

    /// Adds a change, with the group's committed log id if one waits. `purged` is how far each group was purged.
    pub(super) fn add(
        &mut self,
        write: LogWrite,
        committed: Option<LogId>,
        purged: &mut BTreeMap<GroupId, LogIndex>,
    ) {
        self.changes += 1;
        self.bytes += write.bytes();
        let group = write.group();
        if let Some(committed) = committed
            && !matches!(write, LogWrite::RemoveGroup { .. })
        {
            let key = keys::raft_meta(group, RaftMetaField::Committed);
            let value = LogIdRecord(committed).encode(&key);
            self.batch.put(Table::RaftMeta, key, value);
        }
        match write {
            LogWrite::Append { entries, last, done, .. } => {
                for (index, entry) in entries {
                    self.batch.put(Table::RaftLog, keys::raft_log(group, index), entry);
                }
                self.reached.groups.entry(group).or_default().last = Some(last);
                self.report_append(group, done);
            }
            LogWrite::SaveVote { vote, done, .. } => {
                let key = keys::raft_meta(group, RaftMetaField::Vote);
                let value = vote.encode(&key);
                self.batch.put(Table::RaftMeta, key, value);
                self.reached.groups.entry(group).or_default().vote = Some(vote);
                self.has_votes = true;
                self.report(group, done);
            }
            LogWrite::Truncate { after, done, .. } => {
                self.truncate(group, after);
                self.report(group, done);
            }
            LogWrite::Purge { upto, done, .. } => {
                self.purge(group, upto, purged);
                self.report(group, done);
            }
            LogWrite::RemoveGroup { done, .. } => {
                self.remove(group);
                purged.remove(&group);
                self.report(group, done);
            }
        }
    }

    fn truncate(&mut self, group: GroupId, after: Option<LogId>) {
        let start = after.map_or(LogIndex(0), |kept| LogIndex(kept.index.0 + 1));
        self.batch.delete_range(Table::RaftLog, keys::raft_log_range(group, start, None));
        self.reached.groups.entry(group).or_default().last = after;
        let ceiling = self.ceilings.entry(group).or_insert(Ceiling::Last(after));
        if let Ceiling::Last(last) = ceiling
            && index_of(after) < index_of(*last)
        {
            *last = after;
        }
    }

    fn purge(&mut self, group: GroupId, upto: LogId, purged: &mut BTreeMap<GroupId, LogIndex>) {
        let key = keys::raft_meta(group, RaftMetaField::Purged);
        let value = LogIdRecord(upto).encode(&key);
        self.batch.put(Table::RaftMeta, key, value);
        let end = LogIndex(upto.index.0 + 1);
        let start = purged.insert(group, end).unwrap_or(LogIndex(0));
        self.batch.delete_range(Table::RaftLog, keys::raft_log_range(group, start, Some(end)));
        let last = &mut self.reached.groups.entry(group).or_default().last;
        if index_of(*last) < index_of(Some(upto)) {
            *last = Some(upto);
        }
    }

    fn remove(&mut self, group: GroupId) {
        self.batch.delete_range(Table::RaftLog, keys::raft_log_range(group, LogIndex(0), None));
        self.batch.delete_range(Table::RaftMeta, raft_meta_range(group));
        self.reached.groups.remove(&group);
        self.ceilings.insert(group, Ceiling::Absent);
    }

    /// The stored watermark, lowered to what stays true however the write of this batch ends.
    pub(super) fn lowered(&self, stored: &Watermark) -> Watermark {
        let mut lowered = stored.clone();
        for (group, ceiling) in &self.ceilings {
            match ceiling {
                Ceiling::Absent => {
                    lowered.groups.remove(group);
                }
                Ceiling::Last(last) => {
                    if let Some(mark) = lowered.groups.get_mut(group)
                        && index_of(*last) < index_of(mark.last)
                    {
                        mark.last = *last;
                    }
                }
            }
        }
        lowered
    }
}

/// Order of log ids of one log by position; nothing lies below the first entry.
fn index_of(log_id: Option<LogId>) -> Option<LogIndex> {
    log_id.map(|log_id| log_id.index)
}

/// All that `raft_meta` holds for a group.
fn raft_meta_range(group: GroupId) -> KeyRange {
    KeyRange {
        start: group.0.to_be_bytes().to_vec(),
        end: group.0.checked_add(1).map(|next| next.to_be_bytes().to_vec()),
    }
}

impl LogWrite {
    /// Whose log it changes.
    pub(super) fn group(&self) -> GroupId {
        match self {
            LogWrite::Append { group, .. }
            | LogWrite::SaveVote { group, .. }
            | LogWrite::Truncate { group, .. }
            | LogWrite::Purge { group, .. }
            | LogWrite::RemoveGroup { group, .. } => *group,
        }
    }

    /// Bytes of keys and values, near enough.
    fn bytes(&self) -> usize {
        const ROW_BYTES: usize = 64;
        match self {
            LogWrite::Append { entries, .. } => {
                entries.iter().map(|(_, entry)| ROW_BYTES + entry.len()).sum()
            }
            _ => ROW_BYTES,
        }
    }
}
