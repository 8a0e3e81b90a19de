//! The engine on RocksDB. Nothing outside this folder names the crate, and no thread is started elsewhere.

#![allow(
    clippy::disallowed_methods,
    reason = "threads for blocking work start here and nowhere else"
)]

mod expiry;
mod files;
mod options;
mod staging;
mod torn_tail;
mod view;

#[cfg(test)]
mod expiry_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod torn_tail_tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use rocksdb::properties::BACKGROUND_ERRORS;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, ErrorKind, FlushOptions, WriteBatch, WriteOptions,
};

use super::engine::is_empty;
use super::{
    Batch, Database, Direction, Durability, Engine, KeyRange, Op, Rows, Staging, StorageError,
    Table, Tuning, View, free_bytes,
};
use crate::seams::{crash, planted};
use expiry::ExpiryFloors;
use view::{Failure, PinnedView};

/// Above every key of every table: keys are shorter and never this many 0xff bytes. RocksDB knows no range without
/// an end.
const ABOVE_ALL_KEYS: [u8; 1024] = [0xff; 1024];

/// One of a node's two databases, on RocksDB.
pub struct RocksEngine {
    db: Arc<DB>,
    database: Database,
    tuning: Tuning,
    staging: PathBuf,
    read_only: bool,
    expiry: ExpiryFloors,
    failure: Arc<Failure>,
    holds_compactions: Mutex<bool>,
}

impl RocksEngine {
    /// Opens or creates the log database. What its write-ahead log holds is in durable table files when this
    /// returns. Blocks. Damage in the middle of the write-ahead log is an error; a torn tail is cut off. Whether that
    /// was more than a write that was never reported done, the watermark tells.
    pub fn open_log(path: &Path, tuning: &Tuning) -> Result<Self, StorageError> {
        Self::open(path, Database::Log, tuning, false)
    }

    /// Opens or creates the state database, as of its last completed flush. Blocks. Staging areas are folders in
    /// `staging` beside it.
    pub fn open_state(path: &Path, tuning: &Tuning) -> Result<Self, StorageError> {
        Self::open(path, Database::State, tuning, false)
    }

    /// Opens either database for reading only: writes no file and fails if there is none. What the write-ahead log
    /// holds is visible; one that is torn, and not only shortened, is not read.
    pub fn open_read_only(
        path: &Path,
        database: Database,
        tuning: &Tuning,
    ) -> Result<Self, StorageError> {
        Self::open(path, database, tuning, true)
    }

    fn open(
        path: &Path,
        database: Database,
        tuning: &Tuning,
        read_only: bool,
    ) -> Result<Self, StorageError> {
        // The crate creates the folder even then, and `check` must leave no trace.
        if read_only && !path.join("CURRENT").exists() {
            return Err(StorageError::Damaged {
                place: path.display().to_string(),
                reason: "there is no database".to_owned(),
            });
        }
        let expiry = ExpiryFloors::default();
        // Whatever fails to say how much is free fails to open too, or there is nothing to compact yet.
        let free = free_bytes(path).unwrap_or(u64::MAX);
        let hold = free < tuning.compact_free_bytes_min;
        let open = || {
            let tables = options::of_tables(database, tuning, &expiry, hold);
            open_database(path, database, tuning, tables, read_only)
        };
        let db = match open() {
            Err(error @ StorageError::Damaged { .. }) => {
                let torn = torn_tail::of_database(path)?;
                let Some((first, _)) = torn.first() else { return Err(error) };
                if read_only {
                    return Err(StorageError::Torn { place: first.display().to_string() });
                }
                for (file, tail) in &torn {
                    torn_tail::cut(file, tail)?;
                }
                open()?
            }
            opened => opened?,
        };
        files::check(&db, database, read_only)?;
        let failure = Arc::new(Failure::default());
        if database == Database::State {
            let whole = KeyRange { start: Vec::new(), end: None };
            let rows = view::scan(&db, &failure, None, Table::Groups, whole, Direction::Forward);
            expiry.begin(rows)?;
        }
        let staging = path.parent().unwrap_or(Path::new(".")).join("staging");
        Ok(RocksEngine {
            db: Arc::new(db),
            database,
            tuning: tuning.clone(),
            staging,
            read_only,
            expiry,
            failure,
            holds_compactions: Mutex::new(hold),
        })
    }

    /// After a failed write what is on disk is not known: nothing is written any more.
    fn check_writable(&self) -> Result<(), StorageError> {
        if self.read_only {
            return Err(StorageError::Failed {
                action: "writing",
                reason: "the database was opened for reading only".to_owned(),
            });
        }
        self.failure.get().cloned().map_or(Ok(()), Err)
    }

