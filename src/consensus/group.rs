//! One group's replica on this node, as the floors above see it.

use std::sync::Arc;

use tokio::time::Instant;

use super::Tails;
use crate::log::{Command, Outcome};
use crate::storage::View;
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

/// What a linearizable read waits for.
#[derive(Debug, Clone, Copy)]
pub struct Barrier {
    /// The replica has applied at least this.
    pub index: LogIndex,
    /// `Clock::elapsed_us` when the confirmation began: the read is no older.
    pub confirmed_from_us: u64,
}

/// How a replica is.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    pub group: GroupId,
    pub replica: ReplicaId,
    /// leader, follower, candidate, learner, damaged or stopped.
    pub role: &'static str,
    pub term: Term,
    pub last_index: Option<LogIndex>,
    pub applied_index: Option<LogIndex>,
    pub durable_index: Option<LogIndex>,
    pub purged_index: Option<LogIndex>,
    pub leader: Option<NodeId>,
    pub problem: String,
}

/// One group's replica on this node.
pub struct Group {}

impl Group {
    /// Which group.
    pub fn id(&self) -> GroupId {
        unimplemented!()
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        unimplemented!()
    }

    /// Whether this replica believes that it leads.
    pub fn is_leader(&self) -> bool {
        unimplemented!()
    }

    /// Proposes a command and waits for its outcome. Cancel safe: a dropped call may still take effect.
    pub async fn propose(
        &self,
        _command: Command,
        _deadline: Instant,
    ) -> Result<Outcome, ProposeError> {
        unimplemented!()
    }

    /// Confirms with a quorum that the local state, once this returns, holds all that was committed before the
    /// call. One confirmation serves all calls that wait for it. On a follower the leader is asked.
    pub async fn barrier(&self, _deadline: Instant) -> Result<Barrier, ReadError> {
        unimplemented!()
    }

    /// The newest confirmation whose index this replica has applied, if there was one.
    pub fn last_barrier(&self) -> Option<Barrier> {
        unimplemented!()
    }

    /// The applied state. Reads through it are of whatever has been applied when they are made; pin for more.
    pub fn state(&self) -> Arc<dyn View> {
        unimplemented!()
    }

    /// The applied state now, held for several reads.
    pub fn pin(&self) -> Arc<dyn View> {
        unimplemented!()
    }

    /// Runs a job that reads from disk where it blocks nobody.
    pub async fn offload<T: Send + 'static>(&self, _job: impl FnOnce() -> T + Send + 'static) -> T {
        unimplemented!()
    }

    /// The applied index.
    pub fn applied_index(&self) -> LogIndex {
        unimplemented!()
    }

    /// Tails of conversations as they move on this replica.
    pub fn tails(&self) -> &Tails {
        unimplemented!()
    }

    /// How it is.
    pub fn status(&self) -> GroupStatus {
        unimplemented!()
    }
}
