//! From where on somebody may need a group's log: what every replica holds is kept for nobody.
//!
//! Guarantee at stake: none. What a replica has acknowledged is on its disk, and it never asks for it again; one that lost
//! its disk is another replica, and begins with a snapshot. Whether an entry may leave the log at all is up to the flush
//! coordinator (G1). A wrong answer here costs a snapshot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftDataMetrics;
use openraft::type_config::alias::WatchReceiverOf;

use super::raft_types::{Raft, TypeConfig};
use crate::types::LogIndex;

/// What is known of it here: a leader sees how far each replica is, and tells it with everything that it sends. Clones share
/// it.
#[derive(Clone, Default)]
pub struct LogNeeds(Arc<Shared>);

#[derive(Default)]
struct Shared {
    seen: OnceLock<WatchReceiverOf<TypeConfig, RaftDataMetrics<TypeConfig>>>,
    told: AtomicU64,
}

impl LogNeeds {
    /// Looks from now on at what this replica knows when it leads.
    pub(super) fn look_at(&self, raft: &Raft) {
        let _ = self.0.seen.set(raft.data_metrics());
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
}
