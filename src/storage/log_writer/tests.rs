mod gated;
mod model;
mod schedules;

use super::*;
use crate::storage::keys::{self, RaftMetaField};
use crate::storage::records::{EntryPayload, EntryRecord, LogIdRecord, Record};
use crate::storage::small_file::{MemoryFile, SmallFile};
use crate::storage::watermark::GroupMark;
use crate::storage::{Database, Direction, MemoryDisk, Table, View};
use crate::types::{Incarnation, NodeId, ReplicaId, Term};

const GROUP: GroupId = GroupId(3);
const OTHER: GroupId = GroupId(4);

#[derive(Default)]
struct Writes(Mutex<Vec<SyncedWrite>>);

impl WriterObserver for Writes {
    fn synced(&self, write: SyncedWrite) {
        self.0.lock().unwrap().push(write);
    }
}

struct Fixture {
    disk: MemoryDisk,
    file: MemoryFile,
    writes: Arc<Writes>,
    writer: LogWriter,
}

fn start() -> Fixture {
    let disk = MemoryDisk::new(Database::Log);
    let engine = Arc::new(disk.open());
    start_on(disk, engine)
}

fn start_on(disk: MemoryDisk, engine: Arc<dyn Engine>) -> Fixture {
    let file = MemoryFile::default();
    let watermark = WatermarkFile::create(Box::new(file.clone())).unwrap();
    let writes = Arc::new(Writes::default());
    let writer = LogWriter::start(engine, watermark, writes.clone());
    Fixture { disk, file, writes, writer }
}

impl Fixture {
    /// Submits a change and waits for it.
    async fn write(&self, write: impl FnOnce(Done) -> LogWrite) -> Result<(), StorageError> {
        let (report, reported) = oneshot::channel();
        self.writer.submit(write(reporting(report))).await;
        reported.await.unwrap()
    }

    fn stored(&self) -> Watermark {
        stored(&self.file)
    }

    fn indexes(&self, group: GroupId) -> Vec<u64> {
        let engine = self.disk.open();
        let range = keys::raft_log_range(group, LogIndex(0), None);
        engine
            .scan(Table::RaftLog, range, Direction::Forward)
            .map(|row| keys::raft_log_index(&row.unwrap().0).unwrap().0)
            .collect()
    }
}

fn stored(file: &MemoryFile) -> Watermark {
    WatermarkFile::load(Box::new(file.clone())).unwrap().unwrap().stored().clone()
}

fn reporting(report: oneshot::Sender<Result<(), StorageError>>) -> Done {
    Box::new(move |result| report.send(result).unwrap())
}

fn replica() -> ReplicaId {
    ReplicaId { node: NodeId(1), incarnation: Incarnation(1) }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), leader: replica(), index: LogIndex(index) }
}

fn vote(term: u64) -> VoteRecord {
    VoteRecord { term: Term(term), candidate: replica(), committed: false }
}

fn append(group: GroupId, term: u64, indexes: std::ops::Range<u64>, done: Done) -> LogWrite {
    let entries = indexes.clone().map(|index| {
        let entry = EntryRecord { log_id: log_id(term, index), payload: EntryPayload::Blank };
        (LogIndex(index), entry.encode(&keys::raft_log(group, LogIndex(index))))
    });
    LogWrite::Append {
        group,
        entries: entries.collect(),
        last: log_id(term, indexes.end - 1),
        done,
    }
}

#[tokio::test]
async fn what_waits_is_written_together_and_reported_in_order() {
    let fixture = start();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut reports = Vec::new();
    for number in 0..20u64 {
        let group = if number % 2 == 0 { GROUP } else { OTHER };
        let (report, reported) = oneshot::channel();
        reports.push(reported);
        let order = order.clone();
        let done: Done = Box::new(move |result| {
            order.lock().unwrap().push(number);
            report.send(result).unwrap();
        });
        let index = number / 2;
        fixture.writer.submit(append(group, 1, index..index + 1, done)).await;
    }
    for report in reports {
        // Dropped where a later append's end says the same.
        if let Ok(result) = report.await {
            result.unwrap();
        }
    }
    let told = order.lock().unwrap().clone();
    assert!(told.is_sorted() && told.ends_with(&[18, 19]), "{told:?}");
    assert_eq!(fixture.indexes(GROUP), (0..10).collect::<Vec<_>>());
    assert_eq!(fixture.indexes(OTHER), (0..10).collect::<Vec<_>>());
    let writes = fixture.writes.0.lock().unwrap();
    assert_eq!(writes.iter().map(|write| write.changes).sum::<usize>(), 20);
    assert!(writes.len() < 20, "{} writes for 20 changes that waited together", writes.len());
    assert!(told.len() <= 2 * writes.len(), "{told:?} of {} writes of two groups", writes.len());
}