    fn sticky<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if planted::ignore_eio() {
            return result;
        }
        result.inspect_err(|error| {
            let _ = self.failure.set(error.clone());
        })
    }

    fn rocks_batch(&self, batch: &Batch) -> Result<WriteBatch, StorageError> {
        let mut out = WriteBatch::with_capacity_bytes(batch.ops.iter().map(bytes_in).sum());
        // The changes of one table mostly stand together.
        let mut last: Option<(Table, &ColumnFamily)> = None;
        for op in &batch.ops {
            let family = match last.filter(|(table, _)| *table == op.table()) {
                Some((_, family)) => family,
                None => view::family(&self.db, op.table())?,
            };
            last = Some((op.table(), family));
            match op {
                Op::Put(_, key, value) => out.put_cf(family, key, value),
                Op::Delete(_, key) => out.delete_cf(family, key),
                Op::DeleteRange(_, range) if is_empty(range) => {}
                Op::DeleteRange(_, range) => {
                    let end = range.end.as_deref().unwrap_or(&ABOVE_ALL_KEYS);
                    out.delete_range_cf(family, &range.start[..], end);
                }
            }
        }
        Ok(out)
    }

    fn flush_all(&self) -> Result<(), StorageError> {
        let families = self.database.flushed_tables().iter();
        let families =
            families.map(|table| view::family(&self.db, *table)).collect::<Result<Vec<_>, _>>()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_cfs_opt(&families, &options)
            .map_err(|error| storage_error("flushing a database", error))
    }

    /// The damage that a compaction met, if that is why RocksDB has stopped: it then refuses every write with the reason,
    /// one of nothing as well.
    fn damage_in_background(&self) -> Option<StorageError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        options.set_no_slowdown(true);
        let refused = self.db.write_opt(WriteBatch::default(), &options).err()?;
        let reason = storage_error("working in the background", refused);
        matches!(reason, StorageError::Damaged { .. }).then_some(reason)
    }

    fn write_batch(&self, batch: &Batch, durability: Durability) -> Result<(), StorageError> {
        let batch = self.rocks_batch(batch)?;
        let mut options = WriteOptions::default();
        match durability {
            Durability::Synced => options.set_sync(true),
            Durability::Flushed => options.disable_wal(true),
        }
        self.db
            .write_opt(batch, &options)
            .map_err(|error| storage_error("writing a database", error))
    }
}

