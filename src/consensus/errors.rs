//! What proposing and reading can come to, and how a replica describes itself.

use crate::types::{GroupId, LogIndex, NodeId, ReplicaId, Term};

/// Why a proposal has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead. Nothing happened.
    #[error("this replica is not the leader")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<NodeId>,
    },
    /// Too many proposals wait. Nothing happened.
    #[error("too many proposals wait in this group")]
    Overloaded,
    /// The disk of this node, or of a voter that the quorum needs, is nearly full. Nothing happened.
    #[error("the disk is nearly full")]
    DiskLow,
    /// The clock of this leader is too far from those of its voters. Nothing happened.
    #[error("the leader's clock cannot be trusted")]
    ClockUntrusted,
    /// The deadline passed while the proposal waited for its turn. Nothing happened.
    #[error("the deadline passed before the proposal was made")]
    Expired,
    /// Leadership was lost, the deadline passed, or the replica stopped after the proposal was made: it may be
    /// committed or not.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// The replica is stopped or damaged. Nothing happened.
    #[error("the replica does not serve: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a read could not be confirmed. Reads never have an effect.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Nobody is known to lead, or the leader could not confirm that it does.
    #[error("no leader could confirm the read: {reason}")]
    NoQuorum {
        /// What happened.
        reason: String,
    },
    /// Too many reads wait.
    #[error("too many reads wait in this group")]
    Overloaded,
    /// The deadline passed before the replica had applied far enough.
    #[error("the deadline passed before the replica had caught up")]
    Expired,
    /// The replica is stopped or damaged.
    #[error("the replica does not serve: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// How a replica is.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    /// Which group.
    pub group: GroupId,
    /// Which replica.
    pub replica: ReplicaId,
    /// leader, follower, candidate, learner, damaged or stopped.
    pub role: &'static str,
    /// Whether it rests with its group: nothing has happened there for a while.
    pub is_parked: bool,
    /// Whether another replica's state is on its way to it.
    pub receives_snapshot: bool,
    /// Its term.
    pub term: Term,
    /// The last entry in its log.
    pub last_index: Option<LogIndex>,
    /// The last entry applied.
    pub applied_index: Option<LogIndex>,
    /// The last entry whose effects are on stable storage.
    pub durable_index: Option<LogIndex>,
    /// The log has been purged up to here.
    pub purged_index: Option<LogIndex>,
    /// Who leads, as it knows.
    pub leader: Option<NodeId>,
    /// Why it does not serve; empty if it does.
    pub problem: String,
}
