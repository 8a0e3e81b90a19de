//! A group's Raft log for openraft: the tail in memory, everything on disk through the node's one log writer.
//!
//! Guarantees at stake: G1 (an entry counts only after its sync, a vote is answered only after its sync) and the
//! contract that an entry can be read as soon as `append` returns.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use super::raft_types::{
    RaftEntry, RaftLogId, RaftVote, TypeConfig, entry_bytes, from_raft_entry, from_raft_log_id,
    from_raft_vote, to_raft_entry, to_raft_log_id, to_raft_vote,
};
use crate::seams::{crash, planted};
use crate::storage::records::{Record, entry_key};
use crate::storage::{
    Done, Engine, GroupLogState, LogWrite, LogWriter, StorageError, read_entries,
};
use crate::types::{GroupId, LogIndex};

/// Bytes of recent entries that a node keeps in memory, so that replication and apply rarely read the disk. Its groups
/// have equal shares: many groups need no more memory than few.
const TAILS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of entries that are read at a time, which one replication request carries, and one more entry: large enough to fill a disk write, small enough that
/// heartbeats of other groups are not delayed.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// What the logs of a node have in common. Clones are of the same node.
#[derive(Clone)]
pub struct NodeLog {
    engine: Arc<dyn Engine>,
    writer: LogWriter,
    /// How many groups have a log here.
    groups: Arc<AtomicUsize>,
}

/// A group's log. Clones share it.
#[derive(Clone)]
pub struct GroupLog {
    shared: Arc<Shared>,
}

struct Shared {
    group: GroupId,
    node: NodeLog,
    state: Mutex<State>,
}

struct State {
    vote: Option<RaftVote>,
    committed: Option<RaftLogId>,
    purged: Option<RaftLogId>,
    last: Option<RaftLogId>,
    tail: Tail,
    sizes: SizeMarks,
}

/// How much log was written up to which index, in coarse steps: what purging by bytes goes by. It starts anew with
/// the process, and so errs by keeping more.
#[derive(Default)]
struct SizeMarks {
    total_bytes: u64,
    marks: VecDeque<(u64, u64)>,
}

/// The newest entries, contiguous, at least all that are not yet on stable storage.
#[derive(Default)]
struct Tail {
    entries: VecDeque<RaftEntry>,
    bytes: usize,
    /// The first index that may not be on stable storage yet.
    unsynced_from: u64,
}

impl NodeLog {
    /// The logs in a database that `writer` writes.
    pub fn new(engine: Arc<dyn Engine>, writer: LogWriter) -> Self {
        NodeLog { engine, writer, groups: Arc::default() }
    }

    /// Its writer.
    pub fn writer(&self) -> &LogWriter {
        &self.writer
    }

    fn tail_bytes_max(&self) -> usize {
        TAILS_BYTES_MAX / self.groups.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.node.groups.fetch_sub(1, Ordering::Relaxed);
    }
}

impl GroupLog {
    /// The log of a group as recovery found it; `None` for a new replica.
    pub fn new(group: GroupId, node: NodeLog, recovered: Option<&GroupLogState>) -> Self {
        let last = recovered.and_then(|state| state.last).as_ref().map(to_raft_log_id);
        let state = State {
            vote: recovered.and_then(|state| state.vote.as_ref()).map(to_raft_vote),
            committed: recovered
                .and_then(|state| state.committed.as_ref())
                .filter(|_| !forgets_votes(group))
                .map(to_raft_log_id),
            purged: recovered.and_then(|state| state.purged.as_ref()).map(to_raft_log_id),
            last,
            tail: Tail { unsynced_from: last.map_or(0, |last| last.index + 1), ..Tail::default() },
            sizes: SizeMarks::default(),
        };
        node.groups.fetch_add(1, Ordering::Relaxed);
        GroupLog { shared: Arc::new(Shared { group, node, state: Mutex::new(state) }) }
    }

    /// The last index with more than `bytes` of log behind it, if there is one.
    pub fn index_behind(&self, bytes: u64) -> Option<LogIndex> {
        self.state().sizes.index_behind(bytes).map(LogIndex)
    }

    /// Verifies that this replica has everything before an index, which it has acknowledged to the leader of a vote. It
    /// may have it applied instead.
    ///
    /// # Errors
    /// It is gone, and the database fails: what a quorum may have counted on has to count no more (G1, G11). A later leader may
    /// rightly have replaced it; that one's vote is here then.
    pub fn verify_acknowledged(
        &self,
        before: LogIndex,
        applied: Option<LogIndex>,
        vote: &RaftVote,
    ) -> Result<(), StorageError> {
        let (next, replaced) = {
            let state = self.state();
            let next = state.last.map_or(0, |last| last.index + 1);
            (next, state.vote.is_some_and(|own| own > *vote))
        };
        let held = applied.map_or(next, |applied| next.max(applied.0 + 1));
        if held >= before.0 || replaced || forgets(self.shared.group) {
            return Ok(());
        }
        let damage = StorageError::Damaged {
            place: format!("the log of group {}", self.shared.group),
            reason: format!(
                "it ends before entry {held}, and its leader has seen everything before entry {before} acknowledged from \
                 here: something has shortened it, and only replacing the node mends that"
            ),
        };
        self.shared.node.engine.note_damage(&damage);
        Err(damage)
    }

