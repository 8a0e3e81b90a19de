//! For tests: nodes that say what a test has them say, and note what they are asked to do.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use prost::Message;
use quorate_client::dial::{Dial, Duplex};
use quorate_client::proto::{NodeStatus, ReplicaStatus};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::decode_change;
use crate::consensus::solitary::Process;
use crate::log::{Topology, TopologyChange, TopologyGroup, TopologyNode, TopologyReplica};
use crate::storage::records::Record;
use crate::storage::{DiskMark, keys};
use crate::transport::proto::AdoptReply;
use crate::transport::proto::change_membership_request::Step;
use crate::transport::proto::peer_server::PeerServer as PeerService;
use crate::transport::{Adoption, Introduction, NodeOperations, OperationError, PeerServer, Peers};
use crate::types::{
    ClusterId, GroupId, HashRange, Incarnation, NodeId, PlacementHash, ReplicaId, Timestamp,
};

/// To which all nodes belong.
pub const CLUSTER: ClusterId = ClusterId(7);

/// What a node was asked to do.
#[derive(Debug, PartialEq)]
pub enum Asked {
    /// To belong to the cluster, with this making of its meta replica.
    Adopt(Incarnation),
    /// To make a replica.
    Make(GroupId, ReplicaId),
    /// To change the topology, as the meta group's leader.
    Change(TopologyChange),
    /// To change a group's membership, as its leader.
    Membership(GroupId, Step, ReplicaId),
}

/// What nodes were asked, in its order.
pub type Notes = Arc<Mutex<Vec<(NodeId, Asked)>>>;

/// How the replicas of a node are. A test may change it meanwhile.
pub type Statuses = Arc<Mutex<Vec<ReplicaStatus>>>;

/// A node that does whatever it is asked, by its own account.
#[derive(Clone, Default)]
pub struct ScriptedNode {
    /// Its number.
    pub node: NodeId,
    /// How its replicas are.
    pub replicas: Statuses,
    /// As the leader of the meta group; none if it does not know.
    pub topology: Option<Topology>,
    /// How it says that it is reached.
    pub advertised: AdoptReply,
    /// Why no replica can be removed from a group that it leads, if that is so.
    pub bound: Option<(GroupId, String)>,
    /// Where it notes what it is asked.
    pub notes: Notes,
}

impl ScriptedNode {
    fn note<T: Send + 'static>(
        &self,
        asked: Asked,
        answer: T,
    ) -> BoxFuture<'_, Result<T, OperationError>> {
        self.notes.lock().unwrap().push((self.node, asked));
        ready(Ok(answer)).boxed()
    }
}

impl NodeOperations for ScriptedNode {
    fn adopt(&self, adoption: Adoption) -> BoxFuture<'_, Result<AdoptReply, OperationError>> {
        self.note(Asked::Adopt(adoption.meta_incarnation), self.advertised.clone())
    }

    fn ensure_replica(
        &self,
        group: GroupId,
        replica: ReplicaId,
    ) -> BoxFuture<'_, Result<(), OperationError>> {
        self.note(Asked::Make(group, replica), ())
    }

    fn change_topology(&self, change: Bytes) -> BoxFuture<'_, Result<String, OperationError>> {
        self.note(Asked::Change(decode_change(&change).unwrap()), String::new())
    }

    fn topology(&self) -> BoxFuture<'_, Result<Bytes, OperationError>> {
        let known = self.topology.as_ref();
        let encoded = known.map(|known| Bytes::from(known.encode(&keys::topology())));
        ready(encoded.ok_or_else(|| OperationError::Unavailable("not led here".into()))).boxed()
    }

    fn change_membership(
        &self,
        group: GroupId,
        step: Step,
        replica: ReplicaId,
    ) -> BoxFuture<'_, Result<(), OperationError>> {
        let noted = self.note(Asked::Membership(group, step, replica), ());
        let is_bound =
            |(bound, _): &(GroupId, String)| *bound == group && step == Step::CheckRemoval;
        match self.bound.clone().filter(is_bound) {
            Some((_, reason)) => ready(Err(OperationError::Unavailable(reason))).boxed(),
            None => noted,
        }
    }

    fn status(&self) -> Bytes {
        let replicas = self.replicas.lock().unwrap().clone();
        let node_id = self.node.0.into();
        NodeStatus { node_id, reachable: true, replicas, ..Default::default() }
            .encode_to_vec()
            .into()
    }

    fn pulse(&self) -> (Timestamp, DiskMark) {
        unreachable!("nobody compares clocks here")
    }
}

/// How the replicas of a node are, for now.
pub fn statuses<const N: usize>(replicas: [ReplicaStatus; N]) -> Statuses {
    Arc::new(Mutex::new(replicas.into()))
}

/// How a replica is.
pub fn status(group: GroupId, incarnation: u32, role: &str, term: u64) -> ReplicaStatus {
    let (group_id, role) = (group.0, role.to_owned());
    ReplicaStatus { group_id, incarnation, role, term, ..Default::default() }
}

/// Three nodes with one group, which has begun. Of node 2 these incarnations are wanted.
pub fn topology(version: u64, of_meta: u32, of_group: u32) -> Topology {
    let wanted = |node, incarnation| Incarnation(if node == 2 { incarnation } else { 1 });
    let node = |id| TopologyNode {
        id: NodeId(id),
        client_address: String::new(),
        peer_address: format!("node-{id}:1"),
        http_address: String::new(),
        zone: String::new(),
        meta_incarnation: wanted(id, of_meta),
    };
    let replica = |id| TopologyReplica {
        node: NodeId(id),
        incarnation: wanted(id, of_group),
        joining: false,
    };
    let group = TopologyGroup {
        id: GroupId(1),
        range: HashRange { start: PlacementHash(0), end: None },
        epoch: 1,
        active: true,
        replicas: [1, 2, 3].map(replica).into(),
    };
    let nodes = [1, 2, 3].map(node).into();
    Topology { cluster: CLUSTER, version, feature_level: 1, nodes, groups: vec![group] }
}

/// Takes connections to nodes, by their addresses.
#[derive(Clone, Debug)]
struct Connections(Vec<(String, mpsc::Sender<io::Result<DuplexStream>>)>);

impl Dial for Connections {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        let known = self.0.iter().find(|(of, _)| *of == address);
        let incoming = known.map(|(_, incoming)| incoming.clone());
        Box::pin(async move {
            let incoming = incoming.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (near, far) = tokio::io::duplex(1 << 16);
            incoming.send(Ok(far)).await.map_err(io::Error::other)?;
            Ok(Box::new(near) as Box<dyn Duplex>)
        })
    }
}

/// The peers of a process: these nodes, which answer behind their peer ports.
pub fn peers<const N: usize>(process: &Process, others: [ScriptedNode; N]) -> Arc<Peers> {
    let (mut connections, mut addresses) = (Vec::new(), Vec::new());
    for other in others {
        let (sender, incoming) = mpsc::channel(1);
        let (node, address) = (other.node, format!("node-{}:1", other.node));
        let own = Arc::new(Introduction::new(node, Some(CLUSTER)));
        // What its replicas would be asked nobody asks here.
        let (replicas, never) = (process.replicas.clone(), CancellationToken::new());
        let service = PeerServer::new(own, replicas, Arc::new(other), never);
        let server = Server::builder().add_service(PeerService::new(service));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
        connections.push((address.clone(), sender));
        addresses.push((node, address));
    }
    let own = Arc::new(Introduction::new(process.replicas.node(), Some(CLUSTER)));
    let peers = Peers::new(own, None, Some(Arc::new(Connections(connections))));
    peers.set_addresses(addresses);
    peers
}
