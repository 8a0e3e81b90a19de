//! Making a wiped or damaged node's replicas anew, one group at a time.
//!
//! Guarantees at stake: G1 and G9. A replica that lost its data must never vote or acknowledge under its old id:
//! somebody may still count on what it promised. So its id is removed from the membership and a new incarnation comes
//! in as a learner; and before that one counts, the topology says that it has been made, so that it too is never
//! taken for blank again.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_client::proto::{ReplaceRequest, ReplaceResponse, ReplicaStatus};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::describe::{leader_of, leader_status};
use super::init::{FIRST, META_VOTERS_MAX};
use super::progress::Progress;
use super::{ClusterApi, ClusterError, MetaGroup, replica_statuses};
use crate::consensus::{CAUGHT_UP_LAG_MAX, CAUGHT_UP_WITHIN};
use crate::log::{Topology, TopologyChange, TopologyNode};
use crate::transport::proto::change_membership_request::Step;
use crate::transport::{Adoption, PeerError, proto};
use crate::types::{GroupId, Incarnation, NodeId, ReplicaId};

/// How long one step may take to be committed.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// The same of a removal, once a group was waited for in vain: whoever is away may be away from many groups. Longer than a
/// leader takes to find out.
const FURTHER_REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a new replica is waited for: as long as it makes progress.
struct Patience {
    /// What it has applied.
    applied: u64,
    until: Instant,
}

impl Patience {
    fn new(now: Instant) -> Patience {
        Patience { applied: 0, until: now + STEP_TIMEOUT }
    }

    /// Whether it is over, after a look at the replica; none if that was not reached. A snapshot counts as progress while it
    /// is on its way: those who send and install it end it if it makes none.
    fn is_over_after(&mut self, seen: Option<&ReplicaStatus>, now: Instant) -> bool {
        if let Some(seen) = seen
            && (seen.applied_index > self.applied || seen.receives_snapshot)
        {
            self.applied = seen.applied_index;
            self.until = now + STEP_TIMEOUT;
        }
        now > self.until
    }
}

/// A node's replica of one group, as it is and as it is wanted.
struct Found {
    /// Which process the node is.
    process: u64,
    /// How the replica is, if it stands in the incarnation that is wanted.
    standing: Option<ReplicaStatus>,
    wanted: Incarnation,
    /// The group has a leader, or had one.
    has_begun: bool,
}

impl ClusterApi {
    /// Replaces what has to be replaced on a node: first its replica of the meta group, then the others. Ends when the
    /// caller goes. A group that cannot be repaired keeps no other from it.
    ///
    /// # Errors
    /// Which groups could not be repaired, and why; the others are, unless it is the meta group. Or the node or the meta
    /// group's leader does not answer: then none is that comes after.
    pub(super) async fn replace(
        &self,
        request: ReplaceRequest,
        sender: mpsc::Sender<ReplaceResponse>,
    ) -> Result<(), ClusterError> {
        let progress = Progress::new(sender);
        tokio::select! {
            replaced = self.replace_all(request, &progress) => replaced,
            () = progress.repeat() => Err(ClusterError::Unavailable("the caller has gone".into())),
        }
    }

    async fn replace_all(
        &self,
        request: ReplaceRequest,
        progress: &Progress,
    ) -> Result<(), ClusterError> {
        let topology = self.confirmed_topology().await?;
        let node = u32::try_from(request.node_id).ok().map(NodeId);
        let node = node.and_then(|node| topology.nodes.iter().find(|known| known.id == node));
        let node = node.cloned().ok_or_else(|| ClusterError::Invalid {
            field: "node_id",
            limit: None,
            message: format!("node_id: there is no node {}", request.node_id),
        })?;
        if !request.peer_address.is_empty() && request.peer_address != node.peer_address {
            let moved = TopologyNode { peer_address: request.peer_address, ..node.clone() };
            self.ensure_moved(&moved, &topology).await?;
            self.peers.set_addresses([(moved.id, moved.peer_address.clone())]);
            self.change_topology(TopologyChange::UpdateNode(moved), step_deadline()).await?;
        }
        let groups: Vec<_> = std::iter::once(GroupId::META)
            .chain(
                topology
                    .groups
                    .iter()
                    .filter(|group| group.replicas.iter().any(|replica| replica.node == node.id))
                    .map(|group| group.id),
            )
            .collect();
        progress.begin(groups.len());
        for group in groups {
            progress.tell(group, "waiting", 0, 0).await?;
            let found = self.find_replica(group, node.id).await?;
            match self.replace_one(group, node.id, found, request.all, progress).await {
                Ok(()) => progress.done(group).await?,
                Err(error) => {
                    progress.failed(group, error).await?;
                    // Its other replicas can be made only once the node belongs to the cluster.
                    if group.is_meta() {
                        break;
                    }
                }
            }
        }
        progress.end()
    }

