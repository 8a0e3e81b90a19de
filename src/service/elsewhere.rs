//! Which other node to ask about a group that has no replica here. The topology names its replicas; which of them
//! leads, which cannot be reached, and which does not serve, is known only from what other calls have just been answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::errors::{CallError, reason};
use crate::types::{GroupId, NodeId};

/// How long a node that could not be reached, or whose replica does not serve, is asked only where no other can be.
const AVOIDED_FOR: Duration = Duration::from_secs(5);
/// How long a node that knew no leader is asked only where no other can be: about as long as an election takes. It may be
/// the leader itself, which no quorum hears any more, and which does not know of the next one.
const LEADERLESS_FOR: Duration = Duration::from_secs(1);

/// What calls have learnt of other nodes. One entry for each node, each group and each replica, at most.
#[derive(Default)]
pub struct Elsewhere(Mutex<Learnt>);

#[derive(Default)]
struct Learnt {
    leaders: BTreeMap<GroupId, NodeId>,
    unreachable_since: BTreeMap<NodeId, Instant>,
    /// Replicas that a node has, as the topology says, and that did not serve: damaged, still being made, or cut off.
    not_serving_since: BTreeMap<(GroupId, NodeId), Instant>,
    /// Replicas that knew no leader, or named one that knew none.
    leaderless_since: BTreeMap<(GroupId, NodeId), Instant>,
}

impl Learnt {
    fn avoids(&self, group: GroupId, node: NodeId) -> bool {
        let since = [self.unreachable_since.get(&node), self.not_serving_since.get(&(group, node))];
        since.into_iter().flatten().any(|since| since.elapsed() < AVOIDED_FOR)
    }

    fn is_leaderless(&self, group: GroupId, node: NodeId) -> bool {
        let since = self.leaderless_since.get(&(group, node));
        since.is_some_and(|since| since.elapsed() < LEADERLESS_FOR)
    }

    /// Learns that a replica does not know who leads, which is no reason to go on believing that it does.
    fn note_leaderless(&mut self, group: GroupId, node: NodeId) {
        self.leaderless_since.insert((group, node), Instant::now());
        if self.leaders.get(&group) == Some(&node) {
            self.leaders.remove(&group);
        }
    }

    fn learn_of<T>(&mut self, node: NodeId, answer: &Result<T, CallError>) {
        match answer.as_ref().map_err(CallError::reason) {
            Err(reason::PEER_UNREACHABLE | reason::OUTCOME_UNKNOWN) => {
                self.unreachable_since.insert(node, Instant::now());
            }
            _ => {
                self.unreachable_since.remove(&node);
            }
        }
    }

    fn learn_of_replica<T>(&mut self, group: GroupId, node: NodeId, answer: &Result<T, CallError>) {
        match answer.as_ref().map_err(CallError::reason) {
            Err(reason::REPLICA_STOPPED | reason::NOT_INITIALIZED | reason::NO_QUORUM) => {
                self.not_serving_since.insert((group, node), Instant::now());
            }
            Err(reason::NO_LEADER) => self.note_leaderless(group, node),
            // Who leads is known also where nothing can be read; but not where it is not known by itself.
            Err(_) => {
                let leader = answer.as_ref().err().and_then(CallError::leader_hint);
                if leader.is_some_and(|leader| self.is_leaderless(group, leader)) {
                    self.note_leaderless(group, node);
                }
            }
            Ok(_) => {
                self.not_serving_since.remove(&(group, node));
                self.leaderless_since.remove(&(group, node));
            }
        }
    }
}

impl Elsewhere {
    /// The one of a group's `replicas` to ask: the leader as last heard, if it can be asked; otherwise the first that
    /// can, which says who leads. Those that have just not known it come behind the others, and last those that cannot be
    /// asked. None if there is nobody to ask.
    pub fn choose(&self, group: GroupId, replicas: &[NodeId]) -> Option<NodeId> {
        let learnt = self.learnt();
        let leader = learnt.leaders.get(&group).filter(|leader| replicas.contains(leader));
        let candidates = leader.into_iter().chain(replicas).copied();
        // Of those that come as late, the first.
        candidates
            .min_by_key(|node| (learnt.avoids(group, *node), learnt.is_leaderless(group, *node)))
    }

    /// Whether a node is one to ask about a group only if no other can be.
    pub fn avoids(&self, group: GroupId, node: NodeId) -> bool {
        self.learnt().avoids(group, node)
    }

    /// Learns whether a node can be reached, from what came of asking it.
    pub fn learn_of<T>(&self, node: NodeId, answer: &Result<T, CallError>) {
        self.learnt().learn_of(node, answer);
    }

    /// Learns whether a node's replica of a group serves, from what came of asking for it.
    pub fn learn_of_replica<T>(&self, group: GroupId, node: NodeId, answer: &Result<T, CallError>) {
        self.learnt().learn_of_replica(group, node, answer);
    }

