//! Damage that no engine sees, because only the record's checksum tells: it fails the database where it is found, so that
//! the node stops (G11).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fixture::{EVENTUALLY, GROUP, append_to, leading, names, replica};
use super::links::Three;
use crate::consensus::solitary::{Disks, Process};
use crate::storage::{StorageError, Table, keys};
use crate::types::{ConversationName, LogIndex, Seq};

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

/// What was synced last lies above the watermark, and nothing on the node's own disk shows that it is gone. Its leader saw it
/// acknowledged.
#[tokio::test(start_paused = true)]
async fn a_log_that_has_lost_less_than_the_watermark_shows_is_found_by_its_leader() {
    let mut three = Three::begin().await;
    let leader = three.leader().await;
    let shortened = three.others(leader)[0];
    // The watermark comes up to what is there now.
    sleep(Duration::from_secs(5)).await;
    for nth in 0..5 {
        three.append(leader, &format!("room-{nth}")).await;
    }
    let next = three.group(leader).log().next_index();
    let has_all = |three: &Three| three.group(shortened).log().next_index() == next;
    three.until("it has acknowledged all", has_all).await;
    // The leader hears of that, and says with the next that it sends how far the replica is.
    sleep(Duration::from_millis(200)).await;
    three.kill(shortened).await;
    for index in [next - 2, next - 1] {
        let key = keys::raft_log(GROUP, LogIndex(index));
        three.disks(shortened).log.damage(Table::RaftLog, &key, None);
    }
    three.start(shortened).await;
    assert_eq!(three.group(shortened).log().next_index(), next - 2, "a start does not see it");
    three.until("it is found", |three| three.log_is_damaged(shortened)).await;
    assert_eq!(three.group(shortened).log().next_index(), next - 2, "nothing was appended to it");
    three.append(leader, "goes-on").await;
    assert_eq!(three.leader().await, leader);
}
