//! Nodes of one group that talk to each other, over links that a test cuts, on the time of the test's runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::errors::RPCError;
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::fixture::{EVENTUALLY, GROUP, append_to, names, range_of, replica};
use crate::consensus::flusher::flush_once;
use crate::consensus::network::{Appended, Appending, Lane, RaftTransport, Route};
use crate::consensus::parking::{self, Footing};
use crate::consensus::raft_types::{RaftVote, TypeConfig};
use crate::consensus::solitary::{Disks, Process, nobody};
use crate::consensus::{Group, RaftTiming, Refusal, Replicas, SnapshotSource};
use crate::log::{Command, Outcome};
use crate::storage::StorageError;
use crate::types::{GroupId, NodeId, ReplicaId, Term};

/// As the defaults are.
pub const TIMING: RaftTiming = RaftTiming {
    heartbeat_interval_ms: 100,
    election_timeout_min_ms: 500,
    election_timeout_max_ms: 1_000,
    park_after_ms: 2_000,
};

const NODES: [u32; 3] = [1, 2, 3];

/// Links between the nodes, and who stands at their ends.
#[derive(Default)]
pub struct Links {
    nodes: Mutex<BTreeMap<NodeId, Arc<Replicas>>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// Who hears nothing of leadership that is handed over.
    unaware: Mutex<BTreeSet<NodeId>>,
    /// Messages of Raft that were sent.
    sent: Mutex<u64>,
}

impl Links {
    fn ends(&self, from: NodeId, to: NodeId) -> Option<Arc<Replicas>> {
        let is_cut = self.cut.lock().unwrap().contains(&(from, to));
        let ends = self.nodes.lock().unwrap().get(&to).cloned();
        ends.filter(|_| !is_cut)
    }

    fn group(&self, route: Route) -> Option<Arc<Group>> {
        *self.sent.lock().unwrap() += 1;
        let there = self.ends(route.from.node, route.to.node)?.get(route.group)?;
        (there.replica() == route.to).then_some(there)
    }

    /// Whether an answer comes back.
    fn returns(&self, route: Route) -> bool {
        self.ends(route.to.node, route.from.node).is_some()
    }

    /// Cuts what one node sends to another, or mends it.
    pub fn cut(&self, from: u32, to: u32, is_cut: bool) {
        let mut cut = self.cut.lock().unwrap();
        let link = (NodeId(from), NodeId(to));
        if is_cut {
            cut.insert(link)
        } else {
            cut.remove(&link)
        };
    }

    /// Cuts a node off from the others in both directions, or mends it.
    pub fn cut_off(&self, node: u32, is_cut: bool) {
        for other in NODES.into_iter().filter(|other| *other != node) {
            self.cut(node, other, is_cut);
            self.cut(other, node, is_cut);
        }
    }

    /// From now on a node takes no leadership, but answers.
    pub fn keep_unaware(&self, node: u32) {
        self.unaware.lock().unwrap().insert(NodeId(node));
    }

    /// Messages of Raft that were sent until now.
    pub fn sent(&self) -> u64 {
        *self.sent.lock().unwrap()
    }
}

/// The links as one of the nodes has them.
struct End(NodeId, Arc<Links>);

impl RaftTransport for End {
    fn append(
        &self,
        route: Route,
        _lane: Lane,
        input: BoxStream<'static, Appending>,
        _idle: Duration,
    ) -> Appended {
        let links = self.1.clone();
        let answers = input.then(move |request| {
            let links = links.clone();
            async move {
                let Some(group) = links.group(route) else { return nobody() };
                let answers = group.stream_append(futures::stream::iter([request]));
                match Box::pin(answers).next().await {
                    Some(Ok(answer)) if links.returns(route) => Ok(answer),
                    _ => nobody(),
                }
            }
        });
        answers.boxed()
    }

    fn vote(
        &self,
        route: Route,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>>> {
        Box::pin(async move {
            let Some(group) = self.1.group(route) else { return nobody() };
            let answer =
                if pre_vote { group.pre_vote(request).await } else { group.vote(request).await };
            match answer {
                Ok(answer) if self.1.returns(route) => Ok(answer),
                _ => nobody(),
            }
        })
    }

    fn transfer_leader(
        &self,
        route: Route,
        request: TransferLeaderRequest<TypeConfig>,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>>> {
        Box::pin(async move {
            let is_unaware = self.1.unaware.lock().unwrap().contains(&route.to.node);
            let Some(group) = self.1.group(route).filter(|_| !is_unaware) else { return nobody() };
            group.take_transfer(request).await.or_else(|_| nobody())
        })
    }

    fn park(
        &self,
        node: NodeId,
        groups: Vec<(Route, Footing)>,
        _limit: Duration,
    ) -> BoxFuture<'_, Option<BTreeSet<GroupId>>> {
        Box::pin(async move {
            let there = self.1.ends(self.0, node)?;
            let refused = groups.into_iter().filter(|(route, on)| !there.told(*route, *on));
            let refused = refused.map(|(route, _)| route.group).collect();
            self.1.ends(node, self.0).map(|_| refused)
        })
    }

    fn send_snapshot(
        &self,
        _route: Route,
        _vote: RaftVote,
        _source: SnapshotSource,
    ) -> BoxFuture<'_, Result<RaftVote, RPCError<TypeConfig>>> {
        Box::pin(async { nobody() })
    }
}

/// A node, and what runs beside its replicas.
struct Node {
    disks: Disks,
    process: Option<(Process, JoinSet<()>)>,
}

/// Three nodes with one group.
pub struct Three {
    pub links: Arc<Links>,
    nodes: BTreeMap<u32, Node>,
}

