//! Damage that no engine sees, because only the record's checksum tells: it fails the database where it is found, so that
//! the node stops (G11).

use tokio::time::Instant;

use super::fixture::{EVENTUALLY, GROUP, append_to, leading, names, replica};
use crate::consensus::solitary::{Disks, Process};
use crate::storage::{StorageError, Table, keys};
use crate::types::{ConversationName, Seq};

/// Flips a bit of a row of the state.
fn flip(disks: &Disks, process: &Process, table: Table, key: &[u8]) {
    let mut value = process.storage.state.get(table, key).unwrap().expect("it is there").to_vec();
    value[10] ^= 4;
    disks.state.damage(table, key, Some(value));
    assert_eq!(process.storage.state.background_error(), None);
}

fn assert_damaged(process: &Process) {
    let error = process.storage.state.background_error();
    assert!(matches!(error, Some(StorageError::Damaged { .. })), "{error:?}");
}

fn room() -> ConversationName {
    names(GROUP, "room", 1).remove(0)
}

#[tokio::test]
async fn a_snapshot_carries_no_damaged_row() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = leading(&process, replica(3, 1)).await;
    group.propose(append_to(&room(), 3), Instant::now() + EVENTUALLY).await.unwrap();
    flip(&disks, &process, Table::Messages, &keys::message(room().id(), Seq(2)));
    let mut reader = group.snapshot_source().open().unwrap();
    let error = loop {
        match reader.next_part() {
            Ok(part) => assert!(!part.is_empty(), "the damage was overlooked"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
    assert_damaged(&process);
    disks.crash(process).await;
}

#[tokio::test]
async fn nothing_is_applied_on_a_damaged_row() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = leading(&process, replica(3, 1)).await;
    group.propose(append_to(&room(), 1), Instant::now() + EVENTUALLY).await.unwrap();
    flip(&disks, &process, Table::Conversations, &keys::conversation(room().id()));
    let refused = group.propose(append_to(&room(), 2), Instant::now() + EVENTUALLY).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_damaged(&process);
    disks.crash(process).await;
}
