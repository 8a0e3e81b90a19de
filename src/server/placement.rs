//! Keeps this node in line with the topology: makes the replicas that are wanted here, brings new groups to life,
//! and hands leadership to where it is wanted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::operations::{may_be_blank, other_addresses};
use crate::consensus::{Group, Replicas};
use crate::log::{Command, Topology, TopologyChange, TopologyGroup, TopologyReplica};
use crate::service::cluster::change_topology;
use crate::transport::{NodeOperations, Peers};
use crate::types::{GroupId, NodeId, ReplicaId};

/// How often what is wanted is compared with what is, besides at each change of the topology.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// A leader keeps its group for at least this long after the node has started or the group has changed hands.
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
            if let Err(error) = self.replicas.refresh_topology() {
                tracing::error!(%error, "the topology cannot be read");
                continue;
            }
            let Some(mut wanted) = topology.borrow_and_update().clone() else { continue };
            if is_building(&wanted, self.replicas.node()) {
                let Some(confirmed) = self.confirmed().await else { continue };
                wanted = confirmed;
            }
            self.peers.set_addresses(other_addresses(&wanted, self.replicas.node()));
            for group in &wanted.groups {
                self.reconcile(&wanted, group).await;
            }
            if last_handover.elapsed() >= SETTLE_TIME && self.hand_over_one(&wanted).await {
                last_handover = Instant::now();
            }
        }
    }

    /// The topology as of now, confirmed by the meta group's leader; none if that is not to be had.
    ///
    /// A node that was wiped replays the meta group's log, and so sees again how its groups were being created. Were it
    /// to believe that, it would make blank replicas under ids that have voted, which is what must never be (G1).
    async fn confirmed(&self) -> Option<Arc<Topology>> {
        let meta = self.replicas.get(GroupId::META)?;
        if let Err(error) = meta.barrier(Instant::now() + STEP_TIMEOUT).await {
            tracing::debug!(%error, "the topology is not confirmed yet");
            return None;
        }
        if let Err(error) = self.replicas.refresh_topology() {
            tracing::error!(%error, "the topology cannot be read");
            return None;
        }
        self.replicas.topology().borrow().clone()
    }

    async fn reconcile(&self, topology: &Topology, group: &TopologyGroup) {
        let own = group.replicas.iter().find(|replica| replica.node == self.replicas.node());
        let Some(own) = own else { return };
        let id = raft_id(own);
        let standing = self.replicas.get(group.id).filter(|standing| standing.replica() == id);
        let standing = match standing {
            Some(standing) => standing,
            None if may_be_blank(topology, group.id, id) => {
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
        if first == Some(standing.replica()) {
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

    /// What is not changed now is tried again at the next tick.
    async fn change(&self, change: TopologyChange) {
        let deadline = Instant::now() + STEP_TIMEOUT;
        let operations = self.operations.as_ref();
        let attempt = change.clone();
        let done =
            change_topology(&self.replicas, &self.peers, operations, attempt, deadline).await;
        if let Err(error) = done {
            tracing::debug!(?change, %error, "the topology was not changed yet");
        }
    }

    /// Hands one group that this node leads to its preferred leader, if that one is ready. One at a time, so that
    /// a restarted node gets its groups back without a storm. True if one was handed over.
    async fn hand_over_one(&self, topology: &Topology) -> bool {
        for group in &topology.groups {
            let Some(preferred) = group.replicas.first().map(raft_id) else { continue };
            if preferred.node == self.replicas.node() {
                continue;
            }
            let Some(standing) = self.replicas.get(group.id) else { continue };
            let has_far_clock = standing.has_far_clock(preferred.node);
            if standing.is_leader() && !has_far_clock && standing.is_caught_up(preferred) {
                tracing::info!(group = %group.id, to = %preferred, "handing leadership over");
                standing.transfer_leader(preferred).await;
                return true;
            }
        }
        false
    }
}

/// Whether something may have to be made or begun here that was never there before.
fn is_building(topology: &Topology, own: NodeId) -> bool {
    let is_joining = |replica: &TopologyReplica| replica.node == own && replica.joining;
    topology.groups.iter().any(|group| !group.active || group.replicas.iter().any(is_joining))
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
