//! Watches the disk's free space, sets the node's marks, and holds the compactions of its databases before the hard one.
//!
//! Guarantee at stake: G12. A compaction writes what it makes of its files before it gives those up. What is left of the
//! disk at the hard mark is for votes and flushes; were it taken, the next of them would end the node, at each start. Nor
//! does RocksDB get over a compaction that found no room: where flushes are atomic the next one fails for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Metrics;
use crate::consensus::Admission;
use crate::storage::{DataDir, DiskLimits, DiskMark, Engine, Storage};

/// Short enough that the hard mark is seen before a fast writer gets from one mark to the other.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// What the probe last saw.
pub struct DiskWatch {
    disk: Arc<DataDir>,
    databases: [Database; 2],
    limits: DiskLimits,
    free: AtomicU64,
    admission: Arc<Admission>,
}

struct Database {
    engine: Arc<dyn Engine>,
    /// Held while it is told what to do.
    told: Mutex<()>,
}

impl DiskWatch {
    /// Probes once, so that the marks stand before anything is served.
    pub fn begin(storage: &Storage, limits: DiskLimits, admission: Arc<Admission>) -> Arc<Self> {
        let disk = storage.data_dir.clone();
        let databases = [&storage.log, &storage.state]
            .map(|engine| Database { engine: engine.clone(), told: Mutex::default() });
        let free = AtomicU64::new(u64::MAX);
        let watch = DiskWatch { disk, databases, limits, free, admission };
        watch.probe();
        Arc::new(watch)
    }

    /// Probes until the node stops.
    pub async fn run(self: Arc<Self>, metrics: Arc<Metrics>) {
        let mut ticks = tokio::time::interval(PROBE_INTERVAL);
        let mut held = None;
        loop {
            ticks.tick().await;
            self.probe();
            let hold = self.holds_compactions();
            if held != Some(hold) {
                self.hold_compactions();
                held = Some(hold);
            }
            metrics.set_disk_free_bytes(self.free_bytes());
        }
    }

    /// Free bytes.
    pub fn free_bytes(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// The mark.
    pub fn mark(&self) -> DiskMark {
        self.limits.mark(self.free_bytes())
    }

    /// Whether no compaction may begin.
    fn holds_compactions(&self) -> bool {
        !self.limits.let_compact(self.free_bytes())
    }

    /// Holds them where there is no room for them, and else lets them go. Each database in its own time: it may wait for
    /// the disk first, and the marks must not.
    fn hold_compactions(self: &Arc<Self>) {
        for (number, database) in self.databases.iter().enumerate() {
            let watch = self.clone();
            database.engine.offload(Box::new(move || {
                let database = &watch.databases[number];
                // As it is now, told by one at a time: whoever comes last tells the newest.
                let _told = database.told.lock().expect("no panic while locked");
                let hold = watch.holds_compactions();
                if let Err(error) = database.engine.hold_compactions(hold) {
                    tracing::error!(%error, hold, "compactions could not be held, or let go");
                }
            }));
        }
    }

    fn probe(&self) {
        match self.disk.free_bytes() {
            Ok(free) => {
                let before = self.admission.disk();
                self.free.store(free, Ordering::Relaxed);
                let mark = self.mark();
                self.admission.set_disk(mark);
                if mark != before {
                    tracing::warn!(?mark, free_bytes = free, "the disk mark has changed");
                }
            }
            Err(error) => tracing::error!(%error, "the free space of the disk is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use tokio::sync::mpsc;

    use super::*;
    use crate::consensus::solitary::Disks;
    use crate::storage::StorageError;
    use crate::storage::interposed::{Interposed, Interposer, Job};

    const LIMITS: DiskLimits = DiskLimits { soft_free_bytes: 100, hard_free_bytes: 10 };

    #[tokio::test(start_paused = true)]
    async fn compactions_are_held_while_the_disk_has_no_room_for_them() {
        let disks = Disks::default();
        let process = disks.start().await;
        let watch = DiskWatch::begin(&process.storage, LIMITS, Arc::default());
        tokio::spawn(watch.run(Arc::new(Metrics::new())));
        for (free, hold) in [(60, false), (50, true), (9, true), (8, true), (55, false)] {
            disks.dir.free_bytes.store(free, Ordering::Relaxed);
            tokio::time::sleep(2 * PROBE_INTERVAL).await;
            let held = [disks.log.holds_compactions(), disks.state.holds_compactions()];
            assert_eq!(held, [hold, hold], "{free} bytes are free");
        }
    }

    /// The state's database, which tells compactions where the test says.
    struct Telling {
        jobs: mpsc::Sender<Job>,
        watch: Arc<OnceLock<Arc<DiskWatch>>>,
    }

    impl Interposer for Telling {
        fn offload(&self, _below: &dyn Engine, job: Job) {
            self.jobs.try_send(job).expect("the test takes jobs");
        }

        fn hold_compactions(&self, below: &dyn Engine, hold: bool) -> Result<(), StorageError> {
            let [_, state] = &self.watch.get().expect("it has begun").databases;
            assert!(state.told.try_lock().is_err(), "another could be told at the same time");
            below.hold_compactions(hold)
        }
    }

    /// Free space goes to and fro about the mark, and of two jobs the older comes last.
    #[tokio::test]
    async fn a_database_is_told_the_newest_mark_by_one_at_a_time() {
        let (disks, watched) = (Disks::default(), Arc::default());
        let (jobs, mut offloaded) = mpsc::channel(2);
        let by = Telling { jobs, watch: Arc::clone(&watched) };
        let state = Interposed { below: Arc::new(disks.state.open()), by };
        let process = disks.start_over(Arc::new(state)).await;
        let watch = DiskWatch::begin(&process.storage, LIMITS, Arc::default());
        assert!(watched.set(watch.clone()).is_ok());
        for (first, then, hold) in [(9, 60, false), (60, 9, true)] {
            let [older, newer] = [first, then].map(|free| {
                disks.dir.free_bytes.store(free, Ordering::Relaxed);
                watch.probe();
                watch.hold_compactions();
                offloaded.try_recv().expect("the state's database is to be told")
            });
            newer();
            older();
            assert_eq!(disks.state.holds_compactions(), hold, "{then} bytes are free");
        }
    }
}
