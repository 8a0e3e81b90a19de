//! Floor 1: what is on disk. Key layouts, record formats, and the engines that keep them.
//! Nothing here knows what a command means.

#[cfg(test)]
pub(crate) mod conformance;
mod data_dir;
mod database;
mod disk_space;
mod engine;
mod entries;
pub mod install;
#[cfg(test)]
pub(crate) mod interposed;
pub mod log_format;
pub mod log_writer;
mod memory;
mod node_storage;
#[cfg(feature = "rocksdb")]
mod open;
mod overlay;
pub mod records;
mod recovery;
#[cfg(feature = "rocksdb")]
mod rocks;
pub mod seal;
pub mod small_file;
mod tables;
mod tuning;
pub mod watermark;

pub use data_dir::{DataDir, DataDirError, Identity, MemoryDir, StoppedDir};
pub use database::Database;
use disk_space::free_bytes;
pub use disk_space::{DiskLimits, DiskMark};
pub use engine::{
    Access, Batch, Direction, Durability, Engine, KeyRange, Op, Rows, Staging, StorageError, View,
    Visit,
};
pub use entries::read_entries;
pub use log_writer::{Done, LogWrite, LogWriter, SyncedWrite, WriterObserver};
pub use memory::{MemoryDisk, MemoryEngine};
pub use node_storage::{Opened, Storage, flush, offload};
#[cfg(feature = "rocksdb")]
pub use open::{OpenError, ReadOnlyStorage};
pub use overlay::Overlay;
pub use recovery::{GroupLogState, GroupRecovery, Recovered, make_ready, recover};
#[cfg(feature = "rocksdb")]
pub use rocks::RocksEngine;
pub use tables::{Table, keys};
pub use tuning::Tuning;
