//! The node's flush coordinator: makes the applied state of all groups durable at once, tells openraft, and only
//! then lets the logs be purged.
//!
//! Guarantee at stake: G1. State writes are replayed from the log after a crash, so no entry may leave the log before
//! a flush that began after it was applied has completed.

use std::fmt::Display;
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftDataMetrics;
use tokio::time::timeout;

use super::{Group, Replicas};
use crate::seams::{crash, planted};
use crate::storage::{Storage, StorageError, flush};
use crate::types::LogIndex;

/// How long openraft may take to note what is durable. Where it takes longer the next flush lets the log be purged.
const NOTED_WITHIN: Duration = Duration::from_secs(5);

/// When to flush and how much log to keep.
#[derive(Clone, Copy, Debug)]
pub struct FlushPolicy {
    /// Longest time between flushes while something was applied.
    pub interval: Duration,
    /// Bytes of log after which a flush does not wait for the interval: what is purged while it is in memory is never
    /// written to a file.
    pub log_bytes: u64,
    /// Bytes of log that a group keeps behind the durable mark, while some replica may need them; what is more than that
    /// is purged in intervals.
    pub log_keep_bytes: u64,
}

/// Flushes whenever the interval has passed or so much log was written, if something was applied, until the node stops.
/// Returns the error that a flush failed with: the node then has to stop.
pub async fn run(replicas: &Replicas, storage: &Storage, policy: FlushPolicy) -> StorageError {
    let writer = &storage.writer;
    let mut ticks = tokio::time::interval(policy.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut flushed_bytes, mut log_flushed_bytes) = (0, 0);
    loop {
        // What a replica that is away needs is given up in intervals only, however fast the log grows.
        let log_keep_bytes = tokio::select! {
            _ = ticks.tick() => policy.log_keep_bytes,
            () = writer.has_written(flushed_bytes + policy.log_bytes) => u64::MAX,
        };
        let written_bytes = writer.written_bytes();
        if written_bytes == flushed_bytes && written_bytes > log_flushed_bytes {
            // Hardly anything is written any more: what is left of the log goes to a file, and the memory it took is free.
            if let Err(error) = flush(&storage.log).await
                && !planted::ignore_eio()
            {
                return error;
            }
            log_flushed_bytes = written_bytes;
        }
        flushed_bytes = written_bytes;
        if let Err(error) = flush_once(replicas, log_keep_bytes).await {
            return error;
        }
    }
}

/// One flush of all groups, if any has applied something since the one before, and the purges that this one and those
/// before it allow.
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
            && let Err(error) = flush(replicas.state_engine()).await
            && !planted::ignore_eio()
        {
            return Err(error);
        }
        crash::flush_done();
    }
    let mut noting = Vec::new();
    for (mark, group) in marks {
        let applied = mark.applied.as_ref().map(|applied| applied.index);
        group.applied().raise_durable(mark);
        crash::flush_marked();
        match group.raft().trigger().snapshot().await {
            Ok(()) => noting.extend(applied.map(|applied| noted(group, applied))),
            Err(fatal) => warn_stopped(group, &fatal),
        }
    }
    // openraft purges no further than it has noted that there is a snapshot.
    if timeout(NOTED_WITHIN, join_all(noting)).await.is_err() {
        tracing::warn!("a replica takes long to note what is durable; its log is purged later");
    }
    for group in &groups {
        purge(group, log_keep_bytes).await;
    }
    Ok(())
}

/// Waits until openraft has noted that the state up to here is durable, or has stopped.
async fn noted(group: &Group, durable: LogIndex) {
    let mut metrics = group.raft().data_metrics();
    let is_noted =
        |data: &RaftDataMetrics<_>| data.snapshot.is_some_and(|noted| noted.index >= durable.0);
    while !is_noted(&metrics.borrow_watched()) {
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

fn warn_stopped(group: &Group, fatal: &impl Display) {
    tracing::warn!(group = %group.id(), %fatal, "the replica stopped before its log was purged");
}

/// Lets openraft purge what lies far enough behind the durable mark.
async fn purge(group: &Group, log_keep_bytes: u64) {
    let Some(durable) = group.applied().durable().applied else { return };
    let Some(upto) = purge_limit(group, durable.index, log_keep_bytes) else { return };
    if group.status().purged_index >= Some(upto) {
        return;
    }
    if let Err(fatal) = group.raft().trigger().purge_log(upto.0).await {
        warn_stopped(group, &fatal);
    }
}

/// The last index that may be purged: durable, not needed once a transfer is done, and either held by all replicas or more
/// than the kept bytes behind.
fn purge_limit(group: &Group, durable: LogIndex, log_keep_bytes: u64) -> Option<LogIndex> {
    let unneeded = match planted::purge_before_flush() {
        // Not before the flush that holds the group's range: without it nothing is served after a kill.
        true => group.applied().range().map(|_| durable)?,
        false => held_by_all(group).max(group.log().index_behind(log_keep_bytes))?,
    };
    let mut limit = durable.min(unneeded);
    if let Some(transfer) = group.snapshot_source().keep_from() {
        limit = limit.min(transfer);
    }
    Some(limit)
}

/// The last index that no replica asks for any more, save the last there is: openraft has no way but a snapshot to ask a
/// replica how far it is where the whole log is purged.
fn held_by_all(group: &Group) -> Option<LogIndex> {
    let needed_from = group.log_needs().needed_from().0;
    let last = group.log().next_index().saturating_sub(1);
    needed_from.min(last).checked_sub(1).map(LogIndex)
}
