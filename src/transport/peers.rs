//! The other nodes: where they are, and the connections to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::AnyError;
use openraft::errors::{NetworkError, RPCError, Unreachable};
use openraft::raft::{
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use quorate_client::Dial;
use quorate_client::dial::connect_lazy;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::append_client::{self, AppendClient};
use super::hello::Introduction;
use super::introduced::{HandedOn, IntroducedChannel, Introducing};
use super::proto::{self, peer_client::PeerClient};
use super::wire::{route_to_wire, transfer_to_wire, vote_reply_from_wire, vote_request_to_wire};
use super::{MESSAGE_BYTES_MAX, snapshots};
use crate::consensus::network::{Appended, Appending, Lane, RaftTransport, Route};
use crate::consensus::parking::Footing;
use crate::consensus::raft_types::{RaftVote, TypeConfig};
use crate::consensus::{ReadError, Refusal, RemoteReadIndex, SnapshotSource};
use crate::types::{GroupId, LogIndex, NodeId, limits};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A peer that is silent for this long on an open connection is taken to be gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Flow-control windows: what the other side of a connection may send before it is taken.
#[derive(Clone, Copy)]
struct Windows {
    stream_bytes: u32,
    connection_bytes: u32,
}

/// A full pipeline of entries fits. All that comes is taken at once.
const PROMPT: Windows =
    Windows { stream_bytes: 16 * 1024 * 1024, connection_bytes: 32 * 1024 * 1024 };
/// What a client does not take counts against its whole connection: hundreds of such clients leave room for others.
const UNHURRIED: Windows = Windows { stream_bytes: 256 * 1024, connection_bytes: 64 * 1024 * 1024 };

const READ_INDEX_TIMEOUT: Duration = Duration::from_millis(1_500);

type Failure = RPCError<TypeConfig>;

/// A call to a peer did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// Where the node is, is not known.
    #[error("the address of node {node} is not known")]
    Unknown {
        /// The node.
        node: NodeId,
    },
    /// The peer refused, or could not be reached.
    #[error("node {node}: {status}")]
    Failed {
        /// The node.
        node: NodeId,
        /// Its answer.
        status: tonic::Status,
    },
}

/// Why a call failed. tonic says "transport error"; what the operating system or TLS said is below it.
pub fn root_cause(status: &tonic::Status) -> String {
    causes(status).last().map_or_else(|| status.message().to_owned(), ToString::to_string)
}

