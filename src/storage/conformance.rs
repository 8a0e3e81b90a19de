//! What every engine has to do, run over each of them.

use std::sync::Arc;

use super::{
    Access, Batch, Database, Direction, Durability, Engine, KeyRange, MemoryDisk, MemoryEngine,
    StorageError, Table, View,
};

/// An engine under test together with what outlives it.
pub(crate) trait Subject: Sized {
    /// On an empty disk.
    fn create(database: Database) -> Self;
    /// The open engine. Borrowed, so that no test reads from a disk that is gone.
    fn engine(&self) -> &dyn Engine;
    /// The open engine, for what has to own it.
    fn shared(&self) -> Arc<dyn Engine>;
    /// The process dies without closing anything, and a new one opens what is on disk.
    fn crash(self) -> Self;
    /// Drops the engine; its disk stays as long as what is returned.
    fn close(self) -> impl Sized;
}

pub(crate) struct Memory {
    disk: MemoryDisk,
    engine: Arc<MemoryEngine>,
}

impl Subject for Memory {
    fn create(database: Database) -> Self {
        let disk = MemoryDisk::new(database);
        let engine = Arc::new(disk.open());
        Memory { disk, engine }
    }

    fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    fn shared(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    fn crash(self) -> Self {
        self.disk.crash();
        let engine = Arc::new(self.disk.open());
        Memory { disk: self.disk, engine }
    }

    fn close(self) -> impl Sized {
        self.disk
    }
}

#[cfg(feature = "rocksdb")]
pub(crate) struct Rocks {
    database: Database,
    folder: tempfile::TempDir,
    engine: Arc<super::RocksEngine>,
}

#[cfg(feature = "rocksdb")]
impl Rocks {
    fn open_in(database: Database, folder: tempfile::TempDir) -> Self {
        use super::{RocksEngine, Tuning};
        let engine = match database {
            Database::Log => RocksEngine::open_log(&folder.path().join("db"), &Tuning::small()),
            Database::State => RocksEngine::open_state(&folder.path().join("db"), &Tuning::small()),
        };
        Rocks { database, folder, engine: Arc::new(engine.unwrap()) }
    }
}

#[cfg(feature = "rocksdb")]
impl Subject for Rocks {
    fn create(database: Database) -> Self {
        Self::open_in(database, tempfile::tempdir().unwrap())
    }

    fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    fn shared(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    /// Opens a copy of the files made while the database was open: closing it would flush.
    fn crash(self) -> Self {
        // A crash stops all files at one moment, so a copy counts only if no compaction changed any meanwhile.
        let copy = loop {
            let copy = tempfile::tempdir().unwrap();
            let before = sizes(self.folder.path());
            copy_folder(self.folder.path(), copy.path());
            if sizes(self.folder.path()) == before {
                break copy;
            }
        };
        Self::open_in(self.database, copy)
    }

    fn close(self) -> impl Sized {
        self.folder
    }
}

/// Every file below a folder and its size.
#[cfg(feature = "rocksdb")]
fn sizes(folder: &std::path::Path) -> std::collections::BTreeMap<std::path::PathBuf, u64> {
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.metadata() {
            Ok(file) if file.is_dir() => found.extend(sizes(&entry.path())),
            Ok(file) => drop(found.insert(entry.path(), file.len())),
            // Removed since it was listed: the listing after the copy differs.
            Err(_) => drop(found.insert(entry.path(), u64::MAX)),
        }
    }
    found
}

#[cfg(feature = "rocksdb")]
pub(super) fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            match std::fs::copy(entry.path(), target) {
                // Removed by a compaction since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => {
                    copied.unwrap();
                }
            }
        }
    }
}

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name::<super::Memory>(); })*
        }
        #[cfg(feature = "rocksdb")]
        mod rocks {
            $(#[test] fn $name() { super::$name::<super::Rocks>(); })*
        }
    };
}

conformance!(
    rows_are_set_replaced_and_removed,
    scans_keep_to_their_range_in_both_directions,
    a_visit_shows_the_rows_of_a_scan,
    a_batch_applies_in_order,
    open_ended_ranges_reach_the_last_key,
    a_scan_and_a_pin_see_one_moment,
    a_synced_write_survives_a_crash,
    a_flush_is_all_or_nothing_over_all_tables,
    writes_of_the_other_kind_are_refused,
    staged_rows_replace_a_range,
    bringing_in_can_be_repeated,
    rows_staged_for_other_tables_stay_outside,
    unsealed_rows_cannot_be_brought_in,
    staging_areas_are_listed_and_removed,
    staged_keys_have_to_ascend,
    a_large_staging_area_comes_in_whole,
);

