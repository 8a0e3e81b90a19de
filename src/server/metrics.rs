//! What the node measures. Names start with `quorate_` and end in a base unit or `_total`; no label grows with
//! conversations or senders, so that a million conversations cost what one costs.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::consensus::ProposalEnd;
use crate::types::GroupId;

/// A gauge of something that is never negative.
type Count = Gauge<u64, AtomicU64>;

/// What `GroupStatus::role` can be.
const ROLES: [&str; 7] =
    ["leader", "follower", "candidate", "learner", "damaged", "missing", "stopped"];

/// The ports of a node.
const PORTS: [&str; 3] = ["client", "peer", "http"];

/// A bounded queue of the node, as [`Metrics::set_queue_depth`] names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Proposals that wait for a place in an entry, over all groups.
    Proposals,
    /// Writes that wait for the log writer.
    LogWriter,
    /// Frames that wait for a peer's connection, over all peers.
    Peers,
    /// Appends of sessions that wait for their outcome.
    Sessions,
}

impl Queue {
    fn name(self) -> &'static str {
        match self {
            Queue::Proposals => "proposals",
            Queue::LogWriter => "log_writer",
            Queue::Peers => "peers",
            Queue::Sessions => "sessions",
        }
    }
}

/// All metrics of a node. Cheap to call from anywhere: each method is a few atomic operations.
pub struct Metrics {
    registry: Registry,
    append_duration: Histogram,
    commit_duration: Histogram,
    log_sync_duration: Histogram,
    log_batch_writes: Histogram,
    log_batch_bytes: Histogram,
    proposals: Family<OutcomeLabel, Counter>,
    /// The usual one of those, which every command moves.
    committed: Counter,
    leader_changes: Counter,
    applied_lag: Family<GroupLabel, Count>,
    queue_depth: Family<QueueLabel, Count>,
    subscriptions: Gauge,
    connections_refused: Family<PortLabel, Counter>,
    disk_free: Count,
    replicas: Family<RoleLabel, Count>,
    replicas_parked: Count,
    uptime: Count,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabel {
    group: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PortLabel {
    port: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let latency = || Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        let proposals = Family::<OutcomeLabel, Counter>::default();
        let committed = OutcomeLabel { outcome: "committed" };
        let committed = proposals.get_or_create(&committed).clone();
        let mut metrics = Metrics {
            registry: Registry::with_prefix("quorate"),
            append_duration: latency(),
            commit_duration: latency(),
            log_sync_duration: latency(),
            log_batch_writes: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            log_batch_bytes: Histogram::new(exponential_buckets(256.0, 4.0, 9)),
            committed,
            proposals,
            leader_changes: Counter::default(),
            applied_lag: Family::default(),
            queue_depth: Family::default(),
            subscriptions: Gauge::default(),
            connections_refused: Family::default(),
            disk_free: Count::default(),
            replicas: Family::default(),
            replicas_parked: Count::default(),
            uptime: Count::default(),
        };
        metrics.register();
        // Events move these, so that they would be absent before the first one.
        metrics.session_appends_changed(0);
        for port in PORTS {
            metrics.connections_refused.get_or_create(&PortLabel { port }).inc_by(0);
        }
        metrics
    }

    /// The list of all metrics: the second argument is what a dashboard shows as their meaning.
    fn register(&mut self) {
        let r = &mut self.registry;
        let seconds = || Unit::Seconds;
        let help = "From sending an append on its way, here or to another node, to its answer";
        r.register_with_unit("append_duration", help, seconds(), self.append_duration.clone());
        let help = "From the proposal of an entry on this leader to its application";
        r.register_with_unit("commit_duration", help, seconds(), self.commit_duration.clone());
        let help = "One synced write of the log writer";
        r.register_with_unit("log_sync_duration", help, seconds(), self.log_sync_duration.clone());
        let help = "Writes of all groups in one synced write";
        r.register("log_batch_writes", help, self.log_batch_writes.clone());
        let help = "Size of one synced write";
        r.register_with_unit("log_batch", help, Unit::Bytes, self.log_batch_bytes.clone());
        let help = "Proposals by what became of them: committed, refused, expired, unknown";
        r.register("proposals", help, self.proposals.clone());
        let help = "Changes of leader that this node's replicas saw";
        r.register("leader_changes", help, self.leader_changes.clone());
        let help = "Entries in the log of a group's replica here that it has not applied";
        r.register("applied_lag_entries", help, self.applied_lag.clone());
        let help = "Entries of the node's bounded queues";
        r.register("queue_depth", help, self.queue_depth.clone());
        let help = "Follows and subscriptions that are open on this node";
        r.register("subscriptions", help, self.subscriptions.clone());
        let help = "Connections refused because their port has all that it may have";
        r.register("connections_refused", help, self.connections_refused.clone());
        let help = "Free space on the disk with the node's data";
        r.register_with_unit("disk_free", help, Unit::Bytes, self.disk_free.clone());
        let help = "Replicas on this node by role";
        r.register("replicas", help, self.replicas.clone());
        let help = "Replicas on this node that rest with their group, in which nothing happens";
        r.register("replicas_parked", help, self.replicas_parked.clone());
        let help = "How long the node has been up";
        r.register_with_unit("uptime", help, seconds(), self.uptime.clone());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The software that runs", build);
    }

    /// An append that was sent on its way was answered, whatever the answer.
    pub fn append_answered(&self, took: Duration) {
        self.append_duration.observe(took.as_secs_f64());
    }

    /// An entry of this leader was committed and applied.
    pub fn entry_committed(&self, took: Duration) {
        self.commit_duration.observe(took.as_secs_f64());
    }

    /// A proposal of this node ended.
    pub fn proposal_ended(&self, end: ProposalEnd) {
        let outcome = match end {
            ProposalEnd::Committed => {
                self.committed.inc();
                return;
            }
            ProposalEnd::Refused => "refused",
            ProposalEnd::Expired => "expired",
            ProposalEnd::Unknown => "unknown",
        };
        self.proposals.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// The log writer has synced a batch.
    pub fn log_synced(&self, writes: usize, bytes: usize, took: Duration) {
        self.log_batch_writes.observe(writes as f64);
        self.log_batch_bytes.observe(bytes as f64);
        self.log_sync_duration.observe(took.as_secs_f64());
    }

    /// A replica here has come to know a leader.
    pub fn leader_changed(&self) {
        self.leader_changes.inc();
    }

    /// How far a replica's applied index is behind its log.
    pub fn set_applied_lag(&self, group: GroupId, entries: u64) {
        self.applied_lag.get_or_create(&GroupLabel { group: group.0 }).set(entries);
    }

    /// The node has no replica of the group any more.
    pub fn forget_group(&self, group: GroupId) {
        self.applied_lag.remove(&GroupLabel { group: group.0 });
    }

    /// How much waits in a queue.
    pub fn set_queue_depth(&self, queue: Queue, depth: usize) {
        let label = QueueLabel { queue: queue.name() };
        self.queue_depth.get_or_create(&label).set(depth as u64);
    }

    /// So many more appends of sessions than before wait (or, negative, fewer).
    pub fn session_appends_changed(&self, by: i64) {
        let label = QueueLabel { queue: Queue::Sessions.name() };
        let depth = self.queue_depth.get_or_create(&label);
        match by {
            0.. => depth.inc_by(by.unsigned_abs()),
            _ => depth.dec_by(by.unsigned_abs()),
        };
    }

    /// Follows and subscriptions began (or, negative, ended).
    pub fn subscriptions_changed(&self, by: i64) {
        self.subscriptions.inc_by(by);
    }

    /// A port had no place for a connection.
    pub fn connection_refused(&self, port: &'static str) {
        self.connections_refused.get_or_create(&PortLabel { port }).inc();
    }

    /// Free space on the disk with the node's data.
    pub fn set_disk_free_bytes(&self, bytes: u64) {
        self.disk_free.set(bytes);
    }

    /// How many replicas have which role; a role that is not named has none.
    pub fn set_replicas(&self, by_role: &BTreeMap<&'static str, u64>) {
        for role in ROLES {
            let count = by_role.get(role).copied().unwrap_or_default();
            self.replicas.get_or_create(&RoleLabel { role }).set(count);
        }
    }

    /// How many replicas are parked.
    pub fn set_replicas_parked(&self, parked: u64) {
        self.replicas_parked.set(parked);
    }

    /// How long the node has been up.
    pub fn set_uptime(&self, uptime: Duration) {
        self.uptime.set(uptime.as_secs());
    }

    /// OpenMetrics text, as `/metrics` answers.
    pub fn encode(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("writing to a String cannot fail");
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every metric has been touched: a family appears with its first label.
    fn measured() -> Metrics {
        let metrics = Metrics::new();
        metrics.append_answered(Duration::from_millis(2));
        metrics.entry_committed(Duration::from_millis(1));
        metrics.proposal_ended(ProposalEnd::Committed);
        metrics.proposal_ended(ProposalEnd::Unknown);
        metrics.log_synced(3, 4_096, Duration::from_micros(300));
        metrics.leader_changed();
        metrics.set_applied_lag(GroupId(4), 17);
        metrics.set_queue_depth(Queue::LogWriter, 5);
        metrics.set_disk_free_bytes(1_000);
        metrics.set_replicas(&BTreeMap::from([("leader", 4), ("follower", 8)]));
        metrics.set_replicas_parked(3);
        metrics.set_uptime(Duration::from_secs(5));
        metrics
    }

    #[test]
    fn what_is_measured_appears_on_the_page() {
        let metrics = measured();
        metrics.subscriptions_changed(1);
        let page = metrics.encode();
        for line in [
            "quorate_append_duration_seconds_count 1",
            "quorate_commit_duration_seconds_count 1",
            "quorate_log_sync_duration_seconds_sum 0.0003",
            "quorate_log_batch_writes_sum 3.0",
            "quorate_log_batch_bytes_sum 4096.0",
            "quorate_proposals_total{outcome=\"unknown\"} 1",
            "quorate_leader_changes_total 1",
            "quorate_applied_lag_entries{group=\"4\"} 17",
            "quorate_queue_depth{queue=\"log_writer\"} 5",
            "quorate_disk_free_bytes 1000",
            "quorate_replicas{role=\"follower\"} 8",
            "quorate_replicas_parked 3",
            "quorate_subscriptions 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
        metrics.subscriptions_changed(-1);
        metrics.forget_group(GroupId(4));
        let page = metrics.encode();
        assert!(page.contains("quorate_subscriptions 0") && !page.contains("group=\"4\""));
    }

    #[test]
    fn every_name_starts_with_ours_and_no_label_is_unbounded() {
        let page = measured().encode();
        let names: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(names.len() >= 14, "{page}");
        for name in names {
            assert!(name.starts_with("quorate_"), "{name}");
            assert!(
                !name.contains("_ms") && !name.contains("_us "),
                "{name} is not in a base unit"
            );
        }
        for label in ["conversation", "sender", "recipient"] {
            assert!(!page.contains(&format!("{label}=")), "{label}");
        }
    }
}
