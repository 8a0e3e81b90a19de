//! What each replica of a group has acknowledged to this one as its leader.
//!
//! Guarantee at stake: G11, and through it G1. A log that something has shortened by less than its watermark shows is taken
//! for whole at the next start. Its leader knows better, and says so with everything that it sends; a replica that has lost
//! what it acknowledged stops for good ([`super::log_store::GroupLog::verify_acknowledged`]). So a replica must never be told of
//! more than it said itself, nor of what it has rightly given up since: before it installs a snapshot a replica may drop
//! entries that the snapshot holds, and openraft counts what a snapshot holds as if it had been acknowledged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::raft_types::RaftVote;
use crate::types::{LogIndex, ReplicaId};

/// What is known of it in this process. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Acknowledged(Arc<Mutex<BTreeMap<ReplicaId, Known>>>);

enum Known {
    /// To the leader of this vote, everything before this index.
    Before(RaftVote, LogIndex),
    /// Nothing that holds: a snapshot is on its way there.
    Snapshot,
}

/// While it lives a replica is told nothing, and what it says is not noted.
pub(super) struct SnapshotUnderWay {
    acknowledged: Acknowledged,
    replica: ReplicaId,
}

impl Acknowledged {
    /// A replica says that everything up to an entry is on its stable storage.
    pub(super) fn note(&self, replica: ReplicaId, vote: RaftVote, last: LogIndex) {
        let mut known = self.known();
        let next = LogIndex(last.0 + 1);
        match known.get_mut(&replica) {
            Some(Known::Snapshot) => {}
            Some(Known::Before(to, before)) if *to == vote => *before = next.max(*before),
            Some(Known::Before(to, _)) if *to > vote => {}
            _ => drop(known.insert(replica, Known::Before(vote, next))),
        }
    }

    /// The first index that a replica has not acknowledged to the leader of this vote; 0 if nothing is known.
    pub(super) fn before(&self, replica: ReplicaId, vote: &RaftVote) -> LogIndex {
        match self.known().get(&replica) {
            Some(Known::Before(to, before)) if to == vote => *before,
            _ => LogIndex(0),
        }
    }

    /// Forgets what a replica has acknowledged that is to be sent a snapshot.
    pub(super) fn sends_snapshot(&self, replica: ReplicaId) -> SnapshotUnderWay {
        let mut known = self.known();
        known.retain(|other, _| other.node != replica.node); // Older replicas of its node, too.
        known.insert(replica, Known::Snapshot);
        SnapshotUnderWay { acknowledged: self.clone(), replica }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, Known>> {
        self.0.lock().expect("no panic while locked")
    }
}

impl Drop for SnapshotUnderWay {
    fn drop(&mut self) {
        self.acknowledged.known().remove(&self.replica);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::raft_types::to_raft_vote;
    use crate::storage::records::VoteRecord;
    use crate::types::{Incarnation, NodeId, Term};

    const fn replica(node: u32, incarnation: u32) -> ReplicaId {
        ReplicaId { node: NodeId(node), incarnation: Incarnation(incarnation) }
    }

    const OTHER: ReplicaId = replica(2, 1);

    fn vote(term: u64) -> RaftVote {
        to_raft_vote(&VoteRecord { term: Term(term), candidate: replica(1, 1), committed: true })
    }

    #[test]
    fn a_replica_is_told_the_most_that_it_said_to_this_leadership() {
        let acknowledged = Acknowledged::default();
        assert_eq!(acknowledged.before(OTHER, &vote(1)), LogIndex(0));
        acknowledged.note(OTHER, vote(1), LogIndex(7));
        acknowledged.note(OTHER, vote(1), LogIndex(5));
        assert_eq!(acknowledged.before(OTHER, &vote(1)), LogIndex(8));
        assert_eq!(acknowledged.before(replica(2, 2), &vote(1)), LogIndex(0), "another replica");
        assert_eq!(
            acknowledged.before(OTHER, &vote(3)),
            LogIndex(0),
            "another leader came between"
        );
        acknowledged.note(OTHER, vote(3), LogIndex(6));
        acknowledged.note(OTHER, vote(1), LogIndex(9));
        assert_eq!(acknowledged.before(OTHER, &vote(3)), LogIndex(7));
        assert_eq!(acknowledged.before(OTHER, &vote(1)), LogIndex(0));
    }

    /// openraft drops what is not known as committed of a log that a snapshot contradicts, acknowledged or not.
    #[test]
    fn what_was_acknowledged_before_a_snapshot_is_forgotten() {
        let acknowledged = Acknowledged::default();
        acknowledged.note(OTHER, vote(1), LogIndex(7));
        let under_way = acknowledged.sends_snapshot(OTHER);
        acknowledged.note(OTHER, vote(1), LogIndex(8)); // It was on its way.
        assert_eq!(acknowledged.before(OTHER, &vote(1)), LogIndex(0));
        drop(under_way);
        assert_eq!(acknowledged.before(OTHER, &vote(1)), LogIndex(0));
        acknowledged.note(OTHER, vote(1), LogIndex(20));
        assert_eq!(acknowledged.before(OTHER, &vote(1)), LogIndex(21));
    }
}
