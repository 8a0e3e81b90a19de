//! One node from its start to its stop: every piece is made here and handed to those that use it.

mod background;
mod stopping;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use quorate_client::Dial;
use quorate_client::limits::REQUEST_BYTES_MAX;
use quorate_client::proto::message_log_client::MessageLogClient;
use tokio::runtime::Handle;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Layer;

use super::call_limit::limit_calls;
#[cfg(feature = "rocksdb")]
use super::client_threads::ClientThreads;
use super::config::{Listener, TlsConfig};
#[cfg(feature = "rocksdb")]
use super::connections::raise_files_max;
use super::connections::{ConnectionsMax, Places};
use super::disk::DiskWatch;
use super::greeting::Protocol;
use super::http::{Condition, Readiness, serve as serve_http};
use super::incoming::incoming;
use super::listening::{Listen, Listeners};
use super::observers::Observers;
use super::operations::{Advertised, Operations, other_addresses, refusals};
use super::{Config, Metrics};
use crate::consensus::{Admission, MemoryLimits, NodeParts, Replicas};
use crate::seams::planted;
use crate::service::cluster::{ClusterApi, ClusterService};
use crate::service::servers::cluster_server::{self, ClusterServer};
use crate::service::servers::message_log_server::{self, MessageLogServer};
use crate::service::{
    Api, Authorizer, MalformedLayer, PeerLog, RequestsLayer, ResponsesLayer, client_layers,
};
use crate::storage::{DiskMark, Storage};
#[cfg(feature = "rocksdb")]
use crate::storage::{OpenError, Tuning};
use crate::transport::proto::peer_server::PeerServer as PeerService;
use crate::transport::{
    HandedOn, IntroducedOnly, Introduction, MESSAGE_BYTES_MAX, NodeOperations, PeerServer, Peers,
};
use crate::types::{Clock, GroupId, NodeId, limits};
use stopping::{GOODBYE_TIMEOUT, Stopping, lead_nothing};

/// The pieces of a running node.
struct Node {
    config: Config,
    storage: Storage,
    replicas: Arc<Replicas>,
    peers: Arc<Peers>,
    operations: Arc<Operations>,
    disk: Arc<DiskWatch>,
    admission: Arc<Admission>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    authorizer: Arc<dyn Authorizer>,
    connections: ConnectionsMax,
}

/// What a node stands on: the machine's, or a simulator's.
pub struct Ground {
    /// Where clients are served.
    pub clients: Handle,
    /// Opens its connections to other nodes; the operating system if there is none.
    pub dial: Option<Arc<dyn Dial>>,
    /// Its storage, opened with [`Observers`] of `metrics`.
    pub storage: Storage,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Decides every call of the API on both ports.
    pub authorizer: Arc<dyn Authorizer>,
    /// How many connections come in at most.
    pub connections: ConnectionsMax,
    /// How much memory it has for what it is asked.
    pub memory: MemoryLimits,
}

/// Runs a node on this machine: its ports, its disk, its clock. As [`run_on`]. The process may from then on have as
/// many files open as its hard limit allows.
///
/// # Errors
/// As [`run_on`]; these are too few; a port cannot be bound; no threads can be had; the data directory cannot be opened.
#[cfg(feature = "rocksdb")]
pub async fn run(
    config: Config,
    authorizer: Arc<dyn Authorizer>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let tuning = tuning(&config);
    let files_max = raise_files_max();
    let connections = ConnectionsMax::within(files_max, tuning.open_files_max_in_all())?;
    let listeners = Listeners::bind(&config).await?;
    let threads = ClientThreads::start().context("starting the threads for clients")?;
    let metrics = Arc::new(Metrics::new());
    let observer = Arc::new(Observers(metrics.clone()));
    let storage = Storage::open(&config.data_dir, config.node_id, tuning, observer)
        .await
        .map_err(|error| not_opened(config.node_id, error))?;
    let (clock, memory) = (Arc::new(super::SystemClock), MemoryLimits::MOST);
    let clients = threads.handle();
    let ground =
        Ground { clients, dial: None, storage, metrics, clock, authorizer, connections, memory };
    let result = run_on(listeners, ground, config, shutdown).await;
    threads.end().await;
    result
}

