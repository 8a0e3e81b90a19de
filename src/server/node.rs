//! One node from its start to its stop: every piece is made here and handed to those that use it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use quorate_client::proto::cluster_server::ClusterServer;
use quorate_client::proto::message_log_client::MessageLogClient;
use quorate_client::proto::message_log_server::MessageLogServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};

use super::disk::DiskWatch;
use super::observers::{self, Observers};
use super::operations::{Advertised, Operations, other_addresses};
use super::placement::Placement;
use super::pulse::PulseWatch;
use super::{Config, Metrics, Readiness, SystemClock, dedup_floor, serve_http};
use crate::consensus::flusher::{self, FlushPolicy};
use crate::consensus::{Admission, NodeParts, RaftTiming, Replicas};
use crate::service::cluster::{ClusterApi, ClusterService};
use crate::service::{AllowAll, Api, Authorizer, MalformedLayer};
use crate::storage::{DiskLimits, DiskMark, Storage, Tuning};
use crate::transport::proto::peer_server::PeerServer as PeerService;
use crate::transport::{Introduction, MESSAGE_BYTES_MAX, NodeOperations, PeerServer, Peers};
use crate::types::{Clock, GroupId, NodeId};

const DAY_US: u64 = 24 * 3600 * 1_000_000;
/// How long streams may take to end when the node is asked to stop.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

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
}

/// Runs a node until `shutdown` is cancelled, or until its storage fails: then it stops at once, with an error,
/// because what is on disk is not known any more.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = listen(config.client.listen).await?;
    let peer = listen(config.peer.listen).await?;
    let http = listen(config.http.listen).await?;
    let node = Arc::new(start(config).await?);
    tracing::info!(
        node_id = node.config.node_id.0,
        client = %node.config.client.listen,
        peer = %node.config.peer.listen,
        http = %node.config.http.listen,
        "the node is up"
    );
    let stopping = CancellationToken::new();
    let servers = async {
        tokio::try_join!(
            async { serve_clients(&node, client, stopping.clone()).await },
            async { serve_peers(&node, peer, stopping.clone()).await },
            async {
                Ok(serve_http(http, node.metrics.clone(), readiness(&node), stopping.clone())
                    .await?)
            },
        )
    };
    let background = run_background(node.clone());
    let result = {
        let mut servers = std::pin::pin!(servers);
        tokio::select! {
            served = &mut servers => served.map(|_| ()).context("a listener has failed"),
            failure = background => Err(failure),
            () = shutdown.cancelled() => {
                tracing::info!("stopping");
                stopping.cancel();
                // Streams that do not end in time are cut off: their callers resume elsewhere.
                let _ = tokio::time::timeout(GOODBYE_TIMEOUT, servers).await;
                Ok(())
            }
        }
    };
    result?;
    for group in node.replicas.all() {
        group.stop().await;
    }
    node.storage.close().await.context("closing the storage")?;
    tracing::info!("the node has stopped");
    Ok(())
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn start(config: Config) -> anyhow::Result<Node> {
    let metrics = Arc::new(Metrics::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let started_us = clock.elapsed_us();
    let observer = Arc::new(Observers(metrics.clone()));
    let storage = Storage::open(&config.data_dir, config.node_id, tuning(&config), observer)
        .await
        .context("opening the storage")?;
    let data_dir = storage.data_dir.clone();
    if let Err(error) = data_dir.keep_ballast(config.storage.ballast_bytes) {
        tracing::warn!(%error, "there is no ballast file: the disk has no room for it");
    }
    let admission = Arc::new(Admission::default());
    let limits = DiskLimits {
        soft_free_bytes: config.storage.disk_soft_free_bytes,
        hard_free_bytes: config.storage.disk_hard_free_bytes,
    };
    let disk = DiskWatch::begin(config.data_dir.clone(), limits, admission.clone());
    let identity = storage.identity.clone();
    let peers = Peers::new(Arc::new(Introduction::new(config.node_id, identity.cluster)));
    peers.set_addresses(identity.peers.iter().filter(|(node, _)| *node != config.node_id).cloned());
    let parts = NodeParts {
        node: config.node_id,
        timing: RaftTiming {
            heartbeat_interval_ms: config.raft.heartbeat_interval_ms,
            election_timeout_min_ms: config.raft.election_timeout_min_ms,
            election_timeout_max_ms: config.raft.election_timeout_max_ms,
        },
        transport: peers.clone(),
        remote: peers.clone(),
        clock: clock.clone(),
        admission: admission.clone(),
    };
    let replicas = Replicas::open(parts, &storage).await.context("starting the replicas")?;
    if let Some(topology) = &*replicas.topology().borrow() {
        peers.set_addresses(other_addresses(topology, config.node_id));
    }
    note_lost_meta_replica(&replicas, &identity);
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
    let authorizer = Arc::new(AllowAll);
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
    })
}

/// A node that was taken into a cluster had a replica of the meta group. If it is gone, its data was lost.
fn note_lost_meta_replica(replicas: &Replicas, identity: &crate::storage::Identity) {
    let Some(incarnation) = identity.meta_incarnation else { return };
    if replicas.get(GroupId::META).is_none() {
        let replica = crate::types::ReplicaId { node: identity.node, incarnation };
        replicas.note_missing(GroupId::META, replica);
    }
}

