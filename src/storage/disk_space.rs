//! How full the disk is, as marks: refuse appends at the soft one, everything at the hard one, while RocksDB still has
//! room to reopen (recovery writes files).

use std::path::Path;

/// Free space above the hard mark that a compaction begins with. No more than the ballast is by default: whoever gives
/// that up at the hard mark wants compactions to make room.
const COMPACTION_MARGIN_BYTES: u64 = 256 * 1024 * 1024;

/// Below which free space which mark is reached, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// Leaders refuse appends.
    pub soft_free_bytes: u64,
    /// Followers refuse entries too.
    pub hard_free_bytes: u64,
}

/// How full the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskMark {
    /// Room enough.
    Ok,
    /// Appends are refused; trims, deletions and redactions pass.
    Soft,
    /// Replication is refused too.
    Hard,
}

impl DiskLimits {
    /// The mark that this much free space means.
    pub fn mark(&self, free_bytes: u64) -> DiskMark {
        if free_bytes < self.hard_free_bytes {
            DiskMark::Hard
        } else if free_bytes < self.soft_free_bytes {
            DiskMark::Soft
        } else {
            DiskMark::Ok
        }
    }

    /// Whether compactions may begin. They take room before they give any back, and all of it must not be what votes and
    /// flushes need.
    pub fn let_compact(&self, free_bytes: u64) -> bool {
        free_bytes >= self.compact_free_bytes()
    }

    /// Below which free space no compaction begins, in bytes: a little above the hard mark, and below the soft one, since
    /// nothing else makes room of what is trimmed and deleted there.
    pub fn compact_free_bytes(&self) -> u64 {
        let halfway = self.hard_free_bytes.midpoint(self.soft_free_bytes);
        halfway.min(self.hard_free_bytes.saturating_add(COMPACTION_MARGIN_BYTES))
    }
}

/// Bytes that an unprivileged process may still write to the disk of a path. Blocks.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_half_open() {
        let limits = DiskLimits { soft_free_bytes: 100, hard_free_bytes: 10 };
        let marks = [0, 9, 10, 99, 100].map(|free| limits.mark(free));
        use DiskMark::{Hard, Ok, Soft};
        assert_eq!(marks, [Hard, Hard, Soft, Soft, Ok]);
        assert_eq!([10, 54, 55].map(|free| limits.let_compact(free)), [false, false, true]);
        const GIB: u64 = 1 << 30;
        let limits = DiskLimits { soft_free_bytes: 100 * GIB, hard_free_bytes: GIB };
        assert_eq!(limits.compact_free_bytes(), GIB + COMPACTION_MARGIN_BYTES);
    }
}
