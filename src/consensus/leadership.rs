//! Whether a quorum still follows a leader, found out by asking (Raft dissertation, 6.4).
//!
//! Guarantees at stake: G3 and G10. A voter that follows a newer leader says so, and no newer leader has committed
//! anything without such a voter in each majority of ours. That holds of answers to requests which were sent after the
//! read arrived, so only these count, each with a stream of its own. openraft's acknowledgements do not tell: the late
//! answer to one append also stands for requests sent after it, if these had no entries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use openraft::type_config::alias::InstantOf;
use openraft::{Instant, RaftState, ServerState};
use tokio::time::{sleep, timeout};

use super::config::RaftTiming;
use super::network::{Appending, Lane, RaftTransport, Route};
use super::raft_types::{Raft, RaftVote, TypeConfig};
use crate::types::{GroupId, LogIndex, NodeId, ReplicaId};

/// Who leads, as one replica sees it at one moment.
pub enum Standing {
    /// This replica, unless a newer leader has been elected without it.
    Leads(Lead),
    /// Another node, or nobody that is known.
    Follows(Option<NodeId>),
}

/// A leader as a round begins.
pub struct Lead {
    /// Its vote.
    pub vote: RaftVote,
    /// Everything that this leader or one before it has committed until now is at or before this index.
    pub index: LogIndex,
    /// The voters: one config, or two while the membership changes.
    pub configs: Vec<BTreeSet<ReplicaId>>,
}

impl Standing {
    /// As openraft's state has it.
    pub fn of(own: ReplicaId, state: &RaftState<TypeConfig>) -> Self {
        let vote = *state.vote_ref();
        let membership = state.membership_state.effective();
        if state.server_state != ServerState::Leader {
            let leader = vote.leader_id.node_id;
            let is_member = membership.get_node(&leader).is_some();
            let is_known = vote.committed && is_member && leader.node != own.node;
            return Standing::Follows(is_known.then_some(leader.node));
        }
        // Before its term's first commit a leader does not know how far earlier ones have committed: its whole log counts.
        let committed = state.local_committed().filter(|id| id.leader_id == vote.leader_id);
        let last = committed.or_else(|| state.log_ids.last());
        let index = last.map_or(LogIndex(0), |id| LogIndex(id.index));
        Standing::Leads(Lead { vote, index, configs: membership.get_joint_config().clone() })
    }
}

/// The voters of a group, as one of its replicas can ask them. Whoever asks has one question at a time for each, also
/// where a round ends without its answer. A voter whose disk hangs keeps every question that it has not answered.
pub struct Voters {
    transport: Arc<dyn RaftTransport>,
    group: GroupId,
    own: ReplicaId,
    timing: RaftTiming,
    /// Questions on their way, of rounds that have ended too.
    asked: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Who is asked in them.
    busy: BTreeSet<ReplicaId>,
    rounds: u64,
}

/// What became of a question.
struct Answer {
    voter: ReplicaId,
    round: u64,
    /// None if the voter was not reached, or did not answer in time.
    follows: Option<bool>,
}

impl Voters {
    /// Nobody is asked yet.
    pub fn new(
        transport: Arc<dyn RaftTransport>,
        group: GroupId,
        own: ReplicaId,
        timing: RaftTiming,
    ) -> Self {
        let (asked, busy) = (FuturesUnordered::new(), BTreeSet::new());
        Voters { transport, group, own, timing, asked, busy, rounds: 0 }
    }

    /// One round: asks every other voter whether it follows this leader. Returns once a majority of each config has said
    /// so, or with the reason why it did not. `raft` is the leader's: nobody is asked before a quorum has heard of it.
    /// Takes no longer than two of the leader's leases. Cancel safe.
    pub async fn confirm(&mut self, raft: &Raft, lead: &Lead) -> Result<(), &'static str> {
        self.confirm_by(raft, lead, |_| true).await
    }

    /// As `confirm`, by those alone of the voters that count.
    pub async fn confirm_by(
        &mut self,
        raft: &Raft,
        lead: &Lead,
        counts: impl Fn(&ReplicaId) -> bool,
    ) -> Result<(), &'static str> {
        let lease = self.timing.lease();
        is_heard(raft.clone(), lease).await?;
        let round = timeout(lease, self.round(lead, counts)).await;
        round.unwrap_or(Err("too few voters answered in time"))
    }

    async fn round(
        &mut self,
        lead: &Lead,
        counts: impl Fn(&ReplicaId) -> bool,
    ) -> Result<(), &'static str> {
        self.rounds += 1;
        let round = self.rounds;
        let mut others: BTreeSet<_> = lead.configs.iter().flatten().copied().collect();
        others.retain(|voter| *voter != self.own && counts(voter));
        for voter in &others {
            if !self.busy.contains(voter) {
                self.ask(*voter, lead.vote, None);
            }
        }
        // The replica itself gave no newer vote before the read arrived: `Standing` was taken after.
        let mut follows = BTreeMap::from([(self.own, true)]);
        loop {
            if is_quorum(&lead.configs, |voter| follows.get(voter) == Some(&true)) {
                return Ok(());
            }
            if !is_quorum(&lead.configs, |voter| follows.get(voter) != Some(&false)) {
                return Err("a newer leader has been elected, or stands for election");
            }
            let Some(answer) = self.asked.next().await else { return Err("too few voters") };
            let voter = answer.voter;
            self.busy.remove(&voter);
            match answer.follows {
                Some(said) if answer.round == round => drop(follows.insert(voter, said)),
                // What an earlier round has asked says nothing of now.
                _ if !others.contains(&voter) => {}
                Some(_) => self.ask(voter, lead.vote, None),
                None => self.ask(voter, lead.vote, Some(self.timing.heartbeat_interval())),
            }
        }
    }

    /// Asks a voter that owes no answer, after a pause if there is to be one, for the round that is under way.
    fn ask(&mut self, voter: ReplicaId, vote: RaftVote, pause: Option<Duration>) {
        let (transport, patience, round) =
            (self.transport.clone(), self.timing.lease(), self.rounds);
        let route = Route { group: self.group, from: self.own, to: voter };
        self.busy.insert(voter);
        self.asked.push(Box::pin(async move {
            // Not for no time at all, which takes until the timer's next millisecond.
            if let Some(pause) = pause {
                sleep(pause).await;
            }
            let input = futures::stream::iter([question(vote)]);
            let input = input
                .map(|raft| Appending {
                    raft,
                    needed_from: LogIndex(0),
                    acknowledged_before: LogIndex(0),
                })
                .boxed();
            let mut answers = transport.append(route, Lane::Heartbeats, input, patience);
            let answer = answers.next().await.and_then(Result::ok);
            Answer { voter, round, follows: answer.map(|said| said.is_ok()) }
        }));
    }
}