    /// The index that follows the last entry.
    pub fn next_index(&self) -> u64 {
        self.state().last.map_or(0, |last| last.index + 1)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().expect("no panic while locked")
    }

    /// Hands a write to the node's log writer and waits until it is on stable storage.
    async fn write_and_wait(&self, write: impl FnOnce(Done) -> LogWrite) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |result| drop(sender.send(result)));
        self.shared.node.writer.submit(write(done)).await;
        match receiver.await {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the log writer has stopped")),
        }
    }

    /// Entries of `[start, end)`, from memory where it has them, at most about `bytes_max` but at least one.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        let (from_disk, mut from_memory) = {
            let state = self.state();
            let first = state.tail.entries.front().map_or(u64::MAX, |entry| entry.log_id.index);
            let disk_end = end.min(first);
            let in_memory = state.tail.range(start.max(first), end);
            (start..disk_end, in_memory.cloned().collect::<Vec<_>>())
        };
        let mut entries = Vec::new();
        if !from_disk.is_empty() {
            entries = self.read_disk(from_disk.start, from_disk.end, bytes_max).await?;
            if entries.last().is_some_and(|last| last.log_id.index + 1 < from_disk.end) {
                return Ok(entries);
            }
        }
        let mut bytes: usize = entries.iter().map(entry_bytes).sum();
        let fitting = from_memory.iter().take_while(|entry| {
            let fits = bytes <= bytes_max;
            bytes += entry_bytes(entry);
            fits
        });
        let fitting = fitting.count();
        from_memory.truncate(fitting);
        entries.append(&mut from_memory);
        Ok(entries)
    }

    /// All entries of a range, a bounded read at a time.
    fn parts(&self, range: impl RangeBounds<u64>) -> BoxStream<'_, io::Result<Vec<RaftEntry>>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        futures::stream::try_unfold(start, move |next| async move {
            if next >= end.min(self.next_index()) {
                return Ok(None);
            }
            let part = self.read(next, end, READ_BYTES_MAX).await?;
            let behind = part.last().map(|last| last.log_id.index + 1);
            Ok(behind.map(|next| (part, next)))
        })
        .boxed()
    }

    async fn read_disk(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<RaftEntry>> {
        let (sender, receiver) = oneshot::channel();
        let shared = self.shared.clone();
        self.shared.node.engine.offload(Box::new(move || {
            let range = LogIndex(start)..LogIndex(end);
            let engine = shared.node.engine.as_ref();
            let records = read_entries(engine, shared.group, range, bytes);
            // openraft goes on after none: the replica stops, and has to be started again.
            drop(sender.send(records.inspect_err(|error| engine.note_failure(error))));
        }));
        let records = receiver.await.map_err(|_| io::Error::other("the read was abandoned"))?;
        Ok(records.map_err(io::Error::other)?.into_iter().map(to_raft_entry).collect())
    }
}

impl SizeMarks {
    const STEP_BYTES: u64 = 64 * 1024;

    fn add(&mut self, index: u64, bytes: u64) {
        self.total_bytes += bytes;
        let marked = self.marks.back().map_or(0, |(_, total)| *total);
        if self.total_bytes - marked >= Self::STEP_BYTES {
            self.marks.push_back((index, self.total_bytes));
        }
    }

    fn index_behind(&mut self, bytes: u64) -> Option<u64> {
        let mut behind = None;
        while let Some((index, total)) = self.marks.front().copied() {
            if self.total_bytes - total < bytes {
                break;
            }
            behind = Some(index);
            if self.marks.get(1).is_none_or(|(_, next)| self.total_bytes - next < bytes) {
                break; // Kept, so that the answer stands until the next mark takes its place.
            }
            self.marks.pop_front();
        }
        behind
    }
}

impl Tail {
    fn push(&mut self, entry: RaftEntry) {
        self.bytes += entry_bytes(&entry);
        self.entries.push_back(entry);
    }

    fn range(&self, start: u64, end: u64) -> impl Iterator<Item = &RaftEntry> {
        let first = self.entries.front().map_or(0, |entry| entry.log_id.index);
        let from = start.saturating_sub(first).min(self.entries.len() as u64) as usize;
        let to = end.saturating_sub(first).min(self.entries.len() as u64) as usize;
        self.entries.range(from..to.max(from))
    }

