//! What only the engine on disk can do: notice damage, leave no trace, stay failed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::storage::conformance::copy_folder;

const ROWS: u32 = 300;

pub(super) fn written(table: Table, number: u32) -> Batch {
    let mut batch = Batch::default();
    batch.put(table, number.to_be_bytes().to_vec(), vec![number as u8; 100]);
    batch
}

/// A log database with synced rows in its write-ahead log, as a crash leaves it.
pub(super) fn crashed_log(folder: &Path) {
    let source = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open_log(&source.path().join("log"), &Tuning::small()).unwrap();
    for number in 0..ROWS {
        engine.write(written(Table::RaftLog, number), Durability::Synced).unwrap();
    }
    copy_folder(source.path(), folder);
}

pub(super) fn count(engine: &RocksEngine, table: Table) -> usize {
    let all = KeyRange { start: Vec::new(), end: None };
    engine.scan(table, all, Direction::Forward).inspect(|row| assert!(row.is_ok())).count()
}

/// The largest file with an extension.
pub(super) fn file(folder: &Path, extension: &str) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap_or_else(|| panic!("there is no .{extension} file"))
}

pub(super) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

pub(super) fn flip_bit(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn recovered_rows_are_in_table_files_once_open() {
    let folder = tempfile::tempdir().unwrap();
    crashed_log(folder.path());
    let log = folder.path().join("log");
    assert!(contents(&log).keys().all(|path| path.extension().is_none_or(|e| e != "sst")));
    let engine = RocksEngine::open_log(&log, &Tuning::small()).unwrap();
    assert_eq!(count(&engine, Table::RaftLog), ROWS as usize);
    assert!(fs::metadata(file(&log, "sst")).unwrap().len() > 0);
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_write_ahead_log_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    crashed_log(folder.path());
    let log = folder.path().join("log");
    let wal = file(&log, "log");
    flip_bit(&wal, fs::metadata(&wal).unwrap().len() as usize / 2);
    let error = RocksEngine::open_log(&log, &Tuning::small()).err().expect("damage was overlooked");
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
}

#[test]
fn a_torn_tail_of_the_write_ahead_log_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    crashed_log(folder.path());
    let log = folder.path().join("log");
    let wal = file(&log, "log");
    let length = fs::metadata(&wal).unwrap().len();
    fs::File::options().write(true).open(&wal).unwrap().set_len(length - 7).unwrap();
    let engine = RocksEngine::open_log(&log, &Tuning::small()).unwrap();
    assert_eq!(count(&engine, Table::RaftLog), ROWS as usize - 1);
}

#[test]
fn damage_in_a_table_file_is_noticed_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let engine = RocksEngine::open_state(&path, &Tuning::small()).unwrap();
    for number in 0..ROWS {
        engine.write(written(Table::Dedup, number), Durability::Flushed).unwrap();
    }
    engine.flush().unwrap();
    drop(engine);
    flip_bit(&file(&path, "sst"), 40);
    let engine = RocksEngine::open_state(&path, &Tuning::small()).unwrap();
    let all = KeyRange { start: Vec::new(), end: None };
    let result: Result<Vec<_>, _> = engine.scan(Table::Dedup, all, Direction::Forward).collect();
    assert!(matches!(result, Err(StorageError::Damaged { .. })));
    let key = 0u32.to_be_bytes();
    assert!(matches!(engine.get(Table::Dedup, &key), Err(StorageError::Damaged { .. })));
}

#[test]
fn damage_in_a_blob_file_is_noticed_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let engine = RocksEngine::open_state(&path, &Tuning::small()).unwrap();
    let mut payload = vec![0; 100_000];
    blake3::Hasher::new().finalize_xof().fill(&mut payload);
    let mut batch = Batch::default();
    batch.put(Table::Messages, b"large".to_vec(), payload.clone());
    engine.write(batch, Durability::Flushed).unwrap();
    engine.flush().unwrap();
    assert_eq!(engine.get(Table::Messages, b"large").unwrap().unwrap(), payload);
    drop(engine);
    flip_bit(&file(&path, "blob"), 50_000);
    let engine = RocksEngine::open_state(&path, &Tuning::small()).unwrap();
    assert!(matches!(engine.get(Table::Messages, b"large"), Err(StorageError::Damaged { .. })));
}

