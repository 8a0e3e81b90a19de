const MIB: usize = 1024 * 1024;

/// Sizes that trade memory and disk for speed. Nothing here changes what is promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes of one memtable of the Raft log. Entries that are purged before it fills are never written a second
    /// time. Up to [`Tuning::LOG_MEMTABLES_MAX`] of them exist at once.
    pub log_memtable_bytes: usize,
    /// Bytes of write-ahead log past which the oldest memtable is flushed, so that a table that is rarely written
    /// (votes) keeps no old file alive. Also bounds how much is replayed on opening.
    pub log_wal_bytes_max: u64,
    /// Bytes of all memtables of the state database. Past it all tables are flushed together.
    pub state_memtable_bytes: usize,
    /// Bytes of decompressed blocks kept for reads of the state database.
    pub state_cache_bytes: usize,
    /// Bytes of decompressed blocks kept for reads of the log database; most are served from memtables.
    pub log_cache_bytes: usize,
    /// Message rows of at least this many bytes are kept in blob files, which compaction does not rewrite.
    pub blob_bytes_min: u64,
    /// Files of each database that are held open.
    pub open_files_max: u32,
    /// Threads for flushes and compactions of each database.
    pub background_jobs: u32,
    /// Bytes of the disk that have to be free on opening for compactions to begin: they take room before they give any
    /// back. Below, a database opens with them held.
    pub compact_free_bytes_min: u64,
    /// Bytes of one file of a staging area at most, give or take one row.
    pub staging_file_bytes: u64,
}

impl Tuning {
    /// Memtables of the Raft log at most, the one being written included.
    pub const LOG_MEMTABLES_MAX: usize = 4;
    /// Memtables of each table of the state at most. While a flush takes long, as many more are filled before writes wait
    /// for it; memory then goes beyond `state_memtable_bytes` by as much again.
    pub const STATE_MEMTABLES_MAX: usize = 4;

    /// Files that both databases together hold open.
    pub fn open_files_max_in_all(&self) -> u64 {
        2 * u64::from(self.open_files_max)
    }

    /// For tests: small enough that flushes and files happen with little data.
    pub fn small() -> Self {
        Tuning {
            log_memtable_bytes: MIB,
            log_wal_bytes_max: 2 * MIB as u64,
            state_memtable_bytes: 4 * MIB,
            state_cache_bytes: 4 * MIB,
            log_cache_bytes: MIB,
            blob_bytes_min: 1024,
            open_files_max: 64,
            background_jobs: 2,
            compact_free_bytes_min: 0,
            staging_file_bytes: 64 * 1024,
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            log_memtable_bytes: 128 * MIB,
            log_wal_bytes_max: 384 * MIB as u64,
            state_memtable_bytes: 256 * MIB,
            state_cache_bytes: 256 * MIB,
            log_cache_bytes: 16 * MIB,
            blob_bytes_min: 4 * 1024,
            open_files_max: 512,
            background_jobs: 4,
            compact_free_bytes_min: 0,
            staging_file_bytes: 64 * MIB as u64,
        }
    }
}
