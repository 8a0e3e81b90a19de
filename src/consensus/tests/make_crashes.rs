//! A replica that is made anew while the process dies (G1): an older incarnation's state without its log must never
//! start, and what is made in the end is blank.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::fixture::{
    GROUP, NEIGHBOUR, Row, append_to, assert_sound, fill, leading, log_id, names, replica, rows,
};
use crate::consensus::solitary::{Disks, Process};
use crate::storage::interposed::{Interposed, Interposer, Job};
use crate::storage::records::{EntryPayload, EntryRecord, GroupRow, Record, VoteRecord};
use crate::storage::watermark::WatermarkFile;
use crate::storage::{
    Batch, Database, Done, Durability, Engine, GroupLogState, GroupRecovery, LogWrite, LogWriter,
    MemoryDisk, Table, keys,
};
use crate::types::{LogIndex, ReplicaId, Term};

async fn write(writer: &LogWriter, write: impl FnOnce(Done) -> LogWrite) {
    let (report, reported) = oneshot::channel();
    let done: Done = Box::new(move |result| drop(report.send(result)));
    writer.submit(write(done)).await;
    reported.await.unwrap().unwrap();
}

pub fn old() -> ReplicaId {
    replica(3, 1)
}

fn vote() -> VoteRecord {
    VoteRecord { term: Term(2), candidate: old(), committed: true }
}

/// An old incarnation that voted and took ten entries, and a neighbour. Applied or not: one that only voted has
/// nothing in its state that could tell that its log is gone.
pub async fn with_an_old_replica(has_applied: bool) -> Disks {
    let disks = Disks::default();
    let state = disks.state.open();
    fill(&state, NEIGHBOUR, old(), &names(NEIGHBOUR, "both", 2), 2, log_id(1, 4));
    if has_applied {
        fill(&state, GROUP, old(), &names(GROUP, "old", 3), 2, log_id(2, 9));
    } else {
        let key = keys::group(GROUP);
        let mut batch = Batch::default();
        batch.put(Table::Groups, key.clone(), GroupRow::blank(old()).encode(&key));
        state.write(batch, Durability::Flushed).unwrap();
        state.flush().unwrap();
    }
    let watermark = WatermarkFile::create(Box::new(disks.watermark.clone())).unwrap();
    let writer = LogWriter::start(Arc::new(disks.log.open()), watermark, Arc::new(()));
    write(&writer, |done| LogWrite::SaveVote { group: GROUP, vote: vote(), done }).await;
    write(&writer, |done| {
        let encode = |index| {
            let record = EntryRecord { log_id: log_id(2, index), payload: EntryPayload::Blank };
            (LogIndex(index), record.encode(&keys::raft_log(GROUP, LogIndex(index))))
        };
        let entries = (0..10).map(encode).collect();
        LogWrite::Append { group: GROUP, entries, last: log_id(2, 9), done }
    })
    .await;
    writer.close().await;
    disks
}

/// What a blank replica has, and nobody else's rows.
fn blank_rows() -> Vec<Row> {
    let state = MemoryDisk::new(Database::State).open();
    fill(&state, NEIGHBOUR, old(), &names(NEIGHBOUR, "both", 2), 2, log_id(1, 4));
    let key = keys::group(GROUP);
    let mut batch = Batch::default();
    batch.put(Table::Groups, key.clone(), GroupRow::blank(replica(3, 2)).encode(&key));
    state.write(batch, Durability::Flushed).unwrap();
    rows(&state)
}

/// What the group's log was found to hold.
fn log_of(process: &Process) -> GroupLogState {
    match process.storage.groups.get(&GROUP) {
        Some(GroupRecovery::Healthy(state)) => *state,
        None => GroupLogState::default(),
        Some(GroupRecovery::Damaged { reason }) => panic!("damaged: {reason}"),
    }
}

/// Whatever was cut off: either the old replica with all that it had, or nothing that serves, or the new one, blank.
fn check_after_crash(process: &Process, before: &[Row]) {
    let Some(group) = process.replicas.get(GROUP) else { return };
    let state = process.storage.state.as_ref();
    if group.replica() == old() {
        let log = log_of(process);
        assert_eq!(log.vote, Some(vote()), "the old incarnation has forgotten its vote");
        assert_eq!(log.last, Some(log_id(2, 9)), "the old incarnation has forgotten entries");
        assert_eq!(rows(state), before);
    } else {
        assert_eq!(log_of(process), GroupLogState::default());
        assert_eq!(rows(state), blank_rows());
    }
}

