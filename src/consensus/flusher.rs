//! The node's flush coordinator: makes the applied state of all groups durable at once, tells openraft, and only
//! then lets the logs be purged.
//!
//! Guarantee at stake: G1. State writes are replayed from the log after a crash, so no entry may leave the log before
//! a flush that began after it was applied has completed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Group, Replicas};
use crate::seams::{crash, planted};
use crate::storage::StorageError;
use crate::types::LogIndex;

/// When to flush and how much log to keep.
#[derive(Clone, Copy, Debug)]
pub struct FlushPolicy {
    /// Time between flushes while something was applied.
    pub interval: Duration,
    /// Bytes of log kept behind the durable mark for each group, so that a follower that was away for a while
    /// needs no snapshot.
    pub log_keep_bytes: u64,
}

/// Flushes whenever the interval has passed and something was applied, until the node stops. Returns the error that
/// a flush failed with: the node then has to stop.
pub async fn run(replicas: Arc<Replicas>, policy: FlushPolicy) -> StorageError {
    let mut ticks = tokio::time::interval(policy.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = flush_once(&replicas, policy.log_keep_bytes).await {
            return error;
        }
    }
}

/// One flush of all groups, if any has applied something since the one before, and the purges that this one and those
/// before it allow: openraft purges up to what it was told before the last time, and a group may have nothing to apply
/// for long.
pub async fn flush_once(replicas: &Replicas, log_keep_bytes: u64) -> Result<(), StorageError> {
    let groups = replicas.all();
    // Read before the flush begins: what is applied while it runs may or may not be part of it.
    let marks: Vec<_> = groups
        .iter()
        .map(|group| (group.applied().live_mark(), group))
        .filter(|(mark, group)| mark.applied > group.applied().durable().applied)
        .collect();
    if !marks.is_empty() {
        crash::flush_begun();
        let is_left_out = planted::purge_before_flush()
            && marks.iter().any(|(_, group)| group.status().purged_index.is_some());
        if !is_left_out
            && let Err(error) = flush(replicas).await
            && !planted::ignore_eio()
        {
            return Err(error);
        }
        crash::flush_done();
    }
    for (mark, group) in marks {
        group.applied().raise_durable(mark);
        crash::flush_marked();
        if let Err(fatal) = group.raft().trigger().snapshot().await {
            tracing::warn!(group = %group.id(), %fatal, "the replica stopped before its log was purged");
        }
    }
    for group in &groups {
        purge(group, log_keep_bytes).await;
    }
    Ok(())
}

async fn flush(replicas: &Replicas) -> Result<(), StorageError> {
    let engine = replicas.state_engine().clone();
    let (sender, receiver) = oneshot::channel();
    let flushing = engine.clone();
    engine.offload(Box::new(move || drop(sender.send(flushing.flush()))));
    receiver.await.unwrap_or_else(|_| {
        Err(StorageError::Failed { action: "flushing", reason: "the flush was abandoned".into() })
    })
}

/// Lets openraft purge what lies far enough behind the durable mark.
async fn purge(group: &Group, log_keep_bytes: u64) {
    let Some(durable) = group.applied().durable().applied else { return };
    let Some(upto) = purge_limit(group, durable.index, log_keep_bytes) else { return };
    if group.status().purged_index >= Some(upto) {
        return;
    }
    if let Err(fatal) = group.raft().trigger().purge_log(upto.0).await {
        tracing::warn!(group = %group.id(), %fatal, "the replica stopped before its log was purged");
    }
}

/// The last index that may be purged: durable, not needed once a transfer is done, and more than the kept bytes behind.
fn purge_limit(group: &Group, durable: LogIndex, log_keep_bytes: u64) -> Option<LogIndex> {
    let by_size = match planted::purge_before_flush() {
        // Not before the flush that holds the group's range: without it nothing is served after a kill.
        true => group.applied().range().map(|_| durable)?,
        false => group.log().index_behind(log_keep_bytes)?,
    };
    let mut limit = durable.min(by_size);
    if let Some(transfer) = group.snapshot_source().keep_from() {
        limit = limit.min(transfer);
    }
    Some(limit)
}
