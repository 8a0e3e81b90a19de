//! For tests: a node of one's own, over databases in memory that outlive it, and nobody to talk to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::ServerState;
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse};
use tokio::time::Instant;

use super::network::{Appended, Appending, Lane, RaftTransport, Route};
use super::parking::Footing;
use super::raft_types::{RaftVote, TypeConfig};
use super::{
    Admission, ClockReading, Group, NodeParts, RaftTiming, ReadError, RemoteReadIndex, Replicas,
    SnapshotSource,
};
use crate::log::Command;
use crate::storage::small_file::MemoryFile;
use crate::storage::{
    DataDir, Database, Engine, MemoryDir, MemoryDisk, Opened, Recovered, Storage, make_ready,
};
use crate::types::{Clock, GroupId, HashRange, LogIndex, NodeId, ReplicaId, Timestamp};

/// Its number.
pub const NODE: NodeId = NodeId(3);
/// How long anything may take that has to happen in the end, on a busy machine.
pub const EVENTUALLY: Duration = Duration::from_secs(60);

/// Nobody else is there.
struct Nobody;

/// What a call to somebody who is not there comes to.
pub(super) fn nobody<T>() -> Result<T, RPCError<TypeConfig>> {
    Err(RPCError::Network(NetworkError::new(&std::io::Error::other("nobody is there"))))
}

impl RaftTransport for Nobody {
    fn append(
        &self,
        _route: Route,
        _lane: Lane,
        _input: BoxStream<'static, Appending>,
        _idle: Duration,
    ) -> Appended {
        futures::stream::iter([nobody()]).boxed()
    }

    fn vote(
        &self,
        _route: Route,
        _request: VoteRequest<TypeConfig>,
        _pre_vote: bool,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>>> {
        Box::pin(async { nobody() })
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
        Box::pin(async { None })
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

impl RemoteReadIndex for Nobody {
    fn read_index(
        &self,
        _leader: NodeId,
        _group: GroupId,
    ) -> BoxFuture<'_, Result<LogIndex, ReadError>> {
        Box::pin(async { Err(ReadError::Expired) })
    }
}

/// What its clocks show, always.
pub const NOW: ClockReading =
    ClockReading { wall: Timestamp(3 * 3600 * 1_000_000), elapsed_us: 5_000_000 };

impl Clock for Nobody {
    fn now(&self) -> Timestamp {
        NOW.wall
    }

    fn elapsed_us(&self) -> u64 {
        NOW.elapsed_us
    }
}

/// What outlives the process of a node.
pub struct Disks {
    /// The log database.
    pub log: MemoryDisk,
    /// The state database.
    pub state: MemoryDisk,
    /// The log's watermark.
    pub watermark: MemoryFile,
    /// What is beside them.
    pub dir: MemoryDir,
}

/// A running process.
pub struct Process {
    /// Its storage, as it was found.
    pub storage: Storage,
    /// Its replicas.
    pub replicas: Arc<Replicas>,
}

impl Default for Disks {
    fn default() -> Self {
        Disks {
            log: MemoryDisk::new(Database::Log),
            state: MemoryDisk::new(Database::State),
            watermark: MemoryFile::default(),
            dir: MemoryDir::default(),
        }
    }
}

impl Process {
    /// Makes a group that leads itself, with this range.
    ///
    /// # Panics
    /// It does not come to lead in time.
    pub async fn leading(&self, id: GroupId, own: ReplicaId, range: HashRange) -> Arc<Group> {
        let group = self.replicas.make(id, own).await.expect("the replica is made");
        group.initialize(vec![own]).await.expect("nobody was asked before");
        let elected = group.raft().wait(Some(EVENTUALLY));
        let elected = elected.state(ServerState::Leader, "a group of one elects itself").await;
        elected.expect("nobody else stands");
        let configure = Command::Configure { range, epoch: 1 };
        let configured = group.propose(configure, Instant::now() + EVENTUALLY).await;
        configured.expect("it leads");
        group
    }
}

impl Disks {
    /// What a start would find.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn recovered(&self) -> Recovered {
        make_ready(&self.log.open(), &self.state.open(), self.watermark.clone())
            .expect("the disks are read")
    }

    /// Starts a process on them.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(&self) -> Process {
        self.start_over(Arc::new(self.state.open())).await
    }

    /// Starts a process on them, with this database over the state's disk.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_over(&self, state: Arc<dyn Engine>) -> Process {
        let timing = RaftTiming {
            heartbeat_interval_ms: 50,
            election_timeout_min_ms: 200,
            election_timeout_max_ms: 400,
            park_after_ms: 0,
        };
        self.start_on(NODE, state, Arc::new(Nobody), timing).await
    }

    /// Starts a process on them that has somebody to talk to.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_among(
        &self,
        transport: Arc<dyn RaftTransport>,
        timing: RaftTiming,
    ) -> Process {
        self.start_at(NODE, transport, timing).await
    }

    /// Starts a node on them that has this number.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_at(
        &self,
        node: NodeId,
        transport: Arc<dyn RaftTransport>,
        timing: RaftTiming,
    ) -> Process {
        self.start_on(node, Arc::new(self.state.open()), transport, timing).await
    }

    async fn start_on(
        &self,
        node: NodeId,
        state: Arc<dyn Engine>,
        transport: Arc<dyn RaftTransport>,
        timing: RaftTiming,
    ) -> Process {
        let dir = DataDir::open_in_memory(&self.dir, node).expect("the folder opens");
        let log = Arc::new(self.log.open());
        let opened = Opened::make_ready(dir, log, state, self.watermark.clone());
        let storage = opened.expect("the disks are read").start(Arc::new(()));
        let nobody = Arc::new(Nobody);
        let parts = NodeParts {
            node,
            timing,
            transport,
            remote: nobody.clone(),
            clock: nobody,
            admission: Arc::new(Admission::default()),
            observer: Arc::new(()),
        };
        let replicas = Replicas::open(parts, &storage).await.expect("the replicas open");
        Process { storage, replicas }
    }

    /// A power cut: both databases at once.
    pub async fn crash(&self, process: Process) {
        self.log.crash();
        self.state.crash();
        for group in process.replicas.all() {
            group.stop().await;
        }
    }
}
