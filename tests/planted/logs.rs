//! What is in the log after a crash: G1 and G11.

use std::sync::Arc;

use quorate::storage::records::{EntryPayload, EntryRecord, LogId, Record, VoteRecord};
use quorate::storage::small_file::MemoryFile;
use quorate::storage::watermark::WatermarkFile;
use quorate::storage::{
    Database, GroupRecovery, LogWrite, LogWriter, MemoryDisk, Table, keys, make_ready,
};
use quorate::types::{LogIndex, Term};
use tokio::sync::oneshot;

use crate::node::{GROUP, OWN};
use crate::{run, without_and_with};

/// A log writer and what it writes to.
struct Log {
    disk: MemoryDisk,
    file: MemoryFile,
    writer: LogWriter,
}

impl Log {
    fn start() -> Log {
        let (disk, file) = (MemoryDisk::new(Database::Log), MemoryFile::default());
        let watermark = WatermarkFile::create(Box::new(file.clone())).unwrap();
        let writer = LogWriter::start(Arc::new(disk.open()), watermark, Arc::new(()));
        Log { disk, file, writer }
    }

    /// Submits a vote or an entry, and waits until it is reported done.
    async fn write(&self, index: Option<u64>) -> bool {
        let (report, reported) = oneshot::channel();
        let done = Box::new(move |result: Result<_, _>| report.send(result.is_ok()).unwrap());
        let write = match index {
            None => {
                let vote = VoteRecord { term: Term(1), candidate: OWN, committed: true };
                LogWrite::SaveVote { group: GROUP, vote, done }
            }
            Some(index) => {
                let last = LogId { term: Term(1), leader: OWN, index: LogIndex(index) };
                let entry = EntryRecord { log_id: last, payload: EntryPayload::Blank };
                let entry = entry.encode(&keys::raft_log(GROUP, last.index));
                let entries = vec![(last.index, entry)];
                LogWrite::Append { group: GROUP, entries, last, done }
            }
        };
        self.writer.submit(write).await;
        reported.await.unwrap()
    }

    /// The last entry that opening finds; an error says why the log is not relied on.
    fn last(&self) -> Result<Option<u64>, String> {
        let state = MemoryDisk::new(Database::State).open();
        let ready = make_ready(&self.disk.open(), &state, self.file.clone()).unwrap();
        match &ready.groups[&GROUP] {
            GroupRecovery::Healthy(found) => Ok(found.last.map(|last| last.index.0)),
            GroupRecovery::Damaged { reason } => Err(reason.clone()),
        }
    }
}

#[test]
fn ack_before_sync_loses_what_was_reported_done() {
    let (right, wrong) = without_and_with("planted::ack_before_sync", || {
        run(async {
            let log = Log::start();
            assert!(log.write(None).await && log.write(Some(0)).await);
            log.disk.crash();
            log.last()
        })
    });
    assert_eq!(right, Ok(Some(0)));
    assert_eq!(wrong, Ok(None), "lost, and recovery does not notice");
}

#[test]
fn ignore_eio_reports_done_what_was_refused() {
    let (right, wrong) = without_and_with("planted::ignore_eio", || {
        run(async {
            let log = Log::start();
            assert!(log.write(None).await && log.write(Some(0)).await);
            log.disk.set_failing(Some("EIO"));
            let done = log.write(Some(1)).await;
            log.disk.set_failing(None);
            log.disk.crash();
            (done, log.last())
        })
    });
    assert_eq!(right, (false, Ok(Some(0))));
    assert_eq!(wrong, (true, Ok(Some(0))), "reported done, and not there");
}

#[test]
fn watermark_ignored_relies_on_a_log_without_its_end() {
    let (right, wrong) = without_and_with("planted::watermark_ignored", || {
        run(async {
            let log = Log::start();
            assert!(log.write(None).await && log.write(Some(0)).await && log.write(Some(1)).await);
            log.writer.close().await;
            log.disk.damage(Table::RaftLog, &keys::raft_log(GROUP, LogIndex(1)), None);
            log.last()
        })
    });
    assert!(right.unwrap_err().contains("it had reached 1"));
    assert_eq!(wrong, Ok(Some(0)));
}
