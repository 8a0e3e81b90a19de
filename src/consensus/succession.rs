//! Elections that do not wait for Raft's timers: where a leader's process is known to be dead, its voters do not keep
//! its lease, and one of them stands at once.
//!
//! Guarantees at stake: none that a lease protects. G1 and G2 need of votes that they are durable, and that whoever
//! gives one compares logs; reads are confirmed by rounds (`leadership.rs`). So an election is safe whenever it is held.
//! What a lease protects is peace (G9): a voter that cannot reach the leader, and is alone with that, deposes nobody.
//! Therefore each voter ends only the lease that it has granted itself, by what it has seen itself, and whoever stands
//! first asks whether the others would vote for it, which they do not while they hear the leader. After a false alarm a
//! voter is without a lease until it next votes: one election too many can be held, and that one ends it.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse};
use tokio::time::Instant;

use super::Group;
use super::parking::Rest;
use super::raft_types::{RaftVote, TypeConfig};
use crate::types::{GroupId, NodeId, ReplicaId};

/// The machine of a node refuses connections to it: its process is dead, or has come back since the last refusal.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// The first time since there was a connection.
    pub since: Instant,
    /// The last time.
    pub last: Instant,
}

impl Group {
    /// Whether this replica rests, and its leader's node has said nothing for a lease.
    pub fn misses_leader(&self, now: Instant) -> bool {
        self.parking().look(|rest| rest.missed_since(now)).is_some()
    }

    /// Sees to it that the group gets another leader, if nothing was heard of its leader since its node began to refuse
    /// connections, or if the group is parked and its leader is missed. Returns whether another one is still to come: then
    /// this is to be called again soon.
    pub async fn succeed(&self, refusals: &BTreeMap<NodeId, Refusal>) -> bool {
        if self.raft().metrics().borrow_watched().running_state.is_err() {
            return false; // It has stopped, and elects nobody.
        }
        let metrics = self.raft().server_metrics().borrow_watched().clone();
        let missed = self.parking().look(|rest| rest.missed_since(Instant::now()));
        let missed = missed.map(|since| Refusal { since, last: since });
        let leader = metrics.current_leader;
        let refusal = leader.and_then(|leader| refusals.get(&leader.node)).copied();
        let Some(Refusal { since, last }) = refusal.or(missed) else { return false };
        let lease = Duration::from_millis(self.raft().config().election_timeout_max);
        // Not for ever: where a quorum is missing, Raft's timers try often enough.
        let Some(leader) = leader.filter(|_| since.elapsed() < 2 * lease) else {
            if missed.is_some() {
                self.parking().wake();
            }
            return false;
        };
        let voters = metrics.membership_config.membership().voter_ids();
        let is_gone = |voter: &ReplicaId| refusals.contains_key(&voter.node) || *voter == leader;
        let survivors = voters.filter(|voter| !is_gone(voter)).collect();
        let Some(turns) = Turns::of(self.id(), survivors, self.replica()) else { return false };
        // A turn has room for votes on slow disks, or the next one would get in the way of an election that goes well.
        let turn = lease / 2;
        if self.is_silent_since(last).await {
            if refusal.is_some() {
                self.parking().decide(|rest| rest.leader_died(Instant::now()));
                self.end_lease(metrics.vote).await;
            }
            if turns.is_own(since.elapsed(), turn) {
                self.stand().await;
            }
        }
        true
    }

    async fn is_silent_since(&self, last: Instant) -> bool {
        if self.parking().look(Rest::last_heard).is_some_and(|heard| heard > last) {
            return false;
        }
        let is_silent = self.raft().with_raft_state(move |state| {
            state.vote_last_modified().is_none_or(|heard| heard.elapsed() > last.elapsed())
        });
        is_silent.await.unwrap_or(false)
    }

    /// Gives this replica's vote, or refuses it, where it rests too.
    pub async fn vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, RaftError<TypeConfig>> {
        if let Some(refusal) = self.refusal_at_rest(&request).await {
            return Ok(refusal);
        }
        let answer = self.raft().vote(request).await;
        self.parking().wake();
        answer
    }