    async fn find_replica(&self, group: GroupId, node: NodeId) -> Result<Found, ClusterError> {
        let (process, mut statuses) = self.replica_statuses(node).await?;
        let topology = self.confirmed_topology().await?;
        let wanted = topology.incarnation(group, node).ok_or_else(|| {
            ClusterError::Refused(format!("group {group} has no replica on node {node}"))
        })?;
        let standing = statuses.remove(&group).filter(|status| {
            status.incarnation == wanted.0
                && !["damaged", "missing", "stopped"].contains(&status.role.as_str())
        });
        let begins = topology.groups.iter().any(|known| known.id == group && !known.active);
        Ok(Found { process, standing, wanted, has_begun: !begins })
    }

    async fn replace_one(
        &self,
        group: GroupId,
        node: NodeId,
        found: Found,
        all: bool,
        progress: &Progress,
    ) -> Result<(), ClusterError> {
        let Found { process, standing, wanted, has_begun } = found;
        // What a group is to begin with was brought in by nobody, and has nobody to learn from yet.
        let is_sound = |role: &str| role != "learner" || (wanted == FIRST && !has_begun);
        let (replica, is_made) = match standing {
            Some(status) if is_sound(&status.role) && !all => {
                return progress
                    .tell(group, "skipped", status.applied_index, status.applied_index)
                    .await;
            }
            // A learner is what an earlier attempt left: it goes on from there.
            Some(status) if status.role == "learner" => {
                (ReplicaId { node, incarnation: wanted }, true)
            }
            _ => {
                let incarnation = Incarnation(wanted.0 + 1);
                // What is renewed has to be removed: before it is known that it can be, nothing is changed.
                let renewed = ReplicaId { node, incarnation };
                self.step(group, Step::CheckRemoval, renewed, progress).await?;
                let renewal = TopologyChange::RenewReplica { group, node, incarnation };
                self.change_topology(renewal, step_deadline()).await?;
                (renewed, false)
            }
        };
        progress.tell(group, "removing", 0, 0).await?;
        self.step(group, Step::Remove, replica, progress).await?;
        match group.is_meta() {
            // Also one that is made: whoever made it may have been cut off before the node knew where it belongs.
            true => self.adopt_again(replica, process).await?,
            false => self.make(group, replica, is_made).await?,
        }
        self.join(group, replica, progress).await
    }

    /// Makes the new replica, blank, now that no older one counts; and has the topology say so before it counts.
    async fn make(
        &self,
        group: GroupId,
        replica: ReplicaId,
        is_made: bool,
    ) -> Result<(), ClusterError> {
        if !is_made {
            self.ensure_replica(group, replica).await?;
        }
        let ReplicaId { node, incarnation } = replica;
        let made = TopologyChange::ReplicaMade { group, node, incarnation };
        self.change_topology(made, step_deadline()).await
    }

    /// Brings a made replica in: learner, caught up, voter.
    async fn join(
        &self,
        group: GroupId,
        replica: ReplicaId,
        progress: &Progress,
    ) -> Result<(), ClusterError> {
        progress.tell(group, "learner", 0, 0).await?;
        self.step(group, Step::AddLearner, replica, progress).await?;
        self.catch_up(group, replica, progress).await?;
        if group.is_meta() && !self.is_meta_voter(replica.node).await? {
            return Ok(());
        }
        progress.tell(group, "voter", 0, 0).await?;
        self.step(group, Step::Promote, replica, progress).await
    }

    /// One step of a change of membership, tried for as long as a step may take.
    async fn step(
        &self,
        group: GroupId,
        step: Step,
        replica: ReplicaId,
        progress: &Progress,
    ) -> Result<(), ClusterError> {
        let note = |error: &ClusterError| progress.note(error.to_string());
        let deadline = match step {
            Step::CheckRemoval | Step::Remove if progress.has_failed() => {
                Instant::now() + FURTHER_REMOVAL_TIMEOUT
            }
            _ => step_deadline(),
        };
        self.change_membership(group, step, replica, deadline, note).await?;
        progress.note(String::new());
        Ok(())
    }

