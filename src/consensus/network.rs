//! What a group needs from the network, as a trait that the transport implements, and its adapter for openraft.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::impls::EmptyNode;
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::log_needs::LogNeeds;
use super::parking::Footing;
use super::raft_types::{RaftVote, TypeConfig};
use super::snapshot_source::SnapshotSource;
use super::state_machine::SnapshotData;
use crate::types::{GroupId, LogIndex, NodeId, ReplicaId};

/// Delays between attempts to reach a node that cannot be reached.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Which replica speaks to which. Both ends check it: a replica that was made anew has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The group.
    pub group: GroupId,
    /// Who sends.
    pub from: ReplicaId,
    /// Who is meant.
    pub to: ReplicaId,
}

/// Which of a peer's connections carries a stream: heartbeats must not wait behind entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Entries.
    Entries,
    /// Heartbeats.
    Heartbeats,
}

/// What a leader sends to a replica: an append request, and what it knows besides.
#[derive(Clone, Debug)]
pub struct Appending {
    /// openraft's request.
    pub raft: AppendEntriesRequest<TypeConfig>,
    /// The first index that some replica of the group may lack; 0 if that is not said.
    pub needed_from: LogIndex,
    /// The first index that the receiver has not acknowledged to this leader; 0 if that is not said.
    pub acknowledged_before: LogIndex,
}

/// Responses to a stream of append requests, in the order of the requests.
pub type Appended =
    BoxStream<'static, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// Raft's messages to other nodes.
pub trait RaftTransport: Send + Sync + 'static {
    /// Sends a stream of append requests. `idle` bounds the wait for each response while one is owed.
    fn append(
        &self,
        route: Route,
        lane: Lane,
        input: BoxStream<'static, Appending>,
        idle: Duration,
    ) -> Appended;

    /// Asks for a vote, or whether one would be given.
    fn vote(
        &self,
        route: Route,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>>>;

    /// Tells a replica to stand for election at once.
    fn transfer_leader(
        &self,
        route: Route,
        request: TransferLeaderRequest<TypeConfig>,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>>>;

    /// Tells a node on what groups rest that this node leads. Returns those whose replica there does not; none if the node
    /// has not answered within `limit`.
    fn park(
        &self,
        node: NodeId,
        groups: Vec<(Route, Footing)>,
        limit: Duration,
    ) -> BoxFuture<'_, Option<BTreeSet<GroupId>>>;

    /// Sends the state of the source's replica; returns the receiver's vote.
    fn send_snapshot(
        &self,
        route: Route,
        vote: RaftVote,
        source: SnapshotSource,
    ) -> BoxFuture<'_, Result<RaftVote, RPCError<TypeConfig>>>;
}

/// Makes connections of one replica.
pub struct GroupNetwork {
    transport: Arc<dyn RaftTransport>,
    group: GroupId,
    own: ReplicaId,
    needs: LogNeeds,
}

impl GroupNetwork {
    /// The network of a group's replica.
    pub fn new(
        transport: Arc<dyn RaftTransport>,
        group: GroupId,
        own: ReplicaId,
        needs: LogNeeds,
    ) -> Self {
        GroupNetwork { transport, group, own, needs }
    }

    fn connection(&self, to: ReplicaId, lane: Lane) -> Connection {
        Connection {
            transport: self.transport.clone(),
            route: Route { group: self.group, from: self.own, to },
            lane,
            needs: self.needs.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for GroupNetwork {
    type Network = Connection;

    async fn new_client(&mut self, target: ReplicaId, _node: &EmptyNode) -> Connection {
        self.connection(target, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, _node: &EmptyNode) -> Connection {
        self.connection(target, Lane::Heartbeats)
    }
}

/// One replica's way to another.
pub struct Connection {
    transport: Arc<dyn RaftTransport>,
    route: Route,
    lane: Lane,
    needs: LogNeeds,
}

type AppendStream<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

impl NetStreamAppend<TypeConfig> for Connection {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendStream<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let idle = option.hard_ttl();
        let (needs, to) = (self.needs.clone(), self.route.to);
        let input = input.map(move |raft| Appending {
            needed_from: needs.needed_from(),
            acknowledged_before: needs.acknowledged_before(to, &raft.vote),
            raft,
        });
        let answers = self.transport.append(self.route, self.lane, input.boxed(), idle);
        let output: AppendStream<'s> = match self.lane {
            Lane::Entries => while_kept(answers, self.needs.clone(), self.route),
            Lane::Heartbeats => answers,
        };
        Box::pin(std::future::ready(Ok(output)))
    }
}

/// Ends a stream of entries behind an answer that shows that the replica lacks what the log is not kept for any more. Then
/// openraft sends no more of it, purges, and sends a snapshot; else a replica that is slow, but answers, would have its
/// leader keep a log without end (G12).
fn while_kept(answers: Appended, needs: LogNeeds, route: Route) -> Appended {
    let is_behind = move |answer: &<Appended as Stream>::Item| match answer {
        Ok(Ok(last)) => needs.is_given_up(route.to, LogIndex(last.map_or(0, |last| last.index))),
        _ => false,
    };
    let checked = answers.flat_map(move |answer| {
        let too_slow = is_behind(&answer).then(|| {
            tracing::info!(group = %route.group, to = %route.to, "too slow for the log to be kept");
            let why = "the replica is too far behind, and is to get a snapshot";
            Err(RPCError::Network(NetworkError::from_string(why)))
        });
        futures::stream::iter(std::iter::once(answer).chain(too_slow))
    });
    checked.boxed()
}

impl NetVote<TypeConfig> for Connection {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.vote(self.route, request, false, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.vote(self.route, request, true, option.soft_ttl()).await
    }
}

impl NetSnapshot<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    /// openraft names the snapshot at the durable mark; what is sent is the live state, which holds it and more. Once the
    /// receiver has installed that, openraft goes on behind the mark all the same: the log is kept from there until then,
    /// or it would have to send a snapshot again.
    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Durable(source) = snapshot.snapshot else {
            unreachable!("what is sent is what the state machine offered: its own state");
        };
        let mark = snapshot.meta.last_log_id.map_or(LogIndex(0), |id| LogIndex(id.index));
        let _hold = source.hold_log(mark);
        let sending = self.transport.send_snapshot(self.route, vote, source);
        let receiver = tokio::select! {
            result = sending => result?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        self.needs.installed(self.route.to, mark);
        Ok(SnapshotResponse::new(receiver))
    }
}

impl NetTransferLeader<TypeConfig> for Connection {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.transfer_leader(self.route, request, option.soft_ttl()).await
    }
}

impl NetBackoff<TypeConfig> for Connection {
    fn backoff(&self) -> Option<Backoff> {
        let delays =
            std::iter::successors(Some(BACKOFF_FIRST), |delay| Some((*delay * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(delays))
    }
}
