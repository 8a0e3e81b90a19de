//! What runs in a node beside its servers.

use std::sync::Arc;
use std::time::Duration;

use super::{Node, remedy};
use crate::consensus::flusher::{self, FlushPolicy};
use crate::consensus::parking;
use crate::server::dedup_floor;
use crate::server::observers::Levels;
use crate::server::placement::Placement;
use crate::server::pulse::PulseWatch;
use crate::server::succession::Succession;
use crate::storage::{Storage, StorageError};

const DAY_US: u64 = 24 * 3600 * 1_000_000;

/// Everything that runs beside the servers. Returns only when the node has to stop.
pub(super) async fn run(node: Arc<Node>) -> anyhow::Error {
    let placement = Placement {
        replicas: node.replicas.clone(),
        peers: node.peers.clone(),
        operations: node.operations.clone(),
    };
    let pulse = PulseWatch {
        replicas: node.replicas.clone(),
        peers: node.peers.clone(),
        clock: node.clock.clone(),
        admission: node.admission.clone(),
    };
    let succession = Succession {
        replicas: node.replicas.clone(),
        peers: node.peers.clone(),
        timing: node.config.raft.timing(),
    };
    let policy = FlushPolicy {
        interval: Duration::from_millis(node.config.storage.flush_interval_ms),
        log_bytes: node.config.storage.log_memtable_bytes / 2,
        log_keep_bytes: node.config.storage.log_keep_bytes,
    };
    let horizon_us = u64::from(node.config.limits.dedup_horizon_days) * DAY_US;
    let levels = Levels {
        metrics: node.metrics.clone(),
        replicas: node.replicas.clone(),
        peers: node.peers.clone(),
        writer: node.storage.writer.clone(),
        clock: node.clock.clone(),
        started_us: node.operations.started_us,
    };
    let endless = async {
        tokio::join!(
            placement.run(),
            pulse.run(),
            succession.run(),
            parking::run(node.replicas.clone()),
            node.disk.clone().run(node.metrics.clone()),
            levels.run(),
            dedup_floor::run(node.replicas.clone(), horizon_us),
        );
    };
    tokio::select! {
        failure = node.storage.writer.failed() => {
            storage_failed(&node, failure, "the log cannot be written: the node stops")
        }
        failure = node.storage.writer.hangs() => {
            storage_failed(&node, failure, "the disk hangs: the node stops, so that others lead")
        }
        failure = flusher::run(&node.replicas, &node.storage, policy) => {
            storage_failed(&node, failure, "a database cannot be flushed: the node stops")
        }
        failure = background_errors(&node.storage) => {
            storage_failed(&node, failure, "a database has failed: the node stops")
        }
        () = endless => anyhow::anyhow!("a task of the node has ended"),
    }
}

/// Why the node stops. Damage is noted, so that the node refuses to start on it again: until something reads the
/// same place it would look sound, and count in quorums.
fn storage_failed(node: &Node, failure: StorageError, what: &'static str) -> anyhow::Error {
    let is_damage = matches!(failure, StorageError::Damaged { .. });
    if is_damage && let Err(error) = node.storage.data_dir.mark_damaged(&failure.to_string()) {
        tracing::error!(%error, "the damage could not be noted in the data directory");
    }
    let error = anyhow::Error::new(failure).context(what);
    if is_damage { error.context(remedy(node.config.node_id)) } else { error }
}

/// Returns once either database has failed.
async fn background_errors(storage: &Storage) -> StorageError {
    const POLL_INTERVAL: Duration = Duration::from_millis(500);
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    loop {
        ticks.tick().await;
        let error = storage.log.background_error().or_else(|| storage.state.background_error());
        if let Some(error) = error {
            return error;
        }
    }
}