/// A heartbeat that says nothing of the log: it changes nothing there, and fits every log. A voter that has given a newer
/// vote refuses it; one that has not takes this leader's vote, and answers once that is on stable storage.
pub(super) fn question(vote: RaftVote) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None }
}

/// Waits until a quorum has heard this leader within a lease, as openraft saw it; for a lease at most. A leader that
/// openraft has silenced, because it hands leadership over or reaches no quorum, must not ask either: each question
/// would keep the voters from electing another, and this one appends nothing any more. Who is the only voter needs no
/// answers, and openraft notes none.
pub(super) async fn is_heard(raft: Raft, lease: Duration) -> Result<(), &'static str> {
    let is_alone = || raft.voter_ids().all(|voter| voter == *raft.node_id());
    let mut metrics = raft.data_metrics();
    let heard = async {
        loop {
            let last = metrics.borrow_watched().last_quorum_acked;
            let is_recent = last.is_some_and(|last| last.into_inner().elapsed() < lease);
            if is_recent || is_alone() || metrics.changed().await.is_err() {
                return;
            }
        }
    };
    let late = |_| "no quorum has heard of this leader lately";
    timeout(lease, heard).await.map_err(late)
}

/// Waits until a replica has answered what this leader sends from now on, which is a heartbeat at the latest; for a lease
/// at most. Whether it has: an older answer says little, its process may have died since. A leader that openraft has
/// silenced sends nothing, and is not made to.
pub(super) async fn answers(raft: Raft, replica: ReplicaId, lease: Duration) -> bool {
    let asked_at = InstantOf::<TypeConfig>::now();
    let mut metrics = raft.data_metrics();
    let answered = async {
        loop {
            // When that was sent which it has answered.
            let last = match &metrics.borrow_watched().heartbeat {
                Some(of) => of.get(&replica).copied().flatten(),
                None => return false, // It leads no more.
            };
            if last.is_some_and(|last| last.into_inner() > asked_at) {
                return true;
            }
            if metrics.changed().await.is_err() {
                return false;
            }
        }
    };
    timeout(lease, answered).await.unwrap_or(false)
}

/// Whether these are a majority of each config.
fn is_quorum(configs: &[BTreeSet<ReplicaId>], counts: impl Fn(&ReplicaId) -> bool) -> bool {
    let mut each = configs.iter();
    each.all(|voters| voters.iter().filter(|voter| counts(voter)).count() > voters.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Incarnation;

    fn replicas(nodes: &[u32]) -> BTreeSet<ReplicaId> {
        let replica = |node: &u32| ReplicaId { node: NodeId(*node), incarnation: Incarnation(1) };
        nodes.iter().map(replica).collect()
    }

    #[test]
    fn a_quorum_is_a_majority_of_each_config() {
        let is_quorum_of = |configs: &[BTreeSet<ReplicaId>], nodes: &[u32]| {
            let counted = replicas(nodes);
            is_quorum(configs, |voter| counted.contains(voter))
        };
        let one = [replicas(&[1])];
        assert!(is_quorum_of(&one, &[1]) && !is_quorum_of(&one, &[2, 3]));
        let four = [replicas(&[1, 2, 3, 4])];
        assert!(is_quorum_of(&four, &[1, 3, 4]) && !is_quorum_of(&four, &[1, 3]));
        let joint = [replicas(&[1, 2, 3]), replicas(&[3, 4, 5])];
        assert!(is_quorum_of(&joint, &[1, 3, 4]) && is_quorum_of(&joint, &[1, 2, 4, 5]));
        assert!(!is_quorum_of(&joint, &[1, 2, 3]), "two of the new voters are needed too");
        assert!(!is_quorum_of(&joint, &[3, 4, 5]), "and two of the old ones");
    }
}