/// A state database with more table files than RocksDB looks at on opening, and with blob files.
fn many_files(path: &Path) {
    let engine = RocksEngine::open_state(path, &Tuning::small()).unwrap();
    for number in 0..3 {
        for table in Database::State.tables() {
            engine.write(written(*table, number), Durability::Flushed).unwrap();
        }
        let mut batch = Batch::default();
        let large = vec![number as u8; 100_000];
        batch.put(Table::Messages, format!("large {number}").into_bytes(), large);
        engine.write(batch, Durability::Flushed).unwrap();
        engine.flush().unwrap();
    }
}

#[test]
fn a_file_that_is_gone_or_cut_short_is_noticed_on_opening() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound");
    many_files(&sound);
    let names: Vec<_> = contents(&sound).into_keys().collect();
    let is_data = |path: &&PathBuf| path.extension().is_some_and(|e| e == "sst" || e == "blob");
    let data: Vec<_> = names.iter().filter(is_data).collect();
    assert!(data.len() > 16 && data.iter().any(|path| path.extension().unwrap() == "blob"));
    for (number, lost) in data.into_iter().enumerate() {
        let copy = folder.path().join(number.to_string());
        fs::create_dir(&copy).unwrap();
        copy_folder(&sound, &copy);
        let lost = copy.join(lost.file_name().unwrap());
        if number % 2 == 0 {
            fs::remove_file(&lost).unwrap();
        } else {
            let length = fs::metadata(&lost).unwrap().len();
            fs::File::options().write(true).open(&lost).unwrap().set_len(length - 1).unwrap();
        }
        for opened in [
            RocksEngine::open_read_only(&copy, Database::State, &Tuning::small()),
            RocksEngine::open_state(&copy, &Tuning::small()),
        ] {
            let error = opened.err().expect("damage was overlooked").to_string();
            let name = lost.file_stem().unwrap().to_str().unwrap();
            assert!(error.contains("damaged data in") && error.contains(name), "{error}");
        }
    }
    // Nothing is said of a sound one, also when compactions have replaced files.
    let engine = RocksEngine::open_state(&sound, &Tuning::small()).unwrap();
    for table in Database::State.tables() {
        let family = view::family(&engine.db, *table).unwrap();
        engine.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    }
    drop(engine);
    RocksEngine::open_state(&sound, &Tuning::small()).unwrap();
}

#[test]
fn a_file_that_vanishes_fails_the_database_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    many_files(&path);
    let engine = RocksEngine::open_state(&path, &Tuning::small()).unwrap();
    assert_eq!(engine.background_error(), None);
    fs::remove_file(file(&path, "blob")).unwrap();
    let all = KeyRange { start: Vec::new(), end: None };
    let result: Result<Vec<_>, _> = engine.scan(Table::Messages, all, Direction::Forward).collect();
    assert!(matches!(result, Err(StorageError::Damaged { .. })), "{result:?}");
    assert!(matches!(engine.background_error(), Some(StorageError::Damaged { .. })));
    assert!(engine.write(written(Table::Dedup, 1), Durability::Flushed).is_err());
}

#[test]
fn damage_that_a_compaction_meets_fails_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let engine = RocksEngine::open_state(&path, &Tuning::small()).unwrap();
    // The same keys twice: what does not overlap is moved without being read.
    for _ in 0..2 {
        for number in 0..ROWS {
            engine.write(written(Table::Dedup, number), Durability::Flushed).unwrap();
        }
        engine.flush().unwrap();
    }
    drop(engine);
    flip_bit(&file(&path, "sst"), 40);
    let engine = RocksEngine::open_state(&path, &Tuning::small()).unwrap();
    assert_eq!(engine.background_error(), None);
    let family = view::family(&engine.db, Table::Dedup).unwrap();
    engine.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    let error = engine.background_error();
    assert!(matches!(error, Some(StorageError::Damaged { .. })), "{error:?}");
}

