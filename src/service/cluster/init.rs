//! Making a cluster out of nodes that belong to none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::{DecodeError, Message as _};
use quorate_client::proto::{InitRequest, InitResponse, NodeStatus, ReplicaStatus};
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::{ClusterApi, ClusterError};
use crate::consensus::ReadError;
use crate::log::{Topology, TopologyChange, TopologyGroup, TopologyNode, TopologyReplica};
use crate::transport::{Adoption, FEATURE_LEVEL, PeerError, proto};
use crate::types::{
    ClusterId, GroupId, HashRange, Incarnation, LogIndex, NodeId, ReplicaId, limits,
};

/// Voters of the meta group; further nodes learn from them.
pub const META_VOTERS_MAX: usize = 5;
/// The first making of every replica of a new cluster.
pub const FIRST: Incarnation = Incarnation(1);
/// How long a node may take to answer at an address that somebody gave.
const MOVED_TIMEOUT: Duration = Duration::from_secs(10);
/// How long all groups may take to become active.
const ACTIVATION_TIMEOUT: Duration = Duration::from_secs(60);

/// What a valid request asks for.
struct Plan {
    nodes: BTreeMap<NodeId, String>,
    groups: u32,
    replication_factor: usize,
}

impl ClusterApi {
    /// Makes the cluster, or finishes making it, or finds that it is there.
    pub(super) async fn init(&self, request: InitRequest) -> Result<InitResponse, ClusterError> {
        let plan = self.plan(request)?;
        if let Some(topology) = self.replicas.topology().borrow().clone() {
            self.refuse_to_be_missing()?;
            return same_cluster(&topology, &plan);
        }
        let (cluster, processes) = self.free_cluster_id(&plan).await?;
        let mut nodes = Vec::with_capacity(plan.nodes.len());
        // This node first: it then keeps the id for whoever has to finish the work.
        let own = self.replicas.node();
        let others = plan.nodes.keys().copied().filter(|node| *node != own);
        for node in std::iter::once(own).chain(others) {
            nodes.push(self.adopt(node, cluster, processes[&node], &plan).await?);
        }
        nodes.sort_by_key(|node| node.id);
        self.start_meta_group(&nodes).await?;
        let topology = first_topology(cluster, nodes, &plan);
        let deadline = Instant::now() + ACTIVATION_TIMEOUT;
        self.change_topology(TopologyChange::Create(topology), deadline).await?;
        self.wait_active(deadline).await?;
        Ok(InitResponse { cluster_id: cluster.to_string(), created: true })
    }

    fn plan(&self, request: InitRequest) -> Result<Plan, ClusterError> {
        let count = request.nodes.len();
        if count == 0 {
            return Err(invalid("nodes", "nodes: at least one is needed".to_owned()));
        }
        if count > limits::NODES_MAX {
            return Err(over("nodes", count as u64, limits::NODES_MAX as u64));
        }
        let mut nodes = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        for node in request.nodes {
            let id = u32::try_from(node.node_id).ok().filter(|id| *id > 0);
            let id = NodeId(id.ok_or_else(|| {
                invalid("node_id", format!("node_id: {} is out of range", node.node_id))
            })?);
            check_address(&node.peer_address)?;
            if !addresses.insert(node.peer_address.clone()) {
                let message = format!("peer_address: node {id} has none of its own");
                return Err(invalid("peer_address", message));
            }
            if nodes.insert(id, node.peer_address).is_some() {
                return Err(invalid("node_id", format!("node_id: {id} occurs twice")));
            }
        }
        if !nodes.contains_key(&self.replicas.node()) {
            let own = self.replicas.node();
            return Err(invalid(
                "nodes",
                format!("nodes: the node that is asked, {own}, is not one of them"),
            ));
        }
        let groups = match request.groups {
            0 => 12.max(4 * count as u32),
            groups if groups <= limits::GROUPS_MAX => groups,
            groups => return Err(over("groups", groups.into(), limits::GROUPS_MAX.into())),
        };
        let replication_factor = replication_factor(request.replication_factor, count)?;
        Ok(Plan { nodes, groups, replication_factor })
    }

    /// A node that knows the topology from others only, and has no meta replica, is not found to be all right.
    fn refuse_to_be_missing(&self) -> Result<(), ClusterError> {
        match self.replicas.get(GroupId::META) {
            Some(_) => Ok(()),
            None => Err(ClusterError::Refused(has_lost_its_data(self.replicas.node()))),
        }
    }

