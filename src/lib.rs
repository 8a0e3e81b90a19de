//! Quorate: a Raft-replicated, strongly consistent message log for conversations.
//!
//! The modules are floors: a file imports only from its own floor and those below (`tests/tidy.rs` holds that).
//! ARCHITECTURE.md walks through one append and one read.

pub mod seams; // beside floor 0: what tests break on purpose; nothing, unless they are built for it

pub mod types; // floor 0

pub mod storage; // floor 1

pub mod log; // floor 2

pub mod consensus; // floor 3

pub mod transport; // floor 4

pub mod service; // floor 5

pub mod server; // floor 6

#[cfg(feature = "rocksdb")]
pub mod cli; // floor 7: runs nodes and looks at their data, so it needs RocksDB

#[cfg(not(feature = "rocksdb"))]
pub mod cli {
    //! What of floor 7 decodes, and needs no RocksDB: `fuzz/` builds without.
    pub mod chat;
}