#[test]
fn what_cannot_be_read_is_damage_and_what_passes_is_not() {
    let random_read = |system: &str| {
        format!("IO error: While open a file for random read: /data/state/000012.sst: {system}")
    };
    for damage in [
        &format!("IO error: No such file or directory: {}", &random_read("gone")[10..]),
        &random_read("Input/output error"),
        "IO error: While pread offset 4096 len 16384: /data/000012.blob: Input/output error",
        "IO error: While reading file sequentially: /data/log/MANIFEST-000004: I/O error",
        "IO error: While pread offset 0 len 53: /data/000012.sst: Structure needs cleaning",
        "IO error: While pread offset 0 len 53: /data/000012.sst: Bad message",
    ] {
        assert!(is_unreadable(damage), "{damage}");
    }
    for passes in [
        &random_read("Too many open files"),
        &random_read("Too many open files in system"),
        &random_read("Cannot allocate memory"),
        &random_read("Permission denied"),
        "IO error: While appending to file: /data/log/000012.log: Input/output error",
        "IO error: While fdatasync: /data/log/000012.log: Input/output error",
        "IO error: While appending to file: /spread/log/000012.log: Input/output error",
        "IO error: No such file or directory: While mkdir if missing: /data/state: \
         No such file or directory",
        "IO error: No space left on device: While appending to file: /data/log/000012.log: \
         No space left on device",
    ] {
        assert!(!is_unreadable(passes), "{passes}");
    }
}

#[test]
fn damage_that_only_a_reader_sees_fails_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open_state(&folder.path().join("state"), &Tuning::small()).unwrap();
    let failed = StorageError::Failed { action: "reading", reason: "too many files".to_owned() };
    engine.pin().note_damage(&failed);
    assert_eq!(engine.background_error(), None);
    let damaged = StorageError::Damaged { place: "here".to_owned(), reason: "so".to_owned() };
    engine.pin().note_damage(&damaged);
    assert_eq!(engine.background_error(), Some(damaged));
}

#[test]
fn what_stopped_a_replica_fails_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open_state(&folder.path().join("state"), &Tuning::small()).unwrap();
    engine.note_failure(&StorageError::Newer { what: "a record", found: 2, known: 1 });
    assert_eq!(engine.background_error(), None);
    let failed = StorageError::Failed { action: "reading", reason: "too many files".to_owned() };
    engine.note_failure(&failed);
    assert_eq!(engine.background_error(), Some(failed.clone()));
    assert_eq!(engine.flush(), Err(failed));
}

/// Breaks G11, and G2 with it, if it fails: a replica without some of its rows would take itself for whole.
#[test]
fn a_staging_area_that_is_not_whole_is_damage_for_which_nothing_is_removed() {
    let shorten: fn(&Path) = |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    };
    type Harm = (&'static str, fn(&Path));
    let harms: [Harm; 6] = [
        ("messages-000000.sst", |path| fs::remove_file(path).unwrap()),
        ("messages-000001.sst", |path| fs::remove_file(path).unwrap()),
        ("messages-000001.sst", shorten),
        ("SEALED", |path| fs::remove_file(path).unwrap()),
        ("SEALED", shorten),
        ("SEALED", |path| fs::write(path, b"").unwrap()),
    ];
    for (name, harm) in harms {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let engine = RocksEngine::open_state(&path, &Tuning::small()).unwrap();
        engine.write(written(Table::Messages, 1), Durability::Flushed).unwrap();
        let mut staging = engine.stage("area").unwrap();
        for number in 0..40_u32 {
            let noise = blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof();
            let mut value = vec![0; 4_000];
            { noise }.fill(&mut value);
            staging.put(Table::Messages, &number.to_be_bytes(), &value).unwrap();
        }
        staging.seal().unwrap();
        harm(&folder.path().join("staging").join("area").join(name));
        let all = KeyRange { start: Vec::new(), end: None };
        let refused = engine.bring_in("area", &[(Table::Messages, all)]).unwrap_err();
        assert!(matches!(refused, StorageError::Damaged { .. }), "{name}: {refused}");
        assert_eq!(count(&engine, Table::Messages), 1, "{name}");
        assert_eq!(engine.background_error(), Some(refused));
    }
}

