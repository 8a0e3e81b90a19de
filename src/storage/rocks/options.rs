//! How the two databases are set up. Why each setting is as it is stands beside it; measurements behind them are
//! in ARCHITECTURE.md.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, Options,
};

use super::expiry::ExpiryFloors;
use crate::storage::{Database, Table, Tuning};

const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// Of a memtable's bytes. A row of `Dedup` takes about 100 bytes, so that these are about 16 bits a key.
const MEMTABLE_BLOOM_RATIO: f64 = 0.02;
const BLOCK_BYTES: usize = 16 * 1024;
/// Of tables that are read row by row: to get at one row its whole block is read.
const SMALL_BLOCK_BYTES: usize = 4 * 1024;
const INFO_LOG_BYTES: usize = 8 * 1024 * 1024;
const INFO_LOG_FILES: usize = 4;
/// How long an expired row may stay on disk at most, besides the time that a compaction takes.
const EXPIRY_INTERVAL_SECONDS: u64 = 3 * 24 * 3600;
/// Of the files that one compaction replaces, about; what it makes of them needs as much room. A level that holds more is
/// compacted bit by bit. RocksDB's default is 1.6 GiB, which is more than is left of a disk at the hard mark.
const COMPACTION_BYTES: u64 = 512 * 1024 * 1024;
const MIB: usize = 1024 * 1024;

/// Options of the database as a whole.
pub(super) fn of_database(database: Database, tuning: &Tuning) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Stop at the first sign of damage instead of serving around it.
    options.set_paranoid_checks(true);
    options.set_max_open_files(tuning.open_files_max.try_into().unwrap_or(i32::MAX));
    options.set_max_background_jobs(tuning.background_jobs.try_into().unwrap_or(i32::MAX));
    options.set_keep_log_file_num(INFO_LOG_FILES);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_bytes_per_sync(MIB as u64);
    match database {
        Database::Log => {
            // The default mode opens on a flipped bit in mid-log and drops every synced record behind it.
            options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
            // Notices a log file that is missing as a whole.
            options.set_track_and_verify_wals_in_manifest(true);
            options.set_max_total_wal_size(tuning.log_wal_bytes_max);
        }
        Database::State => {
            // After a crash either everything of one flush is there or nothing of it, over all tables.
            options.set_atomic_flush(true);
            options.set_db_write_buffer_size(tuning.state_memtable_bytes);
            // RocksDB would tell the system that all reads are random, and it would read nothing ahead: large messages
            // lie in blob files, one after the other, and are read there one by one.
            options.set_advise_random_on_open(false);
        }
    }
    options
}

/// The tables of a database with their options; all share one block cache. With `hold` no compaction begins.
pub(super) fn of_tables(
    database: Database,
    tuning: &Tuning,
    expiry: &ExpiryFloors,
    hold: bool,
) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(match database {
        Database::Log => tuning.log_cache_bytes,
        Database::State => tuning.state_cache_bytes,
    });
    let describe = |table: &Table| {
        let mut options = of_table(*table, tuning, Some(&cache));
        options.set_disable_auto_compactions(hold);
        if *table == Table::Dedup {
            options.set_compaction_filter_factory(expiry.clone());
            // Files that nothing is added to are compacted now and then nevertheless.
            options.set_periodic_compaction_seconds(EXPIRY_INTERVAL_SECONDS);
        }
        ColumnFamilyDescriptor::new(table.name(), options)
    };
    database.tables().iter().map(describe).collect()
}

/// Options of one table, also for files that are written outside the database and brought in.
pub(super) fn of_table(table: Table, tuning: &Tuning, cache: Option<&Cache>) -> Options {
    let mut options = Options::default();
    // Half of a head are digests, which no compression makes smaller.
    options.set_compression_type(match table {
        Table::Conversations => DBCompressionType::None,
        _ => DBCompressionType::Lz4,
    });
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_compaction_bytes(COMPACTION_BYTES);

    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_size(match table {
        Table::Conversations | Table::Dedup => SMALL_BLOCK_BYTES,
        _ => BLOCK_BYTES,
    });
    // Index and filters count against the cache, so that memory does not grow with the number of conversations.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if let Some(cache) = cache {
        blocks.set_block_cache(cache);
    }
    if is_read_by_key(table) {
        blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    }
    options.set_block_based_table_factory(&blocks);

    if Database::State.tables().contains(&table) {
        // Written from the runtime's threads, which must not wait for a flush that takes long.
        options.set_max_write_buffer_number(Tuning::STATE_MEMTABLES_MAX as i32);
    }
    if is_asked_in_vain(table) {
        // Without it a miss searches every memtable to the end, as the ids of all new messages are.
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO);
    }
    match table {
        Table::RaftLog => {
            options.set_write_buffer_size(tuning.log_memtable_bytes);
            options.set_max_write_buffer_number(Tuning::LOG_MEMTABLES_MAX as i32);
        }
        Table::Messages => {
            options.set_write_buffer_size(tuning.state_memtable_bytes / 2);
            options.set_enable_blob_files(true);
            options.set_min_blob_size(tuning.blob_bytes_min);
            options.set_blob_compression_type(DBCompressionType::Lz4);
            // Without it the payloads of trimmed and redacted messages would stay on disk for ever.
            options.set_enable_blob_gc(true);
        }
        Table::RaftMeta => options.set_write_buffer_size(tuning.log_memtable_bytes / 8),
        _ => options.set_write_buffer_size(tuning.state_memtable_bytes / 4),
    }
    options
}

/// The table where most keys that apply asks for are not there.
fn is_asked_in_vain(table: Table) -> bool {
    table == Table::Dedup
}

/// Tables where a key is often asked for that is not there, or that lies anywhere: worth a filter.
fn is_read_by_key(table: Table) -> bool {
    matches!(
        table,
        Table::Conversations | Table::Dedup | Table::Cursors | Table::Messages | Table::Names
    )
}