    /// Waits until the new replica has applied nearly all that the group's leader had applied just before. A snapshot takes
    /// long, and what is appended meanwhile the replica lacks: so the leader is asked anew each time that the replica is
    /// where it was, until it is there soon. It alone can tell; without it the replica stays a learner.
    async fn catch_up(
        &self,
        group: GroupId,
        replica: ReplicaId,
        progress: &Progress,
    ) -> Result<(), ClusterError> {
        progress.tell(group, "catching_up", 0, 0).await?;
        let mut target = None;
        let mut asked_at = Instant::now();
        let mut patience = Patience::new(Instant::now());
        loop {
            let (mut is_new, mut unled) = (false, None);
            if target.is_none_or(|target| patience.applied >= target) {
                match self.applied_by_leader(group).await {
                    Ok(now) => (is_new, asked_at, target) = (true, Instant::now(), Some(now)),
                    Err(error) => unled = Some(error),
                }
            }
            // It may take hours: one answer that is missing ends nothing.
            let (status, unreached) = match self.replica_statuses(replica.node).await {
                Ok((_, mut statuses)) => (statuses.remove(&group), None),
                Err(error) => (None, Some(error)),
            };
            if let Some(other) = status.as_ref().map(|status| status.incarnation)
                && other > replica.incarnation.0
            {
                let message = format!("somebody else has made replica {other} there");
                return Err(ClusterError::Refused(message));
            }
            let is_over = patience.is_over_after(status.as_ref(), Instant::now());
            let applied = patience.applied;
            let is_there = target.is_some_and(|target| target <= applied + CAUGHT_UP_LAG_MAX);
            // Its own answer may take longer than that.
            let is_soon = is_new || asked_at.elapsed() <= CAUGHT_UP_WITHIN;
            if is_there && is_soon && status.is_some() {
                return Ok(());
            }
            let goal = target.unwrap_or_default();
            let hindrance = unled.or(unreached);
            match &hindrance {
                None => progress.tell(group, "catching_up", applied, goal).await?,
                Some(error) => progress.note(error.to_string()),
            }
            if is_over {
                let stalled = format!("the new replica makes no progress at index {applied}");
                return Err(hindrance.unwrap_or(ClusterError::Unavailable(stalled)));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn applied_by_leader(&self, group: GroupId) -> Result<u64, ClusterError> {
        let operations = self.operations.as_ref();
        let leader = leader_status(&self.replicas, &self.peers, operations, group).await;
        let none = || ClusterError::Unavailable("the group's leader does not answer".into());
        leader.map(|(_, status)| status.applied_index).ok_or_else(none)
    }

    async fn replica_statuses(
        &self,
        node: NodeId,
    ) -> Result<(u64, BTreeMap<GroupId, ReplicaStatus>), ClusterError> {
        replica_statuses(&self.replicas, &self.peers, self.operations.as_ref(), node).await
    }

    /// Takes a node in anew, and makes known how it is reached now: it may be another machine.
    async fn adopt_again(&self, replica: ReplicaId, process: u64) -> Result<(), ClusterError> {
        let topology = self.confirmed_topology().await?;
        let known = topology.nodes.iter().find(|node| node.id == replica.node);
        let gone = || ClusterError::Refused(format!("there is no node {} any more", replica.node));
        let known = known.ok_or_else(gone)?;
        let adoption = Adoption {
            cluster: topology.cluster,
            meta_incarnation: replica.incarnation,
            peers: topology.nodes.iter().map(|node| (node.id, node.peer_address.clone())).collect(),
            process,
        };
        let reply = self.adopt_node(replica.node, adoption, &known.peer_address).await?;
        let moved = TopologyNode {
            client_address: reply.client_address,
            http_address: reply.http_address,
            zone: reply.zone,
            ..known.clone()
        };
        if moved == *known {
            return Ok(());
        }
        self.change_topology(TopologyChange::UpdateNode(moved), step_deadline()).await
    }

    async fn ensure_replica(&self, group: GroupId, replica: ReplicaId) -> Result<(), ClusterError> {
        let node = replica.node;
        if node == self.replicas.node() {
            return Ok(self.operations.ensure_replica(group, replica).await?);
        }
        let mut client = self.peers.client(node)?;
        let request = proto::EnsureReplicaRequest {
            hello: Some(self.peers.introduction().hello(node)),
            group: group.0,
            replica: Some(proto::ReplicaId { node: node.0, incarnation: replica.incarnation.0 }),
        };
        let reply = client.ensure_replica(request).await;
        reply.map_err(|status| PeerError::Failed { node, status })?;
        Ok(())
    }

    /// One step of a change of membership, at whichever node leads the group. `failed` hears what is tried again.
    ///
    /// # Errors
    /// It is refused. Or it was not made in time: why not when it was last tried to the end.
    pub(super) async fn change_membership(
        &self,
        group: GroupId,
        step: Step,
        replica: ReplicaId,
        deadline: Instant,
        failed: impl Fn(&ClusterError),
    ) -> Result<(), ClusterError> {
        let mut last = ClusterError::Unavailable("no quorum in time".into());
        loop {
            // Without a quorum a change waits for one.
            let once = self.change_membership_once(group, step, replica);
            let error = match timeout_at(deadline, once).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error @ (ClusterError::Invalid { .. } | ClusterError::Refused(_)))) => {
                    return Err(error);
                }
                Ok(Err(error)) => error,
                Err(_) => return Err(last),
            };
            if Instant::now() + POLL_INTERVAL >= deadline {
                return Err(error);
            }
            failed(&error);
            last = error;
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn change_membership_once(
        &self,
        group: GroupId,
        step: Step,
        replica: ReplicaId,
    ) -> Result<(), ClusterError> {
        let leader = self.find_leader(group).await?;
        if leader == self.replicas.node() {
            return Ok(self.operations.change_membership(group, step, replica).await?);
        }
        let mut client = self.peers.client(leader)?;
        let request = proto::ChangeMembershipRequest {
            hello: Some(self.peers.introduction().hello(leader)),
            group: group.0,
            step: step.into(),
            replica: Some(proto::ReplicaId {
                node: replica.node.0,
                incarnation: replica.incarnation.0,
            }),
        };
        let reply = client.change_membership(request).await;
        reply.map_err(|status| PeerError::Failed { node: leader, status })?;
        Ok(())
    }

    /// Who leads, as the nodes say; as the replica here has it if none of them says that it does.
    async fn find_leader(&self, group: GroupId) -> Result<NodeId, ClusterError> {
        let operations = self.operations.as_ref();
        let said = leader_of(&self.replicas, &self.peers, operations, group).await;
        let said_here = || self.replicas.get(group).and_then(|local| local.leader());
        let none = || ClusterError::Unavailable("the group has no leader".into());
        said.or_else(said_here).ok_or_else(none)
    }

    async fn is_meta_voter(&self, node: NodeId) -> Result<bool, ClusterError> {
        let topology = self.confirmed_topology().await?;
        Ok(topology.nodes.iter().take(META_VOTERS_MAX).any(|voter| voter.id == node))
    }

    /// What is wanted, as of now: by what this node has heard of last it could take for done what is not.
    pub(super) async fn confirmed_topology(&self) -> Result<Topology, ClusterError> {
        let none = || {
            let node = self.replicas.node();
            let message =
                format!("node {node} belongs to no cluster, or no more: ask one that does");
            ClusterError::Unavailable(message)
        };
        self.peers.introduction().cluster().ok_or_else(none)?;
        self.meta().topology(step_deadline()).await?.ok_or_else(none)
    }

    pub(super) async fn change_topology(
        &self,
        change: TopologyChange,
        deadline: Instant,
    ) -> Result<(), ClusterError> {
        Ok(self.meta().change_topology(change, deadline).await?)
    }

    fn meta(&self) -> MetaGroup<'_> {
        let operations = self.operations.as_ref();
        MetaGroup { replicas: &self.replicas, peers: &self.peers, operations }
    }
}

fn step_deadline() -> Instant {
    Instant::now() + STEP_TIMEOUT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_replica_is_waited_for_while_it_makes_progress() {
        let began = Instant::now();
        let mut patience = Patience::new(began);
        let after = |steps: u32| began + steps * STEP_TIMEOUT;
        let seen = |applied_index, receives_snapshot| ReplicaStatus {
            applied_index,
            receives_snapshot,
            ..ReplicaStatus::default()
        };
        assert!(!patience.is_over_after(None, after(1)));
        for steps in 2..100 {
            assert!(!patience.is_over_after(Some(&seen(0, true)), after(steps)), "a long transfer");
        }
        assert!(!patience.is_over_after(Some(&seen(7, false)), after(101)), "it is installed");
        assert!(!patience.is_over_after(Some(&seen(7, false)), after(102)));
        let late = after(102) + POLL_INTERVAL;
        assert!(patience.is_over_after(Some(&seen(7, false)), late), "it stays there");
        assert!(patience.is_over_after(None, late));
        assert_eq!(patience.applied, 7);
    }
}
