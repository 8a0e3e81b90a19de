//! openraft's own storage suite, run over RocksDB and the production log writer.

use std::sync::Arc;

use openraft::StorageError as RaftStorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::log_store::GroupLog;
use super::raft_types::TypeConfig;
use super::state_machine::{Applied, GroupStateMachine};
use crate::storage::records::GroupRow;
use crate::storage::{Storage, Tuning};
use crate::types::{GroupId, Incarnation, NodeId, ReplicaId};

/// The suite numbers its nodes.
impl From<u64> for ReplicaId {
    fn from(number: u64) -> Self {
        ReplicaId { node: NodeId(number as u32), incarnation: Incarnation(0) }
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, GroupLog, GroupStateMachine, (Storage, TempDir)> for Builder {
    async fn build(
        &self,
    ) -> Result<((Storage, TempDir), GroupLog, GroupStateMachine), RaftStorageError<TypeConfig>>
    {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let opened = Storage::open(folder.path(), NodeId(1), Tuning::small(), Arc::new(())).await;
        let storage = opened.expect("a new folder opens");
        let group = GroupId(1);
        let log = GroupLog::new(group, storage.log.clone(), storage.writer.clone(), None);
        let row = GroupRow::blank(ReplicaId::from(1));
        let applied = Applied::open(group, storage.state.clone(), row);
        Ok(((storage, folder), log, GroupStateMachine::new(Arc::new(applied))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_storage_suite_passes() {
    Suite::test_all(Builder).await.expect("the suite passes");
}
