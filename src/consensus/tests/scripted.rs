//! Voters whose answers a test gives.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::ServerState;
use openraft::errors::RPCError;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::fixture::{EVENTUALLY, GROUP, range_of, replica};
use crate::consensus::network::{Appended, Appending, Lane, RaftTransport, Route};
use crate::consensus::parking::Footing;
use crate::consensus::raft_types::{RaftLogId, RaftVote, TypeConfig};
use crate::consensus::solitary::{Disks, Process, nobody};
use crate::consensus::{Group, ProposeError, RaftTiming, SnapshotSource};
use crate::log::{Command, Outcome};
use crate::types::{GroupId, NodeId, ReplicaId};

/// Requests on one stream, or of all voters, that wait for an answer.
const UNANSWERED_MAX: usize = 64;

/// An append request that waits for its answer. If it is dropped, its voter was not reached.
pub struct Asked {
    pub to: ReplicaId,
    pub lane: Lane,
    pub request: AppendEntriesRequest<TypeConfig>,
    answer: oneshot::Sender<StreamAppendResult<TypeConfig>>,
}

impl Asked {
    /// The last entry that the voter holds if it follows.
    pub fn last(&self) -> Option<RaftLogId> {
        self.request.entries.last().map(|entry| entry.log_id).or(self.request.prev_log_id)
    }

    /// The voter has taken what it was sent.
    pub fn follow(self) {
        let last = self.last();
        let _ = self.answer.send(Ok(last));
    }

    /// The voter has given a newer vote.
    pub fn refuse(self, newer: RaftVote) {
        let _ = self.answer.send(Err(StreamAppendError::HigherVote(newer)));
    }
}

/// A snapshot that is to be sent.
pub struct Sending {
    pub source: SnapshotSource,
    /// Takes the receiver's vote, once it has installed what was sent.
    pub installed: oneshot::Sender<RaftVote>,
}

/// What voters are asked and sent, in its order.
pub struct Voters {
    asked: mpsc::Receiver<Asked>,
    snapshots: mpsc::Receiver<Sending>,
}

impl Voters {
    /// The next snapshot that somebody is to be sent.
    pub async fn next_snapshot(&mut self) -> Sending {
        let next = timeout(EVENTUALLY, self.snapshots.recv()).await.expect("a snapshot is sent");
        next.expect("the transport is there")
    }

    /// All voters follow until `done` is.
    pub async fn follow_until<T>(&mut self, done: impl Future<Output = T>) -> T {
        self.answer_until(|_| true, done).await
    }

    /// Voters follow where a request reaches them, until `done` is.
    pub async fn answer_until<T>(
        &mut self,
        reaches: impl Fn(&Asked) -> bool,
        done: impl Future<Output = T>,
    ) -> T {
        let following = async {
            let mut done = std::pin::pin!(done);
            loop {
                tokio::select! {
                    result = &mut done => return result,
                    Some(asked) = self.asked.recv() => {
                        if reaches(&asked) {
                            asked.follow();
                        }
                    }
                }
            }
        };
        timeout(EVENTUALLY, following).await.expect("it is done while those who are reached follow")
    }

    /// The next request that is wanted. The voters follow what else they are asked.
    pub async fn next(&mut self, is_wanted: impl Fn(&Asked) -> bool) -> Asked {
        loop {
            let next = timeout(EVENTUALLY, self.asked.recv()).await.expect("voters are asked");
            let asked = next.expect("the transport is there");
            if is_wanted(&asked) {
                return asked;
            }
            asked.follow();
        }
    }

    /// Whether nothing that is wanted waits for an answer.
    pub fn none_is_asked(&mut self, is_wanted: impl Fn(&Asked) -> bool) -> bool {
        std::iter::from_fn(|| self.asked.try_recv().ok()).all(|asked| !is_wanted(&asked))
    }

    /// The next request of each of these voters that is wanted. The voters follow what else they are asked.
    pub async fn next_of_each(
        &mut self,
        voters: &[ReplicaId],
        is_wanted: impl Fn(&Asked) -> bool,
    ) -> Vec<Asked> {
        let mut found: Vec<Option<Asked>> = voters.iter().map(|_| None).collect();
        while found.iter().any(Option::is_none) {
            let place_of = |asked: &Asked| {
                let place = voters.iter().position(|voter| *voter == asked.to);
                place.filter(|place| found[*place].is_none() && is_wanted(asked))
            };
            let asked = self.next(|asked| place_of(asked).is_some()).await;
            if let Some(place) = place_of(&asked) {
                found[place] = Some(asked);
            }
        }
        found.into_iter().flatten().collect()
    }
}

