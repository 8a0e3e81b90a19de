//! Watches the disk's free space and sets the node's marks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Metrics;
use crate::consensus::Admission;
use crate::storage::{DataDir, DiskLimits, DiskMark};

/// Short enough that the hard mark is seen before a fast writer gets from one mark to the other.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// What the probe last saw.
pub struct DiskWatch {
    disk: Arc<DataDir>,
    limits: DiskLimits,
    free: AtomicU64,
    admission: Arc<Admission>,
}

impl DiskWatch {
    /// Probes once, so that the marks stand before anything is served.
    pub fn begin(disk: Arc<DataDir>, limits: DiskLimits, admission: Arc<Admission>) -> Arc<Self> {
        let watch = DiskWatch { disk, limits, free: AtomicU64::new(u64::MAX), admission };
        watch.probe();
        Arc::new(watch)
    }

    /// Probes until the node stops.
    pub async fn run(self: Arc<Self>, metrics: Arc<Metrics>) {
        let mut ticks = tokio::time::interval(PROBE_INTERVAL);
        loop {
            ticks.tick().await;
            self.probe();
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
