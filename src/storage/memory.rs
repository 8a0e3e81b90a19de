//! The engine in memory: what simulations and tests run on. It keeps what is durable apart from what is not, so
//! that a crash loses exactly what it may lose.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use imbl::OrdMap;

use super::engine::{check_staging_name, is_empty};
use super::{
    Batch, Database, Direction, Durability, Engine, KeyRange, Op, Rows, Staging, StorageError,
    Table, View,
};
use crate::seams::{crash, planted};

const CHANGING: &str = "changing a disk in memory";
const READING: &str = "reading a disk in memory";

/// The rows of one table. Clones share structure, so that pinning costs nothing.
type TableRows = OrdMap<Vec<u8>, Bytes>;
type Tables = BTreeMap<Table, TableRows>;

/// A disk that outlives the engines opened on it. Clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk {
    database: Database,
    inner: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    live: Tables,
    durable: Tables,
    staged: BTreeMap<String, StagedRows>,
    /// Counts crashes: engines of an earlier life are dead.
    life: u64,
    failing: Option<String>,
    unreadable: Option<String>,
    hangs: bool,
    holds_compactions: bool,
    steps_until_crash: Option<usize>,
}

#[derive(Clone, Default)]
struct StagedRows {
    tables: Tables,
    sealed: bool,
}

/// One of a node's two databases, in memory.
pub struct MemoryEngine {
    disk: MemoryDisk,
    life: u64,
    failure: Arc<OnceLock<StorageError>>,
}

impl MemoryDisk {
    /// An empty disk for one of the databases.
    pub fn new(database: Database) -> Self {
        MemoryDisk { database, inner: Arc::default() }
    }

    /// An engine on what the disk holds.
    pub fn open(&self) -> MemoryEngine {
        MemoryEngine { disk: self.clone(), life: self.lock().life, failure: Arc::default() }
    }

    /// Loses what is not durable, as a power cut does. Engines that are open fail from now on.
    pub fn crash(&self) {
        self.lock().crash();
    }

    /// Crashes in place of the step that follows `steps` more ones that change the disk: writes, flushes, each
    /// table brought in, and beginning, sealing and removing a staging area.
    pub fn crash_after(&self, steps: usize) {
        self.lock().steps_until_crash = Some(steps);
    }

    /// How often it has crashed.
    pub fn crashes(&self) -> u64 {
        self.lock().life
    }

    /// Makes every further change fail with this reason, or succeed again.
    pub fn set_failing(&self, reason: Option<&str>) {
        self.lock().failing = reason.map(str::to_owned);
    }

    /// Makes every further read fail with this reason, or succeed again: what passes, and damages nothing. A state that is
    /// pinned already is read all the same.
    pub fn set_unreadable(&self, reason: Option<&str>) {
        self.lock().unreadable = reason.map(str::to_owned);
    }

    /// Lets no further synced write come to an end, or fail.
    pub fn hang(&self) {
        self.lock().hangs = true;
    }

    /// Whether an engine was told to let no compaction begin. It has none.
    pub fn holds_compactions(&self) -> bool {
        self.lock().holds_compactions
    }

    /// Replaces a row behind the engine's back, as a damaged disk does; none removes it.
    pub fn damage(&self, table: Table, key: &[u8], value: Option<Vec<u8>>) {
        let mut disk = self.lock();
        let Disk { live, durable, .. } = &mut *disk;
        for tables in [live, durable] {
            let rows = tables.entry(table).or_default();
            match &value {
                Some(value) => rows.insert(key.to_vec(), Bytes::from(value.clone())),
                None => rows.remove(key),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.inner.lock().expect("no panic while locked")
    }
}

impl Disk {
    fn crash(&mut self) {
        self.live = self.durable.clone();
        self.staged.retain(|_, staged| staged.sealed);
        self.life += 1;
        self.steps_until_crash = None;
    }

    /// Called before each change.
    fn step(&mut self, life: u64) -> Result<(), StorageError> {
        if self.steps_until_crash == Some(0) {
            self.crash();
        }
        self.check_alive(life, CHANGING)?;
        if let Some(reason) = &self.failing {
            return Err(StorageError::Failed { action: CHANGING, reason: reason.clone() });
        }
        if let Some(steps) = &mut self.steps_until_crash {
            *steps -= 1;
        }
        Ok(())
    }

    /// An engine of an earlier life does nothing any more.
    fn check_alive(&self, life: u64, action: &'static str) -> Result<(), StorageError> {
        let reason = || "the node has crashed".to_owned();
        let dead = || StorageError::Failed { action, reason: reason() };
        (self.life == life).then_some(()).ok_or_else(dead)
    }

    fn apply(&mut self, batch: Batch) {
        for op in batch.ops {
            match op {
                Op::Put(table, key, value) => {
                    self.live.entry(table).or_default().insert(key, Bytes::from(value));
                }
                Op::Delete(table, key) => {
                    self.live.entry(table).or_default().remove(&key);
                }
                Op::DeleteRange(table, range) => {
                    remove_range(self.live.entry(table).or_default(), &range);
                }
            }
        }
    }
}

impl MemoryEngine {
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Disk) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        let mut disk = self.disk.lock();
        disk.step(self.life).and_then(|()| change(&mut disk)).inspect_err(|error| {
            if !planted::ignore_eio() {
                let _ = self.failure.set(error.clone());
            }
        })
    }

