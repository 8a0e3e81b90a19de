//! Keeps this node in line with the topology: makes the replicas of new groups that are wanted here, brings those
//! groups to life, completes changes of membership that were left half done, and hands leadership to where it is wanted.
//!
//! Replicas of groups that have begun are made by `quorate node replace` alone, which first takes the old id out.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::operations::other_addresses;
use super::wanted::{confirmed, has_not_begun, may_be_blank, nodes_to_ask};
use crate::consensus::{Group, Replicas};
use crate::log::{Command, Topology, TopologyChange, TopologyGroup, TopologyReplica};
use crate::seams::planted;
use crate::service::cluster::{MetaGroup, replica_statuses};
use crate::transport::{NodeOperations, Peers};
use crate::types::{GroupId, ReplicaId};

/// How often what is wanted is compared with what is, besides at each change of the topology.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// A leader keeps its group for at least this long after the node has started or handed one over, or the group has
/// changed hands: longer than a node takes to stop that has just handed it over.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// See the module.
pub struct Placement {
    pub(super) replicas: Arc<Replicas>,
    pub(super) peers: Arc<Peers>,
    pub(super) operations: Arc<dyn NodeOperations>,
}

impl Placement {
    /// Runs until the node stops.
    pub async fn run(self) {
        let mut topology = self.replicas.topology();
        let mut meta_changed = None;
        let mut ticks = tokio::time::interval(RECONCILE_INTERVAL);
        let mut last_handover = Instant::now();
        let mut unsettled = BTreeSet::new();
        let mut led = LedSince::default();
        loop {
            // The meta replica may be made long after the node started.
            if meta_changed.is_none() {
                let meta = self.replicas.get(GroupId::META);
                meta_changed = meta.map(|meta| meta.applied().watch_topology());
            }
            tokio::select! {
                _ = ticks.tick() => {}
                _ = topology.changed() => {}
                () = changed(&mut meta_changed) => {}
            }
            self.hear_of_topology().await;
            if let Err(error) = self.replicas.refresh_topology() {
                tracing::error!(%error, "the topology cannot be read");
                continue;
            }
            let Some(mut wanted) = topology.borrow_and_update().clone() else { continue };
            self.settle(&mut unsettled).await;
            if wanted.groups.iter().any(|group| !group.active) {
                let deadline = Instant::now() + STEP_TIMEOUT;
                match confirmed(&self.replicas, deadline).await {
                    Ok(Some(confirmed)) => wanted = confirmed,
                    Ok(None) => continue,
                    Err(reason) => {
                        tracing::debug!(reason, "what is wanted is not known yet");
                        continue;
                    }
                }
            }
            self.peers.set_addresses(other_addresses(&wanted, self.replicas.node()));
            for group in &wanted.groups {
                self.reconcile(&wanted, group).await;
            }
            let groups = self.replicas.all();
            let leads = groups.iter().filter(|group| group.is_leader()).map(|group| group.id());
            led.note(leads.collect(), Instant::now());
            let is_quiet = last_handover.elapsed() >= SETTLE_TIME;
            if is_quiet && self.hand_over_one(&wanted, &led).await {
                last_handover = Instant::now();
            }
        }
    }

    async fn reconcile(&self, topology: &Topology, group: &TopologyGroup) {
        let own = group.replicas.iter().find(|replica| replica.node == self.replicas.node());
        let Some(own) = own else { return };
        let id = raft_id(own);
        let standing = self.replicas.get(group.id).filter(|standing| standing.replica() == id);
        let standing = match standing {
            Some(standing) => standing,
            // Its older replica stands until that is no member any more.
            None if group.active && own.joining && self.replicas.get(group.id).is_some() => return,
            None if is_new(group) && may_be_blank(topology, group.id, id) => {
                match self.replicas.make(group.id, id).await {
                    Ok(made) => made,
                    Err(error) => {
                        tracing::error!(group = %group.id, %error, "a replica was not made");
                        return;
                    }
                }
            }
            None => {
                self.replicas.note_missing(group.id, id);
                return;
            }
        };
        if group.active {
            return;
        }
        if own.joining {
            let (group, node, incarnation) = (group.id, own.node, own.incarnation);
            self.change(TopologyChange::ReplicaMade { group, node, incarnation }).await;
        } else if group.replicas.iter().all(|replica| !replica.joining) {
            self.bring_to_life(group, &standing).await;
        }
    }

    /// The first replica's node initializes a group whose replicas are all made; whoever leads it then configures it. Not
    /// before: a replica that has voted while the topology still has it for blank could be made again after a loss (G1),
    /// and one that is late would find the group active, and itself missing.
    async fn bring_to_life(&self, group: &TopologyGroup, standing: &Group) {
        let first = group.replicas.first().map(raft_id);
        if first == Some(standing.replica()) && self.has_not_begun(group).await {
            let voters = group.replicas.iter().map(raft_id).collect();
            if let Err(reason) = standing.initialize(voters).await {
                tracing::warn!(group = %group.id, reason, "a group was not initialized");
                return;
            }
        }
        if !standing.is_leader() {
            return;
        }
        let configure = Command::Configure { range: group.range, epoch: group.epoch };
        if let Err(error) = standing.propose(configure, Instant::now() + STEP_TIMEOUT).await {
            tracing::debug!(group = %group.id, %error, "a group was not configured yet");
            return;
        }
        self.change(TopologyChange::ActivateGroup { group: group.id }).await;
    }