/// Runs a node until `shutdown` is cancelled, or until its storage fails: then it stops at once, with an error,
/// because what is on disk is not known any more.
///
/// # Errors
/// The replicas do not start, a listener fails, or the storage fails.
pub async fn run_on(
    listeners: Listeners,
    ground: Ground,
    config: Config,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Listeners { client, peer, http } = listeners;
    let clients = ground.clients.clone();
    let node = Arc::new(start(ground, config).await?);
    tracing::info!(
        node_id = node.config.node_id.0,
        client = %node.config.client.listen,
        peer = %node.config.peer.listen,
        http = %node.config.http.listen,
        client_connections_max = node.connections.client,
        "the node is up"
    );
    let stopping = Stopping::default();
    let servers = async {
        tokio::try_join!(
            async {
                let serving = serve_clients(node.clone(), client, stopping.clients.clone());
                AbortOnDropHandle::new(clients.spawn(serving)).await??;
                tracing::info!("no client is served any more");
                // They are gone, as only a node that stops lets them go.
                stopping.handed_on.cancel();
                stopping.under_way.close();
                stopping.under_way.wait().await;
                // What was read to all those came from its peers, and so did the outcomes of what they had proposed.
                stopping.peers.cancel();
                Ok(())
            },
            async { serve_peers(&node, peer, &stopping).await },
            async {
                let tls = tls(&node.config.http, "http", &[b"http/1.1"])?;
                let places = Places::new("http", node.connections.http, node.metrics.clone());
                let incoming = incoming(http, tls, Protocol::Http1, places);
                let ready = readiness(&node, shutdown.clone());
                let stopping = stopping.peers.clone();
                Ok(serve_http(incoming, node.metrics.clone(), ready, stopping).await?)
            },
        )
    };
    let mut servers = std::pin::pin!(servers);
    let mut background = std::pin::pin!(background::run(node.clone()));
    let result = tokio::select! {
        served = &mut servers => served.map(|_| ()).context("a listener has failed"),
        failure = &mut background => Err(failure),
        () = shutdown.cancelled() => {
            tracing::info!("stopping");
            let left = async { tokio::join!(lead_nothing(&node, &stopping), servers) };
            tokio::select! {
                ended = tokio::time::timeout(GOODBYE_TIMEOUT, left) => match ended {
                    Ok(((), served)) => served.map(drop).context("a listener has failed"),
                    Err(_) => {
                        tracing::warn!("calls that did not end in time are cut off: their callers resume elsewhere");
                        Ok(())
                    }
                },
                failure = &mut background => Err(failure),
            }
        }
    };
    result?;
    stopping::close(&node.replicas, &node.storage, background::last_look(&node)).await?;
    tracing::info!("the node has stopped");
    Ok(())
}

async fn start(ground: Ground, config: Config) -> anyhow::Result<Node> {
    let Ground { dial, storage, metrics, clock, authorizer, connections, memory, .. } = ground;
    let started_us = clock.elapsed_us();
    let data_dir = storage.data_dir.clone();
    let admission = Arc::new(Admission::within(memory));
    let limits = config.storage.disk_limits();
    let ballast_bytes = config.storage.ballast_bytes;
    if let Err(error) = data_dir.keep_ballast(ballast_bytes, limits.soft_free_bytes) {
        tracing::warn!(%error, "there is no ballast file: the disk has no room for it");
    }
    let disk = DiskWatch::begin(&storage, limits, admission.clone());
    let identity = storage.identity.clone();
    let tls = config.peer.tls.as_ref().map(TlsConfig::for_peers).transpose();
    let tls = tls.context("the certificates of the peer port")?;
    let own = Arc::new(Introduction::new(config.node_id, identity.cluster));
    let peers = Peers::new(own, tls, dial);
    peers.set_addresses(identity.peers.iter().filter(|(node, _)| *node != config.node_id).cloned());
    let parts = NodeParts {
        node: config.node_id,
        timing: config.raft.timing(),
        transport: peers.clone(),
        remote: peers.clone(),
        clock: clock.clone(),
        admission: admission.clone(),
        observer: Arc::new(Observers(metrics.clone())),
    };
    let replicas = Replicas::open(parts, &storage).await.context("starting the replicas")?;
    if let Some(topology) = &*replicas.topology().borrow() {
        peers.set_addresses(other_addresses(topology, config.node_id));
    }
    note_lost_meta_replica(&replicas, &identity).await;
    let operations = Arc::new(Operations {
        replicas: replicas.clone(),
        peers: peers.clone(),
        data_dir,
        identity: Mutex::new(identity),
        advertised: Advertised {
            client: config.client.advertised(),
            peer: config.peer.advertised(),
            http: config.http.advertised(),
            zone: config.zone.clone(),
        },
        disk: disk.clone(),
        clock: clock.clone(),
        started_us,
        adopting: tokio::sync::Mutex::default(),
    });
    Ok(Node {
        config,
        storage,
        replicas,
        peers,
        operations,
        disk,
        admission,
        clock,
        metrics,
        authorizer,
        connections,
    })
}

