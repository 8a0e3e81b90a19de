//! What this node does when a peer, or an operator through it, asks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use tokio::time::{Instant, timeout_at};

use super::disk::DiskWatch;
use super::wanted::{confirmed, may_be_blank};
use crate::consensus::{MembershipChangeError, Replicas};
use crate::log::{Command, Outcome, Topology, TopologyChange};
use crate::seams::planted;
use crate::service::cluster::{
    META_VOTERS_MAX, MetaGroup, decode_change, has_lost_its_data, own_status,
};
use crate::storage::records::Record;
use crate::storage::{DataDir, DiskMark, Identity, keys, offload};
use crate::transport::proto::AdoptReply;
use crate::transport::proto::change_membership_request::Step;
use crate::transport::{Adoption, NodeOperations, OperationError, Peers};
use crate::types::{Clock, GroupId, NodeId, ReplicaId, Timestamp};

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the local topology may take to show a replica that is asked for.
const TOPOLOGY_TIMEOUT: Duration = Duration::from_secs(10);

/// How others reach this node.
#[derive(Clone, Debug)]
pub struct Advertised {
    /// host:port for clients.
    pub client: String,
    /// host:port for nodes.
    pub peer: String,
    /// host:port for metrics and health.
    pub http: String,
    /// Failure domain.
    pub zone: String,
}

/// See `NodeOperations`.
pub struct Operations {
    pub(super) replicas: Arc<Replicas>,
    pub(super) peers: Arc<Peers>,
    pub(super) data_dir: Arc<DataDir>,
    pub(super) identity: Mutex<Identity>,
    pub(super) advertised: Advertised,
    pub(super) disk: Arc<DiskWatch>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) started_us: u64,
    /// One adoption at a time.
    pub(super) adopting: tokio::sync::Mutex<()>,
}

fn refused(reason: impl ToString) -> OperationError {
    OperationError::Refused(reason.to_string())
}

fn unavailable(reason: impl ToString) -> OperationError {
    OperationError::Unavailable(reason.to_string())
}

impl Operations {
    /// The replica first, then the identity: a node whose identity names a cluster has had its meta replica, and
    /// if that is gone later, it was lost.
    async fn take_adoption(&self, adoption: Adoption) -> Result<AdoptReply, OperationError> {
        let _one_at_a_time = self.adopting.lock().await;
        let known = self.peers.introduction().cluster();
        if known.is_some_and(|known| known != adoption.cluster) {
            let node = self.replicas.node();
            return Err(refused(format!("node {node} belongs to another cluster")));
        }
        if adoption.process != self.peers.introduction().process() {
            // What was seen of the other process says nothing of what this one has (G1).
            return Err(unavailable("the node has been started anew meanwhile"));
        }
        let own = self.replicas.node();
        let addresses = adoption.peers.iter().filter(|(node, _)| *node != own).cloned();
        self.peers.set_addresses(addresses);
        let replica = ReplicaId { node: own, incarnation: adoption.meta_incarnation };
        self.refuse_to_forget(replica)?;
        self.replicas.make(GroupId::META, replica).await.map_err(refused)?;
        let identity = {
            let mut identity = self.identity.lock().expect("no panic while locked");
            identity.cluster = Some(adoption.cluster);
            identity.meta_incarnation = Some(adoption.meta_incarnation);
            identity.peers = adoption.peers;
            identity.clone()
        };
        let data_dir = self.data_dir.clone();
        let saved = self.offload(move || data_dir.save_identity(&identity)).await;
        saved.map_err(unavailable)?;
        if !self.peers.introduction().join(adoption.cluster) {
            return Err(refused("the node has joined another cluster meanwhile"));
        }
        tracing::info!(cluster = %adoption.cluster, "this node belongs to a cluster");
        Ok(AdoptReply {
            client_address: self.advertised.client.clone(),
            peer_address: self.advertised.peer.clone(),
            http_address: self.advertised.http.clone(),
            zone: self.advertised.zone.clone(),
        })
    }

    /// A node that has had its replica of the meta group, and does not have it now, has lost it: blank under the same id,
    /// it would forget its votes (G1).
    fn refuse_to_forget(&self, replica: ReplicaId) -> Result<(), OperationError> {
        let had = self.identity.lock().expect("no panic while locked").meta_incarnation;
        let is_lost = had >= Some(replica.incarnation)
            && !self.replicas.has_stored(GroupId::META).map_err(unavailable)?;
        if is_lost && !planted::wiped_replica_votes() {
            return Err(refused(has_lost_its_data(replica.node)));
        }
        Ok(())
    }

