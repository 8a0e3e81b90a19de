//! Carries what the floors below observe into the metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use super::{Metrics, Queue};
use crate::consensus::{ConsensusObserver, ProposalEnd, Replicas};
use crate::service::{Operation, ServiceObserver};
use crate::storage::{LogWriter, SyncedWrite, WriterObserver};
use crate::transport::Peers;
use crate::types::{Clock, LogIndex};

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

    fn session_appends_changed(&self, by: i64) {
        self.0.session_appends_changed(by);
    }
}

impl ConsensusObserver for Observers {
    fn proposal_ended(&self, end: ProposalEnd) {
        self.0.proposal_ended(end);
    }

    fn leader_changed(&self) {
        self.0.leader_changed();
    }

    fn entry_committed(&self, took: Duration) {
        self.0.entry_committed(took);
    }
}

/// What is a level and not an event, and whom to ask for it.
pub struct Levels {
    pub(super) metrics: Arc<Metrics>,
    pub(super) replicas: Arc<Replicas>,
    pub(super) peers: Arc<Peers>,
    pub(super) writer: LogWriter,
    pub(super) clock: Arc<dyn Clock>,
    /// When the node started, as `Clock::elapsed_us` had it.
    pub(super) started_us: u64,
}

impl Levels {
    /// Samples until the node stops.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(GAUGE_INTERVAL);
        loop {
            ticks.tick().await;
            self.sample_replicas();
            let proposals = self.replicas.all().iter().map(|group| group.proposals_waiting()).sum();
            for (queue, depth) in [
                (Queue::Proposals, proposals),
                (Queue::LogWriter, self.writer.waiting()),
                (Queue::Peers, self.peers.frames_waiting()),
            ] {
                self.metrics.set_queue_depth(queue, depth);
            }
            let uptime_us = self.clock.elapsed_us().saturating_sub(self.started_us);
            self.metrics.set_uptime(Duration::from_micros(uptime_us));
        }
    }

    fn sample_replicas(&self) {
        let mut roles = BTreeMap::<&'static str, u64>::new();
        let mut parked = 0;
        for status in self.replicas.statuses() {
            *roles.entry(status.role).or_default() += 1;
            parked += u64::from(status.is_parked);
            let index = |index: Option<LogIndex>| index.map_or(0, |index| index.0);
            let lag = index(status.last_index).saturating_sub(index(status.applied_index));
            self.metrics.set_applied_lag(status.group, lag);
        }
        self.metrics.set_replicas(&roles);
        self.metrics.set_replicas_parked(parked);
    }
}
