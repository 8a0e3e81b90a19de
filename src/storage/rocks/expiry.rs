//! Takes expired dedup rows off the disk, while the files that hold them are compacted.
//!
//! Guarantee at stake: G4. A row that went too early lets a retry be appended a second time. A row means nothing once it
//! is below its group's dedup floor, and the floor never goes back, so it may go as soon as no state that can still be
//! read or applied to has a lower floor. Three such states there are, and a floor counts here only if it holds in each:
//! the present one; the one that a crash goes back to, which is that of the last completed flush; and every pinned view,
//! because a compaction does not spare the rows of a pinned view. A snapshot is sent from such a view: were rows missing
//! that its own floor still counts, its receiver would apply the entries that follow to another state than its sender.
//! A group whose row goes, or becomes that of another replica, has no floor at all at once: what is applied to it next
//! begins anew.
//!
//! Why here and not by deletes: a delete that is decided on outside of `apply` races with an append that uses the id
//! again. A compaction looks at one version of a row, and what it removes hides no newer one.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::storage::records::{DedupRow, GroupRow, Record};
use crate::storage::{Batch, Op, Rows, StorageError, Table};
use crate::types::{HashRange, PlacementHash, ReplicaId, Timestamp};

/// A group's dedup floor, and what it is the floor of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Floor {
    replica: ReplicaId,
    range: HashRange,
    at: Timestamp,
}

/// Floors of groups, by the key of their row.
type Floors = BTreeMap<Vec<u8>, Floor>;

/// The floors that hold in every state of one database that counts. Clones share them.
#[derive(Clone, Default)]
pub(super) struct ExpiryFloors {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    /// Of the present state.
    live: Floors,
    /// Of the state that a crash goes back to.
    flushed: Floors,
    /// What both agree on.
    present: Arc<Floors>,
    /// That, and what they agreed on earlier, as far as a view was pinned then.
    agreed: Vec<Weak<Floors>>,
}

impl Default for Shared {
    fn default() -> Self {
        let present = Arc::new(Floors::new());
        let agreed = vec![Arc::downgrade(&present)];
        Shared { live: Floors::new(), flushed: Floors::new(), present, agreed }
    }
}

/// What holds back the floors as of when a view was pinned.
pub(super) struct ExpiryHold {
    _floors: Arc<Floors>,
}

impl Floor {
    fn is_of_the_same(&self, other: &Floor) -> bool {
        self.replica == other.replica && self.range == other.range
    }
}

/// What holds in both; nothing of a group that is not the same in both.
fn common(one: &Floors, other: &Floors) -> Floors {
    let both = one.iter().filter_map(|(group, floor)| {
        let other = other.get(group).filter(|other| other.is_of_the_same(floor))?;
        Some((group.clone(), Floor { at: floor.at.min(other.at), ..*floor }))
    });
    both.collect()
}

fn floor_of(key: &[u8], value: &[u8]) -> Option<Floor> {
    // A row that does not decode has no floor; whoever reads it says so.
    let row = GroupRow::decode(key, value).ok()?;
    Some(Floor { replica: row.replica, range: row.range?, at: row.dedup_floor })
}

impl Shared {
    fn agree(&mut self) {
        let agreed = common(&self.live, &self.flushed);
        if agreed != *self.present {
            self.present = Arc::new(agreed);
            self.agreed.retain(|floors| floors.strong_count() > 0);
            self.agreed.push(Arc::downgrade(&self.present));
        }
    }
}

impl ExpiryFloors {
    /// Begins with the group rows that were found on disk. Until then nothing may go.
    pub(super) fn begin(&self, rows: Rows<'_>) -> Result<(), StorageError> {
        let mut floors = Floors::new();
        for row in rows {
            let (key, value) = row?;
            floors.extend(floor_of(&key, &value).map(|floor| (key.to_vec(), floor)));
        }
        let mut shared = self.lock();
        shared.live = floors.clone();
        shared.flushed = floors;
        shared.agree();
        Ok(())
    }