    async fn offload<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        offload(self.replicas.state_engine(), |_| job()).await
    }

    async fn make_wanted(&self, group: GroupId, replica: ReplicaId) -> Result<(), OperationError> {
        let standing = self.replicas.get(group).map(|standing| standing.replica());
        if standing == Some(replica) {
            return Ok(());
        }
        let deadline = Instant::now() + TOPOLOGY_TIMEOUT;
        let mut topology = self.replicas.topology();
        let is_wanted = |topology: &Topology| may_be_blank(topology, group, replica);
        let wanted = topology.wait_for(|topology| topology.as_deref().is_some_and(is_wanted));
        let is_seen = matches!(timeout_at(deadline, wanted).await, Ok(Ok(_)));
        let confirmed = if is_seen { confirmed(&self.replicas, deadline).await } else { Ok(None) };
        if !confirmed.map_err(unavailable)?.is_some_and(|topology| is_wanted(&topology)) {
            return Err(unavailable(format!(
                "the topology here does not want replica {replica} of group {group} to be made"
            )));
        }
        self.replicas.make(group, replica).await.map(|_| ()).map_err(refused)
    }

    async fn propose_change(&self, encoded: Bytes) -> Result<String, OperationError> {
        let change =
            decode_change(&encoded).ok_or_else(|| refused("the change does not decode"))?;
        if matches!(&change, TopologyChange::Create(first) if first.version != 1) {
            return Err(refused("a topology begins with version 1"));
        }
        let meta = self.replicas.get(GroupId::META);
        let meta = meta.ok_or_else(|| unavailable("no meta replica here"))?;
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        match meta.propose(Command::ChangeTopology(change), deadline).await {
            Ok(Outcome::TopologyRefused(refusal)) => Ok(refusal.to_string()),
            Ok(_) => Ok(String::new()),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn confirmed_topology(&self) -> Result<Bytes, OperationError> {
        let meta = self.replicas.get(GroupId::META);
        if !meta.is_some_and(|meta| meta.is_leader()) {
            return Err(unavailable("this node does not lead the meta group"));
        }
        let deadline = Instant::now() + TOPOLOGY_TIMEOUT;
        let topology = confirmed(&self.replicas, deadline).await.map_err(unavailable)?;
        let encoded = topology.map(|topology| topology.encode(&keys::topology()));
        Ok(encoded.unwrap_or_default().into())
    }

    async fn step_membership(
        &self,
        group: GroupId,
        step: Step,
        replica: ReplicaId,
    ) -> Result<(), OperationError> {
        let found = self.replicas.get(group);
        let standing = found.ok_or_else(|| unavailable(format!("no replica of group {group}")))?;
        let is_wanted = async || self.ensure_wanted(group, replica).await;
        let changed = match step {
            Step::CheckRemoval => standing.check_removal(replica, self.voters_of(group)?).await,
            Step::Remove => standing.remove_older(replica, self.voters_of(group)?).await,
            Step::AddLearner => standing.add_learner(replica, is_wanted).await,
            Step::Promote => standing.promote(replica, is_wanted).await,
            Step::Unspecified => return Err(refused("no step")),
        };
        changed.map_err(|error| match error {
            MembershipChangeError::Newer(_) | MembershipChangeError::Last => refused(error),
            error => unavailable(error),
        })
    }

    /// How many voters a group has while nothing is being replaced.
    fn voters_of(&self, group: GroupId) -> Result<usize, OperationError> {
        let topology = self.replicas.topology().borrow().clone();
        let topology = topology.ok_or_else(|| unavailable("the topology is not known here"))?;
        if group.is_meta() {
            return Ok(topology.nodes.len().min(META_VOTERS_MAX));
        }
        let known = topology.groups.iter().find(|known| known.id == group);
        known.map(|known| known.replicas.len()).ok_or_else(|| refused("there is no such group"))
    }

    /// Whether the topology wants a replica, as of now. While a cluster is being made there is none to ask.
    async fn ensure_wanted(
        &self,
        group: GroupId,
        replica: ReplicaId,
    ) -> Result<(), MembershipChangeError> {
        let deadline = Instant::now() + TOPOLOGY_TIMEOUT;
        let meta = MetaGroup { replicas: &self.replicas, peers: &self.peers, operations: self };
        let topology = meta.topology(deadline).await;
        let topology =
            topology.map_err(|error| MembershipChangeError::NotMade(error.to_string()))?;
        match topology.and_then(|topology| topology.incarnation(group, replica.node)) {
            Some(wanted) if wanted != replica.incarnation => {
                let wanted = ReplicaId { node: replica.node, incarnation: wanted };
                Err(MembershipChangeError::Newer(wanted))
            }
            _ => Ok(()),
        }
    }
}

impl NodeOperations for Operations {
    fn adopt(&self, adoption: Adoption) -> BoxFuture<'_, Result<AdoptReply, OperationError>> {
        self.take_adoption(adoption).boxed()
    }

    fn ensure_replica(
        &self,
        group: GroupId,
        replica: ReplicaId,
    ) -> BoxFuture<'_, Result<(), OperationError>> {
        self.make_wanted(group, replica).boxed()
    }

    fn change_topology(&self, change: Bytes) -> BoxFuture<'_, Result<String, OperationError>> {
        self.propose_change(change).boxed()
    }

    fn topology(&self) -> BoxFuture<'_, Result<Bytes, OperationError>> {
        self.confirmed_topology().boxed()
    }

    fn change_membership(
        &self,
        group: GroupId,
        step: Step,
        replica: ReplicaId,
    ) -> BoxFuture<'_, Result<(), OperationError>> {
        self.step_membership(group, step, replica).boxed()
    }

    fn status(&self) -> Bytes {
        let uptime_us = self.clock.elapsed_us().saturating_sub(self.started_us);
        let (mark, free_bytes) = (self.disk.mark(), self.disk.free_bytes());
        own_status(&self.replicas, mark, free_bytes, uptime_us, refusals(&self.peers))
    }

    fn pulse(&self) -> (Timestamp, DiskMark) {
        (self.clock.now(), self.disk.mark())
    }
}

/// Which peers refused this node's hello, and why: a sentence for each.
pub fn refusals(peers: &Peers) -> Vec<String> {
    let refused_by = peers.introduction().standing().refused_by();
    let sentence = |(node, reason)| format!("node {node} refused this node: {reason}");
    refused_by.into_iter().map(sentence).collect()
}

/// The addresses of all nodes but this one, as the topology has them.
pub fn other_addresses(topology: &Topology, own: NodeId) -> Vec<(NodeId, String)> {
    let others = topology.nodes.iter().filter(|node| node.id != own);
    others.map(|node| (node.id, node.peer_address.clone())).collect()
}
