use super::*;
use crate::consensus::raft_types::EncodedProposal;
use crate::storage::small_file::MemoryFile;
use crate::storage::watermark::WatermarkFile;
use crate::storage::{Database, MemoryDisk, Table, keys};
use crate::types::{Incarnation, NodeId, ReplicaId};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::type_config::TypeConfigExt;

fn log_id(term: u64, index: u64) -> RaftLogId {
    let node_id = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
    RaftLogId { leader_id: LeaderId { term, node_id }, index }
}

fn entry(term: u64, index: u64, bytes: usize) -> RaftEntry {
    let payload = openraft::EntryPayload::Normal(EncodedProposal(Bytes::from(vec![7; bytes])));
    RaftEntry { log_id: log_id(term, index), payload }
}

/// The writer is a task on the test's own thread: it runs only while the test waits.
fn start() -> (GroupLog, LogWriter) {
    let engine: Arc<dyn Engine> = Arc::new(MemoryDisk::new(Database::Log).open());
    let watermark = WatermarkFile::create(Box::new(MemoryFile::default())).unwrap();
    let writer = LogWriter::start(engine.clone(), watermark, Arc::new(()));
    (GroupLog::new(GroupId(1), NodeLog::new(engine, writer.clone()), None), writer)
}

/// Appends without waiting for the disk; what is returned tells when it is there.
async fn append(
    log: &mut GroupLog,
    entries: impl IntoIterator<Item = RaftEntry, IntoIter: Send> + Send,
) -> BoxFuture<'static, io::Result<()>> {
    let (sender, flushed) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await.unwrap();
    Box::pin(async move { flushed.await.expect("every append is reported") })
}

async fn indexes(log: &mut GroupLog) -> Vec<(u64, u64)> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect()
}

/// G12: what applying reads is in memory a part at a time, however much has piled up.
#[tokio::test]
async fn applying_reads_part_by_part_and_all_of_it() {
    let (mut log, _writer) = start();
    let bytes = READ_BYTES_MAX / 2;
    for index in 0..9 {
        append(&mut log, [entry(1, index, bytes)]).await.await.unwrap();
    }
    let parts: Vec<_> = log.parts(1..8).map_ok(|part| part.len()).try_collect().await.unwrap();
    assert!(parts.len() >= 3, "{parts:?}");
    let entries = log.entries_stream(1..8).await;
    let entries: Vec<_> = entries.map_ok(|entry| entry.log_id.index).try_collect().await.unwrap();
    assert_eq!(entries, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(log.try_get_log_entries(1..8).await.unwrap().len(), 7);
}

/// The first append is reported while the truncation that follows it is on its way, and some of its indexes are free
/// again by then. What is appended there next must not count as synced before it is.
#[tokio::test]
async fn a_late_report_does_not_vouch_for_entries_that_took_the_place() {
    let (mut log, _writer) = start();
    let first = append(&mut log, (0..10).map(|index| entry(1, index, 10))).await;
    log.truncate_after(Some(log_id(1, 4))).await.unwrap();
    first.await.unwrap();
    assert_eq!(log.state().tail.unsynced_from, 5);

    let second = append(&mut log, (5..8).map(|index| entry(2, index, 10))).await;
    assert_eq!(log.state().tail.unsynced_from, 5, "nothing has been synced yet");
    let replaced: Vec<_> =
        (0..5).map(|index| (1, index)).chain((5..8).map(|index| (2, index))).collect();
    assert_eq!(indexes(&mut log).await, replaced);
    second.await.unwrap();
    assert_eq!(log.state().tail.unsynced_from, 8);
}

#[tokio::test]
async fn entries_stay_in_memory_until_they_are_synced() {
    let (mut log, _writer) = start();
    let bytes = TAILS_BYTES_MAX / 4;
    let mut flushed = None;
    for index in 0..8 {
        flushed = Some(append(&mut log, [entry(1, index, bytes)]).await);
    }
    assert_eq!(log.state().tail.entries.len(), 8, "none is on disk yet");
    flushed.unwrap().await.unwrap();
    assert!(log.state().tail.bytes <= TAILS_BYTES_MAX);
    assert!(log.state().tail.entries.len() < 8);
    assert_eq!(indexes(&mut log).await, (0..8).map(|index| (1, index)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_vote_is_saved_behind_the_entries_before_it() {
    let (mut log, _writer) = start();
    let mut flushed = append(&mut log, [entry(1, 0, 10)]).await;
    assert!((&mut flushed).now_or_never().is_none());
    let node_id = ReplicaId { node: NodeId(2), incarnation: Incarnation(1) };
    let vote = RaftVote { leader_id: LeaderId { term: 2, node_id }, committed: false };
    log.save_vote(&vote).await.unwrap();
    flushed.now_or_never().expect("reported before").unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
}

/// A deposed leader's entry has a higher term than the snapshot that takes its place.
#[tokio::test]
async fn a_snapshot_ends_the_log_whatever_the_terms_in_it() {
    let (mut log, _writer) = start();
    append(&mut log, (0..81).map(|index| entry(7, index, 10))).await.await.unwrap();
    log.purge(log_id(5, 100)).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(5, 100)));
    assert_eq!(state.last_log_id, Some(log_id(5, 100)));
    append(&mut log, [entry(8, 101, 10)]).await.await.unwrap();
    assert_eq!(indexes(&mut log).await, [(8, 101)]);
    log.truncate_after(Some(log_id(5, 100))).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(5, 100)));
    assert!(indexes(&mut log).await.is_empty());
}