    fn check_readable(&self) -> Result<(), StorageError> {
        let disk = self.disk.lock();
        disk.check_alive(self.life, READING)?;
        disk.unreadable
            .clone()
            .map_or(Ok(()), |reason| Err(StorageError::Failed { action: READING, reason }))
    }

    fn view(&self) -> PinnedTables {
        PinnedTables {
            database: self.disk.database,
            tables: self.disk.lock().live.clone(),
            failure: self.failure.clone(),
        }
    }
}

impl View for MemoryEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.disk.database.check_table(table)?;
        self.check_readable()?;
        Ok(self.disk.lock().live.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn note_damage(&self, error: &StorageError) {
        note_damage(&self.failure, error);
    }

    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_> {
        match self.check_readable() {
            Ok(()) => self.view().into_scan(table, range, direction),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }
}

impl Engine for MemoryEngine {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        self.disk.database.check(&batch, durability)?;
        self.change(|disk| {
            disk.apply(batch);
            if durability == Durability::Synced {
                disk.durable = disk.live.clone();
            }
            Ok(())
        })
    }

    fn write_synced(&self, batch: Batch) -> BoxFuture<'_, Result<(), StorageError>> {
        let hangs = self.disk.lock().hangs;
        Box::pin(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            self.write(batch, Durability::Synced)
        })
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.change(|disk| {
            for table in self.disk.database.flushed_tables() {
                let rows = disk.live.get(table).cloned().unwrap_or_default();
                disk.durable.insert(*table, rows);
            }
            Ok(())
        })
    }

    fn pin(&self) -> Arc<dyn View> {
        let is_alive = self.disk.lock().check_alive(self.life, READING);
        match is_alive {
            Ok(()) => Arc::new(self.view()),
            Err(error) => Arc::new(NothingThere(error)),
        }
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Staging>, StorageError> {
        check_staging_name(name)?;
        self.change(|disk| {
            disk.staged.insert(name.to_owned(), StagedRows::default());
            Ok(())
        })?;
        Ok(Box::new(MemoryStaging {
            disk: self.disk.clone(),
            life: self.life,
            name: name.to_owned(),
            rows: StagedRows::default(),
        }))
    }

    fn bring_in(&self, name: &str, clear: &[(Table, KeyRange)]) -> Result<(), StorageError> {
        for (table, _) in clear {
            self.disk.database.check_table(*table)?;
        }
        let staged = self.change(|disk| {
            let staged = disk.staged.get(name).filter(|staged| staged.sealed).cloned();
            let staged = staged.ok_or_else(|| StorageError::Damaged {
                place: format!("staging area {name}"),
                reason: "it is not sealed".to_owned(),
            })?;
            for (table, range) in clear {
                remove_range(disk.live.entry(*table).or_default(), range);
            }
            disk.durable = disk.live.clone();
            Ok(staged)
        })?;
        crash::install_cleared();
        let tables: BTreeSet<Table> = clear.iter().map(|(table, _)| *table).collect();
        for table in tables {
            let Some(rows) = staged.tables.get(&table) else { continue };
            self.change(|disk| {
                let Disk { live, durable, .. } = disk;
                for tables in [live, durable] {
                    tables.entry(table).or_default().extend(rows.clone());
                }
                Ok(())
            })?;
            crash::install_ingested();
        }
        Ok(())
    }

    fn unstage(&self, name: &str) -> Result<(), StorageError> {
        check_staging_name(name)?;
        self.change(|disk| {
            disk.staged.remove(name);
            Ok(())
        })
    }

    fn staged(&self) -> Result<Vec<String>, StorageError> {
        Ok(self.disk.lock().staged.keys().cloned().collect())
    }

    fn offload(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }

    fn host(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn hold_compactions(&self, hold: bool) -> Result<(), StorageError> {
        self.disk.lock().holds_compactions = hold;
        Ok(())
    }

    fn note_failure(&self, error: &StorageError) {
        if error.stops_a_node() {
            let _ = self.failure.set(error.clone());
        }
    }

    fn background_error(&self) -> Option<StorageError> {
        self.failure.get().cloned()
    }
}

/// A staging area being filled.
struct MemoryStaging {
    disk: MemoryDisk,
    life: u64,
    name: String,
    rows: StagedRows,
}

impl Staging for MemoryStaging {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.disk.database.check_table(table)?;
        let rows = self.rows.tables.entry(table).or_default();
        if rows.get_max().is_some_and(|(last, _)| key <= &last[..]) {
            return Err(StorageError::Failed {
                action: "staging a row",
                reason: format!("the keys of {} do not ascend", table.name()),
            });
        }
        rows.insert(key.to_vec(), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn seal(mut self: Box<Self>) -> Result<(), StorageError> {
        let mut disk = self.disk.lock();
        disk.step(self.life)?;
        self.rows.sealed = true;
        disk.staged.insert(self.name, self.rows);
        Ok(())
    }
}

/// The tables at one moment.
#[derive(Clone)]
struct PinnedTables {
    database: Database,
    tables: Tables,
    failure: Arc<OnceLock<StorageError>>,
}

impl PinnedTables {
    fn into_scan<'a>(mut self, table: Table, range: KeyRange, direction: Direction) -> Rows<'a> {
        if let Err(error) = self.database.check_table(table) {
            return Box::new(std::iter::once(Err(error)));
        }
        if is_empty(&range) {
            return Box::new(std::iter::empty());
        }
        let rows = self.tables.remove(&table).unwrap_or_default();
        let end = range.end.map_or(Bound::Unbounded, Bound::Excluded);
        let mut left = (Bound::Included(range.start), end);
        // A cursor over rows that the iterator owns: each step looks up the one that follows.
        Box::new(std::iter::from_fn(move || {
            let (key, value) = match direction {
                Direction::Forward => rows.range(left.clone()).next()?,
                Direction::Backward => rows.range(left.clone()).next_back()?,
            };
            match direction {
                Direction::Forward => left.0 = Bound::Excluded(key.clone()),
                Direction::Backward => left.1 = Bound::Excluded(key.clone()),
            }
            Some(Ok((Bytes::from(key.clone()), value.clone())))
        }))
    }
}

impl View for PinnedTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.database.check_table(table)?;
        Ok(self.tables.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn note_damage(&self, error: &StorageError) {
        note_damage(&self.failure, error);
    }

    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_> {
        self.clone().into_scan(table, range, direction)
    }
}

/// What an engine of an earlier life pins.
struct NothingThere(StorageError);

impl View for NothingThere {
    fn get(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Err(self.0.clone())
    }

    fn note_damage(&self, _: &StorageError) {}

    fn scan(&self, _: Table, _: KeyRange, _: Direction) -> Rows<'_> {
        Box::new(std::iter::once(Err(self.0.clone())))
    }
}

fn note_damage(failure: &OnceLock<StorageError>, error: &StorageError) {
    if matches!(error, StorageError::Damaged { .. }) {
        let _ = failure.set(error.clone());
    }
}

fn remove_range(rows: &mut TableRows, range: &KeyRange) {
    if is_empty(range) {
        return;
    }
    let end = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
    let keys: Vec<Vec<u8>> = rows
        .range((Bound::Included(range.start.clone()), end))
        .map(|(key, _)| key.clone())
        .collect();
    for key in keys {
        rows.remove(&key);
    }
}

#[test]
fn an_engine_of_an_earlier_life_reads_nothing() {
    let disk = MemoryDisk::new(Database::State);
    let dead = disk.open();
    disk.crash();
    let (table, range) = (Table::STATE[0], || KeyRange { start: Vec::new(), end: None });
    for view in [&dead as &dyn View, &*dead.pin()] {
        assert!(view.get(table, b"key").is_err());
        assert!(view.scan(table, range(), Direction::Forward).next().unwrap().is_err());
    }
    assert_eq!(disk.open().get(table, b"key"), Ok(None));
}
