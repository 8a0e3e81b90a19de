use std::collections::BTreeMap;

use super::records::{OwnedRecord, Record};
use super::{Batch, StorageError, Table, View};

/// A view with changes on top that are not written yet: what one command changed, the next one sees.
pub struct Overlay<'a> {
    below: &'a dyn View,
    changes: BTreeMap<Table, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl<'a> Overlay<'a> {
    /// No changes yet.
    pub fn new(below: &'a dyn View) -> Self {
        Overlay { below, changes: BTreeMap::new() }
    }

    /// The record under a key, changes included, verified.
    pub fn row<R: OwnedRecord>(&self, key: &[u8]) -> Result<Option<R>, StorageError> {
        match self.changes.get(&R::TABLE).and_then(|rows| rows.get(key)) {
            Some(change) => change.as_deref().map(|value| R::decode(key, value)).transpose(),
            None => {
                let stored = self.below.get(R::TABLE, key)?;
                stored.map(|value| R::decode(key, &value)).transpose()
            }
        }
    }

    /// What a key was set to, if it was.
    pub fn change(&self, table: Table, key: &[u8]) -> Option<&[u8]> {
        self.changes.get(&table)?.get(key)?.as_deref()
    }

    /// Sets the record under a key.
    pub fn put_row<R: Record>(&mut self, key: Vec<u8>, row: &R) {
        let value = row.encode(&key);
        self.put(R::TABLE, key, value);
    }

    /// Sets a key.
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.changes.entry(table).or_default().insert(key, Some(value));
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.changes.entry(table).or_default().insert(key, None);
    }

    /// The changes as one batch, in the order of tables and keys.
    pub fn into_batch(self) -> Batch {
        let mut batch =
            Batch { ops: Vec::with_capacity(self.changes.values().map(BTreeMap::len).sum()) };
        for (table, rows) in self.changes {
            for (key, change) in rows {
                match change {
                    Some(value) => batch.put(table, key, value),
                    None => batch.delete(table, key),
                }
            }
        }
        batch
    }
}