fn put<E: Engine + ?Sized>(engine: &E, table: Table, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(table, key.to_vec(), value.to_vec());
    let durability = match Database::Log.check_table(table) {
        Ok(()) => Durability::Synced,
        Err(_) => Durability::Flushed,
    };
    engine.write(batch, durability).unwrap();
}

fn rows<V: View + ?Sized>(view: &V, table: Table, range: KeyRange) -> Vec<(Vec<u8>, Vec<u8>)> {
    view.scan(table, range, Direction::Forward)
        .map(|row| row.unwrap())
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect()
}

fn row(key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), value.to_vec())
}

fn range(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange { start: start.to_vec(), end: Some(end.to_vec()) }
}

fn all() -> KeyRange {
    KeyRange { start: Vec::new(), end: None }
}

fn stage<E: Engine + ?Sized>(engine: &E, name: &str, rows: &[(Table, &[u8], &[u8])]) {
    let mut staging = engine.stage(name).unwrap();
    for (table, key, value) in rows {
        staging.put(*table, key, value).unwrap();
    }
    staging.seal().unwrap();
}

fn rows_are_set_replaced_and_removed<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    assert_eq!(engine.get(Table::Dedup, b"a").unwrap(), None);
    put(engine, Table::Dedup, b"a", b"1");
    put(engine, Table::Cursors, b"a", b"of another table");
    put(engine, Table::Dedup, b"a", b"2");
    assert_eq!(engine.get(Table::Dedup, b"a").unwrap().unwrap(), b"2"[..]);
    let mut batch = Batch::default();
    batch.delete(Table::Dedup, b"a".to_vec());
    batch.delete(Table::Dedup, b"never there".to_vec());
    engine.write(batch, Durability::Flushed).unwrap();
    assert_eq!(engine.get(Table::Dedup, b"a").unwrap(), None);
    assert!(engine.get(Table::Cursors, b"a").unwrap().is_some());
    assert_eq!(engine.background_error(), None);
}

fn scans_keep_to_their_range_in_both_directions<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    for (number, key) in [&b"a"[..], b"b", b"b\0", b"bb", b"c", b"\xff\xff"].iter().enumerate() {
        put(engine, Table::Messages, key, &[number as u8]);
        if number == 2 {
            engine.flush().unwrap();
        }
    }
    let inside = [row(b"b", &[1]), row(b"b\0", &[2]), row(b"bb", &[3])];
    assert_eq!(rows(engine, Table::Messages, range(b"b", b"c")), inside);
    let backward = engine.scan(Table::Messages, range(b"b", b"c"), Direction::Backward);
    let backward: Vec<_> = backward.map(|row| row.unwrap().0.to_vec()).collect();
    assert_eq!(backward, [&b"bb"[..], b"b\0", b"b"]);
    assert_eq!(rows(engine, Table::Messages, all()).len(), 6);
    let last = engine.scan(Table::Messages, all(), Direction::Backward).next().unwrap().unwrap();
    assert_eq!(last.0, b"\xff\xff"[..]);
    assert!(rows(engine, Table::Messages, range(b"c", b"b")).is_empty(), "turned around");
    assert!(rows(engine, Table::Messages, range(b"b", b"b")).is_empty());
    assert!(rows(engine, Table::Cursors, all()).is_empty());
}

fn a_visit_shows_the_rows_of_a_scan<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    for (number, key) in [&b"a"[..], b"b", b"bb", b"c", b"d"].iter().enumerate() {
        put(engine, Table::Messages, key, &[number as u8; 2_000]);
        if number == 2 {
            engine.flush().unwrap();
        }
    }
    let pin = engine.pin();
    put(engine, Table::Messages, b"bbb", b"later");
    let ranges =
        [all(), range(b"b", b"d"), range(b"b", b"b"), range(b"c", b"b"), range(b"x", b"y")];
    for (range, direction, access) in ranges.iter().flat_map(|range| {
        let both = [(Direction::Forward, Access::Once), (Direction::Backward, Access::Often)];
        both.map(|(direction, access)| (range, direction, access))
    }) {
        let scanned = pin.scan(Table::Messages, range.clone(), direction);
        let scanned: Vec<_> = scanned.map(|row| row.unwrap()).collect();
        for stop_after in 1..=scanned.len().max(1) {
            let mut seen = Vec::new();
            let mut visit = |key: &[u8], value: &[u8]| {
                seen.push((key.to_vec().into(), value.to_vec().into()));
                Ok(seen.len() < stop_after)
            };
            pin.visit(Table::Messages, range.clone(), direction, access, &mut visit).unwrap();
            assert_eq!(seen, scanned[..stop_after.min(scanned.len())]);
        }
    }
    let failed = StorageError::Failed { action: "visiting", reason: "the visitor says so".into() };
    let mut visit = |_: &[u8], _: &[u8]| Err(failed.clone());
    let visited = pin.visit(Table::Messages, all(), Direction::Forward, Access::Once, &mut visit);
    assert_eq!(visited, Err(failed.clone()));
}

