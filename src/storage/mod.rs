//! Floor 1: what is on disk. Key layouts, record formats, and the engines that keep them.
//! Nothing here knows what a command means.

mod engine;
mod overlay;
pub mod records;
mod tables;

pub use engine::{
    Batch, Direction, Durability, Engine, KeyRange, Op, Rows, Staging, StorageError, View,
};
pub use overlay::Overlay;
pub use tables::{Table, keys};
