//! How the cluster and its nodes are.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use prost::Message as _;
use quorate_client::proto::{DescribeClusterResponse, NodeStatus, ReplicaStatus};
use tokio::time::timeout;

use super::{ClusterApi, ClusterError};
use crate::consensus::{GroupStatus, Replicas};
use crate::storage::DiskMark;
use crate::transport::{NodeOperations, PeerError, Peers, cluster_from_wire, proto, root_cause};
use crate::types::{GroupId, NodeId};

/// A node that has not answered by then is shown as not reachable.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

impl ClusterApi {
    /// The topology as this node has it, and what every node says of itself now.
    pub(super) async fn describe(&self) -> Result<DescribeClusterResponse, ClusterError> {
        let topology = self.replicas.topology().borrow().clone();
        let nodes = self.node_statuses().await;
        let mut topology = topology.map(|topology| self.topology_to_proto(&topology));
        if let Some(topology) = &mut topology {
            fill_leaders(topology, &nodes);
        }
        Ok(DescribeClusterResponse { topology, nodes, node_id: self.replicas.node().0.into() })
    }

    /// Asks every node at the same time.
    pub(super) async fn node_statuses(&self) -> Vec<NodeStatus> {
        let own = self.replicas.node();
        let mut nodes: Vec<NodeId> = match &*self.replicas.topology().borrow() {
            Some(topology) => topology.nodes.iter().map(|node| node.id).collect(),
            None => vec![own],
        };
        nodes.sort();
        join_all(nodes.into_iter().map(|node| self.node_status(node))).await
    }

    async fn node_status(&self, node: NodeId) -> NodeStatus {
        let status = if node == self.replicas.node() {
            Ok(self.operations.status())
        } else {
            let asked = timeout(STATUS_TIMEOUT, self.ask_status(node)).await;
            asked.unwrap_or_else(|_| Err(format!("no answer within {STATUS_TIMEOUT:?}")))
        };
        let status = status.and_then(|encoded| {
            NodeStatus::decode(encoded).map_err(|error| format!("its answer is malformed: {error}"))
        });
        status.unwrap_or_else(|problem| NodeStatus {
            node_id: node.0.into(),
            problems: vec![problem],
            ..NodeStatus::default()
        })
    }

    async fn ask_status(&self, node: NodeId) -> Result<Bytes, String> {
        let own = self.peers.introduction();
        let mut client = self.peers.client(node).map_err(|error| error.to_string())?;
        let request = proto::StatusRequest { hello: Some(own.hello(node)) };
        let reply = client.status(request).await.map_err(|status| root_cause(&status))?;
        let reply = reply.into_inner();
        // Strangers are answered too, so that `init` can look at them: what they say counts for nothing here.
        match cluster_from_wire(&reply.cluster_id) {
            Some(theirs) if Some(theirs) != own.cluster() => {
                Err(format!("it belongs to another cluster, {theirs}"))
            }
            _ => Ok(reply.status),
        }
    }
}

/// Which process a node is, and how its replicas are, by its own account.
///
/// # Errors
/// It does not answer, or not in words that are understood.
pub async fn replica_statuses(
    replicas: &Replicas,
    peers: &Peers,
    operations: &dyn NodeOperations,
    node: NodeId,
) -> Result<(u64, BTreeMap<GroupId, ReplicaStatus>), ClusterError> {
    let (process, encoded) = if node == replicas.node() {
        (peers.introduction().process(), operations.status())
    } else {
        let mut client = peers.client(node)?;
        let hello = Some(peers.introduction().hello(node));
        let reply = client.status(proto::StatusRequest { hello }).await;
        let reply = reply.map_err(|status| PeerError::Failed { node, status })?.into_inner();
        (reply.process_id, reply.status)
    };
    let status = NodeStatus::decode(encoded);
    let status = status.map_err(|error| ClusterError::Unavailable(error.to_string()))?;
    let replicas = status.replicas.into_iter();
    Ok((process, replicas.map(|replica| (GroupId(replica.group_id), replica)).collect()))
}

/// The node whose replica of a group says that it leads, in the newest term if several do: one that was removed may never
/// hear of another. None if nobody says so in time.
pub async fn leader_of(
    replicas: &Replicas,
    peers: &Peers,
    operations: &dyn NodeOperations,
    group: GroupId,
) -> Option<NodeId> {
    leader_status(replicas, peers, operations, group).await.map(|(node, _)| node)
}

/// The same, and how its replica is.
pub async fn leader_status(
    replicas: &Replicas,
    peers: &Peers,
    operations: &dyn NodeOperations,
    group: GroupId,
) -> Option<(NodeId, ReplicaStatus)> {
    let nodes = peers.addresses().into_keys().chain([replicas.node()]);
    let ask = async |node: NodeId| {
        let asked = replica_statuses(replicas, peers, operations, node);
        let (_, mut statuses) = timeout(STATUS_TIMEOUT, asked).await.ok()?.ok()?;
        let status = statuses.remove(&group)?;
        (status.role == "leader").then_some((node, status))
    };
    let said = join_all(nodes.map(ask)).await;
    said.into_iter().flatten().max_by_key(|(node, status)| (status.term, *node))
}

/// Leaders of groups without a replica on this node, as their own nodes tell.
fn fill_leaders(topology: &mut quorate_client::proto::Topology, nodes: &[NodeStatus]) {
    for group in topology.groups.iter_mut().filter(|group| group.leader_node_id == 0) {
        let leads = |node: &&NodeStatus| {
            node.replicas.iter().any(|r| r.group_id == group.group_id && r.role == "leader")
        };
        group.leader_node_id = nodes.iter().find(leads).map_or(0, |node| node.node_id);
    }
}

/// This node's status in its travelling form.
pub fn own_status(
    replicas: &Replicas,
    disk: DiskMark,
    disk_free_bytes: u64,
    uptime_us: u64,
    problems: Vec<String>,
) -> Bytes {
    let mark = match disk {
        DiskMark::Ok => "OK",
        DiskMark::Soft => "SOFT",
        DiskMark::Hard => "HARD",
    };
    let status = NodeStatus {
        node_id: replicas.node().0.into(),
        reachable: true,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        replicas: replicas.statuses().iter().map(replica_to_proto).collect(),
        disk_free_bytes,
        disk_mark: mark.to_owned(),
        uptime_us,
        problems,
    };
    Bytes::from(status.encode_to_vec())
}

fn replica_to_proto(status: &GroupStatus) -> ReplicaStatus {
    let index = |index: Option<crate::types::LogIndex>| index.map_or(0, |index| index.0);
    ReplicaStatus {
        group_id: status.group.0,
        role: status.role.to_owned(),
        term: status.term.0,
        last_index: index(status.last_index),
        applied_index: index(status.applied_index),
        durable_index: index(status.durable_index),
        purged_index: index(status.purged_index),
        leader_node_id: status.leader.map_or(0, |leader| leader.0.into()),
        problem: status.problem.clone(),
        incarnation: status.replica.incarnation.0,
        parked: status.is_parked,
        receives_snapshot: status.receives_snapshot,
    }
}
