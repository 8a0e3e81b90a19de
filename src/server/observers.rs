//! Carries what the floors below observe into the metrics.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use super::{Metrics, Queue};
use crate::consensus::Replicas;
use crate::service::{Operation, ServiceObserver};
use crate::storage::{SyncedWrite, WriterObserver};

const GAUGE_INTERVAL: Duration = Duration::from_secs(1);

/// The metrics as the floors below know them.
pub struct Observers(pub Arc<Metrics>);

impl WriterObserver for Observers {
    fn synced(&self, write: SyncedWrite) {
        self.0.log_synced(write.changes, write.bytes, write.duration);
    }
}

impl ServiceObserver for Observers {
    fn answered(&self, _: Operation, _: Code, _: Duration) {}

    fn appended(&self, _messages: usize, _code: Code, took: Duration) {
        self.0.append_answered(took);
    }

    fn forwarded(&self, _: Operation) {}

    fn delivered(&self, _messages: usize, _bytes: u64) {}

    fn stream_opened(&self, operation: Operation) {
        if matches!(operation, Operation::Follow | Operation::Subscribe) {
            self.0.subscriptions_changed(1);
        }
    }

    fn stream_closed(&self, operation: Operation) {
        if matches!(operation, Operation::Follow | Operation::Subscribe) {
            self.0.subscriptions_changed(-1);
        }
    }
}

/// Samples what is a level and not an event, until the node stops.
pub async fn sample(replicas: Arc<Replicas>, metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(GAUGE_INTERVAL);
    let mut leaders = std::collections::BTreeMap::new();
    loop {
        ticks.tick().await;
        let mut roles = std::collections::BTreeMap::<&'static str, u64>::new();
        for status in replicas.statuses() {
            *roles.entry(status.role).or_default() += 1;
            let index = |index: Option<crate::types::LogIndex>| index.map_or(0, |index| index.0);
            let lag = index(status.last_index).saturating_sub(index(status.applied_index));
            metrics.set_applied_lag(status.group, lag);
            if leaders.insert(status.group, status.leader).is_some_and(|old| old != status.leader) {
                metrics.leader_changed();
            }
        }
        metrics.set_replicas(roles);
        let waiting = replicas.all().iter().map(|group| group.proposals_waiting()).sum();
        metrics.set_queue_depth(Queue::Proposals, waiting);
    }
}