    /// Before a batch is written: floors that it lowers or ends count no more. What it raises is returned.
    pub(super) fn before_write(&self, batch: &Batch) -> FloorsWritten {
        let of_group = |op: &Op| match op {
            Op::Put(Table::Groups, key, value) => Some((key.clone(), floor_of(key, value))),
            Op::Delete(Table::Groups, key) => Some((key.clone(), None)),
            _ => None,
        };
        let mut written: Vec<_> = batch.ops.iter().filter_map(of_group).collect();
        let ends_all = batch.ops.iter().any(|op| matches!(op, Op::DeleteRange(Table::Groups, _)));
        if written.is_empty() && !ends_all {
            return FloorsWritten(written);
        }
        let mut shared = self.lock();
        let live = &mut shared.live;
        // Every batch of applied entries has its group's row, and hardly ever another floor in it: then there is nothing
        // to agree on anew, which takes as long as there are groups.
        if !ends_all && written.iter().all(|(group, new)| live.get(group) == new.as_ref()) {
            written.clear();
            return FloorsWritten(written);
        }
        if ends_all {
            live.clear();
        }
        for (group, new) in &written {
            let old = live.remove(group);
            let lowered = old.zip(*new).filter(|(old, new)| old.is_of_the_same(new));
            if let Some((old, new)) = lowered {
                live.insert(group.clone(), Floor { at: old.at.min(new.at), ..old });
            }
        }
        shared.agree();
        FloorsWritten(written)
    }

    /// After the batch was written: what it raised counts in the present state, and with the next flush.
    pub(super) fn after_write(&self, written: FloorsWritten) {
        if written.0.is_empty() {
            return;
        }
        let mut shared = self.lock();
        let raised = written.0.into_iter().filter_map(|(group, new)| Some((group, new?)));
        shared.live.extend(raised);
        shared.agree();
    }

    /// Before a flush begins: what it will at least have made durable.
    pub(super) fn before_flush(&self) -> FloorsToFlush {
        FloorsToFlush(self.lock().live.clone())
    }

    /// A flush has completed.
    pub(super) fn after_flush(&self, floors: FloorsToFlush) {
        let mut shared = self.lock();
        shared.flushed = floors.0;
        shared.agree();
    }

    /// To be taken before a view is pinned, and kept as long as it.
    pub(super) fn hold(&self) -> ExpiryHold {
        ExpiryHold { _floors: self.lock().present.clone() }
    }

    /// What may go now.
    fn allowed(&self) -> Floors {
        let shared = self.lock();
        let held = shared.agreed.iter().filter_map(Weak::upgrade);
        held.fold((*shared.present).clone(), |allowed, floors| common(&allowed, &floors))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no panic while locked")
    }
}

/// See [`ExpiryFloors::before_write`].
pub(super) struct FloorsWritten(Vec<(Vec<u8>, Option<Floor>)>);

/// See [`ExpiryFloors::before_flush`].
pub(super) struct FloorsToFlush(Floors);

const NAME: &CStr = c"quorate expired dedup rows";

impl CompactionFilterFactory for ExpiryFloors {
    type Filter = ExpiryFilter;

    /// The floors as of the beginning of a compaction serve to its end: it sees only rows that were there then.
    fn create(&mut self, _context: CompactionFilterContext) -> ExpiryFilter {
        ExpiryFilter { floors: self.allowed().into_values().collect() }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// The filter of one compaction of the dedup table.
pub(super) struct ExpiryFilter {
    floors: Vec<Floor>,
}

impl CompactionFilter for ExpiryFilter {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        let Some(hash) = key.get(..8).and_then(|bytes| bytes.try_into().ok()) else {
            return CompactionDecision::Keep;
        };
        let hash = PlacementHash(u64::from_be_bytes(hash));
        let Some(floor) = self.floors.iter().find(|floor| floor.range.contains(hash)) else {
            return CompactionDecision::Keep;
        };
        match DedupRow::decode(key, value) {
            Ok(row) if row.issued_at < floor.at => CompactionDecision::Remove,
            // A damaged one stays, to be noticed where it is read.
            _ => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}
