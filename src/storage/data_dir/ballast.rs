//! A file that is there to be deleted once the disk is full: room to get going again with.
//!
//! Guarantee at stake: G12. A file that takes the last room itself, or takes back what people have just made free,
//! keeps its node from starting for good: the next write of a database fails.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::FallocateFlags;

use crate::storage::free_bytes;
use crate::storage::small_file::sync_folder;

const NAME: &str = "ballast";

/// Makes sure that `folder` has a file of this size, or none if that is 0. One that is not there is made only where it
/// leaves at least `left_bytes` of the disk free. Blocks.
///
/// # Errors
/// There is too little room, or the operating system refuses. What there was of the file is then removed.
pub(super) fn keep(folder: &Path, bytes: u64, left_bytes: u64) -> io::Result<()> {
    if bytes > 0 && fs::metadata(folder.join(NAME)).is_ok_and(|file| file.len() == bytes) {
        return Ok(());
    }
    give_back(folder)?;
    if bytes == 0 {
        return Ok(());
    }
    let free = free_bytes(folder)?;
    if free.checked_sub(bytes).is_none_or(|left| left < left_bytes) {
        let reason = format!("{free} bytes are free, and {left_bytes} are to be left");
        return Err(io::Error::new(io::ErrorKind::StorageFull, reason));
    }
    make(folder, bytes)
}

/// Removes the file. Whether there was one. Its room can be used when this returns. Blocks.
pub(super) fn give_back(folder: &Path) -> io::Result<bool> {
    match fs::remove_file(folder.join(NAME)) {
        Ok(()) => sync_folder(folder).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn make(folder: &Path, bytes: u64) -> io::Result<()> {
    let allocate = || {
        let file = File::create(folder.join(NAME))?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        file.sync_all()
    };
    allocate().inspect_err(|_| {
        // Where there is too little room, ext4 keeps what it has found. If it cannot be removed, the next start tries.
        let _ = give_back(folder);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 1 << 16;

    fn found(folder: &Path) -> Option<u64> {
        fs::metadata(folder.join(NAME)).ok().map(|file| file.len())
    }

    #[test]
    fn it_is_there_in_its_size_and_not_there_if_that_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for bytes in [BYTES, BYTES, 2 * BYTES, BYTES] {
            keep(folder, bytes, 0).unwrap();
            assert_eq!(found(folder), Some(bytes));
        }
        for _ in 0..2 {
            keep(folder, 0, 0).unwrap();
            assert_eq!(found(folder), None);
        }
    }

    #[test]
    fn it_does_not_take_what_is_to_be_left() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for left_bytes in [free_bytes(folder).unwrap(), u64::MAX] {
            let refused = keep(folder, BYTES << 10, left_bytes).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "{refused}");
            assert_eq!(found(folder), None);
        }
        keep(folder, BYTES, 0).unwrap();
        keep(folder, BYTES, u64::MAX).unwrap();
        assert_eq!(found(folder), Some(BYTES), "what is there takes nothing");
        keep(folder, 2 * BYTES, u64::MAX).unwrap_err();
        assert_eq!(found(folder), None, "nor is a part kept of what is refused");
    }

    #[test]
    fn nothing_of_it_stays_where_it_cannot_be_made() {
        let folder = tempfile::tempdir().unwrap();
        // More than any file may have.
        assert!(make(folder.path(), u64::MAX >> 1).is_err());
        assert_eq!(found(folder.path()), None);
    }
}
