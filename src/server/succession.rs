//! Notices that the process of a leader is dead, and has its groups elect another one at once; and that nothing is heard
//! of the leader of a parked group, in which no timers run.
//!
//! A process that has died is told from one that is slow or cut off by its machine, which refuses connections to its
//! port. Everything else is left to Raft's timers, once a group is awake.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::consensus::{Group, RaftTiming, Refusal, Replicas};
use crate::transport::Peers;
use crate::types::NodeId;

/// Between two looks while a group waits for another leader: other voters may see the leader's death later than this one,
/// and until then they refuse their votes.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// What this node needs to notice it.
pub struct Succession {
    pub(super) replicas: Arc<Replicas>,
    pub(super) peers: Arc<Peers>,
    pub(super) timing: RaftTiming,
}

impl Succession {
    /// Runs until the node stops.
    pub async fn run(self) {
        let mut dead = BTreeSet::new();
        loop {
            let groups = self.replicas.all();
            let leaders = self.other_leaders(&groups);
            leaders.iter().for_each(|leader| self.peers.keep_in_touch(*leader));
            let refusals = self.peers.refusals();
            let before = std::mem::replace(
                &mut dead,
                leaders.into_iter().filter(|leader| refusals.contains_key(leader)).collect(),
            );
            for node in dead.difference(&before) {
                tracing::info!(%node, "the process of a leader is gone: its groups elect others");
            }
            let is_wanted = !dead.is_empty() || is_leader_missed(&groups);
            let is_under_way = is_wanted && self.succeed(&groups, &refusals).await;
            let pause = if is_under_way { RETRY_INTERVAL } else { self.timing.rest_interval() };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.peers.refused() => {}
            }
        }
    }

    /// The other nodes that lead a group, as far as known here.
    fn other_leaders(&self, groups: &[Arc<Group>]) -> BTreeSet<NodeId> {
        let leaders = groups.iter().filter_map(|group| group.leader());
        leaders.filter(|leader| *leader != self.replicas.node()).collect()
    }

    /// Whether a group waits for another leader. One that does not answer, because its disk is slow, holds up no others.
    async fn succeed(&self, groups: &[Arc<Group>], refusals: &BTreeMap<NodeId, Refusal>) -> bool {
        let all = join_all(groups.iter().map(|group| group.succeed(refusals)));
        let in_time = timeout(self.timing.heartbeat_interval(), all);
        in_time.await.map_or(true, |waits| waits.contains(&true))
    }
}

/// Whether a parked group hears nothing of its leader.
fn is_leader_missed(groups: &[Arc<Group>]) -> bool {
    let now = Instant::now();
    groups.iter().any(|group| group.misses_leader(now))
}
