//! Reads that fail for a reason which passes, such as too many open files. openraft stops a replica at the first, and
//! nothing starts it again while the node runs: so the node has to stop (G9), and its next start goes on.

use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use tokio::time::Instant;

use super::fixture::{EVENTUALLY, GROUP, append_to, leading, names, replica};
use crate::consensus::SnapshotData;
use crate::consensus::raft_types::{RaftSnapshotMeta, to_raft_log_id};
use crate::consensus::solitary::Disks;
use crate::consensus::state_machine::GroupStateMachine;
use crate::storage::{Engine, StorageError};

fn assert_failed(engine: &dyn Engine) {
    let error = engine.background_error();
    assert!(matches!(error, Some(StorageError::Failed { .. })), "{error:?}");
}

#[tokio::test]
async fn a_read_that_fails_while_an_entry_is_applied_fails_the_database() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = leading(&process, replica(3, 1)).await;
    let room = names(GROUP, "room", 1).remove(0);
    group.propose(append_to(&room, 1), Instant::now() + EVENTUALLY).await.unwrap();
    disks.state.set_unreadable(Some("too many open files"));
    let refused = group.propose(append_to(&room, 2), Instant::now() + EVENTUALLY).await;
    assert!(refused.is_err(), "{refused:?}");
    disks.state.set_unreadable(None);
    assert_failed(process.storage.state.as_ref());
    disks.crash(process).await;

    let process = disks.start().await;
    let group = process.replicas.get(GROUP).expect("it is started again");
    let elected = group.raft().wait(Some(EVENTUALLY));
    elected.state(openraft::ServerState::Leader, "it elects itself").await.unwrap();
    group.propose(append_to(&room, 2), Instant::now() + EVENTUALLY).await.unwrap();
    disks.crash(process).await;
}

#[tokio::test]
async fn a_read_that_fails_while_a_snapshot_is_installed_fails_the_database() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = leading(&process, replica(3, 1)).await;
    let source = Disks::default().start().await;
    let other = leading(&source, replica(3, 2)).await;
    let engine: Arc<dyn Engine> = process.storage.state.clone();
    let staged = other.snapshot_source().stage_into(GROUP, engine.clone()).unwrap();
    let last_log_id = staged.row().applied.as_ref().map(to_raft_log_id);
    let meta = RaftSnapshotMeta { last_log_id, ..RaftSnapshotMeta::default() };
    let mut machine = GroupStateMachine::new(group.snapshot_source().clone());
    disks.state.set_unreadable(Some("too many open files"));
    let staged = SnapshotData::Received(Box::new(staged));
    machine.install_snapshot(&meta, staged).await.unwrap_err();
    assert_failed(engine.as_ref());
}