impl Three {
    /// The group has its range, and a leader.
    pub async fn begin() -> Three {
        let nodes = NODES.map(|node| (node, Node { disks: Disks::default(), process: None }));
        let mut three = Three { links: Arc::default(), nodes: nodes.into() };
        for node in NODES {
            three.start(node).await;
            let made = three.replicas(node).make(GROUP, replica(node, 1)).await;
            made.unwrap();
        }
        let voters = NODES.map(|node| replica(node, 1)).to_vec();
        three.group(1).initialize(voters).await.unwrap();
        let leader = three.leader().await;
        three.serves(leader).await;
        let configure = Command::Configure { range: range_of(GROUP), epoch: 1 };
        let deadline = Instant::now() + EVENTUALLY;
        three.group(leader).propose(configure, deadline).await.unwrap();
        three
    }

    /// Waits until a new leader has been heard.
    pub async fn serves(&self, leader: u32) {
        self.group(leader).barrier(Instant::now() + EVENTUALLY).await.unwrap();
    }

    /// Appends a message on a node that leads; returns how long that took.
    pub async fn append(&self, node: u32, room: &str) -> Duration {
        let began = Instant::now();
        let append = append_to(&names(GROUP, room, 1)[0], 1);
        let outcome = self.group(node).propose(append, began + EVENTUALLY).await;
        assert!(matches!(outcome, Ok(Outcome::Appended(_))), "{outcome:?} {:?}", self.statuses());
        began.elapsed()
    }

    /// One flush on a node, and what it lets be purged; a group keeps this much of its log for others.
    pub async fn flush(&self, node: u32, log_keep_bytes: u64) {
        flush_once(self.replicas(node), log_keep_bytes).await.unwrap();
    }

    /// Starts a node on its disks.
    pub async fn start(&mut self, node: u32) {
        let end = Arc::new(End(NodeId(node), self.links.clone()));
        let one = self.nodes.get_mut(&node).unwrap();
        let process = one.disks.start_at(NodeId(node), end, TIMING).await;
        let (replicas, looking) = (process.replicas.clone(), process.replicas.clone());
        self.links.nodes.lock().unwrap().insert(NodeId(node), replicas.clone());
        let mut beside = JoinSet::new();
        beside.spawn(parking::run(replicas));
        beside.spawn(async move {
            loop {
                sleep(Duration::from_millis(20)).await;
                for group in looking.all() {
                    group.succeed(&BTreeMap::new()).await;
                }
            }
        });
        one.process = Some((process, beside));
    }

    /// A node dies, and its machine says nothing.
    pub async fn kill(&mut self, node: u32) {
        self.links.nodes.lock().unwrap().remove(&NodeId(node));
        let one = self.nodes.get_mut(&node).unwrap();
        let (process, beside) = one.process.take().unwrap();
        drop(beside);
        one.disks.crash(process).await;
    }

    /// The disks of a node.
    pub fn disks(&self, node: u32) -> &Disks {
        &self.nodes[&node].disks
    }

    /// Whether a node has found its log damaged.
    pub fn log_is_damaged(&self, node: u32) -> bool {
        let (process, _) = self.nodes[&node].process.as_ref().unwrap();
        let error = process.storage.log.background_error();
        matches!(error, Some(StorageError::Damaged { .. }))
    }

    fn replicas(&self, node: u32) -> &Arc<Replicas> {
        &self.nodes[&node].process.as_ref().unwrap().0.replicas
    }

    /// The replica of a node that is up.
    pub fn group(&self, node: u32) -> Arc<Group> {
        self.replicas(node).get(GROUP).unwrap()
    }

    /// All nodes that are up.
    pub fn up(&self) -> Vec<u32> {
        let up = self.nodes.iter().filter(|(_, node)| node.process.is_some());
        up.map(|(node, _)| *node).collect()
    }

    /// Waits until this holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Three) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < EVENTUALLY, "{what}: {:?}", self.statuses());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// How the replicas of the nodes that are up are.
    pub fn statuses(&self) -> Vec<String> {
        let status = |node: u32| {
            let status = self.group(node).status();
            let parked = if status.is_parked { "parked" } else { "awake" };
            format!("{node}: {parked} {} of {:?}", status.role, status.term)
        };
        self.up().into_iter().map(status).collect()
    }

    /// The node that leads in the newest term, once those that are up and not cut off agree.
    pub async fn leader(&self) -> u32 {
        self.until("a leader", |three| three.leader_now().is_some()).await;
        self.leader_now().unwrap()
    }

    fn leader_now(&self) -> Option<u32> {
        let leads = self.up().into_iter().filter(|node| self.group(*node).is_leader());
        leads.max_by_key(|node| self.term(*node))
    }

    pub fn term(&self, node: u32) -> Term {
        self.group(node).leader_and_term().1
    }

    /// Waits until all replicas that are up are parked.
    pub async fn parked(&self) {
        let is_parked = |node: &u32| self.group(*node).parking().is_parked();
        self.until("all are parked", |three| three.up().iter().all(is_parked)).await;
    }

    /// The other nodes that are up.
    pub fn others(&self, than: u32) -> Vec<u32> {
        self.up().into_iter().filter(|node| *node != than).collect()
    }
}

/// A node refuses connections from now on.
pub fn refuses(node: u32) -> BTreeMap<NodeId, Refusal> {
    let now = Instant::now();
    BTreeMap::from([(NodeId(node), Refusal { since: now, last: now })])
}

/// The replica of a node.
pub fn of(node: u32) -> ReplicaId {
    replica(node, 1)
}
