//! Files of a few kilobytes that are replaced as a whole: the identity of a node and the watermark.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::StorageError;
use crate::seams::crash;

/// A file that is read and replaced as a whole. After a crash it holds what the last completed `replace` left, or
/// what one under way was writing, never a mixture.
pub trait SmallFile: Send + Sync {
    /// The contents; none if it was never written.
    fn load(&self) -> Result<Option<Vec<u8>>, StorageError>;

    /// Replaces the contents. They are on stable storage when this returns. Blocks.
    fn replace(&self, contents: &[u8]) -> Result<(), StorageError>;

    /// Its name, for messages.
    fn place(&self) -> String;
}

/// On disk: written beside, synced, renamed, and the folder synced.
#[derive(Clone, Debug)]
pub struct DiskFile {
    path: PathBuf,
}

impl DiskFile {
    /// The file at a path, which may not exist yet. Its folder has to.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        DiskFile { path: path.into() }
    }

    fn write_and_rename(&self, contents: &[u8]) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        crash::small_file_written();
        fs::rename(&temporary, &self.path)?;
        crash::small_file_renamed();
        sync_folder(self.path.parent().unwrap_or(Path::new(".")))
    }
}

impl SmallFile for DiskFile {
    fn load(&self) -> Result<Option<Vec<u8>>, StorageError> {
        match fs::read(&self.path) {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::Failed {
                action: "reading a small file",
                reason: format!("{}: {error}", self.path.display()),
            }),
        }
    }

    fn replace(&self, contents: &[u8]) -> Result<(), StorageError> {
        self.write_and_rename(contents).map_err(|error| StorageError::Failed {
            action: "replacing a small file",
            reason: format!("{}: {error}", self.path.display()),
        })
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// In memory, for simulations and tests. Clones are the same file, as after a restart.
#[derive(Clone, Debug, Default)]
pub struct MemoryFile {
    inner: Arc<Mutex<MemoryFileState>>,
}

#[derive(Debug, Default)]
struct MemoryFileState {
    contents: Option<Vec<u8>>,
    replaced: usize,
    failing: bool,
}

impl MemoryFile {
    /// How often it was replaced.
    pub fn replaced(&self) -> usize {
        self.inner.lock().expect("no panic while locked").replaced
    }

    /// Makes every further `replace` fail, or succeed again.
    pub fn set_failing(&self, failing: bool) {
        self.inner.lock().expect("no panic while locked").failing = failing;
    }
}

impl SmallFile for MemoryFile {
    fn load(&self) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.inner.lock().expect("no panic while locked").contents.clone())
    }

    fn replace(&self, contents: &[u8]) -> Result<(), StorageError> {
        let mut inner = self.inner.lock().expect("no panic while locked");
        if inner.failing {
            return Err(StorageError::Failed {
                action: "replacing a small file",
                reason: "told to fail".to_owned(),
            });
        }
        inner.contents = Some(contents.to_vec());
        inner.replaced += 1;
        Ok(())
    }

    fn place(&self) -> String {
        "a file in memory".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_on_disk_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = DiskFile::new(folder.path().join("mark"));
        assert_eq!(file.load().unwrap(), None);
        file.replace(b"a longer first text").unwrap();
        file.replace(b"second").unwrap();
        assert_eq!(file.load().unwrap().unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_torn_temporary_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = DiskFile::new(folder.path().join("mark"));
        file.replace(b"whole").unwrap();
        fs::write(folder.path().join("mark.new"), b"to").unwrap();
        assert_eq!(file.load().unwrap().unwrap(), b"whole");
        file.replace(b"next").unwrap();
        assert_eq!(file.load().unwrap().unwrap(), b"next");
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = DiskFile::new(folder.path().join("absent").join("mark"));
        assert!(file.replace(b"x").unwrap_err().to_string().contains("absent"));
    }
}
