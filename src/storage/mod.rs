//! Floor 1: what is on disk. Key layouts, record formats, and the engines that keep them.
//! Nothing here knows what a command means.

#[cfg(test)]
mod conformance;
mod database;
mod engine;
pub mod log_writer;
mod memory;
mod overlay;
pub mod records;
#[cfg(feature = "rocksdb")]
mod rocks;
pub mod small_file;
mod tables;
mod tuning;
pub mod watermark;

pub use database::Database;
pub use engine::{
    Batch, Direction, Durability, Engine, KeyRange, Op, Rows, Staging, StorageError, View,
};
pub use memory::{MemoryDisk, MemoryEngine};
pub use overlay::Overlay;
#[cfg(feature = "rocksdb")]
pub use rocks::RocksEngine;
pub use tables::{Table, keys};
pub use tuning::Tuning;