    /// Whether a node is where it is said to be now. All that others send it goes there once the topology says so: what is
    /// wrong would take a healthy node out of all its groups.
    ///
    /// # Errors
    /// The address makes no sense or is another node's, or the node does not answer there.
    pub(super) async fn ensure_moved(
        &self,
        moved: &TopologyNode,
        topology: &Topology,
    ) -> Result<(), ClusterError> {
        let (node, address) = (moved.id, &moved.peer_address);
        check_address(address)?;
        let is_taken = |other: &&TopologyNode| other.id != node && other.peer_address == *address;
        if let Some(other) = topology.nodes.iter().find(is_taken) {
            let message = format!("peer_address: node {} has {address}", other.id);
            return Err(invalid("peer_address", message));
        }
        if node == self.replicas.node() {
            return Ok(());
        }
        let hello = Some(self.peers.introduction().hello(node));
        let mut client = self.peers.client_at(node, address)?;
        let asked = client.status(proto::StatusRequest { hello });
        let late =
            || ClusterError::Unavailable(format!("node {node} does not answer at {address}"));
        let reply = timeout(MOVED_TIMEOUT, asked).await.map_err(|_| late())?;
        let there = |status: Status| {
            let message = format!("at {address}: {}", status.message());
            failed(node, Status::new(status.code(), message))
        };
        let reply = reply.map_err(there)?.into_inner();
        let ours = topology.cluster.0.to_be_bytes();
        match reply.cluster_id.is_empty() || reply.cluster_id == ours.as_slice() {
            true => Ok(()),
            false => Err(ClusterError::Refused(format!("node {node} belongs to another cluster"))),
        }
    }

    /// The id of a cluster whose making was cut off, or a new one; refused if a node belongs elsewhere. And which process
    /// each node is.
    async fn free_cluster_id(
        &self,
        plan: &Plan,
    ) -> Result<(ClusterId, BTreeMap<NodeId, u64>), ClusterError> {
        let own = self.peers.introduction().process();
        let mut processes = BTreeMap::from([(self.replicas.node(), own)]);
        let begun = self.peers.introduction().cluster();
        let own = NodeStatus::decode(self.operations.status()).map_err(malformed)?;
        let mut has_votes = has_begun(&own);
        let mut strangers = Vec::new();
        for (node, address) in plan.nodes.iter().filter(|(node, _)| **node != self.replicas.node())
        {
            let mut client = self.peers.client_at(*node, address)?;
            let request =
                proto::StatusRequest { hello: Some(self.peers.introduction().hello(*node)) };
            let reply = client.status(request).await.map_err(|status| failed(*node, status))?;
            let reply = reply.into_inner();
            processes.insert(*node, reply.process_id);
            let theirs = reply.cluster_id;
            let ours = begun.map(|cluster| cluster.0.to_be_bytes().to_vec()).unwrap_or_default();
            if theirs.is_empty() {
                strangers.push(*node);
            } else if theirs != ours {
                let message = format!("node {node} belongs to another cluster");
                return Err(ClusterError::Refused(message));
            }
            has_votes |= has_begun(&NodeStatus::decode(reply.status).map_err(malformed)?);
        }
        // Every node is taken in before the meta group begins: one that knows of no cluster then has lost its data, and
        // would forget its votes (G1).
        if let Some(node) = strangers.first().filter(|_| has_votes) {
            let message = format!(
                "the cluster has begun, and node {node} does not know of it: it was not among its nodes, or has lost \
                 its data"
            );
            return Err(ClusterError::Refused(message));
        }
        Ok((begun.unwrap_or_else(|| ClusterId(rand::random())), processes))
    }

    /// Takes a node into the cluster and learns its addresses.
    async fn adopt(
        &self,
        node: NodeId,
        cluster: ClusterId,
        process: u64,
        plan: &Plan,
    ) -> Result<TopologyNode, ClusterError> {
        let peers = plan.nodes.iter().map(|(node, address)| (*node, address.clone())).collect();
        let adoption = Adoption { cluster, meta_incarnation: FIRST, peers, process };
        let reply = self.adopt_node(node, adoption, &plan.nodes[&node]).await?;
        Ok(TopologyNode {
            id: node,
            client_address: reply.client_address,
            peer_address: plan.nodes[&node].clone(),
            http_address: reply.http_address,
            zone: reply.zone,
            meta_incarnation: FIRST,
        })
    }

