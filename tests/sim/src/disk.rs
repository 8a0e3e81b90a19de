//! Disks of simulated nodes, which take time, fill memtables, and lose what was not synced.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate::storage::{
    Batch, Direction, Durability, Engine, KeyRange, MemoryDisk, MemoryEngine, Op, Rows, Staging,
    StorageError, Table, View,
};
use quorate::types::NodeId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::ledger::Ledger;

/// How slow a node's disk is, and what it did.
pub struct DiskManners {
    randomness: Mutex<SmallRng>,
    /// Of its own, so that all else that is drawn stays as it was without it.
    memtables: Mutex<SmallRng>,
    /// The longest that one operation takes, in microseconds.
    slowest_us: AtomicU64,
    /// Operations that took longer than they usually may.
    pub slowed: AtomicU64,
    /// Logs cut short because their end was not what the leader has.
    pub truncations: AtomicU64,
    /// Snapshots brought in.
    pub installs: AtomicU64,
    /// After how many further changes the process is to die in its next installation.
    dies_in_install: Mutex<Option<usize>>,
    /// Deaths in the middle of what a process changed.
    pub deaths_midway: AtomicU64,
    /// Changes of the applied state.
    pub changes: AtomicU64,
}

const USUAL_DISK_US: u64 = 2_000;
/// On average.
const WRITES_PER_MEMTABLE: u32 = 200;

impl DiskManners {
    /// As usual.
    pub fn new(seed: u64) -> Self {
        DiskManners {
            randomness: Mutex::new(SmallRng::seed_from_u64(seed)),
            memtables: Mutex::new(SmallRng::seed_from_u64(!seed)),
            slowest_us: AtomicU64::new(USUAL_DISK_US),
            slowed: AtomicU64::new(0),
            truncations: AtomicU64::new(0),
            installs: AtomicU64::new(0),
            dies_in_install: Mutex::default(),
            deaths_midway: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        }
    }

    /// Sets how long the slowest operation takes; none for as usual.
    pub fn set_slowest(&self, slowest: Option<Duration>) {
        let slowest_us = slowest.map_or(USUAL_DISK_US, |slowest| slowest.as_micros() as u64);
        self.slowest_us.store(slowest_us, Ordering::Relaxed);
    }

    /// The process dies in its next installation of a snapshot, after so many further changes; or it does not.
    pub fn set_dies_in_install(&self, after: Option<usize>) {
        *self.dies_in_install.lock().expect("no panic while locked") = after;
    }

    /// The applied state has changed.
    pub fn count_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn latency(&self) -> Duration {
        let slowest = self.slowest_us.load(Ordering::Relaxed);
        let mut randomness = self.randomness.lock().expect("no panic while locked");
        let latency_us = randomness.random_range(50..=slowest.max(100));
        self.slowed.fetch_add(u64::from(latency_us > USUAL_DISK_US), Ordering::Relaxed);
        Duration::from_micros(latency_us)
    }

    fn coin(&self) -> bool {
        self.randomness.lock().expect("no panic while locked").random()
    }

    /// Whether a write fills a memtable, so that all are flushed though nobody has asked for it.
    fn is_memtable_full(&self) -> bool {
        let mut memtables = self.memtables.lock().expect("no panic while locked");
        memtables.random_ratio(1, WRITES_PER_MEMTABLE)
    }
}

/// Whether a change cuts a log short: it removes a group's entries from an index above 0 on, up to the next group.
fn is_cut(op: &Op) -> bool {
    const GROUP_BYTES: usize = 8;
    let Op::DeleteRange(Table::RaftLog, range) = op else { return false };
    let to_the_end = range.end.as_ref().is_none_or(|end| end.len() == GROUP_BYTES);
    to_the_end && range.start[GROUP_BYTES..].iter().any(|byte| *byte > 0)
}

/// A database in memory whose operations take time.
pub struct SimEngine {
    node: NodeId,
    disk: MemoryDisk,
    inner: MemoryEngine,
    manners: Arc<DiskManners>,
    ledger: Arc<Ledger>,
}

impl SimEngine {
    /// Opens what is on a disk of a node.
    pub fn open(
        node: NodeId,
        disk: &MemoryDisk,
        manners: Arc<DiskManners>,
        ledger: Arc<Ledger>,
    ) -> Self {
        SimEngine { node, disk: disk.clone(), inner: disk.open(), manners, ledger }
    }
}

impl View for SimEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.inner.get(table, key)
    }

    fn note_damage(&self, error: &StorageError) {
        self.inner.note_damage(error);
    }

    fn scan(&self, table: Table, range: KeyRange, direction: Direction) -> Rows<'_> {
        self.inner.scan(table, range, direction)
    }
}

impl Engine for SimEngine {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        self.ledger.take(self.node, &batch);
        let is_of_state = batch.ops.iter().any(|op| Table::STATE.contains(&op.table()));
        self.inner.write(batch, durability)?;
        if is_of_state {
            self.manners.count_change();
            if self.manners.is_memtable_full() {
                self.inner.flush()?;
            }
        }
        Ok(())
    }

    /// A write that a power cut meets halfway is torn, and opening the log drops it, whichever of its pages are missing
    /// (`storage/log_format.rs`). So it is there or it is not, and which of the two is drawn.
    fn write_synced(&self, batch: Batch) -> BoxFuture<'_, Result<(), StorageError>> {
        let cuts = batch.ops.iter().filter(|op| is_cut(op)).count();
        self.manners.truncations.fetch_add(cuts as u64, Ordering::Relaxed);
        self.ledger.leaders.take(self.node, &batch);
        let (latency, arrives_early) = (self.manners.latency(), self.manners.coin());
        Box::pin(async move {
            if arrives_early {
                let written = self.inner.write(batch, Durability::Synced);
                tokio::time::sleep(latency).await;
                return written;
            }
            tokio::time::sleep(latency).await;
            self.inner.write(batch, Durability::Synced)
        })
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.inner.flush()
    }

    fn pin(&self) -> Arc<dyn View> {
        self.inner.pin()
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Staging>, StorageError> {
        self.inner.stage(name)
    }

    fn bring_in(&self, name: &str, clear: &[(Table, KeyRange)]) -> Result<(), StorageError> {
        self.manners.installs.fetch_add(1, Ordering::Relaxed);
        self.manners.count_change();
        let mut dies = self.manners.dies_in_install.lock().expect("no panic while locked");
        if let Some(steps) = dies.take() {
            self.disk.crash_after(steps);
        }
        drop(dies);
        self.inner.bring_in(name, clear)
    }

    fn unstage(&self, name: &str) -> Result<(), StorageError> {
        self.inner.unstage(name)
    }

    fn staged(&self) -> Result<Vec<String>, StorageError> {
        self.inner.staged()
    }

    /// Jobs overtake each other, as on a pool of threads.
    fn offload(&self, job: Box<dyn FnOnce() + Send>) {
        let latency = self.manners.latency();
        tokio::spawn(async move {
            tokio::time::sleep(latency).await;
            job();
        });
    }

    fn host(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.inner.host(name, task);
    }

    fn hold_compactions(&self, hold: bool) -> Result<(), StorageError> {
        self.inner.hold_compactions(hold)
    }

    fn note_failure(&self, error: &StorageError) {
        self.inner.note_failure(error);
    }

    fn background_error(&self) -> Option<StorageError> {
        self.inner.background_error()
    }
}
