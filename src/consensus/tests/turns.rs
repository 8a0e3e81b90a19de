//! Who applies takes turns with others: on the same threads run heartbeats and elections, of this group and of every other
//! one. A backlog applied in one go takes longer than a lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream;
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;

use super::fixture::{GROUP, append_to, log_id, names, replica};
use crate::consensus::SnapshotSource;
use crate::consensus::raft_types::{EncodedProposal, RaftEntry, to_raft_log_id};
use crate::consensus::state_machine::{Applied, GroupStateMachine};
use crate::consensus::tails::LiveMessages;
use crate::log::Proposal;
use crate::storage::records::GroupRow;
use crate::storage::{Database, MemoryDisk};
use crate::types::Timestamp;

/// Of so many appends, of `messages` each.
fn entry(index: u64, commands: usize, messages: usize) -> RaftEntry {
    let room = names(GROUP, "room", 1).remove(0);
    let commands = (0..commands).map(|_| append_to(&room, messages)).collect();
    let proposal = Proposal { stamped_at: Timestamp(2_000_000), commands };
    let payload = EntryPayload::Normal(EncodedProposal(proposal.encode()));
    RaftEntry { log_id: to_raft_log_id(&log_id(1, index)), payload }
}

/// How many turns others have while this is applied, and which indexes they see.
async fn turns_of_others(backlog: Vec<RaftEntry>) -> (usize, Vec<u64>) {
    let engine = Arc::new(MemoryDisk::new(Database::State).open());
    let row = GroupRow::blank(replica(1, 1));
    let applied = Arc::new(Applied::open(GROUP, engine, row, LiveMessages::default()));
    let mut machine = GroupStateMachine::new(SnapshotSource::new(GROUP, applied.clone()));
    let turns = Arc::new(AtomicUsize::new(0));
    let last = backlog.len() as u64;
    let others = tokio::spawn({
        let (turns, mut index) = (turns.clone(), applied.watch_index());
        async move {
            let mut seen = Vec::new();
            while seen.last() != Some(&last) {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                if index.has_changed().expect("it is there") {
                    seen.extend(index.borrow_and_update().map(|index| index.0));
                }
            }
            seen
        }
    });
    machine.apply(stream::iter(backlog.into_iter().map(|entry| Ok((entry, None))))).await.unwrap();
    let turns = turns.load(Ordering::Relaxed);
    (turns, others.await.unwrap())
}

#[tokio::test]
async fn others_have_their_turns_while_a_backlog_of_large_entries_is_applied() {
    let backlog = (1..=3).map(|index| entry(index, 512, 1)).collect();
    let (turns, seen) = turns_of_others(backlog).await;
    assert!(turns >= 3 * 512 / 256, "{turns} turns");
    assert_eq!(seen, [1, 2, 3], "and each write is short: entries that are large have one each");
}

#[tokio::test]
async fn others_have_their_turns_while_a_backlog_of_batches_is_applied() {
    let backlog = (1..=3).map(|index| entry(index, 2, 200)).collect();
    let (turns, _) = turns_of_others(backlog).await;
    assert!(turns >= 3, "{turns} turns");
}

#[tokio::test]
async fn others_have_their_turns_while_a_backlog_of_small_entries_is_applied() {
    let backlog = (1..=1_000).map(|index| entry(index, 1, 1)).collect();
    let (turns, _) = turns_of_others(backlog).await;
    assert!(turns >= 1_000 / 256, "{turns} turns");
}
