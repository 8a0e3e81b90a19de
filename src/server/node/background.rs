//! What runs in a node beside its servers.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::stopping::leave_open;
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
    let (replicas, disk, metrics) =
        (node.replicas.clone(), node.disk.clone(), node.metrics.clone());
    let endless = async move {
        tokio::join!(
            placement.run(),
            pulse.run(),
            succession.run(),
            parking::run(replicas.clone()),
            disk.run(metrics),
            levels.run(),
            dedup_floor::run(replicas, horizon_us),
        );
    };
    // Apart from those who look whether the storage has failed: it reads from disk now and then, and would hold them up.
    let mut tasks = JoinSet::new();
    tasks.spawn(endless);
    tokio::select! {
        failure = node.storage.writer.failed() => {
            storage_failed(&node, failure, "the log cannot be written: the node stops")
        }
        failure = node.storage.writer.hangs() => {
            leave_open(&node.storage);
            storage_failed(&node, failure, "the disk hangs: the node stops, so that others lead")
        }
        failure = flusher::run(&node.replicas, &node.storage, policy) => {
            storage_failed(&node, failure, "a database cannot be flushed: the node stops")
        }
        failure = background_errors(&node.storage) => {
            storage_failed(&node, failure, "a database has failed: the node stops")
        }
        _ = tasks.join_next() => anyhow::anyhow!("a task of the node has ended"),
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
        if let Some(failure) = storage.failure().await {
            return failure;
        }
    }
}

/// What was found damaged while the node was stopping is noted too.
pub(super) async fn last_look(node: &Node) -> anyhow::Result<()> {
    match node.storage.failure().await {
        Some(damage @ StorageError::Damaged { .. }) => {
            Err(storage_failed(node, damage, "damage was found as the node stopped"))
        }
        _ => Ok(()),
    }
}