impl View for RocksEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        view::get(&self.db, &self.failure, None, table, key)
    }

    fn note_damage(&self, error: &StorageError) {
        view::note_damage(&self.failure, error);
    }

    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_> {
        view::scan(&self.db, &self.failure, None, table, range, direction)
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        self.check_writable()?;
        self.database.check(&batch, durability)?;
        let floors = self.expiry.before_write(&batch);
        self.sticky(self.write_batch(&batch, durability))?;
        self.expiry.after_write(floors);
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.check_writable()?;
        let floors = self.expiry.before_flush();
        self.sticky(self.flush_all())?;
        self.expiry.after_flush(floors);
        Ok(())
    }

    fn pin(&self) -> Arc<dyn View> {
        // The hold first: the floors that it keeps are then those of the view, or older.
        let hold = self.expiry.hold();
        Arc::new(PinnedView::new(self.db.clone(), self.failure.clone(), hold))
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Staging>, StorageError> {
        self.check_writable()?;
        let folder = staging::folder(&self.staging, name)?;
        Ok(Box::new(staging::StagingFolder::create(folder, &self.tuning)?))
    }

    fn bring_in(&self, name: &str, clear: &[(Table, KeyRange)]) -> Result<(), StorageError> {
        self.check_writable()?;
        let folder = staging::folder(&self.staging, name)?;
        // Before anything goes for it.
        let staged = self.sticky(staging::sealed_files(&folder))?;
        let mut batch = Batch::default();
        for (table, range) in clear {
            self.database.check_table(*table)?;
            batch.delete_range(*table, range.clone());
        }
        self.sticky(self.write_batch(&batch, Durability::Flushed))?;
        // The ranges are empty on disk before anything comes in, and no memtable overlaps what does.
        self.sticky(self.flush_all())?;
        crash::install_cleared();
        let mut tables: Vec<Table> = clear.iter().map(|(table, _)| *table).collect();
        tables.sort();
        tables.dedup();
        for table in tables {
            self.sticky(staging::ingest(&self.db, &folder, &staged, table))?;
            crash::install_ingested();
        }
        Ok(())
    }

    fn unstage(&self, name: &str) -> Result<(), StorageError> {
        staging::remove(&staging::folder(&self.staging, name)?)
    }

    fn staged(&self) -> Result<Vec<String>, StorageError> {
        staging::names(&self.staging)
    }

    fn offload(&self, job: Box<dyn FnOnce() + Send>) {
        drop(tokio::task::spawn_blocking(job));
    }

    fn host(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let runtime = tokio::runtime::Handle::current();
        let run = move || {
            let _timers = runtime.enter();
            futures::executor::block_on(task);
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .expect("a node that cannot start its own few threads cannot run");
    }

    fn hold_compactions(&self, hold: bool) -> Result<(), StorageError> {
        let mut held = self.holds_compactions.lock().expect("no panic while locked");
        if std::mem::replace(&mut *held, hold) == hold {
            return Ok(());
        }
        let option = [("disable_auto_compactions", if hold { "true" } else { "false" })];
        // On a full disk RocksDB does what it was told, and then finds no room to write it down: so all are told.
        let told = self.database.tables().iter().map(|table| {
            let set = self.db.set_options_cf(view::family(&self.db, *table)?, &option);
            set.map_err(|error| storage_error("holding compactions", error))
        });
        told.fold(Ok(()), Result::and)
    }

    fn note_failure(&self, error: &StorageError) {
        if error.stops_a_node() {
            let _ = self.failure.set(error.clone());
        }
    }

    fn background_error(&self) -> Option<StorageError> {
        if planted::ignore_eio() {
            return None;
        }
        if let Some(failure) = self.failure.get() {
            return Some(failure.clone());
        }
        let reason = match self.db.property_int_value(BACKGROUND_ERRORS) {
            Ok(None | Some(0)) => return None,
            Ok(Some(count)) => match self.damage_in_background() {
                Some(damage) => return Some(damage),
                None => format!(
                    "RocksDB counts {count} failed flushes or compactions in {}; its LOG file says why",
                    self.db.path().display()
                ),
            },
            Err(error) => error.into_string(),
        };
        Some(StorageError::Failed { action: "working in the background", reason })
    }
}

fn open_database(
    path: &Path,
    database: Database,
    tuning: &Tuning,
    tables: Vec<ColumnFamilyDescriptor>,
    read_only: bool,
) -> Result<DB, StorageError> {
    let mut options = options::of_database(database, tuning);
    let db = if read_only {
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        DB::open_cf_descriptors_read_only(&options, path, tables, false)
    } else {
        DB::open_cf_descriptors(&options, path, tables)
    };
    db.map_err(|error| match storage_error("opening a database", error) {
        StorageError::Damaged { reason, .. } => {
            StorageError::Damaged { place: path.display().to_string(), reason }
        }
        other => other,
    })
}

/// Bytes that a change takes in RocksDB's batch, rather more than fewer.
fn bytes_in(op: &Op) -> usize {
    /// A tag, a table and two lengths, and with the first one the head of the batch.
    const BESIDE: usize = 24;
    BESIDE
        + match op {
            Op::Put(_, key, value) => key.len() + value.len(),
            Op::Delete(_, key) => key.len(),
            Op::DeleteRange(_, range) => range.start.len() + ABOVE_ALL_KEYS.len(),
        }
}

fn storage_error(action: &'static str, error: rocksdb::Error) -> StorageError {
    let is_damage = match error.kind() {
        ErrorKind::Corruption => true,
        ErrorKind::IOError => is_unreadable(error.as_ref()),
        _ => false,
    };
    if is_damage {
        StorageError::Damaged { place: "RocksDB".to_owned(), reason: error.into_string() }
    } else {
        StorageError::Failed { action, reason: error.into_string() }
    }
}

/// Whether an I/O error of RocksDB says that what was written cannot be read: a file is gone, or the disk or the file
/// system does not give its bytes back. The text is all that there is to go by. Whatever else keeps a file from being
/// read passes, such as too many open files or too little memory; and what a write fails with damages nothing.
fn is_unreadable(error: &str) -> bool {
    /// What RocksDB was doing.
    const READING: [&str; 4] =
        ["While open a file for random read", "While pread", "sequentially", "stat a file"];
    /// What the system said: ENOENT, EIO (of glibc and of musl), and what file systems say whose own checksums or
    /// structures are wrong, EBADMSG and EUCLEAN.
    const LOST: [&str; 5] = [
        "No such file or directory",
        "Input/output error",
        "I/O error",
        "Bad message",
        "Structure needs cleaning",
    ];
    let has = |words: &[&str]| words.iter().any(|word| error.contains(word));
    has(&READING) && has(&LOST)
}

/// Runs what blocks on a thread for it and waits for its result.
pub(super) async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(job).await.expect("opening does not panic")
}
