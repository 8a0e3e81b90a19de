//! What openraft is configured with, and why.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use crate::seams::planted;
use crate::types::GroupId;

/// Raft's clocks. Times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct RaftTiming {
    /// How often a leader tells its followers that it lives.
    pub heartbeat_interval_ms: u64,
    /// A follower that has heard nothing for the longest timeout, and then for a random time between the two,
    /// stands for election.
    pub election_timeout_min_ms: u64,
    /// See `election_timeout_min_ms`; also the leader's lease: no voter votes for another before it has passed, unless it
    /// sees that the leader's process is dead.
    pub election_timeout_max_ms: u64,
    /// How long nothing has to happen in a group before it is parked; 0 if none ever is.
    pub park_after_ms: u64,
}

impl RaftTiming {
    /// How often a leader tells its followers that it lives.
    pub fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms)
    }

    /// How long no voter votes for another after it has heard the leader, unless it sees it dead.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.election_timeout_max_ms)
    }

    /// How long nothing has to happen in a group before it is parked. No less than a lease: until then a leader that has
    /// fallen silent looks like one that rests.
    pub fn park_after(&self) -> Option<Duration> {
        let wanted = Duration::from_millis(self.park_after_ms);
        (self.park_after_ms > 0).then_some(wanted.max(self.lease()))
    }

    /// How often a node says of the groups that it leads which of them rest: several of these can be lost within a lease.
    pub fn rest_interval(&self) -> Duration {
        self.lease() / 4
    }
}

/// Snapshots are taken when the flush coordinator says so, and a follower gets one only where the log it needs has
/// been purged.
pub fn raft_config(group: GroupId, timing: &RaftTiming) -> Arc<Config> {
    let config = Config {
        cluster_name: format!("group-{group}"),
        heartbeat_interval: timing.heartbeat_interval_ms,
        election_timeout_min: timing.election_timeout_min_ms,
        election_timeout_max: timing.election_timeout_max_ms,
        // A transfer bounds itself by its progress; openraft's limit is on the whole.
        install_snapshot_timeout: 24 * 3600 * 1000,
        replication_lag_threshold: u64::MAX / 2,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX / 2,
        // Without it an isolated node raises its term without end and deposes the leader when it returns.
        enable_pre_vote: Some(true),
        // Liveness in partial partitions is up to `silence.rs`, which knows of parked groups.
        quorum_loss_probe_interval: None,
        // A restarted leader's applied state may lie behind what it had served: it has to be elected again.
        enable_leader_restore: Some(false),
        // A follower's log that goes back is amnesia, and never forgiven.
        allow_log_reversion: Some(planted::forgets()),
        ..Config::default()
    };
    Arc::new(config.validate().expect("the timing was validated with the node's configuration"))
}
