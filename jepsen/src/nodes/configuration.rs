//! What a node of a run is configured with: everything small, so that in minutes there are flushes, purges, snapshots
//! and compactions, as elsewhere in days.

use std::path::Path;

use crate::network::Addresses;

const MIB: u64 = 1024 * 1024;
/// Below this much free disk a leader refuses appends, on a disk of [`super::disk::DISK_BYTES`].
pub const DISK_SOFT_BYTES: u64 = 96 * MIB;
/// Below this much, replication is refused.
pub const DISK_HARD_BYTES: u64 = 48 * MIB;
/// What a node gives up when its disk is full: more than it needs to start, which is to flush what it has in memory.
pub const BALLAST_BYTES: u64 = 8 * MIB;

/// The file's text.
pub fn text(id: u32, at: Addresses, data: &Path, flush_ms: u32) -> String {
    let Addresses { ip, client, peer, http } = at;
    let data = data.display().to_string();
    format!(
        "\
node_id = {id}
data_dir = {data:?}

[client]
listen = \"{ip}:{client}\"
insecure = true

[peer]
listen = \"{ip}:{peer}\"
insecure = true

[http]
listen = \"{ip}:{http}\"
insecure = true

[storage]
disk_soft_free_bytes = {DISK_SOFT_BYTES}
disk_hard_free_bytes = {DISK_HARD_BYTES}
ballast_bytes = {BALLAST_BYTES}
block_cache_bytes = {cache}
log_memtable_bytes = {memtable}
state_memtable_bytes = {memtable}
log_keep_bytes = {keep}
flush_interval_ms = {flush_ms}
",
        cache = 16 * MIB,
        memtable = 2 * MIB,
        keep = 48 * 1024,
    )
}
