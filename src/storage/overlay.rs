use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::records::{ConversationHead, OwnedRecord, Record};
use super::{Batch, StorageError, Table, View, keys};
use crate::types::ConversationId;

/// A view with changes on top that are not written yet: what one command changed, the next one sees.
///
/// Heads of conversations have functions of their own. They stay decoded, because most commands of a write change one
/// that an earlier command has changed already: each is decoded at most once and encoded at most once in a write.
pub struct Overlay<'a> {
    below: &'a dyn View,
    /// Of all tables but that of heads.
    changes: BTreeMap<Table, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    heads: BTreeMap<ConversationId, Head>,
}

/// A head that was read or set.
struct Head {
    row: ConversationHead,
    is_changed: bool,
}

impl<'a> Overlay<'a> {
    /// No changes yet.
    pub fn new(below: &'a dyn View) -> Self {
        Overlay { below, changes: BTreeMap::new(), heads: BTreeMap::new() }
    }

    /// The head under a conversation's id, changes included, verified. Its name has still to be compared.
    pub fn head(
        &mut self,
        conversation: ConversationId,
    ) -> Result<Option<&ConversationHead>, StorageError> {
        let head = match self.heads.entry(conversation) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                match read_row(self.below, &keys::conversation(conversation))? {
                    Some(row) => unknown.insert(Head { row, is_changed: false }),
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(&head.row))
    }

    /// Sets the head of a conversation.
    pub fn put_head(&mut self, conversation: ConversationId, row: ConversationHead) {
        self.heads.insert(conversation, Head { row, is_changed: true });
    }

    /// The record under a key, changes included, verified.
    pub fn row<R: OwnedRecord>(&self, key: &[u8]) -> Result<Option<R>, StorageError> {
        assert_not_heads(R::TABLE);
        match self.changes.get(&R::TABLE).and_then(|rows| rows.get(key)) {
            Some(change) => change.as_deref().map(|value| R::decode(key, value)).transpose(),
            None => read_row(self.below, key),
        }
    }

    /// What a key was set to, if it was.
    pub fn change(&self, table: Table, key: &[u8]) -> Option<&[u8]> {
        assert_not_heads(table);
        self.changes.get(&table)?.get(key)?.as_deref()
    }

    /// Sets the record under a key.
    pub fn put_row<R: Record>(&mut self, key: Vec<u8>, row: &R) {
        let value = row.encode(&key);
        self.put(R::TABLE, key, value);
    }

    /// Sets a key.
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.change_to(table, key, Some(value));
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.change_to(table, key, None);
    }

    fn change_to(&mut self, table: Table, key: Vec<u8>, change: Option<Vec<u8>>) {
        assert_not_heads(table);
        self.changes.entry(table).or_default().insert(key, change);
    }

    /// The changes as one batch, in the order of tables and keys.
    pub fn into_batch(mut self) -> Batch {
        let changed = self.heads.into_iter().filter(|(_, head)| head.is_changed);
        let encoded = changed.map(|(conversation, head)| {
            let key = keys::conversation(conversation);
            let value = head.row.encode(&key);
            (key, Some(value))
        });
        self.changes.insert(Table::Conversations, encoded.collect());
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

/// The stored record under a key, verified.
fn read_row<R: OwnedRecord>(below: &dyn View, key: &[u8]) -> Result<Option<R>, StorageError> {
    below.get(R::TABLE, key)?.map(|value| R::decode(key, &value)).transpose()
}

/// A head that came in another way would not be seen by who asks for it decoded.
fn assert_not_heads(table: Table) {
    assert_ne!(table, Table::Conversations, "heads are read and set by `head` and `put_head`");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Database, Durability, Engine, MemoryDisk, MemoryEngine, Op};
    use crate::types::{ConversationName, Seq, Timestamp};

    const A: ConversationId = ConversationId([1; 16]);
    const B: ConversationId = ConversationId([2; 16]);

    fn head(tail: u64) -> ConversationHead {
        ConversationHead {
            name: ConversationName("room".to_owned()),
            generation: 0,
            first_seq: Seq(1),
            tail: Seq(tail),
            bytes: 0,
            last_commit_time: Timestamp(0),
            digest: [0; 32],
            base_digest: [0; 32],
            unread_total: 0,
        }
    }

    fn engine() -> MemoryEngine {
        MemoryDisk::new(Database::State).open()
    }

    #[test]
    fn a_head_that_was_set_is_seen_and_written_once() {
        let engine = engine();
        let mut overlay = Overlay::new(&engine);
        assert_eq!(overlay.head(A).unwrap(), None);
        for tail in 2..5 {
            overlay.put_head(A, head(tail));
            assert_eq!(overlay.head(A).unwrap(), Some(&head(tail)));
        }
        let key = keys::conversation(A);
        let value = head(4).encode(&key);
        assert_eq!(overlay.into_batch().ops, [Op::Put(Table::Conversations, key, value)]);
    }

    #[test]
    fn a_head_that_was_only_read_is_not_written() {
        let engine = engine();
        let mut overlay = Overlay::new(&engine);
        overlay.put_head(A, head(2));
        engine.write(overlay.into_batch(), Durability::Flushed).unwrap();
        let mut overlay = Overlay::new(&engine);
        assert_eq!(overlay.head(A).unwrap(), Some(&head(2)));
        assert_eq!(overlay.head(B).unwrap(), None);
        assert_eq!(overlay.into_batch().ops, []);
    }

    /// Breaks G11 if it fails: what is damaged is not served because it was damaged before.
    #[test]
    fn a_damaged_head_is_noticed_each_time() {
        let engine = engine();
        let mut batch = Batch::default();
        batch.put(Table::Conversations, keys::conversation(A), vec![1, 2, 3, 4, 5, 6]);
        engine.write(batch, Durability::Flushed).unwrap();
        let mut overlay = Overlay::new(&engine);
        for _ in 0..2 {
            assert!(matches!(overlay.head(A), Err(StorageError::Damaged { .. })));
        }
    }

    #[test]
    fn changes_are_in_the_order_of_tables_and_keys() {
        let engine = engine();
        let mut overlay = Overlay::new(&engine);
        overlay.put(Table::Groups, vec![1], vec![1]);
        overlay.put_head(B, head(2));
        overlay.put_head(A, head(2));
        overlay.put(Table::Messages, vec![9], vec![1]);
        overlay.delete(Table::Messages, vec![8]);
        let places: Vec<_> = overlay.into_batch().ops.iter().map(place).collect();
        let heads = [A, B].map(|id| (Table::Conversations, keys::conversation(id)));
        let messages = [8, 9].map(|key| (Table::Messages, vec![key]));
        assert_eq!(places, [&messages[..], &heads, &[(Table::Groups, vec![1])]].concat());
    }

    fn place(op: &Op) -> (Table, Vec<u8>) {
        match op {
            Op::Put(table, key, _) | Op::Delete(table, key) => (*table, key.clone()),
            Op::DeleteRange(table, range) => (*table, range.start.clone()),
        }
    }
}
