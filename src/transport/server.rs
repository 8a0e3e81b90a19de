//! What other nodes may ask of this one. Every call is checked for cluster, node and protocol first.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::append_server::AppendServer;
use super::frames::outbound;
use super::hello::Introduction;
use super::proto::{self, peer_server};
use super::pulse::pulse_to_wire;
use super::snapshots;
use super::wire::{
    at_rest_from_wire, cluster_from_wire, cluster_to_wire, replica_from_wire, route_from_wire,
    transfer_from_wire, vote_reply_to_wire, vote_request_from_wire,
};
use crate::consensus::{Group, Replicas};
use crate::storage::DiskMark;
use crate::types::{ClusterId, GroupId, Incarnation, NodeId, ReplicaId, Timestamp, limits};

/// What this node is told when it is taken into a cluster.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// The cluster.
    pub cluster: ClusterId,
    /// Incarnation of its replica of the meta group.
    pub meta_incarnation: Incarnation,
    /// Where the nodes are.
    pub peers: Vec<(NodeId, String)>,
    /// The process of the node whose status this was decided by.
    pub process: u64,
}

/// Why an operation was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OperationError {
    /// It will not be, as things are.
    #[error("{0}")]
    Refused(String),
    /// It may be, if asked again.
    #[error("{0}")]
    Unavailable(String),
}

/// What the node does when a peer asks for it. Implemented by the server, which owns the pieces.
pub trait NodeOperations: Send + Sync + 'static {
    /// Takes the cluster id and starts a replica of the meta group. Idempotent.
    fn adopt(&self, adoption: Adoption)
    -> BoxFuture<'_, Result<proto::AdoptReply, OperationError>>;

    /// Makes sure that a replica stands that the topology wants here.
    fn ensure_replica(
        &self,
        group: GroupId,
        replica: ReplicaId,
    ) -> BoxFuture<'_, Result<(), OperationError>>;

    /// Proposes an encoded change of topology, here, as the meta group's leader. Ok holds a refusal, or is empty.
    fn change_topology(&self, change: Bytes) -> BoxFuture<'_, Result<String, OperationError>>;

    /// The encoded topology as of now, as the meta group's leader here confirms it; empty while the cluster is being made.
    fn topology(&self) -> BoxFuture<'_, Result<Bytes, OperationError>>;

    /// Changes a group's membership, here, as its leader.
    fn change_membership(
        &self,
        group: GroupId,
        step: proto::change_membership_request::Step,
        replica: ReplicaId,
    ) -> BoxFuture<'_, Result<(), OperationError>>;

    /// This node's status, encoded as the public API has it.
    fn status(&self) -> Bytes;

    /// What this node's clock and disk show now.
    fn pulse(&self) -> (Timestamp, DiskMark);
}

/// The peer service of a node.
pub struct PeerServer {
    own: Arc<Introduction>,
    replicas: Arc<Replicas>,
    operations: Arc<dyn NodeOperations>,
    stopping: CancellationToken,
}

impl PeerServer {
    /// The service over a node's replicas. Its streams, which nobody else ends, end when it is told to stop.
    pub fn new(
        own: Arc<Introduction>,
        replicas: Arc<Replicas>,
        operations: Arc<dyn NodeOperations>,
        stopping: CancellationToken,
    ) -> Self {
        PeerServer { own, replicas, operations, stopping }
    }

    /// The group's replica, if it is the one that is meant.
    fn replica(&self, group: GroupId, to: ReplicaId) -> Result<Arc<Group>, Status> {
        let found = self.replicas.get(group).filter(|group| group.replica() == to);
        found.ok_or_else(|| Status::not_found(format!("no replica {to} of group {group} here")))
    }
}