    /// Learns both.
    pub fn learn<T>(&self, node: NodeId, groups: &[GroupId], answer: &Result<T, CallError>) {
        let mut learnt = self.learnt();
        learnt.learn_of(node, answer);
        for group in groups {
            learnt.learn_of_replica(*group, node, answer);
        }
    }

    /// Learns who leads a group, from an answer that names somebody.
    pub fn learn_leader<T>(&self, group: GroupId, answer: &Result<T, CallError>) {
        if let Some(leader) = answer.as_ref().err().and_then(CallError::leader_hint) {
            self.learnt().leaders.insert(group, leader);
        }
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.0.lock().expect("no panic while locked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Effect;

    const GROUP: GroupId = GroupId(7);
    const REPLICAS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn unreachable(node: NodeId) -> Result<(), CallError> {
        Err(CallError::unreachable(node, "gone", Effect::None))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_asked_and_then_whom_it_names() {
        let elsewhere = Elsewhere::default();
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(1)));
        let named = Err::<(), _>(CallError::not_leader(Some(NodeId(3))));
        elsewhere.learn_leader(GROUP, &named);
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(3)));
        assert_eq!(elsewhere.choose(GroupId(8), &REPLICAS), Some(NodeId(1)));
        // Nobody is named, which says nothing of another node.
        elsewhere.learn_leader(GROUP, &Err::<(), _>(CallError::not_leader(None)));
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(3)));
        // It has no replica any more.
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS[..2]), Some(NodeId(1)));
        assert_eq!(elsewhere.choose(GROUP, &[]), None);
    }

    /// A leader that no quorum hears goes on taking itself for one, and its followers do so too.
    #[tokio::test(start_paused = true)]
    async fn who_knows_no_leader_is_not_asked_again_at_once() {
        let elsewhere = Elsewhere::default();
        let asked = |node, error: CallError| {
            let answer = Err::<(), _>(error);
            elsewhere.learn(node, &[GROUP], &answer);
            elsewhere.learn_leader(GROUP, &answer);
            elsewhere.choose(GROUP, &REPLICAS)
        };
        assert_eq!(asked(NodeId(1), CallError::not_leader(Some(NodeId(2)))), Some(NodeId(2)));
        assert_eq!(asked(NodeId(2), CallError::not_leader(None)), Some(NodeId(1)));
        assert_eq!(elsewhere.choose(GroupId(8), &REPLICAS[1..]), Some(NodeId(2)), "of this group");
        assert_eq!(asked(NodeId(1), CallError::not_leader(Some(NodeId(2)))), Some(NodeId(3)));
        // An election is under way: nobody is better than the others, and whoever is named last is asked.
        assert_eq!(asked(NodeId(3), CallError::not_leader(None)), Some(NodeId(2)));
        elsewhere.learn_of(NodeId(2), &unreachable(NodeId(2)));
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(1)), "who can be reached");
        tokio::time::advance(LEADERLESS_FOR).await;
        assert_eq!(asked(NodeId(1), CallError::not_leader(Some(NodeId(3)))), Some(NodeId(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_reached_is_avoided_for_a_while() {
        let elsewhere = Elsewhere::default();
        elsewhere.learn_of(NodeId(1), &unreachable(NodeId(1)));
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(2)));
        elsewhere.learn_of(NodeId(2), &unreachable(NodeId(2)));
        elsewhere.learn_of(NodeId(3), &unreachable(NodeId(3)));
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(1)), "somebody has to be asked");
        elsewhere.learn_of(NodeId(3), &Ok(()));
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(3)));
        tokio::time::advance(AVOIDED_FOR).await;
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_does_not_serve_is_avoided_for_a_while() {
        let elsewhere = Elsewhere::default();
        let stopped = Err::<(), _>(CallError::replica_gone());
        elsewhere.learn_leader(GROUP, &Err::<(), _>(CallError::not_leader(Some(NodeId(2)))));
        elsewhere.learn_of(NodeId(2), &stopped);
        elsewhere.learn_of_replica(GROUP, NodeId(2), &stopped);
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(1)));
        assert!(elsewhere.avoids(GROUP, NodeId(2)));
        // Its others may be well, and other errors say nothing of this one.
        assert_eq!(elsewhere.choose(GroupId(8), &REPLICAS[1..]), Some(NodeId(2)));
        elsewhere.learn_of_replica(GROUP, NodeId(2), &unreachable(NodeId(2)));
        let redirected = Err::<(), _>(CallError::not_leader(Some(NodeId(1))));
        elsewhere.learn_of_replica(GROUP, NodeId(2), &redirected);
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(1)));
        assert_eq!(
            elsewhere.choose(GROUP, &[NodeId(2)]),
            Some(NodeId(2)),
            "somebody has to be asked"
        );
        elsewhere.learn_of_replica(GROUP, NodeId(2), &Ok(()));
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(2)));
        let unknown = Err::<(), _>(CallError::not_initialized());
        elsewhere.learn_of_replica(GROUP, NodeId(2), &unknown);
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(1)));
        tokio::time::advance(AVOIDED_FOR).await;
        assert_eq!(elsewhere.choose(GROUP, &REPLICAS), Some(NodeId(2)));
    }
}