    /// Tells a node, maybe this one, that it belongs to a cluster.
    pub(super) async fn adopt_node(
        &self,
        node: NodeId,
        adoption: Adoption,
        address: &str,
    ) -> Result<proto::AdoptReply, ClusterError> {
        if node == self.replicas.node() {
            return Ok(self.operations.adopt(adoption).await?);
        }
        let peers = adoption.peers.into_iter();
        let request = proto::AdoptRequest {
            hello: Some(self.peers.introduction().hello(node)),
            cluster_id: bytes::Bytes::copy_from_slice(&adoption.cluster.0.to_be_bytes()),
            meta_incarnation: adoption.meta_incarnation.0,
            process_id: adoption.process,
            peers: peers
                .map(|(node, address)| proto::PeerAddress { node: node.0, address })
                .collect(),
        };
        let mut client = self.peers.client_at(node, address)?;
        let reply = client.adopt(request).await.map_err(|status| failed(node, status))?;
        Ok(reply.into_inner())
    }

    /// Initializes the meta group unless it was, and waits until it leads or is led.
    async fn start_meta_group(&self, nodes: &[TopologyNode]) -> Result<(), ClusterError> {
        let meta = self.replicas.get(GroupId::META);
        let meta = meta.ok_or_else(|| ClusterError::Unavailable("no meta replica here".into()))?;
        let replica =
            |node: &TopologyNode| ReplicaId { node: node.id, incarnation: node.meta_incarnation };
        let voters: Vec<_> = nodes.iter().take(META_VOTERS_MAX).map(replica).collect();
        let wanted: BTreeSet<_> = voters.iter().map(|voter| voter.node).collect();
        meta.initialize(voters).await.map_err(ClusterError::Unavailable)?;
        let deadline = Instant::now() + ACTIVATION_TIMEOUT;
        let led = meta.wait_applied(LogIndex(1), deadline).await;
        led.map_err(|error: ReadError| ClusterError::Unavailable(error.to_string()))?;
        if meta.voter_nodes() != wanted {
            let message = "nodes: the cluster has begun with others".to_owned();
            return Err(ClusterError::Refused(message));
        }
        for node in nodes.iter().skip(META_VOTERS_MAX) {
            let step = proto::change_membership_request::Step::AddLearner;
            self.change_membership(GroupId::META, step, replica(node), deadline, |_| {}).await?;
        }
        Ok(())
    }

    async fn wait_active(&self, deadline: Instant) -> Result<(), ClusterError> {
        let mut topology = self.replicas.topology();
        let active = topology.wait_for(|topology| {
            topology
                .as_ref()
                .is_some_and(|topology| topology.groups.iter().all(|group| group.active))
        });
        match tokio::time::timeout_at(deadline, active).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ClusterError::Unavailable("not all groups have become active yet".into())),
        }
    }
}

/// Whether a node's replica of the meta group has voted, or heard of a leader.
fn has_begun(status: &NodeStatus) -> bool {
    let is_meta = |replica: &&ReplicaStatus| replica.group_id == GroupId::META.0;
    status.replicas.iter().find(is_meta).is_some_and(|replica| replica.term > 0)
}

/// Told of a node that belongs to a cluster and has no replica of the meta group.
pub fn has_lost_its_data(node: NodeId) -> String {
    format!("node {node} has lost its data; run `quorate node replace {node}`")
}

fn malformed(error: DecodeError) -> ClusterError {
    ClusterError::Unavailable(format!("a node's status is malformed: {error}"))
}

fn failed(node: NodeId, status: tonic::Status) -> ClusterError {
    PeerError::Failed { node, status }.into()
}

fn invalid(field: &'static str, message: String) -> ClusterError {
    ClusterError::Invalid { field, limit: None, message }
}

fn over(field: &'static str, value: u64, limit: u64) -> ClusterError {
    let message = format!("{field}: {value} is over the limit of {limit}");
    ClusterError::Invalid { field, limit: Some(limit), message }
}

/// host:port of a peer listener. Whether somebody listens there is found out by connecting.
pub fn check_address(address: &str) -> Result<(), ClusterError> {
    if address.len() > limits::ADDRESS_BYTES_MAX {
        return Err(over("peer_address", address.len() as u64, limits::ADDRESS_BYTES_MAX as u64));
    }
    let has_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && has_port(port) => Ok(()),
        _ => Err(invalid("peer_address", format!("peer_address: {address:?} is not host:port"))),
    }
}