fn a_batch_applies_in_order<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    let mut batch = Batch::default();
    batch.put(Table::Dedup, b"a".to_vec(), b"1".to_vec());
    batch.put(Table::Dedup, b"b".to_vec(), b"1".to_vec());
    batch.delete_range(Table::Dedup, range(b"a", b"c"));
    batch.delete_range(Table::Dedup, range(b"z", b"a"));
    batch.put(Table::Dedup, b"b".to_vec(), b"2".to_vec());
    engine.write(batch, Durability::Flushed).unwrap();
    assert_eq!(rows(engine, Table::Dedup, all()), [row(b"b", b"2")]);
}

fn open_ended_ranges_reach_the_last_key<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    put(engine, Table::Dedup, b"a", b"1");
    put(engine, Table::Dedup, &[0xff; 402], b"2");
    let mut batch = Batch::default();
    batch.delete_range(Table::Dedup, KeyRange { start: b"b".to_vec(), end: None });
    engine.write(batch, Durability::Flushed).unwrap();
    assert_eq!(rows(engine, Table::Dedup, all()), [row(b"a", b"1")]);
}

fn a_scan_and_a_pin_see_one_moment<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    put(engine, Table::Dedup, b"a", b"1");
    put(engine, Table::Dedup, b"b", b"1");
    let pin = engine.pin();
    let mut scan = engine.scan(Table::Dedup, all(), Direction::Forward);
    put(engine, Table::Dedup, b"a", b"2");
    put(engine, Table::Dedup, b"c", b"2");
    let mut batch = Batch::default();
    batch.delete_range(Table::Dedup, range(b"b", b"c"));
    engine.write(batch, Durability::Flushed).unwrap();
    engine.flush().unwrap();

    let before = [row(b"a", b"1"), row(b"b", b"1")];
    assert_eq!(scan.next().unwrap().unwrap().1, b"1"[..]);
    assert_eq!(scan.count(), 1);
    assert_eq!(rows(&*pin, Table::Dedup, all()), before);
    assert_eq!(pin.get(Table::Dedup, b"a").unwrap().unwrap(), b"1"[..]);
    assert_eq!(pin.get(Table::Dedup, b"c").unwrap(), None);
    assert_eq!(rows(engine, Table::Dedup, all()), [row(b"a", b"2"), row(b"c", b"2")]);
    let _disk = subject.close();
    assert_eq!(rows(&*pin, Table::Dedup, all()), before, "a pin holds what it needs");
}

fn a_synced_write_survives_a_crash<S: Subject>() {
    let subject = S::create(Database::Log);
    put(subject.engine(), Table::RaftLog, b"a", b"1");
    put(subject.engine(), Table::RaftMeta, b"a", b"2");
    let subject = subject.crash();
    assert_eq!(rows(subject.engine(), Table::RaftLog, all()), [row(b"a", b"1")]);
    let subject = subject.crash();
    assert_eq!(rows(subject.engine(), Table::RaftMeta, all()), [row(b"a", b"2")]);
}

fn a_flush_is_all_or_nothing_over_all_tables<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    for table in Table::STATE {
        put(engine, *table, b"a", b"flushed");
    }
    engine.flush().unwrap();
    for table in Table::STATE {
        put(engine, *table, b"a", b"not flushed");
    }
    let subject = subject.crash();
    let engine = subject.engine();
    for table in Table::STATE {
        assert_eq!(rows(engine, *table, all()), [row(b"a", b"flushed")], "{}", table.name());
    }
}

fn writes_of_the_other_kind_are_refused<S: Subject>() {
    let mut batch = Batch::default();
    batch.put(Table::Dedup, b"a".to_vec(), b"1".to_vec());
    let state = S::create(Database::State);
    assert!(state.engine().write(batch.clone(), Durability::Synced).is_err());
    let log = S::create(Database::Log);
    assert!(log.engine().write(Batch::default(), Durability::Flushed).is_err());
    assert!(log.engine().write(batch, Durability::Synced).is_err());
    assert!(log.engine().get(Table::Dedup, b"a").is_err());
    assert!(log.engine().scan(Table::Dedup, all(), Direction::Forward).next().unwrap().is_err());
    assert_eq!(log.engine().background_error(), None, "a refusal is no failure of the disk");
    assert_eq!(state.engine().background_error(), None);
}

