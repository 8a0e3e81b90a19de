//! Whether this node may take on more: refused early, while there is still room to recover in.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::storage::DiskMark;

/// The node's disk mark, as its probe last saw it.
#[derive(Debug, Default)]
pub struct Admission {
    disk: AtomicU8,
}

impl Admission {
    /// Notes what the probe saw.
    pub fn set_disk(&self, mark: DiskMark) {
        let value = match mark {
            DiskMark::Ok => 0,
            DiskMark::Soft => 1,
            DiskMark::Hard => 2,
        };
        self.disk.store(value, Ordering::Release);
    }

    /// What the probe saw.
    pub fn disk(&self) -> DiskMark {
        match self.disk.load(Ordering::Acquire) {
            0 => DiskMark::Ok,
            1 => DiskMark::Soft,
            _ => DiskMark::Hard,
        }
    }

    /// Whether a leader here may propose appends.
    pub fn takes_appends(&self) -> bool {
        self.disk() == DiskMark::Ok
    }

    /// Whether a follower here may take entries from its leader.
    pub fn takes_entries(&self) -> bool {
        self.disk() != DiskMark::Hard
    }
}
