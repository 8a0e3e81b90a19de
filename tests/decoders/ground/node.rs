//! A node that belongs to a cluster which has not begun: what passes its checks is told so, and changes nothing.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate::consensus::{Admission, NodeParts, RaftTiming, Replicas};
use quorate::service::cluster::{ClusterApi, ClusterService};
use quorate::service::servers::cluster_server::ClusterServer;
use quorate::service::servers::message_log_server::MessageLogServer;
use quorate::service::{AllowAll, Api, MalformedLayer, PeerLog, Unobserved};
use quorate::storage::small_file::MemoryFile;
use quorate::storage::{DataDir, Database, DiskMark, MemoryDir, MemoryDisk, Opened};
use quorate::transport::proto::change_membership_request::Step;
use quorate::transport::proto::peer_server::PeerServer as PeerService;
use quorate::transport::{
    Adoption, HandedOn, Introduction, NodeOperations, OperationError, PeerServer, Peers, proto,
};
use quorate::types::{Clock, ClusterId, GroupId, NodeId, ReplicaId, Timestamp};
use quorate_client::dial::Duplex;
use quorate_client::{Dial, proto as public};
use tokio::runtime::Runtime;
use tower::Layer;

use super::called::{Answer, call};
use super::runtime;

/// Its number.
pub const NODE: NodeId = NodeId(2);
/// What its disk shows.
pub const PULSE: (Timestamp, DiskMark) = (Timestamp(5_000_000), DiskMark::Soft);

/// The node of this thread, which lives as long as the process.
pub fn here() -> &'static Here {
    thread_local!(static HERE: &'static Here = Box::leak(Box::new(Here::start())));
    HERE.with(|here| *here)
}

/// See [`here`].
pub struct Here {
    runtime: Runtime,
    api: Api,
    cluster: Arc<ClusterApi>,
    peers: PeerService<PeerServer>,
    pub own: Arc<Introduction>,
    operations: Arc<Operations>,
}

impl Here {
    fn start() -> Here {
        let runtime = runtime();
        let within = runtime.enter();
        let own = Arc::new(Introduction::new(NODE, Some(ClusterId(42))));
        let peers = Peers::new(own.clone(), None, Some(Arc::new(Nobody)));
        let replicas = runtime.block_on(replicas(&peers));
        let operations = Arc::new(Operations::default());
        let stopping = tokio_util::sync::CancellationToken::new();
        let cluster = ClusterApi {
            replicas: replicas.clone(),
            peers,
            operations: operations.clone(),
            authorizer: Arc::new(AllowAll),
            stopping: stopping.clone(),
        };
        let api = Api {
            replicas: replicas.clone(),
            peers: Arc::new(Nobody),
            elsewhere: Arc::default(),
            clock: Arc::new(Nobody),
            random: Arc::new(|| [7; 16]),
            authorizer: Arc::new(AllowAll),
            observer: Arc::new(Unobserved),
            stopping: stopping.clone(),
            under_way: Default::default(),
        };
        let peers = PeerServer::new(own.clone(), replicas, operations.clone(), stopping);
        let (peers, cluster) = (PeerService::new(peers), Arc::new(cluster));
        drop(within);
        Here { runtime, api, cluster, peers, own, operations }
    }

    /// What a caller is answered to these requests.
    pub fn answer(&self, method: &str, requests: &[Bytes]) -> Answer {
        let service = MalformedLayer.layer(MessageLogServer::new(self.api.clone()));
        let path = format!("/quorate.v1.MessageLog/{method}");
        self.runtime.block_on(call(service, &path, requests))
    }

    /// The same of the service for operators.
    pub fn answer_operator(&self, method: &str, request: Bytes) -> Answer {
        let service = ClusterServer::new(ClusterService(self.cluster.clone()));
        let path = format!("/quorate.v1.Cluster/{method}");
        self.runtime.block_on(call(MalformedLayer.layer(service), &path, &[request]))
    }

