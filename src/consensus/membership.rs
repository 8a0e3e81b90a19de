//! Changes of a group's membership, each step idempotent, made by the group's leader.
//!
//! Guarantees at stake: G1 and G9. openraft changes voters in two steps, of which the second, out of the joint
//! configuration, is left to the caller of the first; and its view of the membership is that of the log, committed or
//! not. So every step here begins by settling what an earlier one has left, one at a time, and nothing counts as done
//! that is not committed: whoever removes a replica's data next must not find the removal of its id rolled back. Nor is
//! anything said to be done before most voters have said, since they were asked for it, that they still follow this leader:
//! what one that was cut off has not heard of may be that the replica counts. A leader that is no voter any more changes
//! nothing: openraft, which takes a change from it all the same, asserts that it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::impls::EmptyNode;
use openraft::{ChangeMembers, ServerState};
use tokio::time::Instant;

use super::Group;
use super::leadership::{Lead, Standing, answers};
use super::raft_types::{RaftMembership, RaftStoredMembership, TypeConfig};

type RaftMetrics = openraft::RaftMetrics<TypeConfig>;
use crate::types::{LogIndex, NodeId, ReplicaId};

/// How long the membership that a leader finds may take to be committed.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Of how many entries a leader may not know yet that a replica holds them which has caught up: more than are ever under
/// way to those that it waits for, and soon sent.
pub const CAUGHT_UP_LAG_MAX: u64 = 64;
/// Who is handed leadership is elected within this part of a lease, or another voter is told to stand: far more than a vote
/// takes on a disk that is well.
const SUCCESSION_OF_LEASE: u32 = 4;
/// How long a replica that has caught up takes to hold what its leader holds at a moment. Under load more entries than the
/// above are always under way to one that is further away than a quorum is.
pub const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(1);

/// Why a change of membership was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MembershipChangeError {
    /// This replica does not lead. Nothing happened.
    #[error("this replica does not lead the group")]
    NotLeader,
    /// The group cannot make the change now; it may be made all the same. Every step can be repeated.
    #[error("the change was not made: {0}")]
    NotMade(String),
    /// The node has a newer replica, or is to have one: somebody else has begun to make it meanwhile.
    #[error("there is a newer replica {0} of that node, or is to be")]
    Newer(ReplicaId),
    /// There is nobody to copy the group's data from.
    #[error("the group has no other voter")]
    Last,
}