#[tokio::test]
async fn what_was_reported_survives_a_crash() {
    let fixture = start();
    fixture.write(|done| append(GROUP, 1, 0..3, done)).await.unwrap();
    fixture.disk.crash();
    assert_eq!(fixture.indexes(GROUP), [0, 1, 2]);
}

#[tokio::test]
async fn one_write_does_not_outgrow_its_bound() {
    let fixture = start();
    let entry = vec![0; limits::LOG_WRITER_BATCH_BYTES_MAX / 3];
    let mut reports = Vec::new();
    for index in 0..9 {
        let (report, reported) = oneshot::channel();
        reports.push(reported);
        let entries = vec![(LogIndex(index), entry.clone())];
        let done = reporting(report);
        // A group each, so that each end is told.
        let group = GroupId(index);
        let write = LogWrite::Append { group, entries, last: log_id(1, index), done };
        fixture.writer.submit(write).await;
    }
    for report in reports {
        report.await.unwrap().unwrap();
    }
    let writes = fixture.writes.0.lock().unwrap();
    assert!(writes.len() >= 3);
    for write in writes.iter() {
        assert!(write.bytes <= limits::LOG_WRITER_BATCH_BYTES_MAX, "{write:?}");
    }
}

#[tokio::test]
async fn a_vote_is_answered_once_the_watermark_holds_it() {
    let fixture = start();
    let file = fixture.file.clone();
    let (report, reported) = oneshot::channel();
    let done: Done = Box::new(move |result| {
        let mark = stored(&file).groups.get(&GROUP).cloned();
        report.send((result, mark)).unwrap();
    });
    fixture.writer.submit(LogWrite::SaveVote { group: GROUP, vote: vote(5), done }).await;
    let (result, mark) = reported.await.unwrap();
    result.unwrap();
    assert_eq!(mark.unwrap().vote, Some(vote(5)));

    let key = keys::raft_meta(GROUP, RaftMetaField::Vote);
    let value = fixture.disk.open().get(Table::RaftMeta, &key).unwrap().unwrap();
    assert_eq!(VoteRecord::decode(&key, &value).unwrap(), vote(5));
}

/// An election costs one mark on each node, and not another when its winner begins to lead.
#[tokio::test]
async fn that_a_vote_has_won_is_no_other_vote_and_waits_for_no_watermark() {
    let fixture = start();
    let give = async |vote| {
        fixture.write(|done| LogWrite::SaveVote { group: GROUP, vote, done }).await.unwrap();
        fixture.file.replaced()
    };
    let given = give(vote(5)).await;
    let won = VoteRecord { committed: true, ..vote(5) };
    assert_eq!(give(won).await, given);
    let key = keys::raft_meta(GROUP, RaftMetaField::Vote);
    let value = fixture.disk.open().get(Table::RaftMeta, &key).unwrap().unwrap();
    assert_eq!(VoteRecord::decode(&key, &value).unwrap(), won, "the log has it all the same");
    let other = ReplicaId { node: NodeId(2), ..replica() };
    let another = give(VoteRecord { candidate: other, ..vote(5) }).await;
    assert!(another > given, "another candidate of the same term");
    assert!(give(vote(6)).await > another, "a newer term");
}

#[tokio::test(start_paused = true)]
async fn an_append_alone_does_not_touch_the_watermark_until_a_second_has_passed() {
    let fixture = start();
    let before = fixture.file.replaced();
    fixture.write(|done| append(GROUP, 1, 0..3, done)).await.unwrap();
    assert_eq!(fixture.file.replaced(), before);
    tokio::time::sleep(WATERMARK_LAG * 2).await;
    assert_eq!(fixture.stored().groups[&GROUP].last, Some(log_id(1, 2)));
    let after = fixture.file.replaced();
    tokio::time::sleep(WATERMARK_LAG * 10).await;
    assert_eq!(fixture.file.replaced(), after, "an idle node writes nothing");
}

/// What the file said, and how many entries the log held.
type Sightings = Arc<Mutex<Vec<(Option<LogId>, usize)>>>;

/// A file that notes, with each replacement, which entries the log held at that moment.
struct SpyFile {
    file: MemoryFile,
    disk: MemoryDisk,
    seen: Sightings,
}

