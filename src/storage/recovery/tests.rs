use super::*;
use crate::storage::records::EntryPayload;
use crate::storage::small_file::MemoryFile;
use crate::storage::{Batch, Database, Durability, MemoryDisk, MemoryEngine};
use crate::types::{Incarnation, NodeId, ReplicaId, Term};

fn replica() -> ReplicaId {
    ReplicaId { node: NodeId(1), incarnation: Incarnation(1) }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), leader: replica(), index: LogIndex(index) }
}

fn vote(term: u64) -> VoteRecord {
    VoteRecord { term: Term(term), candidate: replica(), committed: true }
}

fn log(last: u64) -> GroupLogState {
    GroupLogState { vote: Some(vote(2)), purged: None, last: Some(id(2, last)), committed: None }
}

#[test]
fn a_log_below_its_watermark_is_not_relied_on() {
    let mark = GroupMark { vote: Some(vote(2)), last: Some(id(2, 5)), damaged: None };
    assert_eq!(doubts(&log(5), Some(&mark), None), None);
    assert_eq!(doubts(&log(6), Some(&mark), None), None);
    assert!(doubts(&log(4), Some(&mark), None).is_some());
    let forgot = GroupLogState { vote: Some(vote(1)), ..log(5) };
    assert!(doubts(&forgot, Some(&mark), None).is_some());
    let damaged = GroupMark { damaged: Some("torn".to_owned()), ..mark };
    assert_eq!(doubts(&log(9), Some(&damaged), None).as_deref(), Some("torn"));
}

#[test]
fn applied_state_without_its_log_is_not_relied_on() {
    let row = GroupRow { applied: Some(id(2, 3)), ..GroupRow::blank(replica()) };
    assert!(doubts(&GroupLogState::default(), None, Some(&row)).is_some());
    assert_eq!(doubts(&GroupLogState::default(), None, Some(&GroupRow::blank(replica()))), None);
    let purged = GroupLogState { purged: Some(id(2, 4)), ..log(9) };
    assert!(doubts(&purged, None, Some(&row)).is_some());
}

#[test]
fn a_snapshot_may_end_below_the_term_of_what_it_replaced() {
    let mark = GroupMark { last: Some(id(7, 80)), ..GroupMark::default() };
    let row = GroupRow { applied: Some(id(5, 100)), ..GroupRow::blank(replica()) };
    let purged = GroupLogState {
        purged: Some(id(5, 100)),
        last: Some(id(5, 100)),
        ..GroupLogState::default()
    };
    assert_eq!(doubts(&purged, Some(&mark), Some(&row)), None);
    let short = GroupLogState { purged: Some(id(5, 79)), last: Some(id(5, 79)), ..purged };
    assert!(doubts(&short, Some(&mark), Some(&row)).is_some(), "entry 80 is missing");
}

#[test]
fn a_purged_log_without_applied_state_is_not_relied_on() {
    let purged = GroupLogState { purged: Some(id(2, 4)), ..log(9) };
    assert!(doubts(&purged, None, Some(&GroupRow::blank(replica()))).is_some());
    assert_eq!(doubts(&purged, None, None), None, "no replica starts without its row");
}

#[test]
fn a_snapshot_that_a_crash_left_ahead_of_its_log_is_relied_on() {
    let mark = GroupMark { vote: Some(vote(2)), last: Some(id(2, 5)), damaged: None };
    let row = GroupRow { applied: Some(id(2, 100)), ..GroupRow::blank(replica()) };
    assert_eq!(doubts(&log(5), Some(&mark), Some(&row)), None, "Raft purges the log on starting");
}

#[test]
fn a_position_that_none_can_follow_is_damage() {
    for applied in [id(2, u64::MAX), id(u64::MAX, 9)] {
        let row = GroupRow { applied: Some(applied), ..GroupRow::blank(replica()) };
        assert!(doubts(&log(9), None, Some(&row)).is_some());
    }
    for (entry, purged) in [
        (id(2, u64::MAX), id(2, u64::MAX - 1)),
        (id(2, 0), id(2, u64::MAX)),
        (id(u64::MAX, 1), id(2, 0)),
        (id(u64::MAX, 1), id(u64::MAX, 0)),
    ] {
        let log = log_of([entry], Some(purged), None);
        let refused = examine(&log, GROUP).unwrap_err().to_string();
        assert!(refused.contains("beyond all logs"), "{refused}");
    }
}

#[test]
fn a_vote_that_no_election_can_follow_is_damage() {
    let log = log_of([id(2, 0)], None, None);
    let voted = |term| {
        let key = keys::raft_meta(GROUP, RaftMetaField::Vote);
        let value = vote(term).encode(&key);
        let mut batch = Batch::default();
        batch.put(Table::RaftMeta, key, value);
        log.write(batch, Durability::Synced).unwrap();
    };
    voted(u64::MAX / 2);
    assert_eq!(examine(&log, GROUP).unwrap().vote, Some(vote(u64::MAX / 2)));
    for term in [u64::MAX / 2 + 1, u64::MAX] {
        voted(term);
        let refused = examine(&log, GROUP).unwrap_err().to_string();
        assert!(refused.contains("beyond all terms"), "{refused}");
    }
}