async fn dies_at_each_step(has_applied: bool, disk_of: impl Fn(&Disks) -> &MemoryDisk) {
    for steps in 0.. {
        let disks = with_an_old_replica(has_applied).await;
        let before = rows(&disks.state.open());
        let process = disks.start().await;
        assert_eq!(process.replicas.get(GROUP).unwrap().replica(), old());
        disk_of(&disks).crash_after(steps);
        let finished = process.replicas.make(GROUP, replica(3, 2)).await.is_ok();
        disks.crash(process).await;

        let process = disks.start().await;
        check_after_crash(&process, &before);
        let made = process.replicas.make(GROUP, replica(3, 2)).await.unwrap();
        assert_eq!(made.replica(), replica(3, 2));
        assert_eq!(rows(process.storage.state.as_ref()), blank_rows());
        assert_sound(process.storage.state.as_ref());
        disks.crash(process).await;

        let process = disks.start().await;
        assert_eq!(log_of(&process), GroupLogState::default(), "the old log is gone for good");
        assert_eq!(rows(process.storage.state.as_ref()), blank_rows());
        disks.crash(process).await;
        if finished {
            assert!(steps > 0, "nothing died");
            break;
        }
        assert!(steps < 50, "making never ends");
    }
}

#[tokio::test]
async fn a_replica_made_anew_while_its_state_dies_is_blank_in_the_end() {
    dies_at_each_step(true, |disks| &disks.state).await;
    dies_at_each_step(false, |disks| &disks.state).await;
}

#[tokio::test]
async fn a_replica_made_anew_while_its_log_dies_is_blank_in_the_end() {
    dies_at_each_step(true, |disks| &disks.log).await;
    dies_at_each_step(false, |disks| &disks.log).await;
}

/// openraft's state machine goes on with what waits for it when a replica is stopped: what it writes must not come
/// between what is removed and what is made in its place (G2, G4).
#[tokio::test]
async fn a_replica_that_was_stopped_applies_nothing_more() {
    let disks = Disks::default();
    let process = disks.start().await;
    let group = leading(&process, old()).await;
    let deadline = || Instant::now() + Duration::from_secs(30);
    // As stopping does, and the entries are still to come.
    group.applied().close().await;
    let before = rows(process.storage.state.as_ref());
    let appended = group.propose(append_to(&names(GROUP, "room", 1)[0], 1), deadline()).await;
    assert!(appended.is_err(), "{appended:?}");
    assert_eq!(rows(process.storage.state.as_ref()), before);
    disks.crash(process).await;
}

/// Does something once, behind the next look at a group's row.
#[derive(Clone, Default)]
struct BehindTheNextLook(Arc<Mutex<Option<Job>>>);

impl Interposer for BehindTheNextLook {
    fn looked_up(&self, table: Table) {
        let todo = self.0.lock().unwrap().take_if(|_| table == Table::Groups);
        if let Some(todo) = todo {
            todo();
        }
    }
}

/// Its range is that of what it has applied when it has stopped, not when somebody first looked (G2, G4).
#[tokio::test]
async fn a_replica_made_anew_leaves_no_rows_of_first_entries_that_the_old_one_applies_meanwhile() {
    let disks = with_an_old_replica(false).await;
    let look = BehindTheNextLook::default();
    let state = Interposed { below: Arc::new(disks.state.open()), by: look.clone() };
    let process = disks.start_over(Arc::new(state)).await;
    let late = disks.state.open();
    *look.0.lock().unwrap() = Some(Box::new(move || {
        fill(&late, GROUP, old(), &names(GROUP, "late", 3), 2, log_id(2, 9));
    }));
    process.replicas.make(GROUP, replica(3, 2)).await.unwrap();
    assert!(look.0.lock().unwrap().is_none(), "nobody looked");
    assert_eq!(rows(process.storage.state.as_ref()), blank_rows());
    disks.crash(process).await;
}