#[cfg(feature = "rocksdb")]
fn not_opened(node: NodeId, error: OpenError) -> anyhow::Error {
    let is_damage = error.is_damage();
    let error = anyhow::Error::new(error).context("opening the storage");
    if is_damage { error.context(remedy(node)) } else { error }
}

/// What to do about a data directory that cannot be relied on.
fn remedy(node: NodeId) -> String {
    format!(
        "node {node} cannot rely on its data: move its data directory away, start it with an empty one, then run \
         `quorate node replace {node}`; of several nodes at once only if fewer than half say so. If the disk was only out \
         of reach, and `quorate check` finds nothing but this note, remove the file DAMAGED instead"
    )
}

/// A node that was taken into a cluster had a replica of the meta group. If it is gone, its data was lost.
async fn note_lost_meta_replica(replicas: &Arc<Replicas>, identity: &crate::storage::Identity) {
    let Some(incarnation) = identity.meta_incarnation else { return };
    if replicas.get(GroupId::META).is_none() {
        let replica = crate::types::ReplicaId { node: identity.node, incarnation };
        if planted::wiped_replica_votes() && replicas.make(GroupId::META, replica).await.is_ok() {
            return;
        }
        replicas.note_missing(GroupId::META, replica);
    }
}

#[cfg(feature = "rocksdb")]
fn tuning(config: &Config) -> Tuning {
    Tuning {
        log_memtable_bytes: config.storage.log_memtable_bytes as usize,
        log_wal_bytes_max: 3 * config.storage.log_memtable_bytes,
        state_memtable_bytes: config.storage.state_memtable_bytes as usize,
        state_cache_bytes: config.storage.block_cache_bytes as usize,
        compact_free_bytes_min: config.storage.disk_limits().compact_free_bytes(),
        ..Tuning::default()
    }
}

/// What callers reach through the peers' connections when a call is handed on.
struct PeerApis(Arc<Peers>);

