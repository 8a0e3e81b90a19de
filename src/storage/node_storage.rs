//! What a node has open on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{DataDir, Engine, GroupRecovery, Identity, LogWriter, StorageError};
use crate::types::GroupId;

/// A node's storage.
pub struct Storage {
    /// The directory and its lock.
    pub data_dir: Arc<DataDir>,
    /// Who the node is.
    pub identity: Identity,
    /// Raft logs and votes.
    pub log: Arc<dyn Engine>,
    /// Applied state.
    pub state: Arc<dyn Engine>,
    /// The one way to write to `log`.
    pub writer: LogWriter,
    /// What each group's log holds, or why it cannot be relied on.
    pub groups: BTreeMap<GroupId, GroupRecovery>,
}

impl Storage {
    /// Stops the writer and makes what was applied durable, so that the next opening has nothing to replay. Nothing
    /// is lost if it fails.
    pub async fn close(&self) -> Result<(), StorageError> {
        self.writer.close().await;
        let (sender, receiver) = oneshot::channel();
        let state = self.state.clone();
        self.state.offload(Box::new(move || drop(sender.send(state.flush()))));
        receiver.await.unwrap_or_else(|_| {
            Err(StorageError::Failed { action: "closing", reason: "it was abandoned".into() })
        })
    }
}