    /// What another node is answered, and what this one was then asked to do.
    pub fn answer_peer(&self, method: &str, requests: &[Bytes]) -> (Answer, Option<Asked>) {
        let path = format!("/quorate.peer.v1.Peer/{method}");
        let answer = self.runtime.block_on(call(self.peers.clone(), &path, requests));
        (answer, self.operations.asked.lock().expect("no panic while locked").take())
    }
}

async fn replicas(peers: &Arc<Peers>) -> Arc<Replicas> {
    let dir = DataDir::open_in_memory(&MemoryDir::default(), NODE).expect("it is empty");
    let open = |database| Arc::new(MemoryDisk::new(database).open());
    let (log, state) = (open(Database::Log), open(Database::State));
    let opened = Opened::make_ready(dir, log, state, MemoryFile::default());
    let storage = opened.expect("it is empty").start(Arc::new(()));
    let timing = RaftTiming {
        heartbeat_interval_ms: 50,
        election_timeout_min_ms: 200,
        election_timeout_max_ms: 400,
        park_after_ms: 0,
    };
    let parts = NodeParts {
        node: NODE,
        timing,
        transport: peers.clone(),
        remote: peers.clone(),
        clock: Arc::new(Nobody),
        admission: Arc::new(Admission::default()),
        observer: Arc::new(()),
    };
    Replicas::open(parts, &storage).await.expect("there are none yet")
}

/// No other node is there, and time stands still.
#[derive(Debug)]
struct Nobody;

impl quorate::service::Peers for Nobody {
    fn message_log(&self, _node: NodeId, _what: HandedOn) -> Option<PeerLog> {
        None
    }
}

impl Dial for Nobody {
    fn dial(&self, _address: String) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed()
    }
}

impl Clock for Nobody {
    fn now(&self) -> Timestamp {
        PULSE.0
    }

    fn elapsed_us(&self) -> u64 {
        PULSE.0.0
    }
}

/// What a node was asked to do.
#[derive(Debug)]
pub enum Asked {
    Adopt(Adoption),
    EnsureReplica(GroupId, ReplicaId),
    ChangeTopology(Bytes),
    Topology,
    ChangeMembership(GroupId, Step, ReplicaId),
}

/// Notes what it is asked and does nothing.
#[derive(Default)]
struct Operations {
    asked: Mutex<Option<Asked>>,
}

/// What it answers where a change of topology or an adoption is asked for.
pub const REFUSED: &str = "not by this one";

impl Operations {
    fn note<T>(&self, asked: Asked, answer: T) -> BoxFuture<'_, Result<T, OperationError>>
    where
        T: Send + 'static,
    {
        *self.asked.lock().expect("no panic while locked") = Some(asked);
        std::future::ready(Ok(answer)).boxed()
    }
}

impl NodeOperations for Operations {
    fn adopt(
        &self,
        adoption: Adoption,
    ) -> BoxFuture<'_, Result<proto::AdoptReply, OperationError>> {
        *self.asked.lock().expect("no panic while locked") = Some(Asked::Adopt(adoption));
        std::future::ready(Err(OperationError::Refused(REFUSED.to_owned()))).boxed()
    }

    fn ensure_replica(
        &self,
        group: GroupId,
        replica: ReplicaId,
    ) -> BoxFuture<'_, Result<(), OperationError>> {
        self.note(Asked::EnsureReplica(group, replica), ())
    }

    fn change_topology(&self, change: Bytes) -> BoxFuture<'_, Result<String, OperationError>> {
        self.note(Asked::ChangeTopology(change), REFUSED.to_owned())
    }

    fn topology(&self) -> BoxFuture<'_, Result<Bytes, OperationError>> {
        self.note(Asked::Topology, Bytes::new())
    }

    fn change_membership(
        &self,
        group: GroupId,
        step: Step,
        replica: ReplicaId,
    ) -> BoxFuture<'_, Result<(), OperationError>> {
        self.note(Asked::ChangeMembership(group, step, replica), ())
    }

    fn status(&self) -> Bytes {
        let status = public::NodeStatus { node_id: NODE.0.into(), ..Default::default() };
        prost::Message::encode_to_vec(&status).into()
    }

    fn pulse(&self) -> (Timestamp, DiskMark) {
        PULSE
    }
}