    /// Whether this replica would vote for another. One that would not because its own log is longer stands itself: the
    /// other one cannot win. It does nothing while it hears a leader.
    pub async fn pre_vote(
        &self,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, RaftError<TypeConfig>> {
        if let Some(refusal) = self.refusal_at_rest(&request).await {
            return Ok(refusal);
        }
        let last = request.last_log_id;
        let answer = self.raft().pre_vote(request).await?;
        // Who has voted for a third one knows no leader, and gives that one its chance.
        if !answer.vote_granted && answer.last_log_id > last && self.leader().is_some() {
            self.stand().await;
        }
        Ok(answer)
    }

    /// Ends the lease that this replica has granted to the leader with this vote, if it has given no newer one: as if
    /// that leader had said that it hands leadership over, and to nobody here.
    async fn end_lease(&self, vote: RaftVote) {
        let handed_over = TransferLeaderRequest::new(vote, vote.leader_id.node_id, None);
        if let Err(error) = self.raft().handle_transfer_leader(handed_over).await {
            tracing::debug!(group = %self.id(), %error, "no lease is ended: the replica has stopped");
        }
    }

    /// Asks the others whether they would vote for this replica, and stands for election if they would. Does nothing
    /// during a lease that this replica has granted.
    async fn stand(&self) {
        if let Err(error) = self.raft().trigger().elect(true).await {
            tracing::debug!(group = %self.id(), %error, "no election: the replica has stopped");
        }
        self.parking().wake();
    }

    /// Takes it that its leader hands leadership over, perhaps to this replica.
    pub async fn take_transfer(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Fatal<TypeConfig>> {
        let taken = self.raft().handle_transfer_leader(request).await;
        self.parking().wake();
        taken
    }
}

/// When a voter stands: one of the survivors at a time, since two would split the votes, and each again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turns {
    /// After how many others.
    place: u128,
    survivors: u128,
}

impl Turns {
    /// The groups of a dead node begin with different survivors, so that they find new leaders on different nodes. None
    /// for who has no vote.
    fn of(group: GroupId, mut survivors: Vec<ReplicaId>, own: ReplicaId) -> Option<Turns> {
        survivors.sort_unstable();
        survivors.dedup();
        let place = survivors.iter().position(|voter| *voter == own)?;
        let first = (group.0 % survivors.len() as u64) as usize;
        let place = (place + survivors.len() - first) % survivors.len();
        Some(Turns { place: place as u128, survivors: survivors.len() as u128 })
    }

    /// Whether it is the voter's own turn, when the leader has been dead for so long.
    fn is_own(self, dead_for: Duration, each: Duration) -> bool {
        dead_for.as_nanos() / each.as_nanos() % self.survivors == self.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Incarnation;

    const SURVIVORS: [u32; 4] = [5, 3, 4, 3];

    fn replica(node: u32) -> ReplicaId {
        ReplicaId { node: NodeId(node), incarnation: Incarnation(1) }
    }

    fn turns(group: u64, own: u32) -> Option<Turns> {
        Turns::of(GroupId(group), SURVIVORS.map(replica).to_vec(), replica(own))
    }

    #[test]
    fn one_survivor_stands_at_a_time_and_groups_begin_with_different_ones() {
        let each = Duration::from_millis(500);
        let at = |group, ms| {
            let is_own =
                |own: &u32| turns(group, *own).unwrap().is_own(Duration::from_millis(ms), each);
            [3, 4, 5].into_iter().filter(is_own).collect::<Vec<_>>()
        };
        let times = [0, 499, 500, 1_000, 1_499, 1_500, 1_999];
        assert_eq!(times.map(|ms| at(3, ms)), [3, 3, 4, 5, 5, 3, 3].map(|node| vec![node]));
        assert_eq!([3, 4, 5, 6].map(|group| at(group, 0)), [3, 4, 5, 3].map(|node| vec![node]));
    }

    #[test]
    fn who_has_no_vote_has_no_turn() {
        assert_eq!(turns(1, 2), None);
        assert_eq!(Turns::of(GroupId(1), Vec::new(), replica(2)), None);
    }
}
