//! Databases whose last write to a write-ahead log, or to a manifest, a power cut has met halfway: the file is cut there.
//!
//! One sync of a manifest may cover several small records, one for each table that was flushed. RocksDB counts all of
//! them or none. If one is sound behind one that is not, this is not told from damage.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::storage::StorageError;
use crate::storage::log_format::{TornTail, find_torn_tail};

/// Looks for torn ends in a database: in its manifest, and in its newest write-ahead log, for those before it were
/// complete when it was begun. Reads all of these files, a block at a time. Blocks.
pub(super) fn of_database(folder: &Path) -> Result<Vec<(PathBuf, TornTail)>, StorageError> {
    let failed = failed("looking for a torn write");
    let logs = [manifest(folder), newest(folder).map_err(&failed)?];
    let mut torn = Vec::new();
    for path in logs.into_iter().flatten() {
        let tail = File::open(&path).and_then(find_torn_tail).map_err(&failed)?;
        torn.extend(tail.map(|tail| (path, tail)));
    }
    Ok(torn)
}

/// Cuts a torn end off: on stable storage when this returns. Blocks.
pub(super) fn cut(path: &Path, tail: &TornTail) -> Result<(), StorageError> {
    let TornTail { at, bytes } = tail;
    let file = path.display();
    tracing::warn!(%file, at, bytes, "a power cut has torn the last write to a file: it is dropped");
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.set_len(*at).and_then(|()| file.sync_all()))
        .map_err(failed("cutting off a torn write"))
}

/// The manifest in use, if what names it can be relied on.
fn manifest(folder: &Path) -> Option<PathBuf> {
    let current = fs::read_to_string(folder.join("CURRENT")).ok()?;
    let name = current.strip_suffix('\n').filter(|name| name.starts_with("MANIFEST-"))?;
    Some(folder.join(name)).filter(|path| path.is_file())
}

/// The write-ahead log of the highest number.
fn newest(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, path)));
    }
    Ok(newest.map(|(_, path)| path))
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> StorageError {
    move |error| StorageError::Failed { action, reason: error.to_string() }
}
