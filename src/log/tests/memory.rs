//! The smallest view that there can be. It takes the place of a storage engine here, so that these tests fail for
//! reasons of the state machine only.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::storage::{Batch, Direction, KeyRange, Op, Rows, StorageError, Table, View};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryView {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Bytes>>,
}

impl MemoryView {
    pub fn write(&mut self, batch: Batch) {
        for op in batch.ops {
            match op {
                Op::Put(table, key, value) => {
                    self.tables.entry(table).or_default().insert(key, Bytes::from(value));
                }
                Op::Delete(table, key) => {
                    self.tables.entry(table).or_default().remove(&key);
                }
                Op::DeleteRange(table, range) => {
                    let inside = |key: &Vec<u8>| {
                        *key >= range.start && range.end.as_ref().is_none_or(|end| key < end)
                    };
                    self.tables.entry(table).or_default().retain(|key, _| !inside(key));
                }
            }
        }
    }

    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.tables.entry(table).or_default().insert(key, Bytes::from(value));
    }

    pub fn delete(&mut self, table: Table, key: &[u8]) {
        let removed = self.tables.entry(table).or_default().remove(key);
        assert!(removed.is_some(), "what a test removes is there");
    }

    pub fn rows(&self, table: Table) -> Vec<(Vec<u8>, Bytes)> {
        let rows = self.tables.get(&table).into_iter().flatten();
        rows.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl View for MemoryView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.tables.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn note_damage(&self, _error: &StorageError) {}

    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_> {
        let end = range.end.map_or(Bound::Unbounded, Bound::Excluded);
        let Some(rows) = self.tables.get(&table) else {
            return Box::new(std::iter::empty());
        };
        let inside = rows
            .range((Bound::Included(range.start), end))
            .map(|(key, value)| Ok((Bytes::copy_from_slice(key), value.clone())));
        match direction {
            Direction::Forward => Box::new(inside),
            Direction::Backward => Box::new(inside.rev()),
        }
    }
}