fn replication_factor(asked: u32, nodes: usize) -> Result<usize, ClusterError> {
    let invalid = |message: String| invalid("replication_factor", message);
    match asked {
        0 if nodes >= 3 => Ok(3),
        0 => Ok(1),
        asked if asked > limits::REPLICATION_FACTOR_MAX => {
            Err(over("replication_factor", asked.into(), limits::REPLICATION_FACTOR_MAX.into()))
        }
        asked if asked % 2 == 0 => Err(invalid(format!("replication_factor: {asked} is not odd"))),
        asked if asked as usize > nodes => Err(invalid(format!(
            "replication_factor: {asked} is above the number of nodes, {nodes}"
        ))),
        asked => Ok(asked as usize),
    }
}

/// A repeated init of the same nodes finds the cluster; of others it is refused.
fn same_cluster(topology: &Topology, plan: &Plan) -> Result<InitResponse, ClusterError> {
    let there: BTreeSet<_> = topology.nodes.iter().map(|node| node.id).collect();
    let asked: BTreeSet<_> = plan.nodes.keys().copied().collect();
    if there != asked {
        let message =
            format!("this node belongs to cluster {}, which has other nodes", topology.cluster);
        return Err(ClusterError::Refused(message));
    }
    Ok(InitResponse { cluster_id: topology.cluster.to_string(), created: false })
}

fn first_topology(cluster: ClusterId, nodes: Vec<TopologyNode>, plan: &Plan) -> Topology {
    let groups = HashRange::divide(plan.groups).into_iter().zip(0..);
    let groups = groups.map(|(range, at)| TopologyGroup {
        id: GroupId(at + 1),
        range,
        epoch: 1,
        active: false,
        replicas: place(&nodes, at as usize, plan.replication_factor),
    });
    Topology { cluster, version: 1, feature_level: FEATURE_LEVEL, groups: groups.collect(), nodes }
}

/// The replicas of a group: going round the nodes from another start for each group, zones that have none first.
fn place(nodes: &[TopologyNode], start: usize, count: usize) -> Vec<TopologyReplica> {
    let mut chosen: Vec<&TopologyNode> = Vec::with_capacity(count);
    while chosen.len() < count {
        let round = (0..nodes.len()).map(|step| &nodes[(start + step) % nodes.len()]);
        let free = round.filter(|node| !chosen.iter().any(|other| other.id == node.id));
        let crowding = |node: &&TopologyNode| {
            chosen.iter().filter(|other| !node.zone.is_empty() && other.zone == node.zone).count()
        };
        match free.min_by_key(crowding) {
            Some(node) => chosen.push(node),
            None => break,
        }
    }
    let replica =
        |node: &TopologyNode| TopologyReplica { node: node.id, incarnation: FIRST, joining: true };
    chosen.into_iter().map(replica).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u32, zone: &str) -> TopologyNode {
        TopologyNode {
            id: NodeId(id),
            client_address: String::new(),
            peer_address: String::new(),
            http_address: String::new(),
            zone: zone.to_owned(),
            meta_incarnation: FIRST,
        }
    }

    #[test]
    fn replicas_go_to_distinct_nodes_and_zones_and_leaders_are_spread() {
        let nodes: Vec<_> = [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c")]
            .map(|(id, zone)| node(id, zone))
            .into();
        let mut leaders = BTreeMap::<NodeId, usize>::new();
        for group in 0..20 {
            let replicas = place(&nodes, group, 3);
            let zone = |replica: &TopologyReplica| {
                nodes.iter().find(|node| node.id == replica.node).map(|node| node.zone.clone())
            };
            let zones: BTreeSet<_> = replicas.iter().map(zone).collect();
            assert_eq!(zones.len(), 3, "group {group}: {replicas:?}");
            *leaders.entry(replicas[0].node).or_default() += 1;
        }
        assert_eq!(leaders.len(), 5);
        assert!(leaders.values().all(|count| *count == 4));
    }

    #[test]
    fn replication_factors_are_odd_and_fit() {
        assert_eq!(replication_factor(0, 5).unwrap(), 3);
        assert_eq!(replication_factor(0, 2).unwrap(), 1);
        assert_eq!(replication_factor(5, 5).unwrap(), 5);
        for (asked, nodes) in [(2, 3), (5, 3), (9, 20)] {
            assert!(replication_factor(asked, nodes).is_err(), "{asked} of {nodes}");
        }
    }
}
