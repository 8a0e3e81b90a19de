//! Elections that do not wait for Raft's timers: where a leader's process is known to be dead, one voter stands as
//! soon as the leader's lease is over.
//!
//! Safe whenever it happens: it is a pre-vote first, which voters refuse while the lease lasts or while they hear a
//! leader, and a vote after that. Only one voter stands at a time, since two would split the votes.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use super::Group;
use crate::types::{GroupId, NodeId, ReplicaId};

impl Group {
    /// Stands for election if the leader is on a node that has been known as dead for so long that it is this
    /// replica's turn. Called again and again while the node is dead; does nothing while the lease lasts.
    pub async fn succeed(&self, dead: NodeId, dead_for: Duration) {
        let metrics = self.raft().server_metrics().borrow_watched().clone();
        if metrics.current_leader.is_none_or(|leader| leader.node != dead) {
            return;
        }
        let voters = metrics.membership_config.membership().voter_ids();
        let survivors = voters.filter(|voter| voter.node != dead).collect();
        let lease = Duration::from_millis(self.raft().config().election_timeout_max);
        let is_due = turn(self.id(), survivors, self.replica())
            .is_some_and(|turn| is_due(turn, dead_for, lease));
        if is_due && let Err(error) = self.raft().trigger().elect(true).await {
            tracing::debug!(group = %self.id(), %error, "no election: the replica has stopped");
        }
    }
}

/// After how many others a voter stands, so that the groups of a dead node find new leaders on different nodes. None if
/// it has no vote.
fn turn(group: GroupId, mut survivors: Vec<ReplicaId>, own: ReplicaId) -> Option<u32> {
    survivors.sort_unstable();
    survivors.dedup();
    let place = survivors.iter().position(|voter| *voter == own)?;
    let first = (group.0 % survivors.len() as u64) as usize;
    u32::try_from((place + survivors.len() - first) % survivors.len()).ok()
}

/// Whether a voter stands now. Not for ever: where a quorum is missing, Raft's timers try often enough.
fn is_due(turn: u32, dead_for: Duration, lease: Duration) -> bool {
    let begins = waiting_time(turn, lease);
    (begins..begins + 2 * lease).contains(&dead_for)
}

/// The first one stands at once, until the lease is over; the next one if that has led to nothing, which is so where
/// the first one lacks entries.
fn waiting_time(turn: u32, lease: Duration) -> Duration {
    match turn {
        0 => Duration::ZERO,
        later => lease + later * lease / 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Incarnation;

    fn replica(node: u32) -> ReplicaId {
        ReplicaId { node: NodeId(node), incarnation: Incarnation(1) }
    }

    #[test]
    fn every_survivor_has_a_turn_of_its_own_and_groups_begin_with_different_ones() {
        let survivors = [5, 3, 4, 3].map(replica);
        let turns =
            |group| [3, 4, 5].map(|node| turn(GroupId(group), survivors.to_vec(), replica(node)));
        assert_eq!(turns(3), [Some(0), Some(1), Some(2)]);
        assert_eq!(turns(4), [Some(2), Some(0), Some(1)]);
        assert_eq!(turns(5), [Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn who_has_no_vote_has_no_turn() {
        assert_eq!(turn(GroupId(1), vec![replica(1)], replica(2)), None);
        assert_eq!(turn(GroupId(1), Vec::new(), replica(2)), None);
    }

    #[test]
    fn the_second_waits_until_the_first_has_had_its_chance() {
        let lease = Duration::from_secs(1);
        let waiting_times = [0, 1, 2].map(|turn| waiting_time(turn, lease).as_millis());
        assert_eq!(waiting_times, [0, 1_200, 1_400]);
        let due = |turn, ms| is_due(turn, Duration::from_millis(ms), lease);
        assert_eq!([0, 1_999, 2_000].map(|ms| due(0, ms)), [true, true, false]);
        assert_eq!([1_199, 1_200, 3_200].map(|ms| due(1, ms)), [false, true, false]);
    }
}