/// Whether a call failed because nothing listens where the peer should.
pub(super) fn is_connection_refused(status: &tonic::Status) -> bool {
    let mut errors = causes(status).filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.any(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn causes(status: &tonic::Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

/// The other nodes.
pub struct Peers {
    /// Where connections run, whoever needs them first.
    runtime: Handle,
    own: Arc<Introduction>,
    tls: Option<ClientTlsConfig>,
    dial: Option<Arc<dyn Dial>>,
    addresses: RwLock<BTreeMap<NodeId, String>>,
    links: Mutex<HashMap<NodeId, Arc<Link>>>,
    refused: Arc<Notify>,
}

/// The connections to one node, `limits::PEER_LINK_CONNECTIONS` of them.
struct Link {
    address: String,
    /// One-shot calls of the nodes themselves: nothing that a client does may delay a vote.
    calls: Channel,
    handed_on_calls: Channel,
    handed_on_streams: Channel,
    snapshots: Channel,
    /// Places of snapshots on their way: many at once would take long side by side, and all of their room at the end.
    snapshot_places: Semaphore,
    entries: AppendClient,
    heartbeats: AppendClient,
}

impl Link {
    fn new(node: NodeId, address: String, peers: &Peers) -> Result<Self, PeerError> {
        let channel = || peers.connect(node, &address, PROMPT);
        let appends =
            |channel| AppendClient::start(node, channel, peers.own.clone(), peers.refused.clone());
        Ok(Link {
            calls: channel()?,
            handed_on_calls: channel()?,
            handed_on_streams: peers.connect(node, &address, UNHURRIED)?,
            snapshots: channel()?,
            snapshot_places: Semaphore::new(limits::SNAPSHOTS_AT_ONCE),
            entries: appends(channel()?),
            heartbeats: appends(channel()?),
            address,
        })
    }
}

impl Peers {
    /// No addresses are known yet. With certificates, all connections are encrypted, and the other side is checked.
    /// Connections are opened by `dial`, or else by the operating system, and run where this is called.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(
        own: Arc<Introduction>,
        tls: Option<ClientTlsConfig>,
        dial: Option<Arc<dyn Dial>>,
    ) -> Arc<Self> {
        let (addresses, links, refused) = Default::default();
        let runtime = Handle::current();
        Arc::new(Peers { runtime, own, tls, dial, addresses, links, refused })
    }

    /// This node as it presents itself.
    pub fn introduction(&self) -> &Arc<Introduction> {
        &self.own
    }

    /// Notes where nodes are. A node that has moved is connected to anew.
    pub fn set_addresses(&self, addresses: impl IntoIterator<Item = (NodeId, String)>) {
        let mut known = self.addresses.write().expect("no panic while locked");
        for (node, address) in addresses {
            known.insert(node, address);
        }
    }

    /// Where nodes are, as far as known.
    pub fn addresses(&self) -> BTreeMap<NodeId, String> {
        self.addresses.read().expect("no panic while locked").clone()
    }

    /// Frames that wait for a connection, over all of them.
    pub fn frames_waiting(&self) -> usize {
        let links = self.links.lock().expect("no panic while locked");
        links.values().map(|link| link.entries.waiting() + link.heartbeats.waiting()).sum()
    }

    /// Connects to a node, so that it is noticed when its process dies.
    pub fn keep_in_touch(&self, node: NodeId) {
        // An address that is not known yet, or cannot be used, is tried again the next time.
        let _ = self.link(node);
    }

    /// Of the nodes that this one has had to do with, those whose machines refuse connections to them.
    pub fn refusals(&self) -> BTreeMap<NodeId, Refusal> {
        let links = self.links.lock().expect("no panic while locked");
        links.iter().filter_map(|(node, link)| Some((*node, link.heartbeats.refusal()?))).collect()
    }

    /// Resolves once a connection has been refused since the last call. Cancel safe; for one waiter.
    pub async fn refused(&self) {
        self.refused.notified().await;
    }

    /// A connection for calls that are handed on to a node; each carries this node's hello.
    pub fn introduced(&self, node: NodeId, what: HandedOn) -> Result<IntroducedChannel, PeerError> {
        let link = self.link(node)?;
        let channel = match what {
            HandedOn::Call => link.handed_on_calls.clone(),
            HandedOn::Stream => link.handed_on_streams.clone(),
        };
        Ok(InterceptedService::new(channel, Introducing::new(self.own.clone(), node)))
    }

    /// A client for one-shot calls to a node.
    pub fn client(&self, node: NodeId) -> Result<PeerClient<Channel>, PeerError> {
        Ok(PeerClient::new(self.link(node)?.calls.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A client for a node that is not known yet, at an address that somebody gave.
    pub fn client_at(&self, node: NodeId, address: &str) -> Result<PeerClient<Channel>, PeerError> {
        Ok(PeerClient::new(self.connect(node, address, PROMPT)?))
    }

    fn connect(&self, node: NodeId, address: &str, windows: Windows) -> Result<Channel, PeerError> {
        let unusable = |error: tonic::transport::Error| {
            let reason = format!("address {address}: {error}");
            PeerError::Failed { node, status: tonic::Status::invalid_argument(reason) }
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(unusable)?;
        let endpoint = match &self.tls {
            Some(tls) => endpoint.tls_config(tls.clone()).map_err(unusable)?,
            None => endpoint,
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(windows.stream_bytes)
            .initial_connection_window_size(windows.connection_bytes);
        let _here = self.runtime.enter();
        Ok(connect_lazy(&endpoint, self.dial.clone()))
    }

    fn link(&self, node: NodeId) -> Result<Arc<Link>, PeerError> {
        let address = self.addresses.read().expect("no panic while locked").get(&node).cloned();
        let address = address.ok_or(PeerError::Unknown { node })?;
        let mut links = self.links.lock().expect("no panic while locked");
        if let Some(link) = links.get(&node).filter(|link| link.address == address) {
            return Ok(link.clone());
        }
        let _here = self.runtime.enter();
        let link = Arc::new(Link::new(node, address, self)?);
        links.insert(node, link.clone());
        Ok(link)
    }

    async fn raft_call(
        &self,
        route: Route,
        message: proto::raft_request::Message,
        limit: Duration,
    ) -> Result<proto::raft_reply::Message, Failure> {
        let node = route.to.node;
        let mut client = self.client(node).map_err(|error| unreachable_peer(&error))?;
        let request = proto::RaftRequest {
            hello: Some(self.own.hello(node)),
            route: Some(route_to_wire(route)),
            message: Some(message),
        };
        let reply = timeout(limit, client.raft(request))
            .await
            .map_err(|_| network_failure("no answer in time"))?
            .map_err(|status| unreachable_peer(&PeerError::Failed { node, status }))?;
        reply.into_inner().message.ok_or_else(|| network_failure("an empty answer"))
    }
}

fn unreachable_peer(error: &PeerError) -> Failure {
    Failure::Unreachable(Unreachable::new(error))
}

fn network_failure(reason: &str) -> Failure {
    Failure::Network(NetworkError::new(&AnyError::error(reason.to_owned())))
}

impl RaftTransport for Peers {
    fn append(
        &self,
        route: Route,
        lane: Lane,
        input: BoxStream<'static, Appending>,
        idle: Duration,
    ) -> Appended {
        match self.link(route.to.node) {
            Ok(link) => match lane {
                Lane::Entries => link.entries.append(route, input, idle.max(ENTRIES_IDLE_MIN)),
                Lane::Heartbeats => link.heartbeats.append(route, input, idle),
            },
            Err(error) => append_client::failed(input, unreachable_peer(&error)),
        }
    }

    fn vote(
        &self,
        route: Route,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        limit: Duration,
    ) -> BoxFuture<'_, Result<VoteResponse<TypeConfig>, Failure>> {
        use proto::raft_request::Message;
        let request = vote_request_to_wire(&request);
        let message = if pre_vote { Message::PreVote(request) } else { Message::Vote(request) };
        Box::pin(async move {
            match self.raft_call(route, message, limit).await? {
                proto::raft_reply::Message::Vote(reply) => vote_reply_from_wire(&reply)
                    .map_err(|error| Failure::Network(NetworkError::new(&error))),
                proto::raft_reply::Message::TransferRefused(_) => {
                    Err(network_failure("a vote was answered as a transfer"))
                }
            }
        })
    }

    fn transfer_leader(
        &self,
        route: Route,
        request: TransferLeaderRequest<TypeConfig>,
        limit: Duration,
    ) -> BoxFuture<'_, Result<TransferLeaderResponse<TypeConfig>, Failure>> {
        let expected = *request.from_leader();
        let message = proto::raft_request::Message::Transfer(transfer_to_wire(&request));
        Box::pin(async move {
            match self.raft_call(route, message, limit).await? {
                proto::raft_reply::Message::TransferRefused(why) if why.is_empty() => Ok(Ok(())),
                proto::raft_reply::Message::TransferRefused(_) => {
                    let actual = expected;
                    Ok(Err(TransferLeaderError::VoteChanged { expected, actual }))
                }
                proto::raft_reply::Message::Vote(_) => {
                    Err(network_failure("a transfer was answered as a vote"))
                }
            }
        })
    }

    fn park(
        &self,
        node: NodeId,
        groups: Vec<(Route, Footing)>,
        limit: Duration,
    ) -> BoxFuture<'_, Option<BTreeSet<GroupId>>> {
        Box::pin(async move {
            let told = self.tell_parked(node, &groups, limit).await;
            told.inspect_err(|error| tracing::debug!(%node, %error, "a node was not told")).ok()
        })
    }

    fn send_snapshot(
        &self,
        route: Route,
        vote: RaftVote,
        source: SnapshotSource,
    ) -> BoxFuture<'_, Result<RaftVote, Failure>> {
        Box::pin(async move {
            let link = self.link(route.to.node).map_err(|error| unreachable_peer(&error))?;
            let hello = self.own.hello(route.to.node);
            // Before the state is looked at: what is sent then is the newest.
            let _place = link.snapshot_places.acquire().await.expect("it is never closed");
            let sent = snapshots::send(link.snapshots.clone(), hello, route, vote, source).await;
            sent.map_err(|error| Failure::Unreachable(Unreachable::new(&error)))
        })
    }
}

/// A follower that writes a large backlog may take longer than a heartbeat to answer.
const ENTRIES_IDLE_MIN: Duration = Duration::from_secs(5);

impl RemoteReadIndex for Peers {
    fn read_index(
        &self,
        leader: NodeId,
        group: GroupId,
    ) -> BoxFuture<'_, Result<LogIndex, ReadError>> {
        Box::pin(async move {
            let no_quorum = |reason: String| ReadError::NoQuorum { reason };
            let mut client = self.client(leader).map_err(|error| no_quorum(error.to_string()))?;
            let hello = Some(self.own.hello(leader));
            let request = proto::ReadIndexRequest { hello, group: group.0 };
            let reply = timeout(READ_INDEX_TIMEOUT, client.read_index(request))
                .await
                .map_err(|_| no_quorum(format!("leader {leader} did not answer in time")))?
                .map_err(|status| no_quorum(status.message().to_owned()))?;
            Ok(LogIndex(reply.into_inner().index))
        })
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
