//! What a group needs from the network, as a trait that the transport implements, and its adapter for openraft.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError};
use openraft::impls::EmptyNode;
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::acknowledged::Acknowledged;
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
    pub(super) acknowledged: Acknowledged,
}

impl GroupNetwork {
    /// The network of a group's replica.
    pub fn new(
        transport: Arc<dyn RaftTransport>,
        group: GroupId,
        own: ReplicaId,
        needs: LogNeeds,
    ) -> Self {
        GroupNetwork { transport, group, own, needs, acknowledged: Acknowledged::default() }
    }

    fn connection(&self, to: ReplicaId, lane: Lane) -> Connection {
        Connection {
            transport: self.transport.clone(),
            route: Route { group: self.group, from: self.own, to },
            lane,
            needs: self.needs.clone(),
            acknowledged: self.acknowledged.clone(),
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
    acknowledged: Acknowledged,
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
        let (needs, acknowledged, to) =
            (self.needs.clone(), self.acknowledged.clone(), self.route.to);
        // One stream is of one leadership.
        let vote = Arc::new(OnceLock::new());
        let sent = vote.clone();
        let input = input.map(move |raft| Appending {
            needed_from: needs.needed_from(),
            acknowledged_before: acknowledged.before(to, sent.get_or_init(|| raft.vote)),
            raft,
        });
        let answers = self.transport.append(self.route, self.lane, input.boxed(), idle);
        let output: AppendStream<'s> = match self.lane {
            Lane::Entries => noted(answers, self.acknowledged.clone(), to, vote),
            // The answer to a heartbeat says less.
            Lane::Heartbeats => answers,
        };
        Box::pin(std::future::ready(Ok(output)))
    }
}

/// Answers of a replica to the leader of a vote, what they acknowledge noted as they come.
fn noted(
    answers: Appended,
    acknowledged: Acknowledged,
    from: ReplicaId,
    to: Arc<OnceLock<RaftVote>>,
) -> Appended {
    let note = move |answer: &<Appended as Stream>::Item| {
        if let (Ok(Ok(Some(last))), Some(vote)) = (answer, to.get()) {
            acknowledged.note(from, *vote, LogIndex(last.index));
        }
    };
    answers.inspect(note).boxed()
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
        let _under_way = self.acknowledged.sends_snapshot(self.route.to);
        let sending = self.transport.send_snapshot(self.route, vote, source);
        tokio::select! {
            result = sending => Ok(SnapshotResponse::new(result?)),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
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