#[tokio::test]
async fn a_closed_writer_is_told_to_those_who_append() {
    let (mut log, writer) = start();
    let before = append(&mut log, [entry(1, 0, 10)]).await;
    writer.close().await;
    before.await.unwrap();
    assert!(append(&mut log, [entry(1, 1, 10)]).await.await.is_err());
    assert!(log.truncate_after(None).await.is_err());
}

/// Three entries, and the disk that they are on.
async fn on_a_disk() -> (GroupLog, MemoryDisk) {
    let disk = MemoryDisk::new(Database::Log);
    let engine: Arc<dyn Engine> = Arc::new(disk.open());
    let watermark = WatermarkFile::create(Box::new(MemoryFile::default())).unwrap();
    let writer = LogWriter::start(engine.clone(), watermark, Arc::new(()));
    let mut log = GroupLog::new(GroupId(1), NodeLog::new(engine, writer), None);
    append(&mut log, (0..3).map(|index| entry(1, index, 10))).await.await.unwrap();
    assert_eq!(log.read_disk(0, 3, READ_BYTES_MAX).await.unwrap().len(), 3);
    (log, disk)
}

fn vote(term: u64) -> RaftVote {
    let candidate = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
    to_raft_vote(&crate::storage::records::VoteRecord {
        term: crate::types::Term(term),
        candidate,
        committed: true,
    })
}

/// G1, G11: a quorum may have counted on it.
#[tokio::test]
async fn a_log_that_lacks_what_it_acknowledged_fails_the_database() {
    let (mut log, _disk) = on_a_disk().await;
    log.save_vote(&vote(2)).await.unwrap();
    let index = |index| Some(LogIndex(index));
    for (before, applied, of) in [
        (0, None, 2),
        (3, None, 2),
        (3, index(1), 2),
        // It came with a snapshot.
        (5, index(4), 2),
        // Its leader was deposed, and the next one may have replaced it.
        (9, None, 1),
    ] {
        let verified = log.verify_acknowledged(LogIndex(before), applied, &vote(of));
        assert_eq!(verified, Ok(()), "{before} {applied:?} {of}");
    }
    assert_eq!(log.shared.node.engine.background_error(), None);
    for (applied, of) in [(None, 2), (index(2), 2), (None, 3)] {
        let damage = log.verify_acknowledged(LogIndex(4), applied, &vote(of)).unwrap_err();
        assert!(damage.to_string().contains("ends before entry 3"), "{damage}");
    }
    let error = log.shared.node.engine.background_error();
    assert!(matches!(error, Some(StorageError::Damaged { .. })), "{error:?}");
}

#[tokio::test]
async fn a_damaged_entry_fails_the_database() {
    let (log, disk) = on_a_disk().await;
    let key = keys::raft_log(GroupId(1), LogIndex(1));
    disk.damage(Table::RaftLog, &key, None);
    assert!(log.read_disk(0, 3, READ_BYTES_MAX).await.is_err());
    let error = log.shared.node.engine.background_error();
    assert!(matches!(error, Some(StorageError::Damaged { .. })), "{error:?}");
}

/// openraft stops the replica, and only a start of the node makes it go on (G9).
#[tokio::test]
async fn a_read_that_fails_once_fails_the_database() {
    let (log, disk) = on_a_disk().await;
    disk.set_unreadable(Some("too many open files"));
    assert!(log.read_disk(0, 3, READ_BYTES_MAX).await.is_err());
    disk.set_unreadable(None);
    let error = log.shared.node.engine.background_error();
    assert!(matches!(error, Some(StorageError::Failed { .. })), "{error:?}");
}
