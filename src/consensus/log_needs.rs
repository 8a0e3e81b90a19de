//! How far the replicas of a group are, as its leader sees it: from where on somebody may need the log, who is so far behind
//! that it is not kept, and what each has acknowledged.
//!
//! Guarantees at stake: G9, G12. What every replica holds is kept for nobody: it never asks for it again, for it is on its
//! disk; one that lost its disk is another replica, and begins with a snapshot. Whether an entry may leave the log at all is
//! up to the flush coordinator (G1). A wrong answer here costs a snapshot, or disk; wrong ones without end cost a replica.
//! What a replica is told that it has acknowledged is at most what it has (G11): it stops if it does not have that.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use openraft::RaftMetrics;
use openraft::async_runtime::WatchReceiver;
use openraft::type_config::alias::WatchReceiverOf;

use super::log_store::GroupLog;
use super::raft_types::{Raft, RaftVote, TypeConfig};
use crate::types::{LogIndex, ReplicaId};

/// By how much longer a replica that takes part is waited for than one that is away: a lag that passes costs no snapshot
/// of the whole state then, and one that does not costs no disk.
const KEPT_FOR_SLOW: u64 = 4;
/// How much further than it was behind an installed snapshot a replica may fall before it gets another. One that catches up,
/// however slowly, falls no further; so that whoever can follow at all is not sent snapshots for ever.
const KEPT_BEHIND_SNAPSHOT: u64 = 2;

/// What is known of it here: a leader sees how far each replica is, and tells it with everything that it sends. Clones share
/// it.
#[derive(Clone)]
pub struct LogNeeds(Arc<Shared>);

struct Shared {
    log: GroupLog,
    seen: OnceLock<WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>>,
    told: AtomicU64,
    /// Bytes that are kept for a replica that takes part.
    kept_bytes: AtomicU64,
    /// The same for those that were behind by more once they had installed a snapshot.
    kept_behind_snapshot: Mutex<BTreeMap<ReplicaId, u64>>,
}

impl LogNeeds {
    /// Of a group with this log. Everything is kept until `keep` says how much.
    pub(super) fn new(log: GroupLog) -> Self {
        LogNeeds(Arc::new(Shared {
            log,
            seen: OnceLock::new(),
            told: AtomicU64::new(0),
            kept_bytes: AtomicU64::new(u64::MAX),
            kept_behind_snapshot: Mutex::default(),
        }))
    }

    /// Looks from now on at what this replica knows when it leads.
    pub(super) fn look_at(&self, raft: &Raft) {
        let _ = self.0.seen.set(raft.metrics());
    }

    /// The first index that some replica of the group may lack; 0 while nothing is known.
    pub fn needed_from(&self) -> LogIndex {
        self.seen().unwrap_or_else(|| LogIndex(self.0.told.load(Ordering::Relaxed)))
    }

    /// As the leader sees it; none where this replica does not lead.
    fn seen(&self) -> Option<LogIndex> {
        let metrics = self.0.seen.get()?.borrow_watched();
        let held = metrics.replication.as_ref()?.values();
        let lacked = held.map(|last| last.as_ref().map_or(0, |last| last.index + 1));
        Some(LogIndex(lacked.min().unwrap_or(0)))
    }

    /// A leader says so. What all held once none of them needs again, whoever leads.
    pub(super) fn told(&self, needed_from: LogIndex) {
        self.0.told.fetch_max(needed_from.0, Ordering::Relaxed);
    }

    /// The first index that a replica has not acknowledged to the leader of this vote; 0 while nothing is known.
    pub(super) fn acknowledged_before(&self, replica: ReplicaId, vote: &RaftVote) -> LogIndex {
        let Some(seen) = self.0.seen.get() else { return LogIndex(0) };
        let metrics = seen.borrow_watched();
        // What was seen in an older leadership of this replica, a leader since then may have replaced.
        let of_this = metrics.replication.as_ref().filter(|_| metrics.vote == *vote);
        let last = of_this.and_then(|replication| replication.get(&replica)).copied().flatten();
        LogIndex(last.map_or(0, |last| last.index + 1))
    }

    /// So much log is kept for a replica that is away; more, but not without end, for one that takes part and is slow.
    pub(super) fn keep(&self, log_keep_bytes: u64) {
        let kept = log_keep_bytes.saturating_mul(KEPT_FOR_SLOW);
        self.0.kept_bytes.fetch_min(kept, Ordering::Relaxed);
    }

    /// A replica has installed a snapshot, and is to go on behind its mark.
    pub(super) fn installed(&self, replica: ReplicaId, mark: LogIndex) {
        let bytes = self.0.log.bytes_behind(mark).saturating_mul(KEPT_BEHIND_SNAPSHOT);
        let mut kept = self.kept_behind_snapshot();
        kept.retain(|other, _| other.node != replica.node); // Older replicas of its node.
        kept.insert(replica, bytes);
    }

    /// Whether a replica that has everything up to `last` is so far behind that the log is not kept for it: it gets a
    /// snapshot.
    pub(super) fn is_given_up(&self, replica: ReplicaId, last: LogIndex) -> bool {
        let lag = self.0.log.bytes_behind(last);
        let behind_snapshot = || self.kept_behind_snapshot().get(&replica).copied();
        lag > self.0.kept_bytes.load(Ordering::Relaxed) && lag > behind_snapshot().unwrap_or(0)
    }

    fn kept_behind_snapshot(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, u64>> {
        self.0.kept_behind_snapshot.lock().expect("no panic while locked")
    }
}
