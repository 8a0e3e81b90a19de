//! A replica that is made anew while the process dies (G1): an older incarnation's state without its log must never
//! start, and what is made in the end is blank.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{
    AppendEntriesRequest, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::fixture::{GROUP, NEIGHBOUR, Row, assert_sound, fill, log_id, names, replica, rows};
use crate::consensus::network::{Appended, Lane, RaftTransport, Route};
use crate::consensus::raft_types::{RaftVote, TypeConfig};
use crate::consensus::{
    Admission, NodeParts, RaftTiming, ReadError, RemoteReadIndex, Replicas, SnapshotSource,
};
use crate::storage::records::{EntryPayload, EntryRecord, GroupRow, Record, VoteRecord};
use crate::storage::small_file::MemoryFile;
use crate::storage::watermark::WatermarkFile;
use crate::storage::{
    Batch, DataDir, Database, Done, Durability, Engine, GroupLogState, GroupRecovery, LogWrite,
    LogWriter, MemoryDisk, Recovered, Storage, Table, keys, make_ready,
};
use crate::types::{Clock, GroupId, LogIndex, NodeId, ReplicaId, Term, Timestamp};

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
struct Disks {
    log: MemoryDisk,
    state: MemoryDisk,
    watermark: MemoryFile,
    folder: TempDir,
}

/// A running process.
struct Process {
    storage: Storage,
    replicas: Arc<Replicas>,
}

