//! What replicas write of conversations, compared as they write it: G2 held to at each step, not only when somebody
//! reads.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use quorate::storage::records::{ConversationHead, Record};
use quorate::storage::{Batch, Op, Table};
use quorate::types::NodeId;

use crate::leaders::Leaders;

/// What the first replica wrote in each place. The next ones have to write the same, and the same replica too when it
/// applies an entry again after a crash.
#[derive(Default)]
pub struct Ledger {
    entries: Mutex<Entries>,
    /// Who leads, by what they write.
    pub leaders: Leaders,
}

#[derive(Default)]
struct Entries {
    written: BTreeMap<Place, (NodeId, Bytes)>,
    differences: Vec<String>,
}

/// A message by its key, or a head by its key and the tail it had.
type Place = (Table, Vec<u8>, Option<u64>);

impl Ledger {
    /// Takes what a node writes.
    pub fn take(&self, node: NodeId, batch: &Batch) {
        for op in &batch.ops {
            let Op::Put(table, key, value) = op else { continue };
            let tail = match table {
                Table::Messages => None,
                Table::Conversations => match ConversationHead::decode(key, value) {
                    Ok(head) => Some(head.tail.0),
                    Err(error) => {
                        self.entries().differences.push(format!("G11: node {node}: {error}"));
                        continue;
                    }
                },
                _ => continue,
            };
            self.entries().take(node, (*table, key.clone(), tail), value);
        }
    }

    /// What replicas have written differently since this was asked last.
    pub fn differences(&self) -> Vec<String> {
        std::mem::take(&mut self.entries().differences)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().expect("no panic while locked")
    }
}

impl Entries {
    fn take(&mut self, node: NodeId, place: Place, value: &[u8]) {
        let Some((first, written)) = self.written.get(&place) else {
            self.written.insert(place, (node, Bytes::copy_from_slice(value)));
            return;
        };
        if written != value {
            let (table, key, _) = &place;
            let what = table.name();
            self.differences.push(format!(
                "G2: nodes {first} and {node} wrote different {what} under {key:02x?}"
            ));
        }
    }
}
