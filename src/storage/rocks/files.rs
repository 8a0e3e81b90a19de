//! Whether the files of a database are there, as long as they were written.
//!
//! RocksDB looks at some of its table files when it opens a database, and at no blob file. A node must not vote and lead
//! until a read happens to meet what is missing (guarantee G11).

use std::fs;
use std::io;
use std::path::Path;

use rocksdb::DB;
use rocksdb::properties::SSTABLES;

use super::{storage_error, view};
use crate::storage::seal::WrittenFile;
use crate::storage::{Database, StorageError};

/// What a blob file has besides its records: RocksDB's header and footer.
const BLOB_FRAME_BYTES: u64 = 30 + 32;

/// Looks at every file of a database that was just opened. Blocks: one look at the folder's entry for each file.
///
/// # Errors
/// Damage if one is gone, or is not as long as the database says.
pub(super) fn check(db: &DB, database: Database, read_only: bool) -> Result<(), StorageError> {
    let failed = |error| storage_error("listing the files of a database", error);
    // What a compaction replaces meanwhile stays until all have been looked at. Reading only, nothing is replaced.
    if !read_only {
        db.disable_file_deletions().map_err(failed)?;
    }
    let found = live_files(db, database)
        .and_then(|files| files.iter().try_for_each(|file| check_file(db.path(), file)));
    if !read_only {
        db.enable_file_deletions().map_err(failed)?;
    }
    found
}

fn live_files(db: &DB, database: Database) -> Result<Vec<WrittenFile>, StorageError> {
    let failed = |error| storage_error("listing the files of a database", error);
    let tables = db.live_files().map_err(failed)?.into_iter();
    let mut files: Vec<_> = tables
        .map(|file| WrittenFile {
            name: file.name.trim_start_matches('/').to_owned(),
            bytes: file.size as u64,
        })
        .collect();
    for table in database.tables() {
        let family = view::family(db, *table)?;
        let described = db.property_value_cf(family, SSTABLES).map_err(failed)?;
        files.extend(described.unwrap_or_default().lines().filter_map(blob_file));
    }
    Ok(files)
}

/// A blob file in RocksDB's description of a table, the only place where it names them: "blob_file_number: 12
/// total_blob_count: 3 total_blob_bytes: 456" and more.
fn blob_file(line: &str) -> Option<WrittenFile> {
    let mut words = line.strip_prefix("blob_file_number: ")?.split(' ');
    let number: u64 = words.next()?.parse().ok()?;
    let bytes: u64 = words.skip_while(|word| *word != "total_blob_bytes:").nth(1)?.parse().ok()?;
    Some(WrittenFile { name: format!("{number:06}.blob"), bytes: bytes + BLOB_FRAME_BYTES })
}

/// Looks at one file of a folder. Blocks.
///
/// # Errors
/// As [`check`].
pub(super) fn check_file(folder: &Path, file: &WrittenFile) -> Result<(), StorageError> {
    let path = folder.join(&file.name);
    let reason = match fs::metadata(&path) {
        Ok(found) if found.len() == file.bytes => return Ok(()),
        Ok(found) => format!("it has {} bytes, and was written with {}", found.len(), file.bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "the file is gone".to_owned(),
        Err(error) => {
            let reason = format!("{}: {error}", path.display());
            return Err(StorageError::Failed { action: "looking at files", reason });
        }
    };
    Err(StorageError::Damaged { place: path.display().to_string(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_files_are_found_in_what_rocksdb_says_of_a_table() {
        let described = "--- level 6 --- version# 7 ---\n \
            11:1234[1 .. 2]['00' seq:1, type:1 .. '01' seq:2, type:1] blob_file:12(0)\n\
            --- blob files --- version# 7 ---\n\
            blob_file_number: 12 total_blob_count: 3 total_blob_bytes: 456 checksum_method:  checksum_value:  \
            linked_ssts: { 11 } garbage_blob_count: 0 garbage_blob_bytes: 0\n";
        let found: Vec<_> = described.lines().filter_map(blob_file).collect();
        assert_eq!(found, [WrittenFile { name: "000012.blob".to_owned(), bytes: 456 + 62 }]);
    }
}