/// What became of a change.
pub type ChangeResult = Result<(), MembershipChangeError>;

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

    /// Removes every older replica of `kept`'s node from a group that is to have `size` voters. Once it has returned
    /// without an error none is a member, or becomes one again. A dropped call may still take effect, as a failed one
    /// may; either can be repeated.
    ///
    /// # Errors
    /// This replica does not lead, or cannot be sure of it; those who would remain could not go on as things are; nobody
    /// would remain; or there is a newer replica of that node.
    pub async fn remove_older(&self, kept: ReplicaId, size: usize) -> ChangeResult {
        let _one_at_a_time = self.changing.lock().await;
        let voters = self.removable(kept, size).await?;
        if !voters.is_empty() {
            self.change(ChangeMembers::RemoveVoters(voters)).await?;
        }
        let learners = self.settled_for(kept).await?;
        let learners = learners.learner_ids().filter(|id| id.is_older_than(kept));
        let learners: BTreeSet<_> = learners.collect();
        if !learners.is_empty() {
            self.change(ChangeMembers::RemoveNodes(learners)).await?;
        }
        Ok(())
    }

    /// Whether `remove_older` could be done now. It completes what an earlier change has left, and changes nothing else.
    ///
    /// # Errors
    /// As those of `remove_older`.
    pub async fn check_removal(&self, kept: ReplicaId, size: usize) -> ChangeResult {
        let _one_at_a_time = self.changing.lock().await;
        self.removable(kept, size).await.map(|_| ())
    }

    /// The voters that are older than `kept`. Removing them cannot be taken back, and the group goes on only if those who
    /// remain can agree: as many as a majority of the whole group, most of whom answer now and can take what is appended.
    /// The removal is in force where it is appended, and only they can make it hold.
    async fn removable(
        &self,
        kept: ReplicaId,
        size: usize,
    ) -> Result<BTreeSet<ReplicaId>, MembershipChangeError> {
        let membership = self.settled_for(kept).await?;
        let voters = membership.voter_ids();
        let (older, remaining): (BTreeSet<_>, BTreeSet<_>) =
            voters.partition(|voter| voter.is_older_than(kept));
        if older.is_empty() {
            return Ok(older);
        }
        if remaining.is_empty() {
            return Err(MembershipChangeError::Last);
        }
        let not_now = |reason: String| Err(MembershipChangeError::NotMade(reason));
        if remaining.len() <= size / 2 {
            let remaining = remaining.len();
            return not_now(format!(
                "of {size} voters only {remaining} would remain; first complete what is being replaced elsewhere"
            ));
        }
        let hindrances = remaining.iter().map(async |id| Some((*id, self.hindrance(*id).await?)));
        let hindered: BTreeMap<_, _> = join_all(hindrances).await.into_iter().flatten().collect();
        let remain = Lead { configs: vec![remaining], ..self.lead().await? };
        let can_take = |voter: &ReplicaId| !hindered.contains_key(voter);
        match self.voters().confirm_by(self.raft(), &remain, can_take).await {
            Ok(()) => Ok(older),
            Err(reason) => {
                let why = std::iter::once(reason.to_owned()).chain(hindered.into_values());
                let why = why.collect::<Vec<_>>().join(", ");
                not_now(format!("too few of those who would remain can agree to it: {why}"))
            }
        }
    }

    /// Why a voter could not take what this leader appends now, if so. Of a node that was not seen lately nothing is known.
    async fn hindrance(&self, voter: ReplicaId) -> Option<String> {
        match voter {
            own if own == self.replica() => None,
            full if self.has_seen_full(full.node) => {
                Some(format!("the disk of node {} has no room", full.node))
            }
            other => self.lack_of(other).await,
        }
    }

    /// What keeps a replica from being caught up, as far as this leader knows: it does not come to hold nearly all that the
    /// leader holds now.
    async fn lack_of(&self, replica: ReplicaId) -> Option<String> {
        let last = self.raft().metrics().borrow_watched().last_log_index.unwrap_or(0);
        let holds = |metrics: &RaftMetrics| {
            matched(metrics, replica).is_some_and(|index| index + CAUGHT_UP_LAG_MAX >= last)
        };
        let wait = self.raft().wait(Some(CAUGHT_UP_WITHIN));
        if wait.metrics(holds, "caught up").await.is_ok() {
            return None;
        }
        Some(match self.lag_of(replica) {
            Some(entries) => format!("replica {replica} lacks {entries} entries"),
            None => format!("replica {replica} has not said what it holds"),
        })
    }

    /// Makes a replica a learner, unless it is a member already. `ensure_wanted` is asked once this replica is sure that it
    /// leads, while nobody else can change the membership. A dropped call may still take effect.
    ///
    /// # Errors
    /// Those of `ensure_wanted`; this replica does not lead, or cannot be sure of it; or there is a newer replica of that
    /// node.
    pub async fn add_learner(
        &self,
        replica: ReplicaId,
        ensure_wanted: impl AsyncFnOnce() -> ChangeResult,
    ) -> ChangeResult {
        let _one_at_a_time = self.changing.lock().await;
        let membership = self.settled_for(replica).await?;
        ensure_wanted().await?;
        if membership.get_node(&replica).is_some() {
            return Ok(());
        }
        let added = self.raft().add_learner(replica, EmptyNode::new(), false).await;
        added.map(|_| ()).map_err(not_made)
    }

    /// Makes a learner that is caught up a voter, unless it is one already. `ensure_wanted` as above: were the topology to
    /// want a newer one by now, this one may be removed, data and all, without another look at the membership. A dropped
    /// call may still take effect.
    ///
    /// # Errors
    /// As those of `add_learner`; the learner lacks entries, or an older replica of its node is a voter.
    pub async fn promote(
        &self,
        replica: ReplicaId,
        ensure_wanted: impl AsyncFnOnce() -> ChangeResult,
    ) -> ChangeResult {
        let _one_at_a_time = self.changing.lock().await;
        let membership = self.settled_for(replica).await?;
        ensure_wanted().await?;
        if membership.voter_ids().any(|voter| voter == replica) {
            return Ok(());
        }
        if let Some(older) = membership.voter_ids().find(|voter| voter.is_older_than(replica)) {
            return Err(MembershipChangeError::NotMade(format!(
                "replica {older} is a voter still"
            )));
        }
        if let Some(lack) = self.lack_of(replica).await {
            return Err(MembershipChangeError::NotMade(lack));
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([replica]))).await
    }

    /// Whether this replica leads a group that stands between two sets of voters, each of which has to agree: somebody
    /// is changing it, or was.
    pub fn is_between_memberships(&self) -> bool {
        self.led_membership().is_ok_and(|stored| is_joint(stored.membership()))
    }

    /// Completes what an earlier change has left, unless a change is being made.
    pub async fn settle(&self) -> ChangeResult {
        let Ok(_one_at_a_time) = self.changing.try_lock() else {
            return Err(MembershipChangeError::NotMade("a change is under way".into()));
        };
        self.settled().await.map(|_| ())
    }

    /// The membership, once what an earlier change has left is completed and committed, and most voters have said that they
    /// follow this leader: it holds all that was committed before they were asked.
    async fn settled(&self) -> Result<RaftMembership, MembershipChangeError> {
        self.parking().rouse().await;
        if is_joint(self.led_membership()?.membership()) {
            self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await?;
        }
        let not_settled = || MembershipChangeError::NotMade("it is not committed yet".into());
        let wait = self.raft().wait(Some(SETTLE_TIMEOUT));
        let is_uniform = wait.metrics(|m| !is_joint(m.membership_config.membership()), "uniform");
        is_uniform.await.map_err(|_| not_settled())?;
        // One that is taken out hears of no quorum any more.
        self.ensure_voter(self.led_membership()?.membership())?;
        let lead = self.lead().await?;
        let unsure = |reason| MembershipChangeError::NotMade(format!("it may not lead: {reason}"));
        self.voters().confirm(self.raft(), &lead).await.map_err(unsure)?;
        let found = self.led_membership()?;
        let index = found.log_id().map_or(lead.index, |id| lead.index.max(LogIndex(id.index)));
        let applied = self.wait_applied(index, Instant::now() + SETTLE_TIMEOUT).await;
        applied.map_err(|_| not_settled())?;
        // Another leader may have put something else in its place.
        if self.led_membership()?.log_id() != found.log_id() {
            return Err(MembershipChangeError::NotMade("it has changed meanwhile".into()));
        }
        self.ensure_voter(found.membership())?;
        Ok(found.membership().clone())
    }

    fn ensure_voter(&self, membership: &RaftMembership) -> ChangeResult {
        let is_voter = membership.voter_ids().any(|voter| voter == self.replica());
        is_voter.then_some(()).ok_or(MembershipChangeError::NotLeader)
    }

    /// This leader, before it asks who follows it.
    async fn lead(&self) -> Result<Lead, MembershipChangeError> {
        let own = self.replica();
        match self.raft().with_raft_state(move |state| Standing::of(own, state)).await {
            Ok(Standing::Leads(lead)) => Ok(lead),
            Ok(Standing::Follows(_)) => Err(MembershipChangeError::NotLeader),
            Err(fatal) => Err(MembershipChangeError::NotMade(fatal.to_string())),
        }
    }

    async fn settled_for(
        &self,
        replica: ReplicaId,
    ) -> Result<RaftMembership, MembershipChangeError> {
        let membership = self.settled().await?;
        let newer = membership.nodes().map(|(id, _)| *id).find(|id| replica.is_older_than(*id));
        match newer {
            Some(newer) => Err(MembershipChangeError::Newer(newer)),
            None => Ok(membership),
        }
    }

    /// Whether what this replica says of its group counts: it runs, is a member as far as it knows, and is the one that is
    /// wanted on this node, or led. One that was removed may never hear of it, and stands until another is made: where a
    /// newer one is wanted, it counts only while it leads.
    pub fn takes_part(&self, wanted: Option<ReplicaId>) -> bool {
        let runs = self.raft().metrics().borrow_watched().running_state.is_ok();
        runs && self.is_member()
            && match wanted {
                Some(wanted) if wanted == self.replica() => true,
                Some(wanted) if self.replica().is_older_than(wanted) => self.is_leader(),
                _ => self.leader().is_some(),
            }
    }

    /// Whether this replica is a member, as far as it knows. A blank one knows of no members.
    pub fn is_member(&self) -> bool {
        let metrics = self.raft().server_metrics();
        metrics.borrow_watched().membership_config.get_node(&self.replica()).is_some()
    }

    /// The nodes of the voters as this replica has applied them.
    pub fn voter_nodes(&self) -> BTreeSet<NodeId> {
        let membership = self.applied().row().membership;
        membership.configs.iter().flatten().map(|voter| voter.node).collect()
    }

    /// Hands leadership to another replica, if it can be handed over; returns whether. Not to one that does not answer: its
    /// data may be gone, and a leader that hands over appends nothing until another is elected. If that one is not elected
    /// soon, because it has died in that moment or its disk hangs, another voter is told to stand.
    pub async fn transfer_leader(&self, to: ReplicaId) -> bool {
        if !self.can_hand_over_to(to) {
            return false; // And nobody is roused.
        }
        self.parking().rouse().await;
        let answers = answers(self.raft().clone(), to, self.timing().lease()).await;
        if !answers || !self.can_hand_over_to(to) {
            tracing::debug!(group = %self.id(), %to, answers, "leadership cannot be handed over");
            return false;
        }
        // Nobody answers a leader any more that hands over: it sends nothing.
        let is_other = |voter: &ReplicaId| ![to, self.replica()].contains(voter);
        let mut others: Vec<_> = self.raft().voter_ids().filter(is_other).collect();
        others.sort_by_key(|voter| !self.has_seen_fit(voter.node));
        for heir in std::iter::once(to).chain(others) {
            if self.can_hand_over_to(heir) && self.is_succeeded_by(heir).await {
                break;
            }
        }
        true
    }

    /// Tells a voter to stand, and gives it some time to be elected: whether one was.
    async fn is_succeeded_by(&self, heir: ReplicaId) -> bool {
        tracing::info!(group = %self.id(), to = %heir, "handing leadership over");
        if let Err(fatal) = self.raft().trigger().transfer_leader(heir).await {
            tracing::warn!(group = %self.id(), %fatal, "leadership was not handed over");
            return true; // It has stopped.
        }
        let wait = self.raft().wait(Some(self.timing().lease() / SUCCESSION_OF_LEASE));
        wait.metrics(|metrics| metrics.state != ServerState::Leader, "succeeded").await.is_ok()
    }

    /// How many entries of its log this leader does not know a replica to hold; none if it knows of nothing that it holds.
    fn lag_of(&self, replica: ReplicaId) -> Option<u64> {
        let metrics = self.raft().metrics().borrow_watched().clone();
        let matched = matched(&metrics, replica)?;
        Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matched))
    }

    /// Whether this leader can hand leadership to a replica: to one that lacks the entries under way at most, for which it
    /// waits before it stands. Not in the middle of a change of membership: the leader who has begun one completes it.
    pub(super) fn can_hand_over_to(&self, replica: ReplicaId) -> bool {
        let is_voter = |stored: RaftStoredMembership| {
            let membership = stored.membership();
            !is_joint(membership) && membership.voter_ids().any(|voter| voter == replica)
        };
        self.led_membership().is_ok_and(is_voter)
            && self.lag_of(replica).is_some_and(|entries| entries <= CAUGHT_UP_LAG_MAX)
    }

    fn led_membership(&self) -> Result<RaftStoredMembership, MembershipChangeError> {
        if !self.is_leader() {
            return Err(MembershipChangeError::NotLeader);
        }
        Ok(self.raft().metrics().borrow_watched().membership_config.as_ref().clone())
    }

    async fn change(&self, change: ChangeMembers<ReplicaId, EmptyNode>) -> ChangeResult {
        self.raft().change_membership(change, false).await.map(|_| ()).map_err(not_made)
    }
}

/// Up to where a leader knows a replica to hold its log; none if it knows of nothing.
fn matched(metrics: &RaftMetrics, replica: ReplicaId) -> Option<u64> {
    let matched = metrics.replication.as_ref()?.get(&replica).copied()??;
    Some(matched.index)
}

fn is_joint(membership: &RaftMembership) -> bool {
    membership.get_joint_config().len() > 1
}

fn not_made(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MembershipChangeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            MembershipChangeError::NotLeader
        }
        other => MembershipChangeError::NotMade(other.to_string()),
    }
}
