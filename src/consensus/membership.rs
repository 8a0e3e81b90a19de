//! Changes of a group's membership, each step idempotent, made by the group's leader.

use std::collections::BTreeSet;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::impls::EmptyNode;

use super::Group;
use super::raft_types::{RaftMembership, TypeConfig};
use crate::types::ReplicaId;

/// Why a change of membership was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MembershipChangeError {
    /// This replica does not lead. Nothing happened.
    #[error("this replica does not lead the group")]
    NotLeader,
    /// The group cannot make the change now; it may be made all the same. Every step can be repeated.
    #[error("the change was not made: {0}")]
    NotMade(String),
}

type ChangeResult = Result<(), MembershipChangeError>;

impl Group {
    /// Gives a new group its first members; nothing happens if it has them. Only while the topology says that the
    /// group is being created.
    pub async fn initialize(&self, voters: Vec<ReplicaId>) -> Result<(), String> {
        let members: BTreeSet<_> = voters.into_iter().collect();
        match self.raft().initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Removes every replica of `kept`'s node but `kept`.
    pub async fn remove_others(&self, kept: ReplicaId) -> ChangeResult {
        let membership = self.led_membership()?;
        let stale = |id: &ReplicaId| id.node == kept.node && *id != kept;
        let voters: BTreeSet<_> = membership.voter_ids().filter(stale).collect();
        if !voters.is_empty() {
            self.change(ChangeMembers::RemoveVoters(voters)).await?;
        }
        let membership = self.led_membership()?;
        let learners: BTreeSet<_> = membership.learner_ids().filter(stale).collect();
        if !learners.is_empty() {
            self.change(ChangeMembers::RemoveNodes(learners)).await?;
        }
        Ok(())
    }

    /// Makes a replica a learner, unless it is a member already.
    pub async fn add_learner(&self, replica: ReplicaId) -> ChangeResult {
        if self.led_membership()?.get_node(&replica).is_some() {
            return Ok(());
        }
        let added = self.raft().add_learner(replica, EmptyNode::new(), false).await;
        added.map(|_| ()).map_err(not_made)
    }

    /// Makes a learner a voter, unless it is one already.
    pub async fn promote(&self, replica: ReplicaId) -> ChangeResult {
        if self.led_membership()?.voter_ids().any(|voter| voter == replica) {
            return Ok(());
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([replica]))).await
    }

    /// Hands leadership to another replica, which has to be caught up; returns before it has it.
    pub async fn transfer_leader(&self, to: ReplicaId) {
        if let Err(fatal) = self.raft().trigger().transfer_leader(to).await {
            tracing::warn!(group = %self.id(), %fatal, "leadership was not handed over");
        }
    }

    /// Whether this leader knows that a voter holds its whole log.
    pub fn is_caught_up(&self, replica: ReplicaId) -> bool {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let matched = metrics.replication.as_ref().and_then(|of| of.get(&replica).copied());
        matched.flatten().map(|id| id.index) == metrics.last_log_index
    }

    fn led_membership(&self) -> Result<RaftMembership, MembershipChangeError> {
        if !self.is_leader() {
            return Err(MembershipChangeError::NotLeader);
        }
        let metrics = self.raft().metrics();
        let membership = metrics.borrow_watched().membership_config.membership().clone();
        Ok(membership)
    }

    async fn change(&self, change: ChangeMembers<ReplicaId, EmptyNode>) -> ChangeResult {
        self.raft().change_membership(change, false).await.map(|_| ()).map_err(not_made)
    }
}

fn not_made(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MembershipChangeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            MembershipChangeError::NotLeader
        }
        other => MembershipChangeError::NotMade(other.to_string()),
    }
}
