//! For tests: an engine over another one that does something else in some places.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    Batch, Direction, Durability, Engine, KeyRange, Rows, Staging, StorageError, Table, View,
};

/// A job that is handed to [`Engine::offload`].
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// What is done in place of what the engine below does, or behind it. What is left out is done as there.
pub(crate) trait Interposer: Send + Sync {
    /// A row was looked up.
    fn looked_up(&self, _table: Table) {}

    /// In place of [`Engine::write_synced`].
    fn write_synced<'a>(
        &'a self,
        below: &'a dyn Engine,
        batch: Batch,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        below.write_synced(batch)
    }

    /// In place of [`Engine::offload`].
    fn offload(&self, below: &dyn Engine, job: Job) {
        below.offload(job);
    }

    /// In place of [`Engine::hold_compactions`].
    fn hold_compactions(&self, below: &dyn Engine, hold: bool) -> Result<(), StorageError> {
        below.hold_compactions(hold)
    }
}

/// The engine and what stands before it.
pub(crate) struct Interposed<I> {
    pub(crate) below: Arc<dyn Engine>,
    pub(crate) by: I,
}

impl<I: Interposer> View for Interposed<I> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = self.below.get(table, key);
        self.by.looked_up(table);
        found
    }

    fn note_damage(&self, error: &StorageError) {
        self.below.note_damage(error);
    }

    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_> {
        self.below.scan(table, range, direction)
    }
}

impl<I: Interposer> Engine for Interposed<I> {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        self.below.write(batch, durability)
    }

    fn write_synced(&self, batch: Batch) -> BoxFuture<'_, Result<(), StorageError>> {
        self.by.write_synced(self.below.as_ref(), batch)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.below.flush()
    }

    fn pin(&self) -> Arc<dyn View> {
        self.below.pin()
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Staging>, StorageError> {
        self.below.stage(name)
    }

    fn bring_in(&self, name: &str, clear: &[(Table, KeyRange)]) -> Result<(), StorageError> {
        self.below.bring_in(name, clear)
    }

    fn unstage(&self, name: &str) -> Result<(), StorageError> {
        self.below.unstage(name)
    }

    fn staged(&self) -> Result<Vec<String>, StorageError> {
        self.below.staged()
    }

    fn offload(&self, job: Job) {
        self.by.offload(self.below.as_ref(), job);
    }

    fn host(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.below.host(name, task);
    }

    fn hold_compactions(&self, hold: bool) -> Result<(), StorageError> {
        self.by.hold_compactions(self.below.as_ref(), hold)
    }

    fn note_failure(&self, error: &StorageError) {
        self.below.note_failure(error);
    }

    fn background_error(&self) -> Option<StorageError> {
        self.below.background_error()
    }
}
