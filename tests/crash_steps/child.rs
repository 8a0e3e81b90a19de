//! The process that dies: runs the script on the real storage and notes each operation once it is reported done.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use quorate::storage::install::{self, SnapshotSink};
use quorate::storage::{
    Database, Direction, Done, Engine, KeyRange, LogWrite, MemoryDisk, OpenError, Storage,
    StorageError, Table, Tuning, View,
};
use quorate::types::{GroupId, LogIndex, NodeId};
use tokio::sync::oneshot;

use crate::model::LogModel;
use crate::script::{Op, SCRIPT};
use crate::world::{OWN, apply_up_to, encoded_entry, log_id, stored_row, vote, write_blank_row};

/// Names the notes' file in the child's environment.
pub const NOTES: &str = "CRASH_STEPS_NOTES";
/// Names the data directory in the child's environment.
pub const DATA: &str = "CRASH_STEPS_DATA";

pub async fn open(data: &Path) -> Result<Storage, OpenError> {
    let tuning = Tuning {
        // Small enough that files of both databases are made and compacted on the way.
        log_memtable_bytes: 64 * 1024,
        log_wal_bytes_max: 128 * 1024,
        staging_file_bytes: 16 * 1024,
        ..Tuning::small()
    };
    Storage::open(data, NodeId(1), tuning, Arc::new(())).await
}

/// Runs the script, or opens the storage alone where there are no notes to write.
pub async fn run() {
    let data = std::env::var_os(DATA).expect("told by the parent");
    let storage = open(Path::new(&data)).await.unwrap();
    if let Some(notes) = std::env::var_os(NOTES) {
        let notes = Arc::new(Mutex::new(File::create(notes).unwrap()));
        let mut number = 0;
        for batch in SCRIPT {
            let mut dones = Vec::new();
            for op in *batch {
                dones.push(begin(&storage, *op, number, notes.clone()).await);
                number += 1;
            }
            for done in dones {
                done.await.expect("it is reported").expect("it succeeds");
            }
        }
    }
    storage.close().await.unwrap();
}

type Notes = Arc<Mutex<File>>;
type Report = oneshot::Receiver<Result<(), StorageError>>;

async fn begin(storage: &Storage, op: Op, number: usize, notes: Notes) -> Report {
    let (report, reported) = oneshot::channel();
    let done: Done = Box::new(move |result: Result<(), StorageError>| {
        if result.is_ok() {
            writeln!(notes.lock().unwrap(), "{number}").unwrap();
        }
        let _ = report.send(result);
    });
    match log_write(op, number, done) {
        Ok(write) => storage.writer.submit(write).await,
        // In place, and so in the script's order: a batch has no changes of the state that need each other's company.
        Err(done) => done(change_state(&storage.state, op, number)),
    }
    reported
}

/// What the log writer is given, or `done` back where it is given nothing.
fn log_write(op: Op, number: usize, done: Done) -> Result<LogWrite, Done> {
    let Some(of) = op.log_of() else { return Err(done) };
    let (group, before) = (GroupId(of), LogModel::before(of, number));
    Ok(match op {
        Op::Vote(_, term) => LogWrite::SaveVote { group, vote: vote(term), done },
        Op::Append(_, upto, term) => {
            let encoded = |index| (LogIndex(index), encoded_entry(of, index, term));
            let entries = (before.next_index()..=upto).map(encoded).collect();
            LogWrite::Append { group, entries, last: log_id(upto, term), done }
        }
        Op::Truncate(_, after) => {
            let after = Some(log_id(after, before.term_at(after)));
            LogWrite::Truncate { group, after, done }
        }
        Op::Purge(_, upto) => {
            let upto = log_id(upto, before.term_at(upto));
            LogWrite::Purge { group, upto, done }
        }
        _ => LogWrite::RemoveGroup { group, done },
    })
}

fn change_state(engine: &Arc<dyn Engine>, op: Op, number: usize) -> Result<(), StorageError> {
    match op {
        Op::Make(group) => {
            write_blank_row(engine.as_ref(), group)?;
            engine.flush()
        }
        Op::Apply(group, upto) => apply_up_to(engine.as_ref(), group, upto),
        Op::Install(group, upto) => take_in(engine, group, upto, number as u64),
        Op::RemoveState(group) => {
            let range = stored_row(engine.as_ref(), group).and_then(|row| row.range);
            install::remove(engine.as_ref(), GroupId(group), range)
        }
        _ => engine.flush(),
    }
}

/// Makes a snapshot in memory, and installs it.
fn take_in(
    engine: &Arc<dyn Engine>,
    group: u64,
    upto: u64,
    transfer: u64,
) -> Result<(), StorageError> {
    let source = MemoryDisk::new(Database::State).open();
    write_blank_row(&source, group)?;
    apply_up_to(&source, group, upto)?;
    let mut sink = SnapshotSink::begin(engine.clone(), GroupId(group), transfer)?;
    for table in Table::BY_CONVERSATION {
        let whole = KeyRange { start: Vec::new(), end: None };
        for row in source.scan(*table, whole, Direction::Forward) {
            let (key, value) = row?;
            sink.add(*table, &key, &value)?;
        }
    }
    let staged = sink.finish(stored_row(&source, group).expect("it has a row"))?;
    install::install(engine.as_ref(), GroupId(group), OWN, staged).map(|_| ())
}