fn tuning(config: &Config) -> Tuning {
    Tuning {
        log_memtable_bytes: config.storage.log_memtable_bytes as usize,
        log_wal_bytes_max: 3 * config.storage.log_memtable_bytes,
        state_memtable_bytes: config.storage.state_memtable_bytes as usize,
        state_cache_bytes: config.storage.block_cache_bytes as usize,
        ..Tuning::default()
    }
}

/// Everything that runs beside the servers. Returns only when the node has to stop.
async fn run_background(node: Arc<Node>) -> anyhow::Error {
    let placement = Placement {
        replicas: node.replicas.clone(),
        peers: node.peers.clone(),
        operations: node.operations.clone(),
    };
    let pulse = PulseWatch {
        replicas: node.replicas.clone(),
        peers: node.peers.clone(),
        clock: node.clock.clone(),
        admission: node.admission.clone(),
    };
    let policy = FlushPolicy {
        interval: Duration::from_millis(node.config.storage.flush_interval_ms),
        log_keep_bytes: node.config.storage.log_keep_bytes,
    };
    let horizon_us = u64::from(node.config.limits.dedup_horizon_days) * DAY_US;
    let endless = async {
        tokio::join!(
            placement.run(),
            pulse.run(),
            node.disk.clone().run(node.metrics.clone()),
            observers::sample(node.replicas.clone(), node.metrics.clone()),
            dedup_floor::run(node.replicas.clone(), node.clock.clone(), horizon_us),
        );
    };
    tokio::select! {
        failure = node.storage.writer.failed() => {
            anyhow::Error::new(failure).context("the log cannot be written: the node stops")
        }
        failure = flusher::run(node.replicas.clone(), policy) => {
            anyhow::Error::new(failure).context("the state cannot be flushed: the node stops")
        }
        reason = background_errors(&node.storage) => {
            anyhow::anyhow!(reason).context("a database has failed: the node stops")
        }
        () = endless => anyhow::anyhow!("a task of the node has ended"),
    }
}

/// Returns once either database has failed in the background.
async fn background_errors(storage: &Storage) -> String {
    const POLL_INTERVAL: Duration = Duration::from_millis(500);
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    loop {
        ticks.tick().await;
        let error = storage.log.background_error().or_else(|| storage.state.background_error());
        if let Some(error) = error {
            return error;
        }
    }
}

/// What callers reach through the peers' connections when a call is handed on.
struct PeerApis(Arc<Peers>);

impl crate::service::Peers for PeerApis {
    fn message_log(&self, node: NodeId) -> Option<MessageLogClient<Channel>> {
        let channel = self.0.channel(node).ok()?;
        Some(
            MessageLogClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
    }
}

fn message_log(node: &Node, stopping: CancellationToken) -> MessageLogServer<Api> {
    MessageLogServer::new(Api {
        replicas: node.replicas.clone(),
        peers: Arc::new(PeerApis(node.peers.clone())),
        clock: node.clock.clone(),
        salts: Arc::new(rand::random),
        authorizer: node.authorizer.clone(),
        observer: Arc::new(Observers(node.metrics.clone())),
        stopping,
    })
}

async fn serve_clients(
    node: &Node,
    listener: TcpListener,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    let operations: Arc<dyn NodeOperations> = node.operations.clone();
    let cluster = ClusterServer::new(ClusterService(Arc::new(ClusterApi {
        replicas: node.replicas.clone(),
        peers: node.peers.clone(),
        operations,
        authorizer: node.authorizer.clone(),
    })));
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<MessageLogServer<Api>>().await;
    health.set_serving::<ClusterServer<ClusterService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(quorate_client::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the API's descriptors")?;
    let routes = Routes::new(message_log(node, stopping.clone()))
        .add_service(cluster)
        .add_service(health_service)
        .add_service(reflection);
    let server = Server::builder()
        .accept_http1(true)
        .layer(tonic_web::GrpcWebLayer::new())
        .layer(MalformedLayer)
        .add_routes(routes);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = server.serve_with_incoming_shutdown(incoming, stopping.cancelled());
    served.await.context("serving clients")
}

async fn serve_peers(
    node: &Node,
    listener: TcpListener,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    let operations: Arc<dyn NodeOperations> = node.operations.clone();
    let own = node.peers.introduction().clone();
    let peer = PeerService::new(PeerServer::new(own, node.replicas.clone(), operations))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    // Calls that other nodes hand on come this way.
    let routes = Routes::new(peer).add_service(
        message_log(node, stopping.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    );
    let server = Server::builder()
        .initial_stream_window_size(PEER_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(PEER_CONNECTION_WINDOW_BYTES)
        .layer(MalformedLayer)
        .add_routes(routes);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = server.serve_with_incoming_shutdown(incoming, stopping.cancelled());
    served.await.context("serving peers")
}

/// Flow-control windows of peers: a full pipeline of entries fits.
const PEER_STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const PEER_CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;

/// A node is ready when it belongs to a cluster and every replica here that is wanted serves and knows a leader.
fn readiness(node: &Node) -> Arc<dyn Readiness> {
    let replicas = node.replicas.clone();
    let disk = node.disk.clone();
    Arc::new(move || {
        let mut obstacles = Vec::new();
        if replicas.topology().borrow().is_none() {
            obstacles.push("the node belongs to no cluster: run `quorate init`".to_owned());
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
        obstacles
    })
}
