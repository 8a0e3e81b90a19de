//! A cluster that misbehaves on request: real gRPC servers on loopback over one log in memory, each behind a proxy
//! whose connections can be cut.

#![allow(dead_code, reason = "each test file uses a part of it")]

mod log;
mod proxy;
mod server;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quorate_client::proto;
use quorate_client::{Client, ClientOptions, Routing};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

pub use self::log::Log;
pub use self::proxy::Proxy;

/// Between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// What a node does with the next append, session request or delivery instead of the right thing.
#[derive(Clone, Debug)]
pub enum Mischief {
    /// The right thing after all.
    Nothing,
    /// Commits, and cuts every connection before it answers.
    CommitThenCut,
    /// Commits, and never answers.
    CommitThenStall,
    /// Cuts every connection.
    Cut,
    /// Fails like this.
    Fail(proto::Failure),
    /// Fails like this behind the first part of what was read.
    BreakOff(proto::Failure),
    /// Never answers.
    Stall,
    /// Delivers the messages before once more.
    Repeat,
    /// Leaves a message out.
    Skip,
    /// Flips a bit of a payload.
    Damage,
}

/// One node.
pub struct Node {
    pub id: u64,
    pub proxy: Proxy,
    pub mischief: Mutex<VecDeque<Mischief>>,
    /// What it does when nothing is planned.
    habit: Mutex<Mischief>,
    /// Every append as it arrived, in order, over both RPCs.
    pub arrived: Mutex<Vec<proto::AppendRequest>>,
    /// Every change of a subscription as it arrived.
    pub changes: Mutex<Vec<proto::subscribe_request::Change>>,
    log: Arc<Log>,
    /// As this node knows it.
    topology: watch::Sender<proto::Topology>,
}

impl Node {
    pub fn address(&self) -> String {
        self.proxy.address().to_string()
    }

    /// Plans what comes next, in order.
    pub fn plan(&self, mischief: impl IntoIterator<Item = Mischief>) {
        self.mischief.lock().unwrap().extend(mischief);
    }

    fn next_mischief(&self) -> Mischief {
        let planned = self.mischief.lock().unwrap().pop_front();
        planned.unwrap_or_else(|| self.habit.lock().unwrap().clone())
    }

    /// Plans what it does from now on whenever nothing else is planned.
    pub fn always(&self, mischief: Mischief) {
        *self.habit.lock().unwrap() = mischief;
    }

    pub fn arrived(&self) -> MutexGuard<'_, Vec<proto::AppendRequest>> {
        self.arrived.lock().unwrap()
    }

    /// Waits until this many appends have arrived.
    pub async fn wait_arrived(&self, count: usize) {
        while self.arrived().len() < count {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn leads(&self) -> bool {
        self.topology.borrow().groups[0].leader_node_id == self.id
    }
}

/// Nodes 1 to n over one log, with one group that holds everything.
pub struct Cluster {
    pub nodes: Vec<Arc<Node>>,
    pub log: Arc<Log>,
    term: AtomicU64,
}

impl Cluster {
    pub async fn start(count: u64) -> Cluster {
        let log = Arc::new(Log::default());
        let mut nodes = Vec::new();
        for id in 1..=count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let proxy = Proxy::start(listener.local_addr().unwrap()).await;
            let node = Arc::new(Node {
                id,
                proxy,
                mischief: Mutex::default(),
                habit: Mutex::new(Mischief::Nothing),
                arrived: Mutex::default(),
                changes: Mutex::default(),
                log: log.clone(),
                topology: watch::Sender::new(proto::Topology::default()),
            });
            let (messages, cluster) = server::services(node.clone());
            let serving = Server::builder()
                .add_service(messages)
                .add_service(cluster)
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(serving);
            nodes.push(node);
        }
        let cluster = Cluster { nodes, log, term: AtomicU64::new(0) };
        cluster.elect(1);
        cluster
    }

    /// Makes the nodes belong to no cluster, until one is elected.
    pub fn dissolve(&self) {
        self.nodes.iter().for_each(|node| drop(node.topology.send_replace(Default::default())));
    }

    /// Makes a node the leader and tells whoever watches the topology.
    pub fn elect(&self, leader_node_id: u64) {
        self.elect_unheard(leader_node_id, None);
    }

    /// The same, and this node does not hear of it.
    pub fn elect_unheard(&self, leader_node_id: u64, deaf: impl Into<Option<u64>>) {
        let (topology, deaf) = (self.topology(leader_node_id), deaf.into());
        for node in self.nodes.iter().filter(|node| Some(node.id) != deaf) {
            node.topology.send_replace(topology.clone());
        }
    }

    /// Who leads is no part of what has a version, as in the real one.
    fn topology(&self, leader_node_id: u64) -> proto::Topology {
        let replicas = self.nodes.iter().map(|n| proto::Replica { node_id: n.id, incarnation: 1 });
        let nodes = self.nodes.iter().map(|node| proto::Node {
            node_id: node.id,
            client_address: node.address(),
            ..proto::Node::default()
        });
        let group = proto::Group {
            group_id: 1,
            leader_node_id,
            leader_term: self.term.fetch_add(1, Ordering::Relaxed) + 1,
            replicas: replicas.collect(),
            active: true,
            ..proto::Group::default()
        };
        proto::Topology {
            version: 1,
            nodes: nodes.collect(),
            groups: vec![group],
            ..proto::Topology::default()
        }
    }

    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[usize::try_from(id).unwrap() - 1]
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address()).collect()
    }

    /// Options that fail fast.
    pub fn options(&self) -> ClientOptions {
        ClientOptions {
            attempt_timeout: Duration::from_millis(500),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(50),
            ..ClientOptions::new(self.endpoints())
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.options()).await.unwrap()
    }

    pub async fn proxied_client(&self) -> Client {
        Client::connect(self.options().routing(Routing::Proxy)).await.unwrap()
    }
}

/// An address on which nobody listens.
pub async fn dead_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// "Not here", with the leader's id if it is known.
pub fn not_leader(leader: Option<u64>) -> proto::Failure {
    let metadata = leader.map(|leader| ("leader".to_owned(), leader.to_string()));
    proto::Failure {
        code: tonic::Code::Unavailable.into(),
        reason: if metadata.is_some() { "NOT_LEADER" } else { "NO_LEADER" }.to_owned(),
        retryable: true,
        metadata: metadata.into_iter().collect(),
        ..proto::Failure::default()
    }
}

/// A failure that no retry mends.
pub fn refused(reason: &str) -> proto::Failure {
    proto::Failure {
        code: tonic::Code::InvalidArgument.into(),
        reason: reason.to_owned(),
        ..proto::Failure::default()
    }
}

/// A failure that passes, for a node that is asked again after the delay.
pub fn passing(code: tonic::Code, reason: &str, retry_delay_ms: u64) -> proto::Failure {
    proto::Failure {
        code: code.into(),
        reason: reason.to_owned(),
        retryable: true,
        retry_delay_ms,
        ..proto::Failure::default()
    }
}
