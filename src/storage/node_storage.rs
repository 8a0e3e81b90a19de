//! What a node has open on disk.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::log_writer::WriterObserver;
use super::recovery::make_ready;
use super::small_file::SmallFile;
use super::{DataDir, Engine, GroupRecovery, Identity, LogWriter, Recovered, StorageError};
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

/// A node's storage as it was opened and made ready, before its log writer runs.
pub struct Opened {
    data_dir: DataDir,
    identity: Identity,
    log: Arc<dyn Engine>,
    state: Arc<dyn Engine>,
    recovered: Recovered,
}

impl Opened {
    /// Makes databases that were just opened ready for use. `watermark` is the file that keeps it. Blocks.
    ///
    /// # Errors
    /// A database failed, a snapshot cannot be rolled forward, or the watermark is missing beside groups.
    pub fn make_ready(
        (data_dir, identity): (DataDir, Identity),
        log: Arc<dyn Engine>,
        state: Arc<dyn Engine>,
        watermark: impl SmallFile + Clone + 'static,
    ) -> Result<Opened, StorageError> {
        let recovered = make_ready(log.as_ref(), state.as_ref(), watermark)?;
        Ok(Opened { data_dir, identity, log, state, recovered })
    }

    /// Starts the log writer. Must be called on a runtime.
    pub fn start(self, observer: Arc<dyn WriterObserver>) -> Storage {
        let Recovered { watermark, groups } = self.recovered;
        let writer = LogWriter::start(self.log.clone(), watermark, observer);
        let (data_dir, identity) = (Arc::new(self.data_dir), self.identity);
        Storage { data_dir, identity, log: self.log, state: self.state, writer, groups }
    }
}

impl Storage {
    /// Stops the writer and makes what was applied durable, so that the next opening has nothing to replay. Nothing
    /// is lost if it fails.
    pub async fn close(&self) -> Result<(), StorageError> {
        self.writer.close().await;
        flush(&self.state).await
    }

    /// The first failure of either database that no caller can mend, damage before any other, asked where it blocks
    /// nobody: the answer of a disk that hangs may never come.
    pub async fn failure(&self) -> Option<StorageError> {
        let mut found = None;
        for engine in [&self.log, &self.state] {
            match offload(engine, |engine| engine.background_error()).await {
                Some(damage @ StorageError::Damaged { .. }) => return Some(damage),
                asked => found = found.or(asked),
            }
        }
        found
    }
}

/// [`Engine::flush`] where it blocks nobody. Goes on if the call is dropped.
pub async fn flush(engine: &Arc<dyn Engine>) -> Result<(), StorageError> {
    offload(engine, |engine| engine.flush()).await
}

/// Runs a job where it blocks nobody. A job that panics does so here. Goes on if the call is dropped.
pub async fn offload<T: Send + 'static>(
    engine: &Arc<dyn Engine>,
    job: impl FnOnce(&dyn Engine) -> T + Send + 'static,
) -> T {
    let (sender, receiver) = oneshot::channel();
    let asked = engine.clone();
    engine.offload(Box::new(move || {
        let done = catch_unwind(AssertUnwindSafe(|| job(asked.as_ref())));
        // Whoever waited may be gone.
        drop(sender.send(done));
    }));
    match receiver.await {
        Ok(done) => done.unwrap_or_else(|panic| resume_unwind(panic)),
        // Abandoned because the runtime is ending, which drops whoever waits here too.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Database, MemoryDisk};

    /// Whoever waits would wait for ever.
    #[tokio::test]
    #[should_panic(expected = "a job's own words")]
    async fn a_job_that_panics_does_so_where_it_is_waited_for() {
        let engine: Arc<dyn Engine> = Arc::new(MemoryDisk::new(Database::State).open());
        offload(&engine, |_| panic!("a job's own words")).await;
    }
}
