use super::*;
use crate::consensus::log_store::tests::{append, entry, start};
use crate::types::{Incarnation, NodeId};

const KIB: usize = 1024;
/// A multiple of the step in which sizes are noted.
const ENTRY_BYTES: usize = 64 * KIB;
const KEEP: u64 = 128 * KIB as u64;

const fn replica(node: u32, incarnation: u32) -> ReplicaId {
    ReplicaId { node: NodeId(node), incarnation: Incarnation(incarnation) }
}

const SLOW: ReplicaId = replica(2, 1);
const OTHER: ReplicaId = replica(3, 1);

async fn grown(log: &mut GroupLog, entries: std::ops::Range<u64>) {
    append(log, entries.map(|index| entry(1, index, ENTRY_BYTES))).await.await.unwrap();
}

#[tokio::test]
async fn a_replica_is_given_up_behind_four_times_what_is_kept_for_one_that_is_away() {
    let (mut log, _writer) = start();
    let needs = LogNeeds::new(log.clone());
    grown(&mut log, 0..100).await;
    assert!(!needs.is_given_up(SLOW, LogIndex(0)), "nobody has said how much is kept");
    needs.keep(u64::MAX);
    assert!(!needs.is_given_up(SLOW, LogIndex(0)));
    needs.keep(KEEP);
    needs.keep(u64::MAX); // A flush between two intervals.
    assert!(needs.is_given_up(SLOW, LogIndex(0)));
    assert!(needs.is_given_up(SLOW, LogIndex(90)));
    assert!(!needs.is_given_up(SLOW, LogIndex(92)));
    assert!(!needs.is_given_up(SLOW, LogIndex(99)));
}

/// G9: a group whose snapshot takes long has much log behind it. Whoever was sent another for that would be sent snapshots
/// for ever.
#[tokio::test]
async fn a_replica_that_catches_up_behind_a_snapshot_is_not_given_up() {
    let (mut log, _writer) = start();
    let needs = LogNeeds::new(log.clone());
    needs.keep(KEEP);
    grown(&mut log, 0..100).await;
    needs.installed(SLOW, LogIndex(50));
    assert!(!needs.is_given_up(SLOW, LogIndex(50)));
    assert!(needs.is_given_up(OTHER, LogIndex(50)), "that one got none");

    grown(&mut log, 100..140).await;
    assert!(
        !needs.is_given_up(SLOW, LogIndex(60)),
        "it is slower than the group grows, and comes along"
    );
    grown(&mut log, 140..200).await;
    assert!(needs.is_given_up(SLOW, LogIndex(60)), "it does not");

    needs.installed(SLOW, LogIndex(199));
    assert!(
        needs.is_given_up(SLOW, LogIndex(100)),
        "what the last snapshot left to catch up counts"
    );
}

#[tokio::test]
async fn what_is_known_of_a_replica_goes_with_it() {
    let (mut log, _writer) = start();
    let needs = LogNeeds::new(log.clone());
    needs.keep(KEEP);
    grown(&mut log, 0..100).await;
    needs.installed(SLOW, LogIndex(50));
    needs.installed(replica(2, 2), LogIndex(99));
    assert!(needs.is_given_up(SLOW, LogIndex(50)));
    assert_eq!(needs.kept_behind_snapshot().len(), 1);
}