    /// Asks the other nodes of a group, all at once, how its replicas are, and decides by that.
    async fn has_not_begun(&self, group: &TopologyGroup) -> bool {
        let (replicas, peers, own) = (&self.replicas, &self.peers, self.replicas.node());
        let operations = self.operations.as_ref();
        let asked = nodes_to_ask(group, own).map(async |node| {
            let statuses = replica_statuses(replicas, peers, operations, node).await;
            let status = statuses.ok()?.1.remove(&group.id)?;
            Some((node, status))
        });
        let said = join_all(asked).await.into_iter().flatten().collect();
        let has_not = has_not_begun(group, own, &said);
        if !has_not {
            tracing::debug!(group = %group.id, "a group may have begun");
        }
        has_not
    }

    /// Completes what stays between two memberships from one tick to the next: whoever began the change has gone, and it
    /// needs majorities of both until it is complete (G9).
    async fn settle(&self, unsettled: &mut BTreeSet<GroupId>) {
        let mut still = BTreeSet::new();
        for group in self.replicas.all().into_iter().filter(|one| one.is_between_memberships()) {
            if unsettled.contains(&group.id()) {
                let settled = timeout(STEP_TIMEOUT, group.settle()).await;
                let is_done = matches!(settled, Ok(Ok(())));
                tracing::info!(group = %group.id(), is_done, "a membership was half changed");
            }
            still.insert(group.id());
        }
        *unsettled = still;
    }

    /// A node whose own replica of the meta group is missing or still blank hears of the topology from others: it may lead
    /// groups, which nobody finds in it otherwise.
    async fn hear_of_topology(&self) {
        let is_member = |meta: Arc<Group>| meta.is_member();
        let belongs = self.peers.introduction().cluster().is_some();
        if !belongs || self.replicas.get(GroupId::META).is_some_and(is_member) {
            return;
        }
        match self.meta().topology(Instant::now() + STEP_TIMEOUT).await {
            Ok(Some(topology)) => self.replicas.learn_topology(topology),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the topology is not known yet"),
        }
    }

    fn meta(&self) -> MetaGroup<'_> {
        let operations = self.operations.as_ref();
        MetaGroup { replicas: &self.replicas, peers: &self.peers, operations }
    }

    /// What is not changed now is tried again at the next tick.
    async fn change(&self, change: TopologyChange) {
        let deadline = Instant::now() + STEP_TIMEOUT;
        if let Err(error) = self.meta().change_topology(change.clone(), deadline).await {
            tracing::debug!(?change, %error, "the topology was not changed yet");
        }
    }

    /// Hands one group that this node leads to its preferred leader, if that one is ready. One at a time, so that
    /// a restarted node gets its groups back without a storm. True if one was handed over.
    async fn hand_over_one(&self, topology: &Topology, led: &LedSince) -> bool {
        let now = Instant::now();
        for group in topology.groups.iter().filter(|group| led.is_settled(group.id, now)) {
            let Some(preferred) = group.replicas.first().map(raft_id) else { continue };
            if preferred.node == self.replicas.node() {
                continue;
            }
            let Some(standing) = self.replicas.get(group.id) else { continue };
            let is_fit = standing.has_seen_fit(preferred.node);
            if is_fit && standing.transfer_leader(preferred).await {
                return true;
            }
        }
        false
    }
}

/// Since when this node is seen to lead the groups that it leads.
#[derive(Default)]
struct LedSince(BTreeMap<GroupId, Instant>);

impl LedSince {
    fn note(&mut self, led: BTreeSet<GroupId>, now: Instant) {
        self.0.retain(|group, _| led.contains(group));
        for group in led {
            self.0.entry(group).or_insert(now);
        }
    }

    fn is_settled(&self, group: GroupId, now: Instant) -> bool {
        self.0.get(&group).is_some_and(|since| now - *since >= SETTLE_TIME)
    }
}

/// Whether no replica of the group can have been lost yet.
fn is_new(group: &TopologyGroup) -> bool {
    !group.active || planted::wiped_replica_votes()
}

fn raft_id(replica: &TopologyReplica) -> ReplicaId {
    ReplicaId { node: replica.node, incarnation: replica.incarnation }
}

async fn changed(watch: &mut Option<tokio::sync::watch::Receiver<()>>) {
    match watch {
        Some(receiver) => {
            if receiver.changed().await.is_err() {
                *watch = None; // The replica was made anew.
            }
        }
        None => std::future::pending().await,
    }
}
