//! Staging areas: folders of table files that are written outside the database and brought in as they are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rocksdb::{DB, IngestExternalFileOptions, Options, SstFileWriter};

use super::{files, options, storage_error, view};
use crate::seams::crash;
use crate::storage::engine::check_staging_name;
use crate::storage::seal::{self, WrittenFile};
use crate::storage::small_file::{DiskFile, SmallFile};
use crate::storage::{Database, Staging, StorageError, Table, Tuning};

/// Says what was staged. Written and synced last: a folder without it was not finished.
const SEAL: &str = "SEALED";

/// Options of staged files, by table. They live as long as the process because the crate's writer borrows them.
static FILE_OPTIONS: LazyLock<BTreeMap<Table, Options>> = LazyLock::new(|| {
    let of = |table: &Table| (*table, options::of_table(*table, &Tuning::default(), None));
    Database::State.tables().iter().map(of).collect()
});

/// The folder of a staging area.
pub(super) fn folder(staging: &Path, name: &str) -> Result<PathBuf, StorageError> {
    check_staging_name(name)?;
    Ok(staging.join(name))
}

/// Names of the staging areas there are, in order.
pub(super) fn names(staging: &Path) -> Result<Vec<String>, StorageError> {
    let failed = failed("listing staging areas");
    let entries = match fs::read_dir(staging) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(&failed)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Removes a staging area if there is one, durably.
pub(super) fn remove(folder: &Path) -> Result<(), StorageError> {
    let failed = failed("removing a staging area");
    match fs::remove_dir_all(folder) {
        Ok(()) => sync_parent(folder).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// The files of a sealed staging area. Blocks.
///
/// # Errors
/// Damage if it is not sealed, or if one is gone, or not as long as the seal says.
pub(super) fn sealed_files(folder: &Path) -> Result<Vec<WrittenFile>, StorageError> {
    let file = DiskFile::new(folder.join(SEAL));
    let sealed = file.load()?.ok_or_else(|| StorageError::Damaged {
        place: folder.display().to_string(),
        reason: "it is not sealed".to_owned(),
    })?;
    let files = seal::decode(&sealed, &file.place())?;
    files.iter().try_for_each(|file| files::check_file(folder, file))?;
    Ok(files)
}

/// Brings the rows of one table in, of a staging area with these files. They stay as they are, so that a repeat finds
/// them: what RocksDB takes over is a second hard link of each.
pub(super) fn ingest(
    db: &DB,
    folder: &Path,
    staged: &[WrittenFile],
    table: Table,
) -> Result<(), StorageError> {
    let failed = failed("bringing in staged rows");
    let prefix = file_prefix(table);
    let mut links = Vec::new();
    for WrittenFile { name, .. } in staged.iter().filter(|file| file.name.starts_with(&prefix)) {
        let file = folder.join(name);
        let link = file.with_extension("link");
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => fs::hard_link(&file, &link).map_err(&failed)?,
        }
        links.push(link);
    }
    if links.is_empty() {
        return Ok(());
    }
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    db.ingest_external_file_cf_opts(view::family(db, table)?, &options, links)
        .map_err(|error| storage_error("bringing in staged rows", error))
}

/// A staging area being filled.
pub(super) struct StagingFolder {
    folder: PathBuf,
    file_bytes: u64,
    open: BTreeMap<Table, TableFiles>,
}

/// The files of one table: the one being written, and how many were finished.
struct TableFiles {
    finished: u32,
    writer: Option<SstFileWriter<'static>>,
}

impl StagingFolder {
    pub(super) fn create(folder: PathBuf, tuning: &Tuning) -> Result<Self, StorageError> {
        remove(&folder)?;
        let failed = failed("creating a staging area");
        fs::create_dir_all(&folder).map_err(&failed)?;
        sync_parent(&folder).map_err(&failed)?;
        // The folder of all staging areas may be new itself: without its name, a mark would name what is not there.
        folder.parent().map_or(Ok(()), sync_parent).map_err(&failed)?;
        Ok(StagingFolder { folder, file_bytes: tuning.staging_file_bytes, open: BTreeMap::new() })
    }
}

impl Staging for StagingFolder {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        Database::State.check_table(table)?;
        let failed = |error| storage_error("staging a row", error);
        let files = self.open.entry(table).or_insert(TableFiles { finished: 0, writer: None });
        let writer = match &mut files.writer {
            Some(writer) => writer,
            none => {
                let writer = SstFileWriter::create(&FILE_OPTIONS[&table]);
                let path = self.folder.join(file_name(table, files.finished));
                writer.open(path).map_err(failed)?;
                none.insert(writer)
            }
        };
        writer.put(key, value).map_err(failed)?;
        if writer.file_size() >= self.file_bytes {
            writer.finish().map_err(failed)?;
            files.writer = None;
            files.finished += 1;
        }
        Ok(())
    }

    fn seal(mut self: Box<Self>) -> Result<(), StorageError> {
        for files in self.open.values_mut() {
            if let Some(mut writer) = files.writer.take() {
                writer.finish().map_err(|error| storage_error("sealing staged rows", error))?;
            }
        }
        let sync_all = || -> io::Result<()> {
            let mut files = Vec::new();
            for entry in fs::read_dir(&self.folder)? {
                let entry = entry?;
                let file = File::open(entry.path())?;
                file.sync_all()?;
                let name = entry.file_name().to_string_lossy().into_owned();
                files.push(WrittenFile { name, bytes: file.metadata()?.len() });
            }
            files.sort_by(|one, other| one.name.cmp(&other.name));
            File::open(&self.folder)?.sync_all()?;
            crash::staging_synced();
            // Nothing names an area before this has returned: what a crash leaves of the seal is never read.
            let mut file = File::create(self.folder.join(SEAL))?;
            file.write_all(seal::encode(&files).as_bytes())?;
            file.sync_all()?;
            File::open(&self.folder)?.sync_all()
        };
        sync_all().map_err(failed("sealing staged rows"))
    }
}

fn file_name(table: Table, number: u32) -> String {
    format!("{}{number:06}.sst", file_prefix(table))
}

/// No table's name has this sign, so that none's files are taken for another's.
fn file_prefix(table: Table) -> String {
    format!("{}-", table.name())
}

fn sync_parent(folder: &Path) -> io::Result<()> {
    match folder.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> StorageError {
    move |error| StorageError::Failed { action, reason: error.to_string() }
}
