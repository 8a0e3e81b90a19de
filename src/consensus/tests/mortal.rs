//! An engine whose process dies in the middle of what it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::storage::{
    Batch, Direction, Durability, Engine, KeyRange, Rows, Staging, StorageError, Table, View,
};

/// Takes a number of steps and no more: after them every change fails and changes nothing. A step is a write, a flush,
/// each table brought in, and beginning, sealing and removing a staging area.
pub struct Mortal {
    engine: Arc<dyn Engine>,
    steps_left: Arc<AtomicUsize>,
}

fn step(steps_left: &AtomicUsize) -> Result<(), StorageError> {
    let taken =
        steps_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    taken.map(|_| ()).map_err(|_| StorageError::Failed {
        action: "taking a step",
        reason: "the process has died".to_owned(),
    })
}

impl Mortal {
    /// Dies in place of the step that follows `steps` ones.
    pub fn after(engine: Arc<dyn Engine>, steps: usize) -> Arc<Self> {
        Arc::new(Mortal { engine, steps_left: Arc::new(AtomicUsize::new(steps)) })
    }

    fn step(&self) -> Result<(), StorageError> {
        step(&self.steps_left)
    }
}

impl View for Mortal {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.engine.get(table, key)
    }

    fn note_damage(&self, error: &StorageError) {
        self.engine.note_damage(error);
    }

    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_> {
        self.engine.scan(table, range, direction)
    }
}

impl Engine for Mortal {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        self.step()?;
        self.engine.write(batch, durability)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.step()?;
        self.engine.flush()
    }

    fn pin(&self) -> Arc<dyn View> {
        self.engine.pin()
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Staging>, StorageError> {
        self.step()?;
        let staging = self.engine.stage(name)?;
        Ok(Box::new(MortalStaging { staging, steps_left: self.steps_left.clone() }))
    }

    fn bring_in(&self, name: &str, clear: &[(Table, KeyRange)]) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        for (table, range) in clear {
            batch.delete_range(*table, range.clone());
        }
        self.write(batch, Durability::Flushed)?;
        self.flush()?;
        for one in clear {
            self.step()?;
            self.engine.bring_in(name, std::slice::from_ref(one))?;
        }
        Ok(())
    }

    fn unstage(&self, name: &str) -> Result<(), StorageError> {
        self.step()?;
        self.engine.unstage(name)
    }

    fn staged(&self) -> Result<Vec<String>, StorageError> {
        self.engine.staged()
    }

    fn offload(&self, job: Box<dyn FnOnce() + Send>) {
        self.engine.offload(job);
    }

    fn host(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.engine.host(name, task);
    }

    fn note_failure(&self, error: &StorageError) {
        self.engine.note_failure(error);
    }

    fn background_error(&self) -> Option<StorageError> {
        self.engine.background_error()
    }
}

struct MortalStaging {
    staging: Box<dyn Staging>,
    steps_left: Arc<AtomicUsize>,
}

impl Staging for MortalStaging {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.staging.put(table, key, value)
    }

    fn seal(self: Box<Self>) -> Result<(), StorageError> {
        step(&self.steps_left)?;
        self.staging.seal()
    }
}