fn staged_rows_replace_a_range<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    for key in [b"a", b"b", b"c", b"d"] {
        put(engine, Table::Messages, key, b"old");
        put(engine, Table::Dedup, key, b"old");
    }
    stage(
        engine,
        "one",
        &[
            (Table::Messages, b"b", b"new"),
            (Table::Dedup, b"b", b"new"),
            (Table::Messages, b"bb", b"new"),
        ],
    );
    assert_eq!(rows(engine, Table::Messages, all()).len(), 4, "staged rows are outside");
    let clear = [
        (Table::Messages, range(b"b", b"c")),
        (Table::Messages, range(b"d", b"e")),
        (Table::Dedup, range(b"b", b"d")),
    ];
    engine.bring_in("one", &clear).unwrap();
    let messages = [row(b"a", b"old"), row(b"b", b"new"), row(b"bb", b"new"), row(b"c", b"old")];
    assert_eq!(rows(engine, Table::Messages, all()), messages);
    let subject = subject.crash();
    let engine = subject.engine();
    assert_eq!(rows(engine, Table::Messages, all()), messages, "durable on return");
    let dedup = [row(b"a", b"old"), row(b"b", b"new"), row(b"d", b"old")];
    assert_eq!(rows(engine, Table::Dedup, all()), dedup);
}

fn bringing_in_can_be_repeated<S: Subject>() {
    let subject = S::create(Database::State);
    stage(subject.engine(), "one", &[(Table::Messages, b"b", b"new")]);
    let clear = [(Table::Messages, range(b"b", b"c"))];
    subject.engine().bring_in("one", &clear).unwrap();
    put(subject.engine(), Table::Messages, b"b", b"changed");
    put(subject.engine(), Table::Messages, b"b2", b"changed");
    subject.engine().bring_in("one", &clear).unwrap();
    let subject = subject.crash();
    subject.engine().bring_in("one", &clear).unwrap();
    assert_eq!(rows(subject.engine(), Table::Messages, all()), [row(b"b", b"new")]);
}

fn rows_staged_for_other_tables_stay_outside<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    let staged: [(Table, &[u8], &[u8]); 2] =
        [(Table::Messages, b"b", b"new"), (Table::Topology, b"t", b"new")];
    stage(engine, "one", &staged);
    engine.bring_in("one", &[(Table::Messages, all()), (Table::Cursors, all())]).unwrap();
    assert!(rows(engine, Table::Topology, all()).is_empty());
    assert_eq!(rows(engine, Table::Messages, all()).len(), 1);
}

fn unsealed_rows_cannot_be_brought_in<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    let mut staging = engine.stage("one").unwrap();
    staging.put(Table::Messages, b"b", b"new").unwrap();
    assert!(engine.bring_in("one", &[(Table::Messages, all())]).is_err());
}

fn staging_areas_are_listed_and_removed<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    assert!(engine.staged().unwrap().is_empty());
    stage(engine, "two", &[(Table::Messages, b"b", b"new")]);
    stage(engine, "one", &[]);
    let unsealed = engine.stage("three").unwrap();
    drop(unsealed);
    assert_eq!(engine.staged().unwrap(), ["one", "three", "two"]);
    stage(engine, "two", &[(Table::Messages, b"c", b"newer")]);
    engine.bring_in("two", &[(Table::Messages, all())]).unwrap();
    assert_eq!(rows(engine, Table::Messages, all()), [row(b"c", b"newer")]);
    for name in ["one", "two", "three", "never-there"] {
        engine.unstage(name).unwrap();
    }
    assert!(engine.staged().unwrap().is_empty());
    for name in ["", "..", "a/b", "a b"] {
        assert!(engine.stage(name).is_err(), "{name:?}");
        assert!(engine.unstage(name).is_err(), "{name:?}");
    }
}

fn staged_keys_have_to_ascend<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    let mut staging = engine.stage("one").unwrap();
    staging.put(Table::Messages, b"b", b"1").unwrap();
    staging.put(Table::Dedup, b"a", b"1").unwrap();
    let error = staging.put(Table::Messages, b"a", b"1").unwrap_err();
    assert!(matches!(error, StorageError::Failed { .. }));
    assert_eq!(engine.background_error(), None);
}

fn a_large_staging_area_comes_in_whole<S: Subject>() {
    let subject = S::create(Database::State);
    let engine = subject.engine();
    let mut staging = engine.stage("one").unwrap();
    // Random enough not to be compressed away: several files of a small tuning.
    let value = |number: u32| -> Vec<u8> {
        let mut bytes = vec![0; 3000];
        blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    for number in 0..200u32 {
        staging.put(Table::Messages, &number.to_be_bytes(), &value(number)).unwrap();
    }
    staging.seal().unwrap();
    engine.bring_in("one", &[(Table::Messages, all())]).unwrap();
    let subject = subject.crash();
    let engine = subject.engine();
    let found = rows(engine, Table::Messages, all());
    assert_eq!(found.len(), 200);
    for (number, (key, stored)) in (0u32..).zip(found) {
        assert_eq!((key, stored), (number.to_be_bytes().to_vec(), value(number)));
    }
}
