//! A node of one's own: replicas over databases in memory, which outlive it, and nobody to talk to.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{
    AppendEntriesRequest, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use quorate::consensus::network::{Appended, Lane, RaftTransport, Route};
use quorate::consensus::raft_types::{RaftVote, TypeConfig};
use quorate::consensus::{
    Admission, Group, NodeParts, RaftTiming, ReadError, RemoteReadIndex, Replicas, SnapshotSource,
};
use quorate::log::{Append, Command, NewMessage, Outcome};
use quorate::storage::records::Kind;
use quorate::storage::small_file::MemoryFile;
use quorate::storage::{
    DataDir, Database, Engine, LogWriter, MemoryDisk, Recovered, Storage, make_ready,
};
use quorate::types::{
    Clock, ConversationName, GroupId, HashRange, Incarnation, LogIndex, NodeId, ReplicaId,
    Timestamp,
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

pub const GROUP: GroupId = GroupId(1);
pub const OWN: ReplicaId = ReplicaId { node: NodeId(3), incarnation: Incarnation(1) };
/// How long anything may take that has to happen in the end, on a busy machine.
pub const EVENTUALLY: Duration = Duration::from_secs(60);

/// Nobody else is there.
struct Nobody;

fn nobody<T>() -> Result<T, RPCError<TypeConfig>> {
    Err(RPCError::Network(NetworkError::new(&std::io::Error::other("nobody is there"))))
}

impl RaftTransport for Nobody {
    fn append(
        &self,
        _route: Route,
        _lane: Lane,
        _input: BoxStream<'static, AppendEntriesRequest<TypeConfig>>,
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

impl Clock for Nobody {
    fn now(&self) -> Timestamp {
        Timestamp(5_000_000)
    }

    fn elapsed_us(&self) -> u64 {
        5_000_000
    }
}

/// What outlives the process of a node.
pub struct Disks {
    pub log: MemoryDisk,
    pub state: MemoryDisk,
    pub watermark: MemoryFile,
    folder: TempDir,
}

/// A running process.
pub struct Process {
    pub replicas: Arc<Replicas>,
}

impl Disks {
    pub fn new() -> Self {
        Disks {
            log: MemoryDisk::new(Database::Log),
            state: MemoryDisk::new(Database::State),
            watermark: MemoryFile::default(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// What opening finds.
    pub fn recovered(&self) -> Recovered {
        make_ready(&self.log.open(), &self.state.open(), self.watermark.clone()).unwrap()
    }

    pub async fn start(&self) -> Process {
        let (data_dir, identity) = DataDir::open(self.folder.path(), OWN.node).unwrap();
        let log: Arc<dyn Engine> = Arc::new(self.log.open());
        let state: Arc<dyn Engine> = Arc::new(self.state.open());
        let Recovered { watermark, groups } = self.recovered();
        let writer = LogWriter::start(log.clone(), watermark, Arc::new(()));
        let data_dir = Arc::new(data_dir);
        let storage = Storage { data_dir, identity, log, state, writer, groups };
        let nobody = Arc::new(Nobody);
        let parts = NodeParts {
            node: OWN.node,
            timing: RaftTiming {
                heartbeat_interval_ms: 50,
                election_timeout_min_ms: 200,
                election_timeout_max_ms: 400,
            },
            transport: nobody.clone(),
            remote: nobody.clone(),
            clock: nobody,
            admission: Arc::new(Admission::default()),
            observer: Arc::new(()),
        };
        let replicas = Replicas::open(parts, &storage).await.unwrap();
        Process { replicas }
    }

    /// Starts with a new group that this node alone leads.
    pub async fn start_leading(&self) -> Process {
        let process = self.start().await;
        let group = process.replicas.make(GROUP, OWN).await.unwrap();
        group.initialize(vec![OWN]).await.unwrap();
        process.wait_leading().await;
        let configure = Command::Configure { range: HashRange::ALL, epoch: 1 };
        group.propose(configure, soon()).await.unwrap();
        process
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

impl Process {
    pub fn group(&self) -> Arc<Group> {
        self.replicas.get(GROUP).expect("it serves")
    }

    pub async fn wait_leading(&self) {
        let leading = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(10));
            while !self.group().is_leader() {
                ticks.tick().await;
            }
        };
        let led = timeout(EVENTUALLY, leading).await;
        assert!(
            led.is_ok(),
            "it does not lead: {:?}",
            self.group().raft().metrics().borrow_watched()
        );
    }

    /// Appends one message, which is accepted.
    pub async fn append(&self, id: &str, payload_bytes: usize) {
        let outcome = self.group().propose(append(id, payload_bytes), soon()).await.unwrap();
        assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
    }
}

pub fn soon() -> Instant {
    Instant::now() + EVENTUALLY
}

pub fn conversation() -> ConversationName {
    ConversationName("acme/room".to_owned())
}

pub fn append(id: &str, payload_bytes: usize) -> Command {
    let payload = vec![7; payload_bytes];
    Command::Append(Append {
        conversation: conversation(),
        sender: "ann".to_owned(),
        messages: vec![NewMessage {
            client_msg_id: id.to_owned(),
            issued_at: Timestamp(1_000_000),
            kind: Kind::Content,
            content_type: "text/plain".to_owned(),
            headers: Vec::new(),
            payload_crc32c: crc32c::crc32c(&payload),
            payload: payload.into(),
            target_seq: None,
            traceparent: String::new(),
            salt: [7; 16],
        }],
        expected_tail: None,
        lane: None,
    })
}