impl SmallFile for SpyFile {
    fn load(&self) -> Result<Option<Vec<u8>>, StorageError> {
        self.file.load()
    }

    fn replace(&self, contents: &[u8]) -> Result<(), StorageError> {
        self.file.replace(contents)?;
        let range = keys::raft_log_range(GROUP, LogIndex(0), None);
        let entries = self.disk.open().scan(Table::RaftLog, range, Direction::Forward).count();
        let last = stored(&self.file).groups.get(&GROUP).and_then(|mark| mark.last);
        self.seen.lock().unwrap().push((last, entries));
        Ok(())
    }

    fn place(&self) -> String {
        self.file.place()
    }
}

#[tokio::test]
async fn the_watermark_is_lowered_before_a_truncation_and_raised_after_a_sync() {
    let disk = MemoryDisk::new(Database::Log);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let spy = SpyFile { file: MemoryFile::default(), disk: disk.clone(), seen: seen.clone() };
    let file = spy.file.clone();
    let watermark = WatermarkFile::create(Box::new(spy)).unwrap();
    let writer = LogWriter::start(Arc::new(disk.open()), watermark, Arc::new(()));
    let fixture = Fixture { disk, file, writes: Arc::default(), writer };

    fixture.write(|done| append(GROUP, 1, 0..10, done)).await.unwrap();
    fixture.write(|done| LogWrite::SaveVote { group: GROUP, vote: vote(2), done }).await.unwrap();
    seen.lock().unwrap().clear();
    let after = Some(log_id(1, 4));
    fixture.write(|done| LogWrite::Truncate { group: GROUP, after, done }).await.unwrap();

    assert_eq!(*seen.lock().unwrap(), [(after, 10)], "lowered while the entries are still there");
    assert_eq!(fixture.indexes(GROUP), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn entries_written_over_truncated_ones_stay() {
    let fixture = start();
    fixture.write(|done| append(GROUP, 1, 0..10, done)).await.unwrap();
    let (report, reported) = oneshot::channel();
    let ignore = || -> Done { Box::new(|_| ()) };
    let after = Some(log_id(1, 4));
    fixture.writer.submit(LogWrite::Truncate { group: GROUP, after, done: ignore() }).await;
    fixture.writer.submit(append(GROUP, 2, 5..7, ignore())).await;
    let vote = LogWrite::SaveVote { group: GROUP, vote: vote(2), done: reporting(report) };
    fixture.writer.submit(vote).await;
    reported.await.unwrap().unwrap();
    assert_eq!(fixture.indexes(GROUP), (0..7).collect::<Vec<_>>());
    assert_eq!(fixture.stored().groups[&GROUP].last, Some(log_id(2, 6)));
}

#[tokio::test]
async fn a_purge_leaves_its_mark_even_above_the_last_entry() {
    let fixture = start();
    fixture.write(|done| append(GROUP, 1, 0..10, done)).await.unwrap();
    let purge = |upto| move |done| LogWrite::Purge { group: GROUP, upto, done };
    fixture.write(purge(log_id(1, 3))).await.unwrap();
    assert_eq!(fixture.indexes(GROUP), (4..10).collect::<Vec<_>>());
    fixture.write(purge(log_id(4, 50))).await.unwrap();
    assert!(fixture.indexes(GROUP).is_empty());

    let key = keys::raft_meta(GROUP, RaftMetaField::Purged);
    let value = fixture.disk.open().get(Table::RaftMeta, &key).unwrap().unwrap();
    assert_eq!(LogIdRecord::decode(&key, &value).unwrap().0, log_id(4, 50));
    fixture.writer.close().await;
    assert_eq!(fixture.stored().groups[&GROUP].last, Some(log_id(4, 50)));
}

#[tokio::test]
async fn a_removed_group_leaves_nothing() {
    let fixture = start();
    fixture.write(|done| append(GROUP, 1, 0..10, done)).await.unwrap();
    fixture.write(|done| append(OTHER, 1, 0..2, done)).await.unwrap();
    fixture.write(|done| LogWrite::SaveVote { group: GROUP, vote: vote(2), done }).await.unwrap();
    fixture.writer.note_committed(GROUP, log_id(1, 9));
    fixture.write(|done| LogWrite::RemoveGroup { group: GROUP, done }).await.unwrap();
    assert!(fixture.indexes(GROUP).is_empty());
    assert_eq!(fixture.indexes(OTHER), [0, 1]);
    let all = crate::storage::KeyRange { start: Vec::new(), end: None };
    let engine = fixture.disk.open();
    assert_eq!(engine.scan(Table::RaftMeta, all, Direction::Forward).count(), 0);
    assert!(!fixture.stored().groups.contains_key(&GROUP));
}

#[tokio::test]
async fn a_committed_log_id_rides_along_and_causes_no_write() {
    let fixture = start();
    fixture.write(|done| append(GROUP, 1, 0..10, done)).await.unwrap();
    fixture.writer.note_committed(GROUP, log_id(1, 7));
    fixture.writer.note_committed(GROUP, log_id(1, 8));
    let key = keys::raft_meta(GROUP, RaftMetaField::Committed);
    fixture.write(|done| append(OTHER, 1, 0..1, done)).await.unwrap();
    assert_eq!(fixture.disk.open().get(Table::RaftMeta, &key).unwrap(), None);
    fixture.write(|done| append(GROUP, 1, 10..11, done)).await.unwrap();
    let value = fixture.disk.open().get(Table::RaftMeta, &key).unwrap().unwrap();
    assert_eq!(LogIdRecord::decode(&key, &value).unwrap().0, log_id(1, 8));
}

#[tokio::test]
async fn the_first_failure_stays() {
    let fixture = start();
    fixture.write(|done| append(GROUP, 1, 0..1, done)).await.unwrap();
    fixture.disk.set_failing(Some("input/output error"));
    let error = fixture.write(|done| append(GROUP, 1, 1..2, done)).await.unwrap_err();
    assert!(error.to_string().contains("input/output error"));
    assert!(fixture.writer.failed().await.to_string().contains("input/output error"));
    fixture.disk.set_failing(None);
    let later = fixture.write(|done| append(OTHER, 1, 0..1, done)).await.unwrap_err();
    assert!(later.to_string().contains("input/output error"), "{later}");
    assert_eq!(fixture.indexes(GROUP), [0]);
    assert!(fixture.indexes(OTHER).is_empty());
}

#[tokio::test]
async fn a_vote_is_not_answered_if_the_watermark_fails() {
    let fixture = start();
    fixture.file.set_failing(true);
    let vote = |done| LogWrite::SaveVote { group: GROUP, vote: vote(5), done };
    assert!(fixture.write(vote).await.is_err());
    fixture.file.set_failing(false);
    assert!(fixture.write(|done| append(GROUP, 1, 0..1, done)).await.is_err());
}

#[tokio::test]
async fn closing_writes_what_waits_and_refuses_the_rest() {
    let fixture = start();
    let (report, reported) = oneshot::channel();
    fixture.writer.submit(append(GROUP, 1, 0..3, reporting(report))).await;
    fixture.writer.close().await;
    reported.await.unwrap().unwrap();
    assert_eq!(fixture.stored().groups[&GROUP].last, Some(log_id(1, 2)));
    assert!(fixture.write(|done| append(GROUP, 1, 3..4, done)).await.is_err());
    fixture.writer.close().await;
}

#[tokio::test]
async fn a_known_damage_stays_in_the_watermark() {
    let disk = MemoryDisk::new(Database::Log);
    let file = MemoryFile::default();
    let mut watermark = WatermarkFile::create(Box::new(file.clone())).unwrap();
    let damaged = GroupMark { damaged: Some("torn".to_owned()), ..GroupMark::default() };
    watermark.store(Watermark { groups: [(OTHER, damaged.clone())].into() }).unwrap();
    let writer = LogWriter::start(Arc::new(disk.open()), watermark, Arc::new(()));
    let fixture = Fixture { disk, file, writes: Arc::default(), writer };
    fixture.write(|done| append(GROUP, 1, 0..3, done)).await.unwrap();
    fixture.writer.close().await;
    assert_eq!(fixture.stored().groups[&OTHER], damaged);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_is_told_from_one_that_rests() {
    let fixture = start();
    let appended = fixture.write(|done| append(GROUP, 1, 1..4, done)).await;
    assert_eq!(appended, Ok(()));
    let minutes = Duration::from_secs(600);
    assert!(tokio::time::timeout(minutes, fixture.writer.hangs()).await.is_err(), "it rests");

    fixture.disk.hang();
    let written = fixture.write(|done| append(GROUP, 1, 4..5, done));
    let failure = tokio::select! {
        failure = fixture.writer.hangs() => failure,
        written = written => unreachable!("{written:?}"),
    };
    assert!(failure.to_string().contains("has not answered for 20 s"), "{failure}");
}
