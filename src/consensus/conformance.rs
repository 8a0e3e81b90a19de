//! openraft's own storage suite, through the production log writer, over each engine.

use std::sync::Arc;

use openraft::StorageError as RaftStorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::SnapshotSource;
use super::log_store::{GroupLog, NodeLog};
use super::raft_types::TypeConfig;
use super::state_machine::{Applied, GroupStateMachine};
use super::tails::LiveMessages;
use crate::storage::records::GroupRow;
use crate::storage::small_file::MemoryFile;
use crate::storage::watermark::WatermarkFile;
use crate::storage::{Database, Engine, LogWriter, MemoryDisk};
use crate::types::{GroupId, Incarnation, NodeId, ReplicaId};

const GROUP: GroupId = GroupId(1);

/// The suite numbers its nodes.
impl From<u64> for ReplicaId {
    fn from(number: u64) -> Self {
        ReplicaId { node: NodeId(number as u32), incarnation: Incarnation(0) }
    }
}

type Built<G> = Result<(G, GroupLog, GroupStateMachine), RaftStorageError<TypeConfig>>;

fn replica(
    log: Arc<dyn Engine>,
    state: Arc<dyn Engine>,
    writer: LogWriter,
) -> (GroupLog, GroupStateMachine) {
    let log = GroupLog::new(GROUP, NodeLog::new(log, writer), None);
    let applied =
        Applied::open(GROUP, state, GroupRow::blank(ReplicaId::from(1)), LiveMessages::default());
    (log, GroupStateMachine::new(SnapshotSource::new(GROUP, Arc::new(applied))))
}

struct InMemory;

impl StoreBuilder<TypeConfig, GroupLog, GroupStateMachine> for InMemory {
    async fn build(&self) -> Built<()> {
        let log: Arc<dyn Engine> = Arc::new(MemoryDisk::new(Database::Log).open());
        let state = Arc::new(MemoryDisk::new(Database::State).open());
        let watermark = WatermarkFile::create(Box::new(MemoryFile::default()));
        let watermark = watermark.expect("a file in memory can be written");
        let writer = LogWriter::start(log.clone(), watermark, Arc::new(()));
        let (log, machine) = replica(log, state, writer);
        Ok(((), log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_storage_suite_passes_in_memory() {
    Suite::test_all(InMemory).await.expect("the suite passes");
}

#[cfg(feature = "rocksdb")]
mod rocks {
    use tempfile::TempDir;

    use super::*;
    use crate::storage::{Storage, Tuning};

    struct OnDisk;

    impl StoreBuilder<TypeConfig, GroupLog, GroupStateMachine, (Storage, TempDir)> for OnDisk {
        async fn build(&self) -> Built<(Storage, TempDir)> {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let opened = Storage::open(folder.path(), NodeId(1), Tuning::small(), Arc::new(()));
            let storage = opened.await.expect("a new folder opens");
            let (log, machine) =
                replica(storage.log.clone(), storage.state.clone(), storage.writer.clone());
            Ok(((storage, folder), log, machine))
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn openrafts_storage_suite_passes_on_rocksdb() {
        Suite::test_all(OnDisk).await.expect("the suite passes");
    }
}
