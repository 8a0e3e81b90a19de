use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Batch, StorageError, Table, View};

/// A view with changes on top that are not written yet: what one command changed, the next one sees.
pub struct Overlay<'a> {
    below: &'a dyn View,
    changes: BTreeMap<(Table, Vec<u8>), Option<Bytes>>,
}

impl<'a> Overlay<'a> {
    /// No changes yet.
    pub fn new(below: &'a dyn View) -> Self {
        Overlay { below, changes: BTreeMap::new() }
    }

    /// The value of a key, changes included.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.changes.get(&(table, key.to_vec())) {
            Some(change) => Ok(change.clone()),
            None => self.below.get(table, key),
        }
    }

    /// Sets a key.
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert((table, key), Some(Bytes::from(value)));
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.changes.insert((table, key), None);
    }

    /// The changes as one batch, in key order.
    pub fn into_batch(self) -> Batch {
        let mut batch = Batch::default();
        for ((table, key), change) in self.changes {
            match change {
                Some(value) => batch.put(table, key, value.to_vec()),
                None => batch.delete(table, key),
            }
        }
        batch
    }
}