impl Disks {
    fn new() -> Self {
        Disks {
            log: MemoryDisk::new(Database::Log),
            state: MemoryDisk::new(Database::State),
            watermark: MemoryFile::default(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    async fn start(&self) -> Process {
        let (data_dir, identity) = DataDir::open(self.folder.path(), NodeId(3)).unwrap();
        let log: Arc<dyn Engine> = Arc::new(self.log.open());
        let state: Arc<dyn Engine> = Arc::new(self.state.open());
        let ready = make_ready(log.as_ref(), state.as_ref(), self.watermark.clone());
        let Recovered { watermark, groups } = ready.unwrap();
        let writer = LogWriter::start(log.clone(), watermark, Arc::new(()));
        let data_dir = Arc::new(data_dir);
        let storage = Storage { data_dir, identity, log, state, writer, groups };
        let nobody = Arc::new(Nobody);
        let parts = NodeParts {
            node: NodeId(3),
            timing: RaftTiming {
                heartbeat_interval_ms: 100,
                election_timeout_min_ms: 500,
                election_timeout_max_ms: 1_000,
            },
            transport: nobody.clone(),
            remote: nobody.clone(),
            clock: nobody,
            admission: Arc::new(Admission::default()),
            observer: Arc::new(()),
        };
        let replicas = Replicas::open(parts, &storage).await.unwrap();
        Process { storage, replicas }
    }

    /// A power cut: both databases at once.
    async fn crash(&self, process: Process) {
        self.log.crash();
        self.state.crash();
        for group in process.replicas.all() {
            group.stop().await;
        }
    }
}

impl Process {
    fn log(&self) -> GroupLogState {
        match self.storage.groups.get(&GROUP) {
            Some(GroupRecovery::Healthy(state)) => *state,
            None => GroupLogState::default(),
            Some(GroupRecovery::Damaged { reason }) => panic!("damaged: {reason}"),
        }
    }
}

async fn write(writer: &LogWriter, write: impl FnOnce(Done) -> LogWrite) {
    let (report, reported) = oneshot::channel();
    let done: Done = Box::new(move |result| drop(report.send(result)));
    writer.submit(write(done)).await;
    reported.await.unwrap().unwrap();
}

fn old() -> ReplicaId {
    replica(3, 1)
}

fn vote() -> VoteRecord {
    VoteRecord { term: Term(2), candidate: old(), committed: true }
}

/// An old incarnation that voted and took ten entries, and a neighbour. Applied or not: one that only voted has
/// nothing in its state that could tell that its log is gone.
async fn with_an_old_replica(has_applied: bool) -> Disks {
    let disks = Disks::new();
    let state = disks.state.open();
    fill(&state, NEIGHBOUR, old(), &names(NEIGHBOUR, "both", 2), 2, log_id(1, 4));
    if has_applied {
        fill(&state, GROUP, old(), &names(GROUP, "old", 3), 2, log_id(2, 9));
    } else {
        let key = keys::group(GROUP);
        let mut batch = Batch::default();
        batch.put(Table::Groups, key.clone(), GroupRow::blank(old()).encode(&key));
        state.write(batch, Durability::Flushed).unwrap();
        state.flush().unwrap();
    }
    let watermark = WatermarkFile::create(Box::new(disks.watermark.clone())).unwrap();
    let writer = LogWriter::start(Arc::new(disks.log.open()), watermark, Arc::new(()));
    write(&writer, |done| LogWrite::SaveVote { group: GROUP, vote: vote(), done }).await;
    write(&writer, |done| {
        let encode = |index| {
            let record = EntryRecord { log_id: log_id(2, index), payload: EntryPayload::Blank };
            (LogIndex(index), record.encode(&keys::raft_log(GROUP, LogIndex(index))))
        };
        let entries = (0..10).map(encode).collect();
        LogWrite::Append { group: GROUP, entries, last: log_id(2, 9), done }
    })
    .await;
    writer.close().await;
    disks
}

/// What a blank replica has, and nobody else's rows.
fn blank_rows() -> Vec<Row> {
    let state = MemoryDisk::new(Database::State).open();
    fill(&state, NEIGHBOUR, old(), &names(NEIGHBOUR, "both", 2), 2, log_id(1, 4));
    let key = keys::group(GROUP);
    let mut batch = Batch::default();
    batch.put(Table::Groups, key.clone(), GroupRow::blank(replica(3, 2)).encode(&key));
    state.write(batch, Durability::Flushed).unwrap();
    rows(&state)
}

/// Whatever was cut off: either the old replica with all that it had, or nothing that serves, or the new one, blank.
fn check_after_crash(process: &Process, before: &[Row]) {
    let Some(group) = process.replicas.get(GROUP) else { return };
    let state = process.storage.state.as_ref();
    if group.replica() == old() {
        let log = process.log();
        assert_eq!(log.vote, Some(vote()), "the old incarnation has forgotten its vote");
        assert_eq!(log.last, Some(log_id(2, 9)), "the old incarnation has forgotten entries");
        assert_eq!(rows(state), before);
    } else {
        assert_eq!(process.log(), GroupLogState::default());
        assert_eq!(rows(state), blank_rows());
    }
}

async fn dies_at_each_step(has_applied: bool, disk_of: impl Fn(&Disks) -> &MemoryDisk) {
    for steps in 0.. {
        let disks = with_an_old_replica(has_applied).await;
        let before = rows(&disks.state.open());
        let process = disks.start().await;
        assert_eq!(process.replicas.get(GROUP).unwrap().replica(), old());
        disk_of(&disks).crash_after(steps);
        let finished = process.replicas.make(GROUP, replica(3, 2)).await.is_ok();
        disks.crash(process).await;

        let process = disks.start().await;
        check_after_crash(&process, &before);
        let made = process.replicas.make(GROUP, replica(3, 2)).await.unwrap();
        assert_eq!(made.replica(), replica(3, 2));
        assert_eq!(rows(process.storage.state.as_ref()), blank_rows());
        assert_sound(process.storage.state.as_ref());
        disks.crash(process).await;

        let process = disks.start().await;
        assert_eq!(process.log(), GroupLogState::default(), "the old log is gone for good");
        assert_eq!(rows(process.storage.state.as_ref()), blank_rows());
        disks.crash(process).await;
        if finished {
            assert!(steps > 0, "nothing died");
            break;
        }
        assert!(steps < 50, "making never ends");
    }
}

#[tokio::test]
async fn a_replica_made_anew_while_its_state_dies_is_blank_in_the_end() {
    dies_at_each_step(true, |disks| &disks.state).await;
    dies_at_each_step(false, |disks| &disks.state).await;
}

#[tokio::test]
async fn a_replica_made_anew_while_its_log_dies_is_blank_in_the_end() {
    dies_at_each_step(true, |disks| &disks.log).await;
    dies_at_each_step(false, |disks| &disks.log).await;
}