fn malformed(error: super::wire::Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn fatal(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

fn operation(error: OperationError) -> Status {
    match error {
        OperationError::Refused(reason) => Status::failed_precondition(reason),
        OperationError::Unavailable(reason) => Status::unavailable(reason),
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<proto::AppendFrames, Status>> + Send>>;

#[tonic::async_trait]
impl peer_server::Peer for PeerServer {
    type AppendStream = Frames;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendFrames>>,
    ) -> Result<Response<Frames>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?;
        let hello = first.and_then(|first| first.hello);
        let from = self.own.greet(hello.as_ref())?;
        let (responses, queue) = mpsc::channel(limits::PEER_QUEUE_MAX);
        let frames = outbound(self.own.hello(from), queue);
        let serving = AppendServer::new(self.replicas.clone(), responses).run(inbound);
        tokio::spawn(self.stopping.clone().run_until_cancelled_owned(serving));
        Ok(Response::new(Box::pin(frames.map(Ok))))
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotFrame>>,
    ) -> Result<Response<proto::SnapshotReply>, Status> {
        let mut inbound = request.into_inner();
        let open = snapshots::opening(&mut inbound).await?;
        self.own.greet(open.hello.as_ref())?;
        let route = route_from_wire(open.route.as_ref()).map_err(malformed)?;
        let group = self.replica(route.group, route.to)?;
        let received = snapshots::receive(&group, &self.replicas, &open, inbound);
        match self.stopping.run_until_cancelled(received).await {
            Some(reply) => Ok(Response::new(reply?)),
            None => Err(Status::unavailable("the node is stopping")),
        }
    }

    async fn raft(
        &self,
        request: Request<proto::RaftRequest>,
    ) -> Result<Response<proto::RaftReply>, Status> {
        use proto::raft_reply::Message as Reply;
        use proto::raft_request::Message;
        let request = request.into_inner();
        self.own.greet(request.hello.as_ref())?;
        let route = route_from_wire(request.route.as_ref()).map_err(malformed)?;
        let group = self.replica(route.group, route.to)?;
        let message = request.message.ok_or_else(|| Status::invalid_argument("no message"))?;
        let reply = match message {
            Message::Vote(vote) => {
                let vote = vote_request_from_wire(&vote).map_err(malformed)?;
                Reply::Vote(vote_reply_to_wire(&group.vote(vote).await.map_err(fatal)?))
            }
            Message::PreVote(vote) => {
                let vote = vote_request_from_wire(&vote).map_err(malformed)?;
                Reply::Vote(vote_reply_to_wire(&group.pre_vote(vote).await.map_err(fatal)?))
            }
            Message::Transfer(transfer) => {
                let transfer = transfer_from_wire(&transfer).map_err(malformed)?;
                let taken = group.take_transfer(transfer).await.map_err(fatal)?;
                Reply::TransferRefused(taken.err().map(|why| why.to_string()).unwrap_or_default())
            }
        };
        Ok(Response::new(proto::RaftReply { message: Some(reply) }))
    }

    async fn read_index(
        &self,
        request: Request<proto::ReadIndexRequest>,
    ) -> Result<Response<proto::ReadIndexReply>, Status> {
        let request = request.into_inner();
        self.own.greet(request.hello.as_ref())?;
        let id = GroupId(request.group);
        let group = self.replicas.get(id);
        let group = group.ok_or_else(|| Status::not_found(format!("no replica of group {id}")))?;
        let index = group.confirm_read_index().await.map_err(fatal)?;
        Ok(Response::new(proto::ReadIndexReply { index: index.0 }))
    }

    async fn adopt(
        &self,
        request: Request<proto::AdoptRequest>,
    ) -> Result<Response<proto::AdoptReply>, Status> {
        let request = request.into_inner();
        self.own.greet_stranger(request.hello.as_ref())?;
        let cluster = cluster_from_wire(&request.cluster_id);
        let adoption = Adoption {
            cluster: cluster
                .ok_or_else(|| Status::invalid_argument("cluster_id is not 16 bytes"))?,
            meta_incarnation: Incarnation(request.meta_incarnation),
            peers: request.peers.into_iter().map(|p| (NodeId(p.node), p.address)).collect(),
            process: request.process_id,
        };
        let reply = self.operations.adopt(adoption).await.map_err(operation)?;
        Ok(Response::new(reply))
    }

    async fn ensure_replica(
        &self,
        request: Request<proto::EnsureReplicaRequest>,
    ) -> Result<Response<proto::EnsureReplicaReply>, Status> {
        let request = request.into_inner();
        self.own.greet(request.hello.as_ref())?;
        let replica = replica_from_wire(request.replica.as_ref()).map_err(malformed)?;
        let group = GroupId(request.group);
        self.operations.ensure_replica(group, replica).await.map_err(operation)?;
        Ok(Response::new(proto::EnsureReplicaReply {}))
    }

    async fn change_topology(
        &self,
        request: Request<proto::ChangeTopologyRequest>,
    ) -> Result<Response<proto::ChangeTopologyReply>, Status> {
        let request = request.into_inner();
        self.own.greet(request.hello.as_ref())?;
        let refused = self.operations.change_topology(request.change).await.map_err(operation)?;
        Ok(Response::new(proto::ChangeTopologyReply { refused }))
    }

    async fn topology(
        &self,
        request: Request<proto::TopologyRequest>,
    ) -> Result<Response<proto::TopologyReply>, Status> {
        self.own.greet(request.into_inner().hello.as_ref())?;
        let topology = self.operations.topology().await.map_err(operation)?;
        Ok(Response::new(proto::TopologyReply { topology }))
    }

    async fn change_membership(
        &self,
        request: Request<proto::ChangeMembershipRequest>,
    ) -> Result<Response<proto::ChangeMembershipReply>, Status> {
        let request = request.into_inner();
        self.own.greet(request.hello.as_ref())?;
        let replica = replica_from_wire(request.replica.as_ref()).map_err(malformed)?;
        let (group, step) = (GroupId(request.group), request.step());
        self.operations.change_membership(group, step, replica).await.map_err(operation)?;
        Ok(Response::new(proto::ChangeMembershipReply {}))
    }

    async fn status(
        &self,
        request: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusReply>, Status> {
        let request = request.into_inner();
        self.own.greet_stranger(request.hello.as_ref())?;
        Ok(Response::new(proto::StatusReply {
            cluster_id: self.own.cluster().map(cluster_to_wire).unwrap_or_default(),
            status: self.operations.status(),
            process_id: self.own.process(),
        }))
    }

    async fn park(
        &self,
        request: Request<proto::ParkRequest>,
    ) -> Result<Response<proto::ParkReply>, Status> {
        let request = request.into_inner();
        self.own.greet(request.hello.as_ref())?;
        let mut refused = Vec::new();
        for group in &request.groups {
            let (route, footing) = at_rest_from_wire(group).map_err(malformed)?;
            if !self.replicas.told(route, footing) {
                refused.push(route.group.0);
            }
        }
        Ok(Response::new(proto::ParkReply { refused }))
    }

    async fn pulse(
        &self,
        request: Request<proto::PulseRequest>,
    ) -> Result<Response<proto::PulseReply>, Status> {
        self.own.greet(request.into_inner().hello.as_ref())?;
        let (now, disk) = self.operations.pulse();
        Ok(Response::new(pulse_to_wire(now, disk)))
    }
}