    /// Notes that everything below `end` is on stable storage and lets go of what memory need not hold.
    fn synced_to(&mut self, end: u64, bytes_max: usize) {
        self.unsynced_from = self.unsynced_from.max(end);
        while self.bytes > bytes_max && self.entries.len() > 1 {
            let Some(front) = self.entries.front() else { break };
            if front.log_id.index >= self.unsynced_from {
                break;
            }
            self.bytes -= entry_bytes(front);
            self.entries.pop_front();
        }
    }

    fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry_bytes(&entry);
            }
        }
        self.unsynced_from = self.unsynced_from.min(index);
    }

    fn purge_to(&mut self, index: u64) {
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= index) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry_bytes(&entry);
            }
        }
    }
}

/// Whether a fault is planted here. Not in the meta group, without which nothing would be routed.
fn forgets_votes(group: GroupId) -> bool {
    planted::vote_not_persisted() && group != GroupId::META
}

/// Whether a fault is planted here that would be found by what a replica has acknowledged, before the fault suite finds it.
fn forgets(group: GroupId) -> bool {
    planted::forgets() || forgets_votes(group)
}

/// Of two positions the one with the higher index. Never the greater log id: that one goes by the term first, and an
/// entry of a deposed leader can have a higher term at a lower index than what a snapshot put in its place.
fn higher(one: Option<RaftLogId>, other: RaftLogId) -> Option<RaftLogId> {
    Some(one.filter(|one| one.index >= other.index).unwrap_or(other))
}

/// Of two positions the one with the lower index; nothing lies below the first entry.
fn lower(one: Option<RaftLogId>, other: Option<RaftLogId>) -> Option<RaftLogId> {
    match (one, other) {
        (Some(one), Some(other)) if one.index <= other.index => Some(one),
        (Some(_), other) => other,
        (None, _) => None,
    }
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<RaftEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.parts(range).try_concat().await
    }

    /// Applying takes what has piled up part by part, so that it is never in memory all at once.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<RaftEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let entries = |part: Vec<_>| futures::stream::iter(part.into_iter().map(Ok));
        self.parts(range).map_ok(entries).try_flatten()
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.state().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<RaftEntry>> {
        self.read(start, end, READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = GroupLog;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> GroupLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        let (group, record) = (self.shared.group, from_raft_vote(vote));
        if !forgets_votes(group) {
            self.write_and_wait(|done| LogWrite::SaveVote { group, vote: record, done }).await?;
        }
        crash::vote_kept();
        self.state().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        self.state().committed = Some(committed);
        self.shared.node.writer.note_committed(self.shared.group, from_raft_log_id(&committed));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let group = self.shared.group;
        let mut encoded = Vec::new();
        let mut last = None;
        {
            let mut state = self.state();
            for entry in entries {
                let record = from_raft_entry(&entry);
                let key = entry_key(group, &record);
                encoded.push((record.log_id.index, record.encode(&key)));
                last = Some(record.log_id);
                state.last = Some(entry.log_id);
                state.sizes.add(entry.log_id.index, entry_bytes(&entry) as u64);
                state.tail.push(entry);
            }
        }
        let Some(last) = last else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let shared = self.shared.clone();
        let done: Done = Box::new(move |result: Result<(), StorageError>| {
            if result.is_ok() {
                let mut state = shared.state.lock().expect("no panic while locked");
                state.tail.synced_to(last.index.0 + 1, shared.node.tail_bytes_max());
            }
            callback.io_completed(result.map_err(io::Error::other));
        });
        let write = LogWrite::Append { group, entries: encoded, last, done };
        self.shared.node.writer.submit(write).await;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> io::Result<()> {
        let group = self.shared.group;
        let (last, end) = {
            let mut state = self.state();
            let last = lower(state.last, last_log_id);
            let end = last.map_or(0, |last| last.index + 1);
            state.tail.truncate_from(end);
            state.last = last;
            (last, end)
        };
        let after = last.as_ref().map(from_raft_log_id);
        self.write_and_wait(|done| LogWrite::Truncate { group, after, done }).await?;
        crash::log_truncated();
        // Appends before the truncation may have been synced meanwhile, with indexes that are free again now.
        self.state().tail.unsynced_from = end;
        Ok(())
    }

    async fn purge(&mut self, log_id: RaftLogId) -> io::Result<()> {
        {
            let mut state = self.state();
            state.purged = higher(state.purged, log_id);
            state.last = higher(state.last, log_id);
            state.tail.purge_to(log_id.index);
        }
        // Nothing waits for a purge: after a crash it is done again.
        let done: Done = Box::new(|_| ());
        let (group, upto) = (self.shared.group, from_raft_log_id(&log_id));
        let write = LogWrite::Purge { group, upto, done };
        self.shared.node.writer.submit(write).await;
        crash::purge_handed_over();
        Ok(())
    }
}