/// Hands each append request and each snapshot to the test. Votes are given to whoever asks.
pub struct Scripted {
    asked: mpsc::Sender<Asked>,
    snapshots: mpsc::Sender<Sending>,
}

impl Scripted {
    pub fn new() -> (Self, Voters) {
        let (asked, asked_of) = mpsc::channel(UNANSWERED_MAX);
        let (snapshots, sent_to) = mpsc::channel(1);
        (Scripted { asked, snapshots }, Voters { asked: asked_of, snapshots: sent_to })
    }
}

impl RaftTransport for Scripted {
    fn append(
        &self,
        route: Route,
        lane: Lane,
        input: BoxStream<'static, Appending>,
        _idle: Duration,
    ) -> Appended {
        let sender = self.asked.clone();
        let answers = input.map(move |Appending { raft: request, .. }| {
            let (answer, answered) = oneshot::channel();
            let asked = Asked { to: route.to, lane, request, answer };
            let sender = sender.clone();
            async move {
                let _ = sender.send(asked).await;
                match answered.await {
                    Ok(answer) => Ok(answer),
                    Err(_) => nobody(),
                }
            }
        });
        answers.buffered(UNANSWERED_MAX).boxed()
    }

    fn vote(
        &self,
        _route: Route,
        request: VoteRequest<TypeConfig>,
        _pre_vote: bool,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>>> {
        Box::pin(async move { Ok(VoteResponse::new(request.vote, None, true)) })
    }

    fn transfer_leader(
        &self,
        _route: Route,
        _request: TransferLeaderRequest<TypeConfig>,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>>> {
        Box::pin(async { nobody() })
    }

    fn park(
        &self,
        _node: NodeId,
        _groups: Vec<(Route, Footing)>,
        _limit: Duration,
    ) -> BoxFuture<'_, Option<BTreeSet<GroupId>>> {
        Box::pin(async { Some(BTreeSet::new()) })
    }

    fn send_snapshot(
        &self,
        _route: Route,
        _vote: RaftVote,
        source: SnapshotSource,
    ) -> BoxFuture<'_, Result<RaftVote, RPCError<TypeConfig>>> {
        Box::pin(async {
            let (installed, vote) = oneshot::channel();
            let _ = self.snapshots.send(Sending { source, installed }).await;
            match vote.await {
                Ok(vote) => Ok(vote),
                Err(_) => nobody(),
            }
        })
    }
}

/// So slow that a heartbeat within a test is one that a read has asked for.
pub const SLOW: RaftTiming = RaftTiming {
    heartbeat_interval_ms: 300_000,
    election_timeout_min_ms: 600_000,
    election_timeout_max_ms: 900_000,
    park_after_ms: 0,
};

/// Nodes 1 and 2.
pub fn followers() -> [ReplicaId; 2] {
    [replica(1, 1), replica(2, 1)]
}

/// A group of three that node 3 leads, with its range; the other two are the test's.
pub async fn leads_three(disks: &Disks) -> (Process, Arc<Group>, Voters) {
    leads_three_at(disks, SLOW).await
}

pub async fn leads_three_at(disks: &Disks, timing: RaftTiming) -> (Process, Arc<Group>, Voters) {
    let (transport, mut voters) = Scripted::new();
    let process = disks.start_among(Arc::new(transport), timing).await;
    let own = replica(3, 1);
    let group = process.replicas.make(GROUP, own).await.unwrap();
    let [first, second] = followers();
    group.initialize(vec![first, second, own]).await.unwrap();
    let begun = async {
        let configure = || Command::Configure { range: range_of(GROUP), epoch: 1 };
        loop {
            let elected = group.raft().wait(Some(EVENTUALLY));
            elected.state(ServerState::Leader, "the others vote for it").await.unwrap();
            match group.propose(configure(), Instant::now() + EVENTUALLY).await {
                Ok(outcome) => break assert_eq!(outcome, Outcome::Done),
                // Its lease has not begun, or was over before they were heard again.
                Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    voters.follow_until(begun).await;
    (process, group, voters)
}