#[test]
fn reading_only_sees_the_write_ahead_log_and_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    crashed_log(folder.path());
    let before = contents(folder.path());
    let log = folder.path().join("log");
    let engine = RocksEngine::open_read_only(&log, Database::Log, &Tuning::small()).unwrap();
    assert_eq!(count(&engine, Table::RaftLog), ROWS as usize);
    assert!(engine.write(written(Table::RaftLog, 1), Durability::Synced).is_err());
    assert!(engine.flush().is_err());
    drop(engine);
    assert!(contents(folder.path()) == before, "a file was made, changed or removed");
}

#[test]
fn reading_only_makes_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    assert!(RocksEngine::open_read_only(&absent, Database::State, &Tuning::small()).is_err());
    assert!(!absent.exists());
}

#[test]
fn a_flush_that_fails_stays_failed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let engine = RocksEngine::open_state(&path, &Tuning::small()).unwrap();
    engine.write(written(Table::Dedup, 1), Durability::Flushed).unwrap();
    // A flush cannot make its file in a folder that is gone.
    fs::rename(&path, folder.path().join("moved")).unwrap();
    assert!(engine.flush().is_err());
    assert!(engine.background_error().is_some());
    fs::rename(folder.path().join("moved"), &path).unwrap();
    assert!(engine.write(written(Table::Dedup, 2), Durability::Flushed).is_err());
    assert!(engine.flush().is_err());
}

#[tokio::test]
async fn hosted_tasks_have_timers_and_a_thread_that_bears_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open_log(&folder.path().join("log"), &Tuning::small()).unwrap();
    let (report, reported) = tokio::sync::oneshot::channel();
    let task = Box::pin(async move {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        let name = std::thread::current().name().map(str::to_owned);
        report.send(name).unwrap();
    });
    engine.host("hosted", task);
    assert_eq!(reported.await.unwrap().as_deref(), Some("hosted"));
}

#[tokio::test]
async fn offloaded_jobs_run() {
    let folder = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open_log(&folder.path().join("log"), &Tuning::small()).unwrap();
    let (report, reported) = tokio::sync::oneshot::channel();
    engine.offload(Box::new(move || report.send(1).unwrap()));
    assert_eq!(reported.await.unwrap(), 1);
}

/// Files of the table that were flushed and not compacted.
fn flushed_files(engine: &RocksEngine, table: Table) -> u64 {
    let family = view::family(&engine.db, table).unwrap();
    let files = engine.db.property_int_value_cf(family, "rocksdb.num-files-at-level0");
    files.unwrap().expect("RocksDB knows it")
}

/// Flushes more files of a table than are left alone, of half a MiB each.
fn flush_many(engine: &RocksEngine, table: Table) -> u64 {
    const FILES: u8 = 6;
    for number in 0..FILES {
        let mut batch = Batch::default();
        let mut noise = vec![0; 512 * 1024];
        blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut noise);
        batch.put(table, b"every file has it".to_vec(), noise.clone());
        batch.put(table, vec![number], noise);
        engine.write(batch, Durability::Flushed).unwrap();
        engine.flush().unwrap();
    }
    FILES.into()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("in a minute: {what}");
}

/// G12: what is left of a disk that is nearly full is not for compactions, from the opening on.
#[test]
fn compactions_are_held_and_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let short_of_room = Tuning { compact_free_bytes_min: u64::MAX, ..Tuning::small() };
    drop(RocksEngine::open_state(&path, &short_of_room).unwrap());
    for tuning in [short_of_room, Tuning::small()] {
        let engine = RocksEngine::open_state(&path, &tuning).unwrap();
        if tuning.compact_free_bytes_min == 0 {
            engine.hold_compactions(true).unwrap();
        }
        let files = flush_many(&engine, Table::Conversations);
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(flushed_files(&engine, Table::Conversations), files);
        engine.hold_compactions(false).unwrap();
        eventually("all are compacted", || flushed_files(&engine, Table::Conversations) == 0);
    }
}
