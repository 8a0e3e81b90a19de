//! Opening a node's storage: everything is checked and rolled forward before Raft sees any of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::log_writer::WriterObserver;
use super::recovery::stored_watermark;
use super::small_file::DiskFile;
use super::{
    DataDir, DataDirError, GroupRecovery, Opened, RocksEngine, StoppedDir, Storage, StorageError,
    Tuning, recover,
};
use crate::types::{GroupId, NodeId};

/// Why a node's storage did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A database or file in it.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl OpenError {
    /// Whether the data is there and cannot be relied on: it has to be made anew from the other nodes.
    pub fn is_damage(&self) -> bool {
        match self {
            OpenError::DataDir(
                DataDirError::Damaged { .. } | DataDirError::Storage(StorageError::Damaged { .. }),
            )
            | OpenError::Storage(StorageError::Damaged { .. }) => true,
            OpenError::DataDir(_) | OpenError::Storage(_) => false,
        }
    }
}

impl Storage {
    /// Opens or creates a node's storage. Must be called on a runtime; what blocks runs on a thread for it.
    pub async fn open(
        path: &Path,
        node: NodeId,
        tuning: Tuning,
        observer: Arc<dyn WriterObserver>,
    ) -> Result<Storage, OpenError> {
        let path = path.to_owned();
        let opened = super::rocks::blocking(move || open_blocking(&path, node, &tuning)).await?;
        Ok(opened.start(observer))
    }
}

fn open_blocking(path: &Path, node: NodeId, tuning: &Tuning) -> Result<Opened, OpenError> {
    let data_dir = DataDir::open(path, node)?;
    let log = Arc::new(RocksEngine::open_log(&path.join("log"), tuning)?);
    let state = Arc::new(RocksEngine::open_state(&path.join("state"), tuning)?);
    let watermark = DiskFile::new(path.join("watermark"));
    Ok(Opened::make_ready(data_dir, log, state, watermark)?)
}

/// A stopped node's data, opened for reading only.
pub struct ReadOnlyStorage {
    /// The directory, with its lock, who the node is, and what it has noted as damaged.
    pub dir: StoppedDir,
    /// Raft logs and votes.
    pub log: RocksEngine,
    /// Applied state, as of the last flush.
    pub state: RocksEngine,
    /// What each group's log holds, or why it cannot be relied on.
    pub groups: BTreeMap<GroupId, GroupRecovery>,
}

impl ReadOnlyStorage {
    /// Opens the data of a stopped node. Writes nothing. Blocks.
    ///
    /// # Errors
    /// There is no data, it cannot be read, or a node has it open. That a node has noted it as damaged is no error here.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let dir = StoppedDir::open(path)?;
        let tuning = Tuning::default();
        let log = RocksEngine::open_read_only(&path.join("log"), super::Database::Log, &tuning)?;
        let state =
            RocksEngine::open_read_only(&path.join("state"), super::Database::State, &tuning)?;
        let file = DiskFile::new(path.join("watermark"));
        let watermark = stored_watermark(file, &log, &state)?;
        let stored = watermark.map(|file| file.stored().clone()).unwrap_or_default();
        let groups = recover(&log, &state, &stored)?;
        Ok(ReadOnlyStorage { dir, log, state, groups })
    }
}
