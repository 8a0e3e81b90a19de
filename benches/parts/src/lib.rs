//! What a replica does for each message between the log and the state database, as parts to be measured: of the same
//! work, `benches/counts.rs` counts the instructions and `benches/times.rs` takes the time.

mod appends;
mod parts;
mod replica;

pub use parts::{PARTS, Part, Work};

/// The allocator of the binary: much of what is measured is memory being allocated and given back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