impl crate::service::Peers for PeerApis {
    fn message_log(&self, node: NodeId, what: HandedOn) -> Option<PeerLog> {
        let channel = self.0.introduced(node, what).ok()?;
        Some(
            MessageLogClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
    }
}

fn message_log(
    node: &Node,
    stopping: CancellationToken,
    under_way: TaskTracker,
) -> MessageLogServer<Api> {
    MessageLogServer::new(Api {
        replicas: node.replicas.clone(),
        peers: Arc::new(PeerApis(node.peers.clone())),
        elsewhere: Arc::default(),
        clock: node.clock.clone(),
        random: Arc::new(rand::random),
        authorizer: node.authorizer.clone(),
        observer: Arc::new(Observers(node.metrics.clone())),
        stopping,
        under_way,
    })
}

/// What both gRPC ports have in common. Who is gone without a word does not hold a connection for ever.
fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Until a call is answered, or its stream of responses has begun. No call that has arrived takes as long, but for a
/// snapshot.
const CALL_TIMEOUT: Duration = Duration::from_secs(180);

async fn serve_clients(
    node: Arc<Node>,
    listener: Box<dyn Listen>,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    let operations: Arc<dyn NodeOperations> = node.operations.clone();
    let cluster = ClusterServer::new(ClusterService(Arc::new(ClusterApi {
        replicas: node.replicas.clone(),
        peers: node.peers.clone(),
        operations,
        authorizer: node.authorizer.clone(),
        stopping: stopping.clone(),
    })));
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<MessageLogServer<Api>>().await;
    health.set_serving::<ClusterServer<ClusterService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(quorate_client::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the API's descriptors")?;
    let log = message_log(&node, stopping.clone(), TaskTracker::new())
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let routes =
        Routes::new(log).add_service(cluster).add_service(health_service).add_service(reflection);
    let server = server()
        .timeout(CALL_TIMEOUT)
        .max_concurrent_streams(limits::CONNECTION_CALLS_MAX)
        .accept_http1(true)
        .layer(client_layers(node.admission.responses().clone()))
        .add_routes(routes);
    let tls = tls(&node.config.client, "client", &[b"h2", b"http/1.1"])?;
    let places = Places::new("client", node.connections.client, node.metrics.clone());
    let incoming = incoming(listener, tls, Protocol::Http2OrHttp1, places);
    let served = server.serve_with_incoming_shutdown(incoming, stopping.cancelled());
    let mut served = std::pin::pin!(served);
    let served = tokio::select! {
        served = &mut served => served,
        () = end_health(health, &stopping) => served.await,
    };
    served.context("serving clients")
}

/// Says that nothing is served once the node stops, and ends the streams of those who watch.
async fn end_health(mut health: HealthReporter, stopping: &CancellationToken) {
    stopping.cancelled().await;
    for name in ["", message_log_server::SERVICE_NAME, cluster_server::SERVICE_NAME] {
        health.set_service_status(name, ServingStatus::NotServing).await;
        health.clear_service_status(name).await;
    }
}

async fn serve_peers(
    node: &Node,
    listener: Box<dyn Listen>,
    stopping: &Stopping,
) -> anyhow::Result<()> {
    let operations: Arc<dyn NodeOperations> = node.operations.clone();
    let own = node.peers.introduction().clone();
    let peer = PeerServer::new(own, node.replicas.clone(), operations, stopping.peers.clone());
    let peer = PeerService::new(peer)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    // Calls that other nodes hand on come this way.
    let log = message_log(node, stopping.handed_on.clone(), stopping.under_way.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let door = IntroducedOnly(node.peers.introduction().clone());
    // Not around what the replicas say to each other, which no caller may stand in the way of.
    let responses = ResponsesLayer::new(node.admission.responses().clone());
    let log = (responses, RequestsLayer::default()).layer(log);
    let routes = Routes::new(peer).add_service(InterceptedService::new(log, door));
    let routes = limit_calls(routes, CALL_TIMEOUT);
    let server = server()
        .initial_stream_window_size(PEER_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(PEER_CONNECTION_WINDOW_BYTES)
        .layer(MalformedLayer)
        .add_routes(routes);
    let tls = tls(&node.config.peer, "peer", &[b"h2"])?;
    let places = Places::new("peer", node.connections.peer, node.metrics.clone());
    let incoming = incoming(listener, tls, Protocol::Http2, places);
    let served = server.serve_with_incoming_shutdown(incoming, stopping.peers.cancelled());
    served.await.context("serving peers")
}

/// The certificates of a port, if it has any.
fn tls(
    listener: &Listener,
    port: &'static str,
    protocols: &[&[u8]],
) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    let config = listener.tls.as_ref().map(|tls| tls.for_server(protocols)).transpose();
    config.with_context(|| format!("the certificates of the {port} port"))
}

/// Flow-control windows of peers: a full pipeline of entries fits.
const PEER_STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const PEER_CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;

/// A node is ready when it belongs to a cluster and every replica here that is wanted serves, knows a leader and most of
/// whose voters answer, until it is asked to stop.
fn readiness(node: &Node, stopping: CancellationToken) -> Arc<dyn Readiness> {
    let replicas = node.replicas.clone();
    let peers = node.peers.clone();
    let disk = node.disk.clone();
    Arc::new(move || {
        let mut obstacles = Vec::new();
        if stopping.is_cancelled() {
            obstacles.push("the node is stopping".to_owned());
        }
        if replicas.topology().borrow().is_none() {
            obstacles.push("the node belongs to no cluster: run `quorate init`".to_owned());
        }
        for group in replicas.all().iter().filter(|group| group.lacks_quorum()) {
            obstacles.push(format!("most voters of group {} do not answer", group.id()));
        }
        for status in replicas.statuses() {
            if !status.problem.is_empty() {
                obstacles
                    .push(format!("group {} is {}: {}", status.group, status.role, status.problem));
            } else if status.leader.is_none() {
                obstacles.push(format!("group {} has no leader", status.group));
            }
        }
        if disk.mark() != DiskMark::Ok {
            obstacles.push(format!("the disk has {} bytes left", disk.free_bytes()));
        }
        // One misguided peer must not take a node out of service that has its quorums without it.
        Condition { obstacles, remarks: refusals(&peers) }
    })
}