const GROUP: GroupId = GroupId(3);

/// A log with these entries, purge mark and committed note.
fn log_of(
    entries: impl IntoIterator<Item = LogId>,
    purged: Option<LogId>,
    committed: Option<LogId>,
) -> MemoryEngine {
    let engine = MemoryDisk::new(Database::Log).open();
    let mut batch = Batch::default();
    for log_id in entries {
        let record = EntryRecord { log_id, payload: EntryPayload::Blank };
        let key = keys::raft_log(GROUP, log_id.index);
        let value = record.encode(&key);
        batch.put(Table::RaftLog, key, value);
    }
    let fields = [(RaftMetaField::Purged, purged), (RaftMetaField::Committed, committed)];
    for (field, log_id) in fields {
        if let Some(log_id) = log_id {
            let key = keys::raft_meta(GROUP, field);
            let value = LogIdRecord(log_id).encode(&key);
            batch.put(Table::RaftMeta, key, value);
        }
    }
    engine.write(batch, Durability::Synced).unwrap();
    engine
}

#[test]
fn a_committed_note_counts_only_for_an_entry_that_is_there() {
    let entries = || (0..10).map(|index| id(3, index));
    let held = |committed| examine(&log_of(entries(), None, Some(committed)), GROUP).unwrap();
    assert_eq!(held(id(3, 7)).committed, Some(id(3, 7)));
    assert_eq!(held(id(3, 12)).committed, None, "the entries after it were not synced");
    assert_eq!(held(id(2, 12)).committed, None, "nor does a lower term make it one of these");
    assert_eq!(held(id(5, 7)).committed, None, "another entry stood there");
}

#[test]
fn a_purge_mark_beyond_the_last_entry_is_the_end_of_the_log() {
    let log = log_of((0..10).map(|index| id(7, index)), Some(id(5, 50)), None);
    let found = examine(&log, GROUP).unwrap();
    assert_eq!((found.purged, found.last), (Some(id(5, 50)), Some(id(5, 50))));
    let log = log_of([id(6, 51), id(6, 52)], Some(id(5, 50)), None);
    assert_eq!(examine(&log, GROUP).unwrap().last, Some(id(6, 52)));
    let log = log_of([id(6, 52)], Some(id(5, 50)), None);
    assert!(examine(&log, GROUP).unwrap_err().to_string().contains("entry 51 is missing"));
}

/// A log with a vote of this term and two entries, over a mark that tells of the vote before and of the first entry: the
/// process died between the sync of the log and that of the mark.
fn marked_late(term: u64) -> (MemoryEngine, MemoryFile) {
    let log = log_of([id(2, 0), id(2, 1)], None, None);
    let key = keys::raft_meta(GROUP, RaftMetaField::Vote);
    let value = vote(term).encode(&key);
    let mut batch = Batch::default();
    batch.put(Table::RaftMeta, key, value);
    log.write(batch, Durability::Synced).unwrap();
    let file = MemoryFile::default();
    let mark =
        GroupMark { vote: Some(vote(term - 1)), last: Some(id(2, 0)), ..GroupMark::default() };
    let mut watermark = WatermarkFile::create(Box::new(file.clone())).unwrap();
    watermark.store(Watermark { groups: [(GROUP, mark)].into() }).unwrap();
    (log, file)
}

/// Breaks G1 and G11 if it fails: openraft sees no change in a vote that it asks of itself once more, and answers.
#[test]
fn what_opening_finds_is_not_forgotten_later() {
    let (log, file) = marked_late(9);
    let state = MemoryDisk::new(Database::State).open();
    let ready = make_ready(&log, &state, file.clone()).unwrap();
    let mark = GroupMark { vote: Some(vote(9)), last: Some(id(2, 1)), damaged: None };
    assert_eq!(ready.watermark.stored().groups[&GROUP], mark);
    let again = make_ready(&log, &state, file.clone()).unwrap();
    assert!(matches!(again.groups[&GROUP], GroupRecovery::Healthy(_)), "{:?}", again.groups);

    let (forgetful, _) = marked_late(8);
    let again = make_ready(&forgetful, &state, file).unwrap();
    assert!(matches!(again.groups[&GROUP], GroupRecovery::Damaged { .. }), "{:?}", again.groups);
}

#[test]
fn a_replica_that_has_nothing_yet_gets_no_mark() {
    let log = MemoryDisk::new(Database::Log).open();
    let state = MemoryDisk::new(Database::State).open();
    let key = keys::group(GROUP);
    let mut batch = Batch::default();
    batch.put(Table::Groups, key.clone(), GroupRow::blank(replica()).encode(&key));
    state.write(batch, Durability::Flushed).unwrap();
    let file = MemoryFile::default();
    WatermarkFile::create(Box::new(file.clone())).unwrap();
    let ready = make_ready(&log, &state, file).unwrap();
    assert_eq!(ready.groups[&GROUP], GroupRecovery::Healthy(GroupLogState::default()));
    assert!(ready.watermark.stored().groups.is_empty());
}
