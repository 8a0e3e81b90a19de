//! The one binary: a node, and everything that people do with a cluster.

use std::process::ExitCode;

/// A node with many groups makes many small allocations on many threads: measured, jemalloc needs a sixth less memory
/// for them than the C library, and gives it back. RocksDB allocates by it too (Cargo.toml).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let _until_the_end = quorate::seams::begin();
    quorate::cli::main()
}
